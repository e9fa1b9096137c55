"""Makes the Data of authenticated SetVariable calls, independently of uefi.variables."""

import struct

from signing_keys import Identity, detached

from uefi import guids
from uefi.guids import Guid
from uefi.security import signature_lists
from uefi.security.signature_lists import Signature, SignatureList
from uefi.status import EfiError, status_name
from uefi.variables.attributes import NV_BS_RT_AT
from uefi.variables.store import VariableStore

OWNER = Guid.parse("77fa9abd-0359-4d32-bd60-28f4e78f784b")
GLOBAL = guids.GLOBAL_VARIABLE
SECURITY = guids.IMAGE_SECURITY_DATABASE
PKCS7_GUID = bytes.fromhex("9dd2af4adf68ee498aa9347d375665a7")


def stamp(second: int = 0, year: int = 2024) -> bytes:
    """An EFI_TIME."""
    return struct.pack("<HBBBBBBIhBB", year, 1, 2, 3, 4, second, 0, 0, 0, 0, 0)


def descriptor(time: bytes, signature: bytes, kind: int = 0x0EF1, certificate_type: bytes = PKCS7_GUID) -> bytes:
    return time + struct.pack("<IHH16s", 24 + len(signature), 0x0200, kind, certificate_type) + signature


def signed(
    signer: Identity,
    name: str,
    guid: Guid,
    payload: bytes,
    *others: Identity,
    second: int = 0,
    attributes: int = NV_BS_RT_AT,
) -> bytes:
    """Descriptor and payload, signed by `signer`, with `others` as further certificates."""
    time = stamp(second)
    message = name.encode("utf-16-le") + guid + struct.pack("<I", attributes) + time + payload
    return descriptor(time, detached(signer, message, *others)) + payload


def unsigned(payload: bytes, second: int = 0) -> bytes:
    return descriptor(stamp(second), b"") + payload


def esl(*identities: Identity) -> bytes:
    """Signature lists with the certificates."""
    return signature_lists.build([SignatureList(guids.CERT_X509, [Signature(OWNER, each.der)]) for each in identities])


def hash_list(*values: int) -> bytes:
    signatures = [Signature(OWNER, bytes([value]) * 32) for value in values]
    return signature_lists.build([SignatureList(guids.CERT_SHA256, signatures)])


def outcome(store: VariableStore, name: str, guid: Guid, data: bytes, attributes: int = NV_BS_RT_AT) -> str:
    """The name of the status of a SetVariable; a refused one changes nothing."""
    before = store.save()
    try:
        store.set(name, guid, attributes, data)
    except EfiError as error:
        assert "\n" not in error.reason
        assert store.save() == before
        return status_name(error.status)
    return "EFI_SUCCESS"
