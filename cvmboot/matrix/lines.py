"""Which line of a TOML file a table or a key stands in, for messages: tomllib tells lines of malformed files only."""

import re

_HEADER = re.compile(r"[ \t]*(\[\[?)[ \t]*([\w-]+)[ \t]*(\]\]?)[ \t]*(#.*)?$")
_WHERE = re.compile(r"\[\[?([\w-]+)\]\]?(?: (\d+))?")


class Lines:
    """The lines of one file. Nothing is parsed: a header inside of a text of several lines counts, so the numbers of entries are
    compared with what the parser found, and no line is better than a wrong one."""

    def __init__(self, text: str, counts: dict[str, int]) -> None:
        """`counts`: how many tables of each name the file has."""
        self._lines = text.split("\n")
        self._headers: dict[str, list[int]] = {}
        self._starts: list[int] = []
        for number, line in enumerate(self._lines):
            if found := _HEADER.match(line.rstrip("\r")):
                self._headers.setdefault(found[2], []).append(number)
                self._starts.append(number)
        for name, headers in list(self._headers.items()):
            if len(headers) != counts.get(name):
                del self._headers[name]

    def of(self, where: str) -> int | None:
        """The line, from 1, of a place such as "[[case]] 3" or '[[case]] 3 "name", memory'; None if that is not certain."""
        found = _WHERE.match(where)
        headers = self._headers.get(found[1], []) if found else []
        index = int(found[2] or 1) - 1 if found else 0
        if index >= len(headers):
            return None
        first = headers[index]
        key = where.rpartition(", ")[2]
        if key != where:
            end = next((start for start in self._starts if start > first), len(self._lines))
            written = re.compile(rf"[ \t]*[\"']?{re.escape(key)}[\"']?[ \t]*=")
            keys = [number for number in range(first + 1, end) if written.match(self._lines[number])]
            if len(keys) == 1:
                return keys[0] + 1
        return first + 1
