"""The real OpenAI SDK through the proxy, over a pool of two projects: every part of the API that applications use."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import random
import ssl
import time
import wave
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import openai
import pytest

from relay.config import BaseURL
from relay.demo import DemoUpstream
from tests.harness import KEY, Proxy, config_over, deployment, proxy_over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

# The SDK marks image variations and audio translations as deprecated; applications still use them.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # whose own context would take most of the time of a test
NORTH, SOUTH = "sk-upstream-north", "sk-upstream-south"
HELLO: Any = [{"role": "user", "content": "hello"}]
WORDS: Any = "no list"
COUNT: Any = [{"role": "user", "content": "count to 5"}]


@pytest.fixture
async def demo() -> AsyncIterator[DemoUpstream]:
    upstream = DemoUpstream({NORTH: "north", SOUTH: "south"}, pace=0, rng=random.Random(7))
    await upstream.start()
    yield upstream
    await upstream.close()


@pytest.fixture
async def proxy(demo: DemoUpstream) -> AsyncIterator[Proxy]:
    base = BaseURL("http", "127.0.0.1", int(demo.base_url.split(":")[2].split("/")[0]), "/v1")
    members = [deployment(name, 0, base=base) for name in ("north", "south")]
    async with proxy_over(config_over(*members)) as running:
        yield running


@asynccontextmanager
async def sdk(proxy: Proxy, **options: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    http = openai.DefaultAsyncHttpxClient(verify=NO_TLS)
    given = {"api_key": KEY, "base_url": proxy.base_url, "max_retries": 0, "timeout": 10, **options}
    async with openai.AsyncOpenAI(http_client=http, **given) as client:
        yield client


@pytest.fixture
async def client(proxy: Proxy) -> AsyncIterator[openai.AsyncOpenAI]:
    async with sdk(proxy) as it:
        yield it


@contextmanager
def plain_sdk(proxy: Proxy) -> Iterator[openai.OpenAI]:
    """The SDK without asyncio, for ``asyncio.to_thread``."""
    http = openai.DefaultHttpxClient(verify=NO_TLS)
    with openai.OpenAI(api_key=KEY, base_url=proxy.base_url, max_retries=0, timeout=10, http_client=http) as client:
        yield client


# Answers.


async def test_chat_plain_and_streamed(client: openai.AsyncOpenAI) -> None:
    said = await client.chat.completions.create(model="gpt-4", messages=COUNT)
    chunks = [
        chunk
        async for chunk in await client.chat.completions.create(
            model="gpt-4", messages=COUNT, stream=True, stream_options={"include_usage": True}
        )
    ]
    assert said.choices[0].message.content == "1 2 3 4 5"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "1 2 3 4 5"
    assert chunks[-1].usage == said.usage


async def test_a_streams_events_come_one_by_one(proxy: Proxy, demo: DemoUpstream, client: openai.AsyncOpenAI) -> None:
    demo.script(fault="stall", place="after", count=900, path="/chat/completions")
    stream = await client.chat.completions.create(model="gpt-4", messages=COUNT, stream=True)
    async with asyncio.timeout(10):
        first = await anext(aiter(stream))  # although the upstream never goes on
    assert first.choices[0].delta.role == "assistant"
    heard = demo.requests[-1]
    await stream.close()
    async with asyncio.timeout(10):
        await heard.over.wait()
    assert heard.outcome == "left"
    record = await proxy.record()
    assert (record.status, record.outcome) == (499, "client_gone")  # type: ignore[attr-defined]


async def test_a_response_streams_and_is_followed_up(demo: DemoUpstream, client: openai.AsyncOpenAI) -> None:
    events = [event async for event in await client.responses.create(model="gpt-4", input="count to 3", stream=True)]
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == "1 2 3"
    first = events[-1].response
    assert (await client.responses.retrieve(first.id)).output_text == "1 2 3"
    second = await client.responses.create(model="gpt-4", input="go on", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    assert len({heard.project for heard in demo.requests}) == 1
    async with client.responses.stream(model="gpt-4", input="count to 2") as stream:
        assert (await stream.get_final_response()).output_text == "1 2"
    await client.responses.delete(first.id)


async def test_embeddings_come_packed_and_plain(demo: DemoUpstream, client: openai.AsyncOpenAI) -> None:
    asked: Any = {"model": "text-embedding-3-small", "input": ["a", "b"], "dimensions": 64}
    packed = await client.embeddings.create(**asked)
    assert b'"encoding_format":"base64"' in (demo.requests[-1].body or b"")
    plain = await client.embeddings.create(**asked, encoding_format="float")
    raw = await client.embeddings.create(**asked, encoding_format="base64")
    assert [entry.embedding for entry in packed.data] == [entry.embedding for entry in plain.data]
    assert len(base64.b64decode(str(raw.data[0].embedding))) == 64 * 4


async def test_images_made_edited_and_streamed(client: openai.AsyncOpenAI) -> None:
    made = await client.images.generate(model="gpt-image-1", prompt="a cat")
    assert made.data is not None
    picture = base64.b64decode(made.data[0].b64_json or "")
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    edited = await client.images.edit(model="gpt-image-1", prompt="x", image=[("a.png", picture), ("b.png", picture)])
    assert edited.data is not None
    varied = await client.images.create_variation(image=("a.png", picture), n=2)
    assert varied.data is not None
    assert len(varied.data) == 2
    events: Any = await client.images.generate(model="gpt-image-1", prompt="x", stream=True, partial_images=1)
    assert [event.type async for event in events] == ["image_generation.partial_image", "image_generation.completed"]


async def test_audio_both_ways(client: openai.AsyncOpenAI) -> None:
    speech = await client.audio.speech.create(model="tts-1", voice="alloy", input="some words")
    assert speech.response.headers["content-type"].startswith("audio/")
    with wave.open(io.BytesIO(speech.content)) as sound:
        assert sound.getframerate() == 24_000
    asked: Any = {"model": "whisper-1", "file": ("a.wav", speech.content)}
    assert str(len(speech.content)) in (await client.audio.transcriptions.create(**asked)).text
    assert str(len(speech.content)) in (await client.audio.translations.create(**asked)).text
    assert (await client.audio.transcriptions.create(**asked, response_format="srt")).startswith("1\n00:00")
    events: Any = [event async for event in await client.audio.transcriptions.create(**asked, stream=True)]
    assert "".join(event.delta for event in events[:-1]) == events[-1].text


async def test_moderation_completion_and_models(demo: DemoUpstream, client: openai.AsyncOpenAI) -> None:
    assert (await client.moderations.create(input="I will kill you")).results[0].flagged
    assert not (await client.moderations.create(input=["hello", "you"])).results[1].flagged
    assert (await client.completions.create(model="gpt-4", prompt="count to 3")).choices[0].text == "1 2 3"
    assert "gpt-4" in {model.id async for model in await client.models.list()}
    assert (await client.models.retrieve("gpt-4")).id == "gpt-4"
    assert demo.requests[-1].target == "/v1/models/gpt-4"


async def test_answers_are_spread_over_both_projects(demo: DemoUpstream, client: openai.AsyncOpenAI) -> None:
    for _ in range(24):
        await client.chat.completions.create(model="gpt-4", messages=HELLO)
    assert {heard.project for heard in demo.requests} == {"north", "south"}


# Things that are made and named later.


async def test_files_up_and_down(demo: DemoUpstream, client: openai.AsyncOpenAI) -> None:
    content = random.Random(1).randbytes(3 << 20)
    file = await client.files.create(file=('päth "q".bin', content), purpose="assistants")
    assert file.bytes == len(content)
    assert (await client.files.content(file.id)).content == content
    assert file.id in {one.id async for one in await client.files.list()}
    assert (await client.files.retrieve(file.id)).filename == file.filename
    assert (await client.files.delete(file.id)).deleted
    with pytest.raises(openai.NotFoundError, match=f"No such File object: {file.id}"):
        await client.files.retrieve(file.id)
    assert demo.requests[0].length > len(content)


async def test_an_upload_in_parts(client: openai.AsyncOpenAI) -> None:
    parts = [random.Random(number).randbytes(1 << 20) for number in range(3)]
    size = sum(map(len, parts))
    upload = await client.uploads.create(
        bytes=size, filename="x.bin", mime_type="application/octet-stream", purpose="assistants"
    )
    ids = [(await client.uploads.parts.create(upload.id, data=part)).id for part in parts]
    file = (await client.uploads.complete(upload.id, part_ids=ids)).file
    assert file is not None
    assert (await client.files.content(file.id)).content == b"".join(parts)
    whole = b"".join(parts)
    done = await client.uploads.upload_file_chunked(
        file=whole, filename="y.bin", bytes=size, mime_type="application/octet-stream", purpose="assistants",
        part_size=1 << 20,
    )  # fmt: skip
    assert done.file is not None
    assert (await client.files.content(done.file.id)).content == whole


async def test_vector_stores(client: openai.AsyncOpenAI) -> None:
    texts = {"cats.txt": b"cats sleep a lot", "dogs.txt": b"dogs bark"}
    files = [await client.files.create(file=item, purpose="assistants") for item in texts.items()]
    store = await client.vector_stores.create(file_ids=[files[0].id], name="pets")
    batch = await client.vector_stores.file_batches.create_and_poll(store.id, file_ids=[files[1].id])
    assert (batch.status, batch.file_counts.completed) == ("completed", 1)
    found = (await client.vector_stores.search(store.id, query="why do cats sleep")).data
    assert [hit.file_id for hit in found] == [files[0].id]
    listed = {file.id async for file in await client.vector_stores.files.list(store.id)}
    assert listed == {file.id for file in files}
    assert (await client.vector_stores.delete(store.id)).deleted


async def test_a_batch_and_its_output(client: openai.AsyncOpenAI) -> None:
    line = {"custom_id": "one", "method": "POST", "url": "/v1/chat/completions"}
    line["body"] = {"model": "gpt-4", "messages": COUNT}  # type: ignore[assignment]
    file = await client.files.create(file=("in.jsonl", json.dumps(line).encode()), purpose="batch")
    batch = await client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"model": "gpt-4"}
    )
    assert batch.id in {one.id async for one in await client.batches.list()}
    batch = await client.batches.retrieve(batch.id)
    assert (batch.status, batch.metadata) == ("completed", {"model": "gpt-4"})
    answer = json.loads((await client.files.content(batch.output_file_id or "")).content)
    assert answer["response"]["body"]["choices"][0]["message"]["content"] == "1 2 3 4 5"


async def test_a_page_follows_the_other(client: openai.AsyncOpenAI) -> None:
    made = [(await client.vector_stores.create(name=str(number))).id for number in range(5)]
    assert [store.id async for store in client.vector_stores.list(limit=2, order="asc")] == made


# The SDK's other ways of asking.


async def test_the_sdk_without_asyncio(proxy: Proxy) -> None:
    def ask() -> tuple[str, str, bytes]:
        with plain_sdk(proxy) as client:
            stream = client.chat.completions.create(model="gpt-4", messages=COUNT, stream=True)
            streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
            file = client.files.create(file=("a.txt", b"hello"), purpose="assistants")
            with client.files.with_streaming_response.content(file.id) as response:
                return streamed, response.headers["x-passthrough-attempts"], b"".join(response.iter_bytes())

    assert await asyncio.to_thread(ask) == ("1 2 3 4 5", "1", b"hello")


async def test_a_streaming_response_is_read_as_it_comes(client: openai.AsyncOpenAI) -> None:
    digest, count = hashlib.sha256(), 0
    async with client.files.with_streaming_response.content("file-synthetic-4MiB") as response:
        assert response.headers["content-length"] == str(4 << 20)
        async for piece in response.iter_bytes():
            digest.update(piece)
            count += len(piece)
    whole = (await client.files.content("file-synthetic-4MiB")).content
    assert (count, digest.digest()) == (4 << 20, hashlib.sha256(whole).digest())
    async with client.chat.completions.with_streaming_response.create(
        model="gpt-4", messages=COUNT, stream=True
    ) as response:
        lines = [line async for line in response.iter_lines()]
    assert lines[-2:] == ["data: [DONE]", ""]


async def test_raw_responses_show_our_lines(proxy: Proxy, demo: DemoUpstream, client: openai.AsyncOpenAI) -> None:
    raw = await client.chat.completions.with_raw_response.create(model="gpt-4", messages=HELLO)
    record = await proxy.record()
    assert raw.headers["x-passthrough-id"] == record.id  # type: ignore[attr-defined]
    assert raw.headers["x-passthrough-deployment"] == demo.requests[-1].project
    assert raw.headers["x-passthrough-attempts"] == "1"
    assert raw.headers["x-request-id"] == record.upstream_request_id  # type: ignore[attr-defined]
    assert (await client.chat.completions.create(model="gpt-4", messages=HELLO))._request_id.startswith("req_")  # type: ignore[union-attr]


async def test_many_calls_at_once(demo: DemoUpstream, client: openai.AsyncOpenAI) -> None:
    async def ask(number: int) -> str | None:
        said = await client.chat.completions.create(
            model="gpt-4", messages=[{"role": "user", "content": f"count to {number}"}]
        )
        return said.choices[0].message.content

    answers = await asyncio.gather(*map(ask, range(1, 41)))
    assert answers == [" ".join(map(str, range(1, number + 1))) for number in range(1, 41)]
    assert len({heard.connection for heard in demo.requests}) <= 40


# Errors, as the SDK raises them.

CALLS: dict[str, tuple[type[openai.APIStatusError], int, str | None, Callable[[openai.AsyncOpenAI], Any]]] = {
    "unknown file": (openai.NotFoundError, 404, None, lambda it: it.files.retrieve("file-nobody-has-it")),
    "unknown model": (
        openai.NotFoundError,
        404,
        "model_not_found",
        lambda it: it.chat.completions.create(model="gpt-nobody", messages=HELLO),
    ),
    "wrong messages": (
        openai.BadRequestError,
        400,
        "invalid_type",
        lambda it: it.chat.completions.create(model="gpt-4", messages=WORDS),
    ),
    "unknown path": (openai.NotFoundError, 404, "unknown_url", lambda it: it.get("/nowhere", cast_to=object)),
    "wrong method": (openai.APIStatusError, 405, "method_not_supported", lambda it: it.put("/models", cast_to=object)),
}


@pytest.mark.parametrize(("kind", "status", "code", "call"), CALLS.values(), ids=CALLS)
async def test_the_upstreams_errors_are_raised_as_they_are(
    client: openai.AsyncOpenAI,
    kind: type[openai.APIStatusError],
    status: int,
    code: str | None,
    call: Callable[[openai.AsyncOpenAI], Any],
) -> None:
    with pytest.raises(kind) as caught:
        await call(client)
    assert (caught.value.status_code, caught.value.code) == (status, code)
    assert caught.value.response.headers["x-request-id"].startswith("req_")
    assert caught.value.response.headers["x-passthrough-id"].startswith("pt-")


async def test_a_wrong_key_of_ours_is_a_401(proxy: Proxy, demo: DemoUpstream) -> None:
    async with sdk(proxy, api_key="sk-somebody-elses") as client:
        with pytest.raises(openai.AuthenticationError, match="Incorrect API key") as caught:
            await client.models.list()
    assert (caught.value.code, caught.value.type) == ("invalid_api_key", "invalid_request_error")
    assert "somebody" not in str(caught.value)
    assert not demo.requests


async def test_a_denied_path_is_a_403(client: openai.AsyncOpenAI, demo: DemoUpstream) -> None:
    with pytest.raises(openai.PermissionDeniedError, match="allow_admin"):
        await client.get("/organization/users", cast_to=object)
    assert not demo.requests


async def test_a_conflict_is_a_409(client: openai.AsyncOpenAI) -> None:
    file = await client.files.create(file=("in.jsonl", b"{}"), purpose="batch")
    batch = await client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    assert (await client.batches.retrieve(batch.id)).status == "completed"
    with pytest.raises(openai.ConflictError):
        await client.batches.cancel(batch.id)


async def test_limits_everywhere_are_a_429_that_says_when(client: openai.AsyncOpenAI, demo: DemoUpstream) -> None:
    for key in (NORTH, SOUTH):
        demo.key(key).limited = 7.0
    with pytest.raises(openai.RateLimitError) as caught:
        await client.chat.completions.create(model="gpt-4", messages=HELLO)
    assert {heard.project for heard in demo.requests} == {"north", "south"}
    assert caught.value.code == "rate_limit_exceeded"
    assert 0 < float(caught.value.response.headers["retry-after"]) <= 7
    asked = len(demo.requests)
    with pytest.raises(openai.RateLimitError) as ours:  # both cool now: nobody is asked
        await client.chat.completions.create(model="gpt-4", messages=HELLO)
    assert len(demo.requests) == asked
    assert 1 <= int(ours.value.response.headers["retry-after"]) <= 7
    assert 0 < int(ours.value.response.headers["retry-after-ms"]) <= 7000


async def test_the_sdk_obeys_retry_after_and_gets_through(proxy: Proxy, demo: DemoUpstream) -> None:
    for key in (NORTH, SOUTH):
        demo.key(key).limited = 1.0

    async def heal() -> None:
        await demo.next_heard()
        await demo.next_heard()
        for key in (NORTH, SOUTH):
            demo.key(key).limited = None

    healing = asyncio.create_task(heal())
    async with sdk(proxy, max_retries=2) as client:
        began = time.monotonic()
        said = await client.chat.completions.create(model="gpt-4", messages=COUNT)
        waited = time.monotonic() - began
    await healing
    assert said.choices[0].message.content == "1 2 3 4 5"
    assert 0.9 < waited < 8
    assert demo.requests[-1].value(b"x-stainless-retry-count") == b"1"


async def test_a_limited_key_is_not_seen_while_another_is_free(demo: DemoUpstream, client: openai.AsyncOpenAI) -> None:
    demo.key(NORTH).limited = 30.0
    for _ in range(12):
        await client.chat.completions.create(model="gpt-4", messages=HELLO)
    assert [heard.project for heard in demo.requests].count("north") <= 1


async def test_the_sdks_patience_is_known_before_it_ends(proxy: Proxy, demo: DemoUpstream) -> None:
    demo.script(delay=60, times=None)
    async with sdk(proxy, timeout=openai.Timeout(10, read=0.6)) as client:
        with pytest.raises(openai.InternalServerError) as caught:  # ours comes before the SDK gives up
            await client.files.list()
    assert (caught.value.status_code, caught.value.code) == (504, "upstream_timeout")
    await over(demo)
    assert {heard.outcome for heard in demo.requests} == {"left"}


async def test_an_sdk_that_times_out_within_a_stream_takes_the_upstream_along(proxy: Proxy, demo: DemoUpstream) -> None:
    demo.script(fault="stall", place="after", count=900)
    async with sdk(proxy, timeout=openai.Timeout(10, read=0.5)) as client:
        with pytest.raises(Exception) as caught:
            async for _ in await client.chat.completions.create(model="gpt-4", messages=COUNT, stream=True):
                pass
        await over(demo)
    assert "Timeout" in type(caught.value).__name__  # APITimeoutError, or httpx's own in older releases of the SDK
    assert [heard.outcome for heard in demo.requests] == ["left"]
    record = await proxy.record()
    assert (record.status, record.outcome) == (499, "client_gone")  # type: ignore[attr-defined]


async def over(demo: DemoUpstream) -> None:
    """Wait until every exchange of the upstream's is over."""
    async with asyncio.timeout(10):
        for heard in list(demo.requests):
            await heard.over.wait()


async def test_a_stream_that_breaks_is_raised(demo: DemoUpstream, client: openai.AsyncOpenAI) -> None:
    demo.script(fault="reset", place="after", count=900, path="/chat/completions")
    with pytest.raises(openai.APIError) as caught:
        async for _ in await client.chat.completions.create(model="gpt-4", messages=COUNT, stream=True):
            pass
    assert "127.0.0.1" not in str(caught.value)


async def test_an_upstream_that_is_gone_is_a_502(client: openai.AsyncOpenAI, demo: DemoUpstream) -> None:
    await demo.close()
    with pytest.raises(openai.InternalServerError) as caught:
        await client.files.list()
    assert (caught.value.status_code, caught.value.code) == (502, "upstream_error")
    assert "127.0.0.1" not in str(caught.value)
