"""The AMD secure processor as a guest talks to it: opens guest messages, answers REPORT, KEY and TSC_INFO, seals the answers.

AMD 56860, SNP_GUEST_REQUEST and "Guest Messages". One counter per VMPCK; it moves on only when a request was answered.
"""

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from machine.callbacks import nothing
from sev.errors import Refused
from sev.firmware_status import AEAD_OFLOW, INVALID_PARAM, SUCCESS
from sev.guest.launch import Launch
from sev.guest.message import KEY_REQ, NAMES, REPORT_REQ, TSC_INFO_REQ, VMPCKS, Message, SealedMessage

if TYPE_CHECKING:
    from sev.platform import Platform

LAST_SEQUENCE = (1 << 32) - 1
"""Guests keep 32 bits of the counter; the firmware refuses to go on beyond."""
REPORT_REQ_SIZE, TSC_INFO_SIZE = 0x60, 0x80
KEY_REQ_SIZES = range(0x20, 0x41, 8)
"""Linux sends 0x20 bytes, 0x28 with LAUNCH_MIT_VECTOR; TamaGo 0x40."""
REPORT_SIZE = 0x4A0
_REPORT_REQ = struct.Struct("<64sII24s")
_TSC_SCALE_ONE = 1 << 32
_MOST_REMEMBERED = 1024
_SIZES = {REPORT_REQ: (REPORT_REQ_SIZE,), KEY_REQ: KEY_REQ_SIZES, TSC_INFO_REQ: (TSC_INFO_SIZE,)}
_VERSIONS = {REPORT_REQ: (1,), KEY_REQ: (1, 2), TSC_INFO_REQ: (1,)}


