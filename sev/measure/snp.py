"""Launch digests of SEV-SNP guests: firmware pages, the SEV metadata's pages, then each processor's VMSA."""

from sev.measure.errors import MeasureError
from sev.measure.firmware import (
    SECTION_CPUID,
    SECTION_KERNEL_HASHES,
    SECTION_SEC_MEM,
    SECTION_SECRETS,
    SECTION_SVSM_CAA,
    Firmware,
    Section,
)
from sev.measure.guest_features import SNP_ACTIVE
from sev.measure.kernel_hashes import KernelHashes
from sev.measure.launch_digest import (
    PAGE_CPUID,
    PAGE_SECRETS,
    PAGE_SIZE,
    PAGE_UNMEASURED,
    PAGE_ZERO,
    LaunchDigest,
)
from sev.measure.vmm import QEMU, Vmm
from sev.measure.vmsa import RESET_VECTOR, Processors, svsm_vmsa_page, vmsa_page


def firmware_digest(firmware: Firmware) -> LaunchDigest:
    """The launch after the pages of the firmware image alone: what sev-snp-measure calls the SNP OVMF hash.

    MeasureError unless the image has whole pages.
    """
    digest = LaunchDigest()
    digest.normal_pages(firmware.gpa, memoryview(firmware.data))
    return digest


def add_metadata(digest: LaunchDigest, firmware: Firmware, vmm: Vmm, kernel: KernelHashes | None) -> None:
    """Add the pages that the SEV metadata lists, in the order of this kind of host.

    MeasureError if there is no metadata, if it has a section of an unknown type, or if it has no place for kernel hashes.
    """
    sections = firmware.sections
    if sections is None:
        raise MeasureError("firmware image has no SEV metadata: it was not built for SEV-SNP")
    if kernel is not None and not any(firmware.sections_of(SECTION_KERNEL_HASHES)):
        raise MeasureError(
            "firmware image has no SNP_KERNEL_HASHES section, so it measures no kernel: give none, or use an AmdSev build"
        )
    for section in sections:
        if not (section.kind == SECTION_CPUID and vmm.cpuid_pages_last):
            _add_section(digest, section, firmware, vmm, kernel)
    if vmm.cpuid_pages_last:
        for section in firmware.sections_of(SECTION_CPUID):
            digest.pages_without_contents(PAGE_CPUID, section.gpa, section.size)


def _add_section(
    digest: LaunchDigest, section: Section, firmware: Firmware, vmm: Vmm, kernel: KernelHashes | None
) -> None:
    if section.kind == SECTION_KERNEL_HASHES and kernel is not None:
        _add_kernel_hashes(digest, section, firmware, kernel)
        return
    page_type = {
        SECTION_SEC_MEM: PAGE_ZERO if vmm.measures_sec_memory else PAGE_UNMEASURED,
        SECTION_SECRETS: PAGE_SECRETS,
        SECTION_CPUID: PAGE_CPUID,
        SECTION_SVSM_CAA: PAGE_ZERO,
        SECTION_KERNEL_HASHES: PAGE_ZERO,
    }.get(section.kind)
    if page_type is None:
        raise MeasureError(f"SEV metadata has a section of type {section.kind:#x}; wanted 1, 2, 3, 4 or 0x10")
    digest.pages_without_contents(page_type, section.gpa, section.size)


def _add_kernel_hashes(digest: LaunchDigest, section: Section, firmware: Firmware, kernel: KernelHashes) -> None:
    if section.size != PAGE_SIZE:
        raise MeasureError(f"SNP_KERNEL_HASHES section of {section.size:#x} bytes; wanted {PAGE_SIZE:#x}")
    table = firmware.hash_table_gpa
    if table is None:
        raise MeasureError("firmware image has an SNP_KERNEL_HASHES section, but no SEV hash table block in its footer")
    digest.normal_pages(section.gpa, kernel.page(table % PAGE_SIZE))


def processors(
    firmware: Firmware, count: int, signature: int, guest_features: int = SNP_ACTIVE, vmm: Vmm = QEMU
) -> Processors:
    """The processors of a guest whose first one starts at the reset vector, the others where the firmware says.

    MeasureError if there are none or more than 4096 of them; MalformedFirmware if it does not say where.
    """
    boot = vmsa_page(RESET_VECTOR, signature, guest_features, vmm)
    return Processors(count, boot, vmsa_page(firmware.others_entry(count), signature, guest_features, vmm))


def add_processors(digest: LaunchDigest, started: Processors) -> None:
    """Add the VMSA page of each processor."""
    for contents in started.hashes():
        digest.vmsa_page(contents)


def snp_launch_digest(
    firmware: Firmware,
    *,
    vcpus: int,
    signature: int,
    guest_features: int = SNP_ACTIVE,
    vmm: Vmm = QEMU,
    kernel: KernelHashes | None = None,
    firmware_hash: bytes | None = None,
) -> bytes:
    """MEASUREMENT (48 bytes) of a guest with this firmware, `vcpus` processors of this signature, and SEV_FEATURES.

    `firmware_hash` (48 bytes, of `firmware_digest`) replaces the contents of the image, of which then only the end is needed.
    MeasureError for settings that no launch can have.
    """
    started = processors(firmware, vcpus, signature, guest_features, vmm)
    digest = firmware_digest(firmware) if firmware_hash is None else LaunchDigest(firmware_hash)
    add_metadata(digest, firmware, vmm, kernel)
    add_processors(digest, started)
    return digest.value


def svsm_processors(svsm: Firmware, count: int, signature: int) -> Processors:
    """The processors of a guest that starts in an SVSM: all alike, with SEV_FEATURES 1."""
    page = svsm_vmsa_page(svsm.svsm_entry, signature, SNP_ACTIVE)
    return Processors(count, page, page)


def svsm_launch_digest(firmware: Firmware, svsm: Firmware, *, vcpus: int, signature: int) -> bytes:
    """MEASUREMENT (48 bytes) of a QEMU guest with COCONUT-SVSM below its firmware.

    `svsm` ends where the variable store before the firmware begins: Firmware(data, firmware.gpa - size of that store).
    MeasureError for settings that no launch can have.
    """
    started = svsm_processors(svsm, vcpus, signature)
    digest = firmware_digest(firmware)
    digest.normal_pages(svsm.gpa, memoryview(svsm.data))
    add_metadata(digest, svsm, QEMU, None)
    add_processors(digest, started)
    return digest.value
