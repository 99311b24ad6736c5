"""WebSocket's opening handshake (RFC 6455 §4) as a proxy sees it: who asks for one, what goes on, who grants it."""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import TYPE_CHECKING

from ..errors import BadRequest, Fields, ProxyError
from .fields import kept_protocols, wants_websocket

if TYPE_CHECKING:
    from .heads import RequestHead, ResponseHead

SWITCHING = 101
SWITCH_LINES = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"  # hop-by-hop, so each side's are written by us
VERSION = b"13"
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3
KEY_BYTES = 16
ECHOED = b"realtime"  # the only subprotocol that is one (SPEC §13)


class WrongVersion(ProxyError):
    """RFC 6455 §4.4: a version of WebSocket that is not spoken here."""

    status, type, code = 426, "invalid_request_error", "websocket_version_not_supported"

    def fields(self) -> Fields:
        """Which one is."""
        return [(b"Sec-WebSocket-Version", VERSION), (b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]


def asks_for_websocket(head: RequestHead) -> bool:
    """Whether a request asks to go on as a WebSocket: a GET, of a version that can (RFC 9110 §7.8)."""
    return b"upgrade" in head and head.method == b"GET" and head.version == b"1.1" and wants_websocket(head)


def grants_websocket(head: ResponseHead) -> bool:
    """Whether an answer is the switch to WebSocket that was asked for."""
    return head.status == SWITCHING and head.version == b"1.1" and wants_websocket(head)


def accept_for(key: bytes) -> bytes:
    """What a server answers to ``Sec-WebSocket-Key`` (RFC 6455 §4.2.2)."""
    digest = hashlib.sha1(key + GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest)


def grants_plainly(request: RequestHead, head: ResponseHead) -> bool:
    """Whether a switch is one to frames without extensions, so that they can be read."""
    accept = head.get(b"sec-websocket-accept")
    return accept == accept_for(request.get(b"sec-websocket-key")) and b"sec-websocket-extensions" not in head


def check_request(head: RequestHead) -> None:
    """What RFC 6455 §4.2.1 wants of a client that we answer ourselves. Raises WrongVersion, BadRequest."""
    if head.get(b"sec-websocket-version") != VERSION:
        raise WrongVersion("Only version 13 of WebSocket is spoken here (RFC 6455).")
    try:
        length = len(base64.b64decode(head.get(b"sec-websocket-key"), validate=True))
    except binascii.Error:
        length = 0
    if length != KEY_BYTES:
        raise BadRequest("Sec-WebSocket-Key must be 16 bytes in base64 (RFC 6455 §4.1).")


def answer_lines(head: RequestHead) -> bytes:
    """The field lines of our own 101: no extensions, and a subprotocol only where the client offers ``realtime``."""
    lines = SWITCH_LINES + b"Sec-WebSocket-Accept: %s\r\n" % accept_for(head.get(b"sec-websocket-key"))
    offered = [token.strip() for token in kept_protocols(head.get(b"sec-websocket-protocol")).split(b",")]
    return lines + b"Sec-WebSocket-Protocol: %s\r\n" % ECHOED if ECHOED in offered else lines
