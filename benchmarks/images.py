"""What image files cost: a disk of 1 GiB with an EFI application of 16 MB, and one of 100 GiB, in every format."""

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import AT_MOST, Figure, Limit
from images.build import build
from images.compose import compose
from images.containers.writers import FORMATS
from images.sparse import nonzero_blocks, nonzero_runs

RAW_SECONDS, GZIP_SHARE, PEAK_MIB, MOST_BLOCKS = 0.3, 1.5, 150, 40
_HELLO = Path(__file__).resolve().parent.parent / "samples" / "built" / "hello.efi"
_APPLICATION_BYTES = 16_000_000
_LARGE = """
import json, re, sys
from pathlib import Path
from images.containers.writers import FORMATS
from images.mosaic import Mosaic
disk = Mosaic(100 << 30)
data = bytes(range(256)) * 4096
for n in range(64):
    disk.place((n << 30) + (n << 20) * 7, 1 << 20, lambda start, count: data[start : start + count])
with open(sys.argv[2], "wb") as file:
    FORMATS[sys.argv[1]].write(disk, file)
print(json.dumps(int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])))
"""


def figures(runs: int, guest: Path | None, reason: str) -> Iterator[Figure]:
    """All figures of images; `guest` is go-boot, or None for `reason`."""
    with tempfile.TemporaryDirectory() as folder:
        yield from _one_gibibyte(Path(folder), runs)
        peaks = [_peak(name, Path(folder, "large")) for name in FORMATS]
        yield Figure("100 GiB image, peak memory, worst format", "MiB", peaks, Limit(AT_MOST, PEAK_MIB), worst=True)
    title = "go-boot's 1 GiB disk, blocks of 512 KiB to send"
    if guest is None:
        yield Figure(title, "", [], skipped=reason)
        return
    count = sum(1 for _ in nonzero_blocks(compose(guest).device, 512 * 1024))
    yield Figure(title, "", [float(count)], Limit(AT_MOST, MOST_BLOCKS))


def _one_gibibyte(folder: Path, runs: int) -> Iterator[Figure]:
    application = folder / "app.efi"
    application.write_bytes(_application())
    content = folder / "content"
    content.write_bytes(b"".join(data for _, data in nonzero_runs(compose(application).device)))
    seconds: dict[str, list[float]] = {name: [] for name in FORMATS}
    gzip: list[float] = []
    for _ in range(runs):  # in turns, so that a busy moment hits all alike
        for name, samples in seconds.items():
            begin = time.perf_counter()
            build(application, folder / "image", format_name=name, force=True)
            samples.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        with (folder / "content.gz").open("wb") as output:
            subprocess.run(["gzip", "-6", "-c", content], stdout=output, check=True)
        gzip.append(time.perf_counter() - begin)
    yield Figure("1 GiB image with a 16 MB application, raw", "s", seconds["raw"], Limit(AT_MOST, RAW_SECONDS))
    limit = Limit(AT_MOST, min(gzip) * GZIP_SHARE)
    yield Figure("  as tar.gz (beside it: gzip -6 of the same)", "s", seconds["gce"], limit, gzip)
    for name in FORMATS:
        if name not in {"raw", "gce"}:
            yield Figure(f"  as {name}", "s", seconds[name])
    samples = []
    for _ in range(min(runs, 3)):
        composition = compose(application)
        begin = time.perf_counter()
        composition.sha256()
        samples.append(time.perf_counter() - begin)
    yield Figure("  SHA-256 of the whole disk, zeros too", "s", samples)


def _application() -> bytes:
    """An EFI application of 16 MB that compresses about as well as code does."""
    chance = random.Random(1)
    words = [chance.randbytes(chance.choice([2, 3, 5, 8])) for _ in range(3000)]
    content = b"".join(chance.choices(words, k=_APPLICATION_BYTES // 4))
    return (_HELLO.read_bytes() + content)[:_APPLICATION_BYTES]


def _peak(name: str, path: Path) -> float:
    """MiB that a process of its own used at most."""
    done = subprocess.run([sys.executable, "-c", _LARGE, name, path], capture_output=True, text=True, check=True)
    path.unlink()
    return float(json.loads(done.stdout)) / 1024
