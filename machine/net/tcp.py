"""One TCP connection, opened from either side (RFC 9293, 6298, 5681, 6582): segments in, segments out, no sockets.

What there is: handshake, MSS and window scale, in-order delivery with a small store for what came early, retransmission with
measured timeouts, fast retransmit, slow start, zero window probes, delayed acknowledgements, FIN both ways, RST.

Every second segment is acknowledged (RFC 9293, 3.8.6.3) until the guest has sent enough in a row for its congestion window
to be large; from then on every eighth, as receivers do that put segments together: an acknowledgement costs an emulated
guest as much time as a segment. A gap starts it anew.
"""

from collections.abc import Callable

from machine.net.packets import ACK, FIN, PSH, RST, SYN, Segment

SYN_SENT, SYN_RECEIVED, OPEN, LINGERING, CLOSED = "syn-sent", "syn-received", "open", "lingering", "closed"
"""LINGERING is TIME-WAIT: both sides have finished, and a lost last acknowledgement may be asked for again."""

SEND_BUFFER = RECEIVE_BUFFER = 256 << 10
OUR_MSS, DEFAULT_MSS, LEAST_MSS = 1460, 536, 64
SYN_TRIES, TRIES = 6, 10

_MS = 1_000_000
FIRST_TIMEOUT, LEAST_TIMEOUT, LONGEST_TIMEOUT = 1000 * _MS, 200 * _MS, 10_000 * _MS
ACK_DELAY = 10 * _MS
LINGER = 2000 * _MS

ACK_EVERY, ACK_EVERY_IN_STREAM = 2, 8
STREAM = 64
"""Segments in order after which a guest is streaming."""

_SCALE = 3
_EARLY_SEGMENTS = 64
_MASK = 0xFFFFFFFF


def _after(a: int, b: int) -> int:
    """How far sequence number `a` is behind `b`; negative if it comes before (RFC 9293, 3.4)."""
    distance = a - b & _MASK
    return distance - (1 << 32) if distance >> 31 else distance


