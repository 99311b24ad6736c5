"""What workers that have ended leave behind: their counters go on counting, their gauges do not. Pure.

So a counter that was once shown never goes back when a worker dies (Prometheus would take that for a restart).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .metrics import merged

if TYPE_CHECKING:
    from collections.abc import Mapping


def counted(snapshot: Mapping[str, Any]) -> dict[str, Any]:
    """The families of a snapshot that only grow."""
    return {name: family for name, family in snapshot.items() if family["kind"] != "gauge"}


def added(total: Mapping[str, Any], snapshot: Mapping[str, Any]) -> dict[str, Any]:
    """Two snapshots as one."""
    result = dict(total)
    for name, family in snapshot.items():
        known = result.get(name)
        result[name] = family if known is None else {**family, "children": _joined(family, known)}
    return result


def _joined(family: Mapping[str, Any], known: Mapping[str, Any]) -> list[Any]:
    children = {tuple(values): state for values, state in known["children"]}
    for values, state in family["children"]:
        key = tuple(values)
        children[key] = merged(family, children[key], state) if key in children else state
    return [[list(values), state] for values, state in children.items()]
