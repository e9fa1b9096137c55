"""A deployment that dies anywhere: the same order again makes nothing twice and leaves nothing over."""

import io
import multiprocessing
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from memory_cloud import Killed, MemoryCloud, MemoryProvider

from cloud.deploy import Deployment, deploy
from cloud.destroy import destroy_run, leftovers, merge
from cloud.errors import CloudError, Conflict, Gone, JournalError, Unfit
from cloud.journal import COMPLETE, Journal, OpenRun
from cloud.order import BOOT_UEFI, ImageFacts, Order
from cloud.plan import BAD, Check, Plan
from cloud.progress import Report
from cloud.source import Source
from images.block import MemoryDevice

ORDER = Order("memory", "here", "app", ImageFacts("00" * 32, 4096, BOOT_UEFI), options={"machine_type": "small"})
OTHER = replace(ORDER, image=ImageFacts("11" * 32, 4096, BOOT_UEFI))


def deployment(cloud: MemoryCloud, folder: Path, shown: list[Plan] | None = None) -> Deployment:
    source = Source(MemoryDevice(4096), ORDER.image)
    show: Callable[[Plan], None] = shown.append if shown is not None else lambda plan: None
    return Deployment(MemoryProvider(cloud), source, Journal(folder), Report(io.StringIO()), "1.0", show)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests kill in Python, not the machine: what the kernel has is kept."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


