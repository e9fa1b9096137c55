"""Device path nodes: their binary layouts, building and parsing (UEFI 2.10, 10.3)."""

import struct
from functools import cache
from typing import Any

from uefi.guids import Guid

HARDWARE = 0x01
ACPI = 0x02
MESSAGING = 0x03
MEDIA = 0x04
BBS = 0x05
END = 0x7F
END_INSTANCE_SUBTYPE = 0x01
END_ENTIRE_SUBTYPE = 0xFF

HEADER_SIZE = 4
MAX_NODE_SIZE = 0xFFFF

# Size of a whole path, in bytes, above which it is taken for garbage: real ones stay under 1 KiB.
MAX_PATH_SIZE = 0x10000


class DevicePathError(ValueError):
    """A device path, or its text, that does not follow UEFI 2.10 chapter 10; the message names the value seen."""


# Fields after the four header bytes, in order, as "Name:struct-code"; "Name:*" is the rest of the node and "Name:z" a
# NUL-terminated ASCII string. Names and order come from the tables of UEFI 2.10, 10.3.2 to 10.3.5.
_LAYOUTS: dict[tuple[int, int], str] = {
    (HARDWARE, 1): "Function:B Device:B",
    (HARDWARE, 2): "FunctionNumber:B",
    (HARDWARE, 3): "MemoryType:I StartAddress:Q EndAddress:Q",
    (HARDWARE, 4): "Guid:16s Data:*",
    (HARDWARE, 5): "ControllerNumber:I",
    (HARDWARE, 6): "InterfaceType:B BaseAddress:Q",
    (ACPI, 1): "HID:I UID:I",
    (ACPI, 2): "HID:I UID:I CID:I HIDSTR:z UIDSTR:z CIDSTR:z",
    (ACPI, 3): "ADR:*",
    (ACPI, 4): "NFITDeviceHandle:I",
    (MESSAGING, 1): "PrimarySecondary:B SlaveMaster:B LUN:H",
    (MESSAGING, 2): "PUN:H LUN:H",
    (MESSAGING, 3): "Reserved:I WWN:Q LUN:Q",
    (MESSAGING, 4): "Reserved:I Guid:Q",
    (MESSAGING, 5): "Port:B Interface:B",
    (MESSAGING, 6): "TID:I",
    (MESSAGING, 9): "ResourceFlags:I PortGid:16s ServiceId:Q TargetPortId:Q DeviceId:Q",
    (MESSAGING, 10): "Guid:16s Data:*",
    (MESSAGING, 11): "MacAddress:32s IfType:B",
    (MESSAGING, 12): "LocalIp:4s RemoteIp:4s LocalPort:H RemotePort:H Protocol:H StaticIp:B Gateway:4s SubnetMask:4s",
    (MESSAGING, 13): (
        "LocalIp:16s RemoteIp:16s LocalPort:H RemotePort:H Protocol:H Origin:B PrefixLength:B Gateway:16s"
    ),
    (MESSAGING, 14): "Reserved:I BaudRate:Q DataBits:B Parity:B StopBits:B",
    (MESSAGING, 15): "VID:H PID:H DeviceClass:B DeviceSubClass:B DeviceProtocol:B",
    (MESSAGING, 16): "InterfaceNumber:H VID:H PID:H SerialNumber:*",
    (MESSAGING, 17): "LUN:B",
    (MESSAGING, 18): "HPN:H PMPN:H LUN:H",
    (MESSAGING, 19): "Protocol:H Options:H LUN:8s PortalGroup:H TargetName:*",
    (MESSAGING, 20): "VlanId:H",
    (MESSAGING, 21): "Reserved:I WWN:8s LUN:8s",
    (MESSAGING, 22): "Address:8s LUN:8s DeviceTopology:H RTP:H",
    (MESSAGING, 23): "NamespaceId:I NamespaceUuid:8s",
    (MESSAGING, 24): "Uri:*",
    (MESSAGING, 25): "PUN:B LUN:B",
    (MESSAGING, 26): "SlotNumber:B",
    (MESSAGING, 27): "BdAddr:6s",
    (MESSAGING, 28): "SSID:32s",
    (MESSAGING, 29): "SlotNumber:B",
    (MESSAGING, 30): "BdAddr:6s AddressType:B",
    (MESSAGING, 31): "IsIPv6:B Instance:*",
    (MESSAGING, 32): "Uuid:16s",
    (MEDIA, 1): "PartitionNumber:I PartitionStart:Q PartitionSize:Q Signature:16s PartitionFormat:B SignatureType:B",
    (MEDIA, 2): "BootEntry:I PartitionStart:Q PartitionSize:Q",
    (MEDIA, 3): "Guid:16s Data:*",
    (MEDIA, 4): "PathName:*",
    (MEDIA, 5): "Guid:16s",
    (MEDIA, 6): "Guid:16s",
    (MEDIA, 7): "Guid:16s",
    (MEDIA, 8): "Reserved:I StartingOffset:Q EndingOffset:Q",
    (MEDIA, 9): "StartingAddress:Q EndingAddress:Q Guid:16s DiskInstance:H",
    (BBS, 1): "DeviceType:H StatusFlag:H Description:z",
}


