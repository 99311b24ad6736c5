"""``GET /responses`` as a WebSocket: what the client wants is in its first message, so we answer before we ask anybody.

From our own 101 on errors can only be events: OpenAI's ``error``, and then a close that says whether it is worth while
to come again (SPEC §13).
"""

from __future__ import annotations

import json
import os
from functools import cache, partial
from typing import TYPE_CHECKING, Protocol

from ..choosing.outcomes import LONGEST_BODY
from ..errors import ClientGone, ClientTooSlow, ProxyError, UpstreamFailure
from ..requests.classification import take_finds
from ..subjects.endpoints import match_endpoint
from ..values import replace
from ..wire.frames import Close, FrameError, Opcode, close_payload, write_frame
from ..wire.handshake import SWITCHING, answer_lines, check_request
from .messages import ClientMessages, ServerMessages, close_for, error_event, event_places
from .session import run_tunnel, say_goodbye, send_switch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..choosing.route import Route
    from ..config import Deployment
    from ..reach.upstream import UpstreamResponse
    from ..requests.classification import Request
    from ..requests.downstream import Exchange
    from ..scopes.learning import SessionLearner
    from ..subjects.pointers import Node
    from ..subjects.subject import Subject
    from .messages import Event

ERROR_SECONDS = 5.0  # how long the content of a refusal may take
ERRORS = 400


class Namer(Protocol):
    """What this room asks of the router."""

    def resolve(self, subject: Subject, client: str, *, scope: str | None = None) -> Route: ...  # noqa: D102 - as there


class Refused(ProxyError):
    """An upstream's own refusal, in its own words."""

    def __init__(self, status: int, error: dict[str, object]) -> None:
        super().__init__(str(error.get("message")))
        self.status = status
        self.error = error

    def body(self) -> bytes:
        """What the upstream said."""
        return json.dumps({"error": self.error}).encode()


@cache
def places() -> Node:
    """Where the events of this endpoint name things."""
    return event_places(match_endpoint("GET", "/responses").body)


async def converse(exchange: Exchange, request: Request, carry: Callable[[ResponsesSocket], Awaitable[None]]) -> None:
    """Answer the client's handshake, hear what it wants, and let ``carry`` find who answers.

    What goes wrong is said to the client and left in the record. Raises what is wrong with the handshake, ClientGone.
    """
    socket = ResponsesSocket(exchange, request)
    socket.accept()
    try:
        if await socket.hear():
            await carry(socket)
    except FrameError as error:
        exchange.record.outcome, exchange.record.error = "protocol_error", f"the client's frames: {error}"
        await socket.close(error.code, str(error))
    except Refused as error:
        await socket.refuse(error)
    except ProxyError as error:
        exchange.record.outcome, exchange.record.error = error.code, getattr(error, "detail", error.message)
        await socket.refuse(error)


