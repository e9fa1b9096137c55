"""`cvmboot matrix`: real boots, what is shown of them, and what is kept."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from guest_code import ECHO_COM1, FLOOD, LOOP, RESET_OR_RETURN, application, returning
from matrix_file import BUILT, PATIENCE, SAMPLES, ran, results_in, words

from cvmboot.virtual_machine import VirtualMachine
from tests.engines import needs_kvm

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a matrix file, beside images of machine code."""
    images = {"loop": LOOP, "flood": FLOOD, "echo": ECHO_COM1, "keys": RESET_OR_RETURN, "fine": returning(0)}
    for name, data in images.items():
        (tmp_path / f"{name}.efi").write_bytes(data)
    (tmp_path / "nasty.efi").write_bytes(_printing(NASTY))

    def make(text: str) -> Path:
        path = tmp_path / "boots.toml"
        path.write_text(text)
        return path

    return make


NASTY = b"\x1b[2J\x1b]0;title\x07[red]<&]]>\x00\x01\xff\xc2\x85\xef\xbf\xbf\xed\xa0\x80\x7f\rend\r\n"


def _printing(data: bytes) -> bytes:
    """An application that sends bytes to COM1, one by one, and returns EFI_SUCCESS."""
    code = b"\x66\xba\xf8\x03" + b"".join(b"\xb0" + bytes((each,)) + b"\xee" for each in data)
    return application(code + b"\x31\xc0\xc3")


JUNIT = {
    "testsuites": ("name tests failures errors time", ["testsuite"]),
    "testsuite": ("name tests failures errors skipped time timestamp", ["testcase"]),
    "testcase": ("name classname time", ["skipped", "error", "failure", "system-out", "system-err"]),
    "skipped": ("message", []),
    "error": ("message type", []),
    "failure": ("message type", []),
    "system-out": ("", []),
    "system-err": ("", []),
}
"""Elements, their attributes, and what is in them in that order: what the schemas have in common by which Jenkins' xUnit plugin
(junit-10.xsd) and JUnit 5 (jenkins-junit.xsd) judge a file."""


def follows_jenkins_schema(element: ElementTree.Element) -> None:
    attributes, children = JUNIT[element.tag]
    assert set(element.attrib) <= set(attributes.split()), element.attrib
    found = [children.index(child.tag) for child in element]
    assert found == sorted(found), [child.tag for child in element]
    for child in element:
        follows_jenkins_schema(child)


def test_the_example_passes_and_keeps_what_is_asked_for(tmp_path: Path) -> None:
    kept, junit = tmp_path / "kept", tmp_path / "junit.xml"
    done = ran(SAMPLES / "matrix.toml", "--jobs", 2, "--output", kept, "--trace", "--junit", junit)
    assert done.returncode == 0, done.stdout
    assert sum(line.startswith("ok ") for line in done.stdout.splitlines()) == 14
    assert len(done.stderr.splitlines()) == 1 and "14 as expected" in done.stderr
    results = results_in((kept / "results.jsonl").read_text())
    assert len(results) == 14 and {result["index"] for result in results.values()} == set(range(1, 15))
    assert results["dies/args=ud2"]["outcome"] == "crashed" and results["fails"]["exit_status"] == 3
    talks = Path(results["talks"]["folder"])
    with VirtualMachine(BUILT / "files_variables.efi") as vm:
        vm.expect_exact("Type a line: ")
        vm.sendline("a word")
        vm.wait()
        console = vm.recent_console()
    assert (talks / "console.log").read_text().splitlines()[-3:] == console.splitlines()[-3:]
    assert json.loads((talks / "trace.jsonl").read_text().splitlines()[0])["event"] == "power on"
    suite = ElementTree.parse(junit).getroot()
    assert suite.attrib["tests"] == "14" and suite.attrib["failures"] == suite.attrib["errors"] == "0"
    assert [case.attrib["name"] for case in suite.iter("testcase")] == [
        result["source"] for result in sorted(results.values(), key=lambda result: result["index"])
    ]


