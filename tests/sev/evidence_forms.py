"""Writes a report the way many tools do: the forms that sev.evidence has to read, made here from scratch."""

import base64
import gzip
import json
import struct
import textwrap
from typing import Any

from sev.platform import Platform
from sev.report import FIELDS, SIZE, Report
from sev.tcb import Tcb

RESPONSE = bytes(4) + SIZE.to_bytes(4, "little") + bytes(24)
RUNTIME = b'{"keys":[{"kid":"HCLAkPub","key_ops":["sign"],"kty":"RSA"}],"vm-configuration":{"secure-boot":true}}'


def hcl(raw: bytes, runtime: bytes = RUNTIME, kind: int = 2, hash_type: int = 1) -> bytes:
    """Azure's blob of 2600 bytes: header, report, runtime data, zeros."""
    head = b"HCLA" + struct.pack("<4I", 1, SIZE + len(runtime) + 20, 2, 0) + bytes(12)
    return (head + raw + struct.pack("<5I", len(runtime) + 20, 1, kind, hash_type, len(runtime)) + runtime).ljust(
        2600, b"\0"
    )


def _varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def field(number: int, value: int | bytes) -> bytes:
    """One field of a protocol buffer: a varint or bytes."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value) if value else b""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


# Number and name of each field of go-sev-guest's sevsnp.Report, as its .proto numbers them.
_SEVSNP = """
version guest_svn policy family_id image_id vmpl signature_algo current_tcb platform_info signer_info
report_data measurement host_data id_key_digest author_key_digest report_id report_id_ma reported_tcb
chip_id committed_tcb current_build current_minor current_major committed_build committed_minor
committed_major launch_tcb signature cpuid1eax_fms launch_mit_vector current_mit_vector
"""
SEVSNP = tuple(_SEVSNP.split())


def sevsnp_fields(raw: bytes) -> dict[str, int | bytes]:
    """The fields of sevsnp.Report: numbers for TCBs, one number for the CPUID."""
    report = Report.decode(raw)
    values: dict[str, int | bytes] = {}
    for name in SEVSNP:
        if name == "cpuid1eax_fms":
            family, model = report.cpuid_fam_id, report.cpuid_mod_id
            values[name] = (family - 15) << 20 | 15 << 8 | (model >> 4) << 16 | (model & 15) << 4 | report.cpuid_step
            if report.version < 3:
                values[name] = 0
            continue
        value = getattr(report, "key_info" if name == "signer_info" else name)
        if name.endswith("_tcb"):
            values[name] = int.from_bytes(value, "little")
        else:
            values[name] = value if isinstance(value, bytes) else int(value)
    return values


def sevsnp_report(raw: bytes) -> bytes:
    """A binary sevsnp.Report."""
    return b"".join(field(number, value) for number, value in enumerate(sevsnp_fields(raw).values(), 1))


def sevsnp_attestation(raw: bytes, vcek: bytes, ask: bytes = b"", ark: bytes = b"") -> bytes:
    """A binary sevsnp.Attestation with a product."""
    chain = (
        field(1, vcek)
        + (field(2, ask) + field(3, ark) if ask else b"")
        + field(7, field(1, b"guid") + field(2, b"x" * 300))
    )
    return field(1, sevsnp_report(raw)) + field(2, chain) + field(3, field(1, 3) + field(3, field(1, 1)))


def escaped(data: bytes) -> str:
    """Octal escapes as protocol buffers' text format has them."""
    return "".join(chr(b) if 32 <= b < 127 and b not in b"\"'\\" else f"\\{b:03o}" for b in data)


def sevsnp_text(raw: bytes, vcek: bytes = b"") -> bytes:
    """Text of a sevsnp.Attestation, or without a certificate of a Report alone."""
    lines = [
        f'{name}: "{escaped(value)}"' if isinstance(value, bytes) else f"{name}: {value}"
        for name, value in sevsnp_fields(raw).items()
        if value or isinstance(value, bytes)
    ]
    if not vcek:
        return "\n".join(lines).encode()
    inner = "".join(f"  {line}\n" for line in lines)
    chain = f'certificate_chain {{\n  vcek_cert: "{escaped(vcek)}"\n}}\n'
    return f"report {{\n{inner}}}\n{chain}product {{\n  name: SEV_PRODUCT_TURIN\n  machine_stepping {{ value: 1 }}\n}}\n".encode()


