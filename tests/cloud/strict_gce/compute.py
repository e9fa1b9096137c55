"""Compute Engine's methods over the world: what was sent is kept and given back, operations take their time."""

import hashlib
import uuid
from collections.abc import Callable
from typing import Any

from strict_gce import rules
from strict_gce.discovery import Api, Call
from strict_gce.errors import Refused, bad_value, not_found
from strict_gce.world import MACHINE_TYPES, NUMBER, PROJECT, REGION, SELF, ZONE, World

API = Api("compute.v1.json", "/compute/v1/")
Answer = dict[str, Any]


class Compute:
    """The methods by their ids; anything else is 501, so that a test that comes here says so."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._methods: dict[str, Callable[[Call], Answer]] = {
            "compute.projects.get": self._project,
            "compute.regions.get": self._region,
            "compute.zones.get": self._zone,
            "compute.machineTypes.get": self._machine_type,
            "compute.images.insert": self._insert_image,
            "compute.images.get": lambda call: self._get(self._world.images, call.path["image"]),
            "compute.images.getFromFamily": self._family,
            "compute.images.list": lambda call: self._list(call, self._world.images),
            "compute.images.delete": self._delete_image,
            "compute.instances.insert": self._insert_instance,
            "compute.instances.get": lambda call: self._get(self._world.instances, _zonal(call, "instance")),
            "compute.instances.list": lambda call: self._list(call, self._world.instances),
            "compute.instances.delete": self._delete_instance,
            "compute.instances.getSerialPortOutput": self._serial,
            "compute.disks.get": lambda call: self._get(self._world.disks, _zonal(call, "disk")),
            "compute.disks.list": lambda call: self._list(call, self._world.disks),
            "compute.disks.delete": self._delete_disk,
            "compute.zoneOperations.get": self._operation,
            "compute.zoneOperations.list": self._operations,
            "compute.globalOperations.get": self._operation,
            "compute.globalOperations.list": self._operations,
        }

    def answer(self, verb: str, path: str, query: str, body: bytes) -> Answer:
        """The answer to a request. Refused."""
        call = API.call(verb, path, query, body)
        self._world.calls.append(call.id)
        if call.id not in self._methods:
            raise Refused(501, "notImplemented", f"{call.id} is not in this stand-in")
        project = call.path.get("project")
        if project != PROJECT:
            raise Refused(404, "notFound", f"The resource 'projects/{project}' was not found")
        if call.path.get("zone", ZONE) not in rules.PLATFORMS:
            raise not_found(f"projects/{PROJECT}/zones/{call.path['zone']}")
        if call.body is not None:
            self._world.bodies.setdefault(call.id, []).append(call.body)
        if "requestId" in call.query:
            self._world.request_ids.setdefault(call.id, []).append(call.query["requestId"])
        return self._methods[call.id](call)

    def _project(self, call: Call) -> Answer:
        metrics = ("IMAGES", "CPUS_ALL_REGIONS")
        return {"kind": "compute#project", "id": str(NUMBER), "name": PROJECT, "quotas": self._quotas(metrics)}

    def _region(self, call: Call) -> Answer:
        if call.path["region"] != REGION:
            raise not_found(f"projects/{PROJECT}/regions/{call.path['region']}")
        metrics = (
            "INSTANCES", "CPUS", "N2D_CPUS", "E2_CPUS", "PREEMPTIBLE_CPUS", "SSD_TOTAL_GB", "DISKS_TOTAL_GB",
            "IN_USE_ADDRESSES",
        )  # fmt: skip
        return {"kind": "compute#region", "name": REGION, "status": "UP", "quotas": self._quotas(metrics)}

    def _quotas(self, metrics: tuple[str, ...]) -> list[Answer]:
        plenty = (1000.0, 0.0)
        found = {metric: self._world.quotas.get(metric, plenty) for metric in metrics}
        return [{"metric": name, "limit": limit, "usage": usage} for name, (limit, usage) in found.items()]

    def _zone(self, call: Call) -> Answer:
        name = call.path["zone"]
        link = f"{SELF}/{PROJECT}/regions/{REGION}"
        return {"name": name, "status": "UP", "region": link, "availableCpuPlatforms": rules.PLATFORMS[name]}

    def _machine_type(self, call: Call) -> Answer:
        name = call.path["machineType"]
        if name not in MACHINE_TYPES:
            raise not_found(f"projects/{PROJECT}/zones/{call.path['zone']}/machineTypes/{name}")
        cpus, memory, architecture = MACHINE_TYPES[name]
        return {"name": name, "guestCpus": cpus, "memoryMb": memory, "architecture": architecture}

    def _get(self, table: dict[str, Answer], name: str) -> Answer:
        if name not in table:
            raise not_found(f"projects/{PROJECT}/{name}")
        return table[name]

    def _list(self, call: Call, table: dict[str, Answer]) -> Answer:
        """One thing a page, so that whoever forgets the next page is found out."""
        start = int(call.query.get("pageToken", "0"))
        zone = call.path.get("zone")
        found = [
            one
            for key, one in sorted(table.items())
            if (zone is None or key.startswith(f"{zone}/")) and rules.matches(one, call.query.get("filter", ""))
        ]
        page: Answer = {"items": found[start : start + 1]}
        if len(found) > start + 1:
            page["nextPageToken"] = str(start + 1)
        return page

    def _family(self, call: Call) -> Answer:
        for image in reversed(self._world.images.values()):
            if image.get("family") == call.path["family"]:
                return image
        raise not_found(f"projects/{PROJECT}/global/images/family/{call.path['family']}")

    # Images

    def _insert_image(self, call: Call) -> Answer:
        if (replay := self._replayed(call)) is not None:
            return replay
        name = call.body["name"]
        self._must_be_free(self._world.images, name, f"projects/{PROJECT}/global/images/{name}")
        problem, size = "", 0
        try:
            size = rules.check_image(self._world, call.body)
        except ValueError as error:
            problem = str(error)
        image = {
            **call.body,
            "kind": "compute#image",
            "id": str(self._world.new_id()),
            "creationTimestamp": self._world.stamp(),
            "selfLink": f"{SELF}/{PROJECT}/global/images/{name}",
            "status": "PENDING",
            "diskSizeGb": str(size >> 30),
            "archiveSizeBytes": "1",
        }
        self._world.images[name] = image

        def end(error: Any) -> None:
            image["status"] = "FAILED" if error or problem else "READY"

        return self._begin(
            call, image, "insert", end, {"code": "INVALID_IMAGE", "message": problem} if problem else None
        )

    def _delete_image(self, call: Call) -> Answer:
        image = self._get(self._world.images, call.path["image"])
        return self._begin(call, image, "delete", lambda error: error or self._world.images.pop(image["name"], None))

    # Instances

    def _insert_instance(self, call: Call) -> Answer:
        if (replay := self._replayed(call)) is not None:
            return replay
        name, zone = call.body["name"], call.path["zone"]
        key, path = f"{zone}/{name}", f"projects/{PROJECT}/zones/{zone}/instances/{name}"
        self._must_be_free(self._world.instances, key, path)
        rules.check_instance(self._world, zone, call.body)
        given = call.body["disks"][0]["initializeParams"]
        disk = f"{zone}/{given.get('diskName', name)}"
        self._must_be_free(self._world.disks, disk, f"projects/{PROJECT}/zones/{zone}/disks/{name}")
        instance = {
            **call.body,
            "kind": "compute#instance",
            "id": str(self._world.new_id()),
            "creationTimestamp": self._world.stamp(),
            "selfLink": f"{SELF}/{PROJECT}/zones/{zone}/instances/{name}",
            "zone": f"{SELF}/{PROJECT}/zones/{zone}",
            "status": "PROVISIONING",
            "machineType": f"{SELF}/{call.body['machineType']}",
            "disks": [{"boot": True, "autoDelete": call.body["disks"][0].get("autoDelete", False), "deviceName": name}],
            "networkInterfaces": [_interface(one) for one in call.body["networkInterfaces"]],
        }
        if self._world.forget_snp:
            instance.pop("confidentialInstanceConfig", None)
        self._world.instances[key] = instance
        self._world.disks[disk] = {
            "name": disk.partition("/")[2],
            "id": str(self._world.new_id()),
            "creationTimestamp": self._world.stamp(),
            "labels": given.get("labels", {}),
            "sizeGb": given.get("diskSizeGb", "10"),
            "status": "READY",
            "users": [instance["selfLink"]],
        }

        def end(error: Any) -> None:
            if error:
                self._world.instances.pop(key, None)
                self._world.disks.pop(disk, None)
            else:
                instance["status"] = "RUNNING"
                instance["cpuPlatform"] = call.body.get("minCpuPlatform", "AMD Rome")

        return self._begin(call, instance, "insert", end)

    def _delete_instance(self, call: Call) -> Answer:
        key = _zonal(call, "instance")
        instance = self._get(self._world.instances, key)
        instance["status"] = "STOPPING"

        def end(error: Any) -> None:
            if not error:
                self.remove_instance(key)

        return self._begin(call, instance, "delete", end)

    def remove_instance(self, key: str) -> None:
        """As instances.delete does it, and the end of maxRunDuration."""
        instance = self._world.instances.pop(key, None)
        if instance is None:
            return
        for name, disk in list(self._world.disks.items()):
            if instance["selfLink"] in disk["users"]:
                disk["users"] = []
                if instance["disks"][0]["autoDelete"]:
                    del self._world.disks[name]

    def _delete_disk(self, call: Call) -> Answer:
        key = _zonal(call, "disk")
        disk = self._get(self._world.disks, key)
        if disk["users"]:
            text = f"The disk resource '{key}' is already being used by '{disk['users'][0]}'"
            raise Refused(400, "resourceInUseByAnotherResource", text)
        return self._begin(call, disk, "delete", lambda error: error or self._world.disks.pop(key, None))

    def _serial(self, call: Call) -> Answer:
        """Each time one piece more, cut where the program asked to begin."""
        instance = self._get(self._world.instances, _zonal(call, "instance"))
        if int(call.query.get("port", "1")) != 1:
            return {"contents": "", "start": "0", "next": "0"}
        self._world.console_starts.append(int(call.query.get("start", "0")))
        said = instance.get("_said", 0)
        text = "".join(self._world.console[:said])
        if said < len(self._world.console):
            instance["_said"] = said + 1
            text += self._world.console[said]
        elif self._world.ends_after_console:
            instance["status"] = "TERMINATED"
        start = min(int(call.query.get("start", "0")), len(text))
        return {"contents": text[start:], "start": str(start), "next": str(len(text))}

    # Operations

    def _must_be_free(self, table: dict[str, Answer], key: str, path: str) -> None:
        if key in table:
            raise Refused(409, "alreadyExists", f"The resource '{path}' already exists")

    def _replayed(self, call: Call) -> Answer | None:
        """The same requestId: the same operation. With another body it is refused."""
        key = call.query.get("requestId")
        if key is None:
            return None
        try:
            if uuid.UUID(key).int == 0:
                raise ValueError
        except ValueError:
            raise bad_value("requestId", key, "The request ID must be a valid, non-zero UUID.") from None
        if key not in self._world.requests:
            return None
        digest, name = self._world.requests[key]
        if digest != _digest(call):
            raise bad_value("requestId", key, "The request ID was used with another request.")
        return self._world.operations[name]

    def _begin(
        self, call: Call, target: Answer, kind: str, end: Callable[[Any], object], error: Answer | None = None
    ) -> Answer:
        if (replay := self._replayed(call)) is not None:
            return replay
        name = f"operation-{self._world.new_id()}"
        operation: Answer = {
            "kind": "compute#operation",
            "id": str(self._world.new_id()),
            "name": name,
            "operationType": kind,
            "targetId": target["id"],
            "targetLink": target.get("selfLink", ""),
            "status": "PENDING",
            "insertTime": self._world.stamp(),
            "progress": 0,
            "_looks": 0,
            "_end": end,
            "_error": error or self._world.operation_error.pop(call.id, None),
        }
        if "zone" in call.path:
            operation["zone"] = f"{SELF}/{PROJECT}/zones/{call.path['zone']}"
        if "requestId" in call.query:
            operation["clientOperationId"] = call.query["requestId"]
            self._world.requests[call.query["requestId"]] = (_digest(call), name)
        self._world.operations[name] = operation
        return operation

    def _operation(self, call: Call) -> Answer:
        operation = self._get(self._world.operations, call.path["operation"])
        if ("zone" in operation) != ("zone" in call.path):
            raise not_found(call.path["operation"])
        operation["_looks"] += 1
        if operation["status"] != "DONE":
            if operation["_looks"] >= self._world.looks_until_done:
                operation["_end"](operation["_error"])
                operation |= {"status": "DONE", "progress": 100, "endTime": self._world.stamp()}
                if operation["_error"]:
                    operation |= {
                        "error": {"errors": [operation["_error"]]}, "httpErrorStatusCode": 400,
                        "httpErrorMessage": "BAD REQUEST",
                    }  # fmt: skip
            else:
                operation["status"] = "RUNNING"
        return operation

    def _operations(self, call: Call) -> Answer:
        zonal = {name: one for name, one in self._world.operations.items() if ("zone" in one) == ("zone" in call.path)}
        found = [one for one in zonal.values() if rules.matches(one, call.query.get("filter", ""))]
        return {"items": found}


def _zonal(call: Call, kind: str) -> str:
    return f"{call.path['zone']}/{call.path[kind]}"


def _digest(call: Call) -> str:
    return hashlib.sha256(repr((call.id, call.path, call.body)).encode()).hexdigest()


def _interface(given: Answer) -> Answer:
    interface = {**given, "name": "nic0", "networkIP": "10.164.0.2"}
    if "accessConfigs" in given:
        interface["accessConfigs"] = [{**one, "natIP": "198.51.100.7"} for one in given["accessConfigs"]]
    return interface
