"""The exception tree of the front door."""


class CvmbootError(Exception):
    """Something that a person did or that is missing; the message is one line that says what, where and what to do next."""


class UsageError(CvmbootError):
    """Options that contradict each other or have bad values: exit status 2."""
