"""The emulated half of SEV-SNP: what a running guest sees of its processor, its hypervisor and the AMD secure processor."""
