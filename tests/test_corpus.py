"""Every raw message of the corpus over real sockets: what gets through, what does not, and that nothing is poisoned."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import h11
import pytest

from tests.corpus import Case, cases, parse_case
from tests.harness import PATIENCE, POST_CHAT, get, proxy_for, read_answer, with_limits, with_timeouts
from tests.scripted import ScriptedUpstream, dechunk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from relay.config import Timeouts
    from tests.harness import Proxy

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
NEXT = get("/v1/next")
LONGEST_TRICKLE = 2000  # longer messages are not said byte by byte
REQUESTS = [*cases("requests/valid"), *cases("requests/invalid")]
RESPONSES = [*cases("responses/valid"), *cases("responses/invalid")]
PATIENT = {408: 0.1, 504: 0.1}  # the deadline of those whose verdict is that it passed


def test_the_corpus_is_there() -> None:
    assert len(REQUESTS) + len(RESPONSES) >= 150
    assert min(len(cases(f"{kind}/{side}")) for kind in ("requests", "responses") for side in ("valid", "invalid")) > 20


# The files themselves.

SPOILT = [
    ("GET / HTTP/1.1", "verdict and reason"),
    ("# verdict: 1\n# reason: \n", "not a note"),
    ("# verdict: 1\n# verdict: 2\n# reason: x\n", "given twice"),
    ("# verdict: 1\n# reason: x\na\\qb", "unknown escape"),
    ("# verdict: 1\n# reason: x\na\\", "unknown escape"),
    ("# verdict: 1\n# reason: x\na\\x0", "unknown escape"),
    ("# verdict: 1\n# reason: x\na \n", "no space at the end"),
    ("# verdict: 1\n# reason: x\na\tb", "printable ASCII"),
    ("# verdict: 1\n# reason: x\na\u00e4b", "printable ASCII"),
]


def test_a_file_is_read_byte_by_byte() -> None:
    case = parse_case(
        "# verdict: 200\n# reason: r\n# then: x\na\\r\\n\\t\\\\\n\\x00b\\(A: b\\r\\n*2)\\(x*3)\n---\nc\\n\n", "n"
    )
    assert case.said == b"a\r\n\t\\\x00bA: b\r\nA: b\r\nxxx"
    assert case.arrives == b"c\n"
    assert case.notes == {"verdict": "200", "reason": "r", "then": "x"}
    assert parse_case("# verdict: 1\n# reason: r\n\\x23", "n").said == b"#"
    assert parse_case("# verdict: 1\n# reason: r\n", "n").arrives is None
    assert parse_case("# verdict: 1\n# reason: r\n\n---\n", "n").arrives == b""


@pytest.mark.parametrize(("text", "words"), SPOILT)
def test_a_spoilt_file_is_refused_by_name(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"the-name: .*{words}"):
        parse_case(text, "the-name")


# Both sides.


class Recorder(ScriptedUpstream):
    """Remembers every byte of every connection, whole requests or not."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = b""

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        feed = reader.feed_data

        def note(data: bytes) -> None:
            self.bytes += data
            feed(data)

        reader.feed_data = note  # type: ignore[method-assign, assignment]
        super()._connected(reader, writer)

    @property
    def heard_at_all(self) -> bytes:
        """What came, with our address named."""
        return self.bytes.replace(b"127.0.0.1:%d" % self.port, b"upstream")


@asynccontextmanager
async def both(timeouts: Timeouts) -> AsyncIterator[tuple[Proxy, Recorder]]:
    """A proxy and its upstream."""
    upstream = Recorder()
    await upstream.start()
    try:
        limits = with_limits(request_bytes=1_000_000)
        async with asyncio.timeout(PATIENCE), proxy_for(upstream, limits=limits, timeouts=timeouts) as proxy:
            yield proxy, upstream
    finally:
        await upstream.close()


def timeouts_for(case: Case) -> Timeouts:
    """Times that only those reach whose verdict says so."""
    short = 0.1 if re.search("408|504", case.notes["verdict"]) else 5.0
    idle = 0.1 if case.notes.get("then") == "hold" else 5.0
    return with_timeouts(head=short, body=short, response_head=short, stream_idle=idle)


@asynccontextmanager
async def client_of(proxy: Proxy) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client's connection, ended in any case."""
    reader, writer = await proxy.connect()
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def say(writer: asyncio.StreamWriter, data: bytes, size: int) -> None:
    """Say it in pieces of ``size``; a peer that has hung up hears no more."""
    for at in range(0, len(data), size):
        if writer.is_closing():
            return
        writer.write(data[at : at + size])
        await asyncio.sleep(0)


def status_of(answer: bytes) -> int:
    """The final status of an answer, interim ones aside."""
    return int(re.findall(rb"(?m)^HTTP/1\.1 ([2-9][0-9][0-9]) ", answer)[0])


def whole_requests(heard: bytes) -> list[bytes]:
    """What an upstream heard, chunks brought into one form: how content is cut into chunks means nothing."""
    found = []
    while heard:
        head, _, heard = heard.partition(b"\r\n\r\n")
        length = re.search(rb"(?m)^Content-Length: ([0-9]+)\r?$", head)
        content = b""
        if b"Transfer-Encoding: chunked" in head:
            end = end_of_chunks(heard)
            content, heard = dechunk(heard[:end]), heard[end:]
        elif length:
            content, heard = heard[: int(length[1])], heard[int(length[1]) :]
        found.append(head + b"\r\n\r\n" + content)
    return found


