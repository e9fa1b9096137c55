"""The console of an instance. EC2 has no stream: the latest 64 KiB are polled and joined."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cloud.console import SnapshotJoiner
from cloud.ec2 import instance
from cloud.ec2.refusals import aws_words, code_of
from cloud.wait import Patience

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

_PAUSE = 3.0
_LAST_LOOKS = 3
"""After the end of an instance EC2 may still bring the last words."""


def console(ec2: "EC2Client", instance_id: str, follow: bool, patience: Patience) -> Iterator[str]:
    """Console text, nothing twice. With `follow` until the instance has ended, else what there is now."""
    joiner = SnapshotJoiner()
    looks_left = _LAST_LOOKS if follow else 1
    while True:
        if new := joiner.feed(_latest(ec2, instance_id)):
            yield new
        if not follow or _has_ended(ec2, instance_id):
            looks_left -= 1
            if looks_left <= 0:
                return
        patience.pause(_PAUSE)


@aws_words()
def _latest(ec2: "EC2Client", instance_id: str) -> str:
    from botocore.exceptions import ClientError

    try:
        return ec2.get_console_output(InstanceId=instance_id, Latest=True).get("Output", "")
    except ClientError as error:
        if code_of(error) not in ("UnsupportedOperation", "InvalidParameterCombination", "IncorrectInstanceState"):
            raise
    # Machines that are no Nitro give what they wrote until some minutes ago.
    return ec2.get_console_output(InstanceId=instance_id).get("Output", "")


@aws_words()
def _has_ended(ec2: "EC2Client", instance_id: str) -> bool:
    seen = instance.look_at(ec2, instance_id)
    return seen is None or instance.state_of(seen) in ("terminated", "stopped")
