"""One report in the forms that are in the field, as seeds for what is fuzzed."""

import base64
import hashlib
import json
import struct
from typing import Any

from sev.decoded import decoded
from sev.report import SIZE, Report


def forms(report: bytes, certificates: list[bytes], table: bytes) -> list[bytes]:
    """The report (1184 bytes) in each form, with its certificates (DER: leaf, ASK, ARK) where the form has a place for them."""
    response = struct.pack("<II", 0, SIZE) + bytes(24) + report
    return [
        *(report, response, report + table, report.hex().encode()),
        *(base64.b64encode(report), base64.urlsafe_b64encode(response)),
        b"[    0.1] boot\r\nreport: " + report.hex().upper().encode() + b"\r\nok\r\n",
        *(_dump(report), _hcl(report), _protobuf(report, certificates), *_json(report, certificates)),
    ]


def _dump(report: bytes) -> bytes:
    """As `xxd` prints it."""
    lines = []
    for at in range(0, len(report), 16):
        row = report[at : at + 16]
        pairs = " ".join(row[place : place + 2].hex() for place in range(0, 16, 2))
        lines.append(f"{at:08x}: {pairs}  {''.join(chr(c) if 32 <= c < 127 else '.' for c in row)}")
    return "\n".join(lines).encode() + b"\n"


def _hcl(report: bytes) -> bytes:
    """Azure's blob, with runtime data that the report does not bind."""
    runtime = json.dumps({"keys": [], "user-data": "00" * 64}).encode()
    head = b"HCLA" + struct.pack("<4I", 2, SIZE, 2, 0) + bytes(12)
    return head + report + struct.pack("<5I", 20 + len(runtime), 1, 2, 1, len(runtime)) + runtime


def _varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _protobuf(report: bytes, certificates: list[bytes]) -> bytes:
    """sevsnp.Attestation of go-sev-guest."""
    r = Report.decode(report)
    eax = (
        (r.cpuid_fam_id - 0xF) << 20
        | (r.cpuid_mod_id >> 4) << 16
        | 0xF << 8
        | (r.cpuid_mod_id & 0xF) << 4
        | r.cpuid_step
    )
    values: dict[int, int | bytes] = {
        **{
            1: r.version,
            2: r.guest_svn,
            3: int(r.policy),
            4: r.family_id,
            5: r.image_id,
            6: r.vmpl,
            7: r.signature_algo,
        },
        **{
            8: int.from_bytes(r.current_tcb, "little"),
            9: int(r.platform_info),
            10: int.from_bytes(report[0x48:0x4C], "little"),
        },
        **{11: r.report_data, 12: r.measurement, 13: r.host_data, 14: r.id_key_digest, 15: r.author_key_digest},
        **{16: r.report_id, 17: r.report_id_ma, 18: int.from_bytes(r.reported_tcb, "little"), 19: r.chip_id},
        **{20: int.from_bytes(r.committed_tcb, "little"), 21: report[0x1E8], 22: report[0x1E9], 23: report[0x1EA]},
        **{24: report[0x1EC], 25: report[0x1ED], 26: report[0x1EE], 27: int.from_bytes(r.launch_tcb, "little")},
        **{28: report[0x2A0:], 29: eax, 30: int.from_bytes(report[0x1F8:0x200], "little")},
        31: int.from_bytes(report[0x200:0x208], "little"),
    }
    body = b"".join(_field(number, value) for number, value in values.items())
    chain = b"".join(_field(number, der) for number, der in zip((1, 2, 3), certificates, strict=True))
    return _field(1, body) + _field(2, chain)


def _json(report: bytes, certificates: list[bytes]) -> list[bytes]:
    """Trustee's form, one with base64 and PEM in it, and our own of `attest show --json`."""
    chain = [
        {"cert_type": name, "data": list(der)} for name, der in zip(("VCEK", "ASK", "ARK"), certificates, strict=True)
    ]
    own: dict[str, Any] = decoded(Report.decode(report))
    loose = {
        "quote": base64.b64encode(report).decode(),
        "certs": {"vcek": base64.b64encode(certificates[0]).decode()},
        "nonce": hashlib.sha256(report).hexdigest(),
    }
    return [
        json.dumps({"attestation_report": list(report), "cert_chain": chain}).encode(),
        json.dumps({"evidence": json.dumps(loose)}).encode(),
        json.dumps(own, indent=1).encode(),
    ]