def oak_evidence(raw: bytes) -> bytes:
    """Oak's Evidence: the report is field 2 of field 1, layers follow."""
    root = field(1, 1) + field(2, raw) + field(3, b"\xa7" * 80)
    return field(1, root) + field(2, field(1, b"\x84C\xa1\x01&" + b"l" * 400)) + field(3, field(1, b"k" * 300))


def oak_endorsements(vcek: bytes) -> bytes:
    """Oak's Endorsements: the certificate is field 1 of field 1 of field 2."""
    return field(2, field(1, field(1, vcek)))


def oak_text(raw: bytes) -> bytes:
    """Oak's Evidence as text."""
    return (
        "# proto-message: oak.attestation.v1.Evidence\n\nroot_layer {\n  platform: AMD_SEV_SNP\n"
        f'  remote_attestation_report: "{escaped(raw)}"\n  eca_public_key: "{escaped(bytes(range(80)))}"\n}}\n'
    ).encode()


def _tcb(raw: bytes, report: Report) -> dict[str, int | None]:
    assert report.product is not None
    spl = Tcb(raw, report.product.line).spl
    return {"fmc": spl.get("fmc"), "bootloader": spl["boot_loader"]} | {k: spl[k] for k in ("tee", "snp", "microcode")}


def decoded_by_sev_crate(raw: bytes) -> dict[str, Any]:
    """virtee/sev's AttestationReport in JSON, as Trustee and snpguest's users pass it on."""
    report = Report.decode(raw)
    value: dict[str, Any] = {}
    for name in FIELDS:
        given = getattr(report, name)
        if name.endswith("_tcb"):
            value[name] = _tcb(given, report)
        elif name == "signature":
            value[name] = {"r": list(given[:72]), "s": list(given[72:144])}
        elif name.startswith(("current_", "committed_")) and name != "current_mit_vector":
            which, part = name.split("_")
            value.setdefault(which, {})[part] = given
        else:
            new = {"signature_algo": "sig_algo", "platform_info": "plat_info"}.get(name, name)
            value[new] = list(given) if isinstance(given, bytes) else int(given)
    return value


def decoded_by_old_sev_crate(raw: bytes) -> dict[str, Any]:
    """The same by versions before 6.0, which knew the first layout only and kept the rest as reserved bytes."""
    value = decoded_by_sev_crate(raw)
    for which in ("current", "committed"):
        value |= {f"{which}_{part}": number for part, number in value.pop(which).items()}
    for name in ("cpuid_fam_id", "cpuid_mod_id", "cpuid_step", "launch_mit_vector", "current_mit_vector"):
        del value[name]
    for name, at in (("current_tcb", 0x38), ("reported_tcb", 0x180), ("committed_tcb", 0x1E0), ("launch_tcb", 0x1F0)):
        tcb = raw[at : at + 8]
        value[name] = {
            "bootloader": tcb[0],
            "tee": tcb[1],
            "_reserved": list(tcb[2:6]),
            "snp": tcb[6],
            "microcode": tcb[7],
        }
    value["_author_key_en"] = value.pop("key_info")
    value |= {"_reserved_0": 0, "_reserved_1": list(raw[0x188:0x1A0]), "_reserved_2": 0, "_reserved_3": 0}
    value["_reserved_4"] = list(raw[0x1F8:0x2A0])
    value["signature"]["_reserved"] = [0] * 368
    return value


def decoded_by_sidecar(raw: bytes) -> dict[str, Any]:
    """The JSON of Azure's confidential sidecars: hex, numbers, names of the first specification."""
    report = Report.decode(raw)
    names = {
        **{"current_tcb": "platform_version", "key_info": "author_key_en", "committed_tcb": "committed_svn"},
        **{"launch_tcb": "launch_svn"},
    }
    value: dict[str, Any] = {}
    for name, (_, size, is_int, _) in FIELDS.items():
        given = getattr(report, name)
        if size == 1 or name.endswith("mit_vector"):
            continue
        if name.endswith("_tcb"):
            value[names.get(name, name)] = int.from_bytes(given, "little")
        else:
            value[names.get(name, name)] = int(given) if is_int else given.hex()
    value["committed_version"] = int.from_bytes(raw[0x1E8:0x1F0], "little")
    value |= {"reserved1": 0, "reserved2": raw[0x188:0x1A0].hex(), "reserved3": raw[0x1F8:0x2A0].hex()}
    return value


