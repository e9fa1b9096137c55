"""IGVM files: digests recomputed from their directives, and damaged files."""

import struct
import zlib
from collections.abc import Sequence
from hashlib import sha384

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePrivateKey, generate_private_key
from hypothesis import given, settings
from hypothesis import strategies as st

from sev.measure import MalformedIgvm, MeasureError
from sev.measure.id_block import IdAuth, IdBlock, encode_public_key
from sev.measure.igvm import Igvm

PAGE = bytes(range(256)) * 16
VMSA = b"V" * 4096
ZEROS = bytes(48)
NORMAL, UNMEASURED, SECRETS, CPUID = 1, 4, 5, 6


def header(kind: int, body: bytes) -> bytes:
    return struct.pack("<II", kind, len(body)) + body.ljust((len(body) + 7) & ~7, b"\0")


def platform(kind: int = 2, mask: int = 1) -> bytes:
    return header(0x1, struct.pack("<IBBHQ", mask, 0, kind, 1, 0))


def page(gpa: int, offset: int = 0, flags: int = 0, kind: int = 0, mask: int = 1) -> bytes:
    return header(0x302, struct.pack("<QIIIHH", gpa, mask, offset, flags, kind, 0))


def area(index: int, size: int) -> bytes:
    return header(0x301, struct.pack("<QII", size, index, 0))


def insert(gpa: int, index: int, mask: int = 1) -> bytes:
    return header(0x303, struct.pack("<QII", gpa, mask, index))


def vp_context(gpa: int, offset: int, mask: int = 1) -> bytes:
    return header(0x304, struct.pack("<QIIHH", gpa, mask, offset, 0, 0))


def igvm(headers: Sequence[bytes], contents: bytes = b"", version: int = 1) -> bytes:
    """A file whose contents begin at 0x1000."""
    body = b"".join(headers)
    start = 24 if version == 1 else 32
    fixed = struct.pack("<4sIIIII", b"IGVM", version, start, len(body), 0x1000 + len(contents), 0)
    if version == 2:
        fixed += struct.pack("<II", 0, 4096)
    crc = zlib.crc32(fixed + body)
    fixed = fixed[:20] + struct.pack("<I", crc) + fixed[24:]
    return (fixed + body).ljust(0x1000, b"\0") + contents


def chain(pages: Sequence[tuple[int, int, bytes]]) -> bytes:
    value = bytes(48)
    for kind, gpa, contents in pages:
        value = sha384(value + contents + struct.pack("<HBBIQ", 0x70, kind, 0, 0, gpa)).digest()
    return value


HEADERS = [
    platform(2, 1),
    platform(1, 2),
    header(0x101, struct.pack("<QII", 0x30000, 1, 0)),
    header(0x101, struct.pack("<QII", 0x1F, 2, 0)),
    header(0x80000777, b"optional, and unknown"),
    area(3, 0x2000),
    page(0x1000, 0x1000),
    page(0x2000, 0x1000, mask=2),
    page(0x3000),
    page(0x4000, 0x1000, flags=2),
    page(0x5000, 0x1000, flags=4),
    page(0x6000, kind=1),
    page(0x7000, kind=2),
    page(0x8000, kind=3),
    insert(0x9000, 3),
    vp_context(0xFFFFFFFFF000, 0x2000),
]
WANTED = [
    (NORMAL, 0x1000, sha384(PAGE).digest()),
    (NORMAL, 0x3000, sha384(bytes(4096)).digest()),
    (UNMEASURED, 0x4000, ZEROS),
    (SECRETS, 0x6000, ZEROS),
    (CPUID, 0x7000, ZEROS),
    (CPUID, 0x8000, ZEROS),
    (UNMEASURED, 0x9000, ZEROS),
    (UNMEASURED, 0xA000, ZEROS),
    (2, 0xFFFFFFFFF000, sha384(VMSA).digest()),
]


