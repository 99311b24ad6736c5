"""One WebSocket session between a client and an upstream: the 101, the tunnel, and an end that both sides hear."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from ..requests.downstream import LINGER_BYTES, LINGER_SECONDS
from ..wire.fields import inbound_lines
from ..wire.handshake import SWITCH_LINES, SWITCHING
from ..wire.pump import Tunnel
from .relaying import BrokenResponse

if TYPE_CHECKING:
    from ..reach.upstream import UpstreamResponse
    from ..requests.downstream import Exchange
    from ..wire.http1 import HTTP1Connection
    from ..wire.pump import Filter


async def relay_session(exchange: Exchange, response: UpstreamResponse, own_lines: bytes) -> None:
    """Give the client the upstream's 101, and carry what both say until one of them ends.

    Raises BrokenResponse where the upstream resets the connection.
    """
    send_switch(exchange, response.head.reason, SWITCH_LINES + inbound_lines(response.head) + own_lines)
    await run_tunnel(exchange, response)


def send_switch(exchange: Exchange, reason: bytes, lines: bytes) -> None:
    """Commit to a session."""
    exchange.commit(SWITCHING)
    exchange.connection.send_interim(SWITCHING, reason, lines)
    exchange.connection.flush()


async def run_tunnel(
    exchange: Exchange, response: UpstreamResponse, filters: tuple[Filter | None, Filter | None] = (None, None)
) -> None:
    """Carry what both sides say, and note how much it was. Raises BrokenResponse, and what a filter raises."""
    client, upstream = exchange.connection, response.upstream.connection
    idle = exchange.config.timeouts.stream_idle
    tunnel = Tunnel(client, upstream, idle, filters)
    try:
        first = await tunnel.run()
    finally:
        exchange.body.count += tunnel.counts[0]
        exchange.record.bytes_out += tunnel.counts[1]
    if first is None:
        exchange.record.error = f"nothing was said for {idle:g} s"
    await part(client, upstream, first)
    if first is upstream and not upstream.eof:
        raise BrokenResponse("The upstream broke off the session.", sent=True, detail="reset the session")


async def part(client: HTTP1Connection, upstream: HTTP1Connection, first: HTTP1Connection | None) -> None:
    """Close both sides, so that the one that did not end first still gets the last that was said to it."""
    if first is client:
        upstream.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                await upstream.wait_closed()
        return
    upstream.abort()
    await say_goodbye(client)


async def say_goodbye(client: HTTP1Connection) -> None:
    """End the client's side after the last words, which a reset would take from it."""
    if client.closed or client.transport.is_closing():
        return
    if client.transport.can_write_eof():
        await client.linger(LINGER_BYTES, LINGER_SECONDS)
    else:  # over TLS there is no half of an end
        client.close()
