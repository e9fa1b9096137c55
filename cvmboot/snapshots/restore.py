"""A machine put together from a snapshot: memory mapped, state read, and what belongs to the host made anew."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cvmboot.assembly import Assembly
from cvmboot.engines import engine_for
from cvmboot.errors import CvmbootError
from cvmboot.snapshots.bases import Bases
from cvmboot.snapshots.errors import BadState, SnapshotError, printable
from cvmboot.snapshots.state import Host, thaw
from loader.errors import LoaderError
from machine.computer import Computer
from machine.errors import EngineError, MachineError
from machine.memory import PhysicalMemory

if TYPE_CHECKING:
    from cvmboot.media import Media
    from cvmboot.options import RunOptions
    from cvmboot.snapshots.file import SnapshotFile
    from cvmboot.unikernel import UnikernelAssembly, UnikernelSymbols
    from machine.console import HostConsole
    from sev.platform import Platform

_MOST_CPUS = 255


def restore(
    file: "SnapshotFile", options: "RunOptions", console: "HostConsole", warn: Callable[[str], None], media: "Media"
) -> "Assembly | UnikernelAssembly":
    """The machine in `file`, ready to run; `media` gets its disks and image. SnapshotError, or CvmbootError for its network."""
    facts = file.facts
    if file.descriptor < 0:
        raise SnapshotError(f"{file.name}: the snapshot has been closed; clone it before, or open its file again")
    if not facts.layout.is_ours:
        raise SnapshotError(
            f"{file.name}: written by another version of cvmboot ({printable(facts.version)}), whose state this one does not "
            "read; make the snapshot anew"
        )
    try:
        return _restore(file, options, console, warn, media)
    except (BadState, LoaderError, MemoryError) as error:
        raise SnapshotError(
            f"{file.name}: no machine can be made of it: {printable(error)}; make the snapshot anew"
        ) from None
    except EngineError as error:
        raise SnapshotError(f"{file.name}: {error}") from None
    except MachineError as error:
        raise SnapshotError(f"{file.name}: {error}") from None


def _restore(
    file: "SnapshotFile", options: "RunOptions", console: "HostConsole", warn: Callable[[str], None], media: "Media"
) -> "Assembly | UnikernelAssembly":
    facts = file.facts
    if not 1 <= facts.cpus <= _MOST_CPUS:
        raise BadState(f"it has {facts.cpus} processors")
    platform = _platform(file, options)
    symbols = _symbols(file) if facts.unikernel else None
    image = media.image(Path(facts.name), lambda: file.image[:])
    bases = Bases(facts.bases)
    memory = PhysicalMemory(facts.ram, (file.descriptor, facts.ram_at))
    computer: Computer | None = None
    try:
        computer = Computer.restored(memory, facts.cpus, engine_for(options, warn), warn)
        host = Host(computer, console, warn, options, image, bases.devices, platform, symbols)
        assembly = thaw(file.state, host, media)
        bases.hand_over(media)
        if isinstance(assembly, Assembly):
            assembly.adapt(options)
        _plug_in(assembly, options, media, warn)
    except BaseException:
        bases.close()
        if computer is None:
            memory.close()
        else:
            computer.abandon()
        raise
    return assembly


def _symbols(file: "SnapshotFile") -> "UnikernelSymbols":
    from cvmboot.unikernel import UnikernelSymbols
    from loader.elf_program import ElfProgram

    return UnikernelSymbols(Path(file.facts.name).name, ElfProgram(file.image), file.image)


def _platform(file: "SnapshotFile", options: "RunOptions") -> "Platform | None":
    known = file.facts.platform
    if known is None:
        if options.platform is not None:
            raise SnapshotError(f"{file.name}: --platform: the machine is no SEV-SNP guest; leave the option out")
        return None
    from cvmboot.snp import open_platform

    folder = options.platform or Path(known.folder)
    try:
        platform = open_platform(folder, None)
    except CvmbootError as error:
        raise SnapshotError(f"{file.name}: the guest's platform: {error}; name it with --platform") from None
    if platform.fingerprint != known.fingerprint:
        raise SnapshotError(
            f"{file.name}: the guest runs on another platform than that in {folder}, or its settings have changed; name the "
            "folder with --platform"
        )
    return platform


def _plug_in(
    assembly: "Assembly | UnikernelAssembly", options: "RunOptions", media: "Media", warn: Callable[[str], None]
) -> None:
    """Plug the network device into what the options ask for; without any of them its cable is loose."""
    port = assembly.board.port
    from cvmboot.network import replug

    if port is not None or any((options.net, options.forward, options.expose, options.pcap)):
        assembly.network = replug(assembly.board, options, media, warn)
