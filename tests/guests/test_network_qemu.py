"""A QEMU at the other end of the cable: iPXE in it, over QEMU's virtio-net, fetches a unikernel's web page."""

import shutil
import subprocess
from pathlib import Path

import pytest
from network_sessions import IMAGE, running, until, up
from scapy.error import Scapy_Exception
from scapy.layers.inet import IP, TCP
from scapy.utils import rdpcap

pytestmark = [pytest.mark.guests, pytest.mark.slow]

GUEST, IPXE = "10.0.2.15", "10.0.2.99"
SCRIPT = f"""#!ipxe
set net0/ip {IPXE}
set net0/netmask 255.255.255.0
ifopen net0
imgfetch http://{GUEST}/debug/pprof/cmdline
"""
CABLES = {
    "stream": ("socket:listen:unix:{0}/ours", "stream,id=n,server=off,addr.type=unix,addr.path={0}/ours"),
    "dgram": (
        "socket:dgram:unix:{0}/ours,unix:{0}/theirs",
        "dgram,id=n,local.type=unix,local.path={0}/theirs,remote.type=unix,remote.path={0}/ours",
    ),
}


def segments(capture: Path) -> list[tuple[str, TCP]]:
    """(sender, segment) of what went over the cable so far."""
    try:
        return [(frame[IP].src, frame[TCP]) for frame in rdpcap(str(capture)) if TCP in frame]
    except Scapy_Exception:
        return []  # the last record is being written


@pytest.mark.parametrize("cable", CABLES)
@pytest.mark.parametrize("nic", ["virtio", "gvnic"])
def test_ipxe_in_qemu_fetches_a_page_of_a_guest_in_cvmboot(program, tmp_path, cable, nic):
    kernel = program("ipxe.lkrn")
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("no qemu-system-x86_64")
    ours, theirs = (text.format(tmp_path) for text in CABLES[cable])
    script, capture = tmp_path / "script.ipxe", tmp_path / "wire.pcap"
    script.write_text(SCRIPT)
    with running(program(IMAGE), "--nic", nic, "--net", ours, "--pcap", str(capture)) as guest:
        guest.sendline(up(nic))
        guest.expect("ssh://")
        machine = ("-accel", "tcg", "-cpu", "max", "-m", "128", "-nodefaults", "-display", "none")
        network = ("-device", "virtio-net-pci,netdev=n,romfile=", "-netdev", theirs)
        words = ["qemu-system-x86_64", *machine, *network, "-kernel", str(kernel), "-initrd", str(script)]
        with subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as qemu:
            try:

                def fetched() -> bool:
                    assert qemu.poll() is None, qemu.stderr.read() if qemu.stderr else ""
                    seen = segments(capture)
                    answered = any(bytes(s.payload).startswith(b"HTTP/1.1 200") for who, s in seen if who == GUEST)
                    return answered and any("F" in s.flags for who, s in seen if who == IPXE)

                until(fetched, "iPXE takes the page and hangs up")
            finally:
                qemu.kill()
