"""A search for the settings that give a launch digest: hosts, processors, guest features, kernel hashes.

A digest is a chain in which the processors come last, so all processor counts of one combination cost one hash each.
"""

from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256, sha384
from itertools import combinations

from sev.measure.errors import MalformedFirmware, MeasureError
from sev.measure.firmware import SECTION_KERNEL_HASHES, Firmware
from sev.measure.guest_features import SNP_ACTIVE, GuestFeatures
from sev.measure.kernel_hashes import KernelHashes
from sev.measure.launch_digest import DIGEST_SIZE, PAGE_VMSA, VMSA_GPA, LaunchDigest, page_info_tail
from sev.measure.legacy import sev_launch_digest
from sev.measure.processors import HOSTS, MODELS, names_of
from sev.measure.snp import add_metadata, firmware_digest
from sev.measure.vmm import VMMS, Vmm
from sev.measure.vmsa import RESET_VECTOR, vmsa_page

MOST_PROCESSORS_TRIED = 512
SHA256_SIZE = 32

SNP = "SEV-SNP"
SEV_ES = "SEV-ES"
SEV = "SEV"
FIRMWARE_ONLY = "the firmware's pages alone"
WITHOUT_PROCESSORS = "a launch without its processors"

_OPTIONAL_FEATURES = (5, 9, 3, 4, 2, 8)
"""DebugSwap, SecureTSC, RestrictedInjection, AlternateInjection, ReflectVC, VmplSSS: what hosts switch on."""

Progress = Callable[[int, int], None]
"""Called with the number of combinations tried and of all."""


class Kernel:
    """One candidate for the kernel hashes, with words for a person; `hashes` is None for none."""

    __slots__ = ("hashes", "text")

    def __init__(self, text: str, hashes: KernelHashes | None = None) -> None:
        self.text = text
        self.hashes = hashes


NO_KERNEL = Kernel("no kernel hashes")


class Match:
    """Settings that give the digest. Values are None where the digest does not depend on them."""

    __slots__ = ("guest_features", "kernel", "kind", "signature", "vcpus", "vmm")

    def __init__(
        self,
        kind: str,
        kernel: Kernel | None = None,
        vmm: Vmm | None = None,
        vcpus: int | None = None,
        signature: int | None = None,
        guest_features: GuestFeatures | None = None,
    ) -> None:
        self.kind = kind
        self.kernel = kernel
        self.vmm = vmm
        self.vcpus = vcpus
        self.signature = signature
        self.guest_features = guest_features

    @property
    def models(self) -> list[str]:
        """The processor models with this signature."""
        return [] if self.signature is None else names_of(self.signature)


