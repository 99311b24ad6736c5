"""Find values in a multipart/form-data body (RFC 7578) while its bytes pass (SPEC §5, §8). Bytes in, values out.

Lines end in CRLF, names are said once, and a delimiter stands alone on its line (RFC 2046 §5.1.1): what breaks this is
refused, since a kinder parser could see other parts than we do. A missing end is left to the upstream.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from ..errors import BadRequest
from .inspection import (
    FLAGS,
    MODEL,
    NAME,
    NAMES,
    ONCE,
    TEXT,
    Found,
    JSONPeek,
    Splice,
    listed,
    named_twice,
    plan_of,
)  # fmt: skip
from .jsonscan import OVERHEAD, ROOM, VALUE_LIMIT, JSONScanner
from .pointers import NOWHERE, Node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .jsontext import Plan

    Step = Callable[["MultipartPeek", bytes, int], int]

HEAD_LIMIT = 16 << 10  # bytes of a part's header section; longest seen is a file name of some hundred
PADDING_LIMIT = 256  # blanks behind a boundary, which RFC 2046 §5.1.1 tolerates as added by gateways
CR = ord("\r")
WORDS = {"true": True, "1": True, "false": False, "0": False}  # as the API reads a flag in a form
IDENTITY = frozenset({b"7bit", b"8bit", b"binary"})  # RFC 2045 §6.2: content as it is

BOUNDARY = re.compile(rb"[\w'()+,./:=? -]{0,69}[\w'()+,./:=?-]").fullmatch  # RFC 2046 §5.1.1
PARAMETER = re.compile(
    rb'[ \t]*+;[ \t]*+(?:([^\s=;"]++)[ \t]*+=[ \t]*+("(?:[^"\\]|\\.)*+"|[^\s;"]*+)[ \t]*+)?+', re.DOTALL
)
HEADER = re.compile(rb"([!#$%&'*+.^`|~\w-]++):[ \t]*+([^\r\n\0]*+)").fullmatch
FOLD = re.compile(rb"\r\n[ \t]++")
LENGTH = re.compile(rb"(?:^|\r\n)content-length:[ \t]*+(\d++)[ \t]*+(?:$|\r\n)", re.IGNORECASE)
FIELD_NAME = re.compile(rb"([^\[\]]++)((?:\[[^\[\]]*+\])*+)").fullmatch
BRACKETED = re.compile(rb"\[([^\[\]]*+)\]")
ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
PADDING = re.compile(rb"[ \t]*+")


class MultipartPeek:
    """What a form names; the attributes are those of ``JSONPeek``. Files pass unheld, at the speed of a search.

    The places of the tree are the form's names: ``file_ids[]`` is ``/file_ids/*``, ``a[b]`` is ``/a/b``. A part at a
    place with others below it (``session``) is read as JSON.
    """

    __slots__ = (
        "_at", "_cuts", "_delimiter", "_lengths", "_part", "_part_from", "_plan", "_room", "_said", "_step",
        "_tail", "done", "fields_over", "found", "model", "scalars", "target_names",
    )  # fmt: skip

    def __init__(self, content_type: bytes, pointers: Node) -> None:
        self.model: Found | None = None
        self.scalars: dict[str, object] = {}
        self.found: list[Found] = []
        self.done = False  # the last delimiter has been seen
        self.fields_over = False  # a file has begun: what comes before it has been seen, and holding more helps nobody
        # ``target_model_names`` as a string, comma list or JSON list, or repeated ``target_model_names[]`` parts
        self.target_names: list[str] = []
        self._said: set[str] = set()
        self._cuts: list[Splice] = []
        self._lengths: list[tuple[int, int, int, int]] = []  # content of a part, and the digits that say its length
        self._room = ROOM
        self._plan = plan_of(pointers)
        self._delimiter = b"\n--" + boundary_of(content_type)  # its CR is looked at when it is found
        self._part: Part | None = None
        self._part_from = 0
        self._step: Step = MultipartPeek._content
        self._tail = b"\r\n"  # the first delimiter may begin the content; every other stands behind a line's end
        self._at = -2  # where in the content the tail begins

    def feed(self, data: bytes) -> None:
        """Look at the next bytes of the content. Raises AmbiguousBody, BadRequest."""
        data = self._tail + data
        at = 0
        while True:
            step = self._step
            stop = step(self, data, at)
            if stop == at and self._step is step:
                break
            at = stop
        self._tail = data[at:]
        self._at += at

    def finish(self) -> None:
        """The content has ended. A form that is cut short is the upstream's to refuse."""
        self.done = True

    def splices(self, model: str | None, at: Found | None = None) -> list[Splice]:
        """As of ``JSONPeek``: a part's content is replaced, whole parts are removed.

        A part that states its length (as OkHttp writes them) states the new one.
        """
        splices = list(self._cuts)
        named = at or self.model
        if named is not None and model is not None and model != named.value:
            text = json.dumps(model) if named.quoted else model
            renamed = Splice(named.start, named.stop, text.encode())
            splices += renamed, *self._relengthened(renamed)
        return sorted(splices, key=lambda splice: splice.start)

    def _relengthened(self, renamed: Splice) -> Iterator[Splice]:
        for start, stop, digits, behind in self._lengths:
            if start <= renamed.start <= stop:
                yield Splice(digits, behind, b"%d" % (stop - start + renamed.delta))

    # Steps: each takes what is in hand and a position in it, and returns how far it came; no further: more is needed.

    def _content(self, data: bytes, at: int) -> int:
        """Pass content (or the preamble) to the next delimiter."""
        stop = data.find(self._delimiter, at)
        if stop < 0:
            stop = max(at, len(data) - len(self._delimiter))  # its beginning may stand at the end
            self._hold(data, at, stop)
            return stop
        if stop == at or data[stop - 1] != CR:
            raise self._malformed(stop, "a delimiter must stand behind CR and LF")
        self._hold(data, at, stop - 1)
        self._end_part(self._at + stop - 1, self._at + stop + 1)
        self._step = MultipartPeek._behind_delimiter
        return stop + len(self._delimiter)

    def _behind_delimiter(self, data: bytes, at: int) -> int:
        if data.startswith(b"--", at):
            self.done = True
            self._step = MultipartPeek._behind_last
            return at + 2
        stop = PADDING.match(data, at).end()  # type: ignore[union-attr]
        line_end = data[stop : stop + 2]
        if line_end not in (b"\r\n", b"\r", b"-", b"") or stop - at > PADDING_LIMIT:
            raise self._malformed(stop, "a delimiter must stand alone on its line")
        if line_end == b"\r\n":
            self._step = MultipartPeek._head
            return stop + 2
        return at

    def _behind_last(self, data: bytes, at: int) -> int:
        at = PADDING.match(data, at).end()  # type: ignore[union-attr]
        if at == len(data):
            return at
        if data[at] != CR:
            raise self._malformed(at, "the last delimiter must stand alone on its line")
        self._step = MultipartPeek._epilogue
        return at

    def _epilogue(self, data: bytes, _at: int) -> int:
        return len(data)

    def _head(self, data: bytes, at: int) -> int:
        """Read a part's header section, which may be empty."""
        if data.startswith(b"\r\n", at):
            stop = at
        else:
            stop = data.find(b"\r\n\r\n", at)
            if stop - at > HEAD_LIMIT or (stop < 0 and len(data) - at > HEAD_LIMIT):
                raise self._malformed(at, "a part's header section is too long")
            if stop < 0:
                return at
            stop += 2
        self._begin_part(data[at:stop], self._at + at)
        self._step = MultipartPeek._first_line
        return stop + 2

    def _first_line(self, data: bytes, at: int) -> int:
        """Wait for the beginning of the content: a delimiter here, without the line end before it, has two readings."""
        marker = self._delimiter[1:]
        if data.startswith(marker, at):
            raise self._malformed(at, "a part must have content, which may be empty, before its delimiter")
        if not marker.startswith(data[at : at + len(marker)]):
            self._step = MultipartPeek._content
        return at

    # Parts

    def _begin_part(self, head: bytes, start: int) -> None:
        """Decide by its header section what to do with a part's content."""
        fields = self._fields(head, start)
        name, is_file = self._disposition(fields.get(b"content-disposition", b""), start)
        plan = None if name is None else self._place(name)
        nested = plan is not None and plan.role != NAMES and (plan.in_object or plan.in_array)
        if is_file and not (nested and fields.get(b"content-type", b"").lower().startswith(b"application/json")):
            self.fields_over = True
            nested = False
        if plan is None:
            return
        if plan.role is not None:
            self._say(plan.role)
        self._part = part = Part(plan, start + len(head) + 2)
        if fields.get(b"content-transfer-encoding", b"binary").lower() in IDENTITY:
            part.text = None if is_file or plan.kind is plan.role is None else bytearray()
            part.scanner = JSONScanner(plan, part.start) if nested else None
        if part.scanner is not None:
            part.scanner.found, part.scanner.room = self.found, self._room
        if (length := LENGTH.search(head)) is not None:
            part.digits = start + length.start(1), start + length.end(1)

    def _fields(self, head: bytes, start: int) -> dict[bytes, bytes]:
        """A part's header fields by lower-case name."""
        fields: dict[bytes, bytes] = {}
        for line in FOLD.sub(b" ", head).split(b"\r\n")[:-1]:
            field = HEADER(line)
            if field is None or field[1].lower() in fields:
                raise self._malformed(start - self._at, "a part's header section is malformed or repeats a field")
            fields[field[1].lower()] = field[2].rstrip(b" \t")
        return fields

    def _disposition(self, value: bytes, start: int) -> tuple[bytes | None, bool]:
        """The field name of a part, and whether it is a file (RFC 7578 §4.2)."""
        parameters, whole = read_parameters(value)
        names = [(key, value) for key, value in parameters if key in (b"name", b"name*")]
        is_file = any(key in (b"filename", b"filename*") for key, _ in parameters)
        if len(names) > 1 or not (whole or (names and is_file)):  # a file name may hold quotes that nobody escaped
            raise self._malformed(start - self._at, "a part's Content-Disposition has more than one reading")
        if not names:
            return None, is_file
        key, name = names[0]
        return (extended(name) if key == b"name*" else name), is_file

    def _place(self, name: bytes) -> Plan | None:
        """Go to the place of a field name, by its brackets."""
        field = FIELD_NAME(name)
        first, rest = (name, b"") if field is None else field.groups()
        plan = self._plan.members.get(b'"%s"' % first, self._plan.other)
        for key in BRACKETED.findall(rest):
            if plan is None:
                break
            plan = plan.members.get(b'"%s"' % key, plan.other)
        return plan

    def _say(self, role: str) -> None:
        """Note a part with a role, and refuse what two parts say: a list's parts count as one."""
        other = {NAMES: NAME, NAME: NAMES}.get(role)
        if (role in ONCE and role in self._said) or other in self._said:
            raise named_twice(NAMES if role == NAME else role)
        self._said.add(role)
        self.scalars.pop(role, None)

    def _hold(self, data: bytes, start: int, stop: int) -> None:
        part = self._part
        if part is None or start == stop:
            return
        if part.scanner is not None:
            part.scanner.feed(data[start:stop])
        if part.text is not None:
            part.text += data[start:stop]
            if len(part.text) > VALUE_LIMIT:
                part.text = None

    def _end_part(self, stop: int, behind: int) -> None:
        """A part's content ended at ``stop``, the next delimiter begins at ``behind`` (its CRLF left out)."""
        part, start = self._part, self._part_from
        self._part, self._part_from = None, behind
        if part is None:
            return
        if part.scanner is not None:
            self._room = part.scanner.room
        if part.text is not None:
            self._take(part, bytes(part.text), stop)
        if part.plan.role in (NAMES, NAME):
            self._cuts.append(Splice(start, behind, b""))
        if part.digits is not None:
            self._lengths.append((part.start, stop, *part.digits))

    def _take(self, part: Part, raw: bytes, stop: int) -> None:
        """Report a field's text, if there is room for it and it is UTF-8 (RFC 7578 §5.1.2)."""
        plan, room = part.plan, self._room - OVERHEAD - len(raw)
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            return
        if room < 0:
            return
        self._room = room
        find = Found(plan.kind or MODEL, text, part.start, stop, quoted=False)
        if plan.kind is not None and not (part.scanner is not None and raw.lstrip()[:1] in (b"{", b"[")):
            self.found.append(find)
        if plan.role == MODEL:
            self.model = find
        elif plan.role is not None:
            self._take_hint(plan.role, text)

    def _take_hint(self, role: str, text: str) -> None:
        if role == NAMES:
            self.target_names += names_in(text)
        elif role == NAME:
            self.target_names += filter(None, [text.strip()])
        elif role == TEXT:
            self.scalars[role] = text
        elif role in FLAGS and text.lower() in WORDS:
            self.scalars[role] = WORDS[text.lower()]

    def _malformed(self, at: int, what: str) -> BadRequest:
        return BadRequest(f"The form in the body is malformed at position {self._at + at}: {what}.")


