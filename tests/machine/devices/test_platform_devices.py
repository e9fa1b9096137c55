"""Keyboard controller, reset registers, ACPI power management and debug ports, as guests probe and use them."""

from device_accesses import CPU, Line, accesses, assert_plain, check_twin, perform
from hypothesis import given
from hypothesis import strategies as st

from machine.clock import NANOSECONDS, VirtualClock
from machine.devices import acpi_pm
from machine.devices.acpi_pm import AcpiPm
from machine.devices.debug_port import DebugConsole, PostPort
from machine.devices.i8042 import I8042
from machine.devices.reset_control import COLD_RESET, ResetControl
from machine.devices.system_control import SystemControlPortA


class Keyboard:
    def __init__(self) -> None:
        self.resets = 0
        self.line = Line()
        self.controller = I8042(self._reset, self.line)

    def _reset(self) -> None:
        self.resets += 1

    def command(self, value: int) -> None:
        assert self.controller.read_status(CPU, 0, 1) & 0x02 == 0
        self.controller.write_command(CPU, 0, 1, value)

    def data(self, value: int) -> None:
        self.controller.write_data(CPU, 0, 1, value)

    def answer(self) -> int | None:
        return self.controller.read_data(CPU, 0, 1) if self.controller.read_status(CPU, 0, 1) & 0x01 else None


def test_0xfe_resets_and_other_pulses_do_not() -> None:
    keyboard = Keyboard()
    keyboard.command(0xFE)
    assert keyboard.resets == 1
    keyboard.command(0xFF)
    assert keyboard.resets == 1
    keyboard.command(0xD1)
    keyboard.data(0xDE)
    assert keyboard.resets == 2


def test_linux_controller_probe() -> None:
    keyboard = Keyboard()
    assert keyboard.answer() is None
    keyboard.command(0xAA)
    assert keyboard.answer() == 0x55
    keyboard.command(0x20)
    control = keyboard.answer()
    assert control is not None
    keyboard.command(0x60)
    keyboard.data(control | 0x03)
    keyboard.command(0x20)
    assert keyboard.answer() == control | 0x03
    keyboard.command(0xAB)
    assert keyboard.answer() == 0x00
    keyboard.command(0xA9)
    assert keyboard.answer() not in (None, 0x00, 0xFA, 0xFF)  # no auxiliary port
    keyboard.command(0xD3)
    keyboard.data(0x5A)
    assert keyboard.controller.read_status(CPU, 0, 1) & 0x20 == 0
    assert keyboard.answer() == 0x5A


def test_the_missing_keyboard_times_out_at_once_and_interrupts() -> None:
    keyboard = Keyboard()
    keyboard.command(0x60)
    keyboard.data(0x01)
    keyboard.data(0xF2)
    assert keyboard.line.level
    assert keyboard.controller.read_status(CPU, 0, 1) & 0x41 == 0x41
    assert keyboard.answer() == 0xFE
    assert not keyboard.line.level
    assert keyboard.answer() is None


def test_a20_gate_reads_back() -> None:
    keyboard = Keyboard()
    keyboard.command(0xD0)
    assert keyboard.answer() == 0x03
    keyboard.command(0xD1)
    keyboard.data(0x01)
    keyboard.command(0xD0)
    assert keyboard.answer() == 0x01
    resets: list[int] = []
    port = SystemControlPortA(lambda: resets.append(1))
    port.write(CPU, 0, 1, port.read(CPU, 0, 1) | 0x02)
    assert (port.read(CPU, 0, 1), resets) == (0x02, [])
    port.write(CPU, 0, 1, 0x03)
    port.write(CPU, 0, 1, 0x03)
    assert resets == [1]


def test_reset_control_tells_cold_from_warm() -> None:
    resets: list[bool] = []
    control = ResetControl(resets.append)
    control.write(CPU, 0, 1, 0x02)
    assert (resets, control.read(CPU, 0, 1)) == ([], 0x02)
    control.write(CPU, 0, 1, COLD_RESET)
    control.write(CPU, 0, 1, 0x00)
    control.write(CPU, 0, 1, 0x04)
    control.write(CPU, 0, 1, 0x0E)
    assert resets == [True, False, True]


class Power:
    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.line = Line()
        self.offs = 0
        self.pm = AcpiPm(self.clock, self.line, self._off)

    def _off(self) -> None:
        self.offs += 1

    def get(self, offset: int, size: int) -> int:
        return self.pm.read(CPU, offset, size)

    def put(self, offset: int, size: int, value: int) -> None:
        self.pm.write(CPU, offset, size, value)


def test_pm_timer_runs_at_its_frequency_and_wraps_at_24_bits() -> None:
    power = Power()
    power.clock.jump_to(NANOSECONDS)
    assert power.get(acpi_pm.PM_TIMER, 4) == 3_579_545
    assert power.get(acpi_pm.PM_TIMER, 2) == 3_579_545 & 0xFFFF
    power.clock.jump_to(5 * NANOSECONDS)
    assert power.get(acpi_pm.PM_TIMER, 4) == 5 * 3_579_545 - (1 << 24)


