"""`cvmboot run` with ELF unikernels: entered as PVH and Linux's protocol say, on the board that they were built for."""

import contextlib
import socket
import struct
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cvmboot import VirtualMachine
from cvmboot.media import Media
from cvmboot.options import RunOptions
from cvmboot.unikernel import UnikernelAssembly, assemble
from machine import registers as reg
from machine.console import HostConsole

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]
SAMPLES = Path(__file__).parents[2] / "samples" / "built"
MEMORY = "memory 100000 {:x} 1"


def test_a_pvh_unikernel_gets_its_start_info(cvmboot: Run) -> None:
    done = cvmboot(
        *("run", "--board", "firecracker", "--memory", "512M", "--args", "console=ttyS0 quiet"),
        SAMPLES / "unikernel_pvh.elf",
    )
    assert done.returncode == 0, done.stderr
    for line in ("pvh magic 336ec578", MEMORY.format((512 << 20) - (1 << 20)), 'command line "console=ttyS0 quiet"'):
        assert line in done.stdout.decode()
    assert b"wrong words 0" in done.stdout
    assert b"dirty bytes 0" in done.stdout
    assert b"interrupts 0" in done.stdout


def test_a_kernel_of_linuxs_protocol_gets_its_boot_params(cvmboot: Run) -> None:
    done = cvmboot(
        "run", "--board", "firecracker", "--memory", "5G", "--args", "a b", SAMPLES / "unikernel_linux64.elf"
    )
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode()
    assert "linux64 magic 53726448" in text
    assert 'command line "a b"' in text
    assert "memory 100000000 " in text, "RAM above 4 GiB is in the map"


def test_a_board_has_as_many_processors_as_its_table_has_room_for(cvmboot: Run) -> None:
    fits = cvmboot("run", "--board", "firecracker", "--cpus", "32", SAMPLES / "unikernel_pvh.elf")
    assert fits.returncode == 0
    done = cvmboot("run", "--board", "firecracker", "--cpus", "64", SAMPLES / "unikernel_pvh.elf")
    assert done.returncode == 2
    assert b"--cpus 64: more than this board's MP table" in done.stderr and done.stderr.count(b"\n") == 1


def test_without_a_board_linuxs_protocol_is_not_guessed(cvmboot: Run) -> None:
    done = cvmboot("run", SAMPLES / "unikernel_linux64.elf")
    assert done.returncode == 1
    assert b"--board firecracker" in done.stderr
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--esp", "."), b"--esp"),
        (("--snp",), b"--snp"),
        (("--vars", "v"), b"--vars"),
        (("--trace", "t.jsonl"), b"--trace"),
        (("--board", "uefi"), b"wanted microvm"),
        (("--args", "x" * 5000), b"4095 bytes"),
    ],
)
def test_what_needs_firmware_is_refused(
    cvmboot: Run, words: tuple[str, ...], told: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.jsonl").write_text("mine")
    done = cvmboot("run", *words, SAMPLES / "unikernel_pvh.elf")
    assert (tmp_path / "t.jsonl").read_text() == "mine"
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--nic", "gvnic"), b"use --nic virtio"),
        (("--nic", "virtio", "--memory", "6G"), b"use --memory 4G at most"),
        (("--expose", "8000", "--nic", "none"), b"there is no network device"),
    ],
)
def test_a_network_device_that_the_board_cannot_place(cvmboot: Run, words: tuple[str, ...], told: bytes) -> None:
    done = cvmboot("run", "--board", "cloud_hypervisor", *words, SAMPLES / "unikernel_pvh.elf")
    assert done.returncode in (1, 2)
    assert told in done.stderr
    assert done.stderr.count(b"\n") == 1


@pytest.fixture
def cloud_hypervisor() -> Iterator[UnikernelAssembly]:
    options = RunOptions(board="cloud_hypervisor", cpus=3)
    image = SAMPLES / "unikernel_pvh.elf"
    made = assemble(options, HostConsole(lambda _data: None), lambda _line: None, image, Media())
    yield made
    made.close()


