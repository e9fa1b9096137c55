"""Device path to text (UEFI 2.10, 10.6.1): EFI_DEVICE_PATH_TO_TEXT_PROTOCOL's logic."""

from collections.abc import Callable
from typing import Any

from uefi import guids
from uefi.device_path import forms
from uefi.device_path.from_text import node_from_text
from uefi.device_path.nodes import (
    ACPI,
    BBS,
    MEDIA,
    MESSAGING,
    DevicePathError,
    Node,
    from_ucs2,
)
from uefi.device_path.path import parse
from uefi.guids import Guid

Fields = dict[str, Any]
Writer = Callable[[Fields, bool, bool], str]


def path_to_text(data: bytes, display_only: bool = False, allow_shortcuts: bool = False) -> str:
    """The text of a device path: nodes joined by "/", instances by ",".

    Without `display_only`, every node's text but a file path's is checked to parse back to the same node; one that
    would not (a field without a place in the text) takes the generic form. Raises DevicePathError as path.parse().
    """
    pieces: list[str] = []
    for node in parse(data):
        if node.is_end:
            pieces.append(",")
            continue
        if pieces and pieces[-1] != ",":
            pieces.append("/")
        pieces.append(node_to_text(node, display_only, allow_shortcuts))
    return "".join(pieces)


def node_to_text(node: Node, display_only: bool = False, allow_shortcuts: bool = False) -> str:
    """The text of one node; the generic form, such as Path(9,1,00AA), for an unknown or malformed one."""
    if node.type == MEDIA and node.subtype == 4:
        return from_ucs2(node.data)
    try:
        text = _specific(node, display_only, allow_shortcuts)
    except DevicePathError:
        return _generic(node)
    if not display_only and not _parses_to(text, node):
        return _generic(node)
    return text


def _parses_to(text: str, node: Node) -> bool:
    try:
        return node_from_text(text) == node
    except DevicePathError:
        return False


def _specific(node: Node, display_only: bool, allow_shortcuts: bool) -> str:
    key = (node.type, node.subtype)
    fields = node.fields()
    if key in forms.NUMBERS:
        name, order = forms.NUMBERS[key]
        return f"{name}({','.join(f'0x{fields[field]:X}' for field in order)})"
    if key in forms.GUID_FORMS:
        return f"{forms.GUID_FORMS[key]}({_guid(fields['Uuid' if key == (MESSAGING, 32) else 'Guid'])})"
    if key in forms.VENDOR_FORMS:
        return _vendor(forms.VENDOR_FORMS[key], fields, allow_shortcuts)
    return _WRITERS[key](fields, display_only, allow_shortcuts)


def _generic(node: Node) -> str:
    name = forms.GENERIC_NAMES.get(node.type)
    parameters = [str(node.subtype)] if name else [str(node.type), str(node.subtype)]
    if node.data:
        parameters.append(node.data.hex().upper())
    return f"{name or 'Path'}({','.join(parameters)})"


def _guid(raw: bytes) -> str:
    return str(Guid(raw)).upper()


def _ascii(data: bytes) -> str:
    return data.partition(b"\0")[0].decode("latin-1")


def _vendor(name: str, fields: Fields, allow_shortcuts: bool) -> str:
    guid, data = Guid(fields["Guid"]), fields["Data"]
    if name == "VenMsg":
        if guid == guids.SAS_DEVICE_PATH and len(data) == 24:
            return _sas(data)
        if guid == guids.UART_FLOW_CONTROL_DEVICE_PATH and len(data) == 4 and data[0] < 3:
            return f"UartFlowCtrl({forms.FLOW_CONTROL_NAMES[data[0]]})"
        if guid == guids.DEBUG_PORT_DEVICE_PATH:
            return "DebugPort()"
        terminal = next((text for text, known in forms.TERMINAL_NAMES.items() if known == guid), None)
        if terminal and allow_shortcuts and not data:
            return f"{terminal}()"
    return f"{name}({_guid(guid)}{',' + data.hex().upper() if data else ''})"


