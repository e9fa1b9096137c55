"""The graph of a snapshot: what goes in comes out, identity and cycles too; what is not listed is neither written nor read."""

import importlib
import inspect
import pkgutil
from array import array
from collections import deque
from collections.abc import Iterator
from functools import partial
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvmboot.snapshots.errors import BadState, NotState
from cvmboot.snapshots.graph import Decoder, Encoder, Given
from cvmboot.snapshots.registry import Registry
from cvmboot.snapshots.state import REGISTRY
from cvmboot.snapshots.state_classes import CLASSES
from machine import callbacks
from machine.bus import Bus
from machine.clock import VirtualClock
from machine.cpu import Fault
from machine.devices.gvnic.queue import Settings
from machine.paging import IdentityMap, Mode
from uefi.guids import Guid


def through(value, registry=REGISTRY, given=None):
    named = given or {}
    return Decoder(registry, named).decode(Encoder(registry, named).encode(value))


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 200), 1 << 200)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.binary().map(bytearray)
    | st.builds(range, st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 3)),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.lists(inner).map(deque)
        | st.dictionaries(st.text() | st.integers() | st.tuples(st.integers(), st.text()), inner)
        | st.sets(st.integers() | st.text())
        | st.frozensets(st.binary())
    ),
    max_leaves=30,
)


@given(plain)
def test_plain_data_comes_back_as_it_was(value):
    again = through(value)
    assert again == value
    assert repr(again) == repr(value) or isinstance(value, (set, dict, list, tuple, deque, frozenset))


@pytest.mark.parametrize("text", ["\ud800", "\udfff x", "\0", "\U0001f600"])
def test_text_of_utf_16_comes_back(text):
    assert through([text, {text: text}]) == [text, {text: text}]


def test_identity_and_cycles():
    shared = [1]
    knot = {"self": None, "twice": (shared, shared), "queue": deque([shared], maxlen=3)}
    knot["self"] = knot
    again = through(knot)
    assert again["self"] is again
    assert again["twice"][0] is again["twice"][1] is again["queue"][0]
    assert again["queue"].maxlen == 3


def test_objects_callbacks_and_what_is_like_bytes():
    bus = Bus()
    settings = Settings(*range(len(Settings._fields)))
    clock = VirtualClock()
    clock.jump_to(77)
    heard = Fault(14, 2, 0x1000)
    bus.add_ports(0x80, 2, callbacks.zero, partial(bus.port_write, None, 0x81))
    state = {
        "bus": bus,
        "clock": clock,
        "fault": heard,
        "now": clock.now,
        "guid": Guid(bytes(range(16))),
        "class": Mode,
        "constant": callbacks.Constant((1, 2)),
        "array": array("I", [1, 2, 3]),
        "settings": settings,
        "random": Random(5),
    }
    again = through(state)
    assert again["bus"].port_read(None, 0x80, 1) == 0
    assert again["bus"]._port_writes[0x81][0].func.__self__ is again["bus"]
    assert again["now"].__self__ is again["clock"]
    assert again["now"]() == 77
    assert (again["fault"].vector, again["fault"].address) == (14, 0x1000)
    assert type(again["guid"]) is Guid
    assert again["guid"] == state["guid"]
    assert again["class"] is Mode
    assert again["constant"]("whatever") == (1, 2)
    assert again["array"] == state["array"]
    assert type(again["settings"]) is Settings
    assert again["settings"] == settings
    assert again["random"].random() == Random(5).random()


class NotListed:
    pass


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"here": [NotListed()]}, r"\['here'\]\[\]: .*NotListed is not registered"),
        ([lambda: None], "<lambda> is not registered"),
        ({"print": print}, "builtins:print is not registered"),
        ([open.__class__], "not registered as state"),
        ([Decoder.decode], "not registered"),
        ([partial(print, 1)], "print is not registered"),
        ([NotListed().__init__], "not registered"),
    ],
)
def test_what_is_not_listed_is_not_written_and_the_way_to_it_is_told(value, said):
    with pytest.raises(NotState, match=said):
        Encoder(REGISTRY, {}).encode(value)


def test_of_the_hosts_objects_only_the_methods_that_are_named_are_callbacks():
    class Console:
        def write(self, data):
            return len(data)

        def close(self):
            pytest.fail("closed")

    console = Console()
    named = {"console": Given(console, "write")}
    assert through([console.write], given=named)[0](b"abc") == 3
    with pytest.raises(NotState, match="close"):
        Encoder(REGISTRY, named).encode([console.close])
    data = Encoder(REGISTRY, {"console": Given(console, "write", "close")}).encode([console.close])
    with pytest.raises(BadState, match="close"):
        Decoder(REGISTRY, named).decode(data)
    with pytest.raises(BadState, match="'console', which this machine does not have"):
        Decoder(REGISTRY, {}).decode(data)


def test_a_reader_that_lists_less_refuses():
    data = Encoder(REGISTRY, {}).encode([Bus()])
    with pytest.raises(BadState, match=r"machine\.bus:Bus"):
        Decoder(Registry({}, {}), {}).decode(data)


# -- the list


