"""What one turn of the loop brings is taken one step after the other, where the turn is crowded.

Between two reads of a busy loop stands all that serves an exchange, and between two pieces of that the kernel's way to
the network: each drives the other out of the processor's caches. So in a crowded turn all bytes are read first, then
every exchange that waited for some goes on, then all that they wrote leaves; that costs a tenth less. Nothing waits
longer than for what came in the same turn, and in one that brings little everything happens at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    import asyncio

    from .connection import Connection
    from .waiting import Waiter

CROWD = 5  # steps in one turn; an exchange on its own has two: it goes on, and what it has written leaves


class Turn:
    """The turn of a loop that is under way."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._steps = 0  # of this turn
        self._is_crowded = False  # the turn before was
        self._woken: list[Waiter] = []
        self._leaving: list[Connection] = []

    def wake(self, waiter: Waiter) -> None:
        """What ``waiter`` waited for is there. Not to be called by a task."""
        self._step()
        if self._is_crowded:
            self._woken.append(waiter)
        else:
            waiter.go_on()

    def depart(self, connection: Connection) -> None:
        """What was written on ``connection`` may leave."""
        self._step()
        if self._is_crowded:
            self._leaving.append(connection)
        else:
            connection.flush()

    def _step(self) -> None:
        if not self._steps:
            self.loop.call_soon(self._end)
        self._steps += 1

    def _end(self) -> None:
        woken, self._woken = self._woken, []
        for waiter in woken:
            waiter.go_on()
        leaving, self._leaving = self._leaving, []
        for connection in leaving:
            connection.flush()
        self._is_crowded = self._steps >= CROWD
        self._steps = 0


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, Turn] = WeakKeyDictionary()


def turn_of(loop: asyncio.AbstractEventLoop) -> Turn:
    """The turn of a loop: there is one for all its connections."""
    turn = _turns.get(loop)
    if turn is None:
        turn = _turns[loop] = Turn(loop)
    return turn
