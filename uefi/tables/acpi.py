"""ACPI tables as bytes: RSDP, XSDT, FADT, FACS, MADT, MCFG, HPET, and the DSDT's header (ACPI 6.5, 5.2)."""

import struct
from collections.abc import Callable, Sequence

from uefi.tables.acpi_dsdt import definition_block

OEM_ID = b"CVMBOO"
OEM_TABLE_ID = b"CVMBOOT "
CREATOR_ID = b"CVMB"
_REVISION = 1

FACS_SIZE = 64
RSDP_SIZE = 36
_HEADER_SIZE = 36
_ALIGN = 64

# FADT fixed feature flags (5.2.9, table 5.10).
_WBINVD, _PROC_C1, _SLP_BUTTON, _FIX_RTC, _RESET_REG_SUP = 1 << 0, 1 << 2, 1 << 5, 1 << 6, 1 << 10
_HW_REDUCED_ACPI = 1 << 20
# IA-PC boot architecture flags (table 5.11): devices on ISA, an 8042, no VGA to be probed.
_LEGACY_DEVICES, _8042, _VGA_NOT_PRESENT = 1 << 0, 1 << 1, 1 << 2

_SYSTEM_MEMORY, _SYSTEM_IO = 0, 1


class AcpiSettings:
    """What the tables tell of the machine. Ports and addresses are numbers, lengths are in bytes."""

    def __init__(
        self,
        *,
        cpus: int = 1,
        pm_base: int = 0xB000,
        gpe0_offset: int = 0x20,
        gpe0_length: int = 16,
        sci: int = 9,
        smi_command: int = 0xB2,
        acpi_enable: int = 2,
        acpi_disable: int = 3,
        s5_type: int = 0,
        reset_port: int = 0xCF9,
        reset_value: int = 0x06,
        local_apic: int = 0xFEE00000,
        io_apic: int = 0xFEC00000,
        io_apic_id: int = 0,
        ecam_base: int | None = 0xE0000000,
        buses: int = 256,
        memory_windows: Sequence[range] = (range(0xC0000000, 0xE0000000), range(0xF0000000, 0xFEC00000)),
        port_windows: Sequence[range] = (range(0x0000, 0x0CF8), range(0x0D00, 0x10000)),
        gsi_of: Callable[[int, int], int] | None = lambda slot, pin: 16 + (slot + pin - 1) % 4,
        hpet: int | None = None,
        sleep_port: int | None = None,
    ) -> None:
        """`gsi_of(slot, pin 1 to 4)` routes PCI interrupts, if there are any; `hpet` is the HPET's address where there is one.

        `ecam_base`: None where configuration space is behind ports alone. `sleep_port`: hardware-reduced ACPI (4.1), with the
        sleep control register there, no PM block, and of ISA's devices a serial port and a clock only.
        """
        self.cpus = cpus
        self.pm_base = pm_base
        self.gpe0_offset = gpe0_offset
        self.gpe0_length = gpe0_length
        self.sci = sci
        self.smi_command = smi_command
        self.acpi_enable = acpi_enable
        self.acpi_disable = acpi_disable
        self.s5_type = s5_type
        self.reset_port = reset_port
        self.reset_value = reset_value
        self.local_apic = local_apic
        self.io_apic = io_apic
        self.io_apic_id = io_apic_id
        self.ecam_base = ecam_base
        self.buses = buses
        self.memory_windows = memory_windows
        self.port_windows = port_windows
        self.gsi_of = gsi_of
        self.hpet = hpet
        self.sleep_port = sleep_port


