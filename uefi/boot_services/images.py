"""Image services (UEFI 2.10, 7.4): LoadImage, StartImage, Exit, UnloadImage."""

from typing import Any

from machine import registers as reg
from machine.cpu import Cpu
from uefi import guids
from uefi.boot_services.drivers import disconnect
from uefi.boot_services.table import BootServicesPart, need
from uefi.calls import Record
from uefi.device_path import path as device_path
from uefi.device_path.nodes import DevicePathError
from uefi.dispatcher import PENDING
from uefi.images import Image
from uefi.interface import GuestCall, Interface, Steps, function
from uefi.status import EfiError, Status

MAXIMUM_IMAGE = 1 << 30


class ImageServices(BootServicesPart):
    """Loading, starting and ending images."""

    @function(
        0xC8,
        "LoadImage(bool BootPolicy, ptr ParentImageHandle, ptr DevicePath, ptr SourceBuffer, u64 SourceSize, ptr ImageHandle)",
    )
    def load_image(
        self, cpu: Cpu, boot_policy: int, parent: int, path_at: int, source: int, size: int, result: int
    ) -> Steps:
        """Load an image from memory, or from the file, load file or firmware that its device path names."""
        firmware = self.firmware
        need(result, parent)
        if not source and not path_at:
            raise EfiError(Status.NOT_FOUND)
        if firmware.images.get(parent) is None:
            raise EfiError(Status.INVALID_PARAMETER)
        path: bytes | None = None
        if path_at:
            try:
                path = device_path.read(firmware.memory, path_at)
            except DevicePathError:
                raise EfiError(Status.INVALID_PARAMETER) from None
        if source:
            if not size:
                raise EfiError(Status.LOAD_ERROR)
            if size > MAXIMUM_IMAGE:
                raise EfiError(Status.OUT_OF_RESOURCES)
            data = firmware.memory.read(source, size)
        else:
            data = yield from self._load_from_path(path_at, bool(boot_policy))  # type: ignore[assignment]
        device = self._device_of(path_at)
        status, image = firmware.images.load(data, parent, path, device)
        if image is not None:
            firmware.memory.write_u64(result, image.handle)
        return status

    def _device_of(self, path_at: int) -> tuple[int, int]:
        """The handle of the device that a path begins with and the bytes of the path that it takes; (0, 0) if there is none."""
        if not path_at:
            return 0, 0
        for guid in (guids.SIMPLE_FILE_SYSTEM_PROTOCOL, guids.LOAD_FILE_PROTOCOL, guids.DEVICE_PATH_PROTOCOL):
            try:
                return self.locate_path(guid, path_at)  # type: ignore[attr-defined, no-any-return]
            except EfiError:
                continue
        return 0, 0

    def _load_from_path(self, path_at: int, boot_policy: bool) -> Steps:
        """The file behind a device path: SimpleFileSystem, then LoadFile2 (not for boot selections), then LoadFile."""
        firmware = self.firmware
        try:
            handle, used = self.locate_path(guids.SIMPLE_FILE_SYSTEM_PROTOCOL, path_at)  # type: ignore[attr-defined]
        except EfiError:
            handle = 0
        if handle:
            interface = firmware.handles.interface(handle, guids.SIMPLE_FILE_SYSTEM_PROTOCOL) or 0
            host = firmware.object_at(interface)
            name = self._file_name(path_at + used)
            if name:
                if host is not None:
                    return self._read_host_file(host, name)
                return (yield from self._read_guest_file(interface, name))
        for guid in (guids.LOAD_FILE2_PROTOCOL, guids.LOAD_FILE_PROTOCOL):
            if boot_policy and guid == guids.LOAD_FILE2_PROTOCOL:
                continue
            try:
                handle, used = self.locate_path(guid, path_at)  # type: ignore[attr-defined]
            except EfiError:
                continue
            interface = firmware.handles.interface(handle, guid) or 0
            return (yield from self._load_file(interface, path_at + used, boot_policy))
        raise EfiError(Status.NOT_FOUND)

    def _file_name(self, address: int) -> str:
        """The file that the FilePath nodes at `address` name; "" if other nodes stand there."""
        from uefi.device_path.nodes import MEDIA, from_ucs2

        parts = []
        for node in device_path.parse(device_path.read(self.firmware.memory, address)):
            if node.is_end:
                break
            if (node.type, node.subtype) != (MEDIA, 4):
                return ""
            parts.append(from_ucs2(node.data).strip("\0"))
        return "\\".join(parts).replace("\\\\", "\\")

    def _read_host_file(self, host: Interface, name: str) -> int:
        data: int = host.load(name)  # type: ignore[attr-defined]
        return data

    def _read_guest_file(self, interface: int, name: str) -> Steps:
        """Read a file through a file system that the guest itself provides (UEFI 2.10, 13.4, 13.5)."""
        firmware = self.firmware
        memory = firmware.memory
        scratch = firmware.pool(4096)
        try:
            status = yield GuestCall(memory.read_u64(interface + 8), interface, scratch)
            if status:
                raise EfiError(status)
            root = memory.read_u64(scratch)
            memory.write_ucs2(scratch + 16, name[:1900])
            status = yield GuestCall(memory.read_u64(root + 8), root, scratch, scratch + 16, 1, 0)
            if status:
                yield GuestCall(memory.read_u64(root + 16), root)
                raise EfiError(status)
            file = memory.read_u64(scratch)
            chunks: list[bytes] = []
            buffer = firmware.pool(1 << 20)
            total = 0
            while total <= MAXIMUM_IMAGE:
                memory.write_u64(scratch, 1 << 20)
                status = yield GuestCall(memory.read_u64(file + 32), file, scratch, buffer)
                count = min(memory.read_u64(scratch), 1 << 20)
                if status or not count:
                    break
                chunks.append(memory.read(buffer, count))
                total += count
            firmware.free_pool(buffer)
            yield GuestCall(memory.read_u64(file + 16), file)
            yield GuestCall(memory.read_u64(root + 16), root)
            if status:
                raise EfiError(status)
            return b"".join(chunks)  # type: ignore[return-value]
        finally:
            firmware.free_pool(scratch)

    def _load_file(self, interface: int, rest: int, boot_policy: bool) -> Steps:
        """Read through EFI_LOAD_FILE(2)_PROTOCOL (UEFI 2.10, 13.1): once for the size, once for the data."""
        firmware = self.firmware
        memory = firmware.memory
        size_at = firmware.pool(16)
        buffer = 0
        try:
            memory.write_u64(size_at, 0)
            target = memory.read_u64(interface)
            status = yield GuestCall(target, interface, rest, int(boot_policy), size_at, 0)
            if status != Status.BUFFER_TOO_SMALL:
                raise EfiError(status or Status.LOAD_ERROR)
            size = memory.read_u64(size_at)
            if size > MAXIMUM_IMAGE:
                raise EfiError(Status.OUT_OF_RESOURCES)
            buffer = firmware.pool(size)
            status = yield GuestCall(target, interface, rest, int(boot_policy), size_at, buffer)
            if status:
                raise EfiError(status)
            return memory.read(buffer, min(memory.read_u64(size_at), size))  # type: ignore[return-value]
        finally:
            firmware.free_pool(size_at)
            if buffer:
                firmware.free_pool(buffer)

    @function(0xD0, "StartImage(ptr ImageHandle, ptr ExitDataSize, ptr ExitData)")
    def start_image(self, cpu: Cpu, handle: int, size_at: int, data_at: int) -> object:
        """Call an image's entry point; comes back when it returns or calls Exit."""
        firmware = self.firmware
        image = firmware.images.get(handle)
        if image is None or image.started:
            raise EfiError(Status.INVALID_PARAMETER)
        if image.denied:
            raise EfiError(Status.SECURITY_VIOLATION)
        state: dict[str, Any] = {"image": handle, "size_at": size_at, "data_at": data_at, "tpl": firmware.events.tpl}
        state["registers"] = [cpu.get(register) for register in reg.NONVOLATILE]
        state["previous"] = firmware.images.current
        record = Record("image", cpu.get(reg.RSP), state, firmware.dispatcher.current)
        firmware.calls.push(record)
        image.started = True
        firmware.images.current = handle
        firmware.calls.invoke(cpu, record.rsp, image.entry, (handle, firmware.system_table.address))
        return PENDING

    def image_returned(self, cpu: Cpu, record: Record, status: int) -> None:
        """An image's entry point returned, or it called Exit."""
        firmware = self.firmware
        image = firmware.images.get(record.state["image"])
        firmware.images.current = record.state["previous"]
        firmware.events.tpl = record.state["tpl"]
        if record.state.get("root"):
            firmware.calls.stack.clear()
            firmware.image_done(status)
            return
        size_at, data_at = record.state["size_at"], record.state["data_at"]
        if data_at:  # without a place for the data its size is not told either (7.4.2)
            firmware.memory.write_u64(data_at, image.exit_data if image else 0)
            if size_at:
                firmware.memory.write_u64(size_at, image.exit_size if image else 0)
        if image is not None and (image.is_application or status):
            firmware.images.unload(image)
        firmware.calls.finish(cpu, record, status)

    @function(0xD8, "Exit(ptr ImageHandle, u64 ExitStatus, u64 ExitDataSize, ptr ExitData)")
    def exit(self, cpu: Cpu, handle: int, status: int, size: int, data: int) -> object:
        """End a started image from anywhere inside it, or unload one that was never started."""
        firmware = self.firmware
        image = firmware.images.get(handle)
        if image is None:
            raise EfiError(Status.INVALID_PARAMETER)
        if not image.started:
            firmware.images.unload(image)
            return Status.SUCCESS
        if handle != firmware.images.current:
            raise EfiError(Status.INVALID_PARAMETER)
        stack = firmware.calls.stack
        if not any(record.kind == "image" and record.state["image"] == handle for record in stack):
            return self._exit_elsewhere(handle, status)
        while stack and not (stack[-1].kind == "image" and stack[-1].state["image"] == handle):
            dropped = stack.pop()
            if dropped.steps is not None:
                dropped.steps.close()
        record = stack[-1]
        if size and data:
            image.exit_size, image.exit_data = size, data
        for register, value in zip(reg.NONVOLATILE, record.state.get("registers", ()), strict=False):
            cpu.set(register, value)
        self.image_returned(cpu, record, status)
        return PENDING

    def _exit_elsewhere(self, handle: int, status: int) -> object:
        """Exit by a processor that did not start the image: that ends the machine if it is the first image."""
        calls = self.firmware.calls
        if not any(record.state.get("root") and record.state["image"] == handle for record in calls.stacks[0]):
            raise EfiError(Status.UNSUPPORTED)
        self.firmware.image_done(status)
        return PENDING

    @function(0xE0, "UnloadImage(ptr ImageHandle)")
    def unload_image(self, cpu: Cpu, handle: int) -> Steps:
        """Unload an image: a started one through its Unload function."""
        firmware = self.firmware
        image = firmware.images.get(handle)
        if image is None or handle == firmware.images.firmware_handle:
            raise EfiError(Status.INVALID_PARAMETER)
        if image.started:
            unload = firmware.images.unload_function(image)
            if not unload:
                raise EfiError(Status.UNSUPPORTED)
            status = yield GuestCall(unload, handle)
            if status:
                return status
        yield from self._release_controllers(image)
        firmware.images.unload(image)
        return Status.SUCCESS

    def _release_controllers(self, image: Image) -> Steps:
        handles = self.firmware.handles
        for controller in handles.all():
            if controller in handles and image.handle in handles.drivers_of(controller):
                yield from disconnect(self.firmware, controller, image.handle, None)
        return Status.SUCCESS
