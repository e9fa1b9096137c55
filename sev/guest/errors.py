"""The exceptions of sev.guest: a launch that the firmware refuses."""

from sev.errors import SevError


class LaunchRefused(SevError):
    """SNP_LAUNCH_START or SNP_LAUNCH_FINISH would fail: the message names the value seen and the value wanted."""
