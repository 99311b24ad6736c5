"""One worker at its doors: it serves by one configuration after another, until it is told to stop; then it drains."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import ConfigError
from ..reach.tls import replace_server_context, server_context
from ..wire.http1 import HTTP1Connection, Role
from .accepting import Acceptor

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Awaitable, Callable, Collection

    from ..answers.recording import Recorder
    from ..config import Config
    from ..record.logs import Logs
    from .listening import Listening

STOPPING = (signal.SIGTERM, signal.SIGINT)
HEEDED = (*STOPPING, signal.SIGHUP, signal.SIGCHLD)  # held back while a process is between two ways to handle them


class Servant(Protocol):
    """Who serves the connections: ``passthrough.Worker``."""

    config: Config
    recorder: Recorder
    gather: Callable[[dict[str, Any]], Awaitable[list[dict[str, Any]]]]
    dropped: Callable[[], int]

    def accept(self, connection: HTTP1Connection) -> None:
        """Take a new connection."""

    def reload(self, config: Config) -> None:
        """Go on with another configuration. Raises ConfigError, with nothing changed."""

    def snapshot(self) -> dict[str, Any]:
        """The metrics of this worker."""

    async def drain(self, welcoming: Collection[asyncio.Task[None]] = ()) -> None:
        """Finish what is under way, within the time that the file gives."""


class Service:
    """A worker, and the sockets it listens on."""

    def __init__(self, worker: Servant, listening: Listening, logs: Logs) -> None:
        self.worker = worker
        self.stop = asyncio.Event()
        self._listening = listening
        self._logs = logs
        self._tls = context_of(worker.config)
        worker.dropped = lambda: logs.dropped

    async def run(self, ready: Callable[[], None], stopping: Callable[[], object]) -> None:
        """Serve until ``stop``; ``ready`` and ``stopping`` are told when either begins."""
        acceptors = [await listen(self.worker, sock, self._tls) for sock in self._listening.sockets]
        ready()
        await self.stop.wait()
        stopping()
        await asyncio.sleep(0)  # what has come in this turn is taken note of
        for acceptor in acceptors:
            acceptor.close(leave_rest=self._listening.inherited)
        await self.worker.drain({task for acceptor in acceptors for task in acceptor.welcoming})

    def apply(self, config: Config) -> None:
        """Go on with another configuration. Raises ConfigError; then nothing has changed."""
        before = self.worker.config.logging
        fresh = context_of(config)
        self._logs.replace(config.logging)
        try:
            self.worker.reload(config)
        except ConfigError:
            self._logs.replace(before)
            raise
        if self._tls is not None and fresh is not None:
            replace_server_context(self._tls, fresh)


def context_of(config: Config) -> ssl.SSLContext | None:
    """How clients speak to us, where that is TLS. Raises ConfigError."""
    if config.listener.tls is None:
        return None
    try:
        return server_context(config.listener.tls)
    except ValueError as error:
        raise ConfigError([f"server.tls: {error}"]) from None


async def listen(worker: Servant, sock: socket.socket, tls: ssl.SSLContext | None) -> Acceptor:
    """Serve one bound socket, over TLS where there is a context; a handshake has the time that a head has."""

    def factory() -> HTTP1Connection:
        return HTTP1Connection(Role.SERVER, worker.config.limits, worker.accept)

    acceptor = Acceptor(sock, factory, tls, worker.config.timeouts.head)
    acceptor.start()
    return acceptor


def heed_signals(on_stop: Callable[[], None], on_hangup: Callable[[], None]) -> None:
    """SIGTERM and SIGINT stop, SIGHUP reloads; those that were held back over a fork come now."""
    loop = asyncio.get_running_loop()
    for number in STOPPING:
        loop.add_signal_handler(number, on_stop)
    loop.add_signal_handler(signal.SIGHUP, on_hangup)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HEEDED)
