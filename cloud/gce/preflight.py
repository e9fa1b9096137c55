"""What can be known before anything costs money: the zone, the machine, the processor, quotas, names, the image's fitness."""

from collections.abc import Callable, Iterator
from typing import Any

from cloud.errors import CloudError, Denied, Gone
from cloud.gce.bucket import PREFIX
from cloud.gce.image import find_image
from cloud.gce.instance import LEAST_DISK_GIB, MILAN, SNP_FAMILY, find_instance
from cloud.gce.options import GceOptions, image_name, instance_name
from cloud.gce.session import Gce
from cloud.labels import PRODUCT_INSTANCE, RUN, Labels, is_ours
from cloud.order import BOOT_UEFI, Order
from cloud.plan import BAD, OK, WARNING, Check
from cloud.source import GIB

MOST_GIB = 2048
"""Google, "Requirements to build custom images"."""
_SKEW = 60
_VIRTIO_FAMILIES = ("e2-", "n1-", "n2-", "n2d-", "c2-", "c2d-", "f1-", "g1-", "m1-", "m2-", "t2d-")
"""Machine types of the first and second generation; later ones have gVNIC only (Google, "Using gVNIC")."""


def checks(gce: Gce, order: Order, labels: Labels) -> list[Check]:
    """All checks, after a bad one too. CloudError where Google cannot be asked at all."""
    options = GceOptions.of(order.options)
    found = [*_image(order, options)]
    zone = _zone(gce)
    found += _clock(gce)
    found.append(Check("zone", OK if zone.status == "UP" else BAD, f"{gce.zone} is {zone.status}"))
    machine = None
    if order.product == PRODUCT_INSTANCE:
        machine, check = _machine(gce, options)
        found += [check, *_processor(zone, options), *_network_card(options)]
    found += _allowed("quotas", lambda: _quotas(gce, order, labels, machine))
    found += _allowed("names", lambda: _names(gce, order, options, labels))
    if options.bucket is not None:
        found += _allowed("bucket", lambda: _bucket(gce, str(options.bucket)))
    return found


def _zone(gce: Gce) -> Any:
    try:
        return gce.call("ZonesClient", "get", zone=gce.zone)
    except Gone:
        raise CloudError(
            f"no zone {gce.zone[:60]!r}, or no project {gce.project[:60]!r}",
            next_step="`gcloud compute zones list` shows the zones; say --zone or --project",
        ) from None


def _allowed(what: str, look: Callable[[], list[Check]]) -> list[Check]:
    """The checks, or a warning where the account may not look: it may still be allowed to make."""
    try:
        return look()
    except Denied as error:
        return [Check(what, WARNING, f"may not be looked at: {error.what}")]


