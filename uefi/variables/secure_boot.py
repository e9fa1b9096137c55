"""Secure Boot modes: Setup, User, Audit and Deployed, and what leads from one to another (UEFI 2.10, 32.3)."""

from uefi import guids
from uefi.status import EfiError, Status

AUDIT_MODE = ("AuditMode", guids.GLOBAL_VARIABLE)
DEPLOYED_MODE = ("DeployedMode", guids.GLOBAL_VARIABLE)

SETUP = "setup"
USER = "user"
AUDIT = "audit"
DEPLOYED = "deployed"


def initial_mode(*, has_pk: bool, audit: bool, deployed: bool) -> str:
    """The mode at power on, from what was kept. Audit Mode has no PK and Deployed Mode has one; else a flag is void."""
    if has_pk:
        return DEPLOYED if deployed else USER
    return AUDIT if audit else SETUP


def after_pk_change(mode: str, *, has_pk: bool) -> str:
    """The mode after PK was set or deleted (the figure in 32.3): enrolling in Audit Mode deploys, deleting always sets up."""
    if not has_pk:
        return AUDIT if mode == AUDIT else SETUP
    return {SETUP: USER, AUDIT: DEPLOYED}.get(mode, mode)


def after_mode_write(mode: str, name: str, value: bytes) -> str:
    """The mode after a guest's SetVariable of AuditMode or DeployedMode; going to Audit Mode also deletes PK.

    EfiError: WRITE_PROTECTED where the variable is read-only (the figure in 32.3), INVALID_PARAMETER for anything but one byte
    0 or 1. Writing 0 where it is 0 changes nothing.
    """
    writable = (SETUP, USER) if name == AUDIT_MODE[0] else (USER,)
    if mode not in writable:
        raise EfiError(Status.WRITE_PROTECTED, f"{name} is read-only in {mode} mode")
    if value not in (b"\0", b"\1"):
        raise EfiError(Status.INVALID_PARAMETER, f"{name} = {value[:8].hex()}, wanted one byte 0 or 1")
    if value == b"\0":
        return mode
    return AUDIT if name == AUDIT_MODE[0] else DEPLOYED


def published(mode: str) -> dict[str, bytes]:
    """SetupMode, AuditMode and DeployedMode as their variables show `mode`."""
    return {
        "SetupMode": _flag(mode in (SETUP, AUDIT)),
        "AuditMode": _flag(mode == AUDIT),
        "DeployedMode": _flag(mode == DEPLOYED),
    }


def enforced(mode: str) -> bool:
    """Whether images are checked in `mode`: SecureBoot is 1."""
    return mode in (USER, DEPLOYED)


def _flag(value: bool) -> bytes:
    return b"\1" if value else b"\0"