@pytest.mark.parametrize("version", [1, 2])
def test_each_directive(version: int) -> None:
    file = Igvm(igvm(HEADERS, PAGE + VMSA, version))
    assert file.launch_digest() == chain(WANTED)
    assert (file.mask, file.guest_policy, file.id_block) == (1, 0x30000, None)


def test_pages_of_2_mib() -> None:
    contents = bytes(range(256)) * (2 << 12)
    file = Igvm(igvm([platform(), page(0x200000, 0x1000, flags=1), page(0x400000, flags=1)], contents))
    filled = [
        (NORMAL, 0x200000 + at, sha384(contents[at : at + 4096]).digest()) for at in range(0, len(contents), 4096)
    ]
    empty = [(NORMAL, 0x400000 + at, sha384(bytes(4096)).digest()) for at in range(0, 2 << 20, 4096)]
    assert file.launch_digest() == chain(filled + empty)


def id_block_header(
    block: IdBlock, key: EllipticCurvePrivateKey, author: EllipticCurvePrivateKey | None = None, mask: int = 1
) -> bytes:
    """IGVM_VHS_SNP_ID_BLOCK of a block, in the order of igvm_defs: the policy is not in it, the keys have a reserved field."""
    auth = IdAuth.sign(block, key, author)
    body = struct.pack("<IB3s", mask, author is not None, bytes(3)) + block.launch_digest
    body += block.family_id + block.image_id + struct.pack("<IIII", 1, block.guest_svn, 1, 1 if author else 0)
    for signature, public in ((auth.signature, auth.id_key), (auth.id_key_signature, auth.author_key)):
        body += (signature or bytes(144))[:144]
        body += (public[:4] + bytes(4) + public[4:148]) if public else bytes(152)
    return header(0x30B, body)


KEY, AUTHOR = generate_private_key(SECP384R1()), generate_private_key(SECP384R1())
POLICY = 0x30000


@pytest.mark.parametrize("author", [None, AUTHOR])
def test_id_block(author: EllipticCurvePrivateKey | None) -> None:
    wanted = IdBlock(chain(WANTED), family_id=b"F" * 16, image_id=b"I" * 16, guest_svn=9, policy=POLICY)
    file = Igvm(igvm([*HEADERS, id_block_header(wanted, KEY, author)], PAGE + VMSA))
    assert file.id_block is not None
    assert file.id_block.launch_digest == file.launch_digest()
    assert file.guest_policy is not None
    block, auth = file.id_block.signed(file.guest_policy)
    assert block.pack() == wanted.pack()
    auth.verify(block)
    assert auth.id_key == encode_public_key(KEY.public_key())
    assert auth.author_key == (encode_public_key(author.public_key()) if author else None)
    with pytest.raises(MeasureError, match="did not sign this ID block"):
        auth.verify(file.id_block.signed(POLICY | 1 << 19)[0])


def test_refused_id_blocks() -> None:
    good = id_block_header(IdBlock(bytes(48)), KEY)
    with pytest.raises(MalformedIgvm, match="two ID blocks"):
        Igvm(igvm([platform(), good, good]))
    assert Igvm(igvm([platform(), id_block_header(IdBlock(bytes(48)), KEY, mask=2)])).id_block is None
    for offset, words in ((8 + 88, "version 7"), (8 + 96, "algorithms 7 and 0")):
        changed = bytearray(good)
        changed[offset] = 7
        file = Igvm(igvm([platform(), bytes(changed)]))
        assert file.id_block is not None
        with pytest.raises(MalformedIgvm, match=words):
            file.id_block.signed(0)


def test_native_zero_pages() -> None:
    wanted = [(3, gpa, ZEROS) if gpa == 0x3000 else (kind, gpa, contents) for kind, gpa, contents in WANTED]
    assert Igvm(igvm(HEADERS, PAGE + VMSA)).launch_digest(native_zero=True) == chain(wanted)


