"""The keys of a matrix file: what each may hold. Checked values are plain data, the same for each way to write one thing."""

import difflib
import re
from pathlib import Path
from typing import Any

from cvmboot.arguments import OPTIONS, Option
from cvmboot.errors import CvmbootError, UsageError
from cvmboot.matrix.mistake import Mistake, shown

DEFAULT_TIMEOUT = 60.0
LONGEST_TIMEOUT = 86_400.0
MOST_STEPS = 1000
OUTCOMES = ("shutdown", "reset", "returned", "crashed", "timeout", "refused")
OUTPUTS = {"trace": (".jsonl", ".json"), "screenshot": (".png",), "pcap": ()}
"""Options that name a file of the case's own folder under --output, and the suffixes that go."""
_REFUSED = {
    "gdb": "a debugger needs a person; use cvmboot run",
    "debug": "give --debug to cvmboot matrix",
    "esp_write": "cases that run at once would write to one folder; a guest's changes last as long as its case",
}
_NOT_OPTIONS = {"timeout"}
RUN_OPTIONS = {
    option.name: option for option in OPTIONS if option.field not in _REFUSED and option.field not in _NOT_OPTIONS
}
"""By their names in a file; a - may stand for a _."""
INPUTS = frozenset(
    option.name for option in RUN_OPTIONS.values() if option.convert is Path and option.name not in OUTPUTS
)
"""Options that name a file or folder that must be there."""
SCRIPT = ("name", "image", "steps", "expect", "never", "status", "outcome", "timeout")
_ACTIONS = ("send", "type", "control", "wait")
STEP = ("expect", "exact", "timeout", *_ACTIONS)
AXIS_KEYS = frozenset({"image", "timeout", *RUN_OPTIONS})
Plain = dict[str, Any]


def key_of(written: str, known: frozenset[str] | set[str]) -> str:
    """A key's usual spelling. Mistake for one that is not known."""
    key = written.replace("-", "_")
    if key in known:
        return key
    if key in _REFUSED:
        raise Mistake(_REFUSED[key], written)
    near = difflib.get_close_matches(key, known, 1)
    raise Mistake("no such key" + (f"; did you mean {near[0]}?" if near else ""), written)


def checked(key: str, value: Any) -> Any:
    """The plain value of `key`. Mistake."""
    if key in RUN_OPTIONS:
        return _option(RUN_OPTIONS[key], value)
    return _CHECKS[key](value)


def fields_of(settings: Plain) -> Plain:
    """The RunOptions fields of checked settings."""
    fields: Plain = {}
    for key, value in settings.items():
        option = RUN_OPTIONS.get(key)
        if option is None:
            continue
        if option.convert is None:
            if value:
                fields[option.field] = option.flag
        else:
            fields[option.field] = [option.convert(one) for one in value] if option.many else option.convert(value)
    return fields


def _option(option: Option, value: Any) -> Any:
    if option.convert is None:
        if not isinstance(value, bool):
            raise Mistake(f"{shown(value)}; wanted true or false")
        return value
    if option.many:
        return [_text_of(option, one) for one in (value if isinstance(value, list) else [value])]
    text = _text_of(option, value)
    if option.name in OUTPUTS:
        suffixes = OUTPUTS[option.name]
        if Path(text).name != text or text == "console.log" or (suffixes and Path(text).suffix not in suffixes):
            ends = f" that ends in {' or '.join(suffixes)}" if suffixes else ""
            raise Mistake(
                f"{shown(value)}; wanted the plain name of a file{ends}, for the case's folder under --output"
            )
    if option.name in INPUTS and not text:
        raise Mistake("an empty text; wanted the path of a file or folder")
    return text


