"""Reach an upstream: happy eyeballs over its addresses, a tunnel through an outbound proxy, TLS.

What comes out is a connected transport and the caller's protocol, or an UpstreamFailure with ``sent=False``: its
message is for the client and names no address, its ``detail`` is for the record and says why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import asyncio
    import ssl
    from collections.abc import Callable

    from .config import BaseURL
    from .names import Resolver
    from .outbound import ProxyAddress

Protocol = TypeVar("Protocol", bound="asyncio.Protocol")


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
    raise NotImplementedError
