"""Which engine a run gets: what `--engine` asks for, what goes with the other options, and what a test-suite asks for."""

import os
from collections.abc import Callable

from cvmboot.errors import UsageError
from cvmboot.options import RunOptions

ENGINES = ("auto", "unicorn", "kvm", "kvm-ring0")
VARIABLE = "CVMBOOT_ENGINE"
"""What `auto` is to mean, for running a whole test-suite on one engine."""


def settle(options: RunOptions, warn: Callable[[str], None], *, restored: bool) -> None:
    """Change `options` where KVM was asked for and something with it that KVM cannot have, and warn of that in a line.

    A clock is chosen when a machine is made, so that a `restored` one keeps its own. A debugger is worth more than speed.
    """
    if not options.engine.startswith("kvm"):
        return
    name = f"--engine {options.engine}"
    if options.gdb is not None:
        warn(f"--gdb needs break- and watchpoints that only Unicorn has: the guest runs there, {name} has no effect")
        options.engine = "unicorn"
    elif options.clock == "virtual" and restored:
        warn(
            f"the machine was made with --clock virtual, which only Unicorn has: it goes on there, {name} has no effect"
        )
        options.engine = "unicorn"
    elif options.clock == "virtual":
        warn(
            f"{name} runs without --clock virtual, which only Unicorn has: time is the host's; leave out one of the two"
        )
        options.clock = "real"


def engine_for(options: RunOptions, warn: Callable[[str], None]) -> str:
    """One of ENGINES for `machine.computer.Computer`. UsageError for options that it does not go with."""
    engine = options.engine
    if engine not in ENGINES:
        raise UsageError(f"--engine {engine}: wanted {', '.join(ENGINES)}")
    if engine == "kvm-ring0" and options.snp:
        raise UsageError("--snp needs traps that a guest in ring 0 does not leave to us; use --engine kvm")
    if options.clock == "virtual" or options.gdb is not None or engine == "unicorn":
        return "unicorn"
    if engine.startswith("kvm"):
        return engine
    wanted = os.environ.get(VARIABLE, "auto")
    if wanted not in ENGINES:
        raise UsageError(f"{VARIABLE}={wanted}: wanted {', '.join(ENGINES)}")
    return wanted
