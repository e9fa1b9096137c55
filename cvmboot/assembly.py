"""Puts one machine together: computer, board, firmware, file systems, consoles, and the image to boot."""

import mmap
from collections.abc import Callable
from pathlib import Path

from cvmboot.errors import CvmbootError, UsageError
from cvmboot.options import RunOptions
from machine.boards.pc import PcBoard
from machine.clock import RealClock, VirtualClock
from machine.computer import Computer
from machine.console import HostConsole
from machine.errors import MachineError
from uefi.firmware import Firmware, Outcome
from uefi.status import EfiError, status_name


class Assembly:
    """One machine, ready to run: `computer.run()` on one thread gives an `uefi.firmware.Outcome`."""

    def __init__(self, computer: Computer, board: PcBoard, firmware: Firmware, console: HostConsole) -> None:
        self.computer = computer
        self.board = board
        self.firmware = firmware
        self.console = console

    def close(self) -> None:
        """Free the machine's memory."""
        self.computer.close()


def read_image(path: Path) -> "bytes | mmap.mmap":
    """The file's bytes, mapped and not copied. CvmbootError if it cannot be read or is empty."""
    try:
        with path.open("rb") as file:
            try:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except ValueError:
                raise CvmbootError(f"{path}: the file is empty; give an EFI application (PE32+)") from None
    except OSError as error:
        raise CvmbootError(f"{path}: {error.strerror or error}; give the path of an EFI application") from None


def assemble(options: RunOptions, console: HostConsole, warn: Callable[[str], None]) -> Assembly:
    """Build the machine that `options` ask for. UsageError or CvmbootError with one line if that is impossible."""
    if options.engine not in ("auto", "unicorn"):
        raise UsageError(f"--engine {options.engine}: only auto and unicorn are there yet; leave the option out")
    if options.clock not in ("real", "virtual"):
        raise UsageError(f"--clock {options.clock}: wanted real or virtual")
    if options.cpus != 1:
        raise UsageError(f"--cpus {options.cpus}: only 1 is there yet; leave the option out")
    if options.board != "uefi":
        raise UsageError(f"--board {options.board}: only uefi is there yet; leave the option out")
    clock = VirtualClock() if options.clock == "virtual" else RealClock()
    try:
        computer = Computer(options.memory, options.cpus, clock)
    except MachineError as error:
        raise CvmbootError(str(error)) from None
    board = PcBoard(computer, console, lambda kind: computer.finish(Outcome(kind)))
    firmware = Firmware(computer, warn)
    return Assembly(computer, board, firmware, console)


def start(assembly: Assembly, image: Path, options: RunOptions) -> None:
    """Load the image and point the machine at it. CvmbootError with the reason if the image is refused."""
    data = read_image(image)
    load_options = (options.args + "\0").encode("utf-16-le") if options.args else b""
    try:
        assembly.firmware.start(memoryview(data), image.name, None, 0, 0, load_options)
    except EfiError as error:
        reason = assembly.firmware.images.problem or f"refused with {status_name(error.status)}"
        raise CvmbootError(f"{image}: {reason}") from None
