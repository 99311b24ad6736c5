"""Transcripts: what is said to the proxy, what the upstream must hear, what comes back."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import socket
import struct

import pytest

from relay.config import RouterSettings, Secret
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
from tests.scripted import ScriptedUpstream, dechunk, read_message, reset

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def error_of(answer: bytes) -> dict[str, object]:
    """The error object of an answer of ours."""
    error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return dict(error)


# What is changed, and nothing else.


async def test_a_request_goes_out_with_its_own_lines_and_the_deployments_key(up: ScriptedUpstream) -> None:
    up.says(OK)
    request = (
        b"POST /openai/v1/chat/completions?a=1&a=2&b= HTTP/1.1\r\nhost: proxy.example\r\nX-Stainless-Lang: python\r\n"
        b"authorization: Bearer " + KEY.encode() + b"\r\nAccept: */*\r\nx-b: 1\r\nX-B: 2\r\nCookie: c\r\n"
        b"X-Forwarded-For: 10.0.0.1\r\nOpenAI-Organization: org-client\r\nConnection: keep-alive, x-hop\r\nX-Hop: 1\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(CHAT), CHAT)
    )
    async with proxy_for(up, settings={"organization": "org-own", "extra_headers": (("X-Team", "blue"),)}) as proxy:
        await proxy.exchange(request)
    assert up.heard == (
        b"POST /v1/chat/completions?a=1&a=2&b= HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: %d\r\n"
        b"Authorization: Bearer sk-upstream-a\r\nOpenAI-Organization: org-own\r\nX-Team: blue\r\n"
        b"X-Stainless-Lang: python\r\nAccept: */*\r\nx-b: 1\r\nX-B: 2\r\nContent-Type: application/json\r\n\r\n%s"
        % (up.port, len(CHAT), CHAT)
    )


async def test_a_response_comes_back_as_it_was_with_three_lines_more(up: ScriptedUpstream) -> None:
    up.says(
        b"HTTP/1.1 299 All Well\r\nX-Odd-Case: 1\r\nSet-Cookie: a\r\nset-cookie: b\r\nConnection: x-hop\r\nX-Hop: 1\r\n"
        b"Keep-Alive: timeout=5\r\nContent-Length: 3\r\nContent-Encoding: gzip\r\n\r\n\x00\xff\n"
    )
    async with proxy_for(up) as proxy:
        answer = await proxy.exchange(get("/v1/things"))
        identity = str(getattr(await proxy.record(), "id", ""))
    assert answer == (
        b"HTTP/1.1 299 All Well\r\nContent-Length: 3\r\nX-Odd-Case: 1\r\nSet-Cookie: a\r\nset-cookie: b\r\n"
        b"Content-Encoding: gzip\r\nx-passthrough-deployment: a\r\nx-passthrough-attempts: 1\r\n"
        b"x-passthrough-id: " + identity.encode() + b"\r\n\r\n\x00\xff\n"
    )


async def test_an_entry_without_a_key_sends_none(up: ScriptedUpstream) -> None:
    up.says(OK)
    async with proxy_for(up, settings={"key": None}) as proxy:
        await proxy.exchange(POST_CHAT)
    assert b"uthorization" not in up.heard


SPLICED = [
    (b'{"model":"gpt-4"}', b'{"model":"served-name"}'),
    (b'{ "messages": [{"model":"gpt-4"}] , "model" :\t"gpt-4" , "n":1e2}', None),
    (b'{"mod\\u0065l":"gpt\\u002d4","x":123456789012345678901234567890}', None),
    (b'{"target_model_names":"gpt-4,other","model":"ft:mine","metadata":{"model":"gpt-4"}}', None),
    (b'{"model":"unknown-model","target_model_names":["gpt-4","b"]}', None),
]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("said", "exact"), SPLICED)
async def test_only_the_model_and_the_hints_change(
    up: ScriptedUpstream, said: bytes, exact: bytes | None, chunked: bool
) -> None:
    up.says(OK)
    request = post("chat/completions", said)
    if chunked:
        request = re.sub(rb"Content-Length: \d+\r\n\r\n.*", b"Transfer-Encoding: chunked\r\n\r\n", request)
        request += b"".join(b"1\r\n%c\r\n" % byte for byte in said) + b"0\r\n\r\n"
    async with proxy_for(up, settings={"model": "served-name"}) as proxy:
        await proxy.exchange(request)
    head, _, content = up.heard.partition(b"\r\n\r\n")
    if chunked:
        assert b"Transfer-Encoding: chunked" in head
        assert b"Content-Length" not in head
        content = dechunk(content)
    else:
        assert b"Content-Length: %d\r\n" % len(content) in head + b"\r\n"
    wanted = json.loads(said)
    wanted.pop("target_model_names", None)
    wanted["model"] = "served-name" if wanted["model"] == "gpt-4" else wanted["model"]
    assert json.loads(content) == wanted
    if exact is not None:
        assert content == exact
    assert content.count(b"1e2") == said.count(b"1e2")


async def test_a_model_in_path_and_query_is_spliced_too(up: ScriptedUpstream) -> None:
    up.says(OK)
    async with proxy_for(up, settings={"model": "served/name"}) as proxy:
        await proxy.exchange(get("/v1/models/gpt-4?x=%20"), get("/v1/models/other"), get("/v1/things?b=1&model=gpt-4"))
    targets = [request.split(b" ")[1] for request in up.requests]
    assert targets == [b"/v1/models/served%2Fname?x=%20", b"/v1/models/other", b"/v1/things?b=1&model=served%2Fname"]


async def test_two_models_in_one_body_are_refused(up: ScriptedUpstream) -> None:
    up.says(OK)
    async with proxy_for(up) as proxy:
        answer = await proxy.exchange(post("chat/completions", b'{"model":"gpt-4","model":"other"}'))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert error_of(answer)["code"] == "ambiguous_body"
    assert not up.requests


async def test_a_hint_that_comes_too_late_stops_the_body_on_its_way(up: ScriptedUpstream) -> None:
    up.says(OK)
    filler = b"x" * 1_300_000
    body = b'{"model":"gpt-4","a":"%s","target_model_names":"gpt-4","b":"%s"}' % (filler, filler)
    async with proxy_for(up) as proxy:
        answer = await proxy.exchange(post("chat/completions", body))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert "first MiB" in str(error_of(answer)["message"])
    assert not up.requests  # no whole request ever arrived


# Framing, both ways.


async def test_kept_connections_and_pipelines_answer_in_order(up: ScriptedUpstream) -> None:
    up.says(*[OK.replace(b"{}", b"%02d" % number) for number in range(5)])
    async with proxy_for(up) as proxy:
        reader, writer = await proxy.connect()
        writer.write(POST_CHAT * 4 + get("/v1/models"))
        answers = [await asyncio.wait_for(read_answer(reader), PATIENCE) for _ in range(5)]
        writer.close()
    assert [answer[-2:] for answer in answers] == [b"00", b"01", b"02", b"03", b"04"]
    assert up.connections == 1


async def test_a_chunked_body_in_pieces_of_a_byte(up: ScriptedUpstream) -> None:
    up.says(OK)
    request = (
        get("/v1/things", "Transfer-Encoding: chunked", method="POST") + b"3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n"
    )
    async with proxy_for(up) as proxy:
        reader, writer = await proxy.connect()
        for byte in request:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        answer = await asyncio.wait_for(read_answer(reader), PATIENCE)
        writer.close()
    assert answer.endswith(b"{}")
    assert dechunk(up.heard.partition(b"\r\n\r\n")[2]) == b"abc0123456789"
    assert b"x=y" not in up.heard


async def test_continue_is_said_when_the_body_is_wanted(up: ScriptedUpstream) -> None:
    up.says(OK)
    async with proxy_for(up) as proxy:
        reader, writer = await proxy.connect()
        head = get("/v1/files", "Content-Length: 5", "Expect: 100-continue", method="POST")
        writer.write(head)
        assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"hello")
        assert (await asyncio.wait_for(read_answer(reader), PATIENCE)).startswith(b"HTTP/1.1 200 OK\r\n")
        writer.close()
    assert b"xpect" not in up.heard


async def test_a_wrong_key_is_refused_before_the_body_is_asked_for(up: ScriptedUpstream) -> None:
    up.says(OK)
    async with proxy_for(up) as proxy:
        request = get("/v1/files", "Content-Length: 5", "Expect: 100-continue", method="POST")
        answer = await proxy.exchange(request.replace(KEY.encode(), b"sk-wrong"))
        record = await proxy.record()
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert error_of(answer)["code"] == "invalid_api_key"
    assert (record.status, record.outcome) == (401, "invalid_api_key")  # type: ignore[attr-defined]
    assert not up.requests


EMPTY = [
    (b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n", "GET"),
    (b"HTTP/1.1 304 Not Modified\r\nETag: e\r\nContent-Length: 10\r\n\r\n", "GET"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", "HEAD"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HEAD"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "DELETE"),
]


@pytest.mark.parametrize(("answer", "method"), EMPTY)
async def test_answers_without_content_keep_both_connections(up: ScriptedUpstream, answer: bytes, method: str) -> None:
    up.says(answer, answer, OK)
    request = get("/v1/things", method=method)
    async with proxy_for(up) as proxy:
        heard = await proxy.exchange(request, request, POST_CHAT)
    assert heard.endswith(b"\r\n\r\n{}")
    assert heard.count(b"HTTP/1.1 ") == 3
    assert heard.startswith(answer.partition(b"\r\n")[0])
    assert (b"Content-Length: 1000" in heard) == (b"Content-Length: 1000" in answer)
    assert up.connections == 1


async def test_early_hints_pass_and_a_continue_does_not(up: ScriptedUpstream) -> None:
    up.says(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK)
    async with proxy_for(up) as proxy:
        answer = await proxy.exchange(POST_CHAT)
    assert answer.startswith(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n")


async def test_a_storm_of_interim_answers_is_a_502(up: ScriptedUpstream) -> None:
    up.says(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 17 + OK)
    async with proxy_for(up) as proxy:
        reader, writer = await proxy.connect()
        writer.write(POST_CHAT)
        heard = await asyncio.wait_for(reader.readuntil(b"HTTP/1.1 502 "), PATIENCE)
        writer.close()
    assert heard.count(b"103 Early") == 16


async def test_a_close_delimited_answer_is_chunked_to_1_1_and_plain_to_1_0(up: ScriptedUpstream) -> None:
    up.says(b"HTTP/1.0 200 OK\r\nContent-Type: a/b\r\n\r\nhello", b"HTTP/1.1 200 OK\r\n\r\nhello")
    async with proxy_for(up) as proxy:
        answer = await proxy.exchange(get("/v1/things"))
        old = await proxy.exchange(get("/v1/things").replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert dechunk(answer.partition(b"\r\n\r\n")[2]) == b"hello"
    assert old.endswith(b"\r\n\r\nhello")
    assert b"chunked" not in old
    assert b"Connection: close" in old


async def test_a_chunked_answer_to_a_1_0_client_ends_with_the_connection(up: ScriptedUpstream) -> None:
    up.says(CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    async with proxy_for(up) as proxy:
        old = await proxy.exchange(get("/v1/things").replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert old.endswith(b"\r\n\r\nabcde")


@pytest.mark.parametrize("size", [0, 1, 4096, 70_000, 3_000_000])
@pytest.mark.parametrize("chunked", [False, True])
async def test_bodies_arrive_as_they_were_sent(up: ScriptedUpstream, size: int, chunked: bool) -> None:
    content = hashlib.shake_128(b"%d" % size).digest(size)

    def framed(start: bytes) -> bytes:
        if not chunked:
            return start + b"Content-Length: %d\r\n\r\n" % size + content
        pieces = [content[at : at + 65_521] for at in range(0, size, 65_521)]
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
        return start + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"

    up.says(framed(b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"))
    request = framed(get("/v1/things", "Content-Type: application/octet-stream", method="POST")[:-2])
    async with proxy_for(up) as proxy:
        answer = await proxy.exchange(request)
        record = await proxy.record()
    read = dechunk if chunked else bytes
    assert read(answer.partition(b"\r\n\r\n")[2]) == content
    assert read(up.heard.partition(b"\r\n\r\n")[2]) == content
    assert (record.bytes_in, record.bytes_out) == (size, size)  # type: ignore[attr-defined]


async def test_an_event_leaves_before_the_next_one_comes(up: ScriptedUpstream) -> None:
    gate = asyncio.Event()

    async def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(EVENTS + b"9\r\ndata: 1\n\n\r\n")
        await asyncio.wait_for(gate.wait(), PATIENCE)
        writer.write(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")

    up.says(speak)
    async with proxy_for(up) as proxy:
        reader, writer = await proxy.connect()
        writer.write(POST_CHAT)
        await asyncio.wait_for(reader.readuntil(b"data: 1\n\n"), PATIENCE)
        gate.set()
        await asyncio.wait_for(reader.readuntil(b"data: 2\n\n\r\n0\r\n\r\n"), PATIENCE)
        writer.close()


# Failing.


async def test_a_refused_connection_goes_to_the_next_deployment(up: ScriptedUpstream) -> None:
    up.says(OK)
    dead = ScriptedUpstream()
    await dead.start()
    await dead.close()
    async with proxy_for(dead, up) as proxy:
        answer = await proxy.exchange(POST_CHAT)
        record = await proxy.record()
    assert b"x-passthrough-deployment: b\r\nx-passthrough-attempts: 2\r\n" in answer
    assert [attempt["outcome"] for attempt in record.attempts] == ["connect_failed", "ok"]  # type: ignore[attr-defined]


async def test_nobody_there_is_a_502_that_names_no_address() -> None:
    dead = ScriptedUpstream()
    await dead.start()
    await dead.close()
    async with proxy_for(dead) as proxy:
        answer = await proxy.exchange(POST_CHAT)
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert error_of(answer)["type"] == "upstream_error"
    assert b"127.0.0.1" not in answer
    assert str(dead.port).encode() not in answer


async def test_a_stale_connection_is_redialled_unseen(up: ScriptedUpstream) -> None:
    async def answer_then_reset_at_the_next(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await read_message(reader)
        await reset(reader, writer)

    up.says(answer_then_reset_at_the_next, OK)
    async with proxy_for(up) as proxy:
        answer = await proxy.exchange(POST_CHAT, POST_CHAT)
        record = await proxy.record(2)
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert record.attempts[-1]["outcome"] == "ok"  # type: ignore[attr-defined]
    assert up.connections == 2


async def test_a_post_that_may_have_acted_is_sent_once(up: ScriptedUpstream, second: ScriptedUpstream) -> None:
    up.says(reset)
    second.says(reset)
    async with proxy_for(up, second) as proxy:
        answer = await proxy.exchange(post("files", b"{}"))
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert len(up.requests) + len(second.requests) == 1


async def test_an_error_is_relayed_as_it_is(up: ScriptedUpstream) -> None:
    up.says(b"HTTP/1.1 400 Bad Request\r\nX-Why: y\r\nContent-Length: 9\r\n\r\n{'odd': 1")
    async with proxy_for(up) as proxy:
        answer = await proxy.exchange(POST_CHAT)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert answer.endswith(b"\r\n\r\n{'odd': 1")
    assert b"X-Why: y" in answer


async def test_a_stream_cut_between_events_says_so(up: ScriptedUpstream) -> None:
    async def cut(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(EVENTS + b"9\r\ndata: 1\n\n\r\n")
        await writer.drain()
        writer.close()
        raise ConnectionError

    up.says(cut)
    async with proxy_for(up) as proxy:
        answer = await proxy.exchange(POST_CHAT)
        record = await proxy.record()
    assert b"data: 1\n\n" in answer
    assert b'data: {"error": {"message": "The upstream broke off' in answer
    assert not answer.endswith(b"0\r\n\r\n")
    assert record.outcome == "broken"  # type: ignore[attr-defined]


async def test_a_stream_cut_within_an_event_is_only_cut(up: ScriptedUpstream) -> None:
    async def cut(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(EVENTS + b"8\r\ndata: 1\n\r\n")
        await writer.drain()
        writer.close()
        raise ConnectionError

    up.says(cut)
    async with proxy_for(up) as proxy:
        answer = await proxy.exchange(POST_CHAT)
    assert answer.endswith(b"8\r\ndata: 1\n\r\n")


async def test_a_short_body_is_never_made_whole(up: ScriptedUpstream) -> None:
    up.says(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 10\r\n\r\nshort")
    async with proxy_for(up) as proxy:
        answer = await proxy.exchange(POST_CHAT)
    assert answer.endswith(b"\r\n\r\nshort")
    assert b"Content-Length: 10" in answer


async def test_an_upstream_that_is_silent_is_a_504(up: ScriptedUpstream) -> None:
    async def say_nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    up.says(say_nothing)
    async with proxy_for(up, timeouts=with_timeouts(response_head=0.1), router=RouterSettings(num_retries=0)) as proxy:
        answer = await proxy.exchange(POST_CHAT)
    assert answer.startswith(b"HTTP/1.1 504 ")
    assert error_of(answer)["code"] == "upstream_timeout"


async def test_a_stream_that_falls_silent_is_cut(up: ScriptedUpstream) -> None:
    async def fall_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(EVENTS + b"9\r\ndata: 1\n\n\r\n")
        await reader.read()

    up.says(fall_silent)
    async with proxy_for(up, timeouts=with_timeouts(stream_idle=0.1)) as proxy:
        answer = await proxy.exchange(POST_CHAT)
    assert b"data: 1\n\n" in answer
    assert b'"error"' in answer


# Sending again.


async def refuse_early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read a head and a little more, and answer 429."""
    await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(1000)
    writer.write(b"HTTP/1.1 429 Slow Down\r\nRetry-After: 3\r\nContent-Length: 4\r\n\r\nslow")
    await writer.drain()
    await reader.read()
    writer.close()


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("replay", [10_000_000, 100_000])
async def test_a_body_refused_on_its_way_is_sent_again_if_it_was_held(
    second: ScriptedUpstream, replay: int, chunked: bool
) -> None:
    second.says(OK)
    content = hashlib.shake_128(b"body").digest(3_000_000)
    framed = b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content) if chunked else content
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(content)}"
    server = await asyncio.start_server(refuse_early, "127.0.0.1", 0)
    one = deployment("a", server.sockets[0].getsockname()[1], scope="s")
    other = deployment("b", second.port, scope="s", order=1)
    async with proxy_over(config_over(one, other, limits=with_limits(replay_bytes=replay))) as proxy:
        reader, writer = await proxy.connect()
        writer.write(get("/v1/things", "Content-Type: a/b", length, method="POST") + framed[:200_000])
        if replay > len(content):
            writer.write(framed[200_000:])
        answer = await asyncio.wait_for(read_answer(reader), PATIENCE)
        writer.close()
    server.close()
    if replay > len(content):
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        sent = second.heard.partition(b"\r\n\r\n")[2]
        assert (dechunk(sent) if chunked else sent) == content
    else:
        assert answer.startswith(b"HTTP/1.1 429 Slow Down\r\n")
        assert answer.endswith(b"slow")
        assert not second.requests


