"""The device descriptor: what DESCRIBE_DEVICE tells a driver, with the options behind it. All big-endian."""

import struct

GQI_RDA, GQI_QPL, DQO_RDA, DQO_QPL = 1, 2, 3, 4
"""Queue formats, as CONFIGURE_DEVICE_RESOURCES takes them: in-order or out-of-order descriptors (GQI, DQO), buffers at
any address or in registered pages (RDA, QPL)."""

FORMAT_NAMES = {GQI_RDA: "gqi-rda", GQI_QPL: "gqi-qpl", DQO_RDA: "dqo-rda", DQO_QPL: "dqo-qpl"}
ALL_FORMATS = frozenset(FORMAT_NAMES)

VERSION = 1
SIZE = 40

_DESCRIPTOR = struct.Struct(">Q2xHHHHHHH6sHH6x")
_OPTION = struct.Struct(">HHI")
_OPTION_GQI_RDA, _OPTION_GQI_QPL, _OPTION_DQO_RDA = 2, 3, 4
_OPTION_MODIFY_RING, _OPTION_DQO_QPL, _OPTION_JUMBO_FRAMES = 6, 7, 8
_FEATURE_MODIFY_RING, _FEATURE_JUMBO_FRAMES = 1 << 0, 1 << 2


class Limits:
    """What this device has: numbers of queues, entries, pages and bytes.

    TamaGo gives receive slot i the page i, so there are as many pages in a receive page list as entries in the ring;
    Linux wants the same of the in-order formats.
    """

    QUEUES = 4
    """Transmit queues, and as many receive queues."""
    COUNTERS = 2 * QUEUES
    NOTIFICATION_BLOCKS = 2 * QUEUES
    RING = 512
    """Entries of a ring of a driver that does not choose."""
    LEAST_RING, MOST_RING = 64, 4096
    PAGES_PER_LIST = RING
    REGISTERED_PAGES = 2 * QUEUES * MOST_RING
    LEAST_MTU, MOST_MTU = 68, 8896
    """Bytes: IPv4's least (RFC 791), and the most that Compute Engine's networks carry."""


def build(mac: bytes, mtu: int, formats: frozenset[int], available: int) -> bytes:
    """The descriptor and as many whole options as fit into `available` bytes (at least SIZE); `mtu` is the default."""
    room = available - SIZE
    count, options = 0, b""
    for option in _options(formats):
        if len(options) + len(option) > room:
            break
        count, options = count + 1, options + option
    fixed = _DESCRIPTOR.pack(
        Limits.REGISTERED_PAGES,
        Limits.RING,
        Limits.RING,
        1,
        mtu,
        Limits.COUNTERS,
        Limits.PAGES_PER_LIST,
        Limits.PAGES_PER_LIST,
        mac,
        count,
        SIZE + len(options),
    )
    return fixed + options


def _options(formats: frozenset[int]) -> list[bytes]:
    found = []
    if GQI_RDA in formats:
        found.append(_option(_OPTION_GQI_RDA, ">I", 0))
    if GQI_QPL in formats:
        found.append(_option(_OPTION_GQI_QPL, ">I", 0))
    if DQO_RDA in formats:
        found.append(_option(_OPTION_DQO_RDA, ">IHH", 0, Limits.RING, Limits.RING))
    if DQO_QPL in formats:
        found.append(_option(_OPTION_DQO_QPL, ">IHH", 0, Limits.PAGES_PER_LIST, Limits.PAGES_PER_LIST))
    most, least = Limits.MOST_RING, Limits.LEAST_RING
    found.append(_option(_OPTION_MODIFY_RING, ">IHHHH", _FEATURE_MODIFY_RING, most, most, least, least))
    found.append(_option(_OPTION_JUMBO_FRAMES, ">IH2x", _FEATURE_JUMBO_FRAMES, Limits.MOST_MTU))
    return found


def _option(identity: int, layout: str, *values: int) -> bytes:
    body = struct.pack(layout, *values)
    return _OPTION.pack(identity, len(body), 0) + body
