"""Amazon EC2 as cloud.provider wants it."""

from collections.abc import Iterator
from typing import Any

from cloud.ec2 import inventory, preflight, serial_console
from cloud.ec2.image import CopyStep, ImageStep
from cloud.ec2.instance import InstanceStep
from cloud.ec2.options import Ec2Options
from cloud.ec2.refusals import aws_words, server_time
from cloud.ec2.s3_import import ImportedStep, ImportStep, ObjectStep
from cloud.ec2.session import Aws
from cloud.ec2.snapshot import SnapshotStep
from cloud.ec2.step import Context
from cloud.errors import Failed
from cloud.labels import PRODUCT_INSTANCE, Labels
from cloud.order import Order
from cloud.plan import Check
from cloud.progress import Report
from cloud.provider import Provider
from cloud.resource import Found, Resource
from cloud.source import Source
from cloud.steps import Step
from cloud.wait import Patience

DEFAULT_TIMEOUT = 1800


def open_provider(place: str, access: dict[str, Any]) -> "Ec2":
    """EC2 in a region, "" for the SDK's. `access`: profile, timeout in seconds, copy_to, buckets; all may lack."""
    return Ec2(
        Aws(place, access.get("profile")),
        Patience(float(access.get("timeout") or DEFAULT_TIMEOUT)),
        list(access.get("copy_to") or ()),
        list(access.get("buckets") or ()),
    )


class Ec2(Provider):
    """One account, its home region, and the regions of its copies."""

    name = "ec2"
    deletion_order = inventory.DELETION_ORDER

    def __init__(self, aws: Aws, patience: Patience, copy_to: list[str], buckets: list[str]) -> None:
        self._aws = aws
        self._patience = patience
        self._regions = list(dict.fromkeys([aws.region, *copy_to]))
        self._buckets = buckets

    @property
    def place(self) -> str:
        """Provider.place: the home region."""
        return self._aws.region

    def preflight(self, order: Order, labels: Labels) -> list[Check]:
        """Provider.preflight()."""
        return preflight.preflight(self._aws, order, Ec2Options.of(order.options), labels)

    def settings(self, order: Order) -> dict[str, str]:
        """Provider.settings()."""
        options = Ec2Options.of(order.options)
        settings = {"region": ", ".join(self._regions), "visibility": "image and snapshot private to the account"}
        if options.encrypt:
            settings["encryption"] = options.kms_key or "the account's EBS key"
        if order.product == PRODUCT_INSTANCE:
            settings["machine"] = f"{options.machine_type}{', SEV-SNP confidential VM' if options.snp else ''}"
            settings["reachable"] = "public address" if options.public_ip else "inside its VPC only"
            settings["at shutdown"] = options.on_shutdown
        return settings

    def steps(self, order: Order, labels: Labels, source: Source, report: Report) -> list[Step]:
        """Provider.steps()."""
        options = Ec2Options.of(order.options)
        context = Context(self._aws, labels, options, order, source, report, self._patience)
        self._aws.tell = report.say
        if options.via == "s3":
            steps: list[Step] = [ObjectStep(context), ImportStep(context), ImportedStep(context)]
        else:
            steps = [SnapshotStep(context)]
        steps.append(ImageStep(context))
        steps += [CopyStep(context, region) for region in options.copy_to]
        if order.product == PRODUCT_INSTANCE:
            steps.append(InstanceStep(context))
        return steps

    def discover(self, run: str = "", name: str = "") -> list[Found]:
        """Provider.discover()."""
        return inventory.discover(self._aws, self._open_regions(), self._buckets, run, name)

    @aws_words()
    def _open_regions(self) -> list[str]:
        """Those of our regions that the account may use: any other answers as if the credentials were bad."""
        home, *others = self._regions
        if not others:
            return [home]
        known = self._aws.ec2().describe_regions(AllRegions=True)["Regions"]
        closed = [region["RegionName"] for region in known if region.get("OptInStatus") == "not-opted-in"]
        there = [region["RegionName"] for region in known if region["RegionName"] not in closed]
        return [home, *(region for region in others if region in there)]

    def delete(self, resource: Resource) -> None:
        """Provider.delete()."""
        inventory.delete(self._aws, resource, self._patience)

    def console(self, instance: Resource, follow: bool) -> Iterator[str]:
        """Provider.console()."""
        return serial_console.console(self._aws.ec2(instance.place), instance.id, follow, self._patience)

    @aws_words()
    def now(self) -> int:
        """Provider.now(): the date in the header of an answer."""
        moment = server_time(self._aws.client("sts").get_caller_identity())
        if not moment:
            raise Failed("AWS's answer has no date", where="AWS", next_step="leftovers cannot be told by their age now")
        return moment
