"""The table of strategies, and soft affinity."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from relay.choosing.health import Ledger
from relay.choosing.outcomes import Figures
from relay.choosing.pools import Pool
from relay.choosing.strategies import STRATEGIES, headroom, latency_based, least_busy, preferred, simple_shuffle
from tests.fleet import config, deployment

if TYPE_CHECKING:
    from relay.choosing.health import Member
    from relay.config import Deployment

NOW = 1000.0


def pool_of(*deployments: Deployment) -> Pool:
    ledger = Ledger(config(*deployments))
    return Pool("gpt-4", [ledger.member(one, "gpt-4") for one in deployments], ledger.stamp)


def plain(count: int) -> Pool:
    return pool_of(*(deployment(chr(97 + at)) for at in range(count)))


def chosen(strategy: str, pool: Pool, draws: int = 1000, *, stream: bool = False) -> dict[str, float]:
    """Each member's share of the draws."""
    rng, counts = random.Random(7), Counter[str]()
    for _ in range(draws):
        counts[STRATEGIES[strategy](pool.ready(NOW), rng, NOW, stream).deployment.id] += 1
    return {member.deployment.id: counts[member.deployment.id] / draws for member in pool.members}


def left(member: Member, limit: float, remaining: float, *, in_flight: int = 0) -> None:
    """Its last answer left so much; so many attempts have begun since."""
    member.quota.begun += 1
    member.quota.learn({"requests": Figures(limit, remaining, None)}, member.quota.begun, NOW)
    member.quota.begun += in_flight
    member.quota.in_flight += in_flight


def test_the_table_holds_litellms_names_and_ours() -> None:
    assert set(STRATEGIES) == {"simple-shuffle", "least-busy", "latency-based-routing", "headroom"}
    assert set(STRATEGIES.values()) == {simple_shuffle, least_busy, latency_based, headroom}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("count", [1, 2, 3, 100])
def test_every_strategy_spreads_over_equals(strategy: str, count: int) -> None:
    assert all(share == pytest.approx(1 / count, abs=0.06) for share in chosen(strategy, plain(count)).values())


@pytest.mark.parametrize("strategy", ["simple-shuffle", "headroom"])
def test_weights_are_shares(strategy: str) -> None:
    pool = pool_of(deployment("a", weight=1), deployment("b", weight=3), deployment("c", weight=0))
    assert chosen(strategy, pool, 4000) == {
        "a": pytest.approx(0.25, abs=0.03),
        "b": pytest.approx(0.75, abs=0.03),
        "c": 0,
    }


def test_least_busy_takes_the_less_busy_of_two() -> None:
    pool = plain(2)
    pool.members[0].health.in_flight = 1
    assert chosen("least-busy", pool) == {"a": 0, "b": 1}
    pool = plain(4)
    pool.members[0].health.in_flight = 9
    assert chosen("least-busy", pool)["a"] == 0


@pytest.mark.parametrize("stream", [False, True])
def test_the_quickest_gets_all_but_one_in_a_hundred(stream: bool) -> None:
    pool = plain(3)
    for member, seconds in zip(pool.members, (3.0, 1.0, 2.0), strict=True):
        member.health.learn(seconds, stream=stream)
        member.health.learn(9.0 - seconds, stream=not stream)
    assert 0.985 < chosen("latency-based-routing", pool, 4000, stream=stream)["b"] < 1


def test_one_that_is_not_known_yet_waits_to_be_explored() -> None:
    pool = plain(2)
    pool.members[0].health.learn(5.0, stream=False)
    assert chosen("latency-based-routing", pool, 4000)["a"] > 0.98


def test_headroom_takes_the_largest_share_left() -> None:
    pool = plain(3)
    for member, (limit, remaining) in zip(pool.members, ((1000, 400), (100, 90), (100, 50)), strict=True):
        left(member, limit, remaining)
    assert chosen("headroom", pool) == {"a": 0, "b": 1, "c": 0}


def test_headroom_counts_what_is_in_flight() -> None:
    pool = plain(2)
    left(pool.members[0], 100, 90, in_flight=20)
    left(pool.members[1], 100, 80)
    assert chosen("headroom", pool) == {"a": 0, "b": 1}


def test_full_buckets_are_drawn_by_their_limits() -> None:
    pool = plain(3)
    for member, limit in zip(pool.members, (100, 300, 600), strict=True):
        left(member, limit, limit)
    shares = chosen("headroom", pool, 4000)
    assert shares == {
        "a": pytest.approx(0.1, abs=0.03),
        "b": pytest.approx(0.3, abs=0.03),
        "c": pytest.approx(0.6, abs=0.03),
    }


def test_one_without_figures_takes_what_it_draws() -> None:
    pool = plain(3)
    left(pool.members[0], 100, 90)
    left(pool.members[1], 100, 10)
    shares = chosen("headroom", pool, 4000)
    assert shares["c"] == pytest.approx(1 / 3, abs=0.04)
    assert shares["b"] == 0


def test_among_many_a_few_draws_are_compared() -> None:
    pool = plain(20)
    for at, member in enumerate(pool.members):
        left(member, 100, 90 if at % 2 else 10)
    shares = chosen("headroom", pool, 4000)
    assert sum(share for at, share in enumerate(shares.values()) if at % 2) > 0.9


# -- soft affinity ----------------------------------------------------------------------------------------------------


def prefers(pool: Pool, key: str = "k") -> str | None:
    member = preferred(pool, pool.ready(NOW), key, NOW)
    return member.deployment.id if member else None


def test_a_key_keeps_to_its_deployment_and_returns_to_it() -> None:
    pool = plain(4)
    first, second, *_ = pool.best("k")
    assert prefers(pool) == first.deployment.id
    first.health.hold.extend(NOW + 9)
    pool._stamp.value += 1
    assert prefers(pool) == second.deployment.id
    first.health.hold.clear()
    pool._stamp.value += 1
    assert prefers(pool) == first.deployment.id


def test_it_is_left_when_its_rate_limit_leaves_no_room() -> None:
    pool = plain(3)
    first, second, *_ = pool.best("k")
    left(first, 100, 5, in_flight=4)
    assert prefers(pool) == first.deployment.id
    left(first, 100, 5, in_flight=5)
    first.quota.in_flight = 5
    assert prefers(pool) == second.deployment.id


LOADS = [
    ([4, 0, 0], True),  # below the floor nothing is a load
    ([5, 0, 0], False),
    ([5, 4, 4], True),  # the average is 4.3, a quarter more is 5.4
    ([6, 4, 4], False),
    ([50, 40, 40], True),
    ([60, 40, 40], False),
]


@pytest.mark.parametrize(("loads", "kept"), LOADS)
def test_it_is_left_when_it_carries_more_than_its_share(loads: list[int], kept: bool) -> None:
    pool = plain(3)
    for member, load in zip(pool.best("k"), loads, strict=True):
        member.health.in_flight = load
    assert (prefers(pool) == pool.best("k")[0].deployment.id) is kept


def test_nobody_is_preferred_when_none_of_the_best_can_take_it() -> None:
    pool = plain(9)
    for member in pool.best("k"):
        left(member, 100, 0)
    assert prefers(pool) is None
