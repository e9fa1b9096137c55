"""The marks by which people recognise what an emulated platform made. They are hints for messages, never a proof of anything."""

# What the names in an emulated platform's certificates begin with.
EMULATED = "cvmboot emulated platform, not AMD hardware"

# What an emulated chip's HWID begins with: 64 bytes of HWID have room for all of it, Turin's 8 for the first four.
HWID_MARK = b"cvmboot-emulated"
SHORT_HWID_MARK = HWID_MARK[:4]


def is_emulated_chip(chip_id: bytes) -> bool:
    """Whether a CHIP_ID of 64 bytes carries the mark."""
    return chip_id.startswith(HWID_MARK) or (chip_id.startswith(SHORT_HWID_MARK) and not any(chip_id[8:]))
