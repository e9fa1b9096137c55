"""The memory map and the pool against simple models: one entry a page, one interval a piece."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uefi import memory_types as mt
from uefi.memory_map import PAGE, MemoryMap
from uefi.pool import Pool
from uefi.status import EfiError, Status

PAGES = 64
BASE, HIGH = 0x100000, 1 << 32
TYPES = (mt.LOADER_CODE, mt.LOADER_DATA, mt.BOOT_DATA, mt.RUNTIME_DATA, mt.RUNTIME_CODE)


def new_map() -> MemoryMap:
    """PAGES pages below 4 GiB and as many above."""
    memory_map = MemoryMap()
    for start in (BASE, HIGH):
        memory_map.add(start, start + PAGES * PAGE, mt.CONVENTIONAL)
    return memory_map


def pages_of(memory_map: MemoryMap) -> dict[int, tuple[int, int]]:
    """What GetMemoryMap tells, page by page: type and attributes. Checks that the descriptors are well-formed."""
    raw = memory_map.descriptors()
    assert len(raw) % mt.DESCRIPTOR_SIZE == 0
    found: dict[int, tuple[int, int]] = {}
    last = None
    for at in range(0, len(raw), mt.DESCRIPTOR_SIZE):
        kind, start, virtual, count, attributes = struct.unpack_from("<IxxxxQQQQ", raw, at)
        assert start % PAGE == 0
        assert count > 0
        assert virtual == 0
        if last is not None:
            assert last[0] <= start, "sorted, without overlap"
            assert last != (start, kind, attributes), "neighbours that are alike are one"
        for n in range(count):
            found[start + n * PAGE] = kind, attributes
        last = start + count * PAGE, kind, attributes
    return found


STEPS = st.lists(
    st.tuples(
        st.sampled_from(("any", "below", "at", "free")),
        st.integers(1, 24),
        st.sampled_from(TYPES),
        st.integers(0, 2 * PAGES - 1),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_pages_against_a_model(steps):
    memory_map = new_map()
    model = dict.fromkeys(pages_of(memory_map), mt.CONVENTIONAL)
    places = sorted(model)
    for what, count, kind, place in steps:
        key = memory_map.key
        wanted = [places[place] + n * PAGE for n in range(count)]
        free = [page for page in places if model[page] == mt.CONVENTIONAL]
        try:
            if what == "free":
                memory_map.free(wanted[0], count)
                assert all(model.get(page, mt.CONVENTIONAL) != mt.CONVENTIONAL for page in wanted)
                model.update(dict.fromkeys(wanted, mt.CONVENTIONAL))
            else:
                limit = places[place] if what == "below" else 1 << 63
                if what == "at":
                    memory_map.allocate_at(wanted[0], count, kind)
                    start = wanted[0]
                else:
                    start = memory_map.allocate(count, kind, limit)
                given_pages = [start + n * PAGE for n in range(count)]
                assert set(given_pages) <= set(free)
                assert given_pages[-1] + PAGE <= limit
                model.update(dict.fromkeys(given_pages, kind))
            assert memory_map.key != key
        except EfiError as error:
            assert memory_map.key == key
            if what == "free":
                assert error.status == Status.NOT_FOUND
                assert any(model.get(page, mt.CONVENTIONAL) == mt.CONVENTIONAL for page in wanted)
            elif what == "at":
                assert error.status == Status.NOT_FOUND
                assert not set(wanted) <= set(free)
            else:
                assert error.status == Status.OUT_OF_RESOURCES
                usable = {page for page in free if page + PAGE <= limit}
                assert not any(all(page + n * PAGE in usable for n in range(count)) for page in usable)
        told = pages_of(memory_map)
        assert {page: kind for page, (kind, _) in told.items()} == model
        runtime = {page for page, (_, attributes) in told.items() if attributes & mt.RUNTIME}
        assert runtime == {page for page, kind in model.items() if kind in mt.RUNTIME_TYPES}


def test_everything_freed_is_one_region_again():
    memory_map = new_map()
    before = memory_map.descriptors()
    starts = [memory_map.allocate(1, TYPES[n % len(TYPES)]) for n in range(2 * PAGES)]
    with pytest.raises(EfiError):
        memory_map.allocate(1, mt.BOOT_DATA)
    for start in starts[::2] + starts[1::2]:
        memory_map.free(start, 1)
    assert memory_map.descriptors() == before


POOL_STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("allocate"),
            st.sampled_from((0, 1, 16, 31, 33, 100, 2047, 2048, 2049, 5000)),
            st.sampled_from(TYPES),
        ),
        st.tuples(st.just("free"), st.integers(0, 1000), st.just(0)),
        st.tuples(st.just("bad free"), st.integers(1, 4095), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(POOL_STEPS)
def test_pool_against_a_model(steps):
    memory_map = new_map()
    pool = Pool(memory_map)
    live: dict[int, tuple[int, int]] = {}
    for what, number, kind in steps:
        if what == "allocate":
            try:
                address = pool.allocate(number, kind)
            except EfiError as error:
                assert error.status == Status.OUT_OF_RESOURCES
                continue
            assert address % 8 == 0
            assert all(address + number <= at or at + size <= address for at, (size, _) in live.items()) or not number
            assert address not in live
            live[address] = number, kind
        elif what == "free" and live:
            address = sorted(live)[number % len(live)]
            del live[address]
            pool.free(address)
            with pytest.raises(EfiError) as caught:
                pool.free(address)
            assert caught.value.status in (Status.INVALID_PARAMETER, Status.NOT_FOUND)
        elif what == "bad free" and live:
            address = sorted(live)[number % len(live)] + number
            if address not in live:
                with pytest.raises(EfiError):
                    pool.free(address)
        for at, (size, memory_type) in live.items():
            for page in range(at & ~(PAGE - 1), at + max(size, 1), PAGE):
                assert memory_map.type_at(page) == memory_type
    for address in list(live):
        pool.free(address)


def test_pool_gives_pages_back():
    memory_map = new_map()
    pool = Pool(memory_map)
    for size in (24, 600, 9000):
        pieces = []
        with pytest.raises(EfiError):
            while True:
                pieces.append(pool.allocate(size, mt.LOADER_DATA))
        for piece in pieces:
            pool.free(piece)
    used = sum(kind != mt.CONVENTIONAL for kind, _ in pages_of(memory_map).values())
    assert used <= 3, "a page may stay ready for each size"
