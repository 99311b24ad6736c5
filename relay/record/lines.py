"""The one record per exchange (SPEC §11), and how it reads: as a line of JSON, or as a line for people.

Nothing is escaped too little: no value whatever makes a line that is not JSON, or that a terminal obeys.
"""

from __future__ import annotations

import logging
import time
from decimal import Decimal
from json.encoder import encode_basestring_ascii
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypedDict

from .usage import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

EXCHANGE = "passthrough.exchange"  # the logger that says them


class Attempt(TypedDict):
    """One try of an exchange at one deployment, as the record lists it."""

    deployment: str
    outcome: str
    status: int | None
    ms: float


class ExchangeRecord:
    """Everything that is told of one exchange. Made when its head is read, filled in as it goes on.

    ``usage`` is None for endpoints that have none, ``UNMETERED`` where an answer should have said it and did not.
    Times are milliseconds but for ``time``; bytes are those of content, not of heads. What nobody has filled in is
    the class's: a record is made for every exchange, and most of its fields are set later or not at all.
    """

    time: float  # seconds since the epoch at which the exchange began
    id: str
    client: str | None = None
    method: str = ""
    path: str = ""  # a query, if there is one, is not told
    endpoint: str | None = None  # the template: /chat/completions/{completion_id}
    group: str | None = None
    model: str | None = None
    deployment: str | None = None
    scope: str | None = None
    reason: str | None = None
    attempts: list[Attempt]
    status: int | None = None
    outcome: str | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    first_byte_ms: float | None = None
    total_ms: float | None = None
    upstream_request_id: str | None = None
    usage: Usage | str | None = None
    cost: Decimal | None = None
    error: str | None = None

    def __init__(self, time: float, id: str, **known: Any) -> None:  # noqa: A002 - as the record has it
        self.time = time
        self.id = id
        self.attempts = []
        if known:
            self.__dict__.update(known)


FIELDS = tuple(ExchangeRecord.__annotations__)
OF_EXCHANGE = itemgetter(*FIELDS)
LINE = "{" + ",".join(f'"{name}":%s' for name in FIELDS) + "}"


USAGE_EXTRAS = ("cache_write_tokens", "seconds", "characters", "images", "service_tier")


def usage_fields(usage: Usage) -> dict[str, Any]:
    """Usage by SPEC §11's names, with what is rarer only where there is some."""
    fields: dict[str, Any] = {
        "input_tokens": usage.input_tokens,
        "cached_tokens": usage.cached_tokens,
        "output_tokens": usage.output_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "audio_tokens": usage.audio_tokens,
    }
    for name in USAGE_EXTRAS:
        value = getattr(usage, name)
        if value:
            fields[name] = value
    return fields


_second: tuple[int, str] = (-1, "")  # one tuple, replaced at once: two threads use it


def rfc3339(seconds: float) -> str:
    """A time since the epoch as RFC 3339 in UTC with milliseconds."""
    global _second  # noqa: PLW0603 - the same second is asked for thousands of times
    total = round(seconds * 1000)
    whole = total // 1000
    known, text = _second
    if known != whole:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
        _second = (whole, text)
    return f"{text}.{str(1000 + total)[-3:]}Z"  # a third of the time that a format with zeros takes


def _encode_list(values: Any) -> str:
    return "[" + ",".join([ENCODERS.get(type(value), encode_other)(value) for value in values]) + "]"


def _encode_mapping(values: Mapping[Any, Any]) -> str:
    items = [f"{encode_other(key)}:{ENCODERS.get(type(item), encode_other)(item)}" for key, item in values.items()]
    return "{" + ",".join(items) + "}"


# Not json.dumps: money is written to its last decimal, and no value whatever makes a line that is not JSON.
ENCODERS: dict[type, Callable[[Any], str]] = {
    str: encode_basestring_ascii,
    int: int.__repr__,
    float: lambda value: float.__repr__(value) if value - value == 0 else "null",  # NaN and infinities are not JSON
    bool: lambda value: "true" if value else "false",
    type(None): lambda _: "null",
    Decimal: lambda value: format(value, "f") if value.is_finite() else "null",
    list: _encode_list,
    tuple: _encode_list,
    dict: _encode_mapping,
}


def encode(value: Any) -> str:
    """Any value as strict JSON in ASCII; what JSON has no form for is its ``str``."""
    return ENCODERS.get(type(value), encode_other)(value)


def encode_other(value: Any) -> str:
    """A value that JSON has no form for, as its ``str``; keys of mappings too."""
    return encode_basestring_ascii(str(value))


def record_fields(exchange: ExchangeRecord, path: str) -> dict[str, Any]:
    """The fields by SPEC §11's names, as handlers see them, to the microsecond; ``path`` has no query any more."""
    return {
        "time": rfc3339(exchange.time),
        "id": exchange.id,
        "client": exchange.client,
        "method": exchange.method,
        "path": path,
        "endpoint": exchange.endpoint,
        "group": exchange.group,
        "model": exchange.model,
        "deployment": exchange.deployment,
        "scope": exchange.scope,
        "reason": exchange.reason,
        "attempts": [{**row, "ms": round(row["ms"], 3)} for row in exchange.attempts],
        "status": exchange.status,
        "outcome": exchange.outcome,
        "bytes_in": exchange.bytes_in,
        "bytes_out": exchange.bytes_out,
        "first_byte_ms": None if exchange.first_byte_ms is None else round(exchange.first_byte_ms, 3),
        "total_ms": None if exchange.total_ms is None else round(exchange.total_ms, 3),
        "upstream_request_id": exchange.upstream_request_id,
        "usage": usage_fields(exchange.usage) if isinstance(exchange.usage, Usage) else exchange.usage,
        "cost": exchange.cost,
        "error": exchange.error,
    }


