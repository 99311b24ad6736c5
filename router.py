"""Who gets a request, and what an outcome means.

Pure: ``now`` (monotonic seconds) and chance (a ``random.Random``) come from outside, nothing here waits or reads. The
story of one exchange asks in this order::

    route = router.resolve(subject, client.name, scope=pinned, started=now)   # ModelNotFound, BadRequest, ScopeConflict
    while True:
        deployment = router.select(route, now)                                # AllOut: the 429 is ours
        attempt = router.begin(route, deployment, now)
        outcome = ...                                                         # judge_answer, or Outcome(Kind...)
        router.record(attempt, outcome, now)                                  # the only place where health changes
        verdict = router.judge(attempt, now, replayable=...)                  # RELAY route.answer, RETRY, REDIAL, FAIL
        router.end(attempt)                                                   # before the next is asked
    router.close(route)                                                       # in every case, once the content is over

``docs/routing.md`` tells the same for operators.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from relay.choosing.groups import Groups
from relay.choosing.health import Ledger, Why
from relay.choosing.homes import Homes
from relay.choosing.outcomes import VERDICTS, Again, Effect, Kind, Outcome
from relay.choosing.plans import Plans
from relay.choosing.pools import UNSETTLED
from relay.choosing.resolver import Resolver
from relay.choosing.route import Attempt, Route
from relay.choosing.strategies import STRATEGIES, preferred
from relay.choosing.tally import Brake
from relay.errors import AllOut
from relay.subjects.endpoints import is_harmless, is_resendable

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    from relay.choosing.health import Member
    from relay.choosing.pools import Pool, Ready
    from relay.config import Config, Deployment

RECENT = 60.0  # seconds that a failure makes a deployment second choice for an SDK that comes again
CLOCK_GRAIN = 0.001  # a timer may fire that early
SOON = 1.0  # seconds after which a full deployment may be asked again
LIMITED = UNSETTLED | {Why.LIMITED, Why.DRAINED}  # who is unsettled and was not asked has no room
USABLE = UNSETTLED | {None, Why.FULL}
OK, GONE, NONE, WELL = Kind.OK, Kind.CLIENT_GONE, Effect.NONE, Effect.WELL
ANSWERS = frozenset({OK, Kind.CLIENT_ERROR})  # nobody else would answer otherwise


__all__ = ["VERDICTS", "Attempt", "Kind", "Outcome", "Route", "Router", "Verdict"]


class Verdict(enum.Enum):
    """What to do after an attempt."""

    RELAY = "relay"  # the answer of ``route.answer``, an attempt of this exchange (mostly, not always, the last)
    RETRY = "retry"  # ``select`` another deployment
    REDIAL = "redial"  # the same attempt on a new connection: nothing has been done, or a lone one is dialled twice
    FAIL = "fail"  # no attempt has an answer: a 502 or 504 of our own, or a committed response to abort


RELAY, RETRY, REDIAL, FAIL = Verdict  # by name, as ``relay.wire.framing`` has its members


class Router:
    """The routing brain of one worker."""

    def __init__(self, config: Config, rng: random.Random, before: Router | None = None) -> None:
        """``before``: the router whose health is carried over (see ``reloaded``)."""
        self._config = config
        self._settings = config.router
        self._rng = rng
        self._choose = STRATEGIES[config.router.routing_strategy]
        self.homes: Homes = Homes(config, before.homes if before else None)
        self.ledger: Ledger = Ledger(config, before.ledger if before else None)
        groups = Groups(config)
        # Where an exchange may go (SPEC §5) is the resolver's to say, and asked of it directly.
        resolver = Resolver(config, groups, self.homes, Plans(config, groups, self.ledger))
        self.resolve, self.within, self.unite = resolver.resolve, resolver.within, resolver.unite
        self.brake: Brake = before.brake if before else Brake()  # discovery's misses count on it too
        self.scopes = self.homes.scopes  # every scope of the file, in its order
        self._everyone = [self.ledger.member(deployment, deployment.model) for deployment in config.deployments]

    def reloaded(self, config: Config) -> Router:
        """A router for a new file; health of unchanged deployments, quota groups and keys is carried over."""
        return Router(config, self._rng, self)

    def home_scopes(self, client: str, session: str | None) -> tuple[str, ...]:
        """All scopes of the file, the client's home scope first (rendezvous hashing)."""
        return self.homes.order(client, session)

    # -- who gets it (SPEC §5 last line, §7) --------------------------------------------------------------------------

    def select(self, route: Route, now: float) -> Deployment:
        """Choose a deployment that this exchange has not asked yet.

        Raises AllOut where the 429 is ours; after a RETRY only if somebody took the last place since: then
        ``give_up``.
        """
        options = self._options(route, now)
        if options is not None:
            pool, ready = options
            return self._pick(route, pool, ready, now).deployment
        if route.attempts:
            raise _all_out(route, SOON)
        return self._last_resort(route, now).deployment

    def _options(self, route: Route, now: float) -> tuple[Pool, Ready] | None:
        """The first pool in which anybody may be chosen, and who; None where all are out."""
        plan = route.plan
        if plan.lone:  # whatever its health: nothing is won by leaving it out
            pool = plan.pools[0]
            fresh = not route.attempts and not pool.members[0].full
            return (pool, pool.everyone) if fresh else None
        wanted = self._wanted(route, now) if route.attempts else None
        for pool in plan.pools:
            ready = pool.ready(now)
            if wanted and ready.members:
                ready = ready.only(wanted)
            if ready.members:
                return pool, ready
        for pool in plan.pools:  # there is no elsewhere, so what others are about to find out is not waited for
            ready = pool.unsettled(now)
            if wanted:
                ready = ready.only(wanted)
            if ready.members:
                return pool, ready
        return None

    def _wanted(self, route: Route, now: float) -> Callable[[Member], bool]:
        """Whom a retry may go to: who was not asked before, and is quick enough for what is left of the patience.

        Once ``num_retries`` are spent, each fallback group gets one attempt still.
        """
        tried = {attempt.deployment.id for attempt in route.attempts}
        spent = len(route.attempts) > self._settings.num_retries
        groups = {attempt.deployment.group for attempt in route.attempts} | {route.group.name} if spent else ()
        left = None if route.deadline is None else route.deadline - now
        stream = route.subject.stream

        def wanted(member: Member) -> bool:
            deployment = member.deployment
            if deployment.id in tried or (groups and (route.scope is not None or deployment.group in groups)):
                return False
            return left is None or left > (member.health.usual(stream=stream) or 0.0)

        return wanted

    def _pick(self, route: Route, pool: Pool, ready: Ready, now: float) -> Member:
        subject = route.subject
        if subject.retry_count:
            sound = ready.only(lambda member: member.health.last_failure <= now - RECENT)
            ready = sound if sound.members else ready
        if len(ready.members) == 1:
            return ready.members[0]
        key = subject.cache_key or subject.session
        liked = preferred(pool, ready, key, now) if key else None
        return liked or self._choose(ready, self._rng, now, subject.stream)

    def _last_resort(self, route: Route, now: float) -> Member:
        """All out: who is asked all the same. Raises AllOut where nobody is."""
        outs = [(member, *out) for member in route.plan.members.values() if (out := member.out(now))]
        full = any(why is Why.FULL for _, why, _ in outs)
        soonest = sorted((out for out in outs if out[1] is not Why.FULL), key=lambda out: out[2])
        for member, why, _ in soonest:
            if why is Why.FAILING or (why is Why.DRAINED and (member.quota.left(now) or 0.0) >= 1):
                return member
        limited = [out for out in soonest if out[1] in LIMITED]
        if full:
            raise _all_out(route, SOON)
        if limited and route.scope is None:
            raise _all_out(route, limited[0][2] - now)
        return (limited or soonest)[0][0]  # a pin returns the upstream's own answer; a dead account's tells the truth

    def begin(self, route: Route, deployment: Deployment, now: float) -> Attempt:
        """Count an attempt as under way."""
        if not route.counted:
            route.counted = True
            self.brake.exchange(now)
        elif route.attempts:
            outcome = route.attempts[-1].outcome
            if outcome is not None and VERDICTS[outcome.kind].braked:
                self.brake.retry(now)
        attempt = Attempt(route, route.plan.members[deployment.id], now)
        attempt.number = self.ledger.begin(attempt.member, attempt, now)
        route.attempts.append(attempt)
        return attempt

    def end(self, attempt: Attempt) -> None:
        """The attempt is over, whichever way. A second call does nothing.

        It knows its route no more, so what is left to be said of it is that its answer has broken.
        """
        if not attempt.ended:
            attempt.ended = True
            self.ledger.end(attempt.member, attempt)
            del attempt.route

    def close(self, route: Route, but: Attempt | None = None) -> None:
        """Nobody else is going to be asked, so every attempt is over: all ``but`` the one whose answer is relayed."""
        for attempt in route.attempts:
            if attempt is not but:
                self.end(attempt)
        if route.doubts:
            self._settle(route)

    # -- what an outcome means (SPEC §7) ------------------------------------------------------------------------------

    def record(self, attempt: Attempt, outcome: Outcome, now: float) -> None:
        """Learn from an outcome. Once when the head is there (or is not to come), once more if the stream breaks."""
        attempt.outcome = outcome
        effect = VERDICTS[outcome.kind].effect
        if effect is NONE:
            return
        ledger, member = self.ledger, attempt.member
        member.health.attempts += 1
        if outcome.buckets:
            ledger.learn(member, outcome, attempt.number, now)
        if effect is WELL:
            self._well(attempt, outcome, now)
        elif effect is Effect.LIMITED:
            attempt.free_at = ledger.limit(member, outcome, now)
        elif effect is Effect.PARK_ACCOUNT:
            attempt.free_at = ledger.park(member.account, now)
        elif effect is Effect.PARK_KEY:
            ledger.park(member.key, now)
        elif effect is Effect.DENIED:
            ledger.deny(member, now)
        else:
            self._failed(attempt, outcome, now)

    def _well(self, attempt: Attempt, outcome: Outcome, now: float) -> None:
        """It works, so failures of others in this exchange were their own."""
        self.ledger.well(attempt.member, attempt)
        if outcome.kind is OK:
            attempt.member.health.learn(now - attempt.started, stream=attempt.route.subject.stream)
        if attempt.route.doubts:
            for other in attempt.route.attempts:
                if other.held:
                    self.ledger.fail(other.member, now)
            self._settle(attempt.route)

    def _settle(self, route: Route) -> None:
        """Nobody else is going to be asked about the failures of this exchange."""
        route.doubts = False
        for attempt in route.attempts:
            if attempt.held:
                attempt.held = False
                self.ledger.trust(attempt.member)

    def _failed(self, attempt: Attempt, outcome: Outcome, now: float) -> None:
        """Without an answer it always counts; with one only if another answers better: the request may be poison."""
        attempt.member.health.last_failure = now
        if VERDICTS[outcome.kind].effect is Effect.HELD:
            attempt.held = attempt.route.doubts = True
            self.ledger.doubt(attempt.member, now)
        else:
            self.ledger.fail(attempt.member, now)
        if outcome.kind is Kind.HEAD_TIMEOUT:
            attempt.member.health.learn(now - attempt.started, stream=attempt.route.subject.stream)

    def judge(self, attempt: Attempt, now: float, *, replayable: bool, committed: bool = False) -> Verdict:
        """What to do about the outcome just recorded. ``replayable``: the request's content can be sent again."""
        outcome, route = attempt.outcome, attempt.route
        assert outcome is not None, "record comes first"
        again = VERDICTS[outcome.kind].again
        if committed or outcome.kind is GONE:
            return FAIL
        if outcome.kind in ANSWERS or not self._may_repeat(route, outcome, again):
            # the last word: an earlier 429 would invite the client to repeat what may have been done
            return self._relay(route, attempt if outcome.status is not None else None)
        if (replayable or not outcome.sent) and self._in_time(route, now):
            if self._may_redial(attempt, again, now):
                attempt.redials += 1
                return REDIAL
            if again in {Again.ALWAYS, Again.HARMLESS} and self._may_retry(route, outcome, now):
                return RETRY
        return self.give_up(route)

    def give_up(self, route: Route) -> Verdict:
        """Nobody else is asked, whatever the last verdict was: RELAY the most useful answer, or FAIL without one."""
        return self._relay(route, route.useful())

    def _relay(self, route: Route, attempt: Attempt | None) -> Verdict:
        if route.doubts:
            self._settle(route)
        route.answer = attempt
        return FAIL if attempt is None else RELAY

    @staticmethod
    def _may_repeat(route: Route, outcome: Outcome, again: Again) -> bool:
        """Whether nothing that this outcome leaves open would be done twice."""
        if again is Again.ALWAYS or not outcome.sent:
            return True
        return is_resendable(route.subject) if again is Again.REDIAL else is_harmless(route.subject)

    @staticmethod
    def _in_time(route: Route, now: float) -> bool:
        return route.deadline is None or now < route.deadline

    def _may_redial(self, attempt: Attempt, again: Again, now: float) -> bool:
        """A stale connection is no fault of the deployment; a lone one that cannot be reached is dialled twice."""
        if attempt.redials:
            return False
        if again is Again.REDIAL:
            return True
        lone = attempt.route.plan.lone and attempt.outcome is not None and attempt.outcome.kind is Kind.CONNECT_FAILED
        if not (lone and self._settings.num_retries and self.brake.allows(now)):
            return False
        self.brake.retry(now)
        return True

    def _may_retry(self, route: Route, outcome: Outcome, now: float) -> bool:
        """Whether the brake lets it, and anybody is left to ask."""
        if VERDICTS[outcome.kind].braked and not self.brake.allows(now):
            return False
        return self._options(route, now) is not None

    # -- time ---------------------------------------------------------------------------------------------------------

    def head_timeout(self, attempt: Attempt, now: float) -> float:
        """Seconds to wait for the response head: the deployment's time, or what is left of the client's patience."""
        deployment, route = attempt.deployment, attempt.route
        own = deployment.stream_timeout if route.subject.stream else None
        own = deployment.timeout if own is None else own
        own = self._config.timeouts.response_head if own is None else own
        left = own if route.deadline is None else max(route.deadline - now, 0.0)
        attempt.hasty = left < own
        return min(own, left)

    def late(self, attempt: Attempt, now: float, *, sent: bool = True) -> Outcome:
        """The outcome of waiting in vain for a head, or (not ``sent``) for a connection.

        It is the deployment's fault, or only the client's haste.
        """
        hasty = attempt.hasty if sent else not self._in_time(attempt.route, now + CLOCK_GRAIN)
        if hasty:
            return Outcome(Kind.IMPATIENT, sent=sent)
        return Outcome(Kind.HEAD_TIMEOUT if sent else Kind.CONNECT_FAILED, sent=sent)

    # -- what can be seen of it ---------------------------------------------------------------------------------------

    def explain(self, route: Route, now: float) -> list[tuple[Deployment, str | None]]:
        """Each candidate in order of preference, and why it is out; None where it is free."""
        outs = [(member, member.out(now)) for member in route.plan.members.values()]
        if route.plan.lone:
            outs = [(member, out if out and out[0] is Why.FULL else None) for member, out in outs]
        return [(member.deployment, out[0].value if out else None) for member, out in outs]

    def available(self, now: float) -> bool:
        """Whether any deployment can be used (readiness); a full one can, in a moment."""
        return not all(out for _, out in self.cooling(now))

    def cooling(self, now: float) -> Iterator[tuple[str, bool]]:
        """Each deployment's id and whether it is out: a gauge."""
        for member in self._everyone:
            out = None if member.deployment.id in self.ledger.exempt else member.out(now)
            yield member.deployment.id, (out and out[0]) not in USABLE

    def headroom(self, now: float) -> Iterator[tuple[str, str, float]]:
        """Quota group, kind ("requests", "tokens") and the least share (0..1) left over its models: a gauge."""
        return self.ledger.shares(now)


def _all_out(route: Route, seconds: float) -> AllOut:
    message = f"Every deployment that could answer for '{route.group.name}' is rate limited or full; try again soon."
    return AllOut(message, retry_after=seconds)
