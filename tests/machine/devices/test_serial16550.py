"""The 16550A, driven as operating systems drive it."""

from collections import deque

from device_accesses import CPU, Line, accesses, check_twin
from hypothesis import given
from hypothesis import strategies as st

from machine.devices.serial16550 import Serial16550

RBR = THR = DLL = 0
IER = DLM = 1
IIR = FCR = 2
LCR, MCR, LSR, MSR, SCR = 3, 4, 5, 6, 7


class Wire:
    """The host's end: a queue of input and everything that was output."""

    def __init__(self, data: bytes = b"") -> None:
        self.input = deque(data)
        self.output = bytearray()

    def read_byte(self) -> int | None:
        return self.input.popleft() if self.input else None

    def pending(self) -> bool:
        return bool(self.input)

    def write(self, data: bytes) -> None:
        self.output += data


class Port:
    """A serial port with short-hand register access."""

    def __init__(self, data: bytes = b"") -> None:
        self.wire = Wire(data)
        self.line = Line()
        self.uart = Serial16550(self.wire, self.line)

    def inb(self, offset: int) -> int:
        return self.uart.read(CPU, offset, 1)

    def outb(self, offset: int, value: int) -> None:
        self.uart.write(CPU, offset, 1, value)


def test_polled_output_and_input() -> None:
    port = Port(b"ok")
    for byte in b"hello":
        assert port.inb(LSR) & 0x20
        port.outb(THR, byte)
    assert port.wire.output == b"hello"
    got = bytearray()
    while port.inb(LSR) & 0x01:
        got.append(port.inb(RBR))
    assert got == b"ok"
    assert port.inb(LSR) == 0x60
    assert port.inb(RBR) == 0


def test_input_waits_at_the_host_however_much_there_is() -> None:
    data = bytes(range(256)) * 40
    port = Port(data)
    port.outb(FCR, 0x07)
    got = bytearray()
    while port.inb(LSR) & 0x01:
        got.append(port.inb(RBR))
        port.outb(FCR, 0xC7)
    assert got == data


def test_idle_hook_is_called_when_there_is_nothing_to_read() -> None:
    port = Port(b"x")
    calls: list[int] = []
    port.uart.on_poll_empty = lambda: calls.append(1)
    port.inb(LSR)
    port.inb(RBR)
    assert not calls
    port.inb(LSR)
    assert len(calls) == 1
    port.inb(RBR)
    assert len(calls) == 2
    port.outb(IER, 0x02)  # the slow path polls as well
    port.inb(LSR)
    assert len(calls) == 3


def test_linux_8250_autoconfig_finds_a_16550a() -> None:
    port = Port()
    port.outb(IER, 0)
    assert port.inb(IER) & 0x0F == 0
    port.outb(IER, 0x0F)
    assert port.inb(IER) & 0x0F == 0x0F
    port.outb(IER, 0x00)
    saved = port.inb(MCR)
    port.outb(MCR, 0x10 | 0x0A)
    assert port.inb(MSR) & 0xF0 == 0x90
    port.outb(MCR, saved)
    port.outb(LCR, 0xBF)
    port.outb(FCR, 0)
    port.outb(LCR, 0)
    port.outb(FCR, 0x01)
    assert port.inb(IIR) >> 6 == 3
    port.outb(LCR, 0x80)
    assert port.inb(2) != 0  # else a 16650
    port.outb(LCR, 0xBF)
    assert port.inb(2) != 0  # else a 16650V2
    port.outb(LCR, 0)
    port.outb(FCR, 0x21)
    plain = port.inb(IIR) >> 5
    port.outb(LCR, 0x80)
    port.outb(FCR, 0x21)
    assert (plain, port.inb(IIR) >> 5) == (6, 6)  # (6, 7) would be a 16750
    port.outb(LCR, 0)
    port.outb(IER, 0x40)
    assert port.inb(IER) & 0x40 == 0  # else an XScale


def test_linux_startup_sees_thre_reasserted() -> None:
    port = Port()
    port.outb(MCR, 0x0B)
    seen = []
    for _ in range(2):
        port.outb(IER, 0x02)
        assert port.line.level
        seen.append(port.inb(IIR) & 0x0F)
        port.outb(IER, 0)
        assert not port.line.level
    assert seen == [0x02, 0x02]
    port.outb(IER, 0x02)
    assert port.inb(LSR) & 0x40
    assert port.inb(IIR) & 0x01 == 0


