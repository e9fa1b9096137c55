"""Deployments on Compute Engine: what is sent, that it is private, labelled and confidential, and that it goes again."""

import base64
from pathlib import Path

import pytest
from gce_run import Runner
from strict_gce.world import PROJECT, ZONE

from cloud.errors import Failed
from cloud.labels import RUN, TOOL
from cloud.secure_boot_keys import CERT_SHA256, CERT_X509, SecureBootKeys, certificate_list, signatures
from images.block import FileDevice

INSERT_IMAGE, INSERT_INSTANCE = "compute.images.insert", "compute.instances.insert"


def features(runner: Runner) -> set[str]:
    return {feature["type"] for feature in runner.sent(INSERT_IMAGE)["guestOsFeatures"]}


def test_a_confidential_vm_from_nothing_to_nothing(gce: Runner) -> None:
    run = gce.deploy()
    assert run is not None and run.state == "complete"
    assert [step.state for step in run.steps.values()] == ["deleted", "deleted", "done", "done"]
    facts = run.steps["instance"].facts
    assert facts["snp"] is True and facts["cpu_platform"] == "AMD Milan" and facts["vcpus"] == 2
    world = gce.google.world
    assert [what.partition(" ")[0] for what in world.left] == ["image", "instance", "disk"]
    gce.destroy(run)
    assert world.left == [] and not list(gce.folder.glob("*.json"))


def test_what_makes_an_sev_snp_machine_is_sent_and_the_deprecated_boolean_is_not(gce: Runner) -> None:
    gce.deploy()
    sent = gce.sent(INSERT_INSTANCE)
    assert sent["confidentialInstanceConfig"] == {"confidentialInstanceType": "SEV_SNP"}
    assert sent["minCpuPlatform"] == "AMD Milan"
    assert sent["scheduling"] == {
        "onHostMaintenance": "TERMINATE",
        "automaticRestart": True,
        "provisioningModel": "STANDARD",
    }
    assert features(gce) == {
        "UEFI_COMPATIBLE", "GVNIC", "VIRTIO_SCSI_MULTIQUEUE", "SEV_CAPABLE", "SEV_SNP_CAPABLE",
    }  # fmt: skip


def test_everything_is_private_unless_asked(gce: Runner) -> None:
    """uplosi lets all Google accounts read its images; nothing here may open anything to anyone."""
    gce.deploy()
    sent = gce.sent(INSERT_INSTANCE)
    (interface,) = sent["networkInterfaces"]
    assert "accessConfigs" not in interface and "ipv6AccessConfigs" not in interface
    assert "serviceAccounts" not in sent
    bucket = gce.sent("storage.buckets.insert")
    assert bucket["iamConfiguration"]["publicAccessPrevention"] == "enforced"
    assert bucket["iamConfiguration"]["uniformBucketLevelAccess"]["enabled"] is True
    assert bucket["softDeletePolicy"]["retentionDurationSeconds"] == 0
    assert bucket["lifecycle"]["rule"] == [{"action": {"type": "Delete"}, "condition": {"age": 7}}]
    assert not [call for call in gce.google.world.calls if "Iam" in call or "Acl" in call or "AccessControl" in call]
    assert gce.sent(INSERT_IMAGE)["storageLocations"] == [bucket["location"].lower()] == ["europe-west4"]


def test_a_public_address_is_given_when_asked(gce: Runner) -> None:
    run = gce.deploy(gce.order(public=True))
    (interface,) = gce.sent(INSERT_INSTANCE)["networkInterfaces"]
    assert [access["type"] for access in interface["accessConfigs"]] == ["ONE_TO_ONE_NAT"]
    assert run is not None and run.steps["instance"].facts["public_address"] == "198.51.100.7"


def test_labels_of_the_run_are_on_everything(gce: Runner) -> None:
    run = gce.deploy()
    assert run is not None
    instance = gce.sent(INSERT_INSTANCE)
    labelled = [
        gce.sent("storage.buckets.insert"), gce.sent(INSERT_IMAGE), instance, instance["disks"][0]["initializeParams"],
    ]  # fmt: skip
    for one in labelled:
        assert one["labels"][RUN] == run.run and TOOL in one["labels"]
        assert one["labels"] == labelled[0]["labels"]


