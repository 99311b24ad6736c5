"""Reading the configuration again: looked at as a whole before anything changes, and what does not change at run time.

SPEC §14: a file with a problem is refused, its problems are logged, and the one in force stays.
"""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..reach.tls import server_context
from ..reach.upstream import open_pool
from ..reading.configfile import check_listener
from ..values import replace

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..config import Config
    from .source import Source

LOG = logging.getLogger("passthrough.server")

# Keys that say what a process is, not what it does: they take effect at the next start.
FIXED: Mapping[str, tuple[str, ...]] = {
    "listener": ("host", "port", "unix", "unix_mode", "workers", "backlog", "uvloop"),
    "affinity": ("path", "max_entries", "cache_entries"),
    "logging": ("otel",),
}
SECTIONS = {"listener": "server"}  # as the file calls it, where that differs


class Reloader:
    """Holds the configuration in force; reads the next one, and says what became of it."""

    def __init__(
        self, source: Source, config: Config, sockets: Sequence[socket.socket], environ: Mapping[str, str]
    ) -> None:
        self.config = config
        self._source = source
        self._sockets = sockets
        self._environ = environ
        self._late: list[tuple[str, Any, Any]] = []

    def read(self) -> Config:
        """The next configuration, if it can be served, but for what needs another start. Raises ConfigError.

        It may take a moment, and may run in a thread.
        """
        config = self._source.load()
        check(config, self._sockets, self._environ)
        config, self._late = without_fixed(config, self.config)
        return config

    def has_news(self) -> bool:
        """Whether it is worth while to read again (``--watch``)."""
        return self._source.has_news()

    def accept(self, config: Config) -> None:
        """What was read last is in force."""
        for warning in config.warnings:
            if warning not in self.config.warnings:
                LOG.warning("%s", warning)
        self.config = config
        for key, before, after in self._late:
            LOG.warning("%s: %r takes effect at the next start; until then it is %r", key, after, before)
        LOG.info("configuration reloaded: %d groups, %d deployments", len(config.groups), len(config.deployments))

    @staticmethod
    def refuse(error: ConfigError) -> None:
        """Say why everything stays as it is."""
        for problem in error.problems:
            LOG.error("configuration refused: %s", problem)


def check(config: Config, sockets: Iterable[socket.socket], environ: Mapping[str, str]) -> None:
    """Look at what reading the file did not: the addresses that we are at, and files that others read. ConfigError."""
    problems = [
        problem
        for sock in sockets
        if sock.family in (socket.AF_INET, socket.AF_INET6)
        and (problem := check_listener(config, sock.getsockname()[0]))
    ]
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    if config.listener.tls is not None:
        try:
            server_context(config.listener.tls)
        except ValueError as error:
            raise ConfigError([f"server.tls: {error}"]) from None
    open_pool(config, environ).close()


def without_fixed(config: Config, before: Config) -> tuple[Config, list[tuple[str, Any, Any]]]:
    """``config`` with what cannot change at run time as it was ``before``, and what that is: key, old and new value."""
    late = []
    for section, names in FIXED.items():
        old, new = getattr(before, section), getattr(config, section)
        kept = {name: getattr(old, name) for name in names if getattr(old, name) != getattr(new, name)}
        late += [(f"{SECTIONS.get(section, section)}.{name}", kept[name], getattr(new, name)) for name in kept]
        config = replace(config, **{section: replace(new, **kept)})
    old_tls, new_tls = before.listener.tls, config.listener.tls
    if (old_tls is None) != (new_tls is None):
        late.append(("server.tls", old_tls, new_tls))
        config = replace(config, listener=replace(config.listener, tls=old_tls))
    elif old_tls and new_tls and (old_tls.client_ca is None) != (new_tls.client_ca is None):
        late.append(("server.tls.client_ca", old_tls.client_ca, new_tls.client_ca))
        config = replace(config, listener=replace(config.listener, tls=replace(new_tls, client_ca=old_tls.client_ca)))
    return config, late
