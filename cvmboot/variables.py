"""The variables of a machine across its resets: kept in a file if asked, and what Secure Boot makes of them."""

from collections.abc import Callable
from pathlib import Path

from cvmboot.errors import CvmbootError
from uefi import guids
from uefi.firmware import Firmware
from uefi.images import Image
from uefi.status import Status
from uefi.variables.store import VariableStore
from uefi.variables.variable import Variable


def open_variables(path: Path | None, warn: Callable[[str], None]) -> VariableStore:
    """The variables in `path` (`--vars`), written back at every change; without a path they last as long as the run."""
    if path is None:
        return VariableStore()
    from uefi.variables.errors import VariableFileError
    from uefi.variables.nv_file import NvFile

    file = NvFile(path)
    try:
        variables = file.load()
    except VariableFileError as error:
        raise CvmbootError(f"--vars {error}") from None
    if not file.writable:
        warn(f"--vars {path}: read as a firmware's raw image; changes are not written back to it")

    def persist(changed: list[Variable]) -> None:
        try:
            file.save(changed)
        except OSError as error:
            warn(f"--vars {path}: not written: {error.strerror or error}")
            raise

    return VariableStore(variables, persist=persist)


class SecureBootCheck:
    """What LoadImage asks before it lets an image start (UEFI 2.10, 32.4.2)."""

    def __init__(self, firmware: Firmware, store: VariableStore) -> None:
        self._firmware = firmware
        self._store = store

    def __call__(self, image: Image, _path: bytes | None) -> int:
        """EFI_STATUS: success, or why the image is refused."""
        firmware, store = self._firmware, self._store
        if not store.secure_boot or image.pe is None:
            return Status.SUCCESS
        from loader import authenticode
        from loader.errors import LoaderError
        from uefi.security.errors import SecurityDataError
        from uefi.security.image_policy import check_image

        parsed = image.pe
        database = guids.IMAGE_SECURITY_DATABASE
        try:
            decision = check_image(
                lambda name: authenticode.digest(parsed, name),
                [entry.pkcs7 for entry in authenticode.certificates(parsed) if entry.pkcs7],
                store.value("db", database) or b"",
                store.value("dbx", database) or b"",
                store.value("dbt", database) or b"",
            )
        except (LoaderError, SecurityDataError) as error:
            firmware.images.problem = f"Secure Boot: {error}"
            return Status.SECURITY_VIOLATION
        if not decision.allowed:
            firmware.images.problem = f"Secure Boot: {decision.reason}"
            firmware.warn(f"{image.name}: Secure Boot refuses it: {decision.reason}")
        return decision.status
