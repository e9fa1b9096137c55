"""What Compute Engine refuses though its discovery document allows it."""

import io
import re
import tarfile
from typing import Any

from strict_gce.errors import Refused, bad_value, not_found
from strict_gce.world import MACHINE_TYPES, OLD_ZONE, PROJECT, REGION, ZONE, World

PLATFORMS = {ZONE: ["Intel Broadwell", "AMD Rome", "AMD Milan"], OLD_ZONE: ["Intel Broadwell", "AMD Rome"]}
DISK_TYPES = ("pd-standard", "pd-balanced", "pd-ssd")
_LABEL = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_VALUE = re.compile(r"[a-z0-9_-]{0,63}")
_NO_VIRTIO = ("c3d-", "c3-", "c4-", "n4-")


def check_labels(labels: dict[str, str]) -> None:
    """Google, "Requirements for labels"."""
    if len(labels) > 64:
        raise bad_value("resource.labels", len(labels), "at most 64")
    for key, value in labels.items():
        if not _LABEL.fullmatch(key) or not _VALUE.fullmatch(value):
            raise bad_value(f"resource.labels.{key}", value, "Label keys and values have to be lower case")


def check_image(world: World, image: dict[str, Any]) -> int:
    """images.insert. Gives the disk's size in bytes; Refused, or ValueError for what the import finds only later."""
    check_labels(image.get("labels", {}))
    source = image.get("rawDisk", {}).get("source", "")
    match = re.fullmatch(r"https://storage\.googleapis\.com/([^/]+)/(.+)", source)
    if not match:
        raise bad_value("resource.rawDisk.source", source, "The URL is malformed.")
    stored = world.objects.get((match[1], match[2]))
    if stored is None:
        raise not_found(source)
    features = [feature["type"] for feature in image.get("guestOsFeatures", [])]
    if len(set(features)) != len(features):
        raise bad_value("resource.guestOsFeatures", features, "Duplicate guest OS feature")
    if "shieldedInstanceInitialState" in image and "UEFI_COMPATIBLE" not in features:
        raise bad_value("resource.shieldedInstanceInitialState", "", "The image must be UEFI_COMPATIBLE.")
    if "SEV_SNP_CAPABLE" in features and "UEFI_COMPATIBLE" not in features:
        raise bad_value("resource.guestOsFeatures", features, "SEV_SNP_CAPABLE needs UEFI_COMPATIBLE.")
    for location in image.get("storageLocations", []):
        if location not in (REGION, "eu"):
            raise bad_value("resource.storageLocations", location)
    return disk_size(stored.data)


def disk_size(archive: bytes) -> int:
    """Google, "Requirements to build custom images". ValueError if the import would fail."""
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
            member = tar.next()
            # To the end: gzip's checksum is behind the last byte.
            if member is None or member.name != "disk.raw" or tar.next() is not None:
                raise ValueError("the tar archive must hold disk.raw alone")
            size = member.size
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"the tar archive is not a valid image: {error}") from None
    if size % (1 << 30) or not size:
        raise ValueError(f"the size of disk.raw must be a multiple of 1 GB, not {size}")
    return size


def check_instance(world: World, zone: str, instance: dict[str, Any]) -> dict[str, Any]:
    """instances.insert. Gives the image."""
    check_labels(instance.get("labels", {}))
    machine = _machine_type(instance.get("machineType", ""), zone)
    image, features = _boot_disk(world, zone, instance)
    scheduling = instance.get("scheduling", {})
    _scheduling(scheduling)
    _interfaces(instance.get("networkInterfaces", []), machine, features)
    confidential = instance.get("confidentialInstanceConfig", {})
    kind = confidential.get("confidentialInstanceType")
    if confidential.get("enableConfidentialCompute") and kind == "SEV_SNP":
        raise bad_value("resource.confidentialInstanceConfig", confidential, "enableConfidentialCompute means SEV")
    platform = instance.get("minCpuPlatform")
    if platform and platform not in PLATFORMS[zone]:
        raise bad_value("resource.minCpuPlatform", platform, f"CPU platform is not available in zone {zone}.")
    if kind == "SEV_SNP":
        if not machine.startswith("n2d-"):
            raise bad_value("resource.machineType", machine, "SEV_SNP is supported on N2D only.")
        if platform != "AMD Milan":
            raise bad_value("resource.minCpuPlatform", platform, "SEV_SNP requires AMD Milan.")
        if scheduling.get("onHostMaintenance", "MIGRATE") != "TERMINATE":
            raise bad_value("resource.scheduling.onHostMaintenance", "MIGRATE", "Confidential VMs must TERMINATE.")
        for feature in ("SEV_SNP_CAPABLE", "UEFI_COMPATIBLE", "GVNIC"):
            if feature not in features:
                raise bad_value("resource.disks[0]", image["name"], f"The image lacks {feature}.")
    if instance.get("shieldedInstanceConfig") and "UEFI_COMPATIBLE" not in features:
        raise bad_value("resource.shieldedInstanceConfig", "", "The image must be UEFI_COMPATIBLE.")
    keys = [item["key"] for item in instance.get("metadata", {}).get("items", [])]
    if len(set(keys)) != len(keys):
        raise bad_value("resource.metadata", keys, "Duplicate key")
    return image


