"""The demo upstream: driven by the real SDK, and by hand where framing and misbehaviour count."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import hashlib
import io
import json
import random
import ssl
import tracemalloc
import wave
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import openai
import pytest
import pytest_asyncio
import trustme

from relay.demo import DemoUpstream, Quota
from relay.demo.bodies import Blob, Form
from relay.demo.messages import APIError
from relay.demo.projects import MOST_THINGS
from relay.demo.script import duration

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

# The SDK marks the Assistants API as deprecated; applications still use it.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ALPHA, ALPHA_TOO, BETA = "sk-alpha-1234567890", "sk-alpha-too-4567890", "sk-beta-1234567890"
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
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
    http = openai.DefaultAsyncHttpxClient(verify=NO_TLS)  # whose own context would take most of the time of a test
    async with openai.AsyncOpenAI(
        api_key=key, base_url=demo.base_url, max_retries=0, timeout=10, http_client=http
    ) as it:
        yield it


@pytest_asyncio.fixture
async def alpha(demo: DemoUpstream) -> AsyncIterator[openai.AsyncOpenAI]:
    async with sdk(demo, ALPHA) as client:
        yield client


@pytest_asyncio.fixture
async def beta(demo: DemoUpstream) -> AsyncIterator[openai.AsyncOpenAI]:
    async with sdk(demo, BETA) as client:
        yield client


async def dial(demo: DemoUpstream) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", int(demo.base_url.split(":")[2].split("/")[0]))


async def raw(demo: DemoUpstream, said: bytes) -> bytes:
    """Say bytes on a new connection, half close nothing, and hear all until the upstream closes."""
    reader, writer = await dial(demo)
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


# Honesty: what one project made, no other sees. Rows: how it is made, and what must not find it.

Maker = Callable[[openai.AsyncOpenAI], Awaitable[Any]]


async def call(client: openai.AsyncOpenAI, method: str, path: str, body: Any = None) -> Any:
    """One call without the SDK's types."""
    kind: Any = object
    if method == "GET":
        return await client.get(path, cast_to=kind)
    if method == "DELETE":
        return await client.delete(path, cast_to=kind)
    return await client.post(path, cast_to=kind, body=body or {})


def posts(path: str, body: Any) -> Maker:
    async def maker(client: openai.AsyncOpenAI) -> Any:
        return await call(client, "POST", path, body)

    return maker


async def a_file(client: openai.AsyncOpenAI, purpose: Any = "assistants", content: bytes = b"some words") -> Any:
    return (await client.files.create(file=("f.txt", content), purpose=purpose)).model_dump()


async def a_batch(client: openai.AsyncOpenAI) -> Any:
    file = await a_file(client, "batch")
    body = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    return await call(client, "POST", "/batches", body)


async def a_job(client: openai.AsyncOpenAI) -> Any:
    file = await a_file(client, "fine-tune")
    return await call(client, "POST", JOBS, {"model": "gpt-4o-mini", "training_file": file["id"], "suffix": "mine"})


async def a_chat(client: openai.AsyncOpenAI) -> Any:
    return await call(client, "POST", "/chat/completions", {"model": "gpt-4o", "messages": HELLO, "store": True})


async def a_consent(client: openai.AsyncOpenAI) -> Any:
    given = {"name": "me", "language": "en"}
    files = [("recording", ("a.wav", b"RIFF"))]
    kind: Any = object
    options: Any = {"headers": {"Content-Type": "multipart/form-data"}}
    return await client.post("/audio/voice_consents", cast_to=kind, body=given, files=files, options=options)


async def a_skill(client: openai.AsyncOpenAI) -> Any:
    return (await client.skills.create(files=[("mine/SKILL.md", b"---\n")])).model_dump()


JOBS = "/fine_tuning/jobs"
EVAL = {"data_source_config": {"type": "custom", "item_schema": {}}, "testing_criteria": []}
THINGS: list[tuple[str, str, Maker]] = [
    ("asst_", "/assistants", posts("/assistants", {"model": "gpt-4o"})),
    ("thread_", "/threads", posts("/threads", {})),
    ("file-", "/files", a_file),
    ("batch_", "/batches", a_batch),
    ("vs_", "/vector_stores", posts("/vector_stores", {"name": "v"})),
    ("chatcmpl-", "/chat/completions", a_chat),
    ("resp_", "/responses", posts("/responses", {"model": "gpt-4o", "input": "hello"})),
    ("conv_", "/conversations", posts("/conversations", {})),
    ("cntr_", "/containers", posts("/containers", {"name": "c"})),
    ("ftjob-", JOBS, a_job),
    ("eval_", "/evals", posts("/evals", EVAL)),
    ("video_", "/videos", posts("/videos", {"prompt": "a cat"})),
    ("skill_", "/skills", a_skill),
    ("cons_", "/audio/voice_consents", a_consent),
]
UNLISTED = {"/threads", "/responses", "/conversations"}
KEPT = {JOBS, "/batches"}  # these cannot be deleted


@pytest.mark.parametrize(("prefix", "path", "maker"), THINGS, ids=[row[0] for row in THINGS])
async def test_a_thing_is_its_projects_alone(
    demo: DemoUpstream, alpha: openai.AsyncOpenAI, beta: openai.AsyncOpenAI, prefix: str, path: str, maker: Maker
) -> None:
    made = await maker(alpha)
    one = f"{path}/{made['id']}"
    assert made["id"].startswith(prefix)
    async with sdk(demo, ALPHA_TOO) as too:
        assert (await call(too, "GET", one))["id"] == made["id"]
    for method in ("GET",) if path in KEPT else ("GET", "DELETE"):
        with pytest.raises(openai.NotFoundError) as caught:
            await call(beta, method, one)
        assert caught.value.type == "invalid_request_error"
        assert made["id"] in caught.value.message
    if path not in UNLISTED:
        listed = await call(alpha, "GET", path)
        assert [listed["first_id"], listed["last_id"], listed["has_more"]] == [made["id"], made["id"], False]
        assert (await call(beta, "GET", path))["data"] == []
    if path not in KEPT:
        assert (await call(alpha, "DELETE", one))["deleted"]
        with pytest.raises(openai.NotFoundError):
            await call(alpha, "GET", one)


# References in bodies: rows of what is made first, and the calls that may then name it in that project only.

CHAT = '"model": "gpt-4o", "messages": [{"role": "user", "content": %s}]'
REFERENCES: list[tuple[str, Maker, str, str]] = [
    ("assistant files", a_file, "/assistants",
     '{"model": "gpt-4o", "tool_resources": {"code_interpreter": {"file_ids": ["ID"]}}}'),
    ("assistant stores", posts("/vector_stores", {}), "/assistants",
     '{"model": "gpt-4o", "tool_resources": {"file_search": {"vector_store_ids": ["ID"]}}}'),
    ("inline stores", a_file, "/threads",
     '{"tool_resources": {"file_search": {"vector_stores": [{"file_ids": ["ID"]}]}}}'),
    ("attachments", a_file, "/threads",
     '{"messages": [{"role": "user", "content": "x", "attachments": [{"file_id": "ID"}]}]}'),
    ("run", posts("/assistants", {"model": "gpt-4o"}), "/threads/runs", '{"assistant_id": "ID"}'),
    ("chat file", a_file, "/chat/completions", "{" + CHAT % '[{"type": "file", "file": {"file_id": "ID"}}]' + "}"),
    ("input file", a_file, "/responses",
     '{"model": "gpt-4o", "input": [{"role": "user", "content": [{"type": "input_file", "file_id": "ID"}]}]}'),
    ("search", posts("/vector_stores", {}), "/responses",
     '{"model": "gpt-4o", "input": "x", "tools": [{"type": "file_search", "vector_store_ids": ["ID"]}]}'),
    ("code", posts("/containers", {"name": "c"}), "/responses",
     '{"model": "gpt-4o", "input": "x", "tools": [{"type": "code_interpreter", "container": "ID"}]}'),
    ("previous", posts("/responses", {"model": "gpt-4o", "input": "x"}), "/responses",
     '{"model": "gpt-4o", "input": "y", "previous_response_id": "ID"}'),
    ("conversation", posts("/conversations", {}), "/responses",
     '{"model": "gpt-4o", "input": "y", "conversation": {"id": "ID"}}'),
    ("container files", a_file, "/containers", '{"name": "c", "file_ids": ["ID"]}'),
    ("store files", a_file, "/vector_stores", '{"file_ids": ["ID"]}'),
    ("training file", a_file, JOBS, '{"model": "gpt-4o-mini", "training_file": "ID"}'),
    ("picture", a_file, "/images/edits", '{"model": "gpt-image-1", "prompt": "x", "images": [{"file_id": "ID"}]}'),
]  # fmt: skip


