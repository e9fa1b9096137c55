"""GDB's commands, carried out on a machine (GDB manual, appendix E.2). All on the machine's engine thread."""

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from machine import registers as reg
from machine.computer import Computer
from machine.cpu import Cpu, Fault, Stop, Watch
from machine.errors import BadAddress
from machine.gdb import target
from machine.gdb.packets import INTERRUPT, LARGEST, escape, unescape

SIGINT, SIGILL, SIGTRAP, SIGFPE, SIGBUS, SIGSEGV = 2, 4, 5, 8, 10, 11
"""GDB's own numbers of signals."""
_SIGNALS = {0: SIGFPE, 1: SIGTRAP, 3: SIGTRAP, 6: SIGILL, 16: SIGFPE, 17: SIGBUS, 19: SIGFPE}
"""What an exception is called that nobody handles, by its vector; any other is a SIGSEGV."""
_OK, _UNSUPPORTED, _BAD, _NO_MEMORY = b"OK", b"", b"E16", b"E0e"  # E16: EINVAL, E0e: EFAULT
_MOST_BREAKPOINTS = 1000
_WATCH_KINDS = {b"2": (False, True), b"3": (True, False), b"4": (True, True)}
_WATCH_NAMES = {(False, True): b"watch", (True, False): b"rwatch", (True, True): b"awatch"}
_FEATURES = b"PacketSize=%x;qXfer:features:read+;vContSupported+;swbreak+;hwbreak+;QStartNoAckMode+" % LARGEST


class Ending(NamedTuple):
    """What GDB is told of a machine's end: that it left with `status`, or died of `fault`, or neither, as it starts again."""

    status: int | None = None
    died: bool = False
    fault: Fault | None = None


def _judge(result: Any) -> Ending:
    if isinstance(result, Exception):
        return Ending(died=True, fault=getattr(result, "fault", None))
    return Ending(status=0)


