"""The local APIC of one processor, xAPIC and x2APIC (Intel SDM volume 3, chapter 11; sections are its).

Vectors are bits of Python integers: the highest pending one is a bit_length away. What leaves for other processors is
an `Ipi`; what comes in is `accept`, `accept_nmi` and the hooks for INIT and start-up.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from machine.interrupts.apic_timer import ApicTimer

if TYPE_CHECKING:
    from machine.clock import Clock

APIC_BASE = 0xFEE0_0000
APIC_SIZE = 0x1000
MSR_APIC_BASE = 0x1B
MSR_TSC_DEADLINE = 0x6E0
MSR_X2APIC, MSR_X2APIC_END = 0x800, 0x900

BROADCAST = 0xFFFF_FFFF
"""The destination that is every processor, in every mode."""

FIXED, LOWEST_PRIORITY, SMI, NMI, INIT, STARTUP, EXTINT = 0, 1, 2, 4, 5, 6, 7
"""Delivery modes (table 11-1 and 11.5.1)."""

VERSION = 0x0005_0014
"""Six LVT entries, an integrated APIC."""

_BASE_BSP, _BASE_X2, _BASE_ENABLE = 1 << 8, 1 << 10, 1 << 11
_SVR_ENABLE = 0x100
_MASKED = 0x1_0000
_ERROR_SEND, _ERROR_RECEIVE, _ERROR_REGISTER = 0x20, 0x40, 0x80
_SELF, _ALL, _OTHERS = 1, 2, 3

# Register numbers: MMIO offset / 16, and MSR - 0x800.
_ID, _VERSION, _TPR, _APR, _PPR, _EOI, _LDR, _DFR, _SVR = 0x02, 0x03, 0x08, 0x09, 0x0A, 0x0B, 0x0D, 0x0E, 0x0F
_ISR, _TMR, _IRR, _ESR, _ICR, _ICR_HIGH = 0x10, 0x18, 0x20, 0x28, 0x30, 0x31
_TIMER, _THERMAL, _PERFORMANCE, _LINT0, _LINT1, _ERROR = range(0x32, 0x38)
_INITIAL, _CURRENT, _DIVIDE, _SELF_IPI = 0x38, 0x39, 0x3E, 0x3F

_LVT_WRITABLE = {
    _TIMER: 0x7_00FF,
    _THERMAL: 0x1_07FF,
    _PERFORMANCE: 0x1_07FF,
    _LINT0: 0x1_A7FF,
    _LINT1: 0x1_A7FF,
    _ERROR: 0x1_00FF,
}
_ICR_WRITABLE = 0xC_CFFF
_SEND_PENDING = 1 << 12
_X2_WRITABLE = {**_LVT_WRITABLE, _TPR: 0xFF, _EOI: 0, _SVR: 0x1FF, _ESR: 0, _INITIAL: 0xFFFF_FFFF, _DIVIDE: 0xB}
_X2_WRITABLE[_SELF_IPI] = 0xFF
_X2_IGNORED = {
    **dict.fromkeys(_LVT_WRITABLE, _SEND_PENDING),
    **dict.fromkeys((_LINT0, _LINT1), _SEND_PENDING | 1 << 14),
}
"""Bits that are read-only and not reserved: Xen, which leaves the APIC to the next kernel, writes ones to them (11.5.1)."""
_X2_WRITE_ONLY = (_EOI, _SELF_IPI)
_PLAIN = (_SVR, _DFR, _ICR_HIGH, _DIVIDE, *_LVT_WRITABLE)


class Ipi:
    """An interrupt message on its way to the processors that `destination` names."""

    __slots__ = ("destination", "level_triggered", "logical", "mode", "vector")

    def __init__(self, mode: int, vector: int, destination: int, logical: bool, level_triggered: bool = False) -> None:
        self.mode = mode
        self.vector = vector
        self.destination = destination
        self.logical = logical
        self.level_triggered = level_triggered


class LocalApic:
    """One local APIC.

    `send(ipi, exclude)` carries an interrupt to other processors (`exclude`: an index that does not get it, or None);
    `end_of_level(vector)` tells the I/O APIC of an EOI; `wake(index)` says that the processor has something to do.
    """

    def __init__(
        self,
        index: int,
        clock: "Clock",
        send: Callable[[Ipi, int | None], None],
        end_of_level: Callable[[int], None],
        wake: Callable[[int], None],
    ) -> None:
        self.index = index
        self._send = send
        self._end_of_level = end_of_level
        self._wake = wake
        self._base = APIC_BASE | _BASE_ENABLE | (_BASE_BSP if index == 0 else 0)
        self.timer = ApicTimer(clock, self._timer_fired)
        self.nmi_pending = False
        self.ready = False
        self._registers: list[int] = []
        self._irr: int
        self._isr: int
        self._tmr: int
        self._tpr: int
        self._ldr: int
        self._errors: int
        self._reset_registers()

    # What the run loop asks

    def pending(self) -> int | None:
        """The vector that would be taken now: highest in IRR, above the processor priority (11.8.3). None: nothing."""
        vector = self._irr.bit_length() - 1
        return vector if vector >= 16 and vector >> 4 > self.processor_priority >> 4 else None

    def acknowledge(self) -> int | None:
        """Move the pending vector from IRR to ISR and return it; None when there is none."""
        vector = self.pending()
        if vector is not None:
            self._irr &= ~(1 << vector)
            self._isr |= 1 << vector
            self._update()
        return vector

    @property
    def processor_priority(self) -> int:
        """PPR: the higher of TPR and the vector in service (11.8.3.1)."""
        in_service = self._isr.bit_length() - 1
        if in_service < 0 or self.tpr >> 4 >= in_service >> 4:
            return self.tpr
        return in_service & 0xF0

    @property
    def tpr(self) -> int:
        """The task priority, 0 to 255; CR8 is its upper half."""
        return self._tpr

    @tpr.setter
    def tpr(self, value: int) -> None:
        self._tpr = value & 0xFF
        self._update()

    @property
    def apic_id(self) -> int:
        """The APIC ID: the processor's index."""
        return self.index

    @property
    def enabled(self) -> bool:
        """True when fixed interrupts are accepted: enabled in IA32_APIC_BASE and in the SVR (11.4.7)."""
        return bool(self._base & _BASE_ENABLE and self._registers[_SVR] & _SVR_ENABLE)

    @property
    def is_x2apic(self) -> bool:
        """True in x2APIC mode."""
        return bool(self._base & _BASE_X2)

    @property
    def takes_extint(self) -> bool:
        """True when the 8259 reaches this processor: LINT0 as virtual wire, or no APIC in the way (11.4.3)."""
        if not self._base & _BASE_ENABLE:
            return self.index == 0
        return self._registers[_LINT0] & (_MASKED | 0x700) == EXTINT << 8

    # What comes in

    def accept(self, vector: int, level_triggered: bool) -> None:
        """A fixed or lowest-priority interrupt arrives (11.8.4). Vectors below 16 are an error."""
        if not self.enabled:
            return
        if vector < 16:
            self._report_error(_ERROR_RECEIVE)
            return
        bit = 1 << vector
        self._tmr = self._tmr | bit if level_triggered else self._tmr & ~bit
        self._irr |= bit
        self._update()

    def accept_nmi(self) -> None:
        """An NMI arrives; the run loop clears `nmi_pending` when it delivers it."""
        self.nmi_pending = True
        self._wake(self.index)

    def matches(self, destination: int, logical: bool) -> bool:
        """True when a message for `destination` is for this processor (11.6.2)."""
        if not self._base & _BASE_ENABLE:
            return False
        if destination == BROADCAST:
            return True
        if not logical:
            return destination == self.apic_id
        if self.is_x2apic:
            own = self._logical_id()
            return destination >> 16 == own >> 16 and bool(destination & own & 0xFFFF)
        own = self._ldr >> 24
        if self._registers[_DFR] >> 28 == 0xF:
            return bool(destination & own & 0xFF)
        return destination >> 4 == own >> 4 and bool(destination & own & 0x0F)

    def initialize(self) -> None:
        """INIT: every register as after reset, the APIC ID and IA32_APIC_BASE kept (11.4.7.1, 11.4.7.3)."""
        self._reset_registers()
        self.nmi_pending = False

    def enter_virtual_wire_mode(self) -> None:
        """Set the APIC up as firmware leaves it: enabled, 8259 through LINT0, NMI at LINT1 (MP 1.4, 3.6.2.2)."""
        self._write_register(_SVR, _SVR_ENABLE | 0xFF)
        if self.index == 0:
            self._write_register(_LINT0, EXTINT << 8)
            self._write_register(_LINT1, NMI << 8)

    # Guest accesses

    def read(self, offset: int, size: int) -> int:
        """MMIO read at `offset` of the page; registers are 32 bits wide at multiples of 16 (11.4.1)."""
        if self._base & (_BASE_ENABLE | _BASE_X2) != _BASE_ENABLE:
            return (1 << 8 * size) - 1
        if offset & 0xF > 3:
            return 0
        return self._read_register(offset >> 4) >> 8 * (offset & 3) & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """MMIO write; only 32-bit accesses to a register's first byte are defined, the rest does nothing."""
        if self._base & (_BASE_ENABLE | _BASE_X2) == _BASE_ENABLE and not offset & 0xF and size >= 4:
            self._write_register(offset >> 4, value & 0xFFFF_FFFF)

    def read_msr(self, msr: int) -> int | None:
        """RDMSR of 0x1B, 0x6E0 and 0x800 to 0x8FF; None is #GP(0)."""
        if msr == MSR_APIC_BASE:
            return self._base
        if msr == MSR_TSC_DEADLINE:
            return self.timer.target_tsc
        number = msr - MSR_X2APIC
        known = number in _X2_WRITABLE or number in (_ID, _VERSION, _PPR, _LDR, _ICR, _CURRENT)
        vectors = _ISR <= number < _ESR
        if not self.is_x2apic or not (known or vectors) or number in _X2_WRITE_ONLY:
            return None
        if number == _ID:
            return self.apic_id
        if number == _LDR:
            return self._logical_id()
        if number == _ICR:
            return self._registers[_ICR_HIGH] << 32 | self._registers[_ICR]
        return self._read_register(number)

    def write_msr(self, msr: int, value: int) -> bool:
        """WRMSR of the same; False is #GP(0)."""
        if msr == MSR_APIC_BASE:
            return self._write_base(value)
        if msr == MSR_TSC_DEADLINE:
            self.timer.set_target_tsc(value)
            return True
        number = msr - MSR_X2APIC
        if not self.is_x2apic:
            return False
        if number == _ICR:
            if value & 0xFFFF_FFFF & ~(_ICR_WRITABLE | _SEND_PENDING):
                return False
            self._registers[_ICR_HIGH] = value >> 32
            self._registers[_ICR] = value & _ICR_WRITABLE
            self._send_ipi(value >> 32)
            return True
        if number not in _X2_WRITABLE or value & ~(_X2_WRITABLE[number] | _X2_IGNORED.get(number, 0)):
            return False
        if number == _SELF_IPI:
            self._send_self(value)
        else:
            self._write_register(number, value)
        return True

    # State

    def save(self) -> dict[str, Any]:
        """Plain data for `load`."""
        return {
            "base": self._base,
            "registers": list(self._registers),
            "ldr": self._ldr,
            "tpr": self._tpr,
            "irr": self._irr.to_bytes(32, "little"),
            "isr": self._isr.to_bytes(32, "little"),
            "tmr": self._tmr.to_bytes(32, "little"),
            "errors": self._errors,
            "nmi_pending": self.nmi_pending,
            "timer": self.timer.save(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state. The clock must have been loaded before."""
        self._base = state["base"]
        self._registers = list(state["registers"])
        self._ldr = state["ldr"]
        self._tpr = state["tpr"]
        self._irr = int.from_bytes(state["irr"], "little")
        self._isr = int.from_bytes(state["isr"], "little")
        self._tmr = int.from_bytes(state["tmr"], "little")
        self._errors = state["errors"]
        self.nmi_pending = state["nmi_pending"]
        self.timer.load(state["timer"])
        self.ready = self.pending() is not None

    # Registers

    def _reset_registers(self) -> None:
        self._registers = [0] * 0x40
        for number in _LVT_WRITABLE:
            self._registers[number] = _MASKED
        self._registers[_SVR] = 0xFF
        self._registers[_DFR] = 0xFFFF_FFFF
        self._ldr = 0
        self._tpr = 0
        self._irr = self._isr = self._tmr = 0
        self._errors = 0
        self.timer.configure(0, True)
        self.timer.set_initial(0)
        self.timer.set_divide(2)
        self.ready = False

    def _read_register(self, number: int) -> int:
        if _ISR <= number < _ESR:
            bits = (self._isr, self._tmr, self._irr)[number - _ISR >> 3]
            return bits >> 32 * (number & 7) & 0xFFFF_FFFF
        if number in _PLAIN or number in (_ICR, _ESR):
            return self._registers[number]
        if number == _ID:
            return self.apic_id << 24 & 0xFFFF_FFFF
        if number == _VERSION:
            return VERSION
        if number == _TPR:
            return self._tpr
        if number in (_PPR, _APR):
            return self.processor_priority
        if number == _LDR:
            return self._ldr
        if number == _INITIAL:
            return self.timer.initial
        if number == _CURRENT:
            return self.timer.current()
        if number != _EOI:
            self._report_error(_ERROR_REGISTER)
        return 0

    def _write_register(self, number: int, value: int) -> None:
        if number == _EOI:
            self._end_of_interrupt()
        elif number == _TPR:
            self.tpr = value
        elif number == _ICR:
            self._registers[_ICR] = value & _ICR_WRITABLE
            destination = self._registers[_ICR_HIGH] >> 24
            self._send_ipi(BROADCAST if destination == 0xFF else destination)
        elif number == _ICR_HIGH:
            self._registers[number] = value & 0xFF00_0000
        elif number == _INITIAL:
            self.timer.set_initial(value)
        elif number == _DIVIDE:
            self._registers[number] = value & 0xB
            code = value & 3 | value >> 1 & 4
            self.timer.set_divide(1 if code == 7 else 2 << code)
        elif number in _LVT_WRITABLE:
            self._write_lvt(number, value)
        elif number == _SVR:
            self._registers[_SVR] = value & 0x1FF
            if not value & _SVR_ENABLE:  # masks the whole LVT (11.4.7.2)
                for entry in _LVT_WRITABLE:
                    self._write_lvt(entry, self._registers[entry])
        elif number == _LDR:
            self._ldr = value & 0xFF00_0000
        elif number == _DFR:
            self._registers[_DFR] = value | 0x0FFF_FFFF
        elif number == _ESR:  # a write shows what has come together since the last one (11.5.3)
            self._registers[_ESR], self._errors = self._errors, 0
        elif number != _ID and number not in (_VERSION, _APR, _PPR, _CURRENT) and not _ISR <= number < _ESR:
            self._report_error(_ERROR_REGISTER)

    def _write_lvt(self, number: int, value: int) -> None:
        value &= _LVT_WRITABLE[number]
        if not self._registers[_SVR] & _SVR_ENABLE:
            value |= _MASKED
        self._registers[number] = value
        if number == _TIMER:
            self.timer.configure(min(value >> 17 & 3, 2), bool(value & _MASKED))

    def _write_base(self, value: int) -> bool:
        """IA32_APIC_BASE and its legal transitions (11.12.5). The page cannot be moved: that is #GP, too."""
        modes = _BASE_ENABLE | _BASE_X2
        before, after = self._base & modes, value & modes
        if value & ~(modes | _BASE_BSP) != APIC_BASE or after == _BASE_X2:
            return False
        if (before == 0 and after == modes) or (before == modes and after == _BASE_ENABLE):
            return False
        self._base = self._base & ~modes | after
        if after == 0:
            self._reset_registers()
        elif after != before and after == modes:
            self._registers[_ICR_HIGH] = 0
        return True

    def _logical_id(self) -> int:
        """The LDR of x2APIC mode: cluster and bit from the APIC ID (11.12.10.2)."""
        return self.apic_id >> 4 << 16 | 1 << (self.apic_id & 0xF)

    def _end_of_interrupt(self) -> None:
        vector = self._isr.bit_length() - 1
        if vector < 0:
            return
        self._isr &= ~(1 << vector)
        if self._tmr >> vector & 1:
            self._end_of_level(vector)
        self._update()

    def _send_ipi(self, destination: int) -> None:
        """Carry out the ICR (11.6.1). It is sent at once: the delivery status is always idle."""
        icr = self._registers[_ICR]
        mode, vector, shorthand = icr >> 8 & 7, icr & 0xFF, icr >> 18 & 3
        if mode in (FIXED, LOWEST_PRIORITY) and vector < 16:
            self._report_error(_ERROR_SEND)
            return
        if mode == INIT and icr & 0xC000 == 0x8000:
            return  # INIT level de-assert: nothing on these processors
        if shorthand == _SELF:
            if mode == FIXED:
                self._send_self(vector)
            return
        if shorthand in (_ALL, _OTHERS):
            destination = BROADCAST
        logical = bool(icr & 0x800) and not shorthand
        self._send(Ipi(mode, vector, destination, logical), self.index if shorthand == _OTHERS else None)

    def _send_self(self, vector: int) -> None:
        if vector < 16:
            self._report_error(_ERROR_SEND)
        else:
            self.accept(vector, False)

    def _timer_fired(self) -> None:
        self.accept(self._registers[_TIMER] & 0xFF, False)

    def _report_error(self, error: int) -> None:
        self._errors |= error
        entry = self._registers[_ERROR]
        if not entry & _MASKED and entry & 0xFF >= 16:
            self.accept(entry & 0xFF, False)

    def _update(self) -> None:
        before, self.ready = self.ready, self.pending() is not None
        if self.ready and not before:
            self._wake(self.index)