def decoded_by_protojson(raw: bytes) -> dict[str, Any]:
    """sevsnp.Attestation in protocol buffers' JSON: camel case, 64-bit numbers as text, base64; no zeros."""
    big = {"policy", "platform_info", "launch_mit_vector", "current_mit_vector"}
    value: dict[str, Any] = {}
    for name, given in sevsnp_fields(raw).items():
        head, *rest = name.split("_")
        camel = head + "".join(part.capitalize() for part in rest)
        if isinstance(given, bytes):
            value[camel] = base64.b64encode(given).decode()
        elif given:
            value[camel] = str(given) if name in big or name.endswith("_tcb") else given
    return {"report": value}


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def json_forms(raw: bytes, vcek: bytes, chain: bytes) -> dict[str, Any]:
    """JSON by the tool that writes it; `vcek` in DER, `chain` in PEM."""
    table = [{"cert_type": "VCEK", "data": list(vcek)}, {"cert_type": {"OTHER": "a-b"}, "data": list(b"o" * 300)}]
    trustee = {"attestation_report": decoded_by_sev_crate(raw), "cert_chain": table}
    maa = {"SnpReport": _url(raw), "VcekCertChain": _url(chain), "Endorsements": _url(b'{"Uvm":["x"]}')}
    return {
        "trustee": trustee,
        "kbs": {"tee": "snp", "tee-evidence": {"primary_evidence": trustee, "additional_evidence": "{}"}},
        "attestation service": {
            "verification_requests": [{"tee": "snp", "evidence": _url(json.dumps(trustee).encode())}]
        },
        "az-snp-vtpm 0": {"quote": {"message": list(b"q" * 400)}, "report": list(hcl(raw)), "vcek": chain.decode()},
        "az-snp-vtpm 1": {
            "version": 1,
            "hcl_report": _url(hcl(raw)),
            "tpm_quote": {"pcrs": ["00" * 32]},
            "vcek": _url(vcek),
        },
        "attestation-rs": {
            "platform": "snp",
            "evidence": {"attestation_report": _b64(raw), "cert_chain": {"vcek": _b64(vcek)}},
        },
        "azure attestation": {"report": _url(json.dumps(maa).encode()), "nonce": "1"},
        "trustee before": {"attestation_report": decoded_by_old_sev_crate(raw), "cert_chain": table},
        "sidecar": decoded_by_sidecar(raw),
        "protojson": decoded_by_protojson(raw),
        "hex": {"report": "0x" + raw.hex(), "certs": [_b64(chain)]},
        "array": list(raw),
        "text in text": {"log": json.dumps({"deep": json.dumps({"quote": _b64(raw)})})},
        "abi": {"journal": "0x" + bytes(64).hex() + raw.hex() + bytes(96).hex()},
    }


def _grouped(data: bytes, size: int) -> list[str]:
    return [data[at : at + size].hex() for at in range(0, len(data), size)]


def xxd(data: bytes) -> str:
    """As `xxd` writes it."""
    lines = []
    for at in range(0, len(data), 16):
        part = data[at : at + 16]
        shown = "".join(chr(b) if 32 <= b < 127 else "." for b in part)
        lines.append(f"{at:08x}: {' '.join(_grouped(part, 2)):39}  {shown}")
    return "\n".join(lines) + "\n"


def hexdump(data: bytes) -> str:
    """As `hexdump -C` writes it: a line that repeats becomes a star."""
    lines: list[str] = []
    before, starred = b"", False
    for at in range(0, len(data), 16):
        part = data[at : at + 16]
        if part == before:
            lines += [] if starred else ["*"]
            starred = True
            continue
        before, starred = part, False
        shown = "".join(chr(b) if 32 <= b < 127 else "." for b in part)
        lines.append(f"{at:08x}  {' '.join(_grouped(part[:8], 1))}  {' '.join(_grouped(part[8:], 1))}  |{shown}|")
    return "\n".join([*lines, f"{len(data):08x}"]) + "\n"