@pytest.mark.parametrize(("maker", "path", "body"), [row[1:] for row in REFERENCES], ids=[row[0] for row in REFERENCES])
async def test_a_body_may_name_only_its_projects_things(
    alpha: openai.AsyncOpenAI, beta: openai.AsyncOpenAI, maker: Maker, path: str, body: str
) -> None:
    made = (await maker(alpha))["id"]
    named = json.loads(body.replace("ID", made))
    assert await call(alpha, "POST", path, named)
    with pytest.raises((openai.NotFoundError, openai.BadRequestError), match=made):
        await call(beta, "POST", path, named)


async def test_user_data_is_no_reference(alpha: openai.AsyncOpenAI) -> None:
    body = {"metadata": {"file_id": "file-of-somebody"}}
    assert (await call(alpha, "POST", "/threads", body))["metadata"] == body["metadata"]


async def test_a_fine_tuned_model_is_its_projects_alone(alpha: openai.AsyncOpenAI, beta: openai.AsyncOpenAI) -> None:
    job = await a_job(alpha)
    assert job["status"] == "validating_files"
    assert job["fine_tuned_model"] is None
    model = (await alpha.fine_tuning.jobs.retrieve(job["id"])).fine_tuned_model
    assert model is not None
    assert model.startswith("ft:gpt-4o-mini:alpha:mine:")
    asked: Any = {"model": model, "messages": HELLO}
    assert (await alpha.chat.completions.create(**asked)).model == model
    with pytest.raises(openai.NotFoundError) as caught:
        await beta.chat.completions.create(**asked)
    assert caught.value.code == "model_not_found"
    assert model in [entry.id for entry in (await alpha.models.list()).data]
    assert model not in [entry.id for entry in (await beta.models.list()).data]
    assert (await alpha.models.delete(model)).deleted
    with pytest.raises(openai.PermissionDeniedError):
        await alpha.models.delete("gpt-4o")


# Pages.


async def test_lists_are_paged_from_both_ends(alpha: openai.AsyncOpenAI) -> None:
    made = [(await alpha.vector_stores.create(name=str(number))).id for number in range(7)]
    newest_first = made[::-1]
    assert [store.id async for store in await alpha.vector_stores.list(limit=3)] == newest_first
    assert [store.id async for store in await alpha.vector_stores.list(limit=2, order="asc")] == made
    page = await call(alpha, "GET", f"/vector_stores?limit=2&after={newest_first[2]}")
    assert [entry["id"] for entry in page["data"]] == newest_first[3:5]
    assert page["has_more"]
    page = await call(alpha, "GET", f"/vector_stores?limit=2&before={newest_first[3]}")
    assert [entry["id"] for entry in page["data"]] == newest_first[1:3]
    assert page["has_more"]
    for wrong in ("after=vs_nowhere", "limit=0", "limit=x", "order=up"):
        with pytest.raises((openai.NotFoundError, openai.BadRequestError)):
            await call(alpha, "GET", f"/vector_stores?{wrong}")


# Chat and responses.


async def test_a_named_tool_is_called_plainly_and_in_pieces(alpha: openai.AsyncOpenAI) -> None:
    asked: Any = {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": "use get_weather please"}],
        "tools": [{"type": "function", "function": {"name": "get_weather", "parameters": {}}}],
    }
    choice = (await alpha.chat.completions.create(**asked)).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    async with alpha.chat.completions.stream(**asked) as stream:
        streamed = (await stream.get_final_completion()).choices[0]
    assert streamed.message.tool_calls is not None
    assert str(streamed.message.tool_calls[0]).count("get_weather") == 2
    none = await alpha.chat.completions.create(**asked, tool_choice="none")
    assert none.choices[0].message.content is not None


async def test_answers_can_be_cut_short_and_shaped(alpha: openai.AsyncOpenAI) -> None:
    asked: Any = {"model": "gpt-4o", "messages": [{"role": "user", "content": "count to 50"}]}
    short = (await alpha.chat.completions.create(**asked, max_tokens=5)).choices[0]
    assert (short.message.content, short.finish_reason) == ("1 2 3 4 5 ", "length")
    shape = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x"]}, "c": {"type": "null"}}}
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": shape}}
    shaped = (await alpha.chat.completions.create(**asked, response_format=wanted)).choices[0]
    assert json.loads(shaped.message.content or "") == {"a": 1, "b": "x", "c": None}


async def test_spoken_answers_can_be_named_later_by_their_project(
    alpha: openai.AsyncOpenAI, beta: openai.AsyncOpenAI
) -> None:
    asked: Any = {"model": "gpt-audio", "messages": HELLO, "modalities": ["text", "audio"]}
    audio = (await alpha.chat.completions.create(**asked)).choices[0].message.audio
    assert audio is not None
    later: Any = {"model": "gpt-audio", "messages": [{"role": "assistant", "audio": {"id": audio.id}}, *HELLO]}
    assert (await alpha.chat.completions.create(**later)).choices
    with pytest.raises(openai.NotFoundError, match="Audio with id"):
        await beta.chat.completions.create(**later)


async def test_stored_chats_are_found_by_metadata(alpha: openai.AsyncOpenAI) -> None:
    asked: Any = {"model": "gpt-4o", "messages": HELLO, "store": True}
    for name in ("a", "b"):
        await alpha.chat.completions.create(**asked, metadata={"who": name})
    found = (await alpha.chat.completions.list(metadata={"who": "b"}, model="gpt-4o")).data
    assert [entry.metadata for entry in found] == [{"who": "b"}]
    await alpha.chat.completions.update(found[0].id, metadata={"who": "c"})
    assert (await alpha.chat.completions.retrieve(found[0].id)).metadata == {"who": "c"}
    heard = (await alpha.chat.completions.messages.list(found[0].id)).data
    assert [(entry.id, entry.content) for entry in heard] == [(f"{found[0].id}-0", "hello")]


CODE = {"type": "code_interpreter", "container": {"type": "auto"}}


async def test_a_response_streams_in_the_real_order_and_can_be_heard_again(alpha: openai.AsyncOpenAI) -> None:
    asked: Any = {
        "model": "gpt-4o",
        "input": "count to 2",
        "tools": [{"type": "code_interpreter", "container": {"type": "auto"}}],
    }
    events = [event async for event in await alpha.responses.create(**asked, stream=True)]
    assert [event.type.removeprefix("response.") for event in events] == [
        "created", "in_progress",
        "output_item.added", "code_interpreter_call.in_progress", "code_interpreter_call.interpreting",
        "code_interpreter_call.completed", "output_item.done",
        "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
        "output_text.annotation.added", "output_text.done", "content_part.done", "output_item.done",
        "completed",
    ]  # fmt: skip
    assert [event.sequence_number for event in events] == list(range(len(events)))
    final = events[-1].response
    assert final.output_text == "1 2"
    assert events[0].response.status == "in_progress"
    cited = final.output[1].content[0].annotations[0]
    assert await alpha.containers.files.content.retrieve(cited.file_id, container_id=cited.container_id)
    again = [event async for event in await alpha.responses.retrieve(final.id, stream=True, starting_after=5)]
    assert [event.type for event in again] == [event.type for event in events[6:]]


async def test_reasoning_is_sealed_for_its_project(
    demo: DemoUpstream, alpha: openai.AsyncOpenAI, beta: openai.AsyncOpenAI
) -> None:
    asked: Any = {"model": "gpt-5", "input": "x", "store": False, "include": ["reasoning.encrypted_content"]}
    first = await alpha.responses.create(**asked)
    history: Any = [first.output[0].model_dump(exclude_none=True), {"role": "user", "content": "and?"}]
    async with sdk(demo, ALPHA_TOO) as too:
        assert (await too.responses.create(model="gpt-5", input=history)).output_text
    forged: Any = [{**history[0], "encrypted_content": "gAAAAABnonsense"}]
    for wrong in (history, forged):
        with pytest.raises(openai.BadRequestError) as caught:
            await beta.responses.create(model="gpt-5", input=wrong)
        assert caught.value.code == "invalid_encrypted_content"


