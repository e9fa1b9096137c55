"""ID blocks: their published bytes, signatures, and damaged ones."""

import base64
import json
import struct
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from sev.measure import MalformedIdBlock, MeasureError
from sev.measure.id_block import IdAuth, IdBlock, decode_public_key, encode_public_key, load_private_key

VECTORS = Path(__file__).parents[4] / "shared" / "data" / "sev" / "measure" / "id-block-vectors.json"
ID_KEY = generate_private_key(SECP384R1())
AUTHOR_KEY = generate_private_key(SECP384R1())
BLOCK = IdBlock(bytes(range(48)), family_id=b"F" * 16, image_id=b"I" * 16, guest_svn=7, policy=0xB0000)


@pytest.mark.skipif(not VECTORS.exists(), reason="no ../shared/data/sev/measure")
def test_published_id_blocks() -> None:
    vectors = json.loads(VECTORS.read_text())
    first, second = vectors["sev-snp-measure"], vectors["virtee-sev"]
    for digest, wanted in (
        (base64.b64decode(first["launch_digest_b64"]), first["id_block_b64"]),
        (bytes.fromhex(second["launch_digest_hex"]), second["id_block_b64"]),
    ):
        block = IdBlock(digest)
        assert base64.b64encode(block.pack()).decode() == wanted
        assert IdBlock.unpack(base64.b64decode(wanted)).pack() == block.pack()


def test_layout_of_the_block() -> None:
    wanted = bytes(range(48)) + b"F" * 16 + b"I" * 16 + struct.pack("<IIQ", 1, 7, 0xB0000)
    assert BLOCK.pack() == wanted
    again = IdBlock.unpack(wanted)
    assert (again.family_id, again.image_id, again.guest_svn, again.policy) == (b"F" * 16, b"I" * 16, 7, 0xB0000)


@pytest.mark.parametrize("author", [None, AUTHOR_KEY])
def test_signed_and_verified(author: EllipticCurvePrivateKey | None) -> None:
    data = IdAuth.sign(BLOCK, ID_KEY, author).pack()
    assert len(data) == 4096
    assert data[:8] == struct.pack("<II", 1, 1 if author else 0)
    assert data[0x240:0x644] == encode_public_key(ID_KEY.public_key())
    auth = IdAuth.unpack(data)
    auth.verify(BLOCK)
    assert auth.pack() == data
    with pytest.raises(MeasureError, match="did not sign this ID block"):
        auth.verify(IdBlock(bytes(48)))


def test_author_of_another_id_key() -> None:
    one = IdAuth.sign(BLOCK, ID_KEY, AUTHOR_KEY)
    other = IdAuth.sign(BLOCK, generate_private_key(SECP384R1()), AUTHOR_KEY)
    mixed = IdAuth(one.id_key, one.signature, other.author_key, other.id_key_signature)
    with pytest.raises(MeasureError, match="author key did not sign"):
        mixed.verify(BLOCK)


def test_public_key_form() -> None:
    data = encode_public_key(ID_KEY.public_key())
    numbers = ID_KEY.public_key().public_numbers()
    assert data == (
        struct.pack("<I", 2) + numbers.x.to_bytes(72, "little") + numbers.y.to_bytes(72, "little") + bytes(0x370)
    )
    assert decode_public_key(data) == ID_KEY.public_key()


def test_digests_of_keys() -> None:
    auth = IdAuth.sign(BLOCK, ID_KEY)
    assert auth.author_key_digest == bytes(48)
    assert len(auth.id_key_digest) == 48
    assert auth.id_key_digest == IdAuth.sign(BLOCK, AUTHOR_KEY, ID_KEY).author_key_digest


def test_private_keys() -> None:
    def pem(key: EllipticCurvePrivateKey) -> bytes:
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    assert load_private_key(pem(ID_KEY)).public_key() == ID_KEY.public_key()
    with pytest.raises(MeasureError, match="secp256r1"):
        load_private_key(pem(generate_private_key(SECP256R1())))
    with pytest.raises(MeasureError, match="no private key"):
        load_private_key(b"nothing")


def changed(offset: int, value: int) -> bytes:
    data = bytearray(IdAuth.sign(BLOCK, ID_KEY, AUTHOR_KEY).pack())
    data[offset] = value
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (bytes(4095), "4095 bytes"),
        (bytes(4096), "algorithm is 0"),
        (changed(4, 2), "author key algorithm is 2"),
        (changed(8, 1), "0x8 to 0x3f"),
        (changed(0x644, 1), "0x644 to 0x67f"),
        (changed(4095, 1), "0xc84 to 0xfff"),
    ],
)
def test_refused_authentication(data: bytes, words: str) -> None:
    with pytest.raises(MalformedIdBlock, match=words):
        IdAuth.unpack(data)


@pytest.mark.parametrize(("size", "words"), [(95, "95 bytes"), (97, "97 bytes"), (96, "version 0")])
def test_refused_blocks(size: int, words: str) -> None:
    with pytest.raises(MalformedIdBlock, match=words):
        IdBlock.unpack(bytes(size))


SIGNED = IdAuth.sign(BLOCK, ID_KEY, AUTHOR_KEY).pack()
COVERED = [*range(0x40, 0x644), *range(0x680, 0xC84)]


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(COVERED), st.integers(1, 255))
def test_no_changed_byte_verifies(offset: int, flip: int) -> None:
    data = bytearray(SIGNED)
    data[offset] ^= flip
    with pytest.raises(MeasureError):
        IdAuth.unpack(bytes(data)).verify(BLOCK)


@pytest.mark.parametrize("author", [None, AUTHOR_KEY])
@pytest.mark.parametrize("offset", [0x40 + 144, 0x240 + 148, 0x240 + 0x403])
def test_reserved_bytes_that_nobody_signs(author: EllipticCurvePrivateKey | None, offset: int) -> None:
    """Without an author key nobody signs the end of the ID key, which its digest covers: found by fuzzing."""
    data = bytearray(IdAuth.sign(BLOCK, ID_KEY, author).pack())
    data[offset] = 1
    with pytest.raises(MeasureError, match="reserved bytes after"):
        IdAuth.unpack(bytes(data)).verify(BLOCK)
