"""What is fuzzed: every parser of sev, each with seeds, and with what must hold of whatever it takes.

A target's `run` gives "valid" or "refused"; anything but an error of sev's own tree, in one line, comes through. What verified
though a byte was changed that a signature covers is an AssertionError.
"""

import base64
import hashlib
import json
import struct
import zlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from evidence_forms import forms
from made_firmware import image, svsm_image
from test_igvm import HEADERS, PAGE, VMSA, id_block_header, igvm, page, platform

from sev import certificate_table
from sev.appraisal import appraise
from sev.certificate_files import split_certificates
from sev.certificates import ARK, ASK, VCEK, Certificate
from sev.collateral.bundle import Bundle
from sev.collateral.kds_client import retry_after
from sev.collateral.pieces import CACHE, Piece
from sev.decoded import decoded
from sev.errors import SevError
from sev.evidence import read_evidence
from sev.guest.message import REPORT_REQ, Message, SealedMessage
from sev.kds import KeyService, pem
from sev.measure import (
    Firmware,
    KernelHashes,
    firmware_digest,
    sev_es_launch_digest,
    snp_launch_digest,
    svsm_launch_digest,
)
from sev.measure.explain import Search
from sev.measure.id_block import IdAuth, IdBlock, decode_public_key, encode_public_key
from sev.measure.igvm import Igvm
from sev.platform import Platform
from sev.platform.key_request import KeyRequest
from sev.policy_file import commented_policy, read_policy
from sev.report import SIGNED_SIZE, SIZE, Report
from sev.revocation import Crl
from sev.verifier import verify

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

VALID, REFUSED = "valid", "refused"
_LONGEST_REASON = 2000
_KEY = bytes(range(32))