def test_cloud_hypervisor_leads_a_kernel_to_acpis_tables(cloud_hypervisor: UnikernelAssembly) -> None:
    """As a kernel goes: start information, RSDP, XSDT, MADT, processors."""
    memory = cloud_hypervisor.computer.memory
    root = memory.u64(cloud_hypervisor.computer.engine.cpus[0].get(reg.RBX) + 32)
    assert memory.read(root, 8) == b"RSD PTR "
    tables = memory.u64(root + 24)
    listed = [memory.u64(at) for at in range(tables + 36, tables + memory.u32(tables + 4), 8)]
    (madt,) = [at for at in listed if memory.read(at, 4) == b"APIC"]
    assert [memory.read(madt + 44 + 8 * n, 4) for n in range(4)] == [
        b"\0\x08\0\0",
        b"\0\x08\1\1",
        b"\0\x08\2\2",
        b"\1\x0c\0\0",
    ]


@pytest.mark.parametrize(("value", "kind"), [(0x34, "shutdown"), (1, "reset")])
def test_the_port_that_those_tables_name_ends_the_machine(
    cloud_hypervisor: UnikernelAssembly, value: int, kind: str
) -> None:
    computer = cloud_hypervisor.computer
    for nothing in (0, 0x30, 0x14):
        computer.port_write(computer.cpu, 0x600, 1, nothing)
    assert not computer.finished
    computer.port_write(computer.cpu, 0x600, 1, value)
    assert computer.run().kind == kind


def test_a_board_for_an_efi_application_is_refused(cvmboot: Run) -> None:
    done = cvmboot("run", "--board", "microvm", SAMPLES / "hello.efi")
    assert done.returncode == 2
    assert b"for ELF unikernels" in done.stderr


def test_too_little_memory_is_one_line(cvmboot: Run, tmp_path: Path) -> None:
    data = bytearray((SAMPLES / "unikernel_pvh.elf").read_bytes())
    is_64 = data[4] == 2
    table = struct.unpack_from("<Q" if is_64 else "<I", data, 32 if is_64 else 28)[0]
    count = struct.unpack_from("<H", data, 56 if is_64 else 44)[0]
    size = 56 if is_64 else 32
    for number in range(count):
        at = table + number * size
        if struct.unpack_from("<I", data, at)[0] == 1:  # PT_LOAD: physical address 3 GiB
            struct.pack_into(
                "<Q" if is_64 else "<I", data, at + (24 if is_64 else 12), 0xB000_0000 + number * 0x10_0000
            )
    image = tmp_path / "far.elf"
    image.write_bytes(data)
    done = cvmboot("run", image)
    assert done.returncode == 1
    assert b"--memory" in done.stderr
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(("machine", "runner"), [(183, b"qemu-system-aarch64"), (243, b"qemu-system-riscv64")])
def test_programs_of_other_processors_are_told_what_runs_them(
    cvmboot: Run, tmp_path: Path, machine: int, runner: bytes
) -> None:
    image = tmp_path / "other.elf"
    image.write_bytes(
        struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, machine, 1, 0, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    )
    done = cvmboot("run", image)
    assert done.returncode == 1
    assert runner in done.stderr
    assert done.stderr.count(b"\n") == 1


