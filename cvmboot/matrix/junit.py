"""Results as JUnit XML, in the form that CI servers agree on: testsuites, testsuite, testcase with failure, error or skipped.

Jenkins' xUnit plugin holds files against its schema (junit-10.xsd) and refuses what is not in that: `skipped` of all suites
together, and properties of a case, though others read them.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from cvmboot.crew.chunk import OUR_ERROR
from cvmboot.errors import CvmbootError
from cvmboot.matrix.report import details, plain_text
from cvmboot.whole_file import write_whole

_SHOWN = 300
"""Characters of a message."""


def junit(
    suite_name: str, names: list[str], results: dict[str, dict[str, Any]], began: datetime, seconds: float
) -> bytes:
    """The document; cases of `names` without a result are skipped ones. What guests printed is escaped."""
    found = [results[name] for name in names if name in results]
    errors = sum(result["status"] == OUR_ERROR for result in found)
    counts = {
        "tests": str(len(names)),
        "failures": str(sum(bool(result["status"]) for result in found) - errors),
        "errors": str(errors),
        "time": f"{seconds:.3f}",
    }
    suites = ElementTree.Element("testsuites", {"name": "cvmboot matrix", **counts})
    suite_name = plain_text(suite_name)
    when = began.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    skipped = str(len(names) - len(found))
    about = {"name": suite_name, "timestamp": when, "skipped": skipped}
    suite = ElementTree.SubElement(suites, "testsuite", {**about, **counts})
    for name in names:
        case = ElementTree.SubElement(suite, "testcase", classname=suite_name, name=plain_text(name))
        result = results.get(name)
        if result is None:
            case.set("time", "0")
            ElementTree.SubElement(case, "skipped", message="not run")
            continue
        case.set("time", f"{result['seconds']:.3f}")
        _tell(case, result)
    ElementTree.indent(suites)
    return bytes(ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True)) + b"\n"


def _tell(case: ElementTree.Element, result: dict[str, Any]) -> None:
    if result["status"]:
        message = plain_text(result["reason"])
        if wanted := result.get("wanted"):
            message += f": {plain_text(wanted)}"
        tag = "error" if result["status"] == OUR_ERROR else "failure"
        element = ElementTree.SubElement(
            case, tag, message=message[:_SHOWN], type="console" if tag == "failure" else "error"
        )
        element.text = "\n".join(details(result))
    if end := result.get("console_end"):
        ElementTree.SubElement(case, "system-out").text = plain_text(end)
    told = [f"{key}={result[key]}" for key in ("exit_status", "outcome", "attempts", "worker") if key in result]
    if told:
        ElementTree.SubElement(case, "system-err").text = plain_text(" ".join(told))


def write(path: Path, document: bytes) -> None:
    """Write the document whole or not at all. CvmbootError."""
    try:
        write_whole(path, document)
    except OSError as error:
        raise CvmbootError(f"--junit {path}: {error.strerror}") from None
