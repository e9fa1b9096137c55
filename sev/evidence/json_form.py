"""JSON with a report somewhere in it: as text in base64 or hex, as an array of bytes, or decoded into its fields.

Which tool wrote it does not matter: Trustee and Confidential Containers, Azure's vTPM evidence and attestation requests, THIM
certificates, confidential sidecars, snpguest and others nest the same few things under names of their own.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from sev.errors import MalformedReport
from sev.evidence import dumps, fields
from sev.evidence.finds import Finds, RuntimeData

_SMALLEST = 256
_MOST_VALUES = 500_000
_DEEPEST = 64
_RUNTIME = re.compile(r"runtime_?(data|claims)\Z", re.IGNORECASE)

Look = Callable[[bytes, str, bool], None]
"""Looks at bytes: what they are, where they were, whether text in them is looked at, too."""


def parse(data: bytes) -> Any:
    """The value in JSON text; None if it is no JSON. MalformedReport for JSON that says things twice or nests too deeply."""
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_once_each)
    except MalformedReport:
        raise
    except RecursionError:
        raise MalformedReport("JSON nested too deeply") from None
    except ValueError:  # also no UTF-8, and numbers of thousands of digits
        return None


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) != len(pairs):
        raise MalformedReport("JSON in which a member stands twice in one object")
    return names


def walk(finds: Finds, value: Any, where: str, look: Look) -> None:
    """Look at everything in a parsed value; `where` says where that was. MalformedReport."""
    for number, (path, inner) in enumerate(_values(value, where)):
        if number > _MOST_VALUES:
            raise MalformedReport(f"JSON of more than {_MOST_VALUES} values")
        if isinstance(inner, dict):
            if fields.is_decoded_report(inner):
                look(fields.assemble(inner), f"{path} (decoded)", False)
            _note_runtime(finds, inner, path)
        elif isinstance(inner, list):
            look(bytes(inner), path, True)
        else:
            _look_at_text(inner, path, look)


def _values(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """(path, value) of each object, each array of bytes and each text that is long enough, outer ones first."""
    waiting = [(where, value, 0)]
    while waiting:
        path, inner, depth = waiting.pop()
        if depth > _DEEPEST:
            raise MalformedReport("JSON nested too deeply")
        if isinstance(inner, dict):
            yield path, inner
            waiting += [(f"{path}.{_shown(name)}", item, depth + 1) for name, item in reversed(inner.items())]
        elif isinstance(inner, list):
            if len(inner) >= _SMALLEST and all(type(item) is int and 0 <= item < 256 for item in inner):
                yield path, inner
            else:
                waiting += [
                    (f"{path}[{number}]", item, depth + 1)
                    for number, item in reversed(list(enumerate(inner)))
                    if isinstance(item, dict | list | str)
                ]
        elif isinstance(inner, str) and len(inner) >= _SMALLEST:
            yield path, inner


def _shown(name: str) -> str:
    return name if name.isidentifier() and len(name) <= 40 else ascii(name[:40])


def _look_at_text(text: str, path: str, look: Look) -> None:
    """Text in a JSON value: base64, hex, PEM, or JSON in its turn."""
    try:
        data = text.encode("ascii")
    except UnicodeEncodeError:
        return
    if "-----BEGIN" in text or text.lstrip()[:1] in ("{", "["):
        look(data, path, True)
        return
    decoded = dumps.hexadecimal(data)
    how = "hex"
    if decoded is None:
        decoded, how = dumps.base64_text(data), "base64"
    if decoded is not None:
        look(decoded, f"{path}, {how}", True)
    elif b"\\" in data:
        look(data, path, True)


def _note_runtime(finds: Finds, value: dict[str, Any], path: str) -> None:
    """Runtime data as Azure's clients hand it over: {"runtimeData": {"data": base64}}, or text in base64 beside the report."""
    for name, item in value.items():
        if not _RUNTIME.match(name):
            continue
        given = item.get("data") if isinstance(item, dict) else item
        if not isinstance(given, str) or not given or len(given) > 1 << 20:
            continue
        forms = [given.encode("utf-8", "replace")]
        if (decoded := dumps.base64_text(forms[0])) is not None:
            forms.append(decoded)
        finds.runtime_data.append(RuntimeData(f"{path}.{_shown(name)}", forms))
