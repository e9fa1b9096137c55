"""VMGEXIT: the GHCB page protocol and the MSR protocol, by machine code on a bare SNP guest."""

import json
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from machine import registers as reg
from machine.cpu import Cpu
from sev import certificate_table
from sev.guest.message import REPORT_REQ, TSC_INFO_REQ, Message
from sev.platform import Platform
from sev.report import Report
from tests.sev.guest.snp_machine import (
    DATA,
    GHCB,
    REQUEST,
    RESPONSE,
    VMGEXIT,
    VMGEXIT_F2,
    SnpMachine,
)

RAX, RCX, RDX, RBX = 0x1F8, 0x308, 0x310, 0x318
BUFFER = GHCB + 0x800
NOT_REGISTERED, INVALID_USAGE, BAD_SCRATCH, MISSING_INPUT, INVALID_INPUT, INVALID_EVENT = range(1, 7)
INVALID_PARAM = 0x16
PSC, GUEST_REQUEST, EXTENDED, AP_CREATION, FEATURES, TERMINATE = (
    *(0x80000010, 0x80000011, 0x80000012, 0x80000013, 0x8000FFFD, 0x8000FFFE),
)


@pytest.fixture
def machine(turin: Platform) -> Iterator[SnpMachine]:
    made = SnpMachine(turin)
    yield made
    made.close()


@pytest.fixture
def make(turin: Platform) -> Iterator[Callable[..., SnpMachine]]:
    made: list[SnpMachine] = []

    def build(**options: object) -> SnpMachine:
        made.append(SnpMachine(turin, **options))  # type: ignore[arg-type]
        return made[-1]

    yield build
    for one in made:
        one.close()


# -- what every exit has in common


def test_hypervisor_features(machine: SnpMachine) -> None:
    assert machine.exit(FEATURES) == (0, 3)
    assert machine.memory.u64(GHCB + 0x390) == FEATURES, "TamaGo looks whether the exit code is still there"


