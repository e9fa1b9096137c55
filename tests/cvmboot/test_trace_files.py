"""--trace: every service call, in files that load, and the same bytes twice under virtual time."""

import json
import shutil
import signal
import subprocess
import time

import guest_code


def events_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_json_lines(cvmboot, sample, tmp_path):
    trace = tmp_path / "t.jsonl"
    assert cvmboot("run", sample("files_variables"), "--args", "noinput", "--trace", trace).returncode == 0
    events = events_of(trace)
    assert events[0]["event"] == "power on"
    assert events[0]["name"] == "files_variables.efi"
    calls = [event for event in events if event["event"] == "call"]
    assert len(calls) > 50
    assert all({"time", "name", "arguments", "rip", "duration"} <= event.keys() for event in calls)
    assert [event["time"] for event in calls] == sorted(event["time"] for event in calls)
    gets = [event for event in calls if event["name"] == "EFI_RUNTIME_SERVICES.GetVariable"]
    assert gets[-1]["arguments"]["VariableName"] == "SampleText"
    assert gets[-1]["status"] == "EFI_NOT_FOUND"
    opened = [event["arguments"]["FileName"] for event in calls if event["name"] == "EFI_FILE_PROTOCOL.Open"]
    assert "\\sample.txt" in opened
    protocols = {event["arguments"].get("Protocol") for event in calls}
    assert "EFI_LOADED_IMAGE_PROTOCOL_GUID" in protocols


def test_function_names(cvmboot, guest, tmp_path):
    trace = tmp_path / "t.jsonl"
    cvmboot("run", guest("go-boot.efi"), "--trace", trace, typed=b"shutdown\n")
    last = events_of(trace)[-1]
    assert last["name"] == "EFI_RUNTIME_SERVICES.ResetSystem"
    assert last["arguments"]["ResetType"] == 2
    assert last["function"].startswith("github.com/usbarmory/go-boot/uefi.")


def test_nested_images_are_begun_and_ended(cvmboot, sample, tmp_path):
    folder = tmp_path / "esp"
    folder.mkdir()
    shutil.copy(sample("child"), folder / "child.efi")
    (folder / "launch.txt").write_text("\\child.efi one two\n")
    trace = tmp_path / "t.jsonl"
    assert cvmboot("run", sample("launcher"), "--esp", folder, "--trace", trace).returncode == 0
    events = events_of(trace)
    begin = next(n for n, event in enumerate(events) if event["event"] == "begin")
    end = next(n for n, event in enumerate(events) if event["event"] == "end")
    assert events[begin]["name"] == events[end]["name"] == "EFI_BOOT_SERVICES.StartImage"
    assert "child.efi" in events[begin]["arguments"]["ImageHandle"]
    inside = [event["name"] for event in events[begin + 1 : end]]
    assert "EFI_SIMPLE_TEXT_OUTPUT_PROTOCOL.OutputString" in inside


def test_trace_event_format_is_balanced_and_in_order(cvmboot, sample, tmp_path):
    trace = tmp_path / "t.json"
    cvmboot("run", sample("everything"), "--trace", trace)
    events = json.loads(trace.read_text())
    assert events[0]["ph"] == "M"
    depth = 0
    for event in events[1:]:
        assert event["ph"] in "XBE"
        assert event["pid"] == 1
        assert event["ts"] >= 0
        depth += {"B": 1, "E": -1, "X": 0}[event["ph"]]
        assert depth >= 0
    assert depth == 0
    assert any(event["name"] == "notify" for event in events)


def test_each_boot_is_a_process_of_its_own(cvmboot, image, tmp_path):
    trace = tmp_path / "t.json"
    cvmboot("run", image(guest_code.RESET_OR_RETURN), "--trace", trace, typed=b"rq")
    assert [event["pid"] for event in json.loads(trace.read_text())] == [1, 2]


def test_a_killed_run_leaves_files_that_load(command, sample, tmp_path):
    for name in ("t.jsonl", "t.json"):
        trace = tmp_path / name
        words = [*command, "run", str(sample("faults")), "--args", "loop", "--trace", str(trace)]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
            for _ in range(400):
                if trace.exists() and b"OutputString" in trace.read_bytes():
                    break
                time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
        text = trace.read_text()
        if name == "t.json":
            assert json.loads(text + "]")  # the format allows for the bracket to be missing
        else:
            assert all(json.loads(line) for line in text.splitlines())


def test_virtual_time_gives_the_same_twice(command, cvmboot, sample, tmp_path):
    """However fast the input comes."""
    words = ["run", sample("files_variables"), "--clock", "virtual"]
    seen = []
    for n, pieces in enumerate([[b"hello\n"], [b"he", b"llo", b"\n"]]):
        trace = tmp_path / f"{n}.jsonl"
        line = [*command, *map(str, words), "--trace", str(trace)]
        with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
            for piece in pieces:
                time.sleep(0.3 * n)
                process.stdin.write(piece)
            output, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert b'You typed "hello", 5 characters.' in output
        seen.append((output, trace.read_bytes()))
    assert seen[0] == seen[1]


def test_virtual_time_of_a_real_guest(cvmboot, guest, tmp_path):
    seen = []
    for n in range(2):
        trace = tmp_path / f"{n}.json"
        words = ["run", guest("go-boot.efi"), "--clock", "virtual", "--trace", trace]
        done = cvmboot(*words, typed=b"info\nuptime\ndate\nls\nmemmap\nshutdown\n")
        assert done.returncode == 0
        seen.append((done.stdout, trace.read_bytes()))
    assert seen[0] == seen[1]
