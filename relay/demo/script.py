"""Misbehaviour on demand: scripted answers and faults, switches of one key, quotas that refill."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .messages import Fields

Fault = Literal["reset", "cut", "stall"]  # RST; FIN; silence until the client leaves
Place = Literal["unread", "before", "within", "after"]  # of the answer's head; "unread": before the request's content


@dataclass(slots=True)
class Script:
    """What the next ``times`` matching requests get instead of, or on top of, an honest answer.

    ``status``, ``fields`` and ``body`` replace the answer; ``raw`` replaces it by exactly these bytes, followed by the
    end of the connection. ``fault`` happens at ``place``; for ``after`` when ``count`` bytes of content have gone out.
    With a fault and no status the honest answer is what gets broken. ``delay`` seconds pass before the head.
    """

    status: int | None = None
    fields: Fields = field(default_factory=list)
    body: bytes = b""
    raw: bytes | None = None
    fault: Fault | None = None
    place: Place = "before"
    count: int = 0
    delay: float = 0.0
    key: str | None = None  # None: any
    method: str | None = None
    path: str | None = None  # a shell pattern for the path below /v1: "/files/*"
    times: int | None = 1  # None: until removed
    used: int = 0

    def matches(self, key: str, method: str, path: str) -> bool:
        """Whether this request is one of those meant; ``path`` is the one below ``/v1``, without its query."""
        return (
            (self.times is None or self.used < self.times)
            and self.key in (None, key)
            and self.method in (None, method)
            and (self.path is None or fnmatchcase(path, self.path))
        )


def take(scripts: Iterable[Script], key: str, method: str, path: str) -> Script | None:
    """The first script that this request matches, counted as used; None for an honest answer."""
    for script in scripts:
        if script.matches(key, method, path):
            script.used += 1
            return script
    return None


@dataclass(slots=True)
class Bucket:
    """What is left of one limit: full at ``limit``, refilled evenly over a minute."""

    limit: int
    level: float
    at: float

    def refill(self, now: float) -> None:
        """Let the time since the last look flow in."""
        self.level = min(float(self.limit), self.level + (now - self.at) * self.limit / 60)
        self.at = now

    def wait(self, amount: float) -> float:
        """Seconds until ``amount`` can be taken; 0 when it can be now."""
        return max(0.0, min(amount, self.limit) - self.level) * 60 / self.limit

    @property
    def reset(self) -> float:
        """Seconds until the bucket is full again, which is what OpenAI's reset fields mean."""
        return (self.limit - self.level) * 60 / self.limit


@dataclass(slots=True)
class Quota:
    """Requests and tokens per minute, for each model apart. Give one quota to several keys and they share it."""

    requests: int
    tokens: int = 1_000_000
    models: dict[str, tuple[Bucket, Bucket]] = field(default_factory=dict)

    def take(self, model: str, tokens: int, now: float) -> tuple[Fields, float]:
        """Count one request. Gives the ``x-ratelimit-*`` field lines, and the seconds to wait (0: not refused)."""
        pair = self.models.get(model)
        if pair is None:
            pair = self.models[model] = (
                Bucket(self.requests, float(self.requests), now),
                Bucket(self.tokens, float(self.tokens), now),
            )
        for bucket in pair:
            bucket.refill(now)
        wait = max(pair[0].wait(1), pair[1].wait(tokens))
        if not wait:
            pair[0].level -= 1
            pair[1].level -= min(tokens, pair[1].level)
        return ratelimit_fields(*pair), wait


def ratelimit_fields(requests: Bucket, tokens: Bucket) -> Fields:
    """The six field lines with which OpenAI says what is left."""
    fields: Fields = []
    for name, bucket in ((b"requests", requests), (b"tokens", tokens)):
        fields += [
            (b"x-ratelimit-limit-" + name, b"%d" % bucket.limit),
            (b"x-ratelimit-remaining-" + name, b"%d" % int(bucket.level)),
            (b"x-ratelimit-reset-" + name, duration(bucket.reset)),
        ]
    return fields


def duration(seconds: float) -> bytes:
    """Write a time as OpenAI does, in Go's manner: ``120ms``, ``6.5s``, ``1m30s``, ``6m0s``."""
    if seconds < 1:
        return b"%dms" % math.ceil(seconds * 1000)
    minutes, rest = divmod(math.ceil(seconds * 1000) / 1000, 60)
    text = f"{rest:.3f}".rstrip("0").rstrip(".")
    return f"{int(minutes)}m{text}s".encode() if minutes else f"{text}s".encode()


@dataclass(slots=True)
class KeySwitches:
    """What one key does besides working. Tests set these between requests."""

    dead: bool = False  # 401 invalid_api_key
    limited: float | None = None  # 429 rate_limit_exceeded, with this many seconds as retry-after
    broke: bool = False  # 429 insufficient_quota
    slow: float = 0.0  # seconds before the head of every answer
    quota: Quota | None = None
