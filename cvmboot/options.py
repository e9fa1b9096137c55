"""What a person may ask of a run: the options of `cvmboot run` and of VirtualMachine, in one place."""

from pathlib import Path
from typing import Any

DEFAULT_MEMORY = 2 << 30


class RunOptions:
    """Options with their defaults; unknown names raise TypeError, bad values are found by `cvmboot.assembly`."""

    def __init__(self, **given: Any) -> None:
        self.memory: int = DEFAULT_MEMORY
        self.cpus: int = 1
        self.engine: str = "auto"
        self.board: str = "uefi"
        self.esp: Path | None = None
        self.esp_write: bool = False
        self.vars: Path | None = None
        self.args: str = ""
        self.timeout: float | None = None
        self.clock: str = "real"
        self.reboot: bool = True
        self.trace: Path | None = None
        self.screenshot: Path | None = None
        self.debug: bool = False
        self.ansi: bool = False
        self.terminal_size: tuple[int, int] | None = None
        for name, value in given.items():
            if name not in self.__dict__:
                raise TypeError(f"unknown option {name!r}; known: {', '.join(sorted(self.__dict__))}")
            setattr(self, name, value)
