"""What an answer used, and what that costs. Pure arithmetic: JSON shapes in, :class:`Usage` and decimals out.

Two families of shapes are read, as the API's description of August 2026 gives them: ``prompt_tokens`` and
``completion_tokens`` (chat, completions, embeddings), ``input_tokens`` and ``output_tokens`` (responses, images,
transcription, speech events), and seconds of audio (``{"type": "duration", "seconds": 9}``).
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol

from ..values import Struct, names_of

if TYPE_CHECKING:
    from collections.abc import Mapping

UNMETERED = "unmetered"  # the record's word for an answer that should have said what it used, and did not
LARGEST = 1 << 53  # what JSON's numbers carry exactly; a count beyond it is no count

Number = int | Decimal


class Usage(Struct):
    """What one answer used.

    Cached, cache-write, audio and image tokens are part of ``input_tokens``; reasoning, audio and image tokens are
    part of ``output_tokens``.
    """

    input_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    input_audio_tokens: int = 0
    input_image_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    output_audio_tokens: int = 0
    output_image_tokens: int = 0
    seconds: Decimal | None = None  # of audio heard, where that is what is paid for
    characters: int = 0  # of text spoken: no answer says it, the caller may
    images: int = 0
    service_tier: str | None = None  # "flex" and "priority" have prices of their own

    @classmethod
    def of_tokens(cls, entered: int, left: int) -> Usage:
        """So many tokens in and out, on the short way: one is made for every answer."""
        usage = object.__new__(cls)
        usage.__dict__ = cls._defaults | {"input_tokens": entered, "output_tokens": left}
        return usage

    @property
    def audio_tokens(self) -> int:
        """Audio tokens of both directions, as the record shows them."""
        return self.input_audio_tokens + self.output_audio_tokens


def read_usage(value: Any) -> Usage | None:
    """The decoded ``usage`` member of an answer as :class:`Usage`; None where it is no usage object."""
    if not isinstance(value, dict):
        return None
    if value.get("type") == "duration":
        seconds = _seconds(value.get("seconds"))
        return None if seconds is None else Usage(seconds=seconds)
    get = value.get
    entered = _count(get("input_tokens"), get("prompt_tokens"))
    left = _count(get("output_tokens"), get("completion_tokens"))
    if entered is None and left is None:
        return None
    usage = Usage.of_tokens(entered or 0, left or 0)
    before = get("input_tokens_details") or get("prompt_tokens_details") or get("input_token_details")
    if isinstance(before, dict):
        usage.cached_tokens = _count(before.get("cached_tokens")) or 0
        usage.cache_write_tokens = _count(before.get("cache_write_tokens")) or 0
        usage.input_audio_tokens = _count(before.get("audio_tokens")) or 0
        usage.input_image_tokens = _count(before.get("image_tokens")) or 0
    after = get("output_tokens_details") or get("completion_tokens_details") or get("output_token_details")
    if isinstance(after, dict):
        usage.reasoning_tokens = _count(after.get("reasoning_tokens")) or 0
        usage.output_audio_tokens = _count(after.get("audio_tokens")) or 0
        usage.output_image_tokens = _count(after.get("image_tokens")) or 0
    return usage


class Meter(Protocol):
    """Who can tell what an answer used."""

    @property
    def usage(self) -> Usage | str | None:
        """What it used, ``UNMETERED`` where it should have said so, None where it uses nothing."""


def total(one: Usage | None, other: Usage) -> Usage:
    """What two answers used together; the service tier is that of the later."""
    if one is None:
        return other
    sums: dict[str, Any] = {}
    for name in names_of(Usage):
        first, second = getattr(one, name), getattr(other, name)
        if name == "service_tier":
            sums[name] = second or first
        else:
            sums[name] = first if second is None else second if first is None else first + second
    return Usage(**sums)


def _count(number: Any, other: Any = None) -> int | None:
    """The first of two that is a number of tokens."""
    if type(number) is int and 0 <= number < LARGEST:
        return number
    return other if type(other) is int and 0 <= other < LARGEST else None


def _seconds(value: Any) -> Decimal | None:
    """Seconds, exact as they were written: ``json`` may have made them an int, a float or, if asked, a Decimal."""
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        return None
    if not 0 <= value < LARGEST:  # NaN is not either
        return None
    return Decimal(repr(value)) if isinstance(value, float) else Decimal(value)


# LiteLLM's price names. A part that has no price of its own costs what its whole does.
INPUT = ("input_cost_per_token",)
INPUT_PARTS = (
    ("cached_tokens", ("cache_read_input_token_cost", *INPUT)),
    ("cache_write_tokens", ("cache_creation_input_token_cost", *INPUT)),
    ("input_audio_tokens", ("input_cost_per_audio_token", *INPUT)),
    ("input_image_tokens", ("input_cost_per_image_token", *INPUT)),
)
OUTPUT = ("output_cost_per_token",)
OUTPUT_PARTS = (
    ("reasoning_tokens", ("output_cost_per_reasoning_token", *OUTPUT)),
    ("output_audio_tokens", ("output_cost_per_audio_token", *OUTPUT)),
    ("output_image_tokens", ("output_cost_per_image_token", *OUTPUT)),
)
# LiteLLM gives one price (whisper's second, an image) under several names: the first that is there counts, no sum.
PER_IMAGE = ("output_cost_per_image", "input_cost_per_image")
PER_SECOND = (
    "input_cost_per_second",
    "output_cost_per_second",
    "input_cost_per_audio_per_second",
    "output_cost_per_audio_per_second",
)
PER_CHARACTER = ("input_cost_per_character",)
NAMES = frozenset(
    {*INPUT, *OUTPUT, *PER_CHARACTER, *PER_IMAGE, *PER_SECOND}
    | {name for _, names in (*INPUT_PARTS, *OUTPUT_PARTS) for name in names}
)
# Prices of a service tier, and of prompts beyond so many thousand tokens: the base name with these behind it.
TIERS = frozenset({"flex", "priority"})
VARIANT = r"(?P<name>\w+?)(?:_above_(?P<thousands>\d{1,6})k_tokens)?(?:_(?:flex|priority))?"
PLAIN = ("",)
ZERO = Decimal(0)


def is_price(name: str) -> bool:
    """Whether :func:`price` honours this name."""
    match = re.fullmatch(VARIANT, name)
    return match is not None and match["name"] in NAMES


def price(usage: Usage, prices: Mapping[str, Decimal]) -> Decimal | None:
    """US dollars for ``usage`` by LiteLLM's price names, exact; None where no price applies."""
    return PriceList(prices).price(usage)


