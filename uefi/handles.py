"""The handle and protocol database (UEFI 2.10, 7.3)."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from uefi.guids import Guid
from uefi.interface import Interface
from uefi.status import EfiError, Status

if TYPE_CHECKING:
    from uefi.firmware import Firmware

BY_HANDLE_PROTOCOL, GET_PROTOCOL, TEST_PROTOCOL, BY_CHILD_CONTROLLER, BY_DRIVER, EXCLUSIVE = 1, 2, 4, 8, 16, 32


class OpenInformation:
    """EFI_OPEN_PROTOCOL_INFORMATION_ENTRY."""

    __slots__ = ("agent", "attributes", "controller", "count")

    def __init__(self, agent: int, controller: int, attributes: int) -> None:
        self.agent = agent
        self.controller = controller
        self.attributes = attributes
        self.count = 1


class Protocol:
    """A protocol on a handle: its interface's address and who has it open."""

    __slots__ = ("guid", "interface", "opens")

    def __init__(self, guid: Guid, interface: int) -> None:
        self.guid = guid
        self.interface = interface
        self.opens: list[OpenInformation] = []


class Registration:
    """A RegisterProtocolNotify: handles that got the protocol and were not asked for yet."""

    __slots__ = ("event", "guid", "new")

    def __init__(self, guid: Guid, event: int) -> None:
        self.guid = guid
        self.event = event
        self.new: list[int] = []


