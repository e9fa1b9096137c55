"""Opening protocols and keeping account of it (UEFI 2.10, 7.3.9 to 7.3.11)."""

from machine.cpu import Cpu
from uefi.boot_services.drivers import disconnect
from uefi.boot_services.table import BootServicesPart, need
from uefi.guids import Guid
from uefi.handles import (
    BY_CHILD_CONTROLLER,
    BY_DRIVER,
    BY_HANDLE_PROTOCOL,
    EXCLUSIVE,
    GET_PROTOCOL,
    TEST_PROTOCOL,
    Protocol,
)
from uefi.interface import Steps, function
from uefi.status import EfiError, Status

_COMBINATIONS = frozenset(
    (BY_HANDLE_PROTOCOL, GET_PROTOCOL, TEST_PROTOCOL, BY_CHILD_CONTROLLER, BY_DRIVER, EXCLUSIVE, BY_DRIVER | EXCLUSIVE)
)


class OpeningServices(BootServicesPart):
    """OpenProtocol and its relatives."""

    @function(0x98, "HandleProtocol(ptr Handle, guid Protocol, ptr Interface)")
    def handle_protocol(self, cpu: Cpu, handle: int, guid: Guid | None, result: int) -> int:
        """The interface of a protocol on a handle."""
        need(handle, guid, result)
        assert guid is not None
        memory = self.firmware.memory
        memory.check(result, 8)
        try:
            interface = self.firmware.handles.protocol(handle, guid).interface
        except EfiError:
            memory.write_u64(result, 0)
            raise
        self.firmware.handles.open(handle, guid, self.firmware.images.firmware_handle, 0, BY_HANDLE_PROTOCOL)
        memory.write_u64(result, interface)
        return Status.SUCCESS

    @function(
        0x118,
        "OpenProtocol(ptr Handle, guid Protocol, ptr Interface, ptr AgentHandle, ptr ControllerHandle, u32 Attributes)",
    )
    def open_protocol(
        self, cpu: Cpu, handle: int, guid: Guid | None, result: int, agent: int, controller: int, attributes: int
    ) -> "int | Steps":
        """Open a protocol for a driver or an application."""
        need(guid)
        assert guid is not None
        if attributes != TEST_PROTOCOL:
            need(result)
        handles = self.firmware.handles
        handles.protocols(handle)
        if attributes not in _COMBINATIONS:
            raise EfiError(Status.INVALID_PARAMETER)
        if attributes in (BY_CHILD_CONTROLLER, BY_DRIVER, BY_DRIVER | EXCLUSIVE):
            if agent not in handles or controller not in handles:
                raise EfiError(Status.INVALID_PARAMETER)
            if attributes == BY_CHILD_CONTROLLER and handle == controller:
                raise EfiError(Status.INVALID_PARAMETER)
        if attributes == EXCLUSIVE and agent not in handles:
            raise EfiError(Status.INVALID_PARAMETER)
        protocol = handles.protocols(handle).get(guid)
        if protocol is None:
            if result and attributes != TEST_PROTOCOL:
                self.firmware.memory.write_u64(result, 0)
            raise EfiError(Status.UNSUPPORTED)
        if attributes & (BY_DRIVER | EXCLUSIVE):
            denied = self._conflict(protocol, agent, controller, attributes, result)
            if denied is not None:
                return denied
            if attributes & EXCLUSIVE and any(entry.attributes & BY_DRIVER for entry in protocol.opens):
                return self._open_exclusively(protocol, handle, guid, agent, controller, attributes, result)
        return self._grant(protocol, handle, guid, agent, controller, attributes, result)

    def _conflict(self, protocol: Protocol, agent: int, controller: int, attributes: int, result: int) -> int | None:
        """The status that forbids an opening by driver or exclusively, if there is one (UEFI 2.10, table 7.5)."""
        for entry in protocol.opens:
            same = (entry.agent, entry.controller, entry.attributes) == (agent, controller, attributes)
            if same and attributes & BY_DRIVER:
                self.firmware.memory.write_u64(result, protocol.interface)
                return Status.ALREADY_STARTED
        if any(entry.attributes & EXCLUSIVE for entry in protocol.opens):
            return Status.ACCESS_DENIED
        if attributes == BY_DRIVER and any(entry.attributes & BY_DRIVER for entry in protocol.opens):
            return Status.ACCESS_DENIED
        return None

    def _open_exclusively(
        self, protocol: Protocol, handle: int, guid: Guid, agent: int, controller: int, attributes: int, result: int
    ) -> Steps:
        """Drivers give way to an exclusive opening."""
        for driver in self.firmware.handles.drivers_of(handle, guid):
            yield from disconnect(self.firmware, handle, driver, None)
        if any(entry.attributes & BY_DRIVER for entry in protocol.opens):
            return Status.ACCESS_DENIED
        return self._grant(protocol, handle, guid, agent, controller, attributes, result)

    def _grant(
        self, protocol: Protocol, handle: int, guid: Guid, agent: int, controller: int, attributes: int, result: int
    ) -> int:
        if attributes != TEST_PROTOCOL:
            self.firmware.memory.write_u64(result, protocol.interface)
        # Openings without an agent leave nothing to close.
        if agent in self.firmware.handles or attributes & (BY_CHILD_CONTROLLER | BY_DRIVER | EXCLUSIVE):
            self.firmware.handles.open(handle, guid, agent, controller, attributes)
        return Status.SUCCESS

    @function(0x120, "CloseProtocol(ptr Handle, guid Protocol, ptr AgentHandle, ptr ControllerHandle)")
    def close_protocol(self, cpu: Cpu, handle: int, guid: Guid | None, agent: int, controller: int) -> int:
        """Close what OpenProtocol opened."""
        need(guid)
        assert guid is not None
        handles = self.firmware.handles
        handles.protocols(handle)
        if agent not in handles or (controller and controller not in handles):
            raise EfiError(Status.INVALID_PARAMETER)
        handles.close(handle, guid, agent, controller)
        return Status.SUCCESS

    @function(0x128, "OpenProtocolInformation(ptr Handle, guid Protocol, ptr EntryBuffer, ptr EntryCount)")
    def open_protocol_information(self, cpu: Cpu, handle: int, guid: Guid | None, result: int, count_at: int) -> int:
        """Who has a protocol open, as a pool buffer of 24-byte entries."""
        need(guid, result, count_at)
        assert guid is not None
        firmware = self.firmware
        protocol = firmware.handles.protocols(handle).get(guid)
        if protocol is None:
            raise EfiError(Status.NOT_FOUND)
        entries = b"".join(
            entry.agent.to_bytes(8, "little")
            + entry.controller.to_bytes(8, "little")
            + entry.attributes.to_bytes(4, "little")
            + entry.count.to_bytes(4, "little")
            for entry in protocol.opens
        )
        buffer = firmware.pool(max(len(entries), 8))
        firmware.memory.write(buffer, entries)
        firmware.memory.write_u64(result, buffer)
        firmware.memory.write_u64(count_at, len(protocol.opens))
        return Status.SUCCESS
