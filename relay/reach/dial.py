"""Reach an upstream: the fastest of its addresses, a tunnel through an outbound proxy, TLS.

What comes out is a connected transport and the caller's protocol, or an UpstreamFailure with ``sent=False``: its
message is for the client and names no address, its ``detail`` is for the record and says why. Runs on any loop; where
it is a ``PollerLoop``, connections get its transport.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, TypeVar

from ..errors import UpstreamFailure, UpstreamTimeout
from ..wire.poller import PollerLoop
from ..wire.transport import attach
from .handover import ProxyRefused, adopt, ascii_host, hand_over, open_tunnel, secure
from .names import Address, is_looked_up
from .race import Connected, first_connected

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from ..config import BaseURL
    from .names import Resolver
    from .outbound import ProxyAddress

Protocol = TypeVar("Protocol", bound="asyncio.Protocol")

UNNAMED = "The upstream's name could not be resolved. The log of this proxy says why."
UNREACHABLE = "The upstream could not be reached. The log of this proxy says why."
INSECURE = "The TLS handshake with the upstream failed. The log of this proxy says why."
REFUSED = "The outbound proxy did not connect to the upstream. The log of this proxy says why."
SLOW = "The upstream could not be reached in time. Try again later."


async def dial(
    base: BaseURL,
    factory: Callable[[], Protocol],
    *,
    context: ssl.SSLContext | None,
    proxy: ProxyAddress | None,
    resolver: Resolver,
    timeout: float,  # noqa: ASYNC109 - per address, so not the caller's asyncio.timeout
) -> tuple[asyncio.Transport, Protocol]:
    """Connect to ``base`` and hand the connection to the protocol that ``factory`` makes.

    TLS is spoken when ``context`` is given. ``timeout`` (seconds) bounds the look-up of the name, and for each address
    the connection, the tunnel and the handshake together (SPEC §9). Raises UpstreamFailure or UpstreamTimeout.
    Cancelled at any point, it leaves nothing open.
    """
    call = Call(base, context, proxy)
    addresses = await call.addresses(resolver, timeout)
    while addresses:
        connected = await first_connected(addresses, timeout)
        for address, error in connected.failures:
            call.failed(address, error)
        if connected.sock is None:
            break
        try:
            return await call.establish(connected, factory)
        except OSError as error:
            call.failed(connected.address, error)
        addresses = [address for address in addresses if address not in call.failures]
    raise call.failure()


def named_peer(base: BaseURL, proxy: ProxyAddress | None) -> tuple[str, int] | None:
    """Host and port of whom a connection leads to; None for a unix socket."""
    if proxy is not None:
        return proxy.host, proxy.port
    return None if base.unix is not None else (base.host, base.port)


def movable_peer(base: BaseURL, proxy: ProxyAddress | None) -> tuple[str, int] | None:
    """Whose name a connection's ``peername`` must match (``Resolver.still_named``); None where that cannot move."""
    peer = named_peer(base, proxy)
    return peer if peer is not None and is_looked_up(peer[0]) else None


class Call:
    """One dial: where to, by which way, and what has gone wrong on it."""

    def __init__(self, base: BaseURL, context: ssl.SSLContext | None, proxy: ProxyAddress | None) -> None:
        self.base = base
        self.context = context
        self.proxy = proxy
        self.failures: dict[Address, UpstreamFailure] = {}
        self._step = "connection"  # what is being waited for

    async def addresses(self, resolver: Resolver, timeout: float) -> Sequence[Address]:  # noqa: ASYNC109 - as dial
        """Whom to connect to."""
        peer = named_peer(self.base, self.proxy)
        if peer is None:
            assert self.base.unix is not None
            return [Address(socket.AF_UNIX, self.base.unix)]
        if known := resolver.known(*peer):
            return known
        try:
            async with asyncio.timeout(timeout):
                return await resolver.resolve(*peer)
        except OSError as error:
            raise self._failure(f"name {peer[0]}", "answer to the look-up", error, UNNAMED) from error

    async def establish(
        self, connected: Connected, factory: Callable[[], Protocol]
    ) -> tuple[asyncio.Transport, Protocol]:
        """Make of a connected socket what was asked for, before its address has used up its time. Raises OSError."""
        assert connected.sock is not None
        assert connected.address is not None
        loop = asyncio.get_running_loop()
        is_bare = self.proxy is None and self.context is None
        if is_bare and isinstance(loop, PollerLoop):
            return attach(loop, connected.sock, connected.address.sockaddr, factory, hears_out=True)
        raw = await adopt(connected.sock, connected.address.sockaddr)
        try:
            transport = raw
            if not is_bare:
                async with asyncio.timeout_at(connected.deadline):
                    transport = await self._climb(raw)
            return transport, hand_over(transport, factory)
        except BaseException as error:  # also on cancellation
            raw.abort()  # takes all that was built upon it down
            if isinstance(error, ProxyRefused):  # it was reached, and its other addresses would say the same
                detail = f"outbound proxy {connected.address}: {error}"
                raise UpstreamFailure(REFUSED, sent=False, detail=detail) from error
            raise

    async def _climb(self, transport: asyncio.Transport) -> asyncio.Transport:
        """Put on the bare connection what stands between it and HTTP."""
        if self.proxy is not None:
            if self.proxy.scheme == "https":
                from ..config import UpstreamTLS
                from .tls import client_context  # most have no such proxy

                self._step = "TLS handshake with the outbound proxy"
                transport = await secure(transport, client_context(UpstreamTLS()), self.proxy.host)
            self._step = "tunnel"
            await open_tunnel(transport, authority(self.base), self.proxy.authorization())
        if self.context is not None:
            self._step = "TLS handshake"
            transport = await secure(transport, self.context, self.base.host)
        return transport

    def failed(self, address: Address | None, error: OSError) -> None:
        """Remember why ``address`` is not tried again in this call."""
        assert address is not None
        step, self._step = self._step, "connection"
        where = str(address) if self.proxy is None else f"outbound proxy {address}"
        self.failures[address] = self._failure(where, step, error, UNREACHABLE)

    def failure(self) -> UpstreamFailure:
        """What to tell of all addresses together: the first that was too slow, else the one that was tried last."""
        failures = list(self.failures.values())
        telling = next((failure for failure in failures if isinstance(failure, UpstreamTimeout)), failures[-1])
        return type(telling)(telling.message, sent=False, detail="; ".join(failure.detail for failure in failures))

    @staticmethod
    def _failure(where: str, step: str, error: OSError, message: str) -> UpstreamFailure:
        import ssl

        if isinstance(error, TimeoutError):
            return UpstreamTimeout(SLOW, sent=False, detail=f"{where}: no {step} in time")
        if isinstance(error, ssl.SSLError) or step.startswith("TLS"):
            message = INSECURE
        step = "" if step == "connection" else f"{step}: "
        return UpstreamFailure(message, sent=False, detail=f"{where}: {step}{reason(error)}")


def reason(error: OSError) -> str:
    """The system's or OpenSSL's own words for ``error``, without codes and places in source files."""
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}".rstrip(".")
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).lower().replace("_", " ")
    return error.strerror or str(error) or "connection closed by the other side"


def authority(base: BaseURL) -> bytes:
    """The target of CONNECT, always with its port (RFC 9110 §9.3.6)."""
    host = f"[{base.host}]" if ":" in base.host else ascii_host(base.host)
    return f"{host}:{base.port}".encode()
