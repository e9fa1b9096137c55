"""PCI: configuration space, the bus, and the bridges that every machine has."""
