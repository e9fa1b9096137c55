"""The file of a snapshot: a header with facts, the state, the image, and the RAM as a hole with islands.

    0       "CVMSNAP\\n", format (u32), bytes of the facts (u32), SHA-256 of facts, state and sums
    48      facts: JSON, see `Facts`
    then, each at a multiple of 4 KiB: the state (`cvmboot.snapshots.graph`), the image's file, RAM byte for byte, and the
    sums of image and RAM (`cvmboot.snapshots.sums`), with which the file ends

RAM is as long as the machine's: pages that hold zeros are holes, which take no room on disk, and a restored machine maps the
rest where it lies. Numbers are little-endian.
"""

import hashlib
import json
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvmboot.snapshots.errors import SnapshotError
from cvmboot.snapshots.layout import Layout
from cvmboot.snapshots.sums import Damaged, Sums
from machine.memory import MAXIMUM, MINIMUM

if TYPE_CHECKING:
    from machine.memory import PhysicalMemory

MAGIC = b"CVMSNAP\n"
FORMAT = 2
_HEADER = struct.Struct("<8sII32s")
_PAGE = 4096
_MOST_FACTS = 1 << 20
_MOST_STATE = 1 << 30
_MOST_SUMS = 1 << 30
_SPAN = 1 << 20
_ZEROS = bytes(_SPAN)

Progress = Callable[[int, int], object]
"""Called with (bytes of RAM that were looked at, bytes of RAM)."""


class PlatformFacts:
    """The emulated platform of an SNP guest: where it was kept, and what tells it from others."""

    def __init__(self, plain: dict[str, Any]) -> None:
        self.folder, self.fingerprint = str(plain["folder"]), str(plain["fingerprint"])


class Facts:
    """What is known of a snapshot without making a machine of it; `plain` is what the file holds.

    `version` and `layout` say which program wrote it; `options` are RunOptions; `name` and `image_size` the image's; `bases` the
    files and folders under its disks; `cpus`, `engine`, `ram`; `created` in seconds since 1970; `platform` of an SNP guest.
    """

    def __init__(self, plain: dict[str, Any]) -> None:
        self.plain = plain
        self.version = str(plain["version"])
        self.layout = Layout(plain["layout"]["modules"], plain["layout"]["digest"])
        self.options: dict[str, Any] = dict(plain["options"])
        self.name = str(plain["name"])
        self.bases: list[dict[str, Any]] = list(plain["bases"])
        self.platform = None if plain["platform"] is None else PlatformFacts(plain["platform"])
        self.created = int(plain["created"])
        self.cpus, self.engine = int(plain["cpus"]), str(plain["engine"])
        self.unikernel = bool(plain["unikernel"])
        self.state_at, self.state_size = map(int, plain["state"])
        self.image_at, self.image_size = map(int, plain["image"])
        self.ram_at, self.ram = map(int, plain["ram"])
        self.sums_at, self.sums_size = map(int, plain["sums"])


