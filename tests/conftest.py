"""What holds for all tests: no hypothesis test fails because the host was busy."""

from hypothesis import settings

settings.register_profile("cvmboot", deadline=None)
settings.load_profile("cvmboot")
