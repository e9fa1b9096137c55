"""What a person is told of a case: a line if all is as expected, and otherwise what was wanted beside what was seen."""

import re
from collections import Counter
from typing import Any

from cvmboot.crew.chunk import OUR_ERROR

CONSOLE_LINES = 15
"""Lines of the console's end that are shown."""
_CRASH_LINES, _WARNINGS = 4, 4
_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[ -/]*[0-~])")
"""Terminal escapes of ECMA-48: control sequences, operating system commands, others."""
_LINE_ENDS = re.compile(r"\r*\n\r*")
_WORDS = {0: "ok", OUR_ERROR: "ERROR"}
Result = dict[str, Any]


def word_of(status: int) -> str:
    """ok, FAILED or ERROR."""
    return _WORDS.get(status, "FAILED")


def plain_text(text: str) -> str:
    """What a guest printed, harmless for terminals and valid in XML: no escapes, what cannot be printed as \\x1b.

    XML 1.0, 2.2 forbids most control characters and what is no character; others turn the direction of text.
    """
    text = _LINE_ENDS.sub("\n", _ESCAPES.sub("", text))
    return "".join(
        c if c in "\n\t" or c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def headline(result: Result) -> str:
    """One line."""
    text = f"{word_of(result['status']):<6} {result['seconds']:6.2f} s  {plain_text(result['source'])}"
    if (attempts := result.get("attempts", 1)) > 1:
        text += f"  (attempts: {attempts})"
    return text


def details(result: Result) -> list[str]:
    """What was wanted and what was seen, for a case that is not as expected."""
    lines = [plain_text(line) for line in result["reason"].splitlines()] if result["status"] else []
    if wanted := result.get("wanted"):
        lines.append(f"- wanted:  {plain_text(wanted)}")
        if nearest := result.get("nearest"):
            lines.append(f"+ nearest: {plain_text(nearest)}")
    elif nearest := result.get("nearest"):
        lines.append(f"+ shown:   {plain_text(nearest)}")
    lines += [f"! {plain_text(line)}" for line in result.get("crash", [])[:_CRASH_LINES]]
    warnings = result.get("warnings", []) if result["status"] else []
    lines += [f"warning: {plain_text(line)}" for warning in warnings[:_WARNINGS] for line in warning.splitlines()[:2]]
    if end := result.get("console_end"):
        shown = plain_text(end).rstrip("\n").split("\n")
        lines.append("the console ends with:")
        lines += [f"| {line}" for line in shown[-CONSOLE_LINES:]]
    elif result["status"]:
        lines.append("the console showed nothing")
    if result["status"] and (folder := result.get("folder")):
        lines.append(f"all of it: {plain_text(folder)}")
    return lines


def summary(tally: Counter[int], not_run: int, kept: int, repeated: int, seconds: float) -> str:
    """The line at the end."""
    others = tally.total() - tally[0] - tally[OUR_ERROR]
    parts = [f"{tally[0]} as expected"]
    parts += [f"{count} {word}" for count, word in ((others, "failed"), (tally[OUR_ERROR], "with errors")) if count]
    if not_run:
        parts.append(f"{not_run} not run")
    cases = "case" if tally.total() == 1 else "cases"
    text = f"{tally.total()} {cases} in {seconds:.1f} s: {', '.join(parts)}"
    if kept:
        text += f"; {kept} of them finished before"
    if repeated:
        text += f"; {repeated} run again after a worker was lost"
    return text
