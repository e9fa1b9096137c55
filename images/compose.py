"""Makes the disk that boots a program, without writing it anywhere: a block device of files and computed pieces."""

import hashlib
import os
from collections.abc import Iterable
from struct import pack

from images.block import BlockDevice
from images.content import Bytes, read_program
from images.errors import UnfitInput, VolumeFull
from images.fat.entry import DIRECTORY_LIMIT
from images.fat_disk import FatDisk, Identity, clusters_needed, directories_of
from images.fat_tree import TreeEntry
from images.file_list import FileList, loader_entry
from images.sparse import Progress, device_sha256
from loader import pe
from loader.authenticode_sign import Signer, sign
from loader.errors import LoaderError

BOOT_PATH = "\\EFI\\BOOT\\BOOTX64.EFI"
"""What firmware boots from a medium without boot options (UEFI 2.10, 3.5.1.1); GCE's looks nowhere else."""
DEFAULT_LABEL = "ESP"
DEFAULT_ESP = 64 << 20
LEAST_ESP = 34 << 20
"""FAT32 has at least 65,525 clusters: 33 MiB with clusters of 512 bytes, and the tables."""
MOST_SIZE = 64 << 40
_MIB, _GIB = 1 << 20, 1 << 30
_AROUND = 2 * _MIB  # of a disk before and after its partition, for the tables
_NS = 10**9


class Kernel:
    """A Linux kernel for a boot loader on the image: files of the host, and what the loader entry says."""

    def __init__(
        self,
        linux: str | os.PathLike[str],
        initrds: Iterable[str | os.PathLike[str]] = (),
        *,
        options: str = "",
        title: str = "Linux",
        entry: str = "arch",
    ) -> None:
        """`entry`: the loader entry's name; go-boot looks for arch.conf first."""
        self.linux = os.fspath(linux)
        self.initrds = [os.fspath(one) for one in initrds]
        self.options = options
        self.title = title
        self.entry = entry


class Composition:
    """A disk ready to be written or uploaded.

    `device` is a read-only BlockDevice that reads its files from the host when their blocks are asked for;
    images.sparse.nonzero_blocks(device, 512 * 1024) gives the blocks that are worth sending. `boot` is "uefi" or "bios".
    `files` are (path, size, SHA-256) of what lies on the EFI system partition; `identity` is the SHA-256 of all that
    went in, from which the disk's GUIDs come; `application` is the SHA-256 of the program as it was given.
    """

    application = ""

    def __init__(
        self, device: BlockDevice, boot: str, identity: bytes, files: FileList, modified: int, esp_size: int = 0
    ) -> None:
        self.device = device
        self.boot = boot
        self.identity = identity
        self.esp_size = esp_size
        self.modified = modified
        self.files = [(path, content.size, content.sha256.hex()) for path, content in files if content is not None]
        self._list = files
        self._sha256: str | None = None

    @property
    def size(self) -> int:
        """Bytes of the disk."""
        return self.device.size

    def sha256(self, progress: Progress | None = None) -> str:
        """Of the whole disk, in hexadecimal; computed when first asked for: zeros count, half a second a GiB.

        Raises ImageError if a file of the host cannot be read any more, or has changed.
        """
        if self._sha256 is None:
            digest = device_sha256(self.device, progress)
            self.check()
            self._sha256 = digest
        return self._sha256

    def check(self) -> None:
        """Raises ImageError if a file of the host has changed since the disk was composed: call it after reading."""
        self._list.check()


