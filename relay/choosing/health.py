"""What one worker has learnt: health of deployments, quota groups, accounts and keys. Pure.

The :class:`Ledger` owns every piece and is the only one to change it; the router tells it what happened. A
:class:`Member` is a deployment as it is asked for one upstream model, with the pieces that decide whether it is out:
deployments share them where they share a quota group or a key.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from typing import TYPE_CHECKING

from ..bounded import Bounded
from .holds import Hold
from .quotas import LONGEST_OUT, Quota

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from ..config import Config, Deployment
    from .outcomes import Outcome

WINDOW = 60  # seconds that failures are remembered
FAILING_SHARE = 0.2  # of the attempts, below which failures are an upstream's daily noise
SMOOTHING = 0.2  # of the moving average of the first byte
MOST_NAMES = 4096  # clients may name any model; this many are remembered apart


class Why(enum.Enum):
    """Why a deployment is out; the value completes "it is ...". The earlier member decides where several hold."""

    FULL = "full (max_parallel_requests)"
    PARKED = "parked (its account or key is dead)"
    DENIED = "cooling (its key may not use this model)"
    LIMITED = "cooling (rate limited)"
    DRAINED = "left alone (its last answer left nothing of the rate limit)"
    FAILING = "cooling (failures)"
    DOUBTED = "doubted (its last answers were failures, which others are being asked about)"
    TRIAL = "being tried by another exchange"


class Health:
    """One deployment's own: failures, load, and how long its first byte takes."""

    __slots__ = (
        "attempts",
        "doubted_until",
        "doubts",
        "failures",
        "first_byte",
        "first_event",
        "hold",
        "in_flight",
        "last_failure",
    )

    def __init__(self) -> None:
        self.hold = Hold()
        self.attempts = 0  # so far
        self.failures: deque[tuple[float, int]] = deque()  # the latest: when, and which attempt it was
        self.doubts: deque[float] = deque()  # failures that may be the requests' own: when
        self.doubted_until = 0.0
        self.in_flight = 0
        # seconds to the head, moving average, infinite while unknown: of answers that come whole, and of streams,
        # whose head does not wait for the last word
        self.first_byte = math.inf
        self.first_event = math.inf
        self.last_failure = -float(WINDOW)

    def usual(self, *, stream: bool) -> float | None:
        """Seconds this deployment usually takes to its first byte; None where nothing is known."""
        average = self.first_event if stream else self.first_byte
        return None if average == math.inf else average

    def learn(self, seconds: float, *, stream: bool) -> None:
        """Take one more first byte into the average."""
        average = self.first_event if stream else self.first_byte
        average = seconds if average == math.inf else average + SMOOTHING * (seconds - average)
        if stream:
            self.first_event = average
        else:
            self.first_byte = average


class Member:
    """A deployment as it is asked for one upstream model."""

    __slots__ = ("access", "account", "deployment", "health", "holds", "key", "quota", "sound_at")

    def __init__(
        self, deployment: Deployment, health: Health, *, quota: Quota, account: Hold, key: Hold, access: Hold
    ) -> None:
        self.deployment = deployment
        self.health = health
        self.quota = quota
        self.account = account
        self.key = key
        self.access = access
        self.sound_at = -1  # the stamp at which none of these held it, or was being tried
        self.holds = (
            (Why.PARKED, account),
            (Why.PARKED, key),
            (Why.DENIED, access),
            (Why.LIMITED, quota.hold),
            (Why.FAILING, health.hold),
        )

    @property
    def full(self) -> bool:
        """Whether ``max_parallel_requests`` are under way."""
        most = self.deployment.max_parallel_requests
        return most is not None and self.health.in_flight >= most

    def out(self, now: float) -> tuple[Why, float] | None:
        """Why it cannot be chosen, and until when; None where it can."""
        if self.full:
            return Why.FULL, now
        why, until, soft = None, now, Why.DOUBTED if self.health.doubted_until > now else None
        for reason, hold in self.holds:
            if hold.until > now:
                why, until = why or reason, max(until, hold.until)
            elif hold.trial is not None:
                soft = Why.TRIAL
        if self.quota.drained_until > now:
            why = Why.DRAINED if why in {None, Why.FAILING} else why
            until = max(until, self.quota.drained_until)
        if why is not None:
            return why, until
        return (soft, self.health.doubted_until) if soft else None


