"""What outcomes do to the health of deployments, quota groups, accounts and keys."""

from __future__ import annotations

import pytest

from relay.choosing.health import Ledger, Member, Why
from relay.choosing.outcomes import Figures, Kind, Outcome
from relay.config import Config, RouterSettings, Secret
from relay.values import replace
from tests.fleet import config, deployment

NOW = 1000.0
TWO = config(deployment("a"), deployment("b"))
LIMITED = Outcome(Kind.RATE_LIMITED, 429)


def member(ledger: Ledger, made: Config = TWO, model: str = "gpt-4", at: int = 0) -> Member:
    return ledger.member(made.deployments[at], model)


def fails(ledger: Ledger, one: Member, count: int, now: float = NOW, well: int = 0) -> None:
    """So many failures, after so many attempts that went well."""
    one.health.attempts += well
    for _ in range(count):
        one.health.attempts += 1
        ledger.fail(one, now)


def why(one: Member, now: float = NOW) -> Why | None:
    out = one.out(now)
    return out and out[0]


def test_more_failures_than_allowed_cool_a_deployment_for_the_cooldown() -> None:
    ledger = Ledger(TWO)
    one = member(ledger)
    fails(ledger, one, 3)
    assert one.out(NOW) is None
    fails(ledger, one, 1)
    assert one.out(NOW) == (Why.FAILING, NOW + 5)
    assert one.out(NOW + 5) is None


def test_a_deployment_has_its_own_cooldown() -> None:
    made = config(deployment("a", cooldown_time=30), deployment("b"))
    ledger = Ledger(made)
    one = member(ledger, made)
    fails(ledger, one, 4)
    assert one.out(NOW) == (Why.FAILING, NOW + 30)


def test_failures_older_than_a_minute_are_forgotten() -> None:
    ledger = Ledger(TWO)
    one = member(ledger)
    fails(ledger, one, 3)
    fails(ledger, one, 1, NOW + 61)
    assert why(one, NOW + 61) is None


def test_failures_below_a_fifth_of_the_attempts_are_noise() -> None:
    ledger = Ledger(TWO)
    one = member(ledger)
    for _ in range(50):
        fails(ledger, one, 1, well=6)
    assert why(one) is None
    for _ in range(4):
        fails(ledger, one, 1, well=4)
    assert why(one) is Why.FAILING


def test_a_deployment_that_did_well_for_long_is_left_as_quickly_when_it_breaks() -> None:
    ledger = Ledger(TWO)
    one = member(ledger)
    fails(ledger, one, 4, well=10_000)
    assert why(one) is Why.FAILING


def test_one_failure_while_half_open_cools_again() -> None:
    ledger = Ledger(TWO)
    one = member(ledger)
    fails(ledger, one, 4)
    fails(ledger, one, 1, NOW + 6)
    assert one.out(NOW + 6) == (Why.FAILING, NOW + 11)


def test_one_attempt_tries_what_is_half_open_and_clears_it() -> None:
    ledger = Ledger(TWO)
    one, trial = member(ledger), object()
    fails(ledger, one, 4)
    ledger.begin(one, trial, NOW + 5)
    ledger.begin(one, object(), NOW + 5)  # another one, as there is no elsewhere
    assert why(one, NOW + 5) is Why.TRIAL
    ledger.well(one, object())
    assert why(one, NOW + 5) is Why.TRIAL
    ledger.well(one, trial)
    assert why(one, NOW + 5) is None
    fails(ledger, one, 3, NOW + 6)  # counted anew
    assert why(one, NOW + 6) is None


def test_a_quota_group_comes_back_the_same_way_and_failures_stay_counted() -> None:
    ledger = Ledger(TWO)
    one, trial = member(ledger), object()
    fails(ledger, one, 3)
    ledger.limit(one, LIMITED, NOW)
    ledger.begin(one, trial, NOW + 5)
    assert why(one, NOW + 5) is Why.TRIAL
    ledger.well(one, trial)
    assert why(one, NOW + 5) is None
    fails(ledger, one, 1, NOW + 6)
    assert why(one, NOW + 6) is Why.FAILING


def test_a_trial_that_settles_nothing_leaves_it_to_another() -> None:
    ledger = Ledger(TWO)
    one, trial = member(ledger), object()
    fails(ledger, one, 4)
    ledger.begin(one, trial, NOW + 5)
    ledger.end(one, trial)
    assert why(one, NOW + 5) is None
    ledger.begin(one, object(), NOW + 5)
    assert why(one, NOW + 5) is Why.TRIAL


