"""What happened in an attempt, and what each kind of it means.

:func:`judge_answer` reads an answer's status, fields and error code into an :class:`Outcome`; :data:`VERDICTS` is SPEC
§7's table, row by row. Pure: the wall clock that an HTTP date is measured against is an argument.
"""

from __future__ import annotations

import enum
import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from ..patterns import late
from ..values import Value, replace

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

LONGEST_BODY = 64 << 10  # what is read of an error's content, packed or not
LONGEST_WAIT = 86_400.0  # seconds; an answer that names a longer one says nothing
LARGEST_FIGURE = 1e12  # requests or tokens; beyond it stands "unlimited", not a limit
MOST_BUCKETS = 8  # kinds of limits read from one answer; OpenAI names five at most


class Kind(enum.Enum):
    """The rows of SPEC §7's table. The values are the words of records and metrics."""

    OK = "ok"  # 1xx to 3xx
    CLIENT_ERROR = "client_error"  # 4xx that is the client's to fix
    CONNECT_FAILED = "connect_failed"  # no connection, or no TLS: nothing was sent
    STALE = "stale"  # a reused connection that closed before a response byte
    RATE_LIMITED = "rate_limited"
    DEAD_ACCOUNT = "dead_account"  # a 429 that waiting does not mend
    DEAD_KEY = "dead_key"
    DENIED = "denied"  # other 401 and 403: this key may not do this
    CLIENT_KEY = "client_key"  # a 401 or 403 to a key that the client brought (ek_): says nothing about ours
    OVERLOADED = "overloaded"  # 503 529
    SERVER_ERROR = "server_error"  # other 5xx: may have acted
    HEAD_TIMEOUT = "head_timeout"  # the deployment's own time was up
    RESET = "reset"  # after the request, or a part of it, was sent
    BAD_ANSWER = "bad_answer"  # a head that is no HTTP, or beyond the limits
    BROKEN = "broken"  # after the first response byte went to the client
    IMPATIENT = "impatient"  # the client's time was up before the head came
    CLIENT_GONE = "client_gone"

    # Members are single objects, so identity is the hash; Enum's own is a Python function, on the path of every answer.
    __hash__ = object.__hash__


WORDS = {kind: kind.value for kind in Kind}  # an enum's own way to its value is two calls


class Again(enum.Enum):
    """Whether a kind of outcome lets the request be sent again."""

    NEVER = 0
    ALWAYS = 1  # nothing has been done with it
    HARMLESS = 2  # it may have been acted on: only where that does no harm
    REDIAL = 3  # the connection was to blame, not the deployment


class Effect(enum.Enum):
    """What a kind of outcome does to health."""

    NONE = 0  # says nothing about the deployment
    WELL = 1  # it works; failures that were held are now its neighbours' own
    FAILURE = 2
    HELD = 3  # a failure, once another deployment has answered the same exchange better
    LIMITED = 4  # cools the quota group for the model
    PARK_ACCOUNT = 5
    PARK_KEY = 6
    DENIED = 7  # cools the key for the model

    __hash__ = object.__hash__


class Policy(Value):
    """One row of the table. ``braked``: a retry after it counts against the pool-wide brake."""

    again: Again
    effect: Effect
    braked: bool = False


VERDICTS = {
    Kind.OK: Policy(Again.NEVER, Effect.WELL),
    Kind.CLIENT_ERROR: Policy(Again.NEVER, Effect.WELL),
    Kind.CONNECT_FAILED: Policy(Again.ALWAYS, Effect.FAILURE, braked=True),
    Kind.STALE: Policy(Again.REDIAL, Effect.NONE),
    Kind.RATE_LIMITED: Policy(Again.ALWAYS, Effect.LIMITED),
    Kind.DEAD_ACCOUNT: Policy(Again.ALWAYS, Effect.PARK_ACCOUNT),
    Kind.DEAD_KEY: Policy(Again.ALWAYS, Effect.PARK_KEY),
    Kind.DENIED: Policy(Again.ALWAYS, Effect.DENIED),
    Kind.CLIENT_KEY: Policy(Again.NEVER, Effect.NONE),
    Kind.OVERLOADED: Policy(Again.ALWAYS, Effect.HELD, braked=True),
    Kind.SERVER_ERROR: Policy(Again.HARMLESS, Effect.HELD, braked=True),
    Kind.HEAD_TIMEOUT: Policy(Again.HARMLESS, Effect.FAILURE, braked=True),
    Kind.RESET: Policy(Again.HARMLESS, Effect.FAILURE, braked=True),
    Kind.BAD_ANSWER: Policy(Again.HARMLESS, Effect.FAILURE, braked=True),
    Kind.BROKEN: Policy(Again.NEVER, Effect.FAILURE),
    Kind.IMPATIENT: Policy(Again.NEVER, Effect.NONE),
    Kind.CLIENT_GONE: Policy(Again.NEVER, Effect.NONE),
}

