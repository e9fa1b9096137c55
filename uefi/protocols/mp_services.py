"""EFI_MP_SERVICES_PROTOCOL (PI 1.8 volume 2, 13.4): the processors of the machine."""

import struct

from machine.cpu import Cpu
from uefi import guids
from uefi.interface import Interface, function
from uefi.status import EfiError, Status

# EFI_PROCESSOR_INFORMATION: ProcessorId, StatusFlag, Location (Package, Core, Thread), ExtendedInformation (24 bytes).
_INFORMATION = struct.Struct("<QIIII24x")
_BSP, _ENABLED, _HEALTHY = 1, 2, 4
_EXTENDED_TOPOLOGY = 1 << 24


class MpServices(Interface):
    """The boot processor runs guest code; there are no application processors yet, and every answer says so."""

    NAME = "EFI_MP_SERVICES_PROTOCOL"
    GUID = guids.MP_SERVICES_PROTOCOL
    SIZE = 0x38

    @property
    def _count(self) -> int:
        return len(self.firmware.computer.engine.cpus)

    @function(0x00, "GetNumberOfProcessors(ptr NumberOfProcessors, ptr NumberOfEnabledProcessors)")
    def get_number_of_processors(self, cpu: Cpu, total_at: int, enabled_at: int) -> int:
        """How many there are, how many of them are enabled."""
        if not total_at or not enabled_at:
            raise EfiError(Status.INVALID_PARAMETER)
        self.firmware.memory.write_u64(total_at, self._count)
        self.firmware.memory.write_u64(enabled_at, self._count)
        return Status.SUCCESS

    @function(0x08, "GetProcessorInfo(u64 ProcessorNumber, ptr ProcessorInfoBuffer)")
    def get_processor_info(self, cpu: Cpu, number: int, buffer: int) -> int:
        """Identity, state and place of a processor."""
        if not buffer:
            raise EfiError(Status.INVALID_PARAMETER)
        index = number & ~_EXTENDED_TOPOLOGY
        if index >= self._count:
            raise EfiError(Status.NOT_FOUND)
        flags = _ENABLED | _HEALTHY | (_BSP if index == 0 else 0)
        self.firmware.memory.write(buffer, _INFORMATION.pack(index, flags, 0, index, 0))
        return Status.SUCCESS

    @function(
        0x10,
        "StartupAllAPs(ptr Procedure, bool SingleThread, ptr WaitEvent, u64 TimeoutInMicroSeconds,"
        " ptr ProcedureArgument, ptr FailedCpuList)",
    )
    def startup_all_aps(
        self, cpu: Cpu, procedure: int, single: int, event: int, timeout: int, argument: int, failed: int
    ) -> int:
        """Run a procedure on every application processor: there is none."""
        if not procedure:
            raise EfiError(Status.INVALID_PARAMETER)
        return Status.NOT_STARTED

    @function(
        0x18,
        "StartupThisAP(ptr Procedure, u64 ProcessorNumber, ptr WaitEvent, u64 TimeoutInMicroseconds,"
        " ptr ProcedureArgument, ptr Finished)",
    )
    def startup_this_ap(
        self, cpu: Cpu, procedure: int, number: int, event: int, timeout: int, argument: int, finished: int
    ) -> int:
        """Run a procedure on one application processor: the boot processor is not one."""
        if not procedure or number == 0:
            raise EfiError(Status.INVALID_PARAMETER)
        raise EfiError(Status.NOT_FOUND)

    @function(0x20, "SwitchBSP(u64 ProcessorNumber, bool EnableOldBSP)")
    def switch_bsp(self, cpu: Cpu, number: int, enable_old: int) -> int:
        """Make another processor the boot processor: it is that already, or does not exist."""
        raise EfiError(Status.INVALID_PARAMETER if number == 0 else Status.NOT_FOUND)

    @function(0x28, "EnableDisableAP(u64 ProcessorNumber, bool EnableAP, ptr HealthFlag)")
    def enable_disable_ap(self, cpu: Cpu, number: int, enable: int, health: int) -> int:
        """Change an application processor's state: the boot processor's cannot be changed."""
        raise EfiError(Status.INVALID_PARAMETER if number == 0 else Status.NOT_FOUND)

    @function(0x30, "WhoAmI(ptr ProcessorNumber)")
    def who_am_i(self, cpu: Cpu, result: int) -> int:
        """The number of the calling processor."""
        if not result:
            raise EfiError(Status.INVALID_PARAMETER)
        self.firmware.memory.write_u64(result, cpu.index)
        return Status.SUCCESS