def test_an_attempt_begun_before_the_cooldown_proves_nothing() -> None:
    ledger = Ledger(TWO)
    one, early = member(ledger), object()
    ledger.begin(one, early, NOW)
    fails(ledger, one, 4)
    ledger.well(one, early)
    assert why(one) is Why.FAILING


WAITS = [
    (Outcome(Kind.RATE_LIMITED, 429, 7.0), 7),
    (Outcome(Kind.RATE_LIMITED, 429, 7.0, None, {"requests": Figures(60, 0, 30)}), 7),
    (Outcome(Kind.RATE_LIMITED, 429, 500.0), 60),
    (Outcome(Kind.RATE_LIMITED, 429, None, None, {"requests": Figures(60, 0, 30), "tokens": Figures(9, 5, 50)}), 30),
    (Outcome(Kind.RATE_LIMITED, 429, None, None, {"requests": Figures(60, 0, 30), "tokens": Figures(9, 0, 50)}), 50),
    (Outcome(Kind.RATE_LIMITED, 429, None, None, {"requests": Figures(60, 0, 300)}), 60),
    (Outcome(Kind.RATE_LIMITED, 429, None, None, {"requests": Figures(60, 5, 30)}), 5),
    (LIMITED, 5),
]


@pytest.mark.parametrize(("outcome", "seconds"), WAITS)
def test_how_long_a_429_cools(outcome: Outcome, seconds: float) -> None:
    ledger = Ledger(TWO)
    one = member(ledger)
    ledger.begin(one, object(), NOW)
    ledger.learn(one, outcome, 1, NOW)
    assert ledger.limit(one, outcome, NOW) == NOW + seconds
    assert one.out(NOW) == (Why.LIMITED, NOW + seconds)
    assert one.out(NOW + seconds) is None


SHARED = config(
    deployment("a", scope="s"), deployment("b", scope="s"), deployment("c"), deployment("d", "gpt-5", scope="s")
)


def outs(ledger: Ledger, model: str = "gpt-4") -> list[Why | None]:
    return [why(ledger.member(one, model)) for one in SHARED.deployments]


def test_a_429_cools_the_quota_group_for_that_model_only() -> None:
    ledger = Ledger(SHARED)
    ledger.limit(member(ledger, SHARED), LIMITED, NOW)
    assert outs(ledger) == [Why.LIMITED, Why.LIMITED, None, Why.LIMITED]
    assert outs(ledger, "gpt-5") == [None, None, None, None]


def test_a_dead_account_parks_the_quota_group() -> None:
    ledger = Ledger(SHARED)
    assert ledger.park(member(ledger, SHARED).account, NOW) == NOW + 60
    assert outs(ledger, "gpt-5") == [Why.PARKED, Why.PARKED, None, Why.PARKED]


def test_a_dead_key_parks_what_uses_the_key() -> None:
    made = config(deployment("a", scope="s"), replace(deployment("b", scope="s"), key=Secret("sk-other")))
    ledger = Ledger(made)
    ledger.park(member(ledger, made).key, NOW)
    assert [why(member(ledger, made, at=at)) for at in (0, 1)] == [Why.PARKED, None]


def test_a_key_that_may_not_use_a_model_serves_the_rest() -> None:
    ledger = Ledger(SHARED)
    ledger.deny(member(ledger, SHARED), NOW)
    assert outs(ledger) == [Why.DENIED, Why.DENIED, None, Why.DENIED]
    assert outs(ledger, "gpt-5") == [None, None, None, None]


def test_an_answer_that_leaves_nothing_is_a_429_that_need_not_happen() -> None:
    ledger = Ledger(TWO)
    one = member(ledger)
    number = ledger.begin(one, object(), NOW)
    ledger.learn(one, Outcome(Kind.OK, 200, None, None, {"requests": Figures(60, 0, 20)}), number, NOW)
    assert one.out(NOW) == (Why.DRAINED, NOW + 20)
    assert one.out(NOW + 20) is None
    fails(ledger, one, 4)
    assert why(one) is Why.DRAINED
    assert why(one, NOW + 3) is Why.DRAINED


def test_the_weightier_reason_is_told_with_the_last_time() -> None:
    ledger = Ledger(TWO)
    one = member(ledger)
    ledger.limit(one, LIMITED, NOW)
    one.quota.drained_until = NOW + 30
    assert one.out(NOW) == (Why.LIMITED, NOW + 30)
    ledger.park(one.account, NOW)
    assert one.out(NOW) == (Why.PARKED, NOW + 60)


