"""The image: made of the archive, told what its guest can do, kept in one region, readable by its project only."""

from typing import Any

from cloud.errors import CloudError, Failed, Gone, NameTaken
from cloud.gce import operations
from cloud.gce.options import GceOptions, image_name, labels_of
from cloud.gce.session import Gce
from cloud.gce.shielded import initial_state
from cloud.labels import RUN, Labels
from cloud.order import BOOT_UEFI, Order
from cloud.progress import size_text
from cloud.resource import Resource
from cloud.steps import Made, Note, Step

KIND = "image"
CLIENT = "ImagesClient"
COMMON_FEATURES = ("GVNIC", "VIRTIO_SCSI_MULTIQUEUE")
UEFI_FEATURES = ("UEFI_COMPATIBLE", "SEV_CAPABLE", "SEV_SNP_CAPABLE")
"""A BIOS image must not have UEFI_COMPATIBLE: the firmware would look for an ESP. Confidential VMs boot by UEFI only."""


class ImageStep(Step):
    """One image."""

    name = KIND

    def __init__(self, gce: Gce, labels: Labels, order: Order) -> None:
        self._gce, self._labels, self._order = gce, labels, order
        self._options = GceOptions.of(order.options)
        self._image = image_name(labels, self._options)
        self._operation: Any = None

    def describe(self) -> tuple[str, str]:
        """Step.describe()."""
        size = size_text(self._order.image.size)
        return f"image {self._image} of {size} in {self._gce.region}, private", "its stored bytes, per month"

    def find(self, made: Made) -> Resource | None:
        """Step.find()."""
        image = find_image(self._gce, self._image)
        if image is None:
            return None
        if image.labels.get(RUN) != self._labels.run:
            raise taken("image", self._image, dict(image.labels))
        return self._resource()

    def create(self, made: Made, token: str) -> Resource:
        """Step.create()."""
        upload = made["upload"].resource
        assert upload is not None
        try:
            self._operation = self._gce.call(
                CLIENT,
                "insert_unary",
                request_id=operations.request_id(token),
                image_resource=image_resource(self._gce, self._labels, self._order, upload.id),
            )
        except NameTaken:
            if self.find(made) is None:
                raise
        return self._resource()

    def finish(self, resource: Resource | None, made: Made, note: Note) -> dict[str, Any]:
        """Step.finish(): waits until the image is ready. A failed one is deleted."""
        operation, self._operation = self._operation, None
        try:
            if operation is None:
                there = find_image(self._gce, self._image)
                operation = there and operations.insert_of(self._gce, there.id, zonal=False)
            if operation is not None:
                operations.wait_for(self._gce, operation, f"image {self._image} to be made")
            image = self._gce.patience.wait_for(f"image {self._image} to be ready", self._ready, self._gce.place)
        except CloudError:
            self._remove_failed()
            raise
        return {
            "id": str(image.id),
            "self_link": image.self_link,
            "archive_bytes": image.archive_size_bytes,
            "guest_os_features": sorted(feature.type_ for feature in image.guest_os_features),
        }

    def exists(self, resource: Resource) -> bool:
        """Step.exists()."""
        return find_image(self._gce, resource.id) is not None

    def _resource(self) -> Resource:
        return Resource(KIND, self._image, self._gce.place)

    def _ready(self) -> Any | None:
        image = find_image(self._gce, self._image)
        if image is None:
            raise Gone(f"image {self._image} is not there", where=self._gce.place)
        if image.status == "FAILED":
            raise Failed(f"image {self._image} failed", where=self._gce.place, next_step="run this again")
        return image if image.status == "READY" else None

    def _remove_failed(self) -> None:
        image = find_image(self._gce, self._image)
        if image is not None and image.status == "FAILED" and image.labels.get(RUN) == self._labels.run:
            operations.delete(self._gce, CLIENT, f"image {self._image}", zonal=False, image=self._image)


def image_resource(gce: Gce, labels: Labels, order: Order, archive: str) -> Any:
    """What images.insert is sent. `archive`: bucket/object."""
    from google.cloud.compute_v1 import types

    options = GceOptions.of(order.options)
    uefi = order.image.boot == BOOT_UEFI
    features = dict.fromkeys([*COMMON_FEATURES, *(UEFI_FEATURES if uefi else ()), *options.guest_features])
    image = types.Image(
        name=image_name(labels, options),
        description=f"cvmboot: disk of SHA-256 {order.image.sha256}",
        labels=labels_of(labels, gce.zone),
        raw_disk=types.RawDisk(source=f"https://storage.googleapis.com/{archive}", container_type="TAR"),
        guest_os_features=[types.GuestOsFeature(type_=feature) for feature in features],
        architecture="X86_64",
        storage_locations=[gce.region],
    )
    if options.family:
        image.family = options.family
    if order.keys is not None:
        image.shielded_instance_initial_state = initial_state(order.keys)
    return image


def find_image(gce: Gce, name: str) -> Any | None:
    """The project's image, whoever made it."""
    try:
        return gce.call(CLIENT, "get", image=name)
    except Gone:
        return None


def taken(kind: str, name: str, labels: dict[str, str]) -> CloudError:
    """The error for a name that someone else's resource has, or one of another run."""
    whose = f"of run {labels[RUN]}" if RUN in labels else "not made by cvmboot"
    return NameTaken(f"{kind} {name} is there and {whose}", next_step="say another --name or --image-name")
