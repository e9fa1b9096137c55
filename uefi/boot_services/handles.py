"""Protocol handler services: installing, finding (UEFI 2.10, 7.3)."""

from machine.cpu import Cpu
from uefi import guids
from uefi.boot_services.drivers import disconnect
from uefi.boot_services.table import BootServicesPart, need
from uefi.device_path import path as device_path
from uefi.device_path.nodes import DevicePathError
from uefi.guids import Guid
from uefi.handles import BY_HANDLE_PROTOCOL, GET_PROTOCOL, TEST_PROTOCOL
from uefi.interface import Steps, function
from uefi.status import EfiError, Status

ALL_HANDLES, BY_REGISTER_NOTIFY, BY_PROTOCOL = 0, 1, 2
_MAXIMUM_PAIRS = 256
_NO_HOLD = BY_HANDLE_PROTOCOL | GET_PROTOCOL | TEST_PROTOCOL
"""Openings that end with the protocol; all others keep it (7.3.3)."""


class HandleServices(BootServicesPart):
    """Handles and the protocols on them."""

    @function(0x80, "InstallProtocolInterface(ptr Handle, guid Protocol, u32 InterfaceType, ptr Interface)")
    def install_protocol_interface(self, cpu: Cpu, handle_at: int, guid: Guid | None, kind: int, interface: int) -> int:
        """Install a protocol on a handle, or on a new one."""
        need(handle_at, guid)
        if kind:
            raise EfiError(Status.INVALID_PARAMETER)
        assert guid is not None
        memory = self.firmware.memory
        handle = memory.read_u64(handle_at)
        memory.write_u64(handle_at, self.firmware.handles.install(handle or None, guid, interface))
        return Status.SUCCESS

    @function(0x88, "ReinstallProtocolInterface(ptr Handle, guid Protocol, ptr OldInterface, ptr NewInterface)")
    def reinstall_protocol_interface(self, cpu: Cpu, handle: int, guid: Guid | None, old: int, new: int) -> Steps:
        """Replace a protocol's interface; drivers are disconnected before and connected after."""
        need(guid)
        assert guid is not None
        firmware = self.firmware
        protocol = firmware.handles.protocols(handle).get(guid)
        if protocol is None or protocol.interface != old:
            raise EfiError(Status.NOT_FOUND)
        yield from self._release(handle, guid)
        firmware.handles.reinstalled(handle, guid, new)
        yield from self.connect(handle)  # type: ignore[attr-defined]
        return Status.SUCCESS

    def _release(self, handle: int, guid: Guid) -> Steps:
        """Stop the drivers that hold a protocol; ACCESS_DENIED, and they are started again, if somebody keeps it."""
        handles = self.firmware.handles
        protocol = handles.protocol(handle, guid)
        for agent in handles.drivers_of(handle, guid):
            yield from disconnect(self.firmware, handle, agent, None)
        protocol.opens = [entry for entry in protocol.opens if not entry.attributes & _NO_HOLD]
        if protocol.opens:
            yield from self.connect(handle)  # type: ignore[attr-defined]
            raise EfiError(Status.ACCESS_DENIED)
        return Status.SUCCESS

    @function(0x90, "UninstallProtocolInterface(ptr Handle, guid Protocol, ptr Interface)")
    def uninstall_protocol_interface(self, cpu: Cpu, handle: int, guid: Guid | None, interface: int) -> Steps:
        """Take a protocol off a handle."""
        need(guid)
        assert guid is not None
        yield from self.uninstall(handle, guid, interface)
        return Status.SUCCESS

    def uninstall(self, handle: int, guid: Guid, interface: int) -> Steps:
        """Take a protocol off a handle once its drivers have let go of it. EfiError: NOT_FOUND, ACCESS_DENIED."""
        handles = self.firmware.handles
        protocol = handles.protocols(handle).get(guid)
        if protocol is None or protocol.interface != interface:
            raise EfiError(Status.NOT_FOUND)
        yield from self._release(handle, guid)
        handles.uninstall(handle, guid)
        return Status.SUCCESS

    def _pairs(self, cpu: Cpu, first: int) -> list[tuple[Guid, int]]:
        """The (GUID, interface) arguments that follow the first one, up to the NULL."""
        memory = self.firmware.memory
        _, rdx, r8, r9, rsp = cpu.arguments()
        words = [rdx, r8, r9]
        pairs: list[tuple[Guid, int]] = []
        at = rsp + 40
        while len(pairs) < _MAXIMUM_PAIRS:
            while len(words) < 2:
                words.append(memory.read_u64(at))
                at += 8
            guid, interface = words[0], words[1]
            if not guid:
                return pairs
            pairs.append((memory.read_guid(guid), interface))
            words = words[2:]
        raise EfiError(Status.INVALID_PARAMETER)

    @function(0x148, "InstallMultipleProtocolInterfaces(ptr Handle)")
    def install_multiple(self, cpu: Cpu, handle_at: int) -> int:
        """Install several protocols, all or none; no device path may be installed twice."""
        need(handle_at)
        firmware = self.firmware
        handle = firmware.memory.read_u64(handle_at)
        done: list[Guid] = []
        result = handle or None
        try:
            for guid, interface in self._pairs(cpu, handle_at):
                if guid == guids.DEVICE_PATH_PROTOCOL and self._path_exists(interface):
                    raise EfiError(Status.ALREADY_STARTED)
                result = firmware.handles.install(result, guid, interface)
                done.append(guid)
        except EfiError:
            if result is not None:
                for guid in reversed(done):
                    firmware.handles.uninstall(result, guid)
            raise
        if result is not None:
            firmware.memory.write_u64(handle_at, result)
        return Status.SUCCESS

    def _path_exists(self, interface: int) -> bool:
        firmware = self.firmware
        try:
            wanted = device_path.read(firmware.memory, interface)
            for handle in firmware.handles.find(guids.DEVICE_PATH_PROTOCOL):
                other = firmware.handles.interface(handle, guids.DEVICE_PATH_PROTOCOL)
                if other and device_path.read(firmware.memory, other) == wanted:
                    return True
        except DevicePathError:
            pass
        return False

    @function(0x150, "UninstallMultipleProtocolInterfaces(ptr Handle)")
    def uninstall_multiple(self, cpu: Cpu, handle: int) -> Steps:
        """Take several protocols off a handle, all or none."""
        handles = self.firmware.handles
        pairs = self._pairs(cpu, handle)
        done: list[tuple[Guid, int]] = []
        try:
            for guid, interface in pairs:
                yield from self.uninstall(handle, guid, interface)
                done.append((guid, interface))
        except EfiError:
            for guid, interface in reversed(done):
                if handle in handles:
                    handles.install(handle, guid, interface)
            raise EfiError(Status.INVALID_PARAMETER) from None
        return Status.SUCCESS

    @function(0xA8, "RegisterProtocolNotify(guid Protocol, ptr Event, ptr Registration)")
    def register_protocol_notify(self, cpu: Cpu, guid: Guid | None, event: int, result: int) -> int:
        """Have an event signaled for each new instance of a protocol."""
        need(guid, event, result)
        assert guid is not None
        self.firmware.memory.check(result, 8)
        self.firmware.memory.write_u64(result, self.firmware.handles.register(guid, event))
        return Status.SUCCESS

    def _search(self, kind: int, guid: Guid | None, key: int) -> list[int]:
        handles = self.firmware.handles
        if kind == ALL_HANDLES:
            return handles.all()
        if kind == BY_REGISTER_NOTIFY:
            need(key)
            new = handles.registration(key).new
            return [new.pop(0)] if new else []
        if kind == BY_PROTOCOL:
            need(guid)
            assert guid is not None
            return handles.find(guid)
        raise EfiError(Status.INVALID_PARAMETER)

    @function(0xB0, "LocateHandle(u32 SearchType, guid Protocol, ptr SearchKey, ptr BufferSize, ptr Buffer)")
    def locate_handle(self, cpu: Cpu, kind: int, guid: Guid | None, key: int, size_at: int, buffer: int) -> int:
        """Handles that match, into the caller's buffer."""
        need(size_at)
        memory = self.firmware.memory
        room = memory.read_u64(size_at)
        if kind == BY_REGISTER_NOTIFY and (room < 8 or not buffer):
            need(key)
            found = self.firmware.handles.registration(key).new[:1]
        else:
            found = self._search(kind, guid, key)
        if not found:
            raise EfiError(Status.NOT_FOUND)
        memory.write_u64(size_at, 8 * len(found))
        if room < 8 * len(found):
            return Status.BUFFER_TOO_SMALL
        need(buffer)
        memory.write(buffer, b"".join(handle.to_bytes(8, "little") for handle in found))
        return Status.SUCCESS

    @function(0x138, "LocateHandleBuffer(u32 SearchType, guid Protocol, ptr SearchKey, ptr NoHandles, ptr Buffer)")
    def locate_handle_buffer(self, cpu: Cpu, kind: int, guid: Guid | None, key: int, count_at: int, result: int) -> int:
        """Handles that match, into a buffer from the pool."""
        need(count_at, result)
        memory = self.firmware.memory
        memory.check(count_at, 8)
        memory.check(result, 8)
        found = self._search(kind, guid, key)
        memory.write_u64(count_at, len(found))
        if not found:
            memory.write_u64(result, 0)
            raise EfiError(Status.NOT_FOUND)
        buffer = self.firmware.pool(8 * len(found))
        memory.write(buffer, b"".join(handle.to_bytes(8, "little") for handle in found))
        memory.write_u64(result, buffer)
        return Status.SUCCESS

    @function(0x140, "LocateProtocol(guid Protocol, ptr Registration, ptr Interface)")
    def locate_protocol(self, cpu: Cpu, guid: Guid | None, key: int, result: int) -> int:
        """The first interface of a protocol."""
        need(guid, result)
        assert guid is not None
        memory = self.firmware.memory
        memory.write_u64(result, 0)
        handles = self.firmware.handles
        found = self._search(BY_REGISTER_NOTIFY, None, key) if key else handles.find(guid)
        if not found:
            raise EfiError(Status.NOT_FOUND)
        memory.write_u64(result, handles.interface(found[0], guid) or 0)
        return Status.SUCCESS

    @function(0xB8, "LocateDevicePath(guid Protocol, ptr DevicePath, ptr Device)")
    def locate_device_path(self, cpu: Cpu, guid: Guid | None, path_at: int, result: int) -> int:
        """The handle with the protocol whose device path is the longest beginning of the given one."""
        need(guid, path_at)
        assert guid is not None
        memory = self.firmware.memory
        address = memory.read_u64(path_at)
        need(address)
        handle, matched = self.locate_path(guid, address)
        need(result)
        memory.write_u64(result, handle)
        memory.write_u64(path_at, address + matched)
        return Status.SUCCESS

    def locate_path(self, guid: Guid, address: int) -> tuple[int, int]:
        """The handle, and the bytes of the path that its own device path covers. EfiError(NOT_FOUND)."""
        firmware = self.firmware
        try:
            wanted = device_path.read(firmware.memory, address)
        except DevicePathError:
            raise EfiError(Status.INVALID_PARAMETER) from None
        best: tuple[int, int] | None = None
        for handle in firmware.handles.find(guid):
            own_at = firmware.handles.interface(handle, guids.DEVICE_PATH_PROTOCOL)
            if not own_at:
                continue
            try:
                own = device_path.read(firmware.memory, own_at)[:-4]
            except DevicePathError:
                continue
            if wanted.startswith(own) and (best is None or len(own) > best[1]):
                best = handle, len(own)
        if best is None:
            raise EfiError(Status.NOT_FOUND)
        return best

    @function(0x130, "ProtocolsPerHandle(ptr Handle, ptr ProtocolBuffer, ptr ProtocolBufferCount)")
    def protocols_per_handle(self, cpu: Cpu, handle: int, result: int, count_at: int) -> int:
        """The GUIDs of a handle's protocols, as a pool buffer of pointers."""
        need(handle, result, count_at)
        firmware = self.firmware
        protocols = firmware.handles.protocols(handle)
        count = len(protocols)
        buffer = firmware.pool(24 * count)
        pointers = b"".join((buffer + 8 * count + 16 * n).to_bytes(8, "little") for n in range(count))
        firmware.memory.write(buffer, pointers + b"".join(protocols))
        firmware.memory.write_u64(result, buffer)
        firmware.memory.write_u64(count_at, count)
        return Status.SUCCESS
