"""Connecting drivers to controllers (UEFI 2.10, 7.3.12, 7.3.13, 11.1)."""

from collections.abc import Generator
from typing import TYPE_CHECKING

from machine.cpu import Cpu
from uefi import guids
from uefi.boot_services.table import BootServicesPart
from uefi.guids import Guid
from uefi.interface import Dispatch, GuestCall, Steps, function
from uefi.status import EfiError, Status

if TYPE_CHECKING:
    from uefi.firmware import Firmware

# EFI_DRIVER_BINDING_PROTOCOL (11.1): Supported, Start, Stop, Version (32 bits), ImageHandle, DriverBindingHandle.
_SUPPORTED, _START, _STOP, _VERSION, _IMAGE = 0, 8, 16, 24, 32
_MAXIMUM_STARTS = 4096
_MAXIMUM_OVERRIDES = 256


def _binding_of(firmware: "Firmware", agent: int) -> int | None:
    """The driver binding interface on a driver's image handle, or on a handle whose binding names that image."""
    for handle in firmware.handles.find(guids.DRIVER_BINDING_PROTOCOL):
        binding = firmware.handles.interface(handle, guids.DRIVER_BINDING_PROTOCOL)
        if binding and (handle == agent or firmware.memory.read_u64(binding + _IMAGE + 8) == agent):
            return binding
    for handle in firmware.handles.find(guids.DRIVER_BINDING_PROTOCOL):
        binding = firmware.handles.interface(handle, guids.DRIVER_BINDING_PROTOCOL)
        if binding and firmware.memory.read_u64(binding + _IMAGE) == agent:
            return binding
    return None


def disconnect(firmware: "Firmware", controller: int, agent: int, child: int | None) -> Steps:
    """Stop one driver on a controller, for one child or altogether. The status of its Stop."""
    handles = firmware.handles
    binding = _binding_of(firmware, agent)
    if binding is None:
        return Status.UNSUPPORTED
    stop = firmware.memory.read_u64(binding + _STOP)
    children = handles.children_of(controller, agent)
    if child is not None:
        children = [c for c in children if c == child]
        if not children:
            return Status.NOT_FOUND
    status = Status.SUCCESS
    if children:
        buffer = firmware.pool(8 * len(children))
        firmware.memory.write(buffer, b"".join(c.to_bytes(8, "little") for c in children))
        status = yield GuestCall(stop, binding, controller, len(children), buffer)
        firmware.free_pool(buffer)
        if status:
            return Status.DEVICE_ERROR
    if child is None or not handles.children_of(controller, agent):
        if controller not in handles:
            return Status.SUCCESS
        status = yield GuestCall(stop, binding, controller, 0, 0)
        if status:
            return Status.DEVICE_ERROR
    return Status.SUCCESS


