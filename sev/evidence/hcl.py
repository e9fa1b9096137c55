"""Azure's attestation blob, as a VM's vTPM keeps it at NV index 0x01400001: a report, and runtime data that it binds.

Layout (Microsoft, "Guest attestation for confidential VMs", attestation report): "HCLA", version, size, request type, status, 12
reserved bytes; at 0x20 the report in 1184 bytes; then size, version, report type, hash type, size of the runtime data, and those.
"""

import struct

from sev.errors import MalformedReport
from sev.evidence.finds import RuntimeData
from sev.report import SIZE

_HEAD = 0x20
_REQUEST = _HEAD + SIZE
_REQUEST_SIZE = 20
_SNP = 2
_HASHES = {1: "sha256", 2: "sha384", 3: "sha512"}
_TYPES = {3: "a vTPM without hardware", 4: "Intel TDX"}


def decode(data: bytes) -> tuple[bytes, RuntimeData]:
    """The report and the runtime data of a blob that starts with "HCLA". MalformedReport."""
    if len(data) < _REQUEST + _REQUEST_SIZE:
        raise MalformedReport(f"Azure's HCL blob of {len(data)} bytes; wanted at least {_REQUEST + _REQUEST_SIZE}")
    return data[_HEAD:_REQUEST], _runtime(data[_REQUEST:])


def is_rest(rest: bytes) -> bool:
    """Whether bytes behind a report are those of a blob that lost its header, with or without the runtime data."""
    if len(rest) < _REQUEST_SIZE:
        return False
    whole, version, kind, hash_type, size = struct.unpack_from("<5I", rest)
    return (whole, version, kind) == (size + _REQUEST_SIZE, 1, _SNP) and hash_type in _HASHES


def decode_rest(rest: bytes) -> RuntimeData | None:
    """The runtime data behind such a report; None if they are left out. MalformedReport."""
    return _runtime(rest) if len(rest) > _REQUEST_SIZE else None


def _runtime(request: bytes) -> RuntimeData:
    _, version, kind, hash_type, size = struct.unpack_from("<5I", request)
    if kind != _SNP:
        raise MalformedReport(
            f"Azure's HCL blob holds a report of type {kind} ({_TYPES.get(kind, 'unknown')}); wanted 2, SNP"
        )
    if hash_type not in _HASHES:
        raise MalformedReport(
            f"Azure's HCL blob: hash type {hash_type} of the runtime data (version {version}); wanted 1 to 3"
        )
    data = request[_REQUEST_SIZE : _REQUEST_SIZE + size]
    if len(data) != size:
        raise MalformedReport(f"Azure's HCL blob: runtime data of {size} bytes; only {len(data)} follow")
    return RuntimeData("Azure's HCL blob", [data], _HASHES[hash_type])
