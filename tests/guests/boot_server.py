"""A host on a hub that network boot needs: ARP, ping, DHCP, and files by TFTP (RFC 1350, 2347, 2348, 2349)."""

import queue
import threading
from collections.abc import Callable, Mapping

from machine.net import packets
from machine.net.dhcp import CLIENT_PORT, SERVER_PORT, DhcpServer
from machine.net.hub import Hub
from machine.net.packets import Arp, Ipv4, PacketError, Udp

SERVER, CLIENT, MASK = bytes((10, 0, 2, 2)), bytes((10, 0, 2, 15)), bytes((255, 255, 255, 0))
MAC = bytes.fromhex("52550a000202")
_READ, _DATA, _ACK, _ERROR, _OPTIONS = 1, 3, 4, 5, 6
_TFTP = 69


class _Transfer:
    def __init__(self, data: bytes, block: int) -> None:
        self.data = data
        self.block = block

    def packet(self, number: int) -> bytes | None:
        """The DATA packet `number` (from 1), None behind the last one."""
        start = (number - 1) * self.block
        if start > len(self.data):
            return None
        head = _DATA.to_bytes(2, "big") + (number & 0xFFFF).to_bytes(2, "big")
        return head + self.data[start : start + self.block]


class BootServer:
    """Serves `files` on a thread of its own until `close`; more may be added. `asked` are the names that were asked for."""

    def __init__(self, hub: Hub, files: Mapping[str, bytes]) -> None:
        self.asked: list[str] = []
        self.files = dict(files)
        self._transfers: dict[int, _Transfer] = {}
        self._dhcp = DhcpServer(SERVER, CLIENT, MASK, SERVER, SERVER)
        self._actions: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._port = hub.plug(self._actions.put)
        self._port.on_receive = self._received
        self._peer = packets.BROADCAST_MAC
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._port.close()
        self._actions.put(None)
        self._thread.join()

    def send(self, frame: bytes) -> None:
        """Put any frame on the wire; from any thread."""
        self._actions.put(lambda: self._port.send(frame))

    def _run(self) -> None:
        while (action := self._actions.get()) is not None:
            action()

    def _received(self, frame: bytes) -> None:
        try:
            if frame[12:14] == b"\x08\x06":
                self._arp(Arp.parse(frame[14:]))
            elif frame[12:14] == b"\x08\x00":
                self._peer = frame[6:12]
                self._ipv4(Ipv4.parse(frame[14:]))
        except PacketError:
            pass

    def _arp(self, arp: Arp) -> None:
        if arp.operation == packets.ARP_REQUEST and arp.target_ip == SERVER:
            reply = Arp(packets.ARP_REPLY, MAC, SERVER, arp.sender_mac, arp.sender_ip)
            self._port.send(packets.ethernet(arp.sender_mac, MAC, packets.ETHERTYPE_ARP, reply.pack()))

    def _ipv4(self, packet: Ipv4) -> None:
        if packet.protocol == packets.PROTOCOL_ICMP:
            reply = packets.icmp_echo_reply(packet.payload)
            if reply is not None and packet.destination == SERVER:
                self._send(Ipv4(SERVER, packet.source, packets.PROTOCOL_ICMP, reply))
        elif packet.protocol == packets.PROTOCOL_UDP:
            datagram = Udp.parse(packet)
            if datagram.destination == SERVER_PORT:
                answer = self._dhcp.answer(datagram.payload)
                if answer is not None:
                    self._send(Udp(SERVER_PORT, CLIENT_PORT, answer.message).pack(SERVER, answer.address))
            elif packet.destination == SERVER:
                answer_port = 2000 + datagram.source % 1000 if datagram.destination == _TFTP else datagram.destination
                reply_data = self._tftp(answer_port, datagram)
                if reply_data is not None:
                    self._send(Udp(answer_port, datagram.source, reply_data).pack(SERVER, packet.source))

    def _send(self, packet: Ipv4) -> None:
        self._port.send(packets.ethernet(self._peer, MAC, packets.ETHERTYPE_IPV4, packet.pack()))

    def _tftp(self, port: int, datagram: Udp) -> bytes | None:
        message = datagram.payload
        operation = int.from_bytes(message[:2], "big")
        if datagram.destination == _TFTP and operation == _READ:
            name, _mode, *words = message[2:].split(b"\0")
            options = dict(zip(words[0::2], words[1::2], strict=False))
            self.asked.append(name.decode())
            data = self.files.get(name.decode().lstrip("/"))
            if data is None:
                return _ERROR.to_bytes(2, "big") + b"\0\x01no such file\0"
            transfer = self._transfers[port] = _Transfer(data, int(options.get(b"blksize", b"512")))
            answers = {b"blksize": options.get(b"blksize"), b"tsize": str(len(data)).encode()}
            told = b"".join(k + b"\0" + v + b"\0" for k, v in answers.items() if k in options and v)
            return _OPTIONS.to_bytes(2, "big") + told if told else transfer.packet(1)
        if operation == _ACK and port in self._transfers:
            transfer = self._transfers[port]
            last = int.from_bytes(message[2:4], "big")
            # Block numbers wrap for large files; this serves small ones.
            return transfer.packet(last + 1)
        return None
