"""Metrics: what one record moves, the text as Prometheus' own parser reads it, workers summed, labels bounded."""

from __future__ import annotations

import json
import math
import os
import time
from bisect import bisect_left
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from relay.record import metrics as room
from relay.record import vitals as vitals_room
from relay.record.lines import ExchangeRecord
from relay.record.metrics import SECONDS, Gauge, ProxyMetrics, Registry, exposition, observe
from relay.record.usage import UNMETERED, Usage
from relay.record.vitals import VITALS, read_vitals

NAMES = {  # SPEC §11, to the letter
    "passthrough_exchanges_total": ("group", "deployment", "status"),
    "passthrough_attempts_total": ("deployment", "outcome"),
    "passthrough_in_flight": ("group",),
    "passthrough_first_byte_seconds": ("group",),
    "passthrough_duration_seconds": ("group",),
    "passthrough_bytes_total": ("direction",),
    "passthrough_tokens_total": ("group", "kind"),
    "passthrough_cost_usd_total": ("group",),
    "passthrough_unmetered_total": ("group",),
    "passthrough_cooling": ("deployment",),
    "passthrough_headroom_ratio": ("quota_group", "kind"),
    "passthrough_resources": (),
    "passthrough_log_dropped_total": (),
    "passthrough_build_info": ("version",),
}


