"""Makes cases of axes: combines them, leaves out, adds, and gives each case its name.

A case's axes are the file's and its own; one that the case sets itself is none. [[exclude]] comes first. An [[include]] changes
the combinations that have all its axes' values, and if there are none, it is one more combination.
"""

import fnmatch
import glob
import itertools
import math
from pathlib import Path
from typing import Any

from cvmboot.errors import UsageError
from cvmboot.matrix.case import Case
from cvmboot.matrix.keys import Plain
from cvmboot.matrix.reading import Entry, MatrixFile, merged

MOST_CASES = 10_000


class _Combination:
    """One value of each axis, and what includes add."""

    def __init__(self, axes: Plain) -> None:
        self.axes = axes
        self.added: Plain = {}


class _Group:
    """One [[case]] with its axes."""

    def __init__(self, file: MatrixFile, entry: Entry, name: str) -> None:
        self.entry = entry
        self.name = name
        self.fixed = merged(file.defaults.settings, entry.settings)
        self.axes = {key: values for key, values in file.axes.items() if key not in entry.settings} | entry.axes
        if "restore" in entry.settings and "image" not in (*entry.settings, *entry.axes):
            # A case that goes on from a snapshot boots none of the others' images.
            self.axes.pop("image", None)
            self.fixed.pop("image", None)
        for settings in (self.fixed, self.axes):
            if "image" in settings:
                settings["image"] = _found(file, entry, settings["image"])
        images = self.fixed.get("image")
        if "image" in self.axes:
            self.fixed.pop("image", None)
        elif isinstance(images, list):
            self.axes = {"image": images} | self.axes
            del self.fixed["image"]
        if math.prod(map(len, self.axes.values())) > MOST_CASES:
            raise file.wrong(entry.where, f"its axes make more than {MOST_CASES} cases")
        self.combinations = [
            _Combination(dict(zip(self.axes, values, strict=True))) for values in itertools.product(*self.axes.values())
        ]

    def settings(self, combination: _Combination) -> Plain:
        """All that holds for a combination."""
        return merged(self.fixed, combination.axes, combination.added)

    def meets(self, combination: _Combination, wanted: Plain) -> bool:
        """Whether a combination has these values; a flag that nobody set is false."""
        settings = self.settings(combination)
        return all(settings.get(key, False) == value for key, value in wanted.items())

    def is_for(self, entry: Entry) -> bool:
        """Whether an include or exclude is for this case."""
        return not entry.case or fnmatch.fnmatchcase(self.name, entry.case)


def _found(file: MatrixFile, entry: Entry, images: Any) -> Any:
    """The images, with those that a pattern such as "built/*.efi" stands for in its place, by name. UsageError for none."""
    if isinstance(images, list):
        expanded = [_found(file, entry, image) for image in images]
        flat = [one for each in expanded for one in (each if isinstance(each, list) else [each])]
        return list(dict.fromkeys(flat))
    folder = file.path.parent
    if not glob.has_magic(images) or (folder / images).exists():
        return images
    matches = glob.glob(images, root_dir=folder, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute ones
    found = sorted(path for path in matches if (folder / path).is_file())
    if not found:
        raise file.wrong(f"{entry.where}, image", f"{images}: no file has such a name")
    return found


def expand(file: MatrixFile) -> list[Case]:
    """The cases of a file, in its order. UsageError."""
    entries = file.cases or [Entry("[defaults]")]
    groups = [_Group(file, entry, _base_name(file, entry, number)) for number, entry in enumerate(entries, 1)]
    for exclude in file.excludes:
        _exclude(file, groups, exclude)
    for include in file.includes:
        _include(file, groups, include)
    cases: list[Case] = []
    places: dict[str, str] = {}
    for group in groups:
        for combination in group.combinations:
            name = "/".join((group.name, *_labels(group, combination)))
            if name in places:
                where = f"{places[name]} and {group.entry.where}"
                raise file.wrong(where, f'two cases are called "{name}"; give each [[case]] a name of its own')
            places[name] = group.entry.where
            cases.append(_case(file, group, combination, name, len(cases) + 1))
            if len(cases) > MOST_CASES:
                raise file.wrong(group.entry.where, f"more than {MOST_CASES} cases")
    if not cases:
        raise UsageError(f"{file.path}: no cases in it")
    return cases


def _base_name(file: MatrixFile, entry: Entry, number: int) -> str:
    image = entry.settings.get("image", entry.settings.get("restore"))
    if "name" in entry.settings:
        return str(entry.settings["name"])
    if isinstance(image, str):
        return Path(image).name or f"case {number}"
    return f"case {number}" if len(file.cases) > 1 else file.path.stem


def _exclude(file: MatrixFile, groups: list[_Group], exclude: Entry) -> None:
    found = False
    for group in groups:
        if not group.is_for(exclude):
            continue
        left = [each for each in group.combinations if not group.meets(each, exclude.settings)]
        found = found or len(left) < len(group.combinations)
        group.combinations = left
    if not found:
        raise file.wrong(exclude.where, "there is no such case to leave out")


def _include(file: MatrixFile, groups: list[_Group], include: Entry) -> None:
    used = False
    for group in groups:
        if not group.is_for(include):
            continue
        axes = {"image", *file.axes, *group.axes}
        wanted = {key: value for key, value in include.settings.items() if key in axes}
        added = {key: value for key, value in include.settings.items() if key not in axes}
        met = [each for each in group.combinations if group.meets(each, wanted)]
        if met and not added:
            raise file.wrong(include.where, "there is such a case already, and it says nothing else")
        for combination in met:
            combination.added = merged(combination.added, added)
        if not met and wanted.keys() <= group.axes.keys():
            combination = _Combination(wanted)
            combination.added = added
            group.combinations.append(combination)
            met = [combination]
        used = used or bool(met)
    if not used:
        raise file.wrong(include.where, "is for no case")


def _labels(group: _Group, combination: _Combination) -> list[str]:
    """What tells a combination from the others of its case."""
    labels = []
    for key in group.axes:
        values = [each.axes[key] for each in group.combinations if key in each.axes]
        if key in combination.axes and any(value != values[0] for value in values):
            labels.append(_label(key, combination.axes[key], values))
    return labels


def _label(key: str, value: Any, values: list[Any]) -> str:
    if key != "image":
        text = ",".join(map(str, value)) if isinstance(value, list) else f"{value}"
        return f"{key.replace('_', '-')}={text.lower() if isinstance(value, bool) else text}"
    name = Path(value).name
    alike = {other for other in values if Path(other).name == name}
    return name if len(alike) == 1 else str(value)


def _case(file: MatrixFile, group: _Group, combination: _Combination, name: str, index: int) -> Case:
    settings = group.settings(combination)
    image = settings.pop("image", None)
    settings.pop("name", None)
    where = f'{group.entry.where}, case "{name}"' if group.entry.axes or group.axes else group.entry.where
    if image is None and "restore" not in settings:
        raise file.wrong(where, "no image; name one in the case, in [defaults] or in [axes]")
    if image is not None and "restore" in settings:
        raise file.wrong(where, "image and restore: a snapshot has its image in it; leave one out")
    case = Case(index, name, None if image is None else file.path.parent / image, settings, file.path.parent)
    for key, path in case.inputs().items():
        try:
            there = path.is_file() or (path.is_dir() and key != "image")
        except (OSError, ValueError):
            there = False
        if not there:
            what = (
                "a folder; wanted an EFI application, an ELF unikernel or a disk image"
                if path.is_dir()
                else "no such file"
            )
            raise file.wrong(f"{where}, {key}", f"{path}: {what}")
    return case