def build(settings: AcpiSettings, base: int, facs_address: int = 0) -> bytes:
    """All tables but the FACS for placing at `base` (64-byte aligned, below 4 GiB); the RSDP comes first.

    `facs_address` is where facs() will lie, in EfiACPIMemoryNVS; hardware-reduced ACPI needs none.
    """
    pieces: list[bytes] = [bytes(_ALIGN)]
    at = base + _ALIGN

    def place(table: bytes) -> int:
        nonlocal at
        address = at
        padded = table + bytes(-len(table) % _ALIGN)
        pieces.append(padded)
        at += len(padded)
        return address

    definitions = place(dsdt(settings))
    if settings.sleep_port is None:
        fixed = fadt(settings, definitions, facs_address)
    else:
        fixed = reduced_fadt(settings, definitions, settings.sleep_port)
    listed = [fixed, madt(settings)]
    if settings.ecam_base is not None:
        listed.append(mcfg(settings.ecam_base, settings.buses))
    if settings.hpet is not None:
        listed.append(hpet(settings.hpet))
    addresses = [place(table) for table in listed]
    pieces[0] = rsdp(place(xsdt(addresses))).ljust(_ALIGN, b"\0")
    return b"".join(pieces)


def checksummed(table: bytes, offset: int, size: int | None = None) -> bytes:
    """The table with the byte at `offset` set so that its first `size` bytes (default: all) add up to 0 modulo 256."""
    total = sum(table[:size]) - table[offset]
    return table[:offset] + bytes((-total & 0xFF,)) + table[offset + 1 :]


def table(signature: bytes, revision: int, body: bytes) -> bytes:
    """DESCRIPTION_HEADER and body (5.2.6), with the checksum right."""
    header = struct.pack(
        "<4sIBB6s8sI4sI",
        *(signature, _HEADER_SIZE + len(body), revision, 0),
        *(OEM_ID, OEM_TABLE_ID, _REVISION, CREATOR_ID, _REVISION),
    )
    return checksummed(header + body, 9)


def rsdp(xsdt_address: int) -> bytes:
    """Root System Description Pointer, revision 2 (5.2.5.3); there is no RSDT."""
    raw = struct.pack("<8sB6sBIIQB3x", b"RSD PTR ", 0, OEM_ID, 2, 0, RSDP_SIZE, xsdt_address, 0)
    return checksummed(checksummed(raw, 8, 20), 32)


def xsdt(addresses: Sequence[int]) -> bytes:
    """Extended System Description Table (5.2.8)."""
    return table(b"XSDT", 1, struct.pack(f"<{len(addresses)}Q", *addresses))


def facs() -> bytes:
    """Firmware ACPI Control Structure, version 2 (5.2.10): 64 bytes, no waking vector, no global lock held."""
    return struct.pack("<4sI", b"FACS", FACS_SIZE).ljust(32, b"\0") + b"\x02".ljust(32, b"\0")


def _port(address: int, size: int) -> bytes:
    """Generic Address Structure (5.2.3.2) of `size` bytes of I/O ports; no access width but for 1, 2 and 4."""
    width = {1: 1, 2: 2, 4: 3}.get(size, 0)
    return struct.pack("<BBBBQ", _SYSTEM_IO, 8 * size & 0xFF, 0, width, address)


_NO_REGISTER = bytes(12)


def fadt(settings: AcpiSettings, dsdt_address: int, facs_address: int) -> bytes:
    """Fixed ACPI Description Table, revision 6.4 (5.2.9): the PM block of PM1a event, PM1a control, timer, GPE0."""
    base, gpe0 = settings.pm_base, settings.pm_base + settings.gpe0_offset
    flags = _WBINVD | _PROC_C1 | _SLP_BUTTON | _FIX_RTC | _RESET_REG_SUP
    body = struct.pack("<IIBBHI", facs_address, dsdt_address, 0, 0, settings.sci, settings.smi_command)
    body += bytes((settings.acpi_enable, settings.acpi_disable, 0, 0))
    body += struct.pack("<8I", base, 0, base + 4, 0, 0, base + 8, gpe0, 0)
    body += bytes((4, 2, 0, 4, settings.gpe0_length, 0, 0, 0))
    # No C2, no C3 (latencies above 100 and 1000), no cache flush or duty cycle; no alarm bytes, century at CMOS 0x32.
    body += struct.pack("<4H5B", 0xFFF, 0xFFF, 0, 0, 0, 0, 0, 0, 0x32)
    body += struct.pack("<HBI", _LEGACY_DEVICES | _8042 | _VGA_NOT_PRESENT, 0, flags)
    body += _port(settings.reset_port, 1) + bytes((settings.reset_value,)) + struct.pack("<HB", 0, 4)
    # X_FIRMWARE_CTRL stays 0: only one of the two may be set, and the FACS lies below 4 GiB.
    body += struct.pack("<QQ", 0, dsdt_address)
    body += _port(base, 4) + _NO_REGISTER + _port(base + 4, 2) + _NO_REGISTER + _NO_REGISTER
    body += _port(base + 8, 4) + _port(gpe0, settings.gpe0_length) + _NO_REGISTER
    body += _NO_REGISTER + _NO_REGISTER + bytes(8)
    return table(b"FACP", 6, body)