class GdbStub:
    """A debugger (machine.debugger.Debugger) that is told what to do by GDB's packets.

    `send` gets the replies, `kill` switches the machine off. `monitor` are the commands of GDB's `monitor`: each gets the
    rest of its line and gives text. `judge` says what a result of Computer.run, or what it raised, means.
    The stub outlives a reset: `attach` puts it onto the next machine, with the breakpoints that it had.
    """

    def __init__(
        self,
        send: Callable[[bytes], None],
        kill: Callable[[], None] = lambda: None,
        monitor: dict[str, Callable[[str], str]] | None = None,
        judge: Callable[[Any], Ending] = _judge,
    ) -> None:
        self.paused = True
        self.stepping: int | None = None
        self.runs: frozenset[int] | None = None
        self._thread = 0
        self._stopped = 0
        self._send = send
        self._kill = kill
        self._monitor = monitor or {}
        self._judge = judge
        self._computer: Computer | None = None
        self._breakpoints: set[int] = set()
        self._watches: dict[tuple[bytes, int, int], Watch] = {}
        self._range = range(0)
        self._connected = False
        self._awaited = False
        self._reason = b"T%02xthread:1;" % SIGTRAP
        self._over = False
        self._died_of = 0
        self._packets: deque[bytes] = deque()

    def attach(self, computer: Computer) -> None:
        """Control this machine from now on. Before it runs, or on its thread."""
        self._computer = computer
        self._over = False
        computer.debugger = self
        self._thread = self._stopped = 0
        self._apply(computer)

    # -- machine.debugger.Debugger

    def rest(self, cpu: Cpu) -> None:
        """Tell GDB, once, that the guest has stopped; do what it says until the guest is to go on."""
        if self._awaited:
            self._awaited = False
            self._send(self._reason)
        while self._packets and self.paused:
            reply = self._answer(self._packets.popleft())
            if reply is not None:
                self._send(reply)

    def stopped(self, cpu: Cpu, stop: Stop) -> None:
        """Pause if this is something that GDB wants to see."""
        if stop is Stop.WATCHPOINT:
            watch, physical = cpu.touched()
            self._pause(cpu, SIGTRAP, self._watch_reason(watch, physical))
        elif stop is Stop.BREAKPOINT:
            self._pause(cpu, SIGTRAP, b"hwbreak:;")
        elif self.stepping == cpu.index and not self._goes_on(cpu):
            self._pause(cpu, SIGTRAP)

    def ended(self, cpu: Cpu, result: Any) -> None:
        """Show a crash before the machine is gone; say good-bye otherwise."""
        self._over = True
        ending = self._judge(result)
        if ending.died and self._connected:
            self._died_of = _SIGNALS.get(ending.fault.vector, SIGSEGV) if ending.fault is not None else SIGSEGV
            self._pause(cpu, self._died_of)
            return
        self.paused = False
        if self._awaited and ending.status is not None:
            self._awaited = False
            self._send(b"W%02x" % ending.status)

    def _goes_on(self, cpu: Cpu) -> bool:
        """Whether a step through a range of addresses is not over yet."""
        rip = cpu.get(reg.RIP)
        return rip in self._range and rip not in self._breakpoints

    def _pause(self, cpu: Cpu, signal: int, detail: bytes = b"") -> None:
        self.paused = True
        self.stepping = None
        self._thread = self._stopped = cpu.index
        self._reason = b"T%02x%bthread:%x;" % (signal, detail, cpu.index + 1)

    def _watch_reason(self, watch: Watch, physical: int) -> bytes:
        for (_kind, linear, _size), each in self._watches.items():
            if each is watch:
                name = _WATCH_NAMES[watch.reads, watch.writes]
                return b"%b:%x;" % (name, linear + physical - watch.address)
        return b""

    # -- what GDB says

    def connected(self) -> None:
        """GDB is there: the guest stops for it."""
        self._connected = True
        self._awaited = False
        self._packets.clear()
        if self.paused:
            return  # before the first instruction, or behind the last one
        self.paused = True
        if self._computer is not None:
            self._pause(self._computer.cpu, SIGTRAP)

    def disconnected(self) -> None:
        """GDB has gone: the guest goes on without breakpoints."""
        self._breakpoints.clear()
        self._watches.clear()
        computer = self._computer
        if computer is not None:
            self._apply(computer)
        self._resume()
        self._connected = self._awaited = False

    def handle(self, packet: bytes) -> None:
        """Take one packet. It is answered when the guest stands still; an interrupt makes it do so."""
        if packet != INTERRUPT:
            self._packets.append(packet)
        elif self._awaited and self._computer is not None:
            cpu = self._computer.cpu
            if self.runs and cpu.index not in self.runs:  # GDB holds the one whose turn it was: it wants one that ran
                cpu = self._computer.engine.cpus[min(self.runs)]
            self._pause(cpu, SIGINT)

    def _answer(self, packet: bytes) -> bytes | None:
        handler = _COMMANDS.get(packet[:1])
        if handler is None or self._computer is None:
            return _UNSUPPORTED
        try:
            return handler(self, self._computer, packet[1:])
        except (ValueError, IndexError):
            return _BAD
        except BadAddress:
            return _NO_MEMORY

    def _why(self, _computer: Computer, _rest: bytes) -> bytes:
        return self._reason

    def _cpu(self, computer: Computer) -> Cpu:
        """The thread that GDB looks at."""
        return computer.engine.cpus[self._thread]

    def _choose_thread(self, computer: Computer, rest: bytes) -> bytes:
        """Hg: which thread registers and memory are of. What runs, vCont says."""
        if rest[:1] == b"g" and rest[1:] not in (b"0", b"-1"):
            self._thread = _thread(computer, rest[1:])
        return _OK

    def _is_alive(self, computer: Computer, rest: bytes) -> bytes:
        _thread(computer, rest)
        return _OK

    def _read_registers(self, computer: Computer, _rest: bytes) -> bytes:
        return b"".join(target.read_registers(self._cpu(computer))).hex().encode()

    def _write_registers(self, computer: Computer, rest: bytes) -> bytes:
        data = bytes.fromhex(rest.decode("ascii"))
        at = 0
        for number, register in enumerate(target.REGISTERS):
            value, at = data[at : at + register.size], at + register.size
            if len(value) == register.size:
                target.write_register(self._cpu(computer), number, value)
        return _OK

    def _read_register(self, computer: Computer, rest: bytes) -> bytes:
        return target.read_registers(self._cpu(computer))[_index(rest)].hex().encode()

    def _write_register(self, computer: Computer, rest: bytes) -> bytes:
        number, _, value = rest.partition(b"=")
        data = bytes.fromhex(value.decode("ascii"))
        return _OK if target.write_register(self._cpu(computer), _index(number), data) else _BAD

    def _read_memory(self, computer: Computer, rest: bytes) -> bytes:
        address, size = _place(rest)
        size = min(size, LARGEST // 2 - 4)
        data = b""
        memory = computer.linear(self._cpu(computer))
        while len(data) < size:
            part = min(size - len(data), 4096 - ((address + len(data)) & 0xFFF))
            try:
                data += memory.read(address + len(data), part)
            except BadAddress:
                if not data:
                    raise
                break
        return data.hex().encode()

    def _write_memory(self, computer: Computer, rest: bytes) -> bytes:
        where, _, value = rest.partition(b":")
        return self._store(computer, where, bytes.fromhex(value.decode("ascii")))

    def _write_binary(self, computer: Computer, rest: bytes) -> bytes:
        where, _, value = rest.partition(b":")
        return self._store(computer, where, unescape(value))

    def _store(self, computer: Computer, where: bytes, data: bytes) -> bytes:
        """Store where the guest itself may be unable to: a debugger is not bound by its write protection."""
        address, size = _place(where)
        if size != len(data):
            return _BAD
        memory = computer.linear(self._cpu(computer))
        pages = range(address & ~0xFFF, address + size, 4096)
        targets = [memory.physical(max(page, address)) for page in pages]
        for page, physical in zip(pages, targets, strict=True):
            first = max(page, address) - address
            computer.memory.write(physical, data[first : page + 4096 - address])
        return _OK

    def _continue(self, computer: Computer, rest: bytes) -> None:
        if rest:
            self._cpu(computer).set(reg.RIP, _number(rest))
        self._go_on()

    def _step(self, computer: Computer, rest: bytes) -> None:
        if rest:
            self._cpu(computer).set(reg.RIP, _number(rest))
        self._go_on(self._thread)

    def _go_on(self, step: int | None = None, runs: frozenset[int] | None = None, within: range = range(0)) -> None:
        """GDB has the guest go on; one that is dead ends now, which is the answer."""
        self._resume(step, runs, within)
        if self._over:
            self._awaited = False
            self._send(b"X%02x" % self._died_of)

    def _resume(self, step: int | None = None, runs: frozenset[int] | None = None, within: range = range(0)) -> None:
        """Let the guest go on: CPU `step` by single instructions as long as it is `within`, and all others that `runs` names."""
        computer = self._computer
        if computer is not None and not self._over:
            computer.engine.cpus[self._stopped if step is None else step].pass_breakpoint()
        self.stepping = None if self._over else step
        self.runs = runs
        self._range = within
        self.paused = False
        self._awaited = True

    def _v_packet(self, computer: Computer, rest: bytes) -> bytes | None:
        if rest == b"Cont?":
            return b"vCont;c;C;s;S;r"
        if rest.startswith(b"Kill"):
            self._killed(computer, rest)
            return _OK
        if not rest.startswith(b"Cont;"):
            return _UNSUPPORTED
        actions = self._actions(computer, rest.split(b";")[1:])
        steps = [index for index, action in actions.items() if action[:1] in b"sSr"]
        step = self._thread if self._thread in steps else steps[0] if steps else None
        runs = frozenset(index for index, action in actions.items() if index == step or action[:1] in b"cC")
        within = range(0)
        if step is not None and actions[step][:1] == b"r":
            first, _, end = actions[step][1:].partition(b",")
            within = range(_number(first), _number(end))
        self._go_on(step, runs if len(runs) < len(computer.engine.cpus) else None, within)
        return None

    @staticmethod
    def _actions(computer: Computer, words: list[bytes]) -> dict[int, bytes]:
        """What vCont says of each CPU: the leftmost action that names it, or names none. ValueError."""
        found: dict[int, bytes] = {}
        for word in words:
            action, _, thread = word.partition(b":")
            if action[:1] not in (b"c", b"C", b"s", b"S", b"r"):
                raise ValueError(word)
            everyone = thread in (b"", b"-1")
            for index in range(len(computer.engine.cpus)) if everyone else (_thread(computer, thread),):
                found.setdefault(index, action)
        if not found:
            raise ValueError(words)
        return found

    def _insert(self, computer: Computer, rest: bytes) -> bytes:
        kind, linear, size = _point(rest)
        if len(self._breakpoints) + len(self._watches) >= _MOST_BREAKPOINTS:
            return _BAD
        if kind in (b"0", b"1"):
            self._breakpoints.add(linear)
        elif kind in _WATCH_KINDS and 1 <= size <= 4096:
            physical = computer.linear(self._cpu(computer)).physical(linear)
            self._watches[kind, linear, size] = Watch(physical, size, *_WATCH_KINDS[kind])
        else:
            return _UNSUPPORTED
        self._apply(computer)
        return _OK

    def _remove(self, computer: Computer, rest: bytes) -> bytes:
        kind, linear, size = _point(rest)
        if kind in (b"0", b"1"):
            self._breakpoints.discard(linear)
        else:
            self._watches.pop((kind, linear, size), None)
        self._apply(computer)
        return _OK

    def _apply(self, computer: Computer) -> None:
        for cpu in computer.engine.cpus:
            cpu.set_breakpoints(frozenset(self._breakpoints))
            cpu.set_watches(tuple(self._watches.values()))

    def _detach(self, _computer: Computer, _rest: bytes) -> bytes:
        self.disconnected()
        return _OK

    def _killed(self, _computer: Computer, _rest: bytes) -> None:
        self.disconnected()
        self._kill()

    def _query(self, computer: Computer, rest: bytes) -> bytes:
        if rest.startswith(b"Supported"):
            return _FEATURES
        if rest.startswith(b"Xfer:features:read:target.xml:"):
            offset, size = _place(rest.rpartition(b":")[2])
            part = target.description()[offset : offset + min(size, LARGEST - 5)]
            more = offset + len(part) < len(target.description())
            return (b"m" if more else b"l") + escape(part)
        if rest == b"C":
            return b"QC%x" % (self._thread + 1)
        if rest == b"fThreadInfo":
            return b"m" + b",".join(b"%x" % (cpu.index + 1) for cpu in computer.engine.cpus)
        if rest.startswith(b"ThreadExtraInfo,"):
            index = _thread(computer, rest.partition(b",")[2])
            return f"CPU {index}, {computer.turns.states[index]}".encode().hex().encode()
        if rest.startswith(b"Rcmd,"):
            return self._run_monitor(bytes.fromhex(rest[5:].decode("ascii")).decode("utf-8", "replace"))
        return _QUERIES.get(rest.partition(b":")[0], _UNSUPPORTED)

    def _run_monitor(self, line: str) -> bytes:
        word, _, rest = line.strip().partition(" ")
        command = self._monitor.get(word)
        text = command(rest) if command else f"monitor commands: {', '.join(sorted(self._monitor)) or 'none'}\n"
        return text.encode()[: LARGEST // 2 - 4].hex().encode() or _OK

    def _set(self, _computer: Computer, rest: bytes) -> bytes:
        return _OK if rest == b"StartNoAckMode" else _UNSUPPORTED


_QUERIES = {b"sThreadInfo": b"l", b"Attached": b"1", b"Symbol": _OK}
_COMMANDS: dict[bytes, Callable[[GdbStub, Computer, bytes], bytes | None]] = {
    b"?": GdbStub._why,
    b"H": GdbStub._choose_thread,
    b"T": GdbStub._is_alive,
    b"g": GdbStub._read_registers,
    b"G": GdbStub._write_registers,
    b"p": GdbStub._read_register,
    b"P": GdbStub._write_register,
    b"m": GdbStub._read_memory,
    b"M": GdbStub._write_memory,
    b"X": GdbStub._write_binary,
    b"c": GdbStub._continue,
    b"s": GdbStub._step,
    b"v": GdbStub._v_packet,
    b"Z": GdbStub._insert,
    b"z": GdbStub._remove,
    b"D": GdbStub._detach,
    b"k": GdbStub._killed,
    b"q": GdbStub._query,
    b"Q": GdbStub._set,
}


def _number(text: bytes) -> int:
    """A hexadecimal number of at most 64 bits; ValueError for anything else."""
    if not text or len(text) > 16 or text.strip(b"0123456789abcdefABCDEF"):
        raise ValueError(text)
    return int(text, 16)


def _thread(computer: Computer, text: bytes) -> int:
    """The index of the CPU that is thread `text`: GDB counts from 1. ValueError for one that is not there."""
    index = _number(text) - 1
    if not 0 <= index < len(computer.engine.cpus):
        raise ValueError(text)
    return index


def _index(text: bytes) -> int:
    number = _number(text)
    if number >= len(target.REGISTERS):
        raise ValueError(text)
    return number


def _place(text: bytes) -> tuple[int, int]:
    """`address,size`."""
    address, _, size = text.partition(b",")
    return _number(address), _number(size)


def _point(text: bytes) -> tuple[bytes, int, int]:
    """`kind,address,size` and perhaps conditions behind it, which we never announce."""
    kind, address, size = text.partition(b";")[0].split(b",")
    return kind, _number(address), _number(size)
