"""What can go wrong with collateral. Each message is one line, and where something can be done, says what."""

from sev.errors import SevError


class CollateralError(SevError):
    """Collateral that cannot be had."""


class KdsError(CollateralError):
    """A key distribution service that answers otherwise than it should, or with something else than was asked for."""


class KdsNotFound(KdsError):
    """A key distribution service that does not know the chip, the TCB or the line."""


class KdsUnreachable(KdsError):
    """No key distribution service to be reached at the address."""


class KdsBusy(KdsError):
    """A key distribution service that has no time for us now: it limits requests, or other processes are asking it."""


class CacheError(CollateralError):
    """A cache folder that cannot be read or written."""


class MalformedBundle(SevError):
    """Bytes that are no bundle."""
