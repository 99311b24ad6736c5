"""Transcripts of failing: what each row of SPEC §7 comes to on the wire, and what must not be left over afterwards."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

import passthrough
from relay.config import BaseURL, RouterSettings, UpstreamTLS
from relay.errors import UpstreamFailure
from relay.values import replace
from router import Verdict
from tests.harness import (
    CHAT,
    OK,
    PATIENCE,
    POST_CHAT,
    Proxy,
    config_over,
    deployment,
    get,
    post,
    proxy_over,
    read_answer,
    with_limits,
    with_timeouts,
)
from tests.scripted import ScriptedUpstream, dechunk, read_message, reset

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from relay.config import Config, Deployment
    from relay.reach.upstream import UpstreamConnection

    Turn = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
LIMITED = b"HTTP/1.1 429 Slow Down\r\nRetry-After: 3\r\nX-Whose: first\r\nContent-Length: 4\r\n\r\nslow"
BUSY = b"HTTP/1.1 503 Busy\r\nX-Whose: second\r\nContent-Length: 4\r\n\r\nbusy"
BODY = hashlib.shake_128(b"a body").digest(3_000_000)


@asynccontextmanager
async def serving(turn: Turn) -> AsyncIterator[int]:
    """An upstream that gets each connection as it comes, before a byte of it is read; its port."""
    tasks = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await turn(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            writer.transport.abort()
            raise
        finally:
            writer.close()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.get_running_loop().create_task(serve(reader, writer)))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def proxy_with(config: Config) -> AsyncIterator[Proxy]:
    """A proxy of which nothing is still lent or counted once its exchanges are over."""
    async with proxy_over(config) as proxy:
        leases: list[UpstreamConnection] = []
        lend = proxy.worker.pool.lease

        async def lease(*given: Any, **named: Any) -> UpstreamConnection:
            upstream = await lend(*given, **named)
            leases.append(upstream)
            return upstream

        proxy.worker.pool.lease = lease  # type: ignore[method-assign]
        yield proxy
        async with asyncio.timeout(PATIENCE):
            while any(proxy.worker.in_flight.values()):  # noqa: ASYNC110 - the last one may still be about to end
                await asyncio.sleep(0)
        ledger = proxy.worker.brain.router.ledger
        assert [lent for lent in leases if not lent.released or lent.uploading] == []
        assert {name: health.in_flight for name, (_, health) in ledger.healths.items() if health.in_flight} == {}
        assert {key: quota.in_flight for key, quota in ledger.quotas.items() if quota.in_flight} == {}
        assert [name for name, (_, health) in ledger.healths.items() if health.doubts] == []


def pair(first: int, other: int, **settings: Any) -> tuple[Deployment, Deployment]:
    """Two deployments in one scope, asked in this order."""
    return (
        deployment("a", first, order=0, scope="s", quota_group="a", **settings),
        deployment("b", other, order=1, scope="s", quota_group="b", **settings),
    )


async def attempts_of(proxy: Proxy, count: int = 1) -> list[tuple[str, str]]:
    """Who was asked in the ``count``-th exchange, and what came of it."""
    record = await proxy.record(count)
    return [(one["deployment"], one["outcome"]) for one in record.attempts]  # type: ignore[attr-defined]


def failures_of(proxy: Proxy, name: str) -> int:
    """How many failures count against a deployment."""
    return len(proxy.worker.brain.router.ledger.healths[name][1].failures)


def error_of(answer: bytes) -> dict[str, Any]:
    """The error object of an answer of ours."""
    error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return dict(error)


async def say_nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Read until the other side leaves."""
    while await reader.read(65_536):
        pass


async def dead_port() -> int:
    """A port where nobody listens."""
    upstream = ScriptedUpstream()
    await upstream.start()
    await upstream.close()
    return upstream.port


# When all is spent.


def take_the_last_place(proxy: Proxy, name: str) -> None:
    """Once a RETRY is decided, let another exchange have the only place of ``name`` before ``select`` looks."""
    router = proxy.worker.brain.router
    judge = router.judge

    def judged(attempt: Any, now: float, **named: Any) -> Verdict:
        verdict = judge(attempt, now, **named)
        if verdict is Verdict.RETRY:
            member = attempt.route.plan.members[name]
            router.ledger.begin(member, None, now)
            asyncio.get_running_loop().call_soon(router.ledger.end, member, None)
        return verdict

    router.judge = judged  # type: ignore[method-assign]


