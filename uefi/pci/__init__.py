"""PCI as UEFI drivers see it: accesses, buffers for DMA, handles of the functions."""