class Target:
    """A parser under test. `seeds` are inputs that it takes."""

    def __init__(
        self,
        name: str,
        seeds: Sequence[bytes],
        check: Callable[[bytes], object],
        repair: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self.name = name
        self.seeds = list(seeds)
        self._check = check
        self._repair = repair

    def run(self, data: bytes, repaired: bool = False) -> str:
        """VALID or REFUSED; `repaired` puts checksums right first, so that what lies behind them is reached."""
        if repaired and self._repair:
            data = self._repair(data)
        try:
            self._check(data)
        except SevError as error:
            text = str(error)
            assert text and "\n" not in text and len(text) < _LONGEST_REASON, f"{self.name}: {text[:200]!r}"
            return REFUSED
        return VALID


def targets(milan: Platform, turin: Platform) -> list[Target]:
    """All targets, over the certificates and reports of two emulated platforms."""
    from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key

    signed = Signed(milan)
    other = Signed(turin)
    tables = [certificate_table.encode(each.entries) for each in (signed, other)]
    bundles = [Bundle(each.report, [Piece(item, CACHE) for item in each.items]).encode() for each in (signed, other)]
    der = [certificate.der for each in (signed, other) for certificate in each.certificates]
    texts = [b"".join(pem("CERTIFICATE", each) for each in der[:3]), pem("X509 CRL", signed.crl.der)]
    key = generate_private_key(SECP384R1())
    block = IdBlock(bytes(range(48)), guest_svn=1)
    auth = IdAuth.sign(block, key, generate_private_key(SECP384R1()))
    message = Message(REPORT_REQ, bytes(96), 1, 0).seal(_KEY).ljust(4096, b"\0")
    service = KeyService(milan)
    hwid = milan.settings.hwid.hex()
    queries = [
        f"/vcek/v1/Milan/{hwid}?blSPL=03&teeSPL=00&snpSPL=08&ucodeSPL=115".encode(),
        *(b"/vcek/v1/Milan/cert_chain", b"/vlek/v1/Milan/crl"),
    ]
    return [
        Target("reports", [signed.report, other.report, signed.report_of_version_2], _each(signed, other).report),
        Target("evidence", _evidence(signed, tables[0]), _each(signed, other).evidence),
        Target("certificates", [*der, *texts], _each(signed, other).certificate),
        Target("certificate tables", tables, _table),
        Target("bundles", bundles, _each(signed, other).bundle, _bundle_digests),
        Target("CRLs", [signed.crl.der, other.crl.der], _each(signed, other).crl_bytes),
        Target("policy files", _policies(signed, other), signed.policy),
        Target("IGVM files", _igvm_files(key), _igvm, _igvm_checksum),
        Target("OVMF files", [image(0x2000), svsm_image(0x1000), image(0x1000)], _ovmf),
        Target("ID blocks", [block.pack() + auth.pack(), encode_public_key(key.public_key())], _id_block(block, auth)),
        Target("guest messages", [message, KeyRequest().encode()], _message),
        Target("KDS requests", queries, lambda data: _request(service, data)),
    ]


class Signed:
    """A report that verifies, and everything that it takes: the leaf, ASK, ARK and CRL of an emulated platform."""

    def __init__(self, platform: Platform) -> None:
        issued = platform.authority().certificates
        self.ark = issued[ARK]
        self.certificates = [platform.leaf("vcek"), issued[ASK], issued[ARK]]
        self.crl = Crl.decode(platform.crl())
        self.report = platform.sign_report(platform.report(report_data=b"n" * 64).encode())
        self.report_of_version_2 = platform.sign_report(platform.report(version=2).encode())
        self.items = [*self.certificates, self.crl]
        names = {VCEK: "VCEK", ASK: "ASK", ARK: "ARK"}
        self.entries = [(names[certificate.kind], certificate.der) for certificate in self.certificates]
        self.at = datetime.now(UTC)

    def verified(self, report: bytes, certificates: Sequence[Certificate], crls: Sequence[Crl] = ()) -> bool:
        """Whether a report verifies with these and the default policy; the whole verdict is written, too."""
        verdict = verify(report, certificates, roots=[self.ark], crls=crls, at=self.at)
        try:
            appraise(verdict, Report.decode(report))
        except SevError:
            assert not verdict.verified
        assert "\n" not in verdict.reason and verdict.to_json()
        return verdict.verified

    def policy(self, data: bytes) -> None:
        policy = read_policy(data)
        verdict = verify(self.report, self.certificates, roots=[self.ark], at=self.at)
        appraise(verdict, Report.decode(self.report), policy)
        assert "\n" not in verdict.reason


class _each:  # noqa: N801
    """The checks of what is signed, for the signed things of several platforms."""

    def __init__(self, *signed: Signed) -> None:
        self._signed = signed

    def _unchanged(self, report: bytes, signed: Signed) -> bool:
        """Whether the signed part of a report is that of one of ours."""
        return report[:SIGNED_SIZE] in (signed.report[:SIGNED_SIZE], signed.report_of_version_2[:SIGNED_SIZE])

    def report(self, data: bytes) -> None:
        report = Report.decode(data)
        assert report.encode() == data
        decoded(report)
        for signed in self._signed:
            if signed.verified(data, signed.certificates, [signed.crl]):
                assert self._unchanged(data, signed)

    def evidence(self, data: bytes) -> None:
        found = read_evidence(data)
        assert len(found.report) == SIZE
        for signed in self._signed:
            if signed.verified(found.report, [*found.certificates, *signed.certificates], found.crls):
                assert self._unchanged(found.report, signed)

    def certificate(self, data: bytes) -> None:
        for kind, der in split_certificates(data):
            if kind != "CERTIFICATE":
                Crl.decode(der)
                continue
            changed = Certificate.decode(der)
            assert changed.der == der
            genuine = {each.der for signed in self._signed for each in signed.certificates}
            for signed in self._signed:
                others = [each for each in signed.certificates if each.kind != changed.kind]
                if changed.kind in (VCEK, ASK) and signed.verified(signed.report, [changed, *others]):
                    assert der in genuine

    def crl_bytes(self, data: bytes) -> None:
        crl = Crl.decode(data)
        for signed in self._signed:
            if crl.signature_problem(signed.ark) is None:
                assert crl.der == signed.crl.der
            signed.verified(signed.report, signed.certificates, [crl])

    def bundle(self, data: bytes) -> None:
        bundle = Bundle.decode(data)
        assert Bundle.decode(bundle.encode()).encode() == bundle.encode()
        evidence = bundle.evidence()
        for signed in self._signed:
            if signed.verified(evidence.report, evidence.certificates, evidence.crls):
                assert self._unchanged(evidence.report, signed)


def _bundle_digests(data: bytes) -> bytes:
    """The same bundle with the SHA-256 that its pieces now have."""
    try:
        plain = json.loads(data)
        for entry in plain["collateral"]:
            entry["sha256"] = hashlib.sha256(base64.b64decode(entry["der"])).hexdigest()
        return json.dumps(plain).encode()
    except (ValueError, TypeError, KeyError, RecursionError):
        return data


def _evidence(signed: Signed, table: bytes) -> list[bytes]:
    return forms(signed.report, [certificate.der for certificate in signed.certificates], table)


def _table(data: bytes) -> None:
    entries = certificate_table.decode(data)
    assert sum(len(contents) for _, contents in entries) <= len(entries) * len(data)
    read_evidence(bytes([5, 0, 0, 0]).ljust(SIZE, b"\0") + data)


def _policies(*each: Signed) -> list[bytes]:
    whole = """measurement = ["{0}", "{0}"]
report_data = "{1}"
min_tcb = {{ blSPL = 3, teeSPL = 0, snpSPL = 8, ucodeSPL = 115 }}
min_firmware = "1.55.8"
vmpl = "any"
crl = "required"
allow = ["debug", "migration", "reserved"]
min_guest_svn = 1
"""
    written = [commented_policy(Report.decode(signed.report)).encode() for signed in each]
    return [*written, whole.format("00" * 48, "11" * 64).encode()]


_IGVM_DIGEST = bytes(range(48))


def _igvm_files(key: "EllipticCurvePrivateKey") -> list[bytes]:
    small = [platform(), page(0x1000, 0x1000), page(0x2000), page(0x3000, kind=2)]
    block = id_block_header(IdBlock(_IGVM_DIGEST, policy=0x30000), key, key)
    return [igvm(HEADERS, PAGE + VMSA), igvm([*HEADERS, block], PAGE + VMSA, 2), igvm(small, PAGE)]


def _igvm(data: bytes) -> None:
    file = Igvm(data)
    file.kvm_differences()
    assert all(count >= 0 for count in file.page_counts().values())
    assert len(file.launch_digest()) == len(file.launch_digest(native_zero=True)) == 48
    if file.id_block:
        signed, auth = file.id_block.signed(file.guest_policy or 0)
        auth.verify(signed)
        assert signed.launch_digest == _IGVM_DIGEST


def _igvm_checksum(data: bytes) -> bytes:
    if len(data) < 24:
        return data
    start, length = struct.unpack_from("<II", data, 8)
    fixed = data[:16] + struct.pack("<II", len(data), 0) + data[24:]
    return fixed[:20] + struct.pack("<I", zlib.crc32(fixed[: min(start + length, len(fixed))])) + fixed[24:]


def _ovmf(data: bytes) -> None:
    firmware = Firmware(data)
    assert len(firmware_digest(firmware).value) == 48
    kernel = KernelHashes.of(b"k") if firmware.hash_table_gpa else None
    done = []
    for measure in (
        lambda: snp_launch_digest(firmware, vcpus=2, signature=0xA00F11),
        lambda: snp_launch_digest(firmware, vcpus=1, signature=0xA00F11, kernel=kernel),
        lambda: sev_es_launch_digest(firmware, vcpus=2, signature=0xA00F11, kernel=kernel),
        lambda: svsm_launch_digest(firmware, firmware, vcpus=1, signature=0xA00F11),
        lambda: Search(firmware, most_vcpus=1).signatures,
    ):
        try:
            done.append(measure())
        except SevError as error:
            assert "\n" not in str(error)


def _id_block(block: IdBlock, auth: IdAuth) -> Callable[[bytes], None]:
    packed = block.pack()

    def check(data: bytes) -> None:
        if len(data) < 0x500:
            decode_public_key(data)
            return
        changed, its_auth = IdBlock.unpack(data[:0x60]), IdAuth.unpack(data[0x60:])
        its_auth.verify(changed)
        assert changed.pack() == packed
        assert its_auth.id_key == auth.id_key
        # Whose author key is cut off is still the same guest's, but AUTHOR_KEY_DIGEST says so.
        assert its_auth.author_key in (auth.author_key, None)

    return check


def _message(data: bytes) -> None:
    if len(data) <= 0x40:
        KeyRequest.decode(data)
        return
    sealed = SealedMessage(data.ljust(4096, b"\0")[:4096])
    assert sealed.open(_KEY) == bytes(96)


def _request(service: KeyService, data: bytes) -> None:
    text = data.decode("latin-1")
    told = service.answer(text)
    assert told.status in (200, 400, 404)
    assert retry_after(text[-30:]) >= 0
    if told.status != 200:
        raise SevError(told.body.decode().strip())


def real_seeds(folder: Path) -> dict[str, list[bytes]]:
    """More seeds, by the names of targets, from real reports, certificates and CRLs, where they are at hand."""
    if not folder.is_dir():
        return {}
    reports = [file.read_bytes() for file in sorted(folder.glob("pairs/*/report.bin"))]
    return {
        "evidence": [*reports, *(report.hex().encode() for report in reports[:2])],
        "certificates": [
            file.read_bytes() for file in sorted([*folder.glob("pairs/*/vek.der"), *folder.glob("roots/*")])
        ],
        "CRLs": [file.read_bytes() for file in sorted(folder.glob("crl/*.crl"))],
        "OVMF files": [file.read_bytes() for file in sorted(folder.glob("measure/*.bin"))],
    }
