"""EFI_SIGNATURE_LIST: what is built parses, what is malformed is refused, and appending adds no duplicates."""

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from signing_keys import Identity

from uefi import guids
from uefi.guids import Guid
from uefi.security import signature_lists
from uefi.security.errors import SignatureListError
from uefi.security.signature_lists import DATA_SIZES, Signature, SignatureList

OWNER = Guid.parse("77fa9abd-0359-4d32-bd60-28f4e78f784b")
OTHER = Guid.parse("11111111-2222-3333-4444-123456789abc")


def sha256_list(*values: int, owner: Guid = OWNER) -> SignatureList:
    return SignatureList(guids.CERT_SHA256, [Signature(owner, bytes([value]) * 32) for value in values])


@st.composite
def any_list(draw: st.DrawFn) -> SignatureList:
    kind = draw(st.sampled_from([*DATA_SIZES, OTHER]))
    size = DATA_SIZES.get(kind) or draw(st.integers(0, 40))
    data = st.binary(min_size=size, max_size=size)
    signatures = st.builds(Signature, st.sampled_from([OWNER, OTHER]), data)
    return SignatureList(Guid(kind), draw(st.lists(signatures, min_size=1, max_size=4)), draw(st.binary(max_size=5)))


@settings(deadline=None)
@given(st.lists(any_list(), max_size=4))
def test_what_is_built_parses(lists: list[SignatureList]) -> None:
    parsed = signature_lists.parse(signature_lists.build(lists))
    assert [(each.type, each.header, each.signatures) for each in parsed] == [
        (each.type, each.header, each.signatures) for each in lists
    ]


@settings(deadline=None)
@given(st.lists(any_list(), min_size=1, max_size=3), st.data())
def test_every_truncation_is_refused_or_drops_whole_lists(lists: list[SignatureList], data: st.DataObject) -> None:
    whole = signature_lists.build(lists)
    ends = {len(signature_lists.build(lists[:count])) for count in range(len(lists) + 1)}
    cut = data.draw(st.integers(0, len(whole)))
    if cut in ends:
        signature_lists.parse(whole[:cut])
    else:
        with pytest.raises(SignatureListError):
            signature_lists.parse(whole[:cut])


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_raise_only_the_packages_error(data: bytes) -> None:
    try:
        signature_lists.check(data)
    except SignatureListError as error:
        assert "\n" not in str(error)


@settings(deadline=None)
@given(st.integers(0, 27), st.integers(0, 255), st.lists(any_list(), min_size=1, max_size=2))
def test_a_damaged_header_never_escapes(position: int, value: int, lists: list[SignatureList]) -> None:
    data = bytearray(signature_lists.build(lists))
    data[position] = value
    try:
        assert signature_lists.build(signature_lists.parse(bytes(data))) == bytes(data)
    except SignatureListError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (16, 27, "SignatureListSize 0x1b"),
        (16, 77, "SignatureListSize 0x4d"),
        (20, 49, "SignatureHeaderSize 0x31"),
        (24, 0, "SignatureSize 0x0"),
        (24, 12, "SignatureSize 0xc"),
        (24, 47, "SignatureSize 0x2f"),
    ],
)
def test_impossible_sizes_are_named(field: int, value: int, message: str) -> None:
    data = bytearray(signature_lists.build([sha256_list(1)]))
    assert len(data) == 28 + 48
    data[field : field + 4] = value.to_bytes(4, "little")
    with pytest.raises(SignatureListError, match=message):
        signature_lists.parse(bytes(data))


def test_check_refuses_what_secure_boot_variables_may_not_hold() -> None:
    good = [sha256_list(1, 2)]
    signature_lists.check(signature_lists.build(good))
    for bad, message in (
        (SignatureList(OTHER, [Signature(OWNER, b"x")]), "is not supported"),
        (SignatureList(guids.CERT_SHA256, [Signature(OWNER, b"x" * 31)]), "has 31 bytes, wanted 32"),
        (SignatureList(guids.CERT_SHA256, [Signature(OWNER, b"x" * 32)], b"head"), "header of 4 bytes"),
    ):
        with pytest.raises(SignatureListError, match=message):
            signature_lists.check(signature_lists.build([*good, bad]))
    with pytest.raises(SignatureListError, match="2 signatures, at most 1"):
        signature_lists.check(signature_lists.build(good), most=1)


def test_signatures_of_two_sizes_do_not_fit_one_list() -> None:
    with pytest.raises(SignatureListError, match="one size"):
        signature_lists.build([SignatureList(guids.CERT_X509, [Signature(OWNER, b"a"), Signature(OWNER, b"ab")])])


def test_an_append_adds_only_what_is_new() -> None:
    existing = signature_lists.build([sha256_list(1, 2), sha256_list(3)])
    addition = signature_lists.build(
        [sha256_list(2, 4), sha256_list(3), sha256_list(4, 5), sha256_list(1, owner=OTHER)]
    )
    added = signature_lists.parse(signature_lists.without_known(existing, addition))
    assert [(each.type, each.signatures) for each in added] == [
        (guids.CERT_SHA256, [Signature(OWNER, b"\4" * 32)]),
        (guids.CERT_SHA256, [Signature(OWNER, b"\5" * 32)]),
        (guids.CERT_SHA256, [Signature(OTHER, b"\1" * 32)]),
    ]
    assert signature_lists.without_known(existing, existing) == b""


def test_of_type_finds_data_across_lists() -> None:
    lists = [sha256_list(1), SignatureList(guids.CERT_X509, [Signature(OWNER, b"der")]), sha256_list(2)]
    assert list(signature_lists.of_type(lists, guids.CERT_SHA256)) == [b"\1" * 32, b"\2" * 32]


@pytest.mark.skipif(not shutil.which("cert-to-efi-sig-list"), reason="Debian's efitools is not installed")
def test_efitools_builds_the_same_list(tmp_path: Path) -> None:
    identity = Identity("efitools")
    (tmp_path / "c.pem").write_bytes(identity.pem_certificate())
    command = ["cert-to-efi-sig-list", "-g", str(OWNER), str(tmp_path / "c.pem"), str(tmp_path / "c.esl")]
    subprocess.run(command, check=True, capture_output=True)
    ours = SignatureList(guids.CERT_X509, [Signature(OWNER, identity.der)])
    assert (tmp_path / "c.esl").read_bytes() == signature_lists.build([ours])
