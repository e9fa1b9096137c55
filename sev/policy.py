"""GuestPolicy: what the guest's owner allows the host (AMD 56860, table "Guest Policy")."""

from sev.bits import Bits


class GuestPolicy(Bits):
    """POLICY of a report: the least ABI version in bits 15:0, flags from 16 on."""

    __slots__ = ()
    NOT_FLAGS = 0xFFFF
    NAMES = {  # noqa: RUF012
        16: "SMT",
        17: "RESERVED_ONE",
        18: "MIGRATE_MA",
        19: "DEBUG",
        20: "SINGLE_SOCKET",
        21: "CXL_ALLOW",
        22: "MEM_AES_256_XTS",
        23: "RAPL_DIS",
        24: "CIPHERTEXT_HIDING_DRAM",
        25: "PAGE_SWAP_DISABLE",
    }

    @property
    def abi(self) -> tuple[int, int]:
        """ABI_MAJOR and ABI_MINOR, the least that the guest accepts."""
        return self >> 8 & 0xFF, self & 0xFF

    @property
    def well_formed(self) -> bool:
        """Bit 17 must be one, and what nobody has named must be zero."""
        return self.bit("RESERVED_ONE") and not self.unknown