async def test_items_are_referred_to_only_if_stored(alpha: openai.AsyncOpenAI, beta: openai.AsyncOpenAI) -> None:
    stored = await alpha.responses.create(model="gpt-4o", input="x")
    loose = await alpha.responses.create(model="gpt-4o", input="x", store=False)

    def reference(response: Any) -> Any:
        return [{"type": "item_reference", "id": response.output[0].id}, {"role": "user", "content": "y"}]

    assert await alpha.responses.create(model="gpt-4o", input=reference(stored))
    for client, response in ((beta, stored), (alpha, loose)):
        with pytest.raises(openai.NotFoundError, match="Item with id"):
            await client.responses.create(model="gpt-4o", input=reference(response))
    with pytest.raises(openai.NotFoundError):
        await alpha.responses.retrieve(loose.id)
    assert [item.type for item in (await alpha.responses.input_items.list(stored.id)).data] == ["message"]


async def test_a_conversation_collects_what_was_said(alpha: openai.AsyncOpenAI) -> None:
    conversation = await alpha.conversations.create(items=[{"type": "message", "role": "user", "content": "a"}])
    await alpha.responses.create(model="gpt-4o", input="b", conversation=conversation.id)
    items = [item async for item in await alpha.conversations.items.list(conversation.id, order="asc")]
    assert [item.type for item in items] == ["message"] * 3
    first = items[0].id or ""
    assert await alpha.conversations.items.retrieve(first, conversation_id=conversation.id)
    await alpha.conversations.items.delete(first, conversation_id=conversation.id)
    with pytest.raises(openai.NotFoundError):
        await alpha.conversations.items.retrieve(first, conversation_id=conversation.id)


async def test_a_background_response_ends_at_its_first_poll_or_is_cancelled(alpha: openai.AsyncOpenAI) -> None:
    made = [await alpha.responses.create(model="gpt-4o", input="x", background=True) for _ in range(2)]
    assert {response.status for response in made} == {"queued"}
    assert (await alpha.responses.cancel(made[0].id)).status == "cancelled"
    assert (await alpha.responses.retrieve(made[1].id)).output_text
    with pytest.raises(openai.BadRequestError, match="synchronous"):
        await alpha.responses.cancel((await alpha.responses.create(model="gpt-4o", input="x")).id)


async def test_tokens_are_counted_and_conversations_compacted(
    alpha: openai.AsyncOpenAI, beta: openai.AsyncOpenAI
) -> None:
    assert (await alpha.responses.input_tokens.count(model="gpt-4o", input="some words")).input_tokens > 1
    compacted = await alpha.responses.compact(model="gpt-4o", input="some words")
    assert [item.type for item in compacted.output] == ["message", "compaction"]
    history: Any = [compacted.output[1].model_dump(exclude_none=True)]
    assert await alpha.responses.create(model="gpt-4o", input=[*history, {"role": "user", "content": "x"}])
    with pytest.raises(openai.BadRequestError):
        await beta.responses.create(model="gpt-4o", input=history)


# Files, uploads, batches, vector stores.


async def test_an_upload_of_parts_becomes_a_file(alpha: openai.AsyncOpenAI) -> None:
    upload = await alpha.uploads.create(bytes=6, filename="x.txt", mime_type="text/plain", purpose="assistants")
    parts = [(await alpha.uploads.parts.create(upload.id, data=data)).id for data in (b"def", b"abc")]
    with pytest.raises(openai.BadRequestError, match="Expected 6 bytes"):
        await alpha.uploads.complete(upload.id, part_ids=parts[:1])
    file = (await alpha.uploads.complete(upload.id, part_ids=parts[::-1])).file
    assert file is not None
    assert (await alpha.files.content(file.id)).content == b"abcdef"
    with pytest.raises(openai.BadRequestError, match="status completed"):
        await alpha.uploads.cancel(upload.id)


async def test_a_batch_answers_its_lines(alpha: openai.AsyncOpenAI) -> None:
    line = json.dumps(
        {
            "custom_id": "one",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "gpt-4o", "messages": HELLO},
        }
    )
    refused = line.replace("gpt-4o", "gpt-nobody")
    file = await a_file(alpha, "batch", f"{line}\nno json\n{refused}\n".encode())
    batch = await alpha.batches.create(
        input_file_id=file["id"], endpoint="/v1/chat/completions", completion_window="24h"
    )
    assert (batch.status, batch.output_file_id) == ("validating", None)
    batch = await alpha.batches.retrieve(batch.id)
    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 2)
    answer = json.loads((await alpha.files.content(batch.output_file_id or "")).content)
    assert answer["custom_id"] == "one"
    assert answer["response"]["status_code"] == 200
    wrong = (await alpha.files.content(batch.error_file_id or "")).text
    assert "not parseable" in wrong
    assert "model_not_found" in wrong
    with pytest.raises(openai.ConflictError):
        await alpha.batches.cancel(batch.id)
    other = await alpha.batches.create(
        input_file_id=file["id"], endpoint="/v1/chat/completions", completion_window="24h"
    )
    assert (await alpha.batches.cancel(other.id)).status == "cancelling"
    assert (await alpha.batches.retrieve(other.id)).status == "cancelled"
    other_file = await a_file(alpha, "assistants")
    with pytest.raises(openai.BadRequestError, match="purpose"):
        await alpha.batches.create(input_file_id=other_file["id"], endpoint="/v1/responses", completion_window="24h")


async def test_a_vector_store_finds_shared_words(alpha: openai.AsyncOpenAI) -> None:
    cats, dogs = [await a_file(alpha, content=text) for text in (b"cats sleep a lot", b"dogs bark")]
    store = await alpha.vector_stores.create(file_ids=[cats["id"]])
    batch = await alpha.vector_stores.file_batches.create_and_poll(store.id, file_ids=[dogs["id"]])
    assert (batch.status, batch.file_counts.completed) == ("completed", 1)
    found = (await alpha.vector_stores.search(store.id, query="why do cats sleep")).data
    assert [hit.file_id for hit in found] == [cats["id"]]
    assert {file.id async for file in await alpha.vector_stores.files.list(store.id)} == {cats["id"], dogs["id"]}
    await alpha.vector_stores.files.delete(cats["id"], vector_store_id=store.id)
    assert (await alpha.vector_stores.retrieve(store.id)).file_counts.total == 1
    assert (await alpha.files.retrieve(cats["id"])).id == cats["id"]


# Assistants.


async def test_a_run_waits_for_its_tools(alpha: openai.AsyncOpenAI) -> None:
    tools: Any = [{"type": "function", "function": {"name": "get_weather"}}]
    assistant = await alpha.beta.assistants.create(model="gpt-4o", tools=tools)
    thread: Any = {"messages": [{"role": "user", "content": "get_weather for me"}]}
    run = await alpha.beta.threads.create_and_run_poll(assistant_id=assistant.id, thread=thread)
    assert run.status == "requires_action"
    assert run.required_action is not None
    with pytest.raises(openai.BadRequestError, match="active run"):
        await alpha.beta.threads.runs.create(run.thread_id, assistant_id=assistant.id)
    asked = run.required_action.submit_tool_outputs.tool_calls[0]
    where: Any = {"run_id": run.id, "thread_id": run.thread_id}
    with pytest.raises(openai.BadRequestError, match="Expected tool outputs"):
        await alpha.beta.threads.runs.submit_tool_outputs(**where, tool_outputs=[{"tool_call_id": "call_other"}])
    outputs: Any = [{"tool_call_id": asked.id, "output": "rain"}]
    run = await alpha.beta.threads.runs.submit_tool_outputs_and_poll(**where, tool_outputs=outputs)
    assert run.status == "completed"
    steps = (await alpha.beta.threads.runs.steps.list(run_id=run.id, thread_id=run.thread_id)).data
    assert [step.type for step in steps] == ["message_creation", "tool_calls"]


async def test_a_run_streams_its_events(alpha: openai.AsyncOpenAI) -> None:
    assistant = await alpha.beta.assistants.create(model="gpt-4o")
    thread = await alpha.beta.threads.create(messages=[{"role": "user", "content": "count to 2"}])
    async with alpha.beta.threads.runs.stream(thread_id=thread.id, assistant_id=assistant.id) as stream:
        events = [event.event.removeprefix("thread.") async for event in stream]
        said = (await stream.get_final_messages())[0].content
    assert events == [
        "run.created", "run.queued", "run.in_progress", "run.step.created", "run.step.in_progress",
        "message.created", "message.in_progress", "message.delta", "message.delta", "message.completed",
        "run.step.completed", "run.completed",
    ]  # fmt: skip
    assert "1 2" in str(said)


