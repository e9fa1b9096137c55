"""Compute Engine as cloud.provider wants it."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from cloud.errors import Denied, Gone
from cloud.gce import bucket, image, instance, operations, preflight, serial, upload
from cloud.gce.options import ZONE, Access, GceOptions, project_and_zone
from cloud.gce.refusals import gce_words
from cloud.gce.session import Gce
from cloud.labels import NAME, PRODUCT_INSTANCE, RUN, TOOL, Labels, is_ours
from cloud.order import Order
from cloud.plan import Check
from cloud.progress import Report
from cloud.provider import Provider
from cloud.resource import Found, Resource
from cloud.source import Source
from cloud.steps import Step

DISK = "disk"


class GceProvider(Provider):
    """One zone of one project."""

    name = "gce"
    deletion_order = (instance.KIND, DISK, image.KIND, upload.KIND, bucket.KIND)

    def __init__(self, gce: Gce) -> None:
        self._gce = gce

    @property
    def place(self) -> str:
        """Provider.place: project/zone."""
        return self._gce.place

    def preflight(self, order: Order, labels: Labels) -> list[Check]:
        """Provider.preflight()."""
        return preflight.checks(self._gce, order, labels)

    def settings(self, order: Order) -> dict[str, str]:
        """Provider.settings()."""
        options = GceOptions.of(order.options)
        secure = "on" if options.secure_boot else "off"
        if order.keys:
            secure += f", keys of SHA-256 {order.keys.digest[:16]}..."
        settings = {"Secure Boot": secure}
        if order.product == PRODUCT_INSTANCE:
            settings |= {
                "confidential": "SEV-SNP" if options.snp else "no",
                "network": f"{options.subnet or options.network or 'default'}, {options.nic}, "
                f"{'with a public address' if options.public else 'no public address'}",
                "serial port": f"logged, {'open to' if options.serial_input else 'closed to'} input by signed-in users",
                "cost guard": f"deleted after {options.max_run} s" if options.max_run else "none: say --max-run 8h",
            }
        return settings

    def steps(self, order: Order, labels: Labels, source: Source, report: Report) -> list[Step]:
        """Provider.steps()."""
        self._gce.tell = report.say
        theirs = GceOptions.of(order.options).bucket
        steps: list[Step] = [] if theirs else [bucket.BucketStep(self._gce, labels)]
        steps += [
            upload.UploadStep(self._gce, labels, source, report, theirs),
            image.ImageStep(self._gce, labels, order),
        ]
        if order.product == PRODUCT_INSTANCE:
            steps.append(instance.InstanceStep(self._gce, labels, order))
        return steps

    def discover(self, run: str = "", name: str = "") -> list[Found]:
        """Provider.discover(): what has our labels and this zone's."""
        with gce_words():
            return self._discover(run, name)

    def _discover(self, run: str, name: str) -> list[Found]:
        asked = {TOOL: "", ZONE: self._gce.zone, **({RUN: run} if run else {}), **({NAME: name} if name else {})}
        text = " AND ".join(
            f'(labels.{key} = "{value}")' if value else f"(labels.{key}:*)" for key, value in asked.items()
        )
        found = [
            self._found(instance.KIND, one, instance.facts_of(one), live=True)
            for one in self._gce.listed(instance.CLIENT, zonal=True, filter=text)
        ]
        found += [
            self._found(DISK, one, {"GiB": one.size_gb})
            for one in self._gce.listed("DisksClient", zonal=True, filter=text)
            if not one.users  # else it goes with its instance
        ]
        found += [
            self._found(image.KIND, one, {"GiB": one.disk_size_gb, "family": one.family})
            for one in self._gce.listed(image.CLIENT, filter=text)
        ]
        found += self._stored()
        return [
            one
            for one in found
            if is_ours(one.labels) and all(one.labels.get(key) == value for key, value in asked.items() if value)
        ]

    def _found(self, kind: str, one: Any, facts: dict[str, Any], *, live: bool = False) -> Found:
        created = int(datetime.fromisoformat(one.creation_timestamp).timestamp())
        resource = Resource(kind, one.name, self.place)
        return Found(resource, dict(one.labels), str(one.status).lower(), created, live, facts)

    def _stored(self) -> Iterator[Found]:
        """Buckets of runs, and what lies in the bucket that a person named."""
        try:
            made = bucket.buckets(self._gce)
        except Denied:
            made = []  # who may not look for buckets has not made any
        for one in made:
            resource = Resource(bucket.KIND, one.name, self.place)
            yield Found(resource, dict(one.labels), "there", int(one.time_created.timestamp()))
        for name in self._gce.access.buckets:
            theirs = self._gce.storage.bucket(name)
            try:
                blobs = self._gce.store(bucket.list_blobs, theirs, prefix=upload.FOLDER)
            except Gone:
                continue
            for blob in blobs:
                resource = Resource(upload.KIND, f"{theirs.name}/{blob.name}", self.place)
                yield Found(resource, dict(blob.metadata or {}), "there", int(blob.time_created.timestamp()))

    def delete(self, resource: Resource) -> None:
        """Provider.delete()."""
        if resource.kind == bucket.KIND:
            bucket.delete_bucket(self._gce, resource.id)
        elif resource.kind == upload.KIND:
            upload.delete_object(self._gce, resource.id)
        else:
            client, zonal, key = {
                instance.KIND: (instance.CLIENT, True, "instance"),
                DISK: ("DisksClient", True, "disk"),
                image.KIND: (image.CLIENT, False, "image"),
            }[resource.kind]
            operations.delete(self._gce, client, str(resource), zonal=zonal, **{key: resource.id})

    def console(self, instance: Resource, follow: bool) -> Iterator[str]:
        """Provider.console()."""
        return serial.console(self._gce, instance, follow)

    def now(self) -> int:
        """Provider.now()."""
        return self._gce.clock()[0]


def open_provider(place: str, access: dict[str, Any]) -> GceProvider:
    """For cloud.providers. `place`: project/zone; the project may be left out: that of the credentials. CloudError."""
    project, zone = project_and_zone(place)
    return GceProvider(Gce(project, zone, Access.of(access)))
