"""Text to device path (UEFI 2.10, 10.6.1): EFI_DEVICE_PATH_FROM_TEXT_PROTOCOL's logic."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

from uefi import guids
from uefi.device_path import forms, parameters
from uefi.device_path.nodes import (
    ACPI,
    BBS,
    END_INSTANCE,
    HARDWARE,
    MEDIA,
    MESSAGING,
    DevicePathError,
    Node,
    build,
    eisa_id,
    file_path,
)
from uefi.device_path.path import join
from uefi.guids import Guid

MAX_TEXT = 0x8000
"""Characters above which text is refused: more than a 64 KiB path could need in any readable form."""

Parser = Callable[[list[str]], Node]


def path_from_text(text: str) -> bytes:
    """The device path that the text names: nodes separated by "/", instances by ",", a final end node.

    A piece that is no known Keyword(...) is a file path. Raises DevicePathError for over-long text and for a
    parameter that does not fit its node.
    """
    _check_length(text)
    nodes: list[Node] = []
    start = 0
    for offset in [*_separators(text, "/,"), len(text)]:
        piece = text[start:offset].strip()
        if piece:
            nodes.append(node_from_text(piece))
        if text[offset : offset + 1] == "," and nodes:
            nodes.append(END_INSTANCE)
        start = offset + 1
    return join(*nodes)


def node_from_text(text: str) -> Node:
    """The single node that the text names; a file path when it is no known Keyword(...). Raises as path_from_text."""
    _check_length(text)
    keyword, opening, rest = text.partition("(")
    parser = _PARSERS.get(keyword)
    if parser is None or not opening or not rest.endswith(")"):
        return file_path(text)
    body = rest[:-1]
    return parser([body] if keyword in _WHOLE else _arguments(body))


def _check_length(text: str) -> None:
    if len(text) > MAX_TEXT:
        raise DevicePathError(f"device path text has {len(text)} characters, at most {MAX_TEXT} are allowed")


def _separators(text: str, marks: str) -> list[int]:
    """Offsets of the characters of `marks` outside parentheses and quotes."""
    found = []
    depth = 0
    quoted = False
    for offset, character in enumerate(text):
        if character == '"':
            quoted = not quoted
        elif quoted:
            continue
        elif character == "(":
            depth += 1
        elif character == ")":
            depth -= depth > 0
        elif depth == 0 and character in marks:
            found.append(offset)
    return found


def _arguments(body: str) -> list[str]:
    cuts = [-1, *_separators(body, ","), len(body)]
    return [body[left + 1 : right].strip() for left, right in pairwise(cuts)]


def _generic(node_type: int, arguments: list[str]) -> Node:
    return Node(node_type, parameters.number(arguments, 0), parameters.hex_bytes(arguments, 1))


def _path(arguments: list[str]) -> Node:
    return Node(parameters.number(arguments, 0), parameters.number(arguments, 1), parameters.hex_bytes(arguments, 2))


def _numbers(node: tuple[int, int], names: tuple[str, ...], arguments: list[str]) -> Node:
    return build(*node, **{name: parameters.number(arguments, index) for index, name in enumerate(names)})


def _guid_form(node: tuple[int, int], arguments: list[str]) -> Node:
    field = "Uuid" if node == (MESSAGING, 32) else "Guid"
    values: dict[str, int | bytes] = {field: parameters.guid(arguments, 0)}
    return build(node[0], node[1], **values)


def _vendor(node: tuple[int, int], arguments: list[str]) -> Node:
    return build(*node, Guid=parameters.guid(arguments, 0), Data=parameters.hex_bytes(arguments, 1))


def _hid(arguments: list[str], index: int) -> int:
    text = parameters.argument(arguments, index)
    return eisa_id(text) if text[:1].isalpha() else parameters.number(arguments, index)


def _acpi(arguments: list[str]) -> Node:
    return build(ACPI, 1, HID=_hid(arguments, 0), UID=parameters.number(arguments, 1))


def _acpi_named(product: int, arguments: list[str]) -> Node:
    return build(ACPI, 1, HID=product << 16 | 0x41D0, UID=parameters.number(arguments, 0))


def _acpi_ex(arguments: list[str]) -> Node:
    strings = {
        name: parameters.ascii_bytes(parameters.argument(arguments, index, ""))
        for index, name in ((3, "HIDSTR"), (4, "CIDSTR"), (5, "UIDSTR"))
    }
    return build(
        ACPI, 2, HID=_hid(arguments, 0), CID=_hid(arguments, 1), UID=parameters.number(arguments, 2), **strings
    )  # fmt: skip


def _acpi_exp(arguments: list[str]) -> Node:
    return build(
        ACPI,
        2,
        HID=_hid(arguments, 0),
        CID=_hid(arguments, 1),
        UIDSTR=parameters.ascii_bytes(parameters.argument(arguments, 2, "")),
    )


def _acpi_adr(arguments: list[str]) -> Node:
    addresses = [parameters.number(arguments, index) for index in range(len(arguments))]
    if any(address > 0xFFFFFFFF for address in addresses):
        raise DevicePathError(f"AcpiAdr({','.join(arguments)[:80]}): an _ADR has 32 bits")
    return build(ACPI, 3, ADR=b"".join(address.to_bytes(4, "little") for address in addresses))


def _ata(arguments: list[str]) -> Node:
    if len(arguments) < 3:
        return build(MESSAGING, 1, LUN=parameters.number(arguments, 0))
    primary = parameters.choice(arguments, 0, ("Primary", "Secondary"))
    return build(
        MESSAGING,
        1,
        PrimarySecondary=primary,
        SlaveMaster=parameters.choice(arguments, 1, ("Master", "Slave")),
        LUN=parameters.number(arguments, 2),
    )


def _fibre_ex(arguments: list[str]) -> Node:
    return build(MESSAGING, 21, WWN=parameters.hex_bytes(arguments, 0, 8), LUN=parameters.hex_bytes(arguments, 1, 8))


def _i1394(arguments: list[str]) -> Node:
    return build(MESSAGING, 4, Guid=int.from_bytes(parameters.hex_bytes(arguments, 0, 8), "big"))


def _usb_class(arguments: list[str]) -> Node:
    return _numbers((MESSAGING, 15), ("VID", "PID", "DeviceClass", "DeviceSubClass", "DeviceProtocol"), arguments)


def _usb_class_named(device_class: int, subclass: int | None, arguments: list[str]) -> Node:
    last = 2 if subclass is not None else 3
    return build(
        MESSAGING,
        15,
        VID=parameters.number(arguments, 0),
        PID=parameters.number(arguments, 1),
        DeviceClass=device_class,
        DeviceSubClass=parameters.number(arguments, 2) if subclass is None else subclass,
        DeviceProtocol=parameters.number(arguments, last),
    )


def _usb_wwid(arguments: list[str]) -> Node:
    serial = parameters.argument(arguments, 3, "").strip('"').encode("utf-16-le", "surrogatepass")
    numbers = {
        name: parameters.number(arguments, index) for index, name in enumerate(("VID", "PID", "InterfaceNumber"))
    }
    return build(MESSAGING, 16, SerialNumber=serial, **numbers)


def _mac(arguments: list[str]) -> Node:
    address = parameters.hex_bytes(arguments, 0)
    if len(address) > 32:
        raise DevicePathError(f"MAC({arguments[0][:80]}): a hardware address has at most 32 bytes")
    return build(MESSAGING, 11, MacAddress=address, IfType=parameters.number(arguments, 1))


def _ip_protocol(arguments: list[str], index: int) -> int:
    named = {name: number for number, name in forms.IP_PROTOCOLS.items()}
    text = parameters.argument(arguments, index)
    return named[text] if text in named else parameters.number(arguments, index)


def _ipv4(arguments: list[str]) -> Node:
    return build(
        MESSAGING,
        12,
        RemoteIp=parameters.ip_address(arguments, 0, 4),
        Protocol=_ip_protocol(arguments, 1),
        StaticIp=parameters.choice(arguments, 2, ("DHCP", "Static")),
        LocalIp=parameters.ip_address(arguments, 3, 4),
        Gateway=parameters.ip_address(arguments, 4, 4),
        SubnetMask=parameters.ip_address(arguments, 5, 4),
    )


def _ipv6(arguments: list[str]) -> Node:
    return build(
        MESSAGING,
        13,
        RemoteIp=parameters.ip_address(arguments, 0, 16),
        Protocol=_ip_protocol(arguments, 1),
        Origin=parameters.choice(arguments, 2, forms.IPV6_ORIGINS),
        LocalIp=parameters.ip_address(arguments, 3, 16),
        PrefixLength=parameters.number(arguments, 4),
        Gateway=parameters.ip_address(arguments, 5, 16),
    )


def _infiniband(arguments: list[str]) -> Node:
    numbers = {
        name: parameters.number(arguments, index)
        for index, name in ((0, "ResourceFlags"), (2, "ServiceId"), (3, "TargetPortId"), (4, "DeviceId"))
    }
    return build(MESSAGING, 9, PortGid=parameters.guid(arguments, 1), **numbers)


def _uart(arguments: list[str]) -> Node:
    default = [("" if argument == "DEFAULT" else argument) for argument in arguments[:2]]
    # The letters and "1", "1.5", "2" name positions; a plain 1 is one stop bit and not EFI_STOP_BITS_TYPE 1 by chance.
    return build(
        MESSAGING,
        14,
        BaudRate=parameters.number(default, 0),
        DataBits=parameters.number(default, 1),
        Parity=parameters.choice(arguments, 2, forms.UART_PARITY),
        StopBits=parameters.choice(arguments, 3, forms.UART_STOP_BITS),
    )


def _terminal(guid: Guid, arguments: list[str]) -> Node:
    if any(arguments):
        raise DevicePathError(f"device path node of {guid} takes no parameter, got {arguments[0][:80]!r}")
    return build(MESSAGING, 10, Guid=guid)


def _flow_control(arguments: list[str]) -> Node:
    value = parameters.choice(arguments, 0, forms.FLOW_CONTROL_NAMES)
    if value > 2:
        raise DevicePathError(f"UartFlowCtrl({value}), wanted Hardware, XonXoff or None")
    return build(MESSAGING, 10, Guid=guids.UART_FLOW_CONTROL_DEVICE_PATH, Data=value.to_bytes(4, "little"))


def _sas_topology(arguments: list[str]) -> int:
    """Device and topology information (10.3.4.18, table 10-43) out of SASSATA, Location, Connect, DriveBay."""
    kind = parameters.argument(arguments, 3, "NoTopology")
    if kind == "NoTopology":
        return 0
    if kind not in ("SAS", "SATA"):
        return parameters.number(arguments, 3)
    topology = (kind == "SATA") << 4
    topology |= parameters.choice(arguments, 4, ("Internal", "External")) << 5
    topology |= parameters.choice(arguments, 5, ("Direct", "Expanded")) << 6
    bay = parameters.number(arguments, 6)
    if not 0 <= bay <= 0x100 or topology > 0x70:
        raise DevicePathError(f"SAS({','.join(arguments)[:80]}): drive bay {bay}, wanted 0 to 256")
    return topology | (2 | (bay - 1) << 8 if bay else 1)


def _sas(arguments: list[str]) -> Node:
    address, lun, rtp = (parameters.number(arguments, index) for index in range(3))
    reserved, topology = parameters.number(arguments, 7), _sas_topology(arguments)
    if address >> 64 or lun >> 64 or rtp >> 16 or reserved >> 32 or topology >> 16:
        raise DevicePathError(f"SAS({','.join(arguments)[:80]}): a number does not fit its field")
    data = reserved.to_bytes(4, "little") + address.to_bytes(8, "little") + lun.to_bytes(8, "little")
    data += topology.to_bytes(2, "little") + rtp.to_bytes(2, "little")
    return build(MESSAGING, 10, Guid=guids.SAS_DEVICE_PATH, Data=data)


def _sas_ex(arguments: list[str]) -> Node:
    return build(
        MESSAGING,
        22,
        Address=parameters.hex_bytes(arguments, 0, 8),
        LUN=parameters.hex_bytes(arguments, 1, 8),
        RTP=parameters.number(arguments, 2),
        DeviceTopology=_sas_topology(arguments),
    )


def _iscsi(arguments: list[str]) -> Node:
    options = (
        parameters.choice(arguments, 3, ("None", "CRC32C")) << 1
        | parameters.choice(arguments, 4, ("None", "CRC32C")) << 3
    )
    options |= {"None": 0x800, "CHAP_UNI": 0x1000}.get(parameters.argument(arguments, 5, "CHAP_BI"), 0)
    return build(
        MESSAGING,
        19,
        TargetName=parameters.ascii_bytes(parameters.argument(arguments, 0, "")),
        PortalGroup=parameters.number(arguments, 1),
        LUN=parameters.hex_bytes(arguments, 2, 8),
        Options=options,
        Protocol=parameters.choice(arguments, 6, ("TCP",)),
    )


def _nvme(arguments: list[str]) -> Node:
    return build(
        MESSAGING,
        23,
        NamespaceId=parameters.number(arguments, 0),
        NamespaceUuid=parameters.hex_bytes(arguments, 1, 8)[::-1],
    )


def _uri(arguments: list[str]) -> Node:
    return build(MESSAGING, 24, Uri=parameters.ascii_bytes(arguments[0]))


def _bluetooth(arguments: list[str]) -> Node:
    return build(MESSAGING, 27, BdAddr=parameters.hex_bytes(arguments, 0, 6))


def _bluetooth_le(arguments: list[str]) -> Node:
    return build(
        MESSAGING, 30, BdAddr=parameters.hex_bytes(arguments, 0, 6), AddressType=parameters.number(arguments, 1)
    )


def _wifi(arguments: list[str]) -> Node:
    ssid = parameters.ascii_bytes(arguments[0])
    if len(ssid) > 32:
        raise DevicePathError(f"Wi-Fi({arguments[0][:80]}): an SSID has at most 32 bytes")
    return build(MESSAGING, 28, SSID=ssid)


def _dns(arguments: list[str]) -> Node:
    given = [argument for argument in arguments if argument]
    size = 16 if given and ":" in given[0] else 4
    # EFI_IP_ADDRESS is 16 bytes for either family.
    servers = b"".join(parameters.ip_address(given, index, size).ljust(16, b"\0") for index in range(len(given)))
    return build(MESSAGING, 31, IsIPv6=int(size == 16), Instance=servers)


def _hard_drive(arguments: list[str]) -> Node:
    kind = parameters.argument(arguments, 1)
    if kind == "GPT":
        form, kind_number, signature = 2, 2, bytes(parameters.guid(arguments, 2))
    elif kind == "MBR":
        number = parameters.number(arguments, 2)
        if number >> 32:
            raise DevicePathError(f"HD: MBR signature {arguments[2][:80]!r} has more than 32 bits")
        form, kind_number, signature = 1, 1, number.to_bytes(4, "little")
    else:
        form, kind_number, signature = 0, parameters.number(arguments, 1), b""
    return build(
        MEDIA,
        1,
        PartitionNumber=parameters.number(arguments, 0),
        PartitionStart=parameters.number(arguments, 3),
        PartitionSize=parameters.number(arguments, 4),
        Signature=signature,
        PartitionFormat=form,
        SignatureType=kind_number,
    )


def _cdrom(arguments: list[str]) -> Node:
    return _numbers((MEDIA, 2), ("BootEntry", "PartitionStart", "PartitionSize"), arguments)


def _ram_disk(arguments: list[str]) -> Node:
    return _ram_disk_named(parameters.guid(arguments, 3), arguments)


def _ram_disk_named(guid: Guid, arguments: list[str]) -> Node:
    return build(
        MEDIA,
        9,
        StartingAddress=parameters.number(arguments, 0),
        EndingAddress=parameters.number(arguments, 1),
        DiskInstance=parameters.number(arguments, 2),
        Guid=guid,
    )


def _bbs(arguments: list[str]) -> Node:
    named = {name: number for number, name in forms.BBS_TYPES.items()}
    kind = parameters.argument(arguments, 0)
    return build(
        BBS,
        1,
        DeviceType=named[kind] if kind in named else parameters.number(arguments, 0),
        Description=parameters.ascii_bytes(parameters.argument(arguments, 1, "")),
        StatusFlag=parameters.number(arguments, 2),
    )


_PARSERS: dict[str, Parser] = {
    "Path": _path,
    "VenHw": partial(_vendor, (HARDWARE, 4)),
    "VenMsg": partial(_vendor, (MESSAGING, 10)),
    "VenMedia": partial(_vendor, (MEDIA, 3)),
    "Acpi": _acpi,
    "AcpiEx": _acpi_ex,
    "AcpiExp": _acpi_exp,
    "AcpiAdr": _acpi_adr,
    "Ata": _ata,
    "FibreEx": _fibre_ex,
    "I1394": _i1394,
    "UsbClass": _usb_class,
    "UsbWwid": _usb_wwid,
    "MAC": _mac,
    "IPv4": _ipv4,
    "IPv6": _ipv6,
    "Infiniband": _infiniband,
    "Uart": _uart,
    "UartFlowCtrl": _flow_control,
    "SAS": _sas,
    "SasEx": _sas_ex,
    "iSCSI": _iscsi,
    "NVMe": _nvme,
    "Uri": _uri,
    "Bluetooth": _bluetooth,
    "BluetoothLE": _bluetooth_le,
    "Wi-Fi": _wifi,
    "Dns": _dns,
    "HD": _hard_drive,
    "CDROM": _cdrom,
    "RamDisk": _ram_disk,
    "BBS": _bbs,
    **{name: partial(_generic, node_type) for node_type, name in forms.GENERIC_NAMES.items()},
    **{name: partial(_numbers, node, fields) for node, (name, fields) in forms.NUMBERS.items()},
    **{name: partial(_guid_form, node) for node, name in forms.GUID_FORMS.items()},
    **{name: partial(_acpi_named, product) for name, product in forms.ACPI_NAMES.items()},
    **{name: partial(_usb_class_named, *classes) for name, classes in forms.USB_CLASSES.items()},
    **{name: partial(_terminal, guid) for name, guid in forms.TERMINAL_NAMES.items()},
    **{name: partial(_ram_disk_named, guid) for name, guid in forms.RAM_DISK_NAMES.items()},
}

# Keywords whose single parameter may hold commas itself.
_WHOLE = frozenset({"Uri", "Wi-Fi"})
