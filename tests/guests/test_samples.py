"""The samples on our own firmware: the self-test passes, and each fault ends as it should."""

import json
import re
from pathlib import Path

import pytest

CRASHED, GUEST_ERROR, TIMED_OUT = 4, 3, 5


def check_tap(console: str) -> int:
    """The number of checks, all passed and all of them there."""
    checks = re.findall(r"^(ok|not ok) (\d+) (.*)$", console, re.MULTILINE)
    assert [line for line in checks if line[0] == "not ok"] == []
    plan = re.search(r"^1\.\.(\d+)$", console, re.MULTILINE)
    assert plan, f"no plan in\n{console[-2000:]}"
    assert [int(line[1]) for line in checks] == list(range(1, int(plan[1]) + 1))
    assert f"passed {plan[1]} failed 0" in console
    return int(plan[1])


def text_of(done) -> str:
    return done.stdout.decode().replace("\r", "")


# -- the self-test

FILES = ("everything", "child", "driver")


@pytest.fixture(params=["folder", "FAT image", "folder, writing"])
def volume(request, esp, fat_image, sample):
    """The words that give the guest a volume with the self-test's files."""
    files = {f"{name}.efi": sample(name) for name in FILES}
    if request.param == "FAT image":
        return ["--esp", fat_image(files)]
    return ["--esp", esp(files), *(["--esp-write"] if "writing" in request.param else [])]


def test_everything_passes_wherever_its_files_are(cvmboot, sample, volume):
    done = cvmboot("run", sample("everything"), *volume, "--timeout", "50")
    assert check_tap(text_of(done)) > 900
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("options", ["exitboot", "exitboot identity"])
def test_everything_passes_beyond_exitbootservices(cvmboot, sample, esp, options):
    folder = esp({f"{name}.efi": sample(name) for name in FILES})
    done = cvmboot("run", sample("everything"), "--esp", folder, "--args", options, "--timeout", "50")
    console = text_of(done)
    assert check_tap(console) > 1000
    assert ("runtime services at other addresses" in console) == (options == "exitboot")
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("memory", ["64M", "3G", "6G"])
def test_everything_passes_whatever_the_memory(cvmboot, sample, esp, memory):
    folder = esp({f"{name}.efi": sample(name) for name in FILES})
    done = cvmboot("run", sample("everything"), "--esp", folder, "--memory", memory, "--timeout", "50")
    assert check_tap(text_of(done)) > 900


NICS = {
    "virtio": ["--nic", "virtio"],
    "virtio-legacy": ["--nic", "virtio-legacy"],
    "gvnic": ["--nic", "gvnic"],
    "snp": ["--nic", "virtio", "--snp", "--snp-check", "strict"],
    "virtual": ["--nic", "gvnic", "--clock", "virtual"],
}


@pytest.mark.parametrize("words", NICS.values(), ids=NICS)
def test_every_network_device_and_its_pci_function(cvmboot, sample, esp, words):
    """The answer to the self-test's question comes from the built-in gateway."""
    folder = esp({f"{name}.efi": sample(name) for name in FILES})
    options = ["--esp", folder, "--args", "pci network", "--net", "user:builtin", "--timeout", "50"]
    done = cvmboot("run", sample("everything"), *options, *words)
    console = text_of(done)
    assert check_tap(console) > 230
    assert "10.0.2.2 has answered" in console
    assert "# skip" not in console
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_cable_without_a_network(cvmboot, sample):
    done = cvmboot("run", sample("everything"), "--args", "network", "--nic", "virtio", "--net", "none")
    console = text_of(done)
    assert check_tap(console) > 80
    assert "# skip frames: there is no network" in console


def test_the_files_on_the_host_stay_as_they_were(cvmboot, sample, esp):
    files = {f"{name}.efi": sample(name) for name in FILES}
    folder = esp(files)
    cvmboot("run", sample("everything"), "--esp", folder, "--timeout", "50")
    assert sorted(path.name for path in folder.iterdir()) == sorted(files)
    assert all((folder / name).read_bytes() == source.read_bytes() for name, source in files.items())


