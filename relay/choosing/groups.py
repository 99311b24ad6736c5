"""Which model group a name stands for: aliases, plain names, patterns, groups that cannot be served. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..errors import ModelNotFound

if TYPE_CHECKING:
    from ..config import Config, ModelGroup

MOST_LISTED = 20  # names that an error message lists


class Match(NamedTuple):
    """A group, and what stands for the ``*`` in its deployments' model names: what its pattern caught, or the name."""

    group: ModelGroup
    caught: str


class Groups:
    """The model groups of a file, by every name that they go by."""

    def __init__(self, config: Config) -> None:
        served = [group for group in config.groups.values() if group.deployments]
        self._plain = {group.name: group for group in served}
        self._matches = {group.name: Match(group, group.name) for group in served}
        self._unserved = dict(config.unserved)
        self._alias = dict(config.router.model_group_alias)
        # the longest pattern first; one that is not served catches its names all the same
        patterns: list[tuple[str, ModelGroup | None]] = [
            (name[:-1], g) for name, g in self._plain.items() if name[-1:] == "*"
        ]
        patterns += [(name[:-1], None) for name in self._unserved if name[-1:] == "*" and name not in self._plain]
        self._patterns = sorted(patterns, key=lambda pattern: len(pattern[0]), reverse=True)
        self.names = sorted(self._plain)
        default = config.router.default_model
        found = self.look_up(default) if default else None
        self.home = found or Match(served[0], served[0].name)
        self._chains = {group.name: self._chain(config, group.name) for group in served}

    def find(self, name: str) -> Match | None:
        """The group that ``name`` stands for, None for an unknown one.

        Raises ModelNotFound, with the reason, for a group of the file that cannot be served.
        """
        found = self.look_up(name)
        if found is None:
            unserved = self._unserved_reason(self._alias.get(name, name))
            if unserved is not None:
                raise ModelNotFound(f"The model '{name}' cannot be served: {unserved}", param="model")
        return found

    def look_up(self, name: str) -> Match | None:
        """The same, and None for a group that cannot be served."""
        name = self._alias.get(name, name)
        match = self._matches.get(name)
        if match is not None:
            return match
        if name in self._unserved:
            return None
        for prefix, pattern in self._patterns:
            if name.startswith(prefix):
                return Match(pattern, name[len(prefix) :]) if pattern else None
        return None

    def _unserved_reason(self, name: str) -> str | None:
        if name in self._unserved:
            return self._unserved[name]
        for prefix, pattern in self._patterns:
            if name.startswith(prefix):
                return None if pattern else self._unserved[prefix + "*"]
        return None

    def unknown(self, name: str) -> ModelNotFound:
        """The error for a name that nothing here serves; it lists some that are."""
        listed = ", ".join(self.names[:MOST_LISTED]) + (", ..." if len(self.names) > MOST_LISTED else "")
        return ModelNotFound(f"The model '{name}' does not exist here. Known: {listed}.", param="model")

    def fallbacks(self, group: ModelGroup) -> tuple[Match, ...]:
        """The groups that take over when this one cannot answer, in order."""
        return self._chains[group.name]

    def _chain(self, config: Config, name: str) -> tuple[Match, ...]:
        settings = config.router
        names = settings.fallbacks.get(name) or settings.fallbacks.get("*") or settings.default_fallbacks
        chain: dict[str, Match] = {}
        for match in map(self.look_up, names):
            if match and match.group.name != name:
                chain.setdefault(match.group.name, match)
        return tuple(chain.values())