def test_what_kvm_measures_otherwise() -> None:
    state, last = vp_context(0x5000, 0x2000), vp_context(0xFFFFFFFFF000, 0x2000)
    for headers, words in (
        ([page(0x1000), last], []),
        ([page(0x1000), state], ["elsewhere"]),
        ([last, page(0x1000), area(0, 0x1000)], ["pages after"]),
        ([page(0x1000), last, last], ["states of 2 processors"]),
        ([last, page(0x1000, mask=2)], []),
        ([page(0x1000)], []),
    ):
        found = Igvm(igvm([platform(), platform(1, 2), *headers], PAGE + VMSA)).kvm_differences()
        assert len(found) == len(words)
        assert all(word in text for word, text in zip(words, found, strict=True))


def test_pages_are_counted() -> None:
    assert Igvm(igvm([*HEADERS, page(0x200000, flags=1)], PAGE + VMSA)).page_counts() == {
        **{"normal": 2 + 512, "unmeasured": 1, "secrets": 1, "CPUID": 2, "shared": 1, "parameter": 2, "VMSA": 1}
    }


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"IGVM", "of 4 bytes"),
        (bytes(4096), "begins with"),
        (igvm([platform()], version=3), "version 3"),
        (igvm([platform()])[:-1], "it has 4095"),
        (igvm([platform()]).replace(struct.pack("<IBBHQ", 1, 0, 2, 1, 0), bytes(16)), "checksum"),
        (igvm([platform(1), platform(3)]), "types: 1, 3"),
        (igvm([]), "types: none"),
        (igvm([header(0x302, bytes(8)), platform()]), "has 8 bytes; wanted 24"),
        (igvm([platform(), struct.pack("<II", 0x302, 0x7FFFFFFF)]), "only 0 are left"),
        (igvm([platform(), b"1234"]), "4 bytes that are no header"),
        (igvm([platform(), header(0x777, b"")]), "unknown type 0x777, which is not marked as optional"),
    ],
)
def test_refused_headers(data: bytes, words: str) -> None:
    with pytest.raises(MalformedIgvm) as caught:
        Igvm(data)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ([page(0x1001)], "address 0x1001"),
        ([page(1 << 52)], "below 2"),
        ([page(0, flags=8)], "flags 0x8"),
        ([page(0x1000, flags=1)], "2 MiB for 0x1000"),
        ([page(0, kind=9)], "type 9"),
        ([page(0, 0xFFF001)], "offset 0xfff001"),
        ([vp_context(0, 0xFFFFFFFF)], "offset 0xffffffff"),
        ([insert(0, 5)], "area 5 is inserted, but not declared"),
        ([area(5, 0x1000), insert(0, 5), insert(0x1000, 5)], "or inserted twice"),
        ([area(5, 5), insert(0, 5)], "has 0x5 bytes"),
        ([area(5, 1 << 40), insert(0, 5)], "more than 1048576 pages"),
        ([page(0, flags=1)] * 2049, "more than 1048576 pages"),
    ],
)
def test_refused_directives(headers: list[bytes], words: str) -> None:
    body = b"".join([platform(), *headers])
    fixed = struct.pack("<4sIIIII", b"IGVM", 1, 24, len(body), 24 + len(body), 0)
    crc = struct.pack("<I", zlib.crc32(fixed + body))
    with pytest.raises(MalformedIgvm) as caught:
        Igvm(fixed[:20] + crc + body).launch_digest()
    assert words in str(caught.value)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), max_size=6), st.integers(0, 0x3000), st.booleans())
def test_damaged_files(changes: list[tuple[int, int]], size: int, cut: bool) -> None:
    data = bytearray(igvm(HEADERS, PAGE + VMSA))
    for offset, value in changes:
        data[offset] = value
    if cut:
        del data[size:]
        if len(data) >= 24:
            struct.pack_into("<I", data, 16, len(data))
    if len(data) >= 24:
        start, length = struct.unpack_from("<II", data, 8)
        data[20:24] = bytes(4)
        struct.pack_into("<I", data, 20, zlib.crc32(data[: min(start + length, len(data))]))
    try:
        assert len(Igvm(bytes(data)).launch_digest()) == 48
    except MalformedIgvm as error:
        assert "\n" not in str(error)