def compose(
    application: str | os.PathLike[str] | bytes,
    *,
    size: int | None = None,
    esp_size: int | None = None,
    add: Iterable[tuple[str | os.PathLike[str], str]] = (),
    kernel: Kernel | None = None,
    label: str = DEFAULT_LABEL,
    epoch: int | None = None,
    signer: Signer | None = None,
    command_line: str = "",
    progress: Progress | None = None,
) -> Composition:
    """The disk that boots `application`.

    Of an EFI application: GPT, FAT32 EFI system partition, the application as EFI/BOOT/BOOTX64.EFI. Of an ELF unikernel:
    a BIOS boot record and stage of ours and the program's segments; only `size` and `command_line` (at most 255 bytes)
    mean something then.

    `application`: its file or its bytes. `add`: (file or folder, where on the partition); `kernel`: with
    its loader entry. `size`, `esp_size` in bytes, multiples of 1 MiB; by default the partition fits what is in it, at
    least 64 MiB, and the disk is the next whole GiB. `epoch`: seconds since 1970 that all files are dated;
    by default SOURCE_DATE_EPOCH, else 1980, where FAT's time begins. `signer` signs the application for Secure Boot.
    `progress(done, total)` is called for each file that is read for its digest.
    Nothing of the host but names and bytes gets into it: the same input gives the same disk anywhere.

    Raises UnfitInput (the message says what to do) if the application is no EFI image for x86-64, a name is bad or
    taken, or sizes do not fit; InvalidName for the label.
    """
    if isinstance(application, bytes):
        name, data = "the application", application
    else:
        name, data = os.fspath(application), read_program(application)
    given = hashlib.sha256(data).hexdigest()
    if data[:4] == b"\x7fELF":
        if list(add) or kernel is not None or esp_size is not None or signer is not None:
            raise UnfitInput(f"{name}: an ELF unikernel's disk has no file system to add files to, and nothing to sign")
        composition = _bios_disk(name, data, size, command_line)
        composition.application = given
        return composition
    if command_line:
        raise UnfitInput(
            f"{name}: an EFI application on a disk gets no command line; only kernels and ELF unikernels do"
        )
    try:
        pe.parse(data)
        if signer is not None:
            data = sign(data, signer)
    except LoaderError as error:
        raise UnfitInput(f"{name}: {error}") from None
    files = FileList(progress)
    files.put(BOOT_PATH, Bytes(data))
    for source, destination in add:
        files.add(source, destination)
    if kernel is not None:
        loader_entry(files, kernel.linux, kernel.initrds, title=kernel.title, options=kernel.options, name=kernel.entry)
    seconds = source_date_epoch() if epoch is None else epoch
    composition = _efi_disk(files, size, esp_size, label, seconds * _NS)
    composition.application = given
    return composition