def test_what_was_wanted_stands_beside_what_was_seen(write: Write, tmp_path: Path) -> None:
    (tmp_path / "hello.efi").symlink_to(BUILT / "hello.efi")
    path = write("""
        [defaults]
        timeout = 20
        [[case]]
        name = "other words"
        image = "hello.efi"
        steps = [{ expect = "Hello" }, { expect = "firmware +OVMF", timeout = 5 }]
        [[case]]
        name = "too slow"
        image = "loop.efi"
        steps = [{ expect = "never", timeout = 0.3 }]
        [[case]]
        name = "too slow in all"
        image = "loop.efi"
        timeout = 0.3
        [[case]]
        name = "loops on"
        image = "loop.efi"
        timeout = 0.3
        outcome = "timeout"
        [[case]]
        name = "forbidden"
        image = "hello.efi"
        never = "^ *firmware"
        status = 0
        [[case]]
        name = "other end"
        image = "fine.efi"
        status = 3
        [[case]]
        name = "no image"
        image = "boots.toml"
        [[case]]
        name = "no image, wanted"
        image = "boots.toml"
        outcome = "refused"
        [[case]]
        name = "bad options"
        image = "fine.efi"
        product = "milan"
        """)
    done = ran(path, "--jobs", 1, "--json", "--junit", tmp_path / "junit.xml")
    assert done.returncode == 1
    results = results_in(done.stdout)
    statuses = {name: result["status"] for name, result in results.items()}
    assert statuses == {
        "other words": 3,
        "too slow": 3,
        "too slow in all": 3,
        "loops on": 0,
        "forbidden": 3,
        "other end": 3,
        "no image": 1,
        "no image, wanted": 0,
        "bad options": 1,
    }
    words = results["other words"]
    assert words["reason"] == "step 2 of 2: the machine returned EFI_SUCCESS before its console showed this"
    assert words["wanted"] == "firmware +OVMF" and words["nearest"] == "firmware    cvmboot, revision 1.0"
    assert "All is well" in words["console_end"]
    assert results["too slow"]["reason"] == "step 1 of 1: not on the console within 0.3 s"
    assert results["too slow in all"]["reason"] == "still ran after 0.3 s"
    assert results["forbidden"]["nearest"].startswith("firmware")
    assert results["other end"]["wanted"] == "status 3" and "returned EFI_SUCCESS" in results["other end"]["reason"]
    assert "add --snp" in results["bad options"]["reason"]
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot()
    assert (suite.attrib["failures"], suite.attrib["errors"]) == ("5", "2")
    follows_jenkins_schema(suite)
    ends = {case.attrib["name"]: case.findtext("system-err") for case in suite.iter("testcase")}
    assert ends["other end"] == "exit_status=0 outcome=returned"
    # For people the same, wanted above seen.
    shown = ran(path, "--only", "other words")
    assert shown.returncode == 3
    lines = [line.strip() for line in shown.stdout.splitlines()]
    assert lines[0].startswith("FAILED") and lines[0].endswith("other words")
    at = lines.index("- wanted:  firmware +OVMF")
    assert lines[at + 1] == "+ nearest: firmware    cvmboot, revision 1.0" and lines[at + 2] == "the console ends with:"
    assert lines[-1] == "|   All is well. Goodbye."


def test_a_script_types_and_looks(write: Write) -> None:
    path = write("""
        [[case]]
        name = "echo"
        image = "echo.efi"
        status = 0
        steps = [
          { type = "abc", exact = "" },
        ]
        """)
    assert ran(path).returncode == 2  # an empty text is found everywhere
    path = write(r"""
        [[case]]
        name = "echo"
        image = "echo.efi"
        timeout = 20
        status = 0
        steps = [
          { type = "a.c" }, { exact = "a.c" }, { send = "line" }, { exact = "line" }, { wait = 0.2 },
          { type = "one\ntwo" }, { expect = 'one\rtwo' }, { control = "d" },
        ]
        [[case]]
        name = "reboots"
        image = "keys.efi"
        status = 0
        steps = [{ exact = "R", type = "r" }, { exact = "R", type = "x" }]
        [[case]]
        name = "resets"
        image = "keys.efi"
        no-reboot = true
        outcome = "reset"
        steps = [{ exact = "R", type = "r" }]
        """)
    done = ran(path, "--jobs", 1)
    assert done.returncode == 0, done.stdout


