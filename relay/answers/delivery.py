"""How an answer reaches the client: as a message, as a session, or as what is said in a session opened before it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol

from ..scopes.learning import Learner, SessionLearner, learn_from_head
from ..wire.fields import inbound_lines
from ..wire.handshake import SWITCHING
from .relaying import relay_response
from .session import relay_session

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..choosing.route import Route
    from ..config import Client, Deployment
    from ..reach.upstream import UpstreamResponse
    from ..record.usage import Meter
    from ..requests.classification import Request
    from ..requests.downstream import Exchange
    from ..scopes.affinity import AffinityStore
    from ..wire.heads import ResponseHead
    from .responses_socket import Namer, ResponsesSocket

    Used = Callable[[Exchange, Meter, Deployment], None]

CONTINUE = 100


class Deliverable(Protocol):
    """An exchange that has its answer: ``passthrough.Passage``."""

    exchange: Exchange
    request: Request
    client: Client
    route: Route
    socket: ResponsesSocket | None  # a session that was opened before the answer


async def deliver(
    passage: Deliverable, response: UpstreamResponse, store: AffinityStore, router: Namer, used: Used
) -> None:
    """Bring the answer of ``passage.route.answer`` to the client, and learn from it.

    ``used`` is told at the end who knows what it used. Raises BrokenResponse, ClientGone, and what is wrong with a
    session.
    """
    exchange, attempt, subject = passage.exchange, passage.route.answer, passage.request.subject
    assert attempt is not None
    deployment, head = attempt.deployment, response.head
    learn_from_head(store, exchange.head, subject, head, passage.client.name, deployment.scope)
    learner: Learner | SessionLearner
    if passage.socket is not None:
        from .responses_socket import name_at  # loaded with the first such session, not at every start

        learner = SessionLearner(store, subject, deployment.scope)
        names = partial(name_at, router, passage.route, passage.client.name, deployment)
        moving = passage.socket.relay(response, learner, names)
    else:
        learner = Learner(store, subject, head, deployment.scope)
        lines = our_lines(exchange, deployment)
        if head.status == SWITCHING:
            moving = relay_session(exchange, response, lines)
        else:
            moving = relay_response(exchange, response, lines, learner.watch)
    try:
        await moving
    finally:
        learner.finish()
        used(exchange, learner, deployment)


def our_lines(exchange: Exchange, deployment: Deployment) -> bytes:
    """The field lines that we add to a response (SPEC §6)."""
    return b"x-passthrough-deployment: %s\r\nx-passthrough-attempts: %d\r\nx-passthrough-id: %s\r\n" % (
        deployment.id.encode("ascii", "replace"),
        len(exchange.record.attempts),
        exchange.id.encode(),
    )


def pass_interim(exchange: Exchange, interim: ResponseHead) -> None:
    """Relay early hints and the like (RFC 9110 §15.2).

    100 is ours to say, HTTP/1.0 knows none, and in a session there is no place for one.
    """
    if interim.status != CONTINUE and exchange.head.version == b"1.1" and not exchange.committed:
        exchange.connection.send_interim(interim.status, interim.reason, inbound_lines(interim))
        exchange.connection.flush()
