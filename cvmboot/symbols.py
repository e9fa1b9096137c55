"""Names for guest addresses: the image they lie in, and the function where the image tells, or a program database beside it."""

import contextlib
from pathlib import Path

from loader import pdb
from loader.errors import LoaderError
from loader.symbols import SymbolTable
from uefi.images import Image, Images


class Symbols:
    """Looks addresses up in the images that are loaded now. An image's table is read once.

    `folder` is where the first image came from: program databases (.pdb) that images name are looked for there.
    """

    def __init__(self, images: Images, folder: Path | None = None) -> None:
        self._images = images
        self._folder = folder
        self._tables: dict[int, tuple[Image, SymbolTable | None]] = {}

    def image(self, address: int) -> Image | None:
        """The image that lies around `address`."""
        return self._images.containing(address)

    def function(self, address: int) -> str:
        """ "main.main+0x12", or "" if no table names the function around `address`."""
        image = self._images.containing(address)
        table = self._table(image) if image is not None else None
        found = table.lookup(address) if table is not None else None
        if found is None:
            return ""
        name, offset = found
        return f"{name}+{offset:#x}" if offset else name

    def describe(self, address: int) -> str:
        """ "go-boot.efi main.main+0x12", "hello.efi+0x1040" (offset in the image), or "" outside all images."""
        image = self._images.containing(address)
        if image is None:
            return ""
        function = self.function(address)
        return f"{image.name} {function}" if function else f"{image.name}+{address - image.base:#x}"

    def _table(self, image: Image) -> SymbolTable | None:
        cached = self._tables.get(image.handle)
        if cached is not None and cached[0] is image:
            return cached[1]
        try:
            table = SymbolTable(image.pe, image.base) if image.pe is not None else None
            if table is not None:
                self._add_database(image, table)
        except LoaderError:
            table = None
        self._tables[image.handle] = (image, table)
        return table

    def _add_database(self, image: Image, table: SymbolTable) -> None:
        wanted = pdb.wanted_by(image.pe) if image.pe is not None else None
        if self._folder is None or wanted is None:
            return
        # The image may be anybody's: nothing but a plain file in that folder is opened.
        names = (wanted[1], f"{Path(image.name).stem}.pdb")
        with contextlib.suppress(OSError, ValueError):
            for path in (self._folder / name for name in names if name):
                if path.is_file() and path.stat().st_size <= pdb.LARGEST:
                    table.add_database(path.read_bytes())
                    return