def _image(order: Order, options: GceOptions) -> Iterator[Check]:
    image = order.image
    if image.size % GIB or not image.size:
        fits = -(-image.size // GIB) or 1
        yield Check("disk", BAD, f"{image.size} bytes are no whole GiB; make it {fits} GiB with --size {fits}G")
    elif image.size > MOST_GIB * GIB:
        yield Check("disk", BAD, f"{image.size // GIB} GiB, at most {MOST_GIB} are taken; make it smaller")
    if image.boot != BOOT_UEFI:
        if options.snp:
            yield Check("boot", BAD, "the image boots by BIOS, SEV-SNP needs UEFI: deploy an EFI application")
        if options.secure_boot or order.keys:
            yield Check("boot", BAD, "the image boots by BIOS, Secure Boot needs UEFI: deploy an EFI application")
    elif options.secure_boot and not image.signed:
        yield Check(
            "Secure Boot", BAD, "the application is not signed, firmware would refuse it: cvmboot image build --sign"
        )


def _clock(gce: Gce) -> Iterator[Check]:
    _, ahead = gce.clock()
    if abs(ahead) > _SKEW:
        text = f"this machine's is {abs(ahead)} s {'ahead' if ahead > 0 else 'behind'}; sign-in may fail: set it"
        yield Check("clock", WARNING, text)


def _machine(gce: Gce, options: GceOptions) -> tuple[Any, Check]:
    what = "machine type"
    try:
        machine = gce.call("MachineTypesClient", "get", zonal=True, machine_type=options.machine_type)
    except Gone:
        return None, Check(
            what, BAD, f"{options.machine_type} is not in {gce.zone}; choose another --machine-type or --zone"
        )
    if machine.architecture == "ARM64":
        return machine, Check(what, BAD, f"{options.machine_type} is ARM, wanted x86; choose another --machine-type")
    size = f"{machine.guest_cpus} vCPUs, {machine.memory_mb} MiB"
    if options.snp and not options.machine_type.startswith(SNP_FAMILY):
        return machine, Check(
            what, BAD, f"{options.machine_type} has no SEV-SNP, wanted N2D, such as --machine-type n2d-standard-2"
        )
    return machine, Check(what, OK, f"{options.machine_type}, {size}")


def _processor(zone: Any, options: GceOptions) -> Iterator[Check]:
    if not options.snp:
        return
    platforms = sorted(zone.available_cpu_platforms)
    if MILAN in platforms:
        yield Check("SEV-SNP", OK, f"{MILAN} is in the zone; the API tells no more before the start")
    else:
        seen = ", ".join(platforms) or "none named"
        yield Check("SEV-SNP", BAD, f"no {MILAN} in {zone.name} (there: {seen}); choose another --zone")


def _network_card(options: GceOptions) -> Iterator[Check]:
    if options.nic != "gvnic" and not options.machine_type.startswith(_VIRTIO_FAMILIES):
        yield Check("network card", BAD, f"{options.machine_type} has no VirtIO card; say --nic gvnic")


def _quotas(gce: Gce, order: Order, labels: Labels, machine: Any) -> list[Check]:
    """Every quota that the API names and that what is not there yet counts against."""
    options = GceOptions.of(order.options)
    project: dict[str, float] = {}
    region: dict[str, float] = {}
    there = gce.call("RegionsClient", "get", region=gce.region)
    if find_image(gce, image_name(labels, options)) is None:
        project["IMAGES"] = 1
    if machine is not None and find_instance(gce, instance_name(labels)) is None:
        cpus = float(machine.guest_cpus)
        disk = "SSD_TOTAL_GB" if options.disk_type in ("pd-ssd", "pd-balanced") else "DISKS_TOTAL_GB"
        limits = {quota.metric: quota.limit for quota in there.quotas}
        region = {
            "INSTANCES": 1,
            _cpu_quota(options, limits): cpus,
            disk: max(LEAST_DISK_GIB, -(-order.image.size // GIB)),
        }
        if options.public:
            region["IN_USE_ADDRESSES"] = 1
        project["CPUS_ALL_REGIONS"] = cpus
    short = _short(gce.call("ProjectsClient", "get"), "the project", project)
    short += _short(there, gce.region, region)
    return short or [Check("quotas", OK, "enough of those that the API tells")]


def _cpu_quota(options: GceOptions, limits: dict[str, float]) -> str:
    """The one that a machine counts against: Spot's where the project has one, else its family's, else the common one."""
    if options.spot and limits.get("PREEMPTIBLE_CPUS"):
        return "PREEMPTIBLE_CPUS"
    family = f"{options.machine_type.partition('-')[0].upper()}_CPUS"
    return family if family in limits else "CPUS"


def _short(owner: Any, where: str, wanted: dict[str, float]) -> list[Check]:
    checks = []
    for quota in owner.quotas:
        need = wanted.get(quota.metric, 0)
        if need and quota.usage + need > quota.limit:
            checks.append(
                Check(
                    "quotas",
                    BAD,
                    f"{quota.metric} in {where}: {quota.usage:g} of {quota.limit:g} are used, {need:g} more wanted; "
                    f"ask for a higher quota, or free what is not needed",
                )
            )
    return checks


def _names(gce: Gce, order: Order, options: GceOptions, labels: Labels) -> list[Check]:
    """Names that must be free, or of this very run."""
    wanted = [("image", image_name(labels, options), find_image)]
    if order.product == PRODUCT_INSTANCE:
        wanted.append(("instance", instance_name(labels), find_instance))
    found = []
    for kind, name, find in wanted:
        there = find(gce, name)
        if there is None or there.labels.get(RUN) == labels.run:
            continue
        whose = f"of run {there.labels[RUN]}" if is_ours(there.labels) else "not made by cvmboot"
        option = "--image-name" if kind == "image" and options.image_name else "--name"
        found.append(Check(f"{kind} name", BAD, f"{name} is there and {whose}; say another {option}"))
    if options.family:
        try:
            last = gce.call("ImagesClient", "get_from_family", family=options.family)
        except Gone:
            last = None
        if last is not None and not is_ours(last.labels):
            text = f"{options.family} has images that cvmboot did not make; say another --family"
            found.append(Check("image family", BAD, text))
    return found


def _bucket(gce: Gce, name: str) -> list[Check]:
    """A bucket of the person's own."""
    if name.startswith(PREFIX):
        return [Check("bucket", BAD, f"{name}: names with {PREFIX} are for buckets that are made and deleted here")]
    bucket = gce.storage.bucket(name)
    try:
        gce.store(bucket.reload)
    except Gone:
        return [Check("bucket", BAD, f"{name} is not there; make it, or leave --bucket out")]
    iam = bucket.iam_configuration
    if iam.public_access_prevention != "enforced" or not iam.uniform_bucket_level_access_enabled:
        text = f"{name} does not enforce public access prevention and uniform access: the archive may be readable"
        return [Check("bucket", WARNING, text)]
    return [Check("bucket", OK, name)]
