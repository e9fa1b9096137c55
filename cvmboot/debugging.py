"""`cvmboot run --gdb`: GDB's end of a machine, and what its `monitor` command can ask."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from cvmboot.assembly import Assembly
from cvmboot.errors import CvmbootError
from machine.gdb.server import GdbServer

if TYPE_CHECKING:
    from cvmboot.power import PoweredMachine


def gdb_server(
    port: int, post: Callable[[Callable[[], None]], None], kill: Callable[[], None], machine: "PoweredMachine"
) -> GdbServer:
    """Listen for GDB on 127.0.0.1:`port`. CvmbootError if the port cannot be had."""
    try:
        return GdbServer(port, post, kill, {"images": lambda _rest: _images(machine)})
    except OSError as error:
        raise CvmbootError(
            f"--gdb {port}: {error.strerror or error}; choose another port, or 0 for a free one"
        ) from None


def _images(machine: "PoweredMachine") -> str:
    """Where each loaded image lies, for GDB's add-symbol-file."""
    assembly = machine.assembly
    if assembly is None:
        return "no machine\n"
    if not isinstance(assembly, Assembly):
        return "".join(f"{place}\n" for place in assembly.symbols.places())
    images = [image for image in assembly.firmware.images.all() if image.pages]
    return "".join(f"{image.base:#x} to {image.base + 4096 * image.pages - 1:#x} {image.name}\n" for image in images)
