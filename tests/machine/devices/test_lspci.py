"""Debian's lspci reads the configuration space of our devices: identities, classes, BARs, capabilities."""

import shutil
import subprocess
from pathlib import Path

import pytest

from machine.boards.pc import PcBoard
from machine.computer import Computer
from machine.console import HostConsole
from machine.net.backend import NoNetwork
from machine.pci.bus import ADDRESS_PORT, DATA_PORT


def dump(nic: str) -> str:
    """Bus 0 of a board with this device, read through the ports, in the form of `lspci -xxx`."""
    computer = Computer(64 << 20)
    try:
        board = PcBoard(computer, HostConsole(lambda data: None), lambda kind: None)
        board.plug_nic(nic, NoNetwork(), bytes.fromhex("525400123456"))
        cpu, bus = computer.engine.cpus[0], computer.bus

        def read(slot: int, offset: int) -> int:
            bus.port_write(cpu, ADDRESS_PORT, 4, 0x8000_0000 | slot << 11 | offset)
            return bus.port_read(cpu, DATA_PORT, 4)

        lines = []
        for slot in range(32):
            if read(slot, 0) == 0xFFFF_FFFF:
                continue
            data = b"".join(read(slot, offset).to_bytes(4, "little") for offset in range(0, 256, 4))
            lines.append(f"00:{slot:02x}.0 device")
            lines += [f"{at:02x}: {data[at : at + 16].hex(' ')}" for at in range(0, 256, 16)]
            lines.append("")
        return "\n".join(lines) + "\n"
    finally:
        computer.close()


WANTED = {
    "virtio": [
        "00:03.0 Ethernet controller [0200]: Red Hat, Inc.",
        "[1af4:1041] (rev 01)",
        "Control: I/O- Mem+ BusMaster+",
        "Interrupt: pin A routed to IRQ 11",
        "Region 0: Memory at c0000000 (32-bit, non-prefetchable)",
        "Region 1: Memory at c0004000 (32-bit, non-prefetchable)",
        "MSI-X: Enable- Count=4 Masked-",
        "Vector table: BAR=1 offset=00000000",
        "PBA: BAR=1 offset=00000800",
        "VirtIO: CommonCfg",
        "VirtIO: Notify",
        "multiplier=00000008",
        "VirtIO: ISR",
        "VirtIO: DeviceCfg",
        "VirtIO: <unknown>",  # the access capability, which this lspci has no name for
    ],
    "virtio-legacy": [
        "00:03.0 Ethernet controller [0200]: Red Hat, Inc.",
        "[1af4:1000]",
        "[1af4:0001]",
        "Control: I/O+ Mem+ BusMaster+",
        "Region 0: I/O ports at 6000",
        "Region 1: Memory at c0000000 (32-bit, non-prefetchable)",
        "MSI-X: Enable- Count=4 Masked-",
    ],
    "gvnic": [
        "00:03.0 Ethernet controller [0200]: Google, Inc.",
        "[1ae0:0042]",
        "[1ae0:0058]",
        "Region 0: Memory at c0000000 (32-bit, non-prefetchable)",
        "Region 1: Memory at c0001000 (32-bit, non-prefetchable)",
        "Region 2: Memory at c0002000 (32-bit, non-prefetchable)",
        "MSI-X: Enable- Count=9 Masked-",
    ],
}
BRIDGES = ("00:00.0 Host bridge [0600]: Intel", "[8086:29c0]", "00:1f.0 ISA bridge [0601]: Intel", "[8086:2918]")


@pytest.mark.parametrize("nic", WANTED)
def test_lspci_understands_the_devices(nic: str, tmp_path: Path) -> None:
    if shutil.which("lspci") is None:
        pytest.skip("no lspci (Debian package pciutils)")
    file = tmp_path / "bus"
    file.write_text(dump(nic))
    done = subprocess.run(["lspci", "-F", str(file), "-nn", "-vv"], capture_output=True, text=True, check=True)
    for text in (*BRIDGES, *WANTED[nic]):
        assert text in done.stdout
    for wrong in ("!!!", "unassigned", "<invalid", "Unknown", "unknown header", "[virtual]"):
        assert wrong not in done.stdout
    if nic == "virtio-legacy":
        assert "VirtIO" not in done.stdout, "TamaGo refuses a legacy device with vendor capabilities"