def end_of_chunks(data: bytes) -> int:
    """Where chunked content ends."""
    at = 0
    while True:
        line = data.index(b"\r\n", at)
        size = int(data[at:line], 16)
        at = line + 4 + size
        if not size:
            return at


# Requests.


@pytest.mark.parametrize("size", [1 << 30, 1], ids=["whole", "bytes"])
@pytest.mark.parametrize("case", REQUESTS, ids=str)
async def test_only_what_was_authorised_goes_upstream(case: Case, size: int) -> None:
    if size == 1 and len(case.said) > LONGEST_TRICKLE:
        size = 4001
    verdicts = [int(status) for status in case.notes["verdict"].split(", ")]
    async with both(timeouts_for(case)) as (proxy, upstream):
        upstream.says(OK)
        async with client_of(proxy) as (reader, writer):
            saying = asyncio.create_task(say(writer, case.said, size))
            head_only = case.said.startswith(b"HEAD")
            answers = [await read_answer(reader, head_only=head_only) for _ in verdicts]
            await saying
            assert [status_of(answer) for answer in answers] == verdicts
            check_upstream(case, upstream)
            noted = case.notes.get("kept", "yes" if "/valid/" in case.name else "no")
            kept = noted == "yes" or (noted == "whole" and size > 1)  # what came in one piece has been read to its end
            assert (b"\r\nConnection: close\r\n" in answers[-1]) is not kept
            if kept:
                writer.write(NEXT)
                assert status_of(await read_answer(reader)) == 200
            else:
                assert await reader.read() == b""
        assert (await proxy.exchange(NEXT)).startswith(b"HTTP/1.1 200 OK\r\n")
        assert all(heard.startswith(b"GET /v1/next HTTP/1.1\r\nHost: ") for heard in upstream.requests[-1 - kept :])
        assert len(upstream.requests) == sum(status == 200 for status in verdicts) + 1 + kept


def check_upstream(case: Case, upstream: Recorder) -> None:
    """What is authorised arrives byte for byte; what is not, not at all, or never whole."""
    heard = upstream.heard_at_all
    if case.notes.get("upstream") == "part":
        assert heard.startswith(b"POST /v1/things HTTP/1.1\r\nHost: upstream\r\n") or not heard
        assert not upstream.requests
    elif case.notes.get("normal") == "chunks":
        assert whole_requests(heard) == whole_requests(case.arrives or b"")
    else:
        assert heard == (case.arrives or b"")


# Responses.


async def say_answer(case: Case, size: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say what the file says, and then what its notes say: close, reset, hold (and be silent), or keep."""
    await say(writer, case.said, size)
    then = case.notes.get("then", "keep")
    if then == "hold":
        await reader.read()
    if then == "reset":
        await writer.drain()
        await asyncio.sleep(0.01)  # what was said before a reset may be lost with it
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    if then in {"close", "hold", "reset"}:
        raise ConnectionError


async def hear(reader: asyncio.StreamReader, method: str) -> tuple[int | None, bytes, bool]:
    """Read one answer as a strict client does: status, content, and whether it was whole."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "h")]))
    client.send(h11.EndOfMessage())
    status, content = None, b""
    try:
        while True:
            event = client.next_event()
            if event is h11.NEED_DATA:
                client.receive_data(await reader.read(65_536))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                content += event.data
            elif isinstance(event, h11.EndOfMessage):
                return status, content, True
            elif isinstance(event, h11.ConnectionClosed):
                return status, content, False
    except (h11.RemoteProtocolError, ConnectionError):
        return status, content, False


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("size", [1 << 30, 1], ids=["whole", "bytes"])
@pytest.mark.parametrize("case", RESPONSES, ids=str)
async def test_only_a_whole_response_looks_whole(case: Case, size: int, version: str) -> None:
    if size == 1 and len(case.said) > LONGEST_TRICKLE:
        size = 4001
    verdict = case.notes["verdict"]
    method = case.notes.get("method", "GET")
    async with both(timeouts_for(case)) as (proxy, upstream):
        upstream.says(lambda reader, writer: say_answer(case, size, reader, writer), OK)
        async with client_of(proxy) as (reader, writer):
            writer.write(get("/v1/things", method=method).replace(b"HTTP/1.1", b"HTTP/" + version.encode()))
            status, content, whole = await hear(reader, method)
            if verdict == "broken":
                assert status == int(case.notes["status"])
                assert not whole or (version == "1.0" and b'data: {"error"' in content)
            else:
                assert (status, whole) == (int(verdict), True)
                assert int(verdict) >= 500 or content == case.arrives
            assert b"poison" not in content
            if whole and version == "1.1":
                writer.write(POST_CHAT)
                assert await hear(reader, "POST") == (200, b"{}", True)
            else:
                assert await end_of(reader)
        assert (await proxy.exchange(NEXT, NEXT)).count(b"\r\n\r\n{}") == 2
        check_connections(case, upstream, followed=whole and version == "1.1")


async def end_of(reader: asyncio.StreamReader) -> bool:
    """Whether the connection ends, in order or not, and nothing more is said."""
    try:
        return await reader.read() == b""
    except ConnectionError:
        return True


def check_connections(case: Case, upstream: Recorder, *, followed: bool) -> None:
    """An upstream connection is kept exactly where nothing was left open on it."""
    sound = case.notes["verdict"] not in {"broken", "502", "504"}
    assert upstream.connections == int(case.notes.get("connections", "1" if sound else "2"))
    assert len(upstream.requests) == 3 + followed