def _elf(machine: int, kind: int = 2, bits: int = 64, order: str = "<") -> bytes:
    """An executable of one segment, or something else that has such a header."""
    identity = b"\x7fELF" + bytes((bits // 32, 1 if order == "<" else 2, 1)) + bytes(9)
    if bits == 64:
        header = struct.pack(f"{order}HHIQQQIHHHHHH", kind, machine, 1, 0x100000, 64, 0, 0, 64, 56, 1, 64, 0, 0)
        segment = struct.pack(f"{order}IIQQQQQQ", 1, 5, 0, 0x100000, 0x100000, 512, 512, 4096)
    else:
        header = struct.pack(f"{order}HHIIIIIHHHHHH", kind, machine, 1, 0x100000, 52, 0, 0, 52, 32, 1, 40, 0, 0)
        segment = struct.pack(f"{order}IIIIIIII", 1, 0, 0x100000, 0x100000, 512, 512, 5, 4096)
    return (identity + header + segment).ljust(512, b"\xf4")


def _multiboot(magic: int, words: int) -> bytes:
    first = [magic, 0, 16][: words - 1]
    return struct.pack(f"<{words}I", *first, -sum(first) % (1 << 32))


@pytest.mark.parametrize(
    ("program", "told"),
    [
        (_elf(243, bits=32), b"RISC-V executable); want x86-64 or x86; qemu-system-riscv32 runs those"),
        (_elf(40, bits=32), b"qemu-system-arm runs those"),
        (_elf(21, order=">"), b"PowerPC64 executable); want little-endian x86; qemu-system-ppc64 runs those"),
        (_elf(8, bits=32, order=">"), b"qemu-system-mips runs those"),
        (_elf(62, kind=1), b"if it is a kernel module, load it into its kernel"),
        (_elf(62, kind=4), b"core dump); want an executable with fixed addresses; gdb reads those"),
        (_elf(3, bits=32) + _multiboot(0x1BADB002, 3), b"a Multiboot kernel without a PVH entry; GRUB starts those"),
        (_elf(62) + _multiboot(0xE85250D6, 4), b"a Multiboot2 kernel without a PVH entry; GRUB starts those"),
        (_elf(62) + b"\x02\xb0\xad\x1b" + bytes(8), b"no PVH entry"),
        (_elf(62), b"A Linux program? Then run it as it is"),
    ],
)
def test_what_is_no_unikernel_is_told_what_it_is_for(cvmboot: Run, tmp_path: Path, program: bytes, told: bytes) -> None:
    image = tmp_path / "other.elf"
    image.write_bytes(program)
    done = cvmboot("run", image)
    assert done.returncode == 1
    assert told in done.stderr and done.stderr.count(b"\n") == 1


def test_a_board_that_the_program_was_not_built_for_is_warned_of(cvmboot: Run, tmp_path: Path) -> None:
    image = tmp_path / "app.elf"
    image.write_bytes(
        (SAMPLES / "unikernel_pvh.elf").read_bytes() + b"\0github.com/usbarmory/tamago/board/google/gcp\0"
    )
    done = cvmboot("run", "--board", "firecracker", image)
    assert done.returncode == 0
    assert b"warning: --board firecracker: app.elf was built for gcp" in done.stderr
    assert cvmboot("run", "--board", "gcp", "--no-reboot", image).stderr == b""


def test_a_linux_program_is_told_from_a_unikernel(cvmboot: Run) -> None:
    done = cvmboot("run", "/proc/self/exe")
    assert done.returncode == 1
    assert b"run it as it is" in done.stderr


@pytest.mark.guests
@pytest.mark.parametrize("board", ["microvm", "firecracker", "cloud_hypervisor", "gcp"])
def test_tamago_on_each_board(guest: Callable[[str], Path], board: str) -> None:
    with VirtualMachine(guest(f"tamago-example-{board}.elf"), timeout=60) as vm:
        vm.expect("show system running time")
        vm.expect("> ")
        vm.sendline("info")
        vm.expect(f"Board ........: {board}")
        vm.expect("Frequency ....: 2.5 GHz")
        vm.sendline("date")
        vm.expect(r"20\d\d-\d\d-\d\dT")
        vm.sendline("uptime")
        vm.expect("milliseconds")
        vm.sendline("rand")
        vm.expect("[0-9a-f]{64}")
        vm.sendline("halt")
        vm.expect("Goodbye from tamago")
        assert vm.wait(30) == 0


@pytest.mark.guests
@pytest.mark.parametrize(
    ("board", "address", "more"),
    [("microvm", "10.0.0.1", {}), ("gcp", "10.132.0.2", {}), ("firecracker", "10.0.0.1", {"expose": ["9"]})],
)
def test_a_unikernel_with_an_address_of_its_own_answers_on_the_user_network(
    guest: Callable[[str], Path], board: str, address: str, more: dict[str, list[str]]
) -> None:
    """Without rights on the host: passt, and with --expose the built-in gateway."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    image = guest(f"tamago-example-{board}.elf")
    with VirtualMachine(image, timeout=60, net=f"user:{address}", forward=[f"{port}:80"], **more) as vm:
        vm.expect("starting web server at .*:443")
        end = time.monotonic() + 60
        while b"starting ssh server" not in (page := _page(f"http://127.0.0.1:{port}/tamago-example.log")):
            assert time.monotonic() < end, page
            time.sleep(0.2)


def _page(url: str) -> bytes:
    """What a server answers; nothing while it does not listen yet, which passt tells by a reset."""
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=30) as answer:
        return bytes(answer.read())
    return b""


@pytest.mark.guests
def test_a_crash_says_where_the_program_lies(guest: Callable[[str], Path]) -> None:
    """TamaGo's stack lies at the end of a gibibyte that this machine does not have."""
    with VirtualMachine(guest("tamago-example-firecracker.elf"), timeout=60, memory="600M") as vm:
        assert vm.wait(60) == 4
    assert vm.report[0].startswith("the guest crashed: triple fault")
    assert "tamago-example-firecracker.elf" in vm.report[-1]
