"""Authenticode hashes: what is covered, what is not, and that signing tools compute the same."""

import hashlib
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pe_builder import SECURITY, SectionSpec, build, certificate

from loader import authenticode, pe
from loader.errors import DamagedImageError, LoaderError

SECTIONS = [SectionSpec(".text", b"code" * 200), SectionSpec(".data", b"data" * 100)]
CHECKSUM = 0x80 + 24 + 64
SECURITY_ENTRY = 0x80 + 24 + 112 + 8 * SECURITY


def digest(data: bytes, algorithm: str = "sha256") -> str:
    return authenticode.digest(pe.parse(data), algorithm).hex()


def certificates(data: bytes) -> list[authenticode.Certificate]:
    return list(authenticode.certificates(pe.parse(data)))


@pytest.mark.parametrize("algorithm", authenticode.ALGORITHMS)
def test_checksum_and_security_entry_are_left_out(algorithm: str) -> None:
    data = build(SECTIONS)
    covered = data[:CHECKSUM] + data[CHECKSUM + 4 : SECURITY_ENTRY] + data[SECURITY_ENTRY + 8 :]
    assert digest(data, algorithm) == hashlib.new(algorithm, covered).hexdigest()


def test_a_signature_does_not_change_the_hash_but_any_other_byte_does() -> None:
    data = build(SECTIONS)
    signed = build(SECTIONS, certificates=certificate(b"signature"))
    assert digest(signed) == digest(data)
    free = {*range(CHECKSUM, CHECKSUM + 4), *range(SECURITY_ENTRY, SECURITY_ENTRY + 8)}
    for offset in [4, 0x40, CHECKSUM, CHECKSUM + 3, CHECKSUM + 4, 0x200, len(data) - 1]:
        changed = bytearray(data)
        changed[offset] ^= 1
        assert (digest(bytes(changed)) == digest(data)) == (offset in free), hex(offset)


def test_data_behind_the_sections_is_covered_and_not_padded() -> None:
    data = build(SECTIONS, trailer=b"odd")
    covered = data[:CHECKSUM] + data[CHECKSUM + 4 : SECURITY_ENTRY] + data[SECURITY_ENTRY + 8 :]
    assert data.endswith(b"odd")
    assert digest(data) == hashlib.sha256(covered).hexdigest()


def test_sections_are_hashed_by_file_offset_whatever_the_order_of_their_headers() -> None:
    data = bytearray(build(SECTIONS))
    table = 0x80 + 24 + 240
    data[table : table + 80] = data[table + 40 : table + 80] + data[table : table + 40]
    assert [section.name for section in pe.parse(bytes(data)).sections] == [".data", ".text"]
    covered = data[:CHECKSUM] + data[CHECKSUM + 4 : SECURITY_ENTRY] + data[SECURITY_ENTRY + 8 :]
    assert digest(bytes(data)) == hashlib.sha256(covered).hexdigest()


def test_an_image_without_a_security_directory_has_a_hash() -> None:
    data = build(SECTIONS, optional_header_size=112, directory_count=0)
    assert digest(data) == hashlib.sha256(data[:CHECKSUM] + data[CHECKSUM + 4 :]).hexdigest()
    assert certificates(data) == []


def test_other_algorithms_are_a_programming_error() -> None:
    with pytest.raises(ValueError, match="algorithm 'md5', want one of sha256, sha1, sha384, sha512"):
        digest(build(), "md5")


def test_certificates_come_in_file_order_with_their_padding_skipped() -> None:
    guid = authenticode.CERT_TYPE_PKCS7_GUID
    table = (
        certificate(b"first!!")
        + certificate(guid + b"second", kind=0x0EF1)
        + certificate(b"x" * 16, kind=0x0EF1)
        + certificate(b"")
    )
    found = certificates(build(SECTIONS, certificates=table))
    assert [(entry.type, entry.revision, entry.pkcs7) for entry in found] == [
        (2, 0x200, b"first!!"),
        (0x0EF1, 0x200, b"second"),
        (0x0EF1, 0x200, None),
        (2, 0x200, b""),
    ]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (certificate(b"12345678", length=17), "has dwLength 0x11, want 0x8 to 0x10"),
        (certificate(b"12345678", length=0), "has dwLength 0x0, want 0x8 to 0x10"),
        (certificate(b"12345678") + b"1234", "has 4 bytes left, want 8"),
    ],
)
def test_damaged_tables_are_refused(table: bytes, message: str) -> None:
    with pytest.raises(DamagedImageError, match=message):
        certificates(build(SECTIONS, certificates=table))