@pytest.mark.parametrize("cpus", [2, 4, 9])
def test_everything_passes_with_more_processors(cvmboot, sample, cpus):
    done = cvmboot("run", sample("everything"), "--cpus", cpus, "--args", "processors", "--timeout", "50")
    check_tap(text_of(done))
    assert "ok 62 - and that it is well again" in text_of(done)


@pytest.mark.slow
def test_processors_take_the_same_turns_under_virtual_time(cvmboot, sample, tmp_path):
    runs = []
    for n in range(2):
        trace = tmp_path / f"{n}.jsonl"
        options = ["--cpus", "3", "--clock", "virtual", "--trace", trace, "--timeout", "50", "--args", "processors"]
        done = cvmboot("run", sample("everything"), *options)
        check_tap(text_of(done))
        runs.append((done.stdout, trace.read_bytes()))
    assert runs[0] == runs[1]
    events = [json.loads(line) for line in runs[0][1].splitlines()]
    asked = [event["cpu"] for event in events if event["name"].endswith("WhoAmI") and "cpu" in event]
    assert sorted(set(asked)) == [1, 2]
    answers = {event.get("status") for event in events if event["name"].endswith("StartupAllAPs")}
    assert answers >= {"EFI_SUCCESS", "EFI_TIMEOUT", "EFI_NOT_READY"}


@pytest.mark.parametrize("kind", ["folder", "image"])
def test_same_input_same_bytes_under_virtual_time(cvmboot, sample, esp, fat_image, tmp_path, kind):
    files = {f"{name}.efi": sample(name) for name in FILES}
    source = esp(files) if kind == "folder" else fat_image(files)
    runs = []
    for n in range(2):
        trace = tmp_path / f"{n}.jsonl"
        options = ["--clock", "virtual", "--trace", trace, "--timeout", "50", "--args", "virtual"]
        done = cvmboot("run", sample("everything"), "--esp", source, *options)
        check_tap(text_of(done))
        runs.append((done.stdout, trace.read_bytes()))
    assert runs[0][0] == runs[1][0]
    assert runs[0][1] == runs[1][1]
    assert len(runs[0][1].splitlines()) > 2000


def test_typed_input_is_the_same_under_virtual_time(cvmboot, sample, esp, tmp_path):
    folder = esp({"a.txt": "a"})
    runs = []
    for n in range(2):
        trace = tmp_path / f"{n}.jsonl"
        options = ["--esp", folder, "--clock", "virtual", "--trace", trace]
        done = cvmboot("run", sample("files_variables"), *options, typed=b"one two\n")
        assert b'You typed "one two", 7 characters.' in done.stdout
        runs.append((done.stdout, trace.read_bytes()))
    assert runs[0] == runs[1]


# -- the others


def test_hello_knows_its_machine(cvmboot, sample):
    done = cvmboot("run", sample("hello"), "--args", "first second", "--memory", "1G")
    console = text_of(done)
    assert "Hello from an EFI application!" in console
    assert '"first second"' in console
    assert 1000 < int(re.search(r"memory +(\d+) MiB", console)[1]) < 1024
    assert done.returncode == 0


def test_files_variables_through_a_pipe(cvmboot, sample, esp):
    folder = esp({"Some file.txt": "content", "sub/x": "", "here.efi": sample("files_variables")})
    done = cvmboot("run", folder / "here.efi", "--esp", folder, typed=b"hello worlds\b!\n")
    console = text_of(done)
    assert 'You typed "hello world!", 12 characters.' in console
    assert re.search(r"7 +Some file\.txt", console)
    assert re.search(r"<directory> +sub", console)
    assert "FAILED" not in console
    assert "All done." in console
    assert done.returncode == 0


def test_files_variables_on_the_image_alone(cvmboot, sample):
    done = cvmboot("run", sample("files_variables"), "--args", "noinput")
    console = text_of(done)
    assert "my own path is \\EFI\\BOOT\\BOOTX64.EFI" in console
    assert "FAILED" not in console
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("command", "status"),
    [("\\child.efi return", 0), ("\\child.efi other", 0), ("\\child.efi fail", 0), ("\\missing.efi", 0)],
)
def test_launcher_comes_back_and_switches_off(cvmboot, sample, esp, command, status):
    files = {"launcher.efi": sample("launcher"), "child.efi": sample("child"), "launch.txt": command + "\r\n"}
    done = cvmboot("run", sample("launcher"), "--esp", esp(files))
    wanted = "EFI_NOT_FOUND" if "missing" in command else "EFI_ABORTED" if "fail" in command else "EFI_SUCCESS"
    assert f"# launcher: {wanted}" in text_of(done)
    assert done.returncode == status


