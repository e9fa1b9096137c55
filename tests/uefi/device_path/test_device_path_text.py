"""Device path text, both ways: the specification's forms, generic forms, hostile text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uefi import guids
from uefi.device_path import nodes, path
from uefi.device_path.from_text import node_from_text, path_from_text
from uefi.device_path.nodes import DevicePathError, Node, build
from uefi.device_path.to_text import node_to_text, path_to_text
from uefi.guids import Guid

GUID = Guid.parse("12345678-9abc-def0-1122-334455667788")
UPPER = str(GUID).upper()

FORMS: list[tuple[Node, str]] = [
    (nodes.pci_root(0), "PciRoot(0x0)"),
    (nodes.acpi("PNP0A08", 2), "PcieRoot(0x2)"),
    (nodes.acpi("PNP0604", 1), "Floppy(0x1)"),
    (nodes.acpi("PNP0301"), "Keyboard(0x0)"),
    (nodes.acpi("PNP0501"), "Serial(0x0)"),
    (nodes.acpi("PNP0401"), "ParallelPort(0x0)"),
    (nodes.acpi("PNP0C0F", 3), "Acpi(PNP0C0F,0x3)"),
    (nodes.acpi("QMU0002"), f"Acpi(0x{nodes.eisa_id('QMU0002'):X},0x0)"),
    (nodes.pci(0x1F, 2), "Pci(0x1F,0x2)"),
    (build(1, 2, FunctionNumber=1), "PcCard(0x1)"),
    (nodes.memory_mapped(11, 0x100000, 0x1FFFFF), "MemoryMapped(0xB,0x100000,0x1FFFFF)"),
    (nodes.vendor_hardware(GUID), f"VenHw({UPPER})"),
    (nodes.vendor_hardware(GUID, b"\x01\xab"), f"VenHw({UPPER},01AB)"),
    (nodes.controller(5), "Ctrl(0x5)"),
    (build(1, 6, InterfaceType=1, BaseAddress=0xCA2), "BMC(0x1,0xCA2)"),
    (build(2, 2, HID=nodes.eisa_id("PNP0A03"), UID=1, HIDSTR=b"H", UIDSTR=b"U"), "AcpiEx(PNP0A03,0x0,0x1,H,,U)"),
    (build(2, 3, ADR=bytes.fromhex("0001018000020180")), "AcpiAdr(0x80010100,0x80010200)"),
    (build(3, 1, PrimarySecondary=1, SlaveMaster=0, LUN=2), "Ata(Secondary,Master,0x2)"),
    (build(3, 2, PUN=1, LUN=2), "Scsi(0x1,0x2)"),
    (build(3, 3, WWN=0x1122, LUN=1), "Fibre(0x1122,0x1)"),
    (build(3, 21, WWN=bytes(range(8)), LUN=bytes(8)), "FibreEx(0x0001020304050607,0x0000000000000000)"),
    (build(3, 4, Guid=0xABC), "I1394(0000000000000ABC)"),
    (nodes.usb(2, 1), "USB(0x2,0x1)"),
    (build(3, 6, TID=7), "I2O(0x7)"),
    (build(3, 9, ResourceFlags=1, PortGid=GUID, DeviceId=9), f"Infiniband(0x1,{UPPER},0x0,0x0,0x9)"),
    (nodes.mac(bytes.fromhex("525400123456")), "MAC(525400123456,0x1)"),
    (
        build(3, 12, RemoteIp=bytes([10, 0, 0, 1]), Protocol=6, StaticIp=1, LocalIp=bytes([10, 0, 0, 2])),
        "IPv4(10.0.0.1,TCP,Static,10.0.0.2,0.0.0.0,0.0.0.0)",
    ),
    (
        build(3, 13, RemoteIp=b"\xfe\x80" + bytes(13) + b"\x01", Protocol=17, Origin=1, PrefixLength=64),
        "IPv6(FE80:0000:0000:0000:0000:0000:0000:0001,UDP,StatelessAutoConfigure,"
        "0000:0000:0000:0000:0000:0000:0000:0000,0x40,0000:0000:0000:0000:0000:0000:0000:0000)",
    ),
    (nodes.uart(115200), "Uart(115200,8,N,1)"),
    (build(3, 14), "Uart(DEFAULT,DEFAULT,D,D)"),
    (build(3, 14, BaudRate=9600, DataBits=7, Parity=2, StopBits=3), "Uart(9600,7,E,2)"),
    (build(3, 15, VID=0x46D, DeviceClass=3, DeviceSubClass=1, DeviceProtocol=1), "UsbHID(0x46D,0x0,0x1,0x1)"),
    (build(3, 15, DeviceClass=254, DeviceSubClass=1, DeviceProtocol=2), "UsbDeviceFirmwareUpdate(0x0,0x0,0x2)"),
    (build(3, 15, DeviceClass=255, DeviceSubClass=1), "UsbClass(0x0,0x0,0xFF,0x1,0x0)"),
    (build(3, 16, VID=1, PID=2, SerialNumber="AB,1".encode("utf-16-le")), 'UsbWwid(0x1,0x2,0x0,"AB,1")'),
    (build(3, 17, LUN=3), "Unit(0x3)"),
    (nodes.sata(1), "Sata(0x1,0xFFFF,0x0)"),
    (build(3, 20, VlanId=5), "Vlan(0x5)"),
    (
        build(3, 19, TargetName=b"iqn.x:y", PortalGroup=1, LUN=bytes(8), Options=0x802),
        "iSCSI(iqn.x:y,0x1,0x0000000000000000,CRC32C,None,None,TCP)",
    ),
    (
        build(3, 22, Address=bytes(range(8)), LUN=bytes(8), RTP=3, DeviceTopology=0x0252),
        "SasEx(0x0001020304050607,0x0000000000000000,0x3,SATA,Internal,Expanded,0x3)",
    ),
    (
        nodes.vendor_messaging(guids.SAS_DEVICE_PATH, bytes(4) + b"\x05" + bytes(19)),
        "SAS(0x5,0x0,0x0,NoTopology,0,0,0,0x0)",
    ),
    (nodes.vendor_messaging(guids.UART_FLOW_CONTROL_DEVICE_PATH, b"\1\0\0\0"), "UartFlowCtrl(Hardware)"),
    (nodes.vendor_messaging(guids.DEBUG_PORT_DEVICE_PATH), "DebugPort()"),
    (nodes.vendor_messaging(guids.VT_UTF8), f"VenMsg({str(guids.VT_UTF8).upper()})"),
    (nodes.nvme(1, bytes(range(8))), "NVMe(0x1,07-06-05-04-03-02-01-00)"),
    (nodes.uri("http://h/a,b?c=(1)"), "Uri(http://h/a,b?c=(1))"),
    (build(3, 25, PUN=1), "UFS(0x1,0x0)"),
    (build(3, 26, SlotNumber=1), "SD(0x1)"),
    (build(3, 29, SlotNumber=1), "eMMC(0x1)"),
    (build(3, 27, BdAddr=bytes(range(6))), "Bluetooth(000102030405)"),
    (build(3, 30, BdAddr=bytes(range(6)), AddressType=1), "BluetoothLE(000102030405,0x1)"),
    (build(3, 28, SSID=b"My, net"), "Wi-Fi(My, net)"),
    (build(3, 31, Instance=bytes([1, 1, 1, 1]) + bytes(12)), "Dns(1.1.1.1)"),
    (build(3, 32, Uuid=GUID), f"NVDIMM({UPPER})"),
    (nodes.hard_drive_gpt(1, 2048, 4096, GUID), f"HD(1,GPT,{UPPER},0x800,0x1000)"),
    (nodes.hard_drive_mbr(2, 63, 64, 0xCAFEBABE), "HD(2,MBR,0xCAFEBABE,0x3F,0x40)"),
    (build(4, 1, PartitionNumber=1), "HD(1,0,0,0x0,0x0)"),
    (nodes.cdrom(1, 2, 3), "CDROM(0x1,0x2,0x3)"),
    (nodes.vendor_media(GUID, b"\xff"), f"VenMedia({UPPER},FF)"),
    (nodes.file_path("\\EFI\\BOOT\\BOOTX64.EFI"), "\\EFI\\BOOT\\BOOTX64.EFI"),
    (build(4, 5, Guid=GUID), f"Media({UPPER})"),
    (nodes.firmware_file(GUID), f"FvFile({UPPER})"),
    (nodes.firmware_volume(GUID), f"Fv({UPPER})"),
    (build(4, 8, StartingOffset=1, EndingOffset=2), "Offset(0x1,0x2)"),
    (nodes.ram_disk(1, 2, GUID, 3), f"RamDisk(0x1,0x2,3,{UPPER})"),
    (nodes.ram_disk(1, 2, guids.VIRTUAL_CD), "VirtualCD(0x1,0x2,0)"),
    (build(5, 1, DeviceType=2, StatusFlag=1, Description=b"Disk"), "BBS(HD,Disk,0x1)"),
    (Node(9, 1, b"\x00\xaa"), "Path(9,1,00AA)"),
    (Node(3, 200, b"\x01"), "Msg(200,01)"),
    (Node(1, 1, b"\x01"), "HardwarePath(1,01)"),
]


@pytest.mark.parametrize(("node", "text"), FORMS, ids=[text.partition("(")[0] for _, text in FORMS])
def test_each_form_goes_both_ways(node: Node, text: str) -> None:
    assert node_to_text(node) == text
    assert node_from_text(text) == node


@pytest.mark.parametrize(
    ("node", "display", "shortcuts", "text"),
    [
        (build(3, 1, LUN=2), True, False, "Ata(0x2)"),
        (nodes.cdrom(1, 2, 3), True, False, "CDROM(0x1)"),
        (build(3, 12, RemoteIp=bytes([10, 0, 0, 1])), True, False, "IPv4(10.0.0.1)"),
        (build(5, 1, DeviceType=1, Description=b"F"), True, False, "BBS(Floppy,F)"),
        (nodes.vendor_messaging(guids.VT_UTF8), False, True, "VenUtf8()"),
        (build(2, 2, HID=0x0A0341D0, UIDSTR=b"ROOT"), False, True, "AcpiExp(PNP0A03,0x0,ROOT)"),
        (build(2, 2, HIDSTR=b"LNRO0003", UID=5), True, False, "AcpiEx(LNRO0003,0x0,0x5)"),
    ],
)
def test_display_and_shortcut_forms(node: Node, display: bool, shortcuts: bool, text: str) -> None:
    assert node_to_text(node, display, shortcuts) == text


def test_field_without_a_place_in_the_text_takes_the_generic_form_unless_for_display() -> None:
    node = build(3, 12, RemoteIp=bytes([1, 2, 3, 4]), LocalPort=80)
    assert node_to_text(node).startswith("Msg(12,")
    assert node_from_text(node_to_text(node)) == node
    assert node_to_text(node, display_only=True) == "IPv4(1.2.3.4)"


def test_whole_paths() -> None:
    text = f"PciRoot(0x0)/Pci(0x1F,0x2)/Sata(0x0,0xFFFF,0x0)/HD(1,GPT,{UPPER},0x800,0x1000)/\\EFI\\x.efi"
    assert path_to_text(path_from_text(text)) == text
    two = "PciRoot(0x0)/Serial(0x0)/Uart(115200,8,N,1),VenHw(" + UPPER + ")"
    assert path_to_text(path_from_text(two)) == two
    assert path.is_multi_instance(path_from_text(two))
    assert path_from_text("") == path.END_PATH
    assert path_to_text(path.END_PATH) == ""


def test_missing_parameters_are_zero() -> None:
    assert node_from_text("Pci()") == nodes.pci(0, 0)
    assert node_from_text("Uri()") == nodes.uri("")
    assert node_from_text("HD(1,GPT)") == nodes.hard_drive_gpt(1, 0, 0, guids.ZERO)


def test_unknown_keyword_is_a_file() -> None:
    assert node_from_text("Nonsense(1)") == nodes.file_path("Nonsense(1)")
    assert node_from_text("Pci(1,2)x") == nodes.file_path("Pci(1,2)x")
    assert node_from_text("a(b") == nodes.file_path("a(b")
    assert path_from_text("a)b/Pci(1,0)") == path.join(nodes.file_path("a)b"), nodes.pci(1, 0))


@pytest.mark.parametrize(
    "text",
    [
        "Pci(x,0)", "Pci(256,0)", "Pci(-1,0)", "Pci(1_0,0)", "Acpi(FOO,0)", "VenHw(123)", "VenHw(,XYZ)", "IPv4(1.2.3)",
        "IPv6(\0)", "MAC(" + "00" * 33 + ")", "Uart(1,2,QQ,1)", "Path(256,0)", "Path(1,1," + "00" * 65532 + ")",
        "SAS(1,2,3,SAS,Internal,Direct,300)", "HD(1,MBR,0x100000000,0,0)", "Uri(\u20ac)", "Wi-Fi(" + "x" * 33 + ")",
        "UartFlowCtrl(3)",
        "DebugPort(1)", "AcpiAdr(0x100000000)", "NVMe(1,00)", "\\" * 40000, "Pci(" + "9" * 5000 + ",0)",
    ],
)  # fmt: skip
def test_wrong_parameters_are_refused(text: str) -> None:
    with pytest.raises(DevicePathError):
        path_from_text(text)


@given(st.builds(Node, st.sampled_from([1, 2, 3, 4, 5, 9]), st.integers(0, 34), st.binary(max_size=60)))
def test_every_node_but_files_survives_the_text(node: Node) -> None:
    if (node.type, node.subtype) != (4, 4):
        assert node_from_text(node_to_text(node)) == node
        assert node_from_text(node_to_text(node, allow_shortcuts=True)) == node
    assert isinstance(node_to_text(node, display_only=True), str)


@given(st.lists(st.sampled_from([text for _, text in FORMS]), min_size=1, max_size=6))
def test_joined_forms_survive(texts: list[str]) -> None:
    assert path_to_text(path_from_text("/".join(texts))) == "/".join(texts)


@given(st.one_of(st.text(), st.text('PciHD(),/"x0123456789abcdef.-', max_size=60)))
def test_any_text_converts_or_is_refused(text: str) -> None:
    try:
        raw = path_from_text(text)
    except DevicePathError:
        return
    path.parse(raw)


@given(
    st.sampled_from([text.partition("(")[0] for _, text in FORMS if "(" in text]),
    st.lists(st.text(max_size=12), max_size=8),
)
def test_any_parameters_convert_or_are_refused(keyword: str, parameters: list[str]) -> None:
    try:
        node = node_from_text(f"{keyword}({','.join(parameters)})")
    except DevicePathError:
        return
    assert len(node.to_bytes()) < 0x10000
