"""A bit field with names, in which bits that nobody has named yet stay visible."""


class Bits(int):
    """A 64-bit field. `NAMES` maps bit numbers to names, in bit order."""

    __slots__ = ()
    NAMES: dict[int, str] = {}  # noqa: RUF012
    NOT_FLAGS = 0

    def bit(self, name: str) -> bool:
        """Whether the bit with this name is set. KeyError if there is none."""
        for number, known in self.NAMES.items():
            if known == name:
                return bool(self >> number & 1)
        raise KeyError(name)

    @property
    def named(self) -> dict[str, bool]:
        """Each known bit by name."""
        return {name: bool(self >> number & 1) for number, name in self.NAMES.items()}

    @property
    def unknown(self) -> list[int]:
        """Numbers of the bits that are set and have no name."""
        rest = int(self) & ~self.NOT_FLAGS
        return [number for number in range(rest.bit_length()) if rest >> number & 1 and number not in self.NAMES]

    def __str__(self) -> str:
        names = [name for number, name in self.NAMES.items() if self >> number & 1]
        return " ".join([f"{int(self):#x}", *names, *(f"bit{number}?" for number in self.unknown)])