class TcpConnection:
    """`send(segment)` puts a segment on the wire; `now()` is in nanoseconds.

    The owner calls `segment_arrived`, `timer` when `deadline` has come, and looks at `state`, `incoming`, `room` after
    each call. `problem` says why a connection was closed before its end.
    """

    def __init__(
        self, source: int, destination: int, first_seq: int, now: Callable[[], int], send: Callable[[Segment], None]
    ) -> None:
        self.source = source
        self.destination = destination
        self.state = SYN_SENT
        self.problem = ""
        self.incoming = bytearray()
        """Bytes that have come in order; the owner takes them from the front by `consumed`."""
        self.peer_finished = False
        self._now = now
        self._send = send
        self._out = bytearray()
        self._una = self._nxt = self._max = first_seq & _MASK
        self._peer_window = 0
        self._window_seq = self._window_ack = 0
        self._peer_scale = self._scale = 0
        self._mss = DEFAULT_MSS
        self._finishing = self._finished = False
        self._rcv_nxt = 0
        self._advertised = 0
        self._early: dict[int, bytes] = {}
        self._peer_fin: int | None = None
        self._unacknowledged = 0
        self._in_row = 0
        self._congestion_window = 0
        self._threshold = 1 << 30
        self._duplicates = 0
        self._recover: int | None = None
        self._timeout = FIRST_TIMEOUT
        self._smoothed = self._variation = 0
        self._timed: tuple[int, int] | None = None
        self._tries = 0
        self._retransmit_at: int | None = None
        self._acknowledge_at: int | None = None
        self._linger_until: int | None = None

    # -- the owner's side

    def open(self) -> None:
        """Send the SYN."""
        self._emit(SYN, self._una, mss=OUR_MSS, scale=_SCALE)
        self._nxt = self._max = self._una + 1 & _MASK
        self._timed = (self._nxt, self._now())
        self._retransmit_at = self._now() + self._timeout

    def accept(self, syn: Segment) -> None:
        """Answer the peer's SYN, in place of `open`; the connection is open once the peer acknowledges that."""
        self._learn(syn)
        self.state = SYN_RECEIVED
        self._answer_syn()
        self._nxt = self._max = self._una + 1 & _MASK
        self._timed = (self._nxt, self._now())
        self._retransmit_at = self._now() + self._timeout

    def _answer_syn(self) -> None:
        self._emit(SYN | ACK, self._una, mss=OUR_MSS, scale=self._scale or None)

    @property
    def room(self) -> int:
        """Bytes that `write` takes now."""
        return 0 if self._finishing or self.state is CLOSED else SEND_BUFFER - len(self._out)

    def write(self, data: bytes) -> int:
        """Send `data`, as much as there is room for; gives the number of bytes taken."""
        taken = data[: self.room]
        self._out += taken
        if self.state is OPEN:
            self._send_pending()
        return len(taken)

    def consumed(self, count: int) -> None:
        """The owner has taken `count` bytes of `incoming`, which are removed; tells the peer of the room if that helps."""
        del self.incoming[:count]
        grown = self._window() - self._advertised
        if self.state is OPEN and grown >= min(2 * OUR_MSS, RECEIVE_BUFFER // 2) and not self.peer_finished:
            self._acknowledge()

    def finish(self) -> None:
        """No more data from this side: FIN behind what was written."""
        if not self._finishing:
            self._finishing = True
            if self.state is OPEN:
                self._send_pending()

    def abort(self, problem: str = "aborted") -> None:
        """Send RST, and close."""
        if self.state not in (CLOSED, SYN_SENT):
            self._send(Segment(self.source, self.destination, self._max, self._rcv_nxt, RST | ACK, 0))
        self._close(problem)

    @property
    def deadline(self) -> int | None:
        """When `timer` is to be called, in nanoseconds of `now`, or None."""
        first = self._retransmit_at
        for at in (self._acknowledge_at, self._linger_until):
            if at is not None and (first is None or at < first):
                first = at
        return first

    def timer(self) -> None:
        """Do what is due."""
        now = self._now()
        if self._linger_until is not None and self._linger_until <= now:
            self._close("")
        if self._acknowledge_at is not None and self._acknowledge_at <= now:
            self._acknowledge()
        if self._retransmit_at is not None and self._retransmit_at <= now:
            self._timed_out()

    # -- segments

    def segment_arrived(self, segment: Segment) -> None:
        """Take a segment of this connection's (RFC 9293, 3.10.7)."""
        if self.state is CLOSED:
            return
        if self.state is SYN_SENT:
            self._answer_to_syn(segment)
            return
        if self.state is SYN_RECEIVED and not self._acknowledges_syn(segment):
            return
        if not self._acceptable(segment):
            if not segment.flags & RST:
                self._acknowledge()
        elif segment.flags & RST:
            if segment.seq == self._rcv_nxt:
                self._close("reset by the guest")
            else:
                self._acknowledge()
        elif segment.flags & SYN:
            self._acknowledge()
        elif segment.flags & ACK and self._take_ack(segment):
            self._take_payload(segment)
            if self.state is OPEN:
                self._send_pending()
                self._check_end()

    def _answer_to_syn(self, segment: Segment) -> None:
        flags = segment.flags
        if flags & ACK and segment.ack != self._nxt:
            if not flags & RST:
                self._send(Segment(self.source, self.destination, segment.ack, 0, RST, 0))
            return
        if not flags & ACK:
            return
        if flags & RST:
            self._close("refused by the guest")
            return
        if not flags & SYN:
            return
        self._learn(segment)
        self._window_ack = segment.ack
        self._opened(segment.ack)
        self._acknowledge()
        self._send_pending()

    def _learn(self, syn: Segment) -> None:
        """What the peer's SYN tells (RFC 9293, 3.7.1; RFC 7323, 2)."""
        self._rcv_nxt = syn.seq + 1 & _MASK
        self._mss = max(min(syn.mss or DEFAULT_MSS, OUR_MSS), LEAST_MSS)
        if syn.scale is not None:
            self._peer_scale, self._scale = syn.scale, _SCALE
        self._peer_window = syn.window
        self._window_seq = syn.seq
        self._congestion_window = 10 * self._mss

    def _opened(self, ack: int) -> None:
        """Our SYN was acknowledged."""
        self._una = ack
        self._measure(ack)
        self._tries = 0
        self._retransmit_at = None
        self.state = OPEN

    def _acknowledges_syn(self, segment: Segment) -> bool:
        """Whether a segment, which may go on to carry data, opens the connection that the peer has asked for."""
        flags = segment.flags
        if flags & RST:
            if segment.seq == self._rcv_nxt:
                self._close("reset by the guest")
        elif flags & SYN:
            self._answer_syn()
        elif flags & ACK and segment.ack != self._nxt:
            self._send(Segment(self.source, self.destination, segment.ack, 0, RST, 0))
        elif flags & ACK:
            self._window_ack = segment.ack
            self._opened(segment.ack)
            return True
        return False

    def _acceptable(self, segment: Segment) -> bool:
        """Whether any of it lies in the receive window (RFC 9293, table 6)."""
        window = self._window()
        start = _after(segment.seq, self._rcv_nxt)
        length = segment.length
        if not length:
            return start == 0 if not window else 0 <= start < window
        if not window:
            return False
        return 0 <= start < window or 0 <= start + length - 1 < window

    def _take_ack(self, segment: Segment) -> bool:
        """Process the acknowledgement and the window; False if the segment is to be dropped."""
        ack = segment.ack
        if _after(ack, self._max) > 0:
            self._acknowledge()
            return False
        advance = _after(ack, self._una)
        window = segment.window << self._peer_scale
        if advance > 0:
            self._acknowledged(ack, advance)
        elif advance == 0 and self._max != self._una and not segment.length and window == self._peer_window:
            if window:
                self._duplicate()
            else:
                self._tries = 0  # the answer to a probe
        if advance >= 0 and (
            _after(segment.seq, self._window_seq) > 0
            or (segment.seq == self._window_seq and _after(ack, self._window_ack) >= 0)
        ):
            if window and not self._peer_window:
                self._tries = 0
                self._nxt = self._una if self._max != self._una else self._nxt
            self._peer_window = window
            self._window_seq, self._window_ack = segment.seq, ack
        return True

    def _acknowledged(self, ack: int, advance: int) -> None:
        """New data, or our FIN, was acknowledged."""
        data = min(advance, len(self._out))
        del self._out[:data]
        if advance > data:
            self._finished = True
        self._una = ack
        if _after(self._nxt, ack) < 0:
            self._nxt = ack
        self._measure(ack)
        self._tries = 0
        if self._recover is not None and _after(ack, self._recover) < 0:  # RFC 6582: the next hole
            self._congestion_window = max(self._congestion_window - advance + self._mss, self._mss)
            self._resend_first()
        elif self._recover is not None:
            self._recover = None
            self._congestion_window = self._threshold
        elif self._congestion_window < self._threshold:
            self._congestion_window += min(advance, self._mss)
        else:
            self._congestion_window += max(self._mss * self._mss // self._congestion_window, 1)
        self._duplicates = 0
        self._retransmit_at = None if self._max == self._una else self._now() + self._timeout

    def _duplicate(self) -> None:
        """A duplicate acknowledgement: the third one in a row means a loss (RFC 5681, 3.2)."""
        self._duplicates += 1
        if self._recover is not None:
            self._congestion_window += self._mss
        elif self._duplicates == 3:
            self._lost()
            self._recover = self._max
            self._congestion_window = self._threshold + 3 * self._mss
            self._resend_first()

    def _lost(self) -> None:
        self._threshold = max(_after(self._max, self._una) // 2, 2 * self._mss)
        self._timed = None

    def _measure(self, ack: int) -> None:
        """Round trip time and timeout (RFC 6298, 2)."""
        if self._timed is None or _after(ack, self._timed[0]) < 0:
            return
        sample = self._now() - self._timed[1]
        self._timed = None
        if not self._smoothed:
            self._smoothed, self._variation = sample, sample // 2
        else:
            self._variation += (abs(sample - self._smoothed) - self._variation) // 4
            self._smoothed += (sample - self._smoothed) // 8
        self._timeout = min(max(self._smoothed + 4 * self._variation, LEAST_TIMEOUT), LONGEST_TIMEOUT)

    def _take_payload(self, segment: Segment) -> None:
        payload, seq = segment.payload, segment.seq
        if segment.flags & FIN and self._peer_fin is None:
            self._peer_fin = seq + len(payload) & _MASK
        if self.peer_finished or (not payload and not segment.flags & FIN):
            return
        start = _after(seq, self._rcv_nxt)
        if start < 0:
            payload, start = payload[-start:], 0
        payload = payload[: max(self._window() - start, 0)]
        in_order = start == 0 and not self._early
        if start > 0:
            if payload and len(self._early) < _EARLY_SEGMENTS:
                self._early[seq] = payload
        else:
            self._deliver(payload)
            self._deliver_early()
        if self._peer_fin == self._rcv_nxt and not self.peer_finished:
            self._rcv_nxt = self._rcv_nxt + 1 & _MASK
            self.peer_finished = True
            in_order = False
        self._unacknowledged += 1
        self._in_row = self._in_row + 1 if in_order else 0
        every = ACK_EVERY if self._in_row < STREAM else ACK_EVERY_IN_STREAM
        if not in_order or self._unacknowledged >= every or segment.flags & PSH:
            self._acknowledge()
        elif self._acknowledge_at is None:
            self._acknowledge_at = self._now() + ACK_DELAY

    def _deliver(self, payload: bytes) -> None:
        self.incoming += payload
        self._rcv_nxt = self._rcv_nxt + len(payload) & _MASK

    def _deliver_early(self) -> None:
        """Segments that came before their turn, as far as it is theirs now."""
        while self._early:
            seq = min(self._early, key=lambda seq: _after(seq, self._rcv_nxt))
            behind = -_after(seq, self._rcv_nxt)
            if behind < 0:
                return
            self._deliver(self._early.pop(seq)[behind : behind + self._window()])

    def _check_end(self) -> None:
        if self._finished and self.peer_finished and self.state is OPEN:
            self.state = LINGERING
            self._retransmit_at = None
            self._linger_until = self._now() + LINGER

    # -- sending

    def _window(self) -> int:
        return RECEIVE_BUFFER - len(self.incoming)

    def _emit(
        self, flags: int, seq: int, payload: bytes = b"", mss: int | None = None, scale: int | None = None
    ) -> None:
        window = self._window()
        self._advertised = window
        self._unacknowledged = 0
        self._acknowledge_at = None
        ack = self._rcv_nxt if flags & ACK else 0
        field = min(window >> (0 if flags & SYN else self._scale), 0xFFFF)
        self._send(Segment(self.source, self.destination, seq, ack, flags, field, payload, mss, scale))

    def _acknowledge(self) -> None:
        self._emit(ACK, self._max)

    def _send_pending(self) -> None:
        """Send what the windows allow, FIN behind the last byte."""
        while True:
            sent = _after(self._nxt, self._una)
            waiting = len(self._out) - sent
            room = min(self._peer_window, self._congestion_window) - sent
            if waiting > 0:
                size = min(self._mss, waiting, room)
                if size <= 0 or (size < min(self._mss, waiting) and sent):  # no silly windows (RFC 9293, 3.8.6.2.1)
                    break
                self._transmit(sent, size)
            elif self._finishing and not self._finished and waiting == 0:
                self._emit(FIN | ACK, self._nxt)
                self._advance(1)
            else:
                break
        if self._retransmit_at is None and (self._max != self._una or self._out):
            self._retransmit_at = self._now() + self._timeout

    def _transmit(self, offset: int, size: int) -> None:
        payload = bytes(self._out[offset : offset + size])
        last = offset + size == len(self._out)
        self._emit(ACK | PSH if last else ACK, self._nxt, payload)
        if self._timed is None and self._nxt == self._max:
            self._timed = (self._nxt + size & _MASK, self._now())
        self._advance(size)

    def _advance(self, size: int) -> None:
        self._nxt = self._nxt + size & _MASK
        if _after(self._nxt, self._max) > 0:
            self._max = self._nxt

    def _resend_first(self) -> None:
        """The segment that the peer waits for, once more."""
        if self._out:
            self._emit(ACK, self._una, bytes(self._out[: self._mss]))
        elif self._finishing:
            self._emit(FIN | ACK, self._una)
        self._retransmit_at = self._now() + self._timeout

    def _timed_out(self) -> None:
        self._tries += 1
        self._timeout = min(2 * self._timeout, LONGEST_TIMEOUT)
        if self._tries > (SYN_TRIES if self.state in (SYN_SENT, SYN_RECEIVED) else TRIES):
            self.abort("the guest does not answer")
            return
        self._retransmit_at = self._now() + self._timeout
        if self.state is SYN_SENT:
            self._timed = None
            self._emit(SYN, self._una, mss=OUR_MSS, scale=_SCALE)
        elif self.state is SYN_RECEIVED:
            self._timed = None
            self._answer_syn()
        elif not self._peer_window and self._out:
            # A probe of one byte. A peer that answers keeps its window closed for as long as it likes (3.8.6.1).
            self._emit(ACK, self._una, bytes(self._out[:1]))
            if self._max == self._una:
                self._nxt = self._una
                self._advance(1)
        elif self._max != self._una:
            self._lost()
            self._recover = None
            self._congestion_window = self._mss
            self._duplicates = 0
            self._nxt = self._una
            self._send_pending()
        else:
            self._send_pending()

    def _close(self, problem: str) -> None:
        self.state = CLOSED
        self.problem = problem
        self._out.clear()
        self._early.clear()
        self._retransmit_at = self._acknowledge_at = self._linger_until = None
