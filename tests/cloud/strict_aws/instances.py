"""Instances of EC2, strict: tokens, CpuOptions, boot modes, states that take time, consoles of 64 KiB, quotas."""

from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.models.elastic_network_interfaces import NetworkInterface
from moto.ec2.models.instances import InstanceState, StateReason
from moto.ec2.responses.general import General
from moto.ec2.responses.instances import InstanceResponse
from moto.ec2.utils import Base64EncodedString
from moto.servicequotas.models import ServiceQuotasBackend

from strict_aws.world import WORLD, refuse

CONSOLE = 64 << 10
_SNP_FAMILIES = ("m6a", "c6a", "r6a")
_moto_association = NetworkInterface.association
_moto_run = InstanceResponse.run_instances
_moto_mapping = InstanceResponse._parse_block_device_mapping
_moto_describe = InstanceResponse.describe_instances
_moto_types = InstanceResponse.describe_instance_types
_moto_quota = ServiceQuotasBackend.get_service_quota


class StrictInstances(InstanceResponse):
    """Replaces moto's methods."""

    def run_instances(self) -> ActionResult:
        get = self._get_param
        token, kind = get("ClientToken") or "", get("InstanceType") or "m1.small"
        if len(token) > 64:
            raise refuse("InvalidParameterValue", f"ClientToken of {len(token)} characters")
        parameters = str({key: value for key, value in self.querystring.items() if "Token" not in key})

        def make() -> Any:
            image = self._image(get("ImageId"))
            facts = self._facts(kind)
            modes, boot = facts["SupportedBootModes"], image.boot_mode
            if boot != "uefi-preferred" and boot not in modes:
                raise refuse("Unsupported", f"{kind} does not support boot mode {boot}")
            cpu = self._cpu_options(kind, boot, facts)
            self._check_network()
            reservation = _moto_run(self).result
            for instance in reservation.instances:
                instance._state = InstanceState("pending", 0)
                instance.cpu_options = cpu
                instance.boot_mode = boot
                instance.current_instance_boot_mode = "uefi" if boot == "uefi-preferred" else boot
                instance.ena_support, instance.tpm_support = True, getattr(image, "tpm_support", None)
                instance.client_token = token
                instance.hypervisor = "nitro"
                instance.root_device_name = image.root_device_name
                if not any("DeleteOnTermination" in each for each in get("NetworkInterfaces", [])):
                    for interface in instance.nics.values():
                        interface.delete_on_termination = True  # AWS's default for what a launch makes
            return reservation

        reservation = WORLD.once("RunInstances", token, parameters, make, "IdempotentParameterMismatch")
        if any(instance.state == "terminated" for instance in reservation.instances):
            raise refuse("IdempotentInstanceTerminated", "The instance of this token has been terminated")
        return ActionResult(reservation)

    def _parse_block_device_mapping(self) -> list[dict[str, Any]]:
        """What the request says, or else the image: moto would take a disk of 8 GiB of nothing."""
        given = _moto_mapping(self)
        image = self._image(self._get_param("ImageId"))
        root = {"Iops": None, "KmsKeyId": None, **image.block_device_mappings[0]["Ebs"]}
        for mapping in given:
            said = {key: value for key, value in mapping["Ebs"].items() if value not in (None, False)}
            mapping["Ebs"] = {**root, **said}
        whole = {"VirtualName": None, "DeviceName": image.root_device_name, "Ebs": root, "NoDevice": None}
        return given or [whole]

    def _image(self, name: str) -> Any:
        image = self.ec2_backend.amis.get(name)
        if image is None:
            raise refuse("InvalidAMIID.NotFound", f"The image id '[{name}]' does not exist")
        if image.state != "available":
            raise refuse("InvalidAMIID.Unavailable", f"The image id '[{name}]' is not available")
        return image

    def _facts(self, kind: str) -> dict[str, Any]:
        from moto.ec2.exceptions import InvalidInstanceTypeError

        try:
            facts: dict[str, Any] = self.ec2_backend.describe_instance_types([kind], {})[0]
        except InvalidInstanceTypeError:
            raise refuse("InvalidParameterValue", f"Invalid value '{kind}' for InstanceType.") from None
        return facts

    def _cpu_options(self, kind: str, boot: str, facts: dict[str, Any]) -> dict[str, Any]:
        threads = facts["VCpuInfo"].get("DefaultThreadsPerCore", 1)
        cpu = {"CoreCount": facts["VCpuInfo"]["DefaultVCpus"] // threads, "ThreadsPerCore": threads}
        wanted = self._get_param("CpuOptions.AmdSevSnp")
        if wanted not in (None, "enabled", "disabled"):
            raise refuse("InvalidParameterValue", f"AmdSevSnp {wanted}")
        if wanted == "enabled":
            if kind.partition(".")[0] not in _SNP_FAMILIES or self.region not in WORLD.snp_regions:
                raise refuse("InvalidParameterCombination", f"{kind} does not support AMD SEV-SNP in {self.region}")
            if boot == "legacy-bios":
                raise refuse("InvalidParameterCombination", "AMD SEV-SNP needs boot mode uefi")
        if wanted and not WORLD.without_snp:
            cpu["AmdSevSnp"] = wanted
        return cpu

    def _check_network(self) -> None:
        for interface in self._get_param("NetworkInterfaces", []):
            if self._get_param("SubnetId") or self._get_param("SecurityGroupIds"):
                raise refuse("InvalidParameterCombination", "network interfaces and an instance-level subnet or group")
            if interface.get("SubnetId"):
                self.ec2_backend.get_subnet(interface["SubnetId"])

    def describe_instances(self) -> ActionResult:
        for reservation in self.ec2_backend.reservations.values():
            for instance in reservation.instances:
                if instance.state == "pending" and not WORLD.still_working(instance.id):
                    instance._state = InstanceState("running", 16)
        return _moto_describe(self)

    def describe_instance_types(self) -> ActionResult:
        answer = _moto_types(self)
        if self.region in WORLD.snp_regions:
            return answer
        types = []
        for each in answer.result["InstanceTypes"]:  # type: ignore[index]
            processor = dict(each.get("ProcessorInfo", {}))
            processor["SupportedFeatures"] = [f for f in processor.get("SupportedFeatures", []) if f != "amd-sev-snp"]
            types.append({**each, "ProcessorInfo": processor})
        return ActionResult({"InstanceTypes": types})


def power_off(backend: Any, name: str) -> None:
    """The guest shuts down: what then happens is what was ordered at its start."""
    instance = backend.get_instance(name)
    if instance.state != "running":
        return
    if instance.instance_initiated_shutdown_behavior == "terminate":
        instance.terminate()
    else:
        instance.stop()
    instance.state_reason = StateReason("Client.InstanceInitiatedShutdown: Instance initiated shutdown",
                                        "Client.InstanceInitiatedShutdown")  # fmt: skip


class StrictConsole(General):
    """Replaces moto's method."""

    def get_console_output(self) -> ActionResult:
        instance = self.ec2_backend.get_instance(self._get_param("InstanceId"))
        text = WORLD.consoles.get(instance.id, "") if self._get_param("Latest") else ""
        return ActionResult(
            {"InstanceId": instance.id, "Output": Base64EncodedString.from_raw_string(text[-CONSOLE:])} if text
            else {"InstanceId": instance.id}
        )  # fmt: skip


def _quota(backend: ServiceQuotasBackend, service_code: str, quota_code: str) -> dict[str, Any]:
    if (service_code, quota_code) == ("ec2", "L-1216C47A"):
        return {"ServiceCode": "ec2", "QuotaCode": quota_code, "Value": float(WORLD.vcpu_quota), "Unit": "None"}
    return _moto_quota(backend, service_code, quota_code)


def _association(interface: NetworkInterface) -> dict[str, Any] | None:
    """AWS says nothing of the public address of an interface that has none; moto says {}, which Terraform takes for one."""
    found: dict[str, Any] = _moto_association.fget(interface)  # type: ignore[attr-defined, misc]
    return found or None


def install() -> None:
    """Put it in moto's place."""
    NetworkInterface.association = property(_association)  # type: ignore[assignment, method-assign]
    for name in (
        "run_instances", "_parse_block_device_mapping", "_image",
        "_facts", "_cpu_options", "_check_network", "describe_instances",
        "describe_instance_types",
    ):  # fmt: skip
        setattr(InstanceResponse, name, getattr(StrictInstances, name))
    General.get_console_output = StrictConsole.get_console_output  # type: ignore[method-assign]
    ServiceQuotasBackend.get_service_quota = _quota  # type: ignore[method-assign]