class DriverServices(BootServicesPart):
    """ConnectController and DisconnectController."""

    @function(
        0x108, "ConnectController(ptr ControllerHandle, ptr DriverImageHandle, ptr RemainingDevicePath, bool Recursive)"
    )
    def connect_controller(self, cpu: Cpu, controller: int, drivers: int, remaining: int, recursive: int) -> Steps:
        """Start the drivers that support a controller."""
        firmware = self.firmware
        firmware.handles.protocols(controller)
        first: list[int] = []
        for n in range(256 if drivers else 0):
            image = firmware.memory.read_u64(drivers + 8 * n)
            if not image:
                break
            first.append(image)
        status = yield from self.connect(controller, first, remaining)
        if recursive and controller in firmware.handles:
            seen = {controller}
            todo = self._children(controller)
            while todo:
                child = todo.pop(0)
                if child in seen or child not in firmware.handles:
                    continue
                seen.add(child)
                yield from self.connect(child)
                if child in firmware.handles:
                    todo += self._children(child)
        if status == Status.NOT_FOUND and remaining and self._is_end(remaining):
            return Status.SUCCESS
        return status

    def _is_end(self, path: int) -> bool:
        return self.firmware.memory.read(path, 2) == b"\x7f\xff"

    def _children(self, controller: int) -> list[int]:
        handles = self.firmware.handles
        return [c for agent in handles.drivers_of(controller) for c in handles.children_of(controller, agent)]

    def _bindings(self, controller: int, first: list[int]) -> Generator[GuestCall | Dispatch, int, list[int]]:
        """Driver bindings in order of precedence (7.3.12): the caller's images, the platform's, family, bus, by version."""
        firmware = self.firmware
        chosen = list(first)
        platform = self._interfaces(guids.PLATFORM_DRIVER_OVERRIDE_PROTOCOL)
        for _, override in platform[:1]:
            chosen += yield from self._images_of(override, override, controller)
        families = []
        for handle, family in self._interfaces(guids.DRIVER_FAMILY_OVERRIDE_PROTOCOL):
            version = yield GuestCall(firmware.memory.read_u64(family), family)
            families.append((version & 0xFFFF_FFFF, handle))
        chosen += [handle for _, handle in sorted(families, key=lambda each: -each[0])]
        bus = firmware.handles.interface(controller, guids.BUS_SPECIFIC_DRIVER_OVERRIDE_PROTOCOL)
        if bus:
            chosen += yield from self._images_of(bus, bus)
        found = self._interfaces(guids.DRIVER_BINDING_PROTOCOL)
        order = [
            b for image in chosen for handle, b in found if image in (handle, firmware.memory.read_u64(b + _IMAGE))
        ]
        order += sorted((b for _, b in found), key=lambda b: -firmware.memory.read_u32(b + _VERSION))
        return list(dict.fromkeys(order))

    def _interfaces(self, protocol: Guid) -> list[tuple[int, int]]:
        """Each handle that has `protocol`, with an interface that is not NULL."""
        handles = self.firmware.handles
        found = ((handle, handles.interface(handle, protocol)) for handle in handles.find(protocol))
        return [(handle, interface) for handle, interface in found if interface]

    def _images_of(self, override: int, *arguments: int) -> Generator[GuestCall | Dispatch, int, list[int]]:
        """All that GetDriver of an override protocol names (11.3.1, 11.5.1); it is given the last one and gives the next."""
        memory = self.firmware.memory
        images: list[int] = []
        image_at = self.firmware.pool(8)
        memory.write_u64(image_at, 0)
        while len(images) < _MAXIMUM_OVERRIDES:
            status = yield GuestCall(memory.read_u64(override), *arguments, image_at)
            image = memory.read_u64(image_at)
            if status or image in images:
                break
            images.append(image)
        self.firmware.free_pool(image_at)
        return images

    def connect(self, controller: int, first: list[int] | None = None, remaining: int = 0) -> Steps:
        """Ask every driver binding until none supports the controller any more. NOT_FOUND if none was started."""
        firmware = self.firmware
        started = False
        done: set[int] = set()
        progress = True
        while progress and len(done) < _MAXIMUM_STARTS:
            progress = False
            for binding in (yield from self._bindings(controller, first or [])):
                if binding in done or controller not in firmware.handles:
                    continue
                supported = firmware.memory.read_u64(binding + _SUPPORTED)
                status = yield GuestCall(supported, binding, controller, remaining)
                if status:
                    continue
                done.add(binding)
                start = firmware.memory.read_u64(binding + _START)
                status = yield GuestCall(start, binding, controller, remaining)
                if not status:
                    started = True
                progress = True
            if controller not in firmware.handles:
                break
        return Status.SUCCESS if started else Status.NOT_FOUND

    @function(0x110, "DisconnectController(ptr ControllerHandle, ptr DriverImageHandle, ptr ChildHandle)")
    def disconnect_controller(self, cpu: Cpu, controller: int, image: int, child: int) -> Steps:
        """Stop the drivers of a controller, or one of them, or one child."""
        handles = self.firmware.handles
        handles.protocols(controller)
        if (child and child not in handles) or (image and image not in handles):
            raise EfiError(Status.INVALID_PARAMETER)
        agents = [image] if image else handles.drivers_of(controller)
        stopped = False
        for agent in agents:
            if agent not in handles.drivers_of(controller):
                continue
            status = yield from disconnect(self.firmware, controller, agent, child or None)
            if status == Status.SUCCESS:
                stopped = True
            elif status == Status.DEVICE_ERROR:
                return status
        return Status.SUCCESS if stopped or not agents or not image else Status.NOT_FOUND
