"""Watch an answer pass: the ids it shows and the usage it reports. Never delays, changes or fails."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from .finders import USAGE, USAGE_NAME, IdFinder, UsageFinder, id_names, may_be_whole, read_document
from .inflate import CODINGS, Inflater
from .usage import Usage

if TYPE_CHECKING:
    from ..patterns import Search
    from ..subjects.pointers import Node
    from .finders import Pairs

LARGEST_EVENT = 1 << 20  # larger events are pictures in base64; their middle is passed over
EVENT_HEAD, EVENT_TAIL = 4 << 10, 64 << 10  # what is kept of those: the type stands first, usage last
PARTIAL_IMAGE = b'.partial_image"'

WATCHED = frozenset({b"application/json", b"text/event-stream"})
PLAIN = frozenset({b"", b"identity"})

# WHATWG HTML §9.2.5: a line ends in CRLF, LF or CR, and a blank line ends an event. The first is atomic: CRLF is one.
EVENT_END = re.compile(rb"(?>\r\n|\n|\r)(?:\r\n|\n|\r)")
EVENT_ENDS = re.compile(EVENT_END.pattern + rb"\Z")
LINE_END = re.compile(rb"\r\n|\n|\r")
LONGEST_EVENT_END = 4
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def ends_event(last: bytes) -> bool:
    """Whether a stream whose last bytes (four are enough) are these stands between two events (SPEC §7, *Streams*)."""
    return EVENT_ENDS.search(last[-LONGEST_EVENT_END:]) is not None


def event_ends(buffer: bytes, start: int) -> list[tuple[int, int]]:
    """Where, from ``start`` on, blank lines end events: where each begins and ends.

    Upstreams end lines with LF alone, and two of those are found at the speed of memchr.
    """
    if b"\r" in buffer:
        return [match.span() for match in EVENT_END.finditer(buffer, start)]
    ends = []
    at = buffer.find(b"\n\n", start)
    while at >= 0:
        ends.append((at, at + 2))
        at = buffer.find(b"\n\n", at + 2)
    return ends


class SSESplitter:
    """Cut a ``text/event-stream`` into the data of its events. Bytes in, bytes out."""

    __slots__ = ("_begun", "partial")

    def __init__(self) -> None:
        self.partial = b""  # of an event that has not ended yet, shortened
        self._begun = False

    def feed(self, data: bytes) -> list[bytes]:
        """The data of every event that ends in these bytes; events without data are left out."""
        start = max(0, len(self.partial) - LONGEST_EVENT_END)
        buffer = self.partial + data if self.partial else data
        if not self._begun:
            if len(buffer) < len(BYTE_ORDER_MARK) and BYTE_ORDER_MARK.startswith(buffer):
                self.partial = buffer
                return []
            self._begun = True
            buffer = buffer.removeprefix(BYTE_ORDER_MARK)
            start = 0
        events = []
        at = 0
        for stop, behind in event_ends(buffer, start):
            events.append(event_data(buffer[at:stop]))
            at = behind
        self.partial = shorten(buffer[at:] if at else buffer)
        return [event for event in events if event]

    def finish(self) -> list[bytes]:
        """The data of a last event that no blank line ended; SDKs take it all the same."""
        data, self.partial = event_data(self.partial), b""
        return [data] if data else []


def event_data(event: bytes) -> bytes:
    """The data of one event: its ``data`` lines without their names, joined by LF (WHATWG HTML §9.2.6)."""
    event = shorten(event)
    lines = LINE_END.split(event) if b"\n" in event or b"\r" in event else [event]
    if len(lines) == 1 and event.startswith(b"data: "):
        return event[6:]
    return b"\n".join([line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:") or line == b"data"])


def shorten(event: bytes) -> bytes:
    """An event without its middle where it is larger than is held."""
    return event if len(event) <= LARGEST_EVENT else event[:EVENT_HEAD] + event[-EVENT_TAIL:]


@lru_cache(maxsize=64)
def read_form(content_type: bytes, content_encoding: bytes) -> tuple[bool, bool, bool]:
    """What two field values say of content: whether it can be read at all, is a stream of events, and is packed."""
    media, coding = content_type.partition(b";")[0].strip().lower(), content_encoding.strip().lower()
    packed = coding in CODINGS
    readable = (media in WATCHED or media.endswith(b"+json")) and (packed or coding in PLAIN)
    return readable, media == b"text/event-stream", packed


class ResponseTap:
    """Watch one answer's content.

    ``content_type`` and ``content_encoding`` are the field values of the response head (empty where absent),
    ``pointers`` the places where this endpoint's answers show ids, ``metered`` whether usage is looked for, ``images``
    whether pictures are counted (image endpoints, for prices per image). ``watching`` is False when nothing more can be
    found: the caller may then skip ``feed``.
    """

    __slots__ = (
        "_fed", "_first", "_ids", "_images", "_inflater", "_meter", "_pointers", "_signs", "_splitter", "watching",
    )  # fmt: skip

    def __init__(
        self, content_type: bytes, content_encoding: bytes, pointers: Node, metered: bool, images: bool = False
    ) -> None:
        readable, stream, packed = read_form(content_type, content_encoding)
        self.watching = readable and (metered or bool(pointers.children))
        self._meter = UsageFinder(images) if metered else None
        self._pointers = pointers if pointers.children else None  # None: there are no ids to be found
        self._ids: IdFinder | None = None
        self._images = images and metered
        self._splitter = SSESplitter() if stream else None
        self._inflater = Inflater() if packed else None
        self._first: bytes | None = None  # of a document, where it may be all: nobody has looked for usage in it
        self._fed = False  # content came
        self._signs: Search | None = None  # without one of these, plain events show nothing
        if stream and not packed and not self._images:
            _, hints, signs = id_names(pointers)
            self._signs = signs if metered else hints

    @property
    def usage(self) -> Usage | None:
        """What the answer said that it used, so far; None where it did not."""
        self._read_rest()
        meter = self._meter
        if meter is None or (meter.usage is None and not meter.images):
            return None
        usage = meter.usage = meter.usage or Usage()
        usage.images, usage.service_tier = meter.images, meter.tier
        if usage.images and not usage.output_image_tokens:
            usage.output_image_tokens = (
                usage.output_tokens
            )  # without details, all that an image endpoint makes is image
        return usage

    def feed(self, data: bytes) -> Pairs:
        """Look at bytes that are about to leave; the (kind, id) pairs seen in them for the first time."""
        signs, splitter = self._signs, self._splitter
        if (
            signs is not None
            and splitter is not None
            and signs(data) is None
            and not splitter.partial
            and data.endswith(b"\n\n")
        ):
            return []  # whole events that show nothing, as nearly all do, are not even cut apart
        if not self.watching:
            return []
        pairs: Pairs = []
        try:
            if self._inflater is None:
                return self._look(data)
            for piece in self._inflater.feed(data):
                pairs += self._look(piece)
        except Exception:  # noqa: BLE001 - watching never fails an exchange; it only ends
            self.watching = False
        return pairs

    def finish(self) -> Pairs:
        """The content is over: what an unfinished last event still showed. ``usage`` is final from here on."""
        if not self.watching:
            return []
        self.watching = False
        if self._splitter is None:
            return []
        try:
            return [pair for event in self._splitter.finish() for pair in self._event(event)]
        except Exception:  # noqa: BLE001 - as in feed
            return []

    def _look(self, data: bytes) -> Pairs:
        splitter = self._splitter
        if splitter is not None:
            if not splitter.partial and data.endswith(b"\n\n") and self._is_dull(data):
                return []
            return [pair for event in splitter.feed(data) for pair in self._event(event)]
        return self._document(data)

    def _document(self, data: bytes) -> Pairs:
        """Look at the next bytes of a document. Most come whole: then usage is looked for once somebody asks for it."""
        if self._first is not None and not data.strip():
            return []
        first, self._first = self._first, None
        if not self._fed:
            self._fed = True
            if may_be_whole(data):
                shown = [] if self._pointers is None else read_document(self._pointers, data)
                if shown is not None:
                    self._first = data
                    return shown
        pairs: Pairs = []
        for piece in (data,) if first is None else (first, data):
            if self._meter is not None:
                self._meter.feed(piece)
            if self._pointers is not None:
                pairs += self._finder(self._pointers).document(piece)
        return pairs

    def _read_rest(self) -> None:
        first, self._first = self._first, None
        if first is not None and self._meter is not None:
            try:  # noqa: SIM105 - ``suppress`` costs as much as what it would wrap
                self._meter.feed(first)
            except Exception:  # noqa: BLE001, S110 - as in feed
                pass

    def _finder(self, pointers: Node) -> IdFinder:
        """What looks for ids, made when there may be one."""
        if self._ids is None:
            self._ids = IdFinder(pointers)
        return self._ids

    def _is_dull(self, data: bytes) -> bool:
        return (
            not self._images
            and (self._meter is None or data.find(USAGE_NAME) < 0 or USAGE.search(data) is None)
            and (self._pointers is None or self._finder(self._pointers).is_dull(data))
        )

    def _event(self, data: bytes) -> Pairs:
        if self._meter is not None and self._is_final(data):
            self._meter.forget()
            self._meter.feed(data)
        return self._finder(self._pointers).event(data) if self._pointers is not None else []

    def _is_final(self, data: bytes) -> bool:
        """Whether an event may report usage; of an image stream's events those with partial pictures do not."""
        return PARTIAL_IMAGE not in data[:EVENT_HEAD] if self._images else USAGE.search(data) is not None
