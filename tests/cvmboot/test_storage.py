"""--esp: a folder is a disk with blocks and files, and both views of it agree whoever writes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cvmboot.assembly import Assembly, assemble
from cvmboot.media import Media
from cvmboot.options import RunOptions
from cvmboot.storage import add_esp
from images.block import OverlayDevice
from images.cow import CHUNK
from images.disk import Disk
from images.errors import NotFound
from images.fat import FatVolume
from machine.console import HostConsole
from uefi import guids
from uefi.interface import Interface
from uefi.platform import Volume
from uefi.protocols.block_io import MEDIA_ID
from uefi.status import Status

BLOCK = 512


class Machine:
    """An assembled machine with a folder as its ESP, and the protocols of its disk by the block size that they show."""

    def __init__(self, assembly: Assembly, folder: Path, warnings: list[str]) -> None:
        self.assembly = assembly
        self.warnings = warnings
        self.media = Media()
        self.volume: Volume = add_esp(assembly.platform, folder, self.media, write=False)
        firmware = assembly.firmware
        self.disk = self.media.disk(folder, lambda: pytest.fail("the disk was not kept"))
        whole, self.partition = firmware.handles.find(guids.BLOCK_IO_PROTOCOL)
        assert self.partition == self.volume.handle
        self.handles = {"disk": whole, "partition": self.partition}
        self.files = self.volume.file_system
        self.buffer = firmware.pages(64, 4)

    def call(self, where: str, protocol: Any, name: str, *arguments: int) -> int:
        """A call of the guest's."""
        firmware = self.assembly.firmware
        address = firmware.handles.interface(self.handles[where], protocol)
        assert address is not None
        interface = firmware.object_at(address)
        assert isinstance(interface, Interface)
        slot = next(slot for slot in interface.SLOTS if slot.signature.name == name)
        return int(slot.handler(interface, self.assembly.computer.engine.cpus[0], *arguments))

    def store(self, where: str, protocol: Any, offset: int, data: bytes) -> None:
        """Blocks or bytes written by the guest at `offset` of the disk or partition."""
        self.assembly.firmware.memory.write(self.buffer, data)
        if protocol == guids.BLOCK_IO_PROTOCOL:
            arguments = (MEDIA_ID, offset // BLOCK, len(data), self.buffer)
            assert self.call(where, protocol, "WriteBlocks", *arguments) == Status.SUCCESS
        else:
            assert self.call(where, protocol, "WriteDisk", MEDIA_ID, offset, len(data), self.buffer) == Status.SUCCESS

    def change_below(self, where: str, protocol: Any, change: Callable[[FatVolume], None]) -> None:
        """What `change` does to a volume, done by a FAT driver of the guest's own that writes blocks."""
        shadow = OverlayDevice(self.disk.device)
        change(FatVolume(Disk(shadow).esp()))
        start = Disk(shadow).partitions[0].first_lba * BLOCK if where == "partition" else 0
        for index, chunk in shadow.save()["chunks"]:
            self.store(where, protocol, index * CHUNK - start, bytes(chunk).ljust(CHUNK, b"\0"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "esp"
    (root / "EFI" / "BOOT").mkdir(parents=True)
    (root / "EFI" / "BOOT" / "BOOTX64.EFI").write_bytes(b"MZ" * 5000)
    (root / "note.txt").write_bytes(b"on the host")
    return root


@pytest.fixture
def machine(folder: Path) -> Iterator[Machine]:
    warnings: list[str] = []
    assembly = assemble(RunOptions(memory=64 << 20), HostConsole(lambda _data: None), warnings.append)
    yield Machine(assembly, folder, warnings)
    assembly.close()


def test_files_and_blocks_are_the_same(machine: Machine) -> None:
    assert machine.files.root().open("EFI\\BOOT\\BOOTX64.EFI").read(0, 4) == b"MZMZ"
    memory = machine.assembly.firmware.memory
    for where in ("disk", "partition"):
        offset = 1 if where == "disk" else 0
        arguments = (MEDIA_ID, offset, BLOCK, machine.buffer)
        assert machine.call(where, guids.BLOCK_IO_PROTOCOL, "ReadBlocks", *arguments) == Status.SUCCESS
        assert memory.read(machine.buffer, BLOCK) == machine.disk.device.read(BLOCK if offset else 1 << 20, BLOCK)
    machine.files.root().open("new file", write=True, create=True).write(0, b"through the protocol")
    seen = FatVolume(Disk(machine.disk.device).esp())
    assert seen.open("\\new file").read(0, 100) == b"through the protocol"


@pytest.mark.parametrize("protocol", [guids.BLOCK_IO_PROTOCOL, guids.DISK_IO_PROTOCOL], ids=["block", "disk"])
@pytest.mark.parametrize("where", ["disk", "partition"])
def test_what_is_written_below_is_seen_above(machine: Machine, folder: Path, where: str, protocol: Any) -> None:
    root = machine.files.root()
    assert len(root.entries()) == 2
    with pytest.raises(NotFound):
        root.open("made below")
    free = machine.files.free_bytes

    def change(volume: FatVolume) -> None:
        volume.make("\\made below").write(0, b"b" * 20_000)
        volume.open("\\note.txt", write=True).delete()
        volume.open("\\EFI\\BOOT\\BOOTX64.EFI", write=True).set_info(size=3)

    machine.change_below(where, protocol, change)
    assert [info.name for info in root.entries()] == ["EFI", "made below"]
    assert root.open("made below").read(0, 30_000) == b"b" * 20_000
    assert root.open("EFI\\BOOT\\BOOTX64.EFI").read(0, 10) == b"MZM"
    assert machine.files.free_bytes == free - 2 * 4096  # five clusters taken, three given back
    # Both sides may write in turn: neither takes clusters that the other has.
    root.open("made above", write=True, create=True).write(0, b"a" * 10_000)
    assert root.open("made below").read(0, 30_000) == b"b" * 20_000
    assert (folder / "note.txt").read_bytes() == b"on the host"


def test_what_is_left_out_is_said(folder: Path) -> None:
    (folder / "a*b").write_bytes(b"")
    warnings: list[str] = []
    assembly = assemble(RunOptions(memory=64 << 20), HostConsole(lambda _data: None), warnings.append)
    Machine(assembly, folder, warnings)
    assembly.close()
    assert len(warnings) == 1
    assert "a*b is left out" in warnings[0]
