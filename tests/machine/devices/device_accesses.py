"""Helpers of the device tests: a CPU to come from, and random accesses that compare a device with its restored twin."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from hypothesis import strategies as st

CPU: Any = SimpleNamespace(index=0)
CPU1: Any = SimpleNamespace(index=1)

Access = tuple[bool, int, int, int]
"""(is a write, offset, size in bytes, value)"""


def accesses(
    offsets: Sequence[int] | range, sizes: Sequence[int] = (1, 2, 4), values: st.SearchStrategy[int] | None = None
) -> st.SearchStrategy[list[Access]]:
    """Lists of random register accesses."""
    value = values if values is not None else st.one_of(st.integers(0, 255), st.integers(0, (1 << 64) - 1))
    return st.lists(
        st.tuples(st.booleans(), st.sampled_from(list(offsets)), st.sampled_from(list(sizes)), value), max_size=60
    )


def perform(device: Any, access: Access) -> int | None:
    """Carry out one access; what a read gives must fit its size."""
    is_write, offset, size, value = access
    if is_write:
        device.write(CPU, offset, size, value & (1 << 8 * size) - 1)
        return None
    result = device.read(CPU, offset, size)
    assert isinstance(result, int)
    assert 0 <= result < 1 << 8 * size
    return result


def check_twin(make: Callable[[], Any], first: list[Access], second: list[Access]) -> None:
    """After `first`, a device loaded from the saved state must answer `second` as the original does."""
    original = make()
    for access in first:
        perform(original, access)
    state = original.save()
    assert_plain(state)
    twin = make()
    twin.load(state)
    assert twin.save() == state
    for access in second:
        assert perform(original, access) == perform(twin, access)


def assert_plain(value: Any) -> None:
    """Saved state is plain data only."""
    if isinstance(value, dict):
        for key, item in value.items():
            assert isinstance(key, str | int)
            assert_plain(item)
    elif isinstance(value, list | tuple):
        for item in value:
            assert_plain(item)
    else:
        assert value is None or isinstance(value, int | bytes | str)


class Line:
    """An interrupt line that remembers its level and every change."""

    def __init__(self) -> None:
        self.level = False
        self.changes: list[bool] = []

    def __call__(self, level: bool) -> None:
        self.level = level
        self.changes.append(level)
