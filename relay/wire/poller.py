"""The loop of a worker: asyncio's own, with a selector that tells sockets at once what has happened to them.

Of every event asyncio makes a handle, a place in a queue and a call in a context, which is as much work as to read what
came. A descriptor that is watched here is told within the look at the system; all others go to the loop as ever. With
``transport`` on top of it a stream is set up for a quarter less, and its event passes for a sixth less.

Where there is no epoll (anything but Linux), and where uvloop is asked for, the loop has its own transports.
"""

from __future__ import annotations

import asyncio
import os
import select
from selectors import EVENT_READ, EVENT_WRITE, DefaultSelector
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from selectors import SelectorKey

    from _typeshed import FileDescriptorLike

MOST = 512  # events of one look, as in nginx; what is left over comes with the next


class Poller(DefaultSelector):
    """An epoll selector in which some descriptors are watched.

    They are watched for edges (``EPOLLET``): everything that may happen is asked for once, and nothing changes while
    somebody does not want to read, or has nothing to write. Each event is told when it begins, and not again.
    ``complain`` gets what a callback lets through, as ``loop.call_exception_handler`` does.
    """

    def __init__(self, complain: Callable[[dict[str, Any]], object]) -> None:
        super().__init__()
        self._complain = complain
        self._epoll = select.epoll.fromfd(os.dup(self.fileno()))  # the selector's own set
        self._edges = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
        self._told: dict[int, Callable[[int], None]] = {}
        self._keys: dict[int, SelectorKey] = {}
        self._fresh: set[int] = set()  # descriptors that were registered since the last look

    # What connections ask for.

    def watch(self, descriptor: int, tell: Callable[[int], None]) -> None:
        """Call ``tell`` with epoll's mask whenever something begins: bytes, an end, room for more.

        What is there already is told by the next look. Raises OSError where the system has no room for it.
        """
        self._epoll.register(descriptor, self._edges)
        self._told[descriptor] = tell
        self._fresh.add(descriptor)

    def forget(self, descriptor: int) -> None:
        """Tell no more of a descriptor that is about to be closed: with that the system forgets it too."""
        self._told.pop(descriptor, None)

    # What the loop asks for.

    def register(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> SelectorKey:
        """As a selector does."""
        key = super().register(fileobj, events, data)
        self._keys[key.fd] = key
        self._fresh.add(key.fd)
        return key

    def modify(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> SelectorKey:
        """As a selector does."""
        key = super().modify(fileobj, events, data)
        self._keys[key.fd] = key
        return key

    def unregister(self, fileobj: FileDescriptorLike) -> SelectorKey:
        """As a selector does."""
        key = super().unregister(fileobj)
        self._keys.pop(key.fd, None)
        return key

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        """Wait ``timeout`` seconds at most for something to happen; tell those who watch, return the rest."""
        events = self._epoll.poll(timeout, MOST)
        self._fresh.clear()
        told, fresh = self._told, self._fresh
        rest: list[tuple[int, int]] = []
        for event in events:
            descriptor, mask = event
            tell = told.get(descriptor)
            if tell is None:
                rest.append(event)
            elif descriptor not in fresh:  # else it is another of the same number: what happened was before its time
                try:
                    tell(mask)
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:  # noqa: BLE001 - as in every callback of a loop
                    self._complain({"message": f"a watcher of descriptor {descriptor} failed", "exception": error})
        return self._ready(rest) if rest else []

    def close(self) -> None:
        """Close the set."""
        super().close()
        self._epoll.close()
        self._told.clear()
        self._keys.clear()

    def _ready(self, events: list[tuple[int, int]]) -> list[tuple[SelectorKey, int]]:
        """What is not watched, as the loop wants to hear of it; looked up last, since who was told may change it."""
        keys, fresh = self._keys, self._fresh
        return [(keys[fd], wanted(mask) & keys[fd].events) for fd, mask in events if fd in keys and fd not in fresh]


def wanted(mask: int) -> int:
    """What a selector says of epoll's mask: errors and ends wake whoever waits, for whatever that is."""
    write = EVENT_WRITE if mask & ~select.EPOLLIN else 0
    return write | EVENT_READ if mask & ~select.EPOLLOUT else write


class PollerLoop(asyncio.SelectorEventLoop):
    """asyncio's loop, over a ``poller``."""

    def __init__(self) -> None:
        self.poller = Poller(self.call_exception_handler)
        super().__init__(self.poller)


def new_loop() -> asyncio.AbstractEventLoop:
    """The loop for a worker on this system."""
    return PollerLoop() if hasattr(select, "epoll") else asyncio.new_event_loop()
