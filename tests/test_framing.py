"""Where messages end: the quick way held against plain h11, shape by shape and byte by byte."""

from __future__ import annotations

import os
import random
from itertools import product
from typing import TYPE_CHECKING

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.errors import ProxyError
from relay.wire.fields import check_framing, check_host, parse_request_head, parse_response_head
from relay.wire.framing import (
    END,
    NEED_DATA,
    ChunkedReader,
    CloseReader,
    Extent,
    LengthReader,
    MalformedContent,
    frame_response,
    make_reader,
    only_chunk,
    request_framing,
    response_framing,
)

if TYPE_CHECKING:
    from relay.wire.heads import Head

GENERATED = int(os.environ.get("GENERATED_HEADS", "20000"))  # half of them requests; 100,000 take half a minute
CHUNKED = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"


# Heads: what h11 says of the whole head is what is said here of its shape.


def ask_h11_about_request(raw: bytes) -> tuple[list[tuple[bytes, bytes]], Extent, bool, bool]:
    """Fields, framing, keep-alive and expectation by a plain h11 server that is shown all of the head."""
    server = h11.Connection(h11.SERVER)
    server.receive_data(raw)
    request = server.next_event()
    assert isinstance(request, h11.Request)
    waits = server.they_are_waiting_for_100_continue
    extent, _ = end_of(server)
    server.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))  # which does not switch protocols
    return [(bytes(n), bytes(v)) for n, v in request.headers.raw_items()], extent, server.their_state is h11.DONE, waits


def ask_h11_about_response(method: bytes, raw: bytes) -> tuple[list[tuple[bytes, bytes]], Extent, bool]:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target=b"/", headers=[(b"Host", b"h")]))
    client.send(h11.EndOfMessage())
    client.receive_data(raw)
    response = client.next_event()
    assert isinstance(response, h11.Response)
    extent, _ = end_of(client)
    return [(bytes(n), bytes(v)) for n, v in response.headers.raw_items()], extent, client.their_state is h11.DONE


def end_of(machine: h11.Connection) -> tuple[Extent, int]:
    """How a machine lets the content end, found out by feeding it; and the length."""
    if isinstance(machine.next_event(), h11.EndOfMessage):
        return Extent.EMPTY, 0
    machine.receive_data(b"0\r\n\r\n")
    event = machine.next_event()
    if isinstance(event, h11.EndOfMessage):
        return Extent.CHUNKED, 0
    assert isinstance(event, h11.Data)
    count = len(event.data)
    while not isinstance(machine.next_event(), h11.EndOfMessage):
        machine.receive_data(b"x")
        if isinstance(machine.next_event(), h11.Data):
            count += 1
        if count > 64:
            return Extent.UNTIL_CLOSE, 0
    return Extent.LENGTH, count


METHODS = [b"GET", b"POST", b"HEAD", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"X-ODD"]
FRAMINGS = [
    [],
    [b"Content-Length: 0"],
    [b"Content-Length: 7"],
    [b"content-length:7", b"Content-Length: 7"],
    [b"Content-Length: 7, 7"],
    [b"Transfer-Encoding: chunked"],
    [b"transfer-encoding: CHUNKED"],
    [b"Transfer-Encoding: chunked", b"Content-Length: 7"],
    [b"Transfer-Encoding: gzip, chunked"],
    [b"Content-Length: 7", b"Content-Length: 8"],
    [b"Content-Length: x"],
]
CONNECTIONS = [[], [b"Connection: close"], [b"connection: Keep-Alive"], [b"Connection: x, CLOSE"], [b"Connection: x-y"]]
EXPECTS = [[], [b"Expect: 100-continue"], [b"expect: 100-Continue"], [b"Expect: x"]]
OTHERS = [
    b"Accept: */*",
    b"X-Empty:",
    b"x-a:  b \t",
    b"User-Agent: OpenAI/Python 3",
    b"X-High: \xe4\xff",
    b"X-Stainless-Lang: python",
    b"Authorization: Bearer x",
    b"Upgrade: h2c",
    b"!#$: 1",
]


def generated_heads(count: int) -> list[tuple[bytes, bool]]:
    """Heads of every shape, shuffled with lines that do not matter; with whether they are requests."""
    rng = random.Random(20261123)
    heads = []
    for number in range(count):
        is_request = number % 2 == 0
        version = rng.choice([b"1.1", b"1.1", b"1.1", b"1.0"])
        lines = [*rng.choice(FRAMINGS), *rng.choice(CONNECTIONS), *rng.sample(OTHERS, rng.randrange(6))]
        if is_request:
            lines += [*rng.choice(EXPECTS), *rng.choice([[b"Host: h"]] * 9 + [[]])]
            start = rng.choice(METHODS) + b" /v1/x?y=%20 HTTP/" + version
        else:
            start = b"HTTP/%s %d Why Not" % (version, rng.choice([200, 201, 204, 304, 400, 429, 500, 599]))
        rng.shuffle(lines)
        heads.append((b"\r\n".join([start, *lines, b"", b""]), is_request))
    return heads


