"""What --nic and --net ask for: the network device, the network behind it, and what is put between them."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvmboot.errors import CvmbootError, UsageError
from machine.errors import MachineError

if TYPE_CHECKING:
    from cvmboot.media import Media
    from cvmboot.options import RunOptions
    from machine.boards.board import Board
    from machine.computer import Computer
    from machine.net.addresses import Addresses
    from machine.net.backend import Backend
    from machine.net.pcap import Capture

NICS = "virtio, virtio:strict, virtio-legacy, gvnic, gvnic:FORMATS (gqi-qpl, gqi-rda, dqo-qpl, dqo-rda, rev1) or none"
NETWORKS = "user, user:builtin, user:passt, user:ADDRESS of the guest, tap:NAME, socket:ADDRESS or none"
LEAST_MTU, MOST_MTU = 68, 8896
DEFAULT_MAC = bytes.fromhex("525400123456")
_LOSS_SEED = 0x6376_6D62


def network_name(text: str) -> str:
    """A value of --net. UsageError for what is none."""
    kind, colon, rest = text.partition(":")
    if text in ("user", "user:builtin", "user:passt", "none") or (kind in ("tap", "socket") and colon and rest):
        return text
    if kind == "user" and rest:
        guest_address(rest)
        return text
    raise UsageError(f"--net {text}: wanted {NETWORKS}")


def guest_address(text: str) -> "Addresses":
    """The user network of a guest that has the IPv4 address `text`, such as 10.0.0.1. UsageError."""
    from machine.net.addresses import Addresses

    try:
        return Addresses.around(socket.inet_pton(socket.AF_INET, text))
    except (OSError, ValueError):
        raise UsageError(
            f"--net user:{text}: wanted the guest's IPv4 address, such as 10.0.0.1, builtin or passt"
        ) from None


def _has_address(net: Any) -> bool:
    return isinstance(net, str) and net.startswith("user:") and net not in ("user:builtin", "user:passt")


def nic_name(text: str) -> str:
    """A value of --nic. UsageError for what is none."""
    if text in ("virtio", "virtio:strict", "virtio-legacy", "none"):
        return text
    from machine.devices.gvnic import variant

    try:
        if variant.is_gvnic(text):
            variant.parse(text)
            return text
    except MachineError:
        pass
    raise UsageError(f"--nic {text}: wanted {NICS}")


def port_pair(text: str) -> tuple[int, int]:
    """(host port, guest port) of "8080:80". UsageError for anything else."""
    words = text.split(":")
    numbers = [int(word) for word in words if word.isascii() and word.isdecimal() and len(word) < 6]
    if len(words) != 2 or len(numbers) != 2 or not all(0 < number < 65536 for number in numbers):
        raise UsageError(f"--forward {text}: wanted HOSTPORT:GUESTPORT, such as 8080:80")
    return numbers[0], numbers[1]


def port(text: str) -> int:
    """A port number. UsageError for anything else."""
    if text.isascii() and text.isdecimal() and len(text) < 6 and 0 < int(text) < 65536:
        return int(text)
    raise UsageError(f"--expose {text}: wanted a port of 127.0.0.1, 1 to 65535, such as 8000")


def mac_address(text: str) -> bytes | str:
    """Six bytes of "52:54:00:12:34:56", or "random". UsageError for anything else."""
    if text == "random":
        return text
    words = text.replace("-", ":").split(":")
    try:
        mac = bytes(int(word, 16) for word in words if len(word) <= 2)
    except ValueError:
        mac = b""
    if len(words) != 6 or len(mac) != 6 or not text.isascii() or mac[0] & 1 or not any(mac):
        raise UsageError(f"--mac {text}: wanted a unicast address, such as 52:54:00:12:34:56, or random")
    return mac


def mtu(text: str) -> int:
    """A number of bytes from 68 to 8896, which every device can do. UsageError for anything else."""
    if text.isascii() and text.isdecimal() and len(text) < 6 and LEAST_MTU <= int(text) <= MOST_MTU:
        return int(text)
    raise UsageError(f"--mtu {text}: wanted {LEAST_MTU} to {MOST_MTU} bytes, such as 1460, Compute Engine's")


def loss(text: str) -> float:
    """A share from 0 to 1 of "5%" or "0.05". UsageError for anything else."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UsageError(f"--net-loss {text}: wanted a share of the frames, such as 5% or 0.05")
    return value


def delay(text: str) -> int:
    """Nanoseconds of "20ms", "0.5s", "100us"; a plain number is milliseconds. UsageError for anything else."""
    for unit, factor in (("ms", 1e6), ("us", 1e3), ("s", 1e9), ("", 1e6)):
        if text.endswith(unit):
            try:
                value = float(text.removesuffix(unit)) * factor
            except ValueError:
                break
            if 0 <= value <= 60e9:
                return int(value)
            break
    raise UsageError(f"--net-delay {text}: wanted a time up to 60 s, such as 20ms")


class Network:
    """The network of one machine, which ends with it."""

    def __init__(self, backend: "Backend") -> None:
        self.backend = backend

    def close(self) -> None:
        """Let go of sockets, threads, processes."""
        self.backend.close()


