"""Compute Engine's operations: polled by clients of our own, looked at for errors, found again after a broken-off run.

The official client's operation.result() polls through a client that it makes itself, with the default end point and without an
end. So inserts are sent unary, and operations are asked for here.
"""

import uuid
from typing import Any

from cloud.errors import CloudError, Denied, Gone
from cloud.gce.refusals import operation_failure
from cloud.gce.session import Gce

_NAMESPACE = uuid.UUID("5b1c2f0e-8a64-5d0b-9c1e-2f6d3a7b4c59")


def request_id(token: str) -> str:
    """The requestId of a request: a UUID made of its token, so that a second one is answered as the first was."""
    return str(uuid.uuid5(_NAMESPACE, token))


def wait_for(gce: Gce, operation: Any, what: str) -> None:
    """Waits until an operation is done. `what`: "image app to be made". Its error in words; TimedOut."""
    done = gce.patience.wait_for(f"{what} (operation {operation.name})", lambda: _done(gce, operation), gce.place)
    if failure := operation_failure(done, f"{gce.place}, {what}"):
        raise failure


def _done(gce: Gce, operation: Any) -> Any | None:
    if operation.status == type(operation).Status.DONE:
        return operation
    client = "ZoneOperationsClient" if operation.zone else "GlobalOperationsClient"
    now = gce.call(client, "get", zonal=bool(operation.zone), operation=operation.name)
    return now if now.status == type(now).Status.DONE else None


def insert_of(gce: Gce, target: int, *, zonal: bool) -> Any | None:
    """The operation that made, or makes, the resource with the numeric id `target`; None if it is not known any more."""
    client = "ZoneOperationsClient" if zonal else "GlobalOperationsClient"
    try:
        found = gce.listed(client, zonal=zonal, filter=f'(targetId = {target}) AND (operationType = "insert")')
    except Denied:
        return None
    return max(found, key=lambda operation: operation.insert_time, default=None)


def delete(gce: Gce, client: str, what: str, *, zonal: bool, **name: str) -> None:
    """Deletes a resource and waits until it is gone; not an error if it is gone already. CloudError."""
    try:
        operation = gce.call(client, "delete_unary", zonal=zonal, request_id=str(uuid.uuid4()), **name)
    except Gone:
        return
    try:
        wait_for(gce, operation, f"{what} to be deleted")
    except Gone:
        return
    except CloudError:
        if _is_there(gce, client, zonal=zonal, **name):
            raise


def _is_there(gce: Gce, client: str, *, zonal: bool, **name: str) -> bool:
    try:
        gce.call(client, "get", zonal=zonal, **name)
    except Gone:
        return False
    return True