def test_a_full_deployment_is_out_until_an_attempt_ends() -> None:
    made = config(deployment("a", max_parallel_requests=2), deployment("b"))
    ledger = Ledger(made)
    one = member(ledger, made)
    trials = [object(), object()]
    for trial in trials:
        assert why(one) is None
        before = ledger.stamp.value
        ledger.begin(one, trial, NOW)
    assert ledger.stamp.value > before
    assert why(one) is Why.FULL
    before = ledger.stamp.value
    ledger.end(one, trials[0])
    assert why(one) is None
    assert ledger.stamp.value > before


def test_failing_answers_that_nobody_has_explained_raise_doubt() -> None:
    ledger = Ledger(TWO)
    one = member(ledger)
    for _ in range(4):
        assert why(one) is None
        ledger.doubt(one, NOW)
    assert one.out(NOW) == (Why.DOUBTED, NOW + 5)
    assert one.out(NOW + 5) is None
    ledger.trust(one)
    assert why(one) is None
    for _ in range(9):
        ledger.trust(one)


def test_doubts_that_nobody_settles_are_forgotten() -> None:
    ledger = Ledger(TWO)
    one = member(ledger)
    for _ in range(3):
        ledger.doubt(one, NOW)
    ledger.doubt(one, NOW + 6)
    assert why(one, NOW + 6) is None


def test_without_cooldowns_nothing_is_out_but_what_is_full() -> None:
    made = config(deployment("a"), deployment("b"), settings=RouterSettings(disable_cooldowns=True))
    ledger = Ledger(made)
    one = member(ledger, made)
    fails(ledger, one, 9)
    ledger.limit(one, LIMITED, NOW)
    ledger.deny(one, NOW)
    ledger.park(one.key, NOW)
    for _ in range(9):
        ledger.doubt(one, NOW)
    number = ledger.begin(one, object(), NOW)
    ledger.learn(one, Outcome(Kind.OK, 200, None, None, {"requests": Figures(60, 0, 20)}), number, NOW)
    assert why(one) is None


ALONE = [
    ({}, ["b"]),
    ({"fallbacks": {"one": ("two",)}}, []),
    ({"fallbacks": {"two": ("one",)}}, []),
    ({"default_fallbacks": ("one",)}, []),
    ({"fallbacks": {"*": ("two",)}}, []),
]


@pytest.mark.parametrize(("settings", "exempt"), ALONE)
def test_who_is_alone_wherever_it_is_a_candidate(settings: dict[str, object], exempt: list[str]) -> None:
    made = config(
        deployment("a", "two"),
        deployment("c", "two"),
        deployment("b", "one"),
        settings=RouterSettings(**settings),  # type: ignore[arg-type]
    )
    assert sorted(Ledger(made).exempt) == exempt


def test_a_deployment_that_is_alone_never_cools() -> None:
    made = config(deployment("a"))
    ledger = Ledger(made)
    one = member(ledger, made)
    fails(ledger, one, 9)
    assert why(one) is None


def test_first_bytes_are_averaged_apart_for_streams() -> None:
    ledger = Ledger(TWO)
    health = member(ledger).health
    assert health.usual(stream=False) is None
    health.learn(1.0, stream=False)
    health.learn(2.0, stream=False)
    health.learn(9.0, stream=True)
    assert health.usual(stream=False) == pytest.approx(1.2)
    assert health.usual(stream=True) == 9.0


def test_a_reload_keeps_what_is_known_of_the_unchanged() -> None:
    before = Ledger(TWO)
    for at in (0, 1):
        fails(before, member(before, at=at), 4)
    changed = config(deployment("a"), deployment("b", weight=5), deployment("c"))
    after = Ledger(changed, before)
    assert [why(member(after, changed, at=at)) for at in (0, 1, 2)] == [Why.FAILING, None, None]
    assert after.stamp is before.stamp


def test_shares_for_the_gauge_are_the_least_over_models() -> None:
    ledger = Ledger(TWO)
    for model, left in (("x", 30), ("y", 10), ("z", 20)):
        one = member(ledger, model=model)
        figures = {"requests": Figures(100, left, None), "tokens": Figures(None, 3, None)}
        ledger.learn(one, Outcome(Kind.OK, 200, None, None, figures), ledger.begin(one, object(), NOW), NOW)
    assert list(ledger.shares(NOW)) == [("a", "requests", 0.1)]