async def test_a_run_ends_by_its_pace_without_a_poll() -> None:
    now = 100.0
    demo = DemoUpstream({ALPHA: "alpha"}, pace=0.01, clock=lambda: now)
    await demo.start()
    async with sdk(demo, ALPHA) as alpha:
        assistant = await alpha.beta.assistants.create(model="gpt-4o")
        run = await alpha.beta.threads.create_and_run(assistant_id=assistant.id)
        assert (await alpha.beta.threads.runs.list(run.thread_id)).data[0].status == "queued"
        now += 1
        assert (await alpha.beta.threads.runs.list(run.thread_id)).data[0].status == "completed"
        run = await alpha.beta.threads.runs.create(run.thread_id, assistant_id=assistant.id)
        assert (await alpha.beta.threads.runs.cancel(run.id, thread_id=run.thread_id)).status == "cancelling"
    await demo.close()


# Media and the rest.


async def test_pictures_and_speech_are_real_files(alpha: openai.AsyncOpenAI) -> None:
    picture = await alpha.images.generate(model="gpt-image-1", prompt="a cat")
    assert picture.data is not None
    assert picture.usage is not None
    content = base64.b64decode(picture.data[0].b64_json or "")
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    edited = await alpha.images.edit(model="dall-e-2", prompt="x", image=("a.png", content), n=2)
    assert edited.data is not None
    assert len(edited.data) == 2
    streamed = [
        event.type
        async for event in await alpha.images.generate(model="gpt-image-1", prompt="x", stream=True, partial_images=1)
    ]
    assert streamed == ["image_generation.partial_image", "image_generation.completed"]

    speech = (await alpha.audio.speech.create(model="tts-1", voice="alloy", input="some words")).content
    with wave.open(io.BytesIO(speech)) as sound:
        assert sound.getframerate() == 24_000
    asked: Any = {"model": "whisper-1", "file": ("a.wav", speech)}
    assert str(len(speech)) in (await alpha.audio.transcriptions.create(**asked)).text
    assert str(len(speech)) in (await alpha.audio.translations.create(**asked)).text
    assert (await alpha.audio.transcriptions.create(**asked, response_format="vtt")).startswith("WEBVTT")
    events = [event async for event in await alpha.audio.transcriptions.create(**asked, stream=True)]
    assert "".join(event.delta for event in events[:-1]) == events[-1].text


async def test_embeddings_are_the_same_in_both_forms(alpha: openai.AsyncOpenAI) -> None:
    asked: Any = {"model": "text-embedding-3-small", "input": ["a", "b"], "dimensions": 8}
    packed = await alpha.embeddings.create(**asked)
    plain = await alpha.embeddings.create(**asked, encoding_format="float")
    assert [entry.embedding for entry in packed.data] == [entry.embedding for entry in plain.data]
    assert packed.data[0].embedding != packed.data[1].embedding
    assert sum(number**2 for number in plain.data[0].embedding) == pytest.approx(1)


async def test_secrets_and_calls_of_realtime(demo: DemoUpstream, alpha: openai.AsyncOpenAI) -> None:
    secret = (await alpha.realtime.client_secrets.create(session={"type": "realtime"})).value
    assert secret.startswith("ek_")
    async with sdk(demo, secret) as browser:
        answer = await browser.realtime.calls.create(sdp="v=0")
        where = answer.response.headers["location"]
        with pytest.raises(openai.AuthenticationError):
            await browser.models.list()
    assert answer.response.status_code == 201
    assert where.startswith("/v1/realtime/calls/rtc_")
    await alpha.realtime.calls.hangup(where.rpartition("/")[2])
    with pytest.raises(openai.NotFoundError):
        await alpha.realtime.calls.hangup(where.rpartition("/")[2])


async def test_videos_evals_skills_and_chatkit(alpha: openai.AsyncOpenAI) -> None:
    video = await alpha.videos.create_and_poll(prompt="a cat")
    assert video.status == "completed"
    assert (await alpha.videos.remix(video.id, prompt="y")).remixed_from_video_id
    assert b"ftyp" in (await alpha.videos.download_content(video.id)).content[:12]

    file, check = await a_file(alpha, "evals"), await call(alpha, "POST", "/evals", EVAL)
    source: Any = {"type": "jsonl", "source": {"type": "file_id", "id": file["id"]}}
    run = await alpha.evals.runs.create(check["id"], data_source=source)
    assert (await alpha.evals.runs.retrieve(run.id, eval_id=check["id"])).result_counts.passed == 1
    assert (await alpha.evals.runs.output_items.list(run.id, eval_id=check["id"])).data[0].status == "pass"

    skill = await a_skill(alpha)
    await alpha.skills.versions.create(skill["id"], files=[("mine/SKILL.md", b"two")])
    assert (await alpha.skills.update(skill["id"], default_version="2")).latest_version == "2"
    assert (await (await alpha.skills.content.retrieve(skill["id"])).aread()) == b"two"
    with pytest.raises(openai.NotFoundError):
        await alpha.skills.update(skill["id"], default_version="3")

    session = await alpha.beta.chatkit.sessions.create(user="u", workflow={"id": "wf_1"})
    assert session.client_secret.startswith("ek_")
    thread = (await alpha.beta.chatkit.threads.list()).data[0]
    assert (await alpha.beta.chatkit.threads.list_items(thread.id)).data[0].type == "chatkit.user_message"


# Keys and quotas.


async def test_switches_of_a_key(demo: DemoUpstream, alpha: openai.AsyncOpenAI, beta: openai.AsyncOpenAI) -> None:
    asked: Any = {"model": "gpt-4o", "messages": HELLO}
    demo.key(ALPHA).limited = 1.5
    with pytest.raises(openai.RateLimitError) as limited:
        await alpha.chat.completions.create(**asked)
    assert limited.value.code == "rate_limit_exceeded"
    assert limited.value.response.headers["retry-after"] == "2"
    assert limited.value.response.headers["retry-after-ms"] == "1500"
    demo.key(ALPHA).broke = True
    with pytest.raises(openai.RateLimitError) as broke:
        await alpha.chat.completions.create(**asked)
    assert broke.value.code == "insufficient_quota"
    demo.key(ALPHA).dead = True
    with pytest.raises(openai.AuthenticationError) as dead:
        await alpha.chat.completions.create(**asked)
    assert dead.value.code == "invalid_api_key"
    assert ALPHA not in dead.value.message
    assert (await beta.chat.completions.create(**asked)).choices


async def test_a_quota_is_counted_honestly_and_refills() -> None:
    now = 0.0
    demo = DemoUpstream({ALPHA: "alpha", ALPHA_TOO: "alpha"}, pace=0, clock=lambda: now)
    await demo.start()
    demo.key(ALPHA).quota = demo.key(ALPHA_TOO).quota = Quota(requests=2, tokens=6000)
    asked: Any = {"model": "gpt-4o", "messages": HELLO}
    async with sdk(demo, ALPHA) as one, sdk(demo, ALPHA_TOO) as two:
        left = []
        for client in (one, two):
            heads = (await client.chat.completions.with_raw_response.create(**asked)).headers
            left.append([heads[f"x-ratelimit-{name}-requests"] for name in ("limit", "remaining", "reset")])
        assert left == [["2", "1", "30s"], ["2", "0", "1m0s"]]
        with pytest.raises(openai.RateLimitError) as caught:
            await one.chat.completions.create(**asked)
        assert caught.value.response.headers["retry-after"] == "30"
        assert caught.value.response.headers["x-ratelimit-remaining-requests"] == "0"
        assert (await one.chat.completions.create(**{**asked, "model": "gpt-4o-mini"})).choices
        now += 30
        assert (await one.chat.completions.create(**asked)).choices
    await demo.close()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, b"0ms"), (0.1201, b"121ms"), (6.5, b"6.5s"), (90, b"1m30s"), (360, b"6m0s")]
)
def test_durations_are_written_as_go_does(seconds: float, text: bytes) -> None:
    assert duration(seconds) == text


# Scripts and faults.


