"""Which gVNIC: "gvnic", or "gvnic:WORDS" with rev1 and the queue formats to offer, such as "gvnic:dqo-rda,rev1"."""

from machine.devices.gvnic.descriptor import ALL_FORMATS, FORMAT_NAMES
from machine.errors import MachineError

_NAME = "gvnic"
_REVISION_1 = "rev1"


def is_gvnic(text: str) -> bool:
    """Whether `text` names a gVNIC at all."""
    return text.partition(":")[0] == _NAME


def parse(text: str) -> tuple[int, frozenset[int]]:
    """(PCI revision, queue formats to offer). MachineError for words that mean nothing."""
    words = text.partition(":")[2]
    revision, formats = 0, set()
    numbers = {name: number for number, name in FORMAT_NAMES.items()}
    for word in words.split(",") if words else ():
        if word == _REVISION_1:
            revision = 1
        elif word in numbers:
            formats.add(numbers[word])
        else:
            raise MachineError(f"{text}: wanted {_NAME}, or {_NAME}: and some of {', '.join((*numbers, _REVISION_1))}")
    return revision, frozenset(formats) or ALL_FORMATS
