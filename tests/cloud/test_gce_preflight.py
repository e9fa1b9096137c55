"""What is looked at before anything costs money: each with one line that says what to do, and nothing made."""

from dataclasses import replace
from typing import Any

import pytest
from gce_run import Runner
from strict_gce.errors import Refused
from strict_gce.world import OLD_ZONE, PROJECT

from cloud.errors import CloudError, Unfit
from cloud.plan import BAD, WARNING

GIB = 1 << 30


def lines(runner: Runner, outcome: str) -> list[str]:
    return [f"{check.what}: {check.text}" for check in runner.plans[-1].checks if check.outcome == outcome]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"machine_type": "n9-mega-1"}, r"n9-mega-1 is not in europe-west4-a; choose another --machine-type or --zone"),
        ({"machine_type": "t2a-standard-1", "snp": False}, r"is ARM, wanted x86"),
        ({"machine_type": "n1-standard-1"}, r"n1-standard-1 has no SEV-SNP, wanted N2D, such as --machine-type n2d"),
        (
            {"place": f"{PROJECT}/{OLD_ZONE}"},
            r"no AMD Milan in europe-west4-b \(there: AMD Rome, .*choose another --zone",
        ),
        ({"machine_type": "c3d-standard-4", "snp": False, "nic": "virtio"}, r"has no VirtIO card; say --nic gvnic"),
        ({"bios": True}, r"boots by BIOS, SEV-SNP needs UEFI"),
        ({"bios": True, "snp": False, "secure_boot": True}, r"boots by BIOS, Secure Boot needs UEFI"),
        ({"secure_boot": True}, r"not signed, firmware would refuse it"),
        ({"disk_bytes": GIB + 512}, r"no whole GiB; make it 2 GiB with --size 2G"),
        ({"disk_bytes": 2049 * GIB}, r"2049 GiB, at most 2048 are taken"),
        ({"bucket": "not-there"}, r"not-there is not there; make it, or leave --bucket out"),
        ({"bucket": "cvmboot-mine"}, r"names with cvmboot- are for buckets that are made and deleted here"),
    ],
)
def test_what_compute_engine_would_refuse_is_said_first(gce: Runner, options: dict[str, Any], wanted: str) -> None:
    with pytest.raises(Unfit, match=wanted) as caught:
        gce.deploy(gce.order(**options))
    assert "\n" not in str(caught.value) and "nothing was made" in str(caught.value)
    assert not gce.google.world.left and not gce.google.world.bodies and not gce.folder.exists()


@pytest.mark.parametrize(
    ("metric", "options"),
    [
        ("N2D_CPUS", {}),
        ("CPUS", {"machine_type": "n1-standard-1", "snp": False}),
        ("INSTANCES", {}),
        ("IMAGES", {}),
        ("CPUS_ALL_REGIONS", {}),
        ("SSD_TOTAL_GB", {}),
        ("DISKS_TOTAL_GB", {"disk_type": "pd-standard"}),
        ("IN_USE_ADDRESSES", {"public": True}),
        ("PREEMPTIBLE_CPUS", {"spot": True}),
    ],
)
def test_a_quota_that_is_used_up(gce: Runner, metric: str, options: dict[str, Any]) -> None:
    gce.google.world.quotas[metric] = (8, 8)
    with pytest.raises(Unfit, match=rf"{metric} in .*: 8 of 8 are used, \d+ more wanted; ask for a higher quota"):
        gce.deploy(gce.order(**options))
    assert not gce.google.world.left


def test_a_quota_that_just_fits(gce: Runner) -> None:
    gce.google.world.quotas = {"N2D_CPUS": (8, 6), "INSTANCES": (1, 0), "SSD_TOTAL_GB": (10, 0)}
    assert gce.deploy(dry_run=True) is None
    assert not lines(gce, BAD)


def test_what_is_there_already_needs_no_quota(gce: Runner) -> None:
    gce.deploy()
    gce.google.world.quotas = dict.fromkeys(("N2D_CPUS", "INSTANCES", "IMAGES", "SSD_TOTAL_GB"), (1, 1))
    assert gce.deploy() is not None