class PriceList:
    """The prices of one deployment, by LiteLLM's names."""

    __slots__ = ("_rates", "_thresholds")

    def __init__(self, prices: Mapping[str, Decimal]) -> None:
        self._rates = dict(prices)
        matches = [re.fullmatch(VARIANT, name) for name in self._rates]
        self._thresholds = sorted({int(match["thousands"]) for match in matches if match and match["thousands"]})

    def price(self, usage: Usage) -> Decimal | None:
        """US dollars for ``usage``, exact; None where no price applies."""
        owed = self._quantities(usage)
        if not owed:
            return ZERO if self._rates else None
        rates = self._rates
        suffixes = self._suffixes(usage)
        total = None
        for quantity, names in owed:
            rate = rates.get(names[0]) if suffixes is PLAIN else None
            if rate is None:
                rate = self._rate(names, suffixes)
            if rate is not None:
                total = quantity * rate if total is None else total + quantity * rate
        return total

    def _quantities(self, usage: Usage) -> list[tuple[Number, tuple[str, ...]]]:
        """What there is to pay for, none of it zero, with the names of the prices that may apply, the best first."""
        found: list[tuple[Number, tuple[str, ...]]] = []
        rest = usage.input_tokens
        if usage.cached_tokens or usage.cache_write_tokens or usage.input_audio_tokens or usage.input_image_tokens:
            rest = _take_parts(found, usage, rest, INPUT_PARTS)
        if rest:
            found.append((rest, INPUT))
        if usage.images and any(name in self._rates for name in PER_IMAGE):  # stands in place of its tokens' prices
            found.append((usage.images, PER_IMAGE))
        else:
            rest = usage.output_tokens
            if usage.reasoning_tokens or usage.output_audio_tokens or usage.output_image_tokens:
                rest = _take_parts(found, usage, rest, OUTPUT_PARTS)
            if rest:
                found.append((rest, OUTPUT))
        if usage.seconds:
            found.append((usage.seconds, PER_SECOND))
        if usage.characters:
            found.append((usage.characters, PER_CHARACTER))
        return found

    def _rate(self, names: tuple[str, ...], suffixes: tuple[str, ...]) -> Decimal | None:
        for name in names:
            for suffix in suffixes:
                rate = self._rates.get(name + suffix)
                if rate is not None:
                    return rate
        return None

    def _suffixes(self, usage: Usage) -> tuple[str, ...]:
        """What may stand behind a price's name for this answer, the most particular first, nothing last."""
        tier = f"_{usage.service_tier}" if usage.service_tier in TIERS else ""
        above = self._passed_threshold(usage) if self._thresholds else ""
        if not tier and not above:
            return PLAIN
        return tuple(dict.fromkeys((above + tier, above, tier, "")))

    def _passed_threshold(self, usage: Usage) -> str:
        """``_above_200k_tokens`` where the prompt is beyond it, by the highest threshold that the prices know."""
        passed = [thousands for thousands in self._thresholds if thousands * 1000 < usage.input_tokens]
        return f"_above_{passed[-1]}k_tokens" if passed else ""


def _take_parts(
    found: list[tuple[Number, tuple[str, ...]]],
    usage: Usage,
    whole: int,
    parts: tuple[tuple[str, tuple[str, ...]], ...],
) -> int:
    """Cut its parts off ``whole``; what is left of it. Parts that overlap (cached audio) are never paid for twice."""
    for attribute, names in parts:
        quantity = min(getattr(usage, attribute), whole)
        if quantity:
            whole -= quantity
            found.append((quantity, names))
    return whole
