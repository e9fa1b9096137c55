"""What becomes of runs on Compute Engine: status, destroy, leftovers; what others made is never touched."""

import time
from datetime import UTC, datetime
from typing import Any

import pytest
from gce_run import Runner
from strict_gce.errors import Refused
from strict_gce.world import OLD_ZONE, PROJECT, ZONE

from cloud.destroy import destroy_run, leftovers, merge
from cloud.errors import CloudError
from cloud.journal import Journal

WEEK = 7 * 86400
OLD = f"{PROJECT}/{OLD_ZONE}"


def broken_off(runner: Runner, method: str = "compute.instances.insert", **options: Any) -> None:
    runner.google.world.operation_error[method] = {"code": "INTERNAL_ERROR", "message": "x"}
    with pytest.raises(CloudError):
        runner.deploy(runner.order(**options))


def quiet(line: str) -> None:
    pass


def test_leftovers_are_old_by_googles_clock(gce: Runner) -> None:
    broken_off(gce)
    journal, world = Journal(gce.folder), gce.google.world
    (image,) = world.images.values()
    image["creationTimestamp"] = datetime.fromtimestamp(time.time() - WEEK + 100, UTC).isoformat()
    assert leftovers(gce.provider(), journal, WEEK) == []
    world.clock_offset = 200
    (run,) = leftovers(gce.provider(), journal, WEEK)
    assert [found.resource.kind for found in run.found] == ["image"]
    destroy_run(gce.provider(), journal, run.run, quiet)
    assert not world.left


def test_a_run_of_another_zone_is_no_leftover_of_this_one(gce: Runner) -> None:
    """Images and buckets belong to the project: looked at from the wrong zone, a live run's image has no machine."""
    run = gce.deploy(gce.order(snp=False, place=OLD))
    assert run is not None
    assert merge(Journal(gce.folder / "none"), gce.provider()) == []
    assert leftovers(gce.provider(), Journal(gce.folder / "none"), 0) == []
    (seen,) = merge(Journal(gce.folder / "none"), gce.provider(OLD))
    assert seen.run == run.run and seen.live


def test_what_others_made_stays(gce: Runner) -> None:
    world = gce.google.world
    run = gce.deploy()
    assert run is not None
    world.images["theirs"] = {"name": "theirs", "id": "1", "status": "READY", "labels": {"cvmboot": "hello"},
                              "creationTimestamp": world.stamp()}  # fmt: skip
    # Anyone may write a label: with ours and no run of ours it is still theirs.
    world.disks[f"{ZONE}/copied"] = {"name": "copied", "id": "3", "users": [], "creationTimestamp": world.stamp(),
                                     "labels": {"cvmboot": "1", "cvmboot-zone": ZONE, "cvmboot-run": "x"}}  # fmt: skip
    world.buckets["cvmboot-theirs"] = {"name": "cvmboot-theirs", "timeCreated": world.stamp(), "labels": {}}
    world.disks[f"{ZONE}/theirs"] = {"name": "theirs", "id": "2", "users": [], "labels": {}}
    assert [one.run for one in merge(Journal(gce.folder), gce.provider())] == [run.run]
    gce.destroy(run)
    assert sorted(world.left) == ["bucket cvmboot-theirs", f"disk {ZONE}/copied", f"disk {ZONE}/theirs", "image theirs"]


def test_all_pages_of_a_list_are_read(gce: Runner) -> None:
    for name in ("one", "two", "three"):
        gce.deploy(gce.order(name, image_only=True))
    assert sorted(run.name for run in merge(Journal(gce.folder), gce.provider())) == ["one", "three", "two"]


def test_a_disk_that_was_kept_is_found_and_goes(gce: Runner) -> None:
    run = gce.deploy()
    assert run is not None
    world = gce.google.world
    for instance in world.instances.values():
        instance["disks"][0]["autoDelete"] = False
    for key in list(world.instances):
        gce.google.compute.remove_instance(key)
    assert [what.split()[0] for what in world.left] == ["image", "disk"]
    gce.destroy(run)
    assert world.left == []


def test_what_went_by_itself_is_no_error(gce: Runner) -> None:
    """maxRunDuration deletes the machine, somebody else the image."""
    run = gce.deploy(gce.order(max_run=90))
    assert run is not None
    for key in list(gce.google.world.instances):
        gce.google.compute.remove_instance(key)
    (seen,) = merge(Journal(gce.folder), gce.provider())
    assert not seen.live
    gce.google.world.images.clear()
    gce.destroy(run)
    assert gce.google.world.left == [] and not list(gce.folder.glob("*.json"))


def test_a_machine_that_went_is_made_again_of_the_same_image(gce: Runner) -> None:
    gce.deploy()
    for key in list(gce.google.world.instances):
        gce.google.compute.remove_instance(key)
    run = gce.deploy()
    assert run is not None and len(gce.google.world.instances) == 1
    assert gce.google.world.calls.count("compute.images.insert") == 1
    assert len({tuple(one) for one in gce.google.world.requests}) >= 3


def test_an_archive_in_the_persons_bucket_is_found_without_the_journal(gce: Runner) -> None:
    world = gce.google.world
    world.buckets["mine"] = {"name": "mine", "timeCreated": world.stamp(), "labels": {}}
    broken_off(gce, "compute.images.insert", bucket="mine")
    assert [what.split()[0] for what in world.left] == ["bucket", "object"]
    provider = gce.provider(buckets=["mine"])
    (run,) = merge(Journal(gce.folder / "none"), provider)
    destroy_run(provider, Journal(gce.folder / "none"), run.run, quiet)
    assert world.left == ["bucket mine"]


def test_who_may_not_list_buckets_may_use_one(gce: Runner) -> None:
    world = gce.google.world
    world.buckets["mine"] = {"name": "mine", "timeCreated": world.stamp(), "labels": {}}

    def deny(moment: str, what: str) -> None:
        if what == "GET b":
            raise Refused(403, "forbidden", "we@example.org does not have storage.buckets.list access")

    gce.google.strike = deny
    run = gce.deploy(gce.order(bucket="mine"))
    assert run is not None and run.state == "complete"


def test_a_refused_deletion_is_said(gce: Runner) -> None:
    run = gce.deploy()
    assert run is not None
    error = {"code": "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE", "message": "The image is in use."}
    gce.google.world.operation_error["compute.images.delete"] = error
    with pytest.raises(CloudError, match="RESOURCE_IN_USE_BY_ANOTHER_RESOURCE: The image is in use"):
        gce.destroy(run)
    assert [what.split()[0] for what in gce.google.world.left] == ["image"]
    gce.destroy(run)
    assert gce.google.world.left == []
