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


@functools.cache
def why_no_hardware() -> str:
    """Why tests of guests in ring 0 on KVM are skipped here; "" if they are not."""
    return why_no_kvm() or ("this machine's KVM emulates ring 0" if probe().software else "")


needs_hardware = pytest.mark.skipif(bool(why_no_hardware()), reason=why_no_hardware() or "KVM has VT-x or SVM")
needs_kvm = pytest.mark.skipif(bool(why_no_kvm()), reason=why_no_kvm() or "KVM is there")
ENGINES = (pytest.param("unicorn", id="unicorn"), pytest.param("kvm", id="kvm", marks=needs_kvm))
