"""An emulated AMD platform: one chip, kept in a folder, that signs reports and derives keys.

    platform = Platform.new(folder, product="turin")       # milan, genoa, turin
    platform = Platform.open(folder, product="turin")       # load it, or make it without its certificates
    platform = Platform.load(folder)                        # cheap: two small files, no cryptography imported
    report = platform.report(report_data=nonce, vmpl=0)     # sev.report.Report with this platform's fields filled in
    raw = platform.sign_report(report.encode())             # 1184 bytes, signed by the key that the report names
    key = platform.derive_key(KeyRequest.decode(payload, message_version), GuestFields(...))   # 32 bytes; Refused(status)
    table = platform.certificate_table()                    # bytes for an extended guest request

All keys of the chip come from one secret of 32 bytes, so that every TCB has its own VCEK, as on the real one. The RSA keys of
its certificate authority take seconds to make: `new(..., with_certificates=False)` leaves them until a certificate is wanted.
"""

import hashlib
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sev import certificate_table
from sev.certificates import ARK, ASK, ASVK, Certificate
from sev.errors import PlatformError, Refused
from sev.firmware_status import INVALID_KEY
from sev.platform.authority import Authority, years_after
from sev.platform.key_request import (
    KEY_SEL_DEFAULT,
    KEY_SEL_VCEK,
    KEY_SEL_VLEK,
    ROOT_VMRK,
    GuestFields,
    KeyRequest,
)
from sev.platform.settings import Settings
from sev.platform.store import read_file, read_settings, write_folder
from sev.report import (
    ECDSA_P384_SHA384,
    SIGNED_SIZE,
    SIGNER_NONE,
    SIGNER_VCEK,
    SIGNER_VLEK,
    SIZE,
    Report,
)
from sev.tcb import Tcb

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

VCEK = "vcek"
VLEK = "vlek"
_SETTINGS = "platform.json"
_SECRET = "secret.bin"
_SECRET_SIZE = 32
_P384_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
_COMPONENT = 72
_MOST_LEAVES = 256


