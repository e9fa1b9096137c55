"""Configuration tables that the firmware leaves in guest memory: ACPI, SMBIOS."""