class SecureProcessor:
    """Serves one guest. `platform` gives the chip, when it is first needed.

    `allow_counter_restart` is the leniency for TamaGo, which begins at sequence number 1 again with each of its GHCB objects.
    Real firmware refuses that. `on_restart` and `on_iv_reuse` get the VMPCK's number.
    """

    def __init__(self, launch: Launch, platform: "Callable[[], Platform]", allow_counter_restart: bool = True) -> None:
        self._launch = launch
        self._platform = platform
        self.allow_counter_restart = allow_counter_restart
        self.counters = [0] * VMPCKS
        """The last sequence number used under each VMPCK; a request must carry the next."""
        self.on_restart: Callable[[int], None] = nothing
        self.on_iv_reuse: Callable[[int], None] = nothing
        self._seen: dict[tuple[int, int], bytes] = {}

    def warm_up(self) -> None:
        """Load what the first request needs, cryptography and signing key; on another thread, while the guest boots."""
        platform = self._platform()
        launch = self._launch
        platform.sign_report(platform.report(launch.report_version, platform.default_key).encode())
        Message(REPORT_REQ, b"", 1).seal(launch.vmpcks[0])

    def request(self, page: bytes) -> bytes:
        """Answer the message in a request page: the response message, to be stored in the response page.

        Refused, with no counter changed, for a message that is malformed, not authentic or out of sequence.
        """
        sealed = SealedMessage(page)
        restart = self._check_sequence(sealed)
        key = self._launch.vmpcks[sealed.vmpck]
        payload = sealed.open(key)
        self._note_iv(sealed)
        sizes, versions = _SIZES.get(sealed.kind, ()), _VERSIONS.get(sealed.kind, ())
        name = NAMES[sealed.kind]
        if not sizes:
            raise Refused(INVALID_PARAM, f"MSG_{name} is not served")
        if sealed.version not in versions:
            raise Refused(INVALID_PARAM, f"MSG_{name} of MSG_VERSION {sealed.version}; wanted {versions}")
        if len(payload) not in sizes:
            raise Refused(INVALID_PARAM, f"MSG_{name} of {len(payload)} bytes; wanted {', '.join(map(str, sizes))}")
        answer = self._answer(sealed.kind, sealed.version, payload, sealed.vmpck)
        response = Message(sealed.kind + 1, answer, sealed.sequence + 1, sealed.vmpck, sealed.version).seal(key)
        if restart:
            self.on_restart(sealed.vmpck)
        self.counters[sealed.vmpck] = sealed.sequence + 1
        return response

    def save(self) -> dict[str, Any]:
        """Plain data for a snapshot."""
        return {"counters": list(self.counters), "seen": [[*place, tag] for place, tag in self._seen.items()]}

    def load(self, state: dict[str, Any]) -> None:
        """Put back what `save` gave."""
        self.counters = list(state["counters"])
        self._seen = {(vmpck, sequence): tag for vmpck, sequence, tag in state["seen"]}

    def _check_sequence(self, message: SealedMessage) -> bool:
        """Whether the guest starts to count again. Refused for any number but the next one."""
        last = self.counters[message.vmpck]
        if message.sequence == last + 1 and message.sequence < LAST_SEQUENCE:
            return False
        if message.sequence == 1 and self.allow_counter_restart:
            return True
        raise Refused(
            AEAD_OFLOW,
            f"MSG_SEQNO {message.sequence} under VMPCK{message.vmpck}; wanted {last + 1}, below {LAST_SEQUENCE}",
        )

    def _note_iv(self, message: SealedMessage) -> None:
        """AES-GCM falls apart when one key and IV protect two messages; the same message again is a retry."""
        place = message.vmpck, message.sequence
        if self._seen.setdefault(place, message.tag) != message.tag:
            self.on_iv_reuse(message.vmpck)
        if len(self._seen) > _MOST_REMEMBERED:
            del self._seen[next(iter(self._seen))]

    def _answer(self, kind: int, version: int, payload: bytes, vmpl: int) -> bytes:
        if kind == REPORT_REQ:
            return self._report(payload, vmpl)
        if kind == KEY_REQ:
            return self._key(payload, version, vmpl)
        launch = self._launch
        # GUEST_TSC_SCALE in 8.32 fixed point, GUEST_TSC_OFFSET, TSC_FACTOR
        return struct.pack("<IIQQI", SUCCESS, 0, _TSC_SCALE_ONE, 0, launch.tsc_factor).ljust(TSC_INFO_SIZE, b"\0")

    def _report(self, payload: bytes, vmpl: int) -> bytes:
        """MSG_REPORT_RSP; where the request is refused, STATUS says why and the report is zeros."""
        try:
            report = self._signed_report(payload, vmpl)
            status, size = SUCCESS, len(report)
        except Refused as refused:
            report, status, size = bytes(REPORT_SIZE), refused.status, 0
        return struct.pack("<II24s", status, size, bytes(24)) + report

    def _signed_report(self, payload: bytes, caller: int) -> bytes:
        data, vmpl, key_select, reserved = _REPORT_REQ.unpack(payload)
        if any(reserved) or key_select > 2:
            raise Refused(
                INVALID_PARAM, f"MSG_REPORT_REQ with KEY_SEL {key_select:#x} or reserved bytes that are not zero"
            )
        if not caller <= vmpl <= 3:
            raise Refused(INVALID_PARAM, f"MSG_REPORT_REQ for VMPL {vmpl} under VMPCK{caller}")
        platform = self._platform()
        launch = self._launch
        key = platform.select_key(key_select)
        report = platform.report(
            launch.report_version,
            key,
            guest_svn=launch.guest_svn,
            policy=launch.policy,
            family_id=launch.family_id,
            image_id=launch.image_id,
            vmpl=vmpl,
            report_data=data,
            measurement=launch.measurement,
            host_data=launch.host_data,
            id_key_digest=launch.id_key_digest,
            author_key_digest=launch.author_key_digest,
            report_id=launch.report_id,
        )
        report.key_info |= launch.author_key_en
        return platform.sign_report(report.encode())

    def _key(self, payload: bytes, version: int, vmpl: int) -> bytes:
        """MSG_KEY_RSP."""
        from sev.platform import GuestFields, KeyRequest

        platform = self._platform()
        launch = self._launch
        fields = GuestFields(
            policy=launch.policy,
            image_id=launch.image_id,
            family_id=launch.family_id,
            measurement=launch.measurement,
            guest_svn=launch.guest_svn,
            vmpl=vmpl,
            launch_mit_vector=platform.settings.mitigation_vector,
        )
        try:
            key, status = platform.derive_key(KeyRequest.decode(payload, version), fields), SUCCESS
        except Refused as refused:
            key, status = bytes(32), refused.status
        return struct.pack("<I28s", status, bytes(28)) + key
