"""The command line itself: help, version, options, and one line for each mistake."""

import subprocess
import sys

import pytest

from cvmboot.arguments import OPTIONS, memory_size, read_quickly
from cvmboot.errors import UsageError


def test_version(cvmboot):
    done = cvmboot("--version")
    assert done.returncode == 0
    assert done.stdout.startswith(b"cvmboot 0.")


@pytest.mark.parametrize("words", [["--help"], ["-h"], []])
def test_help_names_the_commands(cvmboot, words):
    done = cvmboot(*words)
    assert done.returncode == 0
    assert b"run" in done.stdout
    assert b"demo" in done.stdout
    assert done.stderr == b""


def test_help_of_run_has_every_option_and_examples(cvmboot):
    text = cvmboot("run", "--help").stdout.decode()
    for option in OPTIONS:
        assert option.spelling in text
    assert "printf" in text


def test_options_of_later_releases_are_unknown(cvmboot, sample):
    for option in ("--ovmf", "--vc", "--gdb", "--restore"):
        assert cvmboot("run", sample("hello"), option).returncode == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run"], b"IMAGE"),
        (["run", "a.efi", "b.efi"], b"b.efi"),
        (["run", "--no-such-option", "a.efi"], b"--no-such-option"),
        (["run", "a.efi", "--memory"], b"--memory"),
        (["run", "a.efi", "--memory", "lots"], b"lots"),
        (["run", "a.efi", "--memory="], b"--memory"),
        (["run", "a.efi", "--timeout", "-1"], b"-1"),
        (["run", "a.efi", "--timeout", "nan"], b"nan"),
        (["run", "a.efi", "--cpus", "0"], b"--cpus 0"),
        (["run", "a.efi", "--engine", "qemu"], b"qemu"),
        (["run", "a.efi", "--clock", "slow"], b"slow"),
        (["run", "a.efi", "--debug=yes"], b"--debug"),
        (["launch"], b"launch"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(cvmboot, words, said):
    done = cvmboot(*words)
    assert done.returncode == 2
    assert done.stderr.startswith(b"cvmboot: ")
    assert done.stderr.count(b"\n") == 1
    assert said in done.stderr


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder / "missing.efi", b"No such file"),
        (lambda folder: folder, b"directory"),
        (lambda folder: (folder / "empty.efi").write_bytes(b"") or folder / "empty.efi", b"empty"),
        (lambda folder: (folder / "text.efi").write_bytes(b"text " * 99) and folder / "text.efi", b"text"),
        (lambda folder: (folder / "cut.efi").write_bytes(b"MZ" + bytes(70)) and folder / "cut.efi", b"cut.efi"),
    ],
    ids=["missing", "folder", "empty", "text", "truncated"],
)
def test_bad_files_are_one_line_and_status_1(cvmboot, tmp_path, make, said):
    done = cvmboot("run", make(tmp_path))
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert said in done.stderr.replace(b"Is a dir", b"directory")


def test_a_trace_that_cannot_be_written(cvmboot, sample, tmp_path):
    assert cvmboot("run", sample("hello"), "--trace", tmp_path / "no" / "t.json").returncode == 1
    assert cvmboot("run", sample("hello"), "--trace", tmp_path / "t.txt").returncode == 2


def test_debug_shows_a_traceback(cvmboot, tmp_path):
    done = cvmboot("run", "--debug", tmp_path / "missing.efi")
    assert done.returncode == 1
    assert b"Traceback" in done.stderr


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *(("2G", 2 << 30), ("512M", 512 << 20), ("512", 512 << 20), ("1GiB", 1 << 30), ("64mb", 64 << 20)),
        *(("131072K", 128 << 20), ("1073741824", 1 << 30)),
    ],
)
def test_memory_sizes(text, size):
    assert memory_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1", "1.5G", "2X", "٣", "9" * 40, "0x10"])
def test_wrong_memory_sizes(text):
    with pytest.raises(UsageError):
        memory_size(text)


@pytest.mark.parametrize(
    "words",
    [
        ["a.efi", "--memory", "1G", "--args", "--verbose x", "--no-reboot"],
        ["--memory=1G", "a.efi", "--args=--verbose x", "--no-reboot"],
    ],
)
def test_the_quick_way_reads_what_typer_reads(words, monkeypatch):
    """A plain command line goes past typer: both have to understand the same by it."""
    import cvmboot.run
    from cvmboot.commands import run_command_line

    seen = []
    monkeypatch.setattr(cvmboot.run, "run", lambda image, fields: seen.append((image, fields)) or 0)
    assert run_command_line(["run", *words]) == 0
    image, fields = seen[0]
    defaults = {option.field: option.convert(option.default) for option in OPTIONS if option.convert and option.default}
    assert read_quickly(words) == (
        image,
        {name: value for name, value in fields.items() if value != defaults.get(name)},
    )


def test_run_imports_nothing_heavy(sample):
    """Start-up time: what a plain run must not import."""
    code = (
        "import sys\n"
        "from cvmboot.cli import main\n"
        f"main(['run', {str(sample('hello'))!r}])\n"
        "heavy = {'typer', 'rich', 'cryptography', 'PIL', 'capstone', 'asyncio', 'pexpect', 'json', 'logging'}\n"
        "sys.stderr.write(' '.join(sorted(heavy & set(sys.modules))))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""


HEAVY = {
    *("boto3", "botocore", "google", "distributed", "dask", "httpx", "cryptography", "asn1crypto", "PIL", "pexpect"),
    *("capstone", "pefile", "elftools", "uefi_firmware", "uefi", "sev", "images", "loader", "cloud"),
}


def test_help_imports_nothing_that_only_a_command_needs(command):
    """What keeps it under a quarter of a second; `python -m benchmarks` measures that."""
    done = subprocess.run(
        [command[0], "-X", "importtime", *command[1:], "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "typer" in imported
    assert not HEAVY & imported


@pytest.mark.parametrize("debug", [False, True])
def test_an_error_of_our_own_is_one_line(sample, debug):
    code = (
        "import sys, cvmboot.power\n"
        "from cvmboot.cli import main\n"
        "def fail(*_): raise ZeroDivisionError('for the test')\n"
        "cvmboot.power.assemble = fail\n"
        f"sys.exit(main(['run', {str(sample('hello'))!r}] + {['--debug'] * debug}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    if debug:
        assert "Traceback" in done.stderr
    else:
        assert done.stderr.startswith(
            "cvmboot: internal error: ZeroDivisionError: for the test; run again with --debug"
        )
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [(), ("run",), ("matrix",), ("measure",), ("image", "build"), ("deploy", "ec2")])
def test_help_has_its_examples_on_lines_of_their_own(cvmboot, words):
    lines = [line.strip() for line in cvmboot(*words, "--help").stdout.decode().splitlines()]
    examples = lines[lines.index("Examples:") + 1 :]
    assert sum(line.startswith(" ".join(("cvmboot", *words))) for line in examples) >= 3
    # A paragraph of ours is not broken where our source is.
    assert not any(line in ("error; 4 it crashed;", "reads the output.", "mistake in FILE;") for line in lines)


def test_a_mistake_names_the_help_of_its_command(cvmboot):
    for words, command in ((("deploy", "gce", "x"), "deploy gce"), (("matrix", "--foo"), "matrix"), (("rnu",), "")):
        done = cvmboot(*words)
        assert done.returncode == 2
        assert done.stderr.decode().endswith(f"see {' '.join(filter(None, ('cvmboot', command)))} --help\n")
