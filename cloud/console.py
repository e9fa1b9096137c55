"""Serial consoles that can only be polled: snapshots of the last bytes joined (EC2), output from a position on (GCE)."""

_LEAST_OVERLAP = 16
"""Characters that two snapshots must share to be taken for overlapping when neither holds the whole of the other."""


class SnapshotJoiner:
    """Joins snapshots of a console's last characters into one stream.

    GetConsoleOutput of EC2 gives the most recent 64 KiB, without saying where they begin. What a snapshot shares with
    the end of the one before is shown once. A console that repeats itself is ambiguous: the longest overlap is taken,
    so that nothing is shown twice.
    """

    def __init__(self) -> None:
        self._last = ""

    def feed(self, snapshot: str) -> str:
        """What is new in `snapshot`. Where output was lost in between, the new text begins with a line that says so."""
        last, self._last = self._last, snapshot or self._last
        if not snapshot:
            return ""
        if snapshot.startswith(last):
            return snapshot[len(last) :]
        overlap = _overlap(last, snapshot)
        if overlap == len(snapshot) or overlap >= min(_LEAST_OVERLAP, len(last)):
            return snapshot[overlap:]
        return f"\r\n[cvmboot: console output was lost here, or the machine started again]\r\n{snapshot}"


def _overlap(before: str, after: str) -> int:
    """The length of the longest suffix of `before` that is a prefix of `after`: Knuth, Morris and Pratt, linear time."""
    before = before[-len(after) :]
    borders = [0] * len(after)
    length = 0
    for index in range(1, len(after)):
        while length and after[index] != after[length]:
            length = borders[length - 1]
        if after[index] == after[length]:
            length += 1
        borders[index] = length
    length = 0
    for letter in before:
        while length and (length == len(after) or after[length] != letter):
            length = borders[length - 1]
        if after[length] == letter:
            length += 1
    return length


class PositionJoiner:
    """Follows a console that is read from a position on, as getSerialPortOutput(start) of Compute Engine gives it."""

    def __init__(self) -> None:
        self.position = 0
        """Where to read next."""

    def feed(self, start: int, text: str, following: int) -> str:
        """What is new in an answer whose `text` begins at `start`; `following` is the position behind it."""
        lost = start - self.position
        self.position = max(self.position, following)
        if lost > 0:
            return f"\r\n[cvmboot: {lost} bytes of console output were lost here]\r\n{text}"
        return text[-lost:] if lost else text
