"""Who gets a request, and what an outcome means.

Pure: ``now`` (monotonic seconds) and chance (a ``random.Random``) come from outside, nothing here waits or reads. The
story of one exchange asks in this order::

    route = router.resolve(subject, client.name, scope=pinned, started=now)   # ModelNotFound, BadRequest, ScopeConflict
    while True:
        deployment = router.select(route, now)                                # AllOut: the 429 is ours
        attempt = router.begin(route, deployment, now)
        outcome = ...                                                         # relay.outcomes.read_outcome, or Outcome(Kind...)
        router.record(attempt, outcome, now)                                  # the only place where health changes
        verdict = router.judge(attempt, now, replayable=...)                  # RELAY route.answer, RETRY, REDIAL, FAIL
        router.end(attempt, now)                                              # in every case, once its content is over
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from relay.config import Config, Deployment, ModelGroup
    from relay.outcomes import Outcome
    from relay.subject import Subject


class Verdict(enum.Enum):
    """What to do after an attempt."""

    RELAY = "relay"  # the answer of ``route.answer``, an attempt of this exchange (mostly, not always, the last)
    RETRY = "retry"  # ``select`` another deployment
    REDIAL = "redial"  # the same attempt again on a new connection: nothing has been done, or a lone one is dialled twice
    FAIL = "fail"  # no attempt has an answer: a 502 or 504 of our own, or a committed response to abort


class Attempt:
    """One try of an exchange at one deployment. In flight from ``begin`` to ``end``."""

    __slots__ = ("deployment", "ended", "outcome", "redials", "route", "started")

    route: Route
    deployment: Deployment
    started: float
    outcome: Outcome | None  # the last one recorded
    redials: int
    ended: bool


class Route:
    """Where one exchange may go, and where it has been. Made by ``resolve``, used for one exchange."""

    __slots__ = ("answer", "attempts", "deadline", "group", "home", "pinned", "reason", "scope", "subject")

    group: ModelGroup
    reason: str  # "header", "names", "model", "home", "forward" (unknown model), "resource", "pin"
    scope: str | None  # the scope that a resource or a pin restricts the exchange to
    pinned: bool
    home: bool  # sent to the client's home scope first
    subject: Subject
    deadline: float | None  # the client's patience, less a quarter second: no response head is worth waiting for after it
    attempts: list[Attempt]
    answer: Attempt | None  # what Verdict.RELAY relays

    @property
    def candidates(self) -> tuple[Deployment, ...]:
        """Every deployment this exchange may be sent to, those to be asked first first."""
        raise NotImplementedError

    def upstream_model(self, deployment: Deployment) -> str | None:
        """The name that replaces the client's ``model`` for this deployment; None leaves it as it is."""
        raise NotImplementedError

    def useful(self) -> Attempt | None:
        """The attempt whose answer helps the client most: the 429 that is free soonest, else the last answer, else None."""
        raise NotImplementedError


class Router:
    """The routing brain of one worker."""

    scopes: tuple[str, ...]  # every scope of the file, in its order

    def __init__(self, config: Config, rng: random.Random) -> None:
        raise NotImplementedError

    def resolve(
        self,
        subject: Subject,
        client: str,
        *,
        scope: str | None = None,  # where the resources live that the request names (looked up by the caller)
        started: float = 0.0,  # when the client began to wait
        homed: bool = False,  # the caller knows that this client or session has made workspace things
    ) -> Route:
        """Decide group, scope and candidates. Raises ModelNotFound, BadRequest (unknown scope) or ScopeConflict."""
        raise NotImplementedError

    def within(self, route: Route, scope: str) -> Route:
        """The same exchange, pinned to another scope: for discovery, which asks the scopes in turn."""
        raise NotImplementedError

    def home_scopes(self, client: str, session: str | None) -> tuple[str, ...]:
        """All scopes of the file, the client's home scope first (rendezvous hashing)."""
        raise NotImplementedError

    def select(self, route: Route, now: float) -> Deployment:
        """Choose a deployment that this exchange has not asked yet. Raises AllOut where the 429 is ours."""
        raise NotImplementedError

    def begin(self, route: Route, deployment: Deployment, now: float) -> Attempt:
        """Count an attempt as under way."""
        raise NotImplementedError

    def record(self, attempt: Attempt, outcome: Outcome, now: float) -> None:
        """Learn from an outcome. Once when the head is there (or is not to come), once more if the stream breaks."""
        raise NotImplementedError

    def judge(self, attempt: Attempt, now: float, *, replayable: bool, committed: bool = False) -> Verdict:
        """What to do about the outcome just recorded."""
        raise NotImplementedError

    def end(self, attempt: Attempt, now: float) -> None:
        """The attempt is over, whichever way. A second call does nothing."""
        raise NotImplementedError

    def head_timeout(self, attempt: Attempt, now: float) -> float:
        """Seconds to wait for the response head: the deployment's limit, or what is left of the client's patience."""
        raise NotImplementedError

    def late(self, attempt: Attempt, now: float) -> Outcome:
        """The outcome of waiting that long in vain: the deployment's fault, or only the client's haste."""
        raise NotImplementedError

    def explain(self, route: Route, now: float) -> list[tuple[Deployment, str | None]]:
        """Each candidate and why it is out; None where it is free."""
        raise NotImplementedError

    def available(self, now: float) -> bool:
        """Whether any deployment can be used (readiness)."""
        raise NotImplementedError

    def cooling(self, now: float) -> Iterator[tuple[str, bool]]:
        """Each deployment's id and whether it is out: a gauge."""
        raise NotImplementedError

    def headroom(self, now: float) -> Iterator[tuple[str, str, float]]:
        """Quota group, kind ("requests", "tokens") and the least share (0..1) left over its models: a gauge."""
        raise NotImplementedError

    def reloaded(self, config: Config) -> Router:
        """A router for a new file; health of unchanged deployments, quota groups and keys is carried over."""
        raise NotImplementedError