def test_a_table_outside_the_file_is_refused() -> None:
    data = build(SECTIONS, directories={SECURITY: (0x100, 0x10000)})
    with pytest.raises(DamagedImageError, match="truncated: the certificate table at file offset 0x100 to 0x10100"):
        certificates(data)
    with pytest.raises(DamagedImageError, match="truncated: the certificate table"):
        digest(data)


def test_sections_that_share_bytes_with_each_other_or_the_table_have_no_hash() -> None:
    shared = [SectionSpec(".a", b"a" * 0x200), SectionSpec(".b", raw_offset=0x200, raw_size=0x200, virtual_size=0x200)]
    for data in (build(shared), build(SECTIONS, directories={SECURITY: (0x200, 0x200)})):
        with pytest.raises(DamagedImageError, match=r"headers and sections have 0x.00 bytes, the file has"):
            digest(data)


@given(offset=st.integers(0, 1 << 32), size=st.integers(0, 1 << 32), garbage=st.binary(max_size=64))
def test_any_certificate_table_ends_in_a_result_or_an_error(offset: int, size: int, garbage: bytes) -> None:
    data = bytearray(build(SECTIONS, trailer=garbage))
    struct.pack_into("<II", data, SECURITY_ENTRY, offset & 0xFFFFFFFF, size & 0xFFFFFFFF)
    for action in (digest, certificates):
        try:
            action(bytes(data))
        except DamagedImageError as error:
            assert str(error).isprintable()


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A key and its self-signed certificate."""
    if not shutil.which("openssl"):
        pytest.skip("needs openssl to make a key")
    folder = tmp_path_factory.mktemp("signer")
    key, crt = folder / "key.pem", folder / "crt.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test", "-days", "2"]
    subprocess.run([*command, "-keyout", key, "-out", crt], check=True, capture_output=True)
    return key, crt


@pytest.mark.parametrize("tool", ["sbsign", "osslsigncode"])
@pytest.mark.parametrize("trailer", [b"", b"odd-t"])
def test_signing_tools_sign_the_hash_that_we_compute(
    tool: str, trailer: bytes, signer: tuple[Path, Path], tmp_path: Path
) -> None:
    if not shutil.which(tool):
        pytest.skip(f"{tool} is not installed")
    key, crt = signer
    plain, signed = tmp_path / "plain.efi", tmp_path / "signed.efi"
    plain.write_bytes(build(SECTIONS, relocations=[(0x1000, 10)], trailer=trailer))
    if tool == "sbsign":
        command: list[str | Path] = ["sbsign", "--key", key, "--cert", crt, "--output", signed, plain]
    else:
        command = ["osslsigncode", "sign", "-certs", crt, "-key", key, "-h", "sha256", "-in", plain, "-out", signed]
    subprocess.run(command, check=True, capture_output=True)
    image = pe.parse(signed.read_bytes())
    (entry,) = authenticode.certificates(image)
    assert entry.pkcs7 is not None
    assert entry.pkcs7.startswith(b"\x30\x82")
    # The hash stands in the clear in the signed SpcIndirectDataContent.
    assert authenticode.digest(image) in entry.pkcs7


@pytest.mark.guests
@pytest.mark.skipif(
    "CVMBOOT_GUESTS" not in os.environ, reason="CVMBOOT_GUESTS does not name a folder of guest programs"
)
def test_debians_signatures_hold_the_hash_that_we_compute() -> None:
    checked = 0
    for path in Path(os.environ["CVMBOOT_GUESTS"]).rglob("*"):
        if not path.is_file() or path.open("rb").read(2) != b"MZ":
            continue
        try:
            image = pe.parse(path.read_bytes())
        except LoaderError:
            continue
        for entry in authenticode.certificates(image):
            if entry.pkcs7:
                assert authenticode.digest(image) in entry.pkcs7, path.name
                checked += 1
    if not checked:
        pytest.skip("no signed image in CVMBOOT_GUESTS")
