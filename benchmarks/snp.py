"""What SEV-SNP costs: a report's round trip as the guest sees it, and the signature in it."""

import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

from cvmboot.assembly import assemble, start
from cvmboot.demo import ATTESTER, sample
from cvmboot.options import RunOptions
from machine.console import HostConsole
from sev.platform import Platform

VMGEXIT = b"\xf3\x0f\x01\xd9"


def round_trip() -> tuple[float, float]:
    """Milliseconds of the sample's guest request, from VMGEXIT to the guest's next instruction, and of its signature."""
    with tempfile.TemporaryDirectory() as folder:
        platform = Path(folder) / "platform"
        Platform.new(platform, "turin", with_certificates=False)
        options = RunOptions(snp=True, platform=platform)
        assembly = assemble(options, HostConsole(lambda data: None), lambda text: None)
        try:
            exits: list[float] = []
            signatures: list[float] = []
            computer = assembly.computer
            computer.trap_instructions[VMGEXIT] = _timed(computer.trap_instructions[VMGEXIT], exits)
            start(assembly, sample(ATTESTER), options)
            time.sleep(0.5)  # the warm-up thread is through, as it is when a real guest asks
            with patch.object(Platform, "sign_report", _timed(Platform.sign_report, signatures)):
                computer.run()
        finally:
            assembly.close()
    return exits[-1], signatures[-1]


def _timed(call: Any, into: list[float]) -> Any:
    def timed(*arguments: Any) -> Any:
        begin = time.perf_counter()
        try:
            return call(*arguments)
        finally:
            into.append((time.perf_counter() - begin) * 1000)

    return timed
