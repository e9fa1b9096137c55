"""Certificates and CRLs in BER: the same contents in other bytes are refused, so that no second file verifies."""

from collections.abc import Callable, Iterator

import pytest

from sev.certificate_files import split_certificates
from sev.certificates import Certificate
from sev.errors import MalformedCertificate, SevError
from sev.evidence import read_evidence
from sev.platform import Platform
from sev.platform import der as asn1
from sev.revocation import Crl


def _contents(element: bytes) -> tuple[bytes, bytes]:
    """The contents of a DER element with a length of two bytes, and what follows it."""
    assert element[1] == 0x82
    end = 4 + int.from_bytes(element[2:4], "big")
    return element[4:end], element[end:]


def _forms(der: bytes) -> Iterator[tuple[str, bytes]]:
    body, nothing = _contents(der)
    assert not nothing
    inner, rest = _contents(body)
    tbs = body[: len(body) - len(rest)]
    signature = rest.rindex(b"\x03\x82\x02\x01\x00")
    bits = rest[signature + 5 :]

    def outer(contents: bytes) -> bytes:
        return b"\x30\x82" + len(contents).to_bytes(2, "big") + contents

    pieces = b"".join(b"\x03\x82\x01\x01\x00" + bits[at : at + 256] for at in (0, 256))
    yield "long length", b"\x30\x83" + len(body).to_bytes(3, "big") + body
    yield "no length", b"\x30\x80" + body + bytes(2)
    yield "no length inside", outer(b"\x30\x80" + inner + bytes(2) + rest)
    yield "long length inside", outer(b"\x30\x83" + len(inner).to_bytes(3, "big") + inner + rest)
    yield "signature in pieces", outer(tbs + rest[:signature] + b"\x23\x80" + pieces + bytes(2))
    yield "unused bits", outer(tbs + rest[:signature] + b"\x03\x82\x02\x01\x01" + bits)
    yield "more behind the signature", outer(body + b"\x05\x00")
    yield "bytes behind", der + b"\0"


@pytest.mark.parametrize(
    ("decode", "give"),
    [
        (Certificate.decode, lambda platform: platform.leaf("vcek").der),
        (Certificate.decode, lambda platform: platform.authority().certificates["ASK"].der),
        (Crl.decode, lambda platform: platform.crl()),
    ],
)
def test_nothing_but_der(
    decode: Callable[[bytes], Certificate | Crl], give: Callable[[Platform], bytes], milan: Platform
) -> None:
    der = give(milan)
    good = decode(der)
    ark = milan.authority().certificates["ARK"]
    for name, changed in _forms(der):
        assert changed != der
        try:
            found = decode(changed)
        except MalformedCertificate:
            continue
        # A length of its own form inside of what is signed shows in the signature.
        assert name == "long length inside", name
        assert found.tbs != good.tbs
        assert found.signature_problem(ark) is not None


@pytest.mark.parametrize("data", [b"\x30", b"\x30\x81", b"\x30\x82\x01", b"\x30\x81\x01", b"\x30\x00"])
def test_the_beginning_of_der_alone(data: bytes) -> None:
    """Found by atheris: a length that was cut off raised IndexError."""
    with pytest.raises(MalformedCertificate):
        split_certificates(data)
    with pytest.raises(SevError):
        read_evidence(data)


def test_short_elements() -> None:
    from sev.strict_der import require_der

    for size in (1, 0x7F, 0x80, 0xFF, 0x100, 0xFFFF, 0x10000):
        tbs, algorithm, signature = asn1.octets(bytes(size)), asn1.null(), b"s" * 5
        whole = asn1.sequence(tbs, algorithm, asn1.bits(signature))
        require_der(whole, tbs, algorithm, signature)
        with pytest.raises(MalformedCertificate, match="not in DER"):
            require_der(whole + b"\0", tbs, algorithm, signature)
