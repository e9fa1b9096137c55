"""`cvmboot run` with pipes: what goes in comes to the guest, what it prints comes out, and how it ended is the status."""

import os
import signal
import subprocess
import time
from pathlib import Path

import guest_code
import pytest

from cvmboot import VirtualMachine

EFI_ABORTED = 1 << 63 | 21
KEYS = bytes(0x20 + n * 7 % 0x5F for n in range(100_000)).replace(b"A", b"\n")


@pytest.mark.usefixtures("engine")
def test_hello_returns_success(cvmboot, sample):
    done = cvmboot("run", sample("hello"))
    assert done.returncode == 0
    assert b"Hello from an EFI application!" in done.stdout
    assert b"\x1b" not in done.stdout  # no colours for a pipe
    assert done.stderr == b""


def test_load_options_reach_the_guest(cvmboot, sample):
    assert b'"one two"' in cvmboot("run", sample("hello"), "--args", "one two").stdout


def test_prompt_of_a_real_guest(cvmboot, guest):
    done = cvmboot("run", guest("go-boot.efi"), typed=b"info\nshutdown\n")
    assert done.returncode == 0
    assert b"CPU ..........: AMD EPYC" in done.stdout
    assert done.stdout.count(b"> ") >= 2


@pytest.mark.parametrize("code", [guest_code.ECHO_COM1, guest_code.ECHO_CONIN], ids=["COM1", "ConIn"])
def test_fast_input_loses_nothing(cvmboot, image, code):
    done = cvmboot("run", image(code), typed=KEYS + b"\x04")
    assert done.returncode == 0
    assert done.stdout == KEYS.replace(b"\n", b"\r")


def test_crlf_is_one_enter_even_when_it_comes_in_two_pieces(command, image):
    with subprocess.Popen(
        [*command, "run", image(guest_code.ECHO_COM1)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        for piece in (b"one\r", b"\ntwo\r\n", b"three\n\n", b"\x04"):
            process.stdin.write(piece)
            time.sleep(0.2)
        assert process.stdout.read() == b"one\rtwo\rthree\r\r"


def test_a_guest_that_does_not_read_holds_its_input_back(command, image):
    """Standard input is not swallowed: what the guest leaves stays in the pipe."""
    with subprocess.Popen([*command, "run", image(guest_code.LOOP)], stdin=subprocess.PIPE) as process:
        os.set_blocking(process.stdin.fileno(), False)
        taken, until = 0, time.monotonic() + 3
        while time.monotonic() < until:
            try:
                taken += os.write(process.stdin.fileno(), b"y\n" * 2048)
            except BlockingIOError:
                time.sleep(0.05)
        process.kill()
    assert taken < 256 << 10


@pytest.mark.usefixtures("engine")
def test_the_end_of_input_does_not_end_the_guest(cvmboot, image):
    done = cvmboot("run", image(guest_code.ECHO_COM1), "--timeout", "1", typed=b"abc")
    assert (done.returncode, done.stdout) == (5, b"abc")
    assert done.stderr.count(b"\n") == 1
    assert b"--timeout" in done.stderr


@pytest.mark.usefixtures("engine")
def test_returned_error(cvmboot, image):
    done = cvmboot("run", image(guest_code.returning(EFI_ABORTED)))
    assert done.returncode == 3
    assert done.stderr == b"cvmboot: guest.efi returned EFI_ABORTED (0x8000000000000015)\n"


@pytest.mark.usefixtures("engine")
def test_endless_computation_times_out(cvmboot, image):
    assert cvmboot("run", image(guest_code.LOOP), "--timeout", "0.5").returncode == 5


@pytest.mark.usefixtures("engine")
def test_a_reset_starts_again(cvmboot, image):
    done = cvmboot("run", image(guest_code.RESET_OR_RETURN), typed=b"rrq")
    assert (done.returncode, done.stdout) == (0, b"RRR")


def test_no_reboot_ends_at_the_reset(cvmboot, image):
    done = cvmboot("run", image(guest_code.RESET_OR_RETURN), "--no-reboot", typed=b"rrq")
    assert (done.returncode, done.stdout) == (0, b"R")


def test_an_endless_reset_loop_slows_down(cvmboot, sample):
    done = cvmboot("run", sample("faults"), "--args", "reset-cold", "--timeout", "5")
    assert done.returncode == 5
    assert b"resets in" in done.stderr
    assert done.stdout.count(b"resetting, cold") <= 16


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_it_with_their_status(command, image, number):
    with subprocess.Popen(
        [*command, "run", image(guest_code.FLOOD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout.read(1) == b"x"
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert errors == b""


def test_a_signal_ends_it_although_nobody_reads(command, image):
    with subprocess.Popen(
        [*command, "run", image(guest_code.FLOOD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout.read(1) == b"x"
        time.sleep(1)  # the pipe is full now
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 128 + signal.SIGTERM
        assert process.stderr.read() == b""


def test_timeout_although_nobody_reads(command, image):
    with subprocess.Popen(
        [*command, "run", image(guest_code.FLOOD), "--timeout", "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.wait(timeout=30) == 5


@pytest.mark.usefixtures("engine")
def test_closed_output_ends_it_quietly(command, image):
    with subprocess.Popen(
        [*command, "run", image(guest_code.FLOOD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout.read(1) == b"x"
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(timeout=30) == 128 + signal.SIGPIPE
    assert errors == b""


def test_closed_descriptors_are_not_mistaken_for_our_own(command, sample):
    shell = f"{' '.join(command)} run {sample('hello')} <&- >&-"
    done = subprocess.run(["/bin/sh", "-c", shell], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_screenshot(cvmboot, sample, tmp_path):
    picture = tmp_path / "screen.png"
    assert cvmboot("run", sample("hello"), "--screenshot", picture).returncode == 0
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_memory_of_a_run_stays_small(command, guest):
    """2 GiB of guest RAM, but only what the guest touches; the figure is the project's own promise."""
    with subprocess.Popen(
        [*command, "run", guest("go-boot.efi")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        seen = b""
        while b"> \x1b[0m" not in seen and not seen.endswith(b"> "):
            seen += process.stdout.read(4096)
        status = Path(f"/proc/{process.pid}/status").read_text()
        process.kill()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    assert peak < 120 << 10


def test_what_a_guest_writes_outlives_its_reset_but_not_the_run(guest, tmp_path):
    folder = tmp_path / "esp"
    folder.mkdir()
    (folder / "old.txt").write_text("old")
    with VirtualMachine(guest("Shell.efi"), esp=folder, timeout=60) as vm:
        # Keys that are typed ahead of a reset may die with it, as on any machine: each waits for its prompt.
        for commands in (("echo written before > new.txt", "reset"), ("type new.txt",)):
            vm.expect_exact("to continue.")
            vm.sendline()
            vm.expect_exact("Shell> ")
            vm.sendline("fs0:")
            for command in commands:
                vm.expect_exact("FS0:\\> ")
                vm.sendline(command)
        vm.expect_exact("written before")
    assert [path.name for path in folder.iterdir()] == ["old.txt"]
