"""WebSocket sessions through the proxy (SPEC §13): the handshake, the tunnel, refusals, ends."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import socket
import ssl
import struct
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme
from openai import AsyncOpenAI, OpenAI
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus

from relay.config import Timeouts
from tests.harness import (
    KEY,
    OK,
    PATIENCE,
    POST_CHAT,
    config_over,
    deployment,
    get,
    post,
    proxy_over,
    with_timeouts,
)
from tests.scripted import ScriptedUpstream, reset
from tests.sockets import (
    SWITCH,
    SocketUpstream,
    answer_of,
    echo,
    event,
    proxy_before,
    raw_session,
    session_with,
    told,
    until,
    upgrade,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from websockets.asyncio.server import ServerConnection

REALTIME = "/v1/realtime?model=gpt-4"
MIB = 1 << 20
LIMITED = HTTPStatus.TOO_MANY_REQUESTS, '{"error": {"code": "rate_limit_exceeded", "message": "slow down"}}'
DEAD = HTTPStatus.UNAUTHORIZED, '{"error": {"code": "invalid_api_key", "message": "no"}}'
OVERLOADED = HTTPStatus.SERVICE_UNAVAILABLE, "{}"


@pytest.fixture
async def up() -> AsyncIterator[SocketUpstream]:
    async with SocketUpstream(echo).running() as upstream:
        yield upstream


@pytest.fixture
async def second() -> AsyncIterator[SocketUpstream]:
    async with SocketUpstream(echo).running() as upstream:
        yield upstream


# What is said.


async def answers_as_realtime(session: ServerConnection) -> None:
    """The first words of a realtime session."""
    await event(session, {"type": "session.created", "session": {"id": "sess_1", "type": "realtime"}})
    async for _ in session:
        await event(session, {"type": "response.output_text.done", "text": "hi"})


async def test_the_sdks_realtime_client(up: SocketUpstream) -> None:
    up.talk = answers_as_realtime
    async with proxy_before(up) as proxy:
        client = AsyncOpenAI(api_key=KEY, base_url=proxy.base_url)
        async with client.realtime.connect(model="gpt-4") as connection:
            assert (await connection.recv()).type == "session.created"
            await connection.response.create()
            assert (await connection.recv()).type == "response.output_text.done"
        record = await told(proxy)
    assert (record.status, record.outcome, record.endpoint, record.model) == (101, "ok", "/realtime", "gpt-4")
    assert up.requests[0].headers["Authorization"] == "Bearer sk-upstream-a"


@pytest.mark.filterwarnings("ignore:connect.. must be used:DeprecationWarning")  # the SDK's own way to call it
async def test_the_sdks_synchronous_realtime_client(up: SocketUpstream) -> None:
    up.talk = answers_as_realtime

    def converse(base_url: str) -> list[str]:
        with OpenAI(api_key=KEY, base_url=base_url).realtime.connect(model="gpt-4") as connection:
            heard = [connection.recv().type]
            connection.session.update(session={"type": "realtime", "instructions": "be kind"})
            return [*heard, connection.recv().type]

    async with proxy_before(up) as proxy:
        heard = await asyncio.to_thread(converse, proxy.base_url)
    assert heard == ["session.created", "response.output_text.done"]


async def test_text_and_binary_of_a_mebibyte_both_ways(up: SocketUpstream) -> None:
    binary, text = os.urandom(MIB), "ü" * (MIB // 2)
    async with proxy_before(up) as proxy:
        async with session_with(proxy, REALTIME, compression=None) as session:
            for message in (binary, text, b"", ""):
                await session.send(message)
                assert await session.recv() == message
        record = await told(proxy)
    assert 2 * MIB < record.bytes_in < 2 * MIB + 200
    assert 2 * MIB < record.bytes_out < 2 * MIB + 200


async def test_extensions_are_between_client_and_upstream(up: SocketUpstream) -> None:
    async with proxy_before(up) as proxy:
        async with session_with(proxy, REALTIME) as session:
            assert "permessage-deflate" in answer_of(session).headers["Sec-WebSocket-Extensions"]
            await session.send("a" * MIB)
            assert await session.recv() == "a" * MIB
        assert (await told(proxy)).bytes_in < 10_000
    assert len(up.requests) == 1


# The handshake, line by line.


async def test_the_handshake_goes_out_with_its_own_lines(scripted: ScriptedUpstream) -> None:
    scripted.says(
        b"HTTP/1.1 101 Go\r\nUPGRADE: WebSocket\r\nconnection: upgrade\r\nX-Request-Id: r1\r\nX-Odd: 1\r\n\r\n"
    )
    request = upgrade(
        "/openai/v1/realtime?a=%20&model=gpt-4&model=b",
        "Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.sk-1, OpenAI-Organization.o, openai-project.p, x",
        "sec_websocket_protocol: openai-insecure-api-key.sk-2",
        "Sec-WebSocket-Extensions: permessage-deflate",
        "OpenAI-Beta: realtime=v1",
        "OpenAI-Project: mine",
        "Origin: https://app.example",
    )
    settings = {"model": "gpt realtime", "organization": "org-own"}
    async with proxy_before(scripted, settings=settings) as proxy:
        head, _, writer = await raw_session(proxy, request)
        writer.close()
        record = await told(proxy)
    assert scripted.heard == (
        b"GET /v1/realtime?a=%%20&model=gpt%%20realtime&model=b HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
        b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Authorization: Bearer sk-upstream-a\r\nOpenAI-Organization: org-own\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Sec-WebSocket-Protocol: realtime, x\r\nSec-WebSocket-Extensions: permessage-deflate\r\n"
        b"OpenAI-Beta: realtime=v1\r\nOrigin: https://app.example\r\n\r\n" % scripted.port
    )
    assert head == (
        b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Request-Id: r1\r\nX-Odd: 1\r\n"
        b"x-passthrough-deployment: a\r\nx-passthrough-attempts: 1\r\nx-passthrough-id: %s\r\n\r\n"
        % str(record.id).encode()
    )
    assert record.upstream_request_id == "r1"


TARGETS = [
    ("/v1/realtime?intent=transcription", "/v1/realtime?intent=transcription"),
    ("/v1/realtime?call_id=rtc_u9_unknown", "/v1/realtime?call_id=rtc_u9_unknown"),
    ("/openai/realtime/translations?model=gpt-4&x=", "/v1/realtime/translations?model=gpt-up&x="),
    ("/openai/v1/some/socket/of/2027?a=b", "/v1/some/socket/of/2027?a=b"),
]


@pytest.mark.parametrize(("asked", "heard"), TARGETS)
async def test_any_socket_below_the_mounts(up: SocketUpstream, asked: str, heard: str) -> None:
    async with proxy_before(up, settings={"model": "gpt-up"}) as proxy, session_with(proxy, asked) as session:
        await session.send("hi")
        assert await session.recv() == "hi"
    assert [request.path for request in up.requests] == [heard]


async def test_a_key_in_a_subprotocol_lets_in_and_goes_no_further(up: SocketUpstream) -> None:
    offered = ["realtime", f"openai-insecure-api-key.{KEY}"]
    async with proxy_before(up) as proxy:
        settings = {"fields": {"Authorization": ""}, "subprotocols": offered}
        async with session_with(proxy, REALTIME, **settings) as session:
            assert session.subprotocol == "realtime"
        with pytest.raises(InvalidStatus) as caught:
            await session_with(proxy, REALTIME, **{**settings, "subprotocols": ["openai-insecure-api-key.wrong"]})
    assert caught.value.response.status_code == 401
    (request,) = up.requests
    assert request.headers["Sec-WebSocket-Protocol"] == "realtime"
    assert KEY not in str(request.headers)


NO_SESSIONS = [
    ("h2c", b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n"),
    ("a list", b"Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n"),
    ("not named in Connection", b"Upgrade: websocket\r\n"),
]


@pytest.mark.parametrize("lines", [case[1] for case in NO_SESSIONS], ids=[case[0] for case in NO_SESSIONS])
async def test_other_upgrades_are_not_forwarded(scripted: ScriptedUpstream, lines: bytes) -> None:
    scripted.says(OK)
    request = get("/v1/models")[:-2] + lines + b"\r\n"
    async with proxy_before(scripted) as proxy:
        assert (await proxy.exchange(request)).startswith(b"HTTP/1.1 200 ")
    heard = scripted.heard.lower()
    assert not any(word in heard for word in (b"upgrade", b"http2-settings", b"connection"))


@pytest.mark.parametrize(
    "request_", [get("/v1/models"), upgrade(REALTIME).replace(b"GET", b"POST"), upgrade(REALTIME, "Content-Length: 2")]
)
@pytest.mark.parametrize("answer", [SWITCH + b"\r\n", b"HTTP/1.1 101 Switch\r\n\r\n"])
async def test_a_switch_that_nobody_asked_for_is_a_502(
    scripted: ScriptedUpstream, request_: bytes, answer: bytes
) -> None:
    scripted.says(answer)
    async with proxy_before(scripted) as proxy:
        heard = await proxy.exchange(request_ + (b"{}" if b"Length: 2" in request_ else b""))
    assert heard.startswith(b"HTTP/1.1 502 ")
    assert b'"upstream_error"' in heard


@pytest.mark.parametrize("answer", [b"Upgrade: h2c\r\nConnection: Upgrade\r\n", b"Upgrade: websocket\r\n"])
async def test_a_switch_to_something_else_is_a_502(scripted: ScriptedUpstream, answer: bytes) -> None:
    scripted.says(b"HTTP/1.1 101 Switching Protocols\r\n" + answer + b"\r\n")
    async with proxy_before(scripted) as proxy:
        assert (await proxy.exchange(upgrade(REALTIME))).startswith(b"HTTP/1.1 502 ")


# Refusals.


@pytest.mark.parametrize("refusal", [LIMITED, DEAD, OVERLOADED], ids=["429", "401", "503"])
async def test_a_refusal_before_the_101_is_tried_elsewhere(
    up: SocketUpstream, second: SocketUpstream, refusal: tuple[HTTPStatus, str]
) -> None:
    up.refusals = [refusal]
    async with proxy_before(up, second) as proxy:
        async with session_with(proxy, REALTIME) as session:
            assert answer_of(session).headers["x-passthrough-deployment"] == "b"
            assert answer_of(session).headers["x-passthrough-attempts"] == "2"
            await session.send("hi")
            assert await session.recv() == "hi"
        record = await told(proxy)
    assert [attempt["status"] for attempt in record.attempts] == [refusal[0], 101]
    assert (len(up.requests), len(second.requests)) == (1, 1)


async def test_when_all_refuse_the_upstreams_own_words_reach_the_client(
    up: SocketUpstream, second: SocketUpstream
) -> None:
    up.refusals, second.refusals = [LIMITED], [OVERLOADED]
    async with proxy_before(up, second) as proxy:
        with pytest.raises(InvalidStatus) as caught:
            await session_with(proxy, REALTIME)
        record = await told(proxy)
    answer = caught.value.response
    assert (answer.status_code, answer.body) == (429, LIMITED[1].encode())
    assert record.status == 429


async def test_a_404_is_the_clients_to_fix(up: SocketUpstream, second: SocketUpstream) -> None:
    up.refusals = [(HTTPStatus.NOT_FOUND, '{"error": {"code": "model_not_found"}}')]
    async with proxy_before(up, second) as proxy:
        with pytest.raises(InvalidStatus) as caught:
            await session_with(proxy, REALTIME)
    assert caught.value.response.status_code == 404
    assert not second.requests


async def test_after_a_refusal_the_connection_carries_requests_again(scripted: ScriptedUpstream) -> None:
    scripted.says(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}", OK)
    async with proxy_before(scripted) as proxy:
        heard = await proxy.exchange(upgrade("/v1/any/socket"), get("/v1/models"))
    assert heard.count(b"HTTP/1.1 ") == 2
    assert heard.endswith(b"\r\n\r\n{}")


async def test_bytes_before_the_switch_are_kept_for_the_session(scripted: ScriptedUpstream) -> None:
    scripted.says(speaks_first)
    async with proxy_before(scripted) as proxy:
        reader, writer = await proxy.connect()
        writer.write(upgrade(REALTIME) + b"too early")
        async with asyncio.timeout(PATIENCE):
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(20) == b"at once" + b"<too early>"[:11] + b"!!"
        writer.close()


async def speaks_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Switch and say something in one breath, then repeat what is heard."""
    writer.write(SWITCH + b"\r\nat once")
    writer.write(b"<" + await reader.readexactly(9) + b">!!")
    await reader.read()


