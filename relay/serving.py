"""A worker's life around its exchanges: listening, signals, drain."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Protocol

from .http1 import HTTP1Connection, Role

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable

    from .config import Config


class Servant(Protocol):
    """Who serves the connections: ``passthrough.Worker``."""

    config: Config

    def accept(self, connection: HTTP1Connection) -> None:
        """Take a new connection."""

    async def drain(self) -> None:
        """Finish what is under way, within the time that the file gives."""


async def serve(
    worker: Servant, sockets: list[socket.socket], tls: ssl.SSLContext | None, ready: Callable[[], None]
) -> None:
    """Accept connections until SIGTERM or SIGINT, then drain. A second signal ends the process at once, status 1."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_stop_signal, stop)
    servers = [await listen(worker, sock, tls) for sock in sockets]
    ready()
    await stop.wait()
    await asyncio.sleep(0)  # connections that the kernel has already accepted for us are taken in this turn
    for server in servers:
        server.close()
    await worker.drain()


def on_stop_signal(stop: asyncio.Event) -> None:
    """Begin to drain; who asks twice does not want to wait."""
    if stop.is_set():
        os._exit(1)
    stop.set()


async def listen(worker: Servant, sock: socket.socket, tls: ssl.SSLContext | None) -> asyncio.Server:
    """Serve one bound socket, over TLS where there is a context; a handshake has the time that a head has."""
    loop = asyncio.get_running_loop()
    config = worker.config

    def factory() -> HTTP1Connection:
        return HTTP1Connection(Role.SERVER, worker.config.limits, worker.accept)

    timeout = config.timeouts.head if tls is not None else None
    create = loop.create_unix_server if sock.family.name == "AF_UNIX" else loop.create_server
    return await create(factory, sock=sock, backlog=config.listener.backlog, ssl=tls, ssl_handshake_timeout=timeout)
