"""ELF unikernels: which board they are made for, and a machine with one of them, ready to run without firmware."""

import importlib
import mmap
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvmboot.engines import engine_for
from cvmboot.errors import CvmbootError, UsageError
from cvmboot.media import Media
from cvmboot.options import RunOptions
from loader.elf_program import ElfProgram
from loader.elf_symbols import ElfSymbols
from loader.errors import LoaderError, UnsupportedImageError
from loader.lookalikes import multiboot
from machine.boards import pc
from machine.boards.board import Board
from machine.boards.pc import PcBoard
from machine.boot import linux64, pvh
from machine.boot.memory_map import LONGEST_COMMAND_LINE, ONE_MIB
from machine.clock import RealClock, VirtualClock
from machine.computer import Computer
from machine.console import HostConsole
from machine.errors import BadAddress, MachineError
from uefi.firmware import End
from uefi.tables import acpi
from uefi.tables.acpi import AcpiSettings

if TYPE_CHECKING:
    from cvmboot.network import Network

BOARDS = {
    "microvm": ("machine.boards.microvm", "MicrovmBoard"),
    "firecracker": ("machine.boards.firecracker", "FirecrackerBoard"),
    "cloud_hypervisor": ("machine.boards.cloud_hypervisor", "CloudHypervisorBoard"),
    "gcp": ("machine.boards.gcp", "GcpBoard"),
}
_PACKAGES = {
    b"tamago/board/qemu/microvm": "microvm",
    b"tamago/board/firecracker/microvm": "firecracker",
    b"tamago/board/cloud_hypervisor/vm": "cloud_hypervisor",
    b"tamago/board/google/gcp": "gcp",
}
"""Go packages whose names a TamaGo program carries in its function table."""

BIOS_AREA, FACS = 0xE_0000, 0xF_FFC0
"""Where ACPI's tables lie on a PC without UEFI (ACPI 6.5, 5.2.5.1: the RSDP is looked for from here on)."""

_USER_SPACE = b"tamago/user/linux"
_ET_REL, _ET_DYN, _ET_CORE = 1, 3, 4
_RUNNERS = {
    **{8: "qemu-system-mips", 20: "qemu-system-ppc", 21: "qemu-system-ppc64", 22: "qemu-system-s390x"},
    **{40: "qemu-system-arm", 183: "qemu-system-aarch64", 243: "qemu-system-riscv64", 258: "qemu-system-loongarch64"},
}
_RISCV = 243
_MULTIBOOT = {
    "Multiboot": "GRUB starts those, and `qemu-system-x86_64 -kernel`",
    "Multiboot2": "GRUB starts those",
}
_FIRMWARE_OPTIONS = {
    **{"esp": "--esp", "esp_write": "--esp-write", "vars": "--vars", "snp": "--snp"},
    **{"trace": "--trace", "screenshot": "--screenshot"},
}


class UnikernelAssembly:
    """One machine with a unikernel, ready to run: `computer.run()` on one thread gives an Outcome."""

    snp = None

    def __init__(self, computer: Computer, board: Board, console: HostConsole, symbols: "UnikernelSymbols") -> None:
        self.computer = computer
        self.board = board
        self.console = console
        self.symbols = symbols
        self.image: bytes | memoryview = b""
        """The program's file."""
        self.network: Network | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "network": None}

    def close(self) -> None:
        """Free the machine's memory and files."""
        if self.network is not None:
            self.network.close()
        self.console.flush()
        self.computer.close()


