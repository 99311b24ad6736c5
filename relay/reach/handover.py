"""A dialled connection before it has its owner: adopted from a socket, tunnelled, made secure, handed over.

Nothing that listens to HTTP may speak before it is asked, so a byte that nobody asked for ends the connection here.
(A plain, direct one on a ``PollerLoop`` is not here: it is its owner's at once.)
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, TypeVar

import h11

from ..wire.poller import PollerLoop
from ..wire.transport import attach

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

Protocol = TypeVar("Protocol", bound="asyncio.Protocol")

MAX_REPLY = 16 << 10  # bytes of the head with which an outbound proxy answers
MAX_INTERIM = 16  # as for upstreams (SPEC §12)
MAX_REASON = 80


class ProxyRefused(Exception):
    """The outbound proxy answered, and there is no tunnel; its text says what it answered."""


class SpokeFirst(ConnectionError):
    """The other side sent bytes before it was asked for any."""


class Prelude(asyncio.Protocol):
    """What a connection talks to until its own protocol takes over."""

    def __init__(self) -> None:
        self.reply: TunnelReply | None = None
        self.spoke = False

    def data_received(self, data: bytes) -> None:
        """Pass on what was asked for, and remember that something was not."""
        if self.reply is None:
            self.spoke = True
        else:
            self.reply.feed(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits for a reply."""
        if self.reply is not None:
            self.reply.fail(exc or ConnectionResetError("the connection was closed without an answer"))


class TunnelReply:
    """The answer to CONNECT (RFC 9110 §9.3.6), read through h11. ``done`` ends with None, or with what went wrong."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.done: asyncio.Future[None] = loop.create_future()
        self._machine = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_REPLY)
        self._interim = 0

    def request(self, authority: bytes, authorization: bytes | None) -> bytes:
        """What to send: the target stands in ``Host`` too (RFC 9112 §3.2)."""
        fields = [(b"Host", authority)]
        if authorization is not None:
            fields.append((b"Proxy-Authorization", authorization))
        head = self._machine.send(h11.Request(method=b"CONNECT", target=authority, headers=fields)) or b""
        return head + (self._machine.send(h11.EndOfMessage()) or b"")

    def feed(self, data: bytes) -> None:
        """Take bytes of the answer."""
        try:
            self._machine.receive_data(data)
            while not self.done.done():
                event = self._machine.next_event()
                if event is h11.NEED_DATA:
                    return
                self._judge(event)
        except h11.RemoteProtocolError as error:
            self.fail(ProxyRefused(f"its answer is not HTTP: {error}"))

    def fail(self, error: Exception) -> None:
        """End without a tunnel."""
        if not self.done.done():
            self.done.set_exception(error)

    def _judge(self, event: object) -> None:
        if isinstance(event, h11.InformationalResponse):
            self._interim += 1
            if self._interim > MAX_INTERIM:
                self.fail(ProxyRefused("it sends interim answers without end"))
        elif isinstance(event, h11.Response):
            if event.status_code >= 300:  # noqa: PLR2004 - 2xx is a tunnel, whatever else its head says
                self.fail(ProxyRefused(refusal(event)))
            elif self._machine.trailing_data[0]:
                self.fail(SpokeFirst("bytes that nobody asked for came through the tunnel"))
            else:
                self.done.set_result(None)


def refusal(response: h11.Response) -> str:
    """What the record says of an answer that is no tunnel: its status, and which credentials it wants."""
    status = f"{response.status_code} {response.reason.decode('latin-1')[:MAX_REASON]}".strip()
    challenges = [value.split(b" ")[0] for name, value in response.headers if name == b"proxy-authenticate"]
    if not challenges:
        return f"it answered {status}"
    schemes = b", ".join(challenges).decode("latin-1")[:MAX_REASON]
    return f"it answered {status} and asks for credentials ({schemes}); Basic ones can be given in the proxy's URL"


async def adopt(sock: socket.socket, peername: object) -> asyncio.Transport:
    """Make a transport with a Prelude of a socket that leads to ``peername``, and is the transport's from then on."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, PollerLoop):
        return attach(loop, sock, peername, Prelude, hears_out=True)[0]
    make = loop.create_unix_connection if sock.family == socket.AF_UNIX else loop.create_connection
    if isinstance(loop, asyncio.BaseEventLoop):  # it closes what it was making where it is cancelled
        transport, _ = await make(Prelude, sock=sock)
        return transport
    # This takes two turns of the loop and no traffic. Cut between them, uvloop closes the descriptor under the socket
    # object, which would later close whatever has that number then; so it is left to finish, and closed after.
    making: asyncio.Task[tuple[asyncio.Transport, Prelude]]
    making = loop.create_task(make(Prelude, sock=sock), name="adopt a socket")
    try:
        transport, _ = await asyncio.shield(making)
    except asyncio.CancelledError:
        making.add_done_callback(_abandon)
        raise
    return transport


def _abandon(making: asyncio.Task[tuple[asyncio.Transport, Prelude]]) -> None:
    if not making.cancelled() and making.exception() is None:
        making.result()[0].abort()


async def open_tunnel(transport: asyncio.Transport, authority: bytes, authorization: bytes | None) -> None:
    """Ask the proxy at the other end for a tunnel to ``authority`` (``host:port``).

    Raises ProxyRefused for an answer that is none, OSError when the connection breaks.
    """
    prelude = _prelude(transport)
    prelude.reply = reply = TunnelReply(asyncio.get_running_loop())
    transport.write(reply.request(authority, authorization))
    await reply.done
    prelude.reply = None


async def secure(transport: asyncio.Transport, context: ssl.SSLContext, host: str) -> asyncio.Transport:
    """Speak TLS over ``transport`` with ``host``, perhaps over TLS that is spoken already. Raises OSError."""
    from ..wire.tlstransport import TLSTransport  # most of a site's upstreams may be plain

    if _prelude(transport).spoke:
        raise SpokeFirst("bytes came before the TLS handshake")
    name = ascii_host(host.partition("%")[0].rstrip("."))  # certificates know neither zone nor root
    try:
        secured = TLSTransport(Prelude, context, server_hostname=name)
    except ValueError as error:
        raise OSError(str(error)) from None
    transport.set_protocol(secured)
    secured.connection_made(transport)
    try:
        await secured.done
        return secured
    finally:
        del secured  # a failure knows this frame, and is held by it: a ring for the collector


def hand_over(transport: asyncio.Transport, factory: Callable[[], Protocol]) -> Protocol:
    """Give the connection to its own protocol. Raises OSError if it has spoken or ended already."""
    if _prelude(transport).spoke:
        raise SpokeFirst("bytes came before anything was asked")
    protocol = factory()
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    return protocol


def ascii_host(host: str) -> str:
    """A host as the wire knows it (RFC 5890 A-labels). Raises OSError for what is no host name."""
    try:
        return host.encode("idna").decode()
    except UnicodeError as error:
        raise OSError("not a host name") from error


def _prelude(transport: asyncio.Transport) -> Prelude:
    prelude = transport.get_protocol()  # None once a connection has been lost
    if transport.is_closing() or not isinstance(prelude, Prelude):
        raise ConnectionResetError("the connection was closed at once")
    return prelude
