"""Every limit and every time of SPEC §9: at the limit, one below, one above."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trustme

from relay.config import Limits, RouterSettings, Timeouts
from relay.requests.spool import Spool
from tests.every_loop import settle
from tests.harness import (
    KEY,
    OK,
    PATIENCE,
    POST_CHAT,
    config_over,
    deployment,
    get,
    post,
    proxy_for,
    proxy_over,
    read_answer,
    with_limits,
    with_timeouts,
)
from tests.scripted import ScriptedUpstream, dechunk, read_message, reset

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

    from tests.harness import Proxy

TIME = 0.25  # seconds that the deadline under test has
SLACK = 2.0  # seconds by which a busy machine may be late


@pytest.fixture
async def up() -> AsyncIterator[ScriptedUpstream]:
    upstream = ScriptedUpstream()
    await upstream.start()
    upstream.says(OK)
    yield upstream
    await upstream.close()


def test_the_defaults_are_those_of_the_contract() -> None:
    assert Limits() == Limits(65_536, 100, 16_384, 8 << 30, 1 << 20, 80 << 20, 10_000)
    assert Timeouts() == Timeouts(15, 75, 60, 5, 600, 600, 50, 30)


def status(answer: bytes) -> int:
    return int(answer[9:12])


# Limits.


def padded(total: int) -> bytes:
    """A head of exactly ``total`` bytes."""
    start = f"GET /v1/things HTTP/1.1\r\nHost: p\r\nAuthorization: Bearer {KEY}\r\nX: ".encode()
    return start + b"x" * (total - len(start) - 4) + b"\r\n\r\n"


@pytest.mark.parametrize(("more", "verdict"), [(-1, 200), (0, 200), (1, 431)])
async def test_head_bytes(up: ScriptedUpstream, more: int, verdict: int) -> None:
    async with proxy_for(up, limits=with_limits(head_bytes=3000)) as proxy:
        assert status(await proxy.exchange(padded(3000 + more))) == verdict
    assert len(up.requests) == (verdict == 200)


@pytest.mark.parametrize(("more", "verdict"), [(-1, 200), (0, 200), (1, 431)])
async def test_head_fields(up: ScriptedUpstream, more: int, verdict: int) -> None:
    async with proxy_for(up, limits=with_limits(head_fields=20)) as proxy:
        answer = await proxy.exchange(get("/v1/things", *["A: b"] * (18 + more)))  # beside Host and Authorization
    assert status(answer) == verdict
    assert len(up.requests) == (verdict == 200)


@pytest.mark.parametrize(("more", "verdict"), [(-1, 200), (0, 200), (1, 414)])
async def test_target_bytes(up: ScriptedUpstream, more: int, verdict: int) -> None:
    async with proxy_for(up, limits=with_limits(target_bytes=500)) as proxy:
        assert status(await proxy.exchange(get("/v1/" + "x" * (496 + more)))) == verdict
    assert len(up.requests) == (verdict == 200)


@pytest.mark.parametrize(("more", "verdict"), [(-1, 200), (0, 200), (1, 413)])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("kind", ["application/json", "a/b"])
async def test_request_bytes(up: ScriptedUpstream, more: int, verdict: int, chunked: bool, kind: str) -> None:
    content = b'{"model":"gpt-4"' + b" " * (983 + more) + b"}"
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(content)}"
    request = get("/v1/things", f"Content-Type: {kind}", framing, method="POST")
    request += b"1f4\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (content[:500], len(content) - 500, content[500:])
    if not chunked:
        request = request.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" + content
    async with proxy_for(up, limits=with_limits(request_bytes=1000)) as proxy:
        assert status(await proxy.exchange(request)) == verdict
    assert len(up.requests) == (verdict == 200)  # a chunked one may have begun, and was never whole


async def test_a_body_too_large_is_refused_before_it_is_asked_for(up: ScriptedUpstream) -> None:
    request = get("/v1/things", "Content-Length: 1001", "Expect: 100-continue", method="POST")
    async with proxy_for(up, limits=with_limits(request_bytes=1000)) as proxy:
        assert status(await proxy.exchange(request)) == 413
    assert not up.requests


@pytest.mark.parametrize(("more", "spills"), [(-1, False), (0, False), (1, True)])
async def test_inspection_bytes(up: ScriptedUpstream, more: int, spills: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    spilled: list[int] = []
    monkeypatch.setattr("relay.requests.spool.Spool._spill", watch_spills(spilled))
    content = b'{"model":"gpt-4"' + b" " * (983 + more) + b"}"
    two = [deployment(name, up.port) for name in "ab"]  # so that the body has to be read before one is chosen
    async with proxy_over(config_over(*two, limits=with_limits(inspection_bytes=1000))) as proxy:
        assert status(await proxy.exchange(post("chat/completions", content))) == 200
    assert bool(spilled) == spills
    assert up.heard.endswith(content)


def watch_spills(spilled: list[int]) -> object:
    spill = Spool._spill

    def watched(spool: Spool) -> None:
        spilled.append(spool.size)
        spill(spool)

    return watched


@pytest.mark.parametrize(("more", "attempts"), [(-1, 2), (0, 2), (1, 1)])
@pytest.mark.parametrize("chunked", [False, True])
async def test_replay_bytes(up: ScriptedUpstream, more: int, attempts: int, chunked: bool) -> None:
    """Beyond it the first send is the only one, though the endpoint might be asked again."""

    async def take_and_reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(await read_message(reader))
        await reset(reader, writer)

    taken: list[bytes] = []
    content = os.urandom(2000 + more)
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(content)}"
    request = get("/v1/things", "Content-Type: a/b", "Idempotency-Key: k", framing, method="POST")
    request += b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content) if chunked else content
    server = await asyncio.start_server(lambda r, w: swallow(take_and_reset(r, w)), "127.0.0.1", 0)
    one = deployment("a", server.sockets[0].getsockname()[1], scope="s")
    other = deployment("b", up.port, scope="s", order=1)
    limits = with_limits(replay_bytes=2000, inspection_bytes=500)
    async with proxy_over(config_over(one, other, limits=limits)) as proxy:
        answer = await proxy.exchange(request)
    server.close()
    assert status(answer) == (200 if attempts == 2 else 502)
    assert len(taken) == 1
    assert len(up.requests) == attempts - 1
    for heard in [*taken, *up.requests]:
        body = heard.partition(b"\r\n\r\n")[2]
        assert (dechunk(body) if chunked else body) == content


async def swallow(serving: Awaitable[None]) -> None:
    """Serve, and let a reset be one."""
    with suppress(ConnectionError):
        await serving


async def test_connections(up: ScriptedUpstream) -> None:
    """As many as allowed are served; one more is told so at once, reads it, and finds room when one has left."""
    async with proxy_for(up, limits=with_limits(connections=3)) as proxy:
        held = [await proxy.connect() for _ in range(3)]
        for reader, writer in held:
            writer.write(get("/v1/things"))
            assert status(await asyncio.wait_for(read_answer(reader), PATIENCE)) == 200
        for _ in range(5):
            began = time.monotonic()
            answer = await turned_away(proxy)
            assert time.monotonic() - began < SLACK
            assert status(answer) == 503
            assert b"\r\nRetry-After: 1\r\n" in answer
            assert b"\r\nConnection: close\r\n" in answer
        held[0][1].close()
        await until_served(proxy)
        for _, writer in held:
            writer.close()
        records = [record.__dict__["status"] for record in proxy.records]
    assert records.count(503) >= 5


async def turned_away(proxy: Proxy) -> bytes:
    """Say a whole request at once, a long one, and hear what comes until the end: an answer, and no reset before it."""
    reader, writer = await proxy.connect()
    try:
        writer.write(post("chat/completions", b'{"model":"gpt-4","x":"' + b"x" * 200_000 + b'"}'))
        return await asyncio.wait_for(reader.read(), PATIENCE)
    finally:
        writer.transport.abort()


async def until_served(proxy: Proxy) -> None:
    async with asyncio.timeout(PATIENCE):
        while status(await proxy.exchange(get("/v1/things"))) != 200:  # until the proxy has seen that one left
            pass


# Times.


async def heard_after(reader: asyncio.StreamReader, began: float) -> tuple[bytes, float]:
    """All that comes until the end, and when it came."""
    async with asyncio.timeout(PATIENCE):
        heard = await reader.read()
    return heard, time.monotonic() - began


async def test_head_on_a_new_connection_counts_from_accept(up: ScriptedUpstream) -> None:
    async with proxy_for(up, timeouts=with_timeouts(head=TIME)) as proxy:
        began = time.monotonic()
        reader, writer = await proxy.connect()
        heard, after = await heard_after(reader, began)
        writer.close()
        assert heard == b""
        assert TIME * 0.9 < after < TIME + SLACK


@pytest.mark.parametrize("kept", [False, True])
async def test_a_head_that_trickles_does_not_gain_time(up: ScriptedUpstream, kept: bool) -> None:
    async with proxy_for(up, timeouts=with_timeouts(head=TIME, keep_alive=30)) as proxy:
        reader, writer = await proxy.connect()
        if kept:
            writer.write(get("/v1/things"))
            await asyncio.wait_for(read_answer(reader), PATIENCE)
        began = time.monotonic()
        trickling = asyncio.create_task(trickle(writer, get("/v1/things")))
        heard, after = await heard_after(reader, began)
        trickling.cancel()
        writer.transport.abort()
    assert status(heard) == 408
    assert TIME * 0.9 < after < TIME + SLACK


async def trickle(writer: asyncio.StreamWriter, data: bytes, pause: float = TIME / 10) -> None:
    for byte in data:
        writer.write(bytes([byte]))
        await asyncio.sleep(pause)


async def test_a_head_within_its_time_is_served(up: ScriptedUpstream) -> None:
    async with proxy_for(up, timeouts=with_timeouts(head=2, keep_alive=0.1)) as proxy:
        reader, writer = await proxy.connect()
        request = get("/v1/things")
        await trickle(writer, request[:10], 0.02)  # longer than keep_alive, which does not count here
        writer.write(request[10:])
        assert status(await asyncio.wait_for(read_answer(reader), PATIENCE)) == 200
        writer.close()


async def test_keep_alive(up: ScriptedUpstream) -> None:
    async with proxy_for(up, timeouts=with_timeouts(keep_alive=TIME)) as proxy:
        reader, writer = await proxy.connect()
        for pause in (0.0, TIME / 2, TIME / 2, TIME / 2):  # silence below it, any number of times
            await asyncio.sleep(pause)
            writer.write(get("/v1/things"))
            assert status(await asyncio.wait_for(read_answer(reader), PATIENCE)) == 200
        heard, after = await heard_after(reader, time.monotonic())
        writer.close()
        assert heard == b""
        assert TIME * 0.9 < after < TIME + SLACK


@pytest.mark.parametrize("kind", ["application/json", "a/b"])
async def test_body(up: ScriptedUpstream, kind: str) -> None:
    """Silence counts, not the whole."""
    content = b'{"model":"gpt-4"}'
    head = get("/v1/things", f"Content-Type: {kind}", f"Content-Length: {len(content)}", method="POST")
    async with proxy_for(up, timeouts=with_timeouts(body=TIME)) as proxy:
        reader, writer = await proxy.connect()
        writer.write(head)
        await trickle(writer, content, TIME / 8)  # two times the limit in all
        assert status(await asyncio.wait_for(read_answer(reader), PATIENCE)) == 200
        began = time.monotonic()
        writer.write(head + content[:-1])
        heard, after = await heard_after(reader, began)
        writer.close()
    assert status(heard) == 408
    assert TIME * 0.9 < after < TIME + SLACK
    assert len(up.requests) == 1


async def test_connect(up: ScriptedUpstream) -> None:
    """A queue that is full answers nothing: the next deployment is asked, and with no other it is a 504."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = fill(full)
        dead = deployment("dead", full.getsockname()[1])
        timeouts = with_timeouts(connect=TIME)
        async with proxy_over(config_over(dead, deployment("b", up.port, order=1), timeouts=timeouts)) as proxy:
            began = time.monotonic()
            assert status(await proxy.exchange(POST_CHAT)) == 200
            assert TIME * 0.9 < time.monotonic() - began < TIME + SLACK
        async with proxy_over(config_over(dead, timeouts=timeouts)) as proxy:
            assert status(await proxy.exchange(POST_CHAT)) == 504
        for filler in fillers:
            filler.close()


