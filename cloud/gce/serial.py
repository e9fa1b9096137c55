"""The serial console, read from a position on. Compute Engine keeps the last MiB, and for some time after the end."""

from collections.abc import Iterator

from cloud.console import PositionJoiner
from cloud.errors import Gone
from cloud.gce.instance import CLIENT, find_instance
from cloud.gce.session import Gce
from cloud.resource import Resource

_PAUSE = 1.0
_READS = 50
"""In a row, before the machine's state is looked at again: a machine may write faster than it is read."""
_OVER = ("STOPPED", "TERMINATED", "SUSPENDED")


def console(gce: Gce, instance: Resource, follow: bool) -> Iterator[str]:
    """Provider.console()."""
    joiner = PositionJoiner()
    while True:
        # First the state, then the text: what was written before the end is not missed.
        there = find_instance(gce, instance.id)
        over = there is None or there.status in _OVER
        for _ in range(_READS):
            if not (text := _next(gce, instance, joiner)):
                break
            yield text
        if over or not follow:
            return
        gce.patience.pause(_PAUSE)


def _next(gce: Gce, instance: Resource, joiner: PositionJoiner) -> str:
    try:
        output = gce.call(
            CLIENT, "get_serial_port_output", zonal=True, instance=instance.id, port=1, start=joiner.position
        )
    except Gone:
        return ""
    return joiner.feed(output.start, output.contents, output.next_)
