"""Every example of docs/logging.md, as it stands there, against the real handler and a local collector."""

from __future__ import annotations

import gzip
import json
import logging
import re
import socket
import struct
import subprocess
import sys
import threading
import warnings
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from relay.config import LoggingSettings
from relay.record.genai import genai_attributes
from relay.record.handlers import Failures, GenAIHandler, WebhookHandler, journal_field
from relay.record.lines import FIELDS, ExchangeRecord
from relay.record.log import EXCHANGE_LOGGER, emit, setup_logging
from relay.record.logqueue import LogQueue, QueueFront
from relay.record.usage import NAMES, UNMETERED, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCS = Path(__file__).parent.parent / "docs" / "logging.md"
EXAMPLES = dict(
    re.findall(
        r"^### (.+?)\n(?:(?!^###).)*?```yaml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
)
SERVER = logging.getLogger("passthrough.server")
WAIT = 10


def exchange(**changes: Any) -> ExchangeRecord:
    record = ExchangeRecord(
        time=1767225599.0125,
        id="req_1",
        method="POST",
        path="/v1/chat/completions",
        endpoint="/chat/completions",
        group="gpt-4",
        model="gpt-4",
        deployment="eu",
        attempts=[{"deployment": "eu", "outcome": "ok", "status": 200, "ms": 800.25}],
        status=200,
        outcome="ok",
        first_byte_ms=430.0,
        total_ms=812.7,
        usage=Usage(1117, 1024, 0, 5, 0, 46, 32, 6),
        cost=Decimal("7.0425E-4"),
    )
    for name, value in changes.items():
        setattr(record, name, value)
    return record


@pytest.fixture(autouse=True)
def tree() -> Iterator[None]:
    """The logging tree, as it was, and what a test configured, closed."""
    logger = logging.getLogger("passthrough")
    yield
    for handler in logger.handlers:
        handler.close()
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)


def run_example(name: str, replacements: dict[str, str], *records: ExchangeRecord) -> None:
    """Configure what the docs say under this heading, with local addresses, and log."""
    text = EXAMPLES[name]
    for written, local in replacements.items():
        assert text.count(written) == 1
        text = text.replace(written, local)
    stopper = setup_logging(LoggingSettings(dict_config=yaml.safe_load(text)["logging"]))
    for record in records:
        emit(record)
    SERVER.info("listening on %d", 4000)
    stopper.stop(WAIT)
    assert stopper.dropped == 0


class Collector(HTTPServer):
    """An HTTP server on loopback that keeps what it is sent."""

    def __init__(self, status: int = 200) -> None:
        super().__init__(("127.0.0.1", 0), Keeper)
        self.status = status
        self.heard: list[tuple[str, dict[str, str], bytes]] = []
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def stop(self) -> None:
        self.shutdown()
        self.thread.join(WAIT)
        self.server_close()


class Keeper(BaseHTTPRequestHandler):
    server: Collector
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            content = gzip.decompress(content)
        self.server.heard.append((self.path, dict(self.headers.items()), content))
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = Collector()
    yield server
    server.stop()


