"""The ways through a file: which deployments an exchange may be sent to, in which order of preference. Pure.

A plan depends on little (group, scope or home, the model's name where it matters), so that it is made once and kept.
Who of it is free is another question, which its pools answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..bounded import Bounded
from .pools import Pool, tiers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..config import Config, Deployment, ModelGroup
    from .groups import Groups, Match
    from .health import Ledger, Member

MOST_PLANS = 4096  # clients and model names differ without end; this many plans are kept
STAR = "*"


class Plan:
    """The pools that a kind of exchange may choose from, those to be asked first first. Shared, never changed."""

    __slots__ = ("lone", "members", "names", "pools")

    def __init__(self, pools: Sequence[Pool], names: Mapping[str, str] | None) -> None:
        self.pools = tuple(pools)
        self.members: dict[str, Member] = {m.deployment.id: m for pool in pools for m in pool.members}
        self.names = names  # deployment id -> what its upstream is asked for; None where the client's name stays
        self.lone = len(self.members) == 1


class Plans:
    """Makes plans and keeps them."""

    def __init__(self, config: Config, groups: Groups, ledger: Ledger) -> None:
        self._groups = groups
        self._ledger = ledger
        self._deployments = config.deployments
        self._starred = frozenset(group.name for group in config.groups.values() if self._has_star(group))
        self._united: Mapping[str, str] = {}
        self._plans: Bounded[object, Plan] = Bounded(MOST_PLANS)
        self._pools: Bounded[object, tuple[Pool, ...]] = Bounded(MOST_PLANS)

    def _has_star(self, group: ModelGroup) -> bool:
        """Whether what the group's pattern catches decides what any of its upstreams is asked for."""
        return any(STAR in deployment.model for deployment in group.deployments)

    def unite(self, names: Mapping[str, str]) -> None:
        """Scopes to which ``names`` gives one name are one from now on; a call with the same mapping does nothing."""
        if names is not self._united:
            self._united = names
            self._plans.clear()
            self._pools.clear()

    def name(self, scope: str) -> str:
        """The one name of a scope and those that were united with it."""
        return self._united.get(scope, scope)

    def spread(self, match: Match, asked: str | None) -> Plan:
        """Over the whole group, then over its fallbacks.

        ``asked``: the client's model where it stays as it is, "" where it names none, None where the deployment's own
        name replaces it.
        """
        key = (match.group.name, self._caught(match), asked)
        return self._plans.get(key) or self._plans.made(key, lambda: self._chain(match, asked, (None,)))

    def home(self, match: Match, asked: str | None, scopes: tuple[str, ...]) -> Plan:
        """Over the scopes in that order, each group of the chain in turn."""
        key = (match.group.name, self._caught(match), asked, scopes)
        return self._plans.get(key) or self._plans.made(key, lambda: self._chain(match, asked, scopes))

    def pinned(self, match: Match, asked: str | None, scope: str) -> Plan:
        """Within a scope: by the group's members there, else by its other deployments under the group's first name."""
        key = (match.group.name, self._caught(match), asked, scope)
        return self._plans.get(key) or self._plans.made(key, lambda: self._within(match, asked, scope))

    def _caught(self, match: Match) -> str | None:
        return match.caught if match.group.name in self._starred else None

    def _chain(self, match: Match, asked: str | None, scopes: Sequence[str | None]) -> Plan:
        chain = (match, *self._groups.fallbacks(match.group)) if not asked else (match,)
        pools: list[Pool] = []
        names: dict[str, str] = {}
        named = dict.fromkeys(None if scope is None else self.name(scope) for scope in scopes)
        for step in chain:
            for scope in named:
                pools += self._tiers(step, asked, scope)
            names |= self._names(step, step.group.deployments)
        return Plan(pools, names if asked is None else None)

    def _within(self, match: Match, asked: str | None, scope: str) -> Plan:
        scope = self.name(scope)
        pools = self._tiers(match, asked, scope)
        if pools:
            return Plan(pools, self._names(match, match.group.deployments) if asked is None else None)
        name = upstream_name(match.group.deployments[0], match.caught)
        borrowed = tuple(_distinct(one for one in self._deployments if self.name(one.scope) == scope))
        members = [self._ledger.member(deployment, name if asked is None else asked) for deployment in borrowed]
        names = {deployment.id: name for deployment in borrowed}
        return Plan(tiers(match.group.name, members, self._ledger.stamp), names if asked is None else None)

    def _tiers(self, match: Match, asked: str | None, scope: str | None) -> tuple[Pool, ...]:
        """The group's members in ``scope`` (None: in all), as pools by their ``order``. Shared by all plans."""

        def make() -> tuple[Pool, ...]:
            members = [
                self._ledger.member(deployment, upstream_name(deployment, match.caught) if asked is None else asked)
                for deployment in match.group.deployments
                if scope is None or self.name(deployment.scope) == scope
            ]
            return tiers(match.group.name, members, self._ledger.stamp)

        return self._pools.made((match.group.name, self._caught(match), asked, scope), make)

    @staticmethod
    def _names(match: Match, deployments: Sequence[Deployment]) -> dict[str, str]:
        return {deployment.id: upstream_name(deployment, match.caught) for deployment in deployments}


def upstream_name(deployment: Deployment, caught: str) -> str:
    """What the upstream is asked for; a ``*`` stands for what the group's pattern caught."""
    return deployment.model.replace(STAR, caught, 1)


def _distinct(deployments: Iterable[Deployment]) -> Iterable[Deployment]:
    """One deployment for each account: those of other groups differ in their model's name only, which is replaced."""
    accounts: dict[object, Deployment] = {}
    for deployment in deployments:
        accounts.setdefault((deployment.base, deployment.key, deployment.organization, deployment.project), deployment)
    return accounts.values()