@pytest.mark.parametrize("max_run", [None, 8 * 3600])
def test_spot_and_the_cost_guard_do_not_undo_what_snp_needs(gce: Runner, max_run: int | None) -> None:
    """ops writes MIGRATE over TERMINATE when Spot or a GPU is asked for."""
    gce.deploy(gce.order(spot=True, max_run=max_run))
    scheduling = gce.sent(INSERT_INSTANCE)["scheduling"]
    assert scheduling["onHostMaintenance"] == "TERMINATE" and scheduling["automaticRestart"] is False
    assert scheduling["provisioningModel"] == "SPOT" and scheduling["instanceTerminationAction"] == "DELETE"
    assert scheduling.get("maxRunDuration", {}).get("seconds") == (str(max_run) if max_run else None)


def test_the_cost_guard_deletes(gce: Runner) -> None:
    gce.deploy(gce.order(snp=False, max_run=90))
    scheduling = gce.sent(INSERT_INSTANCE)["scheduling"]
    assert scheduling["maxRunDuration"] == {"seconds": "90"} and scheduling["instanceTerminationAction"] == "DELETE"
    assert scheduling["onHostMaintenance"] == "MIGRATE"


@pytest.mark.parametrize(("nic", "wanted"), [("gvnic", "GVNIC"), ("virtio", "VIRTIO_NET")])
def test_the_network_card_is_chosen(gce: Runner, nic: str, wanted: str) -> None:
    gce.deploy(gce.order(nic=nic))
    assert gce.sent(INSERT_INSTANCE)["networkInterfaces"][0]["nicType"] == wanted


def test_a_bios_image_is_not_called_uefi(gce: Runner) -> None:
    gce.deploy(gce.order(bios=True, snp=False))
    assert features(gce) == {"GVNIC", "VIRTIO_SCSI_MULTIQUEUE"}
    sent = gce.sent(INSERT_INSTANCE)
    assert "shieldedInstanceConfig" not in sent and "confidentialInstanceConfig" not in sent


def test_a_plain_machine_is_no_confidential_one(gce: Runner) -> None:
    gce.deploy(gce.order(snp=False))
    sent = gce.sent(INSERT_INSTANCE)
    assert "confidentialInstanceConfig" not in sent and "minCpuPlatform" not in sent
    assert sent["shieldedInstanceConfig"]["enableSecureBoot"] is False


def test_serial_output_is_logged_and_input_can_be_closed(gce: Runner) -> None:
    gce.deploy(gce.order(serial_input=False))
    items = {item["key"]: item["value"] for item in gce.sent(INSERT_INSTANCE)["metadata"]["items"]}
    assert items == {"serial-port-enable": "false", "serial-port-logging-enable": "true"}


def test_more_features_family_and_image_name(gce: Runner) -> None:
    order = gce.order(guest_features=["TDX_CAPABLE"], family="my-app", image_name="my-app-1", image_only=True)
    run = gce.deploy(order)
    assert run is not None and "instance" not in run.steps
    image = gce.sent(INSERT_IMAGE)
    assert (image["name"], image["family"]) == ("my-app-1", "my-app")
    assert "TDX_CAPABLE" in features(gce)
    assert gce.google.world.left == ["image my-app-1"]


def test_secure_boot_keys_reach_the_image_as_they_are(gce: Runner, certificate: bytes) -> None:
    hashes = CERT_SHA256 + (28 + 96).to_bytes(4, "little") + bytes(4) + (48).to_bytes(4, "little")
    hashes += b"".join(bytes(16) + bytes([digit]) * 32 for digit in (1, 2))
    one = certificate_list(certificate)
    gce.deploy(gce.order(keys=SecureBootKeys(one, one, one + one, hashes), secure_boot=False))
    state = gce.sent(INSERT_IMAGE)["shieldedInstanceInitialState"]
    assert state["pk"]["fileType"] == "X509" and base64.b64decode(state["pk"]["content"]) == certificate
    assert [len(state[name]) for name in ("keks", "dbs", "dbxs")] == [1, 2, 1]
    assert {base64.b64decode(buffer["content"]) for buffer in state["dbs"]} == {certificate}
    (dbx,) = state["dbxs"]
    assert dbx["fileType"] == "BIN"
    entries = list(signatures(base64.b64decode(dbx["content"])))
    assert [data for _, _, data in entries] == [bytes([digit]) * 32 for digit in (1, 2)]
    assert all(kind == CERT_SHA256 != CERT_X509 for kind, _, _ in entries)


