"""One HTTP/1.1 connection on one socket, in either role: the only room that touches asyncio's transports.

Bytes come in by ``data_received`` and are only stored; ``poll_event`` turns them into the next event, ``next_event``
waits for one. A consumer that must not wait for a turn of the loop (``relay.pump``) sets ``on_readable`` and polls
inside the callback. Bytes go out by ``send_*`` into a list and leave together at ``flush``.

Heads are cut and checked by ``relay.fields``. Where a message ends, in either direction, is h11's verdict
(``relay.framing``); its content is counted on the way in and on the way out, and a message is never made to look whole
that is not.

Flow control: a connection stops reading while ``HIGH_WATER`` bytes wait for its consumer, and says by ``paused`` and
``on_writable`` that its peer does not take what was written. One coarse timer per connection serves every deadline.
"""

from __future__ import annotations

import asyncio
import enum
import socket
import struct
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from .errors import HeadTooLarge
from .fields import RequestHead, ResponseHead, check_partial_head, parse_response_head, recall_request_head
from .framing import (
    END,
    NEED_DATA,
    ChunkedReader,
    CloseReader,
    Extent,
    Reader,
    Signal,
    frame_response,
    make_reader,
    request_framing,
    response_framing,
)
from .hangup import hangup_watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from .config import Limits

Event: TypeAlias = RequestHead | ResponseHead | bytes | Signal  # a head, content, or END (NEED_DATA only from a poll)
HIGH_WATER = 64 << 10  # bytes that may wait for a consumer before the socket is left unread: asyncio's own write mark
REQUEST_FRAMING = {
    Extent.EMPTY: b"",
    Extent.LENGTH: b"Content-Length: %d\r\n",
    Extent.CHUNKED: b"Transfer-Encoding: chunked\r\n",
}
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Role(enum.Enum):
    """Which side of the connection we are."""

    SERVER = "server"  # to a client
    CLIENT = "client"  # to an upstream


