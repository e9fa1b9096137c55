"""Guest messages and the secure processor: the known AEAD vector, answers, and refusals that change no counter."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sev.errors import Refused
from sev.guest.launch import Launch
from sev.guest.message import KEY_REQ, REPORT_REQ, TSC_INFO_REQ, Message, SealedMessage
from sev.guest.secure_processor import SecureProcessor
from sev.platform import Platform
from sev.report import Report
from tests.sev.guest.snp_machine import seeded

INVALID_PARAM, AEAD_OFLOW, INVALID_KEY = 0x16, 0x1D, 0x27
NONCE = bytes(range(64))


def report_request(data: bytes = NONCE, vmpl: int = 0, key_select: int = 0) -> bytes:
    return data + vmpl.to_bytes(4, "little") + key_select.to_bytes(4, "little") + bytes(24)


def page(message: bytes) -> bytes:
    return message.ljust(4096, b"\0")


class Talk:
    """A guest's end of the line."""

    def __init__(self, platform: Platform, lenient: bool = False, **launch: object) -> None:
        self.launch = Launch(bytes(48), seeded, **launch)  # type: ignore[arg-type]
        self.processor = SecureProcessor(self.launch, lambda: platform, allow_counter_restart=lenient)
        self.restarts: list[int] = []
        self.reused: list[int] = []
        self.processor.on_restart = self.restarts.append
        self.processor.on_iv_reuse = self.reused.append

    def request(self, kind: int, payload: bytes, sequence: int = 1, vmpck: int = 0, version: int = 1) -> bytes:
        key = self.launch.vmpcks[vmpck]
        answer = self.processor.request(page(Message(kind, payload, sequence, vmpck, version).seal(key)))
        # A response's type is no request's, so its header is read here.
        assert answer[0x34] == kind + 1
        assert answer[0x35] == version
        assert int.from_bytes(answer[0x20:0x28], "little") == sequence + 1
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        size = int.from_bytes(answer[0x36:0x38], "little")
        return AESGCM(key).decrypt(answer[0x20:0x2C], answer[0x60 : 0x60 + size] + answer[:16], answer[0x30:0x60])

    def refused(self, message: bytes) -> int:
        before = list(self.processor.counters)
        with pytest.raises(Refused) as caught:
            self.processor.request(page(message))
        assert self.processor.counters == before
        assert "\n" not in str(caught.value)
        return caught.value.status


@pytest.fixture
def talk(turin: Platform) -> Talk:
    return Talk(turin)


def test_the_known_vector(real_data: Path) -> None:
    vector = json.loads((real_data / "protocol" / "guest-message-aead-vector.json").read_text())
    key, plain = bytes.fromhex(vector["key"]), bytes.fromhex(vector["plaintext"])
    sealed = Message(REPORT_REQ, plain, 1, vmpck=1).seal(key)
    assert sealed[:16].hex() == vector["tag"]
    assert sealed[0x20:0x2C].hex() == vector["iv"]
    assert sealed[0x30:0x60].hex() == vector["aad"]
    assert sealed[0x60:].hex() == vector["ciphertext"]
    assert SealedMessage(page(sealed)).open(key) == plain


@given(st.binary(max_size=4000), st.integers(1, 2**64 - 1), st.integers(0, 3), st.binary(min_size=32, max_size=32))
def test_what_is_sealed_opens(payload: bytes, sequence: int, vmpck: int, key: bytes) -> None:
    opened = SealedMessage(page(Message(REPORT_REQ, payload, sequence, vmpck).seal(key)))
    assert (opened.sequence, opened.vmpck, opened.open(key)) == (sequence, vmpck, payload)


def test_a_payload_that_is_too_long_cannot_be_sealed() -> None:
    with pytest.raises(ValueError, match="4001 bytes"):
        Message(REPORT_REQ, bytes(4001), 1).seal(bytes(32))


# -- reports


