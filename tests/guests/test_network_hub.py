"""The hub's example in docs/networking.md, run as it stands there; and frames that scapy made, against a unikernel on a hub."""

import re
import time
from pathlib import Path

import pytest
from network_sessions import IMAGE, until, up
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from cvmboot import Hub, VirtualMachine

pytestmark = pytest.mark.guests

DOCUMENT = Path(__file__).parents[2] / "docs" / "networking.md"
OURS, MAC, GUEST, GUEST_MAC = "10.0.2.2", "52:55:0a:00:02:02", "10.0.2.15", "52:54:00:00:00:15"


def test_the_documents_example(program, monkeypatch):
    monkeypatch.chdir(program(IMAGE).parent)
    examples = [text for text in re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL) if "Hub()" in text]
    assert len(examples) == 1
    exec(compile(examples[0], str(DOCUMENT), "exec"), {})


@pytest.mark.parametrize("nic", ["virtio", pytest.param("gvnic", marks=pytest.mark.slow)])
def test_frames_made_by_scapy(program, nic):
    """Pings of many sizes, whole and in fragments; what is malformed or of odd size in between is lost, and nothing else."""
    hub = Hub()
    came: list[Ether] = []
    wire = hub.plug(lambda action: action())

    def received(data: bytes) -> None:
        frame = Ether(data)
        came.append(frame)
        if ARP in frame and frame[ARP].op == 1 and frame[ARP].pdst == OURS:
            answer = ARP(op=2, hwsrc=MAC, psrc=OURS, hwdst=frame.src, pdst=frame[ARP].psrc)
            wire.send(bytes(Ether(src=MAC, dst=frame.src) / answer))

    wire.on_receive = received
    with VirtualMachine(program(IMAGE), nic=nic, net=hub, mac=GUEST_MAC, timeout=60) as vm:
        vm.expect("show system running time")
        vm.expect("> ")
        vm.sendline(up(nic, mac=GUEST_MAC))
        vm.expect("ssh://")
        to_guest = Ether(src=MAC, dst=GUEST_MAC)

        def listens() -> bool:
            """The driver starts a moment after it has said so; what comes before is lost."""
            wire.send(bytes(to_guest / ARP(op=1, hwsrc=MAC, psrc=OURS, pdst=GUEST)))
            return any(ARP in f and f[ARP].op == 2 and f[ARP].psrc == GUEST for f in list(came))

        until(listens, "an answer to ARP")
        for number, size in enumerate((0, 1, 18, 56, 1000, 1472, 4000, 9000)):
            payload = bytes(n % 251 for n in range(size))
            echo = IP(src=OURS, dst=GUEST) / ICMP(id=0x7777, seq=number) / Raw(payload)
            for part in fragment(echo, fragsize=1480):
                wire.send(bytes(to_guest / part))
            for odd in (0, 13, 14, 60, 1514, 1515, 9000, 65_535):
                wire.send((bytes(to_guest) + b"\x08\x00" + bytes(65_535))[:odd])
            wire.send(bytes(to_guest / IP(src=OURS, dst=GUEST, len=9) / UDP()))
            wire.send(bytes(to_guest / IP(src=OURS, dst=GUEST) / TCP(dport=80, dataofs=15)))

            def answered(number: int = number) -> bool:
                return any(ICMP in f and f[ICMP].type == 0 and f[ICMP].seq == number for f in list(came))

            until(answered, f"an answer to {size} bytes")
            (first,) = [
                f for f in came if ICMP in f and f[ICMP].type == 0 and f[ICMP].seq == number and f[IP].frag == 0
            ]
            if size <= 1472:
                assert bytes(first[ICMP].payload)[:size] == payload
                assert first.src == GUEST_MAC
        time.sleep(0.1)
        assert vm.isalive()
