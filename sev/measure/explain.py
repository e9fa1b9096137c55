"""A search for the settings that give a launch digest: hosts, processors, guest features, kernel hashes.

A digest is a chain in which the processors come last: the firmware is hashed once, what the metadata lists once for each host and
kernel, and all processor counts of one combination cost one hash each. Several workers share the values of guest features.
"""

import contextlib
import multiprocessing
import signal as signals
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from hashlib import sha256, sha384
from itertools import combinations
from typing import TYPE_CHECKING

from sev.measure.errors import MalformedFirmware, MeasureError
from sev.measure.firmware import SECTION_KERNEL_HASHES, Firmware
from sev.measure.guest_features import SNP_ACTIVE, GuestFeatures
from sev.measure.kernel_hashes import KernelHashes
from sev.measure.launch_digest import DIGEST_SIZE, PAGE_VMSA, VMSA_GPA, LaunchDigest, page_info_tail
from sev.measure.legacy import sev_launch_digest
from sev.measure.processors import HOSTS, MODELS, names_of
from sev.measure.snp import add_metadata, add_processors, firmware_digest, processors, svsm_processors
from sev.measure.vmm import QEMU, VMMS, Vmm
from sev.measure.vmsa import RESET_VECTOR, svsm_vmsa_page, vmsa_page

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

MOST_PROCESSORS_TRIED = 512
SHA256_SIZE = 32

ALONE = 500_000
"""Hashes that are not worth the start of workers: about half a second."""
_TRIED_FIRST = 2

SNP = "SEV-SNP"
SNP_SVSM = "SEV-SNP with an SVSM"
SEV_ES = "SEV-ES"
SEV = "SEV"
FIRMWARE_ONLY = "the firmware's pages alone"
WITHOUT_PROCESSORS = "a launch without its processors"

_OPTIONAL_FEATURES = (5, 9, 3, 4, 2, 8)
"""DebugSwap, SecureTSC, RestrictedInjection, AlternateInjection, ReflectVC, VmplSSS: what hosts switch on."""

