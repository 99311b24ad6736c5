"""The gauges of one worker, brought up to date when somebody asks (SPEC §11)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .metrics import ProxyMetrics


class Observed(Protocol):
    """What this room asks of the router."""

    def cooling(self, now: float) -> Iterator[tuple[str, bool]]: ...  # noqa: D102 - as there
    def headroom(self, now: float) -> Iterator[tuple[str, str, float]]: ...  # noqa: D102


def snapshot(
    metrics: ProxyMetrics, router: Observed, in_flight: Mapping[str, int], resources: int, dropped: int, now: float
) -> dict[str, Any]:
    """All metrics of a worker, as JSON can carry them. What a reload took away is not in them."""
    for gauge in (metrics.cooling, metrics.headroom, metrics.in_flight):
        gauge.clear()
    for deployment, out in router.cooling(now):
        metrics.cooling.labels(deployment).value = int(out)
    for quota_group, kind, share in router.headroom(now):
        metrics.headroom.labels(quota_group, kind).value = share
    for group, count in in_flight.items():
        metrics.in_flight.labels(group).value = count
    metrics.resources.labels().value = resources
    metrics.log_dropped.labels().value = dropped
    return metrics.snapshot()


async def alone(own: dict[str, Any]) -> list[dict[str, Any]]:
    """The metrics of a worker without siblings."""
    return [own]