# How it ends.


def has_ended(upstream: SocketUpstream, before: int) -> bool:
    return upstream.over > before


async def test_when_the_client_is_gone_the_upstream_is_closed(up: SocketUpstream) -> None:
    async with proxy_before(up) as proxy:
        for leave in ("abort", "close", "write_eof"):
            _, _, writer = await raw_session(proxy, upgrade(REALTIME))
            before = up.over
            getattr(writer.transport, leave)()
            await until(partial(has_ended, up, before))
            writer.close()
            await until(lambda: not proxy.worker.in_flight["gpt-4"])


@pytest.mark.parametrize("last", [b"", b"last words" * 10_000])
async def test_when_the_upstream_ends_the_client_hears_its_last_words(scripted: ScriptedUpstream, last: bytes) -> None:
    async def says_and_ends(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SWITCH + b"\r\n" + last)
        raise ConnectionResetError  # ends the script; the connection is closed in order

    scripted.says(says_and_ends)
    async with proxy_before(scripted) as proxy:
        _, reader, writer = await raw_session(proxy, upgrade(REALTIME))
        writer.write(b"on its way" * 10_000)
        async with asyncio.timeout(PATIENCE):
            assert await reader.read() == last
        writer.close()
        record = await told(proxy)
    assert (record.status, record.outcome, record.bytes_out) == (101, "ok", len(last))