def test_generated_heads_are_read_as_h11_reads_them() -> None:
    refused = 0
    for number, (raw, is_request) in enumerate(generated_heads(GENERATED)):
        ours: object
        try:
            if is_request:
                head = parse_request_head(raw, 100, 1000)
                length = length_of(head)
                framing = request_framing(head.method, head.version, head.framing, length)
                ours = ([(n.lower(), v) for n, v in head.fields], *framing)
                method = head.method
            else:
                method = METHODS[number % 3]
                answer = parse_response_head(raw, 100)
                length = length_of(answer)
                framing = response_framing(method, answer.status, answer.version, answer.framing, length)
                ours = ([(n.lower(), v) for n, v in answer.fields], *framing[:2])
        except ProxyError:
            refused += 1
            assert must_be_refused(raw), raw
            continue
        assert not must_be_refused(raw), raw
        fields, *theirs = ask_h11_about_request(raw) if is_request else ask_h11_about_response(method, raw)
        seen = sorted({(n.lower(), v) for n, v in fields}), *theirs
        assert seen == (sorted({(n, one(n, v)) for n, v in ours[0]}), *ours[1:]), raw
        assert (length or 0) == (7 if b"7" in head_lengths(raw) else 0)
    assert 0.2 < refused / GENERATED < 0.6  # both ways were well walked


def length_of(head: Head) -> int | None:
    value = head.get(b"content-length")
    return int(value.split(b",")[0]) if value else None


def one(name: bytes, value: bytes) -> bytes:
    """h11 folds equal lengths into one, and lower-cases the transfer coding."""
    if name == b"content-length":
        return value.split(b",")[0]
    return value.lower() if name == b"transfer-encoding" else value


def head_lengths(raw: bytes) -> bytes:
    return b"".join(line for line in raw.lower().split(b"\r\n") if line.startswith(b"content-length"))


def must_be_refused(raw: bytes) -> bool:
    """What h11 refuses of these heads, and SPEC §12 beyond it."""
    lower = raw.lower()
    both = b"transfer-encoding:" in lower and (b"content-length:" in lower or b"http/1.0" in lower.split(b"\r\n")[0])
    host = not lower.startswith(b"http/") and b"http/1.1" in lower and b"host:" not in lower
    return both or host or b"gzip" in lower or b"content-length: x" in lower or b": 8" in lower


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("close", [True, False])
def test_responses_are_framed_as_h11_writes_them(kept: bool, close: bool) -> None:
    statuses = [200, 204, 304, 404, 503]
    kinds = [Extent.LENGTH, Extent.CHUNKED, Extent.UNTIL_CLOSE]
    for method, version, status, extent in product([b"GET", b"HEAD", b"POST"], [b"1.1", b"1.0"], statuses, kinds):
        written = frame_response(method, version, kept, status, extent, close)
        machine = h11.Connection(h11.SERVER)
        machine.receive_data(
            b"%s / HTTP/%s\r\nHost: h\r\n%s\r\n" % (method, version, b"" if kept else b"Connection: close\r\n")
        )
        machine.next_event(), machine.next_event()
        headers = {Extent.LENGTH: [("Content-Length", "5")], Extent.CHUNKED: [("Transfer-Encoding", "chunked")]}.get(
            extent, []
        )
        event = h11.Response(status_code=status, headers=headers + ([("Connection", "close")] if close else []))
        plain = machine.send(event) or b""
        lines = written.lines % 5 if extent is Extent.LENGTH else written.lines
        assert plain == b"HTTP/1.1 %d \r\n%s\r\n" % (status, lines)
        if written.extent is Extent.EMPTY:
            machine.send(h11.EndOfMessage())
        else:
            data = machine.send(h11.Data(data=b"01234"))
            assert data == (b"5\r\n01234\r\n" if written.extent is Extent.CHUNKED else b"01234")
            machine.send(h11.EndOfMessage())
        assert written.keep_alive == (machine.our_state is h11.DONE)


# Content.


def read_all(content: bytes, size: int) -> tuple[bytes, bool, bytes]:
    """Feed chunked content in pieces of ``size``: what is read, whether it ended, and what is left over."""
    reader, buffer, found = ChunkedReader(), bytearray(), b""
    for at in range(0, len(content), size):
        buffer += content[at : at + size]
        while not reader.ended and (event := reader.read(buffer)) is not NEED_DATA:
            if event is not END:
                assert isinstance(event, bytes)
                found += event
    return found, reader.ended, bytes(buffer)


