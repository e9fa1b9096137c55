"""The pytest plugin, in a pytest of its own."""

import subprocess
import sys
from pathlib import Path

import guest_code
import pytest

TESTS = """
import pytest

def test_boots(boot):
    vm = boot("echo.efi", memory="64M")
    vm.send("abc")
    vm.expect("abc")

def test_fails(boot):
    vm = boot("echo.efi")
    vm.send("seen by the reader of the report")
    vm.expect("of the")
    assert False

def test_crashes(boot):
    boot({faults!r}, args="ud2").expect("never")

def test_times_out(boot):
    boot("echo.efi").expect("never")

@pytest.mark.cvmboot_images("echo.efi")
def test_found(boot):
    boot("echo.efi")

@pytest.mark.cvmboot_images("echo.efi", "no-such.efi")
def test_missing(boot):
    assert False
"""


@pytest.fixture
def suite(tmp_path, sample):
    (tmp_path / "echo.efi").write_bytes(guest_code.ECHO_COM1)
    (tmp_path / "test_guest.py").write_text(TESTS.format(faults=str(sample("faults"))))

    def run(*words):
        line = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs", *words]
        return subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False).stdout

    return run


def test_the_fixture(suite):
    text = suite("--cvmboot-timeout", "0.5")
    assert "2 passed" in text
    assert "3 failed" in text
    assert "1 skipped" in text
    assert "no no-such.efi" in text
    assert "console of " in text
    assert "seen by the reader of the report" in text
    assert "crash of " in text
    assert "the guest crashed: invalid opcode" in text
    assert "TIMEOUT" in text


def test_the_marker_is_known(suite):
    assert "cvmboot_images(*names)" in suite("--markers")


def test_the_guests_folder_is_searched(suite, tmp_path, monkeypatch):
    folder = tmp_path / "guests"
    folder.mkdir()
    Path(tmp_path / "echo.efi").rename(folder / "echo.efi")
    assert "1 skipped" in suite("-k", "test_found")
    monkeypatch.setenv("CVMBOOT_GUESTS", str(folder))
    assert "1 passed" in suite("-k", "test_found")


def test_it_costs_pytest_nothing():
    code = "import sys, pytest, cvmboot.pytest_plugin; print(*[m for m in sys.modules if m.partition('.')[0] in " + (
        "('machine', 'uefi', 'loader', 'pexpect', 'unicorn')])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


CLONES = """
import pytest

boots = []

def typed(vm):
    boots.append(vm)
    vm.send("prepared")
    vm.expect("prepared")

@pytest.mark.parametrize("number", range(4))
def test_clone(clone, number):
    vm = clone("echo.efi", prepare=typed, memory="64M")
    vm.send(f"number {number}.")
    vm.expect_exact(f"number {number}.")
    assert "prepared" not in vm.before
    assert len(boots) == 1
    assert not boots[0].isalive()

def test_two_clones(clone):
    first = clone("echo.efi", prepare=typed, memory="64M")
    second = clone("echo.efi", prepare=typed, memory="64M")
    first.send("one")
    second.send("two")
    assert first.expect(["two", "one"]) == 1
    assert second.expect(["one", "two"]) == 1

def test_another_machine(clone):
    clone("echo.efi", prepare=typed, memory="128M")
    assert len(boots) == 2

def test_fails(clone):
    clone("echo.efi", at="never printed")
"""


def test_clones_of_a_machine_that_was_booted_once(suite, tmp_path):
    (tmp_path / "test_guest.py").write_text(CLONES)
    text = suite("--cvmboot-timeout", "2")
    assert "6 passed" in text, text
    assert "1 failed" in text
    assert "never printed" in text
