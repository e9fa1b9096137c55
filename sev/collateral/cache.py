"""A folder that keeps certificates and CRLs: found by line, HWID and TCB, written whole or not at all, checked when read.

    FOLDER/collateral-v1/leaf/VCEK/Milan/<HWID>/<TCB>/<SHA-256>.der        a VLEK has "any" for its HWID
    FOLDER/collateral-v1/ca/Milan/ASK/<SHA-256>.der                         ARK, ASK, ASVK
    FOLDER/collateral-v1/crl/Milan/<SHA-256>.crl

A file is named by the SHA-256 of its bytes, so that damage shows, two valid leaves for one chip and TCB lie side by side, and
processes that write the same thing at once do no harm. Its time of change is when KDS gave it. Nothing here is trusted for
being here: verification follows the chain to a pinned root.
"""

import contextlib
import hashlib
import itertools
import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sev.certificates import LARGEST_CERTIFICATE, VCEK, VLEK, Certificate
from sev.collateral.errors import CacheError, CollateralError, KdsBusy
from sev.collateral.pieces import CACHE, LeafKey, Piece, line_of_crl
from sev.errors import SevError
from sev.product import Line
from sev.revocation import LARGEST as LARGEST_CRL
from sev.revocation import Crl

VERSION_FOLDER = "collateral-v1"
MOST_IN_A_FOLDER = 64
MOST_FILES = 100_000
_ANY_CHIP = "any"
_NAME = re.compile(r"([0-9a-f]{64})\.(der|crl)\Z")
_DRAFT = ".draft-"
_DRAFT_AGE = 600.0
_POLL = 0.05
_SIGNATURE_SIZE = 44
_MOST_HOLDERS = 10
_TELL_AFTER = 2.0
_TRIES = 100
_PAUSE = 0.002
"""Seconds between two tries."""


def default_folder() -> Path:
    """The user's cache folder for this (platformdirs: XDG_CACHE_HOME or ~/.cache on Linux); need not exist."""
    from platformdirs import user_cache_path

    return user_cache_path("cvmboot")


class Entry:
    """A file of the cache; `piece` is None if it is damaged."""

    __slots__ = ("path", "piece")

    def __init__(self, path: Path, piece: Piece | None) -> None:
        self.path = path
        self.piece = piece


