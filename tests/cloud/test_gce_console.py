"""The serial console of Compute Engine: piece by piece, nothing twice, to the end of the machine."""

import itertools

from gce_run import Runner
from strict_gce.errors import Refused
from strict_gce.world import ZONE

from cloud.journal import Record
from cloud.resource import Resource


def machine(runner: Runner, console: list[str]) -> Resource:
    runner.google.world.console = console
    run = runner.deploy()
    assert isinstance(run, Record)
    resource = run.steps["instance"].resource
    assert resource is not None
    return resource


def test_followed_to_the_end_nothing_is_lost_and_nothing_comes_twice(gce: Runner) -> None:
    pieces = [f"line {number}\r\n" * number for number in range(1, 20)]
    instance = machine(gce, pieces)
    assert "".join(gce.provider().console(instance, follow=True)) == "".join(pieces)
    # What was read is not sent again: a console has up to a MiB.
    ends = list(itertools.accumulate(map(len, pieces), initial=0))
    assert list(dict.fromkeys(gce.google.world.console_starts)) == ends


def test_without_follow_there_is_what_there_is(gce: Runner) -> None:
    gce.google.world.ends_after_console = False
    instance = machine(gce, ["one ", "two "])
    assert "".join(gce.provider().console(instance, follow=False)) == "one two "
    assert next(iter(gce.google.world.instances.values()))["status"] == "RUNNING"


def test_a_machine_that_is_silent_for_a_while(gce: Runner) -> None:
    instance = machine(gce, ["begin\n", "", "", "end\n"])
    assert "".join(gce.provider().console(instance, follow=True)) == "begin\nend\n"


def test_a_machine_that_the_cost_guard_deletes_ends_the_stream(gce: Runner) -> None:
    gce.google.world.ends_after_console = False
    instance = machine(gce, ["hello\n"])
    text = ""
    for piece in gce.provider().console(instance, follow=True):
        text += piece
        gce.google.compute.remove_instance(f"{ZONE}/{instance.id}")
    assert text == "hello\n"


def test_a_busy_server_in_between_costs_nothing(gce: Runner) -> None:
    instance = machine(gce, ["one\n", "two\n", "three\n"])
    numbers = itertools.count()

    def strike(moment: str, what: str) -> None:
        if moment == "before" and what.endswith("serialPort") and next(numbers) % 2:
            raise Refused(503, "backendError", "Backend Error")

    gce.google.strike = strike
    assert "".join(gce.provider().console(instance, follow=True)) == "one\ntwo\nthree\n"


def test_text_that_is_no_text(gce: Runner) -> None:
    pieces = ["\x00\ufffd\x1b[31m", "caf\u00e9 \U0001f600\n"]
    instance = machine(gce, pieces)
    assert "".join(gce.provider().console(instance, follow=True)) == "".join(pieces)
