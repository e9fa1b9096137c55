"""Parameters inside the parentheses of a device path node's text: numbers, bytes, GUIDs, addresses, names."""

from uefi import guids
from uefi.device_path.nodes import DevicePathError
from uefi.guids import Guid


def argument(arguments: list[str], index: int, default: str = "0") -> str:
    """The text of a parameter, `default` where it is missing or empty."""
    return (arguments[index] if index < len(arguments) else "") or default


def number(arguments: list[str], index: int) -> int:
    """A parameter as hexadecimal with 0x or decimal; a missing one is 0. The field's size is checked when built."""
    text = argument(arguments, index)
    hexadecimal = text[:2] in ("0x", "0X")
    digits = text[2:] if hexadecimal else text
    if not digits.isascii() or not digits.isalnum() or len(digits) > 64:
        raise DevicePathError(f"device path parameter {text[:80]!r}, wanted a number")
    try:
        return int(digits, 16 if hexadecimal else 10)
    except ValueError:
        raise DevicePathError(f"device path parameter {text[:80]!r}, wanted a number") from None


def hex_bytes(arguments: list[str], index: int, size: int | None = None) -> bytes:
    """A parameter of hexadecimal digits, an optional 0x before them, of `size` bytes where that is fixed."""
    text = argument(arguments, index, "")
    digits = text[2:] if text[:2] in ("0x", "0X") else text
    try:
        value = bytes.fromhex(digits.replace("-", "")) if not digits.isspace() else b""
    except ValueError:
        raise DevicePathError(f"device path parameter {text[:80]!r}, wanted hexadecimal digits") from None
    if size is not None and value and len(value) != size:
        raise DevicePathError(f"device path parameter {text[:80]!r} has {len(value)} bytes, wanted {size}")
    return value.ljust(size or 0, b"\0")


def guid(arguments: list[str], index: int) -> Guid:
    """A GUID in registry text; a missing one is all zeroes. Raises DevicePathError for another form."""
    text = argument(arguments, index, str(guids.ZERO))
    try:
        return Guid.parse(text)
    except ValueError:
        raise DevicePathError(f"device path parameter {text[:80]!r}, wanted a GUID") from None


def ascii_bytes(text: str) -> bytes:
    """Text as 8-bit characters. Raises DevicePathError above U+00FF."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        raise DevicePathError(f"device path parameter {text[:80]!r}, wanted 8-bit characters") from None


def ip_address(arguments: list[str], index: int, size: int) -> bytes:
    """An IPv4 (size 4) or IPv6 (size 16) address; a missing one is all zeroes. Raises DevicePathError otherwise."""
    import socket

    text = argument(arguments, index, "0.0.0.0" if size == 4 else "::")
    try:
        return socket.inet_pton(socket.AF_INET if size == 4 else socket.AF_INET6, text)
    except (OSError, ValueError):
        raise DevicePathError(
            f"device path parameter {text[:80]!r}, wanted an IPv{4 if size == 4 else 6} address"
        ) from None


def choice(arguments: list[str], index: int, names: tuple[str, ...] | str) -> int:
    """The position of a name in `names`, or a plain number."""
    text = argument(arguments, index)
    if text in names and (isinstance(names, tuple) or len(text) == 1):
        return names.index(text)
    return number(arguments, index)
