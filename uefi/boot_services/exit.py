"""ExitBootServices (UEFI 2.10, 7.4.6): the guest takes the machine over."""

from machine.cpu import Cpu
from uefi import guids
from uefi.boot_services.table import BootServicesPart
from uefi.interface import DISPATCH, Steps, function
from uefi.status import EfiError, Status


class ExitServices(BootServicesPart):
    """The end of boot services."""

    @function(0xE8, "ExitBootServices(ptr ImageHandle, u64 MapKey)")
    def exit_boot_services(self, cpu: Cpu, handle: int, key: int) -> Steps:
        """Check the map key, notify everybody, stop."""
        firmware = self.firmware
        if firmware.images.get(handle) is None:
            raise EfiError(Status.INVALID_PARAMETER)
        if not firmware.exit_announced:
            # UEFI 2.10: members of BEFORE_EXIT_BOOT_SERVICES may still use boot services, so they run before the key is checked.
            firmware.exit_announced = True
            firmware.events.signal_group(guids.EVENT_GROUP_BEFORE_EXIT_BOOT_SERVICES)
            yield DISPATCH
        if key != firmware.memory_map.key:
            raise EfiError(Status.INVALID_PARAMETER)
        firmware.events.signal_group(guids.EVENT_GROUP_EXIT_BOOT_SERVICES)
        yield DISPATCH
        firmware.events.stop_all()
        firmware.leave_boot_services(cpu)
        return Status.SUCCESS
