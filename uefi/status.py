"""EFI_STATUS: every code of UEFI 2.10 appendix D, their names, and the exception that carries one."""

ERROR_BIT = 1 << 63
"""Set in every error code of a 64-bit platform (UEFI 2.10, appendix D)."""


class Status:
    """EFI_STATUS values as the 64-bit numbers that a service returns in RAX (UEFI 2.10, tables D.3 and D.4)."""

    SUCCESS = 0

    LOAD_ERROR = ERROR_BIT | 1
    INVALID_PARAMETER = ERROR_BIT | 2
    UNSUPPORTED = ERROR_BIT | 3
    BAD_BUFFER_SIZE = ERROR_BIT | 4
    BUFFER_TOO_SMALL = ERROR_BIT | 5
    NOT_READY = ERROR_BIT | 6
    DEVICE_ERROR = ERROR_BIT | 7
    WRITE_PROTECTED = ERROR_BIT | 8
    OUT_OF_RESOURCES = ERROR_BIT | 9
    VOLUME_CORRUPTED = ERROR_BIT | 10
    VOLUME_FULL = ERROR_BIT | 11
    NO_MEDIA = ERROR_BIT | 12
    MEDIA_CHANGED = ERROR_BIT | 13
    NOT_FOUND = ERROR_BIT | 14
    ACCESS_DENIED = ERROR_BIT | 15
    NO_RESPONSE = ERROR_BIT | 16
    NO_MAPPING = ERROR_BIT | 17
    TIMEOUT = ERROR_BIT | 18
    NOT_STARTED = ERROR_BIT | 19
    ALREADY_STARTED = ERROR_BIT | 20
    ABORTED = ERROR_BIT | 21
    ICMP_ERROR = ERROR_BIT | 22
    TFTP_ERROR = ERROR_BIT | 23
    PROTOCOL_ERROR = ERROR_BIT | 24
    INCOMPATIBLE_VERSION = ERROR_BIT | 25
    SECURITY_VIOLATION = ERROR_BIT | 26
    CRC_ERROR = ERROR_BIT | 27
    END_OF_MEDIA = ERROR_BIT | 28
    END_OF_FILE = ERROR_BIT | 31
    INVALID_LANGUAGE = ERROR_BIT | 32
    COMPROMISED_DATA = ERROR_BIT | 33
    IP_ADDRESS_CONFLICT = ERROR_BIT | 34
    HTTP_ERROR = ERROR_BIT | 35

    # The network codes stand beside EFI_TCP4_PROTOCOL (UEFI 2.10, 28.1), not in appendix D.
    NETWORK_UNREACHABLE = ERROR_BIT | 100
    HOST_UNREACHABLE = ERROR_BIT | 101
    PROTOCOL_UNREACHABLE = ERROR_BIT | 102
    PORT_UNREACHABLE = ERROR_BIT | 103
    CONNECTION_FIN = ERROR_BIT | 104
    CONNECTION_RESET = ERROR_BIT | 105
    CONNECTION_REFUSED = ERROR_BIT | 106

    WARN_UNKNOWN_GLYPH = 1
    WARN_DELETE_FAILURE = 2
    WARN_WRITE_FAILURE = 3
    WARN_BUFFER_TOO_SMALL = 4
    WARN_STALE_DATA = 5
    WARN_FILE_SYSTEM = 6
    WARN_RESET_REQUIRED = 7


_NAMES: dict[int, str] = {
    value: f"EFI_{name}" for name, value in vars(Status).items() if name.isupper() and isinstance(value, int)
}


class EfiError(Exception):
    """Raised by a service or protocol function that answers with the EFI_STATUS `status` (usually an error code)."""

    def __init__(self, status: int, reason: str = "") -> None:
        """`reason` is for traces and logs only; the guest sees the number."""
        super().__init__(f"{status_name(status)}: {reason}" if reason else status_name(status))
        self.status = status
        self.reason = reason


def is_error(status: int) -> bool:
    """EFI_ERROR(): whether the 64-bit `status` is an error, not success or a warning (UEFI 2.10, appendix D)."""
    return bool(status & ERROR_BIT)


def status_name(value: int) -> str:
    """The name of an EFI_STATUS, such as "EFI_NOT_FOUND"; an unknown one as "EFI_STATUS(0x8000000000000063)"."""
    return _NAMES.get(value) or f"EFI_STATUS({value & (1 << 64) - 1:#x})"
