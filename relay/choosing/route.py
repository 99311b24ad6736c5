"""One exchange as routing sees it: where it may go (:class:`Route`) and where it has been (:class:`Attempt`). Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ..config import Deployment
    from ..subjects.subject import Subject
    from .groups import Match
    from .health import Member
    from .outcomes import Outcome
    from .plans import Plan


LISTENING = 0.25  # seconds before the client gives up, so that our answer still finds a listener


class Choice(NamedTuple):
    """The group of a request, and how it was chosen."""

    match: Match
    reason: str  # "header", "names", "model", "home", "forward" (an unknown model); then also "resource", "pin"
    asked: str | None  # the client's model where it stays, "" where it names none, None where the group's replaces it


class Attempt:
    """One try of an exchange at one deployment. In flight from ``begin`` to ``end``."""

    __slots__ = (
        "deployment",
        "ended",
        "free_at",
        "hasty",
        "held",
        "member",
        "number",
        "outcome",
        "redials",
        "route",
        "started",
    )

    def __init__(self, route: Route, member: Member, now: float) -> None:
        self.route = route  # until it has ended: two that know each other would be left for the collector
        self.member = member
        self.deployment = member.deployment
        self.started = now
        self.number = 0  # within the quota group
        self.outcome: Outcome | None = None  # the last one recorded
        self.free_at = 0.0  # after a 429: when to come again
        self.held = False  # a failure, once another deployment has done better
        self.hasty = False  # waits no longer than the client's patience, which is shorter than the deployment's time
        self.redials = 0
        self.ended = False


class Route:
    """Where one exchange may go, and where it has been. Made by ``Router.resolve``, used for one exchange."""

    __slots__ = (
        "answer",
        "asked",
        "attempts",
        "counted",
        "deadline",
        "doubts",
        "group",
        "match",
        "plan",
        "reason",
        "scope",
        "subject",
    )

    def __init__(self, subject: Subject, choice: Choice, plan: Plan, scope: str | None, deadline: float | None) -> None:
        self.subject = subject
        self.match, self.reason, self.asked = choice
        self.group = self.match.group
        self.plan = plan
        self.scope = scope  # that a resource or a pin restricts the exchange to
        self.deadline = deadline  # the client's patience: no response head is worth waiting for after it
        self.attempts: list[Attempt] = []
        self.answer: Attempt | None = None  # what the verdict RELAY relays
        self.counted = False  # by the brake, as an exchange
        self.doubts = False  # some attempt has failed, and it is not settled whose fault that was: it is ``held``

    def wait_since(self, moment: float) -> None:
        """The client has begun to wait for a head at ``moment``: that is when its patience begins (SPEC §7)."""
        patience = self.subject.patience
        if patience is not None:
            self.deadline = moment + patience - LISTENING

    @property
    def candidates(self) -> tuple[Deployment, ...]:
        """Every deployment this exchange may be sent to, those to be asked first first."""
        return tuple(member.deployment for member in self.plan.members.values())

    def upstream_model(self, deployment: Deployment) -> str | None:
        """The name that replaces the client's ``model`` for this deployment; None leaves it as it is."""
        names = self.plan.names
        name = names.get(deployment.id) if names else None
        return None if name == self.subject.model else name

    def useful(self) -> Attempt | None:
        """The attempt whose answer helps the client most, None where none has one.

        The 429 that is free soonest if there was one, else the last.
        """
        answered = [attempt for attempt in self.attempts if attempt.outcome and attempt.outcome.status is not None]
        limited = [attempt for attempt in answered if attempt.free_at]
        if limited:
            return min(limited, key=lambda attempt: attempt.free_at)
        return answered[-1] if answered else None
