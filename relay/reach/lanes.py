"""How each deployment is reached and spoken to: kept connections by where they lead, and what is said in each request.

Connections are kept by where they lead and how they are secured, not by key: two keys at one host share them.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any

from ..bounded import Bounded
from ..values import Value
from ..wire.fields import field_lines
from .dial import movable_peer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..config import BaseURL, Deployment, UpstreamTLS
    from ..errors import Fields
    from ..wire.http1 import HTTP1Connection
    from .outbound import OutboundProxies

MOST_HEADS = 16  # of requests, for which a deployment remembers what it is sent: applications, mostly

Key = tuple["BaseURL", "UpstreamTLS", "str | None"]


class Lane:
    """Kept connections that lead to one place in one way, and what is said there as ``Host``."""

    __slots__ = ("host", "idle", "named")

    def __init__(self, host: bytes, named: tuple[str, int] | None) -> None:
        self.host = host
        self.named = named  # whose addresses these are, to notice when they move
        self.idle: deque[HTTP1Connection] = deque()

    def evict(self, connection: HTTP1Connection) -> None:
        """An idle connection is of no use any more."""
        connection.on_readable = None
        connection.abort()
        with contextlib.suppress(ValueError):
            self.idle.remove(connection)

    def drop(self) -> None:
        """None of them is."""
        while self.idle:
            self.evict(self.idle[-1])


class Approach(Value):
    """How a deployment is reached and spoken to."""

    deployment: Deployment
    lane: Lane
    lines: bytes  # that it adds to every request
    replaced: frozenset[bytes]  # the names that they replace
    memo: Bounded[Any, bytes]  # for what follows from these and a request's head: whoever works it out leaves it there


class Lanes:
    """The lanes of one worker, and how each deployment takes its own."""

    def __init__(self, proxies: OutboundProxies) -> None:
        self._proxies = proxies
        self._lanes: dict[Key, Lane] = {}
        self._approaches: dict[str, Approach] = {}

    def reconfigure(self, deployments: Iterable[Deployment], proxies: OutboundProxies) -> None:
        """Go on with other deployments; lanes that still lead to one are kept."""
        self._proxies = proxies
        self._approaches.clear()
        wanted = {key_of(deployment) for deployment in deployments}
        for key in self._lanes.keys() - wanted:
            self._lanes.pop(key).drop()
        for key, lane in self._lanes.items():
            lane.named = movable_peer(key[0], proxies.for_base(key[0], key[2]))

    def approach(self, deployment: Deployment) -> Approach:
        """What is the same for every request to a deployment."""
        known = self._approaches.get(deployment.id)
        if known is None or known.deployment is not deployment:
            key = key_of(deployment)
            lane = self._lanes.get(key)
            if lane is None:
                named = movable_peer(deployment.base, self._proxies.for_base(deployment.base, deployment.proxy))
                lane = self._lanes[key] = Lane(deployment.base.authority, named)
            known = Approach(deployment, lane, *make_own_lines(deployment), Bounded(MOST_HEADS))
            self._approaches[deployment.id] = known
        return known

    def drop(self) -> None:
        """No idle connection is of use any more."""
        for lane in self._lanes.values():
            lane.drop()


def key_of(deployment: Deployment) -> Key:
    """What has to be equal for two deployments to share connections."""
    return deployment.base, deployment.tls, deployment.proxy


def make_own_lines(deployment: Deployment) -> tuple[bytes, frozenset[bytes]]:
    """``Authorization``, organization and project of a deployment, and its ``extra_headers``."""
    fields: Fields = []
    if deployment.key is not None:
        fields.append((b"Authorization", b"Bearer " + deployment.key.reveal().encode()))
    if deployment.organization is not None:
        fields.append((b"OpenAI-Organization", deployment.organization.encode()))
    if deployment.project is not None:
        fields.append((b"OpenAI-Project", deployment.project.encode()))
    extra = [(name.encode(), value.encode()) for name, value in deployment.extra_headers]
    replaced = frozenset(name.lower() for name, _ in extra)
    fields = [line for line in fields if line[0].lower() not in replaced] + extra
    return field_lines(fields), replaced
