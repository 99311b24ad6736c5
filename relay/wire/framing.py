"""Where a message ends. Bytes in, values out; h11 is the judge, and is asked once for each kind of case.

The framing of a message depends on little: role, method or status, version, and the framing field lines, with the
number in Content-Length aside. For each such shape a fresh h11 machine is shown a message of it, and what it makes of
it is remembered. Content is then counted by plain arithmetic, and canonical chunks are cut by one regex; whatever is
not canonical (extensions, trailers, chunks that come in parts) goes to h11 byte for byte.

``tests/test_framing.py`` holds both ways against each other.
"""

from __future__ import annotations

import enum
import re
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import h11

from ..errors import BadRequest, Fields
from ..patterns import late

CHUNK_HEAD = re.compile(rb"([0-9A-Fa-f]{1,15})\r\n")
LONGEST_CHUNK_HEAD = 15 + 2
# With an extension, or white space that h11 puts up with. A size from 2^60 on is nobody's chunk.
CHUNK_LINE = late(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*|[ \t]*)\r\n")
LONGEST_CHUNK_LINE = 4096
LAST_CHUNK = b"0\r\n\r\n"
TRAILERS = late(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n)+")
LONGEST_TRAILERS = 16 << 10  # bytes; nobody reads them: they are never forwarded
CHUNKED_REQUEST = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
LONGEST_REMEMBERED = 512  # bytes of framing lines whose verdict is kept; those of every SDK have less than 100
PROBE = b"0\r\n\r\n"  # ends a chunked message, and is five bytes of any other


class Signal(enum.Enum):
    """What a read can say beside bytes."""

    NEED_DATA = "need data"
    END = "end of message"


NEED_DATA = Signal.NEED_DATA
END = Signal.END


class Extent(enum.Enum):
    """How the end of a message's content is known (RFC 9112 §6.3)."""

    __hash__ = object.__hash__  # members are single objects; Enum's own is a Python function

    EMPTY = "empty"
    LENGTH = "length"
    CHUNKED = "chunked"
    UNTIL_CLOSE = "until close"


# By name: before Python 3.12 a member looked up in its class costs as much as several calls.
EMPTY, LENGTH, CHUNKED, UNTIL_CLOSE = Extent


class MalformedContent(BadRequest):
    """Content that is not framed as its head said."""


class Framing(NamedTuple):
    """h11's verdict on a head: how its content ends, whether the connection outlives it, whether 100 is awaited."""

    extent: Extent
    keep_alive: bool
    wants_continue: bool = False


def request_framing(method: bytes, version: bytes, framing: Fields, length: int | None) -> Framing:
    """The framing of a request; ``length`` is its Content-Length. Raises BadRequest where h11 refuses it."""
    lines = shape(framing, length)
    judge = judge_request if len(lines) <= LONGEST_REMEMBERED else judge_request.__wrapped__
    return judge(method, version, lines)


def response_framing(method: bytes, status: int, version: bytes, framing: Fields, length: int | None) -> Framing:
    """The framing of a response to ``method``. Raises BadRequest where h11 refuses it."""
    lines = shape(framing, length)
    judge = judge_response if len(lines) <= LONGEST_REMEMBERED else judge_response.__wrapped__
    return judge(method, status, version, lines)


def shape(framing: Fields, length: int | None) -> bytes:
    """Framing lines without what does not matter for framing: whose Host it is, and what number the length has."""
    lines = []
    for name, value in framing:
        key = name.lower()
        if key == b"host":
            lines.append(b"Host: h\r\n")
        elif key != b"content-length":
            lines.append(b"%s: %s\r\n" % (name, value))
    if length is not None:
        lines.append(b"Content-Length: 5\r\n" if length else b"Content-Length: 0\r\n")
    return b"".join(lines)


@lru_cache(maxsize=1024)
def judge_request(method: bytes, version: bytes, lines: bytes) -> Framing:
    """Show h11 a request of this shape. Raises BadRequest."""
    server = h11.Connection(h11.SERVER)
    server.receive_data(b"%s / HTTP/%s\r\n%s\r\n" % (method, version, lines))
    try:
        server.next_event()
    except h11.RemoteProtocolError as error:
        raise BadRequest(f"The request is malformed: {error}.") from None
    wants_continue = server.they_are_waiting_for_100_continue
    extent = probe(server)
    server.send(h11.Response(status_code=200, headers=[(b"Content-Length", b"0")]))  # refuses any offer to switch
    return Framing(extent, server.their_state is h11.DONE, wants_continue)