def _bios_disk(name: str, data: bytes, size: int | None, command_line: str) -> Composition:
    from images.bios.disk import FIRST_SECTOR, SECTOR, BiosDisk, stage_bytes

    if size is None:
        size = -(-(len(data) + FIRST_SECTOR * SECTOR + _MIB) // _GIB) * _GIB
    if not 2 * _MIB <= size <= MOST_SIZE or size % _MIB:
        raise UnfitInput(f"--size {_text(size)}: wanted whole MiB, 2M to {MOST_SIZE >> 40}T")
    state = hashlib.sha256(b"cvmboot bios disk 1\0" + pack("<Q", size) + command_line.encode() + b"\0")
    state.update(hashlib.sha256(stage_bytes()).digest() + hashlib.sha256(data).digest())
    try:
        device = BiosDisk(data, size, state.digest(), command_line)
    except (LoaderError, UnfitInput) as error:
        raise UnfitInput(f"{name}: {error}") from None
    return Composition(device, "bios", state.digest(), FileList(), 0)


def _efi_disk(files: FileList, size: int | None, esp_size: int | None, label: str, modified: int) -> Composition:
    tree = files.tree(modified)
    for directory in directories_of(tree):
        if directory.size > DIRECTORY_LIMIT:
            raise UnfitInput(
                f"directory {directory.entry.name or 'root'!r}: its names take {directory.size} bytes, a FAT directory has "
                f"at most {DIRECTORY_LIMIT}; spread the files over several"
            )
    wanted = _wanted_esp(tree)
    size, volume_size = _sizes(wanted, size, esp_size)
    identity = _identity(files, size, volume_size, label, modified)
    try:
        device = FatDisk(
            tree,
            Identity(_guid(identity, b"disk"), _guid(identity, b"partition"), int.from_bytes(identity[:4], "little")),
            size=size,
            volume_size=volume_size,
            label=label,
            now=modified,
        )
    except VolumeFull as error:
        advice = f"--esp-size {_text(wanted)}"
        if size < wanted + _AROUND:
            advice += f" and --size {_text(-(-(wanted + _AROUND) // _GIB) * _GIB)}"
        raise UnfitInput(f"too large for the EFI system partition: {error}; give {advice} or more") from None
    return Composition(device, "uefi", identity, files, modified, volume_size)


def _wanted_esp(tree: TreeEntry) -> int:
    """Whole MiB that surely hold the files, with a tenth of them to spare."""
    content = clusters_needed(tree, 4096) * 4096
    if content > 7 * _GIB:
        content = clusters_needed(tree, 32768) * 32768
    return max(LEAST_ESP, -(-(content * 11 // 10 + 4 * _MIB) // _MIB) * _MIB)


def _sizes(wanted: int, size: int | None, esp_size: int | None) -> tuple[int, int]:
    """(disk, partition) in bytes from what was asked for, None for what was not. Raises UnfitInput."""
    volume_size = esp_size if esp_size is not None else max(DEFAULT_ESP, wanted)
    if size is None:
        size = -(-(volume_size + _AROUND) // _GIB) * _GIB
    elif esp_size is None:
        volume_size = max(min(volume_size, size - _AROUND), 0)
    for option, value in (("--esp-size", volume_size), ("--size", size)):
        if value % _MIB:
            raise UnfitInput(f"{option} {value}: wanted whole MiB, such as {max(1, value // _MIB)}M")
    if volume_size < LEAST_ESP:
        given = f"--size {_text(size)}" if esp_size is None else f"--esp-size {_text(esp_size)}"
        least = _text(LEAST_ESP + _AROUND if esp_size is None else LEAST_ESP)
        raise UnfitInput(f"{given}: too small for FAT32; wanted {least} or more")
    if size > MOST_SIZE:
        raise UnfitInput(f"--size {size}: more than {MOST_SIZE >> 40} TiB; no cloud takes such a disk")
    if volume_size + _AROUND > size:
        raise UnfitInput(
            f"--esp-size {_text(volume_size)} does not fit on a disk of {_text(size)}; "
            f"give --size {_text(volume_size + _AROUND)} or more"
        )
    return size, volume_size


def _identity(files: FileList, size: int, volume_size: int, label: str, modified: int) -> bytes:
    state = hashlib.sha256(b"cvmboot disk 1\0" + pack("<QQq", size, volume_size, modified) + label.encode() + b"\0")
    for path, content in files:
        state.update(path.encode("utf-8", "surrogatepass") + b"\0")
        if content is not None:
            state.update(pack("<Q", content.size) + content.sha256)
    return state.digest()


def _guid(identity: bytes, purpose: bytes) -> bytes:
    """16 bytes of a GUID of version 8, made by a rule of one's own (RFC 9562, section 5.8)."""
    raw = bytearray(hashlib.sha256(purpose + b"\0" + identity).digest()[:16])
    raw[7] = raw[7] & 0x0F | 0x80
    raw[8] = raw[8] & 0x3F | 0x80
    return bytes(raw)


def source_date_epoch() -> int:
    """Seconds since 1970 from the environment (reproducible-builds.org's SOURCE_DATE_EPOCH), 0 without it.

    Raises UnfitInput if it is no number.
    """
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return 0
    if not text.isdecimal() or not text.isascii() or len(text) > 12:
        raise UnfitInput(f"SOURCE_DATE_EPOCH={text[:40]}: wanted seconds since 1970, or nothing")
    return int(text)


def _text(size: int) -> str:
    """A size as the options take it."""
    for unit, name in ((_GIB, "G"), (_MIB, "M")):
        if size % unit == 0:
            return f"{size // unit}{name}"
    return str(size)