def ask_h11_about_content(content: bytes, size: int) -> tuple[bytes, bool, bytes] | None:
    """The same by a plain h11 server; None where it refuses."""
    server, found = h11.Connection(h11.SERVER), b""
    server.receive_data(CHUNKED)
    server.next_event()
    try:
        for at in range(0, len(content), size):
            server.receive_data(content[at : at + size])
            while (event := server.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
                if isinstance(event, h11.EndOfMessage):
                    server.receive_data(content[at + size :])
                    return found, True, bytes(server.trailing_data[0])
                assert isinstance(event, h11.Data)
                found += bytes(event.data)
    except h11.RemoteProtocolError:
        return None
    return found, False, bytes(server.trailing_data[0])


WHOLE = [
    (b"0\r\n\r\n", b""),
    (b"3\r\nabc\r\n0\r\n\r\n", b"abc"),
    (b"3\r\nabc\r\n002\r\nde\r\n0\r\n\r\n", b"abcde"),
    (b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", b"01234567890123456789"),
    (b"3;name=value\r\nabc\r\n0;x\r\n\r\n", b"abc"),
    (b"3 \r\nabc\r\n0\r\n\r\n", b"abc"),
    (b"3\r\nabc\r\n0\r\nTrailer: x\r\nOther: y\r\n\r\n", b"abc"),
    (b"3\r\nabc\r\n00000\r\n\r\n", b"abc"),
    (b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n"),
    (b"3\r\nabc\r\n" + b"1f4\r\n" + b"x" * 500 + b"\r\n0\r\n\r\n", b"abc" + b"x" * 500),
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1 << 20])
@pytest.mark.parametrize(("content", "inside"), WHOLE)
def test_chunks_are_read_in_pieces_of_any_size(content: bytes, inside: bytes, size: int) -> None:
    assert read_all(content, size)[:2] == (inside, True)


@pytest.mark.parametrize(("content", "inside"), WHOLE)
def test_what_follows_the_last_chunk_is_left_for_the_next_message(content: bytes, inside: bytes) -> None:
    assert read_all(content + b"GET / HT", 1 << 20) == (inside, True, b"GET / HT")


BROKEN = [
    b"x\r\nabc\r\n",
    b"-3\r\nabc\r\n0\r\n\r\n",
    b"+3\r\nabc\r\n0\r\n\r\n",
    b"0x3\r\nabc\r\n0\r\n\r\n",
    b" 3\r\nabc\r\n0\r\n\r\n",
    b"3\r\nabcd\r\n0\r\n\r\n",
    b"3\r\nabc\n0\r\n\r\n",
    b"3\r\nabcXX0\r\n\r\n",
    b"3\nabc\r\n0\r\n\r\n",
    b"3\rabc\r\n0\r\n\r\n",
    b"3;a\rb\r\nabc\r\n0\r\n\r\n",
    b"3;a\nabc\r\n0\r\n\r\n",
    b"\r\n",
    b"ffffffffffffffff\r\nabc",
    b"8000000000000000\r\nabc",
    b"10000000000000000000\r\nabc",
    b"0\r\nbad trailer\r\n\r\n",
    b"0\r\nA: b\nC: d\r\n\r\n",
    b"0\r\nA: b\n\n",
    b"0\r\nA: b\r\n c\r\n\r\n",
    b"0\r\nA: b\rc\r\n\r\n",
    b"0\r\nA : b\r\n\r\n",
    b"0\r\nA: \x00\r\n\r\n",
    b"0\r\n: b\r\n\r\n",
    b"0\r\nA: " + b"b" * (16 << 10) + b"\r\n\r\n",
    b"0\r\n" + b"A: b\r\n" * 4000,
]


@pytest.mark.parametrize("size", [1, 2, 1 << 20])
@pytest.mark.parametrize("content", BROKEN)
def test_broken_chunks_are_refused(content: bytes, size: int) -> None:
    with pytest.raises(MalformedContent):
        read_all(content, size)


@settings(max_examples=400, deadline=None)
@given(
    pieces=st.lists(st.binary(min_size=1, max_size=40), max_size=8),
    odd=st.sampled_from([b"", b";x=y", b" ", b"\t"]),
    size=st.integers(1, 60),
    cut=st.integers(0, 400),
    flip=st.tuples(st.integers(0, 400), st.integers(1, 255)) | st.none(),
)
def test_content_is_read_as_h11_reads_it(
    pieces: list[bytes], odd: bytes, size: int, cut: int, flip: tuple[int, int] | None
) -> None:
    content = bytearray(b"".join(b"%x%s\r\n%s\r\n" % (len(piece), odd, piece) for piece in pieces) + b"0\r\n\r\nrest")
    if flip is not None and flip[0] < len(content):
        content[flip[0]] ^= flip[1]
    raw = bytes(content[: max(cut, 1)])
    theirs = ask_h11_about_content(raw, size)
    try:
        found, ended, left = read_all(raw, size)
    except MalformedContent:
        return  # we may be the stricter ones (bare CR and LF in lines), never the laxer
    assert theirs is not None
    if ended:
        assert (found, ended, left) == theirs
    else:
        assert not theirs[1]
        assert theirs[0].startswith(found)


def test_a_length_counts_and_leaves_the_rest() -> None:
    reader, buffer = LengthReader(5), bytearray(b"abc")
    assert reader.read(buffer) == b"abc"
    assert reader.read(buffer) is NEED_DATA
    buffer += b"defg"
    assert reader.read(buffer) == b"de"
    assert reader.read(buffer) is END
    assert buffer == b"fg"


def test_content_until_close_takes_all() -> None:
    reader = make_reader(Extent.UNTIL_CLOSE, 0)
    assert isinstance(reader, CloseReader)
    buffer = bytearray(b"abc")
    assert (reader.read(buffer), reader.read(buffer)) == (b"abc", NEED_DATA)
    assert make_reader(Extent.EMPTY, 0).read(bytearray(b"next")) is END


def test_whole_chunks_are_counted_and_nothing_else() -> None:
    reader = ChunkedReader()
    assert reader.whole_chunks(b"1\r\na\r\n2\r\nbc\r\n3\r\nab") == (14 - 1, b"abc")
    assert reader.whole_chunks(b"0\r\n\r\n") == (0, b"")
    assert reader.whole_chunks(b"1;x\r\na\r\n") == (0, b"")
    part = make_reader(Extent.CHUNKED, 0)
    assert isinstance(part, ChunkedReader)
    assert part.read(bytearray(b"5;x\r\nab")) == b"ab"
    assert part.owed  # it is still h11's turn


NEAR_CHUNKS = st.lists(
    st.sampled_from(
        [b"0", b"1", b"2", b"00", b"a", b"A", b"+2", b" 2", b"2_0", b"g", b";x", b"\r", b"\n", b"\r\n", b"\r\n"]
    )
    | st.just(b"0123456789abcdef"),
    max_size=9,
).map(b"".join)


@given(NEAR_CHUNKS | st.binary(max_size=40).map(lambda content: b"%x\r\n%s\r\n" % (len(content), content)))
@settings(max_examples=1000, deadline=None)
def test_one_chunk_alone_is_read_as_whole_chunks_are(data: bytes) -> None:
    count, content = ChunkedReader().whole_chunks(data)
    alone = only_chunk(data)
    assert alone is None or (count, content) == (len(data), alone)
    if count == len(data) > 0 and len(data) - len(content) < len(b"f\r\n\r\n") * 2:  # there is no room for two
        assert alone == content


def test_one_chunk_alone_is_seen() -> None:
    assert only_chunk(b"2\r\nab\r\n") == b"ab"
    assert only_chunk(b"00000000000000A\r\n0123456789\r\n") == b"0123456789"
    for other in (
        b"",
        b"\r\n",
        b"zz\r\n\r\n",
        b"zz\r\nX",
        b"0\r\n\r\n",
        b"2\r\nab\r\n0\r\n\r\n",
        b"2\r\nabc\r\n",
        b"2\r\nab",
    ):
        assert only_chunk(other) is None


def test_heads_that_h11_refuses_are_refused() -> None:
    with pytest.raises(ProxyError, match="malformed"):
        request_framing(b"GET", b"1.1", [], None)  # no Host: the parse refuses that first
    with pytest.raises(ProxyError, match="malformed"):
        response_framing(b"GET", 200, b"1.1", [(b"Transfer-Encoding", b"gzip")], None)


def test_a_chunk_line_without_end_is_refused() -> None:
    reader = ChunkedReader()
    assert reader.read(bytearray(b"3;" + b"x" * 4000)) is NEED_DATA
    with pytest.raises(MalformedContent, match="too long"):
        reader.read(bytearray(b"3;" + b"x" * 5000))
    with pytest.raises(MalformedContent, match="malformed"):
        ChunkedReader().read(bytearray(b"3;" + b"x" * 5000 + b"\r\n"))


def test_checks_are_part_of_the_parse() -> None:
    head = parse_request_head(b"GET /v1/x HTTP/1.1\r\nHost: h\r\n\r\n", 10, 100)
    check_framing(head)
    check_host(head)
