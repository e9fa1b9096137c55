"""`--ovmf`: the emulated guest reports the launch digest that `cvmboot measure` computes for a real host."""

import struct
import uuid
from pathlib import Path

from sev.report import Report


def _firmware(path: Path) -> Path:
    """A firmware image of 64 KiB with SEV metadata and a reset block, as OVMF's end has them."""
    guid = {
        "footer": "96b582de-1fb2-45f7-baea-a366c55a082d",
        "metadata": "dc886566-984a-4798-a75e-5585a7bf67cc",
        "reset": "00f771de-1a7e-4fcb-890e-68c77e2fb44e",
    }
    name = {key: uuid.UUID(text).bytes_le for key, text in guid.items()}
    size = 64 << 10
    image = bytearray(b"\x90" * size)
    sections = [(0x800000, 0x9000, 1), (0x80D000, 0x1000, 2), (0x80E000, 0x1000, 3)]
    metadata = b"ASEV" + struct.pack("<III", 16 + 12 * len(sections), 1, len(sections))
    metadata += b"".join(struct.pack("<III", *section) for section in sections)
    image[0x100 : 0x100 + len(metadata)] = metadata
    entries = struct.pack("<I", size - 0x100) + struct.pack("<H", 22) + name["metadata"]
    entries += struct.pack("<I", 0x80B004) + struct.pack("<H", 22) + name["reset"]
    footer = entries + struct.pack("<H", len(entries) + 18) + name["footer"]
    image[size - 32 - len(footer) : size - 32] = footer
    path.write_bytes(image)
    return path


def _reported(output: bytes) -> bytes:
    return Report.decode(bytes.fromhex(output.partition(b"bytes:")[2].decode())).measurement


def test_the_digest_is_the_one_that_measure_gives(cvmboot, sample, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    firmware = _firmware(tmp_path / "firmware.fd")
    done = cvmboot("run", "--snp", "--ovmf", firmware, sample("snp_report"))
    assert done.returncode == 0, done.stderr
    measured = cvmboot("measure", "--ovmf", firmware, "--vcpus", "1", "--vcpu-type", "EPYC-Turin")
    assert measured.returncode == 0, measured.stderr
    assert _reported(done.stdout).hex() in measured.stdout.decode()


def test_a_file_that_is_no_firmware_is_one_line(cvmboot, sample, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    (tmp_path / "text").write_bytes(b"no firmware" * 1000)
    done = cvmboot("run", "--snp", "--ovmf", tmp_path / "text", sample("hello"))
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert b"--ovmf" in done.stderr


def test_two_digests_are_too_many(cvmboot, sample, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    words = ("run", "--snp", "--ovmf", tmp_path / "text", "--measurement", "00" * 48, sample("hello"))
    assert cvmboot(*words).returncode == 2
