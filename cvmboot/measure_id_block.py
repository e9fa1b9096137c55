"""`cvmboot measure id-block`: signs the launch digest that a guest must have, or shows and checks what was signed."""

import json
import sys
from base64 import b64decode, b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvmboot.errors import CvmbootError, UsageError
from cvmboot.measure_settings import digest_bytes, measuring, number, read_file

if TYPE_CHECKING:
    from sev.measure.id_block import IdAuth, IdBlock

SCHEMA = "cvmboot.measure.id-block/1"
_LARGEST_FILE = 64 << 10


def sign_id_block(given: dict[str, Any]) -> None:
    """Sign a block with the keys given and write it. UsageError for options that make none."""
    from sev.measure.id_block import DEFAULT_POLICY, IdAuth, IdBlock, load_private_key

    if given["id_key"] is None:
        raise UsageError("--id-key: the private key that signs the block is needed")
    keys = []
    for path in (given["id_key"], given["author_key"]):
        if path is not None:
            with measuring(str(path)):
                keys.append(load_private_key(read_file(path, _LARGEST_FILE)))
    with measuring():
        block = IdBlock(
            digest_bytes("--digest", given["digest"], (48,)),
            family_id=_identity("--family-id", given["family_id"]),
            image_id=_identity("--image-id", given["image_id"]),
            guest_svn=number("--guest-svn", given["guest_svn"] or "0", 32),
            policy=number("--policy", given["policy"] or hex(DEFAULT_POLICY), 64, 16),
        )
        auth = IdAuth.sign(block, *keys)
    for path, data in ((given["id_block"], block.pack()), (given["id_auth"], auth.pack())):
        if path is not None:
            try:
                path.write_text(b64encode(data).decode() + "\n")
            except OSError as error:
                raise CvmbootError(f"{path}: {error.strerror}") from None
    _write(block, auth, given["as_json"])


def check_id_block(block_path: Path, auth_path: Path, as_json: bool) -> None:
    """Show a block and its authentication information. CvmbootError unless the keys in it signed it."""
    from sev.measure.id_block import ID_AUTH_SIZE, ID_BLOCK_SIZE, IdAuth, IdBlock

    with measuring(str(block_path)):
        block = IdBlock.unpack(_raw_or_base64(read_file(block_path, _LARGEST_FILE), ID_BLOCK_SIZE))
    with measuring(str(auth_path)):
        auth = IdAuth.unpack(_raw_or_base64(read_file(auth_path, _LARGEST_FILE), ID_AUTH_SIZE))
        auth.verify(block)
    _write(block, auth, as_json)


def _identity(option: str, text: str | None) -> bytes:
    return bytes(16) if text is None else digest_bytes(option, text, (16,))


def _raw_or_base64(data: bytes, size: int) -> bytes:
    if len(data) == size:
        return data
    try:
        return b64decode(b"".join(data.split()), validate=True)
    except ValueError:
        return data


def _write(block: "IdBlock", auth: "IdAuth", as_json: bool) -> None:
    plain = {
        "schema": SCHEMA,
        "launch_digest": block.launch_digest.hex(),
        "family_id": block.family_id.hex(),
        "image_id": block.image_id.hex(),
        "guest_svn": block.guest_svn,
        "policy": f"{int(block.policy):#x}",
        "id_key_digest": auth.id_key_digest.hex(),
        "author_key_digest": None if auth.author_key is None else auth.author_key_digest.hex(),
        "id_block": b64encode(block.pack()).decode(),
        "id_auth": b64encode(auth.pack()).decode(),
    }
    if as_json:
        sys.stdout.write(json.dumps(plain, indent=2) + "\n")
        return
    del plain["schema"]
    del plain["id_auth"]
    sys.stdout.writelines(
        f"{name.replace('_', ' '):18} {'none' if value is None else value}\n" for name, value in plain.items()
    )