async def test_an_upstream_that_takes_nothing_more_is_a_504() -> None:
    async def take_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    over = asyncio.Event()
    server = await asyncio.start_server(take_nothing, "127.0.0.1", 0, limit=1)
    port = server.sockets[0].getsockname()[1]
    async with proxy_over(config_over(deployment("a", port), timeouts=with_timeouts(response_head=0.3))) as proxy:
        reader, writer = await proxy.connect()
        writer.write(get("/v1/things", "Content-Type: a/b", "Content-Length: 50000000", method="POST"))
        writer.write(b"x" * 50_000_000)
        answer = await asyncio.wait_for(read_answer(reader), PATIENCE)
        writer.close()
        over.set()
    server.close()
    assert answer.startswith(b"HTTP/1.1 504 ")


# Leaving.


async def until_closed(up: ScriptedUpstream) -> None:
    async with asyncio.timeout(PATIENCE):
        await up.closed.wait()


async def test_a_client_that_leaves_before_the_head_takes_the_upstream_along(up: ScriptedUpstream) -> None:
    async def wait_for_the_end(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    up.says(wait_for_the_end)
    async with proxy_for(up) as proxy:
        _, writer = await proxy.connect()
        writer.write(POST_CHAT)
        await asyncio.wait_for(up.asked.wait(), PATIENCE)
        writer.close()
        await until_closed(up)
        record = await proxy.record()
    assert (record.status, record.outcome) == (499, "client_gone")  # type: ignore[attr-defined]


async def test_a_client_that_leaves_within_a_stream_takes_the_upstream_along(up: ScriptedUpstream) -> None:
    async def speak_and_wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(EVENTS + b"9\r\ndata: 1\n\n\r\n")
        await reader.read()

    up.says(speak_and_wait)
    async with proxy_for(up) as proxy:
        reader, writer = await proxy.connect()
        writer.write(POST_CHAT)
        await asyncio.wait_for(reader.readuntil(b"data: 1\n\n"), PATIENCE)
        writer.close()
        await until_closed(up)
        record = await proxy.record()
    assert (record.status, record.outcome) == (499, "client_gone")  # type: ignore[attr-defined]


@pytest.mark.parametrize("stalled", [False, True])
async def test_a_client_that_leaves_within_an_upload_takes_the_upstream_along(
    up: ScriptedUpstream, stalled: bool
) -> None:
    gate = asyncio.Event()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begun.set()
        if stalled:
            await gate.wait()  # takes nothing more until the test is over
        while await reader.read(65_536):
            pass
        up.closed.set()
        writer.close()

    begun = asyncio.Event()
    server = await asyncio.start_server(take, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with proxy_over(config_over(deployment("a", port))) as proxy:
        _, writer = await proxy.connect()
        writer.write(get("/v1/things", "Content-Type: a/b", "Content-Length: 100000000", method="POST"))
        await asyncio.wait_for(begun.wait(), PATIENCE)
        try:
            async with asyncio.timeout(1 if stalled else 0.2):
                while True:
                    writer.write(b"x" * 65_536)
                    await writer.drain()
        except TimeoutError:
            pass
        sock = writer.get_extra_info("socket")
        sock.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )  # what is unsent is not waited for
        writer.transport.abort()
        record = await proxy.record()
        gate.set()
        await until_closed(up)
    server.close()
    assert (record.status, record.outcome) == (499, "client_gone")  # type: ignore[attr-defined]


async def test_an_early_refusal_ends_the_upload(up: ScriptedUpstream) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Much\r\nContent-Length: 4\r\n\r\nmuch")
        await writer.drain()
        await gone.wait()
        writer.close()

    gone = asyncio.Event()
    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with proxy_over(config_over(deployment("a", server.sockets[0].getsockname()[1]))) as proxy:
        reader, writer = await proxy.connect()
        writer.write(get("/v1/things", "Content-Type: a/b", "Content-Length: 100000000", method="POST"))
        writer.write(b"x" * 100_000)
        answer = await asyncio.wait_for(read_answer(reader), PATIENCE)
        assert answer.startswith(b"HTTP/1.1 413 Too Much\r\n")
        assert answer.endswith(b"much")
        assert b"Connection: close" in answer
        writer.close()
        gone.set()
    server.close()


# Limits and our own answers.


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400, "bad_request"),
        (b"GET /v1/x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "bad_request"),
        (b"GET /v1/x HTTP/3.0\r\nHost: a\r\n\r\n", 505, "http_version_not_supported"),
        (b"GET /" + b"x" * 2000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "target_too_long"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 5000 + b"\r\n\r\n", 431, "head_too_large"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 20 + b"\r\n", 431, "head_too_large"),
        (b"POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "transfer_coding_not_implemented"),
        (get("/elsewhere"), 404, "unknown_path"),
        (get("/openai"), 404, "unknown_path"),
        (get("/v1/organization/users"), 403, "forbidden"),
        (get("/v1/../x"), 400, "bad_request"),
        (get("/v1/x", "Content-Length: 2001", method="POST"), 413, "request_too_large"),
        (get("/v1/x").replace(KEY.encode(), b"sk-nobody"), 401, "invalid_api_key"),
    ],
)
async def test_bad_input_gets_its_error_and_a_record(
    up: ScriptedUpstream, request_: bytes, status: int, code: str
) -> None:
    limits = with_limits(target_bytes=1000, head_bytes=4000, head_fields=20, request_bytes=2000)
    up.says(OK)
    async with proxy_for(up, limits=limits) as proxy:
        answer = await proxy.exchange(request_)
        record = await proxy.record()
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert error_of(answer)["code"] == code
    assert b"x-passthrough-id: pt-" in answer
    assert (record.status, record.outcome) == (status, code)  # type: ignore[attr-defined]
    assert not up.requests


