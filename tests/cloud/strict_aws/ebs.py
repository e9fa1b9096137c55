"""The EBS direct APIs, strict: blocks of 512 KiB, checksums of blocks and snapshot, tokens, states, fresh snapshots."""

import re
from base64 import b64decode, b64encode
from hashlib import sha256
from typing import Any

from moto.core.exceptions import ServiceException
from moto.core.responses import ActionResult
from moto.ebs.models import EBSSnapshot
from moto.ebs.responses import EBSResponse
from moto.ec2.models import ec2_backends

from strict_aws.world import WORLD

BLOCK = 512 << 10
_PENDING, _COMPLETED = "pending", "completed"


class _Refusal(ServiceException):
    def __init__(self, code: str, message: str, reason: str) -> None:
        super().__init__(code, message)
        self.Reason = reason


def _invalid(message: str, reason: str = "INVALID_PARAMETER_VALUE") -> _Refusal:
    return _Refusal("ValidationException", message, reason)


def _unknown(snapshot: str) -> _Refusal:
    return _Refusal("ResourceNotFoundException", f"The snapshot '{snapshot}' does not exist.", "SNAPSHOT_NOT_FOUND")


class StrictEbs(EBSResponse):
    """Replaces moto's methods."""

    def start_snapshot(self) -> ActionResult:
        size, tags = self._get_param("VolumeSize"), self._get_param("Tags") or []
        timeout = self._get_param("Timeout")
        token = self._get_param("ClientToken") or ""
        if not isinstance(size, int) or not 1 <= size <= 65536:
            raise _invalid(f"volume size {size}", "INVALID_VOLUME_SIZE")
        if timeout is not None and not 10 <= timeout <= 4320:
            raise _invalid(f"timeout {timeout}")
        if not 0 < len(token) <= 255:
            raise _invalid(f"client token of {len(token)} characters")
        _check_tags(tags)
        key, encrypted = self._get_param("KmsKeyArn"), self._get_param("Encrypted")
        if key and not encrypted:
            raise _invalid("a key without Encrypted")
        parameters = (size, str(tags), timeout, key, encrypted, self._get_param("Description"))

        def make() -> EBSSnapshot:
            snapshot = self.ebs_backend.start_snapshot(size, tags, self._get_param("Description"))
            snapshot.block_size = BLOCK
            ec2 = ec2_backends[self.current_account][self.region]
            model = ec2.get_snapshot(snapshot.snapshot_id)
            model.status, model.encrypted, model.kms_key_id = _PENDING, bool(encrypted), key
            ec2.volumes.pop(model.volume.id)  # moto's way to a size; AWS makes no volume
            WORLD.looks[f"fresh {snapshot.snapshot_id}"] = WORLD.fresh_blindness
            return snapshot

        snapshot = WORLD.once("StartSnapshot", token, parameters, make, "ConflictException")
        return ActionResult(
            {
                "SnapshotId": snapshot.snapshot_id,
                "OwnerId": snapshot.account_id,
                "Status": snapshot.status,
                "StartTime": snapshot.start_time,
                "VolumeSize": snapshot.volume_size,
                "BlockSize": BLOCK,
                "Tags": snapshot.tags,
                "Description": snapshot.description,
            }
        )

    def put_snapshot_block(self) -> ActionResult:
        snapshot, index = self._pending(), int(self._get_param("BlockIndex"))
        data, length = self._get_param("BlockData"), int(self._get_param("DataLength"))
        data = data.read() if hasattr(data, "read") else data
        if length != BLOCK or len(data) != BLOCK:
            raise _invalid(f"{len(data)} bytes, DataLength {length}, wanted {BLOCK}", "INVALID_BLOCK")
        if not 0 <= index < snapshot.volume_size << 11:
            raise _invalid(f"block index {index}", "INVALID_BLOCK")
        checksum = self._get_param("Checksum")
        if self._get_param("ChecksumAlgorithm") != "SHA256" or b64decode(checksum) != sha256(data).digest():
            raise _invalid("the checksum does not match", "INVALID_BLOCK")
        with WORLD.lock:
            snapshot.put_block(index, data, checksum, "SHA256", length)
        return ActionResult({"Checksum": checksum, "ChecksumAlgorithm": "SHA256"})

    def complete_snapshot(self) -> ActionResult:
        snapshot = self._pending()
        count, checksum = int(self._get_param("ChangedBlocksCount")), self._get_param("Checksum")
        if count != len(snapshot.blocks):
            raise _invalid(f"ChangedBlocksCount {count}, there are {len(snapshot.blocks)}")
        if checksum is None:
            raise _invalid("this stand-in wants the aggregate checksum, which AWS leaves to the caller")
        if (self._get_param("ChecksumAlgorithm"), self._get_param("ChecksumAggregationMethod")) != ("SHA256", "LINEAR"):
            raise _invalid("algorithm or aggregation method")
        digests = b"".join(b64decode(snapshot.blocks[index].checksum or "") for index in sorted(snapshot.blocks))
        if checksum != b64encode(sha256(digests).digest()).decode():
            raise _invalid("the aggregate checksum does not match")
        snapshot.status = _COMPLETED
        return ActionResult({"Status": _PENDING})

    def _pending(self) -> EBSSnapshot:
        name = self._get_param("SnapshotId")
        ec2 = ec2_backends[self.current_account][self.region]
        if not re.fullmatch("snap-[0-9a-f]{8,17}", name):
            raise _invalid(f"snapshot id {name}", "INVALID_SNAPSHOT_ID")
        if name not in self.ebs_backend.snapshots or name not in ec2.snapshots:
            raise _unknown(name)
        with WORLD.lock:
            left = WORLD.looks.get(f"fresh {name}", 0)
            WORLD.looks[f"fresh {name}"] = max(0, left - 1)
        if left:
            raise _unknown(name)
        snapshot = self.ebs_backend.snapshots[name]
        if snapshot.status != _PENDING:
            raise _invalid(f"snapshot {name} is not pending", "INVALID_SNAPSHOT_ID")
        return snapshot


def _check_tags(tags: list[dict[str, Any]]) -> None:
    if len(tags) > 50 or any(len(tag["Key"]) > 128 or len(tag["Value"]) > 256 for tag in tags):
        raise _invalid("tags", "INVALID_TAG")


def contents(region: str, snapshot: str, account: str = "123456789012") -> bytes:
    """The disk that a snapshot made by EBS direct holds."""
    from moto.ebs.models import ebs_backends

    kept = ebs_backends[account][region].snapshots[snapshot]
    disk = bytearray(kept.volume_size << 30)
    for index, block in kept.blocks.items():
        disk[index * BLOCK : (index + 1) * BLOCK] = block.block_data
    return bytes(disk)


def install() -> None:
    """Put it in moto's place."""
    for name in ("start_snapshot", "put_snapshot_block", "complete_snapshot", "_pending"):
        setattr(EBSResponse, name, getattr(StrictEbs, name))