class MessageError(Exception):
    """We tried to write content that does not fit the head we wrote."""


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
        "_keeps",
        "_loop",
        "_lost",
        "_method",
        "_out",
        "_pending",
        "_reader",
        "_reading",
        "_timer",
        "_timer_at",
        "_to_write",
        "_version",
        "_writes",
        "closed",
        "content_length",
        "eof",
        "failure",
        "heard",
        "limits",
        "on_eof",
        "on_made",
        "on_readable",
        "on_writable",
        "paused",
        "received",
        "role",
        "sent",
        "transport",
        "wants_continue",
    )

    def __init__(self, role: Role, limits: Limits, on_made: Callable[[HTTP1Connection], None] | None = None) -> None:
        self.role = role
        self.limits = limits
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.closed = False  # the socket is gone
        self.eof = False  # the peer ended its stream, in order
        self.heard = False  # a byte came since this was last set to False
        self.failure: Exception | None = None  # what somebody else put an end to the exchange with
        self.paused = False  # the peer does not take what we write
        self.wants_continue = False  # the client waits for 100 before it sends content
        self.on_made = on_made
        self.on_readable: Callable[[], None] | None = None
        self.on_writable: Callable[[], None] | None = None
        self.on_eof: Callable[[], None] | None = None  # the peer left, seen even while its bytes are not read
        self._closing: asyncio.Future[None] | None = None
        self._pending = bytearray()
        self._out: list[bytes] = []
        self._lost: Exception | None = None
        self._reading = True
        self._loop = asyncio.get_running_loop()
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._begin_cycle()

    def _begin_cycle(self) -> None:
        """Forget the last exchange."""
        self._reader: Reader | None = None  # of the message that is coming; None until its head is there
        self.received = False  # that message has ended
        self.content_length: int | None = None  # what its head says
        self._method = b"GET"
        self._version = b"1.1"
        self._keeps = True  # nobody has said that the connection ends with this exchange
        self._writes: Extent | None = None  # how the message that goes out is framed; None until its head is written
        self._to_write = 0  # bytes that its Content-Length still promises
        self.sent = False  # that message has ended

    def __repr__(self) -> str:
        return f"<HTTP1Connection {self.role.value} received={self.received} sent={self.sent} keeps={self._keeps}>"

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport; small writes leave at once, also on inherited sockets (SPEC §12)."""
        self.transport = cast("asyncio.Transport", transport)
        if hasattr(transport, "max_size"):  # asyncio's: 256 KiB, which a stalled relay holds several times over
            transport.max_size = HIGH_WATER
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

    def poll_event(self) -> Event:
        """The next event that the bytes at hand allow, else ``NEED_DATA``.

        Raises a ``ProxyError`` for what the peer may not send, ``PeerGone`` when no more can come, ``Silent``.
        """
        reader = self._reader
        if reader is None:
            return self._poll_head()
        event = reader.read(self._pending)
        if not self._reading and len(self._pending) <= HIGH_WATER:
            self._go_on_reading()
        if event is END:
            self.received = True
        elif event is NEED_DATA and (self.eof or self._lost is not None):
            return self._end_of_stream(reader)
        return event

    def _end_of_stream(self, reader: Reader) -> Event:
        """Nothing more will come: that is the end of content without one of its own, else the peer's leaving."""
        if self._lost is not None:
            raise self._lost
        if isinstance(reader, CloseReader):
            self.received = True
            return END
        raise PeerGone("the message was cut short")

    def poll_chunks(self) -> tuple[bytes, list[bytes]] | None:
        """All canonical chunks at hand, as they came, and what is in them; None where ``poll_event`` has to look.

        To a peer whose message is chunked as well they can be passed on without being cut and framed again.
        """
        if not isinstance(self._reader, ChunkedReader) or not self._pending:
            return None
        count, pieces = self._reader.whole_chunks(self._pending)
        if not count:
            return None
        if count == len(self._pending):
            raw = bytes(self._pending)
            self._pending.clear()
        else:
            raw = bytes(self._pending[:count])
            del self._pending[:count]
        if not self._reading and len(self._pending) <= HIGH_WATER:
            self._go_on_reading()
        return raw, pieces

    def _poll_head(self) -> Event:
        end = self._pending.find(b"\r\n\r\n") + 4
        if end < 4:  # noqa: PLR2004 - not found
            return self._poll_partial_head()
        if end > self.limits.head_bytes:
            raise HeadTooLarge(f"The head is longer than {self.limits.head_bytes} bytes.")
        if end == len(self._pending):
            raw = bytes(self._pending)
            self._pending.clear()
        else:
            raw = bytes(self._pending[:end])
            del self._pending[:end]
        if not self._reading and len(self._pending) <= HIGH_WATER:
            self._go_on_reading()
        return self._read_request(raw) if self.role is Role.SERVER else self._read_response(raw)

    def _poll_partial_head(self) -> Signal:
        if self._pending:
            longest_target = self.limits.target_bytes if self.role is Role.SERVER else self.limits.head_bytes
            check_partial_head(self._pending, self.limits.head_bytes, longest_target)
        if self._lost is not None:
            raise self._lost
        if self.eof:
            raise PeerGone("the stream ended before a head", clean=not self._pending)
        return NEED_DATA

    def _read_request(self, raw: bytes) -> RequestHead:
        head, length = recall_request_head(raw, self.limits.head_fields, self.limits.target_bytes)
        key = (request_framing, length and 1)  # the verdict is the same for every length but 0
        framing = head.memo.get(key)
        if framing is None:
            framing = head.memo[key] = request_framing(head.method, head.version, head.framing, length)
        self._method, self._version, self._keeps = head.method, head.version, framing.keep_alive
        self.content_length = length
        self._reader = make_reader(framing.extent, length or 0)
        self.received = framing.extent is Extent.EMPTY
        self.wants_continue = framing.wants_continue
        return head

    def _read_response(self, raw: bytes) -> ResponseHead:
        head = parse_response_head(raw, self.limits.head_fields)
        if head.status < 200:  # noqa: PLR2004 - interim, or a switch of protocols: no content
            return head
        length = head.get(b"content-length")
        self.content_length = int(length.split(b",")[0]) if length else None
        framing = response_framing(self._method, head.status, head.version, head.framing, self.content_length)
        self._keeps = self._keeps and framing.keep_alive
        self._reader = make_reader(framing.extent, self.content_length or 0)
        self.received = framing.extent is Extent.EMPTY
        return head

    async def next_event(self) -> Event:
        """Wait for the next event. Raises what ``poll_event`` raises."""
        while (event := self.poll_event()) is NEED_DATA:
            await self.readable()
        return event

    async def readable(self) -> None:
        """Wait until there is something new to poll for: bytes, an end, a deadline."""
        waiter = self._loop.create_future()
        self.on_readable = wake = lambda: None if waiter.done() else waiter.set_result(None)
        try:
            await waiter
        finally:
            if self.on_readable is wake:  # an upload that was cancelled ends while another waits here already
                self.on_readable = None

    @property
    def has_pending(self) -> bool:
        """Whether bytes wait that belong to no event yet (a pipelined request, or an upstream's surplus)."""
        return bool(self._pending)

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

    def send_request(
        self, head: RequestHead, target: bytes, host: bytes, extent: Extent, length: int, lines: bytes
    ) -> None:
        """Write a request's head; ``extent`` and ``length`` frame its content (EMPTY: nothing is said of any)."""
        self._method = head.method
        self._writes, self._to_write = extent, length
        framing = REQUEST_FRAMING[extent] % length if extent is Extent.LENGTH else REQUEST_FRAMING[extent]
        self._out.append(b"%s %s HTTP/1.1\r\nHost: %s\r\n%s%s\r\n" % (head.method, target, host, framing, lines))

    def send_interim(self, status: int, reason: bytes, lines: bytes) -> None:
        """Write an interim response (1xx)."""
        self._out.append(b"HTTP/1.1 %d %s\r\n%s\r\n" % (status, reason, lines))

    def send_continue(self) -> None:
        """Tell a client that waits for it to send its content."""
        self.wants_continue = False
        self._out.append(CONTINUE)

    def send_response(
        self, status: int, reason: bytes, extent: Extent, length: int, lines: bytes, *, close: bool
    ) -> None:
        """Write a final response's head, framed as h11 would: ``extent`` and ``length`` are the content's at hand.

        ``close`` announces that the connection ends with this exchange.
        """
        written = frame_response(self._method, self._version, self._keeps, status, extent, close)
        framing = written.lines % length if extent is Extent.LENGTH else written.lines
        self._writes, self._to_write = written.extent, length
        self._keeps = self._keeps and written.keep_alive
        self._out.append(b"HTTP/1.1 %d %s\r\n%s%s\r\n" % (status, reason, framing, lines))

    @property
    def writes_chunks(self) -> bool:
        """Whether the message that goes out is chunked, so that ``send_chunks`` may be used."""
        return self._writes is Extent.CHUNKED

    def send_chunks(self, raw: bytes) -> None:
        """Write canonical chunks as they are."""
        self._out.append(raw)

    def send_data(self, data: bytes) -> None:
        """Write content, framed as the head said. Raises MessageError beyond Content-Length."""
        if not data:
            return
        if self._writes is Extent.LENGTH:
            self._to_write -= len(data)
            if self._to_write < 0:
                raise MessageError("more content than Content-Length says")
            self._out.append(data)
        elif self._writes is Extent.CHUNKED:
            self._out += (b"%x\r\n" % len(data), data, b"\r\n")
        elif self._writes is Extent.UNTIL_CLOSE:
            self._out.append(data)
        else:
            raise MessageError("content where there can be none")

    def send_end(self) -> None:
        """Write the end of the message. Raises MessageError short of Content-Length."""
        if self._writes is Extent.LENGTH and self._to_write:
            raise MessageError("less content than Content-Length says")
        if self._writes is Extent.CHUNKED:
            self._out.append(b"0\r\n\r\n")
        self.sent = True

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
        return self.received and self.sent and self._keeps and self._lost is None

    def next_cycle(self) -> None:
        """Make ready for the next exchange. Bytes that came early are kept for it."""
        self._begin_cycle()

    def is_alive(self) -> bool:
        """Whether an idle connection can be used: no end, no byte that nobody asked for."""
        return not (self.eof or self._lost or self.has_pending or self.transport.is_closing())

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
            try:
                self.transport.write_eof()
            except OSError:  # reset meanwhile: nobody is left to read
                self.abort()
                return
        while not self.eof and self._lost is None:
            most -= len(self._pending)
            self._pending.clear()
            if most <= 0:
                break
            if not self._reading:
                self._go_on_reading()
            await self.readable()
        self.close()

    async def wait_closed(self) -> None:
        """Wait until the socket is gone."""
        if not self.closed:
            self._closing = self._loop.create_future()
            await self._closing
