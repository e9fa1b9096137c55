"""`cvmboot run --gdb`: GDB's end of a machine, how it hears of the machine's end, and what its `monitor` command can ask."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cvmboot.assembly import Assembly
from cvmboot.errors import CvmbootError
from cvmboot.status import of_outcome
from machine.gdb.server import GdbServer
from machine.gdb.stub import Ending

if TYPE_CHECKING:
    from cvmboot.power import PoweredMachine
    from uefi.images import Image


def gdb_server(
    port: int, post: Callable[[Callable[[], None]], None], kill: Callable[[], None], machine: "PoweredMachine"
) -> GdbServer:
    """Listen for GDB on 127.0.0.1:`port`. CvmbootError if the port cannot be had."""
    try:
        monitor = {"images": lambda _rest: _images(machine)}
        return GdbServer(port, post, kill, monitor, lambda result: _ending(machine, result))
    except OSError as error:
        raise CvmbootError(
            f"--gdb {port}: {error.strerror or error}; choose another port, or 0 for a free one"
        ) from None


def _ending(machine: "PoweredMachine", result: Any) -> Ending:
    """What GDB is to say: the exit status is that of `cvmboot run`."""
    outcome = machine.outcome_of(result)
    if outcome.kind == "crashed":
        return Ending(died=True, fault=outcome.fault)
    if outcome.kind == "reset" and machine.options.reboot:
        return Ending()
    return Ending(status=of_outcome(outcome))


def _images(machine: "PoweredMachine") -> str:
    """Where each loaded image lies, and how GDB hears of it."""
    assembly = machine.assembly
    if assembly is None:
        return "no machine\n"
    if not isinstance(assembly, Assembly):
        return "".join(f"{place}\n" for place in assembly.symbols.places())
    images = [image for image in assembly.firmware.images.all() if image.pages]
    return "".join(_place(image, machine) for image in images)


def _place(image: "Image", machine: "PoweredMachine") -> str:
    line = f"{image.base:#x} to {image.base + 4096 * image.pages - 1:#x} {image.name}\n"
    moved = (image.base - image.pe.image_base) % (1 << 64) if image.pe is not None else 0
    if moved:
        path = machine.image.resolve() if image.name == machine.image.name else image.name
        line += f"    add-symbol-file {_quoted(str(path))} -o {moved:#x}\n"
    return line


def _quoted(path: str) -> str:
    """As GDB takes a word apart."""
    return path if re.fullmatch(r"[\w./+-]+", path) else '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'
