"""Snapshots and images of EC2, strict: states that take time, what RegisterImage and CopyImage are given, what is in use."""

import re
import zlib
from base64 import b64decode
from typing import Any

import google_crc32c
from moto.core.responses import ActionResult, EmptyResult
from moto.ec2.models import ec2_backends
from moto.ec2.models.amis import Ami
from moto.ec2.models.elastic_block_store import Snapshot
from moto.ec2.responses.amis import AmisResponse
from moto.ec2.responses.elastic_block_store import ElasticBlockStore
from moto.ec2.utils import random_ami_id, random_snapshot_id

from strict_aws.world import WORLD, refuse

_NAME = re.compile(r"[A-Za-z0-9()\[\] ./\-'@_]{3,128}")
_DICTIONARY_ADLER = 0x6BB7D9F7
"""Of the dictionary that AWS's variable store is compressed with (awslabs/python-uefivars)."""
_moto_describe_images = AmisResponse.describe_images
_moto_describe_snapshots = ElasticBlockStore.describe_snapshots
_moto_delete_snapshot = ElasticBlockStore.delete_snapshot
_moto_deregister = AmisResponse.deregister_image


class StrictAmi(Ami):
    """An image with all that it was registered with."""

    mappings: list[dict[str, Any]]
    ena_support = False
    sriov_net_support: str | None = None
    tpm_support: str | None = None
    imds_support: str | None = None
    uefi_data: str | None = None

    @property
    def block_device_mappings(self) -> list[dict[str, Any]]:
        return self.mappings

    @property
    def public(self) -> bool:
        return self.is_public

    @property
    def uefi(self) -> str | None:
        """What moto calls the attribute uefiData."""
        return self.uefi_data


def _make(backend: Any, name: str, description: str, mappings: list[dict[str, Any]], tags: dict[str, str]) -> StrictAmi:
    """An image of snapshots that are there; moto's constructor makes one of its own, which goes again."""
    image = StrictAmi(backend, random_ami_id(), name=name, description=description, state="pending", tags=tags)
    backend.snapshots.pop(image.ebs_snapshot.id)
    image.mappings = mappings
    image.root_device_type = "ebs"
    image.image_location = f"{backend.account_id}/{name}"
    backend.amis[image.id] = image
    return image


def _tags(specifications: list[dict[str, Any]], kind: str, allowed: tuple[str, ...]) -> dict[str, str]:
    tags: dict[str, str] = {}
    for specification in specifications:
        if specification["ResourceType"] not in allowed:
            raise refuse("InvalidParameterValue", f"'{specification['ResourceType']}' cannot be tagged here")
        if specification["ResourceType"] == kind:
            tags |= {tag["Key"]: tag["Value"] for tag in specification["Tags"]}
    return tags


def _check_name(backend: Any, name: str | None) -> str:
    if name is None or not _NAME.fullmatch(name):
        raise refuse("InvalidAMIName.Malformed", f"AMI name {name!r}")
    if any(image.name == name and image.owner_id == backend.account_id for image in backend.amis.values()):
        raise refuse("InvalidAMIName.Duplicate", f"AMI name {name} is already in use by another AMI")
    return name


def _check_uefi_data(text: str) -> None:
    if len(text) > 64_000:
        raise refuse("InvalidParameterValue", f"UefiData of {len(text)} characters")
    try:
        data = b64decode(text, validate=True)
    except ValueError:
        raise refuse("InvalidParameterValue", "UefiData is no base64") from None
    if data[:8] != b"AMZNUEFI" or int.from_bytes(data[8:12], "little") != google_crc32c.value(data[12:]):
        raise refuse("InvalidParameterValue", "UefiData: magic or checksum")
    if data[12:16] != bytes(4) or not data[17] & 0x20 or int.from_bytes(data[18:22], "big") != _DICTIONARY_ADLER:
        raise refuse("InvalidParameterValue", "UefiData: version or dictionary")
    try:
        zlib.decompressobj().decompress(data[16:])
    except zlib.error as error:
        if "need dictionary" not in str(error) and "Error 2" not in str(error):
            raise refuse("InvalidParameterValue", f"UefiData: {error}") from None


