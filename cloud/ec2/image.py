"""The steps that make an AMI of a snapshot, and copies of it in other regions."""

from functools import partial
from typing import TYPE_CHECKING, Any

from cloud.ec2.options import Ec2Options
from cloud.ec2.refusals import aws_words, code_of
from cloud.ec2.step import Context, Ec2Step
from cloud.ec2.tags import filters, read_tags, specifications
from cloud.errors import Failed, Gone, NameTaken, TimedOut
from cloud.labels import RUN, Labels
from cloud.order import BOOT_UEFI
from cloud.resource import Resource
from cloud.steps import Made, Note
from cloud.wait import Patience

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_ec2.type_defs import ImageTypeDef

ROOT_DEVICE = "/dev/xvda"
_BOOT_MODES: dict[bool, Any] = {True: "uefi", False: "legacy-bios"}
_FRESH_SECONDS = 120


def image_name(labels: Labels, options: Ec2Options) -> str:
    """The AMI's name. Names are unique in an account and region and cannot be changed: by default it has the run in it."""
    return options.image_name or f"{labels.name}-{labels.run}"


def find_image(ec2: "EC2Client", run: str) -> str:
    """The AMI of a run in a region, "" if there is none. Only the account's own: anyone may give an image any name or tag."""
    pages = ec2.get_paginator("describe_images").paginate(Owners=["self"], Filters=filters(run))
    found = [each["ImageId"] for page in pages for each in page["Images"] if each.get("State") not in _DEAD]
    return found[0] if found else ""


_DEAD = ("deregistered", "failed", "error", "invalid")


def look_at(ec2: "EC2Client", image: str) -> "ImageTypeDef | None":
    """An AMI of this account; None if it is not there."""
    from botocore.exceptions import ClientError

    try:
        found = ec2.describe_images(ImageIds=[image], Owners=["self"])["Images"]
    except ClientError as error:
        if code_of(error) in ("InvalidAMIID.NotFound", "InvalidAMIID.Unavailable"):
            return None
        raise
    return found[0] if found and found[0].get("State") != "deregistered" else None


def is_of_use(ec2: "EC2Client", image: str) -> bool | None:
    """As Step.exists(). An image that AWS gave up is deregistered here: it would keep its name, and nobody can use it."""
    seen = look_at(ec2, image)
    if seen is not None and seen.get("State") in _DEAD:
        ec2.deregister_image(ImageId=image)
        return False
    return None if seen is None else True


def wait_available(ec2: "EC2Client", image: str, where: str, patience: Patience) -> "ImageTypeDef":
    """The AMI when it can be started. Failed if AWS gave it up, Gone if it is not there, TimedOut."""
    fresh_until = patience.clock() + _FRESH_SECONDS

    @aws_words()
    def look() -> "ImageTypeDef | None":
        seen = look_at(ec2, image)
        if seen is None and patience.clock() > fresh_until:
            raise Gone(f"image {image} does not exist", where=where)
        if seen is not None and seen.get("State") in _DEAD:
            reason = seen.get("StateReason", {}).get("Message", "no reason given")
            raise Failed(f"image {image} is {seen.get('State')}: {reason}", where=where)
        return seen if seen is not None and seen.get("State") == "available" else None

    return patience.wait_for(f"image {image} to be available", look, where)


