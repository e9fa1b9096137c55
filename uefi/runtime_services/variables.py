"""Variable services (UEFI 2.10, 8.2). What they mean stands in `uefi.variables`; here are the pointers."""

from machine.cpu import Cpu
from uefi.guids import Guid
from uefi.interface import function
from uefi.runtime_services.table import RuntimeServicesPart
from uefi.status import EfiError, Status

MAXIMUM_NAME = 1024
MAXIMUM_DATA = 1 << 20


class VariableServices(RuntimeServicesPart):
    """GetVariable and its relatives."""

    def _name(self, address: int) -> str:
        if not address:
            raise EfiError(Status.INVALID_PARAMETER)
        return self.firmware.memory.read_ucs2(address, MAXIMUM_NAME)

    @function(0x48, "GetVariable(ptr VariableName, guid VendorGuid, ptr Attributes, ptr DataSize, ptr Data)")
    def get_variable(
        self, cpu: Cpu, name_at: int, guid: Guid | None, attributes_at: int, size_at: int, data_at: int
    ) -> int:
        """A variable's value; BUFFER_TOO_SMALL with its size and, since UEFI 2.7, its attributes."""
        if guid is None or not size_at:
            raise EfiError(Status.INVALID_PARAMETER)
        memory = self.firmware.memory
        name = self._name(name_at)
        room = memory.read_u64(size_at)
        if not name:
            raise EfiError(Status.NOT_FOUND)
        attributes, data = self.firmware.variables.get(name, guid)
        memory.write_u64(size_at, len(data))
        if attributes_at:
            memory.write_u32(attributes_at, attributes)
        if room < len(data):
            return Status.BUFFER_TOO_SMALL
        if not data_at:
            raise EfiError(Status.INVALID_PARAMETER)
        memory.write(data_at, data)
        return Status.SUCCESS

    @function(0x50, "GetNextVariableName(ptr VariableNameSize, ptr VariableName, ptr VendorGuid)")
    def get_next_variable_name(self, cpu: Cpu, size_at: int, name_at: int, guid_at: int) -> int:
        """The variable after the given one; an empty name asks for the first."""
        if not size_at or not name_at or not guid_at:
            raise EfiError(Status.INVALID_PARAMETER)
        memory = self.firmware.memory
        room = memory.read_u64(size_at)
        if room < 2:
            raise EfiError(Status.INVALID_PARAMETER)
        name = memory.read_ucs2(name_at, min(room // 2, MAXIMUM_NAME))
        if 2 * len(name) + 2 > room:
            raise EfiError(Status.INVALID_PARAMETER)
        next_name, next_guid = self.firmware.variables.next_name(name, memory.read_guid(guid_at))
        needed = 2 * len(next_name) + 2
        memory.write_u64(size_at, needed)
        if room < needed:
            return Status.BUFFER_TOO_SMALL
        memory.write_ucs2(name_at, next_name)
        memory.write(guid_at, next_guid)
        return Status.SUCCESS

    @function(0x58, "SetVariable(ptr VariableName, guid VendorGuid, u32 Attributes, u64 DataSize, ptr Data)")
    def set_variable(self, cpu: Cpu, name_at: int, guid: Guid | None, attributes: int, size: int, data_at: int) -> int:
        """Make, change or delete a variable."""
        if guid is None or (size and not data_at):
            raise EfiError(Status.INVALID_PARAMETER)
        name = self._name(name_at)
        if not name:
            raise EfiError(Status.INVALID_PARAMETER)
        if size > MAXIMUM_DATA:
            raise EfiError(Status.OUT_OF_RESOURCES)
        data = self.firmware.memory.read(data_at, size) if size else b""
        self.firmware.variables.set(name, guid, attributes, data)
        return Status.SUCCESS

    @function(
        0x80,
        "QueryVariableInfo(u32 Attributes, ptr MaximumVariableStorageSize, ptr RemainingVariableStorageSize,"
        " ptr MaximumVariableSize)",
    )
    def query_variable_info(
        self, cpu: Cpu, attributes: int, maximum_at: int, remaining_at: int, largest_at: int
    ) -> int:
        """Room for variables of such attributes."""
        if not maximum_at or not remaining_at or not largest_at:
            raise EfiError(Status.INVALID_PARAMETER)
        maximum, remaining, largest = self.firmware.variables.query_info(attributes)
        memory = self.firmware.memory
        memory.write_u64(maximum_at, maximum)
        memory.write_u64(remaining_at, remaining)
        memory.write_u64(largest_at, largest)
        return Status.SUCCESS
