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


class Waiter:
    """One wait of one task: awaited once, ended by ``wake``. A future as far as a task wants to know one."""

    _asyncio_future_blocking = False  # by this a task knows what it may wait for
    _callback: Callable[[Any], object] | None = None
    _context: Context | None = None
    _done = False
    _cancelled = False

    def __init__(self, turn: Turn) -> None:
        self._turn = turn

    def wake(self) -> None:
        """Let the task go on in this turn of the loop; in the next where another task is what calls. Once is enough."""
        if self._done:
            return
        self._done = True
        if self._callback is None:  # nobody waits yet
            return
        loop = self._turn.loop
        if asyncio.current_task(loop) is None:
            self._turn.wake(self)
        else:
            loop.call_soon(self._callback, self, context=self._context)

    def go_on(self) -> None:
        """Let the task go on, now."""
        if self._callback is not None and self._context is not None:
            self._context.run(self._callback, self)

    def __await__(self) -> Generator[Waiter, None, None]:
        if not self._done:
            self._asyncio_future_blocking = True
            yield self

    # What a task asks of what it waits for.

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop in which it may be awaited."""
        return self._turn.loop

    def add_done_callback(self, callback: Callable[[Any], object], *, context: Context) -> None:
        """Take what lets the task go on."""
        self._callback, self._context = callback, context

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002 - as a future has it
        """End the wait by CancelledError, in the next turn of the loop: whoever cancels does not expect to be left."""
        if self._done:
            return False
        self._done = self._cancelled = True
        if self._callback is not None:
            self._turn.loop.call_soon(self._callback, self, context=self._context)
        return True

    def result(self) -> None:
        """Nothing; raises CancelledError where it was cancelled."""
        if self._cancelled:
            raise asyncio.CancelledError