async def test_scripts_answer_in_order_and_for_whom_they_are_meant(
    demo: DemoUpstream, alpha: openai.AsyncOpenAI, beta: openai.AsyncOpenAI
) -> None:
    demo.script(503, [(b"Retry-After", b"7")], {"error": {"message": "busy"}}, key=ALPHA, path="/mod*")
    used = demo.script(418, body=b"", times=None, key=BETA, method="DELETE")
    with pytest.raises(openai.InternalServerError, match="busy") as caught:
        await alpha.models.list()
    assert caught.value.response.headers["retry-after"] == "7"
    assert (await alpha.models.list()).data
    assert (await beta.models.list()).data
    for _ in range(2):
        with pytest.raises(openai.APIStatusError):
            await beta.files.delete("file-x")
    assert used.used == 2


COUNT = b'{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"count to 1000"}]}'
STREAM = request(
    "POST", "/chat/completions", "Content-Type: application/json", f"Content-Length: {len(COUNT)}", body=COUNT
)


@pytest.mark.parametrize("fault", ["reset", "cut"])
@pytest.mark.parametrize(
    ("place", "count", "least", "most"),
    [
        ("unread", 0, 0, 0),
        ("before", 0, 0, 0),
        ("within", 0, 50, 1000),
        ("after", 0, 100, 2000),
        ("after", 5000, 5000, 9000),
    ],
)
async def test_faults_break_where_they_should(
    demo: DemoUpstream, fault: Any, place: Any, count: int, least: int, most: int
) -> None:
    demo.script(fault=fault, place=place, count=count)
    reader, writer = await dial(demo)
    writer.write(STREAM)
    heard = b""
    ended_by = "cut"
    try:
        while piece := await reader.read(1 << 16):
            heard += piece
    except ConnectionResetError:
        ended_by = "reset"
    writer.close()
    assert ended_by == fault
    assert least <= len(heard) <= most
    assert (b"\r\n\r\n" in heard) == (place == "after")
    assert not heard.endswith(b"0\r\n\r\n")
    await demo.requests[-1].over.wait()
    assert demo.requests[-1].outcome == "cut"


@pytest.mark.parametrize("place", ["unread", "before", "within", "after"])
async def test_a_stall_ends_when_the_client_leaves(demo: DemoUpstream, place: Any) -> None:
    demo.script(fault="stall", place=place, count=10)
    _, writer = await dial(demo)
    coming = asyncio.create_task(demo.next_heard())
    await asyncio.sleep(0)
    writer.write(STREAM)
    heard = await coming
    assert not heard.over.is_set()
    writer.close()
    await heard.over.wait()
    assert heard.outcome == "left"
    assert heard.ended >= heard.at


async def test_raw_bytes_go_out_as_they_are(demo: DemoUpstream) -> None:
    said = b"HTTP/1.1 103 Early Hints\r\nlink: <x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"
    demo.script(raw=said)
    assert await raw(demo, STREAM) == said


async def test_a_script_that_does_not_fit_breaks_off(demo: DemoUpstream) -> None:
    demo.script(200, [(b"Content-Length", b"9")], b"short")
    assert (await raw(demo, STREAM)).endswith(b"\r\n\r\nshort")


# HTTP.


async def test_pipelined_requests_are_answered_in_order(demo: DemoUpstream) -> None:
    said = (
        request("GET", "/models/gpt-4") + request("GET", "/models/gpt-4o") + request("GET", "/x", "Connection: close")
    )
    answer = await raw(demo, said)
    assert answer.count(b"HTTP/1.1 200 ") == 2
    assert answer.count(b"HTTP/1.1 404 ") == 1
    assert answer.index(b'"gpt-4"') < answer.index(b'"gpt-4o"')
    assert len({heard.connection for heard in demo.requests}) == 1


async def test_content_may_come_in_chunks_after_a_100(demo: DemoUpstream) -> None:
    body = b'{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}]}'
    reader, writer = await dial(demo)
    lines = (
        "Content-Type: application/json",
        "Transfer-Encoding: chunked",
        "Expect: 100-continue",
        "Connection: close",
    )
    writer.write(request("POST", "/chat/completions", *lines))
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 \r\n\r\n"
    for at in range(0, len(body), 7):
        writer.write(b"%x\r\n%b\r\n" % (len(body[at : at + 7]), body[at : at + 7]))
    writer.write(b"0\r\n\r\n")
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert demo.requests[-1].body == body


async def test_too_much_is_refused_before_it_is_sent(demo: DemoUpstream) -> None:
    answer = await raw(demo, request("POST", "/files", "Expect: 100-continue", f"Content-Length: {2 << 30}"))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer
    assert demo.requests[-1].outcome == "done"


async def test_a_wrong_key_is_told_while_the_upload_runs(demo: DemoUpstream) -> None:
    head = request("POST", "/files", f"Content-Length: {1 << 30}", key="sk-wrong-key-000000")
    answer = await raw(demo, head + b"x" * 100_000)
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"Incorrect API key" in answer


async def test_head_has_the_length_and_no_content(demo: DemoUpstream) -> None:
    answer = await raw(demo, request("HEAD", "/files/file-synthetic-3MiB/content", "Connection: close"))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"Content-Length: %d\r\n" % (3 << 20) in answer
    assert answer.endswith(b"\r\n\r\n")


async def test_an_old_client_gets_a_body_that_ends_with_the_connection(demo: DemoUpstream) -> None:
    answer = await raw(demo, STREAM.replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"1000", b"0002"))
    assert b"chunked" not in answer
    assert answer.endswith(b"data: [DONE]\n\n")


async def test_answers_say_whose_and_which_they_are(demo: DemoUpstream, alpha: openai.AsyncOpenAI) -> None:
    heads = [(await alpha.models.with_raw_response.list()).headers for _ in range(2)]
    assert heads[0]["x-request-id"].startswith("req_")
    assert heads[0]["x-request-id"] != heads[1]["x-request-id"]
    assert heads[0]["openai-organization"].startswith("org-")
    assert "openai-processing-ms" in heads[0]
    assert len(heads[0].get_list("set-cookie")) == 2
    assert heads[0]["date"].endswith("GMT")


async def test_unreadable_content_is_a_400(demo: DemoUpstream) -> None:
    for kind, body, text in (
        ("application/json", b'{"model":', b"could not parse the JSON"),
        ("application/json", b"[]", b"expected an object"),
        ("application/json", b'{"model": 5, "messages": [{}]}', b"invalid_type"),
        ("multipart/form-data; boundary=b", b"--b\r\nX: y\r\n\r\n--b--", b"multipart form"),
        ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: x; name="a"\r\n\r\nx', b"multipart form"),
    ):  # fmt: skip
        lines = (f"Content-Type: {kind}", f"Content-Length: {len(body)}", "Connection: close")
        answer = await raw(demo, request("POST", "/chat/completions", *lines, body=body))
        assert answer.startswith(b"HTTP/1.1 400 "), body
        assert text in answer


async def test_gzip_only_if_wanted_and_accepted() -> None:
    demo = DemoUpstream({ALPHA: "alpha"}, pace=0, gzip=True)
    await demo.start()
    plain = await raw(demo, request("GET", "/models/gpt-4", "Connection: close"))
    coded = await raw(demo, request("GET", "/models/gpt-4", "Connection: close", "Accept-Encoding: gzip"))
    assert b'"gpt-4"' in plain
    assert b"Content-Encoding: gzip\r\n" in coded
    assert gzip.decompress(coded.partition(b"\r\n\r\n")[2]) == plain.partition(b"\r\n\r\n")[2]
    async with sdk(demo, ALPHA) as alpha:
        asked: Any = {"model": "gpt-4o", "messages": HELLO, "stream": True}
        assert [chunk async for chunk in await alpha.chat.completions.create(**asked)]
    await demo.close()


async def test_large_content_both_ways_stays_out_of_memory(demo: DemoUpstream) -> None:
    size = 80 << 20
    head = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nassistants\r\n'
    head += b'--b\r\nContent-Disposition: form-data; name="file"; filename="big"\r\n\r\n'
    tail = b"\r\n--b--\r\n"
    piece = random.Random(2).randbytes(1 << 20)
    expected = hashlib.sha256(head + piece * (size >> 20) + tail).hexdigest()
    tracemalloc.start()
    reader, writer = await dial(demo)
    lines = ("Content-Type: multipart/form-data; boundary=b", f"Content-Length: {len(head) + size + len(tail)}")
    writer.write(request("POST", "/files", *lines, body=head))
    for _ in range(size >> 20):
        writer.write(piece)
        await writer.drain()
    writer.write(tail)
    assert b"200 " in await reader.readline()
    heard = demo.requests[-1]
    assert (heard.length, heard.sha256, heard.body) == (len(head) + size + len(tail), expected, None)
    writer.close()

    answer = request("GET", "/files/file-synthetic-64MiB/content", "Connection: close")
    reader, writer = await dial(demo)
    writer.write(answer)
    received = 0
    while data := await reader.read(1 << 18):
        received += len(data)
    writer.close()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert received > 64 << 20
    assert peak < 12 << 20


