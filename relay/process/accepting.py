"""Taking connections from a listening socket, on any loop: a few per turn, and none while descriptors are short.

asyncio's own servers take as many as wait in one turn, so of several workers one gets them all; uvloop's throw them
away where descriptors run out; and neither can leave those that wait to somebody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from typing import TYPE_CHECKING

from ..wire.poller import PollerLoop
from ..wire.transport import attach

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

LOG = logging.getLogger("passthrough.server")
PER_TURN = 8  # connections taken in one turn of the loop at most: other workers have theirs
PACE = 0.004  # seconds between two of them, where turns are long
MOST_AT_END = 65_536  # a socket that never runs dry must not keep a drain from its end
SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
PAUSE = 0.1  # seconds without a look at a socket that we have no descriptor for
QUIET = 10.0  # seconds between two warnings about that


def share(waited: float) -> int:
    """How many connections a turn may take, ``waited`` seconds after the last that looked for some.

    One, as in nginx (``multi_accept off``): a new one costs about a millisecond in the turns that follow, and eight at
    once, in each of them, held up the streams under way by 27 ms (p99 of 500 streams that begin together; now 4 ms).
    Where few long turns leave them waiting they get their part of the time all the same, and after a quiet moment there
    is nothing to be held up.
    """
    return min(1 + int(waited / PACE), PER_TURN)


class Acceptor:
    """Takes the connections of one socket, each into a protocol that ``factory`` makes, over TLS if there is ``tls``.

    ``patience``: seconds that a TLS handshake may take. ``welcoming``: those whose hand-over to their protocols takes
    some turns of the loop, over TLS and on other loops than a ``PollerLoop``.
    """

    def __init__(
        self, sock: socket.socket, factory: Callable[[], asyncio.Protocol], tls: ssl.SSLContext | None, patience: float
    ) -> None:
        self.welcoming: set[asyncio.Task[None]] = set()
        self._sock = sock
        self._is_tcp = sock.family != socket.AF_UNIX
        self._factory = factory
        self._tls = tls
        self._patience = patience if tls is not None else None
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._warned_at = -QUIET
        self._looked_at = 0.0

    def start(self) -> None:
        """Take connections from now on."""
        self._pause = None
        self._loop.add_reader(self._sock, self._take_share)

    def close(self, *, leave_rest: bool = False) -> None:
        """Take no more but those that wait already; with ``leave_rest`` these are for whoever has the socket too."""
        self._loop.remove_reader(self._sock)
        if not leave_rest:
            self._take(MOST_AT_END)
        if self._pause is not None:  # perhaps of just now
            self._pause.cancel()
        self._sock.close()

    def _take_share(self) -> None:
        """Take what this turn of the loop may."""
        now = self._loop.time()
        waited, self._looked_at = now - self._looked_at, now
        self._take(share(waited))

    def _take(self, most: int) -> None:
        for _ in range(most):
            try:
                client, peername = self._sock.accept()
                client.setblocking(False)
                self._begin(client, peername)
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:  # it left while it waited
                continue
            except OSError as error:
                self._wait(error)
                return

    def _begin(self, client: socket.socket, peername: object) -> None:
        """Hand a connection to its protocol, at once where that can be. Raises OSError, and closes it then."""
        if self._is_tcp:
            with contextlib.suppress(OSError):  # elsewhere than on Linux: who has left already
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # SPEC §12
        if self._tls is None and isinstance(self._loop, PollerLoop):
            attach(self._loop, client, peername, self._factory)
            return
        task = self._loop.create_task(self._welcome(client, peername), name="accept")
        self.welcoming.add(task)
        task.add_done_callback(self.welcoming.discard)

    def _wait(self, error: OSError) -> None:
        """Leave connections in the kernel's queue for a moment (SPEC §12 "Load"), instead of asking on and on."""
        self._loop.remove_reader(self._sock)
        if self._pause is not None:
            self._pause.cancel()
        self._pause = self._loop.call_later(PAUSE, self.start)
        now = self._loop.time()
        if now - self._warned_at >= QUIET:
            self._warned_at = now
            what = "descriptors or memory are short" if error.errno in SHORT else "that failed"
            LOG.warning("cannot take connections for a moment, %s: %s", what, error.strerror)

    async def _welcome(self, client: socket.socket, peername: object) -> None:
        """Hand a connection to its protocol, after a handshake where there is TLS; one that fails is the client's."""
        if self._tls is None:
            with contextlib.suppress(OSError):
                await self._adopt(client, peername, self._factory)
            return
        from ..wire.tlstransport import TLSTransport

        secured = TLSTransport(self._factory, self._tls)
        try:
            async with asyncio.timeout(self._patience):
                await self._adopt(client, peername, lambda: secured)
                await secured.done
        except OSError as error:
            secured.abort()
            error.__traceback__ = None  # which knows this frame, which knows who holds the error
        except asyncio.CancelledError:
            secured.abort()
            raise

    async def _adopt(self, client: socket.socket, peername: object, factory: Callable[[], asyncio.Protocol]) -> None:
        """Give a connection to the protocol that ``factory`` makes. Raises OSError; it is closed then."""
        if isinstance(self._loop, PollerLoop):
            attach(self._loop, client, peername, factory)
            return
        try:
            await self._loop.connect_accepted_socket(factory, client)
        except (OSError, asyncio.CancelledError):
            with contextlib.suppress(OSError):
                client.close()
            raise
