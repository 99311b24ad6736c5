"""Bytes from side to side: what arrives leaves at once, the slow side slows the fast one, tunnels end together."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from relay.config import Limits
from relay.wire.connection import PeerGone, Silent
from relay.wire.framing import Extent
from relay.wire.heads import RequestHead
from relay.wire.http1 import HTTP1Connection, Role
from relay.wire.pump import BodyRelay, Tunnel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PATIENCE = 10.0
HEAD = RequestHead(b"GET", b"/", b"1.1", [])


class Sides:
    """An upstream and a client, both plain sockets, and the two connections between them."""

    def __init__(
        self, upstream: socket.socket, source: HTTP1Connection, sink: HTTP1Connection, client: socket.socket
    ) -> None:
        self.upstream, self.source, self.sink, self.client = upstream, source, sink, client

    async def begin(self, answer: bytes, kind: Extent, length: int = 0) -> None:
        self.source.send_request(HEAD, b"/", b"up", Extent.EMPTY, 0, b"")
        self.upstream.sendall(answer)
        await asyncio.wait_for(self.source.next_event(), PATIENCE)
        self.client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await asyncio.wait_for(self.sink.next_event(), PATIENCE)
        self.sink.send_response(200, b"", kind, length, b"", close=False)
        self.sink.flush()

    async def hear(self, count: int) -> bytes:
        loop = asyncio.get_running_loop()
        heard = b""
        while len(heard) < count:
            piece = await asyncio.wait_for(loop.sock_recv(self.client, 1 << 16), PATIENCE)
            if not piece:
                break
            heard += piece
        return heard


@pytest.fixture
async def sides() -> AsyncIterator[Sides]:
    loop = asyncio.get_running_loop()
    upstream, ours = socket.socketpair()
    client, theirs = socket.socketpair()
    for sock in (upstream, client):
        sock.setblocking(False)
    _, source = await loop.create_connection(lambda: HTTP1Connection(Role.CLIENT, Limits()), sock=ours)
    _, sink = await loop.create_connection(lambda: HTTP1Connection(Role.SERVER, Limits()), sock=theirs)
    yield Sides(upstream, source, sink, client)
    for connection in (source, sink):
        connection.abort()
        await connection.wait_closed()
    upstream.close()
    client.close()


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SHORT = b"HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n"


async def test_chunks_pass_as_they_came_and_are_watched(sides: Sides) -> None:
    seen: list[bytes] = []
    await sides.begin(CHUNKED + b"3\r\nabc\r\n02\r\nde\r\n", Extent.CHUNKED)
    relay = BodyRelay(sides.source, sides.sink, seen.append, 5)
    running = asyncio.ensure_future(relay.run())
    wanted = SHORT + b"3\r\nabc\r\n02\r\nde\r\n"
    assert await sides.hear(len(wanted)) == wanted
    sides.upstream.sendall(b"1;x=y\r\nf\r\n0\r\n\r\n")
    await asyncio.wait_for(running, PATIENCE)
    assert await sides.hear(11) == b"1\r\nf\r\n0\r\n\r\n"
    assert b"".join(seen) == b"abcdef"
    assert relay.count == 6
    assert relay.ended


async def test_what_is_all_there_moves_without_a_wait(sides: Sides) -> None:
    await sides.begin(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Extent.LENGTH, 5)
    moving = BodyRelay(sides.source, sides.sink, None, 5).run()
    with pytest.raises(StopIteration):
        moving.send(None)
    assert (await sides.hear(41)).endswith(b"hello")


async def test_content_of_one_framing_becomes_that_of_the_other(sides: Sides) -> None:
    await sides.begin(CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", Extent.LENGTH, 5)
    await asyncio.wait_for(BodyRelay(sides.source, sides.sink, None, 5).run(), PATIENCE)
    assert (await sides.hear(41)).endswith(b"\r\n\r\nhello")


@pytest.mark.parametrize(
    ("content", "boundary"),
    [
        (b"", True),
        (b"data: 1\n\n", True),
        (b"data: 1\r\n\r\n", True),
        (b"data: 1\n", False),
        (b"\n", False),
    ],
)
async def test_the_boundary_of_an_event_is_known(sides: Sides, content: bytes, boundary: bool) -> None:
    chunk = b"%x\r\n%s\r\n" % (len(content), content) if content else b""
    await sides.begin(CHUNKED + chunk, Extent.CHUNKED)
    relay = BodyRelay(sides.source, sides.sink, None, 5)
    sides.upstream.shutdown(socket.SHUT_WR)
    with pytest.raises(PeerGone):
        await asyncio.wait_for(relay.run(), PATIENCE)
    assert relay.at_event_boundary is boundary


async def test_an_event_split_over_reads_still_ends_at_a_boundary(sides: Sides) -> None:
    await sides.begin(CHUNKED + b"8\r\ndata: 1\n\r\n", Extent.CHUNKED)
    relay = BodyRelay(sides.source, sides.sink, None, 5)
    running = asyncio.ensure_future(relay.run())
    await sides.hear(len(SHORT) + 13)
    assert not relay.at_event_boundary
    sides.upstream.sendall(b"1\r\n\n\r\n")
    await sides.hear(6)
    assert relay.at_event_boundary
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_silence_ends_a_stream_but_not_while_the_client_is_the_slow_one(sides: Sides) -> None:
    await sides.begin(CHUNKED, Extent.CHUNKED)
    running = asyncio.ensure_future(BodyRelay(sides.source, sides.sink, None, 0.05).run())
    piece = b"%x\r\n%s\r\n" % (1 << 16, b"x" * (1 << 16))
    sending = asyncio.ensure_future(asyncio.get_running_loop().sock_sendall(sides.upstream, piece * 40))
    waited = asyncio.Event()
    asyncio.get_running_loop().call_later(0.2, waited.set)  # four times the silence that is allowed
    await waited.wait()
    assert sides.sink.paused
    assert not running.done()
    await sides.hear(len(SHORT) + len(piece) * 40)
    await asyncio.wait_for(sending, PATIENCE)
    with pytest.raises(Silent):
        await asyncio.wait_for(running, PATIENCE)


async def test_a_client_that_is_gone_ends_it(sides: Sides) -> None:
    await sides.begin(CHUNKED, Extent.CHUNKED)
    running = asyncio.ensure_future(BodyRelay(sides.source, sides.sink, None, 5).run())
    await asyncio.sleep(0)
    sides.client.close()
    await asyncio.wait_for(sides.sink.wait_closed(), PATIENCE)
    sides.upstream.sendall(b"1\r\nx\r\n")
    with pytest.raises(PeerGone, match="left"):
        await asyncio.wait_for(running, PATIENCE)


async def test_a_fault_of_the_watcher_reaches_whoever_waits(sides: Sides) -> None:
    def fail(_: bytes) -> None:
        raise RuntimeError("watcher")

    await sides.begin(CHUNKED, Extent.CHUNKED)
    running = asyncio.ensure_future(BodyRelay(sides.source, sides.sink, fail, 5).run())
    await asyncio.sleep(0)
    sides.upstream.sendall(b"1\r\nx\r\n")
    with pytest.raises(RuntimeError, match="watcher"):
        await asyncio.wait_for(running, PATIENCE)


async def test_a_tunnel_moves_both_ways_and_ends_with_either_side(sides: Sides) -> None:
    tunnel = Tunnel(sides.sink, sides.source, 5)
    running = asyncio.ensure_future(tunnel.run())
    loop = asyncio.get_running_loop()
    sides.upstream.sendall(b"from upstream")
    assert await sides.hear(13) == b"from upstream"
    await loop.sock_sendall(sides.client, b"from client")
    assert await asyncio.wait_for(loop.sock_recv(sides.upstream, 100), PATIENCE) == b"from client"
    sides.client.close()
    assert await asyncio.wait_for(running, PATIENCE) is sides.sink
    assert tunnel.counts == [11, 13]


async def test_a_silent_tunnel_ends(sides: Sides) -> None:
    assert await asyncio.wait_for(Tunnel(sides.sink, sides.source, 0.05).run(), PATIENCE) is None
