"""Launch digests: what MEASUREMENT of a report has to be for a given firmware, host and number of processors."""

from sev.measure.errors import MalformedFirmware, MalformedIdBlock, MalformedIgvm, MeasureError
from sev.measure.firmware import Firmware
from sev.measure.guest_features import GuestFeatures
from sev.measure.id_block import IdAuth, IdBlock
from sev.measure.igvm import Igvm
from sev.measure.kernel_hashes import KernelHashes
from sev.measure.launch_digest import LaunchDigest
from sev.measure.legacy import sev_es_launch_digest, sev_launch_digest
from sev.measure.processors import signature, signature_of
from sev.measure.snp import firmware_digest, snp_launch_digest, svsm_launch_digest
from sev.measure.vmm import VMMS, Vmm, vmm_named

__all__ = [
    "VMMS",
    "Firmware",
    "GuestFeatures",
    "IdAuth",
    "IdBlock",
    "Igvm",
    "KernelHashes",
    "LaunchDigest",
    "MalformedFirmware",
    "MalformedIdBlock",
    "MalformedIgvm",
    "MeasureError",
    "Vmm",
    "firmware_digest",
    "sev_es_launch_digest",
    "sev_launch_digest",
    "signature",
    "signature_of",
    "snp_launch_digest",
    "svsm_launch_digest",
    "vmm_named",
]