class Search:
    """What a search covers. `run` looks for a digest; the attributes say afterwards what was tried."""

    __slots__ = ("features", "firmware", "firmware_hash", "kernels", "most_vcpus", "signatures", "tried", "vmms")

    def __init__(
        self,
        firmware: Firmware,
        *,
        kernels: Sequence[Kernel] = (NO_KERNEL,),
        signature: int | None = None,
        guest_features: int | None = None,
        vmm: Vmm | None = None,
        most_vcpus: int = MOST_PROCESSORS_TRIED,
        firmware_hash: bytes | None = None,
    ) -> None:
        """Search all known values, and first of all those given. MeasureError for less than one processor."""
        if most_vcpus < 1:
            raise MeasureError(f"at most {most_vcpus} processors; wanted 1 or more")
        self.firmware = firmware
        self.firmware_hash = firmware_hash
        self.kernels = list(kernels)
        self.most_vcpus = most_vcpus
        self.signatures = _unique(signature, [*MODELS.values(), *HOSTS.values()])
        self.features = [GuestFeatures(value) for value in _unique(guest_features, _features())]
        self.vmms = sorted(VMMS.values(), key=lambda known: known is not vmm)
        self.tried = 0
        try:
            _ = firmware.reset_address
        except MalformedFirmware:
            self.most_vcpus = 1

    def run(self, wanted: bytes, progress: Progress = lambda _done, _total: None) -> Match | None:
        """The first settings that give `wanted` (48 bytes: SNP; 32 bytes: SEV and SEV-ES), or None.

        MeasureError for another length, or a firmware that cannot be measured at all.
        """
        if len(wanted) == DIGEST_SIZE:
            return self._snp(wanted, progress)
        if len(wanted) == SHA256_SIZE:
            return self._legacy(wanted, progress)
        raise MeasureError(
            f"digest of {len(wanted)} bytes; wanted {DIGEST_SIZE} (SEV-SNP) or {SHA256_SIZE} (SEV, SEV-ES)"
        )

    def _processors(self, features: Sequence[int]) -> Iterator[tuple[Vmm, int | None, int, bytes, bytes]]:
        others = self.firmware.reset_address if self.most_vcpus > 1 else RESET_VECTOR
        for value in features:
            for vmm in self.vmms:
                for signature in self.signatures if vmm.rdx is None else [0]:
                    boot = vmsa_page(RESET_VECTOR, signature, value, vmm)
                    yield (
                        *(vmm, signature if vmm.rdx is None else None, value),
                        *(boot, vmsa_page(others, signature, value, vmm)),
                    )

    def _combinations(self, features: int) -> int:
        by_signature = sum(vmm.rdx is None for vmm in self.vmms)
        return features * (by_signature * len(self.signatures) + len(self.vmms) - by_signature)

    def _measurable(self) -> list[Kernel]:
        if any(self.firmware.sections_of(SECTION_KERNEL_HASHES)):
            return self.kernels
        return [kernel for kernel in self.kernels if kernel.hashes is None] or [NO_KERNEL]

    def _snp(self, wanted: bytes, progress: Progress) -> Match | None:
        start = LaunchDigest(self.firmware_hash) if self.firmware_hash is not None else firmware_digest(self.firmware)
        if start.value == wanted:
            return Match(FIRMWARE_ONLY)
        self.kernels = self._measurable()
        prefixes: dict[tuple[str, int], bytes] = {}
        for index, kernel in enumerate(self.kernels):
            for vmm in self.vmms:
                digest = start.copy()
                add_metadata(digest, self.firmware, vmm, kernel.hashes)
                if digest.value == wanted:
                    return Match(WITHOUT_PROCESSORS, kernel, vmm)
                prefixes[vmm.name, index] = digest.value
        total = self._combinations(len(self.features)) * len(self.kernels)
        done = 0
        for vmm, signature, value, boot, others in self._processors(self.features):
            first, rest = sha384(boot).digest(), sha384(others).digest()
            for index, kernel in enumerate(self.kernels):
                vcpus = _count_processors(prefixes[vmm.name, index], first, rest, wanted, self.most_vcpus)
                self.tried += vcpus or self.most_vcpus
                done += 1
                if vcpus is not None:
                    return Match(SNP, kernel, vmm, vcpus, signature, GuestFeatures(value))
            progress(done, total)
        return None

    def _legacy(self, wanted: bytes, progress: Progress) -> Match | None:
        if self.firmware.hash_table_gpa is None:
            self.kernels = [NO_KERNEL]
        for kernel in self.kernels:
            self.tried += 1
            if sev_launch_digest(self.firmware, kernel.hashes) == wanted:
                return Match(SEV, kernel)
        total = self._combinations(1) * len(self.kernels)
        done = 0
        for vmm, signature, _, boot, others in self._processors([0]):
            for kernel in self.kernels:
                digest = sha256(self.firmware.data)
                digest.update(kernel.hashes.table() if kernel.hashes is not None else b"")
                page = boot
                for vcpus in range(1, self.most_vcpus + 1):
                    digest.update(page)
                    page = others
                    self.tried += 1
                    if digest.digest() == wanted:
                        return Match(SEV_ES, kernel, vmm, vcpus, signature)
                done += 1
            progress(done, total)
        return None


def _count_processors(prefix: bytes, first: bytes, rest: bytes, wanted: bytes, most: int) -> int | None:
    tail = page_info_tail(PAGE_VMSA, VMSA_GPA)
    value = sha384(prefix + first + tail).digest()
    if value == wanted:
        return 1
    rest += tail
    for count in range(2, most + 1):
        value = sha384(value + rest).digest()
        if value == wanted:
            return count
    return None


def _features() -> list[int]:
    return [
        SNP_ACTIVE | sum(1 << bit for bit in chosen)
        for count in range(len(_OPTIONAL_FEATURES) + 1)
        for chosen in combinations(_OPTIONAL_FEATURES, count)
    ]


def _unique(first: int | None, values: Sequence[int]) -> list[int]:
    return list(dict.fromkeys([*([] if first is None else [first]), *values]))
