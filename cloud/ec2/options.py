"""What Order.options holds for EC2, read once."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Ec2Options:
    """The options of `cvmboot deploy ec2` that change what is made."""

    machine_type: str = ""
    snp: bool = False
    image_name: str | None = None
    zone: str | None = None
    subnet: str | None = None
    security_groups: list[str] = field(default_factory=list)
    public_ip: bool = False
    on_shutdown: str = "terminate"
    encrypt: bool = False
    kms_key: str | None = None
    copy_to: list[str] = field(default_factory=list)
    tpm: bool = True
    via: str = "ebs"
    bucket: str | None = None

    @classmethod
    def of(cls, plain: dict[str, Any]) -> "Ec2Options":
        """From Order.options."""
        return cls(**plain)
