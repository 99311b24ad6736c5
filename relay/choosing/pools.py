"""Deployments that stand beside each other in a choice, and which of them are free right now. Pure.

Who is free is worked out when it changes (the ledger's stamp) or when somebody's time is over, not for each exchange:
a choice among a hundred costs no more than one among two.
"""

from __future__ import annotations

import hashlib
import math
from itertools import accumulate
from typing import TYPE_CHECKING

from .health import Why

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from ..config import Deployment
    from .health import Member, Stamp

UNSETTLED = frozenset({Why.TRIAL, Why.DOUBTED})
MOST_KEYS = 1024  # cache keys whose order is remembered
BEST = 4  # of an order; a fifth choice is as cold as any other


class Ready:
    """Members that may be chosen, with what strategies need to draw among them."""

    __slots__ = ("_by_limit", "cumulative", "members", "weights")

    def __init__(self, members: Sequence[Member], weights: Sequence[float] | None = None) -> None:
        self.members = members
        self.weights = weights
        self.cumulative = _cumulative(weights)
        self._by_limit: list[float] | None = None

    def only(self, wanted: Callable[[Member], bool]) -> Ready:
        """Those that are wanted."""
        kept = [at for at, member in enumerate(self.members) if wanted(member)]
        if len(kept) == len(self.members):
            return self
        weights = [self.weights[at] for at in kept] if self.weights else None
        return Ready([self.members[at] for at in kept], weights)

    @property
    def by_limit(self) -> list[float] | None:
        """Cumulative rate limits, for draws in proportion to them; the shuffle's weights where none is known.

        Kept, since limits hardly ever change and the ledger's stamp says when they do.
        """
        if self._by_limit is None:
            self._by_limit = _cumulative(self._limits()) or self.cumulative or []
        return self._by_limit or None

    def _limits(self) -> list[float] | None:
        """Each member's limit, of one kind for all; who has not named it counts as the average."""
        for kind in ("requests", "tokens"):
            limits = [member.quota.limit(kind) for member in self.members]
            known = [limit for limit in limits if limit]
            if known:
                average = sum(known) / len(known)
                return [limit or average for limit in limits]
        return None


class Pool:
    """Members of one model group, ``order`` and (where one is preferred) scope."""

    __slots__ = ("_best", "_next", "_ready", "_seen", "_stamp", "everyone", "group", "members", "weights")

    def __init__(self, group: str, members: Sequence[Member], stamp: Stamp) -> None:
        self.group = group
        self.members = tuple(members)
        self.weights = shares([member.deployment for member in members])
        self.everyone = Ready(self.members, self.weights)
        self._stamp = stamp
        self._seen = -1
        self._next = 0.0  # when somebody's time is over
        self._ready = Ready(())
        self._best: dict[str, tuple[Member, ...]] = {}

    def ready(self, now: float) -> Ready:
        """The members that are free."""
        if self._seen != self._stamp.value or now >= self._next:
            self._refresh(now)
        return self._ready

    def _refresh(self, now: float) -> None:
        free, self._next = [], math.inf
        for at, member in enumerate(self.members):
            out = member.out(now)
            if out is None:
                free.append(at)
            elif out[1] > now:
                self._next = min(self._next, out[1])
        weights = [self.weights[at] for at in free] if self.weights else None
        self._ready = Ready([self.members[at] for at in free], weights)
        self._seen = self._stamp.value

    def unsettled(self, now: float) -> Ready:
        """Members that are out only until other exchanges have shown whether they work, and have room as far as known.

        Where a rate limit is known to leave no room, one trial is enough: the rest would only be refused.
        """
        return Ready([member for member in self.members if _is_unsettled(member, now)])

    def best(self, key: str) -> tuple[Member, ...]:
        """The members that ``key`` prefers, the best first: rendezvous hashing, by weight."""
        best = self._best.get(key)
        if best is None:
            weights = self.weights or [1.0] * len(self.members)
            scored = [
                (_score(key, member.deployment.id, weight), at)
                for at, (member, weight) in enumerate(zip(self.members, weights, strict=True))
            ]
            best = tuple(self.members[at] for _, at in sorted(scored, reverse=True)[:BEST])
            if len(self._best) >= MOST_KEYS:
                self._best.clear()
            self._best[key] = best
        return best


def tiers(group: str, members: Sequence[Member], stamp: Stamp) -> tuple[Pool, ...]:
    """The members as pools, one for each ``order``, the lowest first."""
    orders = sorted({member.deployment.order for member in members})
    return tuple(
        Pool(group, [member for member in members if member.deployment.order == order], stamp) for order in orders
    )


def shares(deployments: Collection[Deployment]) -> list[float] | None:
    """Each one's share of a shuffle, None where all are equal: the first of weight, rpm and tpm that any one sets.

    Who does not say gets the weight 1, or the average ``rpm`` or ``tpm``, so that nobody is forgotten by omission.
    """
    for name in ("weight", "rpm", "tpm"):
        said = [getattr(deployment, name) for deployment in deployments]
        known = [share for share in said if share is not None]
        if known:
            default = 1.0 if name == "weight" else sum(known) / len(known)
            found = [default if share is None else float(share) for share in said]
            return found if len(set(found)) > 1 else None
    return None


def _is_unsettled(member: Member, now: float) -> bool:
    out = member.out(now)
    if out is None or out[0] not in UNSETTLED:
        return False
    left = member.quota.left(now)
    return left is None or left >= 1


def _cumulative(weights: Sequence[float] | None) -> list[float] | None:
    """Running sums to draw in, None where all are drawn alike (also where only weights of zero are left)."""
    sums = list(accumulate(weights)) if weights else None
    return sums if sums and sums[-1] > 0 else None


def rank(key: str, names: Collection[str]) -> tuple[str, ...]:
    """All names, in the order that ``key`` prefers them: the same on every worker and after every restart.

    Rendezvous hashing: a name that comes or goes moves only what preferred it.
    """
    return tuple(sorted(names, key=lambda name: _digest(key, name), reverse=True))


def _digest(key: str, name: str) -> bytes:
    salted = f"{len(key)}:{key}:{name}".encode("utf-8", "surrogateescape")
    return hashlib.blake2b(salted, digest_size=8).digest()


def _score(key: str, name: str, weight: float) -> float:
    """Weighted rendezvous: each name wins in proportion to its weight."""
    # 52 bits and a half are a float between 0 and 1, but never either
    chance = ((int.from_bytes(_digest(key, name), "big") >> 12) + 0.5) / (1 << 52)
    return -weight / math.log(chance)