class Striker:
    """Kills at the n-th chance to die: before and after each change of the cloud, and of the journal."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


def dying_journal(monkeypatch: pytest.MonkeyPatch, strike: Callable[[], None]) -> None:
    save = OpenRun.save

    def dying(run: OpenRun) -> None:
        strike()
        save(run)
        strike()

    monkeypatch.setattr(OpenRun, "save", dying)


@pytest.mark.parametrize("labels_lag", [False, True])
@pytest.mark.parametrize("journal_is_lost", [False, True])
def test_killed_anywhere_the_same_order_again_makes_each_thing_once(
    tmp_path: Path, labels_lag: bool, journal_is_lost: bool
) -> None:
    if labels_lag and journal_is_lost:
        return  # then nothing in the world knows of the first try
    for moment in range(1, 200):
        folder = tmp_path / str(moment)
        cloud = MemoryCloud(labels_lag=labels_lag)
        cloud.strike = strike = Striker(moment)
        with pytest.MonkeyPatch.context() as patch:
            dying_journal(patch, strike)
            try:
                deploy(deployment(cloud, folder), ORDER)
            except Killed:
                pass
            else:
                assert moment > 30  # there were many chances to die
                break
        cloud.strike = lambda: None
        if journal_is_lost:
            for file in folder.glob("*"):
                file.unlink()
        run = deploy(deployment(cloud, folder), ORDER)
        assert run is not None and run.state == COMPLETE
        assert sorted(thing.kind for thing in cloud.things.values()) == ["image", "instance", "snapshot"]
        assert all(thing.ready for thing in cloud.things.values())
        for kind in ("snapshot", "image", "instance"):
            assert cloud.changes.count(f"made {kind}") == 1
        destroy_run(MemoryProvider(cloud), Journal(folder), run.run, lambda line: None)
        assert not cloud.things and not list(folder.glob("*.json"))
    else:
        pytest.fail("the deployment never came to its end")


def test_a_destroy_that_was_killed_anywhere_ends_when_called_again(tmp_path: Path) -> None:
    for moment in range(1, 100):
        folder = tmp_path / str(moment)
        cloud = MemoryCloud()
        run = deploy(deployment(cloud, folder), ORDER)
        assert run is not None
        cloud.strike = strike = Striker(moment)
        with pytest.MonkeyPatch.context() as patch:
            dying_journal(patch, strike)
            try:
                destroy_run(MemoryProvider(cloud), Journal(folder), run.run, lambda line: None)
            except Killed:
                pass
            else:
                assert moment > 6
                break
        cloud.strike = lambda: None
        for left in merge(Journal(folder), MemoryProvider(cloud)):
            destroy_run(MemoryProvider(cloud), Journal(folder), left.run, lambda line: None)
        assert not cloud.things and not list(folder.glob("*.json"))


def test_what_was_made_is_on_the_disk_before_it_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from memory_cloud import MemoryStep

    cloud = MemoryCloud()

    def dying(step: MemoryStep, resource: Any, made: Any, note: Any) -> dict[str, Any]:
        raise Killed

    monkeypatch.setattr(MemoryStep, "finish", dying)
    with pytest.raises(Killed):
        deploy(deployment(cloud, tmp_path), ORDER)
    step = Journal(tmp_path).records()[0].steps["upload"]
    assert step.resource is not None and step.resource.id in cloud.things and step.state == "made"


def test_a_complete_run_again_makes_nothing(tmp_path: Path) -> None:
    cloud = MemoryCloud()
    first = deploy(deployment(cloud, tmp_path), ORDER)
    changes = list(cloud.changes)
    plans: list[Plan] = []
    again = deploy(deployment(cloud, tmp_path, plans), ORDER)
    assert first is not None and again is not None and again.run == first.run
    assert cloud.changes == changes
    assert [row.action for row in plans[0].rows] == ["keep"] * 4


def test_what_someone_deleted_meanwhile_is_made_again_with_a_new_token(tmp_path: Path) -> None:
    cloud = MemoryCloud()
    run = deploy(deployment(cloud, tmp_path), ORDER)
    assert run is not None
    cloud.remove(cloud.of_kind("instance")[0])
    again = deploy(deployment(cloud, tmp_path), ORDER)
    assert again is not None and again.steps["instance"].attempt == 2
    assert len(cloud.of_kind("instance")) == 1 and cloud.changes.count("made image") == 1


def test_a_dry_run_makes_and_writes_nothing(tmp_path: Path) -> None:
    cloud, plans = MemoryCloud(), list[Plan]()
    assert deploy(deployment(cloud, tmp_path / "state", plans), ORDER, dry_run=True) is None
    assert not cloud.changes and not (tmp_path / "state").exists()
    assert [row.action for row in plans[0].rows] == ["create"] * 4


def test_a_bad_check_stops_before_anything_is_made_but_the_plan_is_shown(tmp_path: Path) -> None:
    cloud, plans = MemoryCloud(), list[Plan]()
    order = deployment(cloud, tmp_path, plans)
    order.provider.checks = [Check("machine type", BAD, "m5.large has no SEV-SNP")]  # type: ignore[attr-defined]
    with pytest.raises(Unfit, match=r"machine type: m5\.large has no SEV-SNP; nothing was made"):
        deploy(order, ORDER)
    assert not cloud.changes and plans and not list(tmp_path.glob("*"))


def test_another_image_of_the_same_name_needs_replace_and_the_old_one_goes_last(tmp_path: Path) -> None:
    cloud = MemoryCloud()
    first = deploy(deployment(cloud, tmp_path), ORDER)
    assert first is not None
    before = len(cloud.changes)
    with pytest.raises(Conflict, match=f"run {first.run} .*--replace"):
        deploy(deployment(cloud, tmp_path), OTHER)
    assert len(cloud.changes) == before
    second = deploy(deployment(cloud, tmp_path), OTHER, replace=True)
    assert second is not None and second.run != first.run
    changes = [change for change in cloud.changes[before:] if not change.startswith("dead")]
    assert changes.index("made instance") < changes.index("deleted instance") < changes.index("deleted snapshot")
    assert len(cloud.of_kind("instance")) == len(cloud.of_kind("image")) == len(cloud.of_kind("snapshot")) == 1
    assert [record.run for record in Journal(tmp_path).records()] == [second.run]


def test_the_old_one_stays_when_the_new_one_fails(tmp_path: Path) -> None:
    cloud = MemoryCloud()
    first = deploy(deployment(cloud, tmp_path), ORDER)
    assert first is not None
    instance = cloud.of_kind("instance")

    def fail() -> None:
        if len(cloud.of_kind("image")) == 2:
            raise CloudError("no capacity", where="here", next_step="try another zone")

    cloud.strike = fail
    with pytest.raises(CloudError, match="here: no capacity; try another zone"):
        deploy(deployment(cloud, tmp_path), OTHER, replace=True)
    assert cloud.of_kind("instance") == instance
    errors = {record.run: record.error for record in Journal(tmp_path).records()}
    assert errors.pop(first.run) == "" and "no capacity" in next(iter(errors.values()))


def test_who_replaces_and_dies_can_replace_again(tmp_path: Path) -> None:
    for moment in range(1, 300):
        folder = tmp_path / str(moment)
        cloud = MemoryCloud()
        deploy(deployment(cloud, folder), ORDER)
        cloud.strike = Striker(moment)
        try:
            deploy(deployment(cloud, folder), OTHER, replace=True)
        except Killed:
            cloud.strike = lambda: None
            deploy(deployment(cloud, folder), OTHER, replace=True)
            assert sorted(thing.kind for thing in cloud.things.values()) == ["image", "instance", "snapshot"]
            assert len(Journal(folder).records()) == 1
        else:
            assert moment > 20
            return
    pytest.fail("the replacement never came to its end")


def test_a_resource_that_vanishes_while_it_is_waited_for_is_made_again_a_few_times_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from memory_cloud import MemoryStep

    cloud = MemoryCloud()

    def vanishing(step: MemoryStep, resource: Any, made: Any, note: Any) -> dict[str, Any]:
        cloud.remove(resource.id)
        raise Gone(f"{resource} is not there")

    monkeypatch.setattr(MemoryStep, "finish", vanishing)
    with pytest.raises(Gone):
        deploy(deployment(cloud, tmp_path), ORDER)
    assert cloud.changes.count("made upload") == 3


def test_leftovers_are_old_have_no_machine_and_nobody_works_on_them(tmp_path: Path) -> None:
    cloud = MemoryCloud()
    provider, journal = MemoryProvider(cloud), Journal(tmp_path)
    complete = deploy(deployment(cloud, tmp_path), ORDER)
    assert complete is not None
    broken = replace(ORDER, name="broken")
    cloud.strike = Striker(9)
    with pytest.raises(Killed):
        deploy(deployment(cloud, tmp_path), broken)
    cloud.strike = lambda: None
    run = next(record.run for record in journal.records() if record.order.name == "broken")
    assert leftovers(provider, journal, 7 * 86400) == []
    cloud.clock += 7 * 86400
    assert [left.run for left in leftovers(provider, journal, 7 * 86400)] == [run]
    with journal.resume(run):
        assert leftovers(provider, journal, 7 * 86400) == []
    destroy_run(provider, journal, run, lambda line: None)
    assert {thing.labels["cvmboot-run"] for thing in cloud.things.values()} == {complete.run}


def test_an_image_that_was_all_that_was_wanted_is_no_leftover(tmp_path: Path) -> None:
    cloud = MemoryCloud()
    deploy(deployment(cloud, tmp_path), replace(ORDER, product="image"))
    cloud.remove(cloud.of_kind("instance")[0])
    cloud.clock += 100 * 86400
    assert leftovers(MemoryProvider(cloud), Journal(tmp_path), 86400) == []
    cloud.remove(cloud.of_kind("image")[0])
    assert len(leftovers(MemoryProvider(cloud), Journal(tmp_path), 86400)) == 1


def test_a_timeout_of_another_length_is_the_same_order_but_another_machine_type_is_not() -> None:
    assert replace(ORDER, access={"timeout": 5}).fingerprint == ORDER.fingerprint
    assert replace(ORDER, options={"machine_type": "large"}).fingerprint != ORDER.fingerprint


# The journal on a real disk.


def _work_for_ever(folder: Path, run: str, ready: Any) -> None:
    with Journal(folder).begin(run, ORDER, 1):
        ready.send(True)
        ready.recv()


def test_two_processes_do_not_work_on_one_run(tmp_path: Path) -> None:
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_work_for_ever, args=(tmp_path, "abcdefghij", theirs))
    process.start()
    try:
        assert ours.poll(60) and ours.recv()
        with pytest.raises(JournalError, match="another process"), Journal(tmp_path).resume("abcdefghij"):
            pass
        assert [record.run for record in Journal(tmp_path).records()] == ["abcdefghij"]  # reading needs no lock
    finally:
        process.kill()
        process.join()
    with Journal(tmp_path).resume("abcdefghij") as run:  # a killed process holds no lock
        assert run.record.order == ORDER


def test_two_processes_that_begin_the_same_at_once_do_not_make_two(tmp_path: Path) -> None:
    cloud = MemoryCloud()
    order = deployment(cloud, tmp_path)

    def begin_meanwhile(plan: Plan) -> None:
        with Journal(tmp_path).begin("abcdefghij", ORDER, 1, []):
            pass

    with pytest.raises(JournalError, match="another process has just begun run abcdefghij of the name app"):
        deploy(replace(order, show=begin_meanwhile), ORDER)
    assert not cloud.changes


def test_an_unwritable_journal_is_said_before_anything_is_made(tmp_path: Path) -> None:
    cloud = MemoryCloud()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(JournalError, match=r"file.*--state") as caught:
        deploy(deployment(cloud, tmp_path / "file" / "runs"), ORDER)
    assert "\n" not in str(caught.value) and not cloud.changes


def test_a_full_disk_in_the_middle_is_one_line_and_the_run_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud = MemoryCloud()
    full = {"yes": False}

    def no_room(handle: int) -> None:
        if full["yes"] and stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_room)
    cloud.strike = lambda: full.update(yes=len(cloud.changes) > 1)
    with pytest.raises(JournalError, match=r"No space left on device; .*--state"):
        deploy(deployment(cloud, tmp_path), ORDER)
    assert cloud.changes
    cloud.strike = lambda: None
    full["yes"] = False
    run = deploy(deployment(cloud, tmp_path), ORDER)
    assert run is not None and run.state == COMPLETE
    assert [cloud.changes.count(f"made {kind}") for kind in ("upload", "snapshot", "image", "instance")] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b"{}", b'{"schema": "cvmboot.run/1"}', b"\xff\xfe", b'{"schema": {}}', b"[" * 100_000],
)
def test_a_damaged_journal_is_one_line_that_names_the_file(tmp_path: Path, damage: bytes) -> None:
    with Journal(tmp_path).begin("abcdefghij", ORDER, 1):
        pass
    (tmp_path / "abcdefghij.json").write_bytes(damage)
    with pytest.raises(JournalError, match=r"abcdefghij\.json") as caught:
        Journal(tmp_path).records()
    assert "\n" not in str(caught.value)


def test_a_journal_of_a_newer_version_is_not_touched(tmp_path: Path) -> None:
    with Journal(tmp_path).begin("abcdefghij", ORDER, 1):
        pass
    file = tmp_path / "abcdefghij.json"
    file.write_text(file.read_text().replace("cvmboot.run/1", "cvmboot.run/9"))
    before = file.read_bytes()
    with pytest.raises(JournalError, match=r"cvmboot\.run/9"):
        Journal(tmp_path).records()
    assert file.read_bytes() == before


def test_only_the_user_can_read_the_journal(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    with Journal(folder).begin("abcdefghij", ORDER, 1):
        pass
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "abcdefghij.json").stat().st_mode) == 0o600