@pytest.fixture
def datagrams(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.settimeout(WAIT)
        yield listener


def test_there_is_a_test_for_every_example() -> None:
    tested = Path(__file__).read_text(encoding="utf-8")
    assert len(EXAMPLES) == 6
    for name in EXAMPLES:
        assert f'"{name}"' in tested


def test_the_docs_name_every_field_and_every_price() -> None:
    text = DOCS.read_text(encoding="utf-8")
    for name in (*FIELDS, *NAMES):
        assert f"`{name}`" in text


def test_a_rotated_file(tmp_path: Path) -> None:
    path = tmp_path / "exchanges.jsonl"
    run_example(
        "A file that is rotated",
        {"/var/log/passthrough/exchanges.jsonl": str(path), "104857600": "600"},
        exchange(id="one"),
        exchange(id="two"),
    )
    logging.getLogger("passthrough").handlers[0].close()
    lines = [json.loads(line) for file in ("exchanges.jsonl.2", "exchanges.jsonl.1", "exchanges.jsonl")
             for line in (tmp_path / file).read_text(encoding="utf-8").splitlines()]  # fmt: skip
    assert [line.get("id") for line in lines] == ["one", "two", None]
    assert lines[0]["usage"]["input_tokens"] == 1117
    assert lines[2]["message"] == "listening on 4000"


def test_syslog(datagrams: socket.socket) -> None:
    run_example("syslog", {"/dev/log": datagrams.getsockname()}, exchange())
    message = datagrams.recv(65_536)
    assert message.startswith(b'<30>passthrough: {"time":"2025-12-31T23:59:59.012Z","id":"req_1"')
    assert json.loads(message.rstrip(b"\0").partition(b": ")[2])["cost"] == 0.00070425
    assert b"listening on 4000" in datagrams.recv(65_536)


def journal_fields(datagram: bytes) -> dict[str, str]:
    """What journald reads from a datagram of its native protocol."""
    fields = {}
    while datagram:
        line, _, datagram = datagram.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (length,) = struct.unpack("<Q", datagram[:8])
            value, datagram = datagram[8 : 8 + length], datagram[9 + length :]
        fields[name.decode()] = value.decode()
    return fields


def test_the_journal(datagrams: socket.socket) -> None:
    run_example(
        "systemd's journal",
        {"/run/systemd/journal/socket": datagrams.getsockname()},
        exchange(status=502, error="two\nlines", client=None),
    )
    fields = journal_fields(datagrams.recv(65_536))
    assert (
        fields.items()
        >= {
            "MESSAGE": "POST /v1/chat/completions 502 in 813 ms at eu",
            "PRIORITY": "6",
            "SYSLOG_IDENTIFIER": "passthrough",
            "LOGGER": "passthrough.exchange",
            "PASSTHROUGH_STATUS": "502",
            "PASSTHROUGH_GROUP": "gpt-4",
            "PASSTHROUGH_COST": "0.00070425",
            "PASSTHROUGH_ERROR": "two\nlines",
        }.items()
    )
    assert "PASSTHROUGH_CLIENT" not in fields
    assert json.loads(fields["PASSTHROUGH_ATTEMPTS"])[0]["deployment"] == "eu"
    assert journal_fields(datagrams.recv(65_536))["MESSAGE"] == "listening on 4000"


def test_a_journal_that_is_not_there_is_counted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    settings = yaml.safe_load(EXAMPLES["systemd's journal"])["logging"]
    settings["handlers"]["journal"]["address"] = str(tmp_path / "nobody")
    stopper = setup_logging(LoggingSettings(dict_config=settings))
    emit(exchange())
    emit(exchange())
    stopper.stop(WAIT)
    assert stopper.dropped == 2
    assert capfd.readouterr().err.count("log handler JournalHandler failed") == 1


def test_fields_without_line_ends_are_plain() -> None:
    assert journal_field("A", "b=c") == b"A=b=c\n"


def attributes_of(pairs: Any) -> dict[str, Any]:
    values = {}
    for pair in pairs:
        kind = pair.value.WhichOneof("value")
        values[pair.key] = getattr(pair.value, kind)
    return values


def test_otlp(collector: Collector) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    pytest.importorskip("opentelemetry.instrumentation.logging")
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

    run_example("OpenTelemetry (OTLP)", {"127.0.0.1:4318": collector.address}, exchange())
    logging.getLogger("passthrough").handlers[0].close()  # sends what the exporter holds
    logs = []
    for path, _, content in collector.heard:
        assert path == "/v1/logs"
        for resource in ExportLogsServiceRequest.FromString(content).resource_logs:
            assert attributes_of(resource.resource.attributes)["service.name"] == "passthrough"
            logs += [log for scope in resource.scope_logs for log in scope.log_records]
    assert [log.body.string_value for log in logs] == [
        "POST /v1/chat/completions 200 in 813 ms at eu",
        "listening on 4000",
    ]
    assert attributes_of(logs[0].attributes) == {
        "gen_ai.provider.name": "openai",
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "gpt-4",
        "gen_ai.usage.input_tokens": 1117,
        "gen_ai.usage.output_tokens": 46,
        "gen_ai.usage.cache_read.input_tokens": 1024,
        "gen_ai.usage.reasoning.output_tokens": 32,
        "gen_ai.response.time_to_first_chunk": 0.43,
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/chat/completions",
        "url.path": "/v1/chat/completions",
        "passthrough.usage.audio_tokens": 11,
        "passthrough.id": "req_1",
        "passthrough.group": "gpt-4",
        "passthrough.deployment": "eu",
        "passthrough.outcome": "ok",
        "passthrough.bytes_in": 0,
        "passthrough.bytes_out": 0,
        "passthrough.total_ms": 812.7,
        "passthrough.cost_usd": 0.00070425,
        "passthrough.attempts": 1,
    }


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"usage": UNMETERED}, {"passthrough.unmetered": True}),
        ({"status": 429, "outcome": "rate_limited"}, {"error.type": "rate_limited", "http.response.status_code": 429}),
        ({"status": None, "outcome": None}, {"error.type": "None"}),
        ({"usage": Usage(seconds=Decimal("8.5"))}, {"passthrough.usage.seconds": 8.5}),
        ({"usage": Usage(images=2)}, {"passthrough.usage.images": 2}),
        ({"usage": None}, {"passthrough.attempts": 1}),
    ],
)  # fmt: skip
def test_genai_attributes_of_rarer_exchanges(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign, assignment]
    EXCHANGE_LOGGER.addHandler(handler)
    EXCHANGE_LOGGER.setLevel(logging.INFO)
    emit(exchange(endpoint="/files", first_byte_ms=None, **changes))
    EXCHANGE_LOGGER.removeHandler(handler)
    EXCHANGE_LOGGER.setLevel(logging.NOTSET)
    found = genai_attributes(records[0].__dict__)
    assert found.items() >= expected.items()
    assert "gen_ai.operation.name" not in found
    assert "gen_ai.response.time_to_first_chunk" not in found
    assert {type(value) for value in found.values()} <= {str, int, float, bool}


