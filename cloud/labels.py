"""What is written on every resource, so that it is found again, told from others' and cleaned up: tags on EC2, labels on GCE.

Keys and values keep Compute Engine's rules, the stricter ones: lower-case letters, digits, - and _, at most 63 characters.
"""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

TOOL = "cvmboot"
"""The label that every resource of ours has; its value is the program's version."""
RUN = "cvmboot-run"
"""Which deployment it belongs to."""
NAME = "cvmboot-name"
"""The deployment's name: the same for all that replace each other."""
FINGERPRINT = "cvmboot-fingerprint"
"""What was deployed, and how: equal fingerprints are the same deployment (cloud.order)."""
CREATED = "cvmboot-created"
"""Seconds since 1970 by this machine's clock; shown, never used to decide what is old: clocks may be wrong."""
PRODUCT = "cvmboot-product"
"""PRODUCT_INSTANCE or PRODUCT_IMAGE: what was wanted. `gc` leaves an image alone that was all that was wanted."""
PRODUCT_INSTANCE, PRODUCT_IMAGE = "instance", "image"

_RUN_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"
_RUN = re.compile(r"[a-z2-7]{10}")
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
LONGEST_NAME = 40
"""Characters of a deployment's name: with a hyphen and a run, 51 of the 63 that a name on Compute Engine may have."""


def new_run() -> str:
    """A run's identity: 10 letters and digits, 50 random bits."""
    return "".join(secrets.choice(_RUN_LETTERS) for _ in range(10))


def is_run(text: str) -> bool:
    """Whether `text` can be the identity of a run."""
    return _RUN.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """Whether `text` can be a deployment's name: letters, digits and hyphens, first a letter, 40 at most."""
    return _NAME.fullmatch(text) is not None


def name_from(text: str) -> str:
    """A deployment's name made of any text, such as a file's: "Go_Boot v2.efi" gives "go-boot-v2-efi"; "app" if none is left."""
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).lstrip("-0123456789")[:LONGEST_NAME].rstrip("-")
    return plain or "app"


@dataclass(frozen=True)
class Labels:
    """The labels of one deployment."""

    run: str
    name: str
    fingerprint: str
    created: int
    product: str
    version: str

    def as_dict(self) -> dict[str, str]:
        """Key to value, ready for both clouds."""
        return {
            TOOL: re.sub(r"[^a-z0-9_-]", "-", self.version.lower())[:63] or "unknown",
            RUN: self.run,
            NAME: self.name,
            FINGERPRINT: self.fingerprint,
            CREATED: str(self.created),
            PRODUCT: self.product,
        }


def is_ours(labels: Mapping[str, str]) -> bool:
    """Whether labels read back from a cloud are whole and ours. Anyone may write a tag: what is not of our form is not ours."""
    return TOOL in labels and is_run(labels.get(RUN, "")) and is_name(labels.get(NAME, ""))
