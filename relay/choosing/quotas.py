"""What a quota group has left for one upstream model, by the figures its answers carry. Pure.

OpenAI's buckets refill evenly: ``x-ratelimit-reset-*`` is the time until a bucket is *full*, so what is left can be
told between two answers. Every worker, and everybody else who uses the key, draws from the same bucket; the figures of
each answer set the estimate right again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .holds import Hold

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .outcomes import Figures

LONGEST_OUT = 60.0  # seconds; SPEC §7: no limit keeps a quota group out for longer
A_MINUTE = 60.0  # how fast a bucket refills that does not say: limits are given per minute
SMOOTHING = 0.2  # of the moving average of what one exchange costs


class Bucket:
    """One kind of limit: ``requests``, ``tokens``, ``project-tokens``, ..."""

    __slots__ = ("at", "cost", "limit", "rate", "remaining", "seen")

    def __init__(self, cost: float | None) -> None:
        self.limit: float | None = None
        self.remaining = 0.0
        self.rate = 0.0  # refilled per second
        self.at = 0.0  # when the figures were true
        self.cost = cost  # of one exchange; None until two answers have told
        self.seen = 0  # number of the last attempt that the figures know of

    def estimate(self, now: float) -> float:
        """What is left, as far as time alone has changed it."""
        if self.limit is None:
            return self.remaining
        left = self.remaining + self.rate * (now - self.at)
        return min(self.limit, left)

    def learn(self, figures: Figures, number: int, now: float, *, fixed_cost: bool) -> None:
        """Take over the figures of the answer to attempt ``number``."""
        if not fixed_cost and self.seen and number > self.seen:
            spent = max(self.estimate(now) - figures.remaining, 0.0) / (number - self.seen)
            self.cost = spent if self.cost is None else self.cost + SMOOTHING * (spent - self.cost)
        self.limit, self.remaining, self.at, self.seen = figures.limit, figures.remaining, now, number
        missing = (figures.limit or figures.remaining) - figures.remaining
        self.rate = missing / figures.reset if figures.reset else (figures.limit or 0.0) / A_MINUTE


class Quota:
    """A quota group's limits for one upstream model."""

    __slots__ = ("begun", "buckets", "drained_until", "hold", "in_flight")

    def __init__(self) -> None:
        self.hold = Hold()  # a 429 came
        self.drained_until = 0.0  # none came, but the last answer left nothing
        self.in_flight = 0
        self.begun = 0  # attempts so far; their numbers
        self.buckets: dict[str, Bucket] = {}

    def learn(self, figures: Mapping[str, Figures], number: int, now: float) -> bool:
        """Take over the figures of the answer to attempt ``number``. True if who can be chosen, or how often, changed.

        An answer to an older attempt than the last one learnt from is old news.
        """
        before = self.drained_until
        drained, news = 0.0, False
        for kind, said in figures.items():
            bucket = self.buckets.get(kind)
            if bucket is None:
                bucket = self.buckets[kind] = Bucket(1.0 if "requests" in kind else None)
            elif number < bucket.seen:
                return False
            news = news or bucket.limit != said.limit
            bucket.learn(said, number, now, fixed_cost="requests" in kind)
            if said.remaining == 0 and said.reset:
                drained = max(drained, now + min(said.reset, LONGEST_OUT))
        self.drained_until = drained
        return news or drained != before

    def unseen(self, bucket: Bucket) -> int:
        """Attempts under way that the bucket's figures cannot know of."""
        unseen = self.begun - bucket.seen
        return min(self.in_flight, unseen)

    def share(self, now: float) -> float | None:
        """The least share (up to 1) of its limits that is left, less what is in flight; None without a signal."""
        least = None
        for bucket in self.buckets.values():
            if bucket.limit:
                share = (bucket.estimate(now) - self.unseen(bucket) * (bucket.cost or 0.0)) / bucket.limit
                if least is None or share < least:
                    least = share
        return least

    def left(self, now: float) -> float | None:
        """How many more exchanges fit in, less those in flight; None without a signal."""
        least = None
        for bucket in self.buckets.values():
            estimate = bucket.estimate(now)
            if bucket.cost:
                estimate = estimate / bucket.cost - self.unseen(bucket)
            elif estimate:
                continue  # tokens are left, but nobody knows yet how many an exchange takes
            if least is None or estimate < least:
                least = estimate
        return least

    def limit(self, kind: str) -> float | None:
        """The limit of one kind, where an answer has named it."""
        bucket = self.buckets.get(kind)
        return bucket.limit if bucket else None