def test_both_encodings_of_vmgexit(machine: SnpMachine) -> None:
    machine.exit(FEATURES)
    machine.memory.set_u64(GHCB + 0x3A0, 0)
    machine.memory.write(GHCB + 0x3F0, (7 << 0x390 // 8).to_bytes(16, "little"))
    assert machine.run(VMGEXIT_F2) == "done"
    assert machine.memory.u64(GHCB + 0x3A0) == 3


def test_nmi_complete_lets_the_next_nmi_in(machine: SnpMachine) -> None:
    machine.bare.cpu.nmi_masked = True
    assert machine.exit(0x8000_0003) == (0, 0)
    assert machine.bare.cpu.nmi_masked is False


@pytest.mark.parametrize("code", [0, 0x40, 0x80000006, 0x80000017, 0x80000018, 1 << 63, 0x18000FFFD])
def test_exits_that_nobody_knows(machine: SnpMachine, code: int) -> None:
    assert machine.exit(code) == (2, INVALID_EVENT)


@pytest.mark.parametrize("missing", [0x390, 0x398, 0x3A0])
def test_fields_that_are_not_marked_valid(machine: SnpMachine, missing: int) -> None:
    machine.memory.set_u64(GHCB + 0x390, FEATURES)
    bitmap = (7 << 0x390 // 8) & ~(1 << missing // 8)
    machine.memory.write(GHCB + 0x3F0, bitmap.to_bytes(16, "little"))
    machine.run(VMGEXIT)
    assert (machine.field(0x398), machine.field(0x3A0)) == (2, MISSING_INPUT)


def test_another_usage(machine: SnpMachine) -> None:
    machine.memory.set_u32(GHCB + 0xFFC, 1)
    assert machine.exit(FEATURES) == (2, INVALID_USAGE)


def test_a_ghcb_has_to_be_registered(machine: SnpMachine) -> None:
    machine.share(DATA)
    machine.guest.processor.msr.values[0] = DATA
    machine.memory.write(DATA, machine.memory.read(GHCB, 4096))
    machine.memory.write(DATA + 0x3F0, (7 << 0x390 // 8).to_bytes(16, "little"))
    machine.memory.set_u64(DATA + 0x390, FEATURES)
    machine.run(VMGEXIT)
    assert (machine.memory.u64(DATA + 0x398), machine.memory.u64(DATA + 0x3A0)) == (2, NOT_REGISTERED)
    machine.guest.processor.msr.values[0] = DATA | 0x12
    machine.run(VMGEXIT)
    assert machine.guest.processor.msr.values[0] == DATA | 0x13
    machine.guest.processor.msr.values[0] = DATA
    machine.memory.write(DATA + 0x3F0, (7 << 0x390 // 8).to_bytes(16, "little"))
    machine.memory.set_u64(DATA + 0x390, FEATURES)
    machine.run(VMGEXIT)
    assert machine.memory.u64(DATA + 0x3A0) == 3


def test_a_private_ghcb(make: Callable[..., SnpMachine]) -> None:
    lenient, strict = make(), make(check="strict")
    for machine in (lenient, strict):
        machine.rmp.make_private(GHCB >> 12)
        machine.exit(FEATURES)
        assert "host-on-private" in machine.kinds()
    assert not lenient.ended
    assert "private" in strict.ended


def test_a_ghcb_outside_memory(machine: SnpMachine) -> None:
    machine.guest.processor.msr.values[0] = 0xFFFF_F000
    assert machine.run(VMGEXIT) == "terminated"
    assert "no memory" in machine.ended


# -- instructions


def test_cpuid(machine: SnpMachine) -> None:
    assert machine.exit(0x72, rax=0x8000001F, rcx=0) == (0, 0)
    assert machine.field(RBX) & 0x3F == 51
    assert machine.exit(0x72, rax=0x8000001F) == (2, MISSING_INPUT)
    assert machine.exit(0x72, rax=0xD, rcx=0) == (2, MISSING_INPUT), "leaf 0xd wants XCR0"
    assert machine.exit(0x72, rax=0xD, rcx=0, xcr0=1) == (0, 0)


def test_msrs(machine: SnpMachine) -> None:
    assert machine.exit(0x7C, rcx=0xC0010131) == (0, 0)
    assert (machine.field(RAX), machine.field(RDX)) == (7, 0)
    assert machine.exit(0x7C, 1, rcx=0xC0000103, rax=5, rdx=0) == (0, 0)
    machine.exit(0x87)
    assert machine.field(RCX) == 5, "RDTSCP gives TSC_AUX"
    info1, info2 = machine.exit(0x7C, 1, rcx=0xC0010131, rax=5, rdx=0)
    assert (info1, info2 & 0xFF, info2 >> 31 & 1, info2 >> 11 & 1) == (1, 13, 1, 1), "#GP is to be injected"


def test_time_stamps(machine: SnpMachine) -> None:
    machine.exit(0x6E)
    first = machine.field(RDX) << 32 | machine.field(RAX)
    machine.exit(0x6E)
    assert machine.field(RDX) << 32 | machine.field(RAX) > first


def test_dr7_and_hypercalls(machine: SnpMachine) -> None:
    machine.exit(0x27)
    assert machine.field(RAX) == 0x400
    machine.exit(0x37, rax=0x700)
    machine.exit(0x27)
    assert machine.field(RAX) == 0x700
    machine.exit(0x81, rax=9)
    assert machine.field(RAX) == (1 << 64) - 1000


def test_port_io(machine: SnpMachine) -> None:
    assert machine.exit(0x7B, 0x501 << 16 | 2 << 4, rax=0x1234ABCD) == (0, 0)
    assert machine.bare.outs == [(1, 2, 0xABCD), (7, 1, machine.bare.outs[-1][2])]
    assert machine.exit(0x7B, 0x500 << 16 | 4 << 4 | 1) == (0, 0)
    assert machine.field(RAX) == 0x55667788
    assert machine.exit(0x7B, 0x501 << 16 | 2 << 4) == (2, MISSING_INPUT)
    assert machine.exit(0x7B, 0x501 << 16, rax=0) == (2, INVALID_INPUT)
    assert machine.exit(0x7B, 0x507 << 16 | 1 << 4, rax=0) == (2, INVALID_INPUT), "a port that is the firmware's"


def test_string_io(machine: SnpMachine) -> None:
    machine.memory.write(BUFFER, b"\1\2\3\4")
    assert machine.exit(0x7B, 0x502 << 16 | 1 << 4 | 4, 4, scratch=BUFFER) == (0, 0)
    assert [value for offset, _, value in machine.bare.outs if offset == 2] == [1, 2, 3, 4]
    assert machine.exit(0x7B, 0x500 << 16 | 2 << 4 | 4 | 1, 2, scratch=BUFFER) == (0, 0)
    assert machine.memory.read(BUFFER, 4) == b"\x88\x77\x88\x77"
    assert machine.exit(0x7B, 0x500 << 16 | 1 << 4 | 4, 1 << 40, scratch=BUFFER) == (2, INVALID_INPUT)
    assert machine.exit(0x7B, 0x500 << 16 | 1 << 4 | 4, 4) == (2, MISSING_INPUT)


def test_mmio(machine: SnpMachine) -> None:
    writes = []

    def write(_cpu: Cpu, offset: int, size: int, value: int) -> None:
        writes.append((offset, size, value))

    machine.computer.bus.add_mmio(0xE000_0000, 4096, lambda _cpu, offset, size: 0x11223344 + offset + size, write)
    assert machine.exit(0x80000001, 0xE000_0010, 4, scratch=BUFFER) == (0, 0)
    assert machine.memory.u32(BUFFER) == 0x11223344 + 0x10 + 4
    assert machine.exit(0x80000002, 0xE000_0020, 4, scratch=BUFFER) == (0, 0)
    assert writes == [(0x20, 4, 0x11223358)]
    assert machine.exit(0x80000001, 0xE000_0010, 3, scratch=BUFFER) == (2, INVALID_INPUT)
    assert machine.exit(0x80000001, DATA, 4, scratch=BUFFER) == (2, INVALID_INPUT), "memory is no device"


@pytest.mark.parametrize("scratch", [0, GHCB, GHCB + 0x7FC, GHCB + 0xFF0, GHCB + 0xFFC, DATA, 0xFFFF_F000, 1 << 63])
def test_scratch_areas_that_will_not_do(machine: SnpMachine, scratch: int) -> None:
    assert machine.exit(0x80000001, 0xE000_0000, 8, scratch=scratch) == (2, BAD_SCRATCH)


# -- guest requests


def report_message(machine: SnpMachine, sequence: int = 1) -> bytes:
    return Message(REPORT_REQ, b"n" * 64 + bytes(32), sequence).seal(machine.launch.vmpcks[0])


def test_a_report(machine: SnpMachine) -> None:
    machine.share(REQUEST, RESPONSE)
    machine.memory.write(REQUEST, report_message(machine))
    assert machine.exit(GUEST_REQUEST, REQUEST, RESPONSE) == (0, 0)
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    page = machine.memory.read(RESPONSE, 4096)
    payload = AESGCM(machine.launch.vmpcks[0]).decrypt(
        page[0x20:0x2C], page[0x60 : 0x60 + 0x4C0] + page[:16], page[0x30:0x60]
    )
    assert Report.decode(payload[0x20:]).report_data == b"n" * 64
    assert machine.exit(GUEST_REQUEST, REQUEST, RESPONSE) == (0, 0), "again: the leniency for TamaGo's counter"
    assert machine.kinds() == {"counter-restart"}


def test_strict_refuses_a_counter_that_starts_again(make: Callable[..., SnpMachine]) -> None:
    machine = make(check="strict")
    machine.share(REQUEST, RESPONSE)
    machine.memory.write(REQUEST, report_message(machine))
    assert machine.exit(GUEST_REQUEST, REQUEST, RESPONSE) == (0, 0)
    assert machine.exit(GUEST_REQUEST, REQUEST, RESPONSE) == (0, 0x1D)


@pytest.mark.parametrize("private", [REQUEST, RESPONSE])
def test_pages_of_a_request_have_to_be_shared(machine: SnpMachine, private: int) -> None:
    machine.share(*{REQUEST, RESPONSE} - {private})
    machine.memory.write(REQUEST, report_message(machine))
    assert machine.exit(GUEST_REQUEST, REQUEST, RESPONSE) == (0, INVALID_PARAM)
    assert machine.guest.secure_processor.counters == [0, 0, 0, 0]
    assert machine.kinds() == {"host-on-private"}
    assert not any(machine.memory.read(RESPONSE, 4096))


@pytest.mark.parametrize(
    ("request_page", "response_page"),
    [(REQUEST + 8, RESPONSE), (REQUEST, RESPONSE + 1), (REQUEST, REQUEST), (0xF000_0000, RESPONSE), (REQUEST, 1 << 63)],
)
def test_addresses_of_a_request(machine: SnpMachine, request_page: int, response_page: int) -> None:
    assert machine.exit(GUEST_REQUEST, request_page, response_page) == (2, INVALID_INPUT)


def test_busy_times(make: Callable[..., SnpMachine]) -> None:
    machine = make(busy=2)
    machine.share(REQUEST, RESPONSE)
    for sequence in (1, 3):
        machine.memory.write(REQUEST, report_message(machine, sequence))
        results = [machine.exit(GUEST_REQUEST, REQUEST, RESPONSE)[1] for _ in range(3)]
        assert results == [2 << 32, 2 << 32, 0]


def test_an_extended_request_negotiates_the_length(machine: SnpMachine) -> None:
    pages = [DATA + 4096 * n for n in range(4)]
    machine.share(REQUEST, RESPONSE, *pages)
    machine.memory.write(REQUEST, report_message(machine))
    assert machine.exit(EXTENDED, REQUEST, RESPONSE, rax=0, rbx=0) == (0, 1 << 32)
    needed = machine.field(RBX)
    assert 1 <= needed <= 4
    assert machine.guest.secure_processor.counters[0] == 0
    assert machine.exit(EXTENDED, REQUEST, RESPONSE, rax=DATA, rbx=needed) == (0, 0)
    assert machine.guest.secure_processor.counters[0] == 2
    table = certificate_table.decode(machine.memory.read(DATA, 4096 * needed))
    assert [name for name, _ in table] == ["VCEK", "ASK", "ARK"]
    assert machine.exit(EXTENDED, REQUEST, RESPONSE, rax=DATA + 1, rbx=needed) == (2, INVALID_INPUT)
    assert machine.exit(EXTENDED, REQUEST, RESPONSE, rax=0x700_0000, rbx=needed) == (2, INVALID_INPUT), "private"
    assert machine.exit(EXTENDED, REQUEST, RESPONSE, rax=DATA) == (2, MISSING_INPUT)


def test_keys_in_shared_memory_are_found(machine: SnpMachine) -> None:
    machine.share(REQUEST, RESPONSE, DATA)
    machine.memory.write(GHCB + 0x900, machine.launch.vmpcks[2])
    machine.exit(FEATURES)
    assert [finding.detail for finding in machine.checker.findings] == ["VMPCK2 in the GHCB"]
    machine.memory.write(DATA + 100, machine.launch.vmpcks[1])
    machine.checker.finish()
    details = {finding.detail for finding in machine.checker.findings}
    assert details == {"VMPCK2 in the GHCB", "VMPCK2 at the end", "VMPCK1 at the end"}


def test_devices_see_shared_pages(make: Callable[..., SnpMachine]) -> None:
    from machine.errors import BadAddress

    lenient, strict = make(), make(check="strict")
    for machine in (lenient, strict):
        machine.share(DATA)
        dma = machine.guest.dma("a disk")
        dma.write(DATA, b"abcd")
        assert dma.read(DATA, 4) == b"abcd"
        dma.set_u16(DATA, 7)
        assert dma.u16(DATA) == 7
        assert machine.kinds() == set()
    lenient.guest.dma("a disk").read(DATA + 4094, 4)
    assert [finding.detail for finding in lenient.checker.findings] == ["DMA of a disk"]
    with pytest.raises(BadAddress):
        strict.guest.dma("a disk").read(DATA + 4094, 4)


# -- other processors, the end


def test_ap_creation_finds_no_other_processor(machine: SnpMachine) -> None:
    for operation in (0, 1, 2, 3):
        assert machine.exit(AP_CREATION, operation | 1 << 32, DATA + 4096, rax=1) == (2, INVALID_INPUT)
    assert machine.exit(AP_CREATION, 1 << 32, DATA + 4096) == (2, MISSING_INPUT)


def test_the_ap_jump_table_is_kept(machine: SnpMachine) -> None:
    assert machine.exit(0x80000005, 0, 0x9000) == (0, 0x9000)
    assert machine.exit(0x80000005, 1, 0) == (0, 0x9000)
    assert machine.exit(0x80000005, 2, 0) == (2, INVALID_INPUT)


@pytest.mark.parametrize(
    ("code", "info", "words"),
    [
        (TERMINATE, 0x31, "not at VMPL0"),
        (TERMINATE, 0xFF5, "reason 0xff of set 5"),
        (0x8000FFFF, 0x7B, "exit 0x7b"),
        (0x80000004, 0, "AP reset hold"),
    ],
)
def test_exits_that_end_the_guest(machine: SnpMachine, code: int, info: int, words: str) -> None:
    machine.exit(code, info)
    assert words in machine.ended


# -- the MSR protocol


def by_msr(machine: SnpMachine, value: int) -> int:
    machine.guest.processor.msr.values[0] = value
    machine.run(VMGEXIT)
    return machine.guest.processor.msr.values[0]


def test_msr_protocol(machine: SnpMachine) -> None:
    assert by_msr(machine, 0x002) == 2 << 48 | 1 << 32 | 51 << 24 | 1
    assert by_msr(machine, 0x8000001F << 32 | 1 << 30 | 0x004) >> 32 & 0x3F == 51
    assert by_msr(machine, 0x010) == 0xFFFF_FFFF_FFFF_F011
    assert by_msr(machine, DATA | 0x012) == DATA | 0x013
    assert by_msr(machine, 0xF000_0000 | 0x012) == 0xFFFF_FFFF_FFFF_F013, "no memory there"
    assert by_msr(machine, 2 << 52 | DATA | 0x014) == 0x015
    assert machine.rmp.is_shared(DATA >> 12)
    assert by_msr(machine, 1 << 52 | DATA | 0x014) == 0x015
    assert machine.rmp.state(DATA >> 12) == 1
    assert by_msr(machine, 3 << 52 | DATA | 0x014) >> 32 == 1
    assert by_msr(machine, 2 << 52 | 0xF000_0000 | 0x014) >> 32 == 1
    assert by_msr(machine, 0x080) == 3 << 12 | 0x081
    assert by_msr(machine, 1 << 32 | 0x016) >> 32 != 0


@pytest.mark.parametrize(
    ("value", "words"),
    [(0x100 | 1 << 12 | 2 << 16, "PVALIDATE failed"), (0x0FF, "unknown request"), (0x006, "AP reset hold")],
)
def test_msr_requests_that_end_the_guest(machine: SnpMachine, value: int, words: str) -> None:
    by_msr(machine, value)
    assert words in machine.ended


# -- anything at all


@pytest.fixture(scope="module")
def shared_machine(turin: Platform) -> Iterator[SnpMachine]:
    made = SnpMachine(turin)
    yield made
    made.close()


_CODES = st.sampled_from(
    [
        *(0x27, 0x37, 0x6E, 0x72, 0x7C, 0x81, 0x87, 0x80000001, 0x80000002, 0x80000003, 0x80000005),
        *(PSC, GUEST_REQUEST, EXTENDED, AP_CREATION, FEATURES, 0x7B),
    ]
) | st.integers(0, 2**64 - 1)
_VALUES = st.integers(0, 2**64 - 1) | st.sampled_from(
    [0, 1, 8, BUFFER, GHCB, REQUEST, RESPONSE, DATA, 0xFFFF_FFFF_FFFF_FFFF, 0xC001_0130, 0x504 << 16 | 0x14]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(
    _CODES.filter(lambda code: code not in (0x80000004, TERMINATE, 0x8000FFFF)),
    st.tuples(_VALUES, _VALUES, _VALUES, _VALUES, _VALUES, _VALUES),
    st.binary(max_size=64),
    st.integers(0, 2**128 - 1) | st.just(2**128 - 1),
)
def test_any_ghcb_page_is_answered(
    shared_machine: SnpMachine, code: int, values: tuple[int, ...], buffer: bytes, bitmap: int
) -> None:
    machine = shared_machine
    machine.guest.processor.msr.values[0] = GHCB
    counters = list(machine.guest.secure_processor.counters)
    for offset, value in zip((0x398, 0x3A0, 0x3A8, RAX, RBX, RCX), values, strict=True):
        machine.memory.set_u64(GHCB + offset, value)
    machine.memory.set_u64(GHCB + 0x390, code)
    machine.memory.write(GHCB + 0x3F0, bitmap.to_bytes(16, "little"))
    machine.memory.write(BUFFER, buffer)
    machine.cpu.set(reg.RSP, 0x400_0000)
    assert machine.run(VMGEXIT) == "done"
    info1 = machine.field(0x398)
    info2 = machine.field(0x3A0)
    assert info1 in (0, 1, 2)
    if info1 == 2:
        assert 1 <= info2 <= 6
    assert machine.guest.secure_processor.counters == counters


def test_a_guest_that_is_saved_goes_on_elsewhere(make: Callable[..., SnpMachine]) -> None:
    old, new = make(), make()
    old.share(REQUEST, RESPONSE)
    old.rmp.validate(DATA >> 12, False, False)
    old.rmp.adjust(0x700_0000 >> 12, False, 2, 5, True)
    old.memory.write(REQUEST, report_message(old))
    assert old.exit(GUEST_REQUEST, REQUEST, RESPONSE) == (0, 0)
    old.exit(0x80000005, 0, 0x9000)
    state = json.loads(json.dumps(old.guest.save(), default=lambda raw: {"hex": raw.hex()}), object_hook=_bytes)
    new.guest.load(state)
    new.share(REQUEST, RESPONSE)
    new.memory.write(REQUEST, report_message(old, 3))
    assert new.exit(GUEST_REQUEST, REQUEST, RESPONSE) == (0, 0)
    assert new.exit(0x80000005, 1) == (0, 0x9000)
    assert new.kinds() == set()
    assert new.rmp.state(DATA >> 12) == 1
    assert new.rmp.permissions(0x700_0000 >> 12, 2) == 5
    assert new.rmp.is_vmsa(0x700_0000 >> 12)


def _bytes(value: dict[str, object]) -> object:
    return bytes.fromhex(str(value["hex"])) if value.keys() == {"hex"} else value


def test_a_tsc_request_through_the_page(machine: SnpMachine) -> None:
    machine.share(REQUEST, RESPONSE)
    machine.memory.write(REQUEST, Message(TSC_INFO_REQ, bytes(128), 1, 3).seal(machine.launch.vmpcks[3]))
    assert machine.exit(GUEST_REQUEST, REQUEST, RESPONSE) == (0, 0)
    assert machine.guest.secure_processor.counters == [0, 0, 0, 2]
