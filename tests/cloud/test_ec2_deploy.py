"""`cvmboot deploy ec2` from the application to the running machine and back, against the strict stand-in for AWS."""

import contextlib
import io
import json
import subprocess
import sys
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from clouds import ROOT, Command, succeeded
from strict_aws import ebs
from strict_aws.instances import power_off

from images.build import build

if TYPE_CHECKING:
    from strict_aws.world import World

SNP_TYPES = ("m6a.large", "c6a.large", "r6a.large")


@pytest.fixture
def ec2(world: "World") -> Any:
    """The account as another program sees it."""
    return boto3.client("ec2", region_name="us-east-2")


def one(answer: dict[str, Any], key: str) -> Any:
    """The only one of a list in an answer."""
    assert len(answer[key]) == 1, answer[key]
    return answer[key][0]


def instance_of(ec2: Any) -> Any:
    return one(one(ec2.describe_instances(), "Reservations"), "Instances")


def everything(region: str = "us-east-2") -> dict[str, list[str]]:
    """All that an account has and pays for."""
    ec2 = boto3.client("ec2", region_name=region)
    instances = [i for r in ec2.describe_instances()["Reservations"] for i in r["Instances"]]
    return {
        "instances": [i["InstanceId"] for i in instances if i["State"]["Name"] != "terminated"],
        "images": [i["ImageId"] for i in ec2.describe_images(Owners=["self"])["Images"]],
        "snapshots": [s["SnapshotId"] for s in ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]],
        "volumes": [v["VolumeId"] for v in ec2.describe_volumes()["Volumes"]],
        "interfaces": [n["NetworkInterfaceId"] for n in ec2.describe_network_interfaces()["NetworkInterfaces"]],
    }


NOTHING: dict[str, list[str]] = {"instances": [], "images": [], "snapshots": [], "volumes": [], "interfaces": []}


def test_an_application_becomes_a_confidential_machine(
    deploy: Command, application: Path, world: "World", ec2: Any, tmp_path: Path
) -> None:
    record_file = tmp_path / "record.json"
    ran = succeeded(deploy("ec2", application, "--snp", "--record", record_file))
    record = json.loads(record_file.read_text())

    snapshot = one(ec2.describe_snapshots(OwnerIds=["self"]), "Snapshots")
    built = build(application, tmp_path / "disk.raw", size=70 << 20)
    disk = (tmp_path / "disk.raw").read_bytes()
    stored = ebs.contents("us-east-2", snapshot["SnapshotId"])
    assert stored[: len(disk)] == disk and not any(stored[len(disk) :])
    assert record["image"]["sha256"] == built.raw_sha256
    assert snapshot["VolumeSize"] == 1 and snapshot["State"] == "completed" and not snapshot["Encrypted"]

    image = one(ec2.describe_images(Owners=["self"]), "Images")
    wanted = {"BootMode": "uefi", "TpmSupport": "v2.0", "ImdsSupport": "v2.0", "EnaSupport": True, "Public": False}
    assert wanted.items() <= image.items()
    assert image["Architecture"] == "x86_64" and image["VirtualizationType"] == "hvm"
    disk = one(image, "BlockDeviceMappings")["Ebs"]
    assert (disk["SnapshotId"], disk["VolumeType"], disk["DeleteOnTermination"]) == (
        snapshot["SnapshotId"],
        "gp3",
        True,
    )

    instance = instance_of(ec2)
    assert instance["CpuOptions"]["AmdSevSnp"] == "enabled" and instance["InstanceType"] == "c6a.large"
    assert instance["State"]["Name"] == "running" and instance["ImageId"] == image["ImageId"]
    assert instance["MetadataOptions"]["HttpTokens"] == "required"
    assert "PublicIpAddress" not in instance
    behaviour = ec2.describe_instance_attribute(
        InstanceId=instance["InstanceId"], Attribute="instanceInitiatedShutdownBehavior"
    )
    assert behaviour["InstanceInitiatedShutdownBehavior"]["Value"] == "terminate"

    volume = one(ec2.describe_volumes(), "Volumes")
    for thing in (snapshot, image, instance, volume):
        tags = {tag["Key"]: tag["Value"] for tag in thing["Tags"]}
        assert tags["cvmboot-run"] == record["run"] and tags["Name"] == tags["cvmboot-name"] == "hello"

    resources = {name: resource["id"] for name, resource in record["resources"].items()}
    assert resources == {
        "snapshot": snapshot["SnapshotId"],
        "image": image["ImageId"],
        "instance": instance["InstanceId"],
    }
    assert record["resources"]["instance"]["facts"]["snp"] is True
    assert instance["InstanceId"] in ran.out and "SEV-SNP" in ran.err


