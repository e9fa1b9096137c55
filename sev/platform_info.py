"""PlatformInfo: how the host's processor is set up (AMD 56860, table "PLATFORM_INFO")."""

from sev.bits import Bits


class PlatformInfo(Bits):
    """PLATFORM_INFO of a report. Bit 6 is set in the field; its name is not yet in every edition of the specification."""

    __slots__ = ()
    NAMES = {  # noqa: RUF012
        0: "SMT_EN",
        1: "TSME_EN",
        2: "ECC_EN",
        3: "RAPL_DIS",
        4: "CIPHERTEXT_HIDING_DRAM_EN",
        5: "ALIAS_CHECK_COMPLETE",
        6: "IOMMU_WRITE_SAFE",
        7: "SEV_TIO_EN",
    }