class ResponsesSocket:
    """A client's WebSocket that we have answered ourselves."""

    __slots__ = ("_exchange", "_messages", "_request", "_server")

    def __init__(self, exchange: Exchange, request: Request) -> None:
        limits = exchange.config.limits
        self._exchange = exchange
        self._request = request
        self._messages = ClientMessages(places(), limits.inspection_bytes, limits.request_bytes, partial(os.urandom, 4))
        self._server: ServerMessages | None = None

    def accept(self) -> None:
        """Commit: our own 101. Raises what is wrong with the handshake."""
        exchange = self._exchange
        check_request(exchange.head)
        own = b"x-passthrough-id: %s\r\n" % exchange.id.encode()
        send_switch(exchange, b"Switching Protocols", answer_lines(exchange.head) + own)

    async def hear(self) -> bool:
        """Wait for the first message, and take from it what the request is about; False where the client closes.

        Pings are answered meanwhile. Raises FrameError, AmbiguousBody, ClientTooSlow, ClientGone.
        """
        connection, idle = self._exchange.connection, self._exchange.config.timeouts.stream_idle
        connection.set_deadline(idle)
        while self._messages.first is None:
            data = connection.take()
            if data:
                connection.set_deadline(idle)
                self._exchange.body.count += len(data)
                self._messages.feed(data)
                if not await self._answer_controls():
                    return False
            elif connection.is_over:
                if connection.eof or connection.closed:
                    raise ClientGone("the client left")
                raise ClientTooSlow(f"No message came for {idle:g} s.")
            else:
                await connection.readable()
        connection.set_deadline(None)
        take_finds(self._request, self._messages.first.peek)
        self._request.subject.patience = None  # it began to count with the handshake
        return True

    async def _answer_controls(self) -> bool:
        """Answer what came before the first message; False after a close."""
        controls, self._messages.controls = self._messages.controls, []
        for control in controls:
            if control.opcode is Opcode.PING:
                self._exchange.connection.write(write_frame(Opcode.PONG, control.payload))
            elif control.opcode is Opcode.CLOSE:
                self._exchange.record.outcome = "ok"
                await self._say_last(write_frame(Opcode.CLOSE, control.payload[:2]))
                return False
        return True

    async def relay(
        self, response: UpstreamResponse, learner: SessionLearner, rename: Callable[[str], str | None]
    ) -> None:
        """Carry the session; ``rename``: what a model is called at this deployment, None where it stays.

        Raises Refused where the upstream opened none, BrokenResponse, and what is wrong with the client's messages.
        """
        if response.head.status != SWITCHING:
            raise await read_refusal(response)

        def prepare(event: Event) -> str | None:
            learner.expect(stored=event.peek.scalars.get("store") is not False)
            return None if event.peek.model is None else rename(event.peek.model.value)

        self._server = ServerMessages(learner.learn)
        response.upstream.connection.write(self._messages.resume(prepare))
        await run_tunnel(self._exchange, response, (self._messages.feed, self._server.feed))

    async def refuse(self, error: ProxyError) -> None:
        """Say what is wrong, and close."""
        self._exchange.record.status = error.status
        first = self._messages.first
        event = b""
        if self._server is None or self._server.between_messages:
            event = error_event(error, None if first is None else first.lane)
        await self.close(close_for(error), error.message, event)

    async def close(self, code: Close, reason: str, event: bytes = b"") -> None:
        """Close, unless what the upstream has said so far leaves no room for a frame of ours."""
        if self._server is not None and not self._server.between_frames:
            await self._say_last(b"")
        else:
            await self._say_last(event + write_frame(Opcode.CLOSE, close_payload(code, reason)))

    async def _say_last(self, data: bytes) -> None:
        connection = self._exchange.connection
        connection.on_eof = None  # from here on it is expected to leave
        self._exchange.record.bytes_out += len(data)
        connection.write(data)
        await say_goodbye(connection)


async def read_refusal(response: UpstreamResponse) -> ProxyError:
    """What an upstream says instead of opening a session."""
    status = response.head.status
    if status < ERRORS:
        return UpstreamFailure("The upstream did not open a WebSocket.", sent=True, detail=f"answered {status}")
    content = b"".join(response.pieces)
    if not response.complete and not content:
        content = await response.read_content(LONGEST_BODY, ERROR_SECONDS)
    try:
        error = json.loads(content)["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        error = None
    if not isinstance(error, dict):
        error = {"message": f"The upstream refused with status {status}.", "type": "upstream_error", "code": None}
    return Refused(status, error)


def name_at(router: Namer, route: Route, client: str, deployment: Deployment, model: str) -> str | None:
    """What a session's ``deployment`` calls a model; None where the client's name stays.

    The first message has made the route; a later one may name another group. Raises ModelNotFound.
    """
    if model != route.subject.model:
        subject = replace(route.subject, model=model, resources=(), scope=deployment.scope)
        route = router.resolve(subject, client)
    known = deployment if deployment in route.candidates else route.candidates[0]
    return route.upstream_model(known)