class UnikernelSymbols:
    """Names for guest addresses, as `cvmboot.symbols.Symbols` gives them for EFI images."""

    def __init__(self, name: str, program: ElfProgram, data: bytes | memoryview) -> None:
        self._name = name
        self._program = program
        self._table = ElfSymbols(data)

    def image(self, address: int) -> "ElfProgram | None":
        """The program, if one of its segments lies around `address`."""
        inside = any(s.address <= address < s.address + s.memory_size for s in self._program.segments)
        return self._program if inside else None

    def function(self, address: int) -> str:
        """ "main.main+0x12", or "" if no table names the function around `address`."""
        found = self._table.lookup(address)
        if found is None:
            return ""
        name, offset = found
        return f"{name}+{offset:#x}" if offset else name

    def describe(self, address: int) -> str:
        """ "app.elf main.main+0x12", "app.elf", or "" outside the program."""
        if self.image(address) is None:
            return ""
        function = self.function(address)
        return f"{self._name} {function}" if function else self._name

    def places(self) -> list[str]:
        """The lines of a crash report, or of GDB's `monitor images`: where the program lies."""
        segments = self._program.segments
        return [f"{s.address:#x} to {s.address + s.memory_size - 1:#x}  {self._name}" for s in segments]


def board_of(
    data: "bytes | mmap.mmap",
    image: Path,
    asked: str,
    warn: Callable[[str], None] = lambda _line: None,
    otherwise: str = "microvm",
) -> str:
    """The board that a program is for: the one asked for, or what a TamaGo program's packages say, or `otherwise`."""
    if asked != "auto" and asked not in BOARDS:
        raise UsageError(f"--board {asked}: {image} is an ELF unikernel; wanted {', '.join(BOARDS)}")
    made_for = next((board for package, board in _PACKAGES.items() if data.find(package) >= 0), "")
    if asked == "auto":
        return made_for or otherwise
    if made_for not in ("", asked):
        warn(f"--board {asked}: {image.name} was built for {made_for}, by the names of its packages")
    return asked


def _advice(data: bytes) -> str:
    """What to do with an ELF file that is for another machine, or no program."""
    kind, machine = struct.unpack_from(">HH" if data[5] == 2 else "<HH", data, 16)
    if machine in _RUNNERS:
        runner = "qemu-system-riscv32" if machine == _RISCV and data[4] == 1 else _RUNNERS[machine]
        return f"; {runner} runs those"
    advice = {
        _ET_REL: "; link it first, or if it is a kernel module, load it into its kernel",
        _ET_DYN: "; a Linux program? run it as it is",
        _ET_CORE: "; gdb reads those",
    }
    return advice.get(kind, "")


def _program(data: bytes, image: Path, asked: str) -> ElfProgram:
    try:
        program = ElfProgram(data)
    except UnsupportedImageError as error:
        raise CvmbootError(f"{image}: {error}{_advice(data)}") from None
    except LoaderError as error:
        raise CvmbootError(f"{image}: {error}") from None
    if _USER_SPACE in data:
        raise CvmbootError(f"{image}: a TamaGo program for Linux's user space; run it as it is, on Linux")
    if program.pvh_entry is None and (header := multiboot(memoryview(data))):
        raise CvmbootError(f"{image}: a {header} kernel without a PVH entry; {_MULTIBOOT[header]}")
    if program.pvh_entry is None and asked == "auto":
        raise CvmbootError(
            f"{image}: no PVH entry (XEN_ELFNOTE_PHYS32_ENTRY). A Linux program? Then run it as it is. A kernel that takes "
            "Linux's 64-bit boot protocol? Then name its board, such as --board firecracker"
        )
    if program.pvh_entry is None and not program.is_64:
        raise CvmbootError(f"{image}: a 32-bit program without a PVH entry; there is no way to enter it")
    return program


def refuse_firmware_options(options: RunOptions, image: Path) -> None:
    """UsageError for an option that means something to UEFI only."""
    for name, spelling in _FIRMWARE_OPTIONS.items():
        if getattr(options, name):
            raise UsageError(f"{spelling}: {image} is an ELF unikernel, which runs without UEFI; leave the option out")


