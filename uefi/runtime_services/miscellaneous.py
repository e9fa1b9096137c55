"""Reset, capsules, the high monotonic count (UEFI 2.10, 8.5)."""

from machine.cpu import Cpu
from uefi.interface import function
from uefi.runtime_services.table import RuntimeServicesPart
from uefi.status import EfiError, Status

_CAPSULE_FLAGS = 20  # offset in EFI_CAPSULE_HEADER
_PERSIST_ACROSS_RESET, _POPULATE_SYSTEM_TABLE, _INITIATE_RESET = 0x10000, 0x20000, 0x40000
_MOST_CAPSULES = 1024
RESET_COLD, RESET_WARM, RESET_SHUTDOWN, RESET_PLATFORM = range(4)


class MiscellaneousRuntimeServices(RuntimeServicesPart):
    """ResetSystem and what is seldom asked for."""

    @function(0x60, "GetNextHighMonotonicCount(ptr HighCount)")
    def get_next_high_monotonic_count(self, cpu: Cpu, result: int) -> int:
        """The upper half of the monotonic count, one up."""
        if not result:
            raise EfiError(Status.INVALID_PARAMETER)
        self.firmware.memory.write_u32(result, self.firmware.monotonic.next_high())
        return Status.SUCCESS

    @function(0x68, "ResetSystem(u32 ResetType, u64 ResetStatus, u64 DataSize, ptr ResetData)")
    def reset_system(self, cpu: Cpu, kind: int, status: int, size: int, data: int) -> int:
        """Reset or switch off. Never returns to the guest."""
        self.firmware.reset(kind if kind <= RESET_PLATFORM else RESET_COLD, status)
        return Status.SUCCESS

    @function(0x70, "UpdateCapsule(ptr CapsuleHeaderArray, u64 CapsuleCount, ptr ScatterGatherList)")
    def update_capsule(self, cpu: Cpu, headers: int, count: int, scatter: int) -> int:
        """There is no firmware to update."""
        if not count or not headers:
            raise EfiError(Status.INVALID_PARAMETER)
        memory = self.firmware.memory
        for n in range(min(count, _MOST_CAPSULES)):
            flags = memory.read_u32(memory.read_u64(headers + 8 * n) + _CAPSULE_FLAGS)
            persists = flags & _PERSIST_ACROSS_RESET
            if (flags & (_POPULATE_SYSTEM_TABLE | _INITIATE_RESET) and not persists) or (persists and not scatter):
                raise EfiError(Status.INVALID_PARAMETER)
        return Status.UNSUPPORTED

    @function(
        0x78,
        "QueryCapsuleCapabilities(ptr CapsuleHeaderArray, u64 CapsuleCount, ptr MaximumCapsuleSize, ptr ResetType)",
    )
    def query_capsule_capabilities(self, cpu: Cpu, headers: int, count: int, size_at: int, reset_at: int) -> int:
        """There is no firmware to update."""
        if not count or not headers or not size_at or not reset_at:
            raise EfiError(Status.INVALID_PARAMETER)
        return Status.UNSUPPORTED