class Cache:
    """The cache in `folder`, which is made when something is first put into it; `warn` is told, in one line each, of damage."""

    def __init__(self, folder: Path, warn: Callable[[str], object] | None = None) -> None:
        self.folder = folder
        self._root = folder / VERSION_FOLDER
        self._warn = warn or (lambda text: None)

    def leaves(self, key: LeafKey) -> list[Piece]:
        """The leaves for a key, latest first; damaged files are reported and left out."""
        return self._pieces(self._root / _leaf_folder(key))

    def authorities(self, line: Line, kind: str) -> list[Piece]:
        """The certificates of a kind (ARK, ASK, ASVK) of a line, latest first."""
        return self._pieces(self._root / "ca" / line.name / kind)

    def crls(self, line: Line) -> list[Piece]:
        """The CRLs of a line's ARK, latest first."""
        return self._pieces(self._root / "crl" / line.name)

    def put(self, item: Certificate | Crl, fetched: datetime | None = None) -> Path:
        """Keep a certificate or CRL that KDS gave at `fetched`, default now. CacheError if it cannot be written."""
        suffix = "crl" if isinstance(item, Crl) else "der"
        path = self._root / _folder_of(item) / f"{hashlib.sha256(item.der).hexdigest()}.{suffix}"
        moment = int((fetched or datetime.now(UTC)).timestamp())
        for left in reversed(range(_TRIES)):
            try:
                _write_whole(path, item.der, moment)
                break
            except OSError as error:
                # Another process that cleans may take the empty folder, or the draft, from under our hands.
                # mkdir says that a folder exists which is gone when it looks.
                if not isinstance(error, FileNotFoundError | FileExistsError) or not left:
                    raise CacheError(
                        f"cache {path.parent}: {error.strerror}; name another folder with --cache"
                    ) from None
                time.sleep(_PAUSE)
        return path

    def keep(self, pieces: Iterable[Piece]) -> None:
        """Put pieces that were fetched; one that cannot be written is a warning, since the work can go on without."""
        for piece in pieces:
            try:
                self.put(piece.item, piece.fetched)
            except CacheError as error:
                self._warn(str(error))
                return

    def entries(self) -> Iterator[Entry]:
        """Every file that belongs to the cache, damaged ones too, in the order of their paths; others' files are left out."""
        for path in itertools.islice(self._files(), MOST_FILES):
            if _NAME.match(path.name):
                yield Entry(path, self._read(path))

    def clean(self, older_than: timedelta | None = None, everything: bool = False, now: float | None = None) -> int:
        """Remove damaged files and what killed writers left; also what is older, or everything. Gives how many files went.

        Only files of the cache's own naming are touched. CacheError if one cannot be removed.
        """
        moment = time.time() if now is None else now
        removed = 0
        for path in list(itertools.islice(self._files(), MOST_FILES)):
            try:
                age = moment - path.lstat().st_mtime
                if path.name.startswith(_DRAFT):
                    gone = (everything or age > _DRAFT_AGE) and not _is_being_written(path)
                elif _NAME.match(path.name):
                    old = older_than is not None and age > older_than.total_seconds()
                    gone = everything or old or self._read(path) is None
                else:
                    continue
                if gone:
                    path.unlink(missing_ok=True)
                    removed += 1
            except FileNotFoundError:
                continue  # another process cleans, too
            except OSError as error:
                raise CacheError(f"{path}: {error.strerror}") from None
        self._remove_empty_folders()
        return removed

    @contextlib.contextmanager
    def alone(self, patience: float, wait: Callable[[float], object] = time.sleep) -> Iterator[bool]:
        """Keep other processes from asking KDS at the same time, after waiting for them.

        Gives whether it had to wait, and what it wants may be here by now. KdsBusy if one of the others holds on for `patience`
        seconds, or all of them together for ten times that. Without locks (file system, permission) it goes on.
        """
        import fcntl

        try:
            self._root.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError:
            yield False
            return
        try:
            waited = told = False
            holder = b""
            began = since = time.monotonic()
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _sign(descriptor)
                    break
                except BlockingIOError:
                    now = time.monotonic()
                    if (seen := os.pread(descriptor, _SIGNATURE_SIZE, 0)) != holder:
                        holder, since = seen, now
                    if now - since > patience or now - began > _MOST_HOLDERS * patience:
                        raise KdsBusy(
                            f"other processes have been asking KDS for {now - began:.0f} s; try again later"
                        ) from None
                    if not told and now - began > _TELL_AFTER:
                        told = True
                        self._warn("waiting for another process that asks KDS")
                    waited = True
                    wait(_POLL)
                except OSError:
                    break
            yield waited
        finally:
            os.close(descriptor)

    def _files(self) -> Iterator[Path]:
        """All regular files under the root, without following links, in the order of their paths."""
        for folder, folders, names in os.walk(self._root):
            folders.sort()
            for name in sorted(names):
                yield Path(folder) / name

    def _pieces(self, folder: Path) -> list[Piece]:
        try:
            with os.scandir(folder) as found:
                names = [entry.name for entry in itertools.islice(found, MOST_FILES) if _NAME.match(entry.name)]
        except OSError:
            return []
        pieces = [self._read(folder / name) for name in sorted(names)[:MOST_IN_A_FOLDER]]
        long_ago = datetime.fromtimestamp(0, UTC)
        return sorted((p for p in pieces if p), key=lambda piece: piece.fetched or long_ago, reverse=True)

    def _read(self, path: Path) -> Piece | None:
        """The piece in a file; None, after a warning, if it is not what its name and place say."""
        try:
            item, fetched = _decode(path)
            if self._root / _folder_of(item) != path.parent:
                raise CollateralError("it lies in the wrong folder")
        except FileNotFoundError:
            return None  # another process has just cleaned
        except OSError as error:
            self._warn(f"{path}: {error.strerror}; ignored")
            return None
        except SevError as error:
            self._warn(f"{path}: damaged: {error}; ignored (cvmboot attest cache clean removes it)")
            return None
        return Piece(item, CACHE, fetched)

    def _remove_empty_folders(self) -> None:
        for folder, _, _ in os.walk(self._root, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()


def _sign(descriptor: int) -> None:
    """Leave in the lock file who holds it and since when, so that who waits sees that it changes hands."""
    with contextlib.suppress(OSError):  # a full disk is no reason not to go on
        os.pwrite(descriptor, f"{os.getpid():20}{time.monotonic_ns():24}".encode(), 0)


def _write_whole(path: Path, data: bytes, moment: int) -> None:
    """Write a file under another name, then give it its own, so that nobody sees a part of it. OSError.

    The draft is locked meanwhile, so that who cleans can tell it from what a killed writer left.
    """
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(prefix=_DRAFT, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
            os.utime(draft, (moment, moment))
            Path(draft).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(draft).unlink()
        raise


def _is_being_written(draft: Path) -> bool:
    """Whether a living writer has a draft open. FileNotFoundError if it is gone."""
    import fcntl

    descriptor = os.open(draft, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def _decode(path: Path) -> tuple[Certificate | Crl, datetime]:
    largest = LARGEST_CRL if path.suffix == ".crl" else LARGEST_CERTIFICATE
    # A FIFO in the place of a file must not make us wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise CollateralError("not a regular file")
        data = file.read(largest + 1)
    digest = hashlib.sha256(data).hexdigest()
    if len(data) > largest or digest != path.name[:64]:
        raise CollateralError(f"SHA-256 {digest[:16]}... of its {len(data)} bytes is not its name")
    item: Certificate | Crl = Crl.decode(data) if path.suffix == ".crl" else Certificate.decode(data)
    try:
        return item, datetime.fromtimestamp(int(status.st_mtime), UTC)
    except (OverflowError, ValueError):
        return item, datetime.fromtimestamp(0, UTC)


def _folder_of(item: Certificate | Crl) -> Path:
    if isinstance(item, Crl):
        return Path("crl", line_of_crl(item).name)
    if item.kind in (VCEK, VLEK):
        return _leaf_folder(LeafKey.of_certificate(item))
    return Path("ca", item.line.name, item.kind)


def _leaf_folder(key: LeafKey) -> Path:
    return Path("leaf", key.kind, key.line.name, key.hwid.hex() or _ANY_CHIP, key.tcb.raw.hex())