def test_soft_off_and_nothing_else_powers_off() -> None:
    power = Power()
    power.put(acpi_pm.PM1_CONTROL, 2, 1 << 10 | 0x2000)
    power.put(acpi_pm.PM1_CONTROL, 2, acpi_pm.SLP_TYP_S5 << 10)
    assert power.offs == 0
    power.put(acpi_pm.PM1_CONTROL, 2, acpi_pm.SLP_TYP_S5 << 10 | 0x2000)
    assert power.offs == 1
    assert power.get(acpi_pm.PM1_CONTROL, 2) & 0x2000 == 0


def test_acpi_is_enabled_and_disabled_by_the_smi_command() -> None:
    power = Power()
    assert power.get(acpi_pm.PM1_CONTROL, 2) & 1 == 0
    power.pm.write_smi(CPU, 0, 1, acpi_pm.ACPI_ENABLE)
    assert power.get(acpi_pm.PM1_CONTROL, 2) & 1 == 1
    power.pm.write_smi(CPU, 0, 1, acpi_pm.ACPI_DISABLE)
    assert power.get(acpi_pm.PM1_CONTROL, 2) & 1 == 0
    assert power.pm.read_smi(CPU, 0, 1) == acpi_pm.ACPI_DISABLE


def test_power_button_raises_an_sci_until_its_status_is_cleared() -> None:
    power = Power()
    power.pm.press_power_button()
    power.put(acpi_pm.PM1_EVENT + 2, 2, 0x0100)
    assert not power.line.level
    power.pm.write_smi(CPU, 0, 1, acpi_pm.ACPI_ENABLE)
    assert power.line.level
    assert power.get(acpi_pm.PM1_EVENT, 4) == 0x0100_0100
    power.put(acpi_pm.PM1_EVENT, 2, 0x0100)
    assert not power.line.level


def test_timer_status_interrupts_when_bit_23_changes() -> None:
    power = Power()
    power.pm.write_smi(CPU, 0, 1, acpi_pm.ACPI_ENABLE)
    power.put(acpi_pm.PM1_EVENT + 2, 2, 0x0001)
    deadline = power.clock.next_deadline()
    assert deadline is not None
    assert abs(deadline - (1 << 23) * NANOSECONDS // 3_579_545) <= 1
    power.clock.jump_to(deadline)
    power.clock.run_due()
    assert power.line.level
    power.put(acpi_pm.PM1_EVENT, 2, 0x0001)
    assert not power.line.level
    assert power.clock.next_deadline() is not None


def test_general_purpose_events() -> None:
    power = Power()
    power.pm.write_smi(CPU, 0, 1, acpi_pm.ACPI_ENABLE)
    power.put(acpi_pm.GPE0 + 8, 4, 0x0000_0200)
    power.pm.raise_gpe(9)
    assert power.line.level
    assert power.get(acpi_pm.GPE0, 2) == 0x0200
    power.put(acpi_pm.GPE0 + 1, 1, 0x02)
    assert not power.line.level


@given(accesses(range(acpi_pm.PM_PORTS)), accesses(range(acpi_pm.PM_PORTS)), st.integers(0, 10**11))
def test_random_pm_accesses_and_a_restored_twin(first: list, second: list, moment: int) -> None:
    def make() -> AcpiPm:
        clock = VirtualClock()
        clock.jump_to(moment)
        return AcpiPm(clock, Line(), lambda: None)

    check_twin(make, first, second)


@given(
    st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 255)), max_size=50),
    st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 255)), max_size=50),
)
def test_random_keyboard_controller_accesses_and_a_restored_twin(first: list, second: list) -> None:
    def step(keyboard: Keyboard, access: tuple[bool, bool, int]) -> int | None:
        is_write, is_data, value = access
        if is_write:
            (keyboard.data if is_data else keyboard.command)(value)
            return None
        return (keyboard.controller.read_data if is_data else keyboard.controller.read_status)(CPU, 0, 1)

    original, twin = Keyboard(), Keyboard()
    for access in first:
        step(original, access)
    state = original.controller.save()
    assert_plain(state)
    twin.controller.load(state)
    for access in second:
        assert step(original, access) == step(twin, access)


@given(accesses(range(1)), accesses(range(1)))
def test_random_one_byte_ports(first: list, second: list) -> None:
    check_twin(lambda: SystemControlPortA(lambda: None), first, second)
    check_twin(lambda: ResetControl(lambda _: None), first, second)
    check_twin(PostPort, first, second)


def test_debug_console_outputs_and_says_that_it_is_there() -> None:
    output: list[bytes] = []
    console = DebugConsole(output.append)
    for byte in b"hi":
        perform(console, (True, 0, 1, byte))
    assert b"".join(output) == b"hi"
    assert console.read(CPU, 0, 1) == 0xE9
    post = PostPort()
    post.write(CPU, 0, 1, 0x5A)
    assert post.code == 0x5A
