"""What a running worker tells beside its records: spans that run through, and gauges as they are."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from http.server import HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from relay.answers.recording import detail_of, told_by_upstream
from relay.choosing.outcomes import Kind, Outcome
from relay.errors import Unavailable, UpstreamFailure
from tests.harness import OK, PATIENCE, POST_CHAT, config_over, deployment, get, post, proxy_for, proxy_over
from tests.processes import running
from tests.scripted import ScriptedUpstream, reset

if TYPE_CHECKING:
    from tests.harness import Proxy

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
TRACED = POST_CHAT.replace(b"Host: p\r\n", f"Host: p\r\nTraceparent: {PARENT}\r\ntracestate: vendor=1\r\n".encode())


# Spans.


async def test_a_trace_runs_through_and_each_attempt_is_a_child(up: ScriptedUpstream) -> None:
    pytest.importorskip("opentelemetry.sdk")
    from tests.test_spans import Bench, attributes

    bench = Bench()
    up.says(reset, OK)
    two = config_over(deployment("a", up.port), deployment("b", up.port))
    async with proxy_over(two) as proxy:
        proxy.worker.recorder._tracing = bench.tracing
        await proxy.exchange(TRACED)
        await proxy.exchange(b"GET / HTTP/1.1\r\n\r\n")
        await proxy.record(2)
        await proxy.exchange(get("/"))
    first, second, whole, refused = bench.spans()
    assert (whole.name, refused.name) == ("chat gpt-4", "exchange")
    assert f"{whole.context.trace_id:032x}" == TRACE
    assert attributes(whole)["passthrough.attempts"] == 2
    assert [attributes(span)["passthrough.outcome"] for span in (first, second)] == ["reset", "ok"]
    for span, heard in zip((first, second), up.requests, strict=True):
        assert span.parent is not None
        assert span.parent.span_id == whole.context.span_id
        assert f"\r\ntraceparent: 00-{TRACE}-{span.context.span_id:016x}-01\r\n".encode() in heard
        assert heard.lower().count(b"traceparent:") == heard.count(b"tracestate: vendor=1\r\n") == 1
    assert attributes(refused)["error.type"] == "bad_request"


async def test_without_spans_a_trace_passes_as_it_is(up: ScriptedUpstream) -> None:
    up.says(OK)
    async with proxy_for(up) as proxy:
        await proxy.exchange(TRACED)
    assert f"Traceparent: {PARENT}\r\ntracestate: vendor=1\r\n".encode() in up.heard


async def test_a_process_sends_its_spans_to_a_collector(up: ScriptedUpstream, tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    from tests.test_spans import Keeper

    up.says(OK)
    Keeper.heard = []
    server = HTTPServer(("127.0.0.1", 0), Keeper)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    config = tmp_path / "config.yaml"
    config.write_text(
        "logging: {otel: true}\nserver: {port: 0}\naffinity: {path: ':memory:'}\n"
        "general_settings: {master_key: sk-1234-of-the-proxy}\nmodel_list:\n- model_name: gpt-4\n"
        f"  litellm_params: {{model: gpt-4, api_key: sk-up, api_base: 'http://127.0.0.1:{up.port}/v1'}}\n"
    )
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}"}
    async with running(str(config), folder=tmp_path, environ=environ) as process:
        reader, writer = await asyncio.open_connection("127.0.0.1", await process.port())
        writer.write(TRACED)
        await asyncio.wait_for(reader.readuntil(b"{}"), PATIENCE)
        writer.close()
    server.shutdown()
    thread.join(10)
    server.server_close()
    (resource,) = ExportTraceServiceRequest.FromString(b"".join(Keeper.heard)).resource_spans
    spans = [span for scope in resource.scope_spans for span in scope.spans]
    assert sorted(span.name.partition(" ")[0] for span in spans) == ["attempt", "chat"]
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    assert f"00-{TRACE}-{spans[0].span_id.hex()}-01".encode() in up.heard


def test_an_exchange_imports_nothing_for_spans_or_handlers_that_nobody_asked_for() -> None:
    script = """
