"""What workers leave behind."""

from __future__ import annotations

import json
from typing import Any

from relay.record.metrics import Registry, exposition
from relay.record.totals import added, counted


def snapshot(asked: dict[str, int], times: list[float], cooling: int) -> dict[str, Any]:
    """A worker's metrics, as they come over the line."""
    registry = Registry()
    counter = registry.counter("asked_total", "Asked.", ("who",))
    gauge = registry.gauge("cooling", "Cooling.", merge="max")
    histogram = registry.histogram("seconds", "Time.", (), bounds=(1.0, 2.0))
    for who, count in asked.items():
        counter.labels(who).value = count
    for seconds in times:
        histogram.labels().observe(seconds)
    gauge.labels().value = cooling
    result: dict[str, Any] = json.loads(json.dumps(registry.snapshot()))
    return result


def test_counters_and_histograms_are_kept_and_gauges_are_not() -> None:
    total: dict[str, Any] = {}
    for one in (snapshot({"a": 1, "b": 2}, [0.5], 1), snapshot({"b": 3, "c": 4}, [1.5, 9.0], 1)):
        total = added(total, counted(one))
    live = snapshot({"a": 10}, [0.5], 0)
    assert exposition([live, json.loads(json.dumps(total))]).decode().splitlines() == [
        "# HELP asked_total Asked.",
        "# TYPE asked_total counter",
        'asked_total{who="a"} 11',
        'asked_total{who="b"} 5',
        'asked_total{who="c"} 4',
        "# HELP cooling Cooling.",
        "# TYPE cooling gauge",
        "cooling 0",
        "# HELP seconds Time.",
        "# TYPE seconds histogram",
        'seconds_bucket{le="1"} 2',
        'seconds_bucket{le="2"} 3',
        'seconds_bucket{le="+Inf"} 4',
        "seconds_sum 11.5",
        "seconds_count 4",
    ]


def test_what_is_added_to_does_not_change() -> None:
    one, two = counted(snapshot({"a": 1}, [], 0)), counted(snapshot({"a": 2}, [], 0))
    before = json.dumps([one, two])
    added(one, two)
    assert json.dumps([one, two]) == before
