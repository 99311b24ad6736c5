"""A look at a socket without waiting for the loop."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from .http1 import HTTP1Connection


def has_news(connection: HTTP1Connection) -> bool:
    """Whether bytes or an end wait in the socket that the loop has not seen yet: then it is not idle any more."""
    if connection.closed:
        return False
    if connection.news is None:
        connection.news = watch_on(connection)
    return bool(connection.news(0))


def watch_on(connection: HTTP1Connection) -> Callable[[int], list[tuple[int, int]]]:
    """What asks the system about the connection's socket; kept with it, since an upstream's is asked for each lease."""
    sock = connection.transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0 or not hasattr(select, "poll"):
        return lambda _: []
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return poll.poll
