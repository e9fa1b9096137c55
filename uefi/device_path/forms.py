"""The text forms of device path nodes that both directions of the conversion share (UEFI 2.10, 10.6.1.6)."""

from uefi import guids
from uefi.device_path.nodes import ACPI, HARDWARE, MEDIA, MESSAGING
from uefi.guids import Guid

# Generic names of a node type for nodes without a form of their own: Name(subtype,data).
GENERIC_NAMES = {HARDWARE: "HardwarePath", ACPI: "AcpiPath", MESSAGING: "Msg", MEDIA: "MediaPath", 5: "BbsPath"}

# Nodes whose parameters are plain numbers: keyword, then the field names in the order of the text.
NUMBERS: dict[tuple[int, int], tuple[str, tuple[str, ...]]] = {
    (HARDWARE, 1): ("Pci", ("Device", "Function")),
    (HARDWARE, 2): ("PcCard", ("FunctionNumber",)),
    (HARDWARE, 3): ("MemoryMapped", ("MemoryType", "StartAddress", "EndAddress")),
    (HARDWARE, 5): ("Ctrl", ("ControllerNumber",)),
    (HARDWARE, 6): ("BMC", ("InterfaceType", "BaseAddress")),
    (ACPI, 4): ("NvdimmAcpiAdr", ("NFITDeviceHandle",)),
    (MESSAGING, 2): ("Scsi", ("PUN", "LUN")),
    (MESSAGING, 3): ("Fibre", ("WWN", "LUN")),
    (MESSAGING, 5): ("USB", ("Port", "Interface")),
    (MESSAGING, 6): ("I2O", ("TID",)),
    (MESSAGING, 17): ("Unit", ("LUN",)),
    (MESSAGING, 18): ("Sata", ("HPN", "PMPN", "LUN")),
    (MESSAGING, 20): ("Vlan", ("VlanId",)),
    (MESSAGING, 25): ("UFS", ("PUN", "LUN")),
    (MESSAGING, 26): ("SD", ("SlotNumber",)),
    (MESSAGING, 29): ("eMMC", ("SlotNumber",)),
    (MEDIA, 8): ("Offset", ("StartingOffset", "EndingOffset")),
}

# ACPI nodes with a name of their own: keyword and the product half of the PNP identifier.
ACPI_NAMES = {
    "PciRoot": 0x0A03,
    "PcieRoot": 0x0A08,
    "Floppy": 0x0604,
    "Keyboard": 0x0301,
    "Serial": 0x0501,
    "ParallelPort": 0x0401,
}

# USB class nodes with a name of their own: keyword, class, and the subclass where the name fixes that too.
USB_CLASSES: dict[str, tuple[int, int | None]] = {
    "UsbAudio": (1, None),
    "UsbCDCControl": (2, None),
    "UsbHID": (3, None),
    "UsbImage": (6, None),
    "UsbPrinter": (7, None),
    "UsbMassStorage": (8, None),
    "UsbHub": (9, None),
    "UsbCDCData": (10, None),
    "UsbSmartCard": (11, None),
    "UsbVideo": (14, None),
    "UsbDiagnostic": (220, None),
    "UsbWireless": (224, None),
    "UsbDeviceFirmwareUpdate": (254, 1),
    "UsbIrdaBridge": (254, 2),
    "UsbTestAndMeasurement": (254, 3),
}

# Vendor-defined nodes: Name(GUID[,data]), and the messaging ones that are a bare name.
VENDOR_FORMS = {(HARDWARE, 4): "VenHw", (MESSAGING, 10): "VenMsg", (MEDIA, 3): "VenMedia"}
TERMINAL_NAMES: dict[str, Guid] = {
    "VenPcAnsi": guids.PC_ANSI,
    "VenVt100": guids.VT_100,
    "VenVt100Plus": guids.VT_100_PLUS,
    "VenUtf8": guids.VT_UTF8,
    "DebugPort": guids.DEBUG_PORT_DEVICE_PATH,
}
FLOW_CONTROL_NAMES = ("None", "Hardware", "XonXoff")

RAM_DISK_NAMES: dict[str, Guid] = {
    "VirtualDisk": guids.VIRTUAL_DISK,
    "VirtualCD": guids.VIRTUAL_CD,
    "PersistentVirtualDisk": guids.PERSISTENT_VIRTUAL_DISK,
    "PersistentVirtualCD": guids.PERSISTENT_VIRTUAL_CD,
}

# Media nodes whose only parameter is a GUID.
GUID_FORMS = {(MEDIA, 5): "Media", (MEDIA, 6): "FvFile", (MEDIA, 7): "Fv", (MESSAGING, 32): "NVDIMM"}

UART_PARITY = "DNEOMS"
UART_STOP_BITS = ("D", "1", "1.5", "2")
IP_PROTOCOLS = {6: "TCP", 17: "UDP"}
IPV6_ORIGINS = ("Static", "StatelessAutoConfigure", "StatefulAutoConfigure")
BBS_TYPES = {1: "Floppy", 2: "HD", 3: "CDROM", 4: "PCMCIA", 5: "USB", 6: "Network"}