def test_destroy_leaves_nothing(deploy: Command, application: Path, world: "World", state: Path) -> None:
    succeeded(deploy("ec2", application))
    assert all(everything().values())
    succeeded(deploy("destroy", "hello"))
    assert everything() == NOTHING
    assert not list(state.glob("*.json"))
    assert "nothing to destroy" in succeeded(deploy("destroy", "--all")).out


def test_destroy_all_and_by_run(deploy: Command, application: Path, world: "World", state: Path) -> None:
    succeeded(deploy("ec2", application, "--name", "one"))
    succeeded(deploy("ec2", application, "--name", "two", "--image-only"))
    runs = {json.loads(f.read_text())["order"]["name"]: f.stem for f in state.glob("*.json")}
    dry = succeeded(deploy("destroy", "--all", "--dry-run"))
    assert runs["one"] in dry.out and runs["two"] in dry.out and len(everything()["images"]) == 2
    succeeded(deploy("destroy", runs["one"]))
    assert len(everything()["images"]) == 1 and not everything()["instances"]
    succeeded(deploy("destroy", "--all"))
    assert everything() == NOTHING


def test_destroy_wants_to_know_what(deploy: Command, world: "World") -> None:
    assert deploy("destroy").status == 2
    assert deploy("destroy", "app", "--all").status == 2
    missing = deploy("destroy", "app")
    assert missing.status == 1 and "no run or deployment 'app'" in missing.last_line


def test_a_dry_run_asks_and_makes_nothing(deploy: Command, application: Path, world: "World", state: Path) -> None:
    ran = succeeded(deploy("ec2", application, "--snp", "--dry-run"))
    for text in ("snapshot of 1 GiB", "boot mode uefi, TPM 2.0, IMDSv2", "c6a.large, SEV-SNP", "plus 10 % for SEV-SNP"):
        assert text in ran.out
    changing = ("Start", "Put", "Complete", "Register", "Run", "Create", "Copy", "Import")
    assert world.requests and not [r.operation for r in world.requests if r.operation.startswith(changing)]
    assert not state.exists()
    plan = json.loads(succeeded(deploy("ec2", application, "--snp", "--dry-run", "--json")).out)
    assert [step["action"] for step in plan["steps"]] == ["create"] * 3
    assert {"what": "SEV-SNP", "outcome": "ok", "text": "c6a.large has it here"} in plan["checks"]


def test_the_same_again_makes_nothing(deploy: Command, application: Path, world: "World") -> None:
    succeeded(deploy("ec2", application))
    before = everything()
    ran = succeeded(deploy("ec2", application))
    assert everything() == before and "keep" in ran.err
    assert world.count("StartSnapshot") == world.count("RegisterImage") == world.count("RunInstances") == 1


def test_without_its_journal_a_run_is_found_by_its_labels(
    deploy: Command, application: Path, world: "World", state: Path
) -> None:
    succeeded(deploy("ec2", application))
    before = everything()
    for file in state.glob("*"):
        file.unlink()
    succeeded(deploy("ec2", application))
    assert everything() == before
    for file in state.glob("*"):
        file.unlink()
    assert deploy("destroy", "hello").status == 1  # nobody knows where to look
    assert "not in the journal" in succeeded(deploy("status", "--ec2", "us-east-2")).out
    succeeded(deploy("destroy", "hello", "--ec2", "us-east-2"))
    assert everything() == NOTHING


