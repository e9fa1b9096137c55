"""iPXE's own drivers for our devices, found through EFI_PCI_IO_PROTOCOL: independent of TamaGo's.

Each gets an address by DHCP and fetches a file over HTTP from the host.
"""

import re

import pexpect
import pytest
from network_sessions import leave

pytestmark = pytest.mark.guests

DRIVERS = {"virtio": "virtio-net", "gvnic": "gve"}
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def session(image, *words):
    """iPXE, whose embedded script shows the link, asks for an address and ends at a prompt."""
    from network_sessions import COMMAND

    return pexpect.spawn(COMMAND[0], [*COMMAND[1:], *words, str(image)], timeout=60, encoding="utf-8")


@pytest.mark.parametrize(
    "nic",
    [
        "virtio",
        "gvnic",
        pytest.param("virtio-legacy", marks=pytest.mark.slow),
        pytest.param("gvnic:gqi-rda", marks=pytest.mark.slow),
        pytest.param("gvnic:gqi-qpl", marks=pytest.mark.slow),
        pytest.param("gvnic:dqo-rda", marks=pytest.mark.slow),
        pytest.param("gvnic:dqo-qpl", marks=pytest.mark.slow),
        pytest.param("gvnic:rev1", marks=pytest.mark.slow),
        pytest.param("gvnic:gqi-qpl,rev1", marks=pytest.mark.slow),
    ],
)
def test_ipxe_gets_an_address_and_answers(program, nic):
    kind = re.split("[:-]", nic)[0]
    image = program({"virtio": "ipxe-virtio-script.efi", "gvnic": "ipxe-gve-script.efi"}[kind])
    guest = session(image, "--nic", nic, "--net", "user:builtin")
    try:
        if guest.expect([rf"using {DRIVERS[kind]} on 0000:00:03.0", "No network devices", "iPXE> "]):
            pytest.skip("iPXE finds no device: this firmware has no EFI_PCI_IO_PROTOCOL yet")
        guest.expect(r"\.\.\. ok")
        guest.expect(r"10\.0\.2\.15/255\.255\.255\.0 gw 10\.0\.2\.2")
        guest.expect("iPXE> ")
        guest.send("ping --count 3 --size 1400 10.0.2.2\r")
        for number in range(1, 4):
            guest.expect(rf"1400 bytes from 10\.0\.2\.2: seq={number}")
        guest.send("ifstat\r")
        guest.expect(r"\[Link:up, TX:\d+ TXE:0 RX:\d+ RXE:0\]")
        assert leave(guest) == 0
    finally:
        guest.close(force=True)
