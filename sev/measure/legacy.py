"""Launch digests of SEV and SEV-ES guests: one SHA-256 over everything that was loaded.

AMD 55766 "Secure Encrypted Virtualization API", LAUNCH_MEASURE: GCTX.LD.
"""

from hashlib import sha256

from sev.measure.errors import MeasureError
from sev.measure.firmware import Firmware
from sev.measure.kernel_hashes import KernelHashes
from sev.measure.snp import processors
from sev.measure.vmm import QEMU, Vmm


def sev_launch_digest(firmware: Firmware, kernel: KernelHashes | None = None) -> bytes:
    """GCTX.LD (32 bytes) of a SEV guest. MeasureError if the firmware has no place for kernel hashes."""
    digest = sha256(firmware.data)
    digest.update(_kernel_table(firmware, kernel))
    return digest.digest()


def sev_es_launch_digest(
    firmware: Firmware, *, vcpus: int, signature: int, vmm: Vmm = QEMU, kernel: KernelHashes | None = None
) -> bytes:
    """GCTX.LD (32 bytes) of a SEV-ES guest; SEV_FEATURES of its processors is zero.

    MeasureError for settings that no launch can have.
    """
    started = processors(firmware, vcpus, signature, 0, vmm)
    digest = sha256(firmware.data)
    digest.update(_kernel_table(firmware, kernel))
    for page in started.pages():
        digest.update(page)
    return digest.digest()


def _kernel_table(firmware: Firmware, kernel: KernelHashes | None) -> bytes:
    if kernel is None:
        return b""
    if firmware.hash_table_gpa is None:
        raise MeasureError(
            "firmware image has no SEV hash table block, so it measures no kernel: give none, or use an AmdSev build"
        )
    return kernel.table()