import asyncio, sys
from tests.harness import POST_CHAT, proxy_for
from tests.scripted import ScriptedUpstream
async def main():
    up = ScriptedUpstream()
    up.says(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\n{}")
    await up.start()
    async with proxy_for(up) as proxy:
        assert b"200 OK" in await proxy.exchange(POST_CHAT)
        await proxy.record()
    await up.close()
asyncio.run(main())
heavy = ("opentelemetry", "requests", "google", "sentry_sdk")
heavy += ("relay.record.spans", "relay.record.genai", "relay.record.handlers")
print([name for name in sys.modules if name.startswith(heavy)])
"""
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"


# Gauges.


def found(proxy: Proxy, text: bytes) -> dict[tuple[str, ...], float]:
    """Every sample of our own gauges, by name and label values."""
    return {
        (sample.name.removeprefix("passthrough_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text.partition(b"\r\n\r\n")[2].decode())
        for sample in family.samples
        if family.type == "gauge" and sample.name.startswith("passthrough_") and "version" not in sample.labels
    }


async def test_gauges_tell_how_it_is_now(up: ScriptedUpstream) -> None:
    gate, asked = asyncio.Event(), asyncio.Event()

    async def wait(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await asyncio.wait_for(gate.wait(), PATIENCE)
        writer.write(OK)

    limits = (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nx-ratelimit-limit-requests: 1000\r\n"
        b"x-ratelimit-remaining-requests: 250\r\nx-ratelimit-reset-requests: 6000s\r\n\r\n{}"
    )
    made = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n{"id":"file-1"}'
    limited = b"HTTP/1.1 429 No\r\nRetry-After: 50\r\nContent-Length: 0\r\n\r\n"
    up.says(limited, limits, made, wait)
    two = config_over(deployment("a", up.port), deployment("b", up.port, order=1))
    async with proxy_over(two) as proxy:
        await proxy.exchange(POST_CHAT, post("files", b"{}"))
        waiting = asyncio.create_task(proxy.exchange(POST_CHAT))
        await asyncio.wait_for(asked.wait(), PATIENCE)
        proxy.worker.dropped = lambda: 3
        text = await proxy.exchange(get("/metrics"))
        gate.set()
        await waiting
        await proxy.record(3)
        after = await proxy.exchange(get("/metrics"))
    assert b"passthrough_log_dropped_total 3\n" in text
    gauges = found(proxy, text)
    shares = [gauges.pop(key) for key in list(gauges) if key[0] == "headroom_ratio"]
    assert all(0.25 <= share < 0.26 for share in shares)
    assert shares
    resources = 2  # the file, and that this client has made things
    assert gauges == {("in_flight", "gpt-4"): 1, ("cooling", "a"): 1, ("cooling", "b"): 0, ("resources",): resources}
    assert found(proxy, after)["in_flight", "gpt-4"] == 0


# Words.


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (None, "the upstream answered 429"),
        ("rate_limit_exceeded", "the upstream answered 429: rate_limit_exceeded"),
        ("sk-proj-AbC123", "the upstream answered 429"),
        ("a" * 65, "the upstream answered 429"),
        ("two words", "the upstream answered 429"),
    ],
)
def test_only_what_is_a_code_is_told_of_an_upstreams_error(code: str | None, text: str) -> None:
    assert told_by_upstream(Outcome(Kind.RATE_LIMITED, 429, code=code)) == text


def test_a_record_may_say_more_than_the_client_is_told() -> None:
    assert (
        detail_of(UpstreamFailure("It failed.", sent=True, detail="10.0.0.1:443: refused")) == "10.0.0.1:443: refused"
    )
    assert detail_of(UpstreamFailure("It failed.", sent=True)) == "It failed."
    assert detail_of(Unavailable("Full.")) == "Full."
