"""The options of `cvmboot run`: one table that makes the command's help, its parser and its RunOptions.

typer takes a quarter of the time in which a machine boots. So `read_quickly` reads a plain command line straight from the
table; everything else (help, errors) goes to the typer command that is made of the same table.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cvmboot import network
from cvmboot.errors import UsageError

_UNITS = {"": 1 << 20, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SMALLEST_NUMBER_OF_BYTES = 1 << 20


def memory_size(text: str) -> int:
    """Bytes of a --memory option: size_of(), and as much as a machine can have. UsageError."""
    from machine.memory import LARGE_PAGE, MAXIMUM, MINIMUM

    size = size_of("--memory", text)
    if not MINIMUM <= size <= MAXIMUM or size % LARGE_PAGE:
        raise UsageError(f"--memory {text}: wanted a multiple of 2 MiB from 64 MiB to 1 TiB")
    return size


def size_of(option: str, text: str) -> int:
    """Bytes of "2G", "512M" or "512" (MiB); a plain number from 1,048,576 on is bytes. UsageError for anything else."""
    digits = text.strip().upper().removesuffix("IB").removesuffix("B")
    unit = digits[-1:] if digits[-1:] in _UNITS else ""
    number = digits.removesuffix(unit)
    if not number.isdecimal() or not number.isascii() or len(number) > 18:
        raise UsageError(f"{option} {text}: not a size; wanted a number with K, M, G or T, such as 512M or 2G")
    value = int(number)
    return value if not unit and value >= _SMALLEST_NUMBER_OF_BYTES else value * _UNITS[unit]


def seconds(text: str) -> float:
    """A time from 0 up, in seconds, such as "2.5". UsageError for anything else."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise UsageError(f"--timeout {text}: not a time; wanted seconds, such as 2.5")
    return value


def processors(text: str) -> int:
    """A number of processors, 1 to 255. UsageError for anything else."""
    if not text.isdecimal() or not text.isascii() or len(text) > 3 or not 1 <= int(text) <= 255:
        raise UsageError(f"--cpus {text}: wanted a number from 1 to 255")
    return int(text)


def number(option: str, last: int) -> Callable[[str], int]:
    """A converter for whole numbers from 0 to `last`, decimal or with 0x."""

    def convert(text: str) -> int:
        try:
            value = int(text, 0) if text.isascii() and len(text) <= 20 else -1
        except ValueError:
            value = -1
        if not 0 <= value <= last:
            raise UsageError(f"{option} {text}: wanted a number from 0 to {last if last < 1 << 16 else hex(last)}")
        return value

    return convert


def hexadecimal(option: str, size: int) -> Callable[[str], bytes]:
    """A converter for exactly `size` bytes in hexadecimal."""

    def convert(text: str) -> bytes:
        try:
            value = bytes.fromhex(text)
        except ValueError:
            value = b""
        if len(value) != size:
            raise UsageError(f"{option} {text[:80]}: wanted {size} bytes, {2 * size} hexadecimal digits")
        return value

    return convert


def _report_version(text: str) -> int:
    return int(_one_of("--report-version", "2", "3", "5")(text))


def _one_of(option: str, *choices: str) -> Callable[[str], str]:
    def convert(text: str) -> str:
        if text not in choices:
            raise UsageError(f"{option} {text}: wanted {' or '.join(choices)}")
        return text

    return convert


class Option:
    """One option: its spelling, its field in RunOptions, its help.

    `convert` is None for a flag, which sets `flag`; `many` makes a list of what is given several times.
    """

    __slots__ = ("convert", "default", "field", "flag", "help", "many", "metavar", "spelling")

    def __init__(
        self,
        spelling: str,
        field: str,
        text: str,
        metavar: str = "",
        convert: Callable[[str], Any] | None = None,
        default: str = "",
        flag: bool = True,
        many: bool = False,
    ) -> None:
        self.spelling = spelling
        self.field = field
        self.help = text
        self.metavar = metavar
        self.convert = convert
        self.default = default
        self.flag = flag
        self.many = many

    @property
    def name(self) -> str:
        """The spelling as a Python name."""
        return self.spelling.removeprefix("--").replace("-", "_")


