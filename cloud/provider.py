"""What a cloud has to offer, so that cloud.deploy and cloud.destroy work with it. One object is one account's place."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar

from cloud.labels import Labels
from cloud.order import Order
from cloud.plan import Check
from cloud.progress import Report
from cloud.resource import Found, Resource
from cloud.source import Source
from cloud.steps import Step


class Provider(ABC):
    """A cloud as one account sees it, made by cloud.providers from a place and Order.access.

    Every method may raise CloudError, and nothing else that a person or a cloud can cause.
    """

    name: ClassVar[str]
    """"ec2" or "gce": the word of the command line."""
    deletion_order: ClassVar[Sequence[str]]
    """Kinds of resources, in the order in which those of one run can be deleted."""

    @property
    @abstractmethod
    def place(self) -> str:
        """As Order.place."""

    @abstractmethod
    def preflight(self, order: Order, labels: Labels) -> list[Check]:
        """Looks at all that can be known before anything is made, and goes on after a BAD one, so that all are seen.

        `labels` of the run that is to be made or finished: what has them is no stranger.
        """

    @abstractmethod
    def settings(self, order: Order) -> dict[str, str]:
        """What the plan shows above its table: machine type, network, encryption, ..."""

    @abstractmethod
    def steps(self, order: Order, labels: Labels, source: Source, report: Report) -> list[Step]:
        """The steps of a run. Nothing is asked of the cloud yet."""

    @abstractmethod
    def discover(self, run: str = "", name: str = "") -> list[Found]:
        """All resources with our labels in every place that this provider knows of; of one run or name if it is given."""

    @abstractmethod
    def delete(self, resource: Resource) -> None:
        """Deletes it and waits until it is gone. Not an error if it is gone already."""

    @abstractmethod
    def console(self, instance: Resource, follow: bool) -> Iterator[str]:
        """Console text, piece by piece, nothing twice. With `follow` until the instance ends, else what there is now."""

    @abstractmethod
    def now(self) -> int:
        """Seconds since 1970 by the cloud's clock: what is old is judged by it alone."""
