"""What an answer used, and what that costs. Pure arithmetic: JSON shapes in, :class:`Usage` and decimals out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal

UNMETERED = "unmetered"  # the record's word for an answer that should have said what it used, and did not


@dataclass(slots=True)
class Usage:
    """What one answer used. Cached, cache-write, audio and image tokens are part of ``input_tokens``; reasoning,
    audio and image tokens of ``output_tokens``.
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
    characters: int = 0  # of text spoken; no answer says it: the caller may
    images: int = 0
    service_tier: str | None = None  # "flex" and "priority" have prices of their own

    @property
    def audio_tokens(self) -> int:
        """Audio tokens of both directions, as the record shows them."""
        return self.input_audio_tokens + self.output_audio_tokens


def read_usage(value: Any) -> Usage | None:
    """The ``usage`` member of an answer, already decoded, as :class:`Usage`; None where it is no usage object."""
    raise NotImplementedError


def price(usage: Usage, prices: Mapping[str, Decimal]) -> Decimal | None:
    """US dollars for ``usage`` by LiteLLM's price names, exact; None where no price applies."""
    raise NotImplementedError


def is_price(name: str) -> bool:
    """Whether :func:`price` honours this name."""
    raise NotImplementedError