class StrictImages(AmisResponse):
    """Replaces moto's methods."""

    def register_image(self) -> ActionResult:
        backend, get = self.ec2_backend, self._get_param
        name = _check_name(backend, get("Name"))
        boot = get("BootMode") or "legacy-bios"
        if boot not in ("legacy-bios", "uefi", "uefi-preferred"):
            raise refuse("InvalidParameterValue", f"BootMode {boot}")
        if (get("Architecture") or "i386") not in ("i386", "x86_64", "arm64"):
            raise refuse("InvalidParameterValue", "Architecture")
        if boot != "legacy-bios" and get("Architecture") != "x86_64":
            raise refuse("InvalidParameterCombination", "uefi needs x86_64")
        for option, wanted in (("TpmSupport", "v2.0"), ("ImdsSupport", "v2.0")):
            if get(option) not in (None, wanted):
                raise refuse("InvalidParameterValue", f"{option} {get(option)}")
        if get("TpmSupport") and boot == "legacy-bios":
            raise refuse("InvalidParameterCombination", "TpmSupport needs BootMode uefi")
        if get("UefiData"):
            if boot == "legacy-bios":
                raise refuse("InvalidParameterCombination", "UefiData needs BootMode uefi")
            _check_uefi_data(get("UefiData"))
        mappings = [self._mapping(each) for each in get("BlockDeviceMappings", [])]
        if not any(each["DeviceName"] == get("RootDeviceName") for each in mappings):
            raise refuse("InvalidBlockDeviceMapping", "there is no mapping for the root device")
        tags = _tags(get("TagSpecifications", []), "image", ("image", "snapshot"))
        self.error_on_dryrun()
        image = _make(backend, name, get("Description", ""), mappings, tags)
        image.architecture = get("Architecture") or "i386"
        image.virtualization_type = get("VirtualizationType") or "paravirtual"
        image.root_device_name = get("RootDeviceName")
        image.boot_mode = boot
        image.ena_support = bool(get("EnaSupport"))
        image.sriov = image.sriov_net_support = get("SriovNetSupport")
        image.tpm_support, image.imds_support = get("TpmSupport"), get("ImdsSupport")
        image.uefi_data = get("UefiData")
        return ActionResult({"ImageId": image.id})

    def _mapping(self, given: dict[str, Any]) -> dict[str, Any]:
        volume = dict(given.get("Ebs", {}))
        snapshot = self.ec2_backend.snapshots.get(volume.get("SnapshotId", ""))
        if snapshot is None:
            raise refuse("InvalidSnapshot.NotFound", f"The snapshot '{volume.get('SnapshotId')}' does not exist.")
        if snapshot.status != "completed":
            raise refuse("IncorrectState", f"snapshot {snapshot.id} is {snapshot.status}")
        if "Encrypted" in volume:
            raise refuse("InvalidParameterDependency", "Encrypted is not taken with a snapshot of its own")
        volume.setdefault("VolumeSize", snapshot.volume_size)
        volume.setdefault("VolumeType", "standard")
        volume.setdefault("DeleteOnTermination", True)
        volume["Encrypted"] = snapshot.encrypted
        return {"DeviceName": given["DeviceName"], "Ebs": volume}

    def copy_image(self) -> ActionResult:
        backend, get = self.ec2_backend, self._get_param
        specifications = get("TagSpecifications", [])
        parameters = (get("Name"), get("SourceImageId"), get("SourceRegion"), str(specifications), get("Encrypted"))

        def make() -> StrictAmi:
            source = ec2_backends[self.current_account][get("SourceRegion")].amis.get(get("SourceImageId"))
            if source is None:
                raise refuse("InvalidAMIID.NotFound", f"The image id '[{get('SourceImageId')}]' does not exist")
            if source.state != "available":
                raise refuse("InvalidRequest", "The storage for the ami is not available in the source region.")
            name = _check_name(backend, get("Name"))
            allowed = ("image", "snapshot")
            mappings = []
            for mapping in source.block_device_mappings:
                old = source.ec2_backend.snapshots[mapping["Ebs"]["SnapshotId"]]
                new = Snapshot(backend, random_snapshot_id(), old.volume, f"Copied for {name}", encrypted=old.encrypted)
                new.encrypted = old.encrypted or bool(get("Encrypted"))
                new.add_tags(_tags(specifications, "snapshot", allowed))
                backend.snapshots[new.id] = new
                mappings.append(
                    {**mapping, "Ebs": {**mapping["Ebs"], "SnapshotId": new.id, "Encrypted": new.encrypted}}
                )
            image = _make(backend, name, get("Description") or "", mappings, _tags(specifications, "image", allowed))
            for field in (
                "architecture", "virtualization_type", "root_device_name", "boot_mode", "ena_support", "sriov",
                "sriov_net_support", "tpm_support", "imds_support", "uefi_data",
            ):  # fmt: skip
                setattr(image, field, getattr(source, field))
            return image

        image = WORLD.once("CopyImage", get("ClientToken") or "", parameters, make, "IdempotentParameterMismatch")
        return ActionResult({"ImageId": image.id})

    def describe_images(self) -> ActionResult:
        for image in self.ec2_backend.amis.values():
            if image.state == "pending" and not WORLD.still_working(image.id):
                image.state = "available"
        return _moto_describe_images(self)

    def deregister_image(self) -> ActionResult:
        return _moto_deregister(self)


class StrictSnapshots(ElasticBlockStore):
    """Replaces moto's methods."""

    def describe_snapshots(self) -> ActionResult:
        from moto.ebs.models import ebs_backends

        direct = ebs_backends[self.current_account][self.region].snapshots
        for snapshot in self.ec2_backend.snapshots.values():
            kept = direct.get(snapshot.id)
            if snapshot.status == "pending" and kept and kept.status == "completed":
                if WORLD.fail_snapshots:
                    snapshot.status = "error"
                elif not WORLD.still_working(snapshot.id):
                    snapshot.status = "completed"
        answer = _moto_describe_snapshots(self)
        if "self" not in self._get_param("OwnerIds", []):
            return answer
        found = answer.result["Snapshots"]  # type: ignore[index]
        return ActionResult({"Snapshots": [each for each in found if each.owner_id == self.current_account]})

    def delete_snapshot(self) -> ActionResult | EmptyResult:
        wanted = self._get_param("SnapshotId")
        for image in self.ec2_backend.amis.values():
            if any(each["Ebs"].get("SnapshotId") == wanted for each in image.block_device_mappings):
                raise refuse("InvalidSnapshot.InUse", f"The snapshot {wanted} is currently in use by {image.id}")
        return _moto_delete_snapshot(self)


def install() -> None:
    """Put it in moto's place."""
    for name in ("register_image", "_mapping", "copy_image", "describe_images", "deregister_image"):
        setattr(AmisResponse, name, getattr(StrictImages, name))
    for name in ("describe_snapshots", "delete_snapshot"):
        setattr(ElasticBlockStore, name, getattr(StrictSnapshots, name))
