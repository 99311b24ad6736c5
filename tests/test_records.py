"""Every path that an exchange can take leaves exactly one record, and that record tells what happened."""

from __future__ import annotations

import asyncio
import re
import socket
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import passthrough
from relay import errors
from relay.choosing.outcomes import Kind
from relay.config import RouterSettings
from relay.wire.pump import BodyRelay
from tests.harness import (
    CHAT,
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
from tests.scripted import ScriptedUpstream, reset

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.harness import Proxy
    from tests.scripted import Turn

EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
FIRST, SECOND = b"9\r\ndata: 1\n\n\r\n", b"9\r\ndata: 2\n\n\r\n0\r\n\r\n"
LONG = get("/v1/things", "Content-Type: a/b", "Content-Length: 100000000", method="POST")
CHUNKED = get("/v1/things", "Content-Type: a/b", "Transfer-Encoding: chunked", method="POST")


def error(status: int, code: str) -> bytes:
    """An upstream's error."""
    content = b'{"error":{"message":"secret words","type":"t","param":null,"code":"%s"}}' % code.encode()
    head = b"HTTP/1.1 %d No\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % (status, len(content)) + content


# What an upstream does.


async def say_nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()
    raise ConnectionError


async def hang_within_a_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(EVENTS + FIRST)
    await say_nothing(reader, writer)


async def cut_a_stream(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(EVENTS + FIRST)
    await writer.drain()
    raise ConnectionError


async def cut_a_length(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort")
    await writer.drain()
    raise ConnectionError


async def cut_a_head(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-")
    await writer.drain()
    raise ConnectionError


# What a client does.


@dataclass
class Client:
    """One connection to the proxy, and what it has heard."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    proxy: Proxy
    upstreams: list[ScriptedUpstream]
    heard: bytes = b""

    async def until(self, words: bytes) -> None:
        async with asyncio.timeout(PATIENCE):
            while words not in self.heard:
                data = await self.reader.read(65_536)
                assert data, self.heard
                self.heard += data


async def listen(client: Client) -> None:
    """Read until there is a record, or the proxy closes."""
    reading = asyncio.create_task(client.reader.read())
    await client.proxy.record()
    reading.cancel()


async def leave_at_once(client: Client) -> None:
    client.writer.close()


async def leave_when_the_upstream_was_asked(client: Client) -> None:
    await asyncio.wait_for(client.upstreams[0].asked.wait(), PATIENCE)
    client.writer.close()


async def leave_within_the_stream(client: Client) -> None:
    await client.until(b"data: 1\n\n")
    client.writer.close()


async def leave_with_a_reset(client: Client) -> None:
    await client.until(b"data: 1\n\n")
    client.writer.transport.abort()


async def leave_within_the_upload(client: Client) -> None:
    client.writer.write(b"x" * 200_000)
    with suppress(TimeoutError):
        async with asyncio.timeout(0.1):
            await client.writer.drain()
    client.writer.close()


async def end_the_drain_within_the_stream(client: Client) -> None:
    await client.until(b"data: 1\n\n")
    await client.proxy.worker.drain()


async def end_the_drain_before_the_answer(client: Client) -> None:
    await asyncio.wait_for(client.upstreams[0].asked.wait(), PATIENCE)
    await client.proxy.worker.drain()


@dataclass
class Way:
    """One way that an exchange can go."""

    name: str
    request: bytes
    turns: list[list[Turn] | None]  # what each upstream says; None: nobody listens there
    status: int | None
    outcome: str
    attempts: list[str] | None  # None: that depends
    error: str | None = None  # a pattern, which all of it matches
    client: Any = listen
    sections: dict[str, Any] = field(default_factory=dict)
    deployment: str | None = None
    bytes_out: int | None = None
    bytes_in: int | None = None
    reason: Any = "model"  # ...: that depends


HASTY = with_timeouts(response_head=0.1, stream_idle=0.1, body=0.1, drain=0.05)
ONCE = RouterSettings(num_retries=0)
WAYS = [
    Way("an answer", POST_CHAT, [[OK]], 200, "ok", ["ok"], deployment="a", bytes_in=len(CHAT), bytes_out=2),
    Way(
        "an answer without content",
        get("/v1/models", method="HEAD"),
        [[OK]],
        200,
        "ok",
        ["ok"],
        deployment="a",
        bytes_out=0,
        reason="home",
    ),
    Way("a stream", POST_CHAT, [[EVENTS + FIRST + SECOND]], 200, "ok", ["ok"], deployment="a", bytes_out=18),
    Way(
        "an unknown model",
        post("chat/completions", b'{"model":"gpt-x"}'),
        [[OK]],
        200,
        "ok",
        ["ok"],
        deployment="a",
        reason="forward",
    ),
    Way(
        "a model by header",
        get("/v1/things", "X-LiteLLM-Target-Model: gpt-4"),
        [[OK]],
        200,
        "ok",
        ["ok"],
        deployment="a",
        reason="header",
    ),
    Way("a pin", get("/v1/things", "X-Passthrough-Scope: a"), [[OK]], 200, "ok", ["ok"], deployment="a", reason="pin"),
    # refused by us
    Way(
        "a head that is none", b"GET / HTTP/1.1\r\nHost : p\r\n\r\n", [[OK]], 400, "bad_request", [], ".+", reason=None
    ),
    Way(
        "a version from the future",
        b"GET / HTTP/3.0\r\nHost: p\r\n\r\n",
        [[OK]],
        505,
        "http_version_not_supported",
        [],
        ".+",
        reason=None,
    ),
    Way(
        "a head without end",
        b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000,
        [[OK]],
        431,
        "head_too_large",
        [],
        ".+",
        reason=None,
    ),
    Way("a target without end", b"GET /" + b"x" * 20_000, [[OK]], 414, "target_too_long", [], ".+", reason=None),
    Way(
        "a head that trickles",
        b"GET / HT",
        [[OK]],
        408,
        "request_timeout",
        [],
        ".*head was not complete.*",
        sections={"timeouts": with_timeouts(head=0.1)},
        reason=None,
    ),
    Way(
        "a foreign coding",
        b"POST /v1/x HTTP/1.1\r\nHost: p\r\nTransfer-Encoding: gzip\r\n\r\n",
        [[OK]],
        501,
        "transfer_coding_not_implemented",
        [],
        ".+",
        reason=None,
    ),
    Way(
        "a wrong key",
        get("/v1/models").replace(KEY.encode(), b"sk-nobody"),
        [[OK]],
        401,
        "invalid_api_key",
        [],
        ".+",
        reason=None,
    ),
    Way(
        "a wrong key for the metrics",
        get("/metrics").replace(KEY.encode(), b"sk-nobody"),
        [[OK]],
        401,
        "invalid_api_key",
        [],
        ".+",
        reason=None,
    ),
    Way(
        "a path of the administration",
        get("/v1/organization/users"),
        [[OK]],
        403,
        "forbidden",
        [],
        ".*allow_admin.*",
        reason=None,
    ),
    Way("a path of nobody", get("/elsewhere"), [[OK]], 404, "unknown_path", [], ".+", reason=None),
    Way(
        "a model of nobody",
        post("chat/completions", b'{"model":"gpt-x"}'),
        [[OK]],
        404,
        "model_not_found",
        [],
        ".*gpt-x.*",
        sections={"router": RouterSettings(unknown_model="reject")},
        reason=None,
    ),
    Way(
        "two models",
        post("chat/completions", b'{"model":"a","model":"b"}'),
        [[OK]],
        400,
        "ambiguous_body",
        [],
        ".+",
        reason=None,
    ),
    Way(
        "more than is allowed, by its own word",
        LONG,
        [[OK]],
        413,
        "request_too_large",
        [],
        ".+",
        sections={"limits": with_limits(request_bytes=2000)},
        bytes_in=0,
        reason=None,
    ),
    Way(
        "a body that stops",
        get("/v1/x", "Content-Type: a/b", "Content-Length: 10", method="POST") + b"12",
        [[say_nothing]],
        408,
        "request_timeout",
        ["request_timeout"],
        ".+",
        sections={"timeouts": HASTY},
        bytes_in=2,
        reason="home",
    ),
    Way(
        "more than is allowed, on its way",
        CHUNKED + b"BB9\r\n" + b"x" * 3001 + b"\r\n",
        [[say_nothing]],
        413,
        "request_too_large",
        ["request_too_large"],
        ".+",
        sections={"limits": with_limits(request_bytes=3000)},
        reason="home",
    ),
    Way(
        "too many connections",
        b"",
        [[OK]],
        503,
        "unavailable",
        [],
        ".*connections.*",
        sections={"limits": with_limits(connections=0)},
        reason=None,
    ),
    # the upstream fails
    Way("nobody listens", POST_CHAT, [None], 502, "upstream_error", ["connect_failed"] * 2, ".*refused.*"),
    Way("nobody listens at first", POST_CHAT, [None, [OK]], 200, "ok", ["connect_failed", "ok"], deployment="b"),
    Way(
        "a reset before the answer",
        post("files", b"{}"),
        [[reset]],
        502,
        "upstream_error",
        ["reset"],
        ".*closed the connection.*",
        reason="home",
    ),
    Way("a reset, and another", POST_CHAT, [[reset], [OK]], 200, "ok", ["reset", "ok"], deployment="b"),
    Way(
        "a head that is cut",
        post("files", b"{}"),
        [[cut_a_head]],
        502,
        "upstream_error",
        ["reset"],
        ".+",
        reason="home",
    ),
    Way(
        "no HTTP",
        post("files", b"{}"),
        [[b"SSH-2.0-OpenSSH\r\n\r\n"]],
        502,
        "upstream_error",
        ["bad_answer"],
        ".+",
        reason="home",
    ),
    Way(
        "no answer",
        POST_CHAT,
        [[say_nothing]],
        504,
        "upstream_timeout",
        ["head_timeout"],
        ".+",
        sections={"timeouts": HASTY, "router": ONCE},
    ),
    Way(
        "no answer from both",
        POST_CHAT,
        [[say_nothing], [say_nothing]],
        504,
        "upstream_timeout",
        ["head_timeout"] * 2,
        ".+",
        sections={"timeouts": HASTY},
    ),
    Way(
        "a client without patience",
        get("/v1/models", "X-Stainless-Timeout: 0.35"),
        [[say_nothing]],
        504,
        "upstream_timeout",
        ["impatient"],
        ".+",
        reason="home",
    ),
    Way(
        "the client's mistake",
        POST_CHAT,
        [[error(400, "invalid_value")]],
        400,
        "client_error",
        ["client_error"],
        "the upstream answered 400",
        deployment="a",
    ),
    Way(
        "a limit",
        POST_CHAT,
        [[error(429, "rate_limit_exceeded")], [OK]],
        200,
        "ok",
        ["rate_limited", "ok"],
        deployment="b",
    ),
    Way(
        "limits everywhere",
        POST_CHAT,
        [[error(429, "rate_limit_exceeded")]] * 2,
        429,
        "rate_limited",
        ["rate_limited"] * 2,
        "the upstream answered 429: rate_limit_exceeded",
        deployment="a",
    ),
    Way(
        "a dead account",
        POST_CHAT,
        [[error(429, "insufficient_quota")]],
        429,
        "dead_account",
        ["dead_account"],
        "the upstream answered 429: insufficient_quota",
        deployment="a",
    ),
    Way(
        "a dead key",
        POST_CHAT,
        [[error(401, "invalid_api_key")]],
        401,
        "dead_key",
        ["dead_key"],
        "the upstream answered 401: invalid_api_key",
        deployment="a",
    ),
    Way(
        "a key that may not",
        POST_CHAT,
        [[error(403, "sk-UPSTREAM")]],
        403,
        "denied",
        ["denied"],
        "the upstream answered 403",
        deployment="a",
    ),
    Way(
        "overload",
        POST_CHAT,
        [[error(503, "")]],
        503,
        "overloaded",
        ["overloaded"],
        "the upstream answered 503: t",
        deployment="a",
    ),
    Way(
        "errors, and an answer",
        POST_CHAT,
        [[error(500, "server_error")], [error(502, "")], [OK]],
        200,
        "ok",
        ["server_error"] * 2 + ["ok"],
        deployment="c",
    ),
    Way(
        "errors everywhere",
        POST_CHAT,
        [[error(500, "server_error")]] * 3,
        500,
        "server_error",
        ["server_error"] * 3,
        "the upstream answered 500: server_error",
        deployment="c",
    ),
    Way(
        "a stream that is cut",
        POST_CHAT,
        [[cut_a_stream]],
        200,
        "broken",
        ["broken"],
        "broke off: .+",
        deployment="a",
        bytes_out=9,
    ),
    Way(
        "a stream that falls silent",
        POST_CHAT,
        [[hang_within_a_stream]],
        200,
        "broken",
        ["broken"],
        "broke off: .+",
        sections={"timeouts": HASTY},
        deployment="a",
        bytes_out=9,
    ),
    Way(
        "content that is short",
        POST_CHAT,
        [[cut_a_length]],
        200,
        "broken",
        ["broken"],
        "broke off: .+",
        deployment="a",
        bytes_out=5,
    ),
    # the client leaves
    Way(
        "gone at once",
        POST_CHAT,
        [[say_nothing]],
        499,
        "client_gone",
        None,
        "the client left before it was answered",
        leave_at_once,
        reason=...,
    ),
    Way(
        "gone before the answer",
        POST_CHAT,
        [[say_nothing]],
        499,
        "client_gone",
        ["client_gone"],
        "the client left before it was answered",
        leave_when_the_upstream_was_asked,
    ),
    Way(
        "gone within a stream",
        POST_CHAT,
        [[hang_within_a_stream]],
        499,
        "client_gone",
        ["ok"],
        "the client left in the middle of the answer",
        leave_within_the_stream,
        deployment="a",
        bytes_out=9,
    ),
    Way(
        "reset within a stream",
        POST_CHAT,
        [[hang_within_a_stream]],
        499,
        "client_gone",
        ["ok"],
        "the client left in the middle of the answer",
        leave_with_a_reset,
        deployment="a",
        bytes_out=9,
    ),
    Way(
        "gone within an upload",
        LONG,
        [[say_nothing]],
        499,
        "client_gone",
        ["client_gone"],
        "the client left before it was answered",
        leave_within_the_upload,
        reason="home",
    ),
    # the drain ends
    Way(
        "cut before the answer",
        POST_CHAT,
        [[say_nothing]],
        None,
        "drained",
        ["drained"],
        "cut at the end of the drain",
        end_the_drain_before_the_answer,
        sections={"timeouts": with_timeouts(drain=0.05)},
    ),
    Way(
        "cut within a stream",
        POST_CHAT,
        [[hang_within_a_stream]],
        200,
        "drained",
        ["ok"],
        "cut at the end of the drain",
        end_the_drain_within_the_stream,
        sections={"timeouts": with_timeouts(drain=0.05)},
        deployment="a",
        bytes_out=9,
    ),
]


@asynccontextmanager
async def upstreams_that_say(scripts: list[list[Turn] | None]) -> AsyncIterator[list[ScriptedUpstream]]:
    """Scripted upstreams; where there is no script nobody listens."""
    async with AsyncExitStack() as stack:
        made = []
        for script in scripts:
            upstream = ScriptedUpstream()
            await upstream.start()
            if script is None:
                await upstream.close()
            else:
                upstream.says(*script)
                stack.push_async_callback(upstream.close)
            made.append(upstream)
        yield made


def samples(proxy: Proxy, name: str) -> Counter[tuple[str, ...]]:
    """The children of a counter that are not zero."""
    children = proxy.worker.recorder.metrics.snapshot()[f"passthrough_{name}"]["children"]
    return Counter({tuple(values): state for values, state in children if state})


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
async def test_each_way_leaves_one_record_that_tells_it(way: Way) -> None:
    async with upstreams_that_say(way.turns) as upstreams, proxy_for(*upstreams, **way.sections) as proxy:
        reader, writer = await proxy.connect()
        if way.request:
            writer.write(way.request)
        await way.client(Client(reader, writer, proxy, upstreams))
        record: Any = await proxy.record()
        writer.close()
        exchanges, attempts = samples(proxy, "exchanges_total"), samples(proxy, "attempts_total")
    assert len(proxy.records) == 1
    assert (record.status, record.outcome) == (way.status, way.outcome)
    assert way.attempts in (None, [attempt["outcome"] for attempt in record.attempts])
    assert all(attempt["ms"] > 0 for attempt in record.attempts)
    assert re.fullmatch(way.error or "None", str(record.error)), record.error
    assert record.deployment == way.deployment
    assert way.reason in (..., record.reason)
    assert way.bytes_in in (None, record.bytes_in)
    assert way.bytes_out in (None, record.bytes_out)
    begun = way.status not in (None, 499) or way.deployment is not None
    assert (record.first_byte_ms is not None) == begun
    assert record.total_ms >= (record.first_byte_ms or 0) >= 0
    group = record.group or "none"
    assert exchanges == {(group, way.deployment or "none", str(way.status or "none")): 1}
    assert attempts == Counter((attempt["deployment"], attempt["outcome"]) for attempt in record.attempts)
    assert set(proxy.worker.in_flight.values()) <= {0}


async def test_an_upstream_that_refuses_early() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(error(413, "too_large"))
        await reader.read()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with proxy_over(config_over(deployment("a", port))) as proxy:
        await proxy.exchange(LONG + b"x" * 100_000)
        record: Any = await proxy.record()
    server.close()
    assert (record.status, record.outcome, record.deployment) == (413, "client_error", "a")
    assert record.error == "the upstream answered 413"
    assert [attempt["outcome"] for attempt in record.attempts] == ["client_error"]


async def test_a_request_that_fails_while_its_answer_runs_is_not_held_against_the_upstream() -> None:
    async def answer_early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(EVENTS + FIRST)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer_early, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with proxy_over(config_over(deployment("a", port), timeouts=with_timeouts(body=0.1))) as proxy:
        answer = await proxy.exchange(LONG + b"x")
        record: Any = await proxy.record()
        (member,) = [health for _, health in proxy.worker.brain.router.ledger.healths.values()]
    server.close()
    assert (record.status, record.outcome, record.bytes_in, record.bytes_out) == (200, "request_timeout", 1, 9)
    assert record.error.startswith("No byte of the body came")
    assert record.attempts[0]["outcome"] == "ok"
    assert not member.failures
    assert b'"code": "request_timeout"' in answer
    assert not answer.endswith(b"0\r\n\r\n")


async def test_a_client_that_has_gone_when_it_is_refused() -> None:
    async with upstreams_that_say([[OK]]) as upstreams, proxy_for(*upstreams) as proxy:
        for count in range(20):
            sock = socket.create_connection(("127.0.0.1", proxy.port))
            sock.send(b"GET / HTTP/1.1\r\nHost : p\r\n\r\n")
            for _ in range(count % 5):
                await asyncio.sleep(0)
            sock.close()
        await proxy.exchange(get("/nowhere"))
        assert {record.outcome for record in proxy.records} <= {"bad_request", "unknown_path"}  # type: ignore[attr-defined]


@pytest.mark.parametrize("committed", [False, True])
async def test_a_fault_of_our_own(monkeypatch: pytest.MonkeyPatch, caplog: Any, committed: bool) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    if committed:
        monkeypatch.setattr(BodyRelay, "_look", fail)
    else:
        monkeypatch.setattr(passthrough, "deliver", fail)
    async with upstreams_that_say([[EVENTS + FIRST + SECOND]]) as upstreams, proxy_for(*upstreams) as proxy:
        reader, writer = await proxy.connect()
        writer.write(POST_CHAT)
        with suppress(ConnectionError):
            answer = await asyncio.wait_for(reader.read(200), PATIENCE)
        record: Any = await proxy.record()
        writer.close()
    assert len(proxy.records) == 1
    assert (record.status, record.outcome) == (200 if committed else 500, "internal_error")
    assert record.error == "The proxy itself failed; its log says why."
    assert "a bug" in caplog.text
    if not committed:
        assert b"a bug" not in answer


async def test_what_is_no_exchange_leaves_none_and_each_exchange_of_a_connection_its_own() -> None:
    async with upstreams_that_say([[OK]]) as upstreams, proxy_for(*upstreams) as proxy:
        for said in (b"", b"GET /v1/mod"):
            _, writer = await proxy.connect()
            writer.write(said)
            writer.close()
        await proxy.exchange(get("/"), get("/health/readiness"), get("/metrics"))
        await proxy.exchange(POST_CHAT, get("/v1/models"), POST_CHAT)
        await proxy.record(3)
        assert [record.endpoint for record in proxy.records] == [  # type: ignore[attr-defined]
            "/chat/completions", "/models", "/chat/completions",
        ]  # fmt: skip
    assert len({record.id for record in proxy.records}) == 3  # type: ignore[attr-defined]


# Random faults, many at once.

FAULTS: dict[str, Turn] = {
    "answer": OK,
    "stream": EVENTS + FIRST + SECOND,
    "limited": error(429, "rate_limit_exceeded"),
    "denied": error(403, "denied"),
    "failing": error(500, "server_error"),
    "overloaded": error(503, "overloaded"),
    "wrong": error(404, "not_found"),
    "no HTTP": b"\x15\x03\x01\x00\x02\x02\r\n\r\n",
    "interim": b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK,
    "reset": reset,
    "silence": say_nothing,
    "hanging stream": hang_within_a_stream,
    "cut stream": cut_a_stream,
    "cut length": cut_a_length,
    "cut head": cut_a_head,
}
REQUESTS = {
    "chat": POST_CHAT,
    "get": get("/v1/things"),
    "head": get("/v1/things", method="HEAD"),
    "file": post("files", b"{}"),
    "wrong key": get("/v1/things").replace(KEY.encode(), b"sk-nobody"),
    "no path": get("/nowhere"),
    "no head": b"GET / HTTP/1.1\r\nHost : p\r\n\r\n",
    "too large": get("/v1/things", "Content-Length: 5000", method="POST"),
    "half a body": get("/v1/things", "Content-Type: a/b", "Content-Length: 50", method="POST") + b"12",
    "chunks without end": CHUNKED + b"BB9\r\n" + b"x" * 3001 + b"\r\n",
}
HABITS = ["reads", "leaves at once", "leaves soon", "leaves after a byte", "resets after a byte"]

exchanges = st.tuples(
    st.sampled_from(sorted(REQUESTS)), st.sampled_from(HABITS), st.lists(st.sampled_from(sorted(FAULTS)), max_size=3)
)


async def behave(proxy: Proxy, request: str, habit: str, faults: list[str]) -> None:
    """One exchange: the request carries along what upstreams shall do to it, one after the other."""
    reader, writer = await proxy.connect()
    line, _, rest = REQUESTS[request].partition(b"\r\n")
    writer.write(line + b"\r\nX-Faults: " + ",".join(faults).encode() + b"\r\n" + rest)
    with suppress(ConnectionError):
        if habit == "reads":
            await read_answer(reader, head_only=request == "head")
        elif habit == "leaves soon":
            await asyncio.sleep(0.002)
        elif habit.endswith("after a byte"):
            await reader.read(1)
    if habit.startswith("resets"):
        writer.transport.abort()
    writer.close()


def faulty(upstreams: list[ScriptedUpstream], number: int) -> Turn:
    """What an upstream does: the fault that the request names for this try at it."""
    tried: Counter[bytes] = Counter()

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = upstreams[number].requests[-1]
        named = re.search(rb"X-Faults: ([^\r]+)", asked)
        faults = named[1].decode().split(",") if named else ["answer"]
        turn = FAULTS[faults[(tried[asked] + number) % len(faults)]]
        tried[asked] += 1
        if callable(turn):
            await turn(reader, writer)
        else:
            writer.write(turn)
            await writer.drain()

    return act


async def all_records(specs: list[tuple[str, str, list[str]]]) -> None:
    """Let all exchanges run at once over two upstreams, and compare records, metrics and what was begun."""
    sections = {"timeouts": HASTY, "limits": with_limits(request_bytes=3000)}
    said: list[ScriptedUpstream] = []
    async with upstreams_that_say([[faulty(said, 0)], [faulty(said, 1)]]) as upstreams:
        said += upstreams
        async with proxy_for(*upstreams, **sections) as proxy:
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*[behave(proxy, *spec) for spec in specs])
            await proxy.record(len(specs))
            check_books(proxy, len(specs))
        assert len(proxy.records) == len(specs)  # and none comes after


def check_books(proxy: Proxy, count: int) -> None:
    """Each record is whole and of another exchange, and the metrics say the same as all of them."""
    records: list[Any] = proxy.records
    assert len({record.id for record in records}) == count
    for record in records:
        assert record.outcome in WORDS
        assert record.status is not None
        assert record.total_ms > 0
        assert (record.error is None) == (record.outcome == "ok"), record.__dict__
        assert (record.status == 499) == (record.outcome == "client_gone")
        assert all(attempt["outcome"] in WORDS for attempt in record.attempts)
    exchanged = Counter((record.group or "none", record.deployment or "none", str(record.status)) for record in records)
    tried = Counter((attempt["deployment"], attempt["outcome"]) for record in records for attempt in record.attempts)
    assert samples(proxy, "exchanges_total") == exchanged
    assert samples(proxy, "attempts_total") == tried
    assert samples(proxy, "bytes_total") == +Counter(
        {("in",): sum(one.bytes_in for one in records), ("out",): sum(one.bytes_out for one in records)}
    )
    assert set(proxy.worker.in_flight.values()) <= {0}


@settings(max_examples=25, deadline=None)
@given(st.lists(exchanges, min_size=1, max_size=12))
def test_there_are_as_many_records_as_exchanges_whatever_happens(specs: list[tuple[str, str, list[str]]]) -> None:
    asyncio.run(all_records(specs))


# Words.


def codes(kind: type[errors.ProxyError]) -> set[str]:
    """The code of an error and of all that derive from it."""
    return {kind.code or kind.type}.union(*map(codes, kind.__subclasses__()))


WORDS = {kind.value for kind in Kind} | codes(errors.ProxyError) | {"drained"}


def test_every_word_of_an_outcome_is_explained() -> None:
    text = Path(__file__).parents[1].joinpath("docs", "logging.md").read_text("utf-8")
    table = text.partition("## Outcomes")[2].partition("\n## ")[0]
    explained = set(re.findall(r"`([a-z_0-9]+)`", "".join(re.findall(r"(?m)^\|([^|]*)\|", table))))
    assert explained == WORDS - {"upstream_broke_off"}  # which the client is told, and the record calls "broken"
