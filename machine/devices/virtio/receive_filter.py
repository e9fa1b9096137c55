"""Which frames a VirtIO network device lets through: set over its control queue (VirtIO 1.2, 5.1.6.5.1, 5.1.6.5.2)."""

from typing import Any

OK, ERROR = 0, 1
MAXIMUM_ADDRESSES = 64
"""Unicast or multicast addresses; a driver that sets more gets all of that kind."""

CLASS_RX, CLASS_MAC = 0, 1
_MODES = ("promiscuous", "all_multicast", "all_unicast", "no_multicast", "no_unicast", "no_broadcast")
_MAC_TABLE_SET, _MAC_ADDRESS_SET = 0, 1
_BROADCAST = b"\xff" * 6


class ReceiveFilter:
    """Promiscuous until the driver says otherwise: one without a control queue may have made itself an address."""

    def __init__(self, mac: bytes) -> None:
        self._first_mac = mac
        self.reset()

    def reset(self) -> None:
        """As after power on."""
        self.mac = self._first_mac
        self._modes = dict.fromkeys(_MODES, False)
        self._modes["promiscuous"] = True
        self._unicast: set[bytes] | None = set()
        self._multicast: set[bytes] | None = set()

    def accepts(self, frame: bytes) -> bool:
        """Whether a frame of at least 14 bytes is for this device."""
        modes = self._modes
        if modes["promiscuous"]:
            return True
        destination = frame[:6]
        if destination == _BROADCAST:
            return not modes["no_broadcast"]
        if destination[0] & 1:
            if modes["no_multicast"]:
                return False
            return modes["all_multicast"] or self._multicast is None or destination in self._multicast
        if modes["no_unicast"]:
            return False
        if modes["all_unicast"] or destination == self.mac:
            return True
        return self._unicast is None or destination in self._unicast

    def command(self, request: bytes) -> int:
        """Carry out one command {u8 class, u8 command, data}; OK, or ERROR for what is unknown or malformed."""
        kind, number, data = request[0:1], request[1:2], request[2:]
        if kind == bytes((CLASS_RX,)) and number and number[0] < len(_MODES):
            if len(data) != 1 or data[0] > 1:
                return ERROR
            self._modes[_MODES[number[0]]] = bool(data[0])
            return OK
        if kind == bytes((CLASS_MAC,)) and number == bytes((_MAC_ADDRESS_SET,)):
            if len(data) != 6:
                return ERROR
            self.mac = data
            return OK
        if kind == bytes((CLASS_MAC,)) and number == bytes((_MAC_TABLE_SET,)):
            return self._set_tables(data)
        return ERROR

    def _set_tables(self, data: bytes) -> int:
        """Two tables, unicast and multicast: {u32 entries, u8 address[entries][6]}."""
        tables: list[set[bytes] | None] = []
        for _ in range(2):
            entries = int.from_bytes(data[:4], "little")
            end = 4 + 6 * entries
            if len(data) < max(end, 4):
                return ERROR
            if entries > MAXIMUM_ADDRESSES:
                tables.append(None)
            else:
                tables.append({data[at : at + 6] for at in range(4, end, 6)})
            data = data[end:]
        if data:
            return ERROR
        self._unicast, self._multicast = tables
        return OK

    def save(self) -> dict[str, Any]:
        """Plain data for `load`."""
        tables = [None if table is None else sorted(table) for table in (self._unicast, self._multicast)]
        return {"mac": self.mac, "modes": {name: int(on) for name, on in self._modes.items()}, "tables": tables}

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        self.mac = state["mac"]
        self._modes = {name: bool(on) for name, on in state["modes"].items()}
        self._unicast, self._multicast = (None if table is None else set(table) for table in state["tables"])
