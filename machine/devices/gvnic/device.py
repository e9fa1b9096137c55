"""The gVNIC as a PCI function: registers in BAR0, MSI-X in BAR1, doorbells in BAR2.

A driver that breaks a ring gets no Python exception but a device that stands still and asks to be reset (DEVICE_STATUS
bit 1, and the management interrupt); `problem` says why.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from machine.clock import Clock
from machine.devices.dma import Dma
from machine.devices.gvnic import registers as reg
from machine.devices.gvnic.admin_commands import AdminCommands
from machine.devices.gvnic.admin_queue import DEFAULT_LENGTH, AdminQueue
from machine.devices.gvnic.descriptor import ALL_FORMATS, Limits
from machine.devices.gvnic.errors import BrokenQueue
from machine.devices.gvnic.queue import ReceiveQueue, TransmitQueue
from machine.devices.gvnic.registers import Registers
from machine.devices.gvnic.resources import BLOCK_DOORBELLS, RECEIVE_DOORBELLS, TRANSMIT_DOORBELLS
from machine.errors import BadAddress
from machine.net.backend import DEFAULT_MTU
from machine.net.port import NetworkPort
from machine.pci.config_space import COMMAND
from machine.pci.device import MEMORY32, PciDevice
from machine.pci.msix import Msix

if TYPE_CHECKING:
    from machine.cpu import Cpu

VENDOR, DEVICE = 0x1AE0, 0x0042
SUBSYSTEM = 0x0058
CLASS_ETHERNET = 0x020000

REGISTERS_BAR, MSIX_BAR, DOORBELLS_BAR = 0, 1, 2
VECTORS = Limits.NOTIFICATION_BLOCKS + 1
DOORBELL_BYTES = 0x1000

_FRAMING = 18
"""Bytes around an MTU: an Ethernet header with a VLAN tag."""

_KINDS = {BLOCK_DOORBELLS >> 8: "block", TRANSMIT_DOORBELLS >> 8: "transmit", RECEIVE_DOORBELLS >> 8: "receive"}


class Gvnic(PciDevice):
    """A gVNIC with the address `mac` (6 bytes), plugged into `port`. `deliver(address, data)` sends an MSI-X message.

    `revision` 0 has its admin queue at a page frame number, 1 at a 64-bit address. `formats` are the queue formats that
    it offers. `defer(action)` has the engine thread call `action` soon; without a clock there are no periodic reports.
    All frames go to the receive queue with the lowest number.
    """

    def __init__(
        self,
        dma: Dma,
        port: NetworkPort,
        mac: bytes,
        deliver: Callable[[int, int], None],
        *,
        defer: Callable[[Callable[[], None]], None],
        clock: Clock | None = None,
        revision: int = 0,
        mtu: int = DEFAULT_MTU,
        formats: frozenset[int] = ALL_FORMATS,
    ) -> None:
        super().__init__(
            vendor=VENDOR,
            device=DEVICE,
            class_code=CLASS_ETHERNET,
            revision=revision,
            subsystem_vendor=VENDOR,
            subsystem=SUBSYSTEM,
        )
        self._port = port
        self._defer = defer
        self._revision = revision
        self.registers = Registers(self._read_only, self._register_written)
        self.add_bar(REGISTERS_BAR, MEMORY32, reg.SIZE, self.registers.read, self.registers.write)
        self.msix = Msix(self, VECTORS, MSIX_BAR, deliver)
        self.add_bar(DOORBELLS_BAR, MEMORY32, DOORBELL_BYTES, self._read_doorbell, self._write_doorbell)
        self.commands = AdminCommands(dma, port, mac, mtu, formats, VECTORS, self.msix.notify, clock)
        self.admin = AdminQueue(dma, self.commands.execute)
        self.problem = ""
        """Why the device asks to be reset; for people."""
        self._broken = False
        self._was_reset = True
        self.config.watch(COMMAND, 2, self._resume)
        port.on_frames = self._frames_wait
        port.on_link = self._link_changed

    # -- registers

    def _read_only(self, offset: int) -> int | None:
        if offset == reg.DEVICE_STATUS:
            status = reg.STATUS_LINK_UP if self._port.link else 0
            status |= reg.STATUS_RESET if self._broken else 0
            return status | (reg.STATUS_IS_RESET if self._was_reset else 0)
        if offset in (reg.MAX_TX_QUEUES, reg.MAX_RX_QUEUES):
            return Limits.QUEUES
        return self.admin.event_counter if offset == reg.ADMINQ_EVENT_COUNTER else None

    def _register_written(self, offset: int) -> None:
        registers = self.registers
        if offset == reg.DRIVER_STATUS:
            if registers[offset] & reg.DRIVER_RESET:
                self.reset()
            elif registers[offset] & reg.DRIVER_RUN:
                self._was_reset = False
        elif offset == reg.ADMINQ_DOORBELL:
            self._port.take_back()
            self._was_reset = False
            self.admin.ring(registers[offset])
            self._run_admin()
        elif offset == reg.ADMINQ_PFN and not registers[offset]:
            self.reset()
        elif (
            self.admin.used or self.commands.resources is not None
        ):  # a driver that begins anew without a reset, as TamaGo's
            value = registers[offset] << 16 if offset == reg.ADMINQ_LENGTH else registers[offset]
            self.reset()
            registers.restore(offset, value)

    def _run_admin(self) -> None:
        if not self.bus_master:
            return
        registers = self.registers
        if self._revision:
            base = registers[reg.ADMINQ_BASE_HI] << 32 | registers[reg.ADMINQ_BASE_LO]
            length = registers[reg.ADMINQ_LENGTH] or DEFAULT_LENGTH
        else:
            base, length = registers[reg.ADMINQ_PFN] << 12, DEFAULT_LENGTH
        if base:
            self._guarded(lambda: self.admin.run(base, length))

    def reset(self) -> None:
        """Let go of everything that the driver has set up; what waits for it is lost."""
        self.registers.clear_queue()
        self.admin.clear()
        self.commands.clear()
        self._port.take_back()
        self._port.clear()
        self._broken = False
        self._was_reset = True
        self.problem = ""

    def is_polled(self) -> bool:
        """Whether a driver that receives has no interrupts: it can only look at the rings."""
        resources = self.commands.resources
        return resources is not None and bool(resources.receive) and not self.msix.enabled

    # -- doorbells

    def _read_doorbell(self, cpu: "Cpu", offset: int, size: int) -> int:
        """Doorbells cannot be read."""
        return 0

    def _write_doorbell(self, cpu: "Cpu", offset: int, size: int, value: int) -> None:
        """32 bits at a time; a 64-bit access is two of them, and all others are lost."""
        if size < 4 or offset & 3:
            return
        for at in range(0, size, 4):
            self._ring(offset + at >> 2, value >> 8 * at & 0xFFFFFFFF)

    def _ring(self, index: int, value: int) -> None:
        resources = self.commands.resources
        if resources is None or self._broken:
            return
        kind, number = _KINDS.get(index >> 8), index & 0xFF
        if kind == "transmit":
            queue = resources.transmit.get(number)
            if queue is not None:
                self._guarded(lambda: queue.ring(value))
                self._send(queue)
        elif kind == "receive":
            receiver = resources.receive.get(number)
            if receiver is not None:
                self._guarded(lambda: receiver.ring(value))
                self._frames_wait()
        elif kind == "block" and number < len(resources.blocks):
            block = resources.blocks[number]
            if resources.out_of_order:
                block.write_out_of_order(value)
            else:
                block.write_in_order(int.from_bytes(value.to_bytes(4, "little"), "big"))

    # -- frames

    def _send(self, queue: TransmitQueue) -> None:
        def send() -> None:
            if queue.send():
                self._defer(partial(self._send, queue))

        resources = self.commands.resources
        if resources is None or resources.transmit.get(queue.settings.identity) is not queue:
            return  # destroyed while the rest was deferred
        if self.bus_master and not self._broken:
            self._guarded(send)
        if self._port.waiting:
            self._frames_wait()

    def _frames_wait(self) -> None:
        resources = self.commands.resources
        if resources is None or not resources.receive or self._broken:
            self._port.clear()
        elif self.bus_master:
            queue = resources.receive[min(resources.receive)]
            self._guarded(lambda: self._receive(queue))

    def _receive(self, queue: ReceiveQueue) -> None:
        port, statistics = self._port, self.commands.report.statistics
        most = self.commands.mtu + _FRAMING
        placed = False
        while port.waiting:
            length = len(port.waiting[0])
            if length > most:
                statistics.over_mru += 1
                port.drop()
            elif queue.needed(length) > queue.room:
                statistics.no_buffers += 1
                break
            else:
                placed = True
                queue.place(port.take())
        if placed:
            queue.finish()

    def _link_changed(self, up: bool) -> None:
        self._notify_management()

    # -- trouble

    def _guarded(self, action: Callable[[], None]) -> None:
        """Touch rings; what is wrong in them stops the device and nothing else."""
        try:
            action()
        except (BrokenQueue, BadAddress) as error:
            self.problem = str(error)
            self._broken = True
            self._port.clear()
            self._notify_management()

    def _notify_management(self) -> None:
        resources = self.commands.resources
        self.msix.notify(VECTORS - 1 if resources is None else resources.management_vector)

    def _resume(self) -> None:
        """The driver has changed the command register: what waited for bus mastering goes on."""
        if not self.bus_master:
            return
        self._run_admin()
        if self.commands.resources is not None:
            for queue in list(self.commands.resources.transmit.values()):
                self._send(queue)
            self._frames_wait()

    # -- state

    def save(self) -> dict[str, Any]:
        """Plain data for `load`."""
        return {
            **super().save(),
            "msix": self.msix.save(),
            "registers": self.registers.save(),
            "admin": self.admin.save(),
            "commands": self.commands.save(),
            "port": self._port.save(),
            "flags": [self._broken, self._was_reset],
            "problem": self.problem,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        self.msix.load(state["msix"])
        self.registers.load(state["registers"])
        self.admin.load(state["admin"])
        self.commands.load(state["commands"])
        self._port.load(state["port"])
        self._broken, self._was_reset = state["flags"]
        self.problem = state["problem"]
        super().load(state)
