"""A new file that appears under its name when it is complete, and not at all when something fails."""

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from images.errors import ImageError, OutputExists

_ADVICE = {
    errno.ENOSPC: "the disk is full; free some room, or write to another place",
    errno.EDQUOT: "the disk quota is used up; free some room, or write to another place",
    errno.EFBIG: "the file system takes no file of this size; choose a smaller size or another file system",
    errno.EROFS: "the file system is read-only; write to another place",
    errno.EACCES: "no permission to write there; write to another place",
    errno.EPERM: "no permission to write there; write to another place",
    errno.ENOENT: "the folder does not exist; make it first",
    errno.ENOTDIR: "what should be the folder is a file; name another place",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}


def check_output(path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Raises OutputExists unless `path` is free (or may be overwritten), ImageError where nothing can be written.

    new_file() does the same; asked before, it spares the work.
    """
    name = os.fspath(path)
    try:
        facts = Path(name).stat()
    except FileNotFoundError:
        folder = Path(name).parent
        if not folder.is_dir():
            raise ImageError(f"{name}: the folder {folder} does not exist; make it first") from None
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ImageError(f"{name}: {_ADVICE[errno.EACCES]}") from None
        return
    except OSError as error:
        raise _refused(name, error) from None
    if stat.S_ISDIR(facts.st_mode):
        raise ImageError(f"{name}: is a folder; name a file in it")
    if not stat.S_ISREG(facts.st_mode):
        raise ImageError(f"{name}: is no regular file; write to a file first and copy that, with dd for example")
    if not force:
        raise OutputExists(f"{name}: exists already; give another name, or --force to overwrite it")


@contextmanager
def new_file(path: str | os.PathLike[str], *, force: bool = False) -> Iterator[BinaryIO]:
    """A writable, seekable file that is moved to `path` when the block ends well, and removed when it fails.

    Errors of writing, flushing and closing become an ImageError that says what to do. An existing file is kept until
    the new one is complete; without `force` it is OutputExists.
    """
    check_output(path, force=force)
    name = os.fspath(path)
    target = Path(os.path.realpath(name)) if force else Path(name)
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name[:200]}.", suffix=".part", dir=target.parent)
        with os.fdopen(handle, "wb", buffering=1 << 18) as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), 0o666 & ~_umask())
        if force:
            Path(temporary).replace(target)
            temporary = ""
        else:
            # Unlike a rename a link never takes the place of a file that somebody made meanwhile.
            os.link(temporary, target)
    except FileExistsError:
        raise OutputExists(f"{name}: exists already; give another name, or --force to overwrite it") from None
    except OSError as error:
        raise _refused(name, error) from None
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)


def _refused(name: str, error: OSError) -> ImageError:
    return ImageError(f"{name}: {_ADVICE.get(error.errno or 0, error.strerror or str(error))}")


def _umask() -> int:
    """The process's mask; it can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
