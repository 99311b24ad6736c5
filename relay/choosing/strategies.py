"""How one of the free deployments is chosen: the table of ``routing_strategy``, and soft affinity above it. Pure.

A strategy takes the members that may be chosen (at least one), chance and time, and gives one of them.
"""

from __future__ import annotations

from bisect import bisect
from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from .health import Member
    from .pools import Pool, Ready

    Strategy = Callable[[Ready, Random, float, bool], Member]

EXPLORE = 0.01  # of the exchanges go to any deployment, so that a slow one that became fast is noticed
COMPARE_ALL = 8  # up to this many, headroom is compared among all
DRAWS = 4  # beyond it, among so many draws: a choice among a hundred stays cheap
LOAD = 1.25  # times the average, above which a preferred deployment is left
LOAD_FLOOR = 4  # exchanges under way that are no load at all; without it a tenth of the cache hits is lost

_FIRST_BYTE = attrgetter("health.first_byte")
_FIRST_EVENT = attrgetter("health.first_event")


def simple_shuffle(ready: Ready, rng: Random, now: float, stream: bool) -> Member:  # noqa: ARG001 - one signature for all
    """By weight, else rpm, else tpm, else evenly."""
    return _draw(ready.members, ready.cumulative, rng)


def least_busy(ready: Ready, rng: Random, now: float, stream: bool) -> Member:  # noqa: ARG001
    """The less busy of two drawn at random: nearly as even as the least of all, and workers do not herd."""
    members = ready.members
    count = len(members)
    one = int(rng.random() * count)
    other = (one + 1 + int(rng.random() * (count - 1))) % count
    a, b = members[one], members[other]
    return a if a.health.in_flight <= b.health.in_flight else b


def latency_based(ready: Ready, rng: Random, now: float, stream: bool) -> Member:  # noqa: ARG001
    """The one whose first byte comes soonest, by its moving average; once in a hundred any."""
    members = ready.members
    if rng.random() >= EXPLORE:
        best = min(members, key=_FIRST_EVENT if stream else _FIRST_BYTE)
        if best.health.usual(stream=stream) is not None:  # else none is known
            return best
    return members[int(rng.random() * len(members))]


def headroom(ready: Ready, rng: Random, now: float, stream: bool) -> Member:  # noqa: ARG001
    """The one with the largest share of its rate limits left.

    Comparing shares, not amounts, lets keys of unequal limits empty together. Between equals (at rest, all are full)
    the draw decides, which is made in proportion to the limits. A deployment without a signal takes what it draws.
    """
    members, by_limit = ready.members, ready.by_limit
    drawn = _draw(members, by_limit, rng)
    most = drawn.quota.share(now)
    if most is None:
        return drawn
    rivals = members if len(members) <= COMPARE_ALL else [_draw(members, by_limit, rng) for _ in range(DRAWS)]
    for rival in rivals:
        share = rival.quota.share(now)
        if share is not None and share > most:
            drawn, most = rival, share
    return drawn


STRATEGIES: dict[str, Strategy] = {
    "simple-shuffle": simple_shuffle,
    "least-busy": least_busy,
    "latency-based-routing": latency_based,
    "headroom": headroom,
}


def preferred(pool: Pool, ready: Ready, key: str, now: float) -> Member | None:
    """The live member whose prompt cache ``key`` is warm (or will be), None where none of the best can take it.

    It is left when it is out, has no headroom, or carries more than its share while it is busy at all (consistent
    hashing with bounded loads). Then the next best is taken, so that a second cache is warmed, not all of them.
    """
    for member in pool.best(key):
        if member in ready.members and not _burdened(member, ready.members):
            left = member.quota.left(now)
            if left is None or left >= 1:
                return member
    return None


def _burdened(member: Member, members: Sequence[Member]) -> bool:
    busy = member.health.in_flight
    return busy > LOAD_FLOOR and busy * len(members) > LOAD * sum(other.health.in_flight for other in members)


def _draw(members: Sequence[Member], cumulative: Sequence[float] | None, rng: Random) -> Member:
    if cumulative is None:
        return members[int(rng.random() * len(members))]
    return members[bisect(cumulative, rng.random() * cumulative[-1], 0, len(members) - 1)]
