"""Ways through a file: pools in order, fallbacks, names, and what is kept."""

from __future__ import annotations

import pytest

from relay.choosing.groups import Groups, Match
from relay.choosing.health import Ledger
from relay.choosing.plans import Plan, Plans, upstream_name
from relay.config import Config, RouterSettings
from tests.fleet import config, deployment

FILE = config(
    deployment("a1", "g", scope="a", order=1),
    deployment("a2", "g", scope="a", order=2),
    deployment("b1", "g", scope="b", order=1),
    deployment("c", "back", scope="c"),
    deployment("d", "more/*", model="x-*", scope="a"),
    settings=RouterSettings(fallbacks={"g": ("back", "more/y")}),
)


def plans(made: Config = FILE) -> tuple[Plans, Match]:
    groups = Groups(made)
    return Plans(made, groups, Ledger(made)), groups.home


def shape(plan: Plan) -> list[list[str]]:
    return [[member.deployment.id for member in pool.members] for pool in plan.pools]


def test_a_group_is_spread_by_order_and_then_its_fallbacks() -> None:
    made, home = plans()
    plan = made.spread(home, None)
    assert shape(plan) == [["a1", "b1"], ["a2"], ["c"], ["d"]]
    assert plan.names == {"a1": "g", "a2": "g", "b1": "g", "c": "back", "d": "x-y"}
    assert not plan.lone


def test_at_home_the_scopes_come_before_the_orders_and_both_before_fallbacks() -> None:
    made, home = plans()
    assert shape(made.home(home, "", ("b", "c", "a"))) == [["b1"], ["a1"], ["a2"], ["c"], ["d"]]


def test_a_pin_leaves_its_scope_for_nothing() -> None:
    made, home = plans()
    plan = made.pinned(home, None, "b")
    assert shape(plan) == [["b1"]]
    assert plan.lone


def test_an_unknown_model_has_no_fallback() -> None:
    made, home = plans()
    plan = made.spread(home, "gpt-9")
    assert shape(plan) == [["a1", "b1"], ["a2"]]
    assert plan.names is None


def test_health_is_told_apart_by_what_the_upstream_is_asked_for() -> None:
    made, home = plans()
    named, unknown, none = (made.spread(home, asked).members["a1"] for asked in (None, "gpt-9", ""))
    assert named.health is unknown.health is none.health
    assert len({id(member.quota) for member in (named, unknown, none)}) == 3
    assert named.quota is made.home(home, None, ("a", "b", "c")).members["a1"].quota


def test_a_plan_is_made_once() -> None:
    made, home = plans()
    assert made.spread(home, None) is made.spread(home, None)
    assert made.home(home, None, ("a", "b")) is made.home(home, None, ("a", "b"))
    assert made.home(home, None, ("a", "b")) is not made.home(home, None, ("b", "a"))
    assert made.pinned(home, None, "a") is made.pinned(home, None, "a")


@pytest.mark.parametrize("asked", [None, "", "x"])
def test_plans_share_their_pools(asked: str | None) -> None:
    made, home = plans()
    assert made.home(home, asked, ("a", "b")).pools[0] is made.pinned(home, asked, "a").pools[0]


def test_only_what_a_pattern_catches_makes_plans_of_its_own() -> None:
    made, home = plans()
    assert made.spread(home._replace(caught="other"), None) is made.spread(home, None)
    groups = Groups(FILE)
    one, other = groups.look_up("more/1"), groups.look_up("more/2")
    assert one
    assert other
    assert made.spread(one, None).names == {"d": "x-1"}
    assert made.spread(other, None).names == {"d": "x-2"}


def test_a_star_is_replaced_once() -> None:
    assert upstream_name(deployment("a", model="*-*"), "x") == "x-*"


def test_a_scope_without_a_member_lends_one_deployment_of_each_account() -> None:
    made = config(
        deployment("x", "home", model="h-*"),
        deployment("a", "g1", scope="s"),
        deployment("b", "g2", scope="s"),
        deployment("c", "g2", scope="s", project="p"),
    )
    lender, home = plans(made)
    plan = lender.pinned(home._replace(caught="1"), None, "s")
    assert shape(plan) == [["a", "c"]]
    assert plan.names == {"a": "h-1", "c": "h-1"}
    assert lender.pinned(home, "", "s").names is None


def test_united_scopes_are_one() -> None:
    made, home = plans()
    before = made.pinned(home, None, "b")
    names = {"a": "a", "b": "a"}
    made.unite(names)
    assert set(made.pinned(home, None, "b").members) == set(made.pinned(home, None, "a").members) > set(before.members)
    assert shape(made.home(home, None, ("b", "c", "a"))) == shape(made.home(home, None, ("a", "c")))
    kept = made.pinned(home, None, "b")
    made.unite(names)
    assert made.pinned(home, None, "b") is kept
    made.unite({})
    assert made.pinned(home, None, "b").members.keys() == before.members.keys()
