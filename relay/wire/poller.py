"""The loop of a worker: asyncio's own, with a selector that tells sockets at once what has happened to them.

Of every event asyncio makes a handle, a place in a queue and a call in a context, which is as much work as to read what
came. A descriptor that is watched here is told within the look at the system; all others go to the loop as ever. With
``transport`` on top of it a stream is set up for a quarter less, and an event passes for a sixth less.

Where there is no epoll (anything but Linux), and where uvloop is asked for, the loop has its own transports.
"""

from __future__ import annotations

import asyncio
import os
import select
import selectors
from selectors import EVENT_READ, EVENT_WRITE
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from selectors import SelectorKey

    from _typeshed import FileDescriptorLike

MOST = 512  # events of one look, as in nginx; what is left over comes with the next

# epoll_ctl(2). By number, since ``select`` has no names for them where there is no epoll.
IN, PRI, OUT, ERR, HUP, RDHUP, ET = 0x1, 0x2, 0x4, 0x8, 0x10, 0x2000, 1 << 31
EDGES = IN | PRI | OUT | RDHUP | ET  # ends and errors come unasked


class Poller(selectors.DefaultSelector):
    """An epoll selector in which some descriptors are watched.

    They are watched for edges: everything that may happen is asked for once, and nothing changes while somebody does
    not want to read, or has nothing to write. Each event is told when it begins, and not again unless somebody asks.
    Watchers are called in the context of whoever runs the loop. ``complain`` gets what they let through, as
    ``loop.call_exception_handler`` does; an end of the process goes on, and takes with it what the same look has
    brought for others.
    """

    def __init__(self, complain: Callable[[dict[str, Any]], object]) -> None:
        super().__init__()
        self._complain = complain
        self._epoll = select.epoll.fromfd(os.dup(self.fileno()))  # the selector's own set
        self._watchers: dict[int, Callable[[int], None]] = {}
        self._fresh: set[int] = set()  # descriptors that were registered since the last look

    # What connections ask for.

    def watch(self, descriptor: int, watcher: Callable[[int], None]) -> None:
        """Call ``watcher`` with epoll's mask whenever something begins: bytes, an end, room for more.

        What is there already is told by the next look. Raises OSError where the system has no room for it.
        """
        self._epoll.register(descriptor, EDGES)
        self._watchers[descriptor] = watcher
        self._fresh.add(descriptor)

    def again(self, descriptor: int) -> None:
        """Tell by the next look what is still there, to somebody who has left some of it."""
        self._epoll.modify(descriptor, EDGES)

    def forget(self, descriptor: int) -> None:
        """Tell no more of a descriptor that will be closed: with that the system forgets it too."""
        self._watchers.pop(descriptor, None)

    # What the loop asks for.

    def register(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> SelectorKey:
        """As a selector does."""
        key = super().register(fileobj, events, data)
        self._fresh.add(key.fd)
        return key

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        """Wait ``timeout`` seconds at most for something to happen; tell those who watch, return the rest."""
        events = self._epoll.poll(timeout, MOST)
        self._fresh.clear()
        watchers, fresh = self._watchers, self._fresh
        rest: list[tuple[int, int]] = []
        for event in events:
            descriptor, mask = event
            watcher = watchers.get(descriptor)
            if watcher is None:
                rest.append(event)
            elif descriptor not in fresh:  # else it is another of the same number: what happened was before its time
                try:
                    watcher(mask)
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:  # noqa: BLE001 - as in every callback of a loop
                    self._complain({"message": f"a watcher of descriptor {descriptor} failed", "exception": error})
        return self._ready(rest) if rest else []

    def close(self) -> None:
        """Close the set."""
        super().close()
        self._epoll.close()
        self._watchers.clear()

    def _ready(self, events: list[tuple[int, int]]) -> list[tuple[SelectorKey, int]]:
        """What is not watched, as the loop wants to hear of it; looked up last, since watchers may change it."""
        keys = self.get_map()
        found = [(keys.get(fd), mask) for fd, mask in events if fd not in self._fresh]
        return [(key, selector_events(mask) & key.events) for key, mask in found if key is not None]


def selector_events(mask: int) -> int:
    """What a selector says of epoll's mask: errors and ends wake whoever waits, for whatever that is."""
    write = EVENT_WRITE if mask & ~IN else 0
    return write | EVENT_READ if mask & ~OUT else write


class PollerLoop(asyncio.SelectorEventLoop):
    """asyncio's loop, over a ``poller``."""

    def __init__(self) -> None:
        self.poller = Poller(self.call_exception_handler)
        super().__init__(self.poller)


def new_loop() -> asyncio.AbstractEventLoop:
    """The loop for a worker on this system."""
    has_epoll = selectors.DefaultSelector is getattr(selectors, "EpollSelector", None)
    return PollerLoop() if has_epoll else asyncio.new_event_loop()
