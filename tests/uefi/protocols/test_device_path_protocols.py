"""The three device path protocols, called through guest memory."""

import pytest
from protocol_harness import RAM, Harness

from uefi.device_path import nodes, path
from uefi.protocols.device_path_from_text import DevicePathFromText
from uefi.protocols.device_path_to_text import DevicePathToText
from uefi.protocols.device_path_utilities import DevicePathUtilities

DISK = path.join(nodes.pci_root(), nodes.pci(1, 0))
FILE = path.join(nodes.file_path("\\a.efi"))


@pytest.fixture
def firmware() -> Harness:
    return Harness()


@pytest.fixture
def utilities(firmware: Harness) -> DevicePathUtilities:
    protocol = DevicePathUtilities(firmware)  # type: ignore[arg-type]
    protocol.place()
    return protocol


def test_layout(utilities: DevicePathUtilities) -> None:
    names = [(slot.offset, slot.signature.name) for slot in utilities.SLOTS]
    assert names[0] == (0, "GetDevicePathSize")
    assert names[-1] == (0x38, "CreateDeviceNode")
    assert [offset for offset, _ in names] == list(range(0, 0x40, 8))


def test_size_duplicate_and_append(firmware: Harness, utilities: DevicePathUtilities) -> None:
    disk, file = firmware.put(DISK), firmware.put(FILE)
    assert firmware.call(utilities, "GetDevicePathSize", disk) == len(DISK)
    assert firmware.call(utilities, "GetDevicePathSize", 0) == 0
    copy = firmware.call(utilities, "DuplicateDevicePath", disk)
    assert copy != disk
    assert path.read(firmware.memory, copy) == DISK
    firmware.free_pool(copy)
    assert firmware.call(utilities, "DuplicateDevicePath", 0) == 0
    both = firmware.call(utilities, "AppendDevicePath", disk, file)
    assert path.read(firmware.memory, both) == path.append(DISK, FILE)
    for first, second, expected in ((0, file, FILE), (disk, 0, DISK), (0, 0, path.END_PATH)):
        assert path.read(firmware.memory, firmware.call(utilities, "AppendDevicePath", first, second)) == expected
    # A node is its own bytes: the path's first one here.
    joined = firmware.call(utilities, "AppendDeviceNode", disk, file)
    assert path.read(firmware.memory, joined) == path.append(DISK, FILE)


def test_instances(firmware: Harness, utilities: DevicePathUtilities) -> None:
    disk, file = firmware.put(DISK), firmware.put(FILE)
    both = firmware.call(utilities, "AppendDevicePathInstance", disk, file)
    assert firmware.call(utilities, "IsDevicePathMultiInstance", both) == 1
    assert firmware.call(utilities, "IsDevicePathMultiInstance", disk) == 0
    assert firmware.call(utilities, "IsDevicePathMultiInstance", 0) == 0
    assert firmware.call(utilities, "AppendDevicePathInstance", disk, 0) == 0
    cursor, size = firmware.put(both.to_bytes(8, "little")), firmware.room()
    first = firmware.call(utilities, "GetNextDevicePathInstance", cursor, size)
    assert path.read(firmware.memory, first) == DISK
    assert firmware.memory.read_u64(size) == len(DISK)
    second = firmware.call(utilities, "GetNextDevicePathInstance", cursor, 0)
    assert path.read(firmware.memory, second) == FILE
    assert firmware.memory.read_u64(cursor) == 0
    assert firmware.call(utilities, "GetNextDevicePathInstance", cursor, size) == 0
    assert firmware.memory.read_u64(size) == 0


def test_create_node(firmware: Harness, utilities: DevicePathUtilities) -> None:
    node = firmware.call(utilities, "CreateDeviceNode", 4, 3, 20)
    assert firmware.memory.read(node, 20) == b"\x04\x03\x14\x00" + bytes(16)
    assert firmware.call(utilities, "CreateDeviceNode", 4, 3, 3) == 0


def test_bad_pointers_and_bad_paths_give_null(firmware: Harness, utilities: DevicePathUtilities) -> None:
    endless = firmware.put(nodes.pci(0, 0).to_bytes() * 12000)
    for address in (RAM + 0x1000, 1 << 60, firmware.put(bytes(64)), endless):
        for name in ("GetDevicePathSize", "DuplicateDevicePath", "IsDevicePathMultiInstance"):
            assert firmware.call(utilities, name, address) == 0
        for name in ("AppendDevicePath", "AppendDeviceNode", "AppendDevicePathInstance"):
            assert firmware.call(utilities, name, address, address) == 0
        assert firmware.call(utilities, "GetNextDevicePathInstance", address, address) == 0


def test_text_both_ways(firmware: Harness) -> None:
    to_text, from_text = DevicePathToText(firmware), DevicePathFromText(firmware)  # type: ignore[arg-type]
    to_text.place()
    from_text.place()
    text = "PciRoot(0x0)/Pci(0x1,0x0)/\\a.efi"
    made = firmware.call(from_text, "ConvertTextToDevicePath", firmware.put_text(text))
    assert path.read(firmware.memory, made) == path.append(DISK, FILE)
    back = firmware.call(to_text, "ConvertDevicePathToText", made, 0, 0)
    assert firmware.memory.read_ucs2(back) == text
    node = firmware.call(from_text, "ConvertTextToDeviceNode", firmware.put_text("CDROM(1,2,3)"))
    assert firmware.memory.read(node, 24) == nodes.cdrom(1, 2, 3).to_bytes()
    shown = firmware.call(to_text, "ConvertDeviceNodeToText", node, 1, 0)
    assert firmware.memory.read_ucs2(shown) == "CDROM(0x1)"
    for name in ("ConvertTextToDevicePath", "ConvertTextToDeviceNode"):
        assert firmware.call(from_text, name, 0) == 0
        assert firmware.call(from_text, name, firmware.put_text("Pci(zzz)")) == 0
        assert firmware.call(from_text, name, 1 << 60) == 0
    for name in ("ConvertDevicePathToText", "ConvertDeviceNodeToText"):
        assert firmware.call(to_text, name, 0, 0, 0) == 0
        assert firmware.call(to_text, name, firmware.put(bytes(8)), 0, 0) == 0
