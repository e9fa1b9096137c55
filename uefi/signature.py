"""Signatures of services: "AllocatePages(u32 Type, u32 MemoryType, u64 Pages, ptr Memory)".

One line gives the dispatcher the widths of the arguments and the trace their names.
"""

WIDTHS = {
    "u8": 0xFF,
    "bool": 0xFF,
    "u16": 0xFFFF,
    "u32": 0xFFFF_FFFF,
    "u64": 0xFFFF_FFFF_FFFF_FFFF,
    "i64": 0xFFFF_FFFF_FFFF_FFFF,
    "ptr": 0xFFFF_FFFF_FFFF_FFFF,
    "guid": 0xFFFF_FFFF_FFFF_FFFF,
}


class Signature:
    """A parsed signature. `static` functions have no This pointer; others have it as their first, unlisted argument."""

    __slots__ = ("kinds", "masks", "name", "names", "static")

    def __init__(self, text: str, static: bool = False) -> None:
        self.static = static or text.startswith("static ")
        head, _, tail = text.removeprefix("static ").partition("(")
        self.name = head.strip()
        arguments = [part.split() for part in tail.rstrip(")").split(",") if part.strip()]
        self.kinds = tuple(kind for kind, _ in arguments)
        self.names = tuple(name for _, name in arguments)
        masks = tuple(WIDTHS[kind] for kind in self.kinds)
        self.masks = masks if self.static else (WIDTHS["ptr"], *masks)
