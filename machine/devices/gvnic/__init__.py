"""The gVNIC, Compute Engine's virtual network interface (PCI 1ae0:0042), as its device sees it."""
