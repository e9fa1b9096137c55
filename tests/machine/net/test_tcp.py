"""The TCP engine against a model of a peer, over a wire that loses, repeats, delays and reorders."""

from collections import deque
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from machine.net.packets import ACK, FIN, RST, SYN, Segment
from machine.net.tcp import CLOSED, LINGERING, OPEN, RECEIVE_BUFFER, SYN_RECEIVED, SYN_SENT, TcpConnection

MS = 1_000_000
MASK = 0xFFFFFFFF


class Peer:
    """A passive TCP as simple as can be: in-order only, go-back-N by a fixed timeout, a window of its own."""

    def __init__(self, world: "World", to_send: bytes, first: int, window: int = 65535, scale: int | None = 2) -> None:
        self.world, self.to_send, self.first = world, to_send, first
        self.received = bytearray()
        self.window, self.scale = window, scale
        self.state = "listen"
        self.una = self.nxt = 0
        self.rcv = 0
        self.peer_window = 0
        self.shift = 0
        self.fin_received = False
        self.timer: int | None = None
        self.mss = 536

    def emit(self, flags: int, seq: int, payload: bytes = b"") -> None:
        syn = bool(flags & SYN)
        window = min(self.window >> (self.scale or 0) * (not syn), 65535)
        self.world.to_engine(
            Segment(
                *(80, 5000, self.first + seq & MASK, self.rcv & MASK, flags, window, payload),
                *((1000, self.scale) if syn else (None, None)),
            )
        )

    def arrived(self, s: Segment) -> None:
        if s.flags & RST:
            self.state = "reset"
            return
        if s.flags & SYN:
            if self.state == "listen":
                self.state, self.rcv, self.mss = "open", s.seq + 1, min(s.mss or 536, 1000)
                self.shift = s.scale if s.scale is not None and self.scale is not None else 0
                self.peer_window = s.window
            self.emit(SYN | ACK, 0)
            return
        if self.state == "listen":
            return
        acked = (s.ack - self.first & MASK) - 1
        if self.una <= acked <= len(self.to_send) + 1:
            if acked > self.una:
                self.timer = self.world.now + 300 * MS
            self.una = acked
            self.nxt = max(self.nxt, acked)
        self.peer_window = s.window << self.shift
        if (s.seq - self.rcv) & MASK == 0:
            take = s.payload[: self.window]
            self.received += take
            self.rcv += len(take)
            if s.flags & FIN and len(take) == len(s.payload):
                self.rcv += 1
                self.fin_received = True
        if s.length:
            self.emit(ACK, 1 + self.nxt)
        self.push()

    def push(self) -> None:
        while self.nxt < len(self.to_send) and self.nxt - self.una < self.peer_window:
            size = min(self.mss, len(self.to_send) - self.nxt, self.peer_window - (self.nxt - self.una))
            self.emit(ACK, 1 + self.nxt, self.to_send[self.nxt : self.nxt + size])
            self.nxt += size
        if self.nxt == len(self.to_send):
            self.emit(ACK | FIN, 1 + self.nxt)
            self.nxt += 1
        if self.una <= len(self.to_send) and self.timer is None:
            self.timer = self.world.now + 300 * MS

    def due(self) -> None:
        self.timer = None
        if self.state == "open" and self.una <= len(self.to_send):
            self.nxt = self.una
            if not self.peer_window and self.una < len(self.to_send):
                self.emit(ACK, 1 + self.una, self.to_send[self.una : self.una + 1])
                self.timer = self.world.now + 300 * MS
            else:
                self.push()