class ImageStep(Ec2Step):
    """RegisterImage: private, as all new images are."""

    name = "image"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._uefi = self._order.image.boot == BOOT_UEFI

    def describe(self) -> tuple[str, str]:
        """Step.describe()."""
        parts = [f"boot mode {_BOOT_MODES[self._uefi]}"]
        parts += ["TPM 2.0"] if self._has_tpm else []
        parts += ["Secure Boot keys"] if self._order.keys else []
        return f"image {image_name(self._labels, self._options)}, private: {', '.join(parts)}, IMDSv2, ENA", "none"

    @property
    def _has_tpm(self) -> bool:
        return self._uefi and self._options.tpm

    @aws_words()
    def find(self, made: Made) -> Resource | None:
        """Step.find()."""
        found = find_image(self._aws.ec2(), self._labels.run)
        return Resource("image", found, self._aws.region) if found else None

    def create(self, made: Made, token: str) -> Resource:
        """Step.create(). RegisterImage takes no token: its name is unique instead."""
        snapshot = made["snapshot"].resource
        assert snapshot is not None
        try:
            return Resource("image", self._register(snapshot.id), self._aws.region)
        except NameTaken:
            # By a stranger, or by an earlier try of ours that AWS does not show everywhere yet.
            if self._is_strangers():
                raise
            try:
                look = partial(self.find, made)
                return self._patience.wait_for("the image", look, self._aws.region, _FRESH_SECONDS)
            except TimedOut:
                pass
            raise

    @aws_words()
    def _register(self, snapshot: str) -> str:
        firmware: dict[str, Any] = {"TpmSupport": "v2.0"} if self._has_tpm else {}
        if self._order.keys is not None:
            from cloud.ec2.uefi_data import uefi_data

            firmware["UefiData"] = uefi_data(self._order.keys)
        disk: dict[str, Any] = {"SnapshotId": snapshot, "VolumeType": "gp3", "DeleteOnTermination": True}
        return self._aws.ec2().register_image(
            Name=image_name(self._labels, self._options),
            Description=f"{self._labels.name}: raw image SHA-256 {self._order.image.sha256}",
            Architecture="x86_64",
            VirtualizationType="hvm",
            RootDeviceName=ROOT_DEVICE,
            BlockDeviceMappings=[{"DeviceName": ROOT_DEVICE, "Ebs": disk}],  # type: ignore[typeddict-item]
            EnaSupport=True,
            SriovNetSupport="simple",
            BootMode=_BOOT_MODES[self._uefi],
            ImdsSupport="v2.0",
            TagSpecifications=specifications(self._labels, "image"),
            **firmware,
        )["ImageId"]

    @aws_words()
    def _is_strangers(self) -> bool:
        wanted = [{"Name": "name", "Values": [image_name(self._labels, self._options)]}]
        found = self._aws.ec2().describe_images(Owners=["self"], Filters=wanted)["Images"]  # type: ignore[arg-type]
        return any(read_tags(each.get("Tags", [])).get(RUN) != self._labels.run for each in found)

    @aws_words()
    def exists(self, resource: Resource) -> bool | None:
        """Step.exists()."""
        return is_of_use(self._aws.ec2(), resource.id)

    def finish(self, resource: Resource | None, made: Made, note: Note) -> dict[str, Any]:
        """Step.finish()."""
        assert resource is not None
        seen = wait_available(self._aws.ec2(), resource.id, resource.place, self._patience)
        wanted = _BOOT_MODES[self._uefi]
        if seen.get("BootMode") != wanted:
            raise Failed(
                f"image {resource.id} has boot mode {seen.get('BootMode')}, wanted {wanted}", where=resource.place
            )
        return {"name": seen.get("Name")}


class CopyStep(Ec2Step):
    """CopyImage to another region, with its snapshot."""

    def __init__(self, context: Context, region: str) -> None:
        super().__init__(context)
        self.name = f"copy-{region}"
        self._region = region

    def describe(self) -> tuple[str, str]:
        """Step.describe()."""
        return f"copy of image and snapshot in {self._region}", "data transfer; stored blocks, per GB and month"

    @aws_words()
    def find(self, made: Made) -> Resource | None:
        """Step.find()."""
        found = find_image(self._aws.ec2(self._region), self._labels.run)
        return Resource("image", found, self._region) if found else None

    @aws_words()
    def create(self, made: Made, token: str) -> Resource:
        """Step.create(). A key of the home region is not known elsewhere: copies are encrypted with the account's."""
        image = made["image"].resource
        assert image is not None
        encryption: dict[str, Any] = {"Encrypted": True} if self._options.encrypt else {}
        answer = self._aws.ec2(self._region).copy_image(
            Name=image_name(self._labels, self._options),
            SourceImageId=image.id,
            SourceRegion=image.place,
            ClientToken=token,
            TagSpecifications=specifications(self._labels, "image", "snapshot"),
            **encryption,
        )
        return Resource("image", answer["ImageId"], self._region)

    @aws_words()
    def exists(self, resource: Resource) -> bool | None:
        """Step.exists()."""
        return is_of_use(self._aws.ec2(self._region), resource.id)

    def finish(self, resource: Resource | None, made: Made, note: Note) -> dict[str, Any]:
        """Step.finish()."""
        assert resource is not None
        wait_available(self._aws.ec2(self._region), resource.id, self._region, self._patience)
        return {}