def assemble(
    options: RunOptions,
    console: HostConsole,
    warn: Callable[[str], None],
    image: Path,
    media: Media,
    disk_command_line: str | None = None,
) -> UnikernelAssembly:
    """Build the machine of an ELF unikernel and load it. UsageError or CvmbootError with one line if that is impossible.

    `disk_command_line`: the program comes from a disk that a BIOS boots, and this stands there for it.
    """
    refuse_firmware_options(options, image)
    command_line = (options.args or disk_command_line or "").encode()
    if len(command_line) > LONGEST_COMMAND_LINE or b"\0" in command_line:
        raise UsageError(
            f"--args: wanted at most {LONGEST_COMMAND_LINE} bytes, without NUL, for a kernel's command line"
        )
    data = bytes(media.image(image, partial(_read, image)))
    program = _program(data, image, "gcp" if disk_command_line is not None else options.board)
    from_disk = disk_command_line is not None
    board_name = board_of(data, image, options.board, warn, "gcp" if from_disk else "microvm")
    module, name = BOARDS[board_name]
    try:
        clock = VirtualClock() if options.clock == "virtual" else RealClock()
        computer = Computer(options.memory, options.cpus, clock, engine_for(options, warn), warn)
    except MachineError as error:
        raise CvmbootError(str(error)) from None
    board: Board = getattr(importlib.import_module(module), name)(computer, console, End(computer))
    assembly = UnikernelAssembly(computer, board, console, UnikernelSymbols(image.name, program, data))
    assembly.image = data
    try:
        _load(computer, program, data, image)
        try:
            board.place_mp_table()
        except MachineError as error:
            raise UsageError(str(error)) from None
        rsdp = _place_acpi(board)
        if program.pvh_entry is not None:
            pvh.enter(computer, program.pvh_entry, command_line, rsdp)
        else:
            linux64.enter(computer, program.entry, command_line, rsdp)
        if options.ask_for_network:
            from cvmboot.network import add_network

            assembly.network = add_network(board, options, media, warn)
    except BaseException:
        assembly.close()
        raise
    return assembly


def _place_acpi(board: Board) -> int:
    """ACPI's tables where the BIOS of a PC, or Cloud Hypervisor, leaves them; the RSDP's address, 0 on boards without."""
    computer = board.computer
    cpus = len(computer.engine.cpus)
    if isinstance(board, PcBoard):
        settings = AcpiSettings(cpus=cpus, ecam_base=pc.ECAM_BASE, buses=pc.ECAM_BUSES)
        computer.memory.write(FACS, acpi.facs())
        computer.memory.write(BIOS_AREA, acpi.build(settings, BIOS_AREA, FACS))
        return BIOS_AREA
    return _place_reduced_acpi(computer, cpus) if board.hardware_reduced else 0


def _place_reduced_acpi(computer: Computer, cpus: int) -> int:
    """The tables of Cloud Hypervisor's machine."""
    from machine.boards import cloud_hypervisor as board

    settings = AcpiSettings(
        cpus=cpus,
        ecam_base=None,
        buses=1,
        gsi_of=None,
        s5_type=board.S5,
        sleep_port=board.SHUTDOWN_PORT,
        reset_port=board.SHUTDOWN_PORT,
        reset_value=board.RESET,
        memory_windows=(board.LOW_DEVICES, range(board.DEVICE_WINDOW, board.DEVICE_WINDOW + board.DEVICE_WINDOW_SIZE)),
    )
    computer.memory.write(board.TABLES, acpi.build(settings, board.TABLES))
    return board.TABLES


def _read(image: Path) -> bytes:
    try:
        return image.read_bytes()
    except OSError as error:
        raise CvmbootError(f"{image}: {error.strerror or error}") from None


def _load(computer: Computer, program: ElfProgram, data: bytes, image: Path) -> None:
    view = memoryview(data)
    for segment in program.segments:
        end = segment.address + segment.memory_size
        try:
            if segment.address < ONE_MIB:
                raise BadAddress(segment.address, segment.memory_size)
            computer.memory.offset(segment.address, segment.memory_size)
            computer.memory.write(segment.address, view[segment.offset : segment.offset + segment.file_size])
        except BadAddress:
            raise CvmbootError(
                f"{image}: a segment lies at {segment.address:#x} to {end:#x}; this machine's RAM for programs is "
                f"{ONE_MIB:#x} to {computer.memory.low_size:#x}; give it more with --memory"
            ) from None
