"""What answers used and what that costs, through the whole proxy: by the SDK, in the record, and in the metrics."""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from relay.config import BaseURL
from relay.demo import DemoUpstream
from relay.record.lines import JSONFormatter
from tests.harness import Proxy, config_over, deployment, get, proxy_over
from tests.test_sdk import COUNT, sdk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    import openai

    Call = Callable[[openai.AsyncOpenAI], Awaitable[Any]]

KEY = "sk-upstream-north"
PRICES = {
    "input_cost_per_token": "1.25e-06",
    "output_cost_per_token": "1e-05",
    "cache_read_input_token_cost": "1.25e-07",
    "input_cost_per_audio_token": "4e-05",
    "output_cost_per_audio_token": "8e-05",
    "input_cost_per_image_token": "1e-05",
    "output_cost_per_image_token": "4e-05",
    "input_cost_per_second": "0.0001",
}
WAVE = ("a.wav", b"RIFF" + bytes(60), "audio/wav")

# Usage as the API shows it.

CHAT = {
    "prompt_tokens": 1117,
    "completion_tokens": 46,
    "total_tokens": 1163,
    "prompt_tokens_details": {"cached_tokens": 1024, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 32, "audio_tokens": 0},
}
SPOKEN = {
    "prompt_tokens": 214,
    "completion_tokens": 171,
    "total_tokens": 385,
    "prompt_tokens_details": {"text_tokens": 30, "audio_tokens": 184, "cached_tokens": 0},
    "completion_tokens_details": {"text_tokens": 37, "audio_tokens": 134, "reasoning_tokens": 0},
}
RESPONSE = {
    "input_tokens": 4096,
    "input_tokens_details": {"cached_tokens": 2048, "cache_write_tokens": 1024},
    "output_tokens": 512,
    "output_tokens_details": {"reasoning_tokens": 448},
    "total_tokens": 4608,
}
IMAGES = {
    "total_tokens": 4210,
    "input_tokens": 50,
    "output_tokens": 4160,
    "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
    "output_tokens_details": {"text_tokens": 0, "image_tokens": 4160},
}
TRANSCRIPT = {
    "type": "tokens",
    "input_tokens": 14,
    "input_token_details": {"text_tokens": 0, "audio_tokens": 14},
    "output_tokens": 45,
    "total_tokens": 59,
}


def completion(usage: Any) -> dict[str, Any]:
    """A chat completion."""
    message = {"role": "assistant", "content": 'say "usage": {"prompt_tokens": 7}', "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-5"}
    return {**head, "choices": [choice], "usage": usage, "service_tier": "default"}


def chunks(usage: Any) -> list[Any]:
    """The chunks of a chat, the last with its usage if there is one."""
    shared = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-5", "usage": None}
    said = {"index": 0, "delta": {"content": "hi"}, "finish_reason": None}
    end = {"index": 0, "delta": {}, "finish_reason": "stop"}
    events: list[Any] = [{**shared, "choices": [said]}, {**shared, "choices": [end]}]
    return [*events, {**shared, "choices": [], "usage": usage}, "[DONE]"] if usage else [*events, "[DONE]"]


def response(usage: Any, status: str) -> dict[str, Any]:
    """A response."""
    return {"id": "resp_1", "object": "response", "created_at": 1, "status": status, "model": "gpt-5", "output": [],
            "usage": usage, "tools": [], "tool_choice": "auto", "parallel_tool_calls": True}  # fmt: skip


RESPONSE_EVENTS = [
    {"type": "response.created", "sequence_number": 0, "response": response(None, "in_progress")},
    {"type": "response.output_text.delta", "sequence_number": 1, "item_id": "msg_1", "output_index": 0,
     "content_index": 0, "delta": "hi", "logprobs": []},
    {"type": "response.completed", "sequence_number": 2, "response": response(RESPONSE, "completed")},
]  # fmt: skip
IMAGE_EVENTS = [
    {"type": "image_generation.partial_image", "b64_json": "aGk=", "partial_image_index": 0, "created_at": 1},
    {"type": "image_generation.completed", "b64_json": "aGk=", "created_at": 1, "usage": IMAGES},
]
TRANSCRIPT_EVENTS = [
    {"type": "transcript.text.delta", "delta": "hi"},
    {"type": "transcript.text.done", "text": "hi", "usage": TRANSCRIPT},
]


async def all_of(stream: Awaitable[Any]) -> None:
    """Read a stream to its end."""
    async for _ in await stream:
        pass


def chat(client: openai.AsyncOpenAI) -> Awaitable[Any]:
    return client.chat.completions.create(model="gpt-4", messages=COUNT)


def chat_stream(client: openai.AsyncOpenAI) -> Awaitable[Any]:
    return all_of(client.chat.completions.create(model="gpt-4", messages=COUNT, stream=True))


