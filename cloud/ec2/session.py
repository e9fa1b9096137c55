"""AWS as the SDK's own credential chain opens it: clients with bounded timeouts and adaptive, visible retries."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cloud.ec2.refusals import aws_words

if TYPE_CHECKING:
    from boto3 import Session
    from mypy_boto3_ebs import EBSClient
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_s3 import S3Client

CONNECT_SECONDS, READ_SECONDS, TRIES = 10, 60, 8
"""A block of 512 KiB is put in well under a second; who does not answer for a minute does not at all (awslabs/coldsnap#216)."""
CONNECTIONS = 32


class Aws:
    """One account in one home region; clients of others on demand. Clients are safe to share between threads, this is not."""

    @aws_words()
    def __init__(self, region: str = "", profile: str | None = None) -> None:
        """Asks nothing of AWS. NotSignedIn for a profile that is not there, CloudError without a region."""
        import boto3
        from botocore.exceptions import NoRegionError

        # boto3 knows AWS_DEFAULT_REGION only, every other SDK and tool of AWS's AWS_REGION too.
        wanted = region or os.environ.get("AWS_REGION") or None
        self._session: Session = boto3.Session(profile_name=profile, region_name=wanted)
        if not self._session.region_name:
            raise NoRegionError
        self.region: str = self._session.region_name
        self.tell: Callable[[str], None] = lambda line: None
        self._clients: dict[tuple[str, str], Any] = {}

    def ec2(self, region: str = "") -> "EC2Client":
        """EC2 in the home region or another."""
        client: EC2Client = self.client("ec2", region)
        return client

    def ebs(self) -> "EBSClient":
        """EBS direct in the home region."""
        client: EBSClient = self.client("ebs")
        return client

    def s3(self) -> "S3Client":
        """S3."""
        client: S3Client = self.client("s3")
        return client

    def client(self, service: str, region: str = "") -> Any:
        """Any service's client."""
        key = (service, region or self.region)
        if key not in self._clients:
            self._clients[key] = self._open(*key)
        return self._clients[key]

    @aws_words()
    def _open(self, service: str, region: str) -> Any:
        from botocore.config import Config

        config = Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"mode": "adaptive", "total_max_attempts": TRIES},
            max_pool_connections=CONNECTIONS,
            user_agent_extra="cvmboot",
        )
        client = self._session.client(service, region_name=region, config=config)  # type: ignore[call-overload]
        client.meta.events.register(f"before-send.{service}", self._note_retry)
        return client

    def _note_retry(self, request: Any, event_name: str, **_: Any) -> None:
        """The SDK writes which try a request is into a header of its own."""
        text = request.headers.get("amz-sdk-request", b"")
        text = text.decode() if isinstance(text, bytes) else text
        attempt = dict(part.strip().partition("=")[::2] for part in text.split(";")).get("attempt", "1")
        if attempt != "1":
            self.tell(f"AWS {event_name.rpartition('.')[2]}: try {attempt} of {TRIES}")
