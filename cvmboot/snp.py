"""Joins the firmware with the emulated half of SEV-SNP: a guest with secrets, a platform to attest it, checks of its pages."""

import base64
import binascii
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvmboot.errors import CvmbootError, UsageError
from cvmboot.options import RunOptions
from machine.computer import Computer
from sev.errors import SevError
from sev.guest.guest import Guest
from sev.guest.launch import ID_AUTH_SIZE, ID_BLOCK_SIZE, Launch, image_digest
from sev.guest.pages import CC_BLOB_GUID
from sev.platform import Platform
from uefi import memory_types as mt
from uefi.dispatcher import INTERRUPT_PORT, RETURN_PORT, SERVICE_PORT
from uefi.firmware import End, Firmware
from uefi.guids import Guid
from uefi.status import EfiError, Status

if TYPE_CHECKING:
    from cvmboot.assembly import Assembly

DEFAULT_PRODUCT = "turin"
SHOWN_REFUSALS = 3
_FIRMWARE_PORTS = frozenset((SERVICE_PORT, RETURN_PORT, INTERRUPT_PORT))


def user_platform_folder(product: str) -> Path:
    """Where the platform is kept that `cvmboot run --snp` takes without --platform."""
    from platformdirs import user_data_path

    return user_data_path("cvmboot", appauthor=False) / "platforms" / product


def open_platform(folder: Path | None, product: str | None) -> Platform:
    """The platform in `folder`, or the user's own of a product, made at first use. CvmbootError."""
    try:
        if folder is None:
            folder = user_platform_folder(product or DEFAULT_PRODUCT)
            if not (folder / "platform.json").exists():
                return _make(folder, product or DEFAULT_PRODUCT)
            return Platform.load(folder)
        platform = Platform.load(folder)
    except SevError as error:
        raise CvmbootError(str(error)) from None
    if product is not None and platform.settings.product != product:
        raise UsageError(
            f"--product {product}: the platform in {folder} is a {platform.settings.product}; leave it out"
        )
    return platform


def _make(folder: Path, product: str) -> Platform:
    """RSA keys take seconds, so the certificates wait until somebody wants them."""
    try:
        return Platform.new(folder, product, with_certificates=False)
    except SevError:
        return Platform.load(folder)  # another process was faster


class ImageDigest:
    """The default MEASUREMENT, computed on a thread while the machine already boots."""

    def __init__(self) -> None:
        self._digest = b""
        self._done = threading.Event()
        self._abandoned = False

    def __getstate__(self) -> dict[str, Any]:
        return {"digest": self()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]
        self._digest = state["digest"]
        self._done.set()

    def begin(self, data: bytes | memoryview, then: Callable[[], None]) -> None:
        """The image to be measured; `then` is what else can be prepared on the thread."""

        def compute() -> None:
            self._digest = image_digest(data)
            self._done.set()
            if not self._abandoned:
                with contextlib.suppress(SevError):  # whoever needs it meets the error, too
                    then()

        # Not a daemon: an interpreter that ends while a thread is inside of cryptography aborts.
        threading.Thread(target=compute, name="cvmboot-digest").start()

    def abandon(self) -> None:
        """Nobody will ask any more."""
        self._abandoned = True

    def __call__(self) -> bytes:
        self._done.wait()
        return self._digest


def _measurement(options: RunOptions, platform: Platform) -> bytes | None:
    """The launch digest that was asked for; None for the default. UsageError, CvmbootError."""
    if options.ovmf is None:
        return options.measurement
    if options.measurement is not None:
        raise UsageError("--measurement and --ovmf both say what the launch digest is; give one")
    from sev.measure.errors import MeasureError
    from sev.measure.firmware import Firmware as FirmwareImage
    from sev.measure.processors import signature_of
    from sev.measure.snp import snp_launch_digest

    model = f"EPYC-{platform.settings.product.capitalize()}"
    try:
        firmware = FirmwareImage(options.ovmf.read_bytes())
        return snp_launch_digest(firmware, vcpus=options.cpus, signature=signature_of(model))
    except OSError as error:
        raise CvmbootError(
            f"--ovmf {options.ovmf}: {error.strerror or error}; give the firmware image of the host"
        ) from None
    except MeasureError as error:
        raise CvmbootError(f"--ovmf {options.ovmf}: {error}") from None


