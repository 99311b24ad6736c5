"""The client's side: one connection's life, its exchanges one after the other, and the answers we make ourselves."""

from __future__ import annotations

import asyncio
import os
import time
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING, Protocol, Self

from ..errors import ClientGone, ClientTooSlow, Fields, ProxyError
from ..record.lines import ExchangeRecord
from ..wire.connection import PeerGone, Silent
from ..wire.fields import field_lines
from ..wire.framing import LENGTH, NEED_DATA, Extent
from ..wire.heads import RequestHead
from ..wire.news import has_news
from .body import RequestBody

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from types import TracebackType

    from ..config import Config, Deployment
    from ..record.spans import ExchangeSpan
    from ..record.usage import Meter
    from ..wire.http1 import Event, HTTP1Connection

# RFC 9112 §9.6: after the last words, what is still on its way is read and dropped, for about as long as nginx does it
# (lingering_timeout 5 s) and up to what a client has in flight on a fast, long path.
LINGER_BYTES = 64 << 20
LINGER_SECONDS = 5.0

REASONS = {
    200: b"OK",
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    409: b"Conflict",
    413: b"Content Too Large",
    414: b"URI Too Long",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
}

_numbers = count(1)
_process = ""


def _forked() -> None:
    """Take a name that no other process has; workers are forked from one that has one already."""
    global _process  # noqa: PLW0603
    _process = os.urandom(5).hex()


_forked()
os.register_at_fork(after_in_child=_forked)


def new_id() -> str:
    """A name for an exchange: unique among all processes (random) and within this one (counted)."""
    return f"pt-{_process}-{next(_numbers):x}"


def http_date() -> bytes:
    """Now, as RFC 9110 §5.6.7 writes it."""
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime()).encode()


class Exchange:
    """One request and its one response on a client's connection."""

    __slots__ = (
        "body",
        "committed",
        "config",
        "connection",
        "handler",
        "head",
        "id",
        "is_last",
        "is_local",
        "leaving",
        "meter",
        "paid_to",
        "record",
        "span",
        "started",
    )

    head: RequestHead  # these are not set where the head was refused
    body: RequestBody
    leaving: Leaving

    def __init__(self, connection: HTTP1Connection, handler: Handler) -> None:
        self.id = new_id()
        self.connection = connection
        self.handler = handler  # who may begin to drain while this lasts
        self.config = handler.config  # what this exchange began with, whatever a reload brings meanwhile
        self.committed = False  # a byte of the response has left: from here on no retry, and no other answer
        self.is_last = False  # the connection ends with it
        self.is_local = False  # one of our own pages: no record
        self.started = monotonic()
        self.record = ExchangeRecord(time.time(), self.id)
        self.meter: Meter | None = None  # who knows what was used
        self.paid_to: Deployment | None = None  # whose prices hold for what was used
        self.span: ExchangeSpan | None = None  # where the file asks for spans

    def begin(self, head: RequestHead, leaving: Leaving) -> None:
        """Take the request's head; ``leaving`` is what to carry it out in."""
        self.head = head
        self.leaving = leaving
        self.body = RequestBody(self.connection, head, self.config)
        record = self.record
        record.method, record.path = head.method_name, head.path

    def send_head(self, status: int, reason: bytes, extent: Extent, length: int, lines: bytes) -> None:
        """Commit: write the response's head. It leaves with the next ``flush``."""
        self.commit(status)
        self.connection.send_response(status, reason, extent, length, lines, close=self.closes())

    def commit(self, status: int) -> None:
        """The first byte of the response is about to leave: from here on there is no other answer."""
        self.committed = True
        self.record.status = status
        self.record.first_byte_ms = (monotonic() - self.started) * 1000

    def closes(self) -> bool:
        """Whether the connection ends with this exchange: draining, or content that nobody will read."""
        return self.is_last or self.handler.draining or not self.connection.received

    def respond(self, status: int, content_type: bytes, content: bytes, fields: Fields) -> None:
        """Answer by ourselves."""
        lines = field_lines([(b"Date", http_date()), (b"Content-Type", content_type), *fields])
        lines += b"x-passthrough-id: %s\r\n" % self.id.encode()
        self.send_head(status, REASONS.get(status, b""), LENGTH, len(content), lines)
        if self.record.method != "HEAD":
            self.connection.send_data(content)
            self.record.bytes_out = len(content)
        self.connection.send_end()
        self.connection.flush()

    def answer(self, error: ProxyError) -> None:
        """Answer with an error in OpenAI's shape."""
        self.respond(error.status, b"application/json", error.body(), error.fields())