def test_a_machine_that_is_not_what_was_asked_for_is_said_so(gce: Runner) -> None:
    gce.google.world.forget_snp = True
    with pytest.raises(Failed, match=r"asked for SEV_SNP on AMD Milan, the API says no confidential type") as caught:
        gce.deploy()
    assert "\n" not in str(caught.value)


def test_a_guest_that_ends_at_once_is_no_failure(gce: Runner) -> None:
    """It is on no CPU any more when it is looked at."""

    def end(moment: str, what: str) -> None:
        for instance in gce.google.world.instances.values():
            if instance["status"] == "RUNNING":
                instance |= {"status": "TERMINATED", "cpuPlatform": "Unknown CPU Platform"}

    gce.google.strike = end
    run = gce.deploy()
    assert run is not None and run.steps["instance"].facts["snp"] is True


def test_a_machine_on_another_processor_is_said_so(gce: Runner) -> None:
    def move(moment: str, what: str) -> None:
        for instance in gce.google.world.instances.values():
            instance["cpuPlatform"] = "AMD Rome"

    gce.google.strike = move
    with pytest.raises(Failed, match=r"the API says SEV_SNP on AMD Rome; .*must not be trusted"):
        gce.deploy()


def test_a_dry_run_makes_nothing_and_shows_all(gce: Runner) -> None:
    assert gce.deploy(dry_run=True) is None
    assert not gce.google.world.left and not gce.google.world.bodies and not gce.folder.exists()
    (plan,) = gce.plans
    assert [row.step for row in plan.rows] == ["bucket", "upload", "image", "instance"]
    assert plan.settings["confidential"] == "SEV-SNP" and "no public address" in plan.settings["network"]


def test_what_arrives_is_the_disk(gce: Runner, tmp_path: Path) -> None:
    """Byte by byte, through the archive and the bucket of the person's own."""
    import io
    import tarfile

    world = gce.google.world
    world.buckets["mine"] = {"name": "mine", "timeCreated": world.stamp()}
    kept = []

    def keep(moment: str, what: str) -> None:
        if what.startswith("POST") and what.endswith("/images"):
            kept.extend(world.objects.values())

    gce.google.strike = keep
    gce.deploy(gce.order(bucket="mine", image_only=True))
    with tarfile.open(fileobj=io.BytesIO(kept[0].data), mode="r:gz") as tar:
        tar.extract("disk.raw", tmp_path, filter="data")
    arrived = FileDevice(tmp_path / "disk.raw")
    assert arrived.size == gce.source.size
    for offset in range(0, 80 << 20, 1 << 20):
        assert arrived.read(offset, 1 << 20) == gce.source.device.read(offset, 1 << 20)
    assert list(world.buckets) == ["mine"] and not world.objects  # theirs stays, the archive goes
    assert kept[0].resource["metadata"][TOOL] and "publicRead" not in str(kept[0].resource)


def test_another_image_is_made_before_the_old_one_goes(gce: Runner) -> None:
    """uplosi deletes first, and has nothing when the second half fails."""
    world = gce.google.world
    first = gce.deploy(gce.order(snp=False))
    assert first is not None
    del world.calls[:]
    second = gce.deploy(gce.order(snp=True), replace=True)
    assert second is not None and second.run != first.run
    calls = [call for call in world.calls if call.endswith(("insert", "delete")) and "storage" not in call]
    assert calls == [
        "compute.images.insert", "compute.instances.insert", "compute.instances.delete", "compute.images.delete",
    ]  # fmt: skip
    assert world.left == [
        f"image app-{second.run}", f"instance {ZONE}/app-{second.run}", f"disk {ZONE}/app-{second.run}",
    ]  # fmt: skip


def test_the_same_order_again_makes_nothing(gce: Runner) -> None:
    gce.deploy()
    before = [call for call in gce.google.world.calls if call.endswith("insert")]
    gce.deploy()
    assert [call for call in gce.google.world.calls if call.endswith("insert")] == before


def test_the_project_of_the_credentials_is_taken(gce: Runner) -> None:
    assert gce.provider(f"/{ZONE}").place == f"{PROJECT}/{ZONE}"
