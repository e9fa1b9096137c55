"""What a record says: its evidence, certificates and expected values, with all files read; and the digest of all that.

Members of a JSON line, columns of a table:

    id             how the output names it; default its place in the source
    evidence       the evidence itself, as hex or base64, or as a JSON object (`report` is another name for it)
    path           or the file that holds it, relative to the source's folder
    certs          files with certificates; certificates: PEM, or base64 of DER, itself
    report_data, measurement, ...   what must be seen, as in a policy file
    x_...          not looked at

A JSON line may also be just a text, or an object of some evidence format. A record can only ask for more than the policy does.
"""

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

from cvmboot.attest_input import AUXBLOB, LARGEST_FILE, MOST_FILES
from cvmboot.crew.chunk import OUR_ERROR
from cvmboot.fleet.errors import BadRecord
from sev.attestation_policy import SETS, VALUES
from sev.verdict import MALFORMED

_EVIDENCE = ("evidence", "report")
# What evidence formats have beside a member of such a name: attestation-rs, Azure's vTPM evidence and attestation requests,
# go-sev-guest's JSON, key brokers. An object with one of these, and no member of a record's own, is evidence as a whole.
_FORMATS = frozenset(
    {
        *("platform", "quote", "vcek", "nonce", "runtimeData", "initTimeData", "certificateChain", "certificate_chain"),
        *("product", "tee", "version", "endorsements", "uvm_endorsements"),
    }
)
EXPECTED = (*VALUES, *SETS)
"""What a record may ask for: values that must be seen."""
COLUMNS = ("id", *_EVIDENCE, "path", "certs", "certificates", *EXPECTED)
LONGEST_ID = 200
MOST_CERTIFICATE_FILES = 64

# A loaded record: id, evidence (bytes), certificates (list of bytes, each a file's or a text's), expected, input (digest).
Loaded = dict[str, Any]


def load(record: dict[str, Any], folder: Path, shelves: "Shelves | None" = None) -> Loaded:
    """Take a record apart, and read the files that it names. BadRecord."""
    kind, data, source = record["kind"], record["data"], record["source"]
    if kind == "bad":
        raise BadRecord(data, record.get("status", MALFORMED))
    if kind == "loaded":
        return dict(data)
    if kind == "path":
        evidence = read_file(Path(data))
        beside = shelves.of(Path(data).parent) if shelves else []
        return _loaded(source, evidence, beside, {}, [evidence, *beside])
    members: Any = data
    written = json.dumps(data, sort_keys=True).encode() if kind == "row" else data
    if kind == "json":
        members = _parsed(data)
    if isinstance(members, str):
        members = {"evidence": members}
    if not isinstance(members, dict):
        raise BadRecord(f"{_shown(members)}; wanted a JSON object, or a text with the evidence")
    formats = members.keys() & _FORMATS
    if not {*_EVIDENCE, "path"} & members.keys() or (formats and members.keys() - formats <= set(_EVIDENCE)):
        return _loaded(source, written, [], {}, [written])  # an object of some evidence format
    named = _id(members.get("id", source))
    try:
        return _from_members(members, named, written, folder)
    except BadRecord as error:
        error.named = named
        raise


class Shelves:
    """The certificate files that lie in a folder beside the reports, read once for the folder in use."""

    def __init__(self, suffixes: frozenset[str]) -> None:
        self._suffixes = suffixes
        self._folder: Path | None = None
        self._contents: list[bytes] = []

    def of(self, folder: Path) -> list[bytes]:
        """The bytes of each; what cannot be read is left out. BadRecord if there are too many."""
        if folder != self._folder:
            self._contents, self._folder = [], folder
            names = sorted(entry.name for entry in os.scandir(folder))
            names = [name for name in names if self._is_beside(name)]
            if len(names) > MOST_FILES:
                self._folder = None
                raise BadRecord(f"{folder}: more than {MOST_FILES} files with certificates", OUR_ERROR)
            for name in names:
                try:
                    contents = read_file(folder / name)
                except BadRecord:
                    continue  # verification says what is missing
                if contents.strip(b"\0"):  # an attestation service without certificates leaves auxblob empty
                    self._contents.append(contents)
        return self._contents

    def _is_beside(self, name: str) -> bool:
        return name == AUXBLOB or (Path(name).suffix.lower() in self._suffixes and name[0] != ".")


