"""EFI_DEVICE_PATH_UTILITIES_PROTOCOL: sizes, copies and joins device paths in pool memory."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from machine.cpu import Cpu
from machine.errors import BadAddress
from uefi import guids
from uefi.device_path import path
from uefi.device_path.nodes import DevicePathError
from uefi.interface import Interface, function
from uefi.status import EfiError

Handler = TypeVar("Handler", bound=Callable[..., int])


def null_on_error(handler: Handler) -> Handler:
    """For services that return a pointer or a size: bad paths, wild pointers and a full pool give 0, not a status."""

    @wraps(handler)
    def guarded(*arguments: Any) -> int:
        try:
            return handler(*arguments)
        except (DevicePathError, BadAddress, EfiError):
            return 0

    return cast(Handler, guarded)


class DevicePathUtilities(Interface):
    """EFI_DEVICE_PATH_UTILITIES_PROTOCOL (UEFI 2.10, 10.5). Its functions take no This."""

    NAME = "EFI_DEVICE_PATH_UTILITIES_PROTOCOL"
    GUID = guids.DEVICE_PATH_UTILITIES_PROTOCOL
    SIZE = 0x40

    def _path(self, address: int) -> bytes | None:
        return path.read(self.firmware.memory, address) if address else None

    def _give(self, data: bytes) -> int:
        """The data in new pool memory of EfiBootServicesData, for the caller to free."""
        address: int = self.firmware.pool(len(data))
        self.firmware.memory.write(address, data)
        return address

    @function(0x00, "static GetDevicePathSize(ptr DevicePath)")
    @null_on_error
    def get_device_path_size(self, cpu: Cpu, device_path: int) -> int:
        """Bytes of the path with its end node; 0 for NULL (10.5.2)."""
        return len(self._path(device_path) or b"")

    @function(0x08, "static DuplicateDevicePath(ptr DevicePath)")
    @null_on_error
    def duplicate_device_path(self, cpu: Cpu, device_path: int) -> int:
        """A copy; NULL for NULL (10.5.3)."""
        data = self._path(device_path)
        return self._give(data) if data else 0

    @function(0x10, "static AppendDevicePath(ptr Src1, ptr Src2)")
    @null_on_error
    def append_device_path(self, cpu: Cpu, first: int, second: int) -> int:
        """A new path of both; NULL counts as empty (10.5.4)."""
        return self._give(path.append(self._path(first), self._path(second)))

    @function(0x18, "static AppendDeviceNode(ptr DevicePath, ptr DeviceNode)")
    @null_on_error
    def append_device_node(self, cpu: Cpu, device_path: int, device_node: int) -> int:
        """A new path with the node at its end; NULL counts as empty (10.5.5)."""
        node = path.read_node(self.firmware.memory, device_node) if device_node else None
        return self._give(path.append_node(self._path(device_path), node))

    @function(0x20, "static AppendDevicePathInstance(ptr DevicePath, ptr DevicePathInstance)")
    @null_on_error
    def append_device_path_instance(self, cpu: Cpu, device_path: int, instance: int) -> int:
        """A new path with one more instance; NULL when the instance is NULL (10.5.6)."""
        data = self._path(instance)
        return self._give(path.append_instance(self._path(device_path), data)) if data else 0

    @function(0x28, "static GetNextDevicePathInstance(ptr DevicePathInstance, ptr DevicePathInstanceSize)")
    @null_on_error
    def get_next_device_path_instance(self, cpu: Cpu, instance: int, instance_size: int) -> int:
        """A copy of the instance at *instance, which moves on to the next or NULL (10.5.7)."""
        memory = self.firmware.memory
        start = memory.read_u64(instance) if instance else 0
        data = self._path(start)
        if data is None:
            if instance_size:
                memory.write_u64(instance_size, 0)
            return 0
        first, after = path.next_instance(data)
        copy = self._give(first)
        memory.write_u64(instance, 0 if after is None else start + after)
        if instance_size:
            memory.write_u64(instance_size, len(first))
        return copy

    @function(0x30, "static IsDevicePathMultiInstance(ptr DevicePath)")
    @null_on_error
    def is_device_path_multi_instance(self, cpu: Cpu, device_path: int) -> int:
        """TRUE when the path has several instances (10.5.9)."""
        data = self._path(device_path)
        return int(data is not None and path.is_multi_instance(data))

    @function(0x38, "static CreateDeviceNode(u8 NodeType, u8 NodeSubType, u16 NodeLength)")
    @null_on_error
    def create_device_node(self, cpu: Cpu, node_type: int, subtype: int, length: int) -> int:
        """A zeroed node with its header filled; NULL for a length below 4 (10.5.8)."""
        return self._give(path.create_node(node_type, subtype, length).to_bytes())