def test_a_driver_is_not_started_as_an_application_would_be(cvmboot, sample):
    done = cvmboot("run", sample("driver"))
    assert done.returncode in (0, GUEST_ERROR)
    assert b"Traceback" not in done.stderr


# -- faults


def faults(cvmboot, sample, fault: str, *options: object):
    return cvmboot("run", sample("faults"), "--args", fault, "--no-reboot", "--timeout", "40", *options)


@pytest.mark.parametrize(
    ("fault", "first_line"),
    [
        ("null-jump", r"page fault \(vector 14, error code 0x11\) at 0x0, at RIP 0x0 "),
        ("divide", r"divide error \(vector 0\), at RIP 0x\w+ \(faults\.efi\+0x\w+\)"),
        (
            "stack",
            r"page fault \(vector 14, error code 0x2\) at 0x\w+, right below the stack: .*\(faults\.efi\+0x\w+\)",
        ),
        ("ud2", r"invalid opcode \(vector 6\), at RIP 0x\w+ \(faults\.efi\+0x\w+\)"),
        ("gp", r"general protection fault \(vector 13, error code 0x0\), at RIP 0x\w+ \(faults\.efi\+0x\w+\)"),
        ("page", r"page fault \(vector 14, error code 0x2\) at 0x600000000000, at RIP 0x\w+ \(faults\.efi\+0x\w+\)"),
        ("int3", r"breakpoint \(vector 3\), at RIP 0x\w+ \(faults\.efi\+0x\w+\)"),
        ("triple", r"triple fault after breakpoint \(vector 3\), at RIP 0x\w+ \(faults\.efi\+0x\w+\)"),
        ("wild-copy", r"CopyMem was given 0x10 bytes at 0x600000000000, which is no memory, at RIP 0x\w+"),
    ],
)
def test_faults_that_kill(cvmboot, sample, fault, first_line):
    done = faults(cvmboot, sample, fault)
    report = done.stderr.decode()
    assert done.returncode == CRASHED
    assert re.match(f"cvmboot: the guest crashed: {first_line}", report), report.splitlines()[0]
    assert "EFI_SIMPLE_TEXT_OUTPUT_PROTOCOL.OutputString" in report
    assert "Traceback" not in report
    assert b"faults: " in done.stdout
    assert b"survived" not in done.stdout


ANSWERS = {
    "double-free": [
        *(("FreePool", "EFI_SUCCESS"), ("FreePool again", "EFI_INVALID_PARAMETER")),
        *(("FreePages", "EFI_SUCCESS"), ("FreePages again", "EFI_NOT_FOUND"), ("CloseEvent", "EFI_SUCCESS")),
    ],
    "after-ebs": [
        *(("ExitBootServices", "EFI_SUCCESS"), ("AllocatePool after it", "EFI_UNSUPPORTED")),
        ("OutputString after it", "EFI_UNSUPPORTED"),
    ],
}


@pytest.mark.parametrize("fault", sorted(ANSWERS))
def test_faults_that_are_answered(cvmboot, sample, fault):
    done = faults(cvmboot, sample, fault)
    console = text_of(done)
    assert re.findall(r"^  (\S.*?) {2,}(EFI_\w+)$", console, re.MULTILINE) == ANSWERS[fault]
    assert "faults: survived" in console
    assert done.returncode == 0
    assert (b"was called after ExitBootServices" in done.stderr) == (fault == "after-ebs")


