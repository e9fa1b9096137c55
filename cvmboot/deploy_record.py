"""A record that `cvmboot deploy --record` wrote, taken as a policy: what a report of that very machine must say."""

import json
from pathlib import Path
from typing import Any

from cvmboot.errors import UsageError


def is_record(data: bytes) -> bool:
    """Whether a policy file is a record: policies are TOML, which never begins with a brace."""
    return data.lstrip()[:1] == b"{"


def policy_in(path: Path, data: bytes) -> dict[str, Any]:
    """The policy's keys and values in a record, judged. UsageError if it is none, or knows no launch digest.

    A record without one asks for nothing: whoever verified by it would have verified that some machine is confidential.
    """
    from cloud.record import SCHEMA
    from sev.attestation_policy import BadPolicy, Policy

    try:
        plain = json.loads(data)
        schema, policy = plain["schema"], plain["policy"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UsageError(f"{path}: neither a policy file (TOML) nor a record of `cvmboot deploy --record`") from None
    if schema != SCHEMA or not isinstance(policy, dict):
        raise UsageError(f"{path}: a record of form {str(schema)[:40]!r}, wanted {SCHEMA!r}")
    if not policy.get("measurement"):
        raise UsageError(
            f"{path}: names no launch digest, because the firmware was not known; deploy with --ovmf FILE, or write the "
            f"digest that `cvmboot measure` computes into a policy file"
        )
    try:
        Policy.of(policy)
    except BadPolicy as error:
        raise UsageError(f"{path}: policy: {error}") from None
    return dict(policy)
