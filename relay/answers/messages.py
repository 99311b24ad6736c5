"""What is said on a WebSocket of the Responses API, message by message (SPEC §13). Bytes in, what leaves for them out.

Frames pass as the bytes they came as, the client's masks included: without extensions a frame means the same on either
side. Only a message that has to change is written anew. A client's text message is held until it is whole, or until
``most`` bytes of it have come; from there on it passes as it comes.
"""

from __future__ import annotations

import enum
import json
from typing import TYPE_CHECKING

from ..errors import BadRequest
from ..record.tap import LARGEST_EVENT, shorten
from ..subjects.inspection import JSONPeek, Splice, Splicer
from ..subjects.pointers import Node
from ..wire.frames import Close, FrameError, FrameReader, Opcode, write_frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..errors import ProxyError
    from ..wire.frames import Part

TYPE, LANE = "event_type", "lane"  # the envelope of an event: what it is, and its ``stream_id``
CREATE = "response.create"
ENVELOPE = {"type": Node(TYPE), "stream_id": Node(LANE)}
SERVER_ERRORS = 500
WORTH_A_RETRY = frozenset({408, 429})  # and what is the server's fault


class Way(enum.Enum):
    """What becomes of a message."""

    HELD = "held"
    PASSING = "passing"
    REWRITTEN = "rewritten"


def event_places(body: Node) -> Node:
    """The places of an event: those of the body that it stands for, and its envelope."""
    return Node(body.kind, {**body.children, **ENVELOPE})


class Event:
    """A client's message, as far as it has come."""

    __slots__ = (
        "_payload",
        "_raw",
        "lane",
        "model",
        "opcode",
        "peek",
        "prepared",
        "size",
        "splicer",
        "splices",
        "type",
        "way",
        "whole",
    )

    def __init__(self, opcode: Opcode, places: Node) -> None:
        self.opcode = opcode
        self.peek = JSONPeek(places)
        self.way = Way.HELD
        self.whole = False  # its last part has come
        self.size = 0  # bytes that are held
        self.type: str | None = None
        self.lane: str | None = None
        self.model: str | None = None  # what its own is replaced by
        self.prepared = False  # with its own known
        self.splices: list[Splice] = []
        self.splicer = Splicer(())
        self._raw: list[bytes] = []
        self._payload: list[bytes] = []

    @property
    def creates(self) -> bool:
        """Whether it asks for a response."""
        return self.type == CREATE

    def hold(self, part: Part) -> None:
        """Keep a part, and look at it. Raises AmbiguousBody."""
        self._raw.append(part.raw)
        self._payload.append(part.payload)
        self.size += len(part.payload)
        self.look(part)

    def look(self, part: Part) -> None:
        """See a part. Raises AmbiguousBody."""
        if self.opcode is Opcode.TEXT:
            self.peek.feed(part.payload)
        self.whole = part.ends_message
        if self.whole:
            self.peek.finish()

    def release(self) -> tuple[bytes, bytes]:
        """What was held, as it came and what it carries."""
        held = b"".join(self._raw), b"".join(self._payload)
        self._raw, self._payload = [], []
        return held

    def read_envelope(self) -> None:
        """Take what the envelope says out of the finds, which from then on are those of a body."""
        for find in self.peek.found:
            if find.kind == TYPE:
                self.type = find.value
            elif find.kind == LANE:
                self.lane = find.value
        self.peek.found[:] = [find for find in self.peek.found if find.kind not in (TYPE, LANE)]


