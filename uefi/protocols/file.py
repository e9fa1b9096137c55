"""EFI_FILE_PROTOCOL: an open file or directory."""

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from images import errors, tree
from images.tree import FileInfo, FileSystem
from machine.cpu import Cpu
from uefi import guids
from uefi.guids import Guid
from uefi.interface import Interface, function
from uefi.protocols.simple_file_system import status_of
from uefi.status import EfiError, Status
from uefi.time import SIZE as TIME_SIZE
from uefi.time import BadTimeError, EfiTime

if TYPE_CHECKING:
    from uefi.firmware import Firmware

MODE_READ, MODE_WRITE, MODE_CREATE = 1, 2, 1 << 63
_MODES = frozenset((MODE_READ, MODE_READ | MODE_WRITE, MODE_READ | MODE_WRITE | MODE_CREATE))
END_OF_FILE_POSITION = 0xFFFF_FFFF_FFFF_FFFF
_MAXIMUM_NAME = 4096
_MAXIMUM_TRANSFER = 1 << 30
_SECOND = 1_000_000_000
_INFO = struct.Struct("<QQQ16s16s16sQ")  # EFI_FILE_INFO without its name
_VOLUME = struct.Struct("<QB7xQQI")  # EFI_FILE_SYSTEM_INFO without its label


