"""What Order.options and Order.access hold for Compute Engine, read once, and names that are made of them."""

import re
from dataclasses import dataclass, field, fields
from typing import Any

from cloud.errors import CloudError, Unfit
from cloud.labels import Labels

GVNIC, VIRTIO = "gvnic", "virtio"
ZONE = "cvmboot-zone"
"""A label beside those of cloud.labels: images and buckets belong to no zone, but the runs that they are of do."""
LEAST_RUN, MOST_RUN = 30, 120 * 86400
"""Seconds; Google, "Limit the run time of a VM"."""
DEFAULT_TIMEOUT = 1800
_FEATURE = re.compile(r"[A-Z][A-Z0-9_]{1,60}")
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class GceOptions:
    """The options of `cvmboot deploy gce` that change what is made."""

    machine_type: str = ""
    snp: bool = False
    nic: str = GVNIC
    image_name: str | None = None
    family: str | None = None
    guest_features: list[str] = field(default_factory=list)
    network: str | None = None
    subnet: str | None = None
    public: bool = False
    spot: bool = False
    max_run: int | None = None
    """Seconds."""
    disk_type: str = "pd-balanced"
    secure_boot: bool = False
    serial_input: bool = True
    bucket: str | None = None
    """A bucket that is there; one is made for the run without it."""

    @classmethod
    def of(cls, plain: dict[str, Any]) -> "GceOptions":
        """From Order.options."""
        return cls(**plain)


@dataclass(frozen=True)
class Access:
    """How Compute Engine is reached: nothing of this changes what is made. Nothing of it is secret."""

    buckets: list[str] = field(default_factory=list)
    """Buckets of the person's own, through which runs went: archives may lie there."""
    timeout: float = DEFAULT_TIMEOUT
    """Seconds to wait for each thing that Google does."""

    @classmethod
    def of(cls, plain: dict[str, Any]) -> "Access":
        """From Order.access, of which any part may lack."""
        return cls(**{one.name: plain[one.name] for one in fields(cls) if one.name in plain})


def project_and_zone(place: str) -> tuple[str, str]:
    """The two halves of "project/zone". A CloudError for anything else; the project may be "" (the credentials' own)."""
    project, slash, zone = place.rpartition("/")
    if not slash or not zone or "/" in project:
        raise CloudError(f"no place {place[:80]!r}", next_step="wanted PROJECT/ZONE, such as my-project/europe-west4-a")
    return project, zone


def labels_of(labels: Labels, zone: str) -> dict[str, str]:
    """The labels of everything in a run."""
    return {**labels.as_dict(), ZONE: zone}


def image_name(labels: Labels, options: GceOptions) -> str:
    """The image's name: a person's, or one that no other run has."""
    return options.image_name or f"{labels.name}-{labels.run}"


def instance_name(labels: Labels) -> str:
    """The instance's name, and that of its disk."""
    return f"{labels.name}-{labels.run}"


def check_options(plain: dict[str, Any]) -> None:
    """Unfit for an option that Compute Engine takes in no zone, and that needs no look at an image."""
    options = GceOptions.of(plain)
    if options.max_run is not None and not LEAST_RUN <= options.max_run <= MOST_RUN:
        raise Unfit(f"--max-run of {options.max_run} seconds", next_step="wanted from 30s to 120d")
    for option, value in (("--image-name", options.image_name), ("--family", options.family)):
        if value is not None and not _NAME.fullmatch(value):
            raise Unfit(
                f"{option} {value[:80]!r}",
                next_step="wanted lower-case letters, digits and hyphens, first a letter, at most 63",
            )
    for feature in options.guest_features:
        if not _FEATURE.fullmatch(feature):
            raise Unfit(f"--guest-feature {feature[:60]!r}", next_step="wanted such as TDX_CAPABLE or IDPF")