class World:
    """A wire with 1 ms each way, in a time of its own."""

    def __init__(self, seed: int, loss: float, repeat: float, jitter: int) -> None:
        self.now = 0
        self.random = Random(seed)
        self.loss, self.repeat, self.jitter = loss, repeat, jitter
        self.wire: list[tuple[int, int, bool, Segment]] = []
        self.count = 0
        self.engine: TcpConnection
        self.peer: Peer

    def put(self, to_engine: bool, segment: Segment) -> None:
        for _ in range(2 if self.random.random() < self.repeat else 1):
            if self.random.random() >= self.loss:
                self.count += 1
                at = self.now + MS + self.random.randrange(self.jitter + 1)
                self.wire.append((at, self.count, to_engine, segment))

    def to_engine(self, segment: Segment) -> None:
        self.put(True, segment)

    def step(self) -> bool:
        """Go to the next event; False if there is none."""
        times = [entry[0] for entry in self.wire] + [
            t for t in (self.engine.deadline, self.peer.timer) if t is not None
        ]
        if not times:
            return False
        self.now = max(self.now, min(times))
        due = sorted(entry for entry in self.wire if entry[0] <= self.now)
        self.wire = [entry for entry in self.wire if entry[0] > self.now]
        for _, _, to_engine, segment in due:
            if to_engine:
                self.engine.segment_arrived(segment)
            else:
                self.peer.arrived(segment)
        if self.engine.deadline is not None and self.engine.deadline <= self.now:
            self.engine.timer()
        if self.peer.timer is not None and self.peer.timer <= self.now:
            self.peer.due()
        return True


def make(
    seed: int = 1, loss: float = 0, repeat: float = 0, jitter: int = 0, to_send: bytes = b"", **peer: object
) -> World:
    world = World(seed, loss, repeat, jitter)
    world.peer = Peer(world, to_send, world.random.getrandbits(32), **peer)  # type: ignore[arg-type]
    world.engine = TcpConnection(
        5000, 80, world.random.getrandbits(32), lambda: world.now, lambda segment: world.put(False, segment)
    )
    world.engine.open()
    return world


def exchange(world: World, data: bytes, steps: int = 60_000, slow_reader: int = 0) -> bytes:
    """Send `data` through the engine, read what the peer sends; both sides finish."""
    engine, got, at = world.engine, bytearray(), 0
    for _ in range(steps):
        at += engine.write(data[at : at + 5000])
        if at == len(data):
            engine.finish()
        count = len(engine.incoming) if not slow_reader else min(len(engine.incoming), slow_reader)
        got += engine.incoming[:count]
        engine.consumed(count)
        if engine.state in (CLOSED, LINGERING) and world.peer.fin_received and not engine.incoming:
            break
        if not world.step() and not engine.incoming:
            break
    return bytes(got)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    loss=st.sampled_from([0, 0.02, 0.1, 0.25]),
    repeat=st.sampled_from([0, 0.1]),
    jitter=st.sampled_from([0, 3 * MS]),
    up=st.integers(0, 60_000),
    down=st.integers(0, 60_000),
    window=st.sampled_from([700, 4000, 65535, 1 << 20]),
    scale=st.sampled_from([None, 0, 4]),
)
def test_both_streams_arrive_whole(
    seed: int, loss: float, repeat: float, jitter: int, up: int, down: int, window: int, scale: int | None
) -> None:
    random = Random(seed)
    data, answer = random.randbytes(up), random.randbytes(down)
    world = make(seed, loss, repeat, jitter, answer, window=window, scale=scale)
    got = exchange(world, data)
    if world.engine.problem:  # at a quarter lost, ten timeouts in a row do happen; what came is a beginning
        assert loss == 0.25
        assert answer.startswith(got)
        assert data.startswith(bytes(world.peer.received))
        return
    assert bytes(world.peer.received) == data
    assert got == answer
    assert world.peer.fin_received
    assert world.engine.peer_finished


def test_sequence_numbers_wrap() -> None:
    world = make(to_send=bytes(range(256)) * 40)
    world.wire.clear()
    world.peer.first = MASK - 3000
    world.engine = TcpConnection(5000, 80, MASK - 500, lambda: world.now, lambda s: world.put(False, s))
    world.engine.open()
    assert exchange(world, b"x" * 20_000) == bytes(range(256)) * 40
    assert world.peer.received == b"x" * 20_000


def test_nothing_is_lost_on_a_good_wire_without_timeouts() -> None:
    world = make(window=1 << 20)
    exchange(world, bytes(500_000))
    assert len(world.peer.received) == 500_000
    assert world.now < 2_100 * MS, "the time of LINGER, and no retransmission timeout"


