"""The instance: confidential when asked, without an address or an identity in the cloud, and looked at once it runs."""

from typing import Any

from cloud.errors import Failed, Gone, NameTaken
from cloud.gce import operations
from cloud.gce.image import taken
from cloud.gce.options import GVNIC, GceOptions, image_name, instance_name, labels_of
from cloud.gce.session import Gce
from cloud.labels import RUN, Labels
from cloud.order import Order
from cloud.resource import Resource
from cloud.source import GIB
from cloud.steps import Made, Note, Step

KIND = "instance"
CLIENT = "InstancesClient"
MILAN = "AMD Milan"
SNP_FAMILY = "n2d-"
"""SEV-SNP: N2D machine types on Milan, ended and not moved when their host needs care (Google, "Supported configurations")."""
LEAST_DISK_GIB = 10
_STARTING = ("PROVISIONING", "STAGING", "REPAIRING", "PENDING")


class InstanceStep(Step):
    """One instance and its disk."""

    name = KIND

    def __init__(self, gce: Gce, labels: Labels, order: Order) -> None:
        self._gce, self._labels, self._order = gce, labels, order
        self._options = GceOptions.of(order.options)
        self._instance = instance_name(labels)
        self._operation: Any = None

    def describe(self) -> tuple[str, str]:
        """Step.describe()."""
        options = self._options
        snp = ", SEV-SNP" if options.snp else ""
        cost = "per second it runs"
        if options.max_run:
            cost += f", deleted after {options.max_run} s"
        return f"instance {self._instance}, {options.machine_type}{snp}, in {self._gce.zone}", cost

    def find(self, made: Made) -> Resource | None:
        """Step.find()."""
        instance = find_instance(self._gce, self._instance)
        if instance is None:
            return None
        if instance.labels.get(RUN) != self._labels.run:
            raise taken("instance", self._instance, dict(instance.labels))
        return self._resource()

    def create(self, made: Made, token: str) -> Resource:
        """Step.create()."""
        try:
            self._operation = self._gce.call(
                CLIENT,
                "insert_unary",
                zonal=True,
                request_id=operations.request_id(token),
                instance_resource=instance_resource(self._gce, self._labels, self._order),
            )
        except NameTaken:
            if self.find(made) is None:
                raise
        return self._resource()

    def finish(self, resource: Resource | None, made: Made, note: Note) -> dict[str, Any]:
        """Step.finish(): waits until it runs, and asserts from the API's answer that it is what was asked for."""
        operation, self._operation = self._operation, None
        if operation is None:
            there = find_instance(self._gce, self._instance)
            operation = there and operations.insert_of(self._gce, there.id, zonal=True)
        if operation is not None:
            operations.wait_for(self._gce, operation, f"instance {self._instance} to be made")
        instance = self._gce.patience.wait_for(f"instance {self._instance} to run", self._started, self._gce.place)
        if self._options.snp:
            assert_snp(instance)
        machine = self._gce.call("MachineTypesClient", "get", zonal=True, machine_type=self._options.machine_type)
        return {"id": str(instance.id), "vcpus": machine.guest_cpus, **facts_of(instance)}

    def exists(self, resource: Resource) -> bool:
        """Step.exists()."""
        return find_instance(self._gce, resource.id) is not None

    def _resource(self) -> Resource:
        return Resource(KIND, self._instance, self._gce.place)

    def _started(self) -> Any | None:
        instance = find_instance(self._gce, self._instance)
        if instance is None:
            raise Gone(f"instance {self._instance} is not there", where=self._gce.place)
        return None if instance.status in _STARTING else instance


