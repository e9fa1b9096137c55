"""One UEFI variable as the store and the file keep it."""

from typing import Any

from uefi.guids import Guid
from uefi.time import EfiTime
from uefi.variables import attributes as attr

HEADER_SIZE = 60
"""Bytes that a variable costs beside name and data, as in edk2's store, so that sizes come out as on OVMF."""

Key = tuple[str, Guid]


class Variable:
    """Name, vendor GUID, attributes (without APPEND_WRITE), data, and for authenticated ones time and signer.

    `time` is the time stamp of the last authenticated write, all zero otherwise. `signer_digest` pins the signer of a
    private authenticated variable (32 bytes, see authentication.signer_digest), else None. Treat it as immutable.
    """

    __slots__ = ("attributes", "data", "guid", "name", "signer_digest", "time")

    def __init__(
        self,
        name: str,
        guid: Guid,
        attributes: int,
        data: bytes,
        *,
        time: EfiTime | None = None,
        signer_digest: bytes | None = None,
    ) -> None:
        self.name = name
        self.guid = guid
        self.attributes = attributes
        self.data = data
        self.time = time or EfiTime()
        self.signer_digest = signer_digest

    @property
    def key(self) -> Key:
        return self.name, self.guid

    @property
    def non_volatile(self) -> bool:
        return bool(self.attributes & attr.NON_VOLATILE)

    @property
    def size(self) -> int:
        """Bytes of storage that the variable takes."""
        return storage_size(self.name, len(self.data))

    def save(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "name": self.name,
            "guid": bytes(self.guid),
            "attributes": self.attributes,
            "data": self.data,
            "time": self.time.pack(),
            "signer_digest": self.signer_digest,
        }

    @classmethod
    def load(cls, state: dict[str, Any]) -> "Variable":
        """The inverse of `save`."""
        return cls(
            state["name"],
            Guid(state["guid"]),
            state["attributes"],
            state["data"],
            time=EfiTime.unpack(state["time"]),
            signer_digest=state["signer_digest"],
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Variable) and self.save() == other.save()

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"<Variable {self.name!r} {self.guid} {attr.text(self.attributes)} {len(self.data)} bytes>"


def storage_size(name: str, data_size: int) -> int:
    """Bytes of storage for a variable with `data_size` bytes of data: header, name with its NUL, data, aligned to 4."""
    return (HEADER_SIZE + 2 * (utf16_units(name) + 1) + data_size + 3) & ~3


def utf16_units(name: str) -> int:
    """CHAR16 units of `name`, the NUL not counted."""
    return len(name) + sum(character > "\uffff" for character in name)
