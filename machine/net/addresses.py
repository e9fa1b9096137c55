"""Addresses of a user network: a /24 with the guest, and the host as gateway and as resolver."""

from typing import NamedTuple

MASK = bytes((255, 255, 255, 0))


class Addresses(NamedTuple):
    """IPv4 addresses, 4 bytes each, in one network of 254."""

    guest: bytes
    gateway: bytes
    dns: bytes

    @classmethod
    def around(cls, guest: bytes) -> "Addresses":
        """The network of a guest with this address: the gateway is 2 in it and the resolver 3; if the guest is one of them, 1.

        ValueError for what is no address of a host.
        """
        if len(guest) != 4 or guest[3] in (0, 255) or not 0 < guest[0] < 224 or guest[0] == 127:
            raise ValueError("no address of a host")
        gateway, dns = (number if number != guest[3] else 1 for number in (2, 3))
        return cls(guest, guest[:3] + bytes((gateway,)), guest[:3] + bytes((dns,)))


USUAL = Addresses.around(bytes((10, 0, 2, 15)))
"""QEMU's."""
