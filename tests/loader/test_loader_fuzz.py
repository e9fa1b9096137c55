"""Ten thousand damaged images: each loads or is refused in one line, and soon."""

import contextlib
import mmap
import struct
from datetime import timedelta
from functools import cache

import pytest
from go_table_builder import build_gopclntab
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pe_builder import DATA, SectionSpec, build, certificate

from loader import authenticode, pe
from loader.errors import LoaderError
from loader.symbols import SymbolTable


@cache
def corpus() -> list[bytes]:
    """Sound images with all that the loader reads: relocations, signatures, symbols, Go's table, odd alignment."""
    code = SectionSpec(".text", b"\xc3" * 0x400)
    data = SectionSpec(".data", b"d" * 0x200, virtual_size=0x3000, characteristics=DATA)
    sites = [(0x1000 + 8 * n, 10) for n in range(40)] + [(0x2000, 3), (0x2004, 1), (0x2006, 2)]
    symbols = [("efi_main", 1, 0), ("a_function_with_a_long_name", 1, 0x40)]
    table = build_gopclntab([("runtime.main", 0), ("main.main", 0x40)], 0x80)
    return [
        build([code, data], relocations=sites, certificates=certificate(b"c" * 40) + certificate(b"d" * 9)),
        build([code, data], relocations=sites, symbols=symbols, characteristics=0x0206, image_base=0),
        build([code, SectionSpec(".gopclntab", table)], characteristics=0x0226, trailer=b"odd"),
        build([SectionSpec(".a", b"a", rva=0xFF60), SectionSpec(".b", b"b", rva=0xFF64)], size_of_image=0xFF70),
        build([code], optional_header_size=160, directory_count=6, pe_offset=0x40),
    ]


INTERESTING = [0, 1, 7, 0x40, 0x200, 0x1000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF]
EDIT = st.one_of(
    st.tuples(st.just("byte"), st.integers(0, 0x1FFF), st.integers(0, 255)),
    st.tuples(st.just("word"), st.integers(0, 0x1FF).map(lambda n: n & ~1), st.sampled_from(INTERESTING)),
    st.tuples(st.just("word"), st.integers(0x80, 0x1FF).map(lambda n: n & ~3), st.integers(0, 0xFFFFFFFF)),
    st.tuples(st.just("cut"), st.integers(0, 0x2000), st.just(0)),
    st.tuples(st.just("copy"), st.integers(0, 0x1FFF), st.integers(0, 0x1FFF)),
)


def damaged(which: int, edits: list[tuple[str, int, int]]) -> bytes:
    data = bytearray(corpus()[which])
    for kind, offset, value in edits:
        at = offset % max(len(data), 1)
        if kind == "byte" and data:
            data[at] = value
        elif kind == "word" and at + 4 <= len(data):
            struct.pack_into("<I", data, at, value)
        elif kind == "cut":
            del data[at:]
        elif kind == "copy" and data:
            source = value % len(data)
            piece = data[source : source + 40]
            data[at : at + len(piece)] = piece
    return bytes(data)


def use_everything(data: bytes) -> None:
    """All of the package's doors, with LoaderError as the only way out."""
    try:
        image = pe.parse(data)
    except LoaderError as error:
        assert str(error).isprintable()
        return
    assert len(image.subsystem_name) + len(repr(image.sections)) > 0
    # Anonymous pages: an image of 1 GiB costs what it touches.
    with mmap.mmap(-1, image.size_of_image) as pages, memoryview(pages) as memory:
        for base in (image.image_base, 0x4_2345_6000):
            try:
                image.load_into(memory, base)
            except LoaderError as error:
                assert str(error).isprintable()
    with contextlib.suppress(LoaderError):
        authenticode.digest(image)
    with contextlib.suppress(LoaderError):
        list(authenticode.certificates(image))
    symbols = SymbolTable(image, base=0)
    for rva in (0, image.entry_rva, image.sections[0].rva + 8, image.size_of_image - 1):
        found = symbols.lookup(rva)
        assert found is None or found[1] >= 0


def fuzzer(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=timedelta(seconds=2),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


WHICH = st.integers(0, 4)
EDITS = st.lists(EDIT, min_size=1, max_size=6)


def test_the_corpus_is_sound() -> None:
    for data in corpus():
        image = pe.parse(data)
        with mmap.mmap(-1, image.size_of_image) as pages, memoryview(pages) as memory:
            image.load_into(memory, image.image_base)
        authenticode.digest(image)


@fuzzer(500)
@given(WHICH, EDITS)
def test_damaged_images(which: int, edits: list[tuple[str, int, int]]) -> None:
    use_everything(damaged(which, edits))


@pytest.mark.slow
@fuzzer(10_000)
@given(WHICH, EDITS)
def test_ten_thousand_damaged_images(which: int, edits: list[tuple[str, int, int]]) -> None:
    use_everything(damaged(which, edits))


@fuzzer(200)
@given(st.binary(max_size=600))
def test_garbage(data: bytes) -> None:
    for head in (b"", b"MZ", corpus()[0][:0x98]):
        use_everything(head + data)
