"""TLS contexts for both sides, from paths in the configuration.

Every fault of a file is a ValueError of one sentence that names it. ``ssl`` is imported where it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl

    from .config import ListenerTLS, UpstreamTLS


def client_context(tls: UpstreamTLS) -> ssl.SSLContext:
    """How to speak to an upstream. Equal arguments give the same context until one of the files changes."""
    raise NotImplementedError


def server_context(tls: ListenerTLS) -> ssl.SSLContext:
    """How clients speak to us; made anew at each call."""
    raise NotImplementedError


def replace_server_context(live: ssl.SSLContext, fresh: ssl.SSLContext) -> None:
    """Let handshakes that begin from now on at a listener of ``live`` use ``fresh`` (reload of certificates)."""
    raise NotImplementedError