def image_stream(client: openai.AsyncOpenAI) -> Awaitable[Any]:
    return all_of(client.images.generate(model="gpt-4", prompt="a cat", stream=True, partial_images=1))


def transcribe(client: openai.AsyncOpenAI) -> Awaitable[Any]:
    return client.audio.transcriptions.create(model="gpt-4", file=WAVE)


def transcribe_stream(client: openai.AsyncOpenAI) -> Awaitable[Any]:
    return all_of(client.audio.transcriptions.create(model="gpt-4", file=WAVE, stream=True))


@dataclass
class Answer:
    """An answer, what it used, and what that costs by ``PRICES``."""

    name: str
    call: Call
    body: Any  # a list: the events of a stream
    tokens: tuple[int, int, int, int, int] | None  # input, cached, output, reasoning, audio; None: unmetered
    cost: str | None
    more: dict[str, Any] = field(default_factory=dict)


TIER = {"service_tier": "default"}
ANSWERS = [
    # 93 x 1.25e-06 + 1024 x 1.25e-07 + 46 x 1e-05
    Answer("chat", chat, completion(CHAT), (1117, 1024, 46, 32, 0), "0.00070425", TIER),
    Answer("chat stream", chat_stream, chunks(CHAT), (1117, 1024, 46, 32, 0), "0.00070425"),
    Answer("chat stream without usage", chat_stream, chunks(None), None, None),
    # 30 x 1.25e-06 + 184 x 4e-05 + 37 x 1e-05 + 134 x 8e-05
    Answer("speech in and out", chat, completion(SPOKEN), (214, 0, 171, 0, 318), "0.0184875", TIER),
    # 2048 x 1.25e-06 + 2048 x 1.25e-07 + 512 x 1e-05
    Answer(
        "responses",
        lambda client: client.responses.create(model="gpt-4", input="hi"),
        response(RESPONSE, "completed"),
        (4096, 2048, 512, 448, 0),
        "0.007936",
        {"cache_write_tokens": 1024},
    ),
    Answer(
        "responses stream",
        lambda client: all_of(client.responses.create(model="gpt-4", input="hi", stream=True)),
        RESPONSE_EVENTS,
        (4096, 2048, 512, 448, 0),
        "0.007936",
        {"cache_write_tokens": 1024},
    ),
    Answer(
        "embeddings",
        lambda client: client.embeddings.create(model="gpt-4", input="hi", encoding_format="float"),
        {
            "object": "list",
            "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
            "model": "m",
            "usage": {"prompt_tokens": 8, "total_tokens": 8},
        },
        (8, 0, 0, 0, 0),
        "0.00001000",
    ),
    # 10 x 1.25e-06 + 40 x 1e-05 + 4160 x 4e-05
    Answer(
        "images",
        lambda client: client.images.generate(model="gpt-4", prompt="a cat"),
        {"created": 1, "data": [{"b64_json": "aGk="}, {"b64_json": "aGk="}], "usage": IMAGES},
        (50, 0, 4160, 0, 0),
        "0.1668125",
        {"images": 2},
    ),
    Answer("image stream", image_stream, IMAGE_EVENTS, (50, 0, 4160, 0, 0), "0.1668125", {"images": 1}),
    # 14 x 4e-05 + 45 x 1e-05
    Answer("transcription", transcribe, {"text": "hi", "usage": TRANSCRIPT}, (14, 0, 45, 0, 14), "0.00101"),
    Answer("transcription stream", transcribe_stream, TRANSCRIPT_EVENTS, (14, 0, 45, 0, 14), "0.00101"),
    Answer(
        "transcription by the second",
        transcribe,
        {"text": "hi", "usage": {"type": "duration", "seconds": 8.47}},
        (0, 0, 0, 0, 0),
        "0.000847",
        {"seconds": Decimal("8.47")},
    ),
    Answer("an answer that does not say it", transcribe, {"text": "hi"}, None, None),
]


@pytest.fixture
async def demo() -> AsyncIterator[DemoUpstream]:
    upstream = DemoUpstream({KEY: "north"}, pace=0, rng=random.Random(7))
    await upstream.start()
    yield upstream
    await upstream.close()


@pytest.fixture
async def proxy(demo: DemoUpstream) -> AsyncIterator[Proxy]:
    base = BaseURL("http", "127.0.0.1", int(demo.base_url.split(":")[2].split("/")[0]), "/v1")
    prices = tuple((name, Decimal(value)) for name, value in PRICES.items())
    async with proxy_over(config_over(deployment("north", 0, base=base, prices=prices))) as running:
        yield running


