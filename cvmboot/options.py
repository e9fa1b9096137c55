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
        self.board: str = "auto"
        self.esp: Path | None = None
        self.esp_write: bool = False
        self.vars: Path | None = None
        self.args: str = ""
        self.timeout: float | None = None
        self.clock: str = "real"
        self.reboot: bool = True
        self.trace: Path | None = None
        self.screenshot: Path | None = None
        self.gdb: int | None = None
        self.debug: bool = False
        self.restore: Path | None = None
        self.nic: str | None = None
        self.net: Any = None
        self.forward: list[tuple[int, int]] = []
        self.expose: list[int] = []
        self.pcap: Path | None = None
        self.mac: bytes | str | None = None
        self.mtu: int | None = None
        self.net_loss: float = 0.0
        self.net_delay: int = 0
        self.ansi: bool = False
        self.terminal_size: tuple[int, int] | None = None
        self.snp: bool = False
        self.product: str | None = None
        self.platform: Path | None = None
        self.snp_check: str | None = None
        self.guest_policy: int | None = None
        self.host_data: bytes | None = None
        self.id_block: Path | None = None
        self.id_auth: Path | None = None
        self.vmpl: int | None = None
        self.report_version: int | None = None
        self.measurement: bytes | None = None
        self.ovmf: Path | None = None
        self.sp_busy: int | None = None
        for name, value in given.items():
            if name not in self.__dict__:
                raise TypeError(f"unknown option {name!r}; known: {', '.join(sorted(self.__dict__))}")
            setattr(self, name, value)

    @property
    def ask_for_network(self) -> bool:
        """Whether an option of the network is among those that were given."""
        which = (self.nic, self.net, self.forward, self.expose, self.pcap, self.mac, self.mtu)
        return any((*which, self.net_loss, self.net_delay))