def _sas_topology(topology: int) -> str:
    """SASSATA, Location, Connect and DriveBay (10.3.4.18, table 10-43)."""
    form = topology & 0xF
    if topology & 0x80 or form > 2:
        return f"0x{topology:X},0,0,0"
    if form == 0:
        return "NoTopology,0,0,0"
    kind = "SATA" if topology & 0x10 else "SAS"
    location = "External" if topology & 0x20 else "Internal"
    connect = "Expanded" if topology & 0x40 else "Direct"
    return f"{kind},{location},{connect},0x{(topology >> 8) + 1 if form == 2 else 0:X}"


def _sas(data: bytes) -> str:
    reserved, address, lun, topology, rtp = (
        int.from_bytes(data[start:end], "little") for start, end in ((0, 4), (4, 12), (12, 20), (20, 22), (22, 24))
    )
    return f"SAS(0x{address:X},0x{lun:X},0x{rtp:X},{_sas_topology(topology)},0x{reserved:X})"


def _hid(value: int) -> str:
    return f"PNP{value >> 16:04X}" if value & 0xFFFF == 0x41D0 else f"0x{value:X}"


def _acpi(fields: Fields, display_only: bool, allow_shortcuts: bool) -> str:
    hid = fields["HID"]
    if hid & 0xFFFF == 0x41D0:
        name = next((name for name, product in forms.ACPI_NAMES.items() if product == hid >> 16), None)
        if name:
            return f"{name}(0x{fields['UID']:X})"
    return f"Acpi({_hid(hid)},0x{fields['UID']:X})"


def _acpi_ex(fields: Fields, display_only: bool, allow_shortcuts: bool) -> str:
    hid_text, cid_text, uid_text = (_ascii(fields[name]) for name in ("HIDSTR", "CIDSTR", "UIDSTR"))
    if uid_text and not hid_text and not cid_text:
        return f"AcpiExp({_hid(fields['HID'])},{_hid(fields['CID'])},{uid_text})"
    if display_only:
        hid, cid = hid_text or _hid(fields["HID"]), cid_text or _hid(fields["CID"])
        uid = uid_text or f"0x{fields['UID']:X}"
        return f"AcpiEx({hid},{cid},{uid})"
    return (
        f"AcpiEx({_hid(fields['HID'])},{_hid(fields['CID'])},0x{fields['UID']:X},{hid_text},{cid_text},{uid_text})"
    )  # fmt: skip


def _acpi_adr(fields: Fields, display_only: bool, allow_shortcuts: bool) -> str:
    data = fields["ADR"]
    values = (int.from_bytes(data[start : start + 4], "little") for start in range(0, len(data), 4))
    return f"AcpiAdr({','.join(f'0x{value:X}' for value in values)})"


def _ata(fields: Fields, display_only: bool, allow_shortcuts: bool) -> str:
    if display_only:
        return f"Ata(0x{fields['LUN']:X})"
    channel = "Secondary" if fields["PrimarySecondary"] else "Primary"
    return f"Ata({channel},{'Slave' if fields['SlaveMaster'] else 'Master'},0x{fields['LUN']:X})"


def _fibre_ex(fields: Fields, display_only: bool, allow_shortcuts: bool) -> str:
    return f"FibreEx(0x{fields['WWN'].hex().upper()},0x{fields['LUN'].hex().upper()})"


def _i1394(fields: Fields, display_only: bool, allow_shortcuts: bool) -> str:
    return f"I1394({fields['Guid']:016X})"


def _usb_class(fields: Fields, display_only: bool, allow_shortcuts: bool) -> str:
    vendor, product, device_class, subclass, protocol = (
        fields[name] for name in ("VID", "PID", "DeviceClass", "DeviceSubClass", "DeviceProtocol")
    )
    for name, (known_class, known_subclass) in forms.USB_CLASSES.items():
        if device_class == known_class and known_subclass in (None, subclass):
            middle = f",0x{subclass:X}" if known_subclass is None else ""
            return f"{name}(0x{vendor:X},0x{product:X}{middle},0x{protocol:X})"
    return f"UsbClass(0x{vendor:X},0x{product:X},0x{device_class:X},0x{subclass:X},0x{protocol:X})"


