"""Device path nodes and whole paths: layouts, joining, instances, hostile bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uefi.device_path import nodes, path
from uefi.device_path.nodes import DevicePathError, Node
from uefi.guids import Guid

GUID = Guid.parse("12345678-9abc-def0-1122-334455667788")


@pytest.mark.parametrize(
    ("node", "raw"),
    [
        (nodes.pci_root(0), "02010c00d041030a00000000"),
        (nodes.pci(0x1F, 2), "010106000 21f".replace(" ", "")),
        (nodes.acpi("PNP0501", 1), "02010c00d041010501000000"),
        (nodes.uart(115200), "030e1300000000000 0c20100000000000 80101".replace(" ", "")),
        (nodes.sata(1, 0xFFFF, 0), "03120a000100ffff0000"),
        (nodes.file_path("\\A"), "04040a005c0041000000"),
        (nodes.vendor_hardware(GUID, b"\x01"), "01041500" + bytes(GUID).hex() + "01"),
        (nodes.mac(bytes.fromhex("525400123456")), "030b2500525400123456" + "00" * 26 + "01"),
        (
            nodes.hard_drive_gpt(1, 2048, 4096, GUID),
            "04012a0001000000000800000000000000100000000000 00".replace(" ", "") + bytes(GUID).hex() + "0202",
        ),
        (
            nodes.hard_drive_mbr(2, 63, 64, 0xCAFEBABE),
            "04012a00020000003f000000000000004000000000000000bebafeca" + "00" * 12 + "0101",
        ),
        (nodes.END_ENTIRE, "7fff0400"),
        (nodes.END_INSTANCE, "7f010400"),
    ],
)
def test_nodes_have_the_bytes_of_the_specification(node: Node, raw: str) -> None:
    assert node.to_bytes().hex() == raw


def test_fields_come_back_by_name() -> None:
    fields = nodes.hard_drive_mbr(2, 63, 64, 0xCAFEBABE).fields()
    assert fields["PartitionNumber"] == 2
    assert fields["Signature"][:4] == bytes.fromhex("bebafeca")
    assert nodes.pci(3, 1).fields() == {"Function": 1, "Device": 3}


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [((9, 9), {}), ((1, 1), {"Devices": 1}), ((1, 1), {"Device": 256}), ((1, 1), {"Device": b"x"})],
)
def test_build_refuses_what_does_not_fit(kind: tuple[int, int], wrong: dict[str, int | bytes]) -> None:
    with pytest.raises(DevicePathError):
        nodes.build(kind[0], kind[1], **wrong)


def test_node_of_64_kib_is_refused() -> None:
    assert len(Node(4, 3, bytes(65531)).to_bytes()) == 65535
    with pytest.raises(DevicePathError, match="65532"):
        Node(4, 3, bytes(65532))


@pytest.mark.parametrize("text", ["PNP0", "PNP0A0G", "1NP0A03", "PNP0A034"])
def test_wrong_eisa_identifiers(text: str) -> None:
    with pytest.raises(DevicePathError, match="EISA"):
        nodes.eisa_id(text)


def test_eisa_identifier_of_other_vendors() -> None:
    assert nodes.eisa_id("PNP0A08") == 0x0A0841D0
    assert nodes.eisa_id("AAA1234") == 0x12340421


DISK = path.join(nodes.pci_root(), nodes.pci(1, 0), nodes.hard_drive_gpt(1, 34, 100, GUID))
FILE = path.join(nodes.file_path("\\EFI\\BOOT\\BOOTX64.EFI"))


def test_append_keeps_one_end_node() -> None:
    whole = path.append(DISK, FILE)
    assert whole == path.join(*path.parse(DISK), *path.parse(FILE))
    assert whole.count(path.END_PATH) == 1
    assert path.append(None, FILE) == FILE
    assert path.append(DISK, None) == DISK
    assert path.append(None, None) == path.END_PATH == path.append_node(None, None)
    assert path.append_node(DISK, path.parse(FILE)[0]) == whole
    assert path.append_node(None, path.parse(FILE)[0]) == FILE


def test_instances_are_taken_one_by_one() -> None:
    both = path.append_instance(path.append_instance(None, DISK), FILE)
    assert path.is_multi_instance(both)
    assert not path.is_multi_instance(DISK)
    first, after = path.next_instance(both)
    assert first == DISK
    assert after is not None
    assert path.next_instance(both[after:]) == (FILE, None)


def test_size_ends_at_the_end_node() -> None:
    assert path.size(DISK + b"garbage") == len(DISK)
    assert path.size(path.END_PATH) == 4


def test_created_node_is_zero() -> None:
    assert path.create_node(4, 3, 8).to_bytes() == b"\x04\x03\x08\x00\0\0\0\0"
    with pytest.raises(DevicePathError, match="3 bytes"):
        path.create_node(4, 3, 3)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "no end node"),
        (b"\x01\x01\x06", "no end node"),
        (b"\x01\x01\x03\x00", "length 3"),
        (b"\x01\x01\x00\x00" * 4, "length 0"),
        (b"\x01\x01\xff\xff" + bytes(8), "only 12 bytes"),
        (nodes.pci(0, 0).to_bytes(), "no end node"),
        (b"\x7f\x55\x04\x00", "subtype 0x55"),
        (nodes.pci(0, 0).to_bytes() * 20000 + path.END_PATH, "only 4 bytes"),
    ],
)
def test_hostile_paths_are_refused(raw: bytes, message: str) -> None:
    with pytest.raises(DevicePathError, match=message):
        path.parse(raw)


def test_joining_stops_at_64_kib() -> None:
    big = path.join(Node(4, 3, bytes(40000)))
    with pytest.raises(DevicePathError, match="65536"):
        path.append(big, big)


class Memory:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, address: int, size: int) -> bytes:
        if address + size > len(self.data):
            raise MemoryError("outside")
        return self.data[address : address + size]


def test_reading_from_memory() -> None:
    memory = Memory(b"xx" + DISK + b"\x01\x01\x02\x00" + nodes.pci(0, 0).to_bytes() * 20000)
    assert path.read(memory, 2) == DISK
    assert path.read_node(memory, 2) == nodes.pci_root()
    with pytest.raises(DevicePathError, match="length 2"):
        path.read(memory, 2 + len(DISK))
    with pytest.raises(DevicePathError, match="no end node"):
        path.read(memory, 6 + len(DISK))
    with pytest.raises(MemoryError):
        path.read(memory, len(memory.data) - 8)


@given(st.binary(max_size=200))
def test_any_bytes_parse_or_are_refused(raw: bytes) -> None:
    try:
        found = path.parse(raw)
    except DevicePathError:
        return
    assert path.size(path.join(*found)) <= len(raw)
    assert path.parse(path.join(*found)) == found


@given(st.lists(st.builds(Node, st.integers(1, 6), st.integers(0, 255), st.binary(max_size=30)), max_size=8))
def test_join_and_parse_agree(found: list[Node]) -> None:
    assert path.parse(path.join(*found)) == found
