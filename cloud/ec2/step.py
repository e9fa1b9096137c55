"""What every step on EC2 is made of."""

from dataclasses import dataclass

from cloud.ec2.options import Ec2Options
from cloud.ec2.session import Aws
from cloud.labels import Labels
from cloud.order import Order
from cloud.progress import Report
from cloud.source import Source
from cloud.steps import Step
from cloud.wait import Patience


@dataclass(frozen=True)
class Context:
    """One run: the account, what is ordered, the disk, and who watches and waits."""

    aws: Aws
    labels: Labels
    options: Ec2Options
    order: Order
    source: Source
    report: Report
    patience: Patience


class Ec2Step(Step):
    """A step of one run."""

    def __init__(self, context: Context) -> None:
        self._aws = context.aws
        self._labels = context.labels
        self._options = context.options
        self._order = context.order
        self._source = context.source
        self._report = context.report
        self._patience = context.patience
