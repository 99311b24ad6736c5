"""Memory that forgets its older half."""

from __future__ import annotations

from relay.bounded import Bounded


def test_a_value_is_made_once() -> None:
    known: Bounded[str, list[int]] = Bounded(4)
    first = known.made("a", list)
    assert known.made("a", list) is first


def test_the_older_half_is_forgotten_when_it_is_full() -> None:
    known: Bounded[int, str] = Bounded(4)
    for number in range(5):
        known.made(number, lambda: "x")
    assert list(known) == [2, 3, 4]