def _usb_wwid(fields: Fields, display_only: bool, allow_shortcuts: bool) -> str:
    serial = from_ucs2(fields["SerialNumber"])
    return f'UsbWwid(0x{fields["VID"]:X},0x{fields["PID"]:X},0x{fields["InterfaceNumber"]:X},"{serial}")'


def _mac(fields: Fields, display_only: bool, allow_shortcuts: bool) -> str:
    size = 6 if fields["IfType"] in (0, 1) else 32
    return f"MAC({fields['MacAddress'][:size].hex().upper()},0x{fields['IfType']:X})"


def _ip_protocol(number: int) -> str:
    return forms.IP_PROTOCOLS.get(number, f"0x{number:X}")


def _ipv4_address(raw: bytes) -> str:
    return ".".join(map(str, raw[:4]))


def _ipv6_address(raw: bytes) -> str:
    return raw.hex(":", 2).upper()


def _ipv4(fields: Fields, display_only: bool, allow_shortcuts: bool) -> str:
    remote = _ipv4_address(fields["RemoteIp"])
    if display_only:
        return f"IPv4({remote})"
    addresses = ",".join(_ipv4_address(fields[name]) for name in ("LocalIp", "Gateway", "SubnetMask"))
    origin = "Static" if fields["StaticIp"] else "DHCP"
    return f"IPv4({remote},{_ip_protocol(fields['Protocol'])},{origin},{addresses})"


def _ipv6(fields: Fields, display_only: bool, allow_shortcuts: bool) -> str:
    remote = _ipv6_address(fields["RemoteIp"])
    if display_only:
        return f"IPv6({remote})"
    number = fields["Origin"]
    origin = forms.IPV6_ORIGINS[number] if number < len(forms.IPV6_ORIGINS) else f"0x{number:X}"
    local, gateway = _ipv6_address(fields["LocalIp"]), _ipv6_address(fields["Gateway"])
    return f"IPv6({remote},{_ip_protocol(fields['Protocol'])},{origin},{local},0x{fields['PrefixLength']:X},{gateway})"


def _infiniband(fields: Fields, display_only: bool, allow_shortcuts: bool) -> str:
    numbers = ",".join(f"0x{fields[name]:X}" for name in ("ServiceId", "TargetPortId", "DeviceId"))
    return f"Infiniband(0x{fields['ResourceFlags']:X},{_guid(fields['PortGid'])},{numbers})"


def _uart(fields: Fields, display_only: bool, allow_shortcuts: bool) -> str:
    parity, stop_bits = fields["Parity"], fields["StopBits"]
    return "Uart({},{},{},{})".format(
        fields["BaudRate"] or "DEFAULT",
        fields["DataBits"] or "DEFAULT",
        forms.UART_PARITY[parity] if parity < len(forms.UART_PARITY) else f"0x{parity:X}",
        forms.UART_STOP_BITS[stop_bits] if stop_bits < len(forms.UART_STOP_BITS) else f"0x{stop_bits:X}",
    )


def _iscsi(fields: Fields, display_only: bool, allow_shortcuts: bool) -> str:
    options = fields["Options"]
    digests = ",".join("CRC32C" if options >> bit & 1 else "None" for bit in (1, 3))
    login = "None" if options & 0x800 else "CHAP_UNI" if options & 0x1000 else "CHAP_BI"
    protocol = "TCP" if fields["Protocol"] == 0 else f"0x{fields['Protocol']:X}"
    name = _ascii(fields["TargetName"])
    return f"iSCSI({name},0x{fields['PortalGroup']:X},0x{fields['LUN'].hex().upper()},{digests},{login},{protocol})"


def _sas_ex(fields: Fields, display_only: bool, allow_shortcuts: bool) -> str:
    topology = _sas_topology(fields["DeviceTopology"])
    return f"SasEx(0x{fields['Address'].hex().upper()},0x{fields['LUN'].hex().upper()},0x{fields['RTP']:X},{topology})"


