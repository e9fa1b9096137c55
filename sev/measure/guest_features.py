"""GuestFeatures: SEV_FEATURES of a VMSA (AMD64 APM volume 2, table B-4, offset 3B0h)."""

from sev.bits import Bits


class GuestFeatures(Bits):
    """The features that the host has switched on for a guest; all zero for SEV-ES."""

    __slots__ = ()
    NAMES = {  # noqa: RUF012
        0: "SNP_ACTIVE",
        1: "VTOM",
        2: "REFLECT_VC",
        3: "RESTRICTED_INJECTION",
        4: "ALTERNATE_INJECTION",
        5: "DEBUG_SWAP",
        6: "PREVENT_HOST_IBS",
        7: "BTB_ISOLATION",
        8: "VMPL_SSS",
        9: "SECURE_TSC",
        10: "VMGEXIT_PARAMETER",
        12: "IBS_VIRTUALIZATION",
        14: "VMSA_REG_PROT",
        15: "SMT_PROTECTION",
    }


SNP_ACTIVE = GuestFeatures(0x1)
"""What KVM uses; versions 6.6 to 6.8 add DEBUG_SWAP (0x21)."""
