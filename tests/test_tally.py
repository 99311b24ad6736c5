"""Counts of the last seconds, and the brake on retries."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from relay.choosing.tally import FLOOR, SHARE, Brake, Tally


def test_what_is_older_than_the_window_no_longer_counts() -> None:
    tally = Tally(3)
    for now in (10.0, 10.9, 11.0, 12.5):
        tally.add(now)
    assert [tally.total(now) for now in (12.5, 13.0, 14.0, 15.0, 99.0)] == [4, 2, 1, 0, 0]


def test_a_slot_is_used_again() -> None:
    tally = Tally(2)
    tally.add(0.0)
    tally.add(2.0)
    assert tally.total(2.0) == 1


@given(st.lists(st.floats(0, 30), max_size=60).map(sorted))
def test_a_tally_counts_what_a_list_would(times: list[float]) -> None:
    tally = Tally(5)
    for now in times:
        tally.add(now)
    end = times[-1] if times else 0.0
    assert tally.total(end) == sum(int(end) - 5 < int(now) for now in times)


def test_a_quiet_proxy_may_retry_ten_times() -> None:
    brake = Brake()
    allowed = 0
    while brake.allows(5.0):
        brake.retry(5.0)
        allowed += 1
    assert allowed == FLOOR


def test_a_fifth_of_the_exchanges_is_added() -> None:
    brake = Brake()
    for _ in range(50):
        brake.exchange(5.0)
    for _ in range(FLOOR + 10):
        assert brake.allows(5.0)
        brake.retry(5.0)
    assert not brake.allows(5.0)
    assert brake.allows(50.0)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 2)), max_size=300))
def test_no_window_of_ten_seconds_holds_more_retries_than_the_limit(steps: list[tuple[bool, float]]) -> None:
    brake, now = Brake(), 100.0
    exchanges: list[float] = []
    retries: list[float] = []
    for is_exchange, pause in steps:
        now += pause
        if is_exchange:
            brake.exchange(now)
            exchanges.append(now)
        elif brake.allows(now):
            brake.retry(now)
            retries.append(now)
            lately = sum(now - 10 <= then for then in retries)
            assert lately <= SHARE * sum(now - 10 <= then for then in exchanges) + FLOOR
