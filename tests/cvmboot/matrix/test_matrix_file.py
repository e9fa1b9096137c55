"""The file of a matrix: what it may say, what becomes of it, and one line for each mistake."""

import json
import re
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matrix_file import BUILT, SAMPLES

from cvmboot.cli import main
from cvmboot.errors import UsageError
from cvmboot.matrix.expansion import expand
from cvmboot.matrix.junit import junit
from cvmboot.matrix.keys import AXIS_KEYS, RUN_OPTIONS, SCRIPT, STEP
from cvmboot.matrix.reading import MatrixFile
from cvmboot.matrix.report import plain_text
from cvmboot.matrix.schema import schema
from cvmboot.options import RunOptions

Written = Callable[[str], Path]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Write a matrix file, beside files a.efi and b.efi."""
    for name in ("a.efi", "b.efi"):
        (tmp_path / name).write_bytes(b"MZ")
    (tmp_path / "esp").mkdir()

    def write(text: str) -> Path:
        path = tmp_path / "boots.toml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def listed(written: Written, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[dict[str, Any]]]:
    """The cases of a file, as --list shows them."""

    def show(text: str, *more: str) -> list[dict[str, Any]]:
        assert main(["matrix", str(written(text)), "--list", "--json", *more]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return show


Listed = Callable[..., list[dict[str, Any]]]


def _names(cases: list[dict[str, Any]]) -> list[str]:
    return [case["case"] for case in cases]


def test_axes_multiply_and_a_case_that_sets_one_has_it_fixed(listed: Listed) -> None:
    cases = listed("""
        [defaults]
        memory = 512
        [axes]
        image = ["a.efi", "b.efi"]
        snp = [false, true]
        [[case]]
        name = "all"
        expect = "x"
        [[case]]
        name = "one"
        image = "b.efi"
        memory = "1G"
        expect = "x"
        axes = { args = ["-v", "-q"] }
        """)
    assert _names(cases) == [
        *("all/a.efi/snp=false", "all/a.efi/snp=true", "all/b.efi/snp=false", "all/b.efi/snp=true"),
        *("one/snp=false/args=-v", "one/snp=false/args=-q", "one/snp=true/args=-v", "one/snp=true/args=-q"),
    ]
    assert cases[1]["settings"] == {"memory": "512", "snp": True}
    assert cases[4]["settings"] == {"memory": "1G", "snp": False, "args": "-v"}
    assert {Path(case["image"]).name for case in cases[4:]} == {"b.efi"}


def test_exclude_and_include(listed: Listed) -> None:
    text = """
        [axes]
        image = ["a.efi", "b.efi"]
        snp = [false, true]
        [[exclude]]
        image = "b.efi"
        snp = true
        [[include]]
        image = "a.efi"
        timeout = 5
        [[include]]
        image = "b.efi"
        snp = true
        product = "milan"
        """
    cases = {case["case"]: case for case in listed(text)}
    assert list(cases) == [
        "boots/a.efi/snp=false",
        "boots/a.efi/snp=true",
        "boots/b.efi/snp=false",
        "boots/b.efi/snp=true",
    ]
    assert [case["timeout"] for case in cases.values()] == [5, 5, 60, 60]
    assert cases["boots/b.efi/snp=true"]["settings"] == {"snp": True, "product": "milan"}
    assert _names(listed(text, "--only", "*/a.efi/*", "--only", "*b.efi*false")) == list(cases)[:3]


def test_include_and_exclude_for_some_cases(listed: Listed) -> None:
    cases = listed("""
        [axes]
        clock = ["real", "virtual"]
        [[case]]
        name = "one"
        image = "a.efi"
        [[case]]
        name = "two"
        image = "b.efi"
        [[exclude]]
        case = "t*"
        clock = "virtual"
        [[include]]
        case = "one"
        args = "x"
        """)
    assert _names(cases) == ["one/clock=real", "one/clock=virtual", "two"]
    assert [case["settings"].get("args") for case in cases] == ["x", "x", None]


def test_values_become_what_the_command_line_would_have_made_of_them(written: Written) -> None:
    path = written("""
        [[case]]
        image = ["a.efi"]
        memory = 512
        no-reboot = true
        net = "user"
        forward = ["8080:80", "2222:22"]
        expose = 80
        esp = "esp"
        host-data = "%s"
        trace = "calls.jsonl"
        """ % ("ab" * 32))  # fmt: skip
    (case,) = expand(MatrixFile(path))
    record = case.record(path.parent / "kept", False)
    options = RunOptions(**record["fields"])
    assert options.memory == 512 << 20 and options.reboot is False and options.expose == [80]
    assert options.forward == [(8080, 80), (2222, 22)] and options.host_data == b"\xab" * 32
    assert options.esp == path.parent / "esp" and record["outputs"] == {"trace": "calls.jsonl"}


def test_every_option_of_run_is_a_key_or_refused_with_a_reason() -> None:
    from cvmboot.arguments import OPTIONS
    from cvmboot.matrix.keys import _REFUSED

    fields = {option.field for option in RUN_OPTIONS.values()}
    assert {option.field for option in OPTIONS} == fields | set(_REFUSED) | {"timeout"}


MISTAKES = {
    "": "[defaults]: no image",
    "x": "no TOML: ",
    "a = 1": "[a]: no such key; wanted [defaults], [axes], [[case]], [[include]], [[exclude]]",
    "[[cases]]": "[cases]: no such key; did you mean case?; wanted ",
    "[case]\nimage = 'a.efi'": "[case]: a table; wanted [[case]], in two brackets, as often as you like",
    "defaults = 3": "[defaults]: 3; wanted a table",
    "case = [1]": "[[case]] 1: 1; wanted a table",
    "[defaults]\nname = 'x'": "[defaults], name: no such key",
    "[defaults]\nmemmory = '1G'": "[defaults], memmory: no such key; did you mean memory?",
    "[defaults]\nmemory = '1X'": "[defaults], memory: 1X: not a size; wanted a number with K, M, G or T",
    "[defaults]\nmemory = 1": "[defaults], memory: 1: wanted a multiple of 2 MiB from 64 MiB to 1 TiB",
    "[[case]]\nimage = '*.elf'": "image: *.elf: no file has such a name",
    "[defaults]\nmemory = true": "[defaults], memory: true; wanted a text or a number, as --memory takes it",
    "[defaults]\nmemory = ['1G']": "[defaults], memory: a list; wanted a text or a number",
    "[defaults]\nsnp = 'yes'": '[defaults], snp: "yes"; wanted true or false',
    "[defaults]\nesp_write = true": "[defaults], esp_write: cases that run at once would write to one folder",
    "[defaults]\ngdb = 1": "[defaults], gdb: a debugger needs a person",
    "[defaults]\ntrace = 'a/b.jsonl'": '[defaults], trace: "a/b.jsonl"; wanted the plain name of a file that ends in .jsonl or',
    "[defaults]\npcap = 'console.log'": '[defaults], pcap: "console.log"; wanted the plain name of a file, for',
    "[defaults]\nforward = ['x']": "[defaults], forward: x",
    "[defaults]\ntimeout = 0": "[defaults], timeout: 0; wanted seconds, up to 86400",
    "[defaults]\ntimeout = nan": "[defaults], timeout: nan; wanted seconds",
    "[defaults]\nstatus = 7": "[defaults], status: 7; wanted an exit status of cvmboot run, 0 to 6",
    "[defaults]\noutcome = 'dead'": '[defaults], outcome: "dead"; wanted shutdown, reset, ',
    "[defaults]\nno-reboot = true\nno_reboot = true": "[defaults]: no-reboot and no_reboot say the same",
    "[defaults]\nexpect = 'x'\nsteps = []": "[defaults]: expect and steps say the same; leave one out",
    "[defaults]\nnever = '('": '[defaults], never: "(" is no regular expression: ',
    "[defaults]\nsteps = 'x'": '[defaults], steps: "x"; wanted a list of steps such as { expect = "> " }',
    "[defaults]\nsteps = ['x']": '[defaults], steps: step 1 is "x"; wanted a table',
    "[defaults]\nsteps = [{}]": "[defaults], steps: step 1 does nothing; wanted expect, exact, ",
    "[defaults]\nsteps = [{ send = 'x' }, { expct = '' }]": "[defaults], steps: step 2, expct: no such key; did you mean expect?",
    "[defaults]\nsteps = [{ send = 'x', type = 'y' }]": "[defaults], steps: step 1: send and type in one step",
    "[defaults]\nsteps = [{ expect = 'x', exact = 'y' }]": "[defaults], steps: step 1: expect and exact in one step",
    "[defaults]\nsteps = [{ send = 'x', timeout = 1 }]": "[defaults], steps: step 1: timeout, and nothing to expect",
    "[defaults]\nsteps = [{ expect = '[' }]": '[defaults], steps: step 1, expect: "[" is no regular expression',
    "[defaults]\nsteps = [{ control = 'xx' }]": "[defaults], steps: step 1, control: ",
    "[axes]\nimage = 'a.efi'": '[axes], image: "a.efi"; wanted a list of values',
    "[axes]\nimage = []": "[axes], image: an empty list",
    "[axes]\nsteps = [1]": "[axes], steps: no such key",
    "[axes]\nsnp = [true, 1]": "[axes], snp: 1; wanted true or false",
    "[axes]\nmemory = [512, '512']": '[axes], memory: "512" stands there twice',
    "[axes]\nsnp-check = ['warn']\nsnp_check = ['off']": "[axes]: snp_check stands there twice",
    "[[case]]\nname = 'a/b'": '[[case]] 1 "a/b", name: "a/b"; wanted up to 100 printable characters',
    "[[case]]\nname = 7": "[[case]] 1, name: 7; wanted a text",
    "[[case]]\nname = 'x'": '[[case]] 1 "x": no image; name one in the case, in [defaults] or in [axes]',
    "[[case]]\nimage = 'c.efi'": "image: {folder}/c.efi: no such file",
    "[[case]]\nimage = 'esp'": "image: {folder}/esp: a folder; wanted an EFI application",
    "[[case]]\nimage = 'a.efi'\nplatform = 'p'": "platform: {folder}/p: no such file",
    "[[case]]\nimage = 'a.efi'\nesp = ''": "[[case]] 1, esp: an empty text",
    "[[case]]\nimage = 'a.efi'\n[[case]]\nimage = 'a.efi'": '[[case]] 1 and [[case]] 2: two cases are called "a.efi"',
    "[[case]]\nimage = 'a.efi'\nsnp = true\naxes = { snp = [true] }": "[[case]] 1: snp stands in the case and in its axes",
    "[defaults]\nimage = 'a.efi'\n[[exclude]]\nsnp = true": "[[exclude]] 1: there is no such case to leave out",
    "[defaults]\nimage = 'a.efi'\n[[exclude]]": "[[exclude]] 1: an empty table",
    "[defaults]\nimage = 'a.efi'\n[[exclude]]\ncase = 1": "[[exclude]] 1, case: 1; wanted a pattern for names of cases",
    "[axes]\nimage = ['a.efi']\n[[exclude]]\nimage = 'a.efi'": "no cases in it",
    "[axes]\nimage = ['a.efi']\n[[include]]\nimage = 'a.efi'": "[[include]] 1: there is such a case already",
    "[defaults]\nimage = 'a.efi'\n[[include]]\ncase = 'b'\nsnp = true": "[[include]] 1: is for no case",
    "[defaults]\nimage = 'a.efi'\n[axes]\n"
    + "\n".join(f"{key} = [{', '.join(map(str, range(1, 30)))}]" for key in ("cpus", "timeout", "sp-busy")): (
        "[defaults]: its axes make more than 10000 cases"
    ),
    "a = " + "[" * 5000: "nested too deeply",
    f"a = {'9' * 5000}": "no TOML: ",
}


@pytest.mark.parametrize("text", MISTAKES, ids=lambda text: text[:30].replace("\n", " "))
def test_a_mistake_is_one_line_that_names_file_table_and_key(
    text: str, written: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(text)
    assert main(["matrix", str(path)]) == 2
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert re.match(rf"cvmboot: {re.escape(str(path))}(:\d+)?: ", line)
    assert MISTAKES[text].replace("{folder}", str(path.parent)) in line
    assert not said.out


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\n[defaults]\nmemory = '1G'\nmemmory = '1G'", 4),
        (
            "[defaults]\nimage = 'a.efi'\n\n  [[ case ]]  # one\nname = 'x'\n[case.axes]\nargs = ['a']\n[[case]]\nsnp = 1\n",
            9,
        ),
        ("[[case]]\nimage = 'a.efi'\n[[case]]\nname = 'x'\nimage = 'none.efi'\n", 5),
        ("[[case]]\nimage = 'a.efi'\n[[case]]\nname = 'x'\n", 3),
        ("[axes]\nsnp = []\n[[case]]\nimage = 'a.efi'", 2),
        ("[defaults]\nimage = 'a.efi'\n[[exclude]]\nsnp = true", 3),
        # A line that looks like a header: no line is better than a wrong one.
        ("[[case]]\nimage = 'a.efi'\nargs = '''\n[[case]]\n'''\n[[case]]\nsnp = 1", None),
        ("defaults = { snp = 1 }", None),
    ],
)
def test_a_mistake_names_its_line(
    text: str, line: int | None, written: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(text)
    assert main(["matrix", str(path)]) == 2
    place = f"cvmboot: {path}:{line}: [" if line is not None else f"cvmboot: {path}: ["
    assert capsys.readouterr().err.startswith(place)


def test_a_pattern_stands_for_the_images_that_have_such_names(listed: Listed) -> None:
    cases = listed("[[case]]\nname = 'all'\nimage = '*.efi'\nexpect = 'x'")
    assert _names(cases) == ["all/a.efi", "all/b.efi"]
    assert _names(listed("[axes]\nimage = ['b.efi', '?.efi']\n[[case]]\nname = 'x'")) == ["x/b.efi", "x/a.efi"]
    one = listed("[[case]]\nimage = 'a*.efi'\nexpect = 'x'")
    assert [Path(case["image"]).name for case in one] == ["a.efi"]


def test_files_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bytes.toml").write_bytes(b"a = '\xff'")
    (tmp_path / "large.toml").write_bytes(b"#" * ((4 << 20) + 1))
    for name, what in (
        ("absent.toml", "No such file"),
        ("", "Is a directory"),
        ("bytes.toml", "0xff at 5 is no UTF-8"),
        ("large.toml", "more than 4194304 bytes"),
    ):
        assert main(["matrix", str(tmp_path / name)]) == 2
        assert what in capsys.readouterr().err


def test_options_that_make_no_sense(written: Written, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(written("[defaults]\nimage = 'a.efi'"))
    for words, said in (
        ([], "no FILE"),
        ([path, "--resume"], "--output"),
        ([path, "--trace"], "--output"),
        ([path, "--jobs", "2", "--cluster", "tcp://127.0.0.1:1"], "--jobs and --cluster"),
        ([path, "--only", "x*"], "no such case"),
        ([path, "--jobs", "0"], "--jobs"),
        ([path, "--cluster", "http://127.0.0.1"], "tcp://HOST:PORT"),
    ):
        assert main(["matrix", *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line


# -- any file


_scalars = st.one_of(
    st.booleans(),
    st.integers(-10, 1 << 40),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.sampled_from(["a.efi", "1G", "real", "(", ".*", "user", "8080:80", "x.jsonl", "\x00", "crashed"]),
)
_steps = st.lists(st.dictionaries(st.sampled_from(STEP), _scalars, max_size=3), max_size=3)
_values = st.one_of(_scalars, st.lists(_scalars, max_size=3), _steps)
_keys = st.one_of(st.sampled_from(sorted({*SCRIPT, *AXIS_KEYS, "axes", "case", "gdb"})), st.text("abc-_", min_size=1))
_table = st.dictionaries(_keys, _values, max_size=4)
_axes = st.dictionaries(_keys, st.lists(_scalars, max_size=3), max_size=3)
_file = st.fixed_dictionaries(
    {},
    optional={
        "defaults": _table,
        "axes": _axes,
        "case": st.lists(_table, max_size=3),
        "include": st.lists(_table, max_size=2),
        "exclude": st.lists(
            _axes.map(lambda axes: {key: values[0] for key, values in axes.items() if values}), max_size=2
        ),
    },
)


def _toml(value: Any) -> str:
    """A value in TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _outcome(path: Path) -> "list[Any] | None":
    """The cases, or None for a mistake, which is one line."""
    try:
        return list(expand(MatrixFile(path)))
    except UsageError as error:
        assert str(error).startswith(f"{path}: ") and len(str(error).splitlines()) == 1 and len(str(error)) < 1000
        return None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a.efi."""
    made = tmp_path_factory.mktemp("matrix")
    (made / "a.efi").write_bytes(b"MZ")
    return made


@given(plain=_file)
@settings(max_examples=200)
def test_any_tables_make_cases_or_one_line(plain: dict[str, Any], folder: Path) -> None:
    path = folder / "boots.toml"
    path.write_text("".join(f"{key} = {_toml(value)}\n" for key, value in plain.items()))
    tomllib.loads(path.read_text())
    cases = _outcome(path)
    if cases is not None:
        assert len({case.name for case in cases}) == len(cases) > 0
        for case in cases:
            RunOptions(**case.record(folder, True)["fields"])
            assert "\n" not in case.name


@given(data=st.one_of(st.binary(max_size=200), st.text("[]{}=\"'\\n .,a1#", max_size=60).map(str.encode)))
def test_any_bytes_make_one_line(data: bytes, folder: Path) -> None:
    path = folder / "bytes.toml"
    path.write_bytes(data)
    assert _outcome(path) is None


@given(
    sizes=st.lists(st.integers(1, 4), min_size=3, max_size=3),
    left_out=st.sets(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=4),
)
def test_as_many_cases_as_combinations(sizes: list[int], left_out: set[tuple[int, int]], folder: Path) -> None:
    memory, args, clock = (
        [f"{n}G" for n in range(1, sizes[0] + 1)],
        list("abcd"[: sizes[1]]),
        ["real", "virtual"][: sizes[2]],
    )
    left = {(m, a) for m, a in left_out if m < len(memory) and a < len(args)}
    text = f"[defaults]\nimage = 'a.efi'\n[axes]\nmemory = {memory}\nargs = {args}\nclock = {clock}\n"
    text += "".join(f"[[exclude]]\nmemory = '{memory[m]}'\nargs = '{args[a]}'\n" for m, a in left)
    path = folder / "count.toml"
    path.write_text(text)
    cases = _outcome(path)
    assert len(cases or []) == (len(memory) * len(args) - len(left)) * len(clock)


# -- the schema


def test_the_schema_takes_the_example_and_refuses_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["matrix", "--schema"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made == schema()
    jsonschema.Draft202012Validator.check_schema(made)
    check = jsonschema.Draft202012Validator(made)
    example = tomllib.loads((SAMPLES / "matrix.toml").read_text())
    check.validate(example)
    for table in (
        "[defaults]\nmemmory = 1",
        "[[case]]\nsteps = [{}]",
        "[axes]\nsnp = true",
        "[[exclude]]\nsteps = []",
        "[x]",
    ):
        assert not check.is_valid(tomllib.loads(table))


def test_the_example_shows_its_cases(capsys: pytest.CaptureFixture[str]) -> None:
    assert BUILT.is_dir()
    assert main(["matrix", str(SAMPLES / "matrix.toml"), "--list"]) == 0
    names = capsys.readouterr().out.splitlines()
    assert len(names) == 14 and names[0] == "greets/memory=64M/clock=real"


def test_the_example_of_the_documentation(tmp_path: Path) -> None:
    text = (SAMPLES.parent / "docs" / "matrix.md").read_text().partition("```toml\n")[2].partition("```")[0]
    (tmp_path / "build").mkdir()
    for name in ("app.efi", "app-debug.efi"):
        (tmp_path / "build" / name).write_bytes(b"MZ")
    (tmp_path / "boots.toml").write_text(text)
    names = [case.name for case in expand(MatrixFile(tmp_path / "boots.toml"))]
    assert (
        len(names) == 8
        and names[0] == "info/app.efi/snp=false"
        and names[-1] == "starts quietly/app-debug.efi/snp=true"
    )


# -- what guests print


@given(text=st.text(max_size=200))
def test_any_console_is_valid_xml_and_harmless(text: str) -> None:
    shown = plain_text(text)
    assert all(character.isprintable() or character in "\n\t" for character in shown)
    assert plain_text(shown) == shown or "\r" in text
    result = {"source": text, "status": 3, "reason": text, "wanted": text, "console_end": text, "seconds": 0.1}
    document = junit(text, [text], {text: result}, datetime.now(UTC), 0.1)
    (out,) = [*ElementTree.fromstring(document).iter("system-out")] if text else [None]
    assert out is None or out.text == (shown or None)