@lru_cache(maxsize=1024)
def judge_response(method: bytes, status: int, version: bytes, lines: bytes) -> Framing:
    """Show h11 a final response of this shape to a request of ``method``. Raises BadRequest."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target=b"/", headers=[(b"Host", b"h")]))
    client.send(h11.EndOfMessage())
    client.receive_data(b"HTTP/%s %d x\r\n%s\r\n" % (version, status, lines))
    try:
        client.next_event()
    except h11.RemoteProtocolError as error:
        raise BadRequest(f"The response is malformed: {error}.") from None
    extent = probe(client)
    return Framing(extent, client.their_state is h11.DONE)


def probe(machine: h11.Connection) -> Extent:
    """Find out how a machine that has read a head expects the content to end, and bring it there."""
    if machine.next_event() is not h11.NEED_DATA:
        return EMPTY
    machine.receive_data(PROBE)
    event = machine.next_event()
    if isinstance(event, h11.EndOfMessage):
        return CHUNKED
    if isinstance(machine.next_event(), h11.EndOfMessage):
        return LENGTH
    return UNTIL_CLOSE


class Written(NamedTuple):
    """How h11 frames a response: the lines it writes (``%d`` stands for the length), and what follows from them."""

    lines: bytes
    extent: Extent
    keep_alive: bool


@lru_cache(maxsize=1024)
def frame_response(method: bytes, version: bytes, kept: bool, status: int, extent: Extent, close: bool) -> Written:
    """Let h11 frame a response: to ``method`` under ``version``, on a connection that the client means to keep or not.

    ``extent`` is how the content comes to us; ``close`` that we end the connection. For an older client, or a method or
    status without content, h11 decides otherwise than we asked.
    """
    machine, lines = begin_response(method, version, kept, status, extent, close)
    written = LENGTH if b"ontent-" in lines else CHUNKED if b"ransfer-" in lines else UNTIL_CLOSE
    try:
        machine.send(h11.Data(data=b"01234"))
    except h11.LocalProtocolError:  # no content may follow, whatever the lines say
        machine, lines = begin_response(method, version, kept, status, extent, close)
        written = EMPTY
    machine.send(h11.EndOfMessage())
    return Written(lines.replace(b"Content-Length: 5", b"Content-Length: %d"), written, machine.our_state is h11.DONE)


def begin_response(
    method: bytes, version: bytes, kept: bool, status: int, extent: Extent, close: bool
) -> tuple[h11.Connection, bytes]:
    """A machine that has just written the head of such a response, and the framing lines it wrote."""
    server = h11.Connection(h11.SERVER)
    connection = b"" if kept else b"Connection: close\r\n"
    server.receive_data(b"%s / HTTP/%s\r\nHost: h\r\n%s\r\n" % (method, version, connection))
    server.next_event()
    server.next_event()
    headers: Fields = [(b"Connection", b"close")] if close else []
    if extent is LENGTH:
        headers.insert(0, (b"Content-Length", b"5"))
    elif extent is CHUNKED:
        headers.insert(0, (b"Transfer-Encoding", b"chunked"))
    head = server.send(h11.Response(status_code=status, headers=headers)) or b""
    return server, head.partition(b"\r\n")[2][:-2]


@lru_cache(maxsize=4096)  # a stream's events differ by few bytes
def chunk_size(line: bytes) -> int | None:
    """How much content a canonical chunk's ``line``, without CRLF, announces; None for any other line."""
    match = CHUNK_HEAD.fullmatch(line + b"\r\n")
    return int(match[1], 16) or None if match is not None else None


def only_chunk(data: bytes) -> bytes | None:
    """What is in the one canonical chunk that ``data`` is, as most events of streams are; None for all else."""
    stop = data.find(b"\r\n", 1, LONGEST_CHUNK_HEAD)
    if stop > 0 and chunk_size(data[:stop]) == len(data) - stop - 4 and data.endswith(b"\r\n"):
        return data[stop + 2 : -2]
    return None