@cache
def layout(node_type: int, subtype: int) -> tuple[struct.Struct, tuple[str, ...], str, tuple[str, ...]] | None:
    """Fixed part, its field names, name of the "rest" field (or ""), names of the strings; None for an unknown node."""
    text = _LAYOUTS.get((node_type, subtype))
    if text is None:
        return None
    codes, names, rest, strings = "<", [], "", []
    for field in text.split():
        name, code = field.split(":")
        if code == "*":
            rest = name
        elif code == "z":
            strings.append(name)
        else:
            codes += code
            names.append(name)
    return struct.Struct(codes), tuple(names), rest, tuple(strings)


class Node:
    """One EFI_DEVICE_PATH_PROTOCOL node: type, subtype and the bytes after its four header bytes."""

    __slots__ = ("data", "subtype", "type")

    def __init__(self, node_type: int, subtype: int, data: bytes = b"") -> None:
        """Raises DevicePathError when the node would pass 65,535 bytes or a type does not fit a byte."""
        if len(data) > MAX_NODE_SIZE - HEADER_SIZE:
            raise DevicePathError(f"device path node has {len(data)} data bytes, at most 65531 fit")
        if not 0 <= node_type <= 0xFF or not 0 <= subtype <= 0xFF:
            raise DevicePathError(f"device path node type {node_type}/{subtype}, wanted two bytes")
        self.type = node_type
        self.subtype = subtype
        self.data = data

    def to_bytes(self) -> bytes:
        """The node as it lies in memory: Type, SubType, Length (16-bit, little-endian, header included), data."""
        return struct.pack("<BBH", self.type, self.subtype, HEADER_SIZE + len(self.data)) + self.data

    @property
    def is_end(self) -> bool:
        """True for both end nodes: of an instance and of the entire path (10.3.1)."""
        return self.type == END

    @property
    def ends_path(self) -> bool:
        """True for the End Entire Device Path node only."""
        return self.type == END and self.subtype == END_ENTIRE_SUBTYPE

    def fields(self) -> dict[str, Any]:
        """The node's fields by the specification's names: int, or bytes for arrays, strings and GUIDs.

        Raises DevicePathError for an unknown node or one shorter than its layout.
        """
        form = layout(self.type, self.subtype)
        if form is None:
            raise DevicePathError(f"no layout known for device path node {self.type:#x}/{self.subtype:#x}")
        fixed, names, rest, strings = form
        if len(self.data) < fixed.size:
            raise DevicePathError(
                f"device path node {self.type:#x}/{self.subtype:#x} has {len(self.data)} data bytes, "
                f"wanted {fixed.size} or more"
            )
        values: dict[str, Any] = dict(zip(names, fixed.unpack_from(self.data), strict=True))
        tail = self.data[fixed.size :]
        if rest:
            values[rest] = tail
        for name in strings:
            values[name], _, tail = tail.partition(b"\0")
        return values

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Node) and self.to_bytes() == other.to_bytes()

    def __hash__(self) -> int:
        return hash((self.type, self.subtype, self.data))

    def __repr__(self) -> str:
        return f"Node({self.type:#x}, {self.subtype:#x}, {self.data.hex()!r})"


