"""The one record per exchange (SPEC §11), how it reads, and where it goes.

Loggers: ``passthrough.exchange`` (one record per exchange), ``passthrough.server`` (events of the process),
``passthrough.upstream`` (events of deployments). Every handler stands behind a queue (``relay.record.logqueue``).
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import time
from dataclasses import dataclass, field
from decimal import Decimal
from json.encoder import encode_basestring_ascii
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypedDict

from .logqueue import LineWriter, LogQueue, QueueFront
from .usage import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TextIO

    from ..config import LoggingSettings

ROOT = "passthrough"
EXCHANGE = "passthrough.exchange"
EXCHANGE_LOGGER = logging.getLogger(EXCHANGE)


class Attempt(TypedDict):
    """One try of an exchange at one deployment, as the record lists it."""

    deployment: str
    outcome: str
    status: int | None
    ms: float


@dataclass(slots=True)
class ExchangeRecord:
    """Everything that is told of one exchange. Made when its head is read, filled in as it goes on.

    ``usage`` is None for endpoints that have none, ``UNMETERED`` where an answer should have said it and did not.
    Times are milliseconds but for ``time``; bytes are those of content, not of heads.
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
    attempts: list[Attempt] = field(default_factory=list)
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


FIELDS = tuple(ExchangeRecord.__dataclass_fields__)
OF_EXCHANGE = itemgetter(*FIELDS)


def emit(exchange: ExchangeRecord) -> None:
    """Say one exchange, once, on ``passthrough.exchange`` at INFO, its fields as record attributes.

    ``Logger.info(extra=...)`` would look for its caller, thread and process each time; they are always the same.
    """
    if not EXCHANGE_LOGGER.isEnabledFor(logging.INFO):
        return
    now = time.time()
    path = exchange.path.partition("?")[0]
    record = logging.LogRecord.__new__(logging.LogRecord)
    record.__dict__ = {
        **_same_in_all,
        "created": now,
        "msecs": now % 1 * 1000,
        "relativeCreated": (now - STARTED) * 1000,
        "args": (
            exchange.method if exchange.method.isprintable() else ascii(exchange.method),
            path if path.isprintable() else ascii(path),
            exchange.status,
            exchange.total_ms or 0,
            exchange.deployment or "nowhere",
        ),
        **record_fields(exchange, path),
    }
    EXCHANGE_LOGGER.handle(record)


def record_fields(exchange: ExchangeRecord, path: str) -> dict[str, Any]:
    """The fields by SPEC §11's names, as handlers see them; ``path`` has no query any more."""
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
        "attempts": exchange.attempts,
        "status": exchange.status,
        "outcome": exchange.outcome,
        "bytes_in": exchange.bytes_in,
        "bytes_out": exchange.bytes_out,
        "first_byte_ms": exchange.first_byte_ms,
        "total_ms": exchange.total_ms,
        "upstream_request_id": exchange.upstream_request_id,
        "usage": usage_fields(exchange.usage) if isinstance(exchange.usage, Usage) else exchange.usage,
        "cost": exchange.cost,
        "error": exchange.error,
    }


STARTED = time.time()
_same_in_all: dict[str, Any] = {}


def _forked() -> None:
    """Learn what all records of this process have in common."""
    message = "%s %s %s in %.0f ms at %s"
    record = logging.LogRecord(EXCHANGE, logging.INFO, __file__, 0, message, (), None, "emit")
    _same_in_all.update(record.__dict__)


_forked()
os.register_at_fork(after_in_child=_forked)

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
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    known, text = _second
    if known != whole:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
        _second = (whole, text)
    return f"{text}.{milliseconds:03d}Z"


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


class JSONFormatter(logging.Formatter):
    """One line of JSON: an exchange by SPEC §11's names, anything else as time, level, logger and message."""

    LINE = "{" + ",".join(f'"{name}":%s' for name in FIELDS) + "}"

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        values = record.__dict__
        if record.name == EXCHANGE and "attempts" in values:
            return self.LINE % tuple([ENCODERS.get(type(value), encode_other)(value) for value in OF_EXCHANGE(values)])
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


class Stopper:
    """Ends what :func:`setup_logging` began; used as a context manager it does so at the block's end."""

    def __init__(self, queue: LogQueue) -> None:
        self._queue = queue
        self._undo: list[Callable[[], object]] = []
        atexit.register(self.stop)

    @property
    def dropped(self) -> int:
        """How many records were dropped, since the queue was full or their handler failed."""
        return self._queue.dropped

    def stop(self, patience: float = 2.0) -> None:
        """Write what is queued, for at most ``patience`` seconds, and put the logging tree back as it was."""
        atexit.unregister(self.stop)
        while self._undo:
            self._undo.pop()()
        self._queue.stop(patience)

    def install(self, logger: logging.Logger, handlers: list[logging.Handler], *, propagate: bool = True) -> None:
        """Put one queue front in the place of a logger's handlers, which stand behind it from now on."""
        before, before_propagate = logger.handlers, logger.propagate
        logger.handlers, logger.propagate = handlers, propagate

        def undo() -> None:
            logger.handlers, logger.propagate = before, before_propagate

        self._undo.append(undo)

    def set_level(self, logger: logging.Logger, level: str) -> None:
        """Set a logger's level until ``stop``. Raises ValueError for a name that is none."""
        before = logger.level
        logger.setLevel(level.upper())
        self._undo.append(lambda: logger.setLevel(before))


def setup_logging(
    settings: LoggingSettings, *, level: str = "INFO", stream: TextIO | None = None, errors: TextIO | None = None
) -> Stopper:
    """Put the configured handlers, or the default ones, behind a bounded queue.

    By default exchange records go to ``stream`` (stdout), one JSON line each, and events of the process to ``errors``
    (stderr); both as lines for people where ``stream`` is a terminal, unless ``json_logs`` says otherwise.
    Raises ValueError where ``dict_config`` is not one, or ``level`` is no level.
    """
    queue = LogQueue()
    stopper = Stopper(queue)
    try:
        if settings.dict_config is None:
            stream = stream or sys.stdout
            as_json = not stream.isatty() if settings.json_logs is None else settings.json_logs
            _install_default(stopper, queue, stream, errors or sys.stderr, as_json=as_json)
        else:
            _install_configured(stopper, queue, settings.dict_config)
        logger = logging.getLogger(ROOT)
        if settings.dict_config is None or logger.level == logging.NOTSET:
            stopper.set_level(logger, level)
    except Exception:
        stopper.stop(0)
        raise
    return stopper


def _install_default(stopper: Stopper, queue: LogQueue, stream: TextIO, errors: TextIO, *, as_json: bool) -> None:
    formatter = JSONFormatter() if as_json else HumanFormatter()
    root = logging.getLogger()
    stopper.install(EXCHANGE_LOGGER, [QueueFront(queue, [LineWriter(queue, stream, formatter)])], propagate=False)
    stopper.install(root, [*root.handlers, QueueFront(queue, [LineWriter(queue, errors, formatter)])])


def _install_configured(stopper: Stopper, queue: LogQueue, settings: Mapping[str, Any]) -> None:
    """``disable_existing_loggers`` is true by default, which would silence our own loggers: here it is not."""
    import copy
    import logging.config  # lazy: only where the file has a ``logging`` section

    settings = copy.deepcopy(dict(settings))  # dictConfig puts the handlers it makes into the mapping it is given
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False, **settings})
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    for logger in loggers:
        if isinstance(logger, logging.Logger) and logger.handlers:
            stopper.install(logger, [QueueFront(queue, logger.handlers)], propagate=logger.propagate)
