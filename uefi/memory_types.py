"""EFI_MEMORY_TYPE and memory attributes (UEFI 2.10, 7.2)."""

RESERVED, LOADER_CODE, LOADER_DATA, BOOT_CODE, BOOT_DATA, RUNTIME_CODE, RUNTIME_DATA = range(7)
CONVENTIONAL, UNUSABLE, ACPI_RECLAIM, ACPI_NVS, MMIO, MMIO_PORT, PAL_CODE, PERSISTENT, UNACCEPTED = range(7, 16)
MAXIMUM = 16
OEM_FIRST = 0x7000_0000

NAMES = (
    *("Reserved", "LoaderCode", "LoaderData", "BootServicesCode", "BootServicesData"),
    *("RuntimeServicesCode", "RuntimeServicesData", "Conventional", "Unusable", "ACPIReclaim"),
    *("ACPINVS", "MMIO", "MMIOPort", "PalCode", "Persistent", "Unaccepted"),
)

UC, WC, WT, WB = 1, 2, 4, 8
RP, XP, RO = 0x2000, 0x4000, 0x20000
RUNTIME = 1 << 63
CACHEABLE = UC | WC | WT | WB
RUNTIME_TYPES = frozenset((RUNTIME_CODE, RUNTIME_DATA))
DESCRIPTOR_SIZE = 48
"""OVMF's and every real firmware's size; TamaGo walks the map with this stride whatever GetMemoryMap says."""
