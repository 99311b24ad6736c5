"""The one record per exchange, and the way log records leave: formatted and written by a thread, never by the loop.

Loggers: ``passthrough.exchange`` (one record per exchange), ``passthrough.server``, ``passthrough.upstream``.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from decimal import Decimal
    from typing import TextIO

    from .config import LoggingSettings
    from .usage import Usage

EXCHANGE_LOGGER = logging.getLogger("passthrough.exchange")


class Attempt(TypedDict):
    """One try of an exchange at one deployment, as the record lists it."""

    deployment: str
    outcome: str
    status: int | None
    ms: float


@dataclass(slots=True)
class ExchangeRecord:
    """Everything that is told of one exchange (SPEC §11). Made when its head is read, filled in as it goes on.

    ``usage`` is None for endpoints that have none, ``UNMETERED`` where an answer should have said it and did not.
    """

    time: float  # seconds since the epoch at which the exchange began
    id: str
    client: str | None = None
    method: str = ""
    path: str = ""  # without its query
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


def emit(record: ExchangeRecord) -> None:
    """Say one exchange, once, on ``passthrough.exchange`` at INFO, its fields as record attributes."""
    raise NotImplementedError


class Stopper:
    """Ends what :func:`setup_logging` began."""

    __slots__ = ()

    @property
    def dropped(self) -> int:
        """How many records were dropped, since the queue was full or their handler failed."""
        raise NotImplementedError

    def stop(self, patience: float = 2.0) -> None:
        """Write what is queued, for at most ``patience`` seconds, and take the handlers off again."""
        raise NotImplementedError


def setup_logging(
    settings: LoggingSettings, *, level: str = "INFO", stream: TextIO | None = None, errors: TextIO | None = None
) -> Stopper:
    """Put the configured handlers, or the default ones, behind a bounded queue. Call it in each worker.

    By default exchange records go to ``stream`` (stdout), one JSON line each, and events of the process to ``errors``
    (stderr); both as lines for people where ``stream`` is a terminal, unless ``json_logs`` says otherwise.
    Raises ValueError where ``dict_config`` is not one.
    """
    raise NotImplementedError