async def test_an_upstream_that_resets_has_broken_off(scripted: ScriptedUpstream) -> None:
    async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SWITCH + b"\r\n")
        await reader.readexactly(2)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await reset(reader, writer)

    scripted.says(resets)
    async with proxy_before(scripted) as proxy:
        _, reader, writer = await raw_session(proxy, upgrade(REALTIME))
        writer.write(b"hi")
        async with asyncio.timeout(PATIENCE):
            assert await reader.read() == b""
        writer.close()
        record = await told(proxy)
    assert (record.status, record.outcome) == (101, "broken")


async def test_a_session_with_an_upstream_that_dies_ends_for_the_client(up: SocketUpstream) -> None:
    async def dies(session: ServerConnection) -> None:
        await session.recv()
        session.transport.abort()

    up.talk = dies
    async with proxy_before(up) as proxy, session_with(proxy, REALTIME) as session:
        await session.send("die")
        with pytest.raises(ConnectionClosedError):
            await session.recv()


async def test_what_a_client_said_before_it_left_still_arrives(scripted: ScriptedUpstream) -> None:
    heard = asyncio.get_running_loop().create_future()

    async def listens_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SWITCH + b"\r\n")
        await until(lambda: left)
        heard.set_result(len(await reader.read()))

    left = False
    scripted.says(listens_late)
    async with proxy_before(scripted) as proxy:
        _, _, writer = await raw_session(proxy, upgrade(REALTIME))
        writer.write(b"x" * 500_000)
        await writer.drain()
        writer.close()
        left = True
        assert await asyncio.wait_for(heard, PATIENCE) == 500_000
        assert (await told(proxy)).bytes_in == 500_000


