"""HTTP/1.1 messages on one connection, in either role.

``poll_event`` turns the bytes at hand into the next event, ``next_event`` waits for one. A consumer that must not wait
for a turn of the loop (``pump``) sets ``on_readable`` and polls inside the callback.

Heads are cut and checked by ``fields``. Where a message ends, in either direction, is h11's verdict (``framing``); its
content is counted on the way in and on the way out, and a message is never made to look whole that is not.
"""

from __future__ import annotations

import enum
import weakref
from typing import TYPE_CHECKING, TypeAlias

from ..errors import HeadTooLarge
from .connection import HIGH_WATER, Connection, PeerGone
from .fields import check_partial_head, parse_response_head, recall_request_head
from .framing import (
    CHUNKED,
    EMPTY,
    END,
    LENGTH,
    NEED_DATA,
    UNTIL_CLOSE,
    ChunkedReader,
    CloseReader,
    Extent,
    Framing,
    LengthReader,
    Reader,
    Signal,
    frame_response,
    make_reader,
    request_framing,
    response_framing,
)
from .heads import RequestHead, ResponseHead
from .waiting import NOTHING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..config import Limits
    from .heads import Layout

Event: TypeAlias = RequestHead | ResponseHead | bytes | Signal  # a head, content, or END (NEED_DATA only from a poll)
REQUEST_FRAMING = {
    EMPTY: b"",
    LENGTH: b"Content-Length: %d\r\n",
    CHUNKED: b"Transfer-Encoding: chunked\r\n",
}
LONGEST_OPTION = 32  # bytes of a Connection whose meaning is remembered: "keep-alive" has 10
MOST_VERDICTS = 64  # that are remembered with one layout: methods and statuses it comes with
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Role(enum.Enum):
    """Which side of the connection we are."""

    SERVER = "server"  # to a client
    CLIENT = "client"  # to an upstream


SERVER = Role.SERVER


class MessageError(Exception):
    """We tried to write content that does not fit the head we wrote."""


