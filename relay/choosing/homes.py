"""Where one client's things are made: home scopes, and who has made any. Pure.

A client (or a session, where a request carries one) has an order of all scopes of the file, by rendezvous hashing; the
first is its home scope. It is worked out once and kept while it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..bounded import Bounded
from .pools import rank

if TYPE_CHECKING:
    from ..config import Config

MOST_CLIENTS = 4096  # clients and sessions whose order of scopes, or whose making, is remembered


class Homes:
    """The home scopes of clients."""

    def __init__(self, config: Config, before: Homes | None = None) -> None:
        self.scopes = tuple(dict.fromkeys(deployment.scope for deployment in config.deployments))
        self.named = tuple(dict.fromkeys(d.scope for d in config.deployments if d.scope_is_named))
        self.makers: Bounded[tuple[str, str | None], bool] = before.makers if before else Bounded(MOST_CLIENTS)
        self._orders: Bounded[tuple[str, str | None], tuple[str, ...]] = Bounded(MOST_CLIENTS)

    def order(self, client: str, session: str | None) -> tuple[str, ...]:
        """All scopes of the file, the home scope first."""

        def ranked() -> tuple[str, ...]:
            # the length keeps a client "a" with a session "b" apart from a client "a:b"
            return rank(client if session is None else f"{len(client)}:{client}:{session}", self.scopes)

        return self._orders.made((client, session), ranked)

    def made(self, client: str, session: str | None) -> None:
        """The client (in this session) makes a workspace thing."""
        self.makers.made((client, session), lambda: True)

    def has_made(self, client: str, session: str | None) -> bool:
        """Whether this worker has seen the client (in this session) make workspace things."""
        return (client, session) in self.makers
