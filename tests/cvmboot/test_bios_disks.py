"""`cvmboot run` of disks that a BIOS boots: those that `image build` makes of ELF unikernels, and those of TamaGo's tools."""

import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cvmboot import CvmbootError, VirtualMachine
from images.bios.plan import MAGIC, PLAN, PLAN_AT, PVH, SEGMENT

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]
BUILT = Path(__file__).parents[2] / "samples" / "built"
HALT = bytes.fromhex("b0fee664ebfe")  # mov al, 0xfe; out 0x64, al; jmp $: resets the machine, in 32- and 64-bit mode


@pytest.mark.parametrize("name", ["disk.raw", "disk.qcow2"])
def test_a_disk_of_a_unikernel_boots_in_each_form(cvmboot: Run, tmp_path: Path, name: str) -> None:
    disk = tmp_path / name
    made = cvmboot("image", "build", BUILT / "unikernel_pvh.elf", "-o", disk, "--size", "16M", "--cmdline", "quiet now")
    assert made.returncode == 0, made.stderr
    done = cvmboot("run", "--no-reboot", disk)
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode()
    assert "pvh magic 336ec578" in text and 'command line "quiet now"' in text
    assert "wrong words 0" in text and "dirty bytes 0" in text
    assert "rsdp 1" in text, "the board is a PC with ACPI"
    assert 'command line "other"' in cvmboot("run", "--no-reboot", "--args", "other", disk).stdout.decode()


def test_a_disk_with_a_kernel_of_linuxs_protocol_needs_no_board(cvmboot: Run, tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    assert cvmboot("image", "build", BUILT / "unikernel_linux64.elf", "-o", disk, "--size", "16M").returncode == 0
    done = cvmboot("run", "--no-reboot", disk)
    assert done.returncode == 0, done.stderr
    assert b"linux64 magic 53726448" in done.stdout
    assert cvmboot("run", "--snp", disk).returncode == 2


def tamago_disk(path: Path, sectors: int = 1, address: int = 0x100_0000, entry: int = 0x100_0000) -> Path:
    """A disk with the data of TamaGo's boot record, and HALT as the program."""
    packet = struct.pack("<BBHHHQ", 0x10, 0, 64, 0, 0x1000, 200)
    record = (bytes(120) + packet + struct.pack("<QQQQ", 200, sectors, address, entry)).ljust(510, b"\0") + b"\x55\xaa"
    path.write_bytes(record + bytes(199 * 512) + HALT.ljust(64 * 512, b"\0"))
    return path


def test_a_boot_record_of_tamagos_tools_is_followed(cvmboot: Run, tmp_path: Path) -> None:
    done = cvmboot("run", "--no-reboot", tamago_disk(tmp_path / "disk.img"))
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"sectors": 1 << 40}, "the disk has 264"),
        ({"sectors": 0}, "nothing to load"),
        ({"address": 0x7C00}, "wanted 1 MiB to 4 GiB"),
        ({"address": (1 << 64) - 512}, "wanted 1 MiB to 4 GiB"),
    ],
)
def test_a_boot_record_that_asks_for_the_impossible_is_one_line(
    tmp_path: Path, words: dict[str, int], told: str
) -> None:
    with pytest.raises(CvmbootError, match=told):
        VirtualMachine(tamago_disk(tmp_path / "disk.img", **words), timeout=20).wait(20)


@pytest.mark.parametrize(
    "segments",
    [
        [(1 << 60, 0x100_0000, 512, 512)],
        [(2, 0x100_0000, 1 << 50, 1 << 50)],
        [(2, 0x100_0000, 1024, 512)],
        [(2, 0x100_0000, 1 << 29, 1 << 29)] * 3,
        [],
    ],
)
def test_a_load_plan_that_somebody_made_up_is_one_line(
    cvmboot: Run, tmp_path: Path, segments: list[tuple[int, int, int, int]]
) -> None:
    plan = PLAN.pack(MAGIC, PVH, len(segments), 0x100_0000) + b"".join(SEGMENT.pack(*one) for one in segments)
    disk = tmp_path / "disk.raw"
    disk.write_bytes((bytes(510) + b"\x55\xaa").ljust(PLAN_AT, b"\0") + plan.ljust(1 << 20, b"\0"))
    done = cvmboot("run", disk)
    assert done.returncode == 1
    assert b"boot record loads" in done.stderr and done.stderr.count(b"\n") == 1


def test_such_a_disk_in_a_matrix_with_traces_has_none(cvmboot: Run, tmp_path: Path) -> None:
    tamago_disk(tmp_path / "disk.img")
    (tmp_path / "boots.toml").write_text('[[case]]\nimage = "disk.img"\noutcome = "reset"\nno-reboot = true\n')
    done = cvmboot("matrix", tmp_path / "boots.toml", "--output", tmp_path / "kept", "--trace")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.guests
def test_tamagos_image_for_compute_engine(guest: Callable[[str], Path]) -> None:
    with VirtualMachine(guest("tamago-example-gcp.img"), timeout=60) as vm:
        vm.expect("show system running time")
        vm.expect("> ")
        vm.sendline("info")
        vm.expect("Board ........: gcp")
        with vm.snapshot() as frozen, frozen.clone(timeout=60) as clone:
            clone.sendline("halt")
            clone.expect("Goodbye from tamago")
            assert clone.wait(30) == 0