DEAD_ACCOUNT_CODES = frozenset(
    {
        "insufficient_quota",
        "billing_hard_limit_reached",
        "credit_balance_exhausted",
        "organization_usage_limit_exceeded",
    }
)
DEAD_ACCOUNT_SUFFIX = "_spend_limit_exceeded"
DEAD_KEY_CODES = frozenset({"invalid_api_key", "account_deactivated"})
OVERLOADED = frozenset({503, 529})


class Figures(NamedTuple):
    """What an answer says about one bucket of a rate limit. ``reset``: seconds until it is *full* again."""

    limit: float | None
    remaining: float
    reset: float | None


class Outcome(Value):
    """What happened in an attempt.

    ``status`` is the upstream's, None where no answer came. ``retry_after``: seconds that the answer asks us to wait.
    ``sent``: whether any byte of the request had gone out (matters for ``STALE`` only).
    """

    kind: Kind
    status: int | None = None
    retry_after: float | None = None
    code: str | None = None
    buckets: Mapping[str, Figures] | None = None  # "requests", "tokens", ... -> figures
    sent: bool = True


KEY_KINDS = frozenset({Kind.DEAD_KEY, Kind.DENIED})  # that say something about the key that the request carried


def of_client_key(outcome: Outcome) -> Outcome:
    """What an answer to a request with the client's own key means: a refusal of that key is no fault of ours."""
    return replace(outcome, kind=Kind.CLIENT_KEY) if outcome.kind in KEY_KINDS else outcome


@lru_cache(maxsize=300)
def _plain(status: int) -> Outcome:
    """What most answers mean."""
    return Outcome(Kind.OK, status)


def read_outcome(
    status: int, fields: Iterable[tuple[bytes, bytes]], error_body: bytes | None = None, wall: float = 0.0
) -> Outcome:
    """``judge_answer`` for an answer's field lines."""
    lines = list(fields)
    return judge_answer(status, signals_in([n for n, _ in lines], [v for _, v in lines], {}), error_body, wall)


def judge_answer(
    status: int, signals: Mapping[bytes, bytes], error_body: bytes | None = None, wall: float = 0.0
) -> Outcome:
    """Judge an answer by its status, its ``signals_in``, and of an error the first 64 KiB of its content as it came.

    ``wall`` is Unix time, for a ``Retry-After`` that is a date. Figures that cannot be meant are no signal.
    """
    if status < 400:  # noqa: PLR2004 - where errors begin
        if not signals:
            return _plain(status)
        return Outcome(Kind.OK, status, None, None, _buckets(signals))
    code, kind = None, _STATUSES.get(status) or (Kind.CLIENT_ERROR if status < 500 else Kind.SERVER_ERROR)  # noqa: PLR2004
    words = error_words(error_body, signals.get(b"content-encoding", b"")) if error_body else ()
    if words:
        code, kind = words[0], _by_code(kind, status, words)
    return Outcome(kind, status, _retry_after(signals, wall), code, _buckets(signals))


_STATUSES = {
    401: Kind.DENIED,
    403: Kind.DENIED,
    429: Kind.RATE_LIMITED,
    503: Kind.OVERLOADED,
    529: Kind.OVERLOADED,
}


def _by_code(kind: Kind, status: int, words: Sequence[str]) -> Kind:
    """Tell a dead account from a busy one and a dead key from one that may not do this."""
    if kind is Kind.RATE_LIMITED and any(
        word in DEAD_ACCOUNT_CODES or word.endswith(DEAD_ACCOUNT_SUFFIX) for word in words
    ):
        return Kind.DEAD_ACCOUNT
    if status == 401 and not DEAD_KEY_CODES.isdisjoint(words):  # noqa: PLR2004 - a 403 never says that the key is dead
        return Kind.DEAD_KEY
    return kind


def error_words(body: bytes, coding: bytes = b"") -> tuple[str, ...]:
    """The ``code`` and ``type`` of an error object, the code first; empty where there is none to be read."""
    try:
        document = json.loads(_unpacked(body, coding))
    except (ValueError, RecursionError):
        return ()
    if isinstance(document, list) and document:  # Gemini wraps its error in a list
        document = document[0]
    error: Any = document.get("error") if isinstance(document, dict) else None
    if not isinstance(error, dict):
        return ()
    return tuple(word for word in (error.get("code"), error.get("type")) if isinstance(word, str) and word)