class SharedPages:
    """Turns the firmware's own pages into shared ones and back: `uefi.pci.dma.PageSharing`."""

    def __init__(self, guest: Guest, firmware: Firmware) -> None:
        self._guest = guest
        self._map = firmware.processor.map

    def share(self, address: int, size: int) -> None:
        """Let the host have whole pages. EfiError(OUT_OF_RESOURCES) if the identity map cannot be divided so."""
        try:
            self._map.share([(address, size)])
        except MemoryError:
            raise EfiError(Status.OUT_OF_RESOURCES) from None
        self._guest.share(address, size)

    def unshare(self, address: int, size: int) -> None:
        """Take whole pages back."""
        self._map.hide([(address, size)])
        self._guest.unshare(address, size)


class SnpGuest:
    """The guest of one assembly: `prepare` before the firmware is made, `install` after, `image_loaded`, `finish`."""

    def __init__(self, computer: Computer, options: RunOptions) -> None:
        """CvmbootError or UsageError for options that make no guest."""
        self._options = options
        self._digest = ImageDigest()
        platform = open_platform(options.platform, options.product)
        given: dict[str, Any] = {
            name: value
            for name, value in (
                ("policy", options.guest_policy),
                ("host_data", options.host_data),
                ("vmpl", options.vmpl),
                ("report_version", options.report_version),
            )
            if value is not None
        }
        try:
            launch = Launch(_measurement(options, platform) or self._digest, computer.random_bytes, **given)
        except SevError as error:
            raise UsageError(f"--snp: {error}") from None
        self._refusals = 0
        self._last_refusals: deque[str] = deque(maxlen=SHOWN_REFUSALS)
        self.guest = Guest(
            computer,
            launch,
            platform,
            check=options.snp_check or "warn",
            busy=options.sp_busy or 0,
            terminate=partial(End(computer), "crashed"),
            note=self._refused,
            hidden_ports=_FIRMWARE_PORTS,
        )

    def _refused(self, text: str) -> None:
        self._refusals += 1
        self._last_refusals.append(text)

    def install(self, firmware: Firmware) -> None:
        """Give the guest its pages and the configuration table that leads to them."""
        guest = self.guest
        for address, size in guest.reserved:
            firmware.memory_map.allocate_at(address, size // 4096, mt.RESERVED)
        firmware.processor.map.share(guest.shared)
        guest.place()
        blob = guest.cc_blob
        address = firmware.pool(len(blob), mt.ACPI_RECLAIM)
        firmware.memory.write(address, blob)
        firmware.page_sharing = SharedPages(guest, firmware)
        firmware.configuration.install(Guid.parse(CC_BLOB_GUID), address)

    def image_loaded(self, data: bytes | memoryview) -> None:
        """The application that is measured. CvmbootError if an ID block does not fit it."""
        options = self._options
        if (options.id_block is None) != (options.id_auth is None):
            raise UsageError("--id-block and --id-auth go together; give both")
        self._digest.begin(data, self.guest.secure_processor.warm_up)
        if options.id_block is None or options.id_auth is None:
            return
        try:
            self.guest.launch.finish(
                _read_structure("--id-block", options.id_block, ID_BLOCK_SIZE),
                _read_structure("--id-auth", options.id_auth, ID_AUTH_SIZE),
            )
        except SevError as error:
            raise CvmbootError(f"--id-block {options.id_block}: {error}") from None

    def close(self) -> None:
        """The guest is no more."""
        self._digest.abandon()

    def finish(self, assembly: "Assembly") -> list[str]:
        """The end of the run: what the page-state checker has to say, in lines."""
        self.guest.checker.finish()
        return self.guest.checker.summary(assembly.symbols().describe)

    def refusals(self) -> list[str]:
        """What hypervisor and secure processor have refused, in lines."""
        if not self._refusals or self._options.snp_check == "off":
            return []
        return [f"requests of the guest that were refused: {self._refusals}, the last:", *self._last_refusals]


def _read_structure(option: str, path: Path, size: int) -> bytes:
    """A file with `size` bytes, or with those in base64, as QEMU takes them. CvmbootError."""
    try:
        with path.open("rb") as file:
            data = file.read(2 * ID_AUTH_SIZE + 1)
    except OSError as error:
        raise CvmbootError(f"{option} {path}: {error.strerror or error}; name a file of {size} bytes") from None
    if len(data) == size:
        return data
    try:
        decoded = base64.b64decode(b"".join(data.split()), validate=True)
    except binascii.Error:
        decoded = b""
    if len(decoded) != size:
        raise CvmbootError(f"{option} {path}: {len(data)} bytes; wanted {size}, or base64 of that")
    return decoded
