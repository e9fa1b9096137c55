"""Hands out addresses to the functions of the bus, as firmware does before it starts an operating system."""

from machine.errors import MachineError
from machine.pci import config_space
from machine.pci.bus import PciBus
from machine.pci.device import ROM_INDEX, Bar
from machine.pci.lpc_bridge import LpcBridge


class ResourceError(MachineError):
    """The windows are too small for the regions that the functions ask for."""


def assign(bus: PciBus, lpc: LpcBridge, memory: range, ports: range) -> None:
    """Place every BAR in `memory` or `ports` (largest first, aligned to its size) and switch decoding on.

    Guests such as TamaGo never write the command register: memory, I/O and bus mastering are left enabled, and the
    interrupt line register holds the 8259 input. Option ROMs get an address and stay disabled (PCI Firmware 3.0, 3.5).
    Raises ResourceError when a window is full.
    """
    wanted = [(device, bar) for _, _, device in bus.functions() for bar in device.bars.values()]
    at = {True: ports.start, False: memory.start}
    end = {True: ports.stop, False: memory.stop}
    for device, bar in sorted(wanted, key=lambda pair: (-pair[1].size, pair[1].index)):
        at[bar.is_io] = _place(bar, at[bar.is_io], end[bar.is_io])
        device.set_bar_address(bar, at[bar.is_io] - bar.size)
    for slot, _, device in bus.functions():
        command = config_space.COMMAND_MASTER
        for bar in device.bars.values():
            if bar.index != ROM_INDEX:
                command |= config_space.COMMAND_IO if bar.is_io else config_space.COMMAND_MEMORY
        if device.bars:
            device.write_config(config_space.COMMAND, 2, command)
        if pin := device.config.data[config_space.INTERRUPT_PIN]:
            irq = lpc.routed_irq(bus.pirq_of(slot, pin))
            device.write_config(config_space.INTERRUPT_LINE, 1, irq or 0xFF)


def _place(bar: Bar, at: int, end: int) -> int:
    """The end of the region when it is placed at the first fitting address from `at` on."""
    # A page of its own for each memory region: guests map pages, and some protect them.
    step = bar.size if bar.is_io else max(bar.size, 4096)
    start = -(-at // step) * step
    if start + step > end:
        kind = "ports" if bar.is_io else "memory"
        raise ResourceError(f"BAR {bar.index} needs {bar.size:#x} bytes of PCI {kind}, the window ends at {end:#x}")
    return start + bar.size
