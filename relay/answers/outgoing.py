"""What a deployment is told beside target and content: the field lines of a request (SPEC §6, §13)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import Secret
from ..reach.lanes import make_own_lines
from ..reach.upstream import MalformedAnswer
from ..subjects.endpoints import shown_by
from ..values import replace
from ..wire.fields import LONGEST_KNOWN_HEAD, outbound_lines
from ..wire.handshake import SWITCH_LINES, grants_plainly, grants_websocket
from .recording import trace_lines

if TYPE_CHECKING:
    from ..reach.lanes import Approach
    from ..requests.classification import Request
    from ..requests.downstream import Exchange
    from ..subjects.subject import Subject
    from ..wire.heads import ResponseHead

NO_EXTENSIONS = frozenset({b"sec-websocket-extensions"})  # of frames that we read


def request_lines(approach: Approach, exchange: Exchange, request: Request) -> bytes:
    """The deployment's own lines, and those of the client that pass.

    A client comes with the same head again and again, and mostly nothing else has a say in what passes.
    """
    if exchange.span is None and request.secret is None and not request.websocket:
        key = exchange.head, is_watched(request.subject)
        known = approach.memo.get(key)
        if known is not None:
            return known
        lines = make_lines(approach, exchange, request)
        return approach.memo.made(key, lambda: lines) if len(lines) <= LONGEST_KNOWN_HEAD else lines
    return make_lines(approach, exchange, request)


def make_lines(approach: Approach, exchange: Exchange, request: Request) -> bytes:
    """``request_lines``, worked out."""
    own, dropped, deployment = approach.lines, approach.replaced, approach.deployment
    if request.secret is not None:  # it goes as itself, in the place of the deployment's key
        own = make_own_lines(replace(deployment, key=Secret(request.secret)))[0]
    if exchange.span is not None:
        trace, traced = trace_lines(exchange.span, deployment.id)
        own, dropped = own + trace, dropped | traced
    key_header = exchange.config.key_header
    if key_header is not None:
        dropped |= {key_header.encode()}
    if request.websocket:
        own = SWITCH_LINES + own
    if request.in_first_frame:
        dropped |= NO_EXTENSIONS
    return own + outbound_lines(exchange.head, dropped, readable=is_watched(request.subject))


def is_watched(subject: Subject) -> bool:
    """Whether answers of this endpoint show ids or usage, so that they must come in a coding that we can read."""
    return subject.endpoint.metered or bool(shown_by(subject).children)


def check_switch(exchange: Exchange, request: Request, head: ResponseHead) -> None:
    """A 101 must be the one that was asked for (SPEC §12). Raises MalformedAnswer."""
    if not (request.websocket and grants_websocket(head)):
        raise MalformedAnswer("The upstream switched to a protocol that nobody asked for.", sent=True)
    if request.in_first_frame and not grants_plainly(exchange.head, head):
        raise MalformedAnswer("The upstream's WebSocket handshake is not valid.", sent=True)
