"""The BIOS stage: rebuilt from its source, and booted in QEMU's SeaBIOS with unikernels of ours and of others."""

import hashlib
import json
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from image_tools import GIB, MIB, needs, tool

import images.bios
from images.bios.disk import stage_bytes
from images.bios.plan import read_plan
from images.build import build
from images.compose import compose
from images.disk import Disk
from images.errors import UnfitInput

BUILT = Path(__file__).parents[2] / "samples" / "built"
BIOS = Path(images.bios.__file__).parent
RECORD = json.loads((BIOS / "BUILD.json").read_text())
QEMU = "qemu-system-x86_64"
UNIKERNELS = ("unikernel_pvh", "unikernel_linux64")


def test_the_stage_is_the_recorded_one() -> None:
    assert {"stage.bin": hashlib.sha256(stage_bytes()).hexdigest()} == RECORD["files"]


def test_the_source_gives_the_stage(tmp_path: Path) -> None:
    for name, role in (("clang-14", "compiler"), ("ld.lld-14", "linker")):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed; the stage was built with {RECORD[role]}")
        version = tool(name, "--version").splitlines()[0].strip()
        if version != RECORD[role]:
            pytest.skip(f"{name} here is {version!r}; the stage was built with {RECORD[role]!r}")
    tool("make", "-C", BIOS / "source", f"OUT={tmp_path}", f"OBJECTS={tmp_path}/objects")
    assert (tmp_path / "stage.bin").read_bytes() == stage_bytes()


def test_the_disk_of_a_unikernel() -> None:
    data = (BUILT / "unikernel_pvh.elf").read_bytes()
    composition = compose(BUILT / "unikernel_pvh.elf", command_line="one two")
    assert (composition.boot, composition.size) == ("bios", GIB)
    disk = Disk(composition.device)
    assert disk.scheme == "mbr" and not disk.problems
    (partition,) = disk.partitions
    assert (partition.first_lba, partition.mbr_type) == (2048, 0xDA)
    sector = composition.device.read(0, 512)
    assert sector[446] == 0x80 and sector[510:] == b"\x55\xaa" and any(disk.mbr_signature)
    plan = read_plan(composition.device)
    assert plan is not None and plan["entry_kind"] == "pvh" and plan["command_line"] == "one two"
    for segment in plan["segments"]:
        content = composition.device.read(segment["lba"] * 512, segment["file_size"])
        assert content and content in data
    assert compose(BUILT / "unikernel_pvh.elf", command_line="one two").identity == composition.identity
    assert compose(BUILT / "unikernel_pvh.elf").identity != composition.identity


def test_what_the_stage_cannot_load(tmp_path: Path) -> None:
    def refused(data: bytes, **options: object) -> str:
        (tmp_path / "program.elf").write_bytes(data)
        with pytest.raises(UnfitInput) as caught:
            compose(tmp_path / "program.elf", **options)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
        return str(caught.value)

    sound = (BUILT / "unikernel_linux64.elf").read_bytes()

    def patched(offset: int, shape: str, value: int) -> bytes:
        image = bytearray(sound)
        struct.pack_into(shape, image, offset, value)
        return bytes(image)

    first_load = 64 + 56 * next(n for n in range(3) if struct.unpack_from("<I", sound, 64 + 56 * n)[0] == 1)
    assert "between 1 MiB and 4 GiB" in refused(patched(first_load + 24, "<Q", 0x8000))
    assert "between 1 MiB and 4 GiB" in refused(patched(first_load + 56 + 40, "<Q", 1 << 40))
    assert "entry point" in refused(patched(24, "<Q", 0x9000000))
    assert "shared object" in refused(patched(16, "<H", 3))
    assert "ARM64" in refused(patched(18, "<H", 183))
    assert "truncated" in refused(sound[:5000])
    assert "at most 255 fit" in refused(sound, command_line="x" * 256)
    assert "no file system" in refused(sound, add=[(tmp_path / "program.elf", "/")])
    assert "--size" in refused(sound, size=512)
    grown = bytearray(sound + bytes(4 * MIB))
    struct.pack_into("<QQ", grown, first_load + 56 + 32, 3 * MIB, 3 * MIB)
    assert "give a larger --size" in refused(bytes(grown), size=3 * MIB)


