"""Images that are built, judged by sgdisk, fsck, mtools, sbverify and osslsigncode."""

import datetime
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from image_tools import ENVIRONMENT, GIB, HELLO, MIB, files_on, needs, tool

from images.build import build
from images.compose import compose
from loader import authenticode, pe
from loader.authenticode_sign import Signer, sign
from loader.errors import LoaderError, SigningError
from uefi import guids
from uefi.security import image_policy, signature_lists
from uefi.security.signature_lists import Signature, SignatureList

BOOT = "\\EFI\\BOOT\\BOOTX64.EFI"


@needs("sgdisk", "fsck.vfat", "mdir", "mcopy")
@pytest.mark.parametrize(
    ("size", "esp_size"),
    [(36 * MIB, 34 * MIB), (GIB, None), (GIB, 300 * MIB), (20 * GIB, 9 * GIB), (40 * GIB, 33 * GIB)],
)
def test_partitions_and_volume_are_sound(tmp_path: Path, size: int, esp_size: int | None) -> None:
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    for number in range(60):
        (tmp_path / "tree" / "sub" / f"A file with a long name {number}.txt").write_bytes(
            bytes([number]) * number * 999
        )
    made = build(
        HELLO, tmp_path / "disk.raw", size=size, esp_size=esp_size, add=[(tmp_path / "tree", "/")], label="TEST"
    )
    assert "No problems found" in tool("sgdisk", "-v", tmp_path / "disk.raw")
    shown = tool("sgdisk", "-i", "1", tmp_path / "disk.raw")
    assert "C12A7328-F81F-11D2-BA4B-00A0C93EC93B" in shown and "First sector: 2048" in shown
    with (tmp_path / "disk.raw").open("rb") as disk, (tmp_path / "volume").open("wb") as volume:
        volume.truncate(made.composition.esp_size)
        for offset, count in made.composition.device.extents():  # type: ignore[attr-defined]
            if MIB <= offset < MIB + made.composition.esp_size:
                disk.seek(offset)
                volume.seek(offset - MIB)
                volume.write(disk.read(count))
    report = tool("fsck.vfat", "-n", "-v", tmp_path / "volume")
    assert "65 files" in report  # 61, the directories EFI, BOOT and sub, and the label
    volume_at = f"{tmp_path / 'disk.raw'}@@1M"
    assert "Volume in drive : is TEST" in tool("mdir", "-i", volume_at, "::/")
    (tmp_path / "out").mkdir()
    tool("mcopy", "-s", "-n", "-i", volume_at, "::/*", tmp_path / "out")
    found = {
        "\\" + str(path.relative_to(tmp_path / "out")).replace("/", "\\"): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert found == files_on(made.composition.device)


class Keys:
    """A key and its own certificate, as files."""

    def __init__(self, folder: Path, name: str = "db") -> None:
        key = rsa.generate_private_key(65537, 2048)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime(2026, 1, 1)
        builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        certificate = builder.not_valid_before(now).not_valid_after(now.replace(year=2046)).sign(key, SHA256())
        self.der = certificate.public_bytes(Encoding.DER)
        self.key, self.certificate = folder / f"{name}.key", folder / f"{name}.crt"
        self.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))

    def signer(self) -> Signer:
        return Signer.load(self.key, self.certificate)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys"))


def decide(data: bytes, *certificates: bytes) -> image_policy.Decision:
    """Our own Secure Boot's word about an image."""
    image = pe.parse(data)
    blobs = [one.pkcs7 for one in authenticode.certificates(image) if one.pkcs7 is not None]
    owner = guids.GLOBAL_VARIABLE
    lists = signature_lists.build([SignatureList(guids.CERT_X509, [Signature(owner, der)]) for der in certificates])
    return image_policy.check_image(lambda name: authenticode.digest(image, name), blobs, lists, b"")


