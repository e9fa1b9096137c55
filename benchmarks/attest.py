"""What verifying a report costs: beside the bare signature, in a batch on two cores, and as a process."""

import base64
import json
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.figures import AT_MOST, TIMES_FASTER, Figure, Limit
from sev import Platform, Verifier, appraise

REPORTS = 16
ROUNDS = 5
ROUND_SECONDS = 0.5
FEW, MANY = 2_000, 22_000
LIBRARY_SHARE, BATCH_TIMES, PROCESS_SECONDS = 0.70, 1.8, 0.4


class Material:
    """An emulated Milan, reports that it signed, and its certificates in a folder."""

    def __init__(self, folder: Path) -> None:
        platform = Platform.new(folder / "platform", "milan")
        self.folder = folder
        self.certificates = platform.certificates()
        self.root = platform.authority().certificates["ARK"]
        self.reports = [
            platform.sign_report(platform.report(report_data=number.to_bytes(64, "big")).encode())
            for number in range(REPORTS)
        ]
        self._certs = folder / "certs"
        self._certs.mkdir()
        for certificate in self.certificates:
            (self._certs / f"{certificate.kind}.der").write_bytes(certificate.der)
        (folder / "ark.der").write_bytes(self.root.der)
        (folder / "report.bin").write_bytes(self.reports[0])

    @property
    def words(self) -> list[str]:
        """Options for the command line."""
        trust = ["--trust-root", str(self.folder / "ark.der"), "--certs", str(self._certs)]
        return [*trust, "--offline", "--cache", str(self.folder / "cache")]

    def lines(self, count: int) -> Path:
        """JSON lines with so many records."""
        texts = [base64.b64encode(report).decode() for report in self.reports]
        path = self.folder / "in.jsonl"
        with path.open("w") as file:
            for number in range(count):
                file.write(json.dumps({"id": f"host-{number}", "evidence": texts[number % REPORTS]}) + "\n")
        return path


def figures(cvmboot: Callable[..., list[str]], runs: int) -> Iterator[Figure]:
    """All figures; `cvmboot` makes a command line of words."""
    with tempfile.TemporaryDirectory() as folder:
        material = Material(Path(folder))
        bare, library = _library(material)
        share = Limit(TIMES_FASTER, LIBRARY_SHARE)
        yield Figure("report, leaf known (beside the bare signature)", "us", library, share, bare)
        wall, processor = _batch(material, cvmboot)
        times = Limit(TIMES_FASTER, BATCH_TIMES)
        yield Figure("report in a batch, two processes (beside that)", "us", [wall], times, library)
        yield Figure("  the same, processor time", "us", [processor])
        command = cvmboot("attest", "verify", *material.words, str(material.folder / "report.bin"))
        limit = Limit(AT_MOST, PROCESS_SECONDS)
        whole = [_run(command) for _ in range(runs)]
        yield Figure("cvmboot attest verify", "s", [seconds for seconds, _ in whole], limit)
        yield Figure("  the same, processor time", "s", [used for _, used in whole])


def _library(material: Material) -> tuple[list[float], list[float]]:
    """Microseconds of processor time for a bare ECDSA P-384 verification, and for a whole verdict with the default policy."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    leaf = next(certificate for certificate in material.certificates if certificate.kind == "VCEK")
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), leaf.ec_point)
    algorithm = ec.ECDSA(hashes.SHA384())
    signed = [(report, _der(report, encode_dss_signature), report[:0x2A0]) for report in material.reports]
    verifier = Verifier(material.certificates, roots=[material.root])

    def bare() -> None:
        for _, signature, data in signed:
            key.verify(signature, data, algorithm)

    def whole() -> None:
        for report, _, _ in signed:
            verdict = verifier.verify(report)
            assert verdict.report is not None
            appraise(verdict, verdict.report)
            assert verdict.verified

    samples: tuple[list[float], list[float]] = [], []
    for _ in range(ROUNDS):  # in turns, so that both meet the same weather
        for call, into in zip((bare, whole), samples, strict=True):
            into.append(_microseconds(call))
    return samples


def _der(report: bytes, encode: Callable[[int, int], bytes]) -> bytes:
    r, s = report[0x2A0 : 0x2A0 + 72], report[0x2A0 + 72 : 0x2A0 + 144]
    return encode(int.from_bytes(r, "little"), int.from_bytes(s, "little"))


def _microseconds(call: Callable[[], None]) -> float:
    begin = time.process_time()
    count = 0
    while time.process_time() - begin < ROUND_SECONDS:
        call()
        count += REPORTS
    return (time.process_time() - begin) / count * 1e6


def _batch(material: Material, cvmboot: Callable[..., list[str]]) -> tuple[float, float]:
    """Microseconds for one more record in a batch by two processes, and their processor time: starting them is left out."""
    runs = []
    for count in (FEW, MANY):
        source = material.lines(count)
        runs.append(_run(cvmboot("attest", "verify", "--batch", str(source), "--jobs", "2", *material.words)))
    wall, processor = ((much - little) / (MANY - FEW) * 1e6 for little, much in zip(*runs, strict=True))
    return wall, processor


def _run(command: list[str]) -> tuple[float, float]:
    """Seconds from start to end, and of processor time, also of the processes that it started."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    seconds, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
