"""Looking for a resource in one scope, and how much all searches together may cost (SPEC §5 "Discovery")."""

from __future__ import annotations

import asyncio
import enum
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from ..choosing.outcomes import Kind, read_outcome
from ..errors import AllOut, ProxyError, Unavailable, UpstreamFailure
from ..reach.upstream import StaleConnection
from ..subjects.resources import retrieve_path
from ..version import VERSION
from ..wire.connection import PeerGone, Silent
from ..wire.fields import field_lines
from ..wire.framing import EMPTY, Extent
from ..wire.heads import RequestHead

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from types import TracebackType

    from ..choosing.outcomes import Outcome
    from ..choosing.route import Route
    from ..choosing.tally import Brake
    from ..config import Deployment
    from ..errors import Fields
    from ..reach.upstream import UpstreamPool
    from ..subjects.subject import Resource

LOG = logging.getLogger("passthrough.server")
LOOK_SECONDS = 10.0  # for the head of an answer that needs no work
PATIENCE = 5.0  # seconds that a search waits for others to end, where all that is allowed is under way
EXHAUSTED = (
    "too many unknown ids were looked for in vain: for some seconds each is asked for in one scope only, and a 404 may "
    "mean an id that another scope has"
)
QUIET = 60.0  # seconds between two such warnings

# Betas that the API asks for by a field, and that its SDKs send with every call to these paths.
ASSISTANTS, CHATKIT = b"assistants=v2", b"chatkit_beta=v1"
BETAS = {
    "assistant": ASSISTANTS,
    "thread": ASSISTANTS,
    "vector_store": ASSISTANTS,
    "chatkit_thread": CHATKIT,
}


class Sighting(enum.Enum):
    """What a scope's answer says about a resource."""

    FOUND = "found"
    MISSED = "missed"
    DENIED = "denied"  # 401, 403: it says nothing, and will say nothing the next time
    UNSURE = "unsure"  # 429, 5xx, no answer: it says nothing yet


# How each kind of outcome reads; an error that is the client's to fix takes a look at its status and code.
SIGHTINGS = {
    Kind.OK: Sighting.FOUND,
    Kind.CLIENT_ERROR: Sighting.MISSED,
    Kind.DENIED: Sighting.DENIED,
    Kind.DEAD_KEY: Sighting.DENIED,
}


def sighting_of(outcome: Outcome | None) -> Sighting:
    """What an outcome says; all that is no clear answer leaves it open."""
    return Sighting.UNSURE if outcome is None else SIGHTINGS.get(outcome.kind, Sighting.UNSURE)


def doubt_about(route: Route) -> Iterator[Route | ProxyError]:
    """The first answer of a route, before its last, that left open what its scope knows: it goes before a 404."""
    settled = {attempt.deployment.scope for attempt in route.attempts if attempt is route.answer}
    for attempt in route.attempts:
        if attempt.deployment.scope in settled or sighting_of(attempt.outcome) is not Sighting.UNSURE:
            continue
        if attempt.outcome is None or attempt.outcome.status is None:
            yield UpstreamFailure("A deployment that may know what this request names did not answer.", sent=True)
        else:
            route.answer = attempt
            yield route
        return


class NoContent:
    """The content of a GET."""

    def framing(self) -> tuple[Extent, int]:
        """There is none."""
        return EMPTY, 0

    def at_once(self) -> bytes:
        """All of it."""
        return b""

    async def chunks(self) -> AsyncIterator[bytes]:
        """The same, in one piece."""
        yield b""


NO_CONTENT = NoContent()


async def look(pool: UpstreamPool, deployment: Deployment, resource: Resource, seconds: float) -> Sighting:
    """GET a resource with a deployment's key; only the head of the answer is read.

    ``resource`` is of a kind with a retrieve operation. No failure is raised: it is UNSURE.
    """
    path = retrieve_path(resource.kind, resource.id)
    assert path is not None, "only what can be fetched is looked for"
    target = (deployment.base.path + path).encode("utf-8", "surrogatepass")
    for fresh in (False, True):
        try:
            status = await get_status(pool, deployment, target, look_fields(resource.kind), seconds, fresh=fresh)
        except StaleConnection:
            continue
        except (UpstreamFailure, AllOut):
            break
        return sighting_of(read_outcome(status, ()))
    return Sighting.UNSURE


def look_fields(kind: str) -> Fields:
    """What our own GET says beside the deployment's lines."""
    fields: Fields = [(b"Accept", b"application/json"), (b"User-Agent", b"passthrough/" + VERSION.encode())]
    beta = BETAS.get(kind)
    return fields if beta is None else [*fields, (b"OpenAI-Beta", beta)]


async def get_status(
    pool: UpstreamPool, deployment: Deployment, target: bytes, fields: Fields, seconds: float, *, fresh: bool
) -> int:
    """The status of a GET. Raises UpstreamFailure where there is none."""
    upstream = await pool.lease(deployment, fresh=fresh, until=asyncio.get_running_loop().time() + seconds)
    try:
        head = RequestHead(b"GET", target, b"1.1", [])
        upstream.send_request(head, target, NO_CONTENT, upstream.approach.lines + field_lines(fields))
        answer = await upstream.response_head(seconds, lambda _: None)
        with suppress(PeerGone, Silent, ProxyError):  # content that came along: without it the connection is kept
            while isinstance(upstream.connection.poll_event(), bytes):
                pass
        return answer.status
    finally:
        upstream.release()


class Allowance:
    """How many requests searches may cost that find nothing: what the retry brake leaves.

    Only misses count (SPEC §5), and whether it is one shows at the end; so a search holds what it may cost while it
    is under way, and others wait for it where that is all there is.
    """

    def __init__(self, brake: Brake) -> None:
        self._brake = brake
        self._held = 0
        self._freed: asyncio.Future[None] | None = None
        self._warned_at = -QUIET

    async def begin(self, most: int) -> Search | None:
        """A search of at most ``most`` requests may begin; None where misses have used up all.

        Raises Unavailable where others take too long.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE
        while not self._brake.allows(loop.time(), self._held):
            if not self._held:
                self._warn(loop.time())
                return None
            if self._freed is None:
                self._freed = loop.create_future()
            try:
                async with asyncio.timeout_at(until):
                    await asyncio.shield(self._freed)
            except TimeoutError:
                raise Unavailable("Too many unknown ids are being looked for; try again in a moment.") from None
        self._held += most
        return Search(self, most)

    def _warn(self, now: float) -> None:
        if now - self._warned_at >= QUIET:
            self._warned_at = now
            LOG.warning(EXHAUSTED)

    def end(self, held: int, missed: int) -> None:
        """A search is over; ``missed`` requests of it count as retries."""
        self._held -= held
        now = asyncio.get_running_loop().time()
        for _ in range(missed):
            self._brake.retry(now)
        if self._freed is not None:
            self._freed.set_result(None)
            self._freed = None


class Search:
    """One search under way, as a context; ``missed`` is what it cost in vain, unless it ``found``."""

    __slots__ = ("_allowance", "_most", "found", "missed")

    def __init__(self, allowance: Allowance, most: int) -> None:
        self._allowance = allowance
        self._most = most
        self.missed = 0
        self.found = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._allowance.end(self._most, 0 if self.found else self.missed)