async def test_a_head_that_trickles_is_a_408_and_silence_is_closed_without_a_word(up: ScriptedUpstream) -> None:
    async with proxy_for(up, timeouts=with_timeouts(head=0.2, keep_alive=0.2)) as proxy:
        reader, writer = await proxy.connect()
        writer.write(b"GET / HT")
        assert (await asyncio.wait_for(read_answer(reader), PATIENCE)).startswith(b"HTTP/1.1 408 ")
        writer.close()
        reader, writer = await proxy.connect()
        assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
        writer.close()
        reader, writer = await proxy.connect()
        writer.write(get("/"))
        answer = await asyncio.wait_for(reader.read(), PATIENCE)  # and the kept connection is closed in time
        assert answer.count(b"HTTP/1.1 ") == 1
        writer.close()


async def test_a_body_that_stops_is_a_408(up: ScriptedUpstream) -> None:
    async with proxy_for(up, timeouts=with_timeouts(body=0.1)) as proxy:
        answer = await proxy.exchange(get("/v1/x", "Content-Length: 10", method="POST") + b"12")
    assert answer.startswith(b"HTTP/1.1 408 ")


async def test_too_many_connections_are_turned_away(up: ScriptedUpstream) -> None:
    async with proxy_for(up, limits=with_limits(connections=1)) as proxy:
        _, first = await proxy.connect()
        first.write(b"G")
        reader, writer = await proxy.connect()
        answer = await asyncio.wait_for(reader.read(), PATIENCE)
        writer.close()
        first.close()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: 1" in answer


