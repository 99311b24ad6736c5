"""What one turn of the loop brings is taken one step after the other, where the turn is crowded.

Between two reads of a busy loop stands all that serves an exchange, and between two pieces of that the kernel's way to
the network: each drives the other out of the processor's caches. So in a crowded turn all bytes are read first, then
every exchange that waited for some goes on, then all that they wrote leaves; that costs a tenth less. Nothing waits
longer than for what came in the same turn, and in one that brings little everything happens at once.
"""

from __future__ import annotations

import weakref
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

    from .connection import Connection
    from .waiting import Waiter

CROWD = 5  # steps in one turn; an exchange on its own has two: it goes on, and what it has written leaves


class Turn:
    """The turn of a loop that is under way."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.get_loop = weakref.ref(loop)  # the same as a call, which costs less than one of Python's functions
        self._steps = 0  # of this turn
        self.is_crowded = False  # the turn before was
        self._woken: deque[Waiter] = deque()
        self._leaving: deque[Connection] = deque()

    def wake(self, waiter: Waiter) -> None:
        """What ``waiter`` waited for is there. Tasks call this in a crowded turn only, when nobody goes on at once."""
        if not self._steps:
            self._begin()
        self._steps += 1
        if self.is_crowded:
            self._woken.append(waiter)
        else:
            waiter.go_on()

    def depart(self, connection: Connection) -> None:
        """What was written on ``connection`` may leave."""
        if not self._steps:
            self._begin()
        self._steps += 1
        if self.is_crowded:
            self._leaving.append(connection)
        else:
            connection.flush()

    def _begin(self) -> None:
        self.loop.call_soon(self._end)

    def _end(self) -> None:
        try:
            while self._woken:
                self._woken.popleft().go_on()
            while self._leaving:
                self._leaving.popleft().flush()
            self.is_crowded = self._steps >= CROWD
        finally:  # whatever one step does, the others have their turn
            self._steps = 0
            if self._woken or self._leaving:
                self._steps = 1
                self._begin()


_last: Turn | None = None  # a process has one loop, and with it one turn


def turn_of(loop: asyncio.AbstractEventLoop) -> Turn:
    """The turn of a loop: there is one for all its connections."""
    global _last  # noqa: PLW0603 - as long as the loop
    if _last is None or _last.loop is not loop:
        _last = Turn(loop)
    return _last
