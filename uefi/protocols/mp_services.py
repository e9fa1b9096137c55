"""EFI_MP_SERVICES_PROTOCOL (PI 1.8 volume 2, 13.4): the processors of the machine."""

import struct

from machine.cpu import Cpu
from uefi import guids
from uefi.application_processors import ApplicationProcessors, Job
from uefi.interface import Interface, function
from uefi.status import EfiError, Status

_INFORMATION = struct.Struct("<QIIII6I")
"""EFI_PROCESSOR_INFORMATION: ProcessorId, StatusFlag, Location (Package, Core, Thread), ExtendedInformation."""
_BSP, _ENABLED, _HEALTHY = 1, 2, 4
_EXTENDED_TOPOLOGY = 1 << 24


class MpServices(Interface):
    """Each processor is a core of its own, with one thread, in package 0. All but WhoAmI is for the boot processor."""

    NAME = "EFI_MP_SERVICES_PROTOCOL"
    GUID = guids.MP_SERVICES_PROTOCOL
    SIZE = 0x38
    FOR_ALL_PROCESSORS = True

    @property
    def _processors(self) -> ApplicationProcessors:
        return self.firmware.application_processors

    def _other(self, cpu: Cpu, number: int) -> int:
        """The number of an application processor, as the boot processor gives it. EfiError."""
        _boot_processor(cpu)
        if number >= self._processors.count:
            raise EfiError(Status.NOT_FOUND)
        if number == 0:
            raise EfiError(Status.INVALID_PARAMETER)
        return number

    @function(0x00, "GetNumberOfProcessors(ptr NumberOfProcessors, ptr NumberOfEnabledProcessors)")
    def get_number_of_processors(self, cpu: Cpu, total_at: int, enabled_at: int) -> int:
        """How many there are, how many of them are enabled."""
        if not total_at or not enabled_at:
            raise EfiError(Status.INVALID_PARAMETER)
        _boot_processor(cpu)
        self.firmware.memory.write_u64(total_at, self._processors.count)
        self.firmware.memory.write_u64(enabled_at, sum(self._processors.enabled))
        return Status.SUCCESS

    @function(0x08, "GetProcessorInfo(u64 ProcessorNumber, ptr ProcessorInfoBuffer)")
    def get_processor_info(self, cpu: Cpu, number: int, buffer: int) -> int:
        """Identity, state and place of a processor; with bit 24 of its number, the extended place too."""
        if not buffer:
            raise EfiError(Status.INVALID_PARAMETER)
        _boot_processor(cpu)
        index = number & ~_EXTENDED_TOPOLOGY
        processors = self._processors
        if index >= processors.count:
            raise EfiError(Status.NOT_FOUND)
        flags = _BSP if index == 0 else 0
        flags |= _ENABLED if processors.enabled[index] else 0
        flags |= _HEALTHY if processors.healthy[index] else 0
        # Package, Module, Tile, Die, Core, Thread
        extended = (0, 0, 0, 0, index, 0) if number & _EXTENDED_TOPOLOGY else (0,) * 6
        self.firmware.memory.write(buffer, _INFORMATION.pack(index, flags, 0, index, 0, *extended))
        return Status.SUCCESS

    @function(
        0x10,
        "StartupAllAPs(ptr Procedure, bool SingleThread, ptr WaitEvent, u64 TimeoutInMicroSeconds,"
        " ptr ProcedureArgument, ptr FailedCpuList)",
    )
    def startup_all_aps(
        self, cpu: Cpu, procedure: int, single: int, event: int, timeout: int, argument: int, failed: int
    ) -> object:
        """Run a procedure on every enabled application processor.

        The event is not looked at before all have finished, as on EDK II: TamaGo, whose procedure never returns, passes 1.
        Nor is it refused after ReadyToBoot, which the specification allows and no firmware does.
        """
        if failed:
            self.firmware.memory.write_u64(failed, 0)
        processors = self._processors
        if not procedure:
            raise EfiError(Status.INVALID_PARAMETER if processors.count > 1 else Status.NOT_STARTED)
        _boot_processor(cpu)
        numbers = [number for number in range(1, processors.count) if processors.enabled[number]]
        if any(processors.busy(number) for number in numbers):
            raise EfiError(Status.NOT_READY)
        if not numbers:
            raise EfiError(Status.NOT_STARTED)
        job = Job(procedure, argument, event, failed_at=failed)
        return processors.start(cpu, job, numbers, one_by_one=bool(single), timeout=timeout)

    @function(
        0x18,
        "StartupThisAP(ptr Procedure, u64 ProcessorNumber, ptr WaitEvent, u64 TimeoutInMicroseconds,"
        " ptr ProcedureArgument, ptr Finished)",
    )
    def startup_this_ap(
        self, cpu: Cpu, procedure: int, number: int, event: int, timeout: int, argument: int, finished: int
    ) -> object:
        """Run a procedure on one application processor."""
        if finished:
            self.firmware.memory.write_u8(finished, 0)
        self._other(cpu, number)
        processors = self._processors
        if not procedure or not processors.enabled[number]:
            raise EfiError(Status.INVALID_PARAMETER)
        if processors.busy(number):
            raise EfiError(Status.NOT_READY)
        job = Job(procedure, argument, event, finished_at=finished)
        return processors.start(cpu, job, [number], one_by_one=False, timeout=timeout)

    @function(0x20, "SwitchBSP(u64 ProcessorNumber, bool EnableOldBSP)")
    def switch_bsp(self, cpu: Cpu, number: int, enable_old: int) -> int:
        """Make another processor the boot processor: not supported, as the specification permits."""
        self._other(cpu, number)
        if not self._processors.enabled[number]:
            raise EfiError(Status.INVALID_PARAMETER)
        if self._processors.busy(number):
            raise EfiError(Status.NOT_READY)
        raise EfiError(Status.UNSUPPORTED)

    @function(0x28, "EnableDisableAP(u64 ProcessorNumber, bool EnableAP, ptr HealthFlag)")
    def enable_disable_ap(self, cpu: Cpu, number: int, enable: int, health: int) -> int:
        """Take an application processor out of use, or back. One that is busy stays as it is: UNSUPPORTED."""
        self._other(cpu, number)
        processors = self._processors
        if processors.busy(number):
            raise EfiError(Status.UNSUPPORTED)
        if enable:
            processors.enable(number)
        else:
            processors.disable(number)
        if health:
            processors.healthy[number] = bool(self.firmware.memory.read_u32(health) & _HEALTHY)
        return Status.SUCCESS

    @function(0x30, "WhoAmI(ptr ProcessorNumber)")
    def who_am_i(self, cpu: Cpu, result: int) -> int:
        """The number of the calling processor."""
        if not result:
            raise EfiError(Status.INVALID_PARAMETER)
        self.firmware.memory.write_u64(result, cpu.index)
        return Status.SUCCESS


def _boot_processor(cpu: Cpu) -> None:
    if cpu.index:
        raise EfiError(Status.DEVICE_ERROR)
