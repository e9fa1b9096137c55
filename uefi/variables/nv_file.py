"""The file of `--vars`: non-volatile variables as JSON, in the format of virt-fw-vars (--output-json, --set-json)."""

import os
import stat
from pathlib import Path
from typing import Any

from uefi.guids import Guid
from uefi.time import SIZE as TIME_SIZE
from uefi.time import EfiTime
from uefi.variables import attributes as attr
from uefi.variables import certdb, edk2_image
from uefi.variables.errors import VariableFileError
from uefi.variables.variable import Key, Variable

VERSION = 2

MAX_FILE_SIZE = 16 << 20
"""Bytes; an OVMF.fd with its variables has 4 MiB, and no store holds more than one."""

MAX_VARIABLES = 8192


class NvFile:
    """Where a machine's non-volatile variables stay between runs. `save` is what VariableStore calls to persist.

    A raw image of OVMF is read, and `writable` is then False: `save` does nothing, and the file stays as it is.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.writable = True

    def load(self) -> list[Variable]:
        """The variables; none if there is no such file yet (`save` creates it).

        VariableFileError says what is wrong: no folder, not a regular file, unreadable, too large, malformed.
        """
        try:
            return self._load()
        except VariableFileError as error:
            raise VariableFileError(f"{self.path}: {error}") from None
        except (OSError, ValueError) as error:
            raise VariableFileError(f"{self.path}: {getattr(error, 'strerror', None) or error}") from None

    def _load(self) -> list[Variable]:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            if not self.path.parent.is_dir():
                raise VariableFileError("its folder does not exist") from None
            return []
        if not stat.S_ISREG(status.st_mode):
            raise VariableFileError("not a regular file")
        with self.path.open("rb") as file:
            data = file.read(MAX_FILE_SIZE + 1)
        if len(data) > MAX_FILE_SIZE:
            raise VariableFileError(f"{status.st_size} bytes, at most {MAX_FILE_SIZE} are read")
        if not data:
            return []
        if edk2_image.is_image(data):
            self.writable = False
            return certdb.absorb(edk2_image.parse(data))
        if not data.lstrip().startswith(b"{"):
            raise VariableFileError("neither JSON of virt-fw-vars nor an OVMF variable image")
        return parse_json(data)

    def save(self, variables: list[Variable]) -> None:
        """Replace the file by one with `variables`, at once or not at all; OSError if that fails."""
        if not self.writable:
            return
        path = Path(os.path.realpath(self.path))  # a link to the file stays one
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with temporary.open("wb") as file:
                if path.exists():
                    temporary.chmod(stat.S_IMODE(path.stat().st_mode))
                file.write(build_json(variables))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def build_json(variables: list[Variable]) -> bytes:
    """The file's text, in ASCII."""
    import json

    rows = list(variables)
    if any(each.signer_digest is not None for each in rows):
        rows.append(certdb.build(rows))
    text = json.dumps({"version": VERSION, "variables": [_row(each) for each in rows]}, indent=4)
    return text.encode("ascii") + b"\n"


def parse_json(data: bytes) -> list[Variable]:
    """The variables of a JSON file, in its order. VariableFileError names what is wrong, and in which entry."""
    import json

    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise VariableFileError(f"malformed JSON: {' '.join(str(error).split())[:120]}") from None
    if not isinstance(document, dict) or not isinstance(document.get("variables"), list):
        raise VariableFileError('JSON without a list "variables", wanted the format of virt-fw-vars')
    if document.get("version") != VERSION:
        raise VariableFileError(f'"version" is {_short(document.get("version"))}, wanted {VERSION}')
    rows = document["variables"]
    if len(rows) > MAX_VARIABLES:
        raise VariableFileError(f"{len(rows)} variables, at most {MAX_VARIABLES} are read")
    found: dict[Key, Variable] = {}
    for index, row in enumerate(rows):
        try:
            variable = _variable(row)
        except VariableFileError as error:
            raise VariableFileError(f"variable {index + 1}: {error}") from None
        if variable.key in found:
            raise VariableFileError(f"variable {index + 1}: {variable.name!r} {variable.guid} is there twice")
        found[variable.key] = variable
    return certdb.absorb(list(found.values()))


def _row(variable: Variable) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": variable.name,
        "guid": str(variable.guid),
        "attr": variable.attributes,
        "data": variable.data.hex(),
    }
    if variable.time != EfiTime():
        row["time"] = variable.time.pack().hex()
    return row


def _variable(row: Any) -> Variable:
    if not isinstance(row, dict):
        raise VariableFileError(f"{_short(row)}, wanted an object")
    name = row.get("name")
    if not isinstance(name, str) or not name or "\0" in name:
        raise VariableFileError(f'"name" is {_short(name)}, wanted text')
    guid = row.get("guid")
    try:
        parsed_guid = Guid.parse(guid if isinstance(guid, str) else "")
    except ValueError:
        raise VariableFileError(f'"guid" is {_short(guid)}, wanted 8-4-4-4-12 hex digits') from None
    attributes = row.get("attr")
    if type(attributes) is not int or not 0 < attributes <= 0xFF or attributes & attr.APPEND_WRITE:
        raise VariableFileError(f'"attr" is {_short(attributes)}, wanted attribute bits')
    time = _hex(row, "time") if row.get("time") else bytes(TIME_SIZE)
    if len(time) != TIME_SIZE:
        raise VariableFileError(f'"time" has {len(time)} bytes, wanted {TIME_SIZE}')
    return Variable(name, parsed_guid, attributes, _hex(row, "data"), time=EfiTime.unpack(time))


def _hex(row: dict[str, Any], field: str) -> bytes:
    value = row.get(field)
    try:
        return bytes.fromhex(value if isinstance(value, str) else "?")
    except ValueError:
        raise VariableFileError(f'"{field}" is {_short(value)}, wanted hex digits') from None


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