def test_a_new_image_replaces_the_old_one_which_goes_last(
    deploy: Command, application: Path, world: "World", tmp_path: Path
) -> None:
    newer = tmp_path / "hello.efi"
    newer.write_bytes((ROOT / "samples" / "built" / "everything.efi").read_bytes())
    succeeded(deploy("ec2", application))
    old = everything()
    refused = deploy("ec2", newer)
    assert refused.status == 1 and "--replace" in refused.last_line and everything() == old
    world.requests.clear()
    succeeded(deploy("ec2", newer, "--replace"))
    new = everything()
    assert all(len(things) == 1 and things != old[kind] for kind, things in new.items())
    operations = [request.operation for request in world.requests]
    assert operations.index("RunInstances") < operations.index("TerminateInstances")
    assert operations.index("RegisterImage") < operations.index("DeregisterImage")


def test_keys_encryption_and_network_are_passed_on(
    deploy: Command, application: Path, world: "World", ec2: Any, tmp_path: Path
) -> None:
    from test_secure_boot_keys import DB, KEK, PK

    keys = tmp_path / "keys"
    keys.mkdir()
    for name, der in (("PK", PK), ("KEK", KEK), ("db", DB)):
        (keys / f"{name}.der").write_bytes(der)
    subnet = ec2.describe_subnets()["Subnets"][1]
    group = ec2.create_security_group(GroupName="mine", Description="mine", VpcId=subnet["VpcId"])["GroupId"]
    words = ("--encrypt", "--public-ip", "--subnet", subnet["SubnetId"], "--security-group", group)
    ran = succeeded(deploy("ec2", application, *words, "--secure-boot-keys", keys, "--on-shutdown", "stop"))
    assert "the application has no signature" in ran.err
    image = one(ec2.describe_images(Owners=["self"]), "Images")
    data = ec2.describe_image_attribute(ImageId=image["ImageId"], Attribute="uefiData")["UefiData"]["Value"]
    assert b64decode(data)[:8] == b"AMZNUEFI"
    assert one(ec2.describe_snapshots(OwnerIds=["self"]), "Snapshots")["Encrypted"]
    assert one(ec2.describe_volumes(), "Volumes")["Encrypted"]
    instance = instance_of(ec2)
    assert instance["SubnetId"] == subnet["SubnetId"] and instance["PublicIpAddress"]
    assert one(one(instance, "NetworkInterfaces"), "Groups")["GroupId"] == group


def test_copies_are_made_in_other_regions_and_destroyed_with_the_rest(
    deploy: Command, application: Path, world: "World"
) -> None:
    succeeded(deploy("ec2", application, "--image-only", "--copy-to", "eu-west-1", "--copy-to", "us-west-2"))
    for region in ("us-east-2", "eu-west-1", "us-west-2"):
        there = boto3.client("ec2", region_name=region)
        image = one(there.describe_images(Owners=["self"]), "Images")
        assert (image["BootMode"], image["TpmSupport"], image["Public"]) == ("uefi", "v2.0", False)
        snapshot = one(there.describe_snapshots(OwnerIds=["self"]), "Snapshots")
        assert one(image, "BlockDeviceMappings")["Ebs"]["SnapshotId"] == snapshot["SnapshotId"]
    assert succeeded(deploy("status")).out.count("image ") == 3
    succeeded(deploy("destroy", "hello"))
    for region in ("us-east-2", "eu-west-1", "us-west-2"):
        assert everything(region) == NOTHING


def test_a_bios_image_is_registered_as_legacy_bios(deploy: Command, world: "World", ec2: Any) -> None:
    program = ROOT / "samples" / "built" / "unikernel_pvh.elf"
    succeeded(deploy("ec2", program))
    image = one(ec2.describe_images(Owners=["self"]), "Images")
    assert image["BootMode"] == "legacy-bios" and "TpmSupport" not in image
    assert instance_of(ec2)["CurrentInstanceBootMode"] == "legacy-bios"
    refused = deploy("ec2", program, "--name", "other", "--snp")
    assert refused.status == 1 and "SEV-SNP needs UEFI" in refused.last_line


