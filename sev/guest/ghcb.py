"""VMGEXIT through the GHCB page: the hypervisor's answers to each non-automatic exit (AMD 56421 GHCB, table 7, protocol 2)."""

from collections.abc import Callable

from machine.computer import Computer
from machine.cpu import Cpu
from sev.guest.ghcb_msr import HYPERVISOR_FEATURES, termination
from sev.guest.ghcb_page import (
    BAD_SCRATCH,
    GENERAL_PROTECTION,
    INJECT_EVENT,
    INVALID_EVENT,
    INVALID_INPUT,
    INVALID_USAGE,
    LARGEST_SCRATCH,
    MALFORMED,
    NO_ACTION,
    RAX,
    RBX,
    RCX,
    RDX,
    SHARED_BUFFER,
    SHARED_BUFFER_SIZE,
    SW_EXITCODE,
    SW_EXITINFO1,
    SW_EXITINFO2,
    XCR0,
    GhcbPage,
    Malformed,
)
from sev.guest.page_state import LARGEST_LIST
from sev.guest.processors import CREATE, CREATE_ON_INIT
from sev.guest.services import Services

_NO_HYPERCALL = (1 << 64) - 1000
"""-KVM_ENOSYS: there is no hypercall here."""
_LEAF_XSAVE = 0x0D

Exit = Callable[[Cpu, GhcbPage], "tuple[int, int] | None"]
"""Answers an exit: None for success without a result, or SW_EXITINFO1 and SW_EXITINFO2. Malformed."""