def _unpacked(body: bytes, coding: bytes) -> bytes:
    """The content without its content coding, at most 64 KiB of it. ValueError where it cannot be read."""
    if coding.strip().lower() not in {b"gzip", b"x-gzip", b"deflate"}:
        return body[:LONGEST_BODY]
    import zlib  # most error answers are not packed

    for window in (47, -15):  # gzip or zlib by its head; some send deflate without one
        try:
            return zlib.decompressobj(window).decompress(body, LONGEST_BODY)
        except zlib.error:
            continue
    raise ValueError(coding)


# -- fields -----------------------------------------------------------------------------------------------------------

_WANTED = frozenset({b"retry-after", b"retry-after-ms", b"content-encoding"})
_LIMIT = b"x-ratelimit-"
_LIMIT_NAME = late(rb"x-ratelimit-(limit|remaining|reset)-([a-z][a-z0-9_-]{0,31})")
# Go's way to write a duration, as OpenAI does: 6m0s, 20ms, 1h2m3.5s
_DURATION = late(
    r"(?:(?P<d>\d+(?:\.\d+)?)d)?(?:(?P<h>\d+(?:\.\d+)?)h)?(?:(?P<m>\d+(?:\.\d+)?)m(?!s))?"
    r"(?:(?P<s>\d+(?:\.\d+)?)s)?(?:(?P<ms>\d+(?:\.\d+)?)ms)?"
)
_UNITS = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def signals_in(names: Sequence[bytes], values: Sequence[bytes], memo: dict[Any, Any]) -> Mapping[bytes, bytes]:
    """The fields that this room reads, by lower-case name. ``memo`` is for what follows from the names alone."""
    places = memo.get(signals_in)
    if places is None:
        lower = [name.lower() for name in names]
        places = memo[signals_in] = [
            (name, at) for at, name in enumerate(lower) if name in _WANTED or name.startswith(_LIMIT)
        ]
    return {name: values[at] for name, at in places} if places else {}


def _retry_after(signals: Mapping[bytes, bytes], wall: float) -> float | None:
    """Seconds to wait, as the SDKs read it: milliseconds first, then seconds or a date (RFC 9110 §10.2.3).

    A zero or a negative figure is no signal, as in the SDKs: "at once" is what has just failed.
    """
    milliseconds = parse_figure(signals.get(b"retry-after-ms", b""))
    if milliseconds and milliseconds <= LONGEST_WAIT * 1000:
        return milliseconds / 1000
    value = signals.get(b"retry-after", b"")
    seconds = parse_figure(value)
    if seconds is None and value:
        seconds = _parse_date(value, wall)
    return seconds if seconds and 0 < seconds <= LONGEST_WAIT else None


def _parse_date(value: bytes, wall: float) -> float | None:
    from email.utils import parsedate_to_datetime  # hardly any upstream answers with a date

    try:
        return parsedate_to_datetime(value.decode("latin-1")).timestamp() - wall
    except (ValueError, OverflowError, OSError):
        return None


def parse_figure(value: bytes) -> float | None:
    """A number that can be meant: not negative, not beyond a million millions; else None."""
    try:
        figure = float(value)
    except ValueError:
        return None
    return figure if 0 <= figure <= LARGEST_FIGURE else None  # a NaN fails both comparisons


def parse_duration(value: bytes) -> float | None:
    """``1s``, ``6m0s``, ``20ms`` or plain seconds, at most a day; else None."""
    text = value.decode("latin-1").strip()
    match = _DURATION.fullmatch(text)
    if match and text:
        seconds: float | None = sum(
            float(number) * _UNITS[unit] for unit, number in match.groupdict().items() if number is not None
        )
    else:
        seconds = parse_figure(value)
    return seconds if seconds is not None and seconds <= LONGEST_WAIT else None


def _buckets(signals: Mapping[bytes, bytes]) -> Mapping[str, Figures] | None:
    """The figures of each kind of limit that says what remains."""
    buckets: dict[str, Figures] = {}
    for name in signals:
        match = _LIMIT_NAME.fullmatch(name)
        if match and match[1] == b"remaining" and len(buckets) < MOST_BUCKETS:
            figures = _figures(signals, match[2])
            if figures:
                buckets[match[2].decode()] = figures
    return buckets or None


def _figures(signals: Mapping[bytes, bytes], kind: bytes) -> Figures | None:
    """One bucket, or None where it cannot be meant: a limit of zero, or more left than the limit."""
    remaining = parse_figure(signals[b"x-ratelimit-remaining-" + kind])
    said = signals.get(b"x-ratelimit-limit-" + kind)
    limit = parse_figure(said) if said is not None else None
    if remaining is None or (said is not None and (not limit or remaining > limit)):
        return None
    return Figures(limit, remaining, parse_duration(signals.get(b"x-ratelimit-reset-" + kind, b"")))
