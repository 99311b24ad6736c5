"""A protocol's transport over a socket that a ``Poller`` watches: what protocols ask of asyncio's, on the shortest way.

asyncio's own puts a handle, a queue and a context between the system and the protocol, takes a task, a future and
five handles to begin, and sets the socket's options again. This one reads when it is told, and begins at once. TLS is
a layer upon it (``tlstransport``); loops without a poller have their own transports.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, TypeVar, cast

from .poller import ERR, HUP, IN, OUT

if TYPE_CHECKING:
    from collections.abc import Callable

    from .poller import PollerLoop

Protocol = TypeVar("Protocol", bound="asyncio.Protocol")

READ_SIZE = 64 << 10  # bytes of one read: as much as a connection lets wait (``connection.HIGH_WATER``)
HIGH, LOW = 64 << 10, 16 << 10  # unsent bytes at which a protocol is told to pause, and to go on: asyncio's defaults
ROOM = OUT | ERR | HUP  # what is worth a try to send: where there is an error, that tells which


def attach(
    loop: PollerLoop,
    sock: socket.socket,
    peername: object,
    factory: Callable[[], Protocol],
    *,
    hears_out: bool = False,
) -> tuple[asyncio.Transport, Protocol]:
    """Give a connected socket, which leads to ``peername``, to the protocol that ``factory`` makes.

    ``hears_out`` is for who asks: a write that finds the peer gone is the end only when all that came before has been
    told. Who answers early and closes, with our upload unread, resets the connection behind its answer (RFC 9112 §9.6).

    Raises what the factory raises, and OSError where the system can watch no more; the socket is closed then.
    """
    try:
        protocol = factory()
        return SocketTransport(loop, sock, peername, protocol, hears_out=hears_out), protocol
    except BaseException:
        sock.close()
        raise


class SocketTransport(asyncio.Transport):
    """A connected, non-blocking socket, owned from now on, and the protocol that it talks to.

    The protocol is told in the course of this that its connection is made. Limits of what may wait to be sent cannot be
    changed, and ``get_extra_info`` knows ``socket`` and ``peername``.
    """

    __slots__ = (
        "_broken",
        "_buffer",
        "_closing",
        "_descriptor",
        "_gone",
        "_hears_out",
        "_loop",
        "_missed",
        "_peer_ended",
        "_peername",
        "_protocol",
        "_reading",
        "_sock",
        "_stuffed",
        "_we_ended",
    )

    def __init__(
        self, loop: PollerLoop, sock: socket.socket, peername: object, protocol: asyncio.Protocol, *, hears_out: bool
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._descriptor = sock.fileno()
        self._protocol = protocol
        self._peername = peername
        self._reading = True
        self._missed = False  # something is there that nobody wanted to read
        self._peer_ended = False  # the peer has said its last, and the protocol knows
        self._buffer = bytearray()  # what the system did not take yet
        self._hears_out = hears_out
        self._broken: OSError | None = None  # the peer is gone, and what it said before is not told yet
        self._stuffed = False  # the protocol was told to pause
        self._we_ended = False  # we have said our last
        self._closing = False
        self._gone = False  # the protocol is about to be told that the connection is lost
        loop.poller.watch(self._descriptor, self._happened)
        try:
            protocol.connection_made(self)
        except Exception as error:  # noqa: BLE001 - who accepts has others to go on with
            self._fail(error)

    def _happened(self, mask: int) -> None:
        """What the poller tells. Whatever breaks in the course of it, the protocol's doing or not, is an end."""
        try:
            if mask != OUT:  # more than room alone
                self._read(mask)
            if self._buffer and mask & ROOM:
                self._send_rest()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - a callback has nobody above it
            self._fail(error)

    def _read(self, mask: int) -> None:
        """Read once; others have their turn before more.

        A read that is not filled has emptied the socket (epoll(7)), unless an end or something urgent is there too, or
        descriptors on a unix socket, with which nobody who speaks HTTP has to do.
        """
        if not self._reading:
            self._missed = True
            return
        try:
            data = self._sock.recv(READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        if not data:
            self._end()
            return
        self._protocol.data_received(data)
        if len(data) == READ_SIZE or mask & ~(IN | OUT):
            self._loop.poller.again(self._descriptor)

    def _end(self) -> None:
        """The peer has said its last; the protocol decides whether we say more."""
        self._reading = False
        self._peer_ended = True
        if not self._protocol.eof_received():
            self.close()

    def _send_rest(self) -> None:
        """There is room again for what is left."""
        try:
            sent = self._sock.send(self._buffer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._break(error)
            return
        del self._buffer[:sent]
        if self._stuffed and len(self._buffer) <= LOW:
            self._stuffed = False
            self._protocol.resume_writing()  # who may write more
        if not self._buffer:
            self._sent_all()

    def _sent_all(self) -> None:
        if self._closing:
            if not self._gone:
                self._leave(None)
        elif self._we_ended:
            self._sock.shutdown(socket.SHUT_WR)

    # Reading.

    def is_reading(self) -> bool:
        """Whether the protocol gets what comes."""
        return self._reading

    def pause_reading(self) -> None:
        """Leave what comes in the socket."""
        self._reading = False

    def resume_reading(self) -> None:
        """Read again, beginning with what came meanwhile."""
        if self._reading or self._peer_ended or self._closing:
            return
        self._reading = True
        if self._broken is not None:
            self._loop.call_soon(self._hear_out)
        elif self._missed:
            self._missed = False
            self._loop.poller.again(self._descriptor)

    # Writing.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send ``data``, what the system does not take later; nothing once the connection is lost."""
        if self._we_ended:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self._gone or self._broken is not None or not data:
            return
        if self._buffer:
            self._buffer += data
        else:
            try:
                sent = self._sock.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self._break(error)
                return
            if sent == len(data):
                return
            self._buffer += memoryview(data)[sent:]
        if len(self._buffer) > HIGH and not self._stuffed:
            self._stuffed = True
            self._protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        """How many bytes the system has not taken yet."""
        return len(self._buffer)

    def can_write_eof(self) -> bool:
        """Sockets can be shut one way."""
        return True

    def write_eof(self) -> None:
        """End our direction once everything written has left. Raises OSError where the peer is gone."""
        if self._closing or self._we_ended:
            return
        self._we_ended = True
        if not self._buffer:
            self._sock.shutdown(socket.SHUT_WR)

    # Life.

    def is_closing(self) -> bool:
        """Whether somebody has closed it."""
        return self._closing

    def close(self) -> None:
        """Read no more, and close once everything written has left."""
        if self._closing:
            return
        self._closing = True
        self._reading = False
        if not self._buffer:
            self._leave(None)

    def abort(self) -> None:
        """Close now."""
        self._force(None)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Who is told; None once the connection is lost, as with asyncio's transports."""
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Tell another from now on."""
        self._protocol = cast("asyncio.Protocol", protocol)  # a socket speaks to no other kind

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """``socket`` and ``peername``."""
        if name == "socket":
            return self._sock
        return self._peername if name == "peername" else default

    def _break(self, error: OSError) -> None:
        """Nothing more can be sent."""
        if not self._hears_out or not isinstance(error, ConnectionError):
            self._force(error)
            return
        self._broken = error.with_traceback(None)  # which knows us: a ring for the collector
        self._buffer.clear()
        self._loop.poller.forget(self._descriptor)
        self._loop.call_soon(self._hear_out)

    def _hear_out(self) -> None:
        """Tell a piece of what came before the peer was gone; when there is no more, tell that it is."""
        if self._gone:
            return
        try:
            if self._stuffed:
                self._stuffed = False
                self._protocol.resume_writing()  # who need not wait for room
            if self._reading:
                self._tell_a_piece()
        except Exception as error:  # noqa: BLE001 - a callback has nobody above it
            self._fail(error)

    def _tell_a_piece(self) -> None:
        try:
            data = self._sock.recv(READ_SIZE)
        except OSError:  # the end of what there is, as the other one
            data = b""
        if not data:
            self._force(self._broken)
            return
        self._protocol.data_received(data)
        self._loop.call_soon(self._hear_out)

    def _fail(self, error: BaseException) -> None:
        """End for an error. Where it is not the peer's or the system's, the loop is told."""
        if not isinstance(error, OSError):
            message = "Fatal error on socket transport"
            self._loop.call_exception_handler(
                {"message": message, "exception": error, "transport": self, "protocol": self._protocol}
            )
        self._force(error)

    def _force(self, error: BaseException | None) -> None:
        """End without sending what is left."""
        if self._gone:
            return
        self._buffer.clear()
        self._closing = True
        self._reading = False
        self._leave(error)

    def _leave(self, error: BaseException | None) -> None:
        """Let go of the socket, in the next turn of the loop: whoever is at work here does not expect to be left."""
        self._gone = True
        self._loop.poller.forget(self._descriptor)
        self._loop.call_soon(self._lose, error)

    def _lose(self, error: BaseException | None) -> None:
        protocol, self._protocol = self._protocol, cast("asyncio.Protocol", None)
        try:
            protocol.connection_lost(error)  # type: ignore[arg-type]  # asyncio's, too, pass on what a protocol raised
        finally:
            self._sock.close()
