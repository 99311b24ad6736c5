"""One connection: reading, writing, flow control, deadlines, endings. Both ends are real sockets."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from relay.config import Limits
from relay.errors import BadRequest, HeadTooLarge, TargetTooLong
from relay.reach.upstream import StaleConnection, UpstreamConnection
from relay.scopes.looking import NO_CONTENT
from relay.wire.connection import HIGH_WATER, PeerGone, Silent
from relay.wire.framing import END, NEED_DATA, Extent
from relay.wire.heads import RequestHead, ResponseHead
from relay.wire.http1 import HTTP1Connection, MessageError, Role

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from relay.reach.lanes import Approach
    from relay.reach.upstream import UpstreamPool

PATIENCE = 10.0
REQUEST = b"POST /v1/x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n"
HEAD = RequestHead(b"POST", b"/v1/x", b"1.1", [])


class Pair:
    """A connection under test, and the plain socket at its other end."""

    def __init__(self, connection: HTTP1Connection, peer: socket.socket) -> None:
        self.connection = connection
        self.peer = peer

    def say(self, data: bytes) -> None:
        self.peer.sendall(data)

    async def hear(self, count: int) -> bytes:
        heard = b""
        while len(heard) < count:
            piece = await asyncio.wait_for(
                asyncio.get_running_loop().sock_recv(self.peer, count - len(heard)), PATIENCE
            )
            if not piece:
                break
            heard += piece
        return heard

    async def next(self) -> object:
        return await asyncio.wait_for(self.connection.next_event(), PATIENCE)


async def make_pair(role: Role, limits: Limits | None = None) -> Pair:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    _, connection = await asyncio.get_running_loop().create_connection(
        lambda: HTTP1Connection(role, limits or Limits()), sock=ours
    )
    return Pair(connection, theirs)


@pytest.fixture
async def server() -> AsyncIterator[Pair]:
    pair = await make_pair(Role.SERVER)
    yield pair
    pair.peer.close()
    pair.connection.abort()
    await pair.connection.wait_closed()


@pytest.fixture
async def client() -> AsyncIterator[Pair]:
    pair = await make_pair(Role.CLIENT)
    yield pair
    pair.peer.close()
    pair.connection.abort()
    await pair.connection.wait_closed()


async def test_a_request_is_read_event_by_event(server: Pair) -> None:
    server.say(REQUEST + b"hello" + b"GET / HTTP/1.1\r\n")
    head = await server.next()
    assert isinstance(head, RequestHead)
    assert (head.method, head.target) == (b"POST", b"/v1/x")
    assert await server.next() == b"hello"
    assert server.connection.received  # the head has said that this is all
    assert await server.next() is END
    assert server.connection.received
    assert server.connection.pending
    server.connection.send_response(204, b"No Content", Extent.CHUNKED, 0, b"", close=False)
    server.connection.send_end()
    assert server.connection.is_done()
    server.connection.next_cycle()
    assert server.connection.poll_event() is NEED_DATA
    server.say(b"Host: h\r\n\r\n")
    assert isinstance(await server.next(), RequestHead)
    assert server.connection.received


async def test_a_response_is_read_and_the_connection_used_again(client: Pair) -> None:
    for _ in range(2):
        client.connection.send_request(HEAD, b"/v1/x", b"up", Extent.LENGTH, 3, b"A: b\r\n")
        client.connection.send_data(b"abc")
        client.connection.send_end()
        client.connection.flush()
        wanted = b"POST /v1/x HTTP/1.1\r\nHost: up\r\nContent-Length: 3\r\nA: b\r\n\r\nabc"
        assert await client.hear(len(wanted)) == wanted
        client.say(
            b"HTTP/1.1 102 Wait\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
        )
        interim = await client.next()
        assert isinstance(interim, ResponseHead)
        assert interim.is_interim()
        assert isinstance(await client.next(), ResponseHead)
        assert await client.next() == b"hi"
        assert await client.next() is END
        assert client.connection.is_done()
        client.connection.next_cycle()
        assert client.connection.is_alive()


async def test_what_departs_at_the_end_of_a_crowded_turn_has_not_left_before(client: Pair) -> None:
    connection = client.connection
    connection._turn.is_crowded = True
    connection.send_request(HEAD, b"/", b"up", Extent.EMPTY, 0, b"")
    connection.depart()
    assert connection.unsent
    await asyncio.sleep(0)
    assert not connection.unsent
    assert (await asyncio.get_running_loop().sock_recv(client.peer, 1000)).startswith(b"POST / HTTP/1.1\r\n")


async def test_what_an_upstream_says_before_it_is_asked_answers_nothing(client: Pair) -> None:
    kept: list[object] = []
    pool = cast("UpstreamPool", SimpleNamespace(keep=lambda *_: kept.append(1)))
    approach = cast("Approach", SimpleNamespace(lane=SimpleNamespace(host=b"up")))
    upstream = UpstreamConnection(pool, approach, client.connection, reused=True)
    client.connection._turn.is_crowded = True
    upstream.send_request(HEAD, b"/", NO_CONTENT, b"")
    client.connection.data_received(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
    with pytest.raises(StaleConnection) as caught:
        await upstream.response_head(PATIENCE, lambda _: None)
    assert not caught.value.sent
    upstream.release()
    assert kept == []


async def test_whole_chunks_are_handed_out_as_they_came(client: Pair) -> None:
    client.connection.send_request(HEAD, b"/", b"up", Extent.CHUNKED, 0, b"")
    client.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    await client.next()
    assert client.connection.poll_chunks() is None
    client.say(b"2\r\nhi\r\n3\r\nabc\r\n4\r\nwx")
    async with asyncio.timeout(PATIENCE):
        await client.connection.readable()
    assert client.connection.poll_chunks() == (b"2\r\nhi\r\n3\r\nabc\r\n", b"hiabc")
    assert client.connection.poll_chunks() is None
    assert await client.next() == b"wx"
    client.say(b"yz\r\n1\r\n!\r\n0\r\n\r\n")
    assert [await client.next() for _ in range(3)] == [b"yz", b"!", END]


async def test_content_until_the_end_of_the_stream(client: Pair) -> None:
    client.connection.send_request(HEAD, b"/", b"up", Extent.EMPTY, 0, b"")
    client.say(b"HTTP/1.1 200 OK\r\n\r\nall of it")
    await client.next()
    assert await client.next() == b"all of it"
    client.peer.shutdown(socket.SHUT_WR)
    assert await client.next() is END
    client.connection.send_end()
    assert not client.connection.is_done()


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n123",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ],
)
async def test_a_message_cut_short_is_the_peers_leaving(client: Pair, said: bytes) -> None:
    client.connection.send_request(HEAD, b"/", b"up", Extent.EMPTY, 0, b"")
    client.say(said)
    client.peer.shutdown(socket.SHUT_WR)
    await client.next()
    assert await client.next() in (b"123", b"abc")
    with pytest.raises(PeerGone, match="cut short"):
        await client.next()


@pytest.mark.parametrize(("said", "clean"), [(b"", True), (b"GET / HT", False)])
async def test_an_end_before_a_head(server: Pair, said: bytes, clean: bool) -> None:
    server.say(said)
    server.peer.shutdown(socket.SHUT_WR)
    with pytest.raises(PeerGone) as caught:
        await server.next()
    assert caught.value.clean is clean


async def test_heads_have_their_limits() -> None:
    for said, error in [
        (b"GET /" + b"x" * 200, TargetTooLong),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * 400, HeadTooLarge),
        (b"GET / HTTP/1.1\r\nHost: h\r\nA: " + b"x" * 300 + b"\r\n\r\n", HeadTooLarge),
        (b"GET / HTTP/1.1\nHost: h\n\n", BadRequest),
        (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", BadRequest),
    ]:
        pair = await make_pair(Role.SERVER, Limits(head_bytes=300, target_bytes=100))
        pair.say(said)
        with pytest.raises(error):
            await pair.next()
        pair.connection.abort()
        await pair.connection.wait_closed()
        pair.peer.close()


WRITTEN = [
    ((200, Extent.LENGTH, 5), b"HTTP/1.1 200 x\r\nContent-Length: 5\r\nA: b\r\n\r\nhello"),
    ((200, Extent.CHUNKED, 0), b"HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\nA: b\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
]


@pytest.mark.parametrize(("head", "written"), WRITTEN)
async def test_responses_are_written_as_framed(server: Pair, head: tuple[int, Extent, int], written: bytes) -> None:
    server.say(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    await server.next()
    connection = server.connection
    connection.send_response(head[0], b"x", head[1], head[2], b"A: b\r\n", close=False)
    connection.send_data(b"")
    connection.send_data(b"hello")
    connection.send_end()
    connection.flush()
    connection.flush()
    assert await server.hear(len(written)) == written


async def test_a_body_that_does_not_fit_its_head_is_not_written(server: Pair) -> None:
    server.say(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n")
    await server.next()
    server.connection.send_response(200, b"", Extent.LENGTH, 5, b"", close=False)
    with pytest.raises(MessageError, match="can be none"):
        server.connection.send_data(b"hello")
    server.connection.send_end()
    server.connection.next_cycle()
    server.connection.send_response(200, b"", Extent.LENGTH, 5, b"", close=False)
    with pytest.raises(MessageError, match="less content"):
        server.connection.send_end()
    with pytest.raises(MessageError, match="more content"):
        server.connection.send_data(b"hello!")


async def test_reading_stops_while_nobody_takes_what_came(server: Pair) -> None:
    server.say(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10000000\r\n\r\n")
    await server.next()
    loop = asyncio.get_running_loop()
    content = b"x" * 10_000_000
    sending = asyncio.ensure_future(loop.sock_sendall(server.peer, content))
    async with asyncio.timeout(PATIENCE):
        while server.connection.transport.is_reading():  # noqa: ASYNC110 - `readable` is over before reading stops
            await asyncio.sleep(0)
    assert not sending.done()
    assert len(server.connection.pending) < HIGH_WATER + (512 << 10)
    count = 0
    while count < len(content):
        piece = await server.next()
        assert isinstance(piece, bytes)
        count += len(piece)
    await asyncio.wait_for(sending, PATIENCE)
    assert await server.next() is END


async def test_a_hang_up_is_noticed_while_reading_has_stopped(server: Pair) -> None:
    left = asyncio.Event()
    server.connection.on_eof = left.set
    server.say(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    await server.next()
    await asyncio.get_running_loop().sock_sendall(server.peer, b"x" * (HIGH_WATER + 1))
    async with asyncio.timeout(PATIENCE):
        while server.connection.transport.is_reading():  # noqa: ASYNC110 - `readable` is over before reading stops
            await asyncio.sleep(0)
    server.peer.close()
    await asyncio.wait_for(left.wait(), PATIENCE)
    assert server.connection.eof


async def test_a_slow_peer_is_waited_for(server: Pair) -> None:
    server.connection.send_response(200, b"", Extent.CHUNKED, 0, b"", close=False)
    assert server.connection.writes_chunks
    content = b"y" * 5_000_000
    server.connection.send_data(content)
    server.connection.flush()
    assert server.connection.paused
    waiting = asyncio.ensure_future(server.connection.drain())
    await server.hear(len(content))
    await asyncio.wait_for(waiting, PATIENCE)
    assert not server.connection.paused


async def test_a_deadline_raises_and_may_be_moved(server: Pair) -> None:
    server.connection.set_deadline(100)
    server.connection.set_deadline(0.05)
    with pytest.raises(Silent):
        await server.next()
    with pytest.raises(Silent):
        await server.connection.drain()


async def test_a_deadline_taken_away_or_put_off_does_not_strike(server: Pair) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    server.connection.set_deadline(0.02)
    server.connection.set_deadline(None)
    server.connection.set_deadline(0.01)
    server.connection.set_deadline(0.1)
    with pytest.raises(Silent):
        await server.next()
    assert loop.time() - began >= 0.099
    other = await make_pair(Role.SERVER)
    other.connection.set_deadline(0.01)
    other.connection.set_deadline(None)
    struck = asyncio.Event()
    loop.call_later(0.03, struck.set)
    await struck.wait()
    assert other.connection.poll_event() is NEED_DATA
    other.connection.abort()
    await other.connection.wait_closed()
    await other.connection.wait_closed()
    other.peer.close()


async def test_a_failure_elsewhere_reaches_whoever_waits(server: Pair) -> None:
    error = RuntimeError("elsewhere")
    asyncio.get_running_loop().call_soon(server.connection.fail, error)
    with pytest.raises(RuntimeError, match="elsewhere"):
        await server.next()
    assert server.connection.failure is error


async def test_lingering_reads_what_is_still_on_its_way(server: Pair) -> None:
    server.say(REQUEST)
    await server.next()
    server.connection.send_response(413, b"Too Much", Extent.LENGTH, 0, b"", close=True)
    server.connection.send_end()
    lingering = asyncio.ensure_future(server.connection.linger(1 << 20, PATIENCE))
    heard = await server.hear(10_000)
    assert heard.startswith(b"HTTP/1.1 413 Too Much\r\n")
    assert b"Connection: close" in heard
    server.say(b"x" * 1000)
    server.peer.shutdown(socket.SHUT_WR)
    await asyncio.wait_for(lingering, PATIENCE)
    await asyncio.wait_for(server.connection.wait_closed(), PATIENCE)


@pytest.mark.parametrize(("most", "seconds"), [(10, PATIENCE), (1 << 20, 0.05)])
async def test_lingering_has_its_bounds(server: Pair, most: int, seconds: float) -> None:
    lingering = asyncio.ensure_future(server.connection.linger(most, seconds))
    server.say(b"x" * 100)
    await asyncio.wait_for(lingering, PATIENCE)
    await asyncio.wait_for(server.connection.wait_closed(), PATIENCE)


async def test_bytes_as_they_are_after_a_switch(client: Pair) -> None:
    client.connection.send_request(HEAD, b"/", b"up", Extent.EMPTY, 0, b"")
    client.say(b"HTTP/1.1 101 Switch\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n\x81\x00")
    head = await client.next()
    assert isinstance(head, ResponseHead)
    assert not head.is_interim()
    assert client.connection.take() == b"\x81\x00"
    assert not client.connection.is_over
    client.connection.flush()
    client.connection.write(b"raw")
    wanted = b"POST / HTTP/1.1\r\nHost: up\r\n\r\nraw"
    assert await client.hear(len(wanted)) == wanted
    client.peer.close()
    await asyncio.wait_for(client.connection.wait_closed(), PATIENCE)
    assert client.connection.is_over
    client.connection.write(b"nobody there")


async def test_a_connection_tells_about_itself(server: Pair) -> None:
    assert "server" in repr(server.connection)
    assert server.connection.peer() == "unix"
    server.connection.send_interim(103, b"Hints", b"A: b\r\n")
    server.connection.send_continue()
    server.connection.flush()
    wanted = b"HTTP/1.1 103 Hints\r\nA: b\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    assert await server.hear(len(wanted)) == wanted
    server.connection.cut()
    await asyncio.wait_for(server.connection.wait_closed(), PATIENCE)
    with pytest.raises(PeerGone):
        await server.connection.drain()
