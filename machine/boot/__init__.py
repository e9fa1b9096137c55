"""How a virtual machine monitor enters a unikernel or kernel without firmware: PVH, Linux's 64-bit boot protocol."""
