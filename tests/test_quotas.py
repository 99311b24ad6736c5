"""What is left of a rate limit, between the answers that say so."""

from __future__ import annotations

import pytest

from relay.choosing.outcomes import Figures
from relay.choosing.quotas import Quota


def learnt(quota: Quota, now: float, number: int | None = None, **figures: Figures) -> bool:
    """Begin an attempt, answer it."""
    quota.begun += 1
    return quota.learn(figures, number or quota.begun, now)


def test_without_figures_there_is_no_signal() -> None:
    quota = Quota()
    assert quota.share(10.0) is None
    assert quota.left(10.0) is None
    assert quota.limit("requests") is None


def test_a_bucket_refills_towards_its_limit_as_time_passes() -> None:
    quota = Quota()
    learnt(quota, 10.0, requests=Figures(60, 30, 30))
    assert [quota.share(now) for now in (10.0, 20.0, 40.0, 99.0)] == [0.5, pytest.approx(40 / 60), 1.0, 1.0]
    assert quota.limit("requests") == 60


def test_a_bucket_that_names_no_reset_refills_within_a_minute() -> None:
    quota = Quota()
    learnt(quota, 10.0, requests=Figures(60, 0, None))
    assert quota.left(25.0) == pytest.approx(15)


def test_a_bucket_without_a_limit_has_an_amount_but_no_share() -> None:
    quota = Quota()
    learnt(quota, 10.0, requests=Figures(None, 7, 3))
    assert quota.share(10.0) is None
    assert quota.left(99.0) == 7


def test_what_is_in_flight_is_taken_off_unless_the_figures_know_of_it() -> None:
    quota = Quota()
    quota.begun = quota.in_flight = 5
    quota.learn({"requests": Figures(100, 50, 60)}, 3, 10.0)  # the answer to the third of five
    assert quota.left(10.0) == 48
    assert quota.share(10.0) == 0.48
    quota.in_flight = 1  # one of the two has ended without an answer
    assert quota.left(10.0) == 49


def test_the_least_of_all_kinds_counts() -> None:
    quota = Quota()
    learnt(quota, 10.0, requests=Figures(100, 90, 60), tokens=Figures(1000, 100, 60))
    assert quota.share(10.0) == 0.1
    learnt(quota, 10.0, requests=Figures(100, 10, 60), tokens=Figures(1000, 900, 60))
    assert quota.share(10.0) == 0.1


def test_the_cost_of_an_exchange_in_tokens_is_learnt() -> None:
    quota = Quota()
    learnt(quota, 10.0, requests=Figures(100, 90, 60), tokens=Figures(1000, 900, None))
    assert quota.left(10.0) == 90  # tokens are left, but nobody knows how many an exchange takes
    learnt(quota, 10.0, requests=Figures(100, 89, 60), tokens=Figures(1000, 700, None))
    assert quota.left(10.0) == pytest.approx(700 / 200)
    learnt(quota, 10.0, requests=Figures(100, 88, 60), tokens=Figures(1000, 600, None))
    assert quota.left(10.0) == pytest.approx(600 / 180)  # the average moves a fifth of the way


def test_no_tokens_left_is_no_exchange_left() -> None:
    quota = Quota()
    learnt(quota, 10.0, tokens=Figures(None, 0, 30))
    assert quota.left(10.0) == 0


def test_an_empty_bucket_is_left_alone_until_its_own_reset() -> None:
    quota = Quota()
    assert learnt(quota, 10.0, requests=Figures(60, 0, 20), tokens=Figures(1000, 500, 50))
    assert quota.drained_until == 30.0


def test_the_longer_reset_counts_but_never_more_than_a_minute() -> None:
    quota = Quota()
    learnt(quota, 10.0, requests=Figures(60, 0, 20), tokens=Figures(1000, 0, 500))
    assert quota.drained_until == 70.0


def test_a_later_answer_ends_it() -> None:
    quota = Quota()
    learnt(quota, 10.0, requests=Figures(60, 0, 20))
    assert learnt(quota, 11.0, requests=Figures(60, 1, 19))
    assert quota.drained_until == 0.0


def test_an_empty_bucket_that_names_no_reset_says_nothing_of_when() -> None:
    quota = Quota()
    learnt(quota, 10.0, requests=Figures(60, 0, None))
    assert quota.drained_until == 0.0


def test_the_answer_to_an_older_attempt_is_old_news() -> None:
    quota = Quota()
    learnt(quota, 10.0, requests=Figures(60, 10, 20))
    learnt(quota, 10.0, requests=Figures(60, 9, 20))
    assert not learnt(quota, 11.0, 1, requests=Figures(60, 0, 20))
    assert quota.drained_until == 0.0


def test_only_a_new_limit_or_a_drained_bucket_changes_a_choice() -> None:
    quota = Quota()
    assert learnt(quota, 10.0, requests=Figures(60, 10, 20))
    assert not learnt(quota, 10.0, requests=Figures(60, 9, 20))
    assert learnt(quota, 10.0, requests=Figures(90, 9, 20))


def test_the_fewest_exchanges_of_all_kinds_are_left() -> None:
    quota = Quota()
    quota.begun = 1
    quota.learn({"requests": Figures(100, 5, 60), "project-requests": Figures(100, 50, 60)}, 1, 10.0)
    assert quota.left(10.0) == 5
