"""Which engine a run gets: what `--engine` asks for, what goes with the other options, and what a test-suite asks for."""

import os
from collections.abc import Callable

from cvmboot.errors import UsageError
from cvmboot.options import RunOptions

ENGINES = ("auto", "unicorn", "kvm", "kvm-ring0")
VARIABLE = "CVMBOOT_ENGINE"
"""What `auto` is to mean, for running a whole test-suite on one engine."""


def engine_for(options: RunOptions, warn: Callable[[str], None]) -> str:
    """One of ENGINES for `machine.computer.Computer`. UsageError for options that it does not go with."""
    engine = options.engine
    if engine not in ENGINES:
        raise UsageError(f"--engine {engine}: wanted {', '.join(ENGINES)}")
    if engine == "kvm-ring0" and options.snp:
        raise UsageError("--snp needs traps that a guest in ring 0 does not leave to us; use --engine kvm")
    if engine.startswith("kvm"):
        if options.clock == "virtual":
            raise UsageError("--clock virtual needs traps that KVM does not have; leave --engine out")
        if options.gdb is not None:
            raise UsageError("--gdb needs break- and watchpoints that are there on Unicorn only; leave --engine out")
        return engine
    if options.clock == "virtual" or options.gdb is not None or engine == "unicorn":
        return "unicorn"
    wanted = os.environ.get(VARIABLE, "auto")
    if wanted not in ENGINES:
        raise UsageError(f"{VARIABLE}={wanted}: wanted {', '.join(ENGINES)}")
    return wanted
