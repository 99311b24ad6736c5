"""The scopes of the file, and which of them turned out to be one project under several keys (SPEC §5 "Conflict")."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..config import Deployment
    from .affinity import AffinityStore

LOG = logging.getLogger("passthrough.server")


class Projects:
    """The scopes of the file; of those that are one project the first in the file stands for all."""

    def __init__(self, store: AffinityStore, deployments: Sequence[Deployment]) -> None:
        self._store = store
        self._scopes: dict[str, Deployment] = {}  # by name, each with one of its deployments
        for deployment in deployments:
            self._scopes.setdefault(deployment.scope, deployment)
        self._unions: Mapping[str, str] | None = None
        self._in_file: dict[str, str] = {}

    def __contains__(self, scope: object) -> bool:
        """Whether the file knows a scope, by any of its names."""
        return scope in self._scopes

    @property
    def in_file(self) -> Mapping[str, str]:
        """Canonical name → scope of the file; worked out again where scopes were united, here or elsewhere."""
        unions = self._store.unions
        if unions is not self._unions:
            self._unions = unions
            self._in_file = {unions.get(scope, scope): scope for scope in reversed(self._scopes)}
        return self._in_file

    def name(self, scope: str) -> str:
        """One name for all scopes of the file that are one project."""
        return self.in_file.get(self._store.canonical(scope), scope)

    def owner(self, kind: str, id: str) -> str | None:  # noqa: A002 - the API's word
        """The scope of the file that something is known to live in."""
        found = self._store.lookup(kind, id, time.time())
        return None if found is None else self.in_file.get(found)

    def only_keys_differ(self, one: str, other: str) -> bool:
        """Whether nothing in the file says that two scopes are two: no name, organization or project, no base."""
        first, second = self._scopes[one], self._scopes[other]
        return not (first.scope_is_named or second.scope_is_named) and first.base == second.base

    def unite(self, one: str, other: str) -> None:
        """Two scopes are one project, from now on and everywhere."""
        self._store.unite(one, other, time.time())
        LOG.warning(
            "scopes %s and %s turned out to be one project (deployments %s and %s): from now on they are one here; "
            "give their entries the same model_info.scope",
            one,
            other,
            self._scopes[one].id,
            self._scopes[other].id,
        )
