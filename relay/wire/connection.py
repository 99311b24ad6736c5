"""One socket: bytes in and out, flow control, deadlines, and the ways in which it ends.

Bytes come in by ``data_received`` and are only stored; whoever wants them sets ``on_readable``, or waits for
``readable``. Who can do without their being stored sets ``on_data``. Bytes go out by a list and leave together at
``flush``.

Flow control: a connection stops reading while ``HIGH_WATER`` bytes wait for its consumer, and says by ``paused`` and
``on_writable`` that its peer does not take what was written. One coarse timer per connection serves every deadline.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

from .hangup import hangup_watch
from .turns import turn_of
from .waiting import Waiter

if TYPE_CHECKING:
    from collections.abc import Callable

HIGH_WATER = 64 << 10  # bytes that may wait for a consumer before the socket is left unread: asyncio's own write mark


class PeerGone(Exception):
    """The peer closed or reset the connection. ``clean`` when it ended the stream in order between two messages."""

    def __init__(self, message: str, *, clean: bool = False) -> None:
        super().__init__(message)
        self.clean = clean


class Silent(Exception):
    """The deadline set on the connection has passed."""


class Connection(asyncio.Protocol):
    """A socket that somebody reads and writes messages on: ``http1.HTTP1Connection``."""

    __slots__ = (
        "_closing",
        "_deadline",
        "_lost",
        "_reading",
        "_timer",
        "_timer_at",
        "_turn",
        "closed",
        "eof",
        "failure",
        "heard",
        "loop",
        "news",
        "on_data",
        "on_eof",
        "on_made",
        "on_readable",
        "on_writable",
        "paused",
        "pending",
        "transport",
        "unsent",
    )

    def __init__(self, on_made: Callable[[Any], None] | None = None) -> None:
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.closed = False  # the socket is gone
        self.eof = False  # the peer ended its stream, in order
        self.heard = False  # a byte came since this was last set to False
        self.news: Callable[[int], list[tuple[int, int]]] | None = None  # asks about the socket (``news.has_news``)
        self.failure: Exception | None = None  # what somebody else put an end to the exchange with
        self.paused = False  # the peer does not take what we write
        self.on_made = on_made
        self.on_readable: Callable[[], None] | None = None
        self.on_data: Callable[[bytes], bool] | None = None  # is shown what comes while nothing waits; True: taken
        self.on_writable: Callable[[], None] | None = None
        self.on_eof: Callable[[], None] | None = None  # the peer left, seen even while its bytes are not read
        self._closing: asyncio.Future[None] | None = None
        self.pending = bytearray()  # came, and belongs to no event yet: a pipelined request, an upstream's surplus
        self.unsent: list[bytes] = []  # what was written last, as long as all of it is still here
        self._lost: Exception | None = None
        self._reading = True
        self.loop = asyncio.get_running_loop()
        self._turn = turn_of(self.loop)
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport, which whoever opened the socket has told to send small writes at once (SPEC §12)."""
        self.transport = cast("asyncio.Transport", transport)
        if hasattr(transport, "max_size"):  # asyncio's: 256 KiB, which a stalled relay holds several times over
            transport.max_size = HIGH_WATER
        if self.on_made is not None:
            self.on_made(self)

    def data_received(self, data: bytes) -> None:
        """Store what came and tell the consumer, who may take it at once."""
        self.heard = True
        if self.on_data is not None and not self.pending and self.on_data(data):
            return
        self.pending += data
        if self.on_readable is not None:
            self.on_readable()
        if len(self.pending) > HIGH_WATER and self._reading and self._lost is None:
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

    def readable(self) -> Waiter:
        """What to await until there is something new to poll for: bytes, an end, a deadline.

        It stays in ``on_readable`` when it is over, where it does nothing more.
        """
        waiter = Waiter(self._turn)
        self.on_readable = waiter.wake
        return waiter

    def _stop_reading(self) -> None:
        self._reading = False
        self.transport.pause_reading()
        sock = self.transport.get_extra_info("socket")
        if self.on_eof is not None and sock is not None:
            hangup_watch(self.loop).add(sock.fileno(), self._hung_up)

    def _go_on_reading(self) -> None:
        self._unwatch()
        self._reading = True
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def _unwatch(self) -> None:
        if self.transport is not None and not self._reading:
            sock = self.transport.get_extra_info("socket")
            if sock is not None and sock.fileno() >= 0:
                hangup_watch(self.loop).discard(sock.fileno())

    def _hung_up(self) -> None:
        if self.on_eof is not None:
            self.eof = True
            self.on_eof()

    # Writing.

    def flush(self) -> None:
        """Hand everything written to the transport, in one piece."""
        out = self.unsent
        if out:
            if not self.transport.is_closing():
                self.transport.write(out[0] if len(out) == 1 else b"".join(out))
            self.unsent = []

    def depart(self) -> None:
        """Hand everything written to the transport at the end of this turn of the loop at the latest, if no more comes.

        For whole small messages: where more follows, ``flush`` is what tells whether the peer keeps up.
        """
        self._turn.depart(self)

    async def drain(self) -> None:
        """Wait until the peer takes what was written. Raises ``PeerGone`` or ``Silent`` when it never will."""
        while self.paused and self._lost is None:
            waiter = self.loop.create_future()
            self.on_writable = lambda w=waiter: None if w.done() else w.set_result(None)
            try:
                await waiter
            finally:
                self.on_writable = None
        if self._lost is not None:
            raise self._lost

    # Time.

    def set_deadline(self, seconds: float | None) -> None:
        """From now on, ``seconds`` until ``Silent`` is raised to whoever waits; None for no deadline.

        The timer is lazy: moving a deadline away costs an assignment, since a timer that fires early looks again.
        """
        if seconds is None:
            self._deadline = None
            return
        self._deadline = deadline = monotonic() + seconds  # the clock of every loop, without a call through it
        if self._timer is None or self._timer_at > deadline:
            if self._timer is not None:
                self._timer.cancel()
            self._arm(deadline)

    def _arm(self, at: float) -> None:
        self._timer_at = at
        self._timer = self.loop.call_at(at, self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        if self._deadline is None:
            return
        if self.loop.time() < self._deadline - 0.001:  # a clock's grain
            self._arm(self._deadline)
        elif self._lost is None:
            self._lost = Silent("nothing came in time")
            self._wake()

    def fail(self, error: Exception) -> None:
        """Let whoever waits here see ``error``: the exchange ended elsewhere."""
        self.failure = self._lost = error
        self._wake()

    # Life.

    def is_alive(self) -> bool:
        """Whether an idle connection can be used: no end, no byte that nobody asked for."""
        return not (self.eof or self._lost or self.pending or self.transport.is_closing())

    def take(self) -> bytes:
        """All bytes that came, for a tunnel."""
        data = bytes(self.pending)
        self.pending.clear()
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
        return (self.eof and not self.pending) or self._lost is not None

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
        self._forget_who_heard()

    def abort(self) -> None:
        """Close at once; what was not delivered is lost."""
        self.unsent.clear()
        self.transport.abort()
        self._forget_who_heard()

    def _forget_who_heard(self) -> None:
        """An error that was raised knows the frames it went through, and they know us: a ring for the collector."""
        if self._lost is not None:
            self._lost.__traceback__ = None

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
            most -= len(self.pending)
            self.pending.clear()
            if most <= 0:
                break
            if not self._reading:
                self._go_on_reading()
            await self.readable()
        self.close()

    async def wait_closed(self) -> None:
        """Wait until the socket is gone."""
        if not self.closed:
            self._closing = self.loop.create_future()
            await self._closing