@pytest.mark.parametrize(
    "suffix", ["raw", *(pytest.param(each, marks=pytest.mark.slow) for each in ("vmdk", "tar.gz"))]
)
def test_an_image_of_any_format_is_sent_as_the_disk_in_it(
    deploy: Command, application: Path, world: "World", ec2: Any, tmp_path: Path, suffix: str
) -> None:
    image = tmp_path / f"disk.{suffix}"
    built = build(application, image, size=70 << 20 if suffix != "tar.gz" else None)
    ran = succeeded(deploy("ec2", image, "--image-only", "--json"))
    assert json.loads(ran.out)["image"]["sha256"] == built.raw_sha256


def test_what_no_cloud_boots_is_refused_at_once(deploy: Command, world: "World", tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no image at all\n" * 100)
    for path, words in (
        (text, "nothing boots"),
        (tmp_path / "missing.efi", "No such file"),
        (tmp_path, "Is a directory"),
    ):
        ran = deploy("ec2", path)
        assert ran.status == 1 and words in ran.last_line, ran.err
    arm = bytearray((ROOT / "samples" / "built" / "hello.efi").read_bytes())
    at = int.from_bytes(arm[0x3C:0x40], "little") + 4
    arm[at : at + 2] = b"\x64\xaa"
    (tmp_path / "arm.efi").write_bytes(arm)
    ran = deploy("ec2", tmp_path / "arm.efi")
    assert ran.status == 1 and "arm.efi" in ran.last_line and "\n" not in ran.last_line
    assert not world.requests


# Looking after a run


def test_status_shows_where_it_is_and_whether_it_is_confidential(
    deploy: Command, application: Path, world: "World"
) -> None:
    succeeded(deploy("ec2", application, "--snp"))
    ran = succeeded(deploy("status", "hello"))
    for text in ("complete", "us-east-2", "running", "snp=True", "private_ip=", "available", "completed"):
        assert text in ran.out
    plain = json.loads(succeeded(deploy("status", "--json")).out)
    assert [resource["kind"] for resource in plain[0]["resources"]] == ["instance", "image", "snapshot"]


def test_the_console_is_followed_to_the_end_of_the_machine(
    deploy: Command, application: Path, world: "World", ec2: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cloud.ec2 import serial_console

    succeeded(deploy("ec2", application))
    name = instance_of(ec2)["InstanceId"]
    whole = "".join(f"line {number} of the console\r\n" for number in range(6000))  # 160 KB: more than EC2 keeps
    looks = 0

    def grow(request: Any) -> None:
        nonlocal looks
        if request.operation == "GetConsoleOutput":
            looks += 1
            world.consoles[name] = whole[: looks * 30_000]
            if looks * 30_000 > len(whole):
                from moto.ec2.models import ec2_backends

                power_off(ec2_backends["123456789012"]["us-east-2"], name)

    world.accidents.append(grow)
    monkeypatch.setattr(serial_console, "_PAUSE", 0.01)
    assert succeeded(deploy("console", "hello", "--follow")).out == whole


def test_the_console_without_follow_shows_what_there_is(
    deploy: Command, application: Path, world: "World", ec2: Any
) -> None:
    succeeded(deploy("ec2", application))
    world.consoles[instance_of(ec2)["InstanceId"]] = "go-boot\r\n> "
    assert succeeded(deploy("console", "hello")).out == "go-boot\r\n> "


def test_deploy_with_console_shows_it_when_the_machine_runs(
    deploy: Command, application: Path, world: "World", monkeypatch: pytest.MonkeyPatch
) -> None:
    from moto.ec2.models import ec2_backends

    from cloud.ec2 import serial_console

    def speak(request: Any) -> None:
        if request.operation == "GetConsoleOutput":
            world.consoles[request.parameters["InstanceId"]] = "hello from EC2\r\n"
            power_off(ec2_backends["123456789012"]["us-east-2"], request.parameters["InstanceId"])

    world.accidents.append(speak)
    monkeypatch.setattr(serial_console, "_PAUSE", 0.01)
    assert succeeded(deploy("ec2", application, "--console")).out.endswith("hello from EC2\r\n")


def test_gc_finds_what_a_broken_off_run_has_left_and_deletes_it_when_told(
    deploy: Command, application: Path, world: "World", state: Path
) -> None:
    from strict_aws.world import Answer

    world.accidents.append(
        lambda request: Answer(400, "VcpuLimitExceeded", "no") if request.operation == "RunInstances" else None
    )
    assert deploy("ec2", application).status == 1
    world.accidents.clear()
    succeeded(deploy("ec2", application, "--name", "kept", "--image-only"))
    for file in state.glob("*"):
        file.unlink()  # another machine's journal, or a lost one
    before = everything()
    assert "no leftovers" in succeeded(deploy("gc", "--ec2", "us-east-2")).out
    dry = succeeded(deploy("gc", "--older-than", "0s", "--ec2", "us-east-2"))
    assert "1 runs left over; --delete deletes them" in dry.out and everything() == before
    succeeded(deploy("gc", "--older-than", "0s", "--ec2", "us-east-2", "--delete"))
    left = everything()
    assert len(left["images"]) == len(left["snapshots"]) == 1 and len(before["images"]) == 2


@pytest.mark.parametrize("age", ["7", "7 days", "-1d", "d", "1000000000000d", ""])
def test_an_age_that_is_none(deploy: Command, world: "World", age: str) -> None:
    ran = deploy("gc", "--older-than", age)
    assert ran.status == 2 and "90m, 12h, 7d or 2w" in ran.last_line


def test_a_snapshot_that_something_else_uses_stays_and_that_is_said(
    deploy: Command, application: Path, world: "World", ec2: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cloud.ec2 import inventory

    monkeypatch.setattr(inventory, "_IN_USE_SECONDS", 1)
    succeeded(deploy("ec2", application, "--image-only"))
    disk = [{"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": everything()["snapshots"][0]}}]
    theirs = ec2.register_image(
        Name="mine", Architecture="x86_64", RootDeviceName="/dev/xvda", BlockDeviceMappings=disk
    )["ImageId"]
    ran = deploy("destroy", "hello")
    assert ran.status == 1 and "is in use by something that is not of this run" in ran.last_line
    assert everything()["images"] == [theirs]
    assert "destroying" in deploy("status").out
    ec2.deregister_image(ImageId=theirs)
    succeeded(deploy("destroy", "hello"))
    assert everything() == NOTHING


# The command line itself


def test_help_imports_no_sdk() -> None:
    code = (
        "import sys; from cvmboot.cli import main; main(['deploy', 'ec2', '--help'])\n"
        "bad = [name for name in sys.modules if name.split('.')[0] in ('boto3', 'botocore', 'google', 'cloud', 'httpx')]\n"
        "sys.exit(' '.join(bad) or 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr


def test_the_short_commands_are_the_same(deploy: Command, application: Path, world: "World", state: Path) -> None:
    succeeded(deploy("ec2", application, "--image-only"))
    command = [sys.executable, "-m", "cvmboot", "status", "--json", "--state", str(state)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(ran.stdout) == json.loads(succeeded(deploy("status", "--json")).out)


def test_uefi_data_is_written_for_terraform(deploy: Command, tmp_path: Path) -> None:
    from test_secure_boot_keys import DB, KEK, PK

    from cvmboot.cli import main

    for name, der in (("PK", PK), ("KEK", KEK), ("db", DB)):
        (tmp_path / f"{name}.der").write_bytes(der)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["deploy", "uefi-data", str(tmp_path)]) == 0
    assert b64decode(out.getvalue())[:8] == b"AMZNUEFI"
    assert main(["deploy", "uefi-data", str(tmp_path / "nowhere")]) == 1


@pytest.mark.slow
def test_a_process_shows_progress_in_lines_and_nothing_with_quiet(
    deploy_process: Callable[..., "subprocess.Popen[str]"], application: Path, world: "World"
) -> None:
    out, err = deploy_process("ec2", application, "--image-only", "--size", "70M").communicate(timeout=100)
    assert "upload: 2.5 MiB of 2.5 MiB, " in err and "\x1b" not in out + err and "ami-" in out
    again = deploy_process("ec2", application, "--image-only", "--size", "70M", "--quiet").communicate(timeout=100)
    assert again[1] == "" and "ami-" in again[0]
