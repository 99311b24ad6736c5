"""Who is free, worked out when it changes; shares, draws and rendezvous hashing."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.choosing.health import Ledger
from relay.choosing.outcomes import Figures, Kind, Outcome
from relay.choosing.pools import MOST_KEYS, Pool, Ready, rank, shares, tiers
from tests.fleet import config, deployment

if TYPE_CHECKING:
    from relay.config import Config

NOW = 1000.0
LIMITED = Outcome(Kind.RATE_LIMITED, 429, 10.0)


def pool_of(made: Config, ledger: Ledger | None = None) -> tuple[Pool, Ledger]:
    ledger = ledger or Ledger(made)
    return Pool("gpt-4", [ledger.member(one, "gpt-4") for one in made.deployments], ledger.stamp), ledger


def names(ready: Ready) -> list[str]:
    return [member.deployment.id for member in ready.members]


def test_who_is_free_is_kept_until_it_changes() -> None:
    pool, ledger = pool_of(config(deployment("a"), deployment("b"), deployment("c")))
    assert names(pool.ready(NOW)) == ["a", "b", "c"]
    assert pool.ready(NOW + 1) is pool.ready(NOW)
    ledger.limit(pool.members[1], LIMITED, NOW)
    assert names(pool.ready(NOW)) == ["a", "c"]


def test_who_is_free_changes_when_the_first_time_is_over() -> None:
    pool, ledger = pool_of(config(deployment("a"), deployment("b"), deployment("c")))
    ledger.limit(pool.members[0], LIMITED, NOW)
    ledger.limit(pool.members[1], Outcome(Kind.RATE_LIMITED, 429, 20.0), NOW)
    assert names(pool.ready(NOW)) == ["c"]
    assert pool.ready(NOW + 9.9) is pool.ready(NOW)
    assert names(pool.ready(NOW + 10)) == ["a", "c"]
    assert names(pool.ready(NOW + 20)) == ["a", "b", "c"]


def test_who_is_full_comes_back_when_an_attempt_ends() -> None:
    pool, ledger = pool_of(config(deployment("a", max_parallel_requests=1), deployment("b", weight=3)))
    trial = object()
    ledger.begin(pool.members[0], trial, NOW)
    assert names(pool.ready(NOW)) == ["b"]
    ledger.end(pool.members[0], trial)
    assert pool.ready(NOW).weights == [1, 3]


def test_who_is_tried_by_another_is_unsettled() -> None:
    pool, ledger = pool_of(config(deployment("a"), deployment("b"), deployment("c")))
    ledger.limit(pool.members[0], LIMITED, NOW)
    ledger.limit(pool.members[1], LIMITED, NOW + 5)
    ledger.begin(pool.members[0], object(), NOW + 10)
    assert names(pool.unsettled(NOW + 10)) == ["a"]
    assert names(pool.ready(NOW + 10)) == ["c"]


def test_one_trial_is_enough_where_a_limit_is_known_to_leave_no_room() -> None:
    pool, ledger = pool_of(config(deployment("a"), deployment("b")))
    one = pool.members[0]
    refused = Outcome(Kind.RATE_LIMITED, 429, 1.0, None, {"requests": Figures(60, 0, 60)})
    ledger.learn(one, refused, ledger.begin(one, object(), NOW), NOW)
    ledger.limit(one, refused, NOW)
    ledger.begin(one, object(), NOW + 1)
    assert names(pool.unsettled(NOW + 1)) == []
    assert names(pool.unsettled(NOW + 3.1)) == ["a"]  # it refills while two are under way


def test_a_part_of_the_ready_keeps_its_weights() -> None:
    pool, _ = pool_of(config(deployment("a", weight=1), deployment("b", weight=3), deployment("c", weight=6)))
    ready = pool.ready(NOW)
    assert ready.only(lambda _: True) is ready
    part = ready.only(lambda member: member.deployment.id != "b")
    assert (names(part), part.cumulative) == (["a", "c"], [1, 7])


def test_members_without_any_weight_are_drawn_alike() -> None:
    pool, _ = pool_of(config(deployment("a", weight=0), deployment("b", weight=3), deployment("c", weight=0)))
    assert pool.ready(NOW).only(lambda member: member.deployment.id != "b").cumulative is None


def test_draws_by_limit_take_the_weights_while_no_limit_is_known() -> None:
    pool, _ = pool_of(config(deployment("a", weight=1), deployment("b", weight=3)))
    assert pool.ready(NOW).by_limit == [1, 4]
    pool, _ = pool_of(config(deployment("a"), deployment("b")))
    assert pool.ready(NOW).by_limit is None
    assert pool.ready(NOW).by_limit is None


@pytest.mark.parametrize("kind", ["requests", "tokens"])
def test_who_has_not_named_its_limit_counts_as_the_average(kind: str) -> None:
    pool, ledger = pool_of(config(deployment("a"), deployment("b"), deployment("c")))
    for at, limit in ((0, 100.0), (1, 300.0)):
        one = pool.members[at]
        outcome = Outcome(Kind.OK, 200, None, None, {kind: Figures(limit, 50.0, 1.0)})
        ledger.learn(one, outcome, ledger.begin(one, object(), NOW), NOW)
    assert pool.ready(NOW).by_limit == [100, 400, 600]


SHARES = [
    ([{}, {}], None),
    ([{"weight": 2}, {"weight": 2}], None),
    ([{"weight": 2}, {}], [2, 1]),
    ([{"weight": 0}, {"weight": 1}], [0, 1]),
    ([{"rpm": 30}, {"rpm": 10}, {}], [30, 10, 20]),
    ([{"tpm": 30}, {"tpm": 10}], [30, 10]),
    ([{"weight": 3, "rpm": 1}, {"weight": 1, "rpm": 5}], [3, 1]),
    ([{"rpm": 1, "tpm": 9}, {"rpm": 2, "tpm": 1}], [1, 2]),
]


@pytest.mark.parametrize(("given", "expected"), SHARES)
def test_the_first_of_weight_rpm_tpm_that_any_sets_decides(
    given: list[dict[str, float]], expected: list[float] | None
) -> None:
    assert shares([deployment(str(at), **dict[str, Any](said)) for at, said in enumerate(given)]) == expected


def test_pools_by_order() -> None:
    made = config(deployment("a", order=2), deployment("b", order=1), deployment("c", order=2))
    ledger = Ledger(made)
    pools = tiers("gpt-4", [ledger.member(one, "gpt-4") for one in made.deployments], ledger.stamp)
    assert [names(pool.ready(NOW)) for pool in pools] == [["b"], ["a", "c"]]


# -- rendezvous hashing -----------------------------------------------------------------------------------------------


def test_a_key_prefers_the_same_members_always() -> None:
    pool, _ = pool_of(config(*(deployment(name) for name in "abcdef")))
    again, _ = pool_of(config(*(deployment(name) for name in "fedcba")))
    for key in map(str, range(50)):
        first = [member.deployment.id for member in pool.best(key)]
        assert first == [member.deployment.id for member in again.best(key)]
        assert len(set(first)) == 4
        assert pool.best(key) is pool.best(key)


def test_keys_spread_by_weight() -> None:
    pool, _ = pool_of(config(deployment("a", weight=1), deployment("b", weight=3), deployment("c", weight=0)))
    counts = Counter(pool.best(str(key))[0].deployment.id for key in range(4000))
    assert counts["c"] == 0
    assert counts["a"] / 4000 == pytest.approx(0.25, abs=0.03)


def test_the_memory_of_keys_is_bounded() -> None:
    pool, _ = pool_of(config(deployment("a"), deployment("b")))
    for key in range(MOST_KEYS + 10):
        pool.best(str(key))
    assert len(pool._best) == 10


def test_keys_spread_evenly_over_names() -> None:
    counts = Counter(rank(str(key), ("x", "y", "z"))[0] for key in range(3000))
    assert all(900 < count < 1100 for count in counts.values())


@given(st.text(), st.sets(st.text(), min_size=2, max_size=6))
def test_a_name_that_goes_moves_only_what_preferred_it(key: str, known: set[str]) -> None:
    order = rank(key, known)
    assert set(order) == known
    gone = order[0]
    assert rank(key, known - {gone}) == order[1:]


def test_the_order_is_the_same_in_every_process_and_version() -> None:
    assert rank("client", ("s1", "s2", "s3")) == ("s2", "s1", "s3")
