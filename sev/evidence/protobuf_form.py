"""Protocol buffers: go-sev-guest's sevsnp.Attestation and Report, binary and as text, and reports and certificates as they are in
any other message (Oak's Evidence and Endorsements, for instance).

The messages are described here by name and number, as google/go-sev-guest publishes them; the protobuf library does the rest. It
is imported only when something looks like one.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from sev.errors import MalformedReport
from sev.evidence.fields import cpuid_bytes
from sev.report import FIELDS, SIZE

LARGEST_TEXT = 256 << 10
_SMALLEST = 256
_MOST_FIELDS = 2000
_TEXT_START = re.compile(r"^[ \t]*(?:report[ \t]*:?[ \t]*[{<]|version[ \t]*:[ \t]*\d)", re.MULTILINE)

# Field name, number; a name of sev.report.FIELDS is put at its place.
_INTEGERS_32 = {
    **{"version": 1, "guest_svn": 2, "vmpl": 6, "signature_algo": 7, "signer_info": 10, "cpuid1eax_fms": 29},
    **{"current_build": 21, "current_minor": 22, "current_major": 23},
    **{"committed_build": 24, "committed_minor": 25, "committed_major": 26},
}
_INTEGERS_64 = {
    **{"policy": 3, "current_tcb": 8, "platform_info": 9, "reported_tcb": 18, "committed_tcb": 20, "launch_tcb": 27},
    **{"launch_mit_vector": 30, "current_mit_vector": 31},
}
_BYTES = {
    **{"family_id": 4, "image_id": 5, "report_data": 11, "measurement": 12, "host_data": 13, "id_key_digest": 14},
    **{"author_key_digest": 15, "report_id": 16, "report_id_ma": 17, "chip_id": 19, "signature": 28},
}
_CERTIFICATES = {"vcek_cert": 1, "ask_cert": 2, "ark_cert": 3, "firmware_cert": 4, "vlek_cert": 6}


@cache
def _classes() -> dict[str, Any]:
    """The message classes by name."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="sevsnp.proto", package="sevsnp", syntax="proto3")

    def message(name: str, *groups: tuple[int, dict[str, int]]) -> Any:
        made = file.message_type.add(name=name)
        for form, fields in groups:
            for field, number in fields.items():
                made.field.add(name=field, number=number, type=form, label=kind.LABEL_OPTIONAL)
        return made

    message("Report", (kind.TYPE_UINT32, _INTEGERS_32), (kind.TYPE_UINT64, _INTEGERS_64), (kind.TYPE_BYTES, _BYTES))
    chain = message("CertificateChain", (kind.TYPE_BYTES, _CERTIFICATES))
    entry = chain.nested_type.add(name="ExtrasEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=kind.TYPE_STRING, label=kind.LABEL_OPTIONAL)
    entry.field.add(name="value", number=2, type=kind.TYPE_BYTES, label=kind.LABEL_OPTIONAL)
    message("Stepping", (kind.TYPE_UINT32, {"value": 1}))
    product = message("SevProduct", (kind.TYPE_UINT32, {"stepping": 2}))
    names = product.enum_type.add(name="SevProductName")
    for number, name in enumerate(("UNKNOWN", "MILAN", "GENOA", "TURIN")):
        names.value.add(name=f"SEV_PRODUCT_{name}", number=number)
    product.field.add(
        name="name",
        number=1,
        type=kind.TYPE_ENUM,
        type_name=".sevsnp.SevProduct.SevProductName",
        label=kind.LABEL_OPTIONAL,
    )
    attestation = message("Attestation")
    message("Unknown")
    for owner, field, number, target, label in (
        (chain, "extras", 7, "CertificateChain.ExtrasEntry", kind.LABEL_REPEATED),
        (product, "machine_stepping", 3, "Stepping", kind.LABEL_OPTIONAL),
        (attestation, "report", 1, "Report", kind.LABEL_OPTIONAL),
        (attestation, "certificate_chain", 2, "CertificateChain", kind.LABEL_OPTIONAL),
        (attestation, "product", 3, "SevProduct", kind.LABEL_OPTIONAL),
    ):
        owner.field.add(name=field, number=number, type=kind.TYPE_MESSAGE, type_name=f".sevsnp.{target}", label=label)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        made.name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"sevsnp.{made.name}"))
        for made in file.message_type
    }