def test_a_closed_window_is_probed_for_as_long_as_the_peer_answers() -> None:
    world = make(window=4000, scale=0)
    world.peer.window = 4000
    engine = world.engine
    engine.write(bytes(200_000))
    for _ in range(40):
        world.step()
    world.peer.window = 0
    for _ in range(400):
        world.step()
    assert engine.state is OPEN
    assert world.now > 60_000 * MS
    before = len(world.peer.received)
    world.peer.window = 65535
    engine.finish()
    for _ in range(2000):
        if world.peer.fin_received or not world.step():
            break
    assert len(world.peer.received) == 200_000 > before


def test_an_owner_that_does_not_read_closes_the_window_and_opens_it_again() -> None:
    data = Random(5).randbytes(RECEIVE_BUFFER * 2)
    world = make(to_send=data)
    for _ in range(3000):
        world.step()
    assert len(world.engine.incoming) <= RECEIVE_BUFFER
    assert exchange(world, b"", slow_reader=10_000) == data


def test_a_guest_that_does_not_answer() -> None:
    sent: list[Segment] = []
    now = 0
    engine = TcpConnection(1, 2, 7, lambda: now, sent.append)
    engine.open()
    while engine.deadline is not None:
        now = engine.deadline
        engine.timer()
    assert engine.state is CLOSED
    assert "does not answer" in engine.problem
    assert [s.flags for s in sent] == [SYN] * 7
    assert 30_000 * MS < now < 90_000 * MS


def opened() -> tuple[TcpConnection, deque[Segment]]:
    sent: deque[Segment] = deque()
    engine = TcpConnection(1, 2, 100, lambda: 0, sent.append)
    engine.open()
    engine.segment_arrived(Segment(2, 1, 900, 101, SYN | ACK, 5000, mss=1000))
    assert engine.state is OPEN
    sent.clear()
    return engine, sent


def test_refusal() -> None:
    sent: list[Segment] = []
    engine = TcpConnection(1, 2, 100, lambda: 0, sent.append)
    engine.open()
    engine.segment_arrived(Segment(2, 1, 0, 77, RST | ACK, 0))
    assert engine.state is SYN_SENT, "not the SYN that was sent"
    engine.segment_arrived(Segment(2, 1, 0, 101, RST | ACK, 0))
    assert engine.state is CLOSED
    assert "refused" in engine.problem


def test_a_wrong_answer_to_the_syn_is_reset() -> None:
    sent: list[Segment] = []
    engine = TcpConnection(1, 2, 100, lambda: 0, sent.append)
    engine.open()
    engine.segment_arrived(Segment(2, 1, 900, 55, SYN | ACK, 5000))
    assert (sent[-1].flags, sent[-1].seq) == (RST, 55)
    assert engine.state is SYN_SENT


def test_reset_only_with_the_exact_sequence_number() -> None:
    engine, sent = opened()
    for seq in (900, 902, 40_000):
        engine.segment_arrived(Segment(2, 1, seq, 101, RST, 0))
        assert engine.state is OPEN, seq
    engine.segment_arrived(Segment(2, 1, 901, 101, SYN, 0))
    assert engine.state is OPEN
    assert sent[-1].flags == ACK, "a challenge (RFC 9293, 3.10.7.4)"
    engine.segment_arrived(Segment(2, 1, 901, 101, RST, 0))
    assert engine.state is CLOSED
    assert "reset" in engine.problem


def test_acknowledgement_of_what_was_never_sent() -> None:
    engine, sent = opened()
    engine.segment_arrived(Segment(2, 1, 901, 5000, ACK, 5000, b"data"))
    assert not engine.incoming
    assert sent[-1].ack == 901


def asked() -> tuple[TcpConnection, deque[Segment]]:
    """A connection that the peer has asked for."""
    sent: deque[Segment] = deque()
    engine = TcpConnection(1, 2, 100, lambda: 0, sent.append)
    engine.accept(Segment(2, 1, 900, 0, SYN, 5000, mss=1000, scale=3))
    return engine, sent