def boot(
    disk: Path, *options: str, until: str = "done", count: int = 1, memory: str = "512M", timeout: int = 90
) -> str:
    """What a machine with SeaBIOS prints on its serial port until it has printed `until` so many times, or ends."""
    command = [QEMU, "-accel", "tcg", "-cpu", "max", "-M", "q35", "-m", memory, "-display", "none", "-net", "none"]
    command += ["-serial", "stdio", "-monitor", "none", *options]
    command += ["-drive", f"file={disk},format=raw,if=none,id=disk,snapshot=on"]
    if not any("drive=disk" in option for option in options):
        command += ["-device", "virtio-blk-pci,drive=disk"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    import select
    import time

    text = ""
    deadline = time.monotonic() + timeout
    try:
        while text.count(until) < count and time.monotonic() < deadline:
            if select.select([process.stdout], [], [], 1)[0]:
                data = process.stdout.read()
                if data == b"":
                    break
                text += (data or b"").decode("latin-1")
    finally:
        process.kill()
        process.wait()
    return text


@needs(QEMU)
@pytest.mark.slow
@pytest.mark.parametrize("name", UNIKERNELS)
@pytest.mark.parametrize(
    "devices",
    [
        ("-device", "virtio-blk-pci,drive=disk"),
        ("-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=disk"),
        ("-device", "nvme,drive=disk,serial=1"),
        ("-device", "ide-hd,drive=disk"),
    ],
)
def test_unikernels_boot(tmp_path: Path, name: str, devices: tuple[str, ...]) -> None:
    """Twice, with memory left dirty by the first boot: what is not in the file has to be zero."""
    build(BUILT / f"{name}.elf", tmp_path / "disk.raw", size=64 * MIB, command_line="hello from a test")
    text = boot(tmp_path / "disk.raw", *devices, count=2)
    for line in ('command line "hello from a test"', "wrong words 0", "dirty bytes 0", "data 600d600d", "rsdp 1"):
        assert text.count(f"{line}\r\n") == 2, text
    assert text.count("interrupts 0") == 2
    magic = "pvh magic 336ec578" if name == "unikernel_pvh" else "linux64 magic 53726448"
    assert text.count(magic) == 2
    ranges = [line.split() for line in text.splitlines() if line.startswith("memory ")]
    usable = {int(first, 16): int(size, 16) for _, first, size, kind in ranges if kind == "1"}
    assert usable[0x100000] > 500 * MIB


@needs(QEMU)
@pytest.mark.slow
def test_a_machine_with_too_little_memory_is_told(tmp_path: Path) -> None:
    build(BUILT / "unikernel_pvh.elf", tmp_path / "disk.raw", size=64 * MIB)
    text = boot(tmp_path / "disk.raw", until="\r\n", memory="24M")
    assert "cvmboot: the machine has too little memory: no RAM up to 0x000000000200" in text


@needs(QEMU)
@pytest.mark.slow
def test_a_disk_that_was_cut_off_is_told(tmp_path: Path) -> None:
    build(BUILT / "unikernel_pvh.elf", tmp_path / "disk.raw", size=64 * MIB)
    os.truncate(tmp_path / "disk.raw", MIB)
    assert "cvmboot: the disk cannot be read at sector 0x0000000000000800" in boot(tmp_path / "disk.raw", until="800")


@needs(QEMU)
@pytest.mark.slow
@pytest.mark.guests
def test_tamago_starts(tmp_path: Path) -> None:
    """TamaGo's gcp board: under TCG there is no kvmclock, so its runtime ends with a panic of its own, in Go."""
    folder = os.environ.get("CVMBOOT_GUESTS")
    if not folder or not (program := Path(folder) / "tamago-example-gcp.elf").exists():
        pytest.skip("no tamago-example-gcp.elf in CVMBOOT_GUESTS")
    build(program, tmp_path / "disk.raw")
    text = boot(tmp_path / "disk.raw", until="gcp.go", memory="2G")
    assert "panic: could not set system timer" in text and "board/google/gcp" in text
