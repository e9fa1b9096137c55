"""Key files of every common form, and UefiData that two independent readers read."""

import base64
import contextlib
import datetime
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from struct import pack

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from cloud.ec2.uefi_data import MOST_CHARACTERS, uefi_data
from cloud.errors import Unfit
from cloud.secure_boot_keys import (
    CERT_SHA256,
    CERT_X509,
    SecureBootKeys,
    certificate_list,
    read_keys,
    signatures,
)

KEY = ec.generate_private_key(ec.SECP256R1())
AUTH_HEADER = pack("<16sIHH", bytes(16), 24 + 7, 0x0200, 0x0EF1) + bytes.fromhex("9dd2af4adf68ee498aa9347d375665a7")


def certificate(name: str) -> bytes:
    """DER of a certificate."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime(2026, 1, 1)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(KEY.public_key())
        .serial_number(7)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=3650))
        .sign(KEY, hashes.SHA256())
    )
    return built.public_bytes(Encoding.DER)


PK, KEK, DB, DB2 = (certificate(name) for name in ("our PK", "our KEK", "our db", "our second db"))
DBX = CERT_SHA256 + pack("<III", 28 + 2 * 48, 0, 48) + b"".join(bytes(16) + bytes([digit]) * 32 for digit in (1, 2))


def pem(der: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Make a folder of key files."""

    def make(**contents: bytes | None) -> Path:
        plain: dict[str, bytes | None] = {"PK.der": PK, "KEK.der": KEK, "db.der": DB}
        for name, data in (plain | contents).items():
            if data is not None:
                path = tmp_path / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(data)
        return tmp_path

    return make


def entries(lists: bytes) -> list[bytes]:
    return [data for _, _, data in signatures(lists)]


def test_every_form_of_file_gives_the_same_keys(folder: Callable[..., Path]) -> None:
    keys = read_keys(
        folder(
            **{
                "PK.der": None,
                "PK.pem": pem(PK),
                "KEK.der": None,
                "KEK.auth": AUTH_HEADER + b"pkcs7!!" + certificate_list(KEK),
                "db.der": None,
                "db.crt": DB,
                "db-second.cer": DB2,
                "dbx.esl": DBX,
            }
        )
    )
    assert entries(keys.pk) == [PK] and entries(keys.kek) == [KEK]
    assert entries(keys.db) == [DB2, DB] or entries(keys.db) == [DB, DB2]
    assert keys.dbx == DBX


def test_the_folders_of_sbctl_are_read_and_its_private_keys_are_not(folder: Callable[..., Path]) -> None:
    private = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    tree = {f"{name}/{name}.pem": pem(der) for name, der in (("PK", PK), ("KEK", KEK), ("db", DB))}
    tree |= {f"{name}/{name}.key": private for name in ("PK", "KEK", "db")}
    keys = read_keys(folder(**{"PK.der": None, "KEK.der": None, "db.der": None}, **tree))
    assert [entries(lists) for _, lists in keys.items()] == [[PK], [KEK], [DB]]


def test_the_same_key_in_two_forms_is_one_entry(folder: Callable[..., Path]) -> None:
    assert entries(read_keys(folder(**{"db.pem": pem(DB), "db.esl": certificate_list(DB)})).db) == [DB]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"PK.der": None}, "no PK; put PK.der"),
        ({"db.der": None, "KEK.der": None}, "no KEK and no db"),
        ({"db.der": b"no certificate"}, r"db\.der: no X\.509 certificate"),
        ({"db.pem": b"-----BEGIN PRIVATE KEY-----\n", "db.der": None}, "private key"),
        ({"db.esl": b"short", "db.der": None}, r"db\.esl: 5 bytes behind the last list"),
        ({"db.esl": CERT_X509 + pack("<III", 999, 0, 99), "db.der": None}, "do not fit"),
        ({"db.auth": certificate_list(DB), "db.der": None}, r"db\.auth"),
        ({"db.auth": AUTH_HEADER, "db.der": None}, "does not fit"),
        ({"PK-two.der": KEK}, "PK has 2 entries, wanted one"),
        ({"PK.der": None, "PK.esl": DBX}, "PK has 2 entries, wanted one"),
        ({"db.der": bytes((1 << 20) + 1)}, "more than 1048576 bytes"),
    ],
)
def test_what_is_wrong_is_one_line_with_the_file(
    folder: Callable[..., Path], files: dict[str, bytes], message: str
) -> None:
    with pytest.raises(Unfit, match=message) as caught:
        read_keys(folder(**files))
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Unfit, match="nowhere: No such file or directory"):
        read_keys(tmp_path / "nowhere")


@given(st.binary(max_size=300))
def test_any_bytes_as_signature_lists_end_in_entries_or_a_value_error(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        list(signatures(data))


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.binary(max_size=200))
def test_any_sizes_too(size: int, header: int, each: int, body: bytes) -> None:
    with contextlib.suppress(ValueError):
        list(signatures(CERT_X509 + pack("<III", size, header, each) + body))


# UefiData

KEYS = SecureBootKeys(certificate_list(PK), certificate_list(KEK), certificate_list(DB) + certificate_list(DB2), DBX)


def tool(name: str) -> str:
    """The path of a tool that the development environment has beside its Python; skips without it."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        pytest.skip(f"{name} is not installed")
    return str(path)


def test_uefivars_of_awslabs_reads_it(tmp_path: Path) -> None:
    file, output = tmp_path / "uefi.data", tmp_path / "out.json"
    file.write_text(uefi_data(KEYS))
    subprocess.run(
        [tool("uefivars"), "-i", "aws", "-I", file, "-o", "json", "-O", output], check=True, capture_output=True
    )
    seen = {variable["name"]: variable for variable in json.loads(output.read_text())["variables"]}
    assert {name: bytes.fromhex(variable["data"]) for name, variable in seen.items()} == dict(KEYS.items())
    assert {variable["attr"] for variable in seen.values()} == {0x27}
    assert seen["db"]["guid"] == "d719b2cb-3d3a-4596-a3bc-dad00e67656f"
    assert seen["PK"]["guid"] == "8be4df61-93ca-11d2-aa0d-00e098032b8c"


def test_virt_fw_vars_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "uefi.data"
    file.write_text(uefi_data(KEYS))
    command = [tool("virt-fw-vars"), "-i", file, "--print", "--verbose"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for name in ("our PK", "our KEK", "our db", "our second db"):
        assert name in text
    json_file = tmp_path / "vars.json"
    subprocess.run([*command[:3], "--output-json", json_file], check=True, capture_output=True)
    seen = {v["name"]: bytes.fromhex(v["data"]) for v in json.loads(json_file.read_text())["variables"]}
    assert seen == dict(KEYS.items())


def test_what_aws_would_refuse_for_its_length_is_refused_here() -> None:
    from random import Random

    digests = [Random(seed).randbytes(48) for seed in range(1200)]
    dbx = CERT_SHA256 + pack("<III", 28 + 48 * len(digests), 0, 48) + b"".join(digests)
    with pytest.raises(Unfit, match=f"at most {MOST_CHARACTERS} fit; leave entries of dbx out"):
        uefi_data(SecureBootKeys(KEYS.pk, KEYS.kek, KEYS.db, dbx))


def test_keys_that_differ_have_other_digests() -> None:
    assert KEYS.digest != SecureBootKeys(KEYS.pk, KEYS.kek, KEYS.db, b"").digest
    assert SecureBootKeys(b"ab", b"c", b"", b"").digest != SecureBootKeys(b"a", b"bc", b"", b"").digest
