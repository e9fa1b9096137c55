"""VirtualMachine: pexpect's interface over a machine in this process."""

import io
import threading
import time
from pathlib import Path

import guest_code
import pexpect
import pytest

import cvmboot
from cvmboot import CvmbootError, UsageError, VirtualMachine

ECHO = guest_code.ECHO_COM1


def test_a_real_guest_at_its_prompt(guest):
    with VirtualMachine(guest("go-boot.efi"), memory="1G") as vm:
        vm.expect("> ")
        vm.sendline("info")
        vm.expect(r"CPU \.+: ([^\r\n]*)\r\n")
        assert vm.match.group(1).startswith("AMD EPYC")
        vm.expect_exact("> ")
        assert "Frequency" in vm.before
        vm.sendline("shutdown")
        assert vm.wait() == 0
        assert vm.outcome.kind == "shutdown"


def test_before_after_match_and_eof():
    with VirtualMachine(ECHO) as vm:
        vm.send("one two three")
        assert vm.expect(["never", "two"]) == 1
        assert (vm.before, vm.after) == ("one ", "two")
        vm.sendcontrol("d")
        vm.expect(pexpect.EOF)
        assert vm.before == " three"
        assert vm.exitstatus == 0
        assert not vm.isalive()
        assert vm.expect([pexpect.EOF, "x"]) == 0


def test_timeout_names_the_machine_and_keeps_what_came():
    with VirtualMachine(ECHO, timeout=0.3) as vm:
        vm.send("abc")
        with pytest.raises(pexpect.TIMEOUT, match="abc"):
            vm.expect("never")
        assert vm.before == "abc"
        assert vm.expect(["never", pexpect.TIMEOUT], timeout=0) == 1
        with pytest.raises(pexpect.TIMEOUT):
            vm.wait(timeout=0.1)
        vm.expect("c")


def test_lines_end_with_enter():
    with VirtualMachine(ECHO) as vm:
        assert vm.sendline("a") == 2
        vm.write("b\n")
        vm.writelines(["c\r\n", "d"])
        vm.expect_exact("a\rb\rc\rd")


def test_bytes_instead_of_text():
    with VirtualMachine(ECHO, encoding=None) as vm:
        vm.send(b"\xff\xfe!")
        vm.expect(b"!")
        assert vm.before == b"\xff\xfe"


def test_text_that_is_no_utf_8_is_replaced():
    with VirtualMachine(ECHO) as vm:
        vm._feed(b"\xff!")
        vm.expect("!")
        assert vm.before == "\N{REPLACEMENT CHARACTER}"


def test_logfile_gets_both_directions():
    log = io.StringIO()
    with VirtualMachine(ECHO, logfile=log) as vm:
        vm.send("abc")
        vm.expect("abc")
    assert log.getvalue() == "abcabc"


def test_wait_gives_the_command_lines_status():
    with VirtualMachine(guest_code.returning(1 << 63 | 2)) as vm:
        assert vm.wait() == 3
        assert vm.outcome.status == 1 << 63 | 2


def test_a_crash_has_a_report(sample):
    with VirtualMachine(sample("faults"), args="page") as vm:
        with pytest.raises(pexpect.EOF, match="the guest crashed: page fault"):
            vm.expect("never")
        assert vm.wait() == 4
        assert vm.report[0].startswith("the guest crashed: page fault")


def test_a_reset_starts_again_and_can_be_told_not_to():
    with VirtualMachine(guest_code.RESET_OR_RETURN) as vm:
        vm.expect("R")
        vm.send("r")
        vm.expect("R")
    with VirtualMachine(guest_code.RESET_OR_RETURN, reboot=False) as vm:
        vm.send("r")
        assert vm.wait() == 0
        assert vm.outcome.kind == "reset"


def test_trace_in_memory_and_in_a_file(sample, tmp_path):
    with VirtualMachine(sample("hello"), trace=True) as vm:
        vm.wait()
        assert any(event["name"] == "EFI_RUNTIME_SERVICES.GetTime" for event in vm.trace)
    with VirtualMachine(sample("hello"), trace=tmp_path / "t.jsonl") as vm:
        vm.wait()
    assert "GetTime" in (tmp_path / "t.jsonl").read_text()


def test_screenshot(tmp_path):
    with VirtualMachine(ECHO) as vm:
        vm.screenshot(tmp_path / "now.png")
        assert (tmp_path / "now.png").read_bytes().startswith(b"\x89PNG")
        with pytest.raises(OSError):
            vm.screenshot(tmp_path / "no" / "such.png")
        vm.sendcontrol("d")
        vm.wait()
        with pytest.raises(CvmbootError):
            vm.screenshot(tmp_path / "late.png")


def test_what_cannot_be_built_is_refused_at_once(tmp_path, sample):
    with pytest.raises(CvmbootError, match=r"missing\.efi"):
        VirtualMachine(tmp_path / "missing.efi")
    with pytest.raises(CvmbootError):
        VirtualMachine(b"MZ but nothing else")
    with pytest.raises(TypeError, match="colour"):
        VirtualMachine(sample("hello"), colour="red")
    with pytest.raises(UsageError):
        VirtualMachine(sample("hello"), clock="slow")
    with pytest.raises(UsageError):
        VirtualMachine(sample("hello"), trace="t.txt")
    assert _threads() == 0


def test_an_endless_guest_can_be_closed():
    for code in (guest_code.LOOP, guest_code.FLOOD):
        vm = VirtualMachine(code)
        vm.close()
        vm.close()
        assert vm.exitstatus is None
        assert not vm.isalive()


def test_output_can_be_read_after_close():
    vm = VirtualMachine(ECHO)
    vm.send("abc\x04")
    vm.wait()
    vm.close()
    assert vm.read() == "abc"


def test_a_forgotten_machine_ends():
    vm = VirtualMachine(guest_code.LOOP)
    del vm
    for _ in range(200):
        if not _threads():
            return
        time.sleep(0.05)
    pytest.fail("the machine's thread goes on")


def test_many_machines_at_once():
    machines = [VirtualMachine(ECHO, memory="64M") for _ in range(6)]
    try:
        for n, vm in enumerate(machines):
            vm.send(f"machine {n}.")
        for n, vm in enumerate(machines):
            vm.expect_exact(f"machine {n}.")
    finally:
        for vm in machines:
            vm.close()


def test_nothing_leaks():
    def used():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return len(list(Path("/proc/self/fd").iterdir())), _threads(), pages >> 8

    def boot():
        with VirtualMachine(ECHO) as vm:
            vm.send("x")
            vm.expect("x")

    for _ in range(5):
        boot()
    descriptors, threads, mebibytes = used()
    for _ in range(30):
        boot()
    after = used()
    assert after[0] <= descriptors
    assert after[1] <= threads
    assert after[2] < mebibytes + 60


def _threads() -> int:
    return sum(thread.name.startswith("cvmboot") and thread.is_alive() for thread in threading.enumerate())


def test_the_package_exports_what_it_promises():
    assert cvmboot.VirtualMachine is VirtualMachine
    with pytest.raises(AttributeError, match="nonsense"):
        cvmboot.nonsense  # noqa: B018