def _text_of(option: Option, value: Any) -> str:
    """The text that the command line would have for a value."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Mistake(f"{shown(value)}; wanted a text or a number, as {option.spelling} takes it")
    text = str(value)
    if "\0" in text:
        raise Mistake("a NUL character in it")
    assert option.convert is not None
    try:
        option.convert(text)
    except UsageError as error:
        # The command line's message begins with the option and the value.
        raise Mistake(str(error).removeprefix(f"{option.spelling} ")) from None
    except (CvmbootError, ValueError) as error:
        raise Mistake(str(error)) from None
    return text


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise Mistake(f"{shown(value)}; wanted a text")
    return value


def _name(value: Any) -> str:
    text = _text(value)
    if len(text) > 100 or not text.isprintable() or "/" in text or text.startswith("."):
        raise Mistake(f"{shown(value)}; wanted up to 100 printable characters, no /, no . first")
    return text


def _path(value: Any) -> str:
    text = _text(value)
    if "\0" in text or len(text) > 4096:
        raise Mistake(f"{shown(value)}; wanted the path of a file")
    return text


def _image(value: Any) -> Any:
    if isinstance(value, list):
        return [_path(one) for one in some(value)]
    return _path(value)


def some(value: list[Any]) -> list[Any]:
    """A list that is not empty. Mistake."""
    if not value:
        raise Mistake("an empty list")
    return value


def _pattern(value: Any) -> str:
    text = _text(value)
    try:
        re.compile(text, re.MULTILINE)
    except (re.error, RecursionError, OverflowError) as error:
        raise Mistake(f"{shown(value)} is no regular expression: {error}") from None
    return text


def _patterns(value: Any) -> list[str]:
    return [_pattern(one) for one in (value if isinstance(value, list) else [value])]


def _seconds(value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value <= LONGEST_TIMEOUT:
        raise Mistake(f"{shown(value)}; wanted seconds, up to {LONGEST_TIMEOUT:g}")
    return float(value)


def _status(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 6:
        raise Mistake(f"{shown(value)}; wanted an exit status of cvmboot run, 0 to 6")
    return value


def _outcome(value: Any) -> str:
    if value not in OUTCOMES:
        raise Mistake(f"{shown(value)}; wanted {', '.join(OUTCOMES)}")
    return str(value)


def _control(value: Any) -> str:
    text = _text(value)
    if len(text) != 1 or not "@" <= text.upper() <= "_":
        raise Mistake(f'{shown(value)}; wanted one letter: "c" is Ctrl-C')
    return text.upper()


def _typed(value: Any) -> str:
    if not isinstance(value, str):
        raise Mistake(f"{shown(value)}; wanted a text")
    return value


def _steps(value: Any) -> list[Plain]:
    if not isinstance(value, list) or len(value) > MOST_STEPS:
        raise Mistake(f'{shown(value)}; wanted a list of steps such as {{ expect = "> " }} or {{ send = "help" }}')
    return [_step(number, step) for number, step in enumerate(value, 1)]


def _step(number: int, step: Any) -> Plain:
    if not isinstance(step, dict):
        raise Mistake(f'step {number} is {shown(step)}; wanted a table such as {{ expect = "> " }}')
    checks = {"expect": _pattern, "exact": _text, "timeout": _seconds, "wait": _seconds, "control": _control}
    plain: Plain = {}
    for written, value in step.items():
        try:
            key = key_of(written, set(STEP))
            plain[key] = checks.get(key, _typed)(value)
        except Mistake as mistake:
            raise Mistake(f"step {number}, {written}: {mistake}") from None
    looks = [key for key in ("expect", "exact") if key in plain]
    acts = [key for key in _ACTIONS if key in plain]
    if not looks and not acts:
        raise Mistake(f"step {number} does nothing; wanted {', '.join(STEP)}")
    for several in (looks, acts):
        if len(several) > 1:
            raise Mistake(f"step {number}: {' and '.join(several)} in one step; make two of it")
    if "timeout" in plain and not looks:
        raise Mistake(f"step {number}: timeout, and nothing to expect")
    return plain


_CHECKS = {
    "name": _name,
    "image": _image,
    "steps": _steps,
    "expect": _patterns,
    "never": _patterns,
    "status": _status,
    "outcome": _outcome,
    "timeout": _seconds,
}
