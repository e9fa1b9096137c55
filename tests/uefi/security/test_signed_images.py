"""Secure Boot on images that others signed: Debian's shim and GRUB, and what sbsign signs here."""

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from signing_keys import Identity

from loader import authenticode, pe
from uefi import guids
from uefi.guids import Guid
from uefi.security import image_policy, pkcs7, signature_lists
from uefi.security.certificates import Certificate
from uefi.security.image_policy import Decision
from uefi.security.signature_lists import Signature, SignatureList
from uefi.security.timestamps import signing_time
from uefi.status import Status
from uefi.time import EfiTime
from uefi.variables.nv_file import NvFile

FOLDERS = (os.environ.get("CVMBOOT_GUESTS"), "/usr/lib/shim", "/usr/lib/grub/x86_64-efi-signed")
OVMF = Path("/usr/share/OVMF/OVMF_VARS_4M.ms.fd")
SAMPLES = Path(__file__).parents[3] / "samples"
OWNER = Guid(bytes(16))


def guest(name: str) -> Path:
    for folder in filter(None, FOLDERS):
        path = Path(folder) / name
        if path.is_file():
            return path
    pytest.skip(f"no {name} in CVMBOOT_GUESTS, and Debian's package is not installed")


def blobs(path: Path) -> list[bytes]:
    return [each.pkcs7 for each in authenticode.certificates(pe.parse(path.read_bytes())) if each.pkcs7]


def decide(path: Path, db: bytes, dbx: bytes = b"", dbt: bytes = b"") -> Decision:
    image = pe.parse(path.read_bytes())
    return image_policy.check_image(lambda name: authenticode.digest(image, name), blobs(path), db, dbx, dbt)


def x509(*certificates: bytes) -> bytes:
    return signature_lists.build([SignatureList(guids.CERT_X509, [Signature(OWNER, der)]) for der in certificates])


def hashes(kind: Guid, *values: bytes) -> bytes:
    return signature_lists.build([SignatureList(kind, [Signature(OWNER, value) for value in values])])


def vendor_certificate(shim: Path) -> bytes:
    """The certificate that shim trusts besides db: its section .vendor_cert, found by the certificate's name."""
    image = pe.parse(shim.read_bytes())
    for section in image.sections:
        data = bytes(image.file[section.raw_offset : section.raw_offset + section.raw_size])
        if b"Debian Secure Boot CA" in data:
            break
    else:
        pytest.skip("this shim carries no certificate of Debian")
    size, _, offset, _ = struct.unpack_from("<IIII", data)
    return data[offset : offset + size]


def test_every_signature_of_shim_and_grub_is_good() -> None:
    for name in ("shimx64.efi.signed", "grubx64.efi.signed"):
        image = pe.parse(guest(name).read_bytes())
        for blob in blobs(guest(name)):
            signed = pkcs7.parse(blob)
            assert pkcs7.verify_signatures(signed)
            algorithm, value = image_policy.spc_digest(signed)
            assert authenticode.digest(image, algorithm) == value


def test_shim_starts_with_microsofts_certificate_in_db() -> None:
    shim = guest("shimx64.efi.signed")
    for blob in blobs(shim):
        authority = pkcs7.parse(blob).certificates[-1]
        assert decide(shim, x509(authority.der)).allowed
        assert decide(shim, x509(authority.der), x509(authority.der)).status == Status.ACCESS_DENIED


@pytest.mark.skipif(not OVMF.exists(), reason="Debian's package ovmf is not installed")
def test_shim_starts_and_grub_does_not_with_the_keys_that_ovmf_ships() -> None:
    values = {each.name: each.data for each in NvFile(OVMF).load()}
    decision = decide(guest("shimx64.efi.signed"), values["db"], values["dbx"])
    assert decision.allowed
    assert "Microsoft Corporation UEFI CA 2011" in decision.reason
    assert decide(guest("grubx64.efi.signed"), values["db"], values["dbx"]).status == Status.SECURITY_VIOLATION


def test_grub_starts_with_the_certificate_that_shim_carries() -> None:
    certificate = vendor_certificate(guest("shimx64.efi.signed"))
    decision = decide(guest("grubx64.efi.signed"), x509(certificate))
    assert decision.allowed
    assert "Debian Secure Boot CA" in decision.reason
    leaf = pkcs7.parse(blobs(guest("grubx64.efi.signed"))[0]).certificates[0]
    assert decide(guest("grubx64.efi.signed"), x509(certificate), x509(leaf.der)).status == Status.ACCESS_DENIED


def test_microsofts_time_stamp_outlives_a_later_revocation() -> None:
    import hashlib

    shim = guest("shimx64.efi.signed")
    blob = blobs(shim)[0]
    signed = pkcs7.parse(blob)
    [signer] = signed.signers
    [token] = signer.timestamps
    stamping = pkcs7.parse(token).certificates[-1]
    moment = signing_time(signer, [stamping])
    assert moment is not None
    assert moment.year >= 2024
    assert signing_time(signer, [Certificate(signed.certificates[0].der)]) is None
    authority = signed.certificates[-1]
    for year, allowed in ((moment.year + 1, True), (moment.year - 1, False)):
        entry = hashlib.sha256(authority.tbs).digest() + EfiTime(year, 1, 1).pack()
        dbx = hashes(guids.CERT_X509_SHA256, entry)
        assert decide(shim, x509(authority.der), dbx, x509(stamping.der)).allowed == allowed
        assert not decide(shim, x509(authority.der), dbx).allowed


def test_a_changed_byte_in_a_signed_image_is_noticed(tmp_path: Path) -> None:
    grub = guest("grubx64.efi.signed")
    certificate = vendor_certificate(guest("shimx64.efi.signed"))
    data = bytearray(grub.read_bytes())
    data[0x2000] ^= 1
    changed = tmp_path / "changed.efi"
    changed.write_bytes(data)
    decision = decide(changed, x509(certificate))
    assert decision.status == Status.SECURITY_VIOLATION
    assert "the signature is for sha256" in decision.reason


@pytest.mark.skipif(not shutil.which("sbsign"), reason="Debian's sbsigntool is not installed")
def test_what_sbsign_signs_starts(tmp_path: Path) -> None:
    unsigned = next(iter(sorted(SAMPLES.glob("**/*.efi"))), None) or guest("grubx64.efi.signed")
    root = Identity("our root", ca=True)
    leaf = Identity("our signer", root)
    image = unsigned
    for number, identity in enumerate((leaf, Identity("a second signer"))):
        (tmp_path / "key").write_bytes(identity.pem_key())
        (tmp_path / "certificate").write_bytes(identity.pem_certificate())
        output = tmp_path / f"{number}.efi"
        command = ["sbsign", "--key", "key", "--cert", "certificate", "--output", str(output), str(image)]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
        image = output
    assert len(blobs(image)) == len(blobs(unsigned)) + 2
    assert decide(image, x509(root.der)).allowed
    assert decide(image, x509(leaf.der)).allowed
    assert decide(image, x509(Identity("a second signer").der)).allowed
    assert decide(image, x509(Identity("somebody else").der)).status == Status.SECURITY_VIOLATION
    image_hash = authenticode.digest(pe.parse(image.read_bytes()))
    assert decide(image, hashes(guids.CERT_SHA256, image_hash)).allowed