class Part:
    """A part of interest while its content passes."""

    __slots__ = ("digits", "plan", "scanner", "start", "text")

    def __init__(self, plan: Plan, start: int) -> None:
        self.plan = plan
        self.start = start  # of its content
        self.text: bytearray | None = None  # its content, if that is wanted and not too long
        self.scanner: JSONScanner | None = None
        self.digits: tuple[int, int] | None = None  # where the content's length is said


def boundary_of(content_type: bytes) -> bytes:
    """The boundary that a Content-Type value names (RFC 2046 §5.1.1). Raises BadRequest."""
    parameters, whole = read_parameters(content_type)
    boundaries = [value for name, value in parameters if name == b"boundary"]
    if not whole or len(boundaries) != 1 or BOUNDARY(boundaries[0]) is None:
        raise BadRequest("A multipart body needs a Content-Type with one boundary of 1 to 70 characters.")
    return boundaries[0]


def read_parameters(value: bytes) -> tuple[list[tuple[bytes, bytes]], bool]:
    """The parameters behind a field value's first ``;``, names in lower case, and whether that was all of the value."""
    at = value.find(b";")
    at = len(value) if at < 0 else at
    parameters = []
    while (match := PARAMETER.match(value, at)) is not None:
        at = match.end()
        if match[1] is not None:
            parameters.append((match[1].lower(), unquoted(match[2])))
    return parameters, at == len(value)


def unquoted(value: bytes) -> bytes:
    """A token as it is, the text of a quoted string (RFC 9110 §5.6.4)."""
    return ESCAPE.sub(rb"\1", value[1:-1]) if value.startswith(b'"') else value


def extended(value: bytes) -> bytes:
    """The bytes of an extended value (RFC 8187 §3.2), read as UTF-8 whatever it says."""
    from urllib.parse import unquote_to_bytes  # no client has been seen to write names so

    return unquote_to_bytes(value.split(b"'", 2)[-1])


def names_in(text: str) -> list[str]:
    """Names in a form's one field: a JSON list of strings, or a comma list."""
    if not text.lstrip().startswith("["):
        return listed(text)
    peek = JSONPeek(NOWHERE)
    try:
        peek.feed(f'{{"{NAMES}":{text}}}'.encode())
    except BadRequest:
        return listed(text)
    return peek.target_names if peek.done else listed(text)