class Leaving:
    """While this context lasts, the client's hanging up cancels the task that made it, and becomes ``ClientGone``.

    An end of stream while an exchange is under way counts as leaving, as in nginx (SPEC §12). One serves a connection.
    """

    __slots__ = ("_connection", "_left", "_task")

    def __init__(self, connection: HTTP1Connection) -> None:
        self._connection = connection
        self._task = asyncio.current_task(connection.loop)
        self._left = False

    def __enter__(self) -> Self:
        connection = self._connection
        if connection.eof or connection.closed:
            raise ClientGone("the client left")
        connection.on_eof = self._hung_up
        return self

    def _hung_up(self) -> None:
        if not self._left and self._task is not None:
            self._left = True
            self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.on_eof = None
        if self._left and self._task is not None:
            others = self._task.uncancel()
            if kind is asyncio.CancelledError and not others:
                raise ClientGone("the client left") from None


class Handler(Protocol):
    """Who takes the exchanges of a connection: ``passthrough.Worker``."""

    config: Config
    draining: bool

    def handle_exchange(self, exchange: Exchange) -> Awaitable[None]:
        """Answer one exchange, or abort its connection; never raises but on cancellation."""

    def refuse(self, exchange: Exchange, error: ProxyError) -> None:
        """Answer a head that could not be read."""


class Downstream:
    """One client's connection: reads heads, hands exchanges on, keeps the connection or closes it."""

    __slots__ = ("_handler", "_leaving", "connection", "idle")

    def __init__(self, connection: HTTP1Connection, handler: Handler) -> None:
        self.connection = connection
        self._handler = handler
        self.idle = False  # kept, and waiting for another request

    async def serve(self) -> None:
        """Serve exchanges until either side closes."""
        connection = self.connection
        self._leaving = Leaving(connection)
        kept = False
        try:
            while await self._serve_one(kept=kept):
                kept = True
                if connection.pending or connection.paused:
                    await self._give_way()
                    if self._handler.draining and self.is_unasked:
                        break
        except PeerGone as error:
            if not error.clean:  # else what was said last is on its way still
                connection.abort()
        except ClientGone:
            connection.abort()
        except asyncio.CancelledError:
            connection.abort()
            raise
        finally:
            connection.close()
        await self._see_off()

    @property
    def is_unasked(self) -> bool:
        """Whether nothing has come that is not answered."""
        return not self.connection.pending and not has_news(self.connection)

    async def _see_off(self) -> None:
        """Until what was said last has left, the connection is one of ours: it counts, and a drain waits for it."""
        connection = self.connection
        if connection.transport.get_write_buffer_size():
            try:
                await connection.wait_closed()
            except asyncio.CancelledError:
                connection.abort()
                raise

    async def _serve_one(self, *, kept: bool) -> bool:
        """One exchange; whether the connection can carry another."""
        exchange = await self._next_exchange(kept=kept)
        if exchange is None:
            return False
        connection = self.connection
        try:
            await self._handler.handle_exchange(exchange)
        finally:
            exchange.body.close()
        if connection.is_done() and not self._handler.draining:
            connection.next_cycle()
            return True
        await self._leave()
        return False

    async def _give_way(self) -> None:
        """Between requests that came together: the others have their turn, and the client takes its answers.

        Our own answers need no turn of the loop, so without this a pipeline of bad requests would keep everybody else
        waiting, and one whose answers nobody reads would fill the memory.
        """
        await asyncio.sleep(0)
        await self.connection.drain()

    async def _next_exchange(self, *, kept: bool) -> Exchange | None:
        """The next request's head, or None where there will be none."""
        try:
            head = await self._next_head(kept=kept)
        except Silent:
            return None
        except ProxyError as error:
            self._handler.refuse(Exchange(self.connection, self._handler), error)
            await self._leave()
            return None
        exchange = Exchange(self.connection, self._handler)
        exchange.begin(head, self._leaving)
        return exchange

    async def _next_head(self, *, kept: bool) -> RequestHead:
        connection, timeouts = self.connection, self._handler.config.timeouts
        event = connection.poll_event()
        if event is NEED_DATA:
            connection.set_deadline(timeouts.keep_alive if kept else timeouts.head)
            self.idle = kept
            try:
                while event is NEED_DATA and not connection.pending:
                    await connection.readable()
                    event = connection.poll_event()
            finally:
                self.idle = False
            if event is NEED_DATA:
                event = await self._rest_of_head(kept=kept)
        assert isinstance(event, RequestHead)
        connection.set_deadline(None)
        return event

    async def _rest_of_head(self, *, kept: bool) -> Event:
        """A head that came in part has until ``timeouts.head``; on a new connection that time runs already."""
        seconds = self._handler.config.timeouts.head
        if kept:
            self.connection.set_deadline(seconds)
        try:
            return await self.connection.next_event()
        except Silent:
            raise ClientTooSlow(f"The request's head was not complete within {seconds:g} s.") from None

    async def _leave(self) -> None:
        """Close so that the client can still read what was said last."""
        connection = self.connection
        if connection.closed or connection.transport.is_closing():
            return
        if connection.received and not connection.pending:
            connection.close()
        else:
            await connection.linger(LINGER_BYTES, LINGER_SECONDS)
