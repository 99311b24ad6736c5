"""What a stranger tried on the whole proxy, and broke: one transcript for each fault that was there."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from relay.wire.fields import _is_ours
from relay.wire.framing import judge_request
from tests.harness import (
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
    with_timeouts,
)
from tests.scripted import ScriptedUpstream, dechunk
from tests.test_failing import say_nothing, serving

if TYPE_CHECKING:
    from tests.harness import Proxy


EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def upload(length: int, *lines: str) -> bytes:
    """The head of a request whose content is not looked into."""
    return get("/v1/things", "Content-Type: a/b", f"Content-Length: {length}", *lines, method="POST")


def form(*parts: tuple[str, bytes]) -> bytes:
    """A form of these parts."""
    lines = '--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n'
    return b"".join([(lines % name).encode() + content + b"\r\n" for name, content in parts]) + b"--b--\r\n"


def post_form(path: str, body: bytes) -> bytes:
    """A POST of a form, as bytes."""
    lines = ("Content-Type: multipart/form-data; boundary=b", f"Content-Length: {len(body)}")
    return get(f"/v1/{path}", *lines, method="POST") + body


def client_tasks(proxy: Proxy) -> set[asyncio.Task[None]]:
    """The tasks of all connections of clients."""
    return set(proxy.worker._clients._downstreams)


@pytest.mark.parametrize("answers", [True, False])
async def test_an_upload_that_was_given_up_does_not_keep_its_client_for_ever(answers: bool) -> None:
    """Its last breath took the wake-up call of those who waited for the client to leave: no deadline came through."""

    async def end_early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(10)
        if not answers:
            writer.transport.abort()
            return
        writer.write(OK)
        await say_nothing(reader, writer)

    async with serving(end_early) as port, proxy_over(config_over(deployment("a", port))) as proxy:
        reader, writer = await proxy.connect()
        writer.write(upload(100) + b"x" * 10)
        answer = await asyncio.wait_for(read_answer(reader), PATIENCE)
        tasks = client_tasks(proxy)
        assert answer.startswith(b"HTTP/1.1 200 " if answers else b"HTTP/1.1 502 ")
        writer.close()
        _, left = await asyncio.wait(tasks, timeout=PATIENCE)
    assert not left


async def test_an_upstream_that_takes_nothing_for_a_while_is_not_the_clients_silence() -> None:
    """The client's deadline went on running while nobody read from the client."""
    content = b"x" * 10_000_000
    stalled = asyncio.Event()

    async def pause(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await stalled.wait()
        await reader.readexactly(len(content))
        writer.write(OK)
        await say_nothing(reader, writer)

    config = {"timeouts": with_timeouts(body=0.2)}
    async with serving(pause) as port, proxy_over(config_over(deployment("a", port), **config)) as proxy:
        reader, writer = await proxy.connect()
        writer.write(upload(len(content)) + content[:1000])
        await asyncio.sleep(0.1)  # so that the proxy has waited for more
        writer.write(content[1000:])
        asyncio.get_running_loop().call_later(0.5, stalled.set)
        answer = await asyncio.wait_for(read_answer(reader), PATIENCE)
        writer.close()
    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_who_did_not_wait_for_a_100_gets_none(up: ScriptedUpstream) -> None:
    """It was owed until the content once ran dry: in a long upload perhaps within an answer that had begun."""
    up.says(OK)
    async with proxy_for(up) as proxy:
        reader, writer = await proxy.connect()
        writer.write(upload(10, "Expect: 100-continue") + b"01234")
        await asyncio.sleep(0.1)  # so that the proxy has waited for more
        writer.write(b"56789")
        answer = await asyncio.wait_for(read_answer(reader), PATIENCE)
        writer.close()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert up.heard.endswith(b"\r\n\r\n0123456789")


@pytest.mark.parametrize("count", ["9" * 4301, "1", "\u00b2", "-1", "1e9", "0x1"])
async def test_whatever_is_said_of_retries_is_no_fault_of_ours(up: ScriptedUpstream, count: str) -> None:
    up.says(OK)
    async with proxy_for(up) as proxy:
        answer = await proxy.exchange(get("/v1/models", f"X-Stainless-Retry-Count: {count}"))
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("method", ["CONNECT", "TRACE", "trace"])
async def test_no_tunnel_and_no_echo_of_the_key_is_asked_for(up: ScriptedUpstream, method: str) -> None:
    """CONNECT with a path was a fault of the proxy; an upstream that heeds TRACE shows the client its key."""
    up.says(OK)
    async with proxy_for(up) as proxy:
        answer = await proxy.exchange(get("/v1/models", method=method))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert not up.requests


async def test_a_stream_that_is_not_http_any_more_is_not_called_the_clients_fault(up: ScriptedUpstream) -> None:
    up.says(EVENTS + b"9\r\ndata: 1\n\n\r\nlorem\r\n")
    async with proxy_for(up) as proxy:
        answer = await proxy.exchange(POST_CHAT)
    event = dechunk(answer.partition(b"\r\n\r\n")[2]).removeprefix(b"data: 1\n\ndata: ")
    assert json.loads(event)["error"]["code"] == "upstream_broke_off"


async def test_a_sessions_model_is_replaced_in_a_form_that_holds_a_file(up: ScriptedUpstream) -> None:
    """What had been replaced was taken for found too late."""
    up.says(OK)
    body = form(("session", b'{"model":"gpt-4"}'), ('sdp"; filename="offer.sdp', b"v=0"))
    async with proxy_for(up, settings={"model": "served"}) as proxy:
        answer = await proxy.exchange(post_form("realtime/calls", body))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert up.heard.endswith(body.replace(b"gpt-4", b"served"))


LONG = b"x" * 3_000_000


@pytest.mark.parametrize("behind", [True, False])
@pytest.mark.parametrize("served", ["served", "gpt-4"])
async def test_a_model_behind_a_long_prompt_is_replaced_too(up: ScriptedUpstream, behind: bool, served: str) -> None:
    """The lone deployment was decided on after the first MiB, and the name that followed stayed as it was."""
    up.says(OK)
    messages, model = b'"messages":[{"content":"%s"}]' % LONG, b'"model":"gpt-4"'
    body = b"{%s}" % b",".join([messages, model] if behind else [model, messages])
    async with proxy_for(up, settings={"model": served}) as proxy:
        answer = await proxy.exchange(post("chat/completions", body))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert up.heard.partition(b"\r\n\r\n")[2] == body.replace(b"gpt-4", served.encode())


async def test_a_model_behind_a_file_is_replaced_too(up: ScriptedUpstream) -> None:
    """As curl sends it: ``-F file=@speech.mp3 -F model=...``."""
    up.says(OK)
    body = form(('file"; filename="speech.mp3', LONG), ("model", b"gpt-4"))
    async with proxy_for(up, settings={"model": "served"}) as proxy:
        answer = await proxy.exchange(post_form("audio/transcriptions", body))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert up.heard.partition(b"\r\n\r\n")[2] == body.replace(b"gpt-4", b"served")


@pytest.mark.parametrize(
    ("path", "parts"),
    [("files", (("purpose", b"batch"),)), ("audio/transcriptions", (("model", b"gpt-4"),)), ("skills", ())],
)
async def test_a_file_leaves_before_it_is_all_there(path: str, parts: tuple[tuple[str, bytes], ...]) -> None:
    """Nothing is waited for where no model can follow: after it, or where files are kept."""
    asked = asyncio.Event()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await say_nothing(reader, writer)

    body = form(*parts, ('file"; filename="a', LONG))
    async with serving(take) as port, proxy_over(config_over(deployment("a", port, model="served"))) as proxy:
        _, writer = await proxy.connect()
        writer.write(post_form(path, body)[:-10])
        await asyncio.wait_for(asked.wait(), PATIENCE)
        writer.close()


async def test_a_stream_that_falls_silent_is_cut_also_if_it_began_within_the_upload() -> None:
    """An upload that had waited for the upstream took the answer's deadline away with its own."""
    content = b"x" * 20_000_000
    went_on = asyncio.Event()

    async def answer_early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(EVENTS + b"9\r\ndata: 1\n\n\r\n")
        await went_on.wait()
        await say_nothing(reader, writer)

    async with serving(answer_early) as port:
        config = config_over(deployment("a", port), timeouts=with_timeouts(stream_idle=0.5))
        async with proxy_over(config) as proxy:
            reader, writer = await proxy.connect()
            writer.write(upload(len(content)) + content)
            await asyncio.wait_for(reader.readuntil(b"data: 1\n\n\r\n"), PATIENCE)
            await asyncio.sleep(0.2)  # so that the upload waits
            went_on.set()
            rest = await asyncio.wait_for(reader.read(), PATIENCE)
            writer.close()
    assert b"upstream_broke_off" in rest


LONG_NAME = "y" * 1025


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (post("chat/completions", b'{"model":"%s"}' % LONG_NAME.encode()), "model"),
        (post("chat/completions", b'{"target_model_names":"%s"}' % LONG_NAME.encode()), "target_model_names"),
        (get(f"/v1/models/{LONG_NAME}"), "model"),
        (get("/v1/models", f"X-LiteLLM-Target-Model: {LONG_NAME}"), "x-litellm-target-model"),
        (get("/v1/files", f"X-Passthrough-Session: {LONG_NAME}"), "x-passthrough-session"),
    ],
)
async def test_a_name_without_end_is_refused(up: ScriptedUpstream, request_: bytes, param: str) -> None:
    """The router remembers thousands of them: of names of a MiB that was more memory than there is."""
    up.says(OK)
    async with proxy_for(up) as proxy:
        answer = await proxy.exchange(request_)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["param"] == param
    assert not up.requests


async def test_what_is_remembered_of_heads_is_short(up: ScriptedUpstream) -> None:
    """The verdicts on heads are kept, by a key that a stranger writes, and thousands of 60 KiB are much memory."""
    up.says(OK)
    caches = (judge_request, _is_ours)
    async with proxy_for(up) as proxy:
        await proxy.exchange(get("/v1/models", "Connection: keep-alive"))
        before = [cache.cache_info().currsize for cache in caches]
        long = await proxy.exchange(get("/v1/models", "Connection: keep-alive, " + "y" * 30_000, "Z" * 10_000 + ": 1"))
        method = await proxy.exchange(get("/v1/models", method="M" * 10_000))
        assert [cache.cache_info().currsize for cache in caches] == before
    assert long.startswith(b"HTTP/1.1 200 ")
    assert b"Z" * 10_000 in up.heard
    assert method.startswith(b"HTTP/1.1 400 ")
