"""Names to addresses: looked up off the loop, remembered for 30 s, one look-up at a time for each name (SPEC §14).

A look-up is a daemon thread of its own rather than a place in the loop's executor: a name server that is down holds a
thread for many seconds, which must neither delay other work of the executor nor the end of the process.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from ..values import Struct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    Found = Sequence[tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]]  # getaddrinfo's answer

MAX_AGE = 30.0
RENEWAL_PAUSE = 5.0  # after a renewal that failed, the pool goes on with the old answer this long
MAX_ADDRESSES = 16  # of one name that are tried; each may cost a whole `timeouts.connect`
FAMILIES = (socket.AF_INET, socket.AF_INET6)


class Address(NamedTuple):
    """What ``socket.connect`` needs."""

    family: socket.AddressFamily
    sockaddr: tuple[str | int, ...] | str

    def __str__(self) -> str:
        if isinstance(self.sockaddr, str):
            return f"unix:{self.sockaddr}"
        host, port = self.sockaddr[:2]
        return f"[{host}]:{port}" if self.family == socket.AF_INET6 else f"{host}:{port}"


class Answer(Struct):
    """What a name meant at ``looked_up``; ``hosts`` are its addresses as ``peername[0]`` shows them."""

    addresses: tuple[Address, ...]
    hosts: frozenset[str | int]
    looked_up: float
    renew_at: float


def look_up(host: str, port: int) -> Found:
    """Ask the system, which may take many seconds."""
    return socket.getaddrinfo(host_name(host), port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)


def host_name(host: str) -> str | bytes:
    """``host`` as ``getaddrinfo`` takes it: as text, ASCII too would load the tables of IDNA, 3 ms of a start.

    What IDNA would refuse of it (an empty label, one of 64 characters) is then refused by the system, as a gaierror.
    """
    return host.encode() if host.isascii() else host


class Resolver:
    """One worker's view of names. Lives on one event loop; ``lookup`` is called on threads of its own."""

    def __init__(
        self, lookup: Callable[[str, int], Found] = look_up, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._lookup = lookup
        self._clock = clock
        self._answers: dict[tuple[str, int], Answer] = {}
        self._flights: dict[tuple[str, int], asyncio.Future[tuple[Address, ...]]] = {}

    async def resolve(self, host: str, port: int) -> tuple[Address, ...]:
        """Every address of ``host`` in the order to try them. Raises OSError when it has none.

        Addresses and ``localhost`` are answered without asking anybody (RFC 6761 §6.3).
        """
        if known := self.known(host, port):
            return known
        return await asyncio.shield(self._flight(host, port))  # others may be waiting for the same

    def known(self, host: str, port: int) -> tuple[Address, ...]:
        """What ``resolve`` says where it needs not wait; nothing where it has to."""
        if known := _without_asking(host, port):
            return known
        answer = self._answers.get((host, port))
        if answer is not None and self._clock() - answer.looked_up < MAX_AGE:
            return answer.addresses
        return ()

    def still_named(self, host: str, port: int, address: str) -> bool:
        """Whether a connection to ``address`` (``peername[0]``) is one that ``host`` still names, as far as we know.

        Cheap enough for each use of an idle connection; an answer older than 30 s is renewed behind the caller's back.
        """
        answer = self._answers.get((host, port))
        if answer is None:
            return True
        if self._clock() >= answer.renew_at:
            self._renew(host, port, answer)
        return address in answer.hosts

    def close(self) -> None:
        """Forget every answer, also those still under way."""
        self._answers.clear()
        self._flights.clear()

    def _renew(self, host: str, port: int, answer: Answer) -> None:
        answer.renew_at = self._clock() + RENEWAL_PAUSE
        with suppress(OSError):  # no thread to be had: the old answer serves until the next attempt
            self._flight(host, port)

    def _flight(self, host: str, port: int) -> asyncio.Future[tuple[Address, ...]]:
        """Join the look-up under way, or start one."""
        flight = self._flights.get((host, port))
        if flight is None:
            loop = asyncio.get_running_loop()
            flight = loop.create_future()
            ask = threading.Thread(target=self._ask, args=(loop, flight, host, port), name=f"resolve {host}")
            ask.daemon = True
            try:
                ask.start()
            except RuntimeError as error:
                raise OSError(f"the look-up could not be started: {error}") from error
            self._flights[host, port] = flight
        return flight

    def _ask(
        self, loop: asyncio.AbstractEventLoop, flight: asyncio.Future[tuple[Address, ...]], host: str, port: int
    ) -> None:
        """Run on the thread."""
        result: tuple[Address, ...] | Exception
        try:
            result = in_order(self._lookup(host, port))
        except UnicodeError:
            result = socket.gaierror(socket.EAI_NONAME, "not a host name")
        except Exception as error:  # noqa: BLE001 - whoever waits must hear of it
            result = error
        with suppress(RuntimeError):  # the loop has ended, and with it whoever waited
            loop.call_soon_threadsafe(self._land, flight, host, port, result)

    def _land(
        self,
        flight: asyncio.Future[tuple[Address, ...]],
        host: str,
        port: int,
        result: tuple[Address, ...] | Exception,
    ) -> None:
        ours = self._flights.get((host, port)) is flight
        if ours:
            del self._flights[host, port]
        if isinstance(result, Exception):
            flight.set_exception(result)
            flight.exception()  # a renewal has nobody who would look at it
            return
        if ours:
            now = self._clock()
            hosts = frozenset(address.sockaddr[0] for address in result)
            self._answers[host, port] = Answer(result, hosts, now, now + MAX_AGE)
        flight.set_result(result)


def is_looked_up(host: str) -> bool:
    """Whether somebody has to be asked for the addresses of ``host``, so that the answer may change."""
    return not _without_asking(host, 0)


def in_order(found: Found) -> tuple[Address, ...]:
    """Interleave the families, the system's first choice first (RFC 8305 §4, RFC 6724). Raises OSError for none."""
    addresses = list(dict.fromkeys(Address(entry[0], entry[4]) for entry in found if entry[0] in FAMILIES))
    if not addresses:
        raise socket.gaierror(socket.EAI_NONAME, "no address associated with the name")
    preferred = [address for address in addresses if address.family == addresses[0].family]
    others = [address for address in addresses if address.family != addresses[0].family]
    return tuple(_interleave(preferred, others))[:MAX_ADDRESSES]


def _interleave(first: list[Address], second: list[Address]) -> Iterable[Address]:
    for one, other in zip(first, second, strict=False):
        yield one
        yield other
    shared = min(len(first), len(second))
    yield from first[shared:]
    yield from second[shared:]


@lru_cache(maxsize=256)
def _without_asking(host: str, port: int) -> tuple[Address, ...]:
    if host.lower().rstrip(".") == "localhost":
        return Address(socket.AF_INET6, ("::1", port, 0, 0)), Address(socket.AF_INET, ("127.0.0.1", port))
    try:
        found = socket.getaddrinfo(
            host_name(host), port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_NUMERICHOST
        )
    except (OSError, UnicodeError):
        return ()
    return in_order(found)