def instance_resource(gce: Gce, labels: Labels, order: Order) -> Any:
    """What instances.insert is sent."""
    from google.cloud.compute_v1 import types

    options = GceOptions.of(order.options)
    zone = f"projects/{gce.project}/zones/{gce.zone}"
    name, ours = instance_name(labels), labels_of(labels, gce.zone)
    uefi = order.image.boot == "uefi"
    instance = types.Instance(
        name=name,
        description=f"cvmboot: disk of SHA-256 {order.image.sha256}",
        labels=ours,
        machine_type=f"{zone}/machineTypes/{options.machine_type}",
        disks=[
            types.AttachedDisk(
                boot=True,
                auto_delete=True,
                initialize_params=types.AttachedDiskInitializeParams(
                    disk_name=name,
                    source_image=f"projects/{gce.project}/global/images/{image_name(labels, options)}",
                    disk_size_gb=max(LEAST_DISK_GIB, -(-order.image.size // GIB)),
                    disk_type=f"{zone}/diskTypes/{options.disk_type}",
                    labels=ours,
                ),
            )
        ],
        network_interfaces=[_interface(gce, options)],
        scheduling=_scheduling(options),
        metadata=types.Metadata(
            items=[
                types.Items(key="serial-port-enable", value=str(options.serial_input).lower()),
                types.Items(key="serial-port-logging-enable", value="true"),
            ]
        ),
    )
    if options.snp:
        # The deprecated enableConfidentialCompute alone means plain SEV: it is never sent.
        instance.confidential_instance_config = types.ConfidentialInstanceConfig(confidential_instance_type="SEV_SNP")
        instance.min_cpu_platform = MILAN
    if uefi:
        instance.shielded_instance_config = types.ShieldedInstanceConfig(
            enable_secure_boot=options.secure_boot, enable_vtpm=True, enable_integrity_monitoring=True
        )
    return instance


def _interface(gce: Gce, options: GceOptions) -> Any:
    from google.cloud.compute_v1 import types

    interface = types.NetworkInterface(nic_type="GVNIC" if options.nic == GVNIC else "VIRTIO_NET")
    if options.subnet:
        interface.subnetwork = (
            options.subnet
            if "/" in options.subnet
            else f"projects/{gce.project}/regions/{gce.region}/subnetworks/{options.subnet}"
        )
    if options.network or not options.subnet:
        network = options.network or "default"
        interface.network = network if "/" in network else f"projects/{gce.project}/global/networks/{network}"
    if options.public:
        interface.access_configs = [types.AccessConfig(name="External NAT", type_="ONE_TO_ONE_NAT")]
    return interface


def _scheduling(options: GceOptions) -> Any:
    """SEV-SNP, Spot and the cost guard each have a say, and none may undo what another needs."""
    from google.cloud.compute_v1 import types

    scheduling = types.Scheduling(
        on_host_maintenance="TERMINATE" if options.snp or options.spot else "MIGRATE",
        automatic_restart=not options.spot,
        provisioning_model="SPOT" if options.spot else "STANDARD",
    )
    if options.max_run:
        scheduling.max_run_duration = types.Duration(seconds=options.max_run)
    if options.max_run or options.spot:
        scheduling.instance_termination_action = "DELETE"
    return scheduling


def assert_snp(instance: Any) -> None:
    """Failed unless the API says that the instance is a SEV-SNP machine on the platform that was asked for."""
    seen = instance.confidential_instance_config.confidential_instance_type or "no confidential type"
    # A guest that has ended already is on no CPU any more.
    if seen != "SEV_SNP" or (instance.status == "RUNNING" and instance.cpu_platform != MILAN):
        raise Failed(
            f"asked for SEV_SNP on {MILAN}, the API says {seen} on {instance.cpu_platform or 'an unknown CPU'}",
            where=f"instance {instance.name}",
            next_step="`cvmboot deploy destroy` ends it; it must not be trusted",
        )


def facts_of(instance: Any) -> dict[str, Any]:
    """What a person wants to see of an instance."""
    interface = instance.network_interfaces[0] if instance.network_interfaces else None
    outside = interface.access_configs[0].nat_i_p if interface and interface.access_configs else ""
    confidential = instance.confidential_instance_config.confidential_instance_type
    return {
        "machine_type": instance.machine_type.rpartition("/")[2],
        "cpu_platform": instance.cpu_platform,
        "snp": confidential == "SEV_SNP",
        "address": interface.network_i_p if interface else "",
        "public_address": outside,
    }


def find_instance(gce: Gce, name: str) -> Any | None:
    """The zone's instance, whoever made it."""
    try:
        return gce.call(CLIENT, "get", zonal=True, instance=name)
    except Gone:
        return None
