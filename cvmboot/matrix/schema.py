"""The JSON Schema of a matrix file, made of the table of `cvmboot run`'s options, for editors that complete and check."""

from typing import Any

from cvmboot.arguments import Option
from cvmboot.matrix.keys import AXIS_KEYS, LONGEST_TIMEOUT, MOST_STEPS, OUTCOMES, RUN_OPTIONS

Schema = dict[str, Any]
_TEXT: Schema = {"type": "string", "minLength": 1}
_SECONDS: Schema = {"type": "number", "exclusiveMinimum": 0, "maximum": LONGEST_TIMEOUT}
_PATTERNS: Schema = {"oneOf": [_TEXT, {"type": "array", "items": _TEXT}]}
_STEP: Schema = {
    "type": "object",
    "properties": {
        "expect": _TEXT | {"description": "Regular expression that the console has to show."},
        "exact": _TEXT | {"description": "Text that the console has to show."},
        "timeout": _SECONDS | {"description": "Seconds to wait for it."},
        "send": {"type": "string", "description": "Type this, and Enter."},
        "type": {"type": "string", "description": "Type this."},
        "control": {"type": "string", "pattern": "^[@-_a-z]$", "description": "Type Ctrl and this letter."},
        "wait": _SECONDS | {"description": "Wait so many seconds."},
    },
    "additionalProperties": False,
    "minProperties": 1,
}


def schema() -> Schema:
    """The schema (JSON Schema 2020-12). What it cannot say (expect beside steps, names that are there twice), reading says."""
    options: Schema = {}
    for key, option in RUN_OPTIONS.items():
        for spelling in (key, key.replace("_", "-")):
            options[spelling] = _option(option)
    script: Schema = {
        "image": {"oneOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}]},
        "steps": {"type": "array", "items": _STEP, "maxItems": MOST_STEPS},
        "expect": _PATTERNS | {"description": "What the console has to show, one after the other."},
        "never": _PATTERNS | {"description": "What the console must not show."},
        "status": {
            "type": "integer",
            "minimum": 0,
            "maximum": 6,
            "description": "Exit status that `cvmboot run` would have.",
        },
        "outcome": {"enum": list(OUTCOMES)},
        "timeout": _SECONDS | {"description": "Seconds for the whole case."},
    }
    name: Schema = {"type": "string", "pattern": "^[^/.][^/]*$", "maxLength": 100}
    axis = {
        key: value for key, value in {**options, **script, "image": _TEXT}.items() if key.replace("-", "_") in AXIS_KEYS
    }
    axes = _table({key: {"type": "array", "items": value, "minItems": 1} for key, value in axis.items()})
    settings = {**options, **script}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "cvmboot matrix",
        **_table(
            {
                "defaults": _table(settings),
                "axes": axes,
                "case": _tables({"name": name, "axes": axes, **settings}),
                "include": _tables({**settings, "case": _TEXT, "image": _TEXT}),
                "exclude": _tables({**axis, "case": _TEXT}),
            }
        ),
    }


def _table(properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _tables(properties: Schema) -> Schema:
    return {"type": "array", "items": _table(properties)}


def _option(option: Option) -> Schema:
    if option.convert is None:
        return {"type": "boolean", "description": option.help}
    one: Schema = {"type": ["string", "number"]}
    if option.many:
        return {"oneOf": [one, {"type": "array", "items": one}], "description": option.help}
    return one | {"description": option.help}