def _aligned(offset: int) -> int:
    return -(-offset // _PAGE) * _PAGE


def write(
    descriptor: int,
    facts: dict[str, Any],
    state: bytes,
    image: bytes | memoryview,
    memory: "PhysicalMemory",
    progress: Progress | None = None,
) -> None:
    """Write a snapshot to an empty file. `facts` are those of Facts but for the places of the parts. OSError."""
    places = {"state": [0, len(state)], "image": [0, len(image)], "ram": [0, memory.size], "sums": [0, _MOST_SUMS]}
    room = len(json.dumps({**facts, **places})) + 64
    at = _HEADER.size + room
    for place in places.values():
        place[0] = _aligned(at)
        at = place[0] + place[1]
    image_at, ram_at, sums_at = (places[name][0] for name in ("image", "ram", "sums"))
    os.ftruncate(descriptor, sums_at)
    sums = Sums()
    _put(descriptor, image, image_at)
    sums.add(image_at, image)
    for offset, size in memory.extents():
        for at in range(offset, offset + size, _SPAN):
            _put_pages(descriptor, bytes(memory.view[at : min(at + _SPAN, offset + size)]), ram_at + at, sums)
            if progress is not None:
                progress(at, memory.size)
    packed = sums.packed()
    places["sums"][1] = len(packed)
    text = json.dumps({**facts, **places}).encode()
    _put(descriptor, packed, sums_at)
    _put(descriptor, state, places["state"][0])
    _put(descriptor, _HEADER.pack(MAGIC, FORMAT, len(text), _digest(text, state, packed)) + text, 0)


def _digest(*parts: bytes | memoryview) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()


def _put(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(descriptor, view, offset)
        view, offset = view[done:], offset + done


def _put_pages(descriptor: int, data: bytes, offset: int, sums: Sums) -> None:
    """Write those pages that are not all zeros, and add them to the sums."""
    for start, end in _runs(data):
        _put(descriptor, data[start:end], offset + start)
        sums.add(offset + start, data[start:end])


def _runs(data: bytes) -> Iterator[tuple[int, int]]:
    """(start, end) of the pages in a row that are not all zeros."""
    size = len(data)
    if data == _ZEROS[:size]:
        return
    page, start = _ZEROS[:_PAGE], -1
    for at in range(0, size, _PAGE):
        if data[at : at + _PAGE] == page:
            if start >= 0:
                yield start, at
                start = -1
        elif start < 0:
            start = at
    if start >= 0:
        yield start, size


class SnapshotFile:
    """A snapshot that is open: `facts`, and views of `state` and `image`. SnapshotError for what is none, or is damaged."""

    def __init__(self, descriptor: int, name: str, *, just_written: bool = False) -> None:
        """`descriptor` is closed by `close`, or if this fails. `name` is for messages.

        What this program has `just_written` is not read again.
        """
        self.descriptor = descriptor
        self.name = name
        self._trusted = just_written
        self._map: mmap.mmap | None = None
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        size = os.fstat(self.descriptor).st_size
        head = os.pread(self.descriptor, _HEADER.size, 0)
        if len(head) < _HEADER.size or head[: len(MAGIC)] != MAGIC:
            raise SnapshotError(f"{self.name}: no snapshot of cvmboot; `cvmboot snapshot IMAGE -o FILE` makes one")
        _, form, length, digest = _HEADER.unpack(head)
        if form != FORMAT:
            raise SnapshotError(
                f"{self.name}: a snapshot in format {form}, and this cvmboot reads {FORMAT}; make it anew"
            )
        if length > _MOST_FACTS:
            raise self._damaged("its header is too long")
        text = os.pread(self.descriptor, length, _HEADER.size)
        try:
            self.facts = facts = Facts(json.loads(text))
        except (ValueError, KeyError, TypeError, RecursionError):
            raise self._damaged("its header makes no sense") from None
        self._check_places(facts, length, size)
        self._map = mmap.mmap(self.descriptor, facts.ram_at, mmap.MAP_SHARED, mmap.PROT_READ)
        view = memoryview(self._map)
        self.state = view[facts.state_at : facts.state_at + facts.state_size]
        self.image = view[facts.image_at : facts.image_at + facts.image_size]
        packed = os.pread(self.descriptor, facts.sums_size, facts.sums_at)
        if _digest(text, self.state, packed) != digest:
            raise self._damaged("its state is not what was written")
        if not self._trusted:
            self._check_sums(facts, packed, _HEADER.size + length)

    def _check_sums(self, facts: Facts, packed: bytes, end_of_facts: int) -> None:
        """Read all of the file that is no hole: a guest must not be the one who finds out."""
        try:
            sums = Sums.unpacked(packed, facts.image_at, facts.sums_at)
            state_end = facts.state_at + facts.state_size
            Sums().check(self.descriptor, end_of_facts, facts.state_at)
            sums.check(self.descriptor, state_end, facts.sums_at)
        except Damaged as damage:
            raise self._damaged(str(damage)) from None

    def _check_places(self, facts: Facts, length: int, size: int) -> None:
        parts = (
            (facts.state_at, facts.state_size),
            (facts.image_at, facts.image_size),
            (facts.ram_at, facts.ram),
            (facts.sums_at, facts.sums_size),
        )
        end = _HEADER.size + length
        for at, extent in parts:
            if at % _PAGE or at < end or extent < 0:
                raise self._damaged("its parts lie in impossible places")
            end = at + extent
        if facts.state_size > _MOST_STATE or facts.sums_size > _MOST_SUMS or not MINIMUM <= facts.ram <= MAXIMUM:
            raise self._damaged("its parts have impossible sizes")
        if size != end:
            raise self._damaged(f"it has {size} bytes and should have {end}")

    def _damaged(self, why: str) -> SnapshotError:
        return SnapshotError(f"{self.name}: damaged: {why}; make it anew")

    def ram_in_use(self) -> int:
        """Bytes of RAM that are in the file."""
        from machine.private_pages import data_in_file

        return sum(size for _, size in data_in_file(self.descriptor, self.facts.ram_at, self.facts.ram))

    def close(self) -> None:
        """Close the file. Machines that were made from it keep what they have mapped."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def open_file(path: Path) -> SnapshotFile:
    """The snapshot at `path`. SnapshotError."""
    try:
        # O_NONBLOCK: opening a FIFO must not wait for its other end; it has no header then.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise SnapshotError(f"{path}: {error.strerror or error}; name a file that `cvmboot snapshot` wrote") from None
    try:
        return SnapshotFile(descriptor, str(path))
    except OSError as error:
        raise SnapshotError(f"{path}: {error.strerror or error}; name a file that `cvmboot snapshot` wrote") from None