async def test_an_answer_is_relayed_where_the_last_place_was_taken_since(
    up: ScriptedUpstream, second: ScriptedUpstream
) -> None:
    up.says(LIMITED)
    second.says(OK)
    one, other = pair(up.port, second.port)
    async with proxy_with(config_over(one, replace(other, max_parallel_requests=1))) as proxy:
        take_the_last_place(proxy, "b")
        answer = await proxy.exchange(POST_CHAT)
        assert await attempts_of(proxy) == [("a", "rate_limited")]
    assert answer.startswith(b"HTTP/1.1 429 Slow Down\r\n")
    assert b"X-Whose: first\r\n" in answer
    assert answer.endswith(b"\r\n\r\nslow")
    assert not second.requests


async def test_without_an_answer_a_place_taken_since_is_our_429(second: ScriptedUpstream) -> None:
    second.says(OK)
    one, other = pair(await dead_port(), second.port)
    async with proxy_with(config_over(one, replace(other, max_parallel_requests=1))) as proxy:
        take_the_last_place(proxy, "b")
        answer = await proxy.exchange(POST_CHAT)
        assert await attempts_of(proxy) == [("a", "connect_failed")]
    assert answer.startswith(b"HTTP/1.1 429 ")
    assert b"Retry-After: 1\r\n" in answer
    assert error_of(answer)["code"] == "rate_limit_exceeded"