def script(demo: DemoUpstream, body: Any, *, packed: bool) -> None:
    """Let the demo upstream answer with a recorded shape."""
    stream = isinstance(body, list)
    events = [event if isinstance(event, str) else json.dumps(event) for event in body] if stream else []
    content = "".join(f"data: {event}\n\n" for event in events) if stream else json.dumps(body)
    fields = [(b"Content-Type", b"text/event-stream" if stream else b"application/json")]
    data = content.encode()
    if packed:
        data = gzip.compress(data)
        fields.append((b"Content-Encoding", b"gzip"))
    demo.script(200, fields, data)


USAGE = ("passthrough_tokens", "passthrough_cost", "passthrough_unmetered")
KINDS = ("input", "cached", "output", "reasoning", "audio")


async def counted(proxy: Proxy) -> dict[tuple[str, ...], float]:
    """The counters of tokens, money and answers without usage."""
    text = (await proxy.exchange(get("/metrics"))).partition(b"\r\n\r\n")[2].decode()
    return {
        (sample.name, *(value for name, value in sorted(sample.labels.items()) if name != "group")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith(USAGE) and sample.value
    }


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer.name)
async def test_each_shape_to_the_last_token_and_decimal(
    proxy: Proxy, demo: DemoUpstream, answer: Answer, packed: bool
) -> None:
    script(demo, answer.body, packed=packed)
    async with sdk(proxy) as client:
        await answer.call(client)
    record: Any = await proxy.record()
    metrics = await counted(proxy)
    if answer.tokens is None:
        assert (record.usage, record.cost) == ("unmetered", None)
        assert metrics == {("passthrough_unmetered_total",): 1}
        return
    names = [f"{kind}_tokens" for kind in KINDS]
    assert record.usage == {**dict(zip(names, answer.tokens, strict=True)), **answer.more}
    assert record.cost == Decimal(answer.cost or "")
    assert json.loads(JSONFormatter().format(record), parse_float=Decimal)["cost"] == Decimal(answer.cost or "")
    tokens = {("passthrough_tokens_total", kind): count for kind, count in zip(KINDS, answer.tokens, strict=True)}
    expected: dict[tuple[str, ...], float] = {key: count for key, count in tokens.items() if count}
    assert metrics == {**expected, ("passthrough_cost_usd_total",): float(answer.cost or 0)}


async def test_the_whole_table_adds_up(proxy: Proxy, demo: DemoUpstream) -> None:
    async with sdk(proxy) as client:
        for answer in ANSWERS:
            script(demo, answer.body, packed=False)
            await answer.call(client)
    await proxy.record(len(ANSWERS))
    metrics = await counted(proxy)
    rows = [answer.tokens for answer in ANSWERS if answer.tokens]
    assert [metrics["passthrough_tokens_total", kind] for kind in KINDS] == list(map(sum, zip(*rows, strict=True)))
    assert metrics["passthrough_cost_usd_total",] == pytest.approx(
        float(sum(Decimal(answer.cost) for answer in ANSWERS if answer.cost)), rel=1e-12
    )
    assert metrics["passthrough_unmetered_total",] == 2


async def test_the_record_says_what_the_sdk_saw(proxy: Proxy) -> None:
    """Not scripted: what the demo upstream itself counts."""
    async with sdk(proxy) as client:
        said = (await client.chat.completions.create(model="gpt-4", messages=COUNT)).usage
        stream = await client.chat.completions.create(
            model="gpt-4", messages=COUNT, stream=True, stream_options={"include_usage": True}
        )
        streamed = [chunk.usage async for chunk in stream][-1]
        events = await client.responses.create(model="gpt-4", input="count to 3", stream=True)
        answered = [event async for event in events][-1].response.usage  # type: ignore[union-attr]
        embedded = (await client.embeddings.create(model="text-embedding-3-small", input="a b c")).usage
        image = (await client.images.generate(model="gpt-image-1", prompt="a cat")).usage
        heard: Any = await client.audio.transcriptions.create(model="gpt-4o-transcribe", file=WAVE)
    assert said is not None
    assert streamed is not None
    assert answered is not None
    assert image is not None
    expected = [
        (said.prompt_tokens, said.completion_tokens),
        (streamed.prompt_tokens, streamed.completion_tokens),
        (answered.input_tokens, answered.output_tokens),
        (embedded.prompt_tokens, 0),
        (image.input_tokens, image.output_tokens),
        (heard.usage.input_tokens, heard.usage.output_tokens),
    ]
    await proxy.record(len(expected))
    records: list[Any] = proxy.records
    assert [(one.usage["input_tokens"], one.usage["output_tokens"]) for one in records] == expected
    plain = [given * Decimal("1.25e-06") + made * Decimal("1e-05") for given, made in expected[:4]]
    assert [one.cost for one in records[:4]] == plain
    assert all(one.cost > 0 for one in records)
