"""Clouds by name. A cloud's modules, and its SDK, are imported here and only when it is used."""

from importlib import import_module
from typing import Any

from cloud.errors import CloudError
from cloud.provider import Provider

_MODULES = {"ec2": "cloud.ec2.provider", "gce": "cloud.gce.provider"}
"""Each has `open_provider(place, access) -> Provider`; access as in Order.access, any of which may lack."""


def provider_at(name: str, place: str, access: dict[str, Any] | None = None) -> Provider:
    """The provider for a place: a region, or project/zone ("": the SDK's default). CloudError if there is none."""
    if name not in _MODULES:
        raise CloudError(f"no cloud {name[:40]!r}", next_step=f"wanted one of {', '.join(_MODULES)}")
    provider = import_module(_MODULES[name]).open_provider(place, access or {})
    assert isinstance(provider, Provider)
    return provider
