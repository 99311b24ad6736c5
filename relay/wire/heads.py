"""Start lines and field sections as values: what a head says, and where in it that stands."""

from __future__ import annotations

import re
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..errors import Fields

# The lines that h11 is shown: those that decide where a message ends and whether the connection lives on.
FRAMING = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", b"upgrade"})

# RFC 9110 §7.6.1: fields that belong to one connection, named in Connection or not. A trailer section is never
# forwarded, so neither is the field that announces it.
HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
)
CONTENT_LENGTH = frozenset({b"content-length"})  # framed anew on every connection
PLAIN_CONNECTIONS = frozenset({b"", b"keep-alive", b"close"})  # values of Connection that name no other field
VERSIONS = {b"0": b"1.0", b"1": b"1.1"}
LONGEST_DIGITS = 19  # of a length; fewer are below 2^63 whatever they are
USUAL = 32  # times; an expression takes some milliseconds to be made, as long as it saves in 500 heads
STATUS_LINE = rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?\r\n"
# Possessive: what white space a value begins with has one reading, or a near miss would try two for each line. One that
# ends with white space is read in the other way.
VALUE = rb":[ \t]*+([\t\x20-\x7e\x80-\xff]*+)(?<![\t ])\r\n"


class Layout:
    """What the names of a field section say by themselves: where each stands.

    An upstream says the same names in the same order again and again, so what follows from them is worked out once.
    ``memo`` is for that: whoever works it out leaves it there, under a key of its own.
    """

    __slots__ = (
        "_connection", "_expression", "_length", "_runs", "_values", "judged", "memo", "names", "places", "repeated",
        "seen",
    )  # fmt: skip

    def __init__(self, names: tuple[bytes, ...]) -> None:
        self.names = names
        self.memo: dict[Any, Any] = {}
        self.places: dict[bytes, int] = {}  # lower-case name -> which line; the first of several
        self.repeated: dict[bytes, list[int]] = {}  # the same for names that stand in several: which
        for at, name in enumerate(names):
            first = self.places.setdefault(name.lower(), at)
            if first != at:
                self.repeated.setdefault(name.lower(), [first]).append(at)
        self.seen = 0  # times that it was met again
        self._expression: re.Pattern[bytes] | None = None
        self.judged = [at for at, name in enumerate(names) if name.lower() in FRAMING]  # those that h11 judges

    def is_usual(self) -> bool:
        """Whether it comes so often that it is worth an expression of its own."""
        return self.seen >= USUAL

    def read(self, raw: bytes) -> ResponseHead | None:
        """A response head of this layout; None for any other. The grammar is that of ``fields.parse_response_head``."""
        expression = self._expression or self._compile()
        match = expression.fullmatch(raw)
        if match is None:
            return None
        said = match.groups()
        head = object.__new__(ResponseHead)  # the short way: there is one for every answer
        head.version = VERSIONS[said[0]]
        head.status = int(said[1])
        head.reason = said[2] or b""
        head.values = self._values(said)
        head.layout = self
        head.memo = {}
        head.passing = head.length = None
        if self._connection is None or said[self._connection] in PLAIN_CONNECTIONS:
            head.passing = b"".join([said[at] for at in self._runs])
        if self._length is not None:
            digits = said[self._length]
            if digits.isdigit() and len(digits) < LONGEST_DIGITS:
                head.length = int(digits)
        return head

    def _compile(self) -> re.Pattern[bytes]:
        """Make the expression: a group for each value, and one around each run of lines that pass to a client."""
        parts, group = [STATUS_LINE], 3
        values: list[int] = []
        self._runs: list[int] = []
        for passing, names in groupby(self.names, lambda name: not is_hop_by_hop(name)):
            lines = [re.escape(name) + VALUE for name in names]
            if passing:
                self._runs.append(group)
                group += 1
            values += range(group, group + len(lines))
            group += len(lines)
            parts.append(rb"(%s)" % b"".join(lines) if passing else b"".join(lines))
        only = {name: values[at] for name, at in self.places.items() if name not in self.repeated}
        # a Connection that is repeated is no plain one, and nor is the version that the first group is
        self._connection = only.get(b"connection", 0 if b"connection" in self.places else None)
        self._length = None if b"transfer-encoding" in self.places else only.get(b"content-length")
        several = len(values) > 1  # itemgetter makes no tuple of one
        self._values: Callable[[tuple[bytes, ...]], Sequence[bytes]] = (
            itemgetter(*values) if several else lambda said: [said[at] for at in values]
        )
        self._expression = re.compile(b"".join([*parts, rb"\r\n"]))
        return self._expression


