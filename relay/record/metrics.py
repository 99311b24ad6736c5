"""Counters, gauges and histograms, and their Prometheus text (exposition format 0.0.4). One event loop, so no locks.

A worker's families become a snapshot, which JSON can carry; ``exposition`` makes the text of one or of several.
Labels are bounded: beyond ``MOST_CHILDREN`` of a family the rest is counted together as ``other``.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from .usage import UNMETERED, Usage
from .vitals import VITALS, read_vitals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .lines import ExchangeRecord

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
MOST_CHILDREN = 1000
OTHER = "other"
LE = 'le="%s"'
NONE = "none"  # an exchange that got as far as no group, or no deployment
# A model answers its first byte after 5 ms (a cache) to ten minutes (the default timeout).
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
MERGES: dict[str, Callable[[float, float], float]] = {"sum": lambda one, two: one + two, "max": max, "min": min}


class Child:
    """One labelled value: add to ``value``, or set it."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def state(self) -> float:
        """What a snapshot keeps."""
        return self.value


class Distribution:
    """One labelled histogram: how many observations fell into each bucket, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # the last is beyond every bound
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one observation in the first bucket whose bound is not below it (``le``: less or equal)."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def state(self) -> list[Any]:
        """What a snapshot keeps."""
        return [list(self.counts), self.sum]


class Family:
    """A name, its labels, and the children for the label values seen so far."""

    kind = "untyped"

    def __init__(self, name: str, text: str, labels: tuple[str, ...], merge: str = "sum") -> None:
        self.name = name
        self.text = text
        self.label_names = labels
        self.merge = merge
        self._children: dict[tuple[str, ...], Any] = {}

    def clear(self) -> None:
        """Forget every child: for gauges whose deployments a reload took away."""
        self._children.clear()

    def snapshot(self) -> dict[str, Any]:
        """The family as JSON can carry it."""
        children = [[list(values), child.state()] for values, child in self._children.items()]
        return {
            "kind": self.kind,
            "text": self.text,
            "labels": self.label_names,
            "merge": self.merge,
            "children": children,
        }

    def _child(self, values: tuple[str, ...], make: Callable[[], Any]) -> Any:
        """The child for label values that have none yet."""
        if len(values) != len(self.label_names):
            raise ValueError(f"{self.name} has the labels {self.label_names}, got {values}")
        if len(self._children) >= MOST_CHILDREN:
            values = (OTHER,) * len(values)
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = make()
        return child


class Counter(Family):
    """A family that only grows."""

    kind = "counter"

    def labels(self, *values: str) -> Child:
        """The child for these label values, made at its first use."""
        child: Child = self._children.get(values) or self._child(values, Child)
        return child

    def total(self) -> float:
        """The sum over all labels."""
        children: Iterable[Child] = self._children.values()
        return sum(child.value for child in children)


class Gauge(Counter):
    """A family that goes up and down; ``merge`` says how workers' values become one: sum, max or min."""

    kind = "gauge"


class Histogram(Family):
    """A family of observations in buckets."""

    kind = "histogram"

    def __init__(self, name: str, text: str, labels: tuple[str, ...], bounds: tuple[float, ...]) -> None:
        super().__init__(name, text, labels)
        self.bounds = bounds

    def labels(self, *values: str) -> Distribution:
        """The child for these label values, made at its first use."""
        child: Distribution = self._children.get(values) or self._child(values, lambda: Distribution(self.bounds))
        return child

    def snapshot(self) -> dict[str, Any]:
        """The family as JSON can carry it, with its bounds."""
        return super().snapshot() | {"bounds": self.bounds}


class Registry:
    """All families of a worker, in the order in which they are shown."""

    def __init__(self) -> None:
        self._families: dict[str, Family] = {}

    def counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        """Add a counter family."""
        self._families[name] = family = Counter(name, text, labels)
        return family

    def gauge(self, name: str, text: str, labels: tuple[str, ...] = (), *, merge: str = "sum") -> Gauge:
        """Add a gauge family."""
        self._families[name] = family = Gauge(name, text, labels, merge)
        return family

    def histogram(
        self, name: str, text: str, labels: tuple[str, ...] = (), *, bounds: tuple[float, ...] = SECONDS
    ) -> Histogram:
        """Add a histogram family; ``bounds`` ascend, and one beyond them is implied."""
        self._families[name] = family = Histogram(name, text, labels, bounds)
        return family

    def snapshot(self) -> dict[str, Any]:
        """All values of this worker, as JSON can carry them to another."""
        return {name: family.snapshot() for name, family in self._families.items()}


