"""What can be wrong with one record of a batch; it ends that record only."""

from sev.errors import SevError
from sev.verdict import MALFORMED


class BadRecord(SevError):
    """A record that cannot be judged; `status` is what its line says: MALFORMED, or 1 for what is not the evidence's fault.

    `named` is the record's id, if that much could be read.
    """

    def __init__(self, reason: str, status: int = MALFORMED) -> None:
        super().__init__(reason)
        self.status = status
        self.named: str | int | None = None