def fill(listener: socket.socket) -> list[socket.socket]:
    """Connect until nobody is let in any more."""
    fillers = []
    for _ in range(4):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
        fillers.append(filler)
    return fillers


async def test_response_head(up: ScriptedUpstream) -> None:
    """Counted from the last byte of the request, however long that took."""

    async def take_time(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(pause)
        writer.write(OK)

    up.script = [take_time]
    router = RouterSettings(num_retries=0)
    async with proxy_for(up, timeouts=with_timeouts(response_head=TIME), router=router) as proxy:
        reader, writer = await proxy.connect()
        pause = TIME / 3
        writer.write(get("/v1/things", "Content-Type: a/b", "Content-Length: 10", method="POST"))
        await trickle(writer, b"0123456789", TIME / 5)
        assert status(await asyncio.wait_for(read_answer(reader), PATIENCE)) == 200
        pause = 30.0
        began = time.monotonic()
        writer.write(get("/v1/things"))
        assert status(await asyncio.wait_for(read_answer(reader), PATIENCE)) == 504
        assert TIME * 0.9 < time.monotonic() - began < TIME + SLACK
        writer.close()


async def test_stream_idle(up: ScriptedUpstream) -> None:
    """Silence counts, not the whole; and not while it is the client who takes nothing."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(8):
            await asyncio.sleep(TIME / 4)
            writer.write(b"9\r\ndata: 1\n\n\r\n")
        await reader.read()

    up.script = [speak]
    async with proxy_for(up, timeouts=with_timeouts(stream_idle=TIME)) as proxy:
        began = time.monotonic()
        answer = await proxy.exchange(POST_CHAT)
    assert TIME * 2.9 < time.monotonic() - began < TIME * 3 + SLACK
    assert answer.count(b"data: 1\n\n") == 8
    assert b'data: {"error"' in answer


async def test_a_client_that_takes_nothing_is_not_held_against_the_upstream(up: ScriptedUpstream) -> None:
    content = os.urandom(8_000_000)
    up.script = [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(content), content)]
    async with proxy_for(up, timeouts=with_timeouts(stream_idle=TIME)) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port, limit=1024)
        writer.write(get("/v1/things"))
        await asyncio.wait_for(up.asked.wait(), PATIENCE)
        await asyncio.sleep(TIME * 2)  # and takes nothing meanwhile
        answer = await asyncio.wait_for(read_answer(reader), PATIENCE)
        writer.close()
    assert answer.endswith(content)


@pytest.mark.parametrize(("pause", "connections"), [(TIME / 2, 1), (TIME * 2, 2)])
async def test_upstream_keep_alive(up: ScriptedUpstream, pause: float, connections: int) -> None:
    async with proxy_for(up, timeouts=with_timeouts(upstream_keep_alive=TIME)) as proxy:
        await proxy.exchange(POST_CHAT)
        if connections == 2:
            await asyncio.wait_for(up.closed.wait(), PATIENCE)
        else:
            await asyncio.sleep(pause)
        await proxy.exchange(POST_CHAT)
    assert up.connections == connections


@pytest.mark.parametrize("finishes", [True, False])
async def test_drain(up: ScriptedUpstream, finishes: bool) -> None:
    """What is under way may finish, for so long; what is idle is closed at once."""

    async def answer_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.wait_for(gate.wait(), PATIENCE) if finishes else await reader.read()
        writer.write(OK)

    gate = asyncio.Event()
    up.script = [OK, answer_late]
    async with proxy_for(up, timeouts=with_timeouts(drain=TIME if not finishes else PATIENCE)) as proxy:
        idle_reader, idle_writer = await proxy.connect()
        idle_writer.write(get("/v1/things"))
        await asyncio.wait_for(read_answer(idle_reader), PATIENCE)
        reader, writer = await proxy.connect()
        up.asked.clear()
        writer.write(POST_CHAT)
        await asyncio.wait_for(up.asked.wait(), PATIENCE)
        began = time.monotonic()
        draining = asyncio.create_task(proxy.worker.drain())
        assert await asyncio.wait_for(idle_reader.read(), PATIENCE) == b""
        assert time.monotonic() - began < SLACK
        gate.set()
        try:
            heard = await asyncio.wait_for(reader.read(), PATIENCE)
        except ConnectionResetError:
            heard = b"reset"
        await asyncio.wait_for(draining, PATIENCE)
        took = time.monotonic() - began
        idle_writer.close()
        writer.close()
    if finishes:
        assert status(heard) == 200
        assert b"Connection: close" in heard
    else:
        assert heard in {b"", b"reset"}
        assert TIME * 0.9 < took < TIME + SLACK


MUCH = 16 << 20  # bytes: more than two sockets hold
LONG = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % MUCH + b"x" * MUCH


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transports that take everything at once, so that exchanges end before their answers have left."""
    monkeypatch.setattr("relay.wire.transport.HIGH", 2 * MUCH)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.usefixtures("patient")
async def test_a_drain_waits_for_what_is_on_its_way_to_the_client(up: ScriptedUpstream, kept: bool) -> None:
    up.script = [LONG]
    async with proxy_for(up, timeouts=with_timeouts(drain=PATIENCE)) as proxy:
        reader, writer = await proxy.connect()
        writer.write(POST_CHAT if kept else POST_CHAT.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        await proxy.record()  # the exchange is over
        draining = asyncio.create_task(proxy.worker.drain())
        await settle()
        assert not draining.done()
        assert len((await asyncio.wait_for(reader.read(), PATIENCE)).partition(b"\r\n\r\n")[2]) == MUCH
        await asyncio.wait_for(draining, PATIENCE)
        writer.close()


@pytest.mark.usefixtures("patient")
async def test_a_drain_does_not_wait_for_a_client_that_reads_no_more(up: ScriptedUpstream) -> None:
    up.script = [LONG]
    async with proxy_for(up, timeouts=with_timeouts(drain=TIME)) as proxy:
        _, writer = await proxy.connect()
        writer.write(POST_CHAT)
        await proxy.record()
        await asyncio.wait_for(proxy.worker.drain(), PATIENCE)
        writer.close()


@pytest.mark.usefixtures("patient")
async def test_a_connection_counts_until_its_last_answer_has_left(up: ScriptedUpstream) -> None:
    up.script = [LONG, OK]
    async with proxy_for(up, limits=with_limits(connections=1)) as proxy:
        reader, writer = await proxy.connect()
        writer.write(POST_CHAT.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        await proxy.record()
        assert status(await proxy.exchange(get("/v1/things"))) == 503
        await asyncio.wait_for(reader.read(), PATIENCE)
        writer.close()
        assert status(await proxy.exchange(get("/v1/things"))) == 200


async def test_a_drain_ends_when_a_slow_client_has_its_answer(up: ScriptedUpstream) -> None:
    """One that was kept, and that the drain found with its last answer still on its way."""

    async def answer_late(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.wait_for(gate.wait(), PATIENCE)
        writer.write(OK)

    gate = asyncio.Event()
    up.script = [answer_late]
    async with proxy_for(up, timeouts=with_timeouts(drain=10 * PATIENCE)) as proxy:
        reader, writer = await proxy.connect()
        writer.write(POST_CHAT)
        await asyncio.wait_for(up.asked.wait(), PATIENCE)
        (downstream,) = proxy.worker._clients._downstreams.values()
        downstream.connection.pause_writing()  # as a transport does whose socket is full
        gate.set()
        await proxy.record()
        draining = asyncio.create_task(proxy.worker.drain())
        await asyncio.sleep(0)
        downstream.connection.resume_writing()
        assert status(await asyncio.wait_for(reader.read(), PATIENCE)) == 200
        await asyncio.wait_for(draining, PATIENCE)
        writer.close()


async def test_head_bounds_the_tls_handshake_too(up: ScriptedUpstream) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    config = config_over(deployment("a", up.port), timeouts=with_timeouts(head=TIME))
    async with proxy_over(config, tls=context) as proxy:
        began = time.monotonic()
        reader, writer = await proxy.connect()
        writer.write(b"\x16\x03\x01")
        heard, after = await heard_after(reader, began)
        writer.close()
    assert heard == b""
    assert TIME * 0.9 < after < TIME + SLACK
