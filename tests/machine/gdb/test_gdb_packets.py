"""GDB's packets against what may come over a socket."""

from hypothesis import given
from hypothesis import strategies as st

from machine.gdb.packets import INTERRUPT, LARGEST, Reader, escape, frame, unescape


@given(st.binary(max_size=200))
def test_what_is_escaped_comes_back(data: bytes) -> None:
    assert unescape(escape(data)) == data
    assert not set(escape(data)) & set(b"$#*")


@given(st.lists(st.binary(max_size=60).map(escape), max_size=6), st.integers(1, 9))
def test_packets_come_out_whole_however_they_are_cut(bodies: list[bytes], piece: int) -> None:
    reader = Reader()
    stream = b"+".join(frame(body) for body in bodies)
    found, acknowledgements = [], b""
    for at in range(0, len(stream), piece):
        packets, acknowledged = reader.feed(stream[at : at + piece])
        found += packets
        acknowledgements += acknowledged
    assert found == bodies
    assert acknowledgements == b"+" * len(bodies)


@given(st.binary(max_size=400))
def test_any_bytes_are_survived(data: bytes) -> None:
    reader = Reader()
    reader.feed(data)
    found, _ = reader.feed(b"#00" + INTERRUPT + frame(b"?"))
    assert found[-1] == b"?"


def test_a_wrong_checksum_is_refused_and_the_next_packet_taken() -> None:
    found, acknowledgements = Reader().feed(b"$g#00" + frame(b"?"))
    assert (found, acknowledgements) == ([b"?"], b"-+")


def test_a_packet_that_was_broken_off_does_not_cost_the_next_one() -> None:
    found, acknowledgements = Reader().feed(b"$m1000" + frame(b"?"))
    assert (found, acknowledgements) == ([b"?"], b"+")


def test_a_packet_without_end_is_dropped() -> None:
    reader = Reader()
    for _ in range(5):
        reader.feed(b"$" + b"a" * LARGEST)
    assert len(reader._data) <= 2 * LARGEST + 1
