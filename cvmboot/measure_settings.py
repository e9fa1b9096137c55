"""What `cvmboot measure` was asked for: its options read, checked against each other, and the files they name."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvmboot.errors import CvmbootError, UsageError
from cvmboot.progress import SlowBar

if TYPE_CHECKING:
    from sev.measure import Firmware, KernelHashes, Vmm
    from sev.measure.vmsa import Processors

SCHEMA = "cvmboot.measure/1"
"""Names the form of what --json writes."""

MOST_COUNTS = 512
"""Numbers of processors that one command computes digests for."""
_LARGEST_KERNEL = 4 << 30
_CHUNK = 1 << 20
_MODES = ("snp", "sev-es", "sev", "ovmf-hash")


@contextmanager
def measuring(what: str = "") -> Iterator[None]:
    """Turn refusals of sev.measure into one line about `what`."""
    from sev.errors import SevError

    try:
        yield
    except SevError as error:
        raise CvmbootError(f"{what}: {error}" if what else str(error)) from None


def read_file(path: Path, most: int) -> bytes:
    """A file's bytes. CvmbootError if it cannot be read or has more than `most`."""
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise CvmbootError(f"{path}: {error.strerror}") from None
    if len(data) > most:
        raise CvmbootError(f"{path}: more than {most} bytes")
    return data


def _hash_file(path: Path) -> bytes:
    """The SHA-256 of a file, which is not held in memory. CvmbootError if it cannot be read or has more than 4 GiB."""
    from hashlib import sha256

    digest = sha256()
    size = 0
    try:
        with path.open("rb") as file, SlowBar(f"hashing {path.name}") as bar:
            whole = os.fstat(file.fileno()).st_size
            while chunk := file.read(_CHUNK):
                size += len(chunk)
                if size > _LARGEST_KERNEL:
                    raise CvmbootError(f"{path}: more than {_LARGEST_KERNEL} bytes")
                digest.update(chunk)
                bar.show(size, max(size, whole))
    except OSError as error:
        raise CvmbootError(f"{path}: {error.strerror}") from None
    return digest.digest()


def number(option: str, text: str, bits: int, base: int = 0) -> int:
    """An integer of at most `bits` bits; hexadecimal without 0x if `base` is 16. UsageError for anything else."""
    try:
        value = int(text, base)
    except ValueError:
        value = -1
    if not 0 <= value < 1 << bits:
        raise UsageError(f"{option} {text}: wanted a number of at most {bits} bits, such as 0x1")
    return value


def counts(option: str, text: str) -> list[int]:
    """A number of processors, or all from one to another: "4", "1-64" or "1..64". UsageError."""
    first, middle, last = (
        text.partition("..") if ".." in text else text.partition("-") if "-" in text[1:] else (text, "", "")
    )
    try:
        low = int(first)
        high = int(last) if middle else low
    except ValueError:
        raise UsageError(f"{option} {text[:40]}: wanted a number such as 4, or a range such as 1-64") from None
    if high < low or high - low >= MOST_COUNTS:
        raise UsageError(f"{option} {text[:40]}: wanted a range upwards of at most {MOST_COUNTS} numbers")
    return list(range(low, high + 1))


def _signature_of_parts(given: dict[str, Any]) -> int | None:
    """The signature by --vcpu-family, --vcpu-model and --vcpu-stepping; None if they are not given."""
    from sev.measure import MeasureError, signature

    parts = [given[name] for name in ("vcpu_family", "vcpu_model", "vcpu_stepping")]
    if parts == [None] * 3:
        return None
    if None in parts:
        raise UsageError("--vcpu-family, --vcpu-model and --vcpu-stepping: all three are needed")
    try:
        return signature(*parts)
    except MeasureError as error:
        raise UsageError(str(error)) from None


def digest_bytes(option: str, text: str, sizes: tuple[int, ...]) -> bytes:
    """A digest from hexadecimal or base64 digits. UsageError unless it has one of `sizes` bytes."""
    from base64 import b64decode

    text = text.strip()
    for convert in (bytes.fromhex, lambda digits: b64decode(digits, validate=True)):
        try:
            value: bytes = convert(text)
        except ValueError:
            continue
        if len(value) in sizes:
            return value
    wanted = " or ".join(f"{size} bytes" for size in sizes)
    raise UsageError(f"{option} {text[:100]}: wanted {wanted} as hexadecimal or base64 digits")


