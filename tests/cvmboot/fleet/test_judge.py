"""The judge's short cuts give what the long way gives."""

import base64
from collections.abc import Callable
from typing import Any

from cvmboot.attest_input import evidence_of
from cvmboot.fleet.judge import Judge, _bare
from sev import Platform
from sev.collateral.cache import Cache
from sev.evidence.finds import Evidence


def _settings(turin: Platform, **more: Any) -> dict[str, Any]:
    root = turin.authority().certificates["ARK"].der
    certificates = [certificate.der for certificate in turin.certificates()]
    plain = {"certificates": certificates, "roots": [root], "crls": [], "at": "2027-01-01T00:00:00+00:00", "policy": {}}
    return plain | {"cache": None, "folder": ".", "ask": False, "full": True, "options": ""} | more


def test_a_bare_report_is_read_as_by_the_long_way(signed: Callable[[int], bytes]) -> None:
    raw = signed(1)
    forms = (raw, raw.hex().encode(), raw.hex().upper().encode(), base64.b64encode(raw))
    for data in forms:
        short, long = _bare(data), evidence_of(data)
        assert short is not None
        for name in Evidence.__slots__:
            assert getattr(short, name) == getattr(long, name), name
    other = base64.b64encode(raw[:-1])
    spaced = raw.hex()[:-2].encode() + b" \n"
    for data in (b"", raw[:-1], bytes(1184), b"=" * 1580, b"z" * 2368, other, spaced, b"\xff" * 2368, b"00" * 1184):
        assert _bare(data) is None


def test_records_of_one_chip_need_the_cache_once(
    turin: Platform, signed: Callable[[int], bytes], tmp_path: Any
) -> None:
    """And each still gets the certificates; a changed report among them gets none of the others' trust."""
    cache = Cache(tmp_path)
    for certificate in turin.certificates():
        cache.put(certificate)
    judge = Judge(_settings(turin, certificates=[], cache=str(tmp_path)))
    reads = []
    complete = judge._resolver.complete
    judge._resolver.complete = lambda *words: reads.append(words) or complete(*words)  # type: ignore[method-assign, func-returns-value]
    changed = bytearray(signed(3))
    changed[0x90] ^= 1
    reports = [signed(1), signed(2), bytes(changed), signed(4)]
    records = [
        {"index": number, "source": f"line {number}", "kind": "json", "data": b'"%b"' % raw.hex().encode()}
        for number, raw in enumerate(reports, 1)
    ]
    reply = judge.judge_all(records)
    assert reply["statuses"] == [(1, 0), (2, 0), (3, 4), (4, 0)]
    assert len(reads) == 2  # the first, and the changed one
    missing = Judge(_settings(turin, certificates=[], ask=True)).judge_all(records)
    assert [needs["record"]["index"] for needs in missing["needs"]] == [1, 2, 3, 4]
    assert missing["statuses"] == []
    again = [needs["record"] | {"final": True, "problem": "nobody has it"} for needs in missing["needs"]]
    found = [certificate.der for certificate in turin.certificates()]
    judge = Judge(_settings(turin, certificates=[], ask=True))
    first = judge.judge_all([again[0] | {"found": found}])
    assert first["statuses"] == [(1, 0)]
    # What was found for one is known for the others of the chip.
    assert judge.judge_all(records[1:2])["statuses"] == [(2, 0)]
    assert b"nobody has it" in Judge(_settings(turin, certificates=[])).judge_all(again[1:2])["lines"]


def test_an_error_of_ours_ends_one_record(turin: Platform, signed: Callable[[int], bytes]) -> None:
    judge = Judge(_settings(turin))
    verify = judge._verifier.verify

    def broken(raw: bytes, *more: Any) -> Any:
        if raw == signed(1):
            raise RuntimeError("broken")
        return verify(raw, *more)

    judge._verifier.verify = broken  # type: ignore[method-assign]
    records = [
        {"index": number, "source": str(number), "kind": "json", "data": b'"%b"' % signed(number).hex().encode()}
        for number in (1, 2)
    ]
    reply = judge.judge_all(records)
    assert reply["statuses"] == [(1, 1), (2, 0)]
    assert b"internal error: RuntimeError: broken" in reply["lines"]