def classes_in(package: str) -> Iterator[type]:
    """Classes that are made in the modules of a package; no exceptions, no protocols."""
    root = importlib.import_module(package)
    names = [package, *(found.name for found in pkgutil.walk_packages(getattr(root, "__path__", []), package + "."))]
    for name in names:
        for found in vars(importlib.import_module(name)).values():
            own = inspect.isclass(found) and found.__module__ == name and not getattr(found, "_is_protocol", False)
            if own and not issubclass(found, BaseException) and not inspect.isabstract(found):
                yield found


NOT_STATE = {
    **dict.fromkeys(("machine.boards.board:Board", "machine.devices.gvnic.queue:Queue"), "a base class"),
    **dict.fromkeys(("machine.devices.gvnic.queue:ReceiveQueue", "machine.devices.gvnic.queue:TransmitQueue"), "bases"),
    **dict.fromkeys(("machine.devices.virtio.device:VirtioDevice", "machine.devices.virtio.pci:VirtioPci"), "bases"),
    **dict.fromkeys(("machine.pci.device:PciDevice", "uefi.interface:Interface"), "base classes"),
    **dict.fromkeys(("machine.devices.gvnic.offload:Headers", "machine.interrupts.local_apic:Ipi"), "during a call"),
    **dict.fromkeys(("sev.guest.ghcb_page:GhcbPage", "sev.guest.vmsa:Vmsa"), "a view, during a call"),
    **dict.fromkeys(("sev.guest.message:Message", "sev.guest.message:SealedMessage"), "during a call"),
    **dict.fromkeys(
        ("uefi.compression:_Code", "uefi.compression:_Decoder", "uefi.device_path.nodes:Node"), "in a call"
    ),
    **dict.fromkeys(("uefi.interface:Dispatch", "uefi.interface:GuestCall"), "what generators yield"),
    **dict.fromkeys(("uefi.interface:Slot", "uefi.signature:Signature"), "of classes, not of objects"),
    **dict.fromkeys(("uefi.firmware:Outcome", "uefi.hii.strings:_BlockReader", "uefi.graphics.blt:BltBuffer"), "call"),
    **dict.fromkeys(("uefi.tables.acpi:AcpiSettings", "uefi.tables.smbios:SmbiosSettings"), "when tables are made"),
    **dict.fromkeys(("uefi.tables.smbios:_Strings", "uefi.status:Status"), "when tables are made; numbers"),
    "uefi.variables.nv_file:NvFile": "the host's file",
}
"""Classes of a machine's packages whose objects are never part of its state, and why."""
_OF_CALLS = ("uefi.security.", "uefi.variables.authentication", "uefi.variables.rules")


@pytest.mark.parametrize(
    "package", ["machine.devices", "machine.pci", "machine.interrupts", "machine.boards", "sev.guest", "uefi"]
)
def test_every_class_of_a_machine_is_listed_or_known_not_to_be_state(package):
    missing = [
        name
        for name in map(Registry.name, classes_in(package))
        if name.partition(":")[2] not in CLASSES.get(name.partition(":")[0], ())
        and name not in NOT_STATE
        and not name.startswith(_OF_CALLS)
        and not (name.startswith(("uefi.boot_services.", "uefi.runtime_services.")) and ("Services" in name))
    ]
    assert not missing, "add them to cvmboot/snapshots/state_classes.py, or to NOT_STATE here with the reason"


def test_every_listed_name_is_a_class_that_can_be_made_without_its_constructor():
    for name in REGISTRY.classes:
        kind = REGISTRY.find(name)
        assert inspect.isclass(kind), name
        assert not issubclass(kind, BaseException), name
        if not issubclass(kind, bytes | tuple):
            assert type(object.__new__(kind)) is kind
    for name in REGISTRY.functions:
        assert callable(REGISTRY.function(name))


@pytest.mark.parametrize(
    "name",
    [
        *("images.block:FileDevice", "images.host_file:HostFile", "images.host_folder:HostFolder"),
        *("images.folder_disk:FolderDisk", "uefi.variables.nv_file:NvFile", "sev.platform.platform:Platform"),
        *("cvmboot.power:PoweredMachine", "machine.computer:Computer", "machine.memory:PhysicalMemory"),
        *("machine.net.gateway:Gateway", "machine.net.passt:PasstBackend", "machine.net.tap:TapBackend"),
        *("cvmboot.trace_file:TraceFile", "machine.net.pcap:Capture", "machine.gdb.server:GdbServer"),
    ],
)
def test_what_touches_the_host_is_not_listed(name):
    module, _, attribute = name.partition(":")
    assert inspect.isclass(getattr(importlib.import_module(module), attribute)), "renamed: look where it is now"
    assert name not in REGISTRY.classes
    with pytest.raises(BadState, match="nothing that a machine is made of"):
        REGISTRY.find(name)


def test_slots_of_a_listed_class_are_all_that_it_can_get():
    data = Encoder(REGISTRY, {}).encode(Fault(3))
    with pytest.raises(BadState, match="no such attributes"):
        Decoder(REGISTRY, {}).decode(data.replace(b'"software"', b'"softwarf"'))
    assert REGISTRY.slots(IdentityMap) is None or isinstance(REGISTRY.slots(IdentityMap), frozenset)