def raw_report(report: Any) -> bytes:
    """The 1184 bytes of a sevsnp.Report. MalformedReport names a field of the wrong size."""
    raw = bytearray(SIZE)
    for name in (*_INTEGERS_32, *_INTEGERS_64, *_BYTES):
        value = getattr(report, name)
        if name == "cpuid1eax_fms":
            if report.version >= 3:
                raw[0x188:0x18B] = cpuid_bytes(value)
            continue
        offset, size, _, since = FIELDS["key_info" if name == "signer_info" else name]
        if name in _BYTES:
            if len(value) != size:
                raise MalformedReport(f"sevsnp.Report: {name} has {len(value)} bytes; wanted {size}")
            raw[offset : offset + size] = value
        elif value and since > report.version:
            raise MalformedReport(f"sevsnp.Report: {name} is set, and version {report.version} does not have it")
        elif value >= 1 << 8 * size:
            raise MalformedReport(f"sevsnp.Report: {name} {value:#x}; wanted {size} bytes")
        else:
            raw[offset : offset + size] = value.to_bytes(size, "little")
    return bytes(raw)


def _parts(attestation: Any) -> tuple[bytes, list[bytes]]:
    chain = attestation.certificate_chain
    certificates = [getattr(chain, name) for name in _CERTIFICATES if name != "firmware_cert"]
    return raw_report(attestation.report), [der for der in certificates if der]


def _is_report(report: Any) -> bool:
    """Whether what was parsed has a report's fields, rather than being bytes that happen to parse."""
    sizes = [
        len(getattr(report, name)) == FIELDS[name][1] for name in ("report_data", "measurement", "signature", "chip_id")
    ]
    return sum(sizes) >= 3 and report.version > 0


def from_binary(data: bytes) -> tuple[bytes, list[bytes]] | None:
    """Report and certificates in a binary sevsnp.Attestation, or in a Report alone; None if it is neither. MalformedReport."""
    if data[:1] not in (b"\x0a", b"\x08"):
        return None
    from google.protobuf.message import DecodeError

    try:
        if data[:1] == b"\x0a":
            attestation = _classes()["Attestation"].FromString(data)
            return _parts(attestation) if _is_report(attestation.report) else None
        report = _classes()["Report"].FromString(data)
        return (raw_report(report), []) if _is_report(report) else None
    except DecodeError:
        return None


def from_text(text: str) -> tuple[bytes, list[bytes]] | None:
    """The same from text format; None if it does not look like it. MalformedReport says what is wrong in which line."""
    if len(text) > LARGEST_TEXT or "report_data" not in text or not _TEXT_START.search(text):
        return None
    from google.protobuf import text_format

    whole = re.search(r"^[ \t]*report[ \t]*:?[ \t]*[{<]", text, re.MULTILINE) is not None
    made = _classes()["Attestation" if whole else "Report"]()
    try:
        text_format.Parse(text, made, allow_unknown_field=False)
    except text_format.ParseError as error:
        raise MalformedReport(f"text of a sevsnp message: {' '.join(str(error).split())[:160]}") from None
    except (RecursionError, ValueError, OverflowError) as error:
        raise MalformedReport(f"text of a sevsnp message: {type(error).__name__}") from None
    return _parts(made) if whole else (raw_report(made), [])


def fields_of(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(number, contents) of the length-delimited fields of any message that may hold something; none if it does not parse."""
    from google.protobuf.message import DecodeError
    from google.protobuf.unknown_fields import UnknownFieldSet

    try:
        # Kept alive: the set refers to it.
        message = _classes()["Unknown"].FromString(data)
        found: Any = UnknownFieldSet(message)
    except (DecodeError, RecursionError):
        return
    for number, field in enumerate(found):
        if number >= _MOST_FIELDS:
            return
        if field.wire_type == 2 and isinstance(field.data, bytes) and len(field.data) >= _SMALLEST:
            yield field.field_number, field.data
