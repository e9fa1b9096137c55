"""A guest that prints on its serial port by TamaGo's functions, for the tests of posted output."""

import threading
import time
from collections.abc import Callable

from machine import registers as reg
from machine.boards.pc import PcBoard
from machine.console import HostConsole
from machine.engine.kvm import KvmEngine
from machine.engine.moving import MovingEngine
from machine.engine.unicorn import UnicornEngine
from tests.machine.bare import CODE, DONE, Bare

IN8, OUT8 = CODE + 0x1000, CODE + 0x1020
FUNCTIONS = (
    bytes.fromhex("668b542408 ec 88442410 c3").ljust(32, b"\xcc")  # mov dx,[rsp+8]; in al,dx; mov [rsp+16],al; ret
    + bytes.fromhex("668b542408 8a44240a ee c3").ljust(32, b"\xcc")  # mov dx,[rsp+8]; mov al,[rsp+10]; out dx,al; ret
)
"""In8 and Out8 of TamaGo, internal/reg."""
TEXT, RESULT = 0x500_0000, 0x600_0000
THR, IER, FCR, LCR, MCR, LSR, SCR = 0x3F8, 0x3F9, 0x3FA, 0x3FB, 0x3FC, 0x3FD, 0x3FF
WORDS = b"".join(b"line %d of what the guest has to say\n" % n for n in range(100))


class Program:
    """Machine code from an address on."""

    def __init__(self, at: int = CODE) -> None:
        self.at = at
        self.code = b""

    @property
    def here(self) -> int:
        """The address of what comes next."""
        return self.at + len(self.code)

    def add(self, code: str) -> "Program":
        """Hexadecimal code."""
        self.code += bytes.fromhex(code)
        return self

    def call(self, target: int) -> "Program":
        """CALL."""
        return self.add("e8" + (target - self.here - 5).to_bytes(4, "little", signed=True).hex())

    def back(self, opcode: str, target: int) -> "Program":
        """A conditional jump to before."""
        return self.add(opcode + (target - self.here - 2).to_bytes(1, "little", signed=True).hex())

    def read(self, port: int) -> "Program":
        """In8; the value is at [rsp+8]."""
        return self.add("66c70424" + port.to_bytes(2, "little").hex()).call(IN8)

    def write(self, port: int, value: int | None = None) -> "Program":
        """Out8 of a value, or of AL."""
        self.add("66c70424" + port.to_bytes(2, "little").hex())
        self.add("88442402" if value is None else f"c6442402{value:02x}")
        return self.call(OUT8)

    def print(self, size: int, at: int = TEXT, port: int = THR) -> "Program":
        """Bytes from memory, as TamaGo's driver does: wait for an empty transmitter, write, and again."""
        self.add(
            f"49bc{at.to_bytes(8, 'little').hex()} 41bd{size.to_bytes(4, 'little').hex()}"
        )  # r12: place, r13: how many
        loop = self.here
        self.read(port + LSR - THR).add("f644240820").back("74", loop)
        self.add("418a0424").write(port).add("49ffc4 41ffcd").back("75", loop)
        return self

    def keep(self, number: int) -> "Program":
        """Store what `read` gave as byte `number` of the result."""
        return self.add(f"8a442408 880425{(RESULT + number).to_bytes(4, 'little').hex()}")


class Guest:
    """A bare computer with a PC's devices, and the functions."""

    def __init__(self, engine: str, cpus: int = 1) -> None:
        self.bare = Bare(engine=engine, cpus=cpus)
        self.printed = b""
        self._came = threading.Condition()
        self.console = HostConsole(self._show)
        self.board = PcBoard(self.bare.computer, self.console, self.bare.computer.finish)
        self.ram = self.bare.computer.memory
        self.ram.write(IN8, FUNCTIONS)
        self.ram.write(TEXT, WORDS)
        self.cpu = self.bare.cpu

    def _show(self, data: bytes) -> None:
        with self._came:
            self.printed += data
            self._came.notify_all()

    def wait_for(self, size: int, patience: float = 30) -> None:
        """From another thread: until so many bytes have been printed; give up after so many seconds."""
        with self._came:
            self._came.wait_for(lambda: len(self.printed) >= size, timeout=patience)

    @property
    def engine(self) -> KvmEngine:
        """The engine on KVM, which must be the one that runs."""
        moving = self.bare.computer.engine
        assert isinstance(moving, MovingEngine)
        assert isinstance(moving._kvm, KvmEngine)
        assert moving._active is moving._kvm, self.bare.lines
        return moving._kvm

    @property
    def exits(self) -> int:
        """How often guest code has been left on KVM; 0 on Unicorn."""
        return 0 if isinstance(self.bare.computer.engine, UnicornEngine) else self.engine.exits

    def run(self, program: Program) -> object:
        """Run it from its beginning, with 64 bytes of stack for calls."""
        assert program.here - program.at < 0x1000
        self.ram.write(program.at, program.code + bytes.fromhex(DONE))
        self.cpu.set(reg.RIP, program.at)
        self.cpu.set(reg.RSP, 0x400_0000)
        result = self.bare.computer.run()
        self.console.flush()
        return result

    def results(self, size: int) -> bytes:
        """What `keep` has kept."""
        return self.ram.read(RESULT, size)

    def run_looked_at(self, program: Program, look: Callable[[], None]) -> object:
        """`run`, with `look` called between two instructions again and again, each time after more has been printed.

        `look` ends the run by `finish`.
        """
        computer = self.bare.computer

        def keep_looking() -> None:
            while not computer.finished:
                printed = len(self.printed)
                computer.at_rest(look)
                self.wait_for(printed + 1, 0.1)
                time.sleep(0.0003)  # else it comes out because the page is full

        looking = threading.Thread(target=keep_looking)
        looking.start()
        result = self.run(program)
        looking.join()
        return result
