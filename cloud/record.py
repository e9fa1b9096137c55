"""`--record`: what was deployed, as JSON that a verifier takes: digests, identities, and what to ask of the VM's report.

"policy" holds keys of cvmboot's policy files (`cvmboot attest policy schema`); `cvmboot attest verify --policy RECORD`
takes it. The expected launch digest is computed by who calls: this package knows no SEV.
"""

import json
import os
from pathlib import Path
from typing import Any

from cloud.errors import CloudError
from cloud.journal import Record

SCHEMA = "cvmboot.deployment/1"


def record_of(run: Record, *, launch_digest: str = "", digest_source: str = "") -> dict[str, Any]:
    """The record of a complete run.

    `launch_digest`: 96 hex digits, or "" if the firmware is not known; `digest_source` says of what it was computed.
    """
    order = run.order
    return {
        "schema": SCHEMA,
        "run": run.run,
        "name": order.name,
        "provider": order.provider,
        "place": order.place,
        "created": run.created,
        "image": {"sha256": order.image.sha256, "size": order.image.size, "boot": order.image.boot},
        "options": order.options,
        "resources": {
            name: {**step.resource.to_json(), "facts": step.facts} for name, step in run.steps.items() if step.resource
        },
        "launch_digest": launch_digest or None,
        "launch_digest_of": digest_source or None,
        "policy": {"measurement": [launch_digest]} if launch_digest else {},
    }


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record in place of the file, whole or not at all. CloudError if it cannot be written."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(json.dumps(record, indent=2) + "\n")
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise CloudError(
            error.strerror or "cannot be written",
            where=str(path),
            next_step="the deployment is complete; run the same command again with another --record",
        ) from None
