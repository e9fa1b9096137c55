"""Labels as EC2 has them: tags, the filters that find them, and what was read back."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cloud.labels import NAME, RUN, TOOL, Labels

if TYPE_CHECKING:
    from mypy_boto3_ec2.literals import ResourceTypeType
    from mypy_boto3_ec2.type_defs import FilterTypeDef, TagSpecificationTypeDef, TagTypeDef


def tags_of(labels: Labels) -> "list[TagTypeDef]":
    """All tags of a resource: the labels, and Name, which the console of AWS shows."""
    return [{"Key": key, "Value": value} for key, value in {"Name": labels.name, **labels.as_dict()}.items()]


def specifications(labels: Labels, *kinds: "ResourceTypeType") -> "list[TagSpecificationTypeDef]":
    """TagSpecifications of a request that makes resources of these kinds: they never exist without their tags."""
    return [{"ResourceType": kind, "Tags": tags_of(labels)} for kind in kinds]


def filters(run: str = "", name: str = "") -> "list[FilterTypeDef]":
    """Filters for what is ours, of one run or name if it is given."""
    wanted: list[FilterTypeDef] = [{"Name": "tag-key", "Values": [TOOL]}]
    if run:
        wanted.append({"Name": f"tag:{RUN}", "Values": [run]})
    if name:
        wanted.append({"Name": f"tag:{NAME}", "Values": [name]})
    return wanted


def read_tags(tags: "Iterable[Mapping[str, Any]] | Sequence[TagTypeDef]") -> dict[str, str]:
    """Key to value of tags in an answer."""
    return {str(tag.get("Key", "")): str(tag.get("Value", "")) for tag in tags}
