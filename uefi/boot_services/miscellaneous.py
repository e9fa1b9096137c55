"""Miscellaneous boot services (UEFI 2.10, 7.5)."""

import zlib

from machine import registers as reg
from machine.cpu import Cpu
from uefi.boot_services.table import BootServicesPart, need
from uefi.calls import Record
from uefi.dispatcher import PENDING
from uefi.guids import Guid
from uefi.interface import function
from uefi.status import EfiError, Status

_FIRMWARE_WATCHDOG_CODES = 0xFFFF


class MiscellaneousServices(BootServicesPart):
    """Watchdog, stall, monotonic count, configuration tables, CRC."""

    @function(0xC0, "InstallConfigurationTable(guid Guid, ptr Table)")
    def install_configuration_table(self, cpu: Cpu, guid: Guid | None, table: int) -> int:
        """Add, replace or (NULL) remove a configuration table."""
        need(guid)
        assert guid is not None
        self.firmware.configuration.install(guid, table)
        return Status.SUCCESS

    @function(0xF0, "GetNextMonotonicCount(ptr Count)")
    def get_next_monotonic_count(self, cpu: Cpu, result: int) -> int:
        """A number that grows with every call and every boot."""
        need(result)
        self.firmware.memory.write_u64(result, self.firmware.monotonic.next())
        return Status.SUCCESS

    @function(0xF8, "Stall(u64 Microseconds)")
    def stall(self, cpu: Cpu, microseconds: int) -> object:
        """Wait; timers go on meanwhile."""
        firmware = self.firmware
        deadline = firmware.clock.now() + min(microseconds, 1 << 50) * 1000
        record = Record("stall", cpu.get(reg.RSP), {"deadline": deadline}, firmware.dispatcher.current)
        firmware.calls.push(record)
        self.resume_stall(cpu, record, 0)
        return PENDING

    def resume_stall(self, cpu: Cpu, record: Record, _value: int) -> None:
        """Go on waiting."""
        firmware = self.firmware
        deadline = record.state["deadline"]
        while firmware.clock.now() < deadline:
            if not firmware.computer.wait_until(deadline):
                firmware.calls.yield_to_loop(cpu, record)
                return
            if firmware.calls.settle():
                firmware.calls.dispatch_nested(cpu, record.rsp)
                return
        firmware.calls.finish(cpu, record, Status.SUCCESS)

    @function(0x100, "SetWatchdogTimer(u64 Timeout, u64 WatchdogCode, u64 DataSize, ptr WatchdogData)")
    def set_watchdog_timer(self, cpu: Cpu, seconds: int, code: int, size: int, data: int) -> int:
        """Reset the machine in so many seconds unless called again; 0 turns it off."""
        if 0 < code <= _FIRMWARE_WATCHDOG_CODES and seconds:
            raise EfiError(Status.INVALID_PARAMETER)
        self.firmware.set_watchdog(seconds)
        return Status.SUCCESS

    @function(0x158, "CalculateCrc32(ptr Data, u64 DataSize, ptr Crc32)")
    def calculate_crc32(self, cpu: Cpu, data: int, size: int, result: int) -> int:
        """The CRC-32 of UEFI's tables."""
        need(data, size, result)
        memory = self.firmware.memory
        memory.check(data, size)
        memory.write_u32(result, zlib.crc32(memory.read(data, size)))
        return Status.SUCCESS
