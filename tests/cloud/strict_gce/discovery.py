"""Requests held against a discovery document of Google: paths, parameters, bodies; what it does not know is refused."""

import base64
import binascii
import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

import googleapiclient

from strict_gce.errors import Refused, bad_value

DOCUMENTS = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents"
_RANGES = {
    "int32": (-(2**31), 2**31 - 1),
    "uint32": (0, 2**32 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "uint64": (0, 2**64 - 1),
}
_CLIENT_PARAMETERS = {"$alt", "$.xgafv", "prettyPrint", "alt", "fields", "projection"}


@dataclass
class Call:
    """A request that the document allows. `id`: the method's, such as "compute.images.insert"."""

    id: str
    path: dict[str, str]
    query: dict[str, str]
    body: Any


class Api:
    """One API by its document."""

    def __init__(self, name: str, prefix: str) -> None:
        self._document = _load(name)
        self._schemas = self._document["schemas"]
        self._methods = [(method, re.compile(prefix + _pattern(method["path"]))) for method in _methods(self._document)]

    def call(self, verb: str, path: str, query: str, body: bytes) -> Call:
        """The call that a request is. Refused if it is none."""
        for method, pattern in self._methods:
            if method["httpMethod"] == verb and (match := pattern.fullmatch(path)):
                break
        else:
            raise Refused(404, "notFound", f"Not Found: {verb} {path}")
        parameters = {**self._document.get("parameters", {}), **method.get("parameters", {})}
        values = {name.replace("_", "."): unquote(value) for name, value in match.groupdict().items()}
        for name, value in values.items():
            _check_parameter(name, value, parameters[name])
        asked = dict(parse_qsl(query, keep_blank_values=True))
        for name, value in asked.items():
            if name in parameters and parameters[name]["location"] == "query":
                _check_parameter(name, value, parameters[name])
            elif name not in _CLIENT_PARAMETERS:
                raise Refused(
                    400,
                    "badRequest",
                    f'Invalid JSON payload received. Unknown name "{name}": Cannot bind query parameter.',
                )
        for name, parameter in parameters.items():
            if parameter.get("required") and name not in values and name not in asked:
                raise Refused(400, "required", f"Required parameter: {name}")
        plain = None
        if "request" in method:
            try:
                plain = json.loads(body)
            except ValueError:
                raise Refused(400, "parseError", "Parse Error") from None
            self._check(method["request"]["$ref"], plain, "resource", method["id"])
        elif body:
            raise Refused(400, "badRequest", "the method has no body")
        return Call(method["id"], values, asked, plain)

    def _check(self, schema: str, value: Any, where: str, method: str) -> None:
        self._check_value(self._schemas[schema] | {"type": "object"}, value, where, method)

    def _check_value(self, kind: dict[str, Any], value: Any, where: str, method: str) -> None:
        if "$ref" in kind:
            kind = self._schemas[kind["$ref"]] | {"type": "object"}
        wanted = kind.get("type", "any")
        if wanted == "object":
            self._check_object(kind, value, where, method)
        elif wanted == "array":
            if not isinstance(value, list):
                raise bad_value(where, value, "wanted an array")
            for index, one in enumerate(value):
                self._check_value(kind["items"], one, f"{where}[{index}]", method)
        elif wanted == "string":
            _check_string(kind, value, where)
        elif wanted == "boolean" and not isinstance(value, bool):
            raise bad_value(where, value, "wanted true or false")
        elif wanted == "integer":
            # proto3's JSON form: a number, or its digits.
            if isinstance(value, bool) or not re.fullmatch(r"-?[0-9]{1,20}", str(value)):
                raise bad_value(where, value, "wanted an integer")
            _check_range(kind, int(value), where)

    def _check_object(self, kind: dict[str, Any], value: Any, where: str, method: str) -> None:
        if not isinstance(value, dict):
            raise bad_value(where, value, "wanted an object")
        properties = kind.get("properties", {})
        for name, one in value.items():
            if name in properties and one is None:
                continue  # in JSON as Google reads it, null is a field that is not set
            if name in properties:
                self._check_value(properties[name], one, f"{where}.{name}", method)
            elif "additionalProperties" in kind:
                self._check_value(kind["additionalProperties"], one, f"{where}.{name}", method)
            else:
                text = f"Invalid JSON payload received. Unknown name \"{name}\" at '{where}': Cannot find field."
                raise Refused(400, "badRequest", text)
        for name, one in properties.items():
            if method in one.get("annotations", {}).get("required", ()) and value.get(name) in (None, ""):
                raise Refused(400, "required", f"Required field '{where}.{name}' not specified")


def _check_parameter(name: str, value: str, kind: dict[str, Any]) -> None:
    if kind["type"] == "integer":
        if not re.fullmatch("-?[0-9]{1,20}", value):
            raise bad_value(name, value, "wanted an integer")
        _check_range(kind, int(value), name)
    elif kind["type"] == "boolean":
        if value not in ("true", "false"):
            raise bad_value(name, value, "wanted true or false")
    else:
        _check_string(kind, value, name)


def _check_string(kind: dict[str, Any], value: Any, where: str) -> None:
    if not isinstance(value, str) and not (kind.get("format") in _RANGES and isinstance(value, int)):
        raise bad_value(where, value, "wanted a string")
    if "enum" in kind and value not in kind["enum"]:
        raise bad_value(where, value, f"Allowed values: {kind['enum']}")
    if "pattern" in kind and not re.fullmatch(kind["pattern"], value):
        raise bad_value(where, value, f"Must be a match of regex '{kind['pattern']}'")
    if kind.get("format") in _RANGES:
        if not re.fullmatch("-?[0-9]{1,20}", str(value)):
            raise bad_value(where, value, "wanted an integer")
        _check_range(kind, int(value), where)
    if kind.get("format") == "byte":
        try:
            base64.b64decode(value, validate=True)
        except binascii.Error:
            raise bad_value(where, value, "wanted base64") from None


def _check_range(kind: dict[str, Any], value: int, where: str) -> None:
    least, most = _RANGES.get(kind.get("format", ""), (value, value))
    least, most = max(least, int(kind.get("minimum", least))), min(most, int(kind.get("maximum", most)))
    if not least <= value <= most:
        raise bad_value(where, value, f"wanted {least} to {most}")


def _pattern(path: str) -> str:
    """Object names of Cloud Storage come percent-encoded: a variable never spans a slash."""
    parts = re.split(r"\{\+?(\w+)\}", path)
    return "".join(f"(?P<{part}>[^/]+)" if index % 2 else re.escape(part) for index, part in enumerate(parts))


def _methods(node: dict[str, Any]) -> list[dict[str, Any]]:
    found = list(node.get("methods", {}).values())
    for child in node.get("resources", {}).values():
        found += _methods(child)
    return found


@cache
def _load(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((DOCUMENTS / name).read_text())
    return document
