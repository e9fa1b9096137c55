"""The step that starts the machine, and asserts that it is what was asked for."""

from typing import TYPE_CHECKING, Any

from cloud.ec2.refusals import aws_words, code_of
from cloud.ec2.step import Ec2Step
from cloud.ec2.tags import filters, specifications
from cloud.errors import Failed, Gone
from cloud.order import BOOT_UEFI
from cloud.resource import Resource
from cloud.steps import Made, Note

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_ec2.type_defs import InstanceTypeDef

RUNNING = "running"
ENDED = ("shutting-down", "terminated")
_FRESH_SECONDS = 120


def look_at(ec2: "EC2Client", instance: str) -> "InstanceTypeDef | None":
    """An instance as EC2 shows it, terminated ones too for an hour; None if it is not there."""
    from botocore.exceptions import ClientError

    try:
        found = ec2.describe_instances(InstanceIds=[instance])["Reservations"]
    except ClientError as error:
        if code_of(error) == "InvalidInstanceID.NotFound":
            return None
        raise
    return found[0]["Instances"][0] if found and found[0]["Instances"] else None


def state_of(instance: "InstanceTypeDef") -> str:
    """pending, running, shutting-down, terminated, stopping or stopped."""
    return str(instance.get("State", {}).get("Name", "unknown"))


def has_snp(instance: "InstanceTypeDef") -> bool:
    """Whether EC2 says that it runs as an SEV-SNP guest."""
    return instance.get("CpuOptions", {}).get("AmdSevSnp") == "enabled"


class InstanceStep(Ec2Step):
    """RunInstances: one machine, tagged with its disk and network interface as they are made."""

    name = "instance"

    def describe(self) -> tuple[str, str]:
        """Step.describe()."""
        kind = f"{self._options.machine_type}{', SEV-SNP' if self._options.snp else ''}"
        reach = "public address" if self._options.public_ip else "no public address"
        surcharge = " plus 10 % for SEV-SNP" if self._options.snp else ""
        return f"instance {kind}, {reach}", f"On-Demand hours of {self._options.machine_type}{surcharge}; its gp3 disk"

    @aws_words()
    def find(self, made: Made) -> Resource | None:
        """Step.find()."""
        pages = self._aws.ec2().get_paginator("describe_instances").paginate(Filters=filters(self._labels.run))
        found = [
            each["InstanceId"]
            for page in pages
            for reservation in page["Reservations"]
            for each in reservation["Instances"]
            if state_of(each) not in ENDED
        ]
        return Resource("instance", found[0], self._aws.region) if found else None

    @aws_words()
    def create(self, made: Made, token: str) -> Resource:
        """Step.create()."""
        image = made["image"].resource
        assert image is not None
        options = self._options
        interface: dict[str, Any] = {
            "DeviceIndex": 0,
            "AssociatePublicIpAddress": options.public_ip,
            "DeleteOnTermination": True,
        }
        if options.subnet:
            interface["SubnetId"] = options.subnet
        if options.security_groups:
            interface["Groups"] = options.security_groups
        more: dict[str, Any] = {}
        if options.snp:
            more["CpuOptions"] = {"AmdSevSnp": "enabled"}
        if options.zone:
            more["Placement"] = {"AvailabilityZone": options.zone}
        answer = self._aws.ec2().run_instances(
            ImageId=image.id,
            InstanceType=options.machine_type,  # type: ignore[arg-type]
            MinCount=1,
            MaxCount=1,
            ClientToken=token,
            NetworkInterfaces=[interface],  # type: ignore[list-item]
            MetadataOptions={"HttpTokens": "required", "HttpEndpoint": "enabled"},
            InstanceInitiatedShutdownBehavior=options.on_shutdown,  # type: ignore[arg-type]
            TagSpecifications=specifications(self._labels, "instance", "volume", "network-interface"),
            **more,
        )
        return Resource("instance", answer["Instances"][0]["InstanceId"], self._aws.region)

    @aws_words()
    def exists(self, resource: Resource) -> bool | None:
        """Step.exists()."""
        seen = look_at(self._aws.ec2(), resource.id)
        return None if seen is None else state_of(seen) not in ENDED

    def finish(self, resource: Resource | None, made: Made, note: Note) -> dict[str, Any]:
        """Step.finish()."""
        assert resource is not None
        instance = self._wait_running(resource)
        facts = facts_of(instance)
        if self._options.snp and not has_snp(instance):
            raise Failed(
                f"instance {resource.id} runs without SEV-SNP (AmdSevSnp is "
                f"{instance.get('CpuOptions', {}).get('AmdSevSnp', 'not set')})",
                where=resource.place,
                next_step=f"trust it with nothing; `cvmboot deploy destroy {self._labels.run}` ends it",
            )
        wanted = "uefi" if self._order.image.boot == BOOT_UEFI else "legacy-bios"
        if facts["boot_mode"] not in (wanted, None):
            raise Failed(
                f"instance {resource.id} started by {facts['boot_mode']}, wanted {wanted}", where=resource.place
            )
        return facts

    def _wait_running(self, resource: Resource) -> "InstanceTypeDef":
        fresh_until = self._patience.clock() + _FRESH_SECONDS

        @aws_words()
        def look() -> "InstanceTypeDef | None":
            seen = look_at(self._aws.ec2(), resource.id)
            if seen is None:
                if self._patience.clock() > fresh_until:
                    raise Gone(f"instance {resource.id} does not exist", where=resource.place)
                return None
            if state_of(seen) in ENDED:
                return self._ended(seen)
            return seen if state_of(seen) in (RUNNING, "stopping", "stopped") else None

        return self._patience.wait_for(f"instance {resource.id} to run", look, resource.place)

    def _ended(self, seen: "InstanceTypeDef") -> "InstanceTypeDef":
        """A guest that has powered itself off has run; a machine that AWS could not start has not."""
        reason = seen.get("StateReason", {})
        if str(reason.get("Code", "")).startswith("Client.InstanceInitiatedShutdown"):
            return seen
        raise Failed(
            f"instance {seen.get('InstanceId')} ended: {reason.get('Message') or 'no reason given'}",
            where=self._aws.region,
            next_step="run the same command again, with another --machine-type or --zone if AWS had no capacity",
        )


def facts_of(instance: "InstanceTypeDef") -> dict[str, Any]:
    """What a person and a record want to know of an instance: plain data."""
    cores = instance.get("CpuOptions", {})
    return {
        "state": state_of(instance),
        "machine_type": instance.get("InstanceType"),
        "zone": instance.get("Placement", {}).get("AvailabilityZone"),
        "snp": has_snp(instance),
        "vcpus": cores.get("CoreCount", 1) * cores.get("ThreadsPerCore", 1),
        "boot_mode": instance.get("CurrentInstanceBootMode"),
        "private_ip": instance.get("PrivateIpAddress"),
        "public_ip": instance.get("PublicIpAddress"),
    }