class GhcbProtocol:
    """Answers exits of one guest; `services` are the parts of the hypervisor behind them."""

    def __init__(self, computer: Computer, services: Services) -> None:
        self._computer = computer
        self._services = services
        self._exits: dict[int, Exit] = {
            0x27: self._dr7_read,
            0x37: self._dr7_write,
            0x6E: self._rdtsc,
            0x72: self._cpuid,
            0x7B: self._io,
            0x7C: self._msr,
            0x81: self._vmmcall,
            0x87: self._rdtscp,
            0x89: self._nothing,  # WBINVD
            0x8A: self._nothing,  # MONITOR
            0x8B: self._nothing,  # MWAIT
            0x8000_0001: self._mmio_read,
            0x8000_0002: self._mmio_write,
            0x8000_0003: self._nmi_complete,
            0x8000_0004: self._ap_reset_hold,
            0x8000_0005: self._ap_jump_table,
            0x8000_0010: self._page_state_change,
            0x8000_0011: self._guest_request,
            0x8000_0012: self._extended_guest_request,
            0x8000_0013: self._ap_creation,
            0x8000_FFFD: self._features,
            0x8000_FFFE: self._terminate,
            0x8000_FFFF: self._unsupported_event,
        }

    def run(self, cpu: Cpu, address: int, registered: bool) -> None:
        """Answer the exit that is described in the GHCB page at `address`, a page of RAM."""
        page = GhcbPage(self._computer.memory, address)
        try:
            if not registered:
                raise Malformed(1, f"the GHCB at {address:#x} is not registered")
            if page.usage():
                raise Malformed(INVALID_USAGE, f"GHCB_USAGE {page.usage():#x}; wanted 0")
            page.need(SW_EXITCODE, SW_EXITINFO1, SW_EXITINFO2)
            code = page.get(SW_EXITCODE)
            handler = self._exits.get(code)
            if handler is None:
                raise Malformed(INVALID_EVENT, f"SW_EXITCODE {code:#x} is not known")
            answer = handler(cpu, page)
        except Malformed as malformed:
            self._services.note(f"GHCB: {malformed}")
            page.begin()
            page.answer(MALFORMED, malformed.reason)
            return
        page.answer(*(answer or (NO_ACTION, 0)))

    # -- instructions

    def _nothing(self, _cpu: Cpu, page: GhcbPage) -> None:
        page.begin()

    def _nmi_complete(self, cpu: Cpu, page: GhcbPage) -> None:
        """The guest takes the next NMI, although it has not executed IRET yet (GHCB specification, NMI Complete Event)."""
        page.begin()
        cpu.nmi_masked = False

    def _dr7_read(self, _cpu: Cpu, page: GhcbPage) -> None:
        page.begin()
        page.put(RAX, self._services.dr7)

    def _dr7_write(self, _cpu: Cpu, page: GhcbPage) -> None:
        page.need(RAX)
        self._services.dr7 = page.get(RAX)
        page.begin()

    def _rdtsc(self, cpu: Cpu, page: GhcbPage) -> None:
        page.begin()
        value = self._computer.read_tsc(cpu)
        page.put(RAX, value & 0xFFFF_FFFF)
        page.put(RDX, value >> 32)

    def _rdtscp(self, cpu: Cpu, page: GhcbPage) -> None:
        self._rdtsc(cpu, page)
        page.put(RCX, (self._computer.read_msr(cpu, 0xC000_0103) or 0) & 0xFFFF_FFFF)

    def _cpuid(self, cpu: Cpu, page: GhcbPage) -> None:
        page.need(RAX, RCX)
        leaf, subleaf = page.get(RAX) & 0xFFFF_FFFF, page.get(RCX) & 0xFFFF_FFFF
        if leaf == _LEAF_XSAVE:
            page.need(XCR0)
        page.begin()
        for field, value in zip((RAX, RBX, RCX, RDX), self._computer.cpuid(cpu, leaf, subleaf), strict=True):
            page.put(field, value)

    def _msr(self, cpu: Cpu, page: GhcbPage) -> tuple[int, int] | None:
        page.need(RCX)
        index = page.get(RCX) & 0xFFFF_FFFF
        if page.get(SW_EXITINFO1) & 1:
            page.need(RAX, RDX)
            value = (page.get(RDX) & 0xFFFF_FFFF) << 32 | page.get(RAX) & 0xFFFF_FFFF
            page.begin()
            return None if self._computer.write_msr(cpu, index, value) else (INJECT_EVENT, GENERAL_PROTECTION)
        page.begin()
        answer = self._computer.read_msr(cpu, index)
        if answer is None:
            return INJECT_EVENT, GENERAL_PROTECTION
        page.put(RAX, answer & 0xFFFF_FFFF)
        page.put(RDX, answer >> 32)
        return None

    def _vmmcall(self, _cpu: Cpu, page: GhcbPage) -> None:
        page.need(RAX)
        page.begin()
        page.put(RAX, _NO_HYPERCALL)

    def _io(self, cpu: Cpu, page: GhcbPage) -> None:
        """SW_EXITINFO1 as EXITINFO1 of an IOIO intercept (APM volume 2, 15.10.2)."""
        info = page.get(SW_EXITINFO1)
        size = {1: 1, 2: 2, 4: 4}.get(info >> 4 & 7, 0)
        port, is_in = info >> 16 & 0xFFFF, bool(info & 1)
        if not size:
            raise Malformed(INVALID_INPUT, f"IOIO with SW_EXITINFO1 {info:#x}, which names no size")
        if port in self._services.hidden_ports:
            raise Malformed(INVALID_INPUT, f"IOIO to port {port:#x}, which is the firmware's")
        if info & 4:
            return self._string_io(cpu, page, port, size, is_in)
        if is_in:
            page.begin()
            page.put(RAX, self._computer.port_read(cpu, port, size))
            return None
        page.need(RAX)
        value = page.get(RAX) & ((1 << 8 * size) - 1)
        page.begin()
        self._computer.port_write(cpu, port, size, value)
        return None

    def _string_io(self, cpu: Cpu, page: GhcbPage, port: int, size: int, is_in: bool) -> None:
        """INS and OUTS: SW_EXITINFO2 is the count, the bytes go through the scratch area."""
        count = page.get(SW_EXITINFO2)
        if not 0 < count * size <= LARGEST_SCRATCH:
            raise Malformed(INVALID_INPUT, f"string I/O of {count} times {size} bytes")
        at = self._scratch(cpu, page, count * size)
        page.begin()
        memory, computer = self._computer.memory, self._computer
        for n in range(count):
            if is_in:
                memory.write(at + n * size, computer.port_read(cpu, port, size).to_bytes(size, "little"))
            else:
                computer.port_write(cpu, port, size, int.from_bytes(memory.read(at + n * size, size), "little"))

    def _scratch(self, cpu: Cpu, page: GhcbPage, size: int) -> int:
        """SW_SCRATCH, checked to be `size` bytes of shared memory."""
        at = page.scratch(size)
        if not self._services.checker.host_access(at, size, "scratch area", cpu):
            raise Malformed(BAD_SCRATCH, f"scratch area {at:#x}+{size:#x} is not shared memory")
        return at

    def _mmio_operands(self, cpu: Cpu, page: GhcbPage) -> tuple[int, int, int]:
        """Device address, size, scratch address."""
        device, size = page.get(SW_EXITINFO1), page.get(SW_EXITINFO2)
        if size not in (1, 2, 4, 8):
            raise Malformed(INVALID_INPUT, f"MMIO of {size} bytes; wanted 1, 2, 4 or 8")
        if self._computer.memory.is_ram(device) or device >> 52:
            raise Malformed(INVALID_INPUT, f"MMIO at {device:#x}, which is no device's")
        return device, size, self._scratch(cpu, page, size)

    def _mmio_read(self, cpu: Cpu, page: GhcbPage) -> None:
        device, size, at = self._mmio_operands(cpu, page)
        page.begin()
        self._computer.memory.write(at, self._computer.mmio_read(cpu, device, size).to_bytes(size, "little"))

    def _mmio_write(self, cpu: Cpu, page: GhcbPage) -> None:
        device, size, at = self._mmio_operands(cpu, page)
        page.begin()
        value = int.from_bytes(self._computer.memory.read(at, size), "little")
        self._computer.mmio_write(cpu, device, size, value)

    # -- SNP

    def _features(self, _cpu: Cpu, page: GhcbPage) -> tuple[int, int]:
        page.begin()
        return NO_ACTION, HYPERVISOR_FEATURES

    def _page_state_change(self, cpu: Cpu, page: GhcbPage) -> tuple[int, int]:
        first = page.scratch(8)
        inside = page.address <= first < page.address + SHARED_BUFFER + SHARED_BUFFER_SIZE
        size = page.address + SHARED_BUFFER + SHARED_BUFFER_SIZE - first if inside else LARGEST_LIST
        self._scratch(cpu, page, size)
        page.begin()
        return NO_ACTION, self._services.page_states.run(cpu, first, size)

    def _guest_request(self, cpu: Cpu, page: GhcbPage) -> tuple[int, int]:
        request, response = page.get(SW_EXITINFO1), page.get(SW_EXITINFO2)
        result = self._services.requests.run(cpu, request, response)
        page.begin()
        return NO_ACTION, result

    def _extended_guest_request(self, cpu: Cpu, page: GhcbPage) -> tuple[int, int]:
        page.need(RAX, RBX)
        request, response = page.get(SW_EXITINFO1), page.get(SW_EXITINFO2)
        result, pages = self._services.requests.run_extended(cpu, request, response, page.get(RAX), page.get(RBX))
        page.begin()
        page.put(RBX, pages)
        return NO_ACTION, result

    # -- other processors

    def _ap_reset_hold(self, cpu: Cpu, page: GhcbPage) -> tuple[int, int]:
        """The processor goes on behind VMGEXIT when it gets a start-up IPI."""
        page.begin()
        if cpu.index:
            self._computer.hold(cpu.index)
        else:
            self._services.terminate("the guest parks its boot processor for ever (AP reset hold)")
        return NO_ACTION, 1

    def _ap_jump_table(self, _cpu: Cpu, page: GhcbPage) -> tuple[int, int]:
        operation, address = page.get(SW_EXITINFO1), page.get(SW_EXITINFO2)
        if operation > 1:
            raise Malformed(INVALID_INPUT, f"AP jump table request {operation}; wanted 0 or 1")
        if operation == 0:
            self._services.jump_table = address
        page.begin()
        return NO_ACTION, self._services.jump_table

    def _ap_creation(self, cpu: Cpu, page: GhcbPage) -> None:
        info, vmsa = page.get(SW_EXITINFO1), page.get(SW_EXITINFO2)
        if info & 0xFFFF in (CREATE_ON_INIT, CREATE):
            page.need(RAX)
        features = page.get(RAX)
        page.begin()
        self._services.processors.request(cpu, info, vmsa, features)

    # -- the end

    def _terminate(self, _cpu: Cpu, page: GhcbPage) -> None:
        info = page.get(SW_EXITINFO1)
        page.begin()
        self._services.terminate(termination(info & 0xF, info >> 4 & 0xFF))

    def _unsupported_event(self, _cpu: Cpu, page: GhcbPage) -> None:
        code = page.get(SW_EXITINFO1)
        page.begin()
        self._services.terminate(f"the guest cannot handle the exit {code:#x} that it got (unsupported event)")
