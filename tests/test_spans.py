"""Exchanges as spans: their names and attributes, the trace that runs through, and the way to a collector."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from relay.config import LoggingSettings
from relay.errors import ConfigError
from relay.record.genai import genai_attributes
from relay.record.lines import ExchangeRecord, record_fields
from relay.record.spans import Tracing, open_tracing
from relay.record.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk.trace import ReadableSpan

    from relay.record.lines import Attempt

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01".encode()


class Bench:
    """A tracing whose spans stay here."""

    def __init__(self, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False, **options)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracing = Tracing(provider)

    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.tracing.stop()


def exchange(**changes: Any) -> ExchangeRecord:
    record = ExchangeRecord(
        time=1767225599.5,
        id="req_1",
        method="POST",
        path="/v1/chat/completions?key=secret",
        endpoint="/chat/completions",
        group="gpt-4",
        model="gpt-4",
        deployment="eu",
        status=200,
        outcome="ok",
        usage=Usage(19, output_tokens=10),
        cost=Decimal("0.001"),
    )
    for name, value in changes.items():
        setattr(record, name, value)
    return record


def row(deployment: str, outcome: str, status: int | None, ms: float = 0.0) -> Attempt:
    return {"deployment": deployment, "outcome": outcome, "status": status, "ms": ms}


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_an_exchange_is_a_span_with_a_child_for_each_attempt(bench: Bench) -> None:
    record = exchange()
    span = bench.tracing.begin(record, PARENT, b"vendor=1")
    record.attempts = [row("us", "rate_limited", 429, 7.0)]
    span.attempt("us")
    record.attempts.append(row("eu", "ok", 200, 430.25))
    span.attempt("eu")
    lines = dict(span.fields("eu"))
    span.end()
    us, eu, whole = bench.spans()
    assert (whole.name, whole.kind, us.name, us.kind) == ("chat gpt-4", SpanKind.SERVER, "attempt us", SpanKind.CLIENT)
    assert whole.start_time == 1767225599_500_000_000
    assert f"{whole.context.trace_id:032x}" == TRACE
    assert whole.parent is not None
    assert f"{whole.parent.span_id:016x}" == "b7ad6b7169203331"
    for child, nanoseconds in ((us, 7_000_000), (eu, 430_250_000)):
        assert child.start_time is not None
        assert child.end_time == child.start_time + nanoseconds
        assert child.parent is not None
        assert child.parent.span_id == whole.context.span_id
    assert lines == {
        b"traceparent": f"00-{TRACE}-{eu.context.span_id:016x}-01".encode(),
        b"tracestate": b"vendor=1",
    }
    assert attributes(us) == {
        "passthrough.deployment": "us",
        "passthrough.outcome": "rate_limited",
        "http.response.status_code": 429,
        "error.type": "rate_limited",
    }
    assert us.status.status_code is StatusCode.ERROR
    assert eu.status.status_code is StatusCode.UNSET
    assert (
        attributes(whole).items()
        >= {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": "gpt-4",
            "gen_ai.usage.input_tokens": 19,
            "passthrough.cost_usd": 0.001,
            "url.path": "/v1/chat/completions",
        }.items()
    )
    assert "secret" not in str(attributes(whole))
    assert whole.status.status_code is StatusCode.UNSET


def test_without_a_parent_a_trace_begins_here(bench: Bench) -> None:
    for traceparent in (b"", b"nonsense", b"\xff"):
        span = bench.tracing.begin(exchange(), traceparent)
        span._record.attempts = [row("eu", "ok", 200)]
        span.attempt("eu")
        assert [name for name, _ in span.fields("eu")] == [b"traceparent"]
        span.end()
    wholes = bench.spans()[1::2]
    assert [span.parent for span in wholes] == [None, None, None]
    assert len({span.context.trace_id for span in wholes}) == 3


@pytest.mark.parametrize(
    ("changes", "name", "failed"),
    [
        ({"endpoint": "/files/{file_id}", "method": "GET"}, "GET /files/{file_id}", False),
        ({"endpoint": None}, "POST", False),
        ({"endpoint": None, "method": ""}, "exchange", False),
        ({"model": None}, "chat", False),
        ({"status": 404}, "chat gpt-4", False),
        ({"status": 502, "error": "upstream reset"}, "chat gpt-4", True),
        ({"status": None}, "chat gpt-4", True),
    ],
)
def test_names_and_failures(bench: Bench, changes: dict[str, Any], name: str, failed: bool) -> None:
    bench.tracing.begin(exchange(**changes)).end()
    (span,) = bench.spans()
    assert span.name == name
    assert (span.status.status_code is StatusCode.ERROR) is failed
    assert span.status.description == changes.get("error")


def test_a_model_that_is_no_text_can_be_sent_all_the_same() -> None:
    values = record_fields(exchange(model="m\ud800é"), "/")
    assert genai_attributes(values)["gen_ai.request.model"] == "m?é"


@pytest.mark.parametrize(
    ("outcome", "status", "failed"),
    [("connect_failed", None, True), ("client_error", 404, True), ("broken", 200, True), ("ok", 200, False)],
)
def test_what_became_of_an_attempt(bench: Bench, outcome: str, status: int | None, failed: bool) -> None:
    record = exchange(attempts=[row("eu", outcome, status)])
    span = bench.tracing.begin(record)
    span.attempt("eu")
    span.end()
    found = attributes(bench.spans()[0])
    assert found.get("error.type") == (outcome if failed else None)
    assert found.get("http.response.status_code") == status
    assert (bench.spans()[0].status.status_code is StatusCode.ERROR) is failed


def test_what_is_not_sampled_still_passes_the_trace_on() -> None:
    bench = Bench(sampler=ALWAYS_OFF)
    span = bench.tracing.begin(exchange(attempts=[row("eu", "ok", 200)]), PARENT)
    span.attempt("eu")
    traceparent = dict(span.fields("eu"))[b"traceparent"]
    span.end()
    assert bench.spans() == []
    assert traceparent.startswith(b"00-" + TRACE.encode())
    assert traceparent.endswith(b"-00")


def test_a_collector_that_takes_nothing_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck(TracerProvider):
        def shutdown(self) -> None:
            stuck.wait(10)

    stuck = threading.Event()
    monkeypatch.setattr("relay.record.spans.STOP_SECONDS", 0.01)
    began = time.monotonic()
    Tracing(Stuck(shutdown_on_exit=False)).stop()
    assert time.monotonic() - began < 5
    stuck.set()


class Keeper(BaseHTTPRequestHandler):
    heard: list[bytes]

    def do_POST(self) -> None:
        self.heard.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.mark.parametrize(("name", "service"), [(None, "passthrough"), ("mine", "mine")])
def test_spans_reach_a_collector(monkeypatch: pytest.MonkeyPatch, name: str | None, service: str) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    Keeper.heard = []
    server = HTTPServer(("127.0.0.1", 0), Keeper)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    if name:
        monkeypatch.setenv("OTEL_SERVICE_NAME", name)
    tracing = open_tracing(LoggingSettings(otel=True))
    assert tracing is not None
    tracing.begin(exchange()).end()
    tracing.stop()
    server.shutdown()
    thread.join(10)
    server.server_close()
    (resource,) = ExportTraceServiceRequest.FromString(b"".join(Keeper.heard)).resource_spans
    assert {pair.key: pair.value.string_value for pair in resource.resource.attributes}["service.name"] == service
    assert [span.name for scope in resource.scope_spans for span in scope.spans] == ["chat gpt-4"]


def test_nothing_is_made_or_imported_unless_it_is_asked_for() -> None:
    assert open_tracing(LoggingSettings()) is None
    script = (
        "import sys; from relay.record.spans import open_tracing; from relay.config import LoggingSettings;"
        "open_tracing(LoggingSettings()); print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"


def test_packages_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match="pip install opentelemetry-sdk"):
        open_tracing(LoggingSettings(otel=True))