async def test_our_own_pages_leave_no_record(up: ScriptedUpstream) -> None:
    async with proxy_for(up) as proxy:
        home = await proxy.exchange(get("/"))
        live = await proxy.exchange(get("/health/liveness"))
        ready = await proxy.exchange(get("/health/readiness"))
        metrics = await proxy.exchange(get("/metrics"))
        closed = await proxy.exchange(b"GET /metrics HTTP/1.1\r\nHost: p\r\n\r\n")
        head = await proxy.exchange(get("/health/liveliness", method="HEAD"))
        await proxy.record()
        assert len(proxy.records) == 1  # the refused one
    assert b"base_url" in home
    assert live.startswith(b"HTTP/1.1 200 ")
    assert ready.startswith(b"HTTP/1.1 200 ")
    assert b"passthrough_build_info" in metrics
    assert closed.startswith(b"HTTP/1.1 401 ")
    assert head.endswith(b"\r\n\r\n")


# Choosing.


async def test_both_keys_of_a_group_get_their_share(up: ScriptedUpstream) -> None:
    up.says(OK)
    two = config_over(deployment("a", up.port), deployment("b", up.port))
    async with proxy_over(two) as proxy:
        await proxy.exchange(*[POST_CHAT] * 60)
    shares = [up.heard.count(b"sk-upstream-" + name) for name in (b"a", b"b")]
    assert sum(shares) == 60
    assert min(shares) > 10


