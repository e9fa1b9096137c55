"""Consoles that are polled, joined to one stream: nothing twice, and losses are said."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.console import PositionJoiner, SnapshotJoiner

WINDOW = 64


@given(st.lists(st.integers(0, WINDOW - 20), min_size=1, max_size=12), st.integers(0, 2**32))
def test_snapshots_of_a_window_give_the_whole_output(steps: list[int], seed: int) -> None:
    from random import Random

    letters = Random(seed)
    text, seen, joiner = "", "", SnapshotJoiner()
    for step in steps:
        text += "".join(letters.choice("abcdefghijklmnopqrstuvwxyz \n") for _ in range(step))
        seen += joiner.feed(text[-WINDOW:])
    assert seen == text


@given(st.text(alphabet="ab", max_size=40), st.text(alphabet="ab", max_size=40))
def test_however_repetitive_nothing_is_shown_twice_when_the_window_grows(before: str, after: str) -> None:
    joiner = SnapshotJoiner()
    assert joiner.feed(before) + joiner.feed(before + after) == before + after


def test_an_empty_snapshot_between_two_changes_nothing() -> None:
    joiner = SnapshotJoiner()
    assert [joiner.feed("boot\n"), joiner.feed(""), joiner.feed("boot\nready\n")] == ["boot\n", "", "ready\n"]


def test_lost_output_is_said_once() -> None:
    joiner = SnapshotJoiner()
    joiner.feed("a line of the beginning\n" * 3)
    new = joiner.feed("quite other text, far later\n")
    assert "lost here" in new and new.endswith("quite other text, far later\n")
    assert joiner.feed("quite other text, far later\n") == ""


def test_a_single_newline_in_common_is_no_overlap() -> None:
    joiner = SnapshotJoiner()
    joiner.feed("x" * 40 + "\n")
    assert "lost" in joiner.feed("\nsomething else that follows")


def test_the_largest_window_is_joined_in_no_time() -> None:
    joiner = SnapshotJoiner()
    joiner.feed("ab" * 32768)
    assert joiner.feed("ab" * 32767 + "cd") == "cd"


@pytest.mark.parametrize(
    ("answers", "wanted"),
    [
        ([(0, "abc", 3), (3, "def", 6)], "abcdef"),
        ([(0, "abc", 3), (0, "abcdef", 6)], "abcdef"),
        ([(0, "abc", 3), (3, "", 3), (3, "d", 4)], "abcd"),
    ],
)
def test_positions(answers: list[tuple[int, str, int]], wanted: str) -> None:
    joiner = PositionJoiner()
    assert "".join(joiner.feed(*answer) for answer in answers) == wanted
    assert joiner.position == len(wanted)


def test_a_position_that_jumped_says_how_much_was_lost() -> None:
    joiner = PositionJoiner()
    joiner.feed(0, "abc", 3)
    assert "[cvmboot: 1000 bytes of console output were lost here]" in joiner.feed(1003, "later", 1008)
