"""Each exchange as an OpenTelemetry span, with one child for each attempt. Only with ``logging.otel: true``.

The client's ``traceparent`` (W3C Trace Context) is the parent, and the attempt's own goes to the upstream, so that a
trace runs through. Where spans go, and how many, is what OpenTelemetry's own environment variables say
(``OTEL_EXPORTER_OTLP_ENDPOINT``, ``OTEL_TRACES_SAMPLER``, ...). Without ``otel`` nothing of it is imported.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from ..choosing.outcomes import Kind
from ..errors import ConfigError
from ..version import VERSION
from .genai import OPERATIONS, genai_attributes
from .lines import record_fields

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

    from ..config import LoggingSettings
    from ..errors import Fields
    from .lines import Attempt, ExchangeRecord

STOP_SECONDS = 2.0  # for spans that a collector has not taken yet; as for log records
LEAST_CLIENT_ERROR, LEAST_SERVER_ERROR = 400, 500
NOT_INSTALLED = (
    "logging.otel: the packages are missing: pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http"
)


class Tracing:
    """Makes the spans of one worker."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self.api = trace
        self.propagator = TraceContextTextMapPropagator()
        self.tracer = provider.get_tracer("passthrough", VERSION)
        self._provider = provider

    def begin(self, record: ExchangeRecord, traceparent: bytes = b"", tracestate: bytes = b"") -> ExchangeSpan:
        """Start the span of an exchange whose head was read; the client's field values are empty where absent."""
        carrier = {"traceparent": traceparent.decode("latin-1"), "tracestate": tracestate.decode("latin-1")}
        parent = self.propagator.extract(carrier)
        return ExchangeSpan(self, record, parent)

    def stop(self) -> None:
        """Send what is held, within ``STOP_SECONDS``, and end: a collector that is gone holds up nobody."""
        stopping = threading.Thread(target=self._provider.shutdown, name="passthrough-spans", daemon=True)
        stopping.start()
        stopping.join(STOP_SECONDS)


class ExchangeSpan:
    """The span of one exchange."""

    __slots__ = ("_attempts", "_context", "_record", "_span", "_tracing")

    def __init__(self, tracing: Tracing, record: ExchangeRecord, parent: Context) -> None:
        self._tracing = tracing
        self._record = record
        self._attempts: list[AttemptSpan] = []
        self._span = tracing.tracer.start_span(
            record.method or "exchange",
            parent,
            kind=tracing.api.SpanKind.SERVER,
            start_time=int(record.time * 1e9),
        )
        self._context = tracing.api.set_span_in_context(self._span, parent)

    def attempt(self, deployment: str) -> None:
        """Start the child for one try at a deployment, whose row the record has already."""
        began = time.time_ns()
        span = self._tracing.tracer.start_span(
            f"attempt {deployment}",
            self._context,
            kind=self._tracing.api.SpanKind.CLIENT,
            attributes={"passthrough.deployment": deployment},
            start_time=began,
        )
        self._attempts.append(AttemptSpan(self._tracing, span, began))

    def fields(self, deployment: str) -> Fields:
        """The field lines that make an upstream's spans children of the last attempt at it."""
        attempts = zip(reversed(self._attempts), reversed(self._record.attempts), strict=True)
        return next(attempt.fields() for attempt, row in attempts if row["deployment"] == deployment)

    def end(self) -> None:
        """The exchange is over and its record complete."""
        record, span = self._record, self._span
        for attempt, row in zip(self._attempts, record.attempts, strict=True):
            attempt.end(row)
        if span.is_recording():
            operation = OPERATIONS.get(record.endpoint or "")
            what = (operation, record.model) if operation else (record.method, record.endpoint)
            span.update_name(" ".join(word for word in what if word) or "exchange")
            span.set_attributes(genai_attributes(record_fields(record, record.path.partition("?")[0])))
            if record.status is None or record.status >= LEAST_SERVER_ERROR:
                span.set_status(self._tracing.api.Status(self._tracing.api.StatusCode.ERROR, record.error))
        span.end()


class AttemptSpan:
    """The span of one attempt, from its beginning to the head of its answer."""

    __slots__ = ("_began", "_span", "_tracing")

    def __init__(self, tracing: Tracing, span: Span, began: int) -> None:
        self._tracing = tracing
        self._span = span
        self._began = began  # nanoseconds since the epoch

    def fields(self) -> Fields:
        """The field lines that make the upstream's spans children of this one."""
        carrier: dict[str, str] = {}
        self._tracing.propagator.inject(carrier, self._tracing.api.set_span_in_context(self._span))
        return [(name.encode(), value.encode()) for name, value in carrier.items()]

    def end(self, row: Attempt) -> None:
        """The attempt is over: what became of it, and the upstream's status if there was one."""
        span, outcome, status = self._span, row["outcome"], row["status"]
        span.set_attribute("passthrough.outcome", outcome)
        if status is not None:
            span.set_attribute("http.response.status_code", status)
        if status is None or status >= LEAST_CLIENT_ERROR or outcome == Kind.BROKEN.value:
            span.set_attribute("error.type", outcome)
            span.set_status(self._tracing.api.Status(self._tracing.api.StatusCode.ERROR))
        span.end(self._began + int(row["ms"] * 1e6))


def open_tracing(settings: LoggingSettings) -> Tracing | None:
    """The worker's tracing, None where the file does not ask for it. Call it after the fork: it starts a thread.

    Raises ConfigError where it is asked for and not installed.
    """
    if not settings.otel:
        return None
    try:
        return Tracing(_provider())
    except ImportError:
        raise ConfigError([NOT_INSTALLED]) from None


def _provider() -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create()  # of OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": "passthrough"}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
