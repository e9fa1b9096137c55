"""The engines over which a test runs: Unicorn everywhere, KVM where there is one that serves."""

import functools

import pytest

from machine.engine.kvm_probe import probe
from machine.errors import EngineError


@functools.cache
def why_no_kvm() -> str:
    """Why tests on KVM are skipped here; "" if they are not."""
    try:
        probe()
    except EngineError as error:
        return str(error)
    return ""


needs_kvm = pytest.mark.skipif(bool(why_no_kvm()), reason=why_no_kvm() or "KVM is there")
ENGINES = (pytest.param("unicorn", id="unicorn"), pytest.param("kvm", id="kvm", marks=needs_kvm))
