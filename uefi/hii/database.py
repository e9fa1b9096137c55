"""The HII database: package lists under handles (UEFI 2.10, 34.8), free of guest memory."""

from typing import Any

from uefi.guids import Guid
from uefi.hii.packages import (
    MAX_LIST_SIZE,
    PACKAGE_ALL,
    PACKAGE_DEVICE_PATH,
    PACKAGE_GUID,
    PACKAGE_KEYBOARD_LAYOUT,
    PACKAGE_STRINGS,
    HiiError,
    Package,
    build_list,
    keyboard_layouts,
    parse_list,
)
from uefi.hii.strings import MAX_STRING_ID, Font, StringPackage

MAX_DATABASE_SIZE = 2 * MAX_LIST_SIZE
"""Bytes of all packages together, so that a guest cannot fill the host's memory."""


class DatabaseFullError(Exception):
    """The packages would take more than MAX_DATABASE_SIZE bytes, or string identifiers are used up."""


class PackageList:
    """One package list: its GUID, the driver's handle (0: none), its packages with the strings taken apart."""

    __slots__ = ("driver", "guid", "others", "strings")

    def __init__(self, guid: Guid, driver: int) -> None:
        self.guid = guid
        self.driver = driver
        self.others: list[Package] = []
        self.strings: list[StringPackage] = []

    def packages(self) -> list[Package]:
        """All packages: strings behind the others."""
        return [*self.others, *(strings.to_package() for strings in self.strings)]

    def add(self, packages: list[Package]) -> None:
        """Add packages. Raises HiiError, with nothing added, when a string or keyboard package is malformed."""
        parsed = [StringPackage.parse(package) for package in packages if package.kind == PACKAGE_STRINGS]
        for package in packages:
            if package.kind == PACKAGE_KEYBOARD_LAYOUT:
                keyboard_layouts(package)
        self.strings += parsed
        self.others += [package for package in packages if package.kind != PACKAGE_STRINGS]

    def replace(self, packages: list[Package]) -> list[Package]:
        """UpdatePackageList: packages of the types in `packages` go, those come; returns what went. Raises as add."""
        kinds = {package.kind for package in packages}
        gone = [package for package in self.packages() if package.kind in kinds]
        fresh = PackageList(self.guid, self.driver)
        fresh.add(packages)
        kept_strings = [] if PACKAGE_STRINGS in kinds else self.strings
        self.others = [package for package in self.others if package.kind not in kinds] + fresh.others
        self.strings = kept_strings + fresh.strings
        return gone

    def has(self, kind: int, guid: Guid | None) -> bool:
        """Whether a package of this type is here: PACKAGE_ALL for any; GUID packages must carry `guid`."""
        if kind == PACKAGE_STRINGS:
            return bool(self.strings)
        if kind == PACKAGE_ALL:
            return True
        return any(package.kind == kind and (kind != PACKAGE_GUID or package.guid == guid) for package in self.others)

    def language(self, code: str) -> StringPackage | None:
        """The strings of a primary language."""
        return next((strings for strings in self.strings if strings.speaks(code)), None)

    def new_string(self, code: str, text: str, font: Font | None, language_name: str | None) -> int:
        """NewString (34.3): the new identifier, the same one in all languages.

        A language that is not here yet gets a package of its own, named by `language_name` (HiiError without).
        Raises DatabaseFullError when identifiers are used up.
        """
        package = self.language(code)
        string_id = max((strings.next_id for strings in self.strings), default=1)
        if package is None:
            if language_name is None:
                raise HiiError(f"HII language {code!r} is new and has no name")
            package = StringPackage(code)
            # The first identifier names the language.
            package.put(1, language_name)
            string_id = max(string_id, 2)
        if string_id > MAX_STRING_ID:
            raise DatabaseFullError
        package.put(string_id, text, font)
        if package not in self.strings:
            self.strings.append(package)
        return string_id

    def to_bytes(self) -> bytes:
        """The list as ExportPackageLists gives it."""
        return build_list(self.guid, self.packages())


class Database:
    """All package lists by handle. Handles are small numbers, never 0 and never used twice."""

    def __init__(self) -> None:
        self.lists: dict[int, PackageList] = {}
        self.layout: Guid | None = None
        self._next = 1
        self._sizes: dict[int, int] = {}
        self._total = 0
        self._owned: set[tuple[int, Guid]] = set()

    def new(self, data: bytes, driver: int = 0, device_path: bytes = b"") -> int:
        """NewPackageList: the handle. `device_path` becomes a package, as 34.8 wants of a driver's.

        Raises HiiError for a malformed list and for a driver's second one of the same GUID; DatabaseFullError.
        """
        guid, packages = parse_list(data)
        if driver and (driver, guid) in self._owned:
            raise HiiError(f"HII package list {guid} of this driver is there already")
        added = PackageList(guid, driver)
        added.add(packages)
        if device_path:
            added.others.append(Package(PACKAGE_DEVICE_PATH, device_path))
        handle = self._next
        self._account(handle, len(data) + len(device_path))
        self._next += 1
        self._owned.add((driver, guid))
        self.lists[handle] = added
        return handle

    def update(self, handle: int, data: bytes) -> tuple[list[Package], list[Package]]:
        """UpdatePackageList: the packages that went and those that came. KeyError for an unknown handle; as new()."""
        known = self.lists[handle]
        _, packages = parse_list(data)
        self._account(handle, self._sizes[handle] + len(data))
        gone = known.replace(packages)
        self._account(handle, len(known.to_bytes()))
        return gone, packages

    def remove(self, handle: int) -> PackageList:
        """RemovePackageList. KeyError for an unknown handle."""
        known = self.lists.pop(handle)
        self._owned.discard((known.driver, known.guid))
        self._total -= self._sizes.pop(handle)
        return known

    def grow(self, handle: int, size: int) -> None:
        """Account for a string of `size` bytes. Raises DatabaseFullError."""
        self._account(handle, self._sizes[handle] + size)

    def _account(self, handle: int, size: int) -> None:
        total = self._total - self._sizes.get(handle, 0) + size
        if total > MAX_DATABASE_SIZE:
            raise DatabaseFullError
        self._sizes[handle] = size
        self._total = total

    def save(self) -> dict[str, Any]:
        """All lists, with their handles and drivers, as plain data."""
        lists = [[handle, known.driver, known.to_bytes()] for handle, known in self.lists.items()]
        return {"lists": lists, "next": self._next, "layout": bytes(self.layout or b"")}

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        for handle in list(self.lists):
            self.remove(handle)
        for handle, driver, data in state["lists"]:
            self._next = handle
            self.new(data, driver)
        self._next = state["next"]
        self.layout = Guid(state["layout"]) if state["layout"] else None

    def find(self, kind: int, guid: Guid | None = None) -> list[int]:
        """Handles of the lists with a package of this type (ListPackageLists)."""
        return [handle for handle, known in self.lists.items() if known.has(kind, guid)]

    def keyboard_layouts(self) -> dict[Guid, bytes]:
        """All keyboard layouts by GUID."""
        found: dict[Guid, bytes] = {}
        for known in self.lists.values():
            for package in known.others:
                if package.kind == PACKAGE_KEYBOARD_LAYOUT:
                    found.update(keyboard_layouts(package))
        return found