def test_a_hostile_console_stays_text(write: Write, tmp_path: Path) -> None:
    path = write("""
        [[case]]
        image = "nasty.efi"
        expect = "nothing of the kind"
        """)
    junit, kept = tmp_path / "junit.xml", tmp_path / "kept"
    done = subprocess.run(
        words(path, "--junit", junit, "--output", kept), capture_output=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 3
    shown = done.stdout.decode()
    assert all(character.isprintable() or character == "\n" for character in shown)
    assert "[red]<&]]>\\x00\\x01" in shown and "title" not in shown and "\\rend" in shown
    root = ElementTree.fromstring(junit.read_bytes())
    (out,) = root.iter("system-out")
    assert out.text is not None and "[red]<&]]>\\x00\\x01" in out.text
    # As it came, byte by byte, in the log.
    assert (kept / "nasty.efi" / "console.log").read_bytes() == NASTY


def test_a_guest_that_floods_its_console_costs_its_case_only(write: Write) -> None:
    path = write("""
        [defaults]
        timeout = 4
        [[case]]
        image = "flood.efi"
        expect = "y"
        [[case]]
        image = "fine.efi"
        """)
    results = results_in(ran(path, "--json", "--jobs", 2).stdout)
    assert results["flood.efi"]["status"] == 3 and len(results["flood.efi"]["console_end"]) <= 4000
    assert results["fine.efi"]["status"] == 0


def test_variables_are_each_cases_own(write: Write, tmp_path: Path) -> None:
    variables = tmp_path / "vars.json"
    variables.write_text('{"version": 2, "variables": []}')
    before = variables.read_bytes()
    path = write(f"""
        [[case]]
        name = "writes"
        image = "{BUILT / "everything.efi"}"
        esp = "{BUILT}"
        vars = "vars.json"
        args = "variables"
        status = 0
        """)
    assert ran(path).returncode == 0
    assert variables.read_bytes() == before


def test_fail_fast_and_cases_that_were_not_run(write: Write, tmp_path: Path) -> None:
    path = write("""
        [[case]]
        image = "fine.efi"
        name = "one"
        [[case]]
        image = "fine.efi"
        name = "two"
        status = 3
        [[case]]
        image = "fine.efi"
        name = "three"
        """)
    done = ran(path, "--jobs", 1, "--fail-fast", "--json", "--junit", tmp_path / "junit.xml")
    assert done.returncode == 3 and list(results_in(done.stdout)) == ["one", "two"]
    assert "1 not run" in done.stderr and "stopped after 2 cases" in done.stderr
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot()
    assert suite[0].attrib["skipped"] == "1"
    assert [case.attrib["name"] for case in suite.iter("testcase") if case.find("skipped") is not None] == ["three"]


def test_resume_runs_what_changed(write: Write, tmp_path: Path) -> None:
    text = """
        [[case]]
        name = "one"
        image = "fine.efi"
        [[case]]
        name = "two"
        image = "loop.efi"
        timeout = 3
        [[case]]
        name = "three"
        image = "boots.toml"
        """
    path, kept = write(text), tmp_path / "kept"
    assert ran(path, "--jobs", 1, "-o", kept).returncode == 1
    done = ran(path, "--jobs", 1, "-o", kept, "--resume", "--json")
    # Also those that failed are finished; an error of ours is tried again.
    assert done.returncode == 1 and "2 of them finished before" in done.stderr
    assert {name: result["status"] for name, result in results_in(done.stdout).items()} == {
        "one": 0,
        "two": 3,
        "three": 1,
    }
    (tmp_path / "loop.efi").write_bytes(returning(0))
    path.write_text(text.replace("boots.toml", "fine.efi"))
    done = ran(path, "--jobs", 1, "-o", kept, "--resume")
    assert done.returncode == 0 and "1 of them finished before" in done.stderr
    assert {result["status"] for result in results_in((kept / "results.jsonl").read_text()).values()} == {0}
    # Without --resume all of it is run again; other files are left alone.
    assert "finished before" not in ran(path, "--jobs", 1, "-o", kept).stderr
    assert len(results_in((kept / "results.jsonl").read_text())) == 3
    (kept / "results.jsonl").write_text("mine\n")
    done = ran(path, "--jobs", 1, "-o", kept)
    assert done.returncode == 1 and "not of a matrix's output" in done.stderr
    assert (kept / "results.jsonl").read_text() == "mine\n"


def test_files_that_cannot_be_written(write: Write, tmp_path: Path) -> None:
    path = write("[[case]]\nimage = 'fine.efi'")
    for option, value in (("--junit", tmp_path / "absent" / "junit.xml"), ("--output", path)):
        done = ran(path, option, value)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert any(line.startswith(f"cvmboot: {option} {value}") for line in done.stderr.splitlines())


def test_real_guests(guest: Callable[[str], Path], write: Write) -> None:
    path = write(f"""
        [axes]
        image = ["{guest("go-boot.efi")}", "{guest("tamago-sev-example.efi")}"]
        snp = [false, true]
        [[case]]
        name = "prompt"
        expect = "> "
        [[case]]
        name = "shutdown"
        image = "{guest("go-boot.efi")}"
        steps = [{{ exact = "> ", send = "info" }}, {{ expect = "^CPU .*cvmboot" }}, {{ exact = "> ", send = "shutdown" }}]
        outcome = "shutdown"
        """)
    done = ran(path)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("ok ") == 6


@needs_kvm
def test_virtual_time_on_kvm_is_the_hosts_and_the_result_says_so(write: Write) -> None:
    done = ran(write("[[case]]\nimage = 'fine.efi'\nengine = 'kvm'\nclock = 'virtual'\nstatus = 0"), "--json")
    (result,) = results_in(done.stdout).values()
    assert (done.returncode, result["exit_status"]) == (0, 0)
    assert [line.partition(",")[0] for line in result["warnings"]] == ["--engine kvm runs without --clock virtual"]


def test_a_case_that_goes_on_from_a_snapshot(write: Write, tmp_path: Path) -> None:
    machine: Any = VirtualMachine(tmp_path / "keys.efi")
    with machine:
        machine.expect_exact("R")
        machine.snapshot(tmp_path / "prompt.snap").close()
    path = write("""
        [axes]
        image = ["fine.efi", "keys.efi"]
        [[case]]
        name = "restored"
        restore = "prompt.snap"
        status = 0
        steps = [{ type = "x" }]
        [[case]]
        name = "booted"
        outcome = "refused"
        [[exclude]]
        image = "keys.efi"
        """)
    done = ran(path, "--json")
    results = results_in(done.stdout)
    assert results["restored"]["status"] == 0 and results["restored"]["image"] is None, done.stdout
    assert results["booted"]["status"] == 3
    assert ran(write("[[case]]\nimage = 'fine.efi'\nrestore = 'prompt.snap'")).returncode == 2
