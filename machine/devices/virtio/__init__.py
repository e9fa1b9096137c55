"""VirtIO 1.2: split virtqueues, PCI transports (modern and legacy) and the network device."""
