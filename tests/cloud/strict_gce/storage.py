"""Cloud Storage over the world: buckets, objects, compose, and resumable uploads that count every byte and check CRC32C."""

import base64
import json
import re
import secrets
from typing import Any
from urllib.parse import parse_qs, unquote

from google_crc32c import Checksum

from strict_gce.discovery import Api
from strict_gce.errors import Refused
from strict_gce.world import NUMBER, PROJECT, REGION, Session, StoredObject, World

API = Api("storage.v1.json", "/storage/v1/")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9_.-]{1,61}[a-z0-9]")
_CHUNK = 256 << 10
Answer = dict[str, Any] | None


def crc32c(data: bytes | bytearray) -> str:
    """As Cloud Storage writes it."""
    checksum = Checksum()  # type: ignore[no-untyped-call]
    checksum.update(bytes(data))  # type: ignore[no-untyped-call]
    return base64.b64encode(checksum.digest()).decode()  # type: ignore[no-untyped-call]


class Storage:
    """The JSON API."""

    def __init__(self, world: World) -> None:
        self._world = world

    def answer(self, verb: str, path: str, query: str, body: bytes) -> Answer:
        """The answer to a request of metadata; None is 204."""
        call = API.call(verb, path, query, body)
        self._world.calls.append(call.id)
        method = getattr(self, "_" + call.id.replace("storage.", "").replace(".", "_"), None)
        if method is None:
            raise Refused(501, "notImplemented", f"{call.id} is not in this stand-in")
        found: Answer = method(call)
        return found

    # Buckets

    def _buckets_insert(self, call: Any) -> Answer:
        if call.query["project"] != PROJECT:
            raise Refused(404, "notFound", "The requested project was not found.")
        name = call.body["name"]
        if not _BUCKET.fullmatch(name) or "google" in name:
            raise Refused(400, "invalid", f"Invalid bucket name: '{name}'")
        if name in self._world.foreign_buckets:
            raise Refused(409, "conflict", "The requested bucket name is not available.")
        if name in self._world.buckets:
            raise Refused(
                409, "conflict", "Your previous request to create the named bucket succeeded and you already own it."
            )
        if call.body.get("location", "US").lower() not in (REGION, "eu", "us"):
            raise Refused(400, "invalid", f"The specified location constraint is not valid: {call.body['location']}")
        self._world.bodies.setdefault(call.id, []).append(call.body)
        now = self._world.stamp()
        self._world.buckets[name] = {
            "kind": "storage#bucket", "softDeletePolicy": {"retentionDurationSeconds": "604800"}, **call.body,
            "projectNumber": str(NUMBER), "timeCreated": now, "updated": now, "metageneration": "1",
        }  # fmt: skip
        return self._world.buckets[name]

    def _buckets_list(self, call: Any) -> Answer:
        prefix = call.query.get("prefix", "")
        return {"items": [one for name, one in self._world.buckets.items() if name.startswith(prefix)]}

    def _buckets_get(self, call: Any) -> Answer:
        return self._bucket(call.path["bucket"])

    def _buckets_delete(self, call: Any) -> Answer:
        name = call.path["bucket"]
        self._bucket(name)
        if any(bucket == name for bucket, _ in self._world.objects):
            raise Refused(409, "conflict", "The bucket you tried to delete is not empty.")
        del self._world.buckets[name]
        return None

    def _bucket(self, name: str) -> dict[str, Any]:
        if name in self._world.foreign_buckets:
            raise Refused(403, "forbidden", f"we@example.org does not have storage.buckets.get access to {name}.")
        if name not in self._world.buckets:
            raise Refused(404, "notFound", "The specified bucket does not exist.")
        return self._world.buckets[name]

    # Objects

    def _objects_list(self, call: Any) -> Answer:
        name, prefix = call.path["bucket"], call.query.get("prefix", "")
        self._bucket(name)
        found = sorted((key, one) for key, one in self._world.objects.items() if key[0] == name)
        return {"items": [one.resource for key, one in found if key[1].startswith(prefix)]}

    def _objects_get(self, call: Any) -> Answer:
        return self._object(call.path["bucket"], call.path["object"]).resource

    def _objects_delete(self, call: Any) -> Answer:
        self._object(call.path["bucket"], call.path["object"])
        del self._world.objects[call.path["bucket"], call.path["object"]]
        return None

    def _objects_compose(self, call: Any) -> Answer:
        bucket, name = call.path["destinationBucket"], call.path["destinationObject"]
        self._match_generation(bucket, name, call.query.get("ifGenerationMatch"))
        sources = call.body.get("sourceObjects", [])
        if not 1 <= len(sources) <= 32:
            raise Refused(400, "invalid", f"The number of source components provided ({len(sources)}) exceeds 32")
        data = b"".join(self._object(bucket, source["name"]).data for source in sources)
        return self._store(bucket, name, data, call.body.get("destination", {})).resource

    def _object(self, bucket: str, name: str) -> StoredObject:
        self._bucket(bucket)
        if (bucket, name) not in self._world.objects:
            raise Refused(404, "notFound", f"No such object: {bucket}/{name}")
        return self._world.objects[bucket, name]

    def _store(self, bucket: str, name: str, data: bytes, resource: dict[str, Any]) -> StoredObject:
        now = self._world.stamp()
        made = {
            "kind": "storage#object", **resource, "bucket": bucket, "name": name, "size": str(len(data)),
            "crc32c": crc32c(data), "generation": str(self._world.new_id()), "metageneration": "1",
            "timeCreated": now, "updated": now,
        }  # fmt: skip
        self._world.objects[bucket, name] = StoredObject(data, made)
        return self._world.objects[bucket, name]

    def _match_generation(self, bucket: str, name: str, wanted: str | None) -> None:
        if wanted is None:
            return
        there = self._world.objects.get((bucket, name))
        if (there.resource["generation"] if there else "0") != wanted:
            raise Refused(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.")

    # Resumable uploads

    def begin(self, path: str, query: str, headers: Any, body: bytes, base: str) -> str:
        """POST with uploadType=resumable: the session's address."""
        match = re.fullmatch(r"/(?:resumable/)?upload/storage/v1/b/([^/]+)/o", path)
        asked = {name: values[0] for name, values in parse_qs(query).items()}
        if not match or asked.get("uploadType") != "resumable":
            raise Refused(400, "badRequest", "no resumable upload")
        bucket = unquote(match[1])
        self._bucket(bucket)
        rest = "&".join(part for part in query.split("&") if not part.startswith(("upload_id=", "name=")))
        call = API.call("POST", f"/storage/v1/b/{match[1]}/o", rest, body)
        self._world.calls.append("storage.objects.insert")
        name = asked.get("name") or call.body.get("name")
        if not name:
            raise Refused(400, "required", "Required parameter: name")
        self._match_generation(bucket, name, asked.get("ifGenerationMatch"))
        given = headers.get("X-Upload-Content-Length")
        upload = secrets.token_urlsafe(40)
        size = int(given) if given else None
        self._world.sessions[upload] = Session(bucket, name, call.body, size, asked.get("ifGenerationMatch"))
        return f"{base}{path}?uploadType=resumable&upload_id={upload}"

    def session(self, query: str) -> Session:
        """The session that a PUT is for. Refused if it is forgotten."""
        upload = parse_qs(query).get("upload_id", [""])[0]
        if upload not in self._world.sessions:
            raise Refused(410, "gone", "Upload session not found")
        return self._world.sessions[upload]

    def finish(self, session: Session, total: int) -> bytes | None:
        """The object as JSON when all is there; None while bytes lack. Refused for wrong bytes."""
        if len(session.data) < total:
            return None
        if not session.done:
            self._match_generation(session.bucket, session.name, session.generation_match)
            self._bucket(session.bucket)
            wanted = session.resource.get("crc32c")
            if wanted and wanted != crc32c(session.data):
                raise Refused(400, "invalid", f'Provided CRC32C "{wanted}" doesn\'t match calculated CRC32C.')
            self._store(session.bucket, session.name, bytes(session.data), session.resource)
            session.done = True
        return json.dumps(self._object(session.bucket, session.name).resource).encode()

    @staticmethod
    def range_of(text: str, length: int, session: Session) -> tuple[int | None, int]:
        """(first byte, total) of a Content-Range; None for a question. Refused unless it fits body and session."""
        match = re.fullmatch(r"bytes (?:\*|(\d+)-(\d+))/(\d+)", text)
        if not match:
            raise Refused(400, "badRequest", f"Content-Range {text!r} is malformed")
        total = int(match[3])
        if session.size is not None and session.size != total:
            raise Refused(400, "badRequest", f"the session is of {session.size} bytes, not {total}")
        if match[1] is None:
            if length:
                raise Refused(400, "badRequest", "a question has no body")
            return None, total
        first, last = int(match[1]), int(match[2])
        if last - first + 1 != length or last >= total:
            raise Refused(400, "badRequest", f"{text} does not fit {length} bytes")
        if first > len(session.data):
            # What is here already may come again: it is passed over (Google, "Resumable uploads").
            raise Refused(400, "badRequest", f"{len(session.data)} bytes are here, the next piece begins at {first}")
        if last + 1 < total and length % _CHUNK:
            raise Refused(400, "badRequest", "all pieces but the last are multiples of 256 KiB")
        return first, total