@pytest.mark.parametrize(
    ("fault", "others"),
    [
        # Nothing is typed, so no key is written; a null source and no path are two parameters that are missing.
        ("wild-pointer", {"ReadKeyStroke, key": "EFI_NOT_READY"}),
        ("null-pointer", {"LoadImage, source": "EFI_NOT_FOUND"}),
    ],
)
def test_bad_pointers_are_invalid_parameters(cvmboot, sample, fault, others):
    done = faults(cvmboot, sample, fault)
    answers = re.findall(r"^  (\S.*?) {2,}(EFI_\w+)$", text_of(done), re.MULTILINE)
    assert len(answers) == (46 if fault == "wild-pointer" else 23)
    assert {(name, status) for name, status in answers if status != "EFI_INVALID_PARAMETER"} == set(others.items())
    assert "faults: survived" in text_of(done)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_hundred_thousand_protocols(cvmboot, sample):
    done = faults(cvmboot, sample, "protocols-100000")
    assert "100000 installed: EFI_SUCCESS\n  100000 removed" in text_of(done)
    assert done.returncode == 0


def test_all_memory(cvmboot, sample):
    done = faults(cvmboot, sample, "allocate-all", "--memory", "1G")
    took = re.search(r"took (\d+) MiB, then EFI_OUT_OF_RESOURCES.* EFI_OUT_OF_RESOURCES", text_of(done))
    gave = re.search(r"gave (\d+) MiB back", text_of(done))
    assert took and gave and took[1] == gave[1]
    assert 1000 <= int(took[1]) < 1024
    assert done.returncode == 0


def test_loop_until_the_time_is_out(cvmboot, sample):
    done = cvmboot("run", sample("faults"), "--args", "loop", "--timeout", "1")
    assert done.returncode == TIMED_OUT
    assert done.stderr == b"cvmboot: --timeout: the guest still ran after 1 s\n"


def test_an_error_that_is_returned(cvmboot, sample):
    done = faults(cvmboot, sample, "return-error")
    assert done.returncode == GUEST_ERROR
    assert done.stderr == b"cvmboot: faults.efi returned EFI_ABORTED (0x8000000000000015)\n"


def test_halting_sleeps(cvmboot, sample):
    done = faults(cvmboot, sample, "hlt")
    assert "10 ticks of 10 ms passed in sleep" in text_of(done)
    assert done.returncode == 0


@pytest.mark.parametrize("fault", ["reset-cold", "reset-warm", "reset-shutdown"])
def test_faults_that_reset(cvmboot, sample, fault):
    done = faults(cvmboot, sample, fault)
    assert text_of(done).count("faults: ") == 1
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_reset_starts_again(boot, sample):
    vm = boot(sample("faults"), args="reset-cold")
    for _ in range(3):
        vm.expect_exact("faults: resetting, cold")
    vm = boot(sample("faults"), args="reset-shutdown")
    assert vm.wait() == 0
    assert vm.outcome.kind == "shutdown"


def test_the_trace_of_a_crash_is_whole(cvmboot, sample, tmp_path):
    trace = tmp_path / "trace.jsonl"
    done = faults(cvmboot, sample, "page", "--trace", trace)
    assert done.returncode == CRASHED
    lines = [json.loads(line) for line in Path(trace).read_text().splitlines()]
    assert "EFI_SIMPLE_TEXT_OUTPUT_PROTOCOL.OutputString" in json.dumps(lines)


# -- several processors


def test_services_called_on_other_processors_do_no_harm(cvmboot, sample):
    done = cvmboot("run", sample("faults"), "--cpus", "3", "--args", "other-processors", "--timeout", "40")
    console = text_of(done)
    assert done.returncode == 0 and "faults: survived" in console
    assert console.count("said by another processor") == 2
    for service, status in (("Stall", "SUCCESS"), ("SignalEvent", "SUCCESS"), ("WaitForEvent", "UNSUPPORTED")):
        assert re.search(rf"{service}, elsewhere +EFI_{status}", console)
    assert "notified on processor 0" in console, "notifications run on the boot processor"
    assert done.stderr.count(b"was called on processor 1; UEFI services are for the boot processor") == 1


def test_a_crash_says_on_which_processor(cvmboot, sample):
    done = cvmboot("run", sample("faults"), "--cpus", "2", "--args", "dying-processor", "--timeout", "40")
    assert done.returncode == CRASHED
    assert re.search(rb"invalid opcode \(vector 6\) on processor 1, at RIP 0x\w+ \(faults\.efi\+0x\w+\)", done.stderr)