def add_network(board: "Board", options: "RunOptions", media: "Media", warn: Callable[[str], None]) -> Network | None:
    """Plug in what the options ask for; None if that is nothing. UsageError, or CvmbootError if it cannot be had."""
    given = [
        spelling
        for spelling, value in (
            ("--forward", options.forward),
            ("--expose", options.expose),
            ("--pcap", options.pcap),
            ("--mac", options.mac),
            ("--mtu", options.mtu),
            ("--net-loss", options.net_loss),
            ("--net-delay", options.net_delay),
        )
        if value
    ]
    nic = options.nic or (board.usual_nic if options.net is not None else "none")
    if nic == "none":
        if options.net not in (None, "none"):
            raise UsageError(f"--net {options.net}: there is no network device with --nic none")
        if given:
            raise UsageError(f"{given[0]}: there is no network device; add --nic virtio")
        return None
    nic_name(nic)
    backend = _backend(board.computer, options, media, warn)
    from machine.net.backend import DEFAULT_MTU

    try:
        board.plug_nic(nic, backend, _mac(board.computer, options, media), options.mtu or DEFAULT_MTU)
    except MachineError as error:
        backend.close()
        raise CvmbootError(str(error)) from None
    return Network(backend)


def replug(board: "Board", options: "RunOptions", media: "Media", warn: Callable[[str], None]) -> Network:
    """Plug the device of a restored machine into what the options ask for. UsageError, or CvmbootError if it cannot be had."""
    if board.port is None:
        raise UsageError("--net: the machine in the snapshot has no network device; give --nic when it is made")
    backend = _backend(board.computer, options, media, warn)
    board.port.replug(backend)
    return Network(backend)


def _backend(computer: "Computer", options: "RunOptions", media: "Media", warn: Callable[[str], None]) -> "Backend":
    """The network that the options ask for, with all that is put before it."""
    forwards = [port_pair(pair) if isinstance(pair, str) else pair for pair in _listed(options.forward)]
    exposed = [port(number) if isinstance(number, str) else number for number in _listed(options.expose)]
    if forwards and options.net is not None and not str(options.net).startswith("user"):
        raise UsageError(f"--forward: only --net user forwards ports, not {options.net}")
    if exposed and (options.net == "user:passt" or not str(options.net or "user").startswith("user")):
        raise UsageError(f"--expose: only the built-in gateway does that, --net user, not {options.net}")
    net = options.net if options.net is not None else ("user" if forwards or exposed else "none")
    if exposed:
        net = "user:builtin"
    elif net == "user" and forwards and options.net_loss and not computer.virtual:
        net = "user:builtin"
        warn(
            "--net-loss: the built-in gateway is used, which forwards ports and relays DNS only, because passt resets a "
            "forwarded connection whose first segment is lost; --net user:passt takes passt all the same"
        )
    try:
        backend = _open(computer, options.net if _has_address(options.net) else net, forwards, exposed, warn)
    except MachineError as error:
        raise CvmbootError(f"--net {net}: {error}") from None
    return _wrap(computer, backend, options, media)


def _listed(value: Any) -> list[Any]:
    """Python callers may give one value where the command line makes a list."""
    return value if isinstance(value, list) else [value]


def _open(
    computer: "Computer",
    net: Any,
    forwards: list[tuple[int, int]],
    exposed: list[int],
    warn: Callable[[str], None],
) -> "Backend":
    post = computer.post
    if not isinstance(net, str):
        backend: Backend = net.plug(post)
        return backend
    kind, _, rest = net.partition(":")
    if kind == "none":
        from machine.net.backend import NoNetwork

        return NoNetwork()
    if kind == "tap":
        from machine.net.tap import TapBackend

        return TapBackend(post, rest)
    if kind == "socket":
        from machine.net.socket_link import open_link

        return open_link(rest, post)
    return _open_user(computer, rest, forwards, exposed, warn)


def _open_user(
    computer: "Computer",
    which: str,
    forwards: list[tuple[int, int]],
    exposed: list[int],
    warn: Callable[[str], None],
) -> "Backend":
    """passt if it works; the built-in gateway otherwise, and where runs must be repeatable."""
    from machine.net.addresses import USUAL
    from machine.net.backend import NetworkError
    from machine.net.forward import listen

    at = USUAL
    if which not in ("", "builtin", "passt"):
        which, at = "", guest_address(which)
    if exposed:
        which = "builtin"
    if which == "passt" or (not which and not computer.virtual):
        from machine.net.passt import PasstBackend

        for port, _ in forwards:
            listen(port).close()  # passt goes on without a port that it cannot have
        try:
            return PasstBackend(computer.post, forwards, at=at)
        except NetworkError as error:
            if which:
                raise
            warn(f"--net user: {error}; the built-in gateway is used, which forwards ports and relays DNS only")
    from machine.net.gateway import Gateway

    return Gateway(computer.post, computer.clock, forwards, random=computer.random_bytes, exposed=exposed, at=at)


def _wrap(computer: "Computer", backend: "Backend", options: "RunOptions", media: "Media") -> "Backend":
    if options.net_loss or options.net_delay:
        from machine.net.impairment import ImpairedBackend

        seed = _LOSS_SEED if computer.virtual else None
        backend = ImpairedBackend(backend, computer.clock, options.net_loss, options.net_delay, seed)
    if options.pcap is not None:
        path = Path(options.pcap)
        from machine.net.pcap import CapturedBackend

        try:
            capture = media.capture(lambda: _capture(path))
        except MachineError as error:
            backend.close()
            raise CvmbootError(f"--pcap {error}") from None
        backend = CapturedBackend(backend, capture, computer.clock.wall)
    return backend


def _capture(path: Path) -> "Capture":
    from machine.net.pcap import Capture

    return Capture(path)


def _mac(computer: "Computer", options: "RunOptions", media: "Media") -> bytes:
    if options.mac == "random":
        if media.mac is None:
            media.mac = b"\x52\x54\x00" + computer.random_bytes(3)
        return media.mac
    return options.mac if isinstance(options.mac, bytes) else DEFAULT_MAC
