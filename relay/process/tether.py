"""A worker's end of the line to its parent: orders come in, metrics go out, and its end is the worker's end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import pickle
from typing import TYPE_CHECKING, Any, cast

from ..errors import ConfigError, Unavailable
from .links import Note, Unpacker, pack
from .serving import heed_signals

if TYPE_CHECKING:
    import socket

    from .serving import Service

LOG = logging.getLogger("passthrough.server")
GATHER_SECONDS = 5.0  # the parent waits less for a worker that does not answer
PUSH_SECONDS = 1.0  # what a worker counted in its last second may be lost with it
LAST_WORD_SECONDS = 1.0


class Tether(asyncio.Protocol):
    """Runs a service for a parent at the other end of ``sock``."""

    def __init__(self, service: Service, sock: socket.socket) -> None:
        self._service = service
        self._worker = service.worker
        self._sock = sock
        self._unpacker = Unpacker()
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._totals: asyncio.Future[list[dict[str, Any]]] | None = None
        self._lost = asyncio.Event()
        self._pushed = 0.0

    async def run(self) -> None:
        """Serve until the parent says so, or is gone. SIGTERM is the same, once or often: only it cuts short."""
        loop = asyncio.get_running_loop()
        heed_signals(self._service.stop.set, lambda: None)  # a reload comes by the line
        await loop.create_unix_connection(lambda: self, sock=self._sock)
        self._worker.gather = self.gather
        pushing = asyncio.create_task(self._push(), name="push")
        try:
            await self._service.run(lambda: self._say(Note.READY), lambda: None)
        finally:
            pushing.cancel()
        self._say(Note.COUNTS, self._counts())
        self._transport.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORD_SECONDS):
                await self._lost.wait()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Do what the parent says."""
        for note, content in self._unpacker.feed(data):
            if note is Note.DRAIN:
                self._service.stop.set()
            elif note is Note.CONFIG:
                self._apply(content)
            elif note is Note.REPORT:
                self._say(Note.COUNTS, self._counts())
            elif note is Note.TOTALS and self._totals is not None:
                self._totals.set_result(json.loads(content))
                self._totals = None

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - whatever it was
        """The parent is gone: nobody would know of this worker, or of its port."""
        self._lost.set()
        self._service.stop.set()

    # What goes out.

    def _say(self, note: Note, content: bytes = b"") -> None:
        self._transport.write(pack(note, content))

    def _counts(self) -> bytes:
        return json.dumps(self._worker.snapshot()).encode()

    async def _push(self) -> None:
        """Tell the parent now and then what was counted, so that little is lost with a worker that is killed."""
        while True:
            await asyncio.sleep(PUSH_SECONDS)
            exchanges = self._worker.recorder.metrics.exchanges.total()
            if exchanges != self._pushed:
                self._pushed = exchanges
                self._say(Note.COUNTS, self._counts())

    async def gather(self, own: dict[str, Any]) -> list[dict[str, Any]]:
        """All workers' metrics, and those of workers that have ended. Raises Unavailable.

        Never less than all: a counter that seems to go back would be taken for a restart.
        """
        if self._totals is None:
            self._totals = asyncio.get_running_loop().create_future()
            self._say(Note.ASK, json.dumps(own).encode())
        try:
            async with asyncio.timeout(GATHER_SECONDS):
                return await asyncio.shield(self._totals)
        except TimeoutError:
            self._totals = None
            raise Unavailable("The other workers' metrics are not to be had at this moment.") from None

    def _apply(self, content: bytes) -> None:
        """Go on with the parent's configuration, which it has looked at."""
        try:
            self._service.apply(pickle.loads(content))  # noqa: S301 - from the parent alone
        except ConfigError as error:
            for problem in error.problems:
                LOG.error("this worker stays with the configuration that it has: %s", problem)  # noqa: TRY400 - expected
        except Exception:
            LOG.exception("this worker stays with the configuration that it has")
        self._say(Note.READY)
