"""The errors of the package: one tree, each message one line that says what, where, and what to do next.

A message never holds a credential: it is made of names, numbers and the cloud's own error code.
"""


class CloudError(Exception):
    """Anything that a cloud refuses, that is missing, or that took too long."""

    def __init__(self, what: str, *, where: str = "", next_step: str = "") -> None:
        """`where`: the file, region, zone or resource; `next_step`: what a person should do, in the imperative."""
        text = f"{where}: {what}" if where else what
        super().__init__(" ".join(f"{text}; {next_step}".split()) if next_step else " ".join(text.split()))
        self.what = what
        self.where = where
        self.next_step = next_step


class JournalError(CloudError):
    """The state folder: unwritable, full, damaged, of a newer version, or locked by another process."""


class Unfit(CloudError):
    """An image, key file or option that the cloud would refuse, found before anything was made."""


class Conflict(CloudError):
    """Another deployment of the same name is there; --replace or another name solves it."""


class NameTaken(CloudError):
    """A name that must be unique belongs to something that this program did not make."""


class NotSignedIn(CloudError):
    """No credentials, expired ones, or a clock so wrong that they are refused."""


class Denied(CloudError):
    """The account may not do this. Never tried again."""


class QuotaExceeded(CloudError):
    """A limit of the account, or no capacity in the zone."""


class Gone(CloudError):
    """A resource that is not there (any more)."""


class Unreachable(CloudError):
    """The network or the cloud's end point does not answer."""


class TimedOut(CloudError):
    """Something that a cloud began did not end in time. Running the same command again goes on waiting."""


class Failed(CloudError):
    """Something that a cloud began ended badly, in the cloud's own words."""