def _time(ns: int | None) -> bytes:
    # Whole seconds, as FAT keeps them: go-boot takes EFI_TIME's nanoseconds for its time zone.
    try:
        return EfiTime.from_ns(ns // _SECOND * _SECOND).pack() if ns is not None else bytes(TIME_SIZE)
    except BadTimeError:
        return bytes(TIME_SIZE)


def _ns(raw: bytes) -> int | None:
    """Nanoseconds of an EFI_TIME; None for the zero that means "leave it". EfiError for a bad one."""
    if not any(raw):
        return None
    try:
        return EfiTime.unpack(raw).to_ns()
    except BadTimeError:
        raise EfiError(Status.INVALID_PARAMETER) from None


def file_info(info: FileInfo) -> bytes:
    """EFI_FILE_INFO (UEFI 2.10, 13.5): 80 bytes and the name with its NUL."""
    name = info.name.encode("utf-16-le", "surrogatepass") + b"\0\0"
    size = _INFO.size + len(name)
    times = (_time(info.created), _time(info.accessed), _time(info.modified))
    return _INFO.pack(size, info.size, info.physical_size, *times, info.attributes) + name


class File(Interface):
    """EFI_FILE_PROTOCOL, revision 2 (UEFI 2.10, 13.5)."""

    NAME = "EFI_FILE_PROTOCOL"
    SIZE = 0x78
    REVISION = 0x0002_0000

    def __init__(self, firmware: "Firmware", volume: FileSystem, file: tree.File) -> None:
        super().__init__(firmware)
        self._volume = volume
        self._file = file
        self._position = 0
        self._entries: list[FileInfo] | None = None

    def fill(self) -> None:
        """Revision."""
        self.put_u64(0, self.REVISION)

    @function(0x08, "Open(ptr NewHandle, ptr FileName, u64 OpenMode, u64 Attributes)")
    def open(self, cpu: Cpu, result: int, name_at: int, mode: int, attributes: int) -> int:
        """Open another file, from here or from the root."""
        if not result or not name_at or mode not in _MODES:
            raise EfiError(Status.INVALID_PARAMETER)
        memory = self.firmware.memory
        memory.check(result, 8)
        name = memory.read_ucs2(name_at, _MAXIMUM_NAME)
        create = bool(mode & MODE_CREATE)
        if create and attributes & (tree.READ_ONLY | ~tree.VALID_ATTRIBUTES):
            raise EfiError(Status.INVALID_PARAMETER)
        try:
            # An empty name opens the same file anew, as edk2's FAT driver has it; so do "." and a root's "\".
            opened = self._file.open(name or ".", bool(mode & MODE_WRITE), create, attributes)
        except errors.ImageError as error:
            raise EfiError(status_of(error)) from None
        memory.write_u64(result, File(self.firmware, self._volume, opened).place())
        return Status.SUCCESS

    @function(0x10, "Close()")
    def close(self, cpu: Cpu) -> int:
        """Close; the handle is gone."""
        self.remove()
        return Status.SUCCESS

    @function(0x18, "Delete()")
    def delete(self, cpu: Cpu) -> int:
        """Delete and close, or only close with a warning."""
        try:
            self._file.delete()
            status = Status.SUCCESS
        except errors.ImageError:
            status = Status.WARN_DELETE_FAILURE
        self.remove()
        return status

    @function(0x20, "Read(ptr BufferSize, ptr Buffer)")
    def read(self, cpu: Cpu, size_at: int, buffer: int) -> int:
        """Bytes of a file, or the next entry of a directory."""
        if not size_at:
            raise EfiError(Status.INVALID_PARAMETER)
        memory = self.firmware.memory
        size = memory.read_u64(size_at)
        try:
            if self._file.is_dir:
                return self._read_entry(size_at, size, buffer)
            if size and not buffer:
                raise EfiError(Status.INVALID_PARAMETER)
            memory.check(buffer, min(size, _MAXIMUM_TRANSFER))
            data = self._file.read(self._position, min(size, _MAXIMUM_TRANSFER))
        except errors.ImageError as error:
            raise EfiError(status_of(error)) from None
        memory.write(buffer, data)
        memory.write_u64(size_at, len(data))
        self._position += len(data)
        return Status.SUCCESS

    def _read_entry(self, size_at: int, size: int, buffer: int) -> int:
        memory = self.firmware.memory
        if self._entries is None:
            self._entries = self._file.entries()
        if self._position >= len(self._entries):
            memory.write_u64(size_at, 0)
            return Status.SUCCESS
        data = file_info(self._entries[self._position])
        memory.write_u64(size_at, len(data))
        if size < len(data):
            return Status.BUFFER_TOO_SMALL
        if not buffer:
            raise EfiError(Status.INVALID_PARAMETER)
        memory.write(buffer, data)
        self._position += 1
        return Status.SUCCESS

    @function(0x28, "Write(ptr BufferSize, ptr Buffer)")
    def write(self, cpu: Cpu, size_at: int, buffer: int) -> int:
        """Store bytes at the position."""
        if not size_at:
            raise EfiError(Status.INVALID_PARAMETER)
        memory = self.firmware.memory
        size = memory.read_u64(size_at)
        if size and not buffer:
            raise EfiError(Status.INVALID_PARAMETER)
        data = memory.read(buffer, size) if size else b""
        try:
            if self._position == END_OF_FILE_POSITION:
                self._position = self._file.info().size
            self._file.write(self._position, data)
        except errors.ImageError as error:
            memory.write_u64(size_at, 0)
            raise EfiError(status_of(error)) from None
        self._position += len(data)
        return Status.SUCCESS

    @function(0x30, "GetPosition(ptr Position)")
    def get_position(self, cpu: Cpu, result: int) -> int:
        """The position in a file."""
        if not result:
            raise EfiError(Status.INVALID_PARAMETER)
        if self._file.is_dir:
            raise EfiError(Status.UNSUPPORTED)
        self.firmware.memory.write_u64(result, self._position)
        return Status.SUCCESS

    @function(0x38, "SetPosition(u64 Position)")
    def set_position(self, cpu: Cpu, position: int) -> int:
        """Move in a file; all ones is its end. A directory can only start anew."""
        try:
            if self._file.is_dir:
                if position:
                    raise EfiError(Status.UNSUPPORTED)
                self._entries = None
                self._position = 0
            else:
                self._position = self._file.info().size if position == END_OF_FILE_POSITION else position
        except errors.ImageError as error:
            raise EfiError(status_of(error)) from None
        return Status.SUCCESS

    @function(0x40, "GetInfo(guid InformationType, ptr BufferSize, ptr Buffer)")
    def get_info(self, cpu: Cpu, kind: Guid | None, size_at: int, buffer: int) -> int:
        """EFI_FILE_INFO, EFI_FILE_SYSTEM_INFO or the volume's label."""
        if kind is None or not size_at:
            raise EfiError(Status.INVALID_PARAMETER)
        memory = self.firmware.memory
        volume = self._volume
        try:
            if kind == guids.FILE_INFO:
                data = file_info(self._file.info())
            else:
                label = volume.label.encode("utf-16-le", "surrogatepass") + b"\0\0"
                if kind == guids.FILE_SYSTEM_INFO:
                    size = _VOLUME.size + len(label)
                    facts = (size, volume.read_only, volume.total_bytes, volume.free_bytes, volume.block_size)
                    data = _VOLUME.pack(*facts) + label
                elif kind == guids.FILE_SYSTEM_VOLUME_LABEL:
                    data = label
                else:
                    raise EfiError(Status.UNSUPPORTED)
        except errors.ImageError as error:
            raise EfiError(status_of(error)) from None
        room = memory.read_u64(size_at)
        memory.write_u64(size_at, len(data))
        if room < len(data):
            return Status.BUFFER_TOO_SMALL
        if not buffer:
            raise EfiError(Status.INVALID_PARAMETER)
        memory.write(buffer, data)
        return Status.SUCCESS

    @function(0x48, "SetInfo(guid InformationType, u64 BufferSize, ptr Buffer)")
    def set_info(self, cpu: Cpu, kind: Guid | None, size: int, buffer: int) -> int:
        """Change name, size, attributes, times; or the volume's label."""
        if kind is None or not buffer:
            raise EfiError(Status.INVALID_PARAMETER)
        memory = self.firmware.memory
        try:
            if kind == guids.FILE_INFO:
                self._set_file_info(size, buffer)
            elif kind == guids.FILE_SYSTEM_INFO:
                if size < _VOLUME.size + 2:
                    raise EfiError(Status.BAD_BUFFER_SIZE)
                self._volume.set_label(memory.read_ucs2(buffer + _VOLUME.size, (size - _VOLUME.size) // 2))
            elif kind == guids.FILE_SYSTEM_VOLUME_LABEL:
                if size < 2:
                    raise EfiError(Status.BAD_BUFFER_SIZE)
                self._volume.set_label(memory.read_ucs2(buffer, min(size // 2, _MAXIMUM_NAME)))
            else:
                raise EfiError(Status.UNSUPPORTED)
        except errors.ImageError as error:
            raise EfiError(status_of(error)) from None
        return Status.SUCCESS

    def _set_file_info(self, size: int, buffer: int) -> None:
        memory = self.firmware.memory
        if size < _INFO.size + 2:
            raise EfiError(Status.BAD_BUFFER_SIZE)
        raw = memory.read(buffer, _INFO.size)
        _, new_size, _, created, accessed, modified, attributes = _INFO.unpack(raw)
        name = memory.read_ucs2(buffer + _INFO.size, min((size - _INFO.size) // 2, _MAXIMUM_NAME))
        self._file.set_info(
            name=name,
            size=new_size,
            attributes=attributes,
            created=_ns(created),
            accessed=_ns(accessed),
            modified=_ns(modified),
        )

    @function(0x50, "Flush()")
    def flush(self, cpu: Cpu) -> int:
        """Make changes lasting."""
        try:
            self._file.flush()
        except errors.ImageError as error:
            raise EfiError(status_of(error)) from None
        return Status.SUCCESS

    # -- revision 2: the same with a token; the work is done at once and the token's event signaled

    def _complete(self, token: int, work: Callable[[], int]) -> int:
        if not token:
            raise EfiError(Status.INVALID_PARAMETER)
        memory = self.firmware.memory
        event = memory.read_u64(token)
        status = work()
        if status or not event:
            return status  # what has not begun is not signaled either
        memory.write_u64(token + 8, status)
        self.firmware.events.signal(event)
        return Status.SUCCESS

    @function(0x58, "OpenEx(ptr NewHandle, ptr FileName, u64 OpenMode, u64 Attributes, ptr Token)")
    def open_ex(self, cpu: Cpu, result: int, name_at: int, mode: int, attributes: int, token: int) -> int:
        """Open with a token."""
        return self._complete(token, lambda: self.open(cpu, result, name_at, mode, attributes))

    @function(0x60, "ReadEx(ptr Token)")
    def read_ex(self, cpu: Cpu, token: int) -> int:
        """Read with a token."""
        return self._complete(token, lambda: self.read(cpu, token + 16, self.firmware.memory.read_u64(token + 24)))

    @function(0x68, "WriteEx(ptr Token)")
    def write_ex(self, cpu: Cpu, token: int) -> int:
        """Write with a token."""
        return self._complete(token, lambda: self.write(cpu, token + 16, self.firmware.memory.read_u64(token + 24)))

    @function(0x70, "FlushEx(ptr Token)")
    def flush_ex(self, cpu: Cpu, token: int) -> int:
        """Flush with a token."""
        return self._complete(token, lambda: self.flush(cpu))