def test_a_signed_application_starts_under_secure_boot(keys: Keys, tmp_path: Path) -> None:
    one, two = (compose(HELLO, signer=keys.signer()) for _ in range(2))
    assert one.identity == two.identity, "a signature that is another one each time"
    data = files_on(one.device)[BOOT]
    assert decide(data, keys.der).allowed
    assert not decide(data, Keys(tmp_path, "somebody else").der).allowed
    assert not decide(HELLO.read_bytes(), keys.der).allowed
    changed = bytearray(data)
    changed[0x400] ^= 1
    assert not decide(bytes(changed), keys.der).allowed
    assert authenticode.digest(pe.parse(data)) == authenticode.digest(pe.parse(HELLO.read_bytes()))


def test_a_second_signature_is_added(keys: Keys, tmp_path: Path) -> None:
    second = Keys(tmp_path, "second")
    data = sign(sign(HELLO.read_bytes(), keys.signer()), second.signer())
    assert len(list(authenticode.certificates(pe.parse(data)))) == 2
    assert decide(data, keys.der).allowed and decide(data, second.der).allowed


@needs("sbverify")
def test_sbverify_agrees(keys: Keys, tmp_path: Path) -> None:
    second = Keys(tmp_path, "second")
    odd = HELLO.read_bytes() + b"odd"  # needs padding to 8 bytes
    for number, data in enumerate((HELLO.read_bytes(), odd, sign(odd, second.signer()))):
        signed = tmp_path / f"{number}.efi"
        signed.write_bytes(sign(data, keys.signer()))
        assert "Signature verification OK" in tool("sbverify", "--cert", keys.certificate, signed)
        assert "failed" in tool("sbverify", "--cert", Keys(tmp_path, "other").certificate, signed, good=(1,)).lower()


@needs("osslsigncode")
def test_osslsigncode_agrees(keys: Keys, tmp_path: Path) -> None:
    signed = tmp_path / "signed.efi"
    signed.write_bytes(sign(HELLO.read_bytes(), keys.signer()))
    report = tool("osslsigncode", "verify", "-CAfile", keys.certificate, signed)
    assert "Number of verified signatures: 1" in report
    assert "Succeeded" in report


@needs("sbsign", "sbverify")
def test_what_sbsign_has_signed_is_signed_again(keys: Keys, tmp_path: Path) -> None:
    second = Keys(tmp_path, "second")
    theirs = tmp_path / "theirs.efi"
    tool("sbsign", "--key", second.key, "--cert", second.certificate, "--output", theirs, HELLO)
    data = sign(theirs.read_bytes(), keys.signer())
    assert decide(data, keys.der).allowed and decide(data, second.der).allowed
    theirs.write_bytes(data)
    assert "Signature verification OK" in tool("sbverify", "--cert", keys.certificate, theirs)


def test_the_checksum_is_the_linkers(keys: Keys) -> None:
    import pefile

    image = pefile.PE(data=sign(HELLO.read_bytes(), keys.signer()))
    assert image.OPTIONAL_HEADER.CheckSum == image.generate_checksum()


@needs("openssl")
def test_openssl_reads_the_signature(keys: Keys, tmp_path: Path) -> None:
    data = sign(HELLO.read_bytes(), keys.signer())
    (certificate,) = authenticode.certificates(pe.parse(data))
    assert certificate.pkcs7 is not None
    done = subprocess.run(
        ["openssl", "pkcs7", "-inform", "DER", "-print", "-noout"],
        input=certificate.pkcs7, capture_output=True, check=True, env=ENVIRONMENT,
    )  # fmt: skip
    assert b"1.3.6.1.4.1.311.2.1.4" in done.stdout and b"signingTime" not in done.stdout


def test_keys_that_do_not_belong_together(keys: Keys, tmp_path: Path) -> None:
    other = Keys(tmp_path, "other")
    with pytest.raises(SigningError, match="does not belong"):
        Signer.load(other.key, keys.certificate)
    with pytest.raises(SigningError, match="no certificate"):
        Signer.load(keys.key, keys.key)
    with pytest.raises(LoaderError):
        sign(b"MZ nothing", keys.signer())
