"""The UEFI firmware as a whole: puts the services, tables and protocols of one machine together, and starts its first image."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from machine import exceptions
from machine import registers as reg
from machine.callbacks import nothing, zero
from machine.computer import Computer
from machine.cpu import Cpu, Fault
from machine.errors import BadAddress
from uefi import guids
from uefi import memory_types as mt
from uefi.application_processors import ApplicationProcessors
from uefi.boot_services import BootServices
from uefi.calls import Calls, Record
from uefi.configuration import Configuration, SystemTable, seal_header
from uefi.dispatcher import INTERRUPT_PORT, Dispatcher
from uefi.events import Event, Events
from uefi.guest_memory import GuestMemory
from uefi.handles import Handles
from uefi.images import Image, Images
from uefi.interface import Interface
from uefi.memory_map import MemoryMap
from uefi.nonvolatile import MonotonicCount, TimeSettings
from uefi.pool import Pool
from uefi.processor import Processor
from uefi.runtime_services import RuntimeServices
from uefi.status import EfiError

if TYPE_CHECKING:
    from uefi.pci.dma import PageSharing

LOW_RAM_END = 0xA0000
TIMER_TICK = 10_000_000
"""Nanoseconds: firmware's timer interrupt ends a HLT, at any TPL below HIGH_LEVEL; iPXE waits for keys that way."""


class Outcome:
    """How a run of the machine ended: `kind` is "returned", "shutdown", "reset", "crashed" or "stopped".

    `status` is the EFI_STATUS of an image that returned; `text` says more for people; `fault` and `cpu` of a crash.
    """

    def __init__(self, kind: str, status: int = 0, text: str = "", fault: Fault | None = None) -> None:
        self.kind = kind
        self.status = status
        self.text = text
        self.fault = fault

    def __repr__(self) -> str:
        return f"Outcome({self.kind!r}, status={self.status:#x}, text={self.text!r})"


class End:
    """Called with the kind of an Outcome, and a text for people, it ends a computer's run so."""

    __slots__ = ("_computer",)

    def __init__(self, computer: Computer) -> None:
        self._computer = computer

    def __call__(self, kind: str, text: str = "") -> None:
        self._computer.finish(Outcome(kind, text=text))


