"""`cvmboot run` on a terminal: raw while the guest has it, sane afterwards, whatever ends the run."""

import os
import pty
import signal
import subprocess
import termios
import time
from pathlib import Path

import guest_code
import pexpect
import pytest

CTRL_A = "\x01"


@pytest.fixture
def shell(command):
    """Run the command under a shell on a terminal of its own: its settings before, the run, the status, the settings."""
    children = []

    def start(*words: object) -> pexpect.spawn:
        line = " ".join([*command, "run", *map(str, words)])
        child = pexpect.spawn(
            "/bin/sh", ["-c", f"stty -g; {line}; echo status=$?; stty -g"], timeout=30, encoding="utf-8"
        )
        child.delaybeforesend = None
        child.expect(r"([0-9a-f:]{40,})\r\n")
        child.settings = child.match.group(1)
        children.append(child)
        return child

    yield start
    for child in children:
        child.close(force=True)


def ends(child: pexpect.spawn, status: int) -> None:
    """The run ends with this status and leaves the terminal's settings as they were."""
    child.expect(r"status=(\d+)\r\n([0-9a-f:]{40,})")
    assert int(child.match.group(1)) == status
    assert child.match.group(2) == child.settings


def run_of(child: pexpect.spawn) -> int:
    """The process id of the run below the shell."""
    children = Path(f"/proc/{child.pid}/task/{child.pid}/children")
    return int(children.read_text().split()[0])


def test_prompt_of_a_real_guest(shell, guest):
    child = shell(guest("go-boot.efi"))
    child.expect("> ")
    child.send("info\r")
    child.expect("CPU .*: AMD EPYC")
    child.expect("> ")
    child.send("shutdown\r")
    ends(child, 0)


def test_keys_go_to_the_guest_as_they_are(shell, image):
    """Ctrl-C, Ctrl-Z, Ctrl-S, Ctrl-\\ and Enter; nothing is echoed by the terminal."""
    child = shell(image(guest_code.ECHO_COM1))
    wait_until_raw(child)
    child.send("a\x03b\x1ac\x13d\x1ce\rf")
    child.expect_exact("a\x03b\x1ac\x13d\x1ce\rf")
    child.send("\x04")
    ends(child, 0)


def wait_until_raw(child: "pexpect.spawn | int") -> None:
    """The terminal's settings are those of the run."""
    for _ in range(300):
        if not termios.tcgetattr(child if isinstance(child, int) else child.child_fd)[3] & termios.ICANON:
            return
        time.sleep(0.05)
    raise AssertionError("the terminal never became raw")


def test_ctrl_a_x_leaves(shell, image):
    child = shell(image(guest_code.ECHO_COM1))
    wait_until_raw(child)
    child.send("hello")
    child.expect_exact("hello")
    child.send(CTRL_A + "x")
    ends(child, 0)


def test_ctrl_a_ctrl_a_and_help(shell, image):
    child = shell(image(guest_code.ECHO_COM1))
    wait_until_raw(child)
    child.send(CTRL_A)
    child.send(CTRL_A)
    child.expect_exact(CTRL_A)
    child.send(CTRL_A + "h")
    child.expect_exact("Ctrl-A X")
    child.send("\x04")
    ends(child, 0)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_leave_the_terminal_sane(shell, image, number):
    child = shell(image(guest_code.ECHO_COM1))
    wait_until_raw(child)
    child.send("x")
    child.expect_exact("x")
    os.kill(run_of(child), number)
    ends(child, 128 + number)


def test_a_crash_leaves_the_terminal_sane(shell, sample):
    child = shell(sample("faults"), "--args", "page")
    child.expect_exact("cvmboot: the guest crashed: page fault")
    ends(child, 4)


def test_a_refused_image_leaves_the_terminal_sane(shell, image):
    child = shell(image(b"no EFI application"))
    child.expect_exact("cvmboot: ")
    ends(child, 1)


def test_stopped_and_continued(shell, image):
    child = shell(image(guest_code.ECHO_COM1))
    wait_until_raw(child)
    child.send("a")
    child.expect_exact("a")
    process = run_of(child)
    os.kill(process, signal.SIGTSTP)
    for _ in range(100):
        if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "T":
            break
        time.sleep(0.05)
    else:
        pytest.fail("SIGTSTP did not stop the run")
    assert termios.tcgetattr(child.child_fd)[3] & termios.ICANON
    os.kill(process, signal.SIGCONT)
    wait_until_raw(child)
    child.send("b")
    child.expect_exact("b")
    child.send("\x04")
    ends(child, 0)


def test_a_closed_terminal_ends_it(command, image):
    master, slave = pty.openpty()
    with subprocess.Popen(
        [*command, "run", image(guest_code.ECHO_COM1)], stdin=slave, stdout=slave, stderr=subprocess.PIPE
    ) as process:
        os.close(slave)
        wait_until_raw(master)
        os.close(master)
        assert process.wait(timeout=30) == 128 + signal.SIGHUP
        assert process.stderr.read() == b""


def test_a_terminal_that_was_closed_before_ends_it(command, image):
    master, slave = pty.openpty()
    os.close(master)
    with subprocess.Popen(
        [*command, "run", image(guest_code.ECHO_COM1)], stdin=slave, stdout=subprocess.PIPE
    ) as process:
        os.close(slave)
        assert process.wait(timeout=30) == 128 + signal.SIGHUP


def test_colours_for_a_terminal(shell, sample):
    child = shell(sample("hello"))
    child.expect_exact("\x1b[")
    child.expect_exact("Goodbye")
    ends(child, 0)


def test_what_a_snapshot_says_is_not_behind_the_prompt(command, tmp_path):
    image = tmp_path / "prompt.efi"
    # mov dx, 0x3f8; then "> " to COM1, and a loop
    image.write_bytes(guest_code.application(bytes.fromhex("66baf803 b03e ee b020 ee ebfe")))
    words = [*command, "snapshot", str(image), "-o", str(tmp_path / "p.snap"), "--memory", "64M", "--at", "> "]
    child = pexpect.spawn(words[0], words[1:], timeout=30, encoding="utf-8")
    child.expect(pexpect.EOF)
    assert "> \x1b[0m\r\ncvmboot: " in child.before