def read_report(answer: bytes) -> Report:
    assert answer[:4] == bytes(4)
    assert int.from_bytes(answer[4:8], "little") == 0x4A0
    assert len(answer) == 0x4C0
    return Report.decode(answer[0x20:])


def test_a_report_says_what_the_launch_was(turin: Platform) -> None:
    talk = Talk(turin, host_data=b"h" * 32, policy=0xB0000)
    report = read_report(talk.request(REPORT_REQ, report_request()))
    assert report.report_data == NONCE
    assert report.host_data == b"h" * 32
    assert report.policy == 0xB0000
    assert report.measurement == bytes(48)
    assert report.report_id == talk.launch.report_id
    assert report.chip_id == turin.chip_id
    assert (report.version, report.vmpl, report.launch_mit_vector) == (5, 0, 0xB)
    assert turin.sign_report(report.encode())[:0x2A0] == report.encode()[:0x2A0]


@pytest.mark.parametrize("version", [2, 3, 5])
def test_report_versions(turin: Platform, version: int) -> None:
    report = read_report(Talk(turin, report_version=version).request(REPORT_REQ, report_request()))
    assert report.version == version
    assert bool(report.cpuid_fam_id) == (version >= 3)
    assert bool(report.launch_mit_vector) == (version >= 5)


@pytest.mark.parametrize(
    ("payload", "status"),
    [
        (report_request(vmpl=4), INVALID_PARAM),
        (report_request(key_select=3), INVALID_PARAM),
        (report_request(key_select=4), INVALID_PARAM),
        (report_request(key_select=2), INVALID_KEY),
        (report_request()[:-1] + b"\1", INVALID_PARAM),
    ],
)
def test_a_refused_report_is_all_zeros(talk: Talk, payload: bytes, status: int) -> None:
    answer = talk.request(REPORT_REQ, payload)
    assert int.from_bytes(answer[:4], "little") == status
    assert not any(answer[4:])
    assert talk.processor.counters[0] == 2


def test_a_vmpck_speaks_for_its_vmpl_and_less_privileged_ones(talk: Talk) -> None:
    assert int.from_bytes(talk.request(REPORT_REQ, report_request(vmpl=0), 1, 1)[:4], "little") == INVALID_PARAM
    assert read_report(talk.request(REPORT_REQ, report_request(vmpl=1), 3, 1)).vmpl == 1
    assert read_report(talk.request(REPORT_REQ, report_request(vmpl=3), 5, 1)).vmpl == 3


def test_vmpl1_cannot_use_vmpck0(turin: Platform) -> None:
    talk = Talk(turin, vmpl=1)
    key = talk.launch.guest_vmpcks[0]
    assert key == bytes(32)
    assert talk.refused(Message(REPORT_REQ, report_request(), 1, 0).seal(key)) == INVALID_PARAM
    assert talk.refused(Message(REPORT_REQ, report_request(), 1, 0).seal(talk.launch.vmpcks[1])) == INVALID_PARAM


# -- keys and TSC


def key_request(fields: int = 0, vmpl: int = 0, svn: int = 0, tcb: bytes = bytes(8), root: int = 0) -> bytes:
    parts = (root, 4), (0, 4), (fields, 8), (vmpl, 4), (svn, 4)
    return b"".join(value.to_bytes(size, "little") for value, size in parts) + tcb


def derived(answer: bytes) -> bytes:
    assert len(answer) == 64
    assert not any(answer[:32])
    return answer[32:]


def test_derived_keys_are_the_same_across_launches_and_differ_by_what_is_selected(turin: Platform) -> None:
    payloads = [key_request(fields, vmpl) for fields in range(0, 0x40) for vmpl in (0, 1)]
    first, second = Talk(turin), Talk(turin)
    keys = [derived(first.request(KEY_REQ, payload, 2 * n + 1)) for n, payload in enumerate(payloads)]
    assert keys == [derived(second.request(KEY_REQ, payload, 2 * n + 1)) for n, payload in enumerate(payloads)]
    assert len(set(keys)) == len(payloads)
    other = Talk(turin, policy=0xB0000)
    changed = [derived(other.request(KEY_REQ, payload, 2 * n + 1)) for n, payload in enumerate(payloads)]
    for payload, mine, theirs in zip(payloads, keys, changed, strict=True):
        assert (mine != theirs) == bool(payload[8] & 1), "the policy counts where it is selected"


