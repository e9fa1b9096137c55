"""The variable store: GetVariable, GetNextVariableName, SetVariable and QueryVariableInfo (UEFI 2.10, 8.2)."""

from collections.abc import Callable, Iterable
from typing import Any

from uefi import guids
from uefi.guids import Guid
from uefi.status import EfiError, Status
from uefi.time import EfiTime
from uefi.variables import attributes as attr
from uefi.variables import rules, secure_boot
from uefi.variables.variable import HEADER_SIZE, Key, Variable, storage_size

_PK = ("PK", guids.GLOBAL_VARIABLE)
_SECURE_BOOT_ENABLE = ("SecureBootEnable", guids.EDK2_SECURE_BOOT_ENABLE_DISABLE)
_MODES = (secure_boot.AUDIT_MODE, secure_boot.DEPLOYED_MODE)

Persist = Callable[[list[Variable]], None]
"""Keeps the non-volatile variables, given all of them in order; raises OSError if it cannot."""


class Limits:
    """Storage in bytes: of one variable with its header and name, of all non-volatile and of all volatile ones."""

    __slots__ = ("non_volatile", "variable", "volatile")

    def __init__(self, variable: int = 0x10000, non_volatile: int = 0x40000, volatile: int = 0x40000) -> None:
        self.variable = variable
        self.non_volatile = non_volatile
        self.volatile = volatile