class Stamp:
    """Counts the changes of who is out, so that what was worked out from them is worked out again only then."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


class Ledger:
    """All health of one worker."""

    def __init__(self, config: Config, before: Ledger | None = None) -> None:
        """With ``before``, what is known of unchanged deployments, quota groups and keys is taken over."""
        self.settings = config.router
        self.stamp: Stamp = before.stamp if before else Stamp()  # shared: attempts begun before a reload still end
        self.exempt = frozenset(_alone(config))
        self.healths: dict[str, tuple[Deployment, Health]] = {}
        self.quotas: Bounded[tuple[str, str], Quota] = before.quotas if before else Bounded(MOST_NAMES)
        self.accounts: Bounded[str, Hold] = before.accounts if before else Bounded(MOST_NAMES)
        self.keys: Bounded[Hashable, Hold] = before.keys if before else Bounded(MOST_NAMES)
        self.accesses: Bounded[Hashable, Hold] = before.accesses if before else Bounded(MOST_NAMES)
        for deployment in config.deployments:
            known = before.healths.get(deployment.id) if before else None
            kept = known[1] if known and known[0] == deployment else Health()
            self.healths[deployment.id] = (deployment, kept)
        self.stamp.value += 1

    def member(self, deployment: Deployment, model: str) -> Member:
        """The deployment as it is asked for ``model``, "" for requests that name none."""
        key = (deployment.base, deployment.key)
        return Member(
            deployment,
            self.healths[deployment.id][1],
            quota=self.quotas.made((deployment.quota_group, model), Quota),
            account=self.accounts.made(deployment.quota_group, Hold),
            key=self.keys.made(key, Hold),
            access=self.accesses.made((*key, model), Hold),
        )

    # -- load ---------------------------------------------------------------------------------------------------------

    def begin(self, member: Member, trial: object, now: float) -> int:
        """One more attempt is under way; it tries whatever is half open. Its number within the quota group."""
        health, quota = member.health, member.quota
        health.in_flight += 1
        quota.in_flight += 1
        quota.begun += 1
        if member.deployment.max_parallel_requests is not None and member.full:
            self.stamp.value += 1
        if not self._is_sound(member):
            for _, hold in member.holds:
                if hold.until and hold.trial is None and hold.half_open(now):
                    hold.trial = trial
                    self.stamp.value += 1
        return quota.begun

    def _is_sound(self, member: Member) -> bool:
        """Whether nothing holds it, or was held and has not been tried; every change of that changes the stamp."""
        if member.sound_at == self.stamp.value:
            return True
        if any(hold.until or hold.trial is not None for _, hold in member.holds):
            return False
        member.sound_at = self.stamp.value
        return True

    def end(self, member: Member, trial: object) -> None:
        """An attempt is over. What it tried and did not settle is half open again, for another."""
        if member.deployment.max_parallel_requests is not None and member.full:
            self.stamp.value += 1
        member.health.in_flight -= 1
        member.quota.in_flight -= 1
        if not self._is_sound(member):
            for _, hold in member.holds:
                if hold.trial is trial:
                    hold.trial = None
                    self.stamp.value += 1

    # -- what happened ------------------------------------------------------------------------------------------------

    def learn(self, member: Member, outcome: Outcome, number: int, now: float) -> None:
        """Take over the figures that an answer carries about rate limits."""
        if outcome.buckets and member.quota.learn(outcome.buckets, number, now):
            self.stamp.value += 1
            if self.settings.disable_cooldowns:
                member.quota.drained_until = 0.0

    def well(self, member: Member, trial: object) -> None:
        """It works: what ``trial`` tried is sound again."""
        if self._is_sound(member):
            return
        for _, hold in member.holds:
            if hold.trial is trial:
                hold.clear()
                self.stamp.value += 1
                if hold is member.health.hold:
                    member.health.failures.clear()

    def fail(self, member: Member, now: float) -> None:
        """It failed: one failure cools it while it is half open, else more than ``allowed_fails`` within a minute.

        Those must also be a fifth of the attempts since the first of them: so a deployment that breaks is left after a
        few failures however well it did before, and one that fails now and then is not.
        """
        health, allowed = member.health, self.settings.allowed_fails
        half_open = health.hold.half_open(now)
        failures = health.failures
        failures.append((now, health.attempts))
        while len(failures) > allowed + 1:
            failures.popleft()
        if member.deployment.id in self.exempt:
            return
        since, first = failures[0]
        often = len(failures) > allowed and now - since <= WINDOW
        if half_open or (often and len(failures) >= FAILING_SHARE * (health.attempts - first + 1)):
            self._hold(health.hold, now + self._cooldown(member.deployment))

    def doubt(self, member: Member, now: float) -> None:
        """It answered with a failure, and it is not yet known whether another deployment does better.

        More than ``allowed_fails`` such answers at once let other exchanges go elsewhere if there is an elsewhere. They
        are not held against it, and forgotten after a cooldown, should nobody tell how they ended.
        """
        health, cooldown = member.health, self._cooldown(member.deployment)
        health.doubts.append(now)
        while health.doubts[0] < now - cooldown:
            health.doubts.popleft()
        if len(health.doubts) > self.settings.allowed_fails and not self.settings.disable_cooldowns:
            health.doubted_until = health.doubts[0] + cooldown
            self.stamp.value += 1

    def trust(self, member: Member) -> None:
        """One of those answers is settled."""
        health = member.health
        if health.doubts:
            health.doubts.popleft()
            if health.doubted_until and len(health.doubts) <= self.settings.allowed_fails:
                health.doubted_until = 0.0
                self.stamp.value += 1

    def limit(self, member: Member, outcome: Outcome, now: float) -> float:
        """A 429: the quota group is out for this model. When it is free again.

        What the answer asks for goes before what its figures would say.
        """
        asked = outcome.retry_after or _empty_reset(outcome)
        until = now + (min(asked, LONGEST_OUT) if asked else self._cooldown(member.deployment))
        member.quota.drained_until = 0.0
        self._hold(member.quota.hold, until)
        return until

    def deny(self, member: Member, now: float) -> None:
        """A 401 or 403 that does not say that the key is dead: the key is out for this model only."""
        self._hold(member.access, now + self._cooldown(member.deployment))

    def park(self, hold: Hold, now: float) -> float:
        """A dead account or key. When it is tried again."""
        if not self.settings.disable_cooldowns:
            hold.park(now)
            self.stamp.value += 1
        return hold.until

    def _hold(self, hold: Hold, until: float) -> None:
        if not self.settings.disable_cooldowns:
            hold.extend(until)
            self.stamp.value += 1

    def _cooldown(self, deployment: Deployment) -> float:
        own = deployment.cooldown_time
        return self.settings.cooldown_time if own is None else own

    # -- gauges -------------------------------------------------------------------------------------------------------

    def shares(self, now: float) -> Iterator[tuple[str, str, float]]:
        """Quota group, kind of limit, and the least share of it that is left over all models."""
        least: dict[tuple[str, str], float] = {}
        for (quota_group, _), quota in self.quotas.items():
            for kind, bucket in quota.buckets.items():
                if bucket.limit:
                    share = bucket.estimate(now) / bucket.limit
                    least[quota_group, kind] = min(share, least.get((quota_group, kind), 1.0))
        for (quota_group, kind), share in least.items():
            yield quota_group, kind, share


def _alone(config: Config) -> Iterator[str]:
    """Ids of deployments that are the only candidate wherever they are one: nothing is won by leaving them out."""
    settings = config.router
    reached = set(settings.default_fallbacks).union(*settings.fallbacks.values())
    for group in config.groups.values():
        falls_back = settings.default_fallbacks or "*" in settings.fallbacks or group.name in settings.fallbacks
        if len(group.deployments) == 1 and group.name not in reached and not falls_back:
            yield group.deployments[0].id


def _empty_reset(outcome: Outcome) -> float | None:
    """Seconds until the bucket is full of which nothing remains; the other bucket's reset says nothing."""
    resets = [figures.reset for figures in (outcome.buckets or {}).values() if figures.remaining == 0 and figures.reset]
    return max(resets, default=None)