def line_of(exchange: ExchangeRecord, path: str) -> str:
    """One exchange as ``JSONFormatter`` says it, without making the record: on the path of each exchange."""
    x, text = exchange, encode_basestring_ascii
    known = (x.client, x.method, path, x.endpoint, x.group, x.model, x.deployment, x.scope, x.reason)
    end, rows = (x.status, x.outcome), x.attempts
    usage, cost, upstream_id, error = x.usage, x.cost, x.upstream_request_id, x.error
    attempts = _attempt(rows[0]) if len(rows) == 1 else ",".join(map(_attempt, rows))
    return (
        f'{{"time":"{rfc3339(x.time)}","id":"{x.id}",{_pieces.get(known) or _piece(WHO, known)},"attempts":[{attempts}]'
        f',{_pieces.get(end) or _piece(END, end)},"bytes_in":{x.bytes_in},"bytes_out":{x.bytes_out}'
        f',"first_byte_ms":{"null" if x.first_byte_ms is None else f"{x.first_byte_ms:.3f}"}'
        f',"total_ms":{"null" if x.total_ms is None else f"{x.total_ms:.3f}"}'
        f',"upstream_request_id":{"null" if upstream_id is None else text(upstream_id)}'
        f',"usage":{"null" if usage is None else encode_usage(usage)}'
        f',"cost":{"null" if cost is None else format(cost, "f")},"error":{"null" if error is None else text(error)}}}'
    )


def _attempt(row: Attempt) -> str:
    known = (row["deployment"], row["outcome"], row["status"])
    return f'{{{_pieces.get(known) or _piece(HOW, known)},"ms":{row["ms"]:.3f}}}'


WHO = ("client", "method", "path", "endpoint", "group", "model", "deployment", "scope", "reason")
HOW = ("deployment", "outcome", "status")
END = ("status", "outcome")
MOST_PIECES = 512
_pieces: dict[tuple[str | int | None, ...], str] = {}  # what most exchanges have in common with others


def _piece(names: tuple[str, ...], known: tuple[str | int | None, ...]) -> str:
    """The members of a line that say who asked what and where it went, what came of an attempt, or of all."""
    if len(_pieces) >= MOST_PIECES:
        _pieces.clear()
    _pieces[known] = piece = ",".join([f'"{name}":{encode(value)}' for name, value in zip(names, known, strict=True)])
    return piece


def encode_usage(usage: Usage | str) -> str:
    """Usage as the record shows it."""
    if isinstance(usage, str):
        return encode_basestring_ascii(usage)
    x = usage
    if x.cache_write_tokens or x.seconds or x.characters or x.images or x.service_tier:
        return _encode_mapping(usage_fields(x))
    return (
        f'{{"input_tokens":{x.input_tokens},"cached_tokens":{x.cached_tokens},"output_tokens":{x.output_tokens}'
        f',"reasoning_tokens":{x.reasoning_tokens},"audio_tokens":{x.input_audio_tokens + x.output_audio_tokens}}}'
    )


class JSONFormatter(logging.Formatter):
    """One line of JSON: an exchange by SPEC §11's names, anything else as time, level, logger and message."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        values = record.__dict__
        if record.name == EXCHANGE and "attempts" in values:
            return LINE % tuple([ENCODERS.get(type(value), encode_other)(value) for value in OF_EXCHANGE(values)])
        line = {
            "time": rfc3339(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info and record.exc_info[0]:
            line["exception"] = self.formatException(record.exc_info)
        return _encode_mapping(line)


class HumanFormatter(logging.Formatter):
    """One line for people at a terminal; control characters that a client sent are shown, not obeyed."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end; an exception's traceback follows on its own lines."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        if record.name == EXCHANGE and "attempts" in record.__dict__:
            return f"{clock} {printable(record.getMessage())}{''.join(self._more(record.__dict__))}"
        line = f"{clock} {record.levelname.lower()}: {printable(record.getMessage())}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info and record.exc_info[0] else line

    def _more(self, values: dict[str, Any]) -> list[str]:
        more = []
        if values["first_byte_ms"] is not None:
            more.append(f", first byte {values['first_byte_ms']:.0f} ms")
        if len(values["attempts"]) > 1:
            more.append(f", {len(values['attempts'])} attempts")
        usage = values["usage"]
        if isinstance(usage, dict):
            more.append(f", {usage['input_tokens']}+{usage['output_tokens']} tokens")
        if values["cost"] is not None:
            more.append(f", ${values['cost']:f}")
        if values["error"]:
            more.append(f": {printable(values['error'])}")
        return more


def printable(text: str) -> str:
    """The text with anything that a terminal might obey written out as an escape."""
    return text if text.isprintable() else "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
