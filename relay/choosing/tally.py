"""Counts of things that happened lately, in a fixed amount of memory. Pure."""

from __future__ import annotations

SHARE = 0.2  # Finagle's and Envoy's usual retry budget: a fifth of the load
FLOOR = 10  # so that a quiet proxy can retry at all
SECONDS = 10


class Tally:
    """How often something happened in the last ``seconds``, one count a second.

    The second under way counts as a whole one, so between ``seconds - 1`` and ``seconds`` are looked back upon.
    """

    __slots__ = ("_counts", "_seconds", "_stamps")

    def __init__(self, seconds: int) -> None:
        self._seconds = seconds
        self._counts = [0] * seconds
        self._stamps = [-seconds] * seconds  # which second each count is of

    def add(self, now: float) -> None:
        """Count one more at ``now``."""
        second = int(now)
        slot = second % self._seconds
        if self._stamps[slot] == second:
            self._counts[slot] += 1
        else:
            self._stamps[slot] = second
            self._counts[slot] = 1

    def total(self, now: float) -> int:
        """How many there were lately."""
        oldest = int(now) - self._seconds
        return sum(count for count, stamp in zip(self._counts, self._stamps, strict=True) if stamp > oldest)


class Brake:
    """The pool-wide limit on retries (SPEC §7 "Retries"): a fifth of the exchanges of the last 10 s, plus 10.

    When everything fails at once, retries would otherwise multiply the load just when it can least be borne. Exchanges
    are looked back upon for a little less than 10 s, retries for a little more, so that the limit holds for every
    window of 10 s.
    """

    __slots__ = ("_exchanges", "_retries")

    def __init__(self) -> None:
        self._exchanges = Tally(SECONDS)
        self._retries = Tally(SECONDS + 1)

    def exchange(self, now: float) -> None:
        """One more exchange has begun."""
        self._exchanges.add(now)

    def retry(self, now: float) -> None:
        """One more retry is sent."""
        self._retries.add(now)

    def allows(self, now: float, pending: int = 0) -> bool:
        """Whether one more retry stays below the limit, ``pending`` others counted in that may be sent yet."""
        return self._retries.total(now) + pending + 1 <= self._exchanges.total(now) * SHARE + FLOOR
