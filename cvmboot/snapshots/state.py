"""A machine's state as bytes, and a machine from them: which objects belong to the host, and what stands in their place."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cvmboot.assembly import Assembly
from cvmboot.media import Media
from cvmboot.snapshots.errors import BadState, NotState, SnapshotError
from cvmboot.snapshots.graph import Decoder, Encoder, Given
from cvmboot.snapshots.registry import Registry
from cvmboot.snapshots.state_classes import CLASSES, FUNCTIONS
from machine.computer import Computer
from machine.errors import BadAddress
from uefi.graphics.framebuffer import Framebuffer, size_needed

if TYPE_CHECKING:
    from cvmboot.options import RunOptions
    from cvmboot.unikernel import UnikernelAssembly, UnikernelSymbols
    from images.block import BlockDevice
    from machine.console import HostConsole
    from machine.memory import PhysicalMemory
    from sev.platform import Platform

REGISTRY = Registry(CLASSES, FUNCTIONS)

_COMPUTER_METHODS = (
    *("random_bytes", "defer", "_doze", "_spun", "_earlier", "_whole_memory", "_open_window"),
    *("_interrupted", "_on_init", "_on_startup"),
)
_CONSOLE_METHODS = ("flush", "pending", "write")


class Host:
    """The host's side of a machine: what a state refers to and does not contain.

    `bases` are the devices under the overlays of disks, in the order of `Media.disks`.
    """

    def __init__(
        self,
        computer: Computer,
        console: "HostConsole",
        warn: Callable[[str], None],
        options: "RunOptions",
        image: bytes | memoryview,
        bases: "list[BlockDevice]",
        platform: "Platform | None" = None,
        symbols: "UnikernelSymbols | None" = None,
    ) -> None:
        self.given = {
            "memory": Given(computer.memory),
            "computer": Given(computer, *_COMPUTER_METHODS),
            "engine": Given(computer.engine, "flush_translations"),
            "console": Given(console, *_CONSOLE_METHODS),
            "warn": Given(warn),
            "options": Given(options),
            "image": Given(image),
        }
        for number, cpu in enumerate(computer.engine.cpus):
            self.given[f"cpu {number}"] = Given(cpu, "load")
        for number, base in enumerate(bases):
            self.given[f"base {number}"] = Given(base, "read")
        if platform is not None:
            self.given["platform"] = Given(platform, "certificate_table")
        if symbols is not None:
            self.given["symbols"] = Given(symbols)


def bases_of(media: Media) -> "list[BlockDevice]":
    """The devices under the disks' overlays."""
    from images.block import OverlayDevice

    return [disk.device.base for disk in media.disks().values() if isinstance(disk.device, OverlayDevice)]


def freeze(assembly: "Assembly | UnikernelAssembly", media: Media, options: "RunOptions") -> bytes:
    """The state of a machine at rest, without its memory. On its thread. SnapshotError if it cannot be frozen."""
    if options.esp_write:
        raise SnapshotError(
            f"--esp-write: what the guest writes goes to {options.esp} itself, and would not fit a snapshot for long"
        )
    firmware = assembly.firmware if isinstance(assembly, Assembly) else None
    host = Host(
        assembly.computer,
        assembly.console,
        firmware.warn if firmware is not None else print,
        options,
        assembly.image,
        bases_of(media),
        assembly.snp.guest.platform if assembly.snp is not None else None,
        None if isinstance(assembly, Assembly) else assembly.symbols,
    )
    assembly.console.flush()
    root = {
        "computer": assembly.computer.freeze(),
        "assembly": assembly,
        "console": assembly.console.save(),
        "media": media.freeze(),
    }
    try:
        return Encoder(REGISTRY, host.given).encode(root)
    except NotState as error:
        raise SnapshotError(f"this machine cannot be frozen: {error}") from None


def thaw(data: bytes | memoryview, host: Host, media: Media) -> "Assembly | UnikernelAssembly":
    """The machine in `data`, on the given host; `media` gets its disks. BadState, EngineError."""
    from cvmboot.unikernel import UnikernelAssembly

    root = Decoder(REGISTRY, host.given).decode(data)
    try:
        assembly: Assembly | UnikernelAssembly = root["assembly"]
        if not isinstance(assembly, Assembly | UnikernelAssembly):
            raise BadState(f"its machine is {type(assembly).__qualname__}")
        computer: Any = host.given["computer"].value
        computer.thaw(root["computer"])
        media.thaw(root["media"])
        assembly.console.load(root["console"])
        if isinstance(assembly, Assembly):
            _restore_screen(assembly.screen, computer.memory)
    except (KeyError, TypeError, ValueError, AttributeError, BadAddress) as error:
        raise BadState(f"{type(error).__name__}: {error}") from error
    return assembly


def _restore_screen(screen: Framebuffer, memory: "PhysicalMemory") -> None:
    screen.pixels = memory.window(screen.base, size_needed(tuple(screen.modes)))
