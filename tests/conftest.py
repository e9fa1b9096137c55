"""What holds for all tests: no hypothesis test fails because the host was busy; and the engine, for those that run on each."""

import pytest
from hypothesis import settings

from cvmboot.engines import VARIABLE
from tests.engines import ENGINES

settings.register_profile("cvmboot", deadline=None)
settings.load_profile("cvmboot")


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run everything in this test on Unicorn, and once more on KVM; gives the engine's name."""
    monkeypatch.setenv(VARIABLE, request.param)
    name: str = request.param
    return name