async def test_a_large_file_is_spooled_and_comes_back_whole(alpha: openai.AsyncOpenAI) -> None:
    content = random.Random(3).randbytes(5 << 20)
    parts = [alpha.files.create(file=("x", content), purpose="assistants") for _ in range(2)]
    for file in await asyncio.gather(*parts):
        assert (await alpha.files.content(file.id)).content == content


async def test_unix_sockets_and_tls(tmp_path: Path) -> None:
    demo = DemoUpstream({ALPHA: "alpha"}, pace=0)
    assert await demo.start(unix=tmp_path / "s") == 0
    assert demo.base_url == f"http://unix:{tmp_path / 's'}:/v1"
    reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
    writer.write(request("GET", "/models", "Connection: close"))
    assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    writer.close()
    await demo.close()
    assert not (tmp_path / "s").exists()

    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    port = await demo.start(ssl=server)
    assert demo.base_url == f"https://127.0.0.1:{port}/v1"
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname="localhost")
    writer.write(request("POST", "/files", f"Content-Length: {1 << 30}", key="sk-wrong-key-000000"))
    assert (await reader.read()).startswith(b"HTTP/1.1 401 ")
    writer.close()
    await demo.close()


async def test_closing_cuts_what_is_under_way(demo: DemoUpstream) -> None:
    demo.pace = 60
    reader, writer = await dial(demo)
    writer.write(STREAM)
    await reader.readuntil(b"data: ")
    await demo.close()
    with contextlib.suppress(ConnectionResetError):
        await reader.read()
    writer.close()
    assert demo.connections == 0
    assert demo.requests[-1].outcome == "left"


# The form parser, in pieces of every size.

FORM = (
    b'preamble\r\n--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
    b'--b\r\ncontent-disposition: form-data; name="a[]"\r\n\r\n1\r\n--b\r\n'
    b'Content-Disposition: form-data; name="a[]"\r\n\r\n2\r\n--b\r\n'
    b'Content-Disposition: form-data; name="m[k]"\r\n\r\n--bx\r\n-\r\n--b\r\n'
    b'Content-Disposition: form-data; name="file"; filename="f.bin"\r\nContent-Type: x/y\r\n\r\n'
    b"\0\r\n--c\r\n\r\n--b--\r\nend"
)  # fmt: skip


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_forms_are_cut_wherever_they_break(size: int) -> None:
    form = Form.of(b'Multipart/Form-Data; charset=x; boundary="b"')
    assert form is not None
    for at in range(0, len(FORM), size):
        form.feed(FORM[at : at + size])
    assert form.complete
    assert form.values() == {"model": "whisper-1", "a": ["1", "2"], "m": {"k": "--bx\r\n-"}}
    part = form.file("file")
    assert part is not None
    assert (part.filename, part.content_type) == ("f.bin", "x/y")
    assert part.content.read() == b"\0\r\n--c\r\n"


# The operations that no test above has used: said, and what must be in the answer.


async def walk(client: openai.AsyncOpenAI, steps: list[tuple[str, str, Any, dict[str, Any]]]) -> None:
    """Take steps; ``{0}`` in a path is the id (or the first listed thing's) that step 0 gave."""
    ids: list[str] = []
    for method, path, body, expected in steps:
        answer = await call(client, method, path.format(*ids), body)
        for name, value in expected.items():
            assert answer[name] == value, (method, path, answer)
        first = (answer.get("data") or [{}])[0] if "data" in answer else answer
        ids.append(first.get("id", ""))


async def test_fine_tuning_step_by_step(alpha: openai.AsyncOpenAI, beta: openai.AsyncOpenAI) -> None:
    job = (await a_job(alpha))["id"]
    one = f"{JOBS}/{job}"
    await walk(
        alpha,
        [
            ("POST", f"{one}/pause", {}, {"status": "paused"}),
            ("GET", one, None, {"status": "paused"}),
            ("POST", f"{one}/resume", {}, {"status": "running"}),
            ("GET", one, None, {"status": "succeeded"}),
            ("GET", f"{one}/events", None, {"has_more": False}),
            ("GET", f"{one}/checkpoints", None, {"has_more": False}),
        ],
    )
    for action in ("pause", "resume", "cancel"):
        with pytest.raises(openai.BadRequestError):
            await call(alpha, "POST", f"{one}/{action}")
    other = (await a_job(alpha))["id"]
    assert (await call(alpha, "POST", f"{JOBS}/{other}/cancel"))["status"] == "cancelled"
    point = (await call(alpha, "GET", f"{one}/checkpoints"))["data"][0]["fine_tuned_model_checkpoint"]
    rights = f"/fine_tuning/checkpoints/{point}/permissions"
    made = await call(alpha, "POST", rights, {"project_ids": ["proj_other"]})
    assert (await call(alpha, "GET", rights))["first_id"] == made["first_id"]
    assert (await call(alpha, "DELETE", f"{rights}/{made['first_id']}"))["deleted"]
    with pytest.raises(openai.NotFoundError):
        await call(beta, "POST", rights, {"project_ids": ["proj_other"]})
    grader = {"grader": {"type": "string_check"}, "model_sample": "x"}
    assert (await call(alpha, "POST", "/fine_tuning/alpha/graders/run", grader))["reward"] == 1.0
    assert (await call(alpha, "POST", "/fine_tuning/alpha/graders/validate", grader))["grader"] == grader["grader"]


async def test_evals_step_by_step(alpha: openai.AsyncOpenAI) -> None:
    run = {"data_source": {"type": "responses", "model": "gpt-4o"}}
    await walk(
        alpha,
        [
            ("POST", "/evals", {**EVAL, "name": "e"}, {"object": "eval", "name": "e"}),
            ("POST", "/evals/{0}", {"name": "f"}, {"name": "f"}),
            ("POST", "/evals/{0}/runs", run, {"status": "queued"}),
            ("POST", "/evals/{0}/runs/{2}/cancel", {}, {"status": "canceled"}),
            ("POST", "/evals/{0}/runs", run, {"status": "queued"}),
            ("GET", "/evals/{0}/runs/{4}", None, {"status": "completed"}),
            ("GET", "/evals/{0}/runs/{4}/output_items", None, {"has_more": False}),
            ("GET", "/evals/{0}/runs/{4}/output_items/{6}", None, {"status": "pass"}),
            ("DELETE", "/evals/{0}/runs/{4}", None, {"object": "eval.run.deleted"}),
            ("DELETE", "/evals/{0}", None, {"object": "eval.deleted"}),
        ],
    )


async def test_containers_and_stores_step_by_step(alpha: openai.AsyncOpenAI) -> None:
    file = (await a_file(alpha))["id"]
    await walk(
        alpha,
        [
            ("POST", "/containers", {"name": "c"}, {"status": "running"}),
            ("POST", "/containers/{0}/files", {"file_id": file}, {"path": "/mnt/data/f.txt", "source": "user"}),
            ("GET", "/containers/{0}/files/{1}", None, {"bytes": 10}),
            ("DELETE", "/containers/{0}/files/{1}", None, {"object": "container.file.deleted"}),
            ("GET", "/containers/{0}/files", None, {"data": []}),
            ("POST", "/vector_stores", {"name": "a"}, {"name": "a"}),
            ("POST", "/vector_stores/{5}", {"name": "b"}, {"name": "b"}),
            ("POST", "/vector_stores/{5}/files", {"file_id": file}, {"status": "in_progress"}),
            ("GET", "/vector_stores/{5}/files/{7}", None, {"status": "completed"}),
            ("POST", "/vector_stores/{5}/files/{7}", {"attributes": {"a": 1}}, {"attributes": {"a": 1}}),
            ("GET", "/vector_stores/{5}/files/{7}/content", None, {"data": [{"type": "text", "text": "some words"}]}),
            ("POST", "/vector_stores/{5}/file_batches", {"file_ids": [file]}, {"status": "in_progress"}),
            ("POST", "/vector_stores/{5}/file_batches/{11}/cancel", {}, {"status": "cancelled"}),
            ("GET", "/vector_stores/{5}/file_batches/{11}/files", None, {"first_id": file}),
        ],
    )
    with pytest.raises(openai.BadRequestError):
        await alpha.vector_stores.file_batches.create((await alpha.vector_stores.list()).data[0].id)
    container = await alpha.containers.create(name="c")
    copied = await alpha.containers.files.create(container.id, file=("q.txt", b"123"))
    content = await alpha.containers.files.content.retrieve(copied.id, container_id=container.id)
    assert content.read() == b"123"