class ChunkedReader:
    """The content of one chunked message, taken from the front of a buffer that somebody else fills."""

    __slots__ = ("_h11", "ended", "owed")

    def __init__(self) -> None:
        self._h11: h11.Connection | None = None  # made for the first bytes that are not canonical
        self.owed = 0  # bytes of a chunk that came in parts, which h11 has to see before the next chunk begins
        self.ended = False

    def whole_chunks(self, buffer: bytes | bytearray) -> tuple[int, bytes]:
        """How many bytes at the front are canonical chunks that are all there, and what is in them.

        Not to be asked while h11 is ``owed`` the rest of another.
        """
        at, end, content, more = 0, len(buffer), b"", []
        while at < end:
            match = CHUNK_HEAD.match(buffer, at)
            if match is None:
                break
            start = match.end()
            stop = start + int(match[1], 16)
            if stop == start or buffer[stop : stop + 2] != b"\r\n":
                break
            if content:
                more.append(bytes(buffer[start:stop]))
            else:
                content = bytes(buffer[start:stop])
            at = stop + 2
        return at, b"".join([content, *more]) if more else content

    def read(self, buffer: bytearray) -> bytes | Signal:
        """Take content off the front of ``buffer``: bytes, END, or NEED_DATA. Raises MalformedContent."""
        while True:
            if self.owed:
                event = self._through_h11(buffer)
                if event is not NEED_DATA or self.owed or not buffer:
                    return event
            at, content = self.whole_chunks(buffer)
            if at:
                del buffer[:at]
                return content
            if buffer.startswith(LAST_CHUNK):
                del buffer[: len(LAST_CHUNK)]
                self.ended = True
                return END
            if not self._has_line(buffer):
                return NEED_DATA

    def _has_line(self, buffer: bytearray) -> bool:
        """Read a chunk's line, where it is all there, and reckon what h11 has to see of that chunk."""
        if b"\n" not in buffer:
            if len(buffer) > LONGEST_CHUNK_LINE:
                raise MalformedContent("A chunk's line is too long.")
            return False
        match = CHUNK_LINE.match(buffer)
        if match is None or match.end() > LONGEST_CHUNK_LINE:
            raise MalformedContent("A chunk's line is malformed: a size in hexadecimal digits, and CRLF.")
        size = int(match[1], 16)
        if size:
            self.owed = match.end() + size + 2
            return True
        return self._has_trailers(buffer, match.end())

    def _has_trailers(self, buffer: bytearray, start: int) -> bool:
        """See whether all that stands behind the last chunk's line is there, and hold it to the grammar of heads.

        h11 puts up with folded lines and bare LF, so the next message would begin here for it, and there for others.
        """
        end = buffer.find(b"\r\n\r\n", start - 2) + 2
        if end < start and len(buffer) - start <= LONGEST_TRAILERS:
            if buffer.count(b"\n") != buffer.count(b"\r\n"):
                raise MalformedContent("A line of the trailer section ends with a bare LF.")
            return False
        if end < start or end - start > LONGEST_TRAILERS:
            raise MalformedContent(f"The trailer section is longer than {LONGEST_TRAILERS} bytes.")
        if end > start and TRAILERS.fullmatch(buffer, start, end) is None:
            raise MalformedContent("The trailer section is malformed.")
        self.owed = end + 2
        return True

    def _through_h11(self, buffer: bytearray) -> bytes | Signal:
        """Show h11 what it is owed, and hand on what it makes of it."""
        machine = self._h11
        if machine is None:
            machine = self._h11 = h11.Connection(h11.SERVER)
            machine.receive_data(CHUNKED_REQUEST)
            machine.next_event()
        count = min(self.owed, len(buffer))
        try:
            if count:
                machine.receive_data(bytes(buffer[:count]))
                del buffer[:count]
                self.owed -= count
            event = machine.next_event()
            if isinstance(event, h11.Data):
                if not self.owed:
                    machine.next_event()  # takes the CRLF behind the chunk
                return bytes(event.data)
        except h11.RemoteProtocolError as error:
            raise MalformedContent(f"The chunked content is malformed: {error}.") from None
        if isinstance(event, h11.EndOfMessage):
            self.ended = True
            return END
        return NEED_DATA


Content: TypeAlias = bytes | Signal


class LengthReader:
    """Content of a known length, taken from the front of a buffer."""

    __slots__ = ("ended", "left")

    def __init__(self, length: int) -> None:
        self.left = length
        self.ended = False

    def read(self, buffer: bytearray) -> Content:
        """Take content off the front of ``buffer``: bytes, END, or NEED_DATA."""
        if not self.left:
            self.ended = True
            return END
        if not buffer:
            return NEED_DATA
        if len(buffer) <= self.left:
            data = bytes(buffer)
            buffer.clear()
        else:
            data = bytes(buffer[: self.left])
            del buffer[: self.left]
        self.left -= len(data)
        self.ended = not self.left
        return data


class CloseReader:
    """Content that lasts as long as the connection."""

    __slots__ = ("ended",)

    def __init__(self) -> None:
        self.ended = False

    def read(self, buffer: bytearray) -> Content:
        """Take all there is."""
        if not buffer:
            return NEED_DATA
        data = bytes(buffer)
        buffer.clear()
        return data


Reader: TypeAlias = ChunkedReader | LengthReader | CloseReader


def make_reader(extent: Extent, length: int, used: LengthReader | None = None) -> Reader:
    """The reader for content of this framing. ``used`` is one that is over, for the next of its kind."""
    if extent is CHUNKED:
        return ChunkedReader()
    if extent is UNTIL_CLOSE:
        return CloseReader()
    reader = LengthReader(0) if used is None else used
    reader.left, reader.ended = length if extent is LENGTH else 0, False
    return reader
