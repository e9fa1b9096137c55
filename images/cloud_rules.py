"""What Google Compute Engine and Amazon EC2 would refuse about an image, or could not boot: known before it is uploaded."""

from typing import Any

from images import formats

_GIB = 1 << 30
BOOT_PATH = "\\EFI\\BOOT\\BOOTX64.EFI"
GCE_MOST = 2048 * _GIB
"""Google, "Requirements to build custom images": the disk has at most 2,048 GB."""
EC2_MOST = 64 << 40
"""Amazon EBS, "Volume constraints": 64 TiB."""


def refusals(facts: dict[str, Any]) -> dict[str, list[str]]:
    """By cloud ("gce", "ec2") the reasons, each one line that says what to do; `facts` as images.inspect makes them."""
    return {"gce": [*_gce(facts), *_boots(facts)], "ec2": [*_ec2(facts), *_boots(facts)]}


def _gce(facts: dict[str, Any]) -> list[str]:
    """Google, "Requirements to build custom images", and what images.insert says."""
    reasons = []
    container = facts["container"]
    if facts["format"] != formats.GCE:
        reasons.append(
            f"the format is {facts['format']}; images.insert takes disk.raw in tar.gz: image build -o x.tar.gz"
        )
    else:
        if container["member"] not in {"disk.raw", "./disk.raw"}:
            reasons.append(f"the file in the archive is {container['member']!r}; it has to be called disk.raw")
        if container["tar_format"] not in {"old GNU", "GNU"}:
            reasons.append(
                f"the archive is of the format {container['tar_format']}; make it with tar --format=oldgnu -Sczf"
            )
        if container["other_members"]:
            reasons.append("the archive holds more than disk.raw; put nothing else into it")
    if facts["disk_size"] % _GIB:
        fits = -(-facts["disk_size"] // _GIB)
        reasons.append(f"the disk has {facts['disk_size']} bytes, no whole GiB; make it {fits} GiB: --size {fits}G")
    if facts["disk_size"] > GCE_MOST:
        reasons.append(
            f"the disk has {facts['disk_size'] // _GIB} GiB, at most {GCE_MOST // _GIB} are taken; make it smaller"
        )
    return reasons


def _ec2(facts: dict[str, Any]) -> list[str]:
    """Amazon, "Requirements for importing disks as snapshots" and "Volume constraints"."""
    reasons = []
    kind = facts["format"]
    if kind not in {formats.RAW, formats.VHD, formats.VMDK}:
        reasons.append(f"the format is {kind}; snapshots are imported from raw, VHD and VMDK: image build -o x.raw")
    if kind == formats.VMDK and facts["container"]["create_type"] != "streamOptimized":
        reasons.append(f"the VMDK is {facts['container']['create_type']}; only streamOptimized is imported")
    if facts["disk_size"] > EC2_MOST:
        reasons.append(f"the disk has {facts['disk_size']} bytes, EBS has at most {EC2_MOST}; make it smaller")
    return reasons


def _boots(facts: dict[str, Any]) -> list[str]:
    """Whether the firmware of either would find something to start."""
    if facts["boot"] == "bios":
        return []
    if facts["boot"] == "none":
        return ["nothing boots: neither an EFI system partition nor code in the master boot record"]
    found = [file for file in facts["files"] if file["path"].upper() == BOOT_PATH]
    if not found:
        return [f"there is no {BOOT_PATH} on the EFI system partition, and firmware looks for nothing else"]
    program = found[0]["pe"]
    if program is None:
        return [f"{BOOT_PATH} is no EFI application"]
    if program["problem"]:
        return [f"{BOOT_PATH}: {program['problem']}"]
    return []
