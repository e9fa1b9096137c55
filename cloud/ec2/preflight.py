"""What can be known before anything is made: the machine type and its zone, firmware, TPM, quotas, names, network, bucket."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from cloud.ec2.image import image_name
from cloud.ec2.options import Ec2Options
from cloud.ec2.refusals import aws_words, code_of
from cloud.ec2.session import Aws
from cloud.ec2.tags import read_tags
from cloud.errors import CloudError, Denied
from cloud.labels import PRODUCT_INSTANCE, RUN, Labels
from cloud.order import BOOT_UEFI, Order
from cloud.plan import BAD, OK, WARNING, Check

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_ec2.type_defs import InstanceTypeInfoTypeDef

LARGEST_VOLUME = 64 << 40
_SNP_FAMILIES = "m6a, c6a and r6a"
_STANDARD_VCPUS = "L-1216C47A"
"""Service Quotas: Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances, in vCPUs."""
_STANDARD = "acdhimrtz"


def preflight(aws: Aws, order: Order, options: Ec2Options, labels: Labels) -> list[Check]:
    """All checks. A look that is not allowed, or fails otherwise, is a warning; only who cannot sign in ends it."""
    account = _account(aws)
    checks = [Check("account", OK, f"{account}, {aws.region}"), *_image_checks(order, options)]
    looks: list[tuple[str, Callable[[], Iterator[Check]]]] = [("image name", lambda: _name(aws, labels, options))]
    if order.product == PRODUCT_INSTANCE:
        looks += [
            ("machine type", lambda: _machine_type(aws, order, options)),
            ("network", lambda: _network(aws.ec2(), options)),
            ("vCPU quota", lambda: _quota(aws, options, labels)),
        ]
    looks += [(f"copy to {region}", lambda region=region: _region(aws, region)) for region in options.copy_to]  # type: ignore[misc]
    if options.bucket:
        looks.append(("bucket", lambda: _bucket(aws, options)))
    for what, look in looks:
        try:
            checks += _carefully(look)
        except Denied as error:
            checks.append(Check(what, WARNING, f"not looked at: {error.what}"))
        except CloudError as error:
            checks.append(Check(what, BAD, str(error)))
    return checks


@aws_words()
def _carefully(look: Callable[[], Iterator[Check]]) -> list[Check]:
    return list(look())


@aws_words()
def _account(aws: Aws) -> str:
    return str(aws.client("sts").get_caller_identity()["Account"])


def _image_checks(order: Order, options: Ec2Options) -> Iterator[Check]:
    image = order.image
    if image.size > LARGEST_VOLUME:
        yield Check("image size", BAD, f"{image.size} bytes, EBS has at most {LARGEST_VOLUME}")
    uefi = image.boot == BOOT_UEFI
    if options.snp and not uefi:
        yield Check("firmware", BAD, "the image boots by BIOS, and SEV-SNP needs UEFI; deploy an EFI application")
    if order.keys is not None:
        if not uefi:
            yield Check("Secure Boot", BAD, "the image boots by BIOS, which has no Secure Boot")
        elif not image.signed:
            yield Check(
                "Secure Boot", WARNING, "the application has no signature: firmware with these keys will not start it"
            )
        else:
            yield Check(
                "Secure Boot", OK, "keys given, and the application is signed; whether by one of them is not looked at"
            )


def _name(aws: Aws, labels: Labels, options: Ec2Options) -> Iterator[Check]:
    name = image_name(labels, options)
    for region in (aws.region, *_open_copies(aws, options)):
        found = aws.ec2(region).describe_images(Owners=["self"], Filters=[{"Name": "name", "Values": [name]}])["Images"]
        strangers = [each for each in found if read_tags(each.get("Tags", [])).get(RUN) != labels.run]
        if strangers:
            text = f"{name} is taken in {region} by {strangers[0]['ImageId']}; say another --image-name, or delete that image"
            yield Check("image name", BAD, text)
        else:
            yield Check("image name", OK, f"{name}, free in {region}" if not found else f"{name}, this run's")


def _open_copies(aws: Aws, options: Ec2Options) -> list[str]:
    return [region for region in options.copy_to if all(check.outcome == OK for check in _region(aws, region))]


def _machine_type(aws: Aws, order: Order, options: Ec2Options) -> Iterator[Check]:
    from botocore.exceptions import ClientError

    ec2, kind = aws.ec2(), options.machine_type
    try:
        found = ec2.describe_instance_types(InstanceTypes=[kind])["InstanceTypes"]  # type: ignore[list-item]
    except ClientError as error:
        if code_of(error) != "InvalidInstanceType":
            raise
        found = []
    if not found:
        yield Check("machine type", BAD, f"{aws.region} has no {kind}; say another --machine-type or --region")
        return
    yield from _type_checks(found[0], order, options)
    zones = sorted(_zones(ec2, kind))
    zone = options.zone or (_zone_of(ec2, options.subnet) if options.subnet else "")
    if zone and zone not in zones:
        there = ", ".join(zones) or "no zone"
        yield Check("zone", BAD, f"{kind} is not offered in {zone}; it is in {there}")
    else:
        yield Check("zone", OK, f"{kind} is offered in {zone or ', '.join(zones)}")


def _type_checks(info: "InstanceTypeInfoTypeDef", order: Order, options: Ec2Options) -> Iterator[Check]:
    kind, processor = options.machine_type, info.get("ProcessorInfo", {})
    if "x86_64" not in processor.get("SupportedArchitectures", []):
        yield Check("machine type", BAD, f"{kind} is no x86-64 machine")
    wanted = "uefi" if order.image.boot == BOOT_UEFI else "legacy-bios"
    modes = info.get("SupportedBootModes", [])
    if wanted in modes:
        yield Check("firmware", OK, f"{kind} boots by {wanted}")
    else:
        yield Check("firmware", BAD, f"{kind} boots by {', '.join(modes) or 'nothing known'}, the image by {wanted}")
    if options.snp:
        # The server's own filters do not know every feature: filtered here.
        if "amd-sev-snp" in processor.get("SupportedFeatures", []):
            yield Check("SEV-SNP", OK, f"{kind} has it here")
        else:
            text = f"{kind} has none in this region; wanted {_SNP_FAMILIES}, in us-east-2 or eu-west-1"
            yield Check("SEV-SNP", BAD, text)
    if options.tpm and order.image.boot == BOOT_UEFI and info.get("NitroTpmSupport") != "supported":
        yield Check("TPM", BAD, f"{kind} has no NitroTPM; say --no-tpm")
    if info.get("NetworkInfo", {}).get("EnaSupport") == "unsupported":
        yield Check("network card", BAD, f"{kind} has no ENA")


def _zones(ec2: "EC2Client", kind: str) -> set[str]:
    pages = ec2.get_paginator("describe_instance_type_offerings").paginate(
        LocationType="availability-zone", Filters=[{"Name": "instance-type", "Values": [kind]}]
    )
    return {each["Location"] for page in pages for each in page["InstanceTypeOfferings"]}


def _zone_of(ec2: "EC2Client", subnet: str) -> str:
    from botocore.exceptions import ClientError

    try:
        return ec2.describe_subnets(SubnetIds=[subnet])["Subnets"][0]["AvailabilityZone"]
    except ClientError as error:
        if code_of(error) == "InvalidSubnetID.NotFound":
            return ""  # _network() says so
        raise


def _network(ec2: "EC2Client", options: Ec2Options) -> Iterator[Check]:
    from botocore.exceptions import ClientError

    try:
        if options.subnet:
            ec2.describe_subnets(SubnetIds=[options.subnet])
        elif not ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]:
            yield Check("network", BAD, "the account has no default VPC here; say --subnet")
            return
        if options.security_groups:
            ec2.describe_security_groups(GroupIds=options.security_groups)
    except ClientError as error:
        if not code_of(error).endswith((".NotFound", ".Malformed")):
            raise
        given = ", ".join([options.subnet or "", *options.security_groups]).strip(", ")
        yield Check("network", BAD, f"{given}: {code_of(error)}; look at --subnet and --security-group")
        return
    yield Check("network", OK, options.subnet or "the default VPC")


def _quota(aws: Aws, options: Ec2Options, labels: Labels) -> Iterator[Check]:
    if options.machine_type[:1] not in _STANDARD:
        return
    ec2 = aws.ec2()
    info = ec2.describe_instance_types(InstanceTypes=[options.machine_type])["InstanceTypes"]  # type: ignore[list-item]
    needed = info[0]["VCpuInfo"]["DefaultVCpus"] if info else 0
    client = aws.client("service-quotas")
    allowed = int(client.get_service_quota(ServiceCode="ec2", QuotaCode=_STANDARD_VCPUS)["Quota"]["Value"])
    used = sum(_vcpus_of(each) for each in _running(ec2) if read_tags(each.get("Tags", [])).get(RUN) != labels.run)
    text = f"{needed} of {allowed} needed, {used} in use"
    if needed + used > allowed:
        text += "; free some, or ask for more: Service Quotas, Running On-Demand Standard instances"
        yield Check("vCPU quota", BAD, text)
    else:
        yield Check("vCPU quota", OK, text)


def _running(ec2: "EC2Client") -> Iterator[Any]:
    states = [{"Name": "instance-state-name", "Values": ["pending", "running"]}]
    for page in ec2.get_paginator("describe_instances").paginate(Filters=states):  # type: ignore[arg-type]
        for reservation in page["Reservations"]:
            for instance in reservation["Instances"]:
                if str(instance.get("InstanceType", ""))[:1] in _STANDARD and not instance.get("InstanceLifecycle"):
                    yield instance


def _vcpus_of(instance: Any) -> int:
    options = instance.get("CpuOptions", {})
    return int(options.get("CoreCount", 1)) * int(options.get("ThreadsPerCore", 1))


def _region(aws: Aws, region: str) -> Iterator[Check]:
    known = aws.ec2().describe_regions(AllRegions=True)["Regions"]
    found = [each for each in known if each["RegionName"] == region]
    if not found:
        yield Check(f"copy to {region}", BAD, "there is no such region")
    elif found[0].get("OptInStatus") == "not-opted-in":
        yield Check(f"copy to {region}", BAD, "the account has not opted in to that region")
    elif region == aws.region:
        yield Check(f"copy to {region}", BAD, "the image is made there")
    else:
        yield Check(f"copy to {region}", OK, "open to the account")


def _bucket(aws: Aws, options: Ec2Options) -> Iterator[Check]:
    from botocore.exceptions import ClientError

    bucket = options.bucket or ""
    try:
        found = aws.s3().head_bucket(Bucket=bucket).get("BucketRegion", aws.region)
    except ClientError as error:
        if code_of(error) not in ("404", "NoSuchBucket"):
            raise
        yield Check("bucket", BAD, f"{bucket} is not there; make it first, private and in {aws.region}")
        return
    if found != aws.region:
        yield Check("bucket", BAD, f"{bucket} is in {found}, wanted one in {aws.region}")
    else:
        yield Check("bucket", OK, bucket)