def build(node_type: int, subtype: int, **values: int | bytes) -> Node:
    """A node from its fields by the specification's names; a field left out is zero or empty.

    Raises DevicePathError for an unknown node or field, and for a value that does not fit.
    """
    form = layout(node_type, subtype)
    if form is None:
        raise DevicePathError(f"no layout known for device path node {node_type:#x}/{subtype:#x}")
    fixed, names, rest, strings = form
    known = {*names, rest, *strings}
    unknown = next((name for name in values if name not in known), None)
    if unknown is not None:
        raise DevicePathError(f"device path node {node_type:#x}/{subtype:#x} has no field {unknown!r}")
    empty = dict(zip(names, fixed.unpack(bytes(fixed.size)), strict=True))
    try:
        data = fixed.pack(*(values.get(name, empty[name]) for name in names))
    except struct.error as error:
        raise DevicePathError(f"device path node {node_type:#x}/{subtype:#x}: {error}") from None
    if rest:
        data += _as_bytes(values.get(rest, b""))
    for name in strings:
        data += _as_bytes(values.get(name, b"")) + b"\0"
    return Node(node_type, subtype, data)


def _as_bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise DevicePathError(f"device path field holds the number {value}, wanted bytes")
    return bytes(value)


def eisa_id(text: str) -> int:
    """The 32-bit EISA identifier of a name such as "PNP0A03" as device paths hold it: letters in the low word (10.3.3).

    ACPI's own tables hold the same identifier byte-swapped. Raises DevicePathError for another form.
    """
    letters, digits = text[:3].upper(), text[3:]
    if len(text) != 7 or not all("A" <= letter <= "Z" for letter in letters):
        raise DevicePathError(f"EISA identifier {text!r}, wanted three letters and four hexadecimal digits")
    try:
        product = int(digits, 16)
    except ValueError:
        raise DevicePathError(f"EISA identifier {text!r}, wanted four hexadecimal digits at its end") from None
    first, second, third = (ord(letter) - 0x40 for letter in letters)
    return product << 16 | first << 10 | second << 5 | third


def ucs2(text: str) -> bytes:
    """A string as CHAR16 with its NUL, as FilePath and UsbWwid nodes hold it."""
    return text.encode("utf-16-le", "surrogatepass") + b"\0\0"


def from_ucs2(data: bytes) -> str:
    """The text of CHAR16 data up to its NUL or end; an odd last byte is dropped, lone surrogates stay."""
    return data[: len(data) & ~1].decode("utf-16-le", "surrogatepass").partition("\0")[0]


END_INSTANCE = Node(END, END_INSTANCE_SUBTYPE)
END_ENTIRE = Node(END, END_ENTIRE_SUBTYPE)


def pci(device: int, function: int) -> Node:
    """PCI (10.3.2.1): device 0 to 31, function 0 to 7."""
    return build(HARDWARE, 1, Device=device, Function=function)


def memory_mapped(memory_type: int, start: int, end: int) -> Node:
    """Memory Mapped (10.3.2.3): EFI_MEMORY_TYPE and the first and last byte's physical address."""
    return build(HARDWARE, 3, MemoryType=memory_type, StartAddress=start, EndAddress=end)


def vendor_hardware(guid: Guid, data: bytes = b"") -> Node:
    """Vendor-defined hardware node (10.3.2.4)."""
    return build(HARDWARE, 4, Guid=guid, Data=data)


def controller(number: int) -> Node:
    """Controller (10.3.2.5)."""
    return build(HARDWARE, 5, ControllerNumber=number)


def acpi(hid: str, uid: int = 0) -> Node:
    """ACPI (10.3.3): an EISA identifier such as "PNP0501" and its _UID."""
    return build(ACPI, 1, HID=eisa_id(hid), UID=uid)


def pci_root(uid: int = 0) -> Node:
    """ACPI node of a PCI root bridge (PNP0A03), as every firmware names it."""
    return acpi("PNP0A03", uid)


def usb(port: int, interface: int = 0) -> Node:
    """USB (10.3.4.5): parent port and interface number."""
    return build(MESSAGING, 5, Port=port, Interface=interface)