@pytest.mark.parametrize("size", [4, 65_536, 65_537, 1_000_000])
@pytest.mark.parametrize("chunked", [False, True])
async def test_the_429_goes_before_a_later_503_whole_and_with_its_fields(
    up: ScriptedUpstream, second: ScriptedUpstream, size: int, chunked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond 64 KiB the rest waits in the socket while the other is asked, longer than its content may take."""
    monkeypatch.setattr(passthrough, "ERROR_SECONDS", 0.05)

    async def be_slow_and_busy(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.15)
        writer.write(BUSY)

    content = BODY[:size]
    framing, sent = b"Content-Length: %d" % size, content
    if chunked:
        framing, sent = b"Transfer-Encoding: chunked", b"%x\r\n%s\r\n0\r\n\r\n" % (size, content)
    up.says(b"HTTP/1.1 429 Slow Down\r\nRetry-After: 3\r\nX-Whose: first\r\n%s\r\n\r\n%s" % (framing, sent))
    second.says(be_slow_and_busy)
    async with proxy_with(config_over(*pair(up.port, second.port))) as proxy:
        answer = await proxy.exchange(POST_CHAT)
        assert await attempts_of(proxy) == [("a", "rate_limited"), ("b", "overloaded")]
        record = await proxy.record()
    head, _, heard = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 429 Slow Down\r\n")
    assert b"X-Whose: first\r\n" in head
    assert b"x-passthrough-deployment: a\r\nx-passthrough-attempts: 2\r\n" in head
    assert (dechunk(heard) if chunked else heard) == content
    assert (record.outcome, record.status, record.deployment) == ("rate_limited", 429, "a")  # type: ignore[attr-defined]


async def test_the_last_of_several_errors_is_relayed(up: ScriptedUpstream, second: ScriptedUpstream) -> None:
    up.says(b"HTTP/1.1 500 No\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000))
    second.says(BUSY)
    async with proxy_with(config_over(*pair(up.port, second.port))) as proxy:
        answer = await proxy.exchange(POST_CHAT, POST_CHAT)
        assert await attempts_of(proxy, 2) == [("a", "server_error"), ("b", "overloaded")]
    assert answer.count(b"X-Whose: second\r\n") == 2
    assert answer.endswith(b"busy")


async def test_an_answer_goes_before_no_answer(up: ScriptedUpstream) -> None:
    up.says(BUSY)
    async with proxy_with(config_over(*pair(up.port, await dead_port()))) as proxy:
        answer = await proxy.exchange(POST_CHAT)
        assert await attempts_of(proxy) == [("a", "overloaded"), ("b", "connect_failed")]
    assert answer.startswith(b"HTTP/1.1 503 Busy\r\n")


@pytest.mark.parametrize("length", [b"Content-Length: 10", b"Transfer-Encoding: chunked"])
async def test_an_error_whose_content_comes_slowly_is_relayed_whole(
    up: ScriptedUpstream, length: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passthrough, "ERROR_SECONDS", 0.05)
    chunked = b"chunked" in length

    async def speak_slowly(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 500 No\r\n" + length + b"\r\n\r\n" + (b"5\r\nfirst\r\n" if chunked else b"first"))
        await asyncio.sleep(0.15)
        writer.write(b"5\r\nagain\r\n0\r\n\r\n" if chunked else b"again")

    up.says(speak_slowly)
    async with proxy_with(config_over(deployment("a", up.port))) as proxy:
        answer = await proxy.exchange(POST_CHAT)
        assert await attempts_of(proxy) == [("a", "server_error")]
    content = answer.partition(b"\r\n\r\n")[2]
    assert (dechunk(content) if chunked else content) == b"firstagain"


async def test_nobody_there_is_a_502_and_silence_a_504(up: ScriptedUpstream) -> None:
    up.says(say_nothing)
    dead = await dead_port()
    timeouts = with_timeouts(response_head=0.1)
    async with proxy_with(config_over(*pair(dead, dead), timeouts=timeouts)) as proxy:
        nobody = await proxy.exchange(POST_CHAT)
        assert await attempts_of(proxy) == [("a", "connect_failed"), ("b", "connect_failed")]
    async with proxy_with(config_over(*pair(dead, up.port), timeouts=timeouts)) as proxy:
        silence = await proxy.exchange(POST_CHAT)
        assert await attempts_of(proxy) == [("a", "connect_failed"), ("b", "head_timeout")]
    assert (nobody[:13], error_of(nobody)["code"]) == (b"HTTP/1.1 502 ", "upstream_error")
    assert (silence[:13], error_of(silence)["code"]) == (b"HTTP/1.1 504 ", "upstream_timeout")


async def test_what_is_not_relayed_is_let_go_before_a_long_answer(
    up: ScriptedUpstream, second: ScriptedUpstream
) -> None:
    gate = asyncio.Event()

    async def speak_until_told(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(EVENTS + b"9\r\ndata: 1\n\n\r\n")
        await gate.wait()
        writer.write(b"0\r\n\r\n")

    up.says(b"HTTP/1.1 503 Busy\r\nContent-Length: 1000000\r\n\r\n" + bytes(100_000))
    second.says(speak_until_told)
    async with proxy_with(config_over(*pair(up.port, second.port))) as proxy:
        reader, writer = await proxy.connect()
        writer.write(POST_CHAT)
        await asyncio.wait_for(reader.readuntil(b"data: 1\n\n\r\n"), PATIENCE)
        await asyncio.wait_for(up.closed.wait(), PATIENCE)
        healths = proxy.worker.brain.router.ledger.healths
        assert [healths[name][1].in_flight for name in "ab"] == [0, 1]
        gate.set()
        await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), PATIENCE)
        writer.close()


# How often.


@pytest.mark.parametrize("retries", [0, 1, 2, 5])
async def test_num_retries_bounds_the_attempts_and_nobody_is_asked_twice(up: ScriptedUpstream, retries: int) -> None:
    up.says(BUSY)
    members = [deployment(name, up.port, order=number) for number, name in enumerate("abcd")]
    async with proxy_with(config_over(*members, router=RouterSettings(num_retries=retries))) as proxy:
        await proxy.exchange(POST_CHAT)
        asked = [name for name, _ in await attempts_of(proxy)]
    assert asked == list("abcd")[: retries + 1]
    assert len(up.requests) == len(asked)


async def test_an_outage_is_not_made_worse_by_retries(up: ScriptedUpstream, second: ScriptedUpstream) -> None:
    up.says(reset)
    second.says(reset)
    settings = RouterSettings(disable_cooldowns=True)
    async with proxy_with(config_over(*pair(up.port, second.port), router=settings)) as proxy:
        for _ in range(50):
            assert (await proxy.exchange(POST_CHAT)).startswith(b"HTTP/1.1 502 ")
    assert len(up.requests) == 50
    assert 10 <= len(second.requests) <= 10 + 50 / 5  # a fifth of the exchanges, and ten


async def test_a_lone_deployment_is_dialled_twice(up: ScriptedUpstream) -> None:
    up.says(OK)
    async with proxy_with(config_over(deployment("a", up.port))) as proxy:
        lend = proxy.worker.pool.lease

        async def refuse_once(*given: Any, **named: Any) -> UpstreamConnection:
            proxy.worker.pool.lease = lend  # type: ignore[method-assign]
            raise UpstreamFailure("Refused.", sent=False)

        proxy.worker.pool.lease = refuse_once  # type: ignore[method-assign]
        answer = await proxy.exchange(POST_CHAT)
        assert await attempts_of(proxy) == [("a", "connect_failed"), ("a", "ok")]
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    dead = await dead_port()
    async with proxy_with(config_over(deployment("a", dead))) as proxy:
        assert (await proxy.exchange(POST_CHAT)).startswith(b"HTTP/1.1 502 ")
        assert await attempts_of(proxy) == [("a", "connect_failed")] * 2


async def test_a_handshake_that_fails_goes_to_the_next(up: ScriptedUpstream, second: ScriptedUpstream) -> None:
    up.says(b"HTTP/1.1 400 This is no TLS\r\nContent-Length: 0\r\n\r\n")
    second.says(OK)
    one, other = pair(up.port, second.port)
    insecure = replace(one, base=BaseURL("https", "127.0.0.1", up.port, "/v1"), tls=UpstreamTLS(verify=False))

    async def speak_plainly(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 This is no TLS\r\nContent-Length: 0\r\n\r\n")

    async with serving(speak_plainly) as port:
        insecure = replace(insecure, base=replace(insecure.base, port=port))
        async with proxy_with(config_over(insecure, other)) as proxy:
            answer = await proxy.exchange(post("files", b"{}"))
            assert await attempts_of(proxy) == [("a", "connect_failed"), ("b", "ok")]
            assert failures_of(proxy, "a") == 1
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    "head", [b"Content-Length: 10\r\n\r\nshort", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"]
)
async def test_after_the_commit_nobody_else_is_asked_and_it_counts(
    up: ScriptedUpstream, second: ScriptedUpstream, head: bytes
) -> None:
    async def break_off(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n" + head)
        await writer.drain()
        writer.close()
        raise ConnectionError

    up.says(break_off)
    second.says(OK)
    async with proxy_with(config_over(*pair(up.port, second.port))) as proxy:
        answer = await proxy.exchange(POST_CHAT)
        record = await proxy.record()
        assert failures_of(proxy, "a") == 1
    assert not answer.endswith(b"0\r\n\r\n")
    assert record.outcome == "broken"  # type: ignore[attr-defined]
    assert not second.requests


async def test_a_head_request_fails_over_too(up: ScriptedUpstream, second: ScriptedUpstream) -> None:
    up.says(b"HTTP/1.1 503 Busy\r\nContent-Length: 100\r\n\r\n")
    second.says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
    request = get("/v1/models", method="HEAD")
    async with proxy_with(config_over(*pair(up.port, second.port))) as proxy:
        answers = await proxy.exchange(request, request)
    assert answers.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert (up.connections, second.connections) == (1, 1)


# Who else is asked.


async def test_a_fallback_group_is_asked_for_its_own_model(up: ScriptedUpstream, second: ScriptedUpstream) -> None:
    up.says(BUSY)
    second.says(OK)
    one = deployment("a", up.port, model="served-name")
    other = deployment("b", second.port, group="other", model="other-name")
    settings = RouterSettings(num_retries=0, fallbacks={"gpt-4": ("other",)})
    async with proxy_with(config_over(one, other, router=settings)) as proxy:
        answer = await proxy.exchange(POST_CHAT)
        assert await attempts_of(proxy) == [("a", "overloaded"), ("b", "ok")]
        record = await proxy.record()
    assert answer.endswith(b"\r\n\r\n{}")
    assert up.heard.endswith(CHAT.replace(b'"gpt-4"', b'"served-name"'))
    assert second.heard.endswith(CHAT.replace(b'"gpt-4"', b'"other-name"'))
    assert (record.group, record.model, record.deployment) == ("gpt-4", "gpt-4", "b")  # type: ignore[attr-defined]


async def test_an_sdk_that_comes_again_goes_where_nothing_failed_lately(
    up: ScriptedUpstream, second: ScriptedUpstream
) -> None:
    up.says(reset, OK)
    second.says(OK)
    one, other = deployment("a", up.port, weight=1e9), deployment("b", second.port, weight=1)
    again = POST_CHAT.replace(b"Host: p\r\n", b"Host: p\r\nX-Stainless-Retry-Count: 1\r\n")
    async with proxy_with(config_over(one, other)) as proxy:
        await proxy.exchange(POST_CHAT, POST_CHAT, again, POST_CHAT)
        assert await attempts_of(proxy, 1) == [("a", "reset"), ("b", "ok")]
        assert [await attempts_of(proxy, count) for count in (2, 3, 4)] == [
            [("a", "ok")],
            [("b", "ok")],
            [("a", "ok")],
        ]


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_stream_under_way_takes_its_place(up: ScriptedUpstream, second: ScriptedUpstream, leaves: bool) -> None:
    gate = asyncio.Event()

    async def speak_until_told(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(EVENTS + b"9\r\ndata: 1\n\n\r\n")
        await gate.wait()
        writer.write(b"0\r\n\r\n")

    up.says(speak_until_told, OK)
    second.says(speak_until_told, OK)
    async with proxy_with(config_over(*pair(up.port, second.port, max_parallel_requests=1))) as proxy:
        streams = []
        for _ in "ab":
            reader, writer = await proxy.connect()
            streams.append((reader, writer))
            writer.write(POST_CHAT)
            await asyncio.wait_for(reader.readuntil(b"data: 1\n\n\r\n"), PATIENCE)
        full = await proxy.exchange(POST_CHAT)
        if leaves:
            for _, writer in streams:
                writer.close()
        else:
            gate.set()
            for reader, writer in streams:
                assert (await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), PATIENCE)) == b"0\r\n\r\n"
                writer.close()
        await proxy.record(3)
        after = await proxy.exchange(POST_CHAT)
        gate.set()
        assert await attempts_of(proxy, 4) == [("a", "ok")]
    assert full.startswith(b"HTTP/1.1 429 ")
    assert b"Retry-After: 1\r\n" in full
    assert after.endswith(b"\r\n\r\n{}")


# The client's patience.


def patient(request: bytes, seconds: float, name: bytes = b"X-Stainless-Read-Timeout") -> bytes:
    """The request of a client that waits so long for a head."""
    return request.replace(b"Host: p\r\n", b"Host: p\r\n%s: %g\r\n" % (name, seconds))


@pytest.mark.parametrize("name", [b"X-Stainless-Read-Timeout", b"x-stainless-timeout"])
async def test_the_client_is_answered_while_it_still_listens(
    up: ScriptedUpstream, second: ScriptedUpstream, name: bytes
) -> None:
    up.says(say_nothing)
    second.says(OK)
    async with proxy_with(config_over(*pair(up.port, second.port))) as proxy:
        async with asyncio.timeout(2):
            answer = await proxy.exchange(patient(POST_CHAT, 0.35, name))
        assert await attempts_of(proxy) == [("a", "impatient")]
        assert failures_of(proxy, "a") == 0
    assert answer.startswith(b"HTTP/1.1 504 ")
    assert error_of(answer)["code"] == "upstream_timeout"
    assert not second.requests


async def test_the_patience_bounds_the_dial_too(second: ScriptedUpstream) -> None:
    """The other side takes the connection, and never speaks TLS."""
    second.says(OK)
    async with serving(say_nothing) as port:
        one, other = pair(port, second.port)
        silent = replace(one, base=BaseURL("https", "127.0.0.1", port, "/v1"))
        async with proxy_with(config_over(silent, other, timeouts=with_timeouts(connect=30))) as proxy:
            async with asyncio.timeout(2):
                answer = await proxy.exchange(patient(POST_CHAT, 0.35))
            assert await attempts_of(proxy) == [("a", "impatient")]
            assert failures_of(proxy, "a") == 0
    assert answer.startswith(b"HTTP/1.1 504 ")
    assert b"127.0.0.1" not in answer
    assert not second.requests


async def test_looking_for_an_id_is_bounded_by_the_patience_too(second: ScriptedUpstream) -> None:
    """An id in a body is asked for first, and the scope to be asked never finishes its handshake."""
    second.says(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}")
    async with serving(say_nothing) as port:
        silent = deployment("a", port, base=BaseURL("https", "127.0.0.1", port, "/v1"))
        members = silent, deployment("b", second.port)
        async with proxy_with(config_over(*members, timeouts=with_timeouts(connect=30))) as proxy:
            request = post("responses", b'{"model":"gpt-4","input":"hi","previous_response_id":"resp_1234567890"}')
            async with asyncio.timeout(2):
                answer = await proxy.exchange(patient(request, 0.5))
    assert answer.startswith(b"HTTP/1.1 50")


async def test_a_dial_that_is_too_slow_by_itself_is_a_failure(second: ScriptedUpstream) -> None:
    second.says(OK)
    async with serving(say_nothing) as port:
        one, other = pair(port, second.port)
        silent = replace(one, base=BaseURL("https", "127.0.0.1", port, "/v1"))
        async with proxy_with(config_over(silent, other, timeouts=with_timeouts(connect=0.1))) as proxy:
            answer = await proxy.exchange(patient(post("files", b"{}"), 60))
            assert await attempts_of(proxy) == [("a", "connect_failed"), ("b", "ok")]
            assert failures_of(proxy, "a") == 1
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


async def test_no_second_attempt_where_it_would_come_too_late(up: ScriptedUpstream, second: ScriptedUpstream) -> None:
    async def fail_late(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.2)
        writer.write(BUSY)

    up.says(fail_late)
    second.says(OK)
    async with proxy_with(config_over(*pair(up.port, second.port))) as proxy:
        for _, health in proxy.worker.brain.router.ledger.healths.values():
            health.learn(0.2, stream=False)
        answer = await proxy.exchange(patient(POST_CHAT, 0.6))
        assert await attempts_of(proxy) == [("a", "overloaded")]
    assert answer.startswith(b"HTTP/1.1 503 Busy\r\n")


async def test_a_stream_outlives_the_patience_for_its_head(up: ScriptedUpstream) -> None:
    async def speak_slowly(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(EVENTS)
        for number in b"123":
            writer.write(b"9\r\ndata: %c\n\n\r\n" % number)
            await asyncio.sleep(0.15)
        writer.write(b"0\r\n\r\n")

    up.says(speak_slowly)
    async with proxy_with(config_over(deployment("a", up.port))) as proxy:
        answer = await proxy.exchange(patient(POST_CHAT, 0.35))
    assert answer.endswith(b"data: 3\n\n\r\n0\r\n\r\n")


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_slow_upload_does_not_use_up_the_patience(
    up: ScriptedUpstream, second: ScriptedUpstream, streamed: bool
) -> None:
    """Httpx begins to wait for the head when the request has left."""
    up.says(BUSY)
    second.says(OK)
    head = get("/v1/things", "Content-Type: application/json", "Content-Length: 4", method="POST")
    if streamed:
        head = head.replace(b"Host: p\r\n", b"Host: p\r\nX-LiteLLM-Target-Model: gpt-4\r\n")
    async with proxy_with(config_over(*pair(up.port, second.port), limits=with_limits(inspection_bytes=1))) as proxy:
        reader, writer = await proxy.connect()
        writer.write(patient(head, 0.4))
        for byte in b"[12]":
            await asyncio.sleep(0.1)
            writer.write(bytes([byte]))
        answer = await asyncio.wait_for(read_answer(reader), PATIENCE)
        writer.close()
        assert await attempts_of(proxy) == [("a", "overloaded"), ("b", "ok")]
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert second.heard.endswith(b"\r\n\r\n[12]")


async def test_an_answer_that_began_before_the_uploads_end_is_not_bound_by_the_patience() -> None:
    async def answer_early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(EVENTS + b"9\r\ndata: 1\n\n\r\n")
        await reader.readexactly(len(BODY))
        await asyncio.sleep(0.3)
        writer.write(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")
        await writer.drain()

    request = get("/v1/things", "Content-Type: a/b", f"Content-Length: {len(BODY)}", method="POST")
    async with serving(answer_early) as port, proxy_with(config_over(deployment("a", port))) as proxy:
        reader, writer = await proxy.connect()
        writer.write(patient(request, 0.35) + BODY[:1000])
        await asyncio.wait_for(reader.readuntil(b"data: 1\n\n\r\n"), PATIENCE)
        writer.write(BODY[1000:])
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n0\r\n\r\n"), PATIENCE)).startswith(b"9\r\ndata: 2")
        writer.close()


# One body, several attempts.


async def reset_within(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take a little of the body and reset the connection."""
    await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(1000)
    writer.transport.abort()


async def limit_within(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take a little of the body and answer 429."""
    await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(1000)
    writer.write(LIMITED)
    await writer.drain()
    await say_nothing(reader, writer)


async def garble_within(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take a little of the body and answer what is no HTTP."""
    await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(1000)
    writer.write(b"lorem ipsum\r\n\r\n")
    await writer.drain()
    await say_nothing(reader, writer)


def upload(size: int, *, chunked: bool, header: str = "Idempotency-Key: k") -> bytes:
    """The head of an upload that may be sent again."""
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
    return get("/v1/things", "Content-Type: a/b", length, header, method="POST")


def pieces_of(content: bytes, *, chunked: bool, size: int = 200_000) -> list[bytes]:
    """A body as it is written, in pieces."""
    pieces = [content[at : at + size] for at in range(0, len(content), size)]
    return [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces] + [b"0\r\n\r\n"] if chunked else pieces


@pytest.mark.parametrize("memory", [1 << 20, 10_000_000])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("fail", [reset_within, limit_within, garble_within])
async def test_a_body_cut_off_by_one_reaches_the_next_whole(
    second: ScriptedUpstream, fail: Turn, chunked: bool, memory: int
) -> None:
    second.says(OK)
    limits = with_limits(inspection_bytes=memory)
    async with serving(fail) as port, proxy_with(config_over(*pair(port, second.port), limits=limits)) as proxy:
        reader, writer = await proxy.connect()
        writer.write(upload(len(BODY), chunked=chunked) + b"".join(pieces_of(BODY, chunked=chunked)))
        answer = await asyncio.wait_for(read_answer(reader), PATIENCE)
        writer.close()
        assert [name for name, _ in await attempts_of(proxy)] == ["a", "b"]
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    sent = second.heard.partition(b"\r\n\r\n")[2]
    assert (dechunk(sent) if chunked else sent) == BODY


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("fail", [reset_within, limit_within, garble_within])
async def test_the_next_gets_what_the_client_sends_only_then(fail: Turn, chunked: bool) -> None:
    """The body is not inspected, so it streams: the first attempt fails in the middle of it, the second goes on."""
    asked = asyncio.Event()
    heard = b""

    async def take_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heard
        head = await reader.readuntil(b"\r\n\r\n")
        first = await reader.readexactly(150_000)  # what the first attempt had taken already
        asked.set()
        rest = await read_message(_Joined(head + first, reader))  # type: ignore[arg-type]
        heard = rest.partition(b"\r\n\r\n")[2]
        writer.write(OK)
        await writer.drain()
        await say_nothing(reader, writer)

    request = upload(len(BODY), chunked=chunked)
    request = request.replace(b"Host: p\r\n", b"Host: p\r\nX-LiteLLM-Target-Model: gpt-4\r\n")
    pieces = pieces_of(BODY, chunked=chunked)
    async with serving(fail) as port, serving(take_all) as other, proxy_with(config_over(*pair(port, other))) as proxy:
        reader, writer = await proxy.connect()
        writer.write(request + pieces[0])
        await asyncio.wait_for(asked.wait(), PATIENCE)
        for piece in pieces[1:]:
            writer.write(piece)
            await asyncio.sleep(0)
        answer = await asyncio.wait_for(read_answer(reader), PATIENCE)
        writer.close()
        assert [name for name, _ in await attempts_of(proxy)] == ["a", "b"]
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert (dechunk(heard) if chunked else heard) == BODY


class _Joined:
    """A reader whose first bytes were read already."""

    def __init__(self, start: bytes, rest: asyncio.StreamReader) -> None:
        self._start = bytearray(start)
        self._rest = rest

    async def readuntil(self, separator: bytes) -> bytes:
        while separator not in self._start:
            more = await self._rest.read(65_536)
            if not more:
                raise asyncio.IncompleteReadError(bytes(self._start), None)
            self._start += more
        return self._take(self._start.index(separator) + len(separator))

    async def readexactly(self, count: int) -> bytes:
        if len(self._start) < count:
            self._start += await self._rest.readexactly(count - len(self._start))
        return self._take(count)

    def _take(self, count: int) -> bytes:
        taken = bytes(self._start[:count])
        del self._start[:count]
        return taken


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_kept_connection_that_died_gets_the_body_again_on_a_new_one(streamed: bool) -> None:
    heard = []

    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        message = await read_message(reader)
        heard.append(message)
        writer.write(OK)
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    request = upload(len(BODY), chunked=False)
    if streamed:
        request = request.replace(b"Host: p\r\n", b"Host: p\r\nX-LiteLLM-Target-Model: gpt-4\r\n")
    async with serving(answer_once) as port, proxy_with(config_over(*pair(port, port))) as proxy:
        answers = await proxy.exchange(get("/v1/models"), request + BODY)
        assert await attempts_of(proxy, 2) == [("a", "stale"), ("a", "ok")]
        assert failures_of(proxy, "a") == 0
    assert answers.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert heard[1].partition(b"\r\n\r\n")[2] == BODY


async def test_a_client_that_leaves_within_the_second_attempt_ends_it(up: ScriptedUpstream) -> None:
    taken = asyncio.Event()
    gone = asyncio.Event()

    async def take_and_wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(150_000)
        taken.set()
        await say_nothing(reader, writer)
        gone.set()

    request = upload(len(BODY), chunked=False, header="X-LiteLLM-Target-Model: gpt-4")
    async with (
        serving(limit_within) as port,
        serving(take_and_wait) as other,
        proxy_with(config_over(*pair(port, other))) as proxy,
    ):
        _, writer = await proxy.connect()
        writer.write(request + BODY[:200_000])
        await asyncio.wait_for(taken.wait(), PATIENCE)
        writer.transport.abort()
        await asyncio.wait_for(gone.wait(), PATIENCE)
        record = await proxy.record()
        assert [failures_of(proxy, name) for name in "ab"] == [0, 0]
    assert (record.status, record.outcome) == (499, "client_gone")  # type: ignore[attr-defined]


async def test_a_client_that_stops_within_an_upload_is_told_so_and_nobody_is_blamed() -> None:
    request = upload(len(BODY), chunked=False, header="X-LiteLLM-Target-Model: gpt-4")
    async with (
        serving(say_nothing) as port,
        proxy_with(config_over(*pair(port, port), timeouts=with_timeouts(body=0.1))) as proxy,
    ):
        answer = await proxy.exchange(request + BODY[:200_000])
        await proxy.record()
        assert [failures_of(proxy, name) for name in "ab"] == [0, 0]
    assert answer.startswith(b"HTTP/1.1 408 ")


async def test_a_client_that_leaves_while_an_answer_is_kept_frees_it(up: ScriptedUpstream) -> None:
    asked = asyncio.Event()

    async def wait_for_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await say_nothing(reader, writer)

    up.says(b"HTTP/1.1 503 Busy\r\nContent-Length: 1000000\r\n\r\n" + bytes(100_000))
    async with serving(wait_for_the_end) as port, proxy_with(config_over(*pair(up.port, port))) as proxy:
        _, writer = await proxy.connect()
        writer.write(POST_CHAT)
        await asyncio.wait_for(asked.wait(), PATIENCE)
        writer.close()
        await asyncio.wait_for(up.closed.wait(), PATIENCE)
        record = await proxy.record()
    assert record.outcome == "client_gone"  # type: ignore[attr-defined]


# All of it at once.


def misbehave(rng: random.Random) -> Turn:
    """An upstream connection that goes on until it has done something bad, by chance."""

    async def cut_within_head(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-")
        await writer.drain()
        writer.close()

    async def cut_within_content(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort")
        await writer.drain()
        writer.close()

    async def fall_silent_within_an_error(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 500 No\r\nContent-Length: 200000\r\n\r\n" + bytes(rng.choice([0, 10, 100_000])))
        await say_nothing(reader, writer)

    whole = [OK, BUSY, b"HTTP/1.1 503 Busy\r\nContent-Length: 300000\r\n\r\n" + bytes(300_000)]
    early: list[Turn] = [reset_within, limit_within, garble_within]
    late: list[Turn] = [say_nothing, cut_within_head, cut_within_content, fall_silent_within_an_error]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while rng.random() < 0.8:
            if rng.random() < 0.2:
                await rng.choice(early)(reader, writer)
                return
            await read_message(reader)
            writer.write(rng.choice(whole))
        if rng.random() < 0.5:
            await read_message(reader)
        await rng.choice(late)(reader, writer)

    return serve


async def ask_anything(proxy: Proxy, rng: random.Random) -> bytes | None:
    """Say a request, all of it or as much as the client had patience for; what came back, None where it left."""
    body = BODY[: rng.choice([0, 1500, 300_000])]
    key = rng.choice(["Idempotency-Key: k", "X-LiteLLM-Target-Model: gpt-4", "Accept: */*"])
    chunked = rng.random() < 0.5
    framed = b"".join(pieces_of(body, chunked=chunked, size=50_000))
    request = rng.choice([POST_CHAT, get("/v1/models"), upload(len(body), chunked=chunked, header=key) + framed])
    reader, writer = await proxy.connect()
    try:
        leaves = rng.random() < 0.25
        writer.write(request[: rng.randrange(len(request))] if leaves else request)
        if leaves:
            for _ in range(rng.randrange(20)):
                await asyncio.sleep(0)
            writer.transport.abort()
            return None
        return await asyncio.wait_for(read_answer(reader), PATIENCE)
    except ConnectionError:
        return b""  # cut: the answer had begun
    finally:
        writer.close()


@pytest.mark.parametrize("seed", range(4))
async def test_nothing_is_left_over_whatever_happens(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passthrough, "ERROR_SECONDS", 0.05)
    rng = random.Random(seed)
    turns = [misbehave(random.Random(f"{seed}{name}")) for name in "abc"]
    timeouts = with_timeouts(response_head=0.15, stream_idle=0.15, body=0.15)
    settings = RouterSettings(cooldown_time=0.05, routing_strategy=rng.choice(["simple-shuffle", "headroom"]))
    async with serving(turns[0]) as a, serving(turns[1]) as b, serving(turns[2]) as c:
        members = [deployment(name, port, scope="s") for name, port in zip("abc", (a, b, c), strict=True)]
        limits = with_limits(inspection_bytes=20_000, replay_bytes=rng.choice([100_000, 1_000_000]))
        async with proxy_with(config_over(*members, router=settings, timeouts=timeouts, limits=limits)) as proxy:

            async def go_on_asking(mine: random.Random) -> list[bytes | None]:
                return [await ask_anything(proxy, mine) for _ in range(10)]

            answers = await asyncio.gather(*(go_on_asking(random.Random(f"{seed}{n}")) for n in range(6)))
            heard = [answer for some in answers for answer in some if answer]
            assert len(heard) > 20
            for answer in heard:
                assert answer.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 429 ", b"HTTP/1.1 50", b"HTTP/1.1 408 "))
                assert b"x-passthrough-id: " in answer
            await proxy.record(len(heard))
            assert not [record for record in proxy.records if vars(record)["outcome"] == "internal_error"]
            for record in proxy.records:
                rows = vars(record)["attempts"]
                assert len({row["deployment"] for row in rows if row["outcome"] != "stale"}) == len(
                    [row for row in rows if row["outcome"] != "stale"]
                )
