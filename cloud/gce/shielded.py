"""Secure Boot keys as Compute Engine takes them: the initial state of a shielded VM, written into its image."""

from struct import pack
from typing import Any

from cloud.secure_boot_keys import CERT_X509, SecureBootKeys, signatures

_HEADER = 28


def initial_state(keys: SecureBootKeys) -> Any:
    """A compute_v1.InitialStateConfig: certificates as X509, hashes and other entries as BIN (EFI_SIGNATURE_LISTs)."""
    from google.cloud.compute_v1 import types

    pk, keks, dbs, dbxs = (_buffers(lists) for lists in (keys.pk, keys.kek, keys.db, keys.dbx))
    return types.InitialStateConfig(pk=pk[0], keks=keks, dbs=dbs, dbxs=dbxs)


def _buffers(lists: bytes) -> list[Any]:
    """One FileContentBuffer for each certificate, then one for each kind of other entries."""
    from google.cloud.compute_v1 import types

    buffers: list[Any] = []
    others: dict[tuple[bytes, int], list[bytes]] = {}
    for kind, owner, data in signatures(lists):
        if kind == CERT_X509:
            buffers.append(types.FileContentBuffer(content=_text(data), file_type="X509"))
        else:
            others.setdefault((kind, len(data)), []).append(owner + data)
    for (kind, size), entries in others.items():
        body = b"".join(entries)
        head = kind + pack("<III", _HEADER + len(body), 0, 16 + size)
        buffers.append(types.FileContentBuffer(content=_text(head + body), file_type="BIN"))
    return buffers


def _text(data: bytes) -> str:
    """Format "byte" of Google's APIs; the client's type for it is str."""
    from base64 import b64encode

    return b64encode(data).decode()