class Handles:
    """Handles and their protocols. A handle is the address of a small piece of pool memory, never used again while in use."""

    def __init__(self, firmware: "Firmware") -> None:
        self._firmware = firmware
        self._handles: dict[int, dict[bytes, Protocol]] = {}
        self._by_guid: dict[bytes, dict[int, None]] = {}
        self._registrations: dict[int, Registration] = {}
        self._offers: dict[bytes, Callable[[], object]] = {}
        self.key = 0
        """Grows with every change of the database; ConnectController looks at it."""

    def __contains__(self, handle: int) -> bool:
        return handle in self._handles

    def offer(self, guid: Guid, make: "Callable[[], Interface]") -> None:
        """Install a protocol on a handle of its own when somebody first looks for it: most images never do."""
        self._offers[guid] = partial(self._install_offered, guid, make)

    def offer_devices(self, protocols: Iterable[Guid], install: "Callable[[], None]") -> None:
        """Have `install` make handles, once, when somebody first looks for any of these protocols."""
        offered = list(protocols)
        for guid in offered:
            self._offers[guid] = partial(self._install_devices, offered, install)

    def _install_offered(self, guid: Guid, make: "Callable[[], Interface]") -> None:
        self.install(None, guid, make())

    def _install_devices(self, offered: list[Guid], install: "Callable[[], None]") -> None:
        for guid in offered:
            self._offers.pop(guid, None)
        install()

    def _take_up(self, guid: bytes) -> None:
        make = self._offers.pop(guid, None)
        if make is not None:
            make()

    def all(self) -> list[int]:
        """Every handle in the order of their making."""
        for guid in list(self._offers):
            self._take_up(guid)
        return list(self._handles)

    def protocols(self, handle: int) -> dict[bytes, Protocol]:
        """The protocols of a handle by GUID; EfiError(INVALID_PARAMETER) if it is none."""
        found = self._handles.get(handle)
        if found is None:
            raise EfiError(Status.INVALID_PARAMETER)
        return found

    def protocol(self, handle: int, guid: bytes) -> Protocol:
        """One protocol of a handle. INVALID_PARAMETER for a bad handle, UNSUPPORTED if it has no such protocol."""
        found = self.protocols(handle).get(guid)
        if found is None:
            raise EfiError(Status.UNSUPPORTED)
        return found

    def install(self, handle: int | None, guid: Guid, interface: "int | Interface") -> int:
        """Put a protocol on a handle, a new one if None. INVALID_PARAMETER if the handle is bad or has it already."""
        if isinstance(interface, Interface):
            interface = interface.address or interface.place()
        if handle is None:
            handle = self._firmware.pool(16)
            self._handles[handle] = {}
        protocols = self.protocols(handle)
        if guid in protocols:
            raise EfiError(Status.INVALID_PARAMETER)
        protocols[guid] = Protocol(guid, interface)
        self._by_guid.setdefault(guid, {})[handle] = None
        self.key += 1
        self._announce(handle, guid)
        return handle

    def _announce(self, handle: int, guid: bytes) -> None:
        for registration in self._registrations.values():
            # A registration outlives its event; nobody is told then, but the handles can still be asked for.
            if registration.guid == guid:
                registration.new.append(handle)
                if registration.event in self._firmware.events:
                    self._firmware.events.signal(registration.event)

    def reinstalled(self, handle: int, guid: Guid, interface: int) -> None:
        """Replace the interface of a protocol and announce it anew."""
        protocol = self.protocol(handle, guid)
        protocol.interface = interface
        self.key += 1
        self._announce(handle, guid)

    def uninstall(self, handle: int, guid: bytes) -> None:
        """Take a protocol that nobody holds by driver off a handle; the handle goes with its last protocol."""
        protocols = self.protocols(handle)
        protocols.pop(guid)
        del self._by_guid[guid][handle]
        self.key += 1
        for registration in self._registrations.values():
            if registration.guid == guid and handle in registration.new:
                registration.new.remove(handle)
        if not protocols:
            del self._handles[handle]
            self._firmware.free_pool(handle)

    def interface(self, handle: int, guid: bytes) -> int | None:
        """The address of a handle's protocol, None if it has none."""
        found = self._handles.get(handle, {}).get(guid)
        return None if found is None else found.interface

    def find(self, guid: bytes) -> list[int]:
        """The handles that have a protocol, in the order in which they got it."""
        if guid in self._offers:
            self._take_up(guid)
        return list(self._by_guid.get(guid, ()))

    def register(self, guid: Guid, event: int) -> int:
        """RegisterProtocolNotify: the registration key."""
        self._firmware.events.get(event)
        key = self._firmware.pool(16)
        registration = Registration(guid, event)
        registration.new = self.find(guid)
        self._registrations[key] = registration
        return key

    def registration(self, key: int) -> Registration:
        """The registration behind a key; EfiError(INVALID_PARAMETER) if there is none."""
        found = self._registrations.get(key)
        if found is None:
            raise EfiError(Status.INVALID_PARAMETER)
        return found

    # -- who has what open (UEFI 2.10, 7.3.9)

    def open(self, handle: int, guid: bytes, agent: int, controller: int, attributes: int) -> int:
        """OpenProtocol's accounting for attributes that are granted already: add or count an opening."""
        protocol = self.protocol(handle, guid)
        for entry in protocol.opens:
            if (entry.agent, entry.controller, entry.attributes) == (agent, controller, attributes):
                entry.count += 1
                return protocol.interface
        protocol.opens.append(OpenInformation(agent, controller, attributes))
        return protocol.interface

    def close(self, handle: int, guid: bytes, agent: int, controller: int) -> None:
        """CloseProtocol. NOT_FOUND if the agent does not have it open."""
        protocol = self.protocols(handle).get(guid)
        if protocol is None:
            raise EfiError(Status.NOT_FOUND)
        kept = [o for o in protocol.opens if (o.agent, o.controller) != (agent, controller)]
        if len(kept) == len(protocol.opens):
            raise EfiError(Status.NOT_FOUND)
        protocol.opens = kept

    def drivers_of(self, handle: int, guid: bytes | None = None) -> list[int]:
        """The driver image handles that manage a controller through one of its protocols, each once."""
        agents: dict[int, None] = {}
        for name, protocol in self.protocols(handle).items():
            if guid is None or name == guid:
                for entry in protocol.opens:
                    if entry.attributes & BY_DRIVER:
                        agents[entry.agent] = None
        return list(agents)

    def children_of(self, handle: int, agent: int) -> list[int]:
        """The child handles that a driver made on a controller."""
        children: dict[int, None] = {}
        for protocol in self.protocols(handle).values():
            for entry in protocol.opens:
                if entry.attributes & BY_CHILD_CONTROLLER and entry.agent == agent:
                    children[entry.controller] = None
        return list(children)

    def forget_agent(self, agent: int) -> None:
        """Drop every opening of an image that goes away."""
        for protocols in self._handles.values():
            for protocol in protocols.values():
                protocol.opens = [o for o in protocol.opens if o.agent != agent]
