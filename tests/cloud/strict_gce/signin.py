"""OAuth 2.0 as Google does it for service accounts: assertions are verified, tokens are issued and asked for again."""

import json
import secrets
from base64 import urlsafe_b64decode
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from strict_gce.errors import Refused
from strict_gce.world import PROJECT, World

_MOST_SKEW = 300
SKEWED = (
    "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp "
    "values in the JWT claim."
)
TOKEN_PREFIX = "ya29.secret-"


class SignIn:
    """One service account."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._tokens: set[str] = set()
        self.revoked = False

    def write_key(self, path: Path, address: str) -> None:
        """The key file that GOOGLE_APPLICATION_CREDENTIALS names."""
        pem = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        account = f"we@{PROJECT}.iam.gserviceaccount.com"
        plain = {
            "type": "service_account", "project_id": PROJECT, "private_key_id": "1", "private_key": pem,
            "client_email": account, "client_id": "1", "token_uri": f"{address}/token",
        }  # fmt: skip
        path.write_text(json.dumps(plain))
        path.chmod(0o600)

    def token(self, body: bytes) -> tuple[int, dict[str, Any]]:
        """(status, answer) of the token endpoint."""
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        if self.revoked:
            return 400, {"error": "invalid_grant", "error_description": "Token has been expired or revoked."}
        try:
            self._verify(form.get("assertion", ""))
        except Refused as refused:
            return 400, {"error": "invalid_grant", "error_description": refused.message}
        token = TOKEN_PREFIX + secrets.token_urlsafe(30)
        self._tokens.add(token)
        return 200, {"access_token": token, "expires_in": 3599, "token_type": "Bearer"}

    def check(self, header: str | None) -> None:
        """Refused unless the request carries a token that was issued, or an assertion of the account's own."""
        kind, _, token = (header or "").partition(" ")
        if kind != "Bearer" or self.revoked:
            raise Refused(401, "authError", "Request had invalid authentication credentials.")
        if token not in self._tokens:
            self._verify(token)

    def _verify(self, assertion: str) -> None:
        try:
            head, claims, signature = assertion.split(".")
            signed = f"{head}.{claims}".encode()
            self._key.public_key().verify(_decode(signature), signed, padding.PKCS1v15(), hashes.SHA256())
            plain = json.loads(_decode(claims))
            issued, expires = float(plain["iat"]), float(plain["exp"])
        except (ValueError, KeyError, InvalidSignature):
            raise Refused(401, "authError", "Request had invalid authentication credentials.") from None
        now = self._world.now()
        if not issued - _MOST_SKEW <= now <= expires + _MOST_SKEW or expires - issued > 3600:
            raise Refused(401, "authError", SKEWED)


def _decode(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