OPTIONS = (
    Option("--memory", "memory", "Guest RAM: 512M, 2G; a plain number is MiB.", "SIZE", memory_size, "2G"),
    Option("--cpus", "cpus", "Number of processors.", "N", processors, "1"),
    Option(
        *(
            "--engine",
            "engine",
            "What runs guest code: auto starts in unicorn, and goes to kvm for long computations.",
            "NAME",
        ),
        *(_one_of("--engine", "auto", "unicorn", "kvm", "kvm-ring0"), "auto"),
    ),
    Option(
        *(
            "--board",
            "board",
            "Machine of an ELF unikernel; auto looks at what it was built for. EFI images run on uefi.",
        ),
        *("NAME", _one_of("--board", "auto", "uefi", "microvm", "firecracker", "cloud_hypervisor", "gcp"), "auto"),
    ),
    Option(
        "--esp",
        "esp",
        "EFI system partition: a folder, or a FAT, GPT, MBR or ISO image. The guest's changes are kept in memory only.",
        "PATH",
        Path,
    ),
    Option("--esp-write", "esp_write", "Write the guest's changes through to --esp."),
    Option("--vars", "vars", "File that keeps the non-volatile UEFI variables; made if missing.", "FILE", Path),
    Option("--args", "args", "Load options of the image, what a shell would pass.", "TEXT", str),
    Option("--timeout", "timeout", "End after so many seconds with status 5.", "SECONDS", seconds),
    Option(
        *("--clock", "clock", "virtual: time moves with the guest's work, so that the same input gives the same run."),
        *("NAME", _one_of("--clock", "real", "virtual"), "real"),
    ),
    Option("--no-reboot", "reboot", "End with status 0 when the guest resets; otherwise it starts again.", flag=False),
    Option(
        *("--trace", "trace", "Write each service call: .jsonl one object a line, .json for Perfetto.", "FILE", Path),
    ),
    Option("--screenshot", "screenshot", "Save the framebuffer at the end.", "PNG", Path),
    Option("--snp", "snp", "Make the machine an SEV-SNP guest, attested by an emulated platform."),
    Option(
        *("--product", "product", "Product of the platform that is kept for you, where --platform names none."),
        *("NAME", _one_of("--product", "milan", "genoa", "turin")),
    ),
    Option("--platform", "platform", "Folder of the emulated platform (see cvmboot platform new).", "DIR", Path),
    Option(
        *("--snp-check", "snp_check", "Page states: warn sums violations up; strict forgives nothing, exit status 6."),
        *("MODE", _one_of("--snp-check", "off", "warn", "strict")),
    ),
    Option(
        *("--guest-policy", "guest_policy", "POLICY of the guest, such as 0x30000.", "N"),
        number("--guest-policy", (1 << 64) - 1),
    ),
    Option("--host-data", "host_data", "HOST_DATA, 32 bytes.", "HEX", hexadecimal("--host-data", 32)),
    Option("--id-block", "id_block", "ID block: 96 bytes, or base64 of them.", "FILE", Path),
    Option("--id-auth", "id_auth", "ID authentication: 4096 bytes, or base64 of them.", "FILE", Path),
    Option(
        "--vmpl",
        "vmpl",
        "VMPL of the guest: its VMPCKs and all reports are of this VMPL or above.",
        "N",
        number("--vmpl", 3),
    ),
    Option("--report-version", "report_version", "Version of attestation reports: 2, 3 or 5.", "N", _report_version),
    Option(
        *("--measurement", "measurement", "MEASUREMENT, 48 bytes; otherwise SHA-384 of the EFI application.", "HEX"),
        hexadecimal("--measurement", 48),
    ),
    Option(
        *(
            "--ovmf",
            "ovmf",
            "MEASUREMENT is the launch digest that this firmware and --cpus have on a real QEMU host.",
            "FILE",
        ),
        Path,
    ),
    Option(
        *("--sp-busy", "sp_busy", "Answer each guest request so many times as busy before serving it.", "N"),
        number("--sp-busy", 1_000_000),
    ),
    Option(
        "--nic",
        "nic",
        "Network device: virtio (virtio-legacy on board gcp) if --net is given, virtio:strict, virtio-legacy, gvnic, none; "
        "gvnic:dqo-rda,rev1 to choose its queue formats (gqi-qpl, gqi-rda, dqo-qpl, dqo-rda) and revision.",
        "NAME",
        network.nic_name,
    ),
    Option(
        "--net",
        "net",
        "Network: user (the guest is 10.0.2.15/24, gateway 10.0.2.2; user:10.0.0.1 for a guest that has that address; user:passt "
        "or user:builtin to choose what does it), "
        "tap:NAME, socket:HOST:PORT, socket:listen:HOST:PORT, socket:dgram:LOCAL,REMOTE (or unix:PATH), none.",
        "NETWORK",
        network.network_name,
    ),
    Option(
        "--forward",
        "forward",
        "Pass connections to 127.0.0.1:HOSTPORT on to the guest, with --net user; may be repeated.",
        "HOSTPORT:GUESTPORT",
        network.port_pair,
        many=True,
    ),
    Option(
        "--expose",
        "expose",
        "Let the guest connect to 127.0.0.1:PORT of the host, at 10.0.2.2:PORT, with --net user; may be repeated.",
        "PORT",
        network.port,
        many=True,
    ),
    Option("--pcap", "pcap", "Capture the network device's frames, for Wireshark.", "FILE", Path),
    Option("--mac", "mac", "The network device's address, or random.", "ADDRESS", network.mac_address),
    Option(
        "--mtu",
        "mtu",
        "The MTU that the network device tells its driver, 68 to 8896; default 1500.",
        "BYTES",
        network.mtu,
    ),
    Option("--net-loss", "net_loss", "Lose so many frames each way: 5% or 0.05.", "SHARE", network.loss),
    Option("--net-delay", "net_delay", "Delay frames each way: 20ms.", "TIME", network.delay),
    Option(
        *("--gdb", "gdb", "Wait for GDB on 127.0.0.1:PORT before the first instruction; 0 takes a free port.", "PORT"),
        number("--gdb", 65535),
    ),
    Option(
        "--restore",
        "restore",
        "Go on from a snapshot (see cvmboot snapshot) instead of booting an image; options that make the machine are in it.",
        "FILE",
        Path,
    ),
    Option("--debug", "debug", "Show tracebacks of internal errors."),
)

