"""Being out for a time, and coming back by being tried once. Pure."""

from __future__ import annotations

PARK = 60.0  # seconds a dead key or account is out at first
LONGEST_PARK = 900.0


class Hold:
    """Out until a time; then half open, until a trial has shown that it works; else sound.

    A deployment that fails, a quota group that is limited, a dead account, a dead key and a key that may not use a
    model are held alike. ``until`` is 0 while sound.
    """

    __slots__ = ("strikes", "trial", "until")

    def __init__(self) -> None:
        self.until = 0.0
        self.trial: object | None = None  # who is trying it
        self.strikes = 0  # parkings in a row

    def extend(self, until: float) -> None:
        """Stay out until then, or longer if that was said before: a cooldown is only ever extended."""
        self.until = max(self.until, until)
        self.trial = None

    def park(self, now: float) -> None:
        """Stay out for a minute, and for twice as long after each trial that finds it dead, up to a quarter hour."""
        if now >= self.until:  # else the answer belongs to an attempt that began before the parking
            self.strikes += 1
            self.extend(now + min(PARK * 2 ** (self.strikes - 1), LONGEST_PARK))

    def half_open(self, now: float) -> bool:
        """Whether its time is over and nothing has yet shown that it works."""
        return 0.0 < self.until <= now

    def clear(self) -> None:
        """It works."""
        self.until = 0.0
        self.trial = None
        self.strikes = 0