class Settings:
    """The options of one `measure`, read and checked."""

    __slots__ = (
        "append",
        "features",
        "features_given",
        "firmware",
        "firmware_hash",
        "initrd",
        "kernel",
        "mode",
        "signature",
        "svsm",
        "vcpu_counts",
        "vcpus",
        "vmm",
        "vmm_given",
    )

    firmware: "Firmware"
    svsm: "Firmware | None"
    vmm: "Vmm"
    mode: str
    vcpus: int
    vcpu_counts: list[int]
    features: int
    signature: int | None
    firmware_hash: bytes | None
    kernel: bytes | None
    initrd: bytes | None
    append: str | None
    features_given: bool
    vmm_given: bool

    @property
    def needed_signature(self) -> int:
        """The processor's signature; 0 where the host does not show it. UsageError if it is missing."""
        if self.signature is None:
            if self.svsm is not None or self.vmm.rdx is None:
                raise UsageError(
                    f"--vmm {self.vmm.name}: --vcpu-type or --vcpu-sig is needed, such as --vcpu-type EPYC-v4"
                )
            return 0
        return self.signature

    @property
    def kernel_hashes(self) -> "KernelHashes | None":
        """The hashes of kernel, initrd and command line; None without a kernel."""
        from hashlib import sha256

        from sev.measure import KernelHashes
        from sev.measure.kernel_hashes import command_line_hash

        if self.kernel is None:
            return None
        empty = sha256().digest()
        return KernelHashes(self.kernel, self.initrd or empty, command_line_hash(self.append or ""))

    def processors(self) -> "Processors | None":
        """The processors whose pages are measured; None for SEV, which measures none."""
        from sev.measure.snp import processors, svsm_processors

        if self.mode in ("sev", "ovmf-hash"):
            return None
        if self.svsm is not None:
            return svsm_processors(self.svsm, self.vcpus, self.needed_signature)
        features = 0 if self.mode == "sev-es" else self.features
        return processors(self.firmware, self.vcpus, self.needed_signature, features, self.vmm)

    def digests(self) -> list[tuple[int, bytes]]:
        """Each number of processors asked for, with its launch digest."""
        from sev.measure import firmware_digest

        if len(self.vcpu_counts) > 1 and self.mode == "snp" and self.svsm is None and self.firmware_hash is None:
            self.firmware_hash = firmware_digest(self.firmware).value
        found = []
        for count in self.vcpu_counts:
            self.vcpus = count
            found.append((count, self.digest()))
        return found

    def digest(self) -> bytes:
        """The launch digest: 48 bytes, for SEV and SEV-ES 32."""
        from sev.measure import (
            firmware_digest,
            sev_es_launch_digest,
            sev_launch_digest,
            snp_launch_digest,
            svsm_launch_digest,
        )

        if self.mode == "ovmf-hash":
            return firmware_digest(self.firmware).value
        if self.mode == "sev":
            return sev_launch_digest(self.firmware, self.kernel_hashes)
        signature = self.needed_signature
        if self.mode == "sev-es":
            return sev_es_launch_digest(
                self.firmware, vcpus=self.vcpus, signature=signature, vmm=self.vmm, kernel=self.kernel_hashes
            )
        if self.svsm is not None:
            return svsm_launch_digest(self.firmware, self.svsm, vcpus=self.vcpus, signature=signature)
        return snp_launch_digest(
            self.firmware,
            vcpus=self.vcpus,
            signature=signature,
            guest_features=self.features,
            vmm=self.vmm,
            kernel=self.kernel_hashes,
            firmware_hash=self.firmware_hash,
        )


def _svsm(firmware: "Firmware", path: Path, vars_size: str | None, vars_file: Path | None) -> "Firmware":
    from sev.measure import Firmware
    from sev.measure.firmware import LARGEST_FIRMWARE

    if (vars_size is None) == (vars_file is None):
        raise UsageError("--svsm: exactly one of --vars-size and --vars-file is needed")
    size = number("--vars-size", vars_size, 32) if vars_size is not None else 0
    if vars_file is not None:
        size = len(read_file(vars_file, LARGEST_FIRMWARE))
    with measuring(str(path)):
        return Firmware(read_file(path, LARGEST_FIRMWARE), firmware.gpa - size)


def read_settings(given: dict[str, Any]) -> Settings:
    """Read the options and the files they name. UsageError for options that contradict each other."""
    from sev.measure import Firmware, MeasureError, signature_of, vmm_named
    from sev.measure.firmware import LARGEST_FIRMWARE

    settings = Settings()
    settings.mode = given["mode"] or "snp"
    if settings.mode not in _MODES:
        raise UsageError(f"--mode {settings.mode}: wanted {', '.join(_MODES)}")
    try:
        settings.vmm = vmm_named(given["vmm"] or "qemu")
        settings.signature = None
        if given["vcpu_type"] is not None:
            settings.signature = signature_of(given["vcpu_type"])
    except MeasureError as error:
        raise UsageError(str(error)) from None
    for spelling, value in (
        ("--vcpu-sig", None if given["vcpu_sig"] is None else number("--vcpu-sig", given["vcpu_sig"], 32, 16)),
        ("--vcpu-family", _signature_of_parts(given)),
    ):
        if value is not None:
            if settings.signature is not None:
                raise UsageError(f"{spelling}: the processor's signature is given twice; give one of them")
            settings.signature = value
    settings.vmm_given = given["vmm"] is not None
    settings.features_given = given["guest_features"] is not None
    settings.features = number("--guest-features", given["guest_features"] or "0x1", 64, 16)
    settings.vcpu_counts = counts("--vcpus", given["vcpus"])
    settings.vcpus = settings.vcpu_counts[0]
    if given["kernel"] is None and (given["initrd"] is not None or given["append"] is not None):
        raise UsageError("--initrd and --append need --kernel")
    if given["svsm"] is not None and (
        given["kernel"] is not None or settings.mode != "snp" or settings.vmm.name != "qemu"
    ):
        raise UsageError("--svsm is for --mode snp and --vmm qemu, without --kernel")
    hash_text = given["snp_ovmf_hash"]
    if hash_text is not None and (settings.mode != "snp" or given["svsm"] is not None):
        raise UsageError("--snp-ovmf-hash is for --mode snp, without --svsm")
    settings.firmware_hash = None if hash_text is None else digest_bytes("--snp-ovmf-hash", hash_text, (48,))
    ovmf = given["ovmf"]
    with measuring(str(ovmf)):
        settings.firmware = Firmware(read_file(ovmf, LARGEST_FIRMWARE))
    settings.svsm = None
    if given["svsm"] is not None:
        settings.svsm = _svsm(settings.firmware, given["svsm"], given["vars_size"], given["vars_file"])
    settings.kernel = None if given["kernel"] is None else _hash_file(given["kernel"])
    settings.initrd = None if given["initrd"] is None else _hash_file(given["initrd"])
    settings.append = given["append"]
    return settings