def is_hop_by_hop(name: bytes) -> bool:
    """Whether a response's field belongs to the upstream's connection, framing included."""
    plain = name.lower()
    return plain in HOP_BY_HOP or plain in CONTENT_LENGTH


class Head:
    """A start line and a field section. ``fields`` keep order and case; ``get`` reads values by lower-case name.

    ``memo`` is for what follows from the head alone: whoever works that out leaves it there, under a key of its own.
    """

    __slots__ = ("layout", "memo", "values", "version")

    def __init__(self, version: bytes, fields: Fields, layout: Layout | None = None) -> None:
        self.version = version  # b"1.0" or b"1.1"
        self.values: Sequence[bytes] = [value for _, value in fields]
        self.layout = layout or Layout(tuple([name for name, _ in fields]))
        self.memo: dict[Any, Any] = {}

    def get(self, name: bytes, default: bytes = b"") -> bytes:
        """The field's value, repeated lines combined with commas (RFC 9110 §5.2); ``name`` is lower case."""
        layout = self.layout
        at = layout.places.get(name)
        if at is None:
            return default
        if name in layout.repeated:
            return b", ".join([self.values[at] for at in layout.repeated[name]])
        return self.values[at]

    def __contains__(self, name: bytes) -> bool:
        return name in self.layout.places

    def repeats(self, name: bytes) -> bool:
        """Whether there are several lines of this lower-case name."""
        return name in self.layout.repeated

    @property
    def fields(self) -> Fields:
        """The field lines: names and values."""
        return list(zip(self.layout.names, self.values, strict=True))

    @property
    def framing(self) -> Fields:
        """The field lines that h11 has to judge, as they came."""
        return [(self.layout.names[at], self.values[at]) for at in self.layout.judged]


class RequestHead(Head):
    """A request's head, as a client sent it."""

    __slots__ = ("__weakref__", "_around", "is_chunked", "method", "method_name", "path", "target")

    def __init__(
        self, method: bytes, target: bytes, version: bytes, fields: Fields, around: tuple[bytes, bytes] | None = None
    ) -> None:
        """``around``: the bytes before and behind the digits of a Content-Length that ``fields`` do not hold."""
        super().__init__(version, fields)
        self._around = around
        self.method = method
        self.target = target
        self.method_name = method.decode("ascii")
        self.path = target.partition(b"?")[0].decode("latin-1")  # of the target, as the record tells it
        self.is_chunked = b"transfer-encoding" in self

    def length_in(self, raw: bytes) -> int | None:
        """The Content-Length of ``raw`` where that is this head once more, but for the digits; else None."""
        if self._around is None:
            return None
        before, behind = self._around
        if not (raw.startswith(before) and raw.endswith(behind)):
            return None
        digits = raw[len(before) : -len(behind)]
        return int(digits) if digits.isdigit() and len(digits) < LONGEST_DIGITS else None


class ResponseHead(Head):
    """A response's head, as an upstream sent it."""

    __slots__ = ("length", "passing", "reason", "status")

    def __init__(
        self, status: int, reason: bytes, version: bytes, fields: Fields, layout: Layout | None = None
    ) -> None:
        super().__init__(version, fields, layout)
        self.status = status
        self.reason = reason
        self.length: int | None = None  # that Content-Length gives, once the framing has been checked
        self.passing: bytes | None = None  # lines that pass to a client, as they came, where they are cut out

    def is_interim(self) -> bool:
        """A 1xx other than 101: another head follows (RFC 9110 §15.2)."""
        return self.status < 200 and self.status != 101  # noqa: PLR2004 - the status codes themselves