_BY_SPELLING = {option.spelling: option for option in OPTIONS}


def read_quickly(words: Sequence[str]) -> tuple[Path | None, dict[str, Any]] | None:
    """The image and the RunOptions fields of a plain `run` command line; None if typer has to look at it.

    With --restore there is no image.

    UsageError for a bad value.
    """
    images: list[str] = []
    fields: dict[str, Any] = {}
    words = list(reversed(words))
    while words:
        word = words.pop()
        if not word.startswith("-"):
            images.append(word)
            continue
        spelling, equals, value = word.partition("=")
        option = _BY_SPELLING.get(spelling)
        if option is None:
            return None
        if option.convert is None:
            if equals:
                return None
            fields[option.field] = option.flag
            continue
        if not equals:
            if not words:
                return None
            value = words.pop()
        if option.many:
            fields.setdefault(option.field, []).append(option.convert(value))
        else:
            fields[option.field] = option.convert(value)
    if "restore" in fields and not images:
        return None, fields
    return (Path(images[0]), fields) if len(images) == 1 and images[0] else None


def fields_of(given: dict[str, Any]) -> dict[str, Any]:
    """RunOptions fields from what typer has parsed: {option name: text, texts, bool or None}. UsageError for a bad value."""
    fields: dict[str, Any] = {}
    for option in OPTIONS:
        value = given[option.name]
        if option.convert is None:
            if value:
                fields[option.field] = option.flag
        elif option.many:
            if value:
                fields[option.field] = [option.convert(each) for each in value]
        elif value is not None:
            fields[option.field] = option.convert(value)
    return fields