def reduced_fadt(settings: AcpiSettings, dsdt_address: int, sleep_port: int) -> bytes:
    """The same of hardware-reduced ACPI, revision 6.3: sleep control and status in one register (4.8.3.7), a reset register."""
    body = bytearray(240)
    for at, value in (
        (40, struct.pack("<I", dsdt_address)),
        (109, struct.pack("<HBI", _VGA_NOT_PRESENT, 0, _WBINVD | _RESET_REG_SUP | _HW_REDUCED_ACPI)),
        (116, _port(settings.reset_port, 1) + bytes((settings.reset_value,)) + struct.pack("<HB", 0, 3)),
        (140, struct.pack("<Q", dsdt_address)),
        (244, _port(sleep_port, 1) + _port(sleep_port, 1)),
        (268, CREATOR_ID.ljust(8, b"\0")),
    ):
        body[at - _HEADER_SIZE : at - _HEADER_SIZE + len(value)] = value
    return table(b"FACP", 6, bytes(body))


def madt(settings: AcpiSettings) -> bytes:
    """Multiple APIC Description Table (5.2.12): CPUs, one I/O APIC, IRQ 0 at input 2, a level SCI, NMI at LINT1.

    Hardware-reduced ACPI has no 8259s, no timer at IRQ 0 and no SCI.
    """
    reduced = settings.sleep_port is not None
    body = struct.pack("<II", settings.local_apic, int(not reduced))
    for number in range(settings.cpus):
        if number < 0xFF:
            body += struct.pack("<BBBBI", 0, 8, number, number, 1)
        else:
            body += struct.pack("<BBHIII", 9, 16, 0, number, 1, number)
    body += struct.pack("<BBBBII", 1, 12, settings.io_apic_id, 0, settings.io_apic, 0)
    if not reduced:
        body += struct.pack("<BBBBIH", 2, 10, 0, 0, 2, 0)
        body += struct.pack("<BBBBIH", 2, 10, 0, settings.sci, settings.sci, 0x0D)
    body += struct.pack("<BBBHB", 4, 6, 0xFF, 0, 1)
    return table(b"APIC", 5, body)


def mcfg(ecam_base: int, buses: int) -> bytes:
    """PCI Express memory mapped configuration table (PCI Firmware 3.0, 4.1.2): one segment."""
    return table(b"MCFG", 1, bytes(8) + struct.pack("<QHBB4x", ecam_base, 0, 0, buses - 1))


def hpet(address: int) -> bytes:
    """High Precision Event Timer table (IA-PC HPET 1.0a, 3.2.4)."""
    block = struct.pack("<BBBBQ", _SYSTEM_MEMORY, 64, 0, 0, address)
    return table(b"HPET", 1, struct.pack("<I", 0x8086A201) + block + struct.pack("<BHB", 0, 0x80, 0))


def dsdt(settings: AcpiSettings) -> bytes:
    """Differentiated System Description Table (5.2.11.1), revision 2: 64-bit integers."""
    return table(
        b"DSDT",
        2,
        definition_block(
            cpus=settings.cpus,
            buses=settings.buses,
            ecam_base=settings.ecam_base,
            memory_windows=settings.memory_windows,
            port_windows=settings.port_windows,
            s5_type=settings.s5_type,
            gsi_of=settings.gsi_of,
            isa=settings.sleep_port is None,
        ),
    )
