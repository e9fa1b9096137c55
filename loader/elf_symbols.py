"""Function names for addresses in an ELF program: from its symbol table, or from Go's function table where it was stripped."""

import bisect
import contextlib
import io
from typing import Final

from loader.gopclntab import GoFunctionTable

_MOST_SYMBOLS: Final = 1_000_000


class ElfSymbols:
    """The functions of one program. The tables are read at the first lookup; a damaged one yields no names, never an error."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = data
        self._functions: list[tuple[int, int, str]] | None = None
        self._go: GoFunctionTable | None = None

    def lookup(self, address: int) -> tuple[str, int] | None:
        """The function around `address`: its name and the bytes from its start; None if no table names one."""
        if self._functions is None:
            self._functions = []
            self._read()
        at = bisect.bisect_right(self._functions, (address, 1 << 64, "")) - 1
        if at >= 0:
            start, size, name = self._functions[at]
            if address < start + max(size, 1):
                return name, address - start
        return self._go.lookup(address) if self._go is not None else None

    def _read(self) -> None:
        from elftools.common.exceptions import ELFError
        from elftools.construct.core import ConstructError
        from elftools.elf.elffile import ELFFile
        from elftools.elf.sections import SymbolTableSection

        # What pyelftools raises on damaged tables is not confined to its own exceptions.
        own = (ELFError, ConstructError)
        with contextlib.suppress(*own, ValueError, TypeError, LookupError, AttributeError, ArithmeticError):
            elf = ELFFile(io.BytesIO(bytes(self._data)))
            table = elf.get_section_by_name(".symtab")
            if isinstance(table, SymbolTableSection) and table.num_symbols() <= _MOST_SYMBOLS:
                self._functions = sorted(
                    (symbol["st_value"], symbol["st_size"], symbol.name)
                    for symbol in table.iter_symbols()
                    if symbol["st_info"]["type"] == "STT_FUNC" and symbol.name
                )
            go, text = elf.get_section_by_name(".gopclntab"), elf.get_section_by_name(".text")
            if go is not None and text is not None:
                self._go = GoFunctionTable(memoryview(go.data()), text["sh_addr"])
