"""The scenarios of the simulation, with what must come of them."""

from __future__ import annotations

import pytest

from bench.simulation import LOAD, SCENARIOS, Key, Report, Simulation, first_limit
from relay.choosing.strategies import STRATEGIES

ONE_HEALTHY = [title for title in SCENARIOS if not title.startswith("all dead")]
RUNS: dict[tuple[str, str], tuple[Simulation, Report]] = {}


def run(title: str, strategy: str) -> Report:
    """A hundred seconds of a scenario, run once for all tests."""
    if (title, strategy) not in RUNS:
        simulation = Simulation(SCENARIOS[title](), strategy)
        RUNS[title, strategy] = simulation, simulation.run(100, LOAD)
    return RUNS[title, strategy][1]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("title", ONE_HEALTHY)
def test_no_client_sees_a_failure_while_a_healthy_key_has_room(title: str, strategy: str) -> None:
    assert not run(title, strategy).failures


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("title", ONE_HEALTHY)
def test_hardly_a_call_is_wasted(title: str, strategy: str) -> None:
    assert run(title, strategy).waste < 0.02


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_traffic_is_back_within_one_cooldown_of_a_recovery(strategy: str) -> None:
    report = Simulation(SCENARIOS["all dead, then back"](), strategy).run(140, LOAD)
    for name in "abc":
        assert 120 <= next(since for since in report.served[name] if since > 61) <= 126  # a cooldown and a first byte
    lately = [sum(since > 130 for since in report.served[name]) for name in "abc"]
    assert sum(lately) > 0.9 * 10 * LOAD


@pytest.mark.parametrize("seed", [1, 2])
def test_headroom_uses_nearly_all_of_unequal_limits_before_a_client_sees_a_429(seed: int) -> None:
    assert first_limit("headroom", 0.95, seed, 600) is None


def test_headroom_serves_by_the_limits() -> None:
    report = run("limits 1:3:6 at 90 %", "headroom")
    assert [report.share(name) for name in ("small", "middle", "large")] == pytest.approx([0.1, 0.3, 0.6], abs=0.04)


def test_latency_leaves_the_slow_key_but_for_a_look_now_and_then() -> None:
    assert 0 < run("one ten times slower", "latency-based-routing").share("slow") < 0.02


def test_more_than_all_limits_is_seen_and_said_with_a_429() -> None:
    keys = [Key("a", 60.0, left=0.0), Key("b", 60.0)]
    report = Simulation(keys, "headroom").run(120, 8.0)
    assert set(report.failures) == {"429"}
    assert sum(map(len, report.served.values())) > 0.9 * (2 * 60 + 2 * 60 * 2)  # both buckets, and what they refilled
    assert report.waste < 0.2


def test_a_poison_request_takes_no_key_away() -> None:
    """One client's requests always end in 500; those of the others are served by all keys as before."""
    simulation = Simulation([Key(name, answer=poison) for name in "abc"], "simple-shuffle")
    report = simulation.run(60, LOAD)
    assert report.failures == {"500": report.failures["500"]}
    assert all(count > report.exchanges / 4 for count in report.calls.values())
    assert not any(out for _, out in simulation.router.cooling(1060.0))


def poison(since: float) -> tuple[int, bytes] | None:
    """Every tenth second belongs to the poison."""
    return (500, b"server_error") if int(since) % 10 == 0 else None