async def test_the_header_chooses_and_is_stripped(up: ScriptedUpstream) -> None:
    up.says(OK)
    one = deployment("a", up.port)
    other = deployment("b", up.port, group="other", model="other")
    async with proxy_over(config_over(one, other)) as proxy:
        await proxy.exchange(get("/v1/files/file-abc123", "X-LiteLLM-Target-Model: other", method="DELETE"))
        await proxy.exchange(get("/v1/files/file-abc123", method="DELETE"))
    assert [b"sk-upstream-b" in request for request in up.requests] == [True, False]
    assert b"itellm" not in up.heard.lower().replace(b"x-litellm-api", b"")


async def test_an_unknown_model_is_forwarded_or_rejected(up: ScriptedUpstream) -> None:
    up.says(OK)
    request = post("chat/completions", b'{"model":"gpt-nobody"}')
    async with proxy_for(up) as proxy:
        assert (await proxy.exchange(request)).startswith(b"HTTP/1.1 200 ")
    async with proxy_for(up, router=RouterSettings(unknown_model="reject")) as proxy:
        answer = await proxy.exchange(request)
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert error_of(answer)["code"] == "model_not_found"
    assert "gpt-4" in str(error_of(answer)["message"])
    assert b'"gpt-nobody"' in up.requests[0]


async def test_keys_never_show(up: ScriptedUpstream) -> None:
    up.says(OK)
    secret = "sk-very-secret-indeed"
    async with proxy_for(up, settings={"key": Secret(secret)}) as proxy:
        answers = await proxy.exchange(POST_CHAT, get("/v1/../x"))
        record = await proxy.record(2)
    assert secret.encode() not in answers
    assert secret not in repr(proxy.worker.config) + repr(vars(record))
    assert KEY not in repr(vars(record))