_Result = tuple[int, tuple[int, str, int, int | None] | None]
"""How many combinations were tried, and which gives the digest: number of the kernel, host, processors, signature."""

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

    __slots__ = (
        *("features", "firmware", "firmware_hash", "kernels", "most_vcpus", "signatures", "svsm", "tried", "vmms"),
        *("_prefixes", "_wanted"),
    )

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
        svsm: Firmware | None = None,
    ) -> None:
        """Search all known values, and first of all those given; with an SVSM, QEMU's launches of it only.

        MeasureError for less than one processor, and for an SVSM image that does not say where it starts.
        """
        if most_vcpus < 1:
            raise MeasureError(f"at most {most_vcpus} processors; wanted 1 or more")
        self.firmware = firmware
        self.firmware_hash = firmware_hash
        self.kernels = list(kernels)
        self.most_vcpus = most_vcpus
        self.signatures = _unique(signature, [*MODELS.values(), *HOSTS.values()])
        self.features = [GuestFeatures(value) for value in _unique(guest_features, _features())]
        self.vmms = sorted(VMMS.values(), key=lambda known: known is not vmm)
        self.svsm = svsm
        self.tried = 0
        self._prefixes: dict[tuple[str, int], bytes] = {}
        self._wanted = b""
        if svsm is not None:
            _ = svsm.svsm_entry
            self.kernels, self.features, self.vmms = [NO_KERNEL], [SNP_ACTIVE], [QEMU]
            return
        try:
            _ = firmware.reset_address
        except MalformedFirmware:
            self.most_vcpus = 1

    def digest(self, vmm: Vmm, vcpus: int, signature: int, guest_features: int, kernel: Kernel) -> bytes:
        """The digest of one combination (48 bytes), after `run`. MeasureError for settings that no launch can have."""
        digest = LaunchDigest(self._prefixes[vmm.name, self.kernels.index(kernel)])
        if self.svsm is not None:
            add_processors(digest, svsm_processors(self.svsm, vcpus, signature))
        else:
            add_processors(digest, processors(self.firmware, vcpus, signature, guest_features, vmm))
        return digest.value

    def run(self, wanted: bytes, progress: Progress = lambda _done, _total: None, workers: int = 1) -> Match | None:
        """The first settings that give `wanted` (48 bytes: SNP; 32 bytes: SEV and SEV-ES), or None.

        `workers` processes search where it is worth it; what is found is the same. They are forked from this one, which must have
        no threads that hold locks. MeasureError for another length, or a firmware that cannot be measured at all.
        """
        if len(wanted) == DIGEST_SIZE:
            return self._snp(wanted, progress, workers)
        if len(wanted) == SHA256_SIZE:
            if self.svsm is not None:
                raise MeasureError(f"digest of {SHA256_SIZE} bytes: SEV and SEV-ES start no SVSM")
            return self._legacy(wanted, progress)
        raise MeasureError(
            f"digest of {len(wanted)} bytes; wanted {DIGEST_SIZE} (SEV-SNP) or {SHA256_SIZE} (SEV, SEV-ES)"
        )

    def _processors(self, value: int) -> Iterator[tuple[Vmm, int | None, bytes, bytes]]:
        """Host, signature (None where it does not show), and the pages of the first and of the other processors."""
        others = self.firmware.reset_address if self.most_vcpus > 1 and self.svsm is None else RESET_VECTOR
        for vmm in self.vmms:
            for signature in self.signatures if vmm.rdx is None else [0]:
                if self.svsm is not None:
                    page = svsm_vmsa_page(self.svsm.svsm_entry, signature, value)
                    yield vmm, signature, page, page
                    continue
                boot = vmsa_page(RESET_VECTOR, signature, value, vmm)
                shown = signature if vmm.rdx is None else None
                yield vmm, shown, boot, vmsa_page(others, signature, value, vmm)

    @property
    def _combinations(self) -> int:
        """Hosts and signatures, for one value of guest features and one kernel."""
        by_signature = sum(vmm.rdx is None for vmm in self.vmms)
        return by_signature * len(self.signatures) + len(self.vmms) - by_signature

    def _measurable(self) -> list[Kernel]:
        if any(self.firmware.sections_of(SECTION_KERNEL_HASHES)):
            return self.kernels
        return [kernel for kernel in self.kernels if kernel.hashes is None] or [NO_KERNEL]

    def _snp(self, wanted: bytes, progress: Progress, workers: int) -> Match | None:
        start = LaunchDigest(self.firmware_hash) if self.firmware_hash is not None else firmware_digest(self.firmware)
        if start.value == wanted:
            return Match(FIRMWARE_ONLY)
        self.kernels = self._measurable()
        if self.svsm is not None:
            start.normal_pages(self.svsm.gpa, self.svsm.data)
        for index, kernel in enumerate(self.kernels):
            for vmm in self.vmms:
                digest = start.copy()
                add_metadata(digest, self.svsm or self.firmware, vmm, kernel.hashes)
                if digest.value == wanted:
                    return Match(WITHOUT_PROCESSORS, kernel, vmm)
                self._prefixes[vmm.name, index] = digest.value
        self._wanted = wanted
        each = self._combinations * len(self.kernels)
        with self._results(each * self.most_vcpus, workers) as results:
            for number, (value, (tried, hit)) in enumerate(zip(self.features, results, strict=False), 1):
                self.tried += tried
                if hit is not None:
                    index, name, vcpus, signature = hit
                    kind = SNP if self.svsm is None else SNP_SVSM
                    return Match(kind, self.kernels[index], VMMS[name], vcpus, signature, value)
                progress(number * each, len(self.features) * each)
        return None

    @contextlib.contextmanager
    def _results(self, cost: int, workers: int) -> Iterator[Iterator[_Result]]:
        """What each value of guest features gives, in their order; the likeliest first in this process, then by workers."""
        first, rest = self.features[:_TRIED_FIRST], self.features[_TRIED_FIRST:]
        if workers < 2 or cost * len(rest) < ALONE or "fork" not in multiprocessing.get_all_start_methods():
            yield map(self._with_features, self.features)
            return

        def each() -> Generator[_Result, None, None]:
            yield from map(self._with_features, first)
            fork = multiprocessing.get_context("fork")
            try:
                over = fork.Event()
                pool = ProcessPoolExecutor(workers, fork, _begin_work, (self, over))
            except (ImportError, OSError):  # a host without POSIX semaphores
                yield from map(self._with_features, rest)
                return
            try:
                yield from pool.map(_work, rest)
            except BrokenProcessPool:
                raise MeasureError("the search lost one of its processes; is there enough memory?") from None
            finally:
                over.set()
                pool.shutdown(cancel_futures=True)

        results = each()
        try:
            yield results
        finally:
            results.close()  # ends the workers

    def _with_features(self, value: GuestFeatures, over: Callable[[], bool] = lambda: False) -> _Result:
        """How many combinations were tried with these guest features, and the first that gives the digest.

        Ends early, with an answer for nobody, when `over` says that the search is.
        """
        tried = 0
        for vmm, signature, boot, others in self._processors(value):
            if over():
                break
            first, rest = sha384(boot).digest(), sha384(others).digest()
            for index in range(len(self.kernels)):
                prefix = self._prefixes[vmm.name, index]
                vcpus = _count_processors(prefix, first, rest, self._wanted, self.most_vcpus)
                tried += vcpus or self.most_vcpus
                if vcpus is not None:
                    return tried, (index, vmm.name, vcpus, signature)
        return tried, None

    def _legacy(self, wanted: bytes, progress: Progress) -> Match | None:
        if self.firmware.hash_table_gpa is None:
            self.kernels = [NO_KERNEL]
        for kernel in self.kernels:
            self.tried += 1
            if sev_launch_digest(self.firmware, kernel.hashes) == wanted:
                return Match(SEV, kernel)
        total = self._combinations * len(self.kernels)
        done = 0
        begun = []
        for kernel in self.kernels:
            begun.append(sha256(self.firmware.data))
            begun[-1].update(kernel.hashes.table() if kernel.hashes is not None else b"")
        for vmm, signature, boot, others in self._processors(0):
            for kernel, start in zip(self.kernels, begun, strict=True):
                digest = start.copy()
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


_searching: tuple[Search, Callable[[], bool]]
"""In a worker: what it takes part in, and whether that is over."""


def _begin_work(search: Search, over: "Event") -> None:
    global _searching  # noqa: PLW0603
    signals.signal(signals.SIGINT, signals.SIG_IGN)  # Ctrl-C is for the process that waits
    _searching = search, over.is_set


def _work(value: GuestFeatures) -> _Result:
    search, over = _searching
    return search._with_features(value, over)


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