async def test_skills_and_realtime_step_by_step(alpha: openai.AsyncOpenAI) -> None:
    skill = (await a_skill(alpha))["id"]
    await alpha.skills.versions.create(skill, files=[("mine/SKILL.md", b"two")])
    one = f"/skills/{skill}/versions"
    await walk(
        alpha,
        [
            ("GET", f"{one}/2", None, {"version": "2", "skill_id": skill}),
            ("DELETE", f"{one}/2", None, {"object": "skill.version.deleted", "version": "2"}),
            ("POST", "/chatkit/sessions", {"user": "u", "workflow": {"id": "wf_1"}}, {"status": "active"}),
            ("POST", "/chatkit/sessions/{2}/cancel", {}, {"status": "cancelled"}),
            ("GET", "/chatkit/threads", None, {"has_more": False}),
            ("DELETE", "/chatkit/threads/{4}", None, {"deleted": True}),
            ("POST", "/realtime/sessions", {"model": "gpt-realtime"}, {"model": "gpt-realtime"}),
            ("POST", "/realtime/transcription_sessions", {}, {"object": "realtime.session"}),
            ("POST", "/realtime/translations/client_secrets", {}, {}),
        ],
    )


async def test_the_older_answers(alpha: openai.AsyncOpenAI) -> None:
    asked: Any = {"model": "gpt-3.5-turbo-instruct", "prompt": "count to 3"}
    whole = (await alpha.completions.create(**asked)).choices[0].text
    pieces = [chunk async for chunk in await alpha.completions.create(**asked, stream=True)]
    assert "".join(chunk.choices[0].text for chunk in pieces) == whole == "1 2 3"
    assert pieces[-1].choices[0].finish_reason == "stop"
    results = (await alpha.moderations.create(input=["I will kill you", "good morning"])).results
    assert [result.flagged for result in results] == [True, False]
    assert (await alpha.models.retrieve("gpt-4o-2024-08-06")).id == "gpt-4o-2024-08-06"
    for name in ("gpt-nobody", "gpt-4o-eu"):
        with pytest.raises(openai.NotFoundError):
            await alpha.models.retrieve(name)


async def test_voices_need_a_consent_and_speak_in_events(alpha: openai.AsyncOpenAI, beta: openai.AsyncOpenAI) -> None:
    consent = (await a_consent(alpha))["id"]
    kind: Any = object

    async def voice(client: openai.AsyncOpenAI) -> Any:
        files = [("audio_sample", ("a.wav", b"RIFF"))]
        options: Any = {"headers": {"Content-Type": "multipart/form-data"}}
        body = {"name": "v", "consent": consent}
        return await client.post("/audio/voices", cast_to=kind, body=body, files=files, options=options)

    made = (await voice(alpha))["id"]
    with pytest.raises(openai.NotFoundError):
        await voice(beta)
    speech: Any = {"model": "gpt-4o-mini-tts", "input": "x", "voice": {"id": made}}
    assert (await alpha.audio.speech.create(**speech)).content
    with pytest.raises(openai.NotFoundError):
        await beta.audio.speech.create(**speech)
    events = (await alpha.audio.speech.create(**speech, stream_format="sse")).content
    assert events.startswith(b'data: {"type":"speech.audio.delta"')
    assert b"speech.audio.done" in events


async def test_spoken_and_stored_things_come_in_pieces_too(alpha: openai.AsyncOpenAI) -> None:
    asked: Any = {"model": "gpt-audio", "messages": HELLO, "modalities": ["text", "audio"], "stream": True}
    deltas = [chunk.choices[0].delta async for chunk in await alpha.chat.completions.create(**asked)]
    assert any("audio" in delta.model_dump() for delta in deltas)
    tool: Any = {"type": "function", "name": "look", "parameters": {}, "strict": False}
    async with alpha.responses.stream(model="gpt-4o", input="look there", tools=[tool]) as stream:
        final = await stream.get_final_response()
    assert final.output[0].type == "function_call"
    file = (await a_file(alpha))["id"]
    store = await alpha.vector_stores.create(file_ids=[file])
    searching: Any = {"type": "file_search", "vector_store_ids": [store.id]}
    include: Any = ["file_search_call.results"]
    found = await alpha.responses.create(model="gpt-4o", input="x", tools=[searching], include=include)
    assert file in str(found.output[0])
    with pytest.raises(openai.BadRequestError, match="store"):
        await alpha.responses.create(model="gpt-4o", input="x", background=True, store=False)
    with pytest.raises(openai.BadRequestError, match="Mutually exclusive"):
        await alpha.responses.create(model="gpt-4o", input="x", conversation="conv_1", previous_response_id="resp_1")
    with pytest.raises(openai.BadRequestError, match="array"):
        await call(alpha, "POST", "/responses", {"model": "gpt-4o", "input": 5})


async def test_videos_are_made_from_others(alpha: openai.AsyncOpenAI, beta: openai.AsyncOpenAI) -> None:
    first = await alpha.videos.create(prompt="x")
    named = {"prompt": "y", "video": {"id": first.id}}
    assert (await call(alpha, "POST", "/videos/edits", named))["remixed_from_video_id"] == first.id
    with pytest.raises(openai.NotFoundError):
        await call(beta, "POST", "/videos/extensions", named)
    picture = (await alpha.videos.download_content(first.id, variant="thumbnail")).content
    assert picture.startswith(b"\x89PNG")


async def test_missing_members_are_named(alpha: openai.AsyncOpenAI) -> None:
    for path, name in (
        ("/chat/completions", "model"), ("/embeddings", "model"), ("/files", "purpose"), ("/uploads", "filename"),
        ("/batches", "input_file_id"), (JOBS, "model"), ("/images/edits", "prompt"), ("/realtime/calls", "sdp"),
        ("/content_provenance_checks", "file"), ("/audio/transcriptions", "file"), ("/videos", "prompt"),
    ):  # fmt: skip
        with pytest.raises(openai.BadRequestError) as caught:
            await call(alpha, "POST", path, {"x": 1})
        assert (caught.value.param, caught.value.code) == (name, "missing_required_parameter")


async def test_runs_in_all_their_ways(alpha: openai.AsyncOpenAI) -> None:
    threads = alpha.beta.threads
    tools: Any = [{"type": "function", "function": {"name": "look"}}]
    assistant = await alpha.beta.assistants.create(model="gpt-4o", tools=tools)
    start: Any = {"messages": [{"role": "user", "content": "look there"}]}
    stream: Any = await threads.create_and_run(assistant_id=assistant.id, thread=start, stream=True)
    events = [event async for event in stream]
    assert [events[0].event, events[-1].event] == ["thread.created", "thread.run.requires_action"]
    run = events[-1].data
    asked = run.required_action.submit_tool_outputs.tool_calls[0].id
    outputs: Any = [{"tool_call_id": asked, "output": "x"}]
    where: Any = {"run_id": run.id, "thread_id": run.thread_id, "tool_outputs": outputs}
    events = [event async for event in await threads.runs.submit_tool_outputs(**where, stream=True)]
    assert events[-1].event == "thread.run.completed"
    with pytest.raises(openai.BadRequestError, match="do not accept tool outputs"):
        await threads.runs.submit_tool_outputs(**where)
    with pytest.raises(openai.BadRequestError, match="Cannot cancel"):
        await threads.runs.cancel(run.id, thread_id=run.thread_id)

    more: Any = [{"role": "user", "content": "count to 2"}]
    second = await threads.runs.create_and_poll(
        thread_id=run.thread_id, assistant_id=assistant.id, model="gpt-4.1", additional_messages=more
    )
    assert (second.status, second.model) == ("completed", "gpt-4.1")
    messages = (await threads.messages.list(run.thread_id, run_id=second.id)).data
    assert [message.run_id for message in messages] == [second.id]
    third = await threads.runs.create(run.thread_id, assistant_id=assistant.id)
    await threads.runs.cancel(third.id, thread_id=run.thread_id)
    assert (await threads.runs.retrieve(third.id, thread_id=run.thread_id)).status == "cancelled"