class VariableStore:
    """All variables of a machine, in the order of their creation. Names are str (UTF-16 units, lone surrogates too).

    `variables` are what was kept from the last run; `persist` is called after each change of a non-volatile variable.
    `at_runtime` is set by `enter_runtime` when ExitBootServices succeeds: it hides what has no runtime access and
    protects what is volatile. `mode` is the Secure Boot mode, `secure_boot` whether LoadImage has to check images.
    """

    def __init__(
        self,
        variables: Iterable[Variable] = (),
        *,
        persist: Persist | None = None,
        limits: Limits | None = None,
        signed_pk_only: bool = False,
    ) -> None:
        """`signed_pk_only`: in Setup Mode, too, a PK must be signed by itself (before 2023 edk2 wanted that)."""
        self.at_runtime = False
        self.mode = secure_boot.SETUP
        self.secure_boot = False
        self._persist = persist
        self._limits = limits or Limits()
        self._signed_pk_only = signed_pk_only
        self._following: dict[Key | None, Key | None] | None = None
        self._take({each.key: each for each in variables})
        self._start()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_persist": None}

    def reset(self) -> None:
        """The machine was reset: volatile variables vanish, boot time begins again."""
        self._start()

    # The services

    def get(self, name: str, guid: Guid) -> tuple[int, bytes]:
        """GetVariable: (attributes, data). EfiError(NOT_FOUND) if there is none or it is hidden at run time."""
        variable = self._variables.get((name, guid))
        if variable is None or not self._visible(variable):
            raise EfiError(Status.NOT_FOUND, f"no variable {name!r} {guid}")
        return variable.attributes, variable.data

    def next_name(self, name: str, guid: Guid) -> tuple[str, Guid]:
        """GetNextVariableName: the variable behind this one, the first for an empty name (`guid` is ignored then).

        EfiError: NOT_FOUND behind the last, INVALID_PARAMETER if there is no such variable to go on from.
        """
        if self._following is None:
            keys = [key for key, variable in self._variables.items() if self._visible(variable)]
            self._following = dict(zip([None, *keys], [*keys, None], strict=True))
        try:
            following = self._following[(name, guid) if name else None]
        except KeyError:
            raise EfiError(Status.INVALID_PARAMETER, f"no variable {name!r} {guid} to go on from") from None
        if following is None:
            raise EfiError(Status.NOT_FOUND, "that was the last variable")
        return following

    def query_info(self, attributes: int) -> tuple[int, int, int]:
        """QueryVariableInfo: bytes (in all, still free, of the largest variable) for variables of these attributes."""
        attr.check(attributes)
        if not attributes & attr.ACCESS or (self.at_runtime and not attributes & attr.RUNTIME_ACCESS):
            raise EfiError(Status.INVALID_PARAMETER, f"attributes {attr.text(attributes)}")
        non_volatile = bool(attributes & attr.NON_VOLATILE)
        total = self._limits.non_volatile if non_volatile else self._limits.volatile
        return total, max(0, total - self._used[non_volatile]), self._limits.variable - HEADER_SIZE

    def set(self, name: str, guid: Guid, attributes: int, data: bytes) -> None:
        """SetVariable by a guest: create, change, append to or delete a variable. EfiError says why not."""
        if not name:
            raise EfiError(Status.INVALID_PARAMETER, "empty variable name")
        attr.check(attributes)
        descriptor = None
        if attributes & attr.TIME_BASED_AUTHENTICATED_WRITE_ACCESS:
            from uefi.variables import authentication

            descriptor = authentication.parse_descriptor(data)
        payload = descriptor.payload if descriptor else bytes(data)
        self._check_size(name, len(payload))
        rules.check(name, guid, attributes, len(payload))
        old = self._variables.get((name, guid))
        self._check_existing(old, attributes)
        if (name, guid) in _MODES:
            self._transaction(lambda: self._write_mode(name, attributes, payload))
            return
        if (name, guid) == _SECURE_BOOT_ENABLE and secure_boot.enforced(self.mode):
            raise EfiError(Status.WRITE_PROTECTED, f"{name} cannot be written in {self.mode} mode")
        time, signer = None, None
        if descriptor:
            from uefi.variables import authentication

            accepted = authentication.authenticate(
                name,
                guid,
                attributes,
                descriptor,
                old_time=old.time if old else None,
                old_signer=old.signer_digest if old else None,
                setup_mode=self.mode in (secure_boot.SETUP, secure_boot.AUDIT),
                signed_pk_only=self._signed_pk_only,
                read=self._database,
            )
            time, signer = accepted.time, accepted.signer_digest
        elif old and old.attributes & attr.TIME_BASED_AUTHENTICATED_WRITE_ACCESS:
            raise EfiError(Status.WRITE_PROTECTED, f"{name} takes only authenticated writes")
        new = self._changed(Variable(name, guid, attributes, payload, time=time, signer_digest=signer), old)
        if (old and old.non_volatile) or (new and new.non_volatile):
            self._transaction(lambda: self._replace((name, guid), new))
        else:
            self._replace((name, guid), new)

    # The firmware's own access

    def put(self, name: str, guid: Guid, attributes: int, data: bytes) -> None:
        """Set a variable as the firmware: no checks, and the file is not written until a guest changes something."""
        self._replace((name, guid), Variable(name, guid, attributes, data))

    def value(self, name: str, guid: Guid) -> bytes | None:
        """The data of a variable, visible or not; None if there is none."""
        variable = self._variables.get((name, guid))
        return variable.data if variable else None

    def enter_runtime(self) -> None:
        """ExitBootServices succeeded."""
        self.at_runtime = True
        self._following = None

    def save(self) -> dict[str, Any]:
        """The whole state as plain data."""
        return {
            "at_runtime": self.at_runtime,
            "mode": self.mode,
            "secure_boot": self.secure_boot,
            "variables": [each.save() for each in self._variables.values()],
        }

    def load(self, state: dict[str, Any]) -> None:
        """The inverse of `save`; nothing is persisted."""
        self.at_runtime = state["at_runtime"]
        self.mode = state["mode"]
        self.secure_boot = state["secure_boot"]
        self._take({each.key: each for each in map(Variable.load, state["variables"])})

    # How a write goes

    def _check_size(self, name: str, size: int) -> None:
        if storage_size(name, size) > self._limits.variable:
            raise EfiError(
                Status.INVALID_PARAMETER,
                f"{name[:40]!r} of {size} bytes exceeds {self._limits.variable} bytes with header",
            )

    def _check_existing(self, old: Variable | None, attributes: int) -> None:
        """The rules of rewriting (UEFI 2.10, 8.2): same attributes but for APPEND_WRITE, and none at all deletes."""
        if old is None:
            return
        if self.at_runtime and not (old.non_volatile and old.attributes & attr.RUNTIME_ACCESS):
            raise EfiError(Status.WRITE_PROTECTED, f"{old.name} cannot be written at run time")
        if attributes and attributes & ~attr.APPEND_WRITE != old.attributes:
            raise EfiError(
                Status.INVALID_PARAMETER, f"{old.name} has {attr.text(old.attributes)}, not {attr.text(attributes)}"
            )

    def _changed(self, wanted: Variable, old: Variable | None) -> Variable | None:
        """The variable as it shall be, None to delete it. `wanted` still carries APPEND_WRITE."""
        append = bool(wanted.attributes & attr.APPEND_WRITE)
        if not wanted.attributes & attr.ACCESS or (not wanted.data and not append):
            if old is None:
                raise EfiError(Status.NOT_FOUND, f"no variable {wanted.name!r} {wanted.guid} to delete")
            return None
        wanted.attributes &= ~attr.APPEND_WRITE
        if old is None:
            if append and not wanted.data:
                return None
            if self.at_runtime and wanted.attributes & attr.NV_BS_RT != attr.NV_BS_RT:
                raise EfiError(Status.INVALID_PARAMETER, "only NV|BS|RT variables can be created at run time")
        elif append:
            wanted.data = self._appended(old, wanted.data)
            wanted.time = max(old.time, wanted.time, key=EfiTime.sort_key)
            rules.check(wanted.name, wanted.guid, wanted.attributes, len(wanted.data))
        if wanted.key in rules.POLICY_KEYS:
            from uefi.variables import authentication

            authentication.check_signature_lists(wanted.name, wanted.guid, wanted.data)
        self._check_size(wanted.name, len(wanted.data))
        if wanted.size > (old.size if old else 0):
            total = self._limits.non_volatile if wanted.non_volatile else self._limits.volatile
            if self._used[wanted.non_volatile] - (old.size if old else 0) + wanted.size > total:
                raise EfiError(
                    Status.OUT_OF_RESOURCES, f"{wanted.name[:40]!r} of {len(wanted.data)} bytes does not fit"
                )
        return wanted

    def _appended(self, old: Variable, addition: bytes) -> bytes:
        if old.key in rules.POLICY_KEYS:
            from uefi.security import signature_lists
            from uefi.security.errors import SignatureListError

            try:
                addition = signature_lists.without_known(old.data, addition)
            except SignatureListError as error:
                raise EfiError(Status.INVALID_PARAMETER, f"{old.name}: {error}") from None
        return old.data + addition

    def _transaction(self, change: Callable[[], None]) -> None:
        """Do `change` and keep it; if it cannot be kept, undo it and raise EfiError(DEVICE_ERROR)."""
        if self._persist is None:
            change()
            return
        before, mode, enforced = self._variables.copy(), self.mode, self.secure_boot
        kept = self._kept()
        change()
        now = self._kept()
        if kept == now:
            return
        try:
            self._persist(now)
        except OSError as error:
            self._take(before)
            self.mode, self.secure_boot = mode, enforced
            raise EfiError(Status.DEVICE_ERROR, f"variables cannot be kept: {error}") from None

    def _kept(self) -> list[Variable]:
        return [
            each
            for each in self._variables.values()
            if each.non_volatile or (each.key in _MODES and each.data == b"\1")
        ]

    def _take(self, variables: dict[Key, Variable]) -> None:
        """Let these be all variables."""
        self._variables = variables
        self._following = None
        self._used = [0, 0]  # bytes of the volatile ones, of the non-volatile ones
        for each in variables.values():
            self._used[each.non_volatile] += each.size

    def _put(self, key: Key, variable: Variable | None) -> None:
        """Add, replace or (None) remove one variable."""
        self._following = None
        old = self._variables.get(key)
        if old is not None:
            self._used[old.non_volatile] -= old.size
        if variable is None:
            self._variables.pop(key, None)
        else:
            self._variables[key] = variable
            self._used[variable.non_volatile] += variable.size

    def _replace(self, key: Key, variable: Variable | None) -> None:
        """`_put`, and what follows from it for Secure Boot."""
        self._put(key, variable)
        if key == _PK:
            self.mode = secure_boot.after_pk_change(self.mode, has_pk=_PK in self._variables)
        if key in rules.POLICY_KEYS or key == _SECURE_BOOT_ENABLE:
            self._publish()

    def _write_mode(self, name: str, attributes: int, value: bytes) -> None:
        if attributes != attr.BS_RT:
            raise EfiError(
                Status.INVALID_PARAMETER, f"{name} with {attr.text(attributes)}, wanted {attr.text(attr.BS_RT)}"
            )
        mode = secure_boot.after_mode_write(self.mode, name, value)
        if mode == secure_boot.AUDIT:
            self._put(_PK, None)
        self.mode = mode
        self._publish()

    # Secure Boot's read-only variables

    def _start(self) -> None:
        """What power on makes of the kept variables."""
        flags = {key: self.value(*key) == b"\1" for key in _MODES}
        self._take({key: each for key, each in self._variables.items() if each.non_volatile})
        self.at_runtime = False
        self.mode = secure_boot.initial_mode(
            has_pk=_PK in self._variables,
            audit=flags[secure_boot.AUDIT_MODE],
            deployed=flags[secure_boot.DEPLOYED_MODE],
        )
        self._publish()

    def _publish(self) -> None:
        """Let the mode variables show `mode`. SecureBoot itself does not change while an operating system runs."""
        if not self.at_runtime:
            self.secure_boot = secure_boot.enforced(self.mode) and self.value(*_SECURE_BOOT_ENABLE) != b"\0"
        shown = secure_boot.published(self.mode)
        shown["SecureBoot"] = b"\1" if self.secure_boot else b"\0"
        # No vendor ships keys here: any key is somebody else's.
        shown["VendorKeys"] = b"\0" if any(key in self._variables for key in rules.POLICY_KEYS) else b"\1"
        for name, value in shown.items():
            key = (name, guids.GLOBAL_VARIABLE)
            self._put(key, Variable(*key, attr.BS_RT, value))

    def _database(self, name: str, guid: Guid) -> bytes:
        return self.value(name, guid) or b""

    def _visible(self, variable: Variable) -> bool:
        return not self.at_runtime or bool(variable.attributes & attr.RUNTIME_ACCESS)
