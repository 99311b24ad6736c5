"""Where records and events go: the logging tree, with its handlers behind a queue (SPEC §11).

Loggers: ``passthrough.exchange`` (one record per exchange), ``passthrough.server`` (events of the process),
``passthrough.upstream`` (events of deployments). Every handler stands behind a queue (``relay.record.logqueue``).
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from .lines import EXCHANGE, HumanFormatter, JSONFormatter, line_of, record_fields
from .logqueue import LineWriter, LogQueue, QueueFront

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import TextIO

    from ..config import LoggingSettings
    from .lines import ExchangeRecord

__all__ = ["HumanFormatter", "JSONFormatter", "emit", "setup_logging"]  # the formatters by the names that files use

ROOT = "passthrough"
EXCHANGE_LOGGER = logging.getLogger(EXCHANGE)


def emit(*exchanges: ExchangeRecord) -> None:
    """Say exchanges, each once, on ``passthrough.exchange`` at INFO, their fields as record attributes."""
    if not EXCHANGE_LOGGER.isEnabledFor(logging.INFO):
        return
    handlers = EXCHANGE_LOGGER.handlers
    if len(handlers) == 1 and type(handlers[0]) is LineFront and not EXCHANGE_LOGGER.filters:
        handlers[0].say(exchanges)
        return
    for exchange in exchanges:
        EXCHANGE_LOGGER.handle(record_of(exchange, exchange.path.partition("?")[0]))


def record_of(exchange: ExchangeRecord, path: str) -> logging.LogRecord:
    """One exchange as a record of logging's.

    ``Logger.info(extra=...)`` would look for its caller, thread and process each time; they are always the same.
    """
    now = time.time()
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
    return record


class LineFront(QueueFront):
    """Stands before the default handler of exchanges, whose lines are made at once and mostly written at once.

    The thread would want the interpreter for each batch, and while it has it the loop stands still: that costs more
    than to make the lines.
    """

    def __init__(self, queue: LogQueue, writer: LineWriter) -> None:
        super().__init__(queue, [writer])
        self.writer = writer

    def say(self, exchanges: Iterable[ExchangeRecord]) -> None:
        """Make the lines of these, and let them go together."""
        queue, writer = self.queue, self.writer
        lines = []
        for exchange in exchanges:
            try:
                lines.append(line_of(exchange, exchange.path.partition("?")[0]))
            except Exception:  # noqa: BLE001 - no record is worth an exchange
                queue.count_failure(writer)
        queue.put_lines(writer, lines)
        queue.let_go(writer)


STARTED = time.time()
_same_in_all: dict[str, Any] = {}


def _forked() -> None:
    """Learn what all records of this process have in common."""
    message = "%s %s %s in %.0f ms at %s"
    record = logging.LogRecord(EXCHANGE, logging.INFO, __file__, 0, message, (), None, "emit")
    _same_in_all.update(record.__dict__)


_forked()
os.register_at_fork(after_in_child=_forked)


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
    writer = LineWriter(queue, stream, formatter)
    front = LineFront(queue, writer) if as_json else QueueFront(queue, [writer])
    stopper.install(EXCHANGE_LOGGER, [front], propagate=False)
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
