"""The platform behind the firmware: which handles exist, with which device paths and protocols, before an image starts."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from machine.console import HostConsole
from machine.paging import LARGE_PAGE
from uefi import guids
from uefi import memory_types as mt
from uefi.console.keyboard import Keyboard
from uefi.console.text_screen import TextScreen
from uefi.device_path import nodes
from uefi.device_path import path as device_path
from uefi.device_path.nodes import Node
from uefi.guids import Guid
from uefi.interface import Interface
from uefi.memory_map import PAGE
from uefi.protocols.serial_io import SerialIo
from uefi.protocols.simple_file_system import SimpleFileSystem
from uefi.protocols.simple_text_input import SimpleTextInput
from uefi.protocols.simple_text_input_ex import SimpleTextInputEx
from uefi.protocols.simple_text_output import SimpleTextOutput

if TYPE_CHECKING:
    from images.block import BlockDevice
    from images.tree import FileSystem
    from machine.boards.pc import PcBoard
    from uefi.firmware import Firmware
    from uefi.graphics.framebuffer import Framebuffer
    from uefi.hii.database import Database

PCI_ROOT = nodes.pci_root()
_LPC = nodes.pci(0x1F, 0)
_COM1 = nodes.acpi("PNP0501", 0)


class Volume:
    """A device with a file system: what the boot manager looks at."""

    def __init__(self, handle: int, path: bytes, file_system: "FileSystem") -> None:
        self.handle = handle
        self.path = path
        self.file_system = file_system


class Platform:
    """Installs devices and consoles on the firmware's handles."""

    def __init__(self, firmware: "Firmware", console: HostConsole) -> None:
        self.firmware = firmware
        self.console = console
        self.volumes: list[Volume] = []
        self._hii: Database | None = None
        self.console_path = device_path.join(PCI_ROOT, _LPC, _COM1, nodes.uart(115_200))

    def add(self, path: bytes) -> int:
        """A new handle with a device path."""
        address = self.firmware.pool(len(path))
        self.firmware.memory.write(address, path)
        return self.firmware.handles.install(None, guids.DEVICE_PATH_PROTOCOL, address)

    def add_consoles(self, *, ansi: bool, terminal: tuple[int, int] | None) -> TextScreen:
        """ConIn, ConOut and StdErr on the serial terminal, and the serial port itself."""
        firmware = self.firmware
        screen = TextScreen(self.console.write, ansi=ansi, terminal=terminal)
        keyboard = Keyboard(self.console, firmware.clock.now)
        handle = self.add(self.console_path)
        text_out = SimpleTextOutput(firmware, screen)
        text_in = SimpleTextInput(firmware, keyboard)
        handles = firmware.handles
        handles.install(handle, guids.SIMPLE_TEXT_OUTPUT_PROTOCOL, text_out)
        handles.install(handle, guids.SIMPLE_TEXT_INPUT_PROTOCOL, text_in)
        handles.install(handle, guids.SIMPLE_TEXT_INPUT_EX_PROTOCOL, SimpleTextInputEx(firmware, keyboard))
        serial = self.add(device_path.join(PCI_ROOT, _LPC, _COM1))
        handles.install(serial, guids.SERIAL_IO_PROTOCOL, SerialIo(firmware, self.console))
        output = (handle, text_out.address)
        firmware.system_table.set_consoles((handle, text_in.address), output, output)
        return screen

    def add_graphics(self) -> "Framebuffer":
        """A framebuffer in reserved RAM, and EFI_GRAPHICS_OUTPUT_PROTOCOL when somebody looks for it."""
        from uefi.graphics.framebuffer import Framebuffer, size_needed

        firmware = self.firmware
        size = size_needed()
        if firmware.page_sharing is None:
            base = firmware.pages(size // PAGE, mt.RESERVED)
        else:
            # The display reads it: guests take it for memory of a device, and map it as shared. Whole large pages, as the
            # identity map has: TamaGo does not change pages of its own that lie beside smaller ones.
            whole = -(-size // LARGE_PAGE) * LARGE_PAGE
            base = firmware.memory_map.allocate(whole // PAGE, mt.RESERVED, alignment=LARGE_PAGE)
            firmware.page_sharing.share(base, whole)
        screen = Framebuffer(firmware.computer.memory.window(base, size), base)

        firmware.handles.offer(
            guids.GRAPHICS_OUTPUT_PROTOCOL, partial(self._make, "graphics_output", "GraphicsOutput", screen)
        )
        return screen

    def _make(self, module: str, name: str, *arguments: Any) -> Interface:
        """An object of a class in `uefi.protocols`, whose module is imported only now."""
        kind = getattr(import_module(f"uefi.protocols.{module}"), name)
        assert issubclass(kind, Interface)
        made: Interface = kind(self.firmware, *arguments)
        return made

    def _make_hii(self, module: str, name: str) -> Interface:
        """The same for one that shares the HII database."""
        if self._hii is None:
            from uefi.hii.database import Database

            self._hii = Database()
        return self._make(module, name, self._hii)

    def offer_services(self) -> None:
        """The protocols that stand alone: each is made when an image first looks for it."""
        handles = self.firmware.handles

        def offer(guid: Guid, module: str, name: str, *arguments: Any) -> None:
            handles.offer(guid, partial(self._make, module, name, *arguments))

        def offer_hii(guid: Guid, module: str, name: str) -> None:
            handles.offer(guid, partial(self._make_hii, module, name))

        offer(guids.DEVICE_PATH_UTILITIES_PROTOCOL, "device_path_utilities", "DevicePathUtilities")
        offer(guids.DEVICE_PATH_TO_TEXT_PROTOCOL, "device_path_to_text", "DevicePathToText")
        offer(guids.DEVICE_PATH_FROM_TEXT_PROTOCOL, "device_path_from_text", "DevicePathFromText")
        offer(guids.UNICODE_COLLATION2_PROTOCOL, "unicode_collation", "UnicodeCollation")
        offer(guids.UNICODE_COLLATION_PROTOCOL, "unicode_collation", "UnicodeCollation1")
        offer(guids.DECOMPRESS_PROTOCOL, "decompress", "Decompress")
        offer(guids.RNG_PROTOCOL, "rng", "Rng", self.firmware.computer.random_bytes)
        offer(guids.TIMESTAMP_PROTOCOL, "timestamp", "Timestamp")
        offer(guids.MP_SERVICES_PROTOCOL, "mp_services", "MpServices")
        offer_hii(guids.HII_DATABASE_PROTOCOL, "hii_database", "HiiDatabase")
        offer_hii(guids.HII_STRING_PROTOCOL, "hii_string", "HiiString")
        offer(guids.HII_FONT_PROTOCOL, "hii_font", "HiiFont")
        offer(guids.HII_CONFIG_ROUTING_PROTOCOL, "hii_config_routing", "HiiConfigRouting")

    def offer_pci(self, board: "PcBoard", memory: range, ports: range, buses: int) -> None:
        """The root bridge and PCI functions as handles; made, with the network device's driver, when first looked for."""
        self.firmware.handles.offer_devices(
            (
                guids.DEVICE_PATH_PROTOCOL,
                guids.DRIVER_BINDING_PROTOCOL,
                guids.PCI_IO_PROTOCOL,
                guids.PCI_ROOT_BRIDGE_IO_PROTOCOL,
                guids.SIMPLE_NETWORK_PROTOCOL,
            ),
            partial(self._install_pci, board, memory, ports, buses),
        )

    def _install_pci(self, board: "PcBoard", memory: range, ports: range, buses: int) -> None:
        from uefi.pci.handles import install_pci

        install_pci(self.firmware, board.pci, memory, ports, buses, board.nic)

    def add_file_system(self, file_system: "FileSystem", node: Node) -> Volume:
        """A volume that is not on a block device: a host's folder."""
        path = device_path.join(PCI_ROOT, node)
        handle = self.add(path)
        self.firmware.handles.install(
            handle, guids.SIMPLE_FILE_SYSTEM_PROTOCOL, SimpleFileSystem(self.firmware, file_system)
        )
        volume = Volume(handle, path, file_system)
        self.volumes.append(volume)
        return volume

    def add_block_device(
        self,
        device: "BlockDevice",
        path: bytes,
        partition: bool,
        open_volume: "Callable[[BlockDevice], FileSystem | None]",
        written: Callable[[], None],
    ) -> int:
        """A disk or partition, with a file system if `open_volume` finds one; the guest's writes call `written`."""
        from uefi.protocols.block_io import BlockIo, DiskIo

        firmware = self.firmware
        handle = self.add(path)
        firmware.handles.install(handle, guids.BLOCK_IO_PROTOCOL, BlockIo(firmware, device, partition, written))
        firmware.handles.install(handle, guids.DISK_IO_PROTOCOL, DiskIo(firmware, device, written))
        file_system = open_volume(device)
        if file_system is not None:
            firmware.handles.install(handle, guids.SIMPLE_FILE_SYSTEM_PROTOCOL, SimpleFileSystem(firmware, file_system))
            self.volumes.append(Volume(handle, path, file_system))
        return handle
