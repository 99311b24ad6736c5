"""One h11 machine on one socket, in either role: the only room that touches asyncio's transports.

Bytes come in by ``data_received`` and are only stored; ``poll_event`` turns them into the next event, ``next_event``
waits for one. A consumer that must not wait for a turn of the loop (``relay.pump``) sets ``on_readable`` and polls
inside the callback. Bytes go out by ``send_*`` into a list and leave together at ``flush``.

Heads are cut and checked by ``relay.fields``; h11 is shown the start line and the framing field lines of each, judges
where the message ends, and counts its content, in both directions. Writing goes the same way round: h11 writes the
start line and the framing, the other lines are put behind them as they came.

Flow control: a connection stops reading while ``HIGH_WATER`` bytes wait for its consumer, and says by ``paused`` and
``on_writable`` that its peer does not take what was written. One coarse timer per connection serves every deadline.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import h11

from .errors import BadRequest, Fields, HeadTooLarge
from .fields import RequestHead, ResponseHead, check_partial_head, parse_request_head, parse_response_head
from .hangup import hangup_watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from .config import Limits

Event: TypeAlias = "RequestHead | ResponseHead | h11.Data | h11.EndOfMessage | h11.ConnectionClosed"
NEED_DATA = h11.NEED_DATA
HIGH_WATER = 64 << 10  # bytes that may wait for a consumer before the socket is left unread: asyncio's own write mark
FEED_SIZE = 256 << 10  # bytes given to h11 at once, so that one turn of the loop has bounded work


class PeerGone(Exception):
    """The peer closed or reset the connection. ``clean`` when it ended the stream in order between two messages."""

    def __init__(self, message: str, *, clean: bool = False) -> None:
        super().__init__(message)
        self.clean = clean


class Silent(Exception):
    """The deadline set on the connection has passed."""


class HTTP1Connection(asyncio.Protocol):
    """An HTTP/1.1 connection: ``role`` is ours, ``h11.SERVER`` to a client and ``h11.CLIENT`` to an upstream."""

    __slots__ = (
        "_closing",
        "_deadline",
        "_feed_eof",
        "_loop",
        "_lost",
        "_out",
        "_pending",
        "_reading",
        "_timer",
        "_timer_at",
        "closed",
        "eof",
        "failure",
        "h11",
        "heard",
        "limits",
        "on_eof",
        "on_made",
        "on_readable",
        "on_writable",
        "paused",
        "role",
        "transport",
    )

    def __init__(
        self,
        role: type[h11.CLIENT | h11.SERVER],
        limits: Limits,
        on_made: Callable[[HTTP1Connection], None] | None = None,
    ) -> None:
        self.role = role
        self.limits = limits
        self.h11 = h11.Connection(role)
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.closed = False  # the socket is gone
        self.eof = False  # the peer ended its stream, in order
        self.heard = False  # a byte came since this was last set to False
        self.failure: Exception | None = None  # what somebody else put an end to the exchange with
        self.paused = False  # the peer does not take what we write
        self.on_made = on_made
        self.on_readable: Callable[[], None] | None = None
        self.on_writable: Callable[[], None] | None = None
        self.on_eof: Callable[[], None] | None = None  # the peer left, seen even while its bytes are not read
        self._closing: asyncio.Future[None] | None = None
        self._pending = bytearray()
        self._out: list[bytes] = []
        self._lost: Exception | None = None
        self._feed_eof = False
        self._reading = True
        self._loop = asyncio.get_running_loop()
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def __repr__(self) -> str:
        return f"<HTTP1Connection {self.role.__name__} {self.h11.our_state}/{self.h11.their_state}>"

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport; small writes leave at once, also on inherited sockets (SPEC §12)."""
        self.transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.on_made is not None:
            self.on_made(self)

    def data_received(self, data: bytes) -> None:
        """Store what came and tell the consumer, who may take it at once."""
        self.heard = True
        self._pending += data
        if self.on_readable is not None:
            self.on_readable()
        if len(self._pending) > HIGH_WATER and self._reading and self._lost is None:
            self._stop_reading()

    def eof_received(self) -> None:
        """The peer said its last. What it said before can still be read; the transport closes by itself."""
        self.eof = True
        self._ended()

    def connection_lost(self, error: Exception | None) -> None:
        """The socket is gone, by either side's doing."""
        self._unwatch()
        if self._lost is None and not (self.eof and error is None):
            self._lost = PeerGone(str(error) if error else "connection closed")
        self.eof = self.eof or error is None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.paused = False
        self.closed = True
        if self._closing is not None and not self._closing.done():
            self._closing.set_result(None)
        self._ended()

    def pause_writing(self) -> None:
        """The peer is slower than we are."""
        self.paused = True

    def resume_writing(self) -> None:
        """The peer has caught up."""
        self.paused = False
        if self.on_writable is not None:
            self.on_writable()

    def _ended(self) -> None:
        """Tell whoever watches for the peer's leaving, then whoever waits."""
        if self.on_eof is not None:
            self.on_eof()
        self._wake()

    def _wake(self) -> None:
        for callback in (self.on_readable, self.on_writable):
            if callback is not None:
                callback()

    # Reading.

    def poll_event(self) -> Event | type[h11.NEED_DATA]:
        """The next event that the bytes at hand allow, else ``NEED_DATA``.

        Raises a ``ProxyError`` for what the peer may not send, ``PeerGone`` when no more can come, ``Silent``.
        """
        state = self.h11.their_state
        if state is h11.IDLE or state is h11.SEND_RESPONSE:
            return self._poll_head()
        try:
            while True:
                event = self.h11.next_event()
                if event is not NEED_DATA:
                    return cast("Event", event)
                if not self._feed():
                    return NEED_DATA
        except h11.RemoteProtocolError as error:
            raise self._lost or self._malformed(error) from None

    def _malformed(self, error: h11.RemoteProtocolError) -> Exception:
        """What to raise for h11's refusal: a message cut short is the peer's leaving, the rest is bad framing."""
        if self._feed_eof:
            return PeerGone("the message was cut short")
        return BadRequest(f"The message is malformed: {error}.")

    def _feed(self) -> bool:
        """Hand h11 the next bytes, or the end of the stream; False when there is nothing to hand over."""
        if self._pending:
            if len(self._pending) <= FEED_SIZE:
                self.h11.receive_data(bytes(self._pending))
                self._pending.clear()
            else:
                self.h11.receive_data(bytes(self._pending[:FEED_SIZE]))
                del self._pending[:FEED_SIZE]
            if not self._reading:
                self._go_on_reading()
            return True
        if self._lost is not None:
            raise self._lost
        if self.eof and not self._feed_eof:
            self._feed_eof = True
            self.h11.receive_data(b"")
            return True
        return False

    def _poll_head(self) -> Event | type[h11.NEED_DATA]:
        end = self._pending.find(b"\r\n\r\n") + 4
        if end < 4:  # noqa: PLR2004 - not found
            return self._poll_partial_head()
        if end > self.limits.head_bytes:
            raise HeadTooLarge(f"The head is longer than {self.limits.head_bytes} bytes.")
        raw = bytes(self._pending[:end])
        del self._pending[:end]
        if not self._reading and len(self._pending) <= HIGH_WATER:
            self._go_on_reading()
        return self._read_request(raw) if self.role is h11.SERVER else self._read_response(raw)

    def _poll_partial_head(self) -> type[h11.NEED_DATA]:
        if self._pending:
            longest_target = self.limits.target_bytes if self.role is h11.SERVER else self.limits.head_bytes
            check_partial_head(self._pending, self.limits.head_bytes, longest_target)
        if self._lost is not None:
            raise self._lost
        if self.eof:
            raise PeerGone("the stream ended before a head", clean=not self._pending)
        return NEED_DATA

    def _read_request(self, raw: bytes) -> RequestHead:
        head = parse_request_head(raw, self.limits.head_fields, self.limits.target_bytes)
        start = b"%s %s HTTP/%s\r\n" % (head.method, head.target, head.version)
        self._show_h11(start + head.framing() + b"\r\n")
        return head

    def _read_response(self, raw: bytes) -> ResponseHead:
        head = parse_response_head(raw, self.limits.head_fields)
        start = b"HTTP/%s %d %s\r\n" % (head.version, head.status, head.reason)
        self._show_h11(start + head.framing() + b"\r\n")
        return head

    def _show_h11(self, head: bytes) -> None:
        """Let h11 judge the framing; its own event is dropped, since the fields are in ours."""
        try:
            self.h11.receive_data(head)
            self.h11.next_event()
        except h11.RemoteProtocolError as error:
            raise BadRequest(f"The message is malformed: {error}.") from None

    async def next_event(self) -> Event:
        """Wait for the next event. Raises what ``poll_event`` raises."""
        while (event := self.poll_event()) is NEED_DATA:
            await self.readable()
        return cast("Event", event)

    async def readable(self) -> None:
        """Wait until there is something new to poll for: bytes, an end, a deadline."""
        waiter = self._loop.create_future()
        self.on_readable = lambda: None if waiter.done() else waiter.set_result(None)
        try:
            await waiter
        finally:
            self.on_readable = None

    @property
    def has_pending(self) -> bool:
        """Whether bytes wait that belong to no event yet (a pipelined request, or an upstream's surplus)."""
        return bool(self._pending) or bool(self.h11.trailing_data[0])

    def _stop_reading(self) -> None:
        self._reading = False
        self.transport.pause_reading()
        sock = self.transport.get_extra_info("socket")
        if self.on_eof is not None and sock is not None:
            hangup_watch(self._loop).add(sock.fileno(), self._hung_up)

    def _go_on_reading(self) -> None:
        self._unwatch()
        self._reading = True
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def _unwatch(self) -> None:
        if self.transport is not None and not self._reading:
            sock = self.transport.get_extra_info("socket")
            if sock is not None and sock.fileno() >= 0:
                hangup_watch(self._loop).discard(sock.fileno())

    def _hung_up(self) -> None:
        if self.on_eof is not None:
            self.eof = True
            self.on_eof()

    # Writing.

    def send_request(self, head: RequestHead, target: bytes, framing: Fields, lines: bytes) -> None:
        """Write a request's head: h11 writes the start line and ``framing``, ``lines`` follow as they are."""
        event = h11.Request(method=head.method, target=target, headers=framing)
        self._put_head(event, lines)

    def send_response(self, status: int, reason: bytes, framing: Fields, lines: bytes) -> None:
        """Write a response's head, final or interim (1xx)."""
        kind = h11.Response if status >= 200 else h11.InformationalResponse  # noqa: PLR2004
        self._put_head(kind(status_code=status, reason=reason, headers=framing), lines)

    def _put_head(self, event: h11.Event, lines: bytes) -> None:
        data = cast("bytes", self.h11.send(event))
        self._out.append(data[:-2] + lines + b"\r\n" if lines else data)

    def send_data(self, data: bytes | bytearray) -> None:
        """Write content, framed as the head said. Raises ``h11.LocalProtocolError`` beyond Content-Length."""
        pieces = self.h11.send_with_data_passthrough(h11.Data(data=cast("bytes", data)))
        self._out += cast("list[bytes]", pieces)

    def send_end(self) -> None:
        """Write the end of the message. Raises ``h11.LocalProtocolError`` short of Content-Length."""
        pieces = self.h11.send(h11.EndOfMessage())
        if pieces:
            self._out.append(pieces)

    def flush(self) -> None:
        """Hand everything written to the transport, in one piece."""
        out = self._out
        if out:
            if not self.transport.is_closing():
                self.transport.write(out[0] if len(out) == 1 else b"".join(out))
            self._out = []

    async def drain(self) -> None:
        """Wait until the peer takes what was written. Raises ``PeerGone`` or ``Silent`` when it never will."""
        while self.paused and self._lost is None:
            waiter = self._loop.create_future()
            self.on_writable = lambda w=waiter: None if w.done() else w.set_result(None)
            try:
                await waiter
            finally:
                self.on_writable = None
        if self._lost is not None:
            raise self._lost

    # Life and time.

    def set_deadline(self, seconds: float | None) -> None:
        """From now on, ``seconds`` until ``Silent`` is raised to whoever waits; None for no deadline.

        The timer is lazy: moving a deadline away costs an assignment, since a timer that fires early looks again.
        """
        if seconds is None:
            self._deadline = None
            return
        self._deadline = deadline = self._loop.time() + seconds
        if self._timer is None or self._timer_at > deadline:
            if self._timer is not None:
                self._timer.cancel()
            self._arm(deadline)

    def _arm(self, at: float) -> None:
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        if self._deadline is None:
            return
        if self._loop.time() < self._deadline - 0.001:  # a clock's grain
            self._arm(self._deadline)
        elif self._lost is None:
            self._lost = Silent("nothing came in time")
            self._wake()

    def fail(self, error: Exception) -> None:
        """Let whoever waits here see ``error``: the exchange ended elsewhere."""
        self.failure = self._lost = error
        self._wake()

    @property
    def is_done(self) -> bool:
        """Whether the exchange is over on both sides, whole, with both willing to keep the connection."""
        return self.h11.our_state is h11.DONE and self.h11.their_state is h11.DONE and self._lost is None

    def next_cycle(self) -> None:
        """Make ready for the next exchange. Bytes that came early are kept for it."""
        surplus, _ = self.h11.trailing_data
        if surplus:  # h11 has no way to give them back, so a new machine starts where this one ended
            self.h11 = h11.Connection(self.role)
            self._pending[:0] = surplus
        else:
            self.h11.start_next_cycle()

    def is_alive(self) -> bool:
        """Whether an idle connection can be used: no end, no byte that nobody asked for."""
        return not (self.eof or self._lost or self.has_pending or self.transport.is_closing())

    def switch(self) -> None:
        """HTTP ends here (101): from now on ``take`` and ``write`` move bytes as they are."""
        self._pending[:0] = self.h11.trailing_data[0]

    def take(self) -> bytes:
        """All bytes that came, for a tunnel."""
        data = bytes(self._pending)
        self._pending.clear()
        if not self._reading:
            self._go_on_reading()
        return data

    def write(self, data: bytes) -> None:
        """Write bytes as they are, for a tunnel."""
        if not self.transport.is_closing():
            self.transport.write(data)

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come: the peer ended or reset the stream, or was silent for too long."""
        return (self.eof and not self._pending) or self._lost is not None

    def peer(self) -> str:
        """The peer's address, for the record."""
        name: Any = self.transport.get_extra_info("peername")
        return name[0] if isinstance(name, tuple) else "unix"

    def cut(self) -> None:
        """Close so that the peer sees an error even where the end of the stream would end the message."""
        sock = self.transport.get_extra_info("socket")
        if sock is not None and not self.transport.is_closing():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset instead of an end
        self.abort()

    def close(self) -> None:
        """Close in order: what was written is still delivered."""
        self.flush()
        self.transport.close()

    def abort(self) -> None:
        """Close at once; what was not delivered is lost."""
        self._out.clear()
        self.transport.abort()

    async def linger(self, most: int, seconds: float) -> None:
        """Close so that the peer reads our last words and not a reset (RFC 9112 §9.6).

        Half-close, read and drop at most ``most`` bytes for at most ``seconds``, then close.
        """
        self.flush()
        self._lost = None
        self.set_deadline(seconds)
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()
        while most > 0 and not self.eof and self._lost is None:
            most -= len(self._pending)
            self._pending.clear()
            if not self._reading:
                self._go_on_reading()
            await self.readable()
        self.close()

    async def wait_closed(self) -> None:
        """Wait until the socket is gone."""
        if not self.closed:
            self._closing = self._loop.create_future()
            await self._closing