def test_scratch_and_divisor_registers() -> None:
    port = Port()
    port.outb(SCR, 0xA5)
    assert port.inb(SCR) == 0xA5
    port.outb(LCR, 0x83)
    port.outb(DLL, 0x0C)
    port.outb(DLM, 0x01)
    assert (port.inb(DLL), port.inb(DLM)) == (0x0C, 0x01)
    port.outb(LCR, 0x03)
    assert port.inb(IER) == 0
    assert port.wire.output == b""


def test_receive_interrupt_needs_ier_and_out2() -> None:
    port = Port()
    port.outb(IER, 0x01)
    port.wire.input.extend(b"a")
    port.uart.input_available()
    assert not port.line.level
    port.outb(MCR, 0x08)
    assert port.line.level
    assert port.inb(IIR) == 0x04
    assert port.inb(RBR) == ord("a")
    assert not port.line.level
    assert port.inb(IIR) == 0x01


def test_without_a_fifo_each_character_is_an_edge_of_its_own() -> None:
    edges: list[bool] = []
    wire = Wire(b"abc")
    uart = Serial16550(wire, edges.append)
    uart.write(CPU, MCR, 1, 0x08)
    uart.write(CPU, IER, 1, 0x01)
    uart.input_available()
    for expected in b"abc":
        assert uart.read(CPU, RBR, 1) == expected
    assert edges == [True, False] * 3


def test_trigger_level_tells_available_data_from_a_time_out() -> None:
    port = Port(b"123")
    port.outb(MCR, 0x08)
    port.outb(FCR, 0x81)  # trigger at 8
    port.outb(IER, 0x01)
    assert port.inb(IIR) == 0xCC
    for _ in range(2):
        assert port.inb(LSR) & 0x01
    port.wire.input.extend(b"45678")
    port.uart.input_available()
    assert port.inb(IIR) == 0xC4
    assert bytes(port.inb(RBR) for _ in range(8)) == b"12345678"
    assert port.inb(IIR) == 0xC1


def test_interrupts_have_the_priorities_of_table_iv() -> None:
    port = Port()
    port.outb(MCR, 0x10)
    port.outb(MSR, 0)
    port.inb(MSR)
    port.outb(IER, 0x0F)
    port.outb(THR, 1)
    port.outb(THR, 2)  # overrun
    port.outb(MCR, 0x13)
    assert port.inb(IIR) == 0x06
    assert port.inb(LSR) & 0x03 == 0x03
    assert port.inb(IIR) == 0x04
    assert port.inb(RBR) == 2
    assert port.inb(IIR) == 0x02
    assert port.inb(IIR) == 0x00
    assert port.inb(MSR) & 0x33 == 0x33
    assert port.inb(IIR) == 0x01


def test_loopback_fifo_holds_sixteen_and_nothing_leaks() -> None:
    port = Port(b"host")
    port.outb(FCR, 0x07)
    port.outb(MCR, 0x10)
    assert port.inb(LSR) & 0x01 == 0
    for value in range(20):
        port.outb(THR, value)
    assert port.inb(LSR) & 0x03 == 0x03
    got = []
    while port.inb(LSR) & 0x01:
        got.append(port.inb(RBR))
    assert got == list(range(16))
    port.outb(MCR, 0)
    assert port.wire.output == b""
    assert port.inb(RBR) == ord("h")


def test_ring_changes_on_the_trailing_edge_only() -> None:
    port = Port()
    port.outb(MCR, 0x10)
    port.inb(MSR)
    port.outb(MCR, 0x14)
    assert port.inb(MSR) == 0x40
    port.outb(MCR, 0x10)
    assert port.inb(MSR) == 0x04


def test_wide_accesses_are_consecutive_registers() -> None:
    port = Port()
    port.uart.write(CPU, SCR, 4, 0xFFFFFF12)
    assert port.uart.read(CPU, MSR, 2) == 0x12B0
    assert port.uart.read(CPU, SCR, 2) == 0xFF12
    port.uart.write(CPU, THR, 2, 0x0241)
    assert port.wire.output == b"A"
    assert port.inb(IER) == 0x02


@given(accesses(range(8)), accesses(range(8)), st.binary(max_size=40))
def test_random_accesses_and_a_restored_twin(first: list, second: list, data: bytes) -> None:
    wires: list[Wire] = []

    def make() -> Serial16550:
        # The host's queue is not part of the device: the twin gets what the original has left.
        wires.append(Wire(bytes(wires[0].input) if wires else data))
        return Serial16550(wires[-1], Line())

    check_twin(make, first, second)
    assert wires[0].output.endswith(wires[1].output)
