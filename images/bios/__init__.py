"""The BIOS boot stage: its source, its built bytes, and the disks that it boots ELF unikernels from."""