async def test_the_last_corners(demo: DemoUpstream, alpha: openai.AsyncOpenAI) -> None:
    conversation = await call(alpha, "POST", "/conversations", {})
    items = {
        "items": [{"role": "user", "content": "a"}, {"type": "function_call_output", "call_id": "c", "output": "x"}]
    }
    made = await call(alpha, "POST", f"/conversations/{conversation['id']}/items", items)
    assert [item["type"] for item in made["data"]] == ["message", "function_call_output"]
    assert (await alpha.files.retrieve("file-synthetic-2MiB")).bytes == 2 << 20
    heard: Any = {"model": "whisper-1", "file": ("a.wav", b"x"), "response_format": "verbose_json"}
    assert (await alpha.audio.transcriptions.create(**heard)).duration == 1
    dropped = await a_file(alpha)  # and then what an upload beyond the bound leaves
    demo.projects["alpha"].attached[dropped["id"]] = Blob(b"12345", memory=1, kept=2)
    with pytest.raises(openai.BadRequestError, match="kept only the hash"):
        await alpha.files.content(dropped["id"])
    for endpoint, text in (("/v1/nowhere", "Invalid value"), ("/v1/embeddings", "No such File")):
        body = {"input_file_id": "file-x", "endpoint": endpoint, "completion_window": "24h"}
        with pytest.raises(openai.APIStatusError, match=text):
            await call(alpha, "POST", "/batches", body)
    many = await a_file(alpha, "batch", b"{}\n" * 2001)
    body = {"input_file_id": many["id"], "endpoint": "/v1/embeddings", "completion_window": "24h"}
    batch = await call(alpha, "POST", "/batches", body)
    assert (await alpha.batches.retrieve(batch["id"])).status == "failed"


async def test_shelves_are_bounded(demo: DemoUpstream) -> None:
    project = demo.projects["beta"]
    first = project.new("thread")
    project.new("message", first["id"])
    for _ in range(MOST_THINGS):
        project.new("thread")
    assert len(project.shelf("thread")) == MOST_THINGS
    assert first["id"] not in project.shelf("thread")
    assert not project.known["message"]


async def test_other_connections_are_not_held_up_by_a_slow_key(demo: DemoUpstream, beta: openai.AsyncOpenAI) -> None:
    demo.key(ALPHA).slow = 60
    reader, writer = await dial(demo)
    writer.write(request("GET", "/models"))
    assert (await beta.models.list()).data
    assert demo.requests[0].outcome == "open"
    writer.close()
    await demo.requests[0].over.wait()
    assert await reader.read() == b""


async def test_silence_ends_a_kept_connection() -> None:
    demo = DemoUpstream({ALPHA: "alpha"}, pace=0, keep_alive=0.05)
    await demo.start()
    answer = await raw(demo, request("GET", "/models/gpt-4"))
    assert answer.startswith(b"HTTP/1.1 200 ")
    await demo.close()


async def test_too_much_in_chunks_is_refused_on_the_way() -> None:
    demo = DemoUpstream({ALPHA: "alpha"}, pace=0, request_most=1000)
    await demo.start()
    said = request("POST", "/files", "Transfer-Encoding: chunked") + b"400\r\n" + b"x" * 1024 + b"\r\n"
    assert (await raw(demo, said)).startswith(b"HTTP/1.1 413 ")
    await demo.close()


async def test_a_stalled_reader_holds_the_stream_and_not_the_memory(demo: DemoUpstream) -> None:
    port = int(demo.base_url.split(":")[2].split("/")[0])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 16)  # reads no more than this ahead
    writer.write(request("GET", "/files/file-synthetic-64MiB/content", "Connection: close"))
    await reader.readuntil(b"\r\n\r\n")
    tracemalloc.start()
    for _ in range(3000):  # far more turns than it takes to fill every buffer between the two
        await asyncio.sleep(0)
    assert not next(iter(demo._connections))._writable.is_set()
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()
    assert demo.requests[-1].outcome == "open"
    received = 0
    while data := await reader.read(1 << 18):
        received += len(data)
    writer.close()
    assert received == 64 << 20


async def test_closing_ends_the_wait_for_a_request() -> None:
    demo = DemoUpstream({ALPHA: "alpha"})
    await demo.start()
    waiting = asyncio.create_task(demo.next_heard())
    await asyncio.sleep(0)
    await demo.close()
    await demo.close()  # once more does nothing
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_paths_outside_the_mount_are_unknown(demo: DemoUpstream) -> None:
    for target in ("/models", "/v1beta/models", "/v1/threads/", "/v1"):
        said = request("GET", "/x", "Connection: close").replace(b"/v1/x", target.encode())
        answer = await raw(demo, said)
        assert answer.startswith(b"HTTP/1.1 404 "), target
        assert b"Invalid URL (GET " in answer


async def test_members_of_strange_shapes_are_a_400(alpha: openai.AsyncOpenAI) -> None:
    wrong: list[tuple[str, Any]] = [
        ("/chat/completions", {"model": "gpt-4o", "messages": "hello"}),
        ("/chat/completions", {"model": "gpt-4o", "messages": HELLO, "max_tokens": "x"}),
        ("/threads", {"messages": [5]}),
        ("/embeddings", {"model": "text-embedding-3-small", "input": "x", "dimensions": 0}),
        ("/uploads", {"filename": "x", "bytes": 1 << 40, "mime_type": "x/y", "purpose": "batch"}),
    ]
    for path, body in wrong:
        with pytest.raises(openai.BadRequestError):
            await call(alpha, "POST", path, body)


async def test_a_background_stream_begins_in_the_queue(alpha: openai.AsyncOpenAI) -> None:
    asked: Any = {"model": "gpt-4o", "input": "count to 9", "background": True, "max_output_tokens": 2}
    events = [event async for event in await alpha.responses.create(**asked, stream=True)]
    assert events[0].type == "response.queued"
    assert events[-1].response.output_text == "1 2 "


async def test_purposes_tools_and_provenance(demo: DemoUpstream, alpha: openai.AsyncOpenAI) -> None:
    for purpose in ("assistants", "batch"):
        await a_file(alpha, purpose)
    assert [file.purpose for file in (await alpha.files.list(purpose="batch")).data] == ["batch"]
    tools: Any = [{"type": "function", "function": {"name": "look"}}]
    asked: Any = {"model": "gpt-4o", "messages": HELLO, "tools": tools}
    choices: list[Any] = ["required", {"type": "function", "function": {"name": "look"}}]
    for choice in choices:
        answer = await alpha.chat.completions.create(**asked, tool_choice=choice)
        assert answer.choices[0].finish_reason == "tool_calls"
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nx\r\n--b--\r\n'
    lines = ("Content-Type: multipart/form-data; boundary=b", f"Content-Length: {len(body)}", "Connection: close")
    assert b'"results":[]' in await raw(demo, request("POST", "/content_provenance_checks", *lines, body=body))
    assert b"'sdp'" in await raw(demo, request("POST", "/realtime/calls", "Connection: close"))


async def test_pipelined_bytes_wait_in_the_kernel(demo: DemoUpstream) -> None:
    demo.key(ALPHA).slow = 60
    _, writer = await dial(demo)
    writer.write(request("GET", "/models") + b"x" * (32 << 20))
    for _ in range(3000):
        await asyncio.sleep(0)
    unread = next(iter(demo._connections))._unread
    assert 256 << 10 < unread < 1 << 20
    writer.transport.abort()


async def test_without_a_key_one_is_asked_for(demo: DemoUpstream) -> None:
    for line in (b"", b"Authorization: Basic eDp5\r\n"):
        answer = await raw(demo, b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + line + b"\r\n")
        assert answer.startswith(b"HTTP/1.1 401 ")
        assert b"didn't provide an API key" in answer
        assert b'"code": null' in answer


PART = b'--b\r\ncontent-disposition: x; name="a"\r\n\r\n\r\n'


@pytest.mark.parametrize(
    "broken",
    [b"--b\r\nContent-Disposition: form-data\r\n\r\n", b"--b\r\n" + b"x" * 20_000, PART * 1001],
    ids=["no name", "endless head", "too many parts"],
)
def test_forms_have_bounds(broken: bytes) -> None:
    form = Form.of(b"multipart/form-data; boundary=b")
    assert form is not None
    with pytest.raises(APIError, match="multipart form"):
        form.feed(broken)
