"""`cvmboot run --gdb`: Debian's gdb, and a client of our own that says what gdb would not."""

import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cvmboot import VirtualMachine
from machine.gdb import target
from machine.gdb.packets import frame

Sample = Callable[[str], Path]
SAMPLES = Path(__file__).parents[2] / "samples" / "built"
gdb = pytest.mark.skipif(shutil.which("gdb") is None, reason="gdb is not installed (Debian package gdb)")


class Client:
    """The other end of a GdbServer, without acknowledgements."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._data = b""
        self.say(b"QStartNoAckMode")
        assert self.hear() == b"OK"

    def say(self, packet: bytes) -> None:
        self._socket.sendall(frame(packet))

    def raw(self, data: bytes) -> None:
        self._socket.sendall(data)

    def hear(self) -> bytes:
        while not (found := re.match(rb"\+*\$([^#]*)#[0-9a-f]{2}", self._data)):
            more = self._socket.recv(65536)
            if not more:
                raise EOFError(self._data)
            self._data += more
        self._data = self._data[found.end() :]
        return found[1]

    def ask(self, packet: bytes) -> bytes:
        self.say(packet)
        return self.hear()

    def register(self, name: str) -> int:
        number = [register.name for register in target.REGISTERS].index(name)
        return int.from_bytes(bytes.fromhex(self.ask(b"p%x" % number).decode()), "little")

    def close(self) -> None:
        self._socket.close()


@contextmanager
def _debugged(image: Path, **options: object) -> Iterator[tuple[VirtualMachine, Client]]:
    with VirtualMachine(image, gdb=0, **options) as vm:
        assert vm.gdb_port
        client = Client(vm.gdb_port)
        yield vm, client
        client.close()


def test_the_guest_waits_for_the_debugger_and_ends_with_a_good_bye(sample: Sample) -> None:
    with _debugged(sample("hello")) as (vm, client):
        assert client.ask(b"?").startswith(b"T05")
        assert vm.recent_console() == ""
        assert client.ask(b"vCont;c") == b"W00"
        assert vm.wait(20) == 0
        assert "Goodbye" in vm.recent_console()


def test_registers_and_memory_can_be_read_and_written(sample: Sample) -> None:
    with _debugged(sample("hello")) as (_vm, client):
        everything = client.ask(b"g")
        assert len(everything) == 2 * sum(register.size for register in target.REGISTERS)
        rip, rsp = client.register("rip"), client.register("rsp")
        assert client.ask(b"m%x,1" % rip) == b"c3"  # the RET into the image
        entry = int.from_bytes(bytes.fromhex(client.ask(b"m%x,8" % rsp).decode()), "little")
        assert client.ask(b"M%x,2:%b" % (rsp - 16, b"beef")) == b"OK"
        assert client.ask(b"X%x,2:%b" % (rsp - 14, b"\x7d\x03\x11")) == b"OK"
        assert client.ask(b"m%x,4" % (rsp - 16)) == b"beef2311"
        assert client.ask(b"P1=0123456789abcdef") == b"OK"
        assert client.register("rbx") == 0xEFCDAB8967452301
        assert client.ask(b"P16=00000000") == b"E16"  # a segment register alone would be half a change
        assert client.ask(b"s").startswith(b"T05")
        assert client.register("rip") == entry


def test_what_is_mapped_nowhere_is_an_error(sample: Sample) -> None:
    with _debugged(sample("hello")) as (_vm, client):
        assert client.ask(b"m600000000000,8") == b"E0e"
        assert client.ask(b"m8000000000000000,8") == b"E0e"
        assert client.ask(b"M600000000000,1:00") == b"E0e"
        assert client.ask(b"Z2,600000000000,4") == b"E0e"


@pytest.mark.parametrize(
    "packet",
    [
        *(
            b"",
            b"m",
            b"mzz,1",
            b"m0",
            b"m0,",
            b"p",
            b"pfff",
            b"P",
            b"P1=",
            b"P1=zz",
            b"M0,4:00",
            b"X0,zz:",
            b"Z",
            b"Z9,0,0",
        ),
        *(
            b"Z0,0",
            b"z5,1,1",
            b"vCont;",
            b"vCont;q",
            b"vCont;r1",
            b"vFile:open",
            b"qXfer:features:read:target.xml:zz,1",
        ),
        *(
            b"qRcmd,zz",
            b"qRcmd,",
            b"G00",
            b"Gzz",
            b"!",
            b"R00",
            b"c" + b"f" * 40,
            b"\xff\xfe",
            b"m" + b"1" * 9000,
            b"s-1",
        ),
    ],
)
def test_malformed_packets_are_answered_and_survived(sample: Sample, packet: bytes) -> None:
    with _debugged(sample("hello")) as (vm, client):
        client.say(packet)
        client.hear()
        assert client.ask(b"qC") == b"QC1"
        assert client.ask(b"c") == b"W00"
        assert vm.wait(20) == 0


def test_a_guest_in_an_endless_loop_can_be_interrupted(sample: Sample) -> None:
    with _debugged(sample("faults"), args="loop") as (vm, client):
        client.say(b"c")
        vm.expect("loop", timeout=20)
        client.raw(b"\x03")
        assert client.hear().startswith(b"T02")
        before = client.register("rip")
        assert client.ask(b"s").startswith(b"T05")
        assert abs(client.register("rip") - before) < 64
        client.say(b"k")
        vm.wait(20)


def test_a_guest_that_waits_for_a_key_can_be_interrupted_and_goes_on_waiting(sample: Sample) -> None:
    with _debugged(sample("files_variables")) as (vm, client):
        client.say(b"c")
        vm.expect("line", timeout=20)
        client.raw(b"\x03")
        assert client.hear().startswith(b"T02")
        client.say(b"c")
        vm.sendline("hello")
        assert client.hear() == b"W00"


def test_a_crash_is_shown_before_the_machine_is_gone(sample: Sample) -> None:
    with _debugged(sample("faults"), args="ud2") as (vm, client):
        assert client.ask(b"c").startswith(b"T04")
        assert client.ask(b"m%x,2" % client.register("rip")) == b"0f0b"
        client.say(b"c")
        assert vm.wait(20) == 4


@pytest.mark.parametrize(
    ("fault", "signal"), [("ud2", b"04"), ("divide", b"08"), ("int3", b"05"), ("page", b"0b"), ("gp", b"0b")]
)
def test_a_crash_has_the_signal_of_its_exception_and_continue_ends_it(
    sample: Sample, fault: str, signal: bytes
) -> None:
    with _debugged(sample("faults"), args=fault) as (vm, client):
        assert client.ask(b"vCont;c") == b"T%bthread:1;" % signal
        assert client.ask(b"?") == b"T%bthread:1;" % signal
        assert client.ask(b"vCont;C%b:1;c" % signal) == b"X%b" % signal
        assert vm.wait(20) == 4


def test_gdb_hears_the_exit_status_of_run(sample: Sample) -> None:
    with _debugged(sample("faults"), args="no such fault") as (vm, client):
        assert client.ask(b"c") == b"W03"
        assert vm.wait(20) == 3


def test_the_triple_fault_by_which_a_board_is_switched_off_is_no_crash() -> None:
    with _debugged(SAMPLES / "unikernel_pvh.elf") as (vm, client):
        start = client.register("rip")
        # lidt [rest of this code, which is zeros]; int3: how TamaGo's boards are switched off
        assert (
            client.ask(
                b"M%x,40:0f011d%b%b" % (start, (start + 8).to_bytes(4, "little").hex().encode(), b"cc" + b"00" * 56)
            )
            == b"OK"
        )
        assert client.ask(b"c") == b"W00"
        assert vm.wait(20) == 0


def test_a_guest_that_gdb_kills_is_switched_off(sample: Sample) -> None:
    with _debugged(sample("faults"), args="loop") as (vm, client):
        assert client.ask(b"vKill;a410") == b"OK"
        assert vm.wait(20) == 0


def test_a_second_debugger_is_hung_up_on_and_the_first_one_goes_on(sample: Sample) -> None:
    with _debugged(sample("hello")) as (vm, client):
        assert vm.gdb_port
        with socket.create_connection(("127.0.0.1", vm.gdb_port), timeout=20) as other:
            assert other.recv(1) == b""
        assert client.ask(b"c") == b"W00"


def test_answers_to_a_debugger_that_has_gone_are_not_given_to_the_next_one(sample: Sample) -> None:
    with VirtualMachine(sample("faults"), args="loop", gdb=0) as vm:
        assert vm.gdb_port
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", vm.gdb_port), timeout=20) as rude:
                # Registers are a kilobyte; nobody reads them.
                rude.sendall(frame(b"g") * 2000)
            Client(vm.gdb_port).close()


def test_nothing_of_a_debugged_machine_stays(sample: Sample) -> None:
    for _ in range(3):
        with _debugged(sample("hello")):
            pass
        assert not [thread for thread in threading.enumerate() if thread.name == "cvmboot-gdb"]


def test_the_next_debugger_finds_a_guest_that_stops_for_it(sample: Sample) -> None:
    with _debugged(sample("faults"), args="loop") as (vm, client):
        assert vm.gdb_port
        assert client.ask(b"Z0,%x,1" % client.register("rip")) == b"OK"
        assert client.ask(b"D") == b"OK"
        client.close()
        vm.expect("loop", timeout=20)
        again = Client(vm.gdb_port)
        assert again.ask(b"?") == b"T05thread:1;"
        before = again.register("rip")
        assert again.ask(b"s").startswith(b"T05")
        assert abs(again.register("rip") - before) < 64
        again.close()


@pytest.mark.parametrize("command", [b"X", b"M"])
def test_memory_is_written_in_packets_as_large_as_we_say(sample: Sample, command: bytes) -> None:
    with _debugged(sample("hello")) as (_vm, client):
        found = re.search(rb"PacketSize=([0-9a-f]+)", client.ask(b"qSupported"))
        assert found
        room = int(found[1], 16) - len(b"X10000000,ffff:") - 4
        data = bytes(n % 20 + 1 for n in range(room if command == b"X" else room // 2))
        said = data if command == b"X" else data.hex().encode()
        assert client.ask(b"%b10000000,%x:%b" % (command, len(data), said)) == b"OK"
        for at in range(0, len(data), 4000):
            part = data[at : at + 4000]
            assert client.ask(b"m%x,%x" % (0x1000_0000 + at, len(part))) == part.hex().encode()


def test_a_debugger_that_hangs_up_leaves_a_guest_that_runs(sample: Sample) -> None:
    with VirtualMachine(sample("hello"), gdb=0) as vm:
        assert vm.gdb_port
        client = Client(vm.gdb_port)
        rsp = client.register("rsp")
        entry = int.from_bytes(bytes.fromhex(client.ask(b"m%x,8" % rsp).decode()), "little")
        assert client.ask(b"Z0,%x,1" % entry) == b"OK"
        assert client.ask(b"c").startswith(b"T05hwbreak")
        client.close()
        assert vm.wait(20) == 0


def test_a_port_that_is_taken_is_one_line(
    sample: Sample, cvmboot: Callable[..., "subprocess.CompletedProcess[bytes]"]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = cvmboot("run", "--gdb", taken.getsockname()[1], sample("hello"))
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert b"choose another port" in done.stderr


@gdb
@pytest.mark.skipif(
    shutil.which("clang-14") is None or shutil.which("lld-link-14") is None, reason="no clang and lld 14"
)
def test_gdb_takes_the_symbols_of_a_moved_image_from_what_monitor_images_says(tmp_path: Path) -> None:
    folder = tmp_path / 'a "folder" of\\images'
    folder.mkdir()
    (folder / "app.c").write_text(
        "typedef unsigned long long UINTN;\n"
        "UINTN twice(UINTN n) {\n    return 2 * n;\n}\n"
        "UINTN efi_main(void *image, void *table) {\n    return twice(0) & (UINTN)image & (UINTN)table;\n}\n"
    )
    flags = ("-target", "x86_64-unknown-windows", "-gdwarf-4", "-O0", "-ffreestanding", "-mno-red-zone")
    subprocess.run(["clang-14", *flags, "-c", "app.c", "-o", "app.o"], cwd=folder, check=True)
    link = ("-nodefaultlib", "-entry:efi_main", "-debug:dwarf", "-subsystem:efi_application", "-out:app.efi", "app.o")
    subprocess.run(["lld-link-14", *link], cwd=folder, check=True)
    with VirtualMachine(folder / "app.efi", gdb=0) as vm:
        said = 'gdb.execute("monitor images", False, True)'
        paste = f'python import re; gdb.execute(re.search("add-symbol-file .*", {said})[0])'
        commands = (f"target remote 127.0.0.1:{vm.gdb_port}", paste, "break twice", "continue", "continue")
        words = [word for command in commands for word in ("-ex", command)]
        done = subprocess.run(
            ["gdb", "-nx", "-batch", *words], cwd=folder, capture_output=True, text=True, timeout=60, check=False
        )
        assert vm.wait(20) == 0
    text = done.stdout
    assert "Breakpoint 1, twice (n=0) at app.c:3" in text
    assert "exited normally" in text


@gdb
def test_gdb_itself(sample: Sample, tmp_path: Path) -> None:
    script = tmp_path / "script"
    with VirtualMachine(sample("hello"), gdb=0) as vm:
        script.write_text(
            f"set pagination off\nset confirm off\ntarget remote 127.0.0.1:{vm.gdb_port}\n"
            "set $entry = *(unsigned long long *)$rsp\nbreak *$entry\ncontinue\n"
            'printf "at entry: %d\\n", $rip == $entry\n'
            "watch -location *(unsigned int *)($rsp - 8)\ncontinue\n"
            'printf "table: %c%c%c\\n", *(char *)$rdx, *(char *)($rdx + 1), *(char *)($rdx + 2)\n'
            "delete\nstepi\ninfo registers rip cr3 efer xmm0 st0\ninfo threads\nmonitor images\nx/2i $rip\ncontinue\n"
        )
        done = subprocess.run(
            ["gdb", "-nx", "-batch", "-x", str(script)], capture_output=True, text=True, timeout=60, check=False
        )
        assert vm.wait(20) == 0
    assert "at entry: 1" in done.stdout
    assert "Hardware watchpoint 2" in done.stdout
    assert "Old value" in done.stdout
    assert "hello.efi" in done.stdout + done.stderr
    assert "exited normally" in done.stdout


@gdb
@pytest.mark.guests
def test_gdb_stops_at_main_of_a_unikernel(guest: Callable[[str], Path], tmp_path: Path) -> None:
    symbols = guest("go-boot.sym.elf")
    script = tmp_path / "script"
    with VirtualMachine(guest("go-boot.efi"), gdb=0) as vm:
        script.write_text(
            f"set pagination off\ntarget remote 127.0.0.1:{vm.gdb_port}\n"
            "break main.main\ncontinue\nbacktrace\nnext\ndelete\ndetach\n"
        )
        done = subprocess.run(
            ["gdb", "-nx", "-batch", "-x", str(script), str(symbols)],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert "Breakpoint 1, main.main ()" in done.stdout
        vm.expect("> ", timeout=60)
