"""What answers used, from the shapes of the API's description, and what that costs to the last decimal."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.record.usage import NAMES, Usage, is_price, price, read_usage

CHAT = {
    "prompt_tokens": 1117,
    "completion_tokens": 46,
    "total_tokens": 1163,
    "prompt_tokens_details": {"cached_tokens": 1024, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 32,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}
AUDIO_CHAT = {
    "prompt_tokens": 214,
    "completion_tokens": 171,
    "total_tokens": 385,
    "prompt_tokens_details": {"text_tokens": 30, "audio_tokens": 184, "cached_tokens": 0},
    "completion_tokens_details": {"text_tokens": 37, "audio_tokens": 134, "reasoning_tokens": 0},
}
RESPONSES = {
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

SHAPES = [
    ("chat", CHAT, Usage(1117, 1024, 0, 0, 0, 46, 32)),
    ("chat with audio", AUDIO_CHAT, Usage(214, 0, 0, 184, 0, 171, 0, 134)),
    ("responses", RESPONSES, Usage(4096, 2048, 1024, 0, 0, 512, 448)),
    ("embeddings", {"prompt_tokens": 8, "total_tokens": 8}, Usage(8)),
    ("images", IMAGES, Usage(50, 0, 0, 0, 40, 4160, 0, 0, 4160)),
    ("transcription by token", TRANSCRIPT, Usage(14, 0, 0, 14, 0, 45)),
    ("transcription by second", {"type": "duration", "seconds": 9}, Usage(seconds=Decimal(9))),
    ("a decoded float", {"type": "duration", "seconds": 8.47}, Usage(seconds=Decimal("8.47"))),
    ("a decoded decimal", {"type": "duration", "seconds": Decimal("8.470")}, Usage(seconds=Decimal("8.470"))),
    ("speech", {"input_tokens": 12, "output_tokens": 90, "total_tokens": 102}, Usage(12, output_tokens=90)),
    ("details that are null", {"prompt_tokens": 5, "prompt_tokens_details": None}, Usage(5)),
    (
        "both families, one of nulls",
        {"input_tokens": None, "prompt_tokens": 5, "output_tokens": "7", "completion_tokens": 7},
        Usage(5, output_tokens=7),
    ),
    ("only an output", {"completion_tokens": 5}, Usage(output_tokens=5)),
    ("a run still going", None, None),
    ("a tool's schema", {"type": "object", "properties": {}}, None),
    ("a truth for a count", {"prompt_tokens": True}, None),
    ("a count below zero", {"prompt_tokens": -1}, None),
    ("a count beyond all", {"prompt_tokens": 1 << 60}, None),
    ("a fraction of a token", {"prompt_tokens": 1.5}, None),
    ("seconds that are words", {"type": "duration", "seconds": "9"}, None),
    ("seconds that are a truth", {"type": "duration", "seconds": True}, None),
    ("seconds that are no number", {"type": "duration", "seconds": float("nan")}, None),
    ("a list", [1], None),
]


@pytest.mark.parametrize(("value", "usage"), [case[1:] for case in SHAPES], ids=[case[0] for case in SHAPES])
def test_each_shape_is_read_to_the_last_token(value: Any, usage: Usage | None) -> None:
    assert read_usage(value) == usage


def prices(**named: str) -> dict[str, Decimal]:
    return {name: Decimal(value) for name, value in named.items()}


GPT = prices(input_cost_per_token="1.25e-06", output_cost_per_token="1e-05", cache_read_input_token_cost="1.25e-07")
AUDIO = prices(
    input_cost_per_token="2.5e-06",
    output_cost_per_token="1e-05",
    input_cost_per_audio_token="4e-05",
    output_cost_per_audio_token="8e-05",
)
IMAGE = prices(input_cost_per_token="5e-06", input_cost_per_image_token="1e-05", output_cost_per_image_token="4e-05")
TIERED = prices(
    input_cost_per_token="2e-06",
    input_cost_per_token_flex="1e-06",
    input_cost_per_token_priority="4e-06",
    input_cost_per_token_above_128k_tokens="3e-06",
    input_cost_per_token_above_272k_tokens="5e-06",
    input_cost_per_token_above_272k_tokens_priority="7e-06",
    max_tokens_above_all="9",
)

COSTS = [
    # 93 x 1.25e-06 + 1024 x 1.25e-07 + 46 x 1e-05
    ("cached at its own price", read_usage(CHAT), GPT, "0.00070425"),
    # 2048 x 1.25e-06 (of them 1024 written) + 2048 x 1.25e-07 + 512 x 1e-05
    ("written costs what input does", read_usage(RESPONSES), GPT, "0.007936"),
    (
        "written at its own price",
        read_usage(RESPONSES),
        GPT | prices(cache_creation_input_token_cost="2e-06"),
        "0.008704",
    ),
    # 64 x 1e-05 + 448 x 3e-05, input as above
    ("reasoning apart", read_usage(RESPONSES), GPT | prices(output_cost_per_reasoning_token="3e-05"), "0.016896"),
    # 30 x 2.5e-06 + 184 x 4e-05 + 37 x 1e-05 + 134 x 8e-05
    ("audio both ways", read_usage(AUDIO_CHAT), AUDIO, "0.018525"),
    # 10 x 5e-06 + 40 x 1e-05 + 4160 x 4e-05
    ("image tokens", read_usage(IMAGES), IMAGE, "0.16685"),
    # 50 x 5e-06 + 2 x 0.04
    ("each image", Usage(50, output_tokens=4160, images=2), IMAGE | prices(output_cost_per_image="0.04"), "0.08025"),
    ("each image, by LiteLLM's other name", Usage(images=2), prices(input_cost_per_image="0.04"), "0.08"),
    ("images with no price each", Usage(50, images=2), IMAGE, "0.00025"),
    ("embeddings", Usage(8), prices(input_cost_per_token="2e-08"), "0.00000016"),
    ("output that costs nothing", Usage(8, output_tokens=1), prices(input_cost_per_token="2e-08"), "0.00000016"),
    ("a second, given twice", Usage(seconds=Decimal("8.47")), prices(input_cost_per_second="0.0001"), "0.000847"),
    (
        "one price under two names",
        Usage(seconds=Decimal(9)),
        prices(input_cost_per_second="0.0001", output_cost_per_second="0.0001"),
        "0.0009",
    ),
    ("characters", Usage(characters=1000), prices(input_cost_per_character="1.5e-05"), "0.015"),
    # cached audio: 64 of 100 at the cached price, 36 as audio, nothing left over
    (
        "parts that overlap",
        Usage(100, 64, input_audio_tokens=100),
        AUDIO | prices(cache_read_input_token_cost="1e-06"),
        "0.001504",
    ),
    ("parts that exceed the whole", Usage(10, 64), GPT, "0.00000125"),
    ("free of charge", Usage(10), prices(input_cost_per_token="0"), "0"),
    ("nothing used", Usage(), GPT, "0"),
    ("no prices", Usage(10), {}, None),
    ("nothing used, no prices", Usage(), {}, None),
    ("prices of another kind", Usage(seconds=Decimal(9)), GPT, None),
    ("flex", Usage(10, service_tier="flex"), TIERED, "0.00001"),
    ("priority", Usage(10, service_tier="priority"), TIERED, "0.00004"),
    ("default", Usage(10, service_tier="default"), TIERED, "0.00002"),
    ("at the threshold", Usage(128_000), TIERED, "0.256"),
    ("beyond one", Usage(128_001), TIERED, "0.384003"),
    ("beyond both", Usage(300_000), TIERED, "1.5"),
    ("beyond both, priority", Usage(300_000, service_tier="priority"), TIERED, "2.1"),
    ("beyond both, flex has no price there", Usage(300_000, service_tier="flex"), TIERED, "1.5"),
]


@pytest.mark.parametrize(("usage", "table", "cost"), [case[1:] for case in COSTS], ids=[case[0] for case in COSTS])
def test_each_cost_is_right_to_the_last_decimal(usage: Usage, table: dict[str, Decimal], cost: str | None) -> None:
    assert price(usage, table) == (None if cost is None else Decimal(cost))


counts = st.integers(0, 10**9)


@given(counts, counts, counts, counts, counts)
def test_parts_without_prices_of_their_own_never_change_the_cost(
    whole: int, cached: int, written: int, audio: int, image: int
) -> None:
    usage = Usage(whole, cached, written, audio, image, whole, cached, written, audio)
    table = prices(input_cost_per_token="1.25e-06", output_cost_per_token="1e-05")
    assert price(usage, table) == whole * Decimal("1.125e-05")


def test_audio_tokens_are_those_of_both_directions() -> None:
    assert Usage(input_audio_tokens=184, output_audio_tokens=134).audio_tokens == 318


def test_every_name_is_known_with_its_variants() -> None:
    for name in NAMES:
        assert is_price(name)
        assert is_price(name + "_flex")
        assert is_price(name + "_above_272k_tokens_priority")
    for name in ("max_tokens", "input_cost_per_token_batches", "input_cost_per_token_above_k_tokens", "mode", ""):
        assert not is_price(name)