class Platform:
    """The chip. `settings` say what it is (sev.platform.settings.Settings); `folder` is where it is kept."""

    def __init__(self, folder: Path, settings: Settings, secret: bytes) -> None:
        self.folder = folder
        self.settings = settings
        self._secret = secret
        self._signing_keys: dict[tuple[str, bytes], EllipticCurvePrivateKey] = {}
        self._leaves: dict[tuple[str, bytes], Certificate] = {}
        self._authority: Authority | None = None

    @classmethod
    def new(
        cls, folder: Path, product: str = "turin", *, with_certificates: bool = True, **settings: Any
    ) -> "Platform":
        """Make a platform in a folder that does not exist yet or is empty; settings as in Settings.

        PlatformError for bad settings, or a folder that has something in it.
        """
        made = Settings(product, **settings)
        files = {_SETTINGS: json.dumps(made.to_json(), indent=2).encode() + b"\n", _SECRET: os.urandom(_SECRET_SIZE)}
        try:
            write_folder(folder, files, private={_SECRET})
        except FileExistsError:
            raise PlatformError(f"{folder} exists and is not an empty folder; name another") from None
        platform = cls.load(folder)
        if with_certificates:
            platform.authority()
        return platform

    @classmethod
    def load(cls, folder: Path, **changes: Any) -> "Platform":
        """The platform that `new` kept in a folder; `changes` are settings that count for this object only.

        PlatformError if there is none, its files are malformed, or others can read its secret.
        """
        path = folder / _SETTINGS
        if not path.exists():
            raise PlatformError(f"{folder}: no emulated platform there; make one with `cvmboot platform new`")
        try:
            settings = Settings.from_json(read_settings(path), **changes)
        except PlatformError as error:
            raise PlatformError(f"{path}: {error}") from None
        secret = read_file(folder / _SECRET, private=True)
        if len(secret) != _SECRET_SIZE:
            raise PlatformError(f"{folder / _SECRET}: {len(secret)} bytes; wanted {_SECRET_SIZE}")
        return cls(folder, settings, secret)

    @classmethod
    def open(cls, folder: Path, product: str = "turin", **changes: Any) -> "Platform":
        """The platform in a folder; made first, without certificates, if the folder does not exist or is empty.

        PlatformError as from `new` and `load`, and for a platform of another product.
        """
        if not (folder / _SETTINGS).exists():
            try:
                cls.new(folder, product, with_certificates=False)
            except PlatformError:
                # Another process may have made it in between.
                if not (folder / _SETTINGS).exists():
                    raise
        platform = cls.load(folder, **changes)
        if platform.settings.product != product:
            raise PlatformError(f"{folder}: a platform of product {platform.settings.product}; wanted {product}")
        return platform

    @property
    def chip_id(self) -> bytes:
        """CHIP_ID of a report: HWID and zeros, 64 bytes."""
        return self.settings.hwid.ljust(64, b"\0")

    @property
    def fingerprint(self) -> str:
        """What tells this platform, with its present settings, from all others: SHA-256 in hexadecimal."""
        text = json.dumps(self.settings.to_json(), sort_keys=True).encode()
        return hashlib.sha256(b"cvmboot platform\0" + text + b"\0" + self._secret).hexdigest()

    @property
    def default_key(self) -> str:
        """What KEY_SEL 0 means: the VLEK if it is loaded, or else the VCEK."""
        return VLEK if self.settings.load_vlek else VCEK

    def select_key(self, key_sel: int) -> str:
        """VCEK or VLEK for a KEY_SEL of 0 to 2 (MSG_REPORT_REQ). Refused(INVALID_KEY) for a VLEK that is not loaded."""
        key = {KEY_SEL_DEFAULT: self.default_key, KEY_SEL_VCEK: VCEK, KEY_SEL_VLEK: VLEK}[key_sel]
        if key == VLEK and not self.settings.load_vlek:
            raise Refused(INVALID_KEY, "the VLEK is asked for, and none is loaded")
        return key

    def report(self, version: int = 5, key: str = VCEK, **fields: Any) -> Report:
        """An unsigned report: what the platform knows is filled in, `fields` are the rest, or replace it.

        A report that a VLEK is to sign has no CHIP_ID; version 2 has no CPUID, versions below 5 have no mitigation vectors.
        """
        own = self.settings
        family, model, stepping = own.cpuid
        filled: dict[str, Any] = {
            "policy": 0x30000,
            "signature_algo": ECDSA_P384_SHA384,
            "current_tcb": own.current_tcb,
            "committed_tcb": own.committed_tcb,
            "launch_tcb": own.launch_tcb,
            "reported_tcb": own.reported_tcb,
            "platform_info": own.platform_info,
            "key_info": (SIGNER_VLEK if key == VLEK else SIGNER_VCEK) << 2,
            "report_id_ma": b"\xff" * 32,
            "chip_id": bytes(64) if key == VLEK else self.chip_id,
        }
        for prefix, numbers in (("current", own.firmware), ("committed", own.committed_firmware)):
            for name, number in zip(("major", "minor", "build"), numbers, strict=True):
                filled[f"{prefix}_{name}"] = number
        if version >= 3:
            filled |= {"cpuid_fam_id": family, "cpuid_mod_id": model, "cpuid_step": stepping}
        if version >= 5:
            filled |= {"launch_mit_vector": own.mitigation_vector, "current_mit_vector": own.mitigation_vector}
        return Report(version, **{**filled, **fields})

    def sign_report(self, report: bytes) -> bytes:
        """The 1184 bytes with SIGNATURE (r and s of ECDSA P-384 with SHA-384, 72 bytes each, little-endian) filled in.

        The key is the one that SIGNING_KEY and REPORTED_TCB of the report name; with "none" the signature is zeros.
        MalformedReport for what is no report, Refused(INVALID_KEY) for a VLEK that is not loaded.
        """
        decoded = Report.decode(report)
        if decoded.signing_key == SIGNER_NONE:
            return report[:SIGNED_SIZE] + bytes(SIZE - SIGNED_SIZE)
        if decoded.signing_key not in (SIGNER_VCEK, SIGNER_VLEK):
            raise Refused(INVALID_KEY, f"SIGNING_KEY {decoded.signing_key} is reserved")
        kind = VLEK if decoded.signing_key == SIGNER_VLEK else VCEK
        if kind == VLEK and not self.settings.load_vlek:
            raise Refused(INVALID_KEY, "the report names the VLEK, and none is loaded")

        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

        key = self._signing_key(kind, decoded.reported_tcb)
        r, s = decode_dss_signature(key.sign(report[:SIGNED_SIZE], ec.ECDSA(hashes.SHA384())))
        signature = r.to_bytes(_COMPONENT, "little") + s.to_bytes(_COMPONENT, "little")
        return report[:SIGNED_SIZE] + signature.ljust(SIZE - SIGNED_SIZE, b"\0")

    def derive_key(self, request: KeyRequest, guest: GuestFields) -> bytes:
        """The answer to MSG_KEY_REQ: 32 bytes, the same for the same request and guest as long as the platform is kept.

        AMD's derivation is not public; this is HKDF-SHA-384 over the root key with every selected field, the VMPL and the
        selection in its info. Refused with the firmware's status for what the guest may not have.
        """
        request.check(guest, self.settings.committed_tcb, self.settings.load_vlek)
        if request.root_key == ROOT_VMRK:
            root = self._expand(guest.vmrk or b"", b"VMRK root", 48)
        else:
            key = self.select_key(request.key_select)
            root = self._expand(self._secret, f"{key} root".encode(), 48)
        return self._expand(root, b"derived key " + request.mixed(guest), 32)

    def certificate_table(self, key: str = "") -> bytes:
        """The table of an extended guest request: leaf, ASK or ASVK, ARK. The first use of a platform may take seconds."""
        key = key or self.default_key
        issued = self.authority().certificates
        return certificate_table.encode(
            [
                (key.upper(), self.leaf(key).der),
                ("ASK", issued[ASVK if key == VLEK else ASK].der),
                ("ARK", issued[ARK].der),
            ]
        )

    def leaf(self, key: str, tcb: bytes = b"") -> Certificate:
        """The VCEK or VLEK certificate for a TCB_VERSION of 8 bytes; without one, for the reported TCB.

        Certificates of one platform for one TCB differ in validity and signature from process to process, their keys do not.
        """
        tcb = tcb or self.settings.reported_tcb
        now = datetime.now(UTC).replace(microsecond=0)
        kept = self._leaves.get((key, tcb))
        if kept is None or kept.not_after <= now:
            kept = self._issue_leaf(key, tcb, now)
            if len(self._leaves) >= _MOST_LEAVES:
                self._leaves.pop(next(iter(self._leaves)))
            self._leaves[key, tcb] = kept
        return kept

    def _issue_leaf(self, key: str, tcb: bytes, now: datetime) -> Certificate:
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        from sev.platform.issue import issue_leaf

        public_key = self._signing_key(key, tcb).public_key()
        point = public_key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        # Clocks differ a little; a certificate that is not valid yet would be a riddle.
        begin = now - timedelta(days=1)
        der = issue_leaf(
            Tcb(tcb, self.settings.line),
            self.settings.csp_id if key == VLEK else self.settings.hwid,
            point,
            self.authority().key(ASVK if key == VLEK else ASK),
            (begin, years_after(begin, 1 if key == VLEK else 7)),
        )
        return Certificate.decode(der)

    def authority(self) -> Authority:
        """The platform's certificate authority; made now if there is none yet, which takes seconds."""
        if self._authority is None:
            self._authority = Authority.open(self.folder, self.settings.line, self.settings.made)
        return self._authority

    def certificates(self) -> list[Certificate]:
        """ARK, ASK, ASVK, and both leaves for the reported TCB."""
        return [*self.authority().certificates.values(), self.leaf(VCEK), self.leaf(VLEK)]

    def crl(self) -> bytes:
        """The CRL of the platform's ARK as of now, in DER."""
        return self.authority().crl(datetime.now(UTC).replace(microsecond=0))

    def _signing_key(self, kind: str, tcb: bytes) -> "EllipticCurvePrivateKey":
        if (kind, tcb) not in self._signing_keys:
            from cryptography.hazmat.primitives.asymmetric import ec

            seed = self._expand(self._secret, f"{kind} ".encode() + tcb, 64)
            number = int.from_bytes(seed, "big") % (_P384_ORDER - 1) + 1
            if len(self._signing_keys) >= _MOST_LEAVES:
                self._signing_keys.pop(next(iter(self._signing_keys)))
            self._signing_keys[kind, tcb] = ec.derive_private_key(number, ec.SECP384R1())
        return self._signing_keys[kind, tcb]

    def _expand(self, secret: bytes, info: bytes, size: int) -> bytes:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        return HKDF(hashes.SHA384(), size, salt=b"cvmboot emulated platform", info=info).derive(secret)
