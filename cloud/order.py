"""What a person ordered: an image, a name and a cloud's options, as plain data with a fingerprint."""

import json
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

from cloud.labels import PRODUCT_INSTANCE
from cloud.secure_boot_keys import SecureBootKeys


@dataclass(frozen=True)
class ImageFacts:
    """The raw disk that is to be sent."""

    sha256: str
    """Hex digits, of all its bytes, holes too."""
    size: int
    """Bytes."""
    boot: str
    """BOOT_UEFI or BOOT_BIOS."""
    signed: bool = False
    """Whether its EFI application carries an Authenticode signature."""


BOOT_UEFI, BOOT_BIOS = "uefi", "bios"


@dataclass(frozen=True)
class Order:
    """One deployment as it was asked for. Nothing in it is secret, all of it goes into the journal."""

    provider: str
    place: str
    """The region (EC2), or project/zone (GCE)."""
    name: str
    image: ImageFacts
    product: str = PRODUCT_INSTANCE
    options: dict[str, Any] = field(default_factory=dict)
    """The provider's options as plain JSON data: whatever changes what is made."""
    access: dict[str, Any] = field(default_factory=dict)
    """How the cloud is reached, how long is waited, where else to look: no part of the fingerprint.

    Several runs' are put together, newer values over older ones, and lists joined.
    """
    keys: SecureBootKeys | None = None
    """Their digest is part of the fingerprint; they themselves are not written into the journal."""
    read_keys_digest: str = ""
    """Of an order that was read from a journal: the digest of the keys that it had."""

    def to_json(self) -> dict[str, Any]:
        """Plain data, in the order in which a person reads it."""
        return {
            "provider": self.provider,
            "place": self.place,
            "name": self.name,
            "product": self.product,
            "image": {
                "sha256": self.image.sha256,
                "size": self.image.size,
                "boot": self.image.boot,
                "signed": self.image.signed,
            },
            "options": self.options,
            "secure_boot_keys": self._keys_digest,
            "access": self.access,
        }

    @classmethod
    def of(cls, plain: dict[str, Any]) -> "Order":
        """What to_json() gave. KeyError, TypeError or ValueError for anything else."""
        image = plain["image"]
        facts = ImageFacts(str(image["sha256"]), int(image["size"]), str(image["boot"]), bool(image["signed"]))
        texts = [plain[key] for key in ("provider", "place", "name", "product")]
        tables = [plain["options"], plain["access"]]
        if not all(isinstance(text, str) for text in texts) or not all(isinstance(table, dict) for table in tables):
            raise ValueError("no order")
        provider, place, name, product = texts
        order = cls(provider, place, name, facts, product, plain["options"], plain["access"])
        return replace(order, read_keys_digest=str(plain["secure_boot_keys"] or ""))

    @property
    def fingerprint(self) -> str:
        """32 hex digits: equal for equal orders, on any machine."""
        plain = self.to_json()
        del plain["access"]
        return sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:32]

    @property
    def _keys_digest(self) -> str:
        return self.keys.digest if self.keys else self.read_keys_digest
