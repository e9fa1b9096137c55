"""Puts ACPI, SMBIOS and the memory attributes table into guest memory and names them in the configuration table."""

from typing import TYPE_CHECKING

from uefi import guids
from uefi import memory_types as mt
from uefi.memory_map import PAGE
from uefi.tables import acpi, smbios

if TYPE_CHECKING:
    from uefi.firmware import Firmware

_ATTRIBUTES_VERSION = 2
_DESCRIPTOR = 48


def install_acpi(firmware: "Firmware", settings: acpi.AcpiSettings) -> int:
    """The ACPI tables, their FACS in NVS memory; the RSDP's address."""
    facs = firmware.pages(1, mt.ACPI_NVS)
    firmware.memory.write(facs, acpi.facs())
    size = len(acpi.build(settings, PAGE, facs))
    base = firmware.pages(-(-size // PAGE), mt.ACPI_RECLAIM)
    firmware.memory.write(base, acpi.build(settings, base, facs))
    firmware.configuration.install(guids.ACPI_20_TABLE, base)
    return base


def install_smbios(firmware: "Firmware", settings: smbios.SmbiosSettings) -> int:
    """The SMBIOS 3 structures and their entry point; its address."""
    data = smbios.structures(settings)
    room = smbios.ENTRY_POINT_SIZE + 8
    base = firmware.pages(-(-(room + len(data)) // PAGE), mt.RUNTIME_DATA)
    firmware.memory.write(base, smbios.entry_point(base + room, len(data)))
    firmware.memory.write(base + room, data)
    firmware.configuration.install(guids.SMBIOS3_TABLE, base)
    return base


def install_memory_attributes(firmware: "Firmware") -> int:
    """EFI_MEMORY_ATTRIBUTES_TABLE (UEFI 2.10, 4.6): runtime code may not be written, runtime data not executed."""
    regions = [region for region in firmware.memory_map.regions() if region.attributes & mt.RUNTIME]
    table = firmware.pool(16 + _DESCRIPTOR * (len(regions) + 8), mt.BOOT_DATA)
    parts = [value.to_bytes(4, "little") for value in (_ATTRIBUTES_VERSION, len(regions), _DESCRIPTOR, 0)]
    for region in regions:
        attributes = mt.RUNTIME | (mt.RO if region.type == mt.RUNTIME_CODE else mt.XP)
        fields = (region.start, 0, (region.end - region.start) // PAGE, attributes, 0)
        parts.append(region.type.to_bytes(8, "little") + b"".join(f.to_bytes(8, "little") for f in fields))
    firmware.memory.write(table, b"".join(parts))
    firmware.configuration.install(guids.MEMORY_ATTRIBUTES_TABLE, table)
    return table
