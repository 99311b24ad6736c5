"""Counters, gauges and histograms, and their Prometheus text. One event loop, so no locks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .log import ExchangeRecord

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


class Child:
    """One labelled value of a family: add to ``value``, or set it."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0


class Counter:
    """A family that only grows. ``labels(*values)`` gives the child for these label values."""

    def labels(self, *values: str) -> Child:
        """The child for these label values, made at its first use."""
        raise NotImplementedError


class Gauge(Counter):
    """A family that goes up and down; ``merge`` says how workers' values become one: sum, max or min."""


class Histogram:
    """Observations in buckets."""

    def observe(self, value: float, *labels: str) -> None:
        """Count one observation."""
        raise NotImplementedError


class Registry:
    """All families of this worker. ``snapshot`` is JSON-able; ``exposition`` is what ``/metrics`` answers."""

    def counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        """Add a counter family."""
        raise NotImplementedError

    def gauge(self, name: str, text: str, labels: tuple[str, ...] = (), *, merge: str = "sum") -> Gauge:
        """Add a gauge family."""
        raise NotImplementedError

    def histogram(self, name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Histogram:
        """Add a histogram family."""
        raise NotImplementedError

    def snapshot(self) -> dict[str, Any]:
        """All values of this worker, as JSON can carry them to another."""
        raise NotImplementedError


def exposition(snapshots: Iterable[dict[str, Any]]) -> bytes:
    """The Prometheus text of one worker, or of several summed."""
    raise NotImplementedError


class ProxyMetrics(Registry):
    """The families of SPEC §11, as attributes: ``exchanges``, ``attempts``, ``in_flight``, ``first_byte``,
    ``duration``, ``bytes``, ``tokens``, ``cost``, ``unmetered``, ``cooling``, ``headroom``, ``resources``,
    ``log_dropped``. Gauges are set by the caller before a ``snapshot``; ``process_*`` are read by it.
    """

    def __init__(self, version: str) -> None:
        raise NotImplementedError


def observe(metrics: ProxyMetrics, record: ExchangeRecord) -> None:
    """Count one finished exchange in every family that it touches."""
    raise NotImplementedError
