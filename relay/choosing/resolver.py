"""Where an exchange may go: model group, scope and the order of candidates (SPEC §5). Pure.

Names decide the group, resources and pins restrict the scope, and what kind of call it is decides whether the client's
home scope comes first. Nothing here looks at health.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..bounded import Bounded
from ..errors import BadRequest, ScopeConflict
from .route import Choice, Route

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..config import Config
    from ..subjects.subject import Subject
    from .groups import Groups
    from .homes import Homes
    from .plans import Plan, Plans


MOST_MODELS = 4096  # clients may name any; a name is not longer than 1,024 characters


class Resolver:
    """Makes the route of a request."""

    def __init__(self, config: Config, groups: Groups, homes: Homes, plans: Plans) -> None:
        self._config = config
        self._groups = groups
        self._homes = homes
        self._plans = plans
        self._united: Mapping[str, str] | None = None
        self._usual: Bounded[str | None, tuple[Choice, Plan]] = Bounded(MOST_MODELS)  # by what the client calls it

    def resolve(
        self, subject: Subject, client: str, *, scope: str | None = None, started: float = 0.0, homed: bool = False
    ) -> Route:
        """Decide group, scope and candidates.

        ``scope``: where the resources live that the request names, looked up by the caller. ``started``: when the
        client began to wait. ``homed``: the caller knows that this client or session has made workspace things.
        Raises ModelNotFound, BadRequest (a scope that no deployment has), ScopeConflict.
        """
        if scope is None and is_usual(subject):
            choice, plan = self._usual.get(subject.model) or self._remember(subject)
            route = Route(subject, choice, plan, None, None)
            route.wait_since(started)
            return route
        choice = self._group(subject)
        if not subject.endpoint.answer and subject.endpoint.method == "POST":
            self._homes.made(client, subject.session)
        pin = self._pin(subject, scope)
        if pin is not None:
            choice = choice._replace(reason="pin" if subject.scope else "resource")
            plan = self._plans.pinned(choice.match, choice.asked, pin)
        elif self._goes_home(subject, client, homed=homed):
            plan = self._plans.home(choice.match, choice.asked, self._homes.order(client, subject.session))
        else:
            plan = self._plans.spread(choice.match, choice.asked)
        route = Route(subject, choice, plan, pin, None)
        route.wait_since(started)
        return route

    def _remember(self, subject: Subject) -> tuple[Choice, Plan]:
        """Where a request goes that names a model and nothing else."""
        choice = self._group(subject)
        return self._usual.made(subject.model, lambda: (choice, self._plans.spread(choice.match, choice.asked)))

    def within(self, route: Route, scope: str) -> Route:
        """The same exchange, pinned to another scope: for discovery, which asks the scopes in turn."""
        plan = self._plans.pinned(route.match, route.asked, scope)
        choice = Choice(route.match, "resource", route.asked)
        other = Route(route.subject, choice, plan, scope, route.deadline)
        other.counted = True
        return other

    def unite(self, names: Mapping[str, str]) -> None:
        """Scopes to which ``names`` gives one name are one from now on; a call with the same mapping does nothing."""
        if names is not self._united:
            self._united = names
            self._usual.clear()
            self._plans.unite(names)

    def _group(self, subject: Subject) -> Choice:
        """The first that speaks decides: header, ``target_model_names``, ``model``; else the home group."""
        model = subject.model
        if subject.header_model is not None:
            return self._told(subject.header_model, "header", model)
        if subject.names:
            return self._told(subject.names[0], "names", model)
        if model is None:
            return Choice(self._groups.home, "home", "")
        match = self._groups.find(model)
        if match is not None:
            return Choice(match, "model", None)
        if self._config.router.unknown_model == "forward":
            return Choice(self._groups.home, "forward", model)
        raise self._groups.unknown(model)

    def _told(self, name: str, reason: str, model: str | None) -> Choice:
        """The group that a request is told to use. An unknown one is an error: it cannot be forwarded as it is."""
        match = self._groups.find(name)
        if match is None:
            raise self._groups.unknown(name)
        if model is None:
            return Choice(match, reason, "")
        return Choice(match, reason, model if self._groups.look_up(model) is None else None)

    def _pin(self, subject: Subject, scope: str | None) -> str | None:
        """The scope that an exchange must not leave. A scope that the store names and the file no longer is no pin."""
        asked = subject.scope
        if asked is not None and asked not in self._homes.scopes:
            known = ", ".join(self._homes.named) or "none has a name in the configuration"
            raise BadRequest(f"x-passthrough-scope: '{asked}' is not a scope here. Known: {known}.")
        if scope not in self._homes.scopes:
            return asked
        if asked is not None and scope is not None and self._plans.name(asked) != self._plans.name(scope):
            raise ScopeConflict(
                f"A resource that this request names belongs to the scope '{scope}', but x-passthrough-scope asks for "
                f"'{asked}'. Leave the field out, or name resources of that scope."
            )
        return scope

    def _goes_home(self, subject: Subject, client: str, *, homed: bool) -> bool:
        """Whether the client's home scope comes first: for workspace calls, and for stored responses as set."""
        endpoint = subject.endpoint
        if not endpoint.answer:
            return True
        if subject.store is False or not (endpoint.stored or subject.store):
            return False
        mode = self._config.affinity.responses
        return mode == "home" or (mode == "auto" and (homed or self._homes.has_made(client, subject.session)))


def is_usual(subject: Subject) -> bool:
    """Whether nothing but the model decides where a request goes: an answer that is not stored, and no hints."""
    endpoint = subject.endpoint
    if not endpoint.answer or endpoint.stored or subject.store:
        return False
    return subject.header_model is None and subject.scope is None and not subject.names
