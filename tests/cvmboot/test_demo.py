"""`cvmboot demo` boots what ships with the program, and verifies what it says."""

import re


def test_demo(cvmboot, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    done = cvmboot("demo")
    assert done.returncode == 0
    assert b"Hello from an EFI application!" in done.stdout
    assert b"VERIFIED (EMULATED: VCEK Turin)" in done.stdout
    assert b"The report's data are our nonce" in done.stdout
    asked = re.search(rb"--args ([0-9a-f]{16})\.\.\.", done.stdout)
    assert asked is not None
    # REPORT_DATA begins 0x50 bytes into the report, 16 bytes into its third line of 32.
    third = done.stdout.partition(b"1184 bytes:\n")[2].split(b"\n")[2]
    assert third[32:48] == asked[1]
    assert b"FAILED" not in done.stdout
    assert done.stderr == b""
