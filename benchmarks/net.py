"""The network's figures: `python -m benchmarks.net`. Bulk transfers and pings beside QEMU, rings without a CPU, idling."""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks import net_devices, net_guest, qemu
from benchmarks.__main__ import cvmboot
from benchmarks.session import Silent
from machine.engine.kvm_probe import probe
from machine.errors import EngineError

NICS = ("virtio", "virtio-legacy", "gvnic")
IMAGE = "tamago-sev-example.efi"
KVM = "kvm: "
SHARE, SHARE_ON_KVM, PING_MILLISECONDS, FRAMES, IDLE_PERCENT = 0.25, 1.0, 2.0, 100_000, 5.0
IDLE_SECONDS = 3.0


class Row(NamedTuple):
    """`ours` and `reference` in `unit`; `met` is None where there is no limit, or nothing to judge by."""

    name: str
    ours: float
    reference: float | None
    unit: str
    limit: str
    met: bool | None

    def line(self) -> str:
        """As text."""
        reference = "" if self.reference is None else f"{self.reference:10.4g}"
        ratio = "" if not self.reference else f"{self.ours / self.reference:6.2f}"
        verdict = {True: "pass", False: "MISS", None: ""}[self.met]
        cells = f"{self.name:44}{self.ours:10.4g} {self.unit:12}{reference:>10} {ratio:>6}  {self.limit:>18}  {verdict}"
        return cells.rstrip()


def ours_with(nic: str, *words: str) -> list[str]:
    """The command of a machine on Unicorn, or on KVM where `nic` says so."""
    engine = "kvm" if nic.startswith(KVM) else "unicorn"
    return cvmboot("run", "--engine", engine, "--nic", nic.removeprefix(KVM), *words)


def transfers(image: Path, rounds: int, megabytes: int) -> Iterator[Row]:
    """Ours and QEMU's by turns: each round boots each machine once."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    nics = [*NICS, *([] if no_kvm() else [f"{KVM}{nic}" for nic in NICS])]
    machines = [*nics, *([] if qemu.missing() else ["QEMU"])]
    for _ in range(rounds):
        for machine in machines:
            port = net_guest.free_port()
            with tempfile.TemporaryDirectory() as folder:
                if machine == "QEMU":
                    network = [f"user,id=n,hostfwd=tcp:127.0.0.1:{port}-:80"]
                    command = net_guest.qemu_command(Path(folder), image, network)
                else:
                    command = ours_with(machine, "--net", "user:builtin", "--forward", f"{port}:80", str(image))
                with net_guest.guest(command, machine.endswith("gvnic")) as session:
                    for way, *rates in net_guest.transfers(session, port, megabytes):
                        found.setdefault(machine, {}).setdefault(way, []).append((rates[0], rates[1]))
    for nic in nics:
        share = SHARE_ON_KVM if nic.startswith(KVM) else SHARE
        for way, samples in found[nic].items():
            theirs = found.get("QEMU", {}).get(way, [])
            for column, what in ((0, "wall clock"), (1, "processor")):
                ours = median(sample[column] for sample in samples)
                reference = median(sample[column] for sample in theirs) if theirs else None
                met = None if reference is None or not column else ours >= share * reference
                limit = f"{share:g} of QEMU's" if column else ""
                yield Row(f"{nic}, {way}, {what}", ours, reference, "Mbit/s", limit, met)


def pings_and_idling(image: Path) -> Iterator[Row]:
    """Round trips over a cable with QEMU's framing; processor time of 3 s in which nothing comes."""
    reference = None
    for machine in ([] if qemu.missing() else ["QEMU"]) + list(NICS):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "cable"
            peer = net_guest.Peer(path)
            if machine == "QEMU":
                network = [f"stream,id=n,server=off,addr.type=unix,addr.path={path}"]
                command = net_guest.qemu_command(Path(folder), image, network)
            else:
                command = ours_with(machine, "--net", f"socket:unix:{path}", str(image))
            with net_guest.guest(command, machine == "gvnic") as session:
                trips = median(peer.pings())
                time.sleep(0.5)
                before = session.processor_seconds()
                time.sleep(IDLE_SECONDS)
                idle = (session.processor_seconds() - before) / IDLE_SECONDS * 100
            peer.close()
        if machine == "QEMU":
            reference = trips, idle
            continue
        limit = f"at most {PING_MILLISECONDS:g} ms"
        theirs = reference or (None, None)
        yield Row(f"{machine}, ping", trips, theirs[0], "ms", limit, trips <= PING_MILLISECONDS)
        yield Row(f"{machine}, idle", idle, theirs[1], "%", f"at most {IDLE_PERCENT:g} %", idle <= IDLE_PERCENT)


def no_kvm() -> str:
    """Why there is no KVM that carries a guest here; empty if there is."""
    try:
        probe()
    except EngineError as error:
        return str(error)
    return ""


def rings() -> Iterator[Row]:
    """Frames of 1,514 bytes a second of processor time."""
    for name, sent, received in net_devices.all_rates():
        for way, rate in (("sent", sent), ("received", received)):
            yield Row(f"{name} rings, frames {way}", rate, None, "frames/s", f"at least {FRAMES:,}", rate >= FRAMES)


def main() -> int:
    """Run from the command line; 1 with --strict and a limit missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.net", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="boots of each machine for the transfers (default 3)")
    parser.add_argument("--megabytes", type=int, default=8, help="to move to the guest in each round (default 8)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON, too")
    parser.add_argument("--strict", action="store_true", help="end with status 1 if a limit is missed")
    options = parser.parse_args()
    rows = list(rings())
    folder = os.environ.get("CVMBOOT_GUESTS")
    image = Path(folder) / IMAGE if folder else None
    try:
        if image is None or not image.exists():
            print(f"benchmarks.net: no {IMAGE} in CVMBOOT_GUESTS: rings only", file=sys.stderr)
        else:
            rows += pings_and_idling(image)
            rows += transfers(image, max(options.rounds, 1), max(options.megabytes, 1))
    except Silent as problem:
        print(f"benchmarks.net: {problem}", file=sys.stderr)
        return 1
    print(f"reference: {qemu.missing() or qemu.version()}; load {' '.join(f'{load:.1f}' for load in os.getloadavg())}")
    print(f"{'figure':44}{'cvmboot':>10} {'':12}{'QEMU':>10} {'ratio':>6}  {'limit':>18}")
    for row in rows:
        print(row.line())
    if options.json is not None:
        options.json.write_text(json.dumps([row._asdict() for row in rows], indent=1) + "\n")
    return int(options.strict and any(row.met is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
