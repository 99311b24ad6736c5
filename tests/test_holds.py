"""Being out, half open, and sound."""

from __future__ import annotations

from relay.choosing.holds import Hold


def test_a_hold_is_only_ever_extended() -> None:
    hold = Hold()
    hold.extend(20.0)
    hold.extend(10.0)
    assert hold.until == 20.0


def test_it_is_half_open_after_its_time_and_sound_once_cleared() -> None:
    hold = Hold()
    assert not hold.half_open(5.0)
    hold.extend(20.0)
    assert not hold.half_open(19.9)
    assert hold.half_open(20.0)
    hold.clear()
    assert not hold.half_open(99.0)


def test_being_out_again_ends_the_trial() -> None:
    hold = Hold()
    hold.extend(20.0)
    hold.trial = object()
    hold.extend(30.0)
    assert hold.trial is None


def test_parking_doubles_from_a_minute_to_a_quarter_hour() -> None:
    hold, now, times = Hold(), 100.0, []
    for _ in range(6):
        hold.park(now)
        times.append(hold.until - now)
        now = hold.until
    assert times == [60, 120, 240, 480, 900, 900]


def test_a_second_answer_within_a_parking_does_not_double_it() -> None:
    hold = Hold()
    hold.park(100.0)
    hold.park(101.0)
    assert hold.until == 160.0
    hold.clear()
    hold.park(200.0)
    assert hold.until == 260.0
