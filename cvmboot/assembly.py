"""Puts one machine together: computer, board, firmware, file systems, consoles, and the image to boot."""

import mmap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvmboot.engines import engine_for
from cvmboot.errors import CvmbootError, UsageError
from cvmboot.media import Media
from cvmboot.options import RunOptions
from cvmboot.storage import REMOVABLE_PATH, add_disk, add_esp, add_image_alone
from cvmboot.variables import SecureBootCheck, open_variables
from images.errors import ContainerError, ImageError, UnsupportedFormat
from machine.boards import pc
from machine.boards.pc import PcBoard
from machine.clock import RealClock, VirtualClock
from machine.computer import Computer
from machine.console import HostConsole
from machine.errors import MachineError
from uefi.device_path import nodes
from uefi.device_path import path as device_path
from uefi.firmware import End, Firmware
from uefi.platform import Platform, Volume
from uefi.status import EfiError, status_name
from uefi.tables.acpi import AcpiSettings
from uefi.tables.install import install_acpi, install_memory_attributes, install_smbios
from uefi.tables.smbios import SmbiosSettings
from uefi.variables.standard_globals import load_option, standard_globals
from uefi.variables.store import VariableStore

if TYPE_CHECKING:
    from cvmboot.network import Network
    from cvmboot.snp import SnpGuest
    from cvmboot.symbols import Symbols
    from uefi.console.text_screen import TextScreen
    from uefi.graphics.framebuffer import Framebuffer


class Assembly:
    """One machine, ready to run: `computer.run()` on one thread gives an `uefi.firmware.Outcome`."""

    def __init__(
        self,
        computer: Computer,
        board: PcBoard,
        firmware: Firmware,
        platform: Platform,
        console: HostConsole,
        screen: "Framebuffer",
        text: "TextScreen",
        snp: "SnpGuest | None" = None,
    ) -> None:
        self.computer = computer
        self.board = board
        self.firmware = firmware
        self.platform = platform
        self.console = console
        self.screen = screen
        self.network: Network | None = None
        self.snp = snp
        self.image: bytes | memoryview = b""
        """The file of the first image."""
        self.folder: Path | None = None
        """Where that came from."""
        self._text = text

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "network": None, "folder": None}

    def symbols(self) -> "Symbols":
        """Names for addresses in the images that are loaded."""
        from cvmboot.symbols import Symbols

        return Symbols(self.firmware.images, self.folder)

    def adapt(self, options: RunOptions) -> None:
        """For a machine that is restored: there may be another terminal."""
        self._text.adapt(ansi=options.ansi)

    def close(self) -> None:
        """Free the machine's memory and files."""
        if self.network is not None:
            self.network.close()
        if self.snp is not None:
            self.snp.close()
        self.firmware.images.forget_all()
        self.screen.pixels.release()
        self._text.close()
        self.console.flush()
        self.computer.close()


def read_image(path: Path) -> memoryview:
    """The file's bytes, mapped and not copied. CvmbootError if it cannot be read or is empty."""
    try:
        with path.open("rb") as file:
            try:
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            except ValueError:
                raise CvmbootError(f"{path}: the file is empty; give an EFI application (PE32+)") from None
    except OSError as error:
        raise CvmbootError(f"{path}: {error.strerror or error}; give the path of an EFI application") from None


def assemble(
    options: RunOptions, console: HostConsole, warn: Callable[[str], None], variables: VariableStore | None = None
) -> Assembly:
    """Build the machine that `options` ask for. UsageError or CvmbootError with one line if that is impossible.

    `variables` are those of the run before a reset.
    """
    engine = engine_for(options, warn)
    if options.clock not in ("real", "virtual"):
        raise UsageError(f"--clock {options.clock}: wanted real or virtual")
    if options.board not in ("auto", "uefi"):
        raise UsageError(f"--board {options.board} is for ELF unikernels; leave it out for EFI applications and disks")
    clock = VirtualClock() if options.clock == "virtual" else RealClock()
    try:
        computer = Computer(options.memory, options.cpus, clock, engine, warn)
    except MachineError as error:
        raise CvmbootError(str(error)) from None
    snp = _snp_guest(computer, options)
    board = PcBoard(computer, console, End(computer))
    firmware = Firmware(computer, warn)
    if snp is not None:
        snp.install(firmware)
    store = variables if variables is not None else open_variables(options.vars, warn)
    firmware.variables = store
    firmware.authorize = SecureBootCheck(firmware, store)
    platform = Platform(firmware, console)
    text = platform.add_consoles(ansi=options.ansi, terminal=options.terminal_size)
    screen = platform.add_graphics()
    platform.offer_services()
    platform.offer_pci(board, pc.PCI_MEMORY, pc.PCI_PORTS, pc.ECAM_BUSES)
    install_acpi(firmware, AcpiSettings(cpus=options.cpus, ecam_base=pc.ECAM_BASE, buses=pc.ECAM_BUSES))
    install_smbios(firmware, _smbios(computer, options.cpus))
    install_memory_attributes(firmware)
    return Assembly(computer, board, firmware, platform, console, screen, text, snp)


