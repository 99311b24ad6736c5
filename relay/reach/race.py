"""The first of several addresses that takes a connection: happy eyeballs (RFC 8305) without tasks.

Attempts are non-blocking sockets and callbacks, so that whoever waits can be cancelled at any point and everything is
closed on the spot.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import deque
from typing import TYPE_CHECKING

from ..values import Value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .names import Address

ATTEMPT_DELAY = 0.25  # RFC 8305 §8: Connection Attempt Delay
FULL_QUEUE_PAUSE = 0.01
UNDER_WAY = frozenset({errno.EINPROGRESS, errno.EALREADY, errno.EAGAIN})

#           level, option, value
OPTIONS = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),  # SPEC §12
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),  # a NAT forgets in minutes what a long answer leaves silent
]
if hasattr(socket, "TCP_KEEPIDLE"):
    OPTIONS += [(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60), (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 30)]


class Connected(Value):
    """How a race ended.

    ``sock`` is connected to ``address``, or both are None; ``deadline`` (loop time) is when that address has used up
    its time. ``failures`` say why others were not taken, each a TimeoutError or another OSError.
    """

    sock: socket.socket | None
    address: Address | None
    deadline: float
    failures: Sequence[tuple[Address, OSError]]


async def first_connected(addresses: Sequence[Address], timeout: float) -> Connected:  # noqa: ASYNC109 - per address
    """Connect to one of ``addresses``, preferring the earlier ones.

    The next address is begun when one has failed, or 250 ms after the last was begun. Each has ``timeout`` seconds.
    """
    race = Race(addresses, timeout)
    try:
        return await race.run()
    finally:  # also on cancellation
        race.close()


class Race:
    """The addresses that wait, the attempts under way, and how it ends."""

    def __init__(self, addresses: Sequence[Address], timeout: float) -> None:
        self.loop = asyncio.get_running_loop()
        self.timeout = timeout
        self._waiting = deque(addresses)
        self._running: set[Attempt] = set()
        self._failures: list[tuple[Address, OSError]] = []
        self._next: asyncio.TimerHandle | None = None
        self._end: asyncio.Future[Attempt | None] = self.loop.create_future()

    async def run(self) -> Connected:
        """Wait for the first attempt that succeeds."""
        self._begin_next()
        winner = await self._end
        if winner is None:
            return Connected(None, None, 0.0, self._failures)
        return Connected(winner.release(), winner.address, winner.deadline, self._failures)

    def close(self) -> None:
        """Close whatever is under way."""
        if self._next is not None:
            self._next.cancel()
        for attempt in self._running:
            attempt.close()
        self._running.clear()
        del self._end  # who has won knows the race: nothing is left for the collector

    def won(self, attempt: Attempt) -> None:
        """End the race."""
        if not self._end.done():
            self._end.set_result(attempt)

    def lost(self, attempt: Attempt, error: OSError) -> None:
        """Go on with the others. Too late where somebody has won, perhaps this one, in the same turn of the loop."""
        if self._end.done():
            return
        attempt.close()
        self._running.discard(attempt)
        self._failures.append((attempt.address, error))
        self._begin_next()

    def _begin_next(self) -> None:
        if self._next is not None:
            self._next.cancel()
        if not self._waiting:
            if not self._running and not self._end.done():
                self._end.set_result(None)
            return
        attempt = Attempt(self, self._waiting.popleft())
        self._running.add(attempt)
        if self._waiting:
            self._next = self.loop.call_later(ATTEMPT_DELAY, self._begin_next)
        attempt.begin()


class Attempt:
    """One address: a socket that is connecting."""

    __slots__ = ("_handle", "_race", "_sock", "_timer", "address", "deadline")

    def __init__(self, race: Race, address: Address) -> None:
        self._race = race
        self._sock: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None  # when the address has had its time
        self._handle: asyncio.TimerHandle | None = None  # when to knock again at a unix socket
        self.address = address
        self.deadline = race.loop.time() + race.timeout

    def begin(self) -> None:
        """Start to connect; the race hears of the end, perhaps before this returns."""
        try:
            self._sock = self._make_socket()
        except OSError as error:  # no descriptors left, or no IPv6 here
            self._race.lost(self, error)
            return
        self._connect()

    def release(self) -> socket.socket:
        """Give the connected socket away."""
        sock, self._sock = self._sock, None
        assert sock is not None
        self.close()
        return sock

    def close(self) -> None:
        """Stop waiting and close the socket, if it has not been given away."""
        for timer in (self._timer, self._handle):
            if timer is not None:
                timer.cancel()
        if self._sock is not None:
            self._race.loop.remove_writer(self._sock.fileno())
            self._sock.close()
            self._sock = None

    def _make_socket(self) -> socket.socket:
        unix = self.address.family == socket.AF_UNIX
        sock = socket.socket(self.address.family, socket.SOCK_STREAM, 0 if unix else socket.IPPROTO_TCP)
        sock.setblocking(False)
        for option in () if unix else OPTIONS:
            sock.setsockopt(*option)
        return sock

    def _connect(self) -> None:
        assert self._sock is not None
        address = self.address.sockaddr
        try:
            code = self._sock.connect_ex(address)
            if code == errno.EINPROGRESS:  # on this machine it is over by now, either way: a second call tells how
                code = self._sock.connect_ex(address)
        except OSError as error:  # the path of a unix socket may be too long
            self._race.lost(self, error)
            return
        if code in UNDER_WAY:
            self._wait(code)
        else:
            self._conclude(code)

    def _wait(self, code: int) -> None:
        """Let the address have its time."""
        assert self._sock is not None
        loop = self._race.loop
        if self._timer is None:
            self._timer = loop.call_at(self.deadline, self._expire)
        if code == errno.EAGAIN:  # a unix socket whose queue is full tells us nothing when it is not
            self._handle = loop.call_later(FULL_QUEUE_PAUSE, self._connect)
        else:
            # By its number: of an object the selector makes a text, by four system calls, to say that it is new.
            loop.add_writer(self._sock.fileno(), self._settle)

    def _settle(self) -> None:
        assert self._sock is not None
        self._race.loop.remove_writer(self._sock.fileno())
        self._conclude(self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def _conclude(self, code: int) -> None:
        assert self._sock is not None
        if code == errno.EISCONN:  # what a second call says elsewhere than on Linux
            code = 0
        if code == 0 and self.address.family != socket.AF_UNIX and self._sock.getsockname() == self.address.sockaddr:
            code = errno.ECONNREFUSED  # nobody listens, and our own port happened to be the one we asked for
        if code == 0:
            self._race.won(self)
        else:
            self._race.lost(self, OSError(code, os.strerror(code)))

    def _expire(self) -> None:
        self._race.lost(self, TimeoutError(errno.ETIMEDOUT, "no connection in time"))