def test_keys_of_more_privileged_vmpls_are_refused(talk: Talk) -> None:
    assert talk.request(KEY_REQ, key_request(vmpl=0), 1, vmpck=1) == INVALID_PARAM.to_bytes(64, "little")
    own = derived(talk.request(KEY_REQ, key_request(vmpl=1), 3, vmpck=1))
    assert derived(talk.request(KEY_REQ, key_request(vmpl=1), 1)) == own, "VMPL0 may ask for it, too"


def test_both_sizes_of_a_key_request(talk: Talk) -> None:
    linux = derived(talk.request(KEY_REQ, key_request(1), 1))
    tamago = derived(talk.request(KEY_REQ, key_request(1).ljust(0x40, b"\0"), 3))
    assert linux == tamago


@pytest.mark.parametrize(
    ("payload", "status"),
    [
        (key_request(1 << 7), INVALID_PARAM),
        (key_request(svn=1), INVALID_PARAM),
        (key_request(tcb=b"\xff" * 8), INVALID_PARAM),
        (key_request(root=1), INVALID_KEY),
        (key_request(root=2 << 1), INVALID_KEY),
        (key_request(root=8), INVALID_PARAM),
    ],
)
def test_refused_keys(talk: Talk, payload: bytes, status: int) -> None:
    answer = talk.request(KEY_REQ, payload)
    assert int.from_bytes(answer[:4], "little") == status
    assert not any(answer[4:])


def test_tsc_information(talk: Talk) -> None:
    answer = talk.request(TSC_INFO_REQ, bytes(128))
    assert len(answer) == 128
    assert int.from_bytes(answer[8:16], "little") == 1 << 32
    assert int.from_bytes(answer[24:28], "little") == 0xC8


# -- refusals


def test_sequence_numbers(talk: Talk) -> None:
    key = talk.launch.vmpcks[0]
    message = Message(REPORT_REQ, report_request(), 1).seal(key)
    talk.processor.request(page(message))
    assert talk.refused(message) == AEAD_OFLOW, "replayed"
    assert talk.refused(Message(REPORT_REQ, report_request(), 2).seal(key)) == AEAD_OFLOW
    assert talk.refused(Message(REPORT_REQ, report_request(), 5).seal(key)) == AEAD_OFLOW, "skipped"
    assert talk.refused(Message(REPORT_REQ, report_request(), 0).seal(key)) == AEAD_OFLOW
    talk.request(REPORT_REQ, report_request(), 3)
    talk.request(REPORT_REQ, report_request(vmpl=1), 1, vmpck=1)
    assert talk.processor.counters == [4, 2, 0, 0]


def test_the_counter_ends_before_32_bits_do(talk: Talk) -> None:
    talk.processor.counters[0] = 2**32 - 2
    message = Message(REPORT_REQ, report_request(), 2**32 - 1).seal(talk.launch.vmpcks[0])
    assert talk.refused(message) == AEAD_OFLOW


def test_a_counter_that_starts_again_is_a_leniency(turin: Platform) -> None:
    talk = Talk(turin, lenient=True)
    for sequence in (1, 3, 1, 3):
        talk.request(REPORT_REQ, report_request(bytes((sequence,)) * 64), sequence)
    assert talk.restarts == [0]
    assert talk.reused == [], "the same messages again, so no IV protects two"
    talk.request(TSC_INFO_REQ, bytes(128), 1)
    assert talk.restarts == [0, 0]
    assert talk.reused == [0]
    assert talk.refused(Message(REPORT_REQ, report_request(), 5).seal(talk.launch.vmpcks[0])) == AEAD_OFLOW