async def test_silence_of_both_ends_a_session_and_a_ping_is_no_silence(up: SocketUpstream) -> None:
    async with proxy_before(up, timeouts=with_timeouts(stream_idle=0.3)) as proxy:
        async with session_with(proxy, REALTIME, ping_interval=0.1) as session:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(session.recv(), 0.7)
        async with session_with(proxy, REALTIME, ping_interval=None) as session:
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(session.recv(), PATIENCE)
        record = await told(proxy, 2)
    assert (record.outcome, record.error) == ("ok", "nothing was said for 0.3 s")


async def test_the_slow_side_slows_the_fast_one(scripted: ScriptedUpstream) -> None:
    said = 0

    async def shouts(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal said
        writer.write(SWITCH + b"\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            said += 65536

    scripted.says(shouts)
    async with proxy_before(scripted, timeouts=with_timeouts(stream_idle=0.2, drain=0)) as proxy:
        _, reader, writer = await raw_session(proxy, upgrade(REALTIME))
        before = -1
        while said != before:  # until it is stuck
            before = said
            await asyncio.sleep(0.3)
        assert 0 < said < 32 * MIB  # what sockets hold, and no more
        assert not proxy.records  # the client is slow, not silent
        await reader.readexactly(said)  # it goes on where it stood
        writer.close()


async def test_a_client_that_leaves_behind_an_upstream_that_takes_nothing(
    scripted: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def is_deaf(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SWITCH + b"\r\n")
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await left.wait()

    left = asyncio.Event()
    monkeypatch.setattr("relay.wire.pump.LAST_WORDS", 0.1)
    monkeypatch.setattr("relay.answers.session.LINGER_SECONDS", 0.1)
    scripted.says(is_deaf)
    async with proxy_before(scripted) as proxy:
        _, _, writer = await raw_session(proxy, upgrade(REALTIME))
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                while True:  # until nobody takes any more
                    writer.write(b"x" * MIB)
                    await writer.drain()
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # an end would wait in the queue
        writer.transport.abort()
        record = await told(proxy)
        left.set()
    assert (record.status, record.outcome) == (101, "ok")


async def test_sessions_over_tls_end_for_both_sides(up: SocketUpstream) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with proxy_over(config_over(deployment("a", up.port)), tls=context) as proxy:
        for end in ("client", "upstream"):
            target = f"wss://127.0.0.1:{proxy.port}{REALTIME}"
            fields = {"Authorization": f"Bearer {KEY}"}
            async with connect(target, ssl=trusting, additional_headers=fields, proxy=None) as session:
                await session.send("hi")
                assert await session.recv() == "hi"
                async with asyncio.timeout(3):  # nobody waits for a time to pass
                    await (session if end == "client" else up.sessions[-1]).close()
                    await session.wait_closed()
            await until(lambda: up.over == len(up.sessions))


async def test_a_field_that_the_file_names_for_the_key_goes_no_further(scripted: ScriptedUpstream) -> None:
    scripted.says(SWITCH + b"\r\n")
    request = upgrade(REALTIME, f"X-Our-Key: Bearer {KEY}").replace(f"Bearer {KEY}\r\nC".encode(), b"Bearer no\r\nC")
    async with proxy_before(scripted, key_header="x-our-key") as proxy:
        _, _, writer = await raw_session(proxy, request)
        writer.close()
        await told(proxy)
    assert b"X-Our-Key" not in scripted.heard


async def test_early_hints_come_before_the_101(scripted: ScriptedUpstream) -> None:
    scripted.says(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + SWITCH + b"\r\n")
    async with proxy_before(scripted) as proxy:
        head, reader, writer = await raw_session(proxy, upgrade(REALTIME))
        assert head.startswith(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n")
        async with asyncio.timeout(PATIENCE):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        writer.close()
        await told(proxy)


# Drain.


async def test_a_drain_lets_sessions_finish(up: SocketUpstream) -> None:
    async with proxy_before(up, timeouts=Timeouts(drain=PATIENCE)) as proxy:
        async with session_with(proxy, REALTIME) as session:
            draining = asyncio.create_task(proxy.worker.drain())
            await until(lambda: proxy.worker.draining)
            await session.send("still here")
            assert await session.recv() == "still here"
        await asyncio.wait_for(draining, PATIENCE)
        assert (await told(proxy)).outcome == "ok"


async def test_what_is_left_after_the_drain_is_cut(up: SocketUpstream) -> None:
    async with proxy_before(up, timeouts=Timeouts(drain=0)) as proxy:
        async with session_with(proxy, REALTIME) as session:
            await asyncio.wait_for(proxy.worker.drain(), PATIENCE)
            with pytest.raises(ConnectionClosedError):
                await session.recv()
        assert (await told(proxy)).outcome == "drained"
        await until(lambda: up.over == 1)


# Many.


def resident() -> int:
    """KiB of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * resource.getpagesize() // 1024


async def test_five_hundred_sessions_at_once(up: SocketUpstream) -> None:
    async with proxy_before(up) as proxy:
        gc.collect()
        before = resident()
        async with asyncio.timeout(60):
            sessions = []
            for _ in range(10):  # the backlog of the test's own server is what limits a burst
                opening = [raw_session(proxy, upgrade(REALTIME)) for _ in range(50)]
                sessions += await asyncio.gather(*opening)
            assert proxy.worker.in_flight["gpt-4"] == 500
            for _, _, writer in sessions:
                writer.write(b"\x81\x82\x00\x00\x00\x00hi")
            for _, reader, _ in sessions:
                assert await reader.readexactly(4) == b"\x81\x02hi"
            grown = resident() - before
            for _, _, writer in sessions:
                writer.close()
            await until(lambda: not proxy.worker.in_flight["gpt-4"])
        assert {getattr(record, "status", 0) for record in proxy.records} == {101}
    assert len(proxy.records) == 500
    print(f"{grown / 500:.0f} KiB a session: client, proxy and server")  # noqa: T201 - the figure of interest
    assert grown < 500 * 100


# Ephemeral keys and calls.

MINT = b'{"session":{"type":"realtime","model":"gpt-4"}}'
MINTED = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 28\r\n\r\n{"value":"ek_0123456789abc"}'
CALLED = b"HTTP/1.1 201 Created\r\nLocation: /v1/realtime/calls/rtc_u1_abc?x=1\r\nContent-Length: 3\r\n\r\nv=0"
KEY_REFUSED = (
    b"HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\nContent-Length: 37\r\n\r\n"
    b'{"error": {"code":"invalid_api_key"}}'
)
EPHEMERAL = "ek_0123456789abc"


@pytest.fixture
async def other() -> AsyncIterator[ScriptedUpstream]:
    upstream = ScriptedUpstream()
    await upstream.start()
    yield upstream
    await upstream.close()


async def refuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Be out for this request."""
    writer.write(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")


async def test_an_ephemeral_key_goes_as_itself_where_it_was_made(
    scripted: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    scripted.says(refuses, CALLED, SWITCH + b"\r\n")
    other.says(MINTED, CALLED, SWITCH + b"\r\n")
    sdp = b"POST /v1/realtime/calls?model=gpt-4 HTTP/1.1\r\nHost: p\r\nAuthorization: Bearer %s\r\n"
    sdp = sdp % EPHEMERAL.encode() + b"Content-Type: application/sdp\r\nContent-Length: 3\r\n\r\nv=0"
    async with proxy_before(scripted, other) as proxy:
        assert EPHEMERAL.encode() in await proxy.exchange(post("realtime/client_secrets", MINT))
        answer = await proxy.exchange(sdp)
        assert answer.startswith(b"HTTP/1.1 201 Created\r\n")
        assert answer.endswith(b"v=0")
        assert b"Location: /v1/realtime/calls/rtc_u1_abc?x=1\r\n" in answer
        tokens = f"Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.{EPHEMERAL}"
        request = upgrade("/v1/realtime?model=gpt-4", tokens).replace(f"Bearer {KEY}".encode(), b"Bearer ")
        head, _, writer = await raw_session(proxy, request)
        writer.close()
        record = await told(proxy, 3)
    assert b"x-passthrough-deployment: b\r\n" in head
    assert (record.client, record.scope, record.status) == ("ephemeral", "b", 101)
    assert len(scripted.requests) == 1  # that for the secret itself, which it refused
    assert other.requests[1].endswith(b"\r\n\r\nv=0")
    for heard in other.requests[1:]:
        assert heard.count(b"Authorization: Bearer ek_0123456789abc\r\n") == 1
        assert b"sk-upstream" not in heard


async def test_a_call_is_found_where_it_was_made(scripted: ScriptedUpstream, other: ScriptedUpstream) -> None:
    scripted.says(refuses, SWITCH + b"\r\n")
    other.says(CALLED, OK, SWITCH + b"\r\n")
    async with proxy_before(scripted, other) as proxy:
        await proxy.exchange(post("realtime/calls?model=gpt-4", MINT))
        await proxy.exchange(post("realtime/calls/rtc_u1_abc/accept", b"{}"))
        _, _, writer = await raw_session(proxy, upgrade("/v1/realtime?call_id=rtc_u1_abc"))
        writer.close()
        record = await told(proxy, 3)
    assert (record.scope, record.reason) == ("b", "resource")
    assert len(scripted.requests) == 1
    assert other.requests[2].startswith(b"GET /v1/realtime?call_id=rtc_u1_abc HTTP/1.1\r\n")


async def test_a_call_in_parts_passes_with_its_model(scripted: ScriptedUpstream) -> None:
    scripted.says(CALLED)
    form = (
        b'--x\r\nContent-Disposition: form-data; name="sdp"\r\nContent-Type: application/sdp\r\n\r\nv=0\r\n'
        b'--x\r\nContent-Disposition: form-data; name="session"\r\nContent-Type: application/json\r\n\r\n'
        b'{"type":"realtime","model":"gpt-4"}\r\n--x--\r\n'
    )
    request = post("realtime/calls", form).replace(b"application/json", b"multipart/form-data; boundary=x", 1)
    async with proxy_before(scripted, settings={"model": "gpt-realtime"}) as proxy:
        assert b" 201 Created\r\n" in await proxy.exchange(request)
    assert scripted.heard.endswith(form.replace(b"gpt-4", b"gpt-realtime"))


async def test_a_refused_ephemeral_key_says_nothing_about_ours(
    scripted: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    scripted.says(MINTED, KEY_REFUSED, OK)
    other.says(OK)
    async with proxy_before(scripted, other) as proxy:
        await proxy.exchange(post("realtime/client_secrets", MINT))
        answer = await proxy.exchange(upgrade(REALTIME, key=EPHEMERAL))
        await proxy.exchange(POST_CHAT)
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert answer.endswith(b'{"error": {"code":"invalid_api_key"}}')
    assert (len(scripted.requests), len(other.requests)) == (3, 0)


@pytest.mark.parametrize(
    "request_",
    [upgrade(REALTIME, key="ek_of_somebody_else"), post("chat/completions", b"{}").replace(KEY.encode(), b"ek_1")],
)
async def test_any_other_ephemeral_key_is_a_401(scripted: ScriptedUpstream, request_: bytes) -> None:
    async with proxy_before(scripted) as proxy:
        answer = await proxy.exchange(request_)
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b'"invalid_api_key"' in answer
    assert not scripted.requests
