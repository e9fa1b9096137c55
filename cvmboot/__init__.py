"""cvmboot boots UEFI unikernels on any machine: `from cvmboot import VirtualMachine`, or the `cvmboot` command."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cvmboot.errors import CvmbootError, UsageError
    from cvmboot.virtual_machine import VirtualMachine
    from machine.net.hub import Hub

__all__ = ["CvmbootError", "Hub", "UsageError", "VirtualMachine"]


def __getattr__(name: str) -> Any:
    """Import what is asked for only now (PEP 562): the command line needs nothing of it."""
    if name == "VirtualMachine":
        from cvmboot.virtual_machine import VirtualMachine

        return VirtualMachine
    if name == "Hub":
        from machine.net.hub import Hub

        return Hub
    if name in ("CvmbootError", "UsageError"):
        from cvmboot import errors

        return getattr(errors, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