def test_wrong_key_wrong_tag_wrong_vmpck(talk: Talk) -> None:
    key = talk.launch.vmpcks[0]
    good = Message(REPORT_REQ, report_request(), 1).seal(key)
    assert talk.refused(Message(REPORT_REQ, report_request(), 1).seal(bytes(32))) == INVALID_PARAM
    assert talk.refused(bytes((good[0] ^ 1,)) + good[1:]) == INVALID_PARAM
    assert talk.refused(Message(REPORT_REQ, report_request(), 1, 1).seal(key)) == INVALID_PARAM


@pytest.mark.parametrize(
    ("at", "value"),
    [
        *[(0x30, 0), (0x30, 2), (0x31, 2), (0x32, 0x61), (0x33, 1), (0x34, 6), (0x34, 0), (0x34, 200), (0x3C, 4)],
        *[(0x28, 1), (0x2F, 1), (0x38, 1), (0x3D, 1), (0x5F, 1), (0x37, 0xFF), (0x36, 97)],
    ],
)
def test_headers_that_are_refused(talk: Talk, at: int, value: int) -> None:
    good = bytearray(Message(REPORT_REQ, report_request(), 1).seal(talk.launch.vmpcks[0]))
    good[at] = value
    assert talk.refused(bytes(good)) == INVALID_PARAM


@pytest.mark.parametrize("at", [0x28, 0x38, 0x3D, 0x5F])
def test_reserved_header_bytes_are_refused_in_an_authentic_message_too(talk: Talk, at: int) -> None:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    key = talk.launch.vmpcks[0]
    header = bytearray(Message(REPORT_REQ, report_request(), 1).seal(key)[:0x60])
    header[at] = 1
    sealed = AESGCM(key).encrypt(bytes(header[0x20:0x2C]), report_request(), bytes(header[0x30:]))
    assert talk.refused(sealed[-16:] + bytes(header[16:]) + sealed[:-16]) == INVALID_PARAM


@pytest.mark.parametrize(
    ("kind", "payload", "version"),
    [
        *((kind, bytes(96), 1) for kind in (1, 7, 9, 11, 13, 15)),
        (REPORT_REQ, bytes(95), 1),
        (REPORT_REQ, bytes(97), 1),
        (REPORT_REQ, bytes(4000), 1),
        (REPORT_REQ, b"", 1),
        (REPORT_REQ, report_request(), 2),
        (KEY_REQ, bytes(0x48), 1),
        (KEY_REQ, bytes(0x18), 1),
        (KEY_REQ, bytes(0x20), 3),
        (TSC_INFO_REQ, bytes(64), 1),
    ],
)
def test_messages_that_are_not_served(talk: Talk, kind: int, payload: bytes, version: int) -> None:
    message = Message(kind, payload, 1, 0, version).seal(talk.launch.vmpcks[0])
    assert talk.refused(message) == INVALID_PARAM


@given(st.binary(max_size=4096), st.booleans())
def test_any_page_is_refused(data: bytes, plausible: bool) -> None:
    head = bytearray(data.ljust(4096, b"\0"))
    if plausible:
        head[0x20:0x34] = (1).to_bytes(16, "little") + b"\x01\x01\x60\x00"
    talk = Talk(None)  # type: ignore[arg-type]  # a platform is never asked
    assert talk.refused(bytes(head)) in (INVALID_PARAM, AEAD_OFLOW)
    assert talk.processor.counters == [0, 0, 0, 0]


@given(st.integers(0, 0x60 + 96 - 1), st.integers(1, 255))
def test_any_flipped_byte_is_refused(at: int, flip: int) -> None:
    talk = Talk(None)  # type: ignore[arg-type]  # a platform is never asked
    message = bytearray(Message(REPORT_REQ, report_request(), 1).seal(talk.launch.vmpcks[0]))
    if 16 <= at < 32:
        at = 0  # the unused half of AUTHTAG is not looked at
    message[at] ^= flip
    assert talk.refused(bytes(message)) in (INVALID_PARAM, AEAD_OFLOW)
