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
