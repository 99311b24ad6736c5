"""A look at a socket without waiting for the loop."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .http1 import HTTP1Connection


def has_news(connection: HTTP1Connection) -> bool:
    """Whether bytes or an end wait in the socket that the loop has not seen yet: then it is not idle any more."""
    sock = connection.transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0 or not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))