class HTTP1Connection(Connection):
    """An HTTP/1.1 connection: ``role`` is ours, SERVER to a client and CLIENT to an upstream."""

    __slots__ = (
        "_counted",
        "_head",
        "_keeps",
        "_like",
        "_method",
        "_reader",
        "_to_write",
        "_version",
        "_writes",
        "content_length",
        "limits",
        "received",
        "role",
        "sent",
        "wants_continue",
    )

    def __init__(self, role: Role, limits: Limits, on_made: Callable[[HTTP1Connection], None] | None = None) -> None:
        super().__init__(on_made)
        self.role = role
        self.limits = limits
        self._counted = LengthReader(0)  # of every message whose length is stated
        # The last that came from a client, who says the same again and again; as long as it is known elsewhere.
        self._head: Callable[[], RequestHead | None] = NOTHING
        self._like: Layout | None = None  # the layout of the last head that came from an upstream
        self.wants_continue = False  # the client waits for 100 before it sends content
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

    # Reading.

    def poll_event(self) -> Event:
        """The next event that the bytes at hand allow, else ``NEED_DATA``.

        Raises a ``ProxyError`` for what the peer may not send, ``PeerGone`` when no more can come, ``Silent``.
        """
        reader = self._reader
        if reader is None:
            if not self.pending and self._lost is None and not self.eof:
                return NEED_DATA
            return self._poll_head()
        event = reader.read(self.pending)
        if not self._reading and len(self.pending) <= HIGH_WATER:
            self._go_on_reading()
        if reader.ended:
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

    def poll_chunks(self) -> tuple[bytes, bytes] | None:
        """All canonical chunks at hand, as they came, and what is in them; None where ``poll_event`` has to look.

        To a peer whose message is chunked as well they can be passed on without being cut and framed again.
        """
        pending, reader = self.pending, self._reader
        if not pending or not isinstance(reader, ChunkedReader) or reader.owed:
            return None
        count, content = reader.whole_chunks(pending)
        if not count:
            return None
        raw = bytes(pending[:count])
        del pending[:count]
        if not self._reading and len(pending) <= HIGH_WATER:
            self._go_on_reading()
        return raw, content

    def take_rest(self) -> bytes | None:
        """The rest of the message's content if it is at hand and nothing behind it, as that of most is; else None."""
        pending, reader = self.pending, self._reader
        if not isinstance(reader, LengthReader) or reader.left != len(pending):
            return None
        data = bytes(pending)
        pending.clear()
        reader.left = 0
        self.received = reader.ended = True
        if not self._reading:
            self._go_on_reading()
        return data

    @property
    def chunks(self) -> ChunkedReader | None:
        """What reads the chunks of the message that is coming; None where it has none."""
        return self._reader if isinstance(self._reader, ChunkedReader) else None

    def _poll_head(self) -> Event:
        pending = self.pending
        end = pending.find(b"\r\n\r\n") + 4
        if end < 4:  # noqa: PLR2004 - not found
            return self._poll_partial_head()
        if end > self.limits.head_bytes:
            raise HeadTooLarge(f"The head is longer than {self.limits.head_bytes} bytes.")
        raw = bytes(pending[:end])
        del pending[:end]
        if not self._reading and len(pending) <= HIGH_WATER:
            self._go_on_reading()
        return self._read_request(raw) if self.role is SERVER else self._read_response(raw)

    def _poll_partial_head(self) -> Signal:
        if self.pending:
            longest_target = self.limits.target_bytes if self.role is SERVER else self.limits.head_bytes
            check_partial_head(self.pending, self.limits.head_bytes, longest_target)
        if self._lost is not None:
            raise self._lost
        if self.eof:
            raise PeerGone("the stream ended before a head", clean=not self.pending)
        return NEED_DATA

    def _read_request(self, raw: bytes) -> RequestHead:
        head = self._head()
        length = None if head is None else head.length_in(raw)
        if head is None or length is None:
            head, length = recall_request_head(raw, self.limits.head_fields, self.limits.target_bytes)
            self._head = weakref.ref(head)
        key = (request_framing, length and 1)  # the verdict is the same for every length but 0
        framing = head.memo.get(key)
        if framing is None:
            framing = head.memo[key] = request_framing(head.method, head.version, head.framing, length)
        extent, self._keeps, self.wants_continue = framing
        self._method, self._version = head.method, head.version
        self.content_length = length
        self._reader = make_reader(extent, length or 0, self._counted)
        self.received = extent is EMPTY
        return head

    def _read_response(self, raw: bytes) -> ResponseHead:
        head = parse_response_head(raw, self.limits.head_fields, self._like)
        if head.status < 200:  # noqa: PLR2004 - interim, or a switch of protocols: no content
            return head
        self._like = head.layout
        length = self.content_length = head.length
        extent, keeps, _ = self._judge_response(head, length)
        self._keeps = self._keeps and keeps
        self._reader = make_reader(extent, length or 0, self._counted)
        self.received = extent is EMPTY
        return head

    def _judge_response(self, head: ResponseHead, length: int | None) -> Framing:
        """The framing of a response. With a layout that is known, and nothing unusual said, h11's verdict is too."""
        connection = head.get(b"connection")
        if len(connection) > LONGEST_OPTION:
            return response_framing(self._method, head.status, head.version, head.framing, length)
        # what else is framing: a length (the verdict is the same for every one but 0), "chunked", and Upgrade
        memo, key = head.layout.memo, (self._method, head.status, head.version, length and 1, connection)
        framing = memo.get(key)
        if framing is None:
            framing = response_framing(self._method, head.status, head.version, head.framing, length)
            if b"upgrade" not in head and len(memo) < MOST_VERDICTS:
                memo[key] = framing
        return framing

    async def next_event(self) -> Event:
        """Wait for the next event. Raises what ``poll_event`` raises."""
        while (event := self.poll_event()) is NEED_DATA:
            await self.readable()
        return event

    # Writing.

    def send_request(
        self, head: RequestHead, target: bytes, host: bytes, extent: Extent, length: int, lines: bytes
    ) -> None:
        """Write a request's head; ``extent`` and ``length`` frame its content (EMPTY: nothing is said of any)."""
        self._method = head.method
        self._writes, self._to_write = extent, length
        framing = REQUEST_FRAMING[extent] % length if extent is LENGTH else REQUEST_FRAMING[extent]
        self.unsent.append(b"%s %s HTTP/1.1\r\nHost: %s\r\n%s%s\r\n" % (head.method, target, host, framing, lines))

    def send_interim(self, status: int, reason: bytes, lines: bytes) -> None:
        """Write an interim response (1xx)."""
        self.unsent.append(b"HTTP/1.1 %d %s\r\n%s\r\n" % (status, reason, lines))

    def send_continue(self) -> None:
        """Tell a client that waits for it to send its content."""
        self.wants_continue = False
        self.unsent.append(CONTINUE)

    def send_response(
        self, status: int, reason: bytes, extent: Extent, length: int, lines: bytes, *, close: bool
    ) -> None:
        """Write a final response's head, framed as h11 would: ``extent`` and ``length`` are the content's at hand.

        ``close`` announces that the connection ends with this exchange.
        """
        framing, self._writes, keeps = frame_response(self._method, self._version, self._keeps, status, extent, close)
        if extent is LENGTH:
            framing %= length
        self._to_write = length
        self._keeps = self._keeps and keeps
        self.unsent.append(b"HTTP/1.1 %d %s\r\n%s%s\r\n" % (status, reason, framing, lines))

    @property
    def writes_chunks(self) -> bool:
        """Whether the message that goes out is chunked, so that ``send_chunks`` may be used."""
        return self._writes is CHUNKED

    def send_chunks(self, raw: bytes) -> None:
        """Write canonical chunks as they are."""
        self.unsent.append(raw)

    def send_data(self, data: bytes) -> None:
        """Write content, framed as the head said. Raises MessageError beyond Content-Length."""
        if not data:
            return
        if self._writes is LENGTH:
            self._to_write -= len(data)
            if self._to_write < 0:
                raise MessageError("more content than Content-Length says")
            self.unsent.append(data)
        elif self._writes is CHUNKED:
            self.unsent += (b"%x\r\n" % len(data), data, b"\r\n")
        elif self._writes is UNTIL_CLOSE:
            self.unsent.append(data)
        else:
            raise MessageError("content where there can be none")

    def send_end(self) -> None:
        """Write the end of the message. Raises MessageError short of Content-Length."""
        if self._writes is LENGTH and self._to_write:
            raise MessageError("less content than Content-Length says")
        if self._writes is CHUNKED:
            self.unsent.append(b"0\r\n\r\n")
        self.sent = True

    # From one exchange to the next.

    def is_done(self) -> bool:
        """Whether the exchange is over on both sides, whole, with both willing to keep the connection."""
        return self.received and self.sent and self._keeps and self._lost is None

    def next_cycle(self) -> None:
        """Make ready for the next exchange. Bytes that came early are kept for it."""
        self._begin_cycle()
