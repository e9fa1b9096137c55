r"""The DSDT: the devices that the bus cannot tell of itself, in AML (ACPI 6.5, 5.2.11.1)."""

from collections.abc import Callable, Sequence

from uefi.tables import aml

INTERRUPT_PINS = 4


def definition_block(
    *,
    cpus: int,
    buses: int,
    ecam_base: int | None,
    memory_windows: Sequence[range],
    port_windows: Sequence[range],
    s5_type: int,
    gsi_of: Callable[[int, int], int] | None,
    isa: bool,
) -> bytes:
    """The AML after the DSDT's header.

    `gsi_of(slot, pin)` is the global system interrupt of a slot's INTA# (1) to INTD# (4), None if slots have none; `s5_type` the
    value that SLP_TYP takes for soft off; windows are ranges of addresses or ports that PCI0 passes on; `isa`: there is a bridge
    to ISA's devices, else a serial port and a clock alone.
    """
    soft_off = aml.package(aml.integer(s5_type), aml.integer(s5_type), aml.integer(0), aml.integer(0))
    return aml.name("\\_S5", soft_off) + aml.scope(
        "\\_SB",
        *(_processor(number) for number in range(cpus)),
        *((_motherboard(ecam_base, buses),) if ecam_base is not None else ()),
        _pci_root(buses, memory_windows, port_windows, gsi_of, express=ecam_base is not None, isa=isa),
        *(() if isa else (_serial_port(), _clock())),
    )


def _processor(number: int) -> bytes:
    return aml.device(
        f"C{number:03X}",
        aml.name("_HID", aml.string("ACPI0007")),
        aml.name("_UID", aml.integer(number)),
    )


def _motherboard(ecam_base: int, buses: int) -> bytes:
    """Operating systems trust MCFG only where its window is reserved by a PNP0C02 device (PCI Firmware 3.0, 4.1.2)."""
    return aml.device(
        "MBRD",
        aml.name("_HID", aml.eisa_id("PNP0C02")),
        aml.name("_UID", aml.integer(0)),
        aml.name("_CRS", aml.resources(aml.fixed_memory(ecam_base, buses << 20))),
    )


def _routes(gsi_of: Callable[[int, int], int]) -> bytes:
    routes = [
        aml.package(
            aml.integer(slot << 16 | 0xFFFF), aml.integer(pin), aml.integer(0), aml.integer(gsi_of(slot, pin + 1))
        )
        for slot in range(32)
        for pin in range(INTERRUPT_PINS)
    ]
    return aml.name("_PRT", aml.package(*routes))


def _pci_root(
    buses: int,
    memory_windows: Sequence[range],
    port_windows: Sequence[range],
    gsi_of: Callable[[int, int], int] | None,
    *,
    express: bool,
    isa: bool,
) -> bytes:
    kind = (("_HID", "PNP0A08"), ("_CID", "PNP0A03")) if express else (("_HID", "PNP0A03"),)
    return aml.device(
        "PCI0",
        *(aml.name(name, aml.eisa_id(value)) for name, value in kind),
        aml.name("_UID", aml.integer(0)),
        aml.name("_BBN", aml.integer(0)),
        aml.name("_SEG", aml.integer(0)),
        aml.name(
            "_CRS",
            aml.resources(
                aml.bus_numbers(0, buses - 1),
                aml.io(0xCF8, 8),
                *(aml.io_window(window.start, window.stop - 1) for window in port_windows),
                *(aml.memory_window(window.start, window.stop - 1) for window in memory_windows),
            ),
        ),
        *((_routes(gsi_of),) if gsi_of is not None else ()),
        *((_isa_bridge(),) if isa else ()),
    )


def _isa_bridge() -> bytes:
    """ISA devices below the bridge at 00:1f.0."""
    return aml.device(
        "ISA",
        aml.name("_ADR", aml.integer(0x1F << 16)),
        _serial_port(),
        _clock(),
        _isa_device("TMR", "PNP0100", aml.io(0x40, 4), aml.irq(0)),
        _isa_device("PIC", "PNP0000", aml.io(0x20, 2), aml.io(0xA0, 2), aml.irq(2)),
    )


def _serial_port() -> bytes:
    return _isa_device("COM1", "PNP0501", aml.io(0x3F8, 8), aml.irq(4))


def _clock() -> bytes:
    return _isa_device("RTC", "PNP0B00", aml.io(0x70, 2), aml.irq(8))


def _isa_device(path: str, hid: str, *descriptors: bytes) -> bytes:
    return aml.device(
        path,
        aml.name("_HID", aml.eisa_id(hid)),
        aml.name("_UID", aml.integer(0)),
        aml.name("_STA", aml.integer(0x0F)),
        aml.name("_CRS", aml.resources(*descriptors)),
    )
