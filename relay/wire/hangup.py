"""Notice that a peer hung up while nobody reads from it.

A paused transport hears nothing, so a client that leaves in the middle of a stalled upload would go unseen. One epoll
set per loop watches such sockets for EPOLLRDHUP alone; its own descriptor is readable when one of them fires. Where
there is no epoll (anything but Linux) nothing is watched, and a leaver is noticed at the next write or deadline.
"""

from __future__ import annotations

import contextlib
import select
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

_watches: WeakKeyDictionary[asyncio.AbstractEventLoop, HangupWatch] = WeakKeyDictionary()


class HangupWatch:
    """The sockets of one loop that are watched for the peer's end of stream, and whom to tell."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll() if hasattr(select, "epoll") else None
        self._told: dict[int, Callable[[], None]] = {}

    def add(self, descriptor: int, tell: Callable[[], None]) -> None:
        """Call ``tell`` once, when the peer of ``descriptor`` hangs up."""
        if self._epoll is None:
            return
        if not self._told:
            self._loop.add_reader(self._epoll.fileno(), self._fired)
        self._told[descriptor] = tell
        self._epoll.register(descriptor, select.EPOLLRDHUP | select.EPOLLET)

    def discard(self, descriptor: int) -> None:
        """Stop watching, before the descriptor is read again or closed."""
        if self._epoll is None or self._told.pop(descriptor, None) is None:
            return
        with contextlib.suppress(OSError):  # already closed: the kernel took it out
            self._epoll.unregister(descriptor)
        if not self._told:
            self._loop.remove_reader(self._epoll.fileno())

    def _fired(self) -> None:
        assert self._epoll is not None
        for descriptor, _ in self._epoll.poll(0):
            tell = self._told.get(descriptor)
            self.discard(descriptor)
            if tell is not None:
                tell()


def hangup_watch(loop: asyncio.AbstractEventLoop) -> HangupWatch:
    """The loop's own watch."""
    watch = _watches.get(loop)
    if watch is None:
        watch = _watches[loop] = HangupWatch(loop)
    return watch
