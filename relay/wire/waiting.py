"""A wait that is over within the callback that ends it.

A future of asyncio's lets its task go on in the next turn of the loop, which takes a handle, a place in the queue, and
often one more look at the selector. An exchange waits twice or three times, for some bytes each, and the callback that
brings them has nothing else to do: so whoever waits here goes on inside ``wake``.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextvars import Context

    from .turns import Turn


NOTHING = type(None)  # what a call of it returns


class Waiter:
    """One wait of one task: awaited once, ended by ``wake``. A future as far as a task wants to know one.

    What a task asks of it for every wait is answered without a function of Python, where that can be.
    """

    __slots__ = ("_asyncio_future_blocking", "_callback", "_context", "_done", "_turn", "get_loop", "result")

    _asyncio_future_blocking: bool  # by this a task knows what it may wait for
    _callback: Callable[[Any], object] | None
    _context: Context | None

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._callback = self._context = None
        self._done = self._asyncio_future_blocking = False
        self.get_loop = turn.get_loop  # the loop in which it may be awaited
        self.result: Callable[[], None] = NOTHING  # raises CancelledError where it was cancelled

    def wake(self) -> None:
        """Let the task go on in this turn of the loop, or in the next where another task calls. Once is enough."""
        if self._done:
            return
        self._done = True
        if self._callback is None:  # nobody waits yet
            return
        turn = self._turn
        if turn.is_crowded or asyncio.current_task(turn.loop) is None:
            turn.wake(self)
        else:
            turn.loop.call_soon(self._callback, self, context=self._context)

    def go_on(self) -> None:
        """Let the task go on, now."""
        if self._callback is not None and self._context is not None:
            self._context.run(self._callback, self)

    def __await__(self) -> Generator[Waiter, None, None]:
        if self._done:
            return iter(())  # type: ignore[return-value]
        self._asyncio_future_blocking = True
        return iter((self,))  # type: ignore[return-value]  # an iterator is enough (PEP 492)

    # What else a task asks of what it waits for.

    def add_done_callback(self, callback: Callable[[Any], object], *, context: Context) -> None:
        """Take what lets the task go on."""
        self._callback, self._context = callback, context

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002 - as a future has it
        """End the wait by CancelledError, in the next turn of the loop: whoever cancels does not expect to be left."""
        if self._done:
            return False
        self._done = True
        self.result = _cancelled
        if self._callback is not None:
            self._turn.loop.call_soon(self._callback, self, context=self._context)
        return True


def _cancelled() -> None:
    raise asyncio.CancelledError
