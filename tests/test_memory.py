"""Memory does not grow with a body: the scenarios of ``bench/memory.py``, with smaller bodies."""

from __future__ import annotations

import sys

import pytest

from bench.memory import BOUND, EVENT, MIB, SCENARIOS, Scenario, measure

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")

SIZE = 96 * MIB  # more than limits.replay_bytes, and six times what the process may grow by
EVENTS_SIZE = 16 * MIB  # in 180,000 events
# What may be on its way between two processes that do not read: the kernel's own buffers, at each of two hops.
IN_FLIGHT = 48 * MIB


def size(scenario: Scenario) -> int:
    return EVENTS_SIZE if scenario.unit == EVENT else SIZE


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
async def test_a_large_body_leaves_memory_as_it_was(scenario: Scenario) -> None:
    report = await measure(scenario, size(scenario))
    assert report.moved == scenario.length(size(scenario))
    assert report.growth < BOUND
    assert report.before < 40 * MIB
    if scenario.stalls:  # the sender was held although nobody timed out
        assert 0 < report.held_at < IN_FLIGHT
