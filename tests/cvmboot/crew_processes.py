"""Processes that crews start, and a Dask cluster of this machine, for tests that kill them."""

import socket
import subprocess
import sys
import time
from pathlib import Path

PATIENCE = 100
WORKER = ("--host", "127.0.0.1", "--nthreads", "1", "--death-timeout", "60")


def children_of(pid: int) -> list[int]:
    """The processes of a crew that this process started, by /proc."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"crew/member.py" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except (OSError, IndexError):
            continue
    return found


def alive(pids: list[int]) -> list[int]:
    """Those that have not ended, whether somebody has taken notice of it or not."""
    found = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            found.append(pid)
    return found


class Cluster:
    """A scheduler and its workers, as processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{port}"
        self.processes: list[subprocess.Popen[bytes]] = []
        self.scheduler = self._start("dask_scheduler", "--host", "127.0.0.1", "--port", str(port))
        self._until_it_listens(port)

    def worker(self, *more: str) -> "subprocess.Popen[bytes]":
        """Start another one, of one thread, which nobody starts again."""
        return self._start("dask_worker", self.address, *WORKER, "--no-nanny", *more)

    def worker_with_nanny(self) -> "subprocess.Popen[bytes]":
        """The same as people start them: below a process that starts it again."""
        return self._start("dask_worker", self.address, *WORKER)

    def _start(self, module: str, *options: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", f"distributed.cli.{module}", *options, "--no-dashboard"]
        # The command under test reads files by itself: a worker elsewhere would not have them.
        process = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.processes.append(process)
        return process

    def _until_it_listens(self, port: int) -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.1)
        raise AssertionError("the scheduler does not listen")

    def close(self) -> None:
        """End all that was started."""
        for process in reversed(self.processes):
            process.kill()
            process.wait()
