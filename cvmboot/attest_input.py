"""What `cvmboot attest` reads: the evidence in a file, and the certificates that are handed over beside it."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cvmboot.errors import CvmbootError, UsageError

if TYPE_CHECKING:
    from sev.certificates import Certificate
    from sev.collateral.pieces import Piece
    from sev.evidence import Evidence

LARGEST_FILE = 4 << 20
MOST_FILES = 10_000
CERTIFICATE_SUFFIXES = frozenset({".pem", ".der", ".crt", ".cer", ".crl", ".table", ".bundle"})
# What Linux's configfs-tsm gives: the report, and the certificate table.
OUTBLOB, AUXBLOB = "outblob", "auxblob"

_FILE = typer.Argument(
    help="The report in any form (bytes, hex, base64, JSON, protocol buffer, Azure's HCL blob, a console log, a bundle), "
    "or a folder with it (configfs-tsm's outblob and auxblob); - for standard input.",
    metavar="FILE",
)
File = Annotated[Path, _FILE]
OptionalFile = Annotated[Path | None, _FILE]
Certs = Annotated[
    list[Path] | None,
    typer.Option(
        "--certs",
        help="Certificates and CRLs: PEM, DER, a certificate table, THIM's JSON, a bundle; may be repeated.",
        metavar="FILE_OR_DIR",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Write JSON.")]


def read_limited(path: Path) -> bytes:
    """A file's bytes, or standard input's for "-"; CvmbootError if it cannot be read or is larger than 4 MiB."""
    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(LARGEST_FILE + 1)
        else:
            with path.open("rb") as file:
                data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise CvmbootError(f"{path}: {error.strerror}") from None
    if len(data) > LARGEST_FILE:
        raise CvmbootError(f"{path}: more than {LARGEST_FILE} bytes")
    return data


class Malformed(typer.Exit):
    """The exit with status MALFORMED; `reason` is why, without the name of the file, which was said."""

    def __init__(self, reason: str) -> None:
        from sev.verdict import MALFORMED

        super().__init__(MALFORMED)
        self.reason = reason


def malformed(path: Path, reason: object) -> Malformed:
    """Say why a file is malformed; gives the exit with status MALFORMED."""
    from cvmboot.cli import complain

    complain(f"{path}: {reason}")
    return Malformed(str(reason))


def evidence_in(path: Path) -> "Evidence":
    """The evidence in a file, which may be a bundle, or in a folder. Exit with MALFORMED if there is none."""
    from sev.errors import SevError

    if path.is_dir():
        return _evidence_in_folder(path)
    try:
        return evidence_of(read_limited(path))
    except SevError as error:
        raise malformed(path, error) from None


def evidence_of(data: bytes) -> "Evidence":
    """The evidence in a file's bytes, which may be a bundle. SevError if there is none."""
    from sev.collateral.bundle import Bundle, is_bundle
    from sev.evidence import read_evidence

    return Bundle.decode(data).evidence() if is_bundle(data) else read_evidence(data)


def _evidence_in_folder(folder: Path) -> "Evidence":
    """The report in a folder and the certificates beside it: a configfs-tsm entry, or any folder with one report in it."""
    from sev.errors import SevError

    found: dict[bytes, Evidence] = {}
    files = [folder / OUTBLOB] if (folder / OUTBLOB).is_file() else _files_in(folder)
    for file in files:
        try:
            evidence = evidence_of(read_limited(file))
        except SevError as error:
            if len(files) == 1:
                raise malformed(file, error) from None
            continue
        except CvmbootError:  # too large, or not ours to read
            if len(files) == 1:
                raise
            continue
        kept = found.setdefault(evidence.report, evidence)
        if kept is not evidence:
            kept.certificates += evidence.certificates
            kept.crls += evidence.crls
    if len(found) != 1:
        what = f"{len(found)} different reports" if found else "no file with a report"
        raise malformed(folder, f"{what} in this folder; wanted one, or {OUTBLOB} and {AUXBLOB} of configfs-tsm")
    (evidence,) = found.values()
    auxblob = folder / AUXBLOB
    # An attestation service without certificates leaves auxblob empty.
    if auxblob.is_file() and not read_limited(auxblob).strip(b"\0"):
        return evidence
    add_collateral(evidence, [folder])
    return evidence


def _files_in(folder: Path) -> list[Path]:
    """The files of a folder, not those of folders in it. CvmbootError for too many."""
    try:
        files = sorted(file for file in folder.iterdir() if file.is_file())
    except OSError as error:
        raise CvmbootError(f"{folder}: {error.strerror}") from None
    if len(files) > MOST_FILES:
        raise CvmbootError(f"{folder}: more than {MOST_FILES} files")
    return files


def add_collateral(evidence: "Evidence", paths: Iterable[Path]) -> None:
    """Add what --certs names to the evidence. Exit with MALFORMED for a file that holds no certificate of AMD's."""
    from sev.revocation import Crl

    for path in paths:
        for piece in pieces_in(path):
            if isinstance(piece.item, Crl):
                evidence.crls.append(piece.item)
            else:
                evidence.certificates.append(piece.item)


def trusted_roots(evidence: "Evidence", paths: Iterable[Path]) -> "list[Certificate]":
    """The ARKs in files that --trust-root names; what else is in them goes to the evidence. UsageError if there is none."""
    from sev.certificates import ARK, Certificate

    roots = []
    for path in paths:
        found = [piece.item for piece in pieces_in(path)]
        arks = [item for item in found if isinstance(item, Certificate) and item.kind == ARK]
        if not arks:
            raise UsageError(f"--trust-root {path}: no ARK in it; wanted the self-signed root of a line")
        roots += arks
        evidence.certificates += [item for item in found if isinstance(item, Certificate) and item.kind != ARK]
    return roots


def pieces_in(path: Path) -> list["Piece"]:
    """Certificates and CRLs in a file, or in the files of a folder; there, what is no certificate of AMD's is left out."""
    from cvmboot.cli import complain
    from sev.errors import SevError

    if not path.is_dir():
        try:
            return _pieces_in_file(path)
        except SevError as error:
            raise malformed(path, error) from None
    pieces = []
    for file in _files_in(path):
        named = file.suffix.lower() in CERTIFICATE_SUFFIXES
        try:
            pieces += _pieces_in_file(file)
        except SevError as error:
            if named:
                complain(f"{file}: left out: {error}")
        except CvmbootError as error:
            if named:
                raise
            complain(f"left out: {error}")
    return pieces


def _pieces_in_file(path: Path) -> list["Piece"]:
    return pieces_of(read_limited(path))


def pieces_of(data: bytes) -> list["Piece"]:
    """Certificates and CRLs in a file's bytes: PEM, DER, a certificate table or a bundle. SevError if there is none."""
    from sev.collateral.bundle import Bundle, is_bundle
    from sev.collateral.pieces import EVIDENCE, Piece
    from sev.evidence import Evidence, add_certificates

    if is_bundle(data):
        return Bundle.decode(data).pieces
    found = Evidence(b"")
    add_certificates(found, data)
    return [*(Piece(item, EVIDENCE) for item in found.certificates), *(Piece(item, EVIDENCE) for item in found.crls)]