def _machine_type(url: str, zone: str) -> str:
    match = re.fullmatch(rf"(?:https://.*/compute/v1/)?projects/{PROJECT}/zones/{zone}/machineTypes/([a-z0-9-]+)", url)
    if not match:
        raise bad_value("resource.machineType", url, "The URL is malformed.")
    if match[1] not in MACHINE_TYPES:
        raise not_found(url)
    return match[1]


def _boot_disk(world: World, zone: str, instance: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    disks = instance.get("disks", [])
    if len(disks) != 1 or not disks[0].get("boot"):
        raise Refused(400, "required", "An instance must have one boot disk")
    given = disks[0].get("initializeParams", {})
    check_labels(given.get("labels", {}))
    match = re.fullmatch(rf"projects/{PROJECT}/global/images/([a-z0-9-]+)", given.get("sourceImage", ""))
    if not match:
        raise bad_value("resource.disks[0].initializeParams.sourceImage", given.get("sourceImage"), "malformed")
    image = world.images.get(match[1])
    if image is None:
        raise not_found(given["sourceImage"])
    if image["status"] != "READY":
        raise Refused(400, "resourceNotReady", f"The resource '{given['sourceImage']}' is not ready")
    kind = re.fullmatch(rf"projects/{PROJECT}/zones/{zone}/diskTypes/([a-z-]+)", given.get("diskType", ""))
    if kind is None or kind[1] not in DISK_TYPES:
        raise bad_value("resource.disks[0].initializeParams.diskType", given.get("diskType"))
    size = int(given.get("diskSizeGb", image["diskSizeGb"]))
    if size < max(10, int(image["diskSizeGb"])):
        raise bad_value("resource.disks[0].initializeParams.diskSizeGb", size, "too small")
    return image, [feature["type"] for feature in image.get("guestOsFeatures", [])]


def _scheduling(scheduling: dict[str, Any]) -> None:
    spot = scheduling.get("provisioningModel") == "SPOT" or scheduling.get("preemptible")
    if spot and scheduling.get("automaticRestart", True):
        raise bad_value("resource.scheduling.automaticRestart", True, "Spot VMs must not restart automatically.")
    if spot and scheduling.get("onHostMaintenance", "TERMINATE") != "TERMINATE":
        raise bad_value("resource.scheduling.onHostMaintenance", "MIGRATE", "Spot VMs must TERMINATE.")
    limited = "maxRunDuration" in scheduling or "terminationTime" in scheduling
    if limited and "instanceTerminationAction" not in scheduling:
        raise bad_value("resource.scheduling", "", "instanceTerminationAction must be set with a time limit.")
    if "instanceTerminationAction" in scheduling and not (limited or spot):
        raise bad_value("resource.scheduling.instanceTerminationAction", "", "wants a time limit or a Spot VM")
    if "maxRunDuration" in scheduling:
        seconds = int(scheduling["maxRunDuration"].get("seconds", 0))
        if not 30 <= seconds <= 120 * 86400:
            raise bad_value("resource.scheduling.maxRunDuration", seconds, "wanted 30 seconds to 120 days")


def _interfaces(interfaces: list[dict[str, Any]], machine: str, features: list[str]) -> None:
    if not interfaces:
        raise Refused(400, "required", "At least one network interface is required.")
    for interface in interfaces:
        if not interface.get("network") and not interface.get("subnetwork"):
            raise Refused(400, "required", "A network or subnetwork is required.")
        network = interface.get("network", f"projects/{PROJECT}/global/networks/default")
        if network != f"projects/{PROJECT}/global/networks/default":
            raise not_found(network)
        if interface.get("nicType") == "GVNIC" and "GVNIC" not in features:
            raise bad_value("resource.networkInterfaces[0].nicType", "GVNIC", "The image lacks GVNIC.")
        if interface.get("nicType") == "VIRTIO_NET" and machine.startswith(_NO_VIRTIO):
            raise bad_value("resource.networkInterfaces[0].nicType", "VIRTIO_NET", f"{machine} has gVNIC only.")


_FILTER = re.compile(r'\(?([a-zA-Z.-]+?)(?: ?(=) ?("?)([^"()]*)\3|(:)\*)\)?')


def matches(resource: dict[str, Any], text: str) -> bool:
    """The part of the filter language that is understood here; 400 for the rest."""
    for term in text.split(" AND ") if text else ():
        match = _FILTER.fullmatch(term)
        if not match:
            raise bad_value("filter", text, "Invalid list filter expression.")
        value: Any = resource
        for step in match[1].split("."):
            value = value.get(step) if isinstance(value, dict) else None
        if value is None or (match[2] and str(value) != match[4]):
            return False
    return True