class ProxyMetrics(Registry):
    """The families of SPEC §11, as attributes.

    ``in_flight``, ``cooling``, ``headroom``, ``resources`` and ``log_dropped`` are set before a ``snapshot`` (see
    ``relay.record.gauges``), which reads the process' own figures itself. All else is ``observe``'s.
    """

    def __init__(self, version: str, vitals: Callable[[], Mapping[str, float]] = read_vitals) -> None:
        super().__init__()
        self._vitals = vitals
        self._resolved: dict[tuple[str | None, str | None, int | None], Resolved] = {}
        name = "passthrough_"
        self.exchanges = self.counter(
            name + "exchanges_total",
            "Exchanges that ended, by the status the client got.",
            ("group", "deployment", "status"),
        )
        self.attempts = self.counter(
            name + "attempts_total",
            "Tries of exchanges at deployments, by what became of them.",
            ("deployment", "outcome"),
        )
        self.in_flight = self.gauge(name + "in_flight", "Exchanges under way.", ("group",))
        self.first_byte = self.histogram(name + "first_byte_seconds", "Time to the response's first byte.", ("group",))
        self.duration = self.histogram(name + "duration_seconds", "Time to the response's last byte.", ("group",))
        self.bytes = self.counter(name + "bytes_total", "Bytes of content, from and to clients.", ("direction",))
        self.tokens = self.counter(
            name + "tokens_total",
            "Tokens used; cached ones are part of input, reasoning ones of output, audio ones of either.",
            ("group", "kind"),
        )
        self.cost = self.counter(name + "cost_usd_total", "US dollars, by the prices in the configuration.", ("group",))
        self.unmetered = self.counter(
            name + "unmetered_total", "Answers that did not say what they used, though their kind does.", ("group",)
        )
        self.cooling = self.gauge(
            name + "cooling", "1 while a deployment is out of selection, in any worker.", ("deployment",), merge="max"
        )
        self.headroom = self.gauge(
            name + "headroom_ratio",
            "What the rate limits leave, 0 to 1, as the upstream last said; the least that a worker knows.",
            ("quota_group", "kind"),
            merge="min",
        )
        self.resources = self.gauge(name + "resources", "Resource ids whose scope is known.", merge="max")
        self.log_dropped = self.counter(
            name + "log_dropped_total", "Log records dropped since a handler was slow or failed."
        )
        self.gauge(name + "build_info", "Always 1.", ("version",), merge="max").labels(version).value = 1
        self.resources.labels().value = self.log_dropped.labels().value = 0  # shown from the start
        self._process = {key: self._vital(key, *about) for key, about in VITALS.items()}

    def _vital(self, name: str, kind: str, text: str, merge: str) -> Counter:
        return self.counter(name, text) if kind == "counter" else self.gauge(name, text, merge=merge)

    def snapshot(self) -> dict[str, Any]:
        """All values of this worker, the process' own read now."""
        for name, value in self._vitals().items():
            self._process[name].labels().value = value
        return super().snapshot()

    def resolved(self, group: str | None, deployment: str | None, status: int | None) -> Resolved:
        """The children that an exchange of this kind touches, looked up once."""
        key = (group, deployment, status)
        resolved = self._resolved.get(key)
        if resolved is None:
            if len(self._resolved) >= MOST_CHILDREN:
                self._resolved.clear()
            resolved = self._resolved[key] = Resolved(self, group or NONE, deployment or NONE, str(status or NONE))
        return resolved


class Resolved:
    """The children of every family for one group, deployment and status."""

    __slots__ = (
        "audio", "bytes_in", "bytes_out", "cached", "cost", "duration", "exchanges", "first_byte", "input",
        "output", "reasoning", "unmetered",
    )  # fmt: skip

    def __init__(self, metrics: ProxyMetrics, group: str, deployment: str, status: str) -> None:
        self.exchanges = metrics.exchanges.labels(group, deployment, status)
        self.first_byte = metrics.first_byte.labels(group)
        self.duration = metrics.duration.labels(group)
        self.bytes_in = metrics.bytes.labels("in")
        self.bytes_out = metrics.bytes.labels("out")
        self.input = metrics.tokens.labels(group, "input")
        self.cached = metrics.tokens.labels(group, "cached")
        self.output = metrics.tokens.labels(group, "output")
        self.reasoning = metrics.tokens.labels(group, "reasoning")
        self.audio = metrics.tokens.labels(group, "audio")
        self.cost = metrics.cost.labels(group)
        self.unmetered = metrics.unmetered.labels(group)

    def add_usage(self, usage: Usage) -> None:
        """Count what an answer used."""
        self.input.value += usage.input_tokens
        self.cached.value += usage.cached_tokens
        self.output.value += usage.output_tokens
        self.reasoning.value += usage.reasoning_tokens
        self.audio.value += usage.input_audio_tokens + usage.output_audio_tokens


