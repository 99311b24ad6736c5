"""What one worker tells of its exchanges: it fills their records, counts them, and puts spans around them (SPEC §11).

The story says what happens (``begin``, ``attempt``, ``answered``, ``failed``, ...) and ends with ``settle``, from where
each exchange leaves exactly one record. Records are made in batches, a moment later: code that has just run runs
faster, and between two records of two exchanges stands all that serves one. The words of ``outcome`` are explained in
``docs/logging.md``.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING

from ..choosing.outcomes import WORDS, Kind
from ..patterns import late
from ..record.log import emit
from ..record.metrics import ProxyMetrics, observe
from ..record.usage import PriceList, Usage
from ..version import VERSION
from ..wire.fields import field_lines

if TYPE_CHECKING:
    from ..choosing.outcomes import Outcome
    from ..config import Deployment, LoggingSettings
    from ..errors import ProxyError
    from ..record.lines import Attempt
    from ..record.spans import ExchangeSpan, Tracing
    from ..record.usage import Meter
    from ..requests.downstream import Exchange
    from ..wire.heads import ResponseHead

LEFT = 499  # nginx's status for a client that left before it was answered
DRAINED = "drained"
REST = 0.02  # seconds that an exchange's record may wait for others
MOST_OVER = 64  # that wait; a batch takes less than a millisecond
TRACE_FIELDS = frozenset({b"traceparent", b"tracestate"})  # W3C Trace Context: replaced where spans are made
ERRORS = 400
# What an upstream's error code looks like. Any other text of an upstream stays out of the record: it may quote a key.
CODE = late(r"[a-z]+(?:_[a-z]+)*")
LONGEST_CODE = 64


class Recorder:
    """Keeps the books of one worker. Made inside its loop, after the fork."""

    def __init__(self, settings: LoggingSettings) -> None:
        """Raises ConfigError where spans are asked for and cannot be made."""
        self.metrics = ProxyMetrics(VERSION)
        self._loop = asyncio.get_running_loop()
        self._prices: dict[str, tuple[Deployment, PriceList]] = {}
        self._over: list[Exchange] = []
        self._tracing: Tracing | None = None
        if settings.otel:
            from ..record.spans import open_tracing  # lazy: all that it needs is installed only where it is asked for

            self._tracing = open_tracing(settings)

    # One exchange.

    def begin(self, exchange: Exchange) -> None:
        """The head of a request is there."""
        if self._tracing is not None:
            head = exchange.head
            exchange.span = self._tracing.begin(exchange.record, head.get(b"traceparent"), head.get(b"tracestate"))

    @staticmethod
    def attempt(exchange: Exchange, deployment: str) -> Attempt:
        """A try at a deployment begins. Its row of the record, to be filled in when it is known what became of it."""
        row: Attempt = {"deployment": deployment, "outcome": "", "status": None, "ms": 0.0}
        exchange.record.attempts.append(row)
        if exchange.span is not None:
            exchange.span.attempt(deployment)
        return row

    @staticmethod
    def answered(exchange: Exchange, deployment: Deployment, outcome: Outcome | None, head: ResponseHead) -> None:
        """An upstream's answer is about to be relayed."""
        record = exchange.record
        record.deployment, record.scope = deployment.id, deployment.scope
        record.upstream_request_id = head.get(b"x-request-id").decode("latin-1") or None
        if outcome is not None:
            record.outcome = WORDS[outcome.kind]
            record.error = told_by_upstream(outcome) if head.status >= ERRORS else None

    @staticmethod
    def used(exchange: Exchange, meter: Meter, deployment: Deployment) -> None:
        """Who knows what the answer of ``deployment`` used; it costs what that deployment's prices say."""
        exchange.meter = meter
        exchange.paid_to = deployment

    # How it ended, where it did not end well.

    @staticmethod
    def broken(exchange: Exchange, row: Attempt, error: ProxyError) -> None:
        """The upstream broke off an answer that had begun."""
        row["outcome"] = exchange.record.outcome = Kind.BROKEN.value
        exchange.record.error = detail_of(error)

    @staticmethod
    def failed(exchange: Exchange, error: ProxyError) -> None:
        """An error of our own ends the exchange."""
        record = exchange.record
        record.outcome, record.error = error.code or error.type, detail_of(error)

    @staticmethod
    def client_gone(exchange: Exchange) -> None:
        """The client left before it had its whole answer."""
        record = exchange.record
        where = "in the middle of the answer" if exchange.committed else "before it was answered"
        record.status, record.outcome, record.error = LEFT, Kind.CLIENT_GONE.value, f"the client left {where}"

    @staticmethod
    def drained(exchange: Exchange) -> None:
        """The time to drain was over before the exchange was."""
        exchange.record.outcome, exchange.record.error = DRAINED, "cut at the end of the drain"

    def settle(self, exchange: Exchange) -> None:
        """The exchange is over: leave its record. Our own pages leave none."""
        if exchange.is_local:
            return
        record = exchange.record
        record.total_ms = (monotonic() - exchange.started) * 1000
        for row in record.attempts:
            if not row["outcome"]:  # cut short: what ended the exchange ended the attempt
                row["outcome"] = record.outcome or ""
        over = self._over
        over.append(exchange)
        if len(over) >= MOST_OVER or exchange.span is not None:
            self.flush()
        elif len(over) == 1:
            self._loop.call_later(REST, self.flush)

    # What is made of the records.

    def flush(self) -> None:
        """Price, count and say the exchanges that are over."""
        over, self._over = self._over, []
        for exchange in over:
            record, deployment = exchange.record, exchange.paid_to
            if exchange.meter is not None:
                usage = record.usage = exchange.meter.usage
                if deployment is not None and deployment.prices and isinstance(usage, Usage):
                    record.cost = self._prices_of(deployment).price(usage)
            observe(self.metrics, record)
            if self._tracing is not None:
                span = exchange.span or self._tracing.begin(record)  # a head that was refused has none yet
                span.end()
        emit(*[exchange.record for exchange in over])

    def _prices_of(self, deployment: Deployment) -> PriceList:
        known = self._prices.get(deployment.id)
        if known is None or known[0] is not deployment:
            known = self._prices[deployment.id] = (deployment, PriceList(dict(deployment.prices)))
        return known[1]

    def stop(self) -> None:
        """Say what is left to say, and send the spans that are held, within bounded time."""
        self.flush()
        if self._tracing is not None:
            self._tracing.stop()


def trace_lines(span: ExchangeSpan, deployment: str) -> tuple[bytes, frozenset[bytes]]:
    """The field lines that carry the trace of the attempt just begun on, and the names that they replace."""
    return field_lines(span.fields(deployment)), TRACE_FIELDS


def detail_of(error: ProxyError) -> str:
    """What the record says of an error: more than the client is told, where there is more."""
    return getattr(error, "detail", "") or error.message


def told_by_upstream(outcome: Outcome) -> str:
    """What the record says of an upstream's error: its status, and its code if that is a code and nothing else."""
    code = outcome.code or ""
    known = len(code) <= LONGEST_CODE and CODE.fullmatch(code)
    return f"the upstream answered {outcome.status}" + (f": {code}" if known else "")