def text_forms(raw: bytes) -> dict[str, bytes]:
    """Text by what wrote it."""
    rows = [raw[at : at + 12] for at in range(0, SIZE, 12)]
    kernel = "".join(
        f"[   12.34567{at % 10}] sev: {at:08x}: {raw[at : at + 16].hex(' ')}  {'.' * 16}\n" for at in range(0, SIZE, 16)
    )
    forms = {
        "hex": raw.hex(),
        "hex, upper case, CRLF": "\r\n".join(_grouped(raw, 32)).upper(),
        "hex, 0x": "0x" + raw.hex(),
        "hex, spaces": raw.hex(" "),
        "hex, colons": raw.hex(":"),
        "hex, .NET": raw.hex("-").upper(),
        "C array": "{ " + ",\n  ".join(", ".join(f"0x{b:02x}" for b in row) for row in rows) + " };",
        "Go %#v": "{" + ", ".join(f"0x{b:x}" for b in raw) + "}",
        "escapes": "".join(f"\\x{b:02x}" for b in raw),
        "Python": f"report = {raw!r}\n",
        "Go %v": str(list(raw)).replace(",", ""),
        "Rust {:?}": str(list(raw)),
        "base64": _b64(raw),
        "base64 in lines": base64.encodebytes(raw).decode(),
        "base64url": _url(raw),
        "PEM": "Notes.\n-----BEGIN REPORT-----\n" + base64.encodebytes(raw).decode() + "-----END REPORT-----\n",
        "xxd": xxd(raw),
        "xxd of an answer": xxd(RESPONSE + raw),
        "hexdump": hexdump(raw),
        "print_hex_dump": "[    1.0] booting\n" + kernel + "[   13.0] done\n",
        "console log": f"> sev-report raw\r\n\x1b[32m{raw.hex()}\x1b[0m\r\n> ",
        "log with lines of base64": "reading quote\n" + base64.encodebytes(raw).decode() + "done, cafe\n",
        "log with lines of hex": "reading quote\n" + "\n".join(_grouped(raw, 32)) + "\nbye\n",
        "literals of C": "from_hex(\n" + "\n".join(f'    "{row}"' for row in textwrap.wrap(raw.hex(), 73)) + ");\n",
        "literals of Go": "x := " + " +\n".join(f'\t"{row}"' for row in textwrap.wrap(_b64(raw), 70)) + "\n",
        "source code": f'const report = "{raw.hex()}"; // a report\n',
    }
    out = {name: text.encode() for name, text in forms.items()}
    out["byte order mark"] = b"\xef\xbb\xbf" + raw.hex().encode()
    out["UTF-16"] = raw.hex().encode("utf-16")
    out["sevsnp.Report as text"] = sevsnp_text(raw)
    out["Oak's text"] = oak_text(raw)
    out["base64 of JSON"] = base64.b64encode(json.dumps({"quote": _b64(raw)}).encode())
    return out


def binary_forms(raw: bytes, table: bytes, vcek: bytes) -> dict[str, bytes]:
    """Bytes by what they are."""
    return {
        "ATTESTATION_REPORT": raw,
        "MSG_REPORT_RSP": RESPONSE + raw,
        "MSG_REPORT_RSP in its buffer": (RESPONSE + raw).ljust(4000, b"\0"),
        "extended request": raw + table,
        "extended request without certificates": raw + bytes(24),
        "padded with zeros": raw.ljust(4096, b"\0"),
        "HCL": hcl(raw),
        "HCL without its header": hcl(raw)[0x20 : 0x20 + SIZE + 20 + len(RUNTIME)],
        "HCL without header and runtime data": hcl(raw)[0x20 : 0x20 + SIZE + 20],
        "sevsnp.Report": sevsnp_report(raw),
        "sevsnp.Attestation": sevsnp_attestation(raw, vcek),
        "Oak's Evidence": oak_evidence(raw),
        "among other bytes": b"\x0a\x07DICE\0\0\0" + b"z" * 500 + raw + b"\xff" * 30,
    }


def all_forms(platform: Platform, raw: bytes) -> dict[str, bytes]:
    """Every form of a report."""
    from sev.kds import pem

    vcek = platform.leaf("vcek").der
    chain = b"".join(pem("CERTIFICATE", certificate.der) for certificate in platform.certificates()[:2])
    forms = binary_forms(raw, platform.certificate_table(), vcek) | text_forms(raw)
    forms |= {f"JSON, {name}": json.dumps(value).encode() for name, value in json_forms(raw, vcek, chain).items()}
    return forms


def packed(raw: bytes) -> bytes:
    """What is not unpacked."""
    return gzip.compress(raw)