class ClientMessages:
    """What a client says, each ``response.create`` with its model replaced.

    Nothing leaves before ``resume``: until then ``first`` is the first message, once it has come, and ``controls`` are
    the control frames before it, which somebody else has to answer. ``most``: bytes of a message that are held.
    ``longest``: bytes that one may have. ``new_mask``: four bytes that nobody can foresee (RFC 6455 §5.3).
    ``feed`` raises FrameError, AmbiguousBody, BadRequest, and what ``prepare`` raises.
    """

    __slots__ = ("_current", "_most", "_new_mask", "_places", "_prepare", "_reader", "_waiting", "controls", "first")

    def __init__(self, places: Node, most: int, longest: int, new_mask: Callable[[], bytes]) -> None:
        self._places = places
        self._most = most
        self._new_mask = new_mask
        self._reader = FrameReader(masked=True, most=longest)
        self._prepare: Callable[[Event], str | None] | None = None
        self._current: Event | None = None
        self._waiting: list[Part] = []
        self.first: Event | None = None
        self.controls: list[Part] = []

    def feed(self, data: bytes) -> bytes:
        """What leaves for the next bytes."""
        parts = self._reader.feed(data)
        if self._prepare is not None:
            return b"".join([self._take(part) for part in parts])
        for part in parts:
            if self.first is not None:
                self._waiting.append(part)
            elif part.is_control:
                self.controls.append(part)
            else:
                self.first = self._hold(part)
        return b""

    def resume(self, prepare: Callable[[Event], str | None]) -> bytes:
        """There is an upstream: what leaves for all that was held. ``prepare``: what a model is replaced by."""
        assert self.first is not None, "its message has decided which"
        self._prepare = prepare
        waiting, self._waiting = self._waiting, []
        return b"".join([self._send(self.first), *(self._take(part) for part in waiting)])

    def _take(self, part: Part) -> bytes:
        if part.is_control:  # it may come before a message that is held, and between fragments
            return part.raw
        event = self._current
        if event is None or event.way is Way.HELD:
            enough = self._hold(part)
            return b"" if enough is None else self._send(enough)
        event.look(part)
        if event.whole:
            self._check_late_finds(event)
            self._current = None
        if event.way is Way.PASSING:
            return part.raw
        text = event.splicer.feed(part.payload)
        if part.ends_message:
            text += event.splicer.finish()
        return write_frame(Opcode.CONTINUATION, text, mask=self._new_mask(), fin=part.ends_message)

    def _hold(self, part: Part) -> Event | None:
        """Keep a part; its message, where enough of that has come."""
        event = self._current
        if event is None:
            event = self._current = Event(part.opcode, self._places)
        event.hold(part)
        if not event.whole and event.opcode is Opcode.TEXT and event.size < self._most:
            return None
        event.read_envelope()
        return event

    def _send(self, event: Event) -> bytes:
        """What leaves for a message that was held, in whole or in part."""
        if event.whole:
            self._current = None
        event.splices = self._wanted_splices(event)
        raw, text = event.release()
        if not event.splices:
            event.way = Way.PASSING
            return raw
        event.way = Way.REWRITTEN
        event.splicer = Splicer(event.splices)
        text = event.splicer.feed(text)
        if event.whole:
            text += event.splicer.finish()
        return write_frame(event.opcode, text, mask=self._new_mask(), fin=event.whole)

    def _wanted_splices(self, event: Event) -> list[Splice]:
        """What has to change in a message, as far as it is known."""
        if not event.creates:
            return []
        if not event.prepared:
            assert self._prepare is not None
            event.model = self._prepare(event)
            event.prepared = event.peek.model is not None
        return event.peek.splices(event.model)

    def _check_late_finds(self, event: Event) -> None:
        """What stands behind the part of a message that was held cannot be replaced any more. Raises BadRequest."""
        event.read_envelope()
        if self._wanted_splices(event) != event.splices:
            raise BadRequest(
                f"type, model and target_model_names must stand in the first {self._most} bytes of an event."
            )


class ServerMessages:
    """What an upstream says: it passes as it is, and ``learn`` sees each text message before its last byte leaves.

    Of a message larger than ``LARGEST_EVENT`` the middle is passed over. What breaks the protocol is the client's to
    refuse; nothing is learnt from there on.
    """

    __slots__ = ("_learn", "_message", "_reader", "_watching")

    def __init__(self, learn: Callable[[bytes], None]) -> None:
        self._learn = learn
        self._reader = FrameReader(masked=False)
        self._message = b""
        self._watching = True

    @property
    def between_frames(self) -> bool:
        """Whether a control frame of our own can be put here."""
        return self._watching and self._reader.between_frames

    @property
    def between_messages(self) -> bool:
        """Whether a message of our own can be put here."""
        return self._watching and self._reader.between_messages

    def feed(self, data: bytes) -> bytes:
        """See bytes that are about to leave."""
        if self._watching:
            try:
                for part in self._reader.feed(data):
                    if part.opcode is Opcode.TEXT:
                        self._see(part)
            except FrameError:
                self._watching = False
        return data

    def _see(self, part: Part) -> None:
        message = self._message + part.payload if self._message else part.payload
        if part.ends_message:
            self._message = b""
            self._learn(shorten(message))
        else:
            self._message = shorten(message) if len(message) > 2 * LARGEST_EVENT else message


def error_event(error: ProxyError, lane: str | None) -> bytes:
    """OpenAI's ``error`` event for a refusal, as a frame."""
    event = {"type": "error", "status": error.status, **json.loads(error.body())}
    if lane is not None:
        event["stream_id"] = lane
    return write_frame(Opcode.TEXT, json.dumps(event).encode())


def close_for(error: ProxyError) -> Close:
    """What to close with after a refusal: whether it is worth while to come again (SPEC §13)."""
    again = error.status >= SERVER_ERRORS or error.status in WORTH_A_RETRY
    return Close.TRY_AGAIN_LATER if again else Close.POLICY