def observe(metrics: ProxyMetrics, record: ExchangeRecord) -> None:
    """Count one finished exchange in every family that it touches."""
    deployment, first_byte, total, usage = record.deployment, record.first_byte_ms, record.total_ms, record.usage
    children = metrics.resolved(record.group, deployment, record.status)
    children.exchanges.value += 1
    children.bytes_in.value += record.bytes_in
    children.bytes_out.value += record.bytes_out
    for attempt in record.attempts:
        metrics.attempts.labels(attempt["deployment"], attempt["outcome"]).value += 1
    if first_byte is not None and deployment is not None:  # our own refusals are no model's speed
        children.first_byte.observe(first_byte / 1000)
    if total is not None:
        children.duration.observe(total / 1000)
    if isinstance(usage, Usage):
        children.add_usage(usage)
    elif usage == UNMETERED:
        children.unmetered.value += 1
    if record.cost is not None:
        children.cost.value += float(record.cost)


def exposition(snapshots: Iterable[Mapping[str, Any]]) -> bytes:
    """The Prometheus text of one worker's snapshot, or of several as one."""
    families: dict[str, tuple[Mapping[str, Any], dict[tuple[str, ...], Any]]] = {}
    for snapshot in snapshots:
        for name, family in snapshot.items():
            _, children = families.setdefault(name, (family, {}))
            for values, state in family["children"]:
                key = tuple(values)
                children[key] = merged(family, children[key], state) if key in children else state
    return "".join([text_of(name, family, children) for name, (family, children) in families.items()]).encode()


def merged(family: Mapping[str, Any], one: Any, two: Any) -> Any:
    """One child's state in two workers as one."""
    if family["kind"] == "histogram":
        return [[a + b for a, b in zip(one[0], two[0], strict=True)], one[1] + two[1]]
    return MERGES[family["merge"]](one, two)


def text_of(name: str, family: Mapping[str, Any], children: Mapping[tuple[str, ...], Any]) -> str:
    """The lines of one family."""
    about = family["text"].replace("\\", "\\\\").replace("\n", "\\n")
    lines = [f"# HELP {name} {about}", f"# TYPE {name} {family['kind']}"]
    for values, state in children.items():
        labels = [f'{label}="{escaped(value)}"' for label, value in zip(family["labels"], values, strict=True)]
        if family["kind"] == "histogram":
            lines += histogram_lines(name, labels, family["bounds"], state)
        else:
            lines.append(f"{name}{braced(labels)} {number(state)}")
    return "\n".join(lines) + "\n"


def histogram_lines(name: str, labels: list[str], bounds: Iterable[float], state: list[Any]) -> list[str]:
    """The lines of one histogram: each bucket counts all that is at or below its bound."""
    counts, total = state
    totals = list(accumulate(counts))
    edges = [*(number(float(bound)) for bound in bounds), "+Inf"]
    lines = [f"{name}_bucket{braced([*labels, LE % edge])} {count}" for edge, count in zip(edges, totals, strict=True)]
    return [*lines, f"{name}_sum{braced(labels)} {number(total)}", f"{name}_count{braced(labels)} {totals[-1]}"]


def braced(labels: list[str]) -> str:
    """The label part of a line, if there is one."""
    return "{" + ",".join(labels) + "}" if labels else ""


def escaped(value: str) -> str:
    """A label value between its quotes; lone surrogates are no UTF-8 and become question marks."""
    value = value.encode("utf-8", "replace").decode()
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def number(value: float) -> str:
    """A value as Prometheus reads it: whole numbers without a point, infinities with their sign."""
    if value != value or value in (float("inf"), float("-inf")):  # noqa: PLR0124 - NaN alone differs from itself
        return {"nan": "NaN", "inf": "+Inf", "-inf": "-Inf"}[str(value)]
    return str(int(value)) if value == int(value) else repr(value)
