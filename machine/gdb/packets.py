"""Packets of GDB's remote serial protocol: framing, checksums, escapes (GDB manual, appendix E.1)."""

LARGEST = 0x4000
"""Bytes of a packet's data at most, both ways; told to GDB as PacketSize."""
INTERRUPT = b"\x03"
_ESCAPE, _FLIP = 0x7D, 0x20
_SPECIAL = frozenset(b"$#}*")


def escape(data: bytes) -> bytes:
    """Binary data as it may stand in a packet."""
    if not _SPECIAL.intersection(data):
        return data
    escaped = bytearray()
    for byte in data:
        escaped += bytes((_ESCAPE, byte ^ _FLIP)) if byte in _SPECIAL else bytes((byte,))
    return bytes(escaped)


def unescape(data: bytes) -> bytes:
    """The reverse of `escape`."""
    if _ESCAPE not in data:
        return data
    plain = bytearray()
    flip = 0
    for byte in data:
        if byte == _ESCAPE and not flip:
            flip = _FLIP
        else:
            plain.append(byte ^ flip)
            flip = 0
    return bytes(plain)


def frame(data: bytes) -> bytes:
    """`$data#checksum`; the checksum is the sum of the bytes modulo 256."""
    return b"$%b#%02x" % (data, sum(data) & 0xFF)


class Reader:
    """Takes a stream apart. What is no packet, acknowledgement or interrupt is passed over, as GDB's own stubs do."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """(packets and INTERRUPTs in their order, acknowledgements to send: + and - for each packet).

        A packet whose checksum is wrong is not among them; one that grows beyond LARGEST is dropped.
        """
        self._data += data
        found: list[bytes] = []
        acknowledgements = bytearray()
        while self._data:
            first = self._data[0]
            if first == INTERRUPT[0]:
                found.append(INTERRUPT)
                del self._data[0]
            elif first != ord("$"):
                del self._data[0]
            else:
                end = self._data.find(b"#", 1, 2 * LARGEST)
                if end < 0:
                    if len(self._data) >= 2 * LARGEST:
                        self._data.clear()
                    break
                if len(self._data) < end + 3:
                    break
                # One that another one begins in was broken off.
                begin = self._data.rfind(b"$", 0, end) + 1
                body, checksum = bytes(self._data[begin:end]), bytes(self._data[end + 1 : end + 3])
                del self._data[: end + 3]
                if b"%02x" % (sum(body) & 0xFF) == checksum.lower():
                    acknowledgements += b"+"
                    found.append(body)
                else:
                    acknowledgements += b"-"
        return found, bytes(acknowledgements)
