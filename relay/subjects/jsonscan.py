"""Walk a JSON text while its bytes pass, in pieces of any size, looking only at the places of a plan.

What is judged: the grammar of containers on the way to a place of interest (keys, colons, commas, brackets), and
everywhere that nothing but numbers, literals, blanks and punctuation stands outside strings. A text that breaks this is
refused, since a parser kinder than ours could see other members in it than we do. All else (pairs of brackets and the
order of tokens below places of no interest, numbers, escapes, trailing commas, what follows the value, a cut end) is
left to the upstream's parser: it sees the members that we saw, or an error.

A container that is whole in its piece and at most ``LEVELS`` deep is matched by one regular expression; what is cut by
the piece's end, escaped or deeper takes one small step per token. Both ways see the same in a valid text, at a cost
that is linear in any; where a text is malformed, the small steps refuse some of what the expression lets pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..errors import BadRequest
from .jsontext import (
    ARRAY,
    ARRAY_END,
    BACKSLASH,
    BLANK,
    COLON,
    COMMA,
    CONTAINER_FORM,
    DOWN,
    ELEMENT,
    LEAD,
    LEVEL,
    LEVELS,
    MEMBER,
    OBJECT,
    OBJECT_END,
    QUOTE,
    REST,
    SCALAR,
    SCALAR_FORM,
    STRING_FORM,
    UP,
    Plan,
    balance,
    decode,
    literal,
    past,
)  # fmt: skip

if TYPE_CHECKING:
    import re
    from collections.abc import Callable

    Step = Callable[["JSONScanner", bytes, int], int]

KEY_LIMIT = 1024  # bytes as written; the longest name of the API is 40 letters, 240 bytes if all are escaped
VALUE_LIMIT = 1 << 20  # bytes as written; ids are short, encrypted reasoning is base64 of some 10 KB, at most some 100
ROOM = 8 << 20  # what all strings found in one body may take, so that a body of ids alone cannot fill the memory
OVERHEAD = 256  # bytes that a found string takes beside its text
SCALAR_LIMIT = 8  # bytes; true, false and null are the scalars that anybody asks for


class Found(NamedTuple):
    """A string of interest: what it is, its text, and the bytes of the content that hold it, quotes included."""

    kind: str
    value: str
    start: int
    stop: int
    quoted: bool = True  # written as a JSON string; False: the bare content of a form part


def found(kind: str, value: str, start: int, stop: int) -> Found:
    """A ``Found`` that is quoted, on the short way: a call of its class takes three times as long."""
    return tuple.__new__(Found, (kind, value, start, stop, True))


class JSONScanner:
    """Strings at the places of a plan, as ``found``, in the order in which they stand. Nothing else is held."""

    __slots__ = (
        "_base", "_depth", "_ended", "_escaped", "_frames", "_limit", "_member_from", "_opened", "_plan",
        "_step", "_string_from", "_text", "_then", "done", "found", "room",
    )  # fmt: skip

    def __init__(self, plan: Plan, offset: int = 0) -> None:
        self.found: list[Found] = []
        self.done = False  # nothing more can be found: the value has ended, or is none to look into
        self._base = offset  # where in the content the piece in hand begins
        self._step: Step = JSONScanner._start  # a plain function, since a bound method here would be a cycle
        self._plan: Plan | None = plan  # of the value that is due or under way
        self._frames: list[tuple[Plan, bool]] = []  # open containers of interest, innermost last; True: an object
        self._ended: tuple[Plan, int] | None = None  # a value with a role and its end, until what follows it is seen
        self._opened = 0  # behind the outermost brace
        self._member_from = 0  # behind the comma or brace that precedes the innermost object's current member
        self.room = ROOM
        self._text: bytearray | None = None  # of the string or scalar under way, if it is wanted and not too long

    def feed(self, data: bytes) -> None:
        """Look at the next bytes. After an error the scanner is of no more use. Raises BadRequest."""
        at, end = 0, len(data)
        while at < end:
            at = self._step(self, data, at)
        self._base += end

    # What a subclass adds for plans with a role.

    def _enter(self, plan: Plan) -> None:
        """A key with a role has been read; its value follows."""

    def _leave(self, plan: Plan, stop: int, behind: int, *, more: bool) -> None:
        """Its value ended at ``stop``, what separates or ends members at ``behind``; ``more``: that was a comma."""

    def _string(self, plan: Plan, raw: bytes, start: int) -> None:
        """A string stands at a place of interest: report it if its kind is wanted."""
        if plan.kind is not None and (value := self._afford(raw)) is not None:
            self.found.append(found(plan.kind, value, start, start + len(raw)))

    def _scalar(self, plan: Plan, raw: bytes) -> None:
        """A number or literal stands at a place with a role."""

    def _afford(self, raw: bytes) -> str | None:
        """Decode a string if there is room for it."""
        room = self.room - OVERHEAD - len(raw)
        if room < 0 or len(raw) > VALUE_LIMIT:
            return None
        self.room = room
        return decode(raw)

    # Steps: each takes the piece and a position in it, and returns how far it came.

    def _start(self, data: bytes, at: int) -> int:
        if data[at] != OBJECT:
            at = past(LEAD, data, at)
            if at == len(data):
                return at
        plan = self._plan
        if data[at] != OBJECT and not (data[at] == ARRAY and plan is not None and plan.in_array):
            return self._rest(data, at)
        self._opened = self._base + at + 1
        return self._open(data, at)

    def _rest(self, data: bytes, _at: int) -> int:
        self.done = True
        self._step = JSONScanner._rest
        return len(data)

    def _in_object(self, data: bytes, at: int) -> int:
        """A member or the end is due. Members that are whole are taken here, as many as there are."""
        here = self._frames[-1][0]
        inner, other, base = here.members.get, here.other, self._base
        while (match := MEMBER.match(data, at)) is not None:
            at = match.end()
            key = match[1]
            plan = inner(key, other) if BACKSLASH not in key else self._place(key)
            if plan is not None and not self._take(plan, data, match):
                return self._open(data, match.start(CONTAINER_FORM))
            if data[at - 1] == OBJECT_END:
                return self._close(at)
            self._member_from = base + at
        return self._key(data, at)

    def _in_array(self, data: bytes, at: int) -> int:
        """An element or the end is due; likewise."""
        plan = self._frames[-1][0].other
        assert plan is not None  # or the array had not been entered
        while (match := ELEMENT.match(data, at)) is not None:
            at = match.end()
            if not self._take(plan, data, match):
                return self._open(data, match.start(CONTAINER_FORM))
            if data[at - 1] == ARRAY_END:
                return self._close(at)
        at = past(BLANK, data, at)
        if at < len(data) and data[at] == ARRAY_END:
            return self._close(at + 1)
        self._plan = plan
        return self._value(data, at) if at < len(data) else at

    def _take(self, plan: Plan, data: bytes, match: re.Match[bytes]) -> bool:
        """Take a value that is whole. False: it is a container that must be walked, by ``_open``."""
        form = match.lastindex or 0
        if plan.role is not None:
            self._enter(plan)
        if form == STRING_FORM:
            self._string(plan, match[form], self._base + match.start(form))
        elif form == SCALAR_FORM:
            self._scalar(plan, match[form])
        elif plan.occurs_in(data, match.start(form), match.end(form)):
            self._plan = plan
            return False
        if plan.role is not None:
            behind = match.end()
            self._leave(plan, self._base + match.end(form), self._base + behind, more=data[behind - 1] == COMMA)
        return True

    def _key(self, data: bytes, at: int) -> int:
        """A key that is not whole or not plain is due, or the end."""
        at = past(BLANK, data, at)
        if at == len(data):
            self._step = JSONScanner._in_object
            return at
        if data[at] == OBJECT_END:
            return self._close(at + 1)
        if data[at] != QUOTE:
            raise self._malformed(at)
        return self._begin_string(at, KEY_LIMIT, JSONScanner._key_over)

    def _key_over(self, _data: bytes, at: int) -> int:
        """Go to the member's place."""
        self._plan = plan = self._place(bytes(self._text or b""))
        if plan is not None and plan.role is not None:
            self._enter(plan)
        self._step = JSONScanner._colon
        return at

    def _place(self, key: bytes) -> Plan | None:
        """The place of a key as written. One that is too long or that nothing can decode is none that a plan names."""
        here = self._frames[-1][0]
        name = decode(key) if 0 < len(key) <= KEY_LIMIT else None
        return here.other if name is None else here.members.get(literal(name), here.other)

    def _colon(self, data: bytes, at: int) -> int:
        at = past(BLANK, data, at)
        if at == len(data):
            return at
        if data[at] != COLON:
            raise self._malformed(at)
        self._step = JSONScanner._value
        return at + 1

    def _value(self, data: bytes, at: int) -> int:
        """The value at place ``_plan`` is due."""
        at = past(BLANK, data, at)
        if at == len(data):
            return at
        plan = self._plan
        if data[at] == QUOTE:
            wanted = plan is not None and (plan.kind is not None or plan.role is not None)
            return self._begin_string(at, VALUE_LIMIT if wanted else 0, JSONScanner._string_over)
        if data[at] in (OBJECT, ARRAY):
            return self._open(data, at)
        if past(SCALAR, data, at) == at:
            raise self._malformed(at)
        self._text, self._limit = bytearray(), SCALAR_LIMIT
        self._step = JSONScanner._in_scalar
        return at

    def _in_scalar(self, data: bytes, at: int) -> int:
        stop = past(SCALAR, data, at)
        self._hold(data[at:stop])
        if stop < len(data):
            if self._plan is not None and self._text is not None:
                self._scalar(self._plan, bytes(self._text))
            self._value_over(self._plan, stop)
        return stop

    def _begin_string(self, at: int, limit: int, then: Step) -> int:
        """Pass a string, held up to ``limit`` bytes; ``then`` is the step behind its closing quote."""
        self._text, self._limit = (bytearray(b'"') if limit else None), limit
        self._string_from = self._base + at
        self._escaped = False
        self._then = then
        self._step = JSONScanner._in_string
        return at + 1

    def _in_string(self, data: bytes, at: int) -> int:
        start, end = at, len(data)
        at += self._escaped  # the backslash that ended the last piece escapes this byte
        self._escaped = False
        # A long string without escapes, such as base64, passes at the speed of memchr.
        stop = data.find(b'"', at)
        slash = data.find(b"\\", at, stop if stop >= 0 else end)
        if slash >= 0:
            stop = past(REST, data, slash)
        elif stop < 0:
            stop = end
        if stop < end and data[stop] == QUOTE:
            self._hold(data[start : stop + 1])
            return self._then(self, data, stop + 1)
        self._escaped = stop < end
        self._hold(data[start:end])
        return end

    def _hold(self, data: bytes) -> None:
        if self._text is not None:
            self._text += data
            if len(self._text) > self._limit:
                self._text = None

    def _string_over(self, _data: bytes, at: int) -> int:
        if self._text is not None and self._plan is not None:
            self._string(self._plan, bytes(self._text), self._string_from)
        self._value_over(self._plan, at)
        return at

    def _open(self, data: bytes, at: int) -> int:
        """Enter the container at ``at``, or begin to skip it if nothing in it is of interest."""
        plan, is_object = self._plan, data[at] == OBJECT
        if plan is not None and (plan.in_object if is_object else plan.in_array):
            self._frames.append((plan, is_object))
            self._member_from = self._base + at + 1 if is_object else self._member_from
            self._step = JSONScanner._in_object if is_object else JSONScanner._in_array
        else:
            self._depth = 1
            self._step = JSONScanner._skip
        return at + 1

    def _close(self, at: int) -> int:
        plan, _ = self._frames.pop()
        self._value_over(plan, at)
        return at

    def _value_over(self, plan: Plan | None, at: int) -> None:
        self._ended = (plan, self._base + at) if plan is not None and plan.role is not None else None
        self._step = JSONScanner._after_value
        if not self._frames:
            self.done = True
            self._step = JSONScanner._rest

    def _after_value(self, data: bytes, at: int) -> int:
        """A comma or the end of the innermost container is due."""
        at = past(BLANK, data, at)
        if at == len(data):
            return at
        _, is_object = self._frames[-1]
        more = data[at] == COMMA
        if not more and data[at] != (OBJECT_END if is_object else ARRAY_END):
            raise self._malformed(at)
        at += 1
        if self._ended is not None:
            self._leave(*self._ended, self._base + at, more=more)
        if not more:
            return self._close(at)
        if is_object:
            self._member_from = self._base + at
        self._step = JSONScanner._in_object if is_object else JSONScanner._in_array
        return at

    def _skip(self, data: bytes, at: int) -> int:
        """Below a place of no interest brackets are only counted, so that no nesting is too deep."""
        self._step = JSONScanner._skip
        while True:
            stop = past(DOWN, data, at)
            self._depth += balance(data, at, stop)
            at = stop
            if at == len(data):
                return at
            if data[at] == QUOTE:  # a string that this piece does not end
                return self._begin_string(at, 0, JSONScanner._skip)
            if data[at] not in (OBJECT_END, ARRAY_END):
                raise self._malformed(at)
            at = self._climb(data, at)
            if not self._depth:
                self._value_over(self._plan, at)
                return at

    def _climb(self, data: bytes, at: int) -> int:
        """Leave one container, or as many as end before the next begins."""
        if self._depth > LEVELS:  # worth a look ahead, which then is not repeated for the same bytes
            stop = past(UP, data, at)
            depth = self._depth + balance(data, at, stop)
            if depth > 0:
                self._depth = depth
                return stop
            for _ in range(self._depth - 1):
                at = past(LEVEL, data, at) + 1
            self._depth = 1
            at = past(LEVEL, data, at)
        self._depth -= 1
        return at + 1

    def _malformed(self, at: int) -> BadRequest:
        return BadRequest(f"The body is not valid JSON: unexpected byte at position {self._base + at}.")
