"""The connections of one worker's clients, from the accept to the end of a drain."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ..requests.downstream import Downstream

if TYPE_CHECKING:
    from collections.abc import Collection

    from ..requests.downstream import Handler
    from ..wire.http1 import HTTP1Connection


class Clients:
    """Every connection has a task of its own."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._downstreams: dict[asyncio.Task[None], Downstream] = {}
        self._loop = asyncio.get_running_loop()

    def __len__(self) -> int:
        return len(self._downstreams)

    def serve(self, connection: HTTP1Connection) -> None:
        """Serve a connection from now on."""
        downstream = Downstream(connection, self._handler)
        task = self._loop.create_task(downstream.serve(), name=f"client {connection.peer()}")
        self._downstreams[task] = downstream
        task.add_done_callback(self._downstreams.pop)

    async def drain(self, seconds: float, welcoming: Collection[asyncio.Task[None]] = ()) -> None:
        """Close what is kept and idle, let the rest end for ``seconds``, then cut what is left (SPEC §2).

        ``welcoming``: connections that are about to come, since they were taken already.
        """
        end = self._loop.time() + seconds
        for downstream in self._downstreams.values():
            if downstream.idle and downstream.is_unasked:  # else that is answered first
                downstream.connection.close()
        while tasks := {*self._downstreams, *(task for task in welcoming if not task.done())}:
            _, late = await asyncio.wait(tasks, timeout=max(end - self._loop.time(), 0))
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
