"""Deployments on Compute Engine from within a test's own process, against the stand-in."""

import io
import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from strict_gce.server import Server
from strict_gce.world import PROJECT, ZONE

from cloud.deploy import Deployment, deploy
from cloud.destroy import destroy_run
from cloud.gce.provider import GceProvider, open_provider
from cloud.journal import Journal, Record
from cloud.labels import PRODUCT_IMAGE, PRODUCT_INSTANCE
from cloud.order import BOOT_BIOS, Order
from cloud.plan import Plan
from cloud.progress import Report
from cloud.secure_boot_keys import SecureBootKeys
from cloud.source import Source

SNP: dict[str, Any] = {"machine_type": "n2d-standard-2", "snp": True}
PLAIN: dict[str, Any] = {"machine_type": "e2-small"}


@dataclass
class Runner:
    """One person with one journal."""

    google: Server
    source: Source
    folder: Path
    timeout: float = 20
    told: io.StringIO = field(default_factory=io.StringIO)
    plans: list[Plan] = field(default_factory=list)

    def provider(self, place: str = f"{PROJECT}/{ZONE}", **access: Any) -> GceProvider:
        """A fresh one, as each command makes it, in more of a hurry."""
        provider = open_provider(place, {"timeout": self.timeout, **access})
        provider._gce.patience.pause = lambda seconds: time.sleep(min(seconds, 0.02))
        return provider

    def order(self, name: str = "app", *, place: str = f"{PROJECT}/{ZONE}", **options: Any) -> Order:
        """An order of SEV-SNP, unless `snp=False`."""
        keys: SecureBootKeys | None = options.pop("keys", None)
        product = PRODUCT_IMAGE if options.pop("image_only", False) else PRODUCT_INSTANCE
        facts = self.source.facts
        if options.pop("bios", False):
            facts = replace(facts, boot=BOOT_BIOS)
        if (size := options.pop("disk_bytes", None)) is not None:
            facts = replace(facts, size=size)
        base = SNP if options.get("snp", True) else PLAIN
        bucket = options.get("bucket")
        access = {"timeout": self.timeout, "buckets": [bucket] if bucket else []}
        return Order("gce", place, name, facts, product, {**base, **options}, access, keys)

    def deploy(self, order: Order | None = None, *, dry_run: bool = False, replace: bool = False) -> Record | None:
        """As `cvmboot deploy gce`."""
        order = order or self.order()
        provider = self.provider(order.place, buckets=order.access["buckets"])
        deployment = Deployment(
            provider, self.source, Journal(self.folder), Report(self.told), "1.0", self.plans.append
        )
        return deploy(deployment, order, dry_run=dry_run, replace=replace)

    def destroy(self, record: Record) -> None:
        """As `cvmboot deploy destroy`."""
        destroy_run(self.provider(), Journal(self.folder), record.run, lambda line: None)

    def sent(self, method: str) -> dict[str, Any]:
        """The body of the one request of a method, such as "compute.images.insert"."""
        (body,) = self.google.world.bodies[method]
        plain: dict[str, Any] = body
        return plain

    def written(self) -> str:
        """All that was told, and all that lies in the journal."""
        return self.told.getvalue() + json.dumps([path.read_text() for path in self.folder.glob("*")])
