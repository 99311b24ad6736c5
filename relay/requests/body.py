"""A request's body: looked into, rewritten, held for another attempt, and streamed on.

Bytes are held only while the choice of deployment is open, and afterwards as far as ``limits.replay_bytes`` so that a
retry can send them again; beyond that the first send is the only one (SPEC §7, §8).
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Protocol

from ..errors import BadRequest, ClientGone, ClientTooSlow, ContentTooLarge, Unavailable
from ..subjects.inspection import Splice, Splicer
from ..wire.connection import PeerGone, Silent
from ..wire.framing import CHUNKED, EMPTY, END, LENGTH, NEED_DATA, Extent
from .spool import Spool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ..config import Config
    from ..subjects.inspection import Found
    from ..wire.heads import RequestHead
    from ..wire.http1 import HTTP1Connection

TOO_LATE = "model and target_model_names must stand in the first MiB of a body, before any file."


class Peek(Protocol):
    """What looks into a body while it passes: ``JSONPeek`` or ``MultipartPeek``."""

    @property
    def model(self) -> Found | None: ...  # noqa: D102 - as in JSONPeek
    @property
    def target_names(self) -> list[str]: ...  # noqa: D102
    @property
    def scalars(self) -> dict[str, object]: ...  # noqa: D102
    @property
    def found(self) -> list[Found]: ...  # noqa: D102

    def feed(self, data: bytes) -> None:
        """Look at the next bytes."""

    def finish(self) -> None:
        """The content has ended."""

    def splices(self, model: str | None, at: Found | None = None) -> list[Splice]:
        """What to change so that ``model`` is asked for and no routing hint is left."""


class RequestBody:
    """The content of one request on a client's connection."""

    __slots__ = (
        "_at",
        "_config",
        "_connection",
        "_hinted",
        "_peek",
        "_splices",
        "_spool",
        "_whole",
        "chunked",
        "count",
        "ended",
        "ended_at",
        "is_empty",
        "length",
        "model",
        "replayable",
    )

    def __init__(self, connection: HTTP1Connection, head: RequestHead, config: Config) -> None:
        self._connection = connection
        self._config = config
        self.chunked = head.is_chunked
        self.length = connection.content_length
        self.is_empty = not (self.chunked or self.length)  # the head says that there is no content
        self.count = 0  # bytes of content read from the client
        self.ended = self.is_empty
        self.ended_at: float | None = None  # loop time at which the last was read; None where that was with the head
        self.model: str | None = None  # what the content's model is replaced by
        self._whole: bytes | None = None  # what is held, where that is all and came in one piece
        self._spool: Spool | None = None  # what is held, where it came in several
        self.replayable = True  # all that was read is still held, so that another attempt can send it again
        self._peek: Peek | None = None
        self._at: Found | None = None  # what stands for the content's model where that is not the top-level member
        self._splices: list[Splice] = []
        self._hinted = False  # a routing hint was found in time to be taken out

    def waits_since(self, started: float) -> float:
        """When the client of a request that ``started`` then began to wait for an answer: once all of it was sent.

        So counts httpx's read timeout, which the SDK tells as its patience. While more is to come, that is now.
        """
        if self.ended:
            return started if self.ended_at is None else self.ended_at
        return monotonic()

    async def read(self) -> bytes:
        """The next piece of the content, b"" at its end.

        Says ``100 Continue`` when the client waits for it. Raises ContentTooLarge, ClientTooSlow, ClientGone.
        """
        connection = self._connection
        if self.ended:
            return b""
        if connection.wants_continue:
            self._say_continue()
        try:
            event = connection.poll_event()
            waited = event is NEED_DATA
            if waited:
                connection.set_deadline(self._config.timeouts.body)
                event = await connection.next_event()
                connection.set_deadline(None)  # while nobody reads, the client is not the one who is silent
        except Silent:
            raise ClientTooSlow(f"No byte of the body came for {self._config.timeouts.body:g} s.") from None
        except PeerGone as error:
            raise ClientGone(str(error)) from None
        if connection.received:  # with this piece, where the head has said how long the content is
            self.ended = True
            if waited or self.count or self._peek is None:  # else it came with the head, and nothing was waited for
                self.ended_at = monotonic()
            if event is END:
                return b""
        assert isinstance(event, bytes)
        self.count += len(event)
        if self.chunked:  # a length is looked at before anything is read
            self.check_size(self.count)
        return event

    def _say_continue(self) -> None:
        """Let the client send its content. One that has not waited gets no 100: it would come within the answer."""
        connection = self._connection
        if connection.pending:
            connection.wants_continue = False
        else:
            connection.send_continue()
            connection.flush()

    def check_size(self, size: int) -> None:
        """Refuse more than ``limits.request_bytes``."""
        most = self._config.limits.request_bytes
        if size > most:
            raise ContentTooLarge(f"The body is longer than {most} bytes.")

    async def inspect(self, peek: Peek, is_decided: Callable[[], bool]) -> None:
        """Let ``peek`` look at the body, and hold what was read meanwhile.

        All of it, where the choice of deployment is open: any part may name a model or a resource. Where
        ``is_decided`` says that what was seen settles everything, no more than ``limits.inspection_bytes``, or a form
        up to its first file: what is found there can still be rewritten, the rest is watched as it passes.
        """
        self._peek = peek
        most = self._config.limits.inspection_bytes
        while piece := await self.read():
            self._hold(piece)
            peek.feed(piece)
            if self.ended:
                break
            if (self.count >= most or getattr(peek, "fields_over", False)) and is_decided():
                return
        peek.finish()

    def _hold(self, piece: bytes) -> None:
        if self.ended and self.count == len(piece) <= self._config.limits.inspection_bytes:
            self._whole = piece
            return
        try:
            self._held().append(piece)
        except OSError as error:
            raise Unavailable("The proxy has no room to hold this body until its deployment is known.") from error

    def _held(self) -> Spool:
        """What is held in pieces, from now on."""
        spool = self._spool
        if spool is None:
            spool = self._spool = Spool(self._config.limits.inspection_bytes)
            if self._whole is not None:
                spool.append(self._whole)
                self._whole = None
        return spool

    def rewrite(self, model: str | None, at: Found | None = None) -> None:
        """Ask for ``model`` (None: as the client wrote it) and take out the routing hints, from the start."""
        peek = self._peek
        if peek is not None:
            self.model, self._at = model, at
            self._splices = peek.splices(model, at)
            self._hinted = bool(peek.target_names)

    def framing(self) -> tuple[Extent, int]:
        """How the content is framed towards a deployment, and its length: chunked stays chunked (SPEC §6)."""
        if self.chunked:
            return CHUNKED, 0
        if self.length is None:
            return EMPTY, 0
        if not self._splices:
            return LENGTH, self.length
        return LENGTH, self.length + sum(splice.delta for splice in self._splices)

    def at_once(self) -> bytes | None:
        """The whole content, where it is there and in memory; None where it has to be streamed."""
        spool = self._spool
        if not self.ended or not (spool is None or spool.in_memory()):
            return None
        data = (self._whole or b"") if spool is None else spool.joined()
        if not self._splices:
            return data
        splicer = Splicer(self._splices)
        return splicer.feed(data) + splicer.finish()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The content as a deployment gets it: what is held, then what still comes. Raises what ``read`` raises."""
        splicer = Splicer(self._splices) if self._splices else None
        for piece in self._held().pieces():
            yield splicer.feed(piece) if splicer else piece
        self._keep_on_holding()
        while not self.ended:
            piece = await self.read()
            if piece:
                self._watch(piece)
            if self.ended:
                self._check_late_finds()
            yield splicer.feed(piece) if splicer else piece
        if splicer is not None:
            yield splicer.finish()

    def _keep_on_holding(self) -> None:
        """Decide, before anything leaves that is not held, whether the rest will be."""
        most = self._config.limits.replay_bytes
        if self.replayable and not self.ended and max(self.length or 0, self._held().size) > most:
            self._let_go()

    def _watch(self, piece: bytes) -> None:
        """Hold a passing piece for a later attempt, and go on looking for what makes the body ambiguous."""
        if self.replayable:
            try:
                self._held().append(piece)
            except OSError:  # the disk is full: this send is the only one
                self._let_go()
            if self._held().size > self._config.limits.replay_bytes:
                self._let_go()
        if self._peek is not None:
            self._peek.feed(piece)
            if self._peek.target_names and not self._hinted:  # said before the piece leaves: nobody has all of it yet
                raise BadRequest(TOO_LATE)

    def _let_go(self) -> None:
        self.replayable = False
        self.close()

    def _check_late_finds(self) -> None:
        """A hint behind the first MiB of a body that was already on its way cannot be taken out any more."""
        if self._peek is not None:
            self._peek.finish()
            if self._peek.splices(self.model, self._at) != self._splices:
                raise BadRequest(TOO_LATE)

    def close(self) -> None:
        """Let go of everything held."""
        self._whole = None
        if self._spool is not None:
            self._spool.close()


def is_multipart(content_type: bytes) -> bool:
    """Whether the content is a form in parts."""
    return content_type[:19].lower() == b"multipart/form-data"


def is_json(content_type: bytes) -> bool:
    """Whether the content is JSON: ``application/json`` or ``+json``, in any case, whatever parameters follow."""
    media_type = content_type.partition(b";")[0].strip().lower()
    return media_type == b"application/json" or media_type.endswith(b"+json")