def _id(named: Any) -> str | int:
    if isinstance(named, bool) or not isinstance(named, str | int) or len(str(named)) > LONGEST_ID:
        raise BadRecord(f"id is {_shown(named)}; wanted a text of at most {LONGEST_ID} characters, or a number")
    return named


def _from_members(members: dict[str, Any], named: str | int, written: bytes, folder: Path) -> Loaded:
    for name in members:
        if name not in COLUMNS and not name.startswith("x_"):
            raise BadRecord(
                f"no such member {_shown(name)}; wanted {', '.join(COLUMNS)}, or x_... for what is not looked at"
            )
    given = [name for name in (*_EVIDENCE, "path") if name in members]
    if len(given) != 1:
        raise BadRecord(f"{' and '.join(given)} at once: give one of them")
    pieces = [written]
    if "path" in members:
        evidence = read_file(_path(members["path"], folder))
        pieces.append(evidence)
    else:
        inline = members[given[0]]
        if not isinstance(inline, str | dict):
            raise BadRecord(f"{given[0]} is {_shown(inline)}; wanted hex, base64, or an object")
        evidence = inline.encode("utf-8", "replace") if isinstance(inline, str) else json.dumps(inline).encode()
    certificates = [text.encode("utf-8", "replace") for text in _texts(members, "certificates")]
    for name in _texts(members, "certs"):
        certificates.append(read_file(_path(name, folder)))
        pieces.append(certificates[-1])
    expected = {name: members[name] for name in EXPECTED if name in members}
    return _loaded(named, evidence, certificates, expected, pieces)


def _loaded(
    named: str | int, evidence: bytes, certificates: list[bytes], expected: dict[str, Any], pieces: list[bytes]
) -> Loaded:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(len(piece).to_bytes(8, "little"))
        digest.update(piece)
    return {
        "id": named,
        "evidence": evidence,
        "certificates": certificates,
        "expected": expected,
        "input": digest.hexdigest(),
    }


def read_file(path: Path) -> bytes:
    """The bytes of a regular file of at most 4 MiB; BadRecord. A record may name anything, a pipe or a terminal, too."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise BadRecord(f"{path}: not a regular file", OUR_ERROR)
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise BadRecord(f"{path}: {error.strerror}", OUR_ERROR) from None
    except ValueError:  # a NUL in the name
        raise BadRecord(f"{str(path)[:80]!r}: no name of a file") from None
    if len(data) > LARGEST_FILE:
        raise BadRecord(f"{path}: more than {LARGEST_FILE} bytes")
    return data


def _path(name: Any, folder: Path) -> Path:
    if not isinstance(name, str) or not name or len(name) > 4096:
        raise BadRecord(f"path is {_shown(name)}; wanted the name of a file")
    return folder / name


def _texts(members: dict[str, Any], name: str) -> list[str]:
    value = members.get(name, [])
    texts = value if isinstance(value, list) else [value]
    if len(texts) > MOST_CERTIFICATE_FILES or not all(isinstance(text, str) for text in texts):
        raise BadRecord(f"{name} is {_shown(value)}; wanted a text, or a list of at most {MOST_CERTIFICATE_FILES}")
    return texts


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line.decode(), object_pairs_hook=_once_each)
    except UnicodeDecodeError as error:
        raise BadRecord(f"byte {line[error.start]:#04x} at {error.start} is no UTF-8") from None
    except ValueError as error:
        raise BadRecord(f"no JSON: {str(error)[:100]}") from None
    except RecursionError:
        raise BadRecord("no JSON: nested too deeply") from None


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise BadRecord("a member stands twice in one object")
    return members


def _shown(value: object) -> str:
    if isinstance(value, str):
        return ascii(value) if len(value) <= 40 else f"{value[:37]!a}..."
    if value is None or isinstance(value, bool):
        return str(value)
    return f"a {type(value).__name__}"
