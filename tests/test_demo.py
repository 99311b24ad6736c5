"""The demo upstream: driven by the real SDK, and by hand where framing and misbehaviour count."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import openai
import pytest
import pytest_asyncio

from relay.demo import DemoUpstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# The SDK marks the Assistants API as deprecated; applications still use it.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ALPHA, ALPHA_TOO, BETA = "sk-alpha-1234567890", "sk-alpha-too-4567890", "sk-beta-1234567890"
HELLO = [{"role": "user", "content": "hello"}]


@pytest_asyncio.fixture
async def demo() -> AsyncIterator[DemoUpstream]:
    upstream = DemoUpstream(
        {ALPHA: "alpha", ALPHA_TOO: "alpha", BETA: "beta"}, pace=0, rng=random.Random(7), request_most=1 << 30
    )
    await upstream.start()
    async with asyncio.timeout(30):
        yield upstream
    await upstream.close()
    assert upstream.connections == 0


@asynccontextmanager
async def sdk(demo: DemoUpstream, key: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(api_key=key, base_url=demo.base_url, max_retries=0, timeout=10) as client:
        yield client


@pytest_asyncio.fixture
async def alpha(demo: DemoUpstream) -> AsyncIterator[openai.AsyncOpenAI]:
    async with sdk(demo, ALPHA) as client:
        yield client


@pytest_asyncio.fixture
async def beta(demo: DemoUpstream) -> AsyncIterator[openai.AsyncOpenAI]:
    async with sdk(demo, BETA) as client:
        yield client


async def raw(demo: DemoUpstream, said: bytes) -> bytes:
    """Say bytes on a new connection, half close nothing, and hear all until the upstream closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(demo.base_url.split(":")[2].split("/")[0]))
    try:
        writer.write(said)
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


def request(method: str, path: str, *lines: str, body: bytes = b"", key: str = ALPHA) -> bytes:
    """One request as bytes; the connection closes after it unless a line says otherwise."""
    head = [f"{method} /v1{path} HTTP/1.1", "Host: demo", f"Authorization: Bearer {key}", *lines]
    return "\r\n".join([*head, "", ""]).encode() + body


# With the SDK.


async def test_a_stream_ends_with_usage_only_if_asked(alpha: openai.AsyncOpenAI) -> None:
    asked: Any = {"model": "gpt-4o", "messages": [{"role": "user", "content": "count to 3"}], "stream": True}
    metered = {**asked, "stream_options": {"include_usage": True}}
    heard = [chunk async for chunk in await alpha.chat.completions.create(**metered)]
    plain = [chunk async for chunk in await alpha.chat.completions.create(**asked)]

    assert "".join(chunk.choices[0].delta.content or "" for chunk in heard if chunk.choices) == "1 2 3"
    assert heard[-1].usage is not None
    assert heard[-1].usage.completion_tokens > 0
    assert all(chunk.usage is None for chunk in plain)
    assert len(plain) == len(heard) - 1


async def test_a_file_is_there_for_its_project_only(
    demo: DemoUpstream, alpha: openai.AsyncOpenAI, beta: openai.AsyncOpenAI
) -> None:
    content = random.Random(1).randbytes(3 << 20)
    file = await alpha.files.create(file=("a.bin", content), purpose="assistants")
    async with sdk(demo, ALPHA_TOO) as too:
        assert (await too.files.content(file.id)).content == content
        assert (await too.files.list()).data == [file]

    with pytest.raises(openai.NotFoundError, match=f"No such File object: {file.id}") as caught:
        await beta.files.retrieve(file.id)
    assert caught.value.type == "invalid_request_error"
    with pytest.raises(openai.NotFoundError):
        await beta.files.delete(file.id)
    assert (await alpha.files.delete(file.id)).deleted
    assert not (await alpha.files.list()).data


async def test_the_assistants_walk(alpha: openai.AsyncOpenAI, beta: openai.AsyncOpenAI) -> None:
    assistant = await alpha.beta.assistants.create(name="Math Tutor", model="gpt-4o")
    thread = await alpha.beta.threads.create()
    await alpha.beta.threads.messages.create(thread.id, role="user", content="Solve 3x + 11 = 14")
    run = await alpha.beta.threads.runs.create(thread_id=thread.id, assistant_id=assistant.id)
    assert run.status == "queued"
    assert (await alpha.beta.threads.runs.retrieve(run.id, thread_id=thread.id)).status == "completed"
    answer, question = (await alpha.beta.threads.messages.list(thread.id)).data
    assert answer.run_id == run.id
    assert "3x + 11" in str(answer.content)
    assert question.role == "user"

    theirs = await beta.beta.threads.create()
    with pytest.raises(openai.NotFoundError, match="No assistant found"):
        await beta.beta.threads.runs.create(thread_id=theirs.id, assistant_id=assistant.id)
    with pytest.raises(openai.NotFoundError, match="No thread found"):
        await beta.beta.threads.runs.create(thread_id=thread.id, assistant_id=assistant.id)
    assert (await alpha.beta.assistants.delete(assistant.id)).deleted


# By hand.


async def test_requests_are_remembered_as_they_came(demo: DemoUpstream) -> None:
    body = b'{"model" : "gpt-4o","messages":[{"role":"user","content":"x"}]}'
    lines = ("content-TYPE: application/json", "X-Twice: 1", "x-twice: 2", f"Content-Length: {len(body)}")
    answer = await raw(demo, request("POST", "/chat/completions?a=%2F&a=", *lines, "Connection: close", body=body))

    heard = demo.requests[-1]
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert heard.outcome == "done"
    assert heard.target == "/v1/chat/completions?a=%2F&a="
    assert heard.body == body
    assert heard.project == "alpha"
    assert [name for name, _ in heard.fields][2:5] == [b"content-TYPE", b"X-Twice", b"x-twice"]


@pytest.mark.parametrize(
    ("said", "status", "text"),
    [
        (request("GET", "/models", "Connection: close", key="sk-wrong-key-000000"), 401, b'"code": "invalid_api_key"'),
        (request("GET", "/nowhere", "Connection: close"), 404, b"Invalid URL (GET /v1/nowhere)"),
        (request("PUT", "/models", "Connection: close"), 405, b"Not allowed to PUT"),
        (request("POST", "/files", f"Content-Length: {2 << 30}"), 413, b"Maximum content size"),
        (request("GET", "/models", "Content-Length: x"), 400, b"Bad request"),
    ],
    ids=["key", "path", "method", "size", "framing"],
)
async def test_refusals_have_the_real_shape(demo: DemoUpstream, said: bytes, status: int, text: bytes) -> None:
    answer = await raw(demo, said)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert text in answer
    assert b'"type": "invalid_request_error"' in answer
