"""The emulated AMD platform: a chip with its keys, its certificates, and what its secure processor computes with them."""

from sev.platform.key_request import GuestFields, KeyRequest
from sev.platform.platform import VCEK, VLEK, Platform

__all__ = ["VCEK", "VLEK", "GuestFields", "KeyRequest", "Platform"]