@pytest.mark.parametrize("limit", [0, 8])
def test_spot_counts_against_its_own_quota_where_there_is_one(gce: Runner, limit: int) -> None:
    gce.google.world.quotas = {"PREEMPTIBLE_CPUS": (limit, 0), "N2D_CPUS": (8, 8)}
    if limit:
        gce.deploy(gce.order(spot=True), dry_run=True)
    else:
        with pytest.raises(Unfit, match="N2D_CPUS in europe-west4: 8 of 8"):
            gce.deploy(gce.order(spot=True), dry_run=True)


def test_all_that_is_wrong_is_shown_at_once(gce: Runner) -> None:
    gce.google.world.quotas["N2D_CPUS"] = (0, 0)
    order = gce.order(place=f"{PROJECT}/{OLD_ZONE}", secure_boot=True, bucket="not-there")
    with pytest.raises(Unfit):
        gce.deploy(order)
    assert [line.partition(":")[0] for line in lines(gce, BAD)] == ["Secure Boot", "SEV-SNP", "quotas", "bucket"]


def test_no_such_zone(gce: Runner) -> None:
    with pytest.raises(CloudError, match=r"no zone 'mars-north1-a'|not found"):
        gce.deploy(gce.order(place=f"{PROJECT}/mars-north1-a"))
    assert not gce.google.world.left


@pytest.mark.parametrize(
    ("labels", "whose"),
    [
        ({}, "not made by cvmboot"),
        ({"cvmboot": "1", "cvmboot-run": "abcdefghij", "cvmboot-name": "other"}, "of run abcdefghij"),
    ],
)
def test_an_image_name_that_is_taken(gce: Runner, labels: dict[str, str], whose: str) -> None:
    image = {"name": "golden", "id": "7", "labels": labels, "status": "READY", "diskSizeGb": "1"}
    gce.google.world.images["golden"] = image
    with pytest.raises(Unfit, match=rf"golden is there and {whose}; say another --image-name"):
        gce.deploy(gce.order(image_name="golden"))
    assert gce.google.world.images == {"golden": image} and len(gce.google.world.left) == 1


def test_a_family_of_somebody_else_is_not_taken_over(gce: Runner) -> None:
    gce.google.world.images["theirs"] = {"name": "theirs", "id": "7", "family": "debian", "status": "READY"}
    with pytest.raises(Unfit, match=r"debian has images that cvmboot did not make; say another --family"):
        gce.deploy(gce.order(family="debian"))


def test_a_family_of_ours_goes_on(gce: Runner) -> None:
    gce.deploy(gce.order(family="my-app", image_only=True))
    gce.deploy(gce.order(family="my-app", image_only=True, guest_features=["IDPF"]), replace=True)
    assert len(gce.google.world.images) == 1


def test_a_bucket_that_may_be_open_is_warned_of(gce: Runner) -> None:
    world = gce.google.world
    world.buckets["open"] = {"name": "open", "timeCreated": world.stamp()}
    gce.deploy(gce.order(bucket="open"), dry_run=True)
    assert any("does not enforce public access prevention" in line for line in lines(gce, WARNING))
    iam = {"publicAccessPrevention": "enforced", "uniformBucketLevelAccess": {"enabled": True}}
    world.buckets["open"]["iamConfiguration"] = iam
    gce.deploy(gce.order(bucket="open"), dry_run=True)
    assert not lines(gce, WARNING)


def test_who_may_not_see_quotas_may_still_deploy(gce: Runner) -> None:
    def deny(moment: str, what: str) -> None:
        if moment == "before" and what == f"GET projects/{PROJECT}":
            raise Refused(403, "forbidden", "Required 'compute.projects.get' permission for 'projects/our-project'")

    gce.google.strike = deny
    assert gce.deploy(dry_run=True) is None
    assert any("quotas: may not be looked at" in line for line in lines(gce, WARNING))


def test_a_clock_that_is_off_is_warned_of(gce: Runner) -> None:
    gce.google.world.clock_offset = 200
    assert gce.deploy(dry_run=True) is None
    assert any("clock: this machine's is " in line and "behind" in line for line in lines(gce, WARNING))


def test_a_signed_application_passes(gce: Runner) -> None:
    order = gce.order(secure_boot=True)
    gce.deploy(replace(order, image=replace(order.image, signed=True)))
    sent = gce.sent("compute.instances.insert")
    assert sent["shieldedInstanceConfig"] == {
        "enableSecureBoot": True, "enableVtpm": True, "enableIntegrityMonitoring": True,
    }  # fmt: skip
