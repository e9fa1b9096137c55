"""The launch digest that a cloud's VM will report, from the firmware image that the cloud publishes."""

from pathlib import Path


def launch_digest(ovmf: Path, vmm: str, vcpus: int) -> tuple[str, str]:
    """(96 hex digits, what they were computed of). `vmm` as `cvmboot measure --vmm`. CvmbootError for a bad firmware."""
    from cvmboot.measure_settings import measuring, read_file
    from sev.measure import Firmware, snp_launch_digest, vmm_named
    from sev.measure.firmware import LARGEST_FIRMWARE
    from sev.measure.guest_features import SNP_ACTIVE

    with measuring(str(ovmf)):
        firmware = Firmware(read_file(ovmf, LARGEST_FIRMWARE))
        digest = snp_launch_digest(firmware, vcpus=vcpus, signature=0, guest_features=SNP_ACTIVE, vmm=vmm_named(vmm))
    return digest.hex(), f"{ovmf.name}, SHA-384 {firmware.sha384}, {vcpus} vCPUs"
