"""The crash report: what a person needs to find out why the guest died."""

from cvmboot.assembly import Assembly
from machine import registers as reg
from uefi.firmware import Outcome


def report(assembly: Assembly, outcome: Outcome) -> list[str]:
    """The lines of the report; the first one says it all. After the run, on any thread."""
    cpu = assembly.computer.engine.cpus[0]
    return [f"the guest crashed: {outcome.text}, RIP {cpu.get(reg.RIP):#x}"]
