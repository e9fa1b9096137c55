"""The text console: cursor rules, modes, what a terminal and what a pipe receive."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uefi.console.text_screen import DEFAULT_ATTRIBUTE, TextScreen


class Sink:
    def __init__(self) -> None:
        self.data = b""

    def __call__(self, data: bytes) -> None:
        self.data += data

    def take(self) -> bytes:
        data, self.data = self.data, b""
        return data


def make(*, ansi: bool = False, terminal: tuple[int, int] | None = None) -> tuple[TextScreen, Sink]:
    sink = Sink()
    return TextScreen(sink, ansi=ansi, terminal=terminal), sink


def place(screen: TextScreen) -> tuple[int, int]:
    return screen.column, screen.row


def test_plain_text_arrives_as_it_is() -> None:
    screen, sink = make()
    assert screen.output("Hello, w\u00f6rld \u20ac\r\n")
    assert sink.take() == "Hello, wörld €\r\n".encode()
    assert place(screen) == (0, 1)


def test_single_characters_count_columns() -> None:
    screen, sink = make()
    for character in "abc":
        screen.output(character)
    assert sink.take() == b"abc"
    assert place(screen) == (3, 0)


@pytest.mark.parametrize(
    ("text", "column", "row"),
    [
        ("ab\r", 0, 0),
        ("ab\n", 2, 1),
        ("ab\b", 1, 0),
        ("\b", 0, 0),
        ("ab\t", 8, 0),
        ("\t\t", 16, 0),
        ("x" * 79, 79, 0),
        ("x" * 80, 0, 1),
        ("x" * 79 + "\t", 79, 0),
        ("\n" * 30, 0, 24),
        ("\u4e2d\u6587", 4, 0),
        ("x" * 79 + "\u4e2d", 2, 1),
        ("\ufff0a\ufff1b", 2, 0),
        ("\x1b[1;31mred\x1b[0m", 3, 0),
        ("\x1b]0;title\x07ab", 2, 0),
        ("\x07ab", 2, 0),
        ("\x1b[3\r\nab", 2, 1),
        ("\x1b]0;title\r\nab", 2, 1),
    ],
)
def test_cursor_rules(text: str, column: int, row: int) -> None:
    screen, _ = make()
    screen.output(text)
    assert place(screen) == (column, row)


def test_a_pipe_gets_long_lines_whole_and_no_escapes() -> None:
    screen, sink = make()
    screen.output("y" * 200 + "\x1b[31m!\x1b[0m\x07")
    assert sink.take() == b"y" * 200 + b"!"
    assert place(screen) == (41, 2)


def test_an_escape_sequence_may_come_one_character_at_a_time() -> None:
    for ansi, expected in ((True, b"\x1b[31mR"), (False, b"R")):
        screen, sink = make(ansi=ansi)
        for character in "\x1b[31mR":
            screen.output(character)
        assert sink.take() == expected
        assert place(screen) == (1, 0)


def test_a_terminal_is_told_of_the_wrap() -> None:
    screen, sink = make(ansi=True)
    screen.output("z" * 81)
    assert sink.take() == b"z" * 80 + b"\r\nz"


def test_unknown_control_characters_are_shown_as_a_question_mark() -> None:
    screen, sink = make(ansi=True)
    assert not screen.test("a\x01")
    assert screen.test("a\r\n\b\t\u2500")
    assert not screen.output("a\x01")
    assert sink.take() == b"a?"


def test_surrogates_never_stop_the_output() -> None:
    screen, sink = make()
    assert screen.output("\ud83d\ude00|\ud800|")
    assert sink.take().decode() == "\U0001f600|\ufffd|"


def test_colours_are_sent_when_text_needs_them() -> None:
    screen, sink = make(ansi=True)
    assert screen.set_attribute(0x1F)
    assert screen.set_attribute(0x4E)
    assert sink.take() == b""
    screen.output("x")
    screen.output("y")
    assert sink.take() == b"\x1b[0;93;41mxy"
    screen.set_attribute(DEFAULT_ATTRIBUTE)
    screen.output("z")
    assert sink.take() == b"\x1b[0mz"
    screen.set_attribute(0x0C)
    screen.output("r")
    screen.close()
    assert sink.take() == b"\x1b[0;91;40mr\r\n\x1b[0m"


@pytest.mark.parametrize("attribute", [-1, 0x80, 0x107])
def test_attributes_outside_the_specification(attribute: int) -> None:
    screen, _ = make()
    assert not screen.set_attribute(attribute)
    assert screen.attribute == DEFAULT_ATTRIBUTE


def test_modes() -> None:
    screen, sink = make()
    assert screen.modes == [(80, 25), (80, 50), (100, 31)]
    screen.output("text")
    assert screen.set_mode(2)
    assert (screen.columns, screen.rows, *place(screen)) == (100, 31, 0, 0)
    assert not screen.set_mode(3)
    assert not screen.set_mode(-1)
    assert sink.take() == b"text\r\n"


def test_the_terminals_own_size_is_a_mode_and_in_use() -> None:
    screen, _ = make(ansi=True, terminal=(132, 40))
    assert screen.modes[3] == (132, 40)
    assert screen.mode == 3
    assert make(ansi=True, terminal=(80, 25))[0].mode == 0
    assert make(ansi=True, terminal=(1, 1))[0].mode == 0


def test_absolute_positions_after_a_clear_in_the_terminals_own_size() -> None:
    screen, sink = make(ansi=True, terminal=(90, 30))
    screen.clear()
    assert screen.set_cursor(10, 5)
    assert sink.take() == b"\x1b[2J\x1b[H\x1b[6;11H"
    screen.set_cursor(10, 5)
    assert sink.take() == b""
    screen.set_cursor(0, 29)
    screen.output("\r\n")
    sink.take()
    screen.set_cursor(0, 0)
    assert sink.take() == b"\x1b[1;1H"


def test_relative_positions_where_the_screens_top_is_unknown() -> None:
    screen, sink = make(ansi=True)
    screen.output("prompt> ab\r\n")
    sink.take()
    screen.set_cursor(8, 0)
    assert sink.take() == b"\x1b[1A\r\x1b[8C"
    screen.set_cursor(0, 2)
    assert sink.take() == b"\n\n\r"


def test_scrolling_a_short_mode_on_a_tall_terminal_ends_absolute_positions() -> None:
    screen, sink = make(ansi=True, terminal=(200, 60))
    screen.set_mode(0)
    screen.output("\n" * 25)
    sink.take()
    screen.set_cursor(0, 23)
    assert sink.take() == b"\x1b[1A\r"


@pytest.mark.parametrize("spot", [(80, 0), (0, 25), (-1, 0), (0, -1)])
def test_positions_outside_the_screen(spot: tuple[int, int]) -> None:
    screen, sink = make(ansi=True)
    assert not screen.set_cursor(*spot)
    assert sink.take() == b""


def test_a_menu_stays_readable_in_a_pipe() -> None:
    screen, sink = make()
    screen.clear()
    screen.set_attribute(0x1F)
    for row, text in ((5, "First entry"), (6, "Second entry"), (24, "Boot in 5 s")):
        screen.set_cursor(4, row)
        screen.output(text)
    screen.set_cursor(70, 24)
    screen.output("end")
    assert sink.take().decode() == (
        "    First entry\r\n    Second entry\r\n    Boot in 5 s" + " " * 55 + "end"
    )  # fmt: skip


def test_cursor_visibility() -> None:
    screen, sink = make(ansi=True)
    screen.enable_cursor(True)
    assert sink.take() == b""
    screen.enable_cursor(False)
    screen.enable_cursor(False)
    assert sink.take() == b"\x1b[?25l"
    screen.close()
    assert sink.take() == b"\x1b[?25h"
    assert not screen.cursor_visible


def test_reset_restores_the_defaults() -> None:
    screen, sink = make(ansi=True)
    screen.set_attribute(0x1F)
    screen.enable_cursor(False)
    screen.output("x")
    sink.take()
    screen.reset()
    assert sink.take() == b"\x1b[?25h\x1b[0m\x1b[2J\x1b[H"
    assert (screen.attribute, screen.cursor_visible, *place(screen)) == (DEFAULT_ATTRIBUTE, True, 0, 0)


def test_saved_state_comes_back() -> None:
    screen, _ = make()
    screen.set_mode(1)
    screen.set_attribute(0x2A)
    screen.output("abc\n")
    screen.enable_cursor(False)
    other, _ = make()
    other.load(screen.save())
    assert other.save() == screen.save() == {"mode": 1, "attribute": 0x2A, "column": 3, "row": 1, "cursor_visible": 0}


@given(
    st.lists(
        st.one_of(st.text(max_size=100), st.tuples(st.integers(-5, 110), st.integers(-5, 60)), st.integers(-1, 4))
    ),
    st.booleans(),
)
def test_the_cursor_never_leaves_the_screen(actions: list[str | tuple[int, int] | int], ansi: bool) -> None:
    screen, sink = make(ansi=ansi, terminal=(90, 33) if ansi else None)
    for action in actions:
        if isinstance(action, str):
            screen.output(action)
        elif isinstance(action, int):
            screen.set_mode(action)
        else:
            screen.set_cursor(*action)
        assert 0 <= screen.column < screen.columns
        assert 0 <= screen.row < screen.rows
    output = sink.take().decode()
    if not ansi:
        assert "\x1b" not in output
