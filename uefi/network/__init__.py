"""Firmware's own network driver: the interface behind EFI_SIMPLE_NETWORK_PROTOCOL, and its driver binding."""