_SNP_OPTIONS = (
    *("product", "platform", "snp_check", "guest_policy", "host_data", "id_block", "id_auth", "vmpl"),
    *("report_version", "measurement", "ovmf", "sp_busy"),
)


def _snp_guest(computer: Computer, options: RunOptions) -> "SnpGuest | None":
    if not options.snp:
        for name in _SNP_OPTIONS:
            if getattr(options, name) is not None:
                raise UsageError(f"--{name.replace('_', '-')} says how an SEV-SNP guest is made; add --snp")
        return None
    from cvmboot.snp import SnpGuest

    return SnpGuest(computer, options)


def _smbios(computer: Computer, cpus: int) -> SmbiosSettings:
    ram = [(0, computer.memory.low_size)]
    if computer.memory.high_size:
        ram.append((1 << 32, computer.memory.high_size))
    eax, _, _, edx = computer.cpuid(computer.engine.cpus[0], 1, 0)
    name = b"".join(
        word.to_bytes(4, "little")
        for leaf in range(0x80000002, 0x80000005)
        for word in computer.cpuid(computer.engine.cpus[0], leaf, 0)
    )
    return SmbiosSettings(
        ram=ram,
        cpus=cpus,
        processor_version=name.rstrip(b"\0").decode(),
        processor_id=edx << 32 | eax,
        speed_mhz=computer.clock.tsc_frequency // 1_000_000,
    )


def start(assembly: Assembly, image: Path, options: RunOptions, media: Media | None = None) -> None:
    """Load the image, or the one that a disk image boots, and point the machine at it. `media` outlives resets.

    CvmbootError with the reason if it is refused, UsageError for options that do not go with it.
    """
    platform = assembly.platform
    media = media or Media()
    if options.ask_for_network:
        from cvmboot.network import add_network

        assembly.network = add_network(assembly.board, options, media, assembly.firmware.warn)
    data = media.image(image, partial(read_image, image))
    name = REMOVABLE_PATH
    if data[:2] != b"MZ" and (disk := _disk(platform, image, options, media)) is not None:
        volume = disk
        data = _read_boot_file(volume, image)
    elif options.esp is not None:
        volume = add_esp(platform, options.esp, media, write=options.esp_write)
        name = _name_on(options.esp, image) or REMOVABLE_PATH
    else:
        volume = add_image_alone(platform, image, data, media)
    path = device_path.append(volume.path, device_path.join(nodes.file_path(name)))
    standard_globals(
        assembly.firmware.variables,
        console_in=platform.console_path,
        console_out=platform.console_path,
        error_out=platform.console_path,
        boot_option=load_option(image.name, path),
    )
    assembly.image = data
    assembly.folder = image.parent
    if assembly.snp is not None:
        assembly.snp.image_loaded(data)
    load_options = (options.args + "\0").encode("utf-16-le") if options.args else b""
    try:
        assembly.firmware.start(data, image.name, path, volume.handle, len(volume.path) - 4, load_options)
    except EfiError as error:
        reason = assembly.firmware.images.problem or f"refused with {status_name(error.status)}"
        raise CvmbootError(f"{image}: {reason}") from None


def _disk(platform: Platform, image: Path, options: RunOptions, media: Media) -> Volume | None:
    """The volume that a disk image boots from; None if the file is no disk image at all."""
    from images.disk import open_disk

    try:
        disk = media.disk(image, lambda: open_disk(image, options.esp_write))
        volume = add_disk(platform, disk, image)
    except (UnsupportedFormat, ContainerError) as error:
        raise CvmbootError(str(error)) from None
    except ImageError:
        return None  # the loader says what the file looks like
    if options.esp is not None:
        raise UsageError(f"{image} is a disk image with an EFI system partition of its own; leave --esp out")
    return volume


def _read_boot_file(volume: Volume, image: Path) -> bytes:
    try:
        file = volume.file_system.root().open(REMOVABLE_PATH)
        return file.read(0, file.info().size)
    except ImageError as error:
        raise CvmbootError(f"{image}: its EFI system partition has no {REMOVABLE_PATH} to boot: {error}") from None


def _name_on(esp: Path, image: Path) -> str | None:
    """The path of the image on the ESP if it lies in that folder: loaders look for their files beside themselves."""
    folder, file = esp.resolve(), image.resolve()
    if not folder.is_dir() or not file.is_relative_to(folder):
        return None
    return "\\" + "\\".join(file.relative_to(folder).parts)