def _nvme(fields: Fields, display_only: bool, allow_shortcuts: bool) -> str:
    return f"NVMe(0x{fields['NamespaceId']:X},{fields['NamespaceUuid'][::-1].hex('-').upper()})"


def _uri(fields: Fields, display_only: bool, allow_shortcuts: bool) -> str:
    return f"Uri({_ascii(fields['Uri'])})"


def _bluetooth(fields: Fields, display_only: bool, allow_shortcuts: bool) -> str:
    return f"Bluetooth({fields['BdAddr'].hex().upper()})"


def _bluetooth_le(fields: Fields, display_only: bool, allow_shortcuts: bool) -> str:
    return f"BluetoothLE({fields['BdAddr'].hex().upper()},0x{fields['AddressType']:X})"


def _wifi(fields: Fields, display_only: bool, allow_shortcuts: bool) -> str:
    return f"Wi-Fi({_ascii(fields['SSID'])})"


def _dns(fields: Fields, display_only: bool, allow_shortcuts: bool) -> str:
    servers = fields["Instance"]
    form = _ipv6_address if fields["IsIPv6"] else _ipv4_address
    return f"Dns({','.join(form(servers[start : start + 16]) for start in range(0, len(servers), 16))})"


def _hard_drive(fields: Fields, display_only: bool, allow_shortcuts: bool) -> str:
    kind, signature = fields["SignatureType"], fields["Signature"]
    if kind == 2:
        identity = f"GPT,{_guid(signature)}"
    elif kind == 1:
        identity = f"MBR,0x{int.from_bytes(signature[:4], 'little'):08X}"
    else:
        identity = f"{kind},0"
    return f"HD({fields['PartitionNumber']},{identity},0x{fields['PartitionStart']:X},0x{fields['PartitionSize']:X})"


def _cdrom(fields: Fields, display_only: bool, allow_shortcuts: bool) -> str:
    if display_only:
        return f"CDROM(0x{fields['BootEntry']:X})"
    return f"CDROM(0x{fields['BootEntry']:X},0x{fields['PartitionStart']:X},0x{fields['PartitionSize']:X})"


def _ram_disk(fields: Fields, display_only: bool, allow_shortcuts: bool) -> str:
    place = f"0x{fields['StartingAddress']:X},0x{fields['EndingAddress']:X},{fields['DiskInstance']}"
    name = next((name for name, guid in forms.RAM_DISK_NAMES.items() if guid == fields["Guid"]), None)
    return f"{name}({place})" if name else f"RamDisk({place},{_guid(fields['Guid'])})"


def _bbs(fields: Fields, display_only: bool, allow_shortcuts: bool) -> str:
    kind = forms.BBS_TYPES.get(fields["DeviceType"], f"0x{fields['DeviceType']:X}")
    flags = "" if display_only else f",0x{fields['StatusFlag']:X}"
    return f"BBS({kind},{_ascii(fields['Description'])}{flags})"


_WRITERS: dict[tuple[int, int], Writer] = {
    (ACPI, 1): _acpi,
    (ACPI, 2): _acpi_ex,
    (ACPI, 3): _acpi_adr,
    (MESSAGING, 1): _ata,
    (MESSAGING, 4): _i1394,
    (MESSAGING, 9): _infiniband,
    (MESSAGING, 11): _mac,
    (MESSAGING, 12): _ipv4,
    (MESSAGING, 13): _ipv6,
    (MESSAGING, 14): _uart,
    (MESSAGING, 15): _usb_class,
    (MESSAGING, 16): _usb_wwid,
    (MESSAGING, 19): _iscsi,
    (MESSAGING, 21): _fibre_ex,
    (MESSAGING, 22): _sas_ex,
    (MESSAGING, 23): _nvme,
    (MESSAGING, 24): _uri,
    (MESSAGING, 27): _bluetooth,
    (MESSAGING, 28): _wifi,
    (MESSAGING, 30): _bluetooth_le,
    (MESSAGING, 31): _dns,
    (MEDIA, 1): _hard_drive,
    (MEDIA, 2): _cdrom,
    (MEDIA, 9): _ram_disk,
    (BBS, 1): _bbs,
}