def sata(port: int, multiplier: int = 0xFFFF, lun: int = 0) -> Node:
    """SATA (10.3.4.6): HBA port, port multiplier port (0xFFFF: directly connected), logical unit."""
    return build(MESSAGING, 18, HPN=port, PMPN=multiplier, LUN=lun)


def nvme(namespace: int, eui64: bytes = bytes(8)) -> Node:
    """NVM Express namespace (10.3.4.21): identifier and eight bytes of IEEE EUI-64."""
    return build(MESSAGING, 23, NamespaceId=namespace, NamespaceUuid=eui64)


def mac(address: bytes, if_type: int = 1) -> Node:
    """MAC address (10.3.4.10): up to 32 bytes, padded with zeroes; if_type from RFC 3232 (1: Ethernet)."""
    if len(address) > 32:
        raise DevicePathError(f"hardware address of {len(address)} bytes, at most 32 fit")
    return build(MESSAGING, 11, MacAddress=address, IfType=if_type)


def uart(baud: int, data_bits: int = 8, parity: int = 1, stop_bits: int = 1) -> Node:
    """UART (10.3.4.15): bits a second, then EFI_PARITY_TYPE (1: none) and EFI_STOP_BITS_TYPE (1: one)."""
    return build(MESSAGING, 14, BaudRate=baud, DataBits=data_bits, Parity=parity, StopBits=stop_bits)


def vendor_messaging(guid: Guid, data: bytes = b"") -> Node:
    """Vendor-defined messaging node (10.3.4.16): the terminal types, UART flow control, SAS."""
    return build(MESSAGING, 10, Guid=guid, Data=data)


def uri(text: str) -> Node:
    """URI (10.3.4.22), RFC 3986 text without a NUL. Raises DevicePathError for characters beyond ASCII."""
    try:
        return build(MESSAGING, 24, Uri=text.encode("ascii"))
    except UnicodeEncodeError:
        raise DevicePathError(f"URI {text!r}, wanted ASCII") from None


def hard_drive_gpt(number: int, start: int, size: int, partition: Guid) -> Node:
    """Hard drive (10.3.5.1) of a GPT partition: number from 1, first block and block count, unique partition GUID."""
    return build(
        MEDIA,
        1,
        PartitionNumber=number,
        PartitionStart=start,
        PartitionSize=size,
        Signature=partition,
        PartitionFormat=2,
        SignatureType=2,
    )


def hard_drive_mbr(number: int, start: int, size: int, disk_signature: int) -> Node:
    """Hard drive (10.3.5.1) of an MBR partition: number from 1, first block and block count, 32-bit disk signature."""
    return build(
        MEDIA,
        1,
        PartitionNumber=number,
        PartitionStart=start,
        PartitionSize=size,
        Signature=disk_signature.to_bytes(4, "little"),
        PartitionFormat=1,
        SignatureType=1,
    )


def cdrom(entry: int, start: int, size: int) -> Node:
    """CD-ROM (10.3.5.2): El Torito boot entry, first block and block count."""
    return build(MEDIA, 2, BootEntry=entry, PartitionStart=start, PartitionSize=size)


def vendor_media(guid: Guid, data: bytes = b"") -> Node:
    """Vendor-defined media node (10.3.5.3)."""
    return build(MEDIA, 3, Guid=guid, Data=data)


def file_path(name: str) -> Node:
    """File path (10.3.5.4), with its NUL; backslashes between the names."""
    return build(MEDIA, 4, PathName=ucs2(name))


def firmware_file(guid: Guid) -> Node:
    """PIWG firmware file (10.3.5.6)."""
    return build(MEDIA, 6, Guid=guid)


def firmware_volume(guid: Guid) -> Node:
    """PIWG firmware volume (10.3.5.7)."""
    return build(MEDIA, 7, Guid=guid)


def ram_disk(start: int, end: int, disk_type: Guid, instance: int = 0) -> Node:
    """RAM disk (10.3.5.9): first and last byte's address, type GUID, instance."""
    return build(MEDIA, 9, StartingAddress=start, EndingAddress=end, Guid=disk_type, DiskInstance=instance)