def record(**changes: Any) -> ExchangeRecord:
    made = ExchangeRecord(
        time=0.0,
        id="req_1",
        group="gpt-4",
        deployment="eu",
        attempts=[
            {"deployment": "us", "outcome": "rate_limited", "status": 429, "ms": 12.5},
            {"deployment": "eu", "outcome": "ok", "status": 200, "ms": 800.25},
        ],
        status=200,
        bytes_in=1532,
        bytes_out=616,
        first_byte_ms=430.0,
        total_ms=812.0,
        usage=Usage(1117, 1024, 0, 5, 0, 46, 32, 6),
        cost=Decimal("0.00070425"),
    )
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def samples(*registries: Registry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Everything that the official parser finds in the text, by name and sorted labels."""
    text = exposition(json.loads(json.dumps(registry.snapshot())) for registry in registries).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def labelled(**labels: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(labels.items()))


def test_names_and_labels_are_those_of_the_specification() -> None:
    snapshot = ProxyMetrics("1.2.3").snapshot()
    assert {name: tuple(family["labels"]) for name, family in snapshot.items() if name not in VITALS} == NAMES
    assert set(snapshot) - set(NAMES) == set(VITALS)


def test_one_record_moves_every_family_that_it_touches() -> None:
    metrics = ProxyMetrics("1.2.3", dict)
    observe(metrics, record())
    metrics.in_flight.labels("gpt-4").value += 1
    metrics.headroom.labels("scope-eu", "tokens").value = 0.25
    found = samples(metrics)
    expected = {
        ("passthrough_exchanges_total", labelled(group="gpt-4", deployment="eu", status="200")): 1,
        ("passthrough_attempts_total", labelled(deployment="us", outcome="rate_limited")): 1,
        ("passthrough_attempts_total", labelled(deployment="eu", outcome="ok")): 1,
        ("passthrough_in_flight", labelled(group="gpt-4")): 1,
        ("passthrough_first_byte_seconds_sum", labelled(group="gpt-4")): 0.43,
        ("passthrough_first_byte_seconds_count", labelled(group="gpt-4")): 1,
        ("passthrough_duration_seconds_sum", labelled(group="gpt-4")): 0.812,
        ("passthrough_duration_seconds_count", labelled(group="gpt-4")): 1,
        ("passthrough_bytes_total", labelled(direction="in")): 1532,
        ("passthrough_bytes_total", labelled(direction="out")): 616,
        ("passthrough_tokens_total", labelled(group="gpt-4", kind="input")): 1117,
        ("passthrough_tokens_total", labelled(group="gpt-4", kind="cached")): 1024,
        ("passthrough_tokens_total", labelled(group="gpt-4", kind="output")): 46,
        ("passthrough_tokens_total", labelled(group="gpt-4", kind="reasoning")): 32,
        ("passthrough_tokens_total", labelled(group="gpt-4", kind="audio")): 11,
        ("passthrough_cost_usd_total", labelled(group="gpt-4")): 0.00070425,
        ("passthrough_unmetered_total", labelled(group="gpt-4")): 0,
        ("passthrough_headroom_ratio", labelled(quota_group="scope-eu", kind="tokens")): 0.25,
        ("passthrough_resources", ()): 0,
        ("passthrough_log_dropped_total", ()): 0,
        ("passthrough_build_info", labelled(version="1.2.3")): 1,
    }
    assert {key: value for key, value in found.items() if not key[0].endswith("_bucket")} == expected


def test_a_refusal_of_our_own_says_nothing_of_a_models_speed() -> None:
    metrics = ProxyMetrics("1", dict)
    observe(metrics, record(deployment=None, status=429))
    found = samples(metrics)
    assert found["passthrough_first_byte_seconds_count", labelled(group="gpt-4")] == 0
    assert found["passthrough_duration_seconds_count", labelled(group="gpt-4")] == 1


def test_buckets_count_all_that_is_at_or_below_their_bound() -> None:
    metrics = ProxyMetrics("1", dict)
    for milliseconds in (0, 5, 5.1, 430, 600_000, 600_001):
        observe(metrics, record(first_byte_ms=milliseconds))
    found = samples(metrics)
    buckets = {
        float(dict(labels)["le"]): value
        for (name, labels), value in found.items()
        if name == "passthrough_first_byte_seconds_bucket"
    }
    assert list(buckets) == [*SECONDS, math.inf]
    assert [buckets[bound] for bound in (0.005, 0.01, 0.25, 0.5, 300, 600, math.inf)] == [2, 3, 3, 4, 4, 5, 6]
    assert list(buckets.values()) == sorted(buckets.values())


@pytest.mark.parametrize(
    ("usage", "unmetered", "tokens"), [(UNMETERED, 1, 0), (None, 0, 0), (Usage(7), 0, 7), ("nonsense", 0, 0)]
)
def test_what_is_not_metered_is_counted_and_never_as_zero(usage: Any, unmetered: int, tokens: int) -> None:
    metrics = ProxyMetrics("1", dict)
    observe(metrics, record(usage=usage, cost=None))
    found = samples(metrics)
    assert found["passthrough_unmetered_total", labelled(group="gpt-4")] == unmetered
    assert found["passthrough_tokens_total", labelled(group="gpt-4", kind="input")] == tokens
    assert found["passthrough_cost_usd_total", labelled(group="gpt-4")] == 0


def test_an_exchange_that_got_nowhere_is_counted_under_none() -> None:
    metrics = ProxyMetrics("1", dict)
    observe(metrics, ExchangeRecord(0.0, "req_1", status=401))
    observe(metrics, ExchangeRecord(0.0, "req_2"))
    found = samples(metrics)
    assert found["passthrough_exchanges_total", labelled(group="none", deployment="none", status="401")] == 1
    assert found["passthrough_exchanges_total", labelled(group="none", deployment="none", status="none")] == 1
    assert found["passthrough_duration_seconds_count", labelled(group="none")] == 0


def test_workers_are_summed_and_gauges_say_how() -> None:
    one = ProxyMetrics("1", lambda: {"process_open_fds": 10, "process_start_time_seconds": 100.5})
    two = ProxyMetrics("1", lambda: {"process_open_fds": 7, "process_start_time_seconds": 99.5})
    for metrics, headroom in ((one, 0.5), (two, 0.25)):
        observe(metrics, record())
        metrics.in_flight.labels("gpt-4").value = 2
        metrics.headroom.labels("eu", "requests").value = headroom
        metrics.resources.labels().value = headroom * 100
    two.cooling.labels("eu").value = 1
    one.cooling.labels("eu").value = 0
    found = samples(one, two)
    assert found["passthrough_exchanges_total", labelled(group="gpt-4", deployment="eu", status="200")] == 2
    assert found["passthrough_duration_seconds_count", labelled(group="gpt-4")] == 2
    assert found["passthrough_duration_seconds_bucket", labelled(group="gpt-4", le="1")] == 2
    assert found["passthrough_duration_seconds_sum", labelled(group="gpt-4")] == 1.624
    assert found["passthrough_in_flight", labelled(group="gpt-4")] == 4
    assert found["passthrough_headroom_ratio", labelled(quota_group="eu", kind="requests")] == 0.25
    assert found["passthrough_resources", ()] == 50
    assert found["passthrough_cooling", labelled(deployment="eu")] == 1
    assert found["passthrough_build_info", labelled(version="1")] == 1
    assert found["process_open_fds", ()] == 17
    assert found["process_start_time_seconds", ()] == 99.5


def test_a_worker_alone_with_a_family_is_not_lost() -> None:
    one, two = Registry(), Registry()
    two.counter("only_total", "Here.").labels().value = 3
    one.counter("both_total", "There.", ("a",)).labels("x").value = 1
    two.counter("both_total", "There.", ("a",)).labels("y").value = 2
    assert samples(one, two) == {
        ("both_total", labelled(a="x")): 1,
        ("both_total", labelled(a="y")): 2,
        ("only_total", ()): 3,
    }


def test_every_family_has_its_help_and_type() -> None:
    metrics = ProxyMetrics("1")
    observe(metrics, record())
    text = exposition([metrics.snapshot()]).decode()
    for name in [*NAMES, *VITALS]:
        assert text.count(f"# HELP {name} ") == text.count(f"# TYPE {name} ") == 1
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["passthrough_first_byte_seconds"].type == "histogram"
    assert families["passthrough_exchanges"].type == "counter"
    assert families["passthrough_cooling"].type == "gauge"
    assert all(family.documentation for family in families.values())
    assert text.endswith("\n")


@given(st.text(), st.text())
def test_any_text_survives_in_labels_and_help(value: str, about: str) -> None:
    registry = Registry()
    registry.counter("x_total", about, ("name",)).labels(value).value = 1
    text = exposition([registry.snapshot()]).decode()
    assert len(text.split("\n")) == 4
    if "\r" not in value + about and not any(char in value + about for char in "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"):
        ((family),) = text_string_to_metric_families(text)
        assert family.samples[0].labels == {"name": value.encode("utf-8", "replace").decode()}


def test_a_backslash_a_quote_and_a_line_end_are_escaped() -> None:
    registry = Registry()
    registry.gauge("x", "a\\b\nc", ("name",)).labels('a\\b"c\nd\ud800').value = 1
    assert exposition([registry.snapshot()]) == (b'# HELP x a\\\\b\\nc\n# TYPE x gauge\nx{name="a\\\\b\\"c\\nd?"} 1\n')


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"),
        (1.0, "1"),
        (0.1, "0.1"),
        (1e-7, "1e-07"),
        (float("inf"), "+Inf"),
        (float("-inf"), "-Inf"),
        (float("nan"), "NaN"),
        (1 << 53, "9007199254740992"),
    ],
)
def test_values_are_written_as_prometheus_reads_them(value: float, text: str) -> None:
    assert room.number(value) == text


def test_labels_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MOST_CHILDREN", 3)
    metrics = ProxyMetrics("1", dict)
    for number in range(10):
        observe(metrics, record(status=200 + number))
    found = {
        labels: value for (name, labels), value in samples(metrics).items() if name == "passthrough_exchanges_total"
    }
    assert len(found) == 4
    assert sum(found.values()) == 10
    assert found[labelled(group="other", deployment="other", status="other")] == 7
    assert len(metrics._resolved) <= 3


def test_a_wrong_number_of_labels_is_a_fault_of_ours() -> None:
    with pytest.raises(ValueError, match="x_total has the labels"):
        Registry().counter("x_total", "x", ("a",)).labels("1", "2")


def test_a_cleared_gauge_forgets_what_a_reload_took_away() -> None:
    registry = Registry()
    gauge: Gauge = registry.gauge("x", "x", ("deployment",))
    gauge.labels("old").value = 1
    gauge.clear()
    gauge.labels("new").value = 1
    assert samples(registry) == {("x", labelled(deployment="new")): 1}


@given(st.lists(st.floats(0, 1000)))
def test_a_histogram_agrees_with_counting(values: list[float]) -> None:
    registry = Registry()
    child = registry.histogram("x", "x").labels()
    for value in values:
        child.observe(value)
    expected = [sum(bisect_left(SECONDS, value) <= place for value in values) for place in range(len(SECONDS) + 1)]
    found = samples(registry)
    assert [value for (name, _), value in found.items() if name == "x_bucket"] == expected
    assert found["x_count", ()] == len(values)


def test_the_processs_own_figures_are_its_own() -> None:
    held = bytearray(32 << 20)
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(5)]
    before = read_vitals()
    for file in files:
        os.close(file)
    after = read_vitals()
    assert set(before) == set(VITALS)
    assert before["process_open_fds"] - after["process_open_fds"] == 5
    assert len(held) < before["process_resident_memory_bytes"] < before["process_virtual_memory_bytes"]
    assert 0 < before["process_cpu_seconds_total"] <= after["process_cpu_seconds_total"]
    assert time.time() - 86_400 < before["process_start_time_seconds"] < time.time() + 60
    assert before["process_max_fds"] >= before["process_open_fds"]


def test_a_system_that_tells_nothing_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("no /proc here")

    monkeypatch.setattr(vitals_room, "_read", refuse)
    monkeypatch.setattr(os, "listdir", refuse)
    assert set(read_vitals()) == {"process_cpu_seconds_total", "process_max_fds"}
