"""A network port that goes from one back end to another, as when its machine is restored."""

import pytest

from machine.net.backend import Backend, NoNetwork
from machine.net.port import NetworkPort


class Cable(Backend):
    """Keeps what is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []

    def send(self, frame: bytes) -> None:
        self.sent.append(frame)


FRAME = bytes(60)


def restored(port: NetworkPort) -> NetworkPort:
    state = port.__getstate__()
    again = NetworkPort.__new__(NetworkPort)
    again.__setstate__({**state, "waiting": state["waiting"].copy(), "counters": dict(state["counters"])})
    return again


@pytest.mark.parametrize(
    ("before", "after", "told"), [(Cable, NoNetwork, [False]), (NoNetwork, Cable, [True]), (Cable, Cable, [])]
)
def test_a_restored_port_keeps_its_link_until_it_is_plugged_in_again(before, after, told):
    port = NetworkPort(before())
    again = restored(port)
    links: list[bool] = []
    again.on_link = links.append
    assert again.link == port.link
    again.send(FRAME)
    again.replug(after())
    assert links == told
    assert again.link == after().link


def test_frames_that_wait_and_counters_go_on_and_frames_take_the_new_way():
    old, new = Cable(), Cable()
    port = NetworkPort(old)
    port.send(FRAME)
    old.on_receive(b"w" * 60)
    again = restored(port)
    again.replug(new)
    again.send(FRAME)
    new.on_receive(b"n" * 60)
    old.on_receive(b"o" * 60)
    assert [again.take()[:1], again.take()[:1]] == [b"w", b"n"]
    assert not again.waiting
    assert again.counters["sent"] == 2
    assert (len(old.sent), len(new.sent)) == (1, 1)