def test_a_peer_that_connects() -> None:
    engine, sent = asked()
    assert (sent[0].flags, sent[0].seq, sent[0].ack, sent[0].scale) == (SYN | ACK, 100, 901, 3)
    engine.write(b"early")
    assert len(sent) == 1, "nothing before the connection is open"
    engine.segment_arrived(Segment(2, 1, 900, 0, SYN, 5000, mss=1000, scale=3))
    assert (sent[1].flags, sent[1].seq) == (SYN | ACK, 100), "the answer was lost"
    engine.segment_arrived(Segment(2, 1, 901, 101, ACK, 2, b"hello"))
    assert engine.state is OPEN
    assert bytes(engine.incoming) == b"hello"
    assert [s.payload for s in sent if s.payload] == [b"early"], "16 bytes of window, scaled"


def test_a_peer_that_connects_and_goes_away_or_never_comes_back() -> None:
    engine, _ = asked()
    engine.segment_arrived(Segment(2, 1, 901, 0, RST, 0))
    assert engine.state is CLOSED
    engine, sent = asked()
    engine.segment_arrived(Segment(2, 1, 901, 55, ACK, 5000))
    assert (sent[-1].flags, sent[-1].seq) == (RST, 55)
    assert engine.state is SYN_RECEIVED
    now = 0
    engine, sent = asked()
    engine._now = lambda: now  # type: ignore[method-assign]
    while engine.deadline is not None:
        now = engine.deadline
        engine.timer()
    assert engine.state is CLOSED
    assert [s.flags for s in sent][:7] == [SYN | ACK] * 7


def test_three_duplicates_bring_a_fast_retransmission() -> None:
    engine, sent = opened()
    engine.write(bytes(4000))
    first = sent[0]
    sent.clear()
    for _ in range(3):
        engine.segment_arrived(Segment(2, 1, 901, 101, ACK, 5000))
    assert (sent[0].seq, sent[0].payload) == (first.seq, first.payload)


def test_a_stream_is_acknowledged_more_rarely_until_something_is_missing() -> None:
    engine, sent = opened()
    seq = 901

    def stream(count: int) -> int:
        nonlocal seq
        sent.clear()
        for _ in range(count):
            engine.segment_arrived(Segment(2, 1, seq, 101, ACK, 5000, bytes(100)))
            engine.consumed(len(engine.incoming))
            seq += 100
        assert all(segment.flags == ACK for segment in sent)
        return len(sent)

    assert stream(60) == 30
    stream(8)
    assert stream(80) == 10
    stream(1)
    assert engine.deadline is not None, "the rest is acknowledged when nothing more comes"
    seq += 100
    assert stream(3) == 3, "each of them tells the guest what is missing"
    engine.segment_arrived(Segment(2, 1, seq - 400, 101, ACK, 5000, bytes(100)))
    assert sent[-1].ack == seq
    assert stream(60) == 30


def test_early_segments_are_kept() -> None:
    engine, sent = opened()
    engine.segment_arrived(Segment(2, 1, 906, 101, ACK, 5000, b"world"))
    engine.segment_arrived(Segment(2, 1, 911, 101, ACK | FIN, 5000))
    assert not engine.incoming
    assert sent[-1].ack == 901
    engine.segment_arrived(Segment(2, 1, 901, 101, ACK, 5000, b"helloXX"))
    assert bytes(engine.incoming) in (b"helloXXrld", b"helloworld")
    assert engine.peer_finished
    assert sent[-1].ack == 912


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(
            *(st.integers(-5, 300), st.integers(-5, 5), st.integers(0, 63)),
            *(st.sampled_from([0, 1, 500, 65535]), st.binary(max_size=40)),
        ),
        max_size=30,
    ),
    st.binary(max_size=3000),
)
def test_hostile_segments(segments: list[tuple[int, int, int, int, bytes]], data: bytes) -> None:
    """Whatever comes: no crash, bounded buffers, and sequence numbers that stay in their range."""
    engine, sent = opened()
    engine.write(data)
    for seq, ack, flags, window, payload in segments:
        engine.segment_arrived(Segment(2, 1, 901 + seq & MASK, 101 + ack & MASK, flags, window, payload))
        engine.timer()
    assert len(engine.incoming) <= RECEIVE_BUFFER
    assert all(0 <= s.seq <= MASK and 0 <= s.ack <= MASK and 0 <= s.window <= 65535 for s in sent)
    assert len(sent) < 3000