def test_an_adapter_without_a_provider_closes_what_is_inside() -> None:
    closed = []
    inner = logging.NullHandler()
    inner.close = lambda: closed.append(inner)  # type: ignore[method-assign]
    GenAIHandler(inner).close()
    assert closed == [inner]


def test_sentry(collector: Collector, capfd: pytest.CaptureFixture[str]) -> None:
    sentry_sdk = pytest.importorskip("sentry_sdk")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the SDK's own
        run_example(
            "Sentry",
            {"https://public@sentry.example.com/1": f"http://public@{collector.address}/1"},
            exchange(),
            exchange(id="req_2", status=502, error="upstream reset"),
        )
        sentry_sdk.flush(WAIT)
        sentry_sdk.get_client().close(WAIT)
    sent = [
        json.loads(line) for _, _, content in collector.heard for line in content.splitlines() if b'"logentry"' in line
    ]
    assert [event["extra"]["id"] for event in sent] == ["req_2"]
    assert sent[0]["environment"] == "production"
    assert sent[0]["logentry"]["message"] == "%s %s %s in %.0f ms at %s"
    assert sent[0]["extra"]["deployment"] == "eu"
    assert [line.get("id") for line in map(json.loads, capfd.readouterr().out.splitlines())] == ["req_1", "req_2", None]


def test_only_failures_pass_the_filter() -> None:
    def passes(name: str, level: int, **values: Any) -> bool:
        return Failures().filter(logging.makeLogRecord({"name": name, "levelno": level, **values}))

    assert passes("passthrough.exchange", logging.INFO, status=502)
    assert passes("passthrough.exchange", logging.INFO, status=None)
    assert not passes("passthrough.exchange", logging.INFO, status=429)
    assert passes("passthrough.server", logging.WARNING)
    assert not passes("passthrough.server", logging.INFO)


def test_a_webhook(collector: Collector) -> None:
    run_example(
        "An HTTP webhook",
        {"https://collector.example.com": f"http://{collector.address}"},
        exchange(id="one"),
        exchange(id="two"),
    )
    lines = [json.loads(line) for _, _, content in collector.heard for line in content.splitlines()]
    assert [line.get("id") for line in lines] == ["one", "two", None]
    for path, headers, _ in collector.heard:
        assert path == "/passthrough?source=eu"
        assert headers["Authorization"] == "Bearer collector-token"
        assert headers["Content-Type"] == "application/x-ndjson"


def post_through(url: str, number: int) -> LogQueue:
    handler, queue = WebhookHandler(url), LogQueue()
    front = QueueFront(queue, [handler])
    for _ in range(number):
        front.handle(logging.makeLogRecord({"msg": "x", "levelno": logging.INFO}))
    queue.stop(WAIT)
    handler.close()
    return queue


def test_a_webhook_that_refuses_is_counted(capfd: pytest.CaptureFixture[str]) -> None:
    server = Collector(status=503)
    queue = post_through(f"http://{server.address}", 1)
    server.stop()
    assert queue.dropped == 1
    assert "the webhook answered 503" in capfd.readouterr().err


def test_a_webhook_whose_connection_was_closed_is_tried_again(collector: Collector) -> None:
    handler = WebhookHandler(f"http://{collector.address}/")
    with socket.create_server(("127.0.0.1", 0)) as gone:
        handler._connection.sock = socket.create_connection(gone.getsockname())
        gone.accept()[0].close()
    handler.lines = ["{}"]
    handler.write_out()
    handler.close()
    assert [content for _, _, content in collector.heard] == [b"{}\n"]


def test_a_webhook_that_is_not_there_is_counted(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert post_through(f"http://127.0.0.1:{port}", 1).dropped == 1
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("url", ["ftp://x/", "collector.example.com", "http:///x"])
def test_a_webhook_needs_an_address(url: str) -> None:
    with pytest.raises(ValueError, match="begins with http"):
        WebhookHandler(url)


def test_a_webhook_may_be_https() -> None:
    handler = WebhookHandler("https://collector.example.com")
    assert handler._connection.port == 443
    handler.close()


def test_nothing_of_this_is_loaded_unless_it_is_named() -> None:
    names = ("relay.record.handlers", "relay.record.genai", "opentelemetry", "sentry_sdk", "http.client", "zlib")
    script = "import sys, relay.record.log, relay.record.metrics, relay.record.tap; "
    script += f"print([name for name in {names} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=DOCS.parent.parent, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"
