"""The raw disk that is sent: read in place, holes skipped."""

from collections.abc import Callable, Iterator

from cloud.errors import Unfit
from cloud.order import ImageFacts
from images.block import BlockDevice
from images.errors import ImageError
from images.sparse import nonzero_blocks, spans

GIB = 1 << 30


class Source:
    """A disk image of any size that `device` gives; `facts` must be true of it."""

    def __init__(self, device: BlockDevice, facts: ImageFacts, check: Callable[[], None] = lambda: None) -> None:
        """`check` raises ImageError if the host's files under the device have changed since the digest was taken."""
        self.device = device
        self.facts = facts
        self._check = check

    @property
    def size(self) -> int:
        """Bytes."""
        return self.device.size

    def most_blocks(self, unit: int) -> int:
        """How many blocks of `unit` bytes may hold something else than zeros, known without reading."""
        return sum(-(-size // unit) for _, size in spans(self.device, unit, unit))

    def check(self) -> None:
        """To be called when all was read: Unfit if what was read is not what the digest is of."""
        try:
            self._check()
        except ImageError as error:
            raise Unfit(str(error), next_step="what was sent is not used; run this again") from None

    def blocks(self, unit: int) -> Iterator[tuple[int, bytes]]:
        """(index, bytes) of each block of `unit` bytes that is not all zeros, in order, the last one filled with zeros.

        Raises Unfit if the image cannot be read.
        """
        try:
            for offset, data in nonzero_blocks(self.device, unit):
                yield offset // unit, data if len(data) == unit else data.ljust(unit, b"\0")
        except ImageError as error:
            raise Unfit(str(error), next_step="leave the image alone while it is sent, then run this again") from None