class Firmware:
    """The services model over one computer. Everything of it runs on the engine's thread.

    `warn` gets one line for each thing a person should know; `authorize` decides about an image's signature.
    """

    def __init__(self, computer: Computer, warn: Callable[[str], None] = nothing) -> None:
        self.computer = computer
        self.clock = computer.clock
        self.warn = warn
        self.memory = GuestMemory(computer.memory)
        self.left_boot_services = False
        self.exit_announced = False
        self.virtual_map: list[tuple[int, int, int]] | None = None
        self.converting = False
        self.variables: Any = None
        self.time = TimeSettings(self)
        self.monotonic = MonotonicCount(self)
        self.authorize: Callable[[Image, bytes | None], int] = zero  # EFI_SUCCESS
        # Called with an event whose notification function is about to run in the guest, and with None when it has returned.
        self.trace_notify: Callable[[Cpu, Event | None], None] | None = None
        self.note: Callable[[str], None] = nothing
        """Takes what a reader of the trace should know about the call that is being answered."""
        self.at_exit: list[Callable[[], None]] = []
        """Called when ExitBootServices has succeeded."""
        self.page_sharing: PageSharing | None = None
        """How memory is shared with devices, in a confidential machine."""
        self.memory_map = MemoryMap()
        self._describe_ram()
        self._pool = Pool(self.memory_map)
        self.events = Events(self)
        self.dispatcher = Dispatcher(self)
        self.calls = Calls(self)
        self.handles = Handles(self)
        self.processor = Processor(self)
        self.images = Images(self)
        self.system_table = SystemTable(self)
        self.system_table.place()
        self.configuration = Configuration(self)
        self.boot_services = BootServices(self)
        self.runtime_services = RuntimeServices(self)
        self.system_table.set_services(self.boot_services.place(), self.runtime_services.place())
        self.calls.register("image", self.boot_services.image_returned)
        self.calls.register("wait", self.boot_services.resume_wait)
        self.calls.register("stall", self.boot_services.resume_stall)
        self.images.add_firmware_image()
        self.application_processors = ApplicationProcessors(self)
        self._watchdog = self.events.create_host(notify=self._watchdog_bites)
        computer.injectors.append(self.calls.inject)
        computer.halt_limit = TIMER_TICK
        computer.fault_filter = self._fault
        computer.bus.add_ports(INTERRUPT_PORT, 1, zero, self._stray_interrupt)
        self.memory_map.on_change = self._map_changed

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "trace_notify": None, "note": nothing}  # a trace is the host's

    # -- memory

    def _describe_ram(self) -> None:
        ram = self.computer.memory
        add = self.memory_map.add
        # Page 0 is never given away: an address of 0 would look like NULL.
        add(0, 0x1000, mt.BOOT_DATA)
        add(0x1000, LOW_RAM_END, mt.CONVENTIONAL)
        add(0x100000, ram.low_size, mt.CONVENTIONAL)
        if ram.high_size:
            add(1 << 32, ram.end, mt.CONVENTIONAL)

    def _map_changed(self) -> None:
        self.events.signal_group(guids.EVENT_GROUP_MEMORY_MAP_CHANGE)

    def pool(self, size: int, memory_type: int = mt.BOOT_DATA) -> int:
        """Pool memory for the firmware or a guest; EfiError(OUT_OF_RESOURCES)."""
        return self._pool.allocate(size, memory_type)

    def free_pool(self, address: int) -> None:
        """Give pool memory back."""
        self._pool.free(address)

    def pages(self, count: int, memory_type: int) -> int:
        """Whole pages, as high as possible; EfiError(OUT_OF_RESOURCES)."""
        return self.memory_map.allocate(count, memory_type)

    def object_at(self, address: int) -> Interface | None:
        """The host's object behind a protocol interface, None if the guest provides it."""
        return self.dispatcher.objects.get(address)

    # -- the end of boot services

    def leave_boot_services(self, cpu: Cpu) -> None:
        """ExitBootServices has succeeded."""
        self.left_boot_services = True
        for action in self.at_exit:
            action()
        self.computer.halt_limit = None
        self.system_table.forget_boot_services()
        if self.variables is not None:
            self.variables.enter_runtime()

    def to_virtual(self, address: int) -> int | None:
        """Where the OS has mapped a physical address of a runtime region; None outside them."""
        for first, end, delta in self.virtual_map or ():
            if first <= address < end:
                return address + delta
        return None

    def convert_tables(self) -> None:
        """After SetVirtualAddressMap: the pointers in runtime tables become virtual ones."""
        ram = self.computer.memory

        def convert(at: int) -> None:
            value = ram.u64(at)
            ram.set_u64(at, self.to_virtual(value) or value)

        for slot in RuntimeServices.SLOTS:
            convert(self.runtime_services.address + slot.offset)
        for offset in (0x18, 0x58, 0x70):
            convert(self.system_table.address + offset)
        seal_header(self, self.runtime_services.address, RuntimeServices.SIZE)
        seal_header(self, self.system_table.address, SystemTable.SIZE)

    # -- watchdog, reset, crash

    def set_watchdog(self, seconds: int) -> None:
        """Arm the watchdog; 0 disarms it."""
        event = self.events.get(self._watchdog)
        deadline = self.clock.now() + min(seconds, 1 << 32) * 1_000_000_000 if seconds else None
        self.events.set_timer(event, deadline)

    def _watchdog_bites(self) -> None:
        self.warn("the watchdog timer that the guest set has run out: resetting")
        self.reset(0, 0)

    def reset(self, kind: int, status: int) -> None:
        """ResetSystem: 0 cold, 1 warm, 2 shutdown, 3 platform specific."""
        self.computer.finish(Outcome("shutdown" if kind == 2 else "reset", status))

    def crash(self, cpu: Cpu, text: str, fault: Fault | None = None) -> None:
        """The guest cannot go on."""
        self.computer.finish(Outcome("crashed", text=text, fault=fault))

    def _fault(self, cpu: Cpu, fault: Fault) -> bool:
        """An exception that only the firmware's own IDT would take ends the guest."""
        target = exceptions.handler_of(self.computer.linear(cpu), cpu, fault)
        if target is None or not self.processor.is_stub(target):
            return False
        text = exceptions.describe(fault)
        if fault.address is not None and self.processor.in_stack_guard(fault.address):
            text += ", right below the stack: it is used up"
        self.crash(cpu, text, fault)
        return True

    def _stray_interrupt(self, cpu: Cpu, _offset: int, _size: int, _value: int) -> None:
        """The firmware's own IDT took an interrupt: acknowledge it and go on.

        An exception comes this way where the processor delivers it (`--engine kvm-ring0`); elsewhere `_fault` saw it before.
        """
        linear, stack = self.computer.linear(cpu), cpu.get(reg.RSP)
        try:
            vector = linear.read(stack, 1)[0]
            if vector < exceptions.RESERVED and vector != exceptions.NMI:
                self._fault(cpu, exceptions.take_back(linear, cpu, vector, stack + 8))
                return
        except BadAddress:
            pass  # no stub of ours wrote to this port
        interrupts = self.computer.interrupts
        if interrupts is not None:
            interrupts.end_of_interrupt(cpu)

    # -- the first image

    def start(
        self, data: bytes | memoryview, name: str, path: bytes | None, device: int, used: int, options: bytes
    ) -> Image:
        """Load the first image and point the boot processor at it. EfiError, with `images.problem` saying why, if refused."""
        self.time.restore()
        status, image = self.images.load(data, self.images.firmware_handle, path, (device, used), name)
        if status or image is None:
            raise EfiError(status)
        if options:
            self.images.set_load_options(image, options)
        self.events.signal_group(guids.EVENT_GROUP_READY_TO_BOOT)
        cpu = self.computer.engine.cpus[0]
        self.processor.reset(cpu)
        rsp = cpu.get(reg.RSP)
        record = Record("image", rsp, {"image": image.handle, "root": True, "previous": self.images.current, "tpl": 4})
        record.state["size_at"] = record.state["data_at"] = 0
        self.calls.push(record)
        image.started = True
        self.images.current = image.handle
        self.calls.invoke_outside(cpu, rsp, image.entry, (image.handle, self.system_table.address))
        return image

    def image_done(self, status: int) -> None:
        """The first image has returned, or called Exit."""
        self.computer.finish(Outcome("returned", status))
