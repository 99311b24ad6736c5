"""JSON as bytes: the patterns that a scanner moves by, string literals, and the places to look at.

Repeated groups are possessive throughout: what was matched is never tried in another way, so every match costs at most
``LEVELS`` looks at a byte, whatever the text.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from ..patterns import late, name_search
from .pointers import ANY

if TYPE_CHECKING:
    from ..patterns import Search
    from .pointers import Node

LEVELS = 8  # a JSON schema within a tool is seven deep; each level adds 60 bytes of pattern

OBJECT, ARRAY, OBJECT_END, ARRAY_END = b"{[}]"
QUOTE, COLON, COMMA, BACKSLASH = b'":,\\'
BRACKETS = b"{", b"[", b"}", b"]"
STRING_FORM, SCALAR_FORM, CONTAINER_FORM = 2, 3, 4  # groups of MEMBER and ELEMENT


def _compile(*parts: bytes) -> re.Pattern[bytes]:
    return re.compile(b"".join(parts), re.DOTALL)


def _late(*parts: bytes) -> re.Pattern[bytes]:
    """Bodies that are taken in by a glance do without these, which take milliseconds each."""
    return late(b"".join(parts), re.DOTALL)


def _nested(levels: int) -> tuple[bytes, bytes]:
    """Patterns of what stands in a container of that many levels at most, and of such a container."""
    content = _FILL + rb"(?:" + _STRING + _FILL + rb")*+"
    for _ in range(levels - 1):
        content = _FILL + rb"(?:(?:" + _STRING + rb"|[\[{]" + content + rb"[\]}])" + _FILL + rb")*+"
    return content, rb"[\[{]" + content + rb"[\]}]"


_BLANK = rb"[ \t\r\n]*+"
_FILL = rb"[-+.,:\w \t\r\n]*+"  # all that may stand outside strings but brackets
_REST = rb'[^"\\]*+(?:\\.[^"\\]*+)*+'
# Looking for quotes alone is several times as fast as looking for backslashes, too. A quote with one or three of these
# before it is part of the string, with none or two it is the end; where there are more, this is no match, and the
# small steps take the string.
_STRING = (
    rb'"[^"]*+"(?:(?<!\\")'
    rb'|(?:(?:(?<=[^\\]\\")|(?<=[^\\]\\\\\\"))[^"]*+")*+(?:(?<!\\")|(?<=[^\\]\\\\")))'
)
_VALUE = rb"(?:(" + _STRING + rb")|([-+.\w]++)|(" + _nested(LEVELS)[1] + rb"))" + _BLANK
_, _SMALL = _nested(4)
# A whole object that says these members, if at all, as plainly as can be, and no routing hint.
_COLON = _BLANK + rb":" + _BLANK
_TEXT, _WORD = rb'"[^"\\]*+"', rb"[-+.\w]++"
_FORMS = {b"model": _TEXT, b"prompt_cache_key": _TEXT, b"stream": _WORD, b"store": _WORD, b"background": _WORD}
_SAID = [name + rb'"' + _COLON + rb"(?P<" + name + rb">" + form + rb")" for name, form in _FORMS.items()]
_OTHER = rb"(?!(?:" + b"|".join([*_FORMS, b"target_model_names"]) + rb')")[^"\\]*+"' + _COLON
_OTHER += rb"(?:" + b"|".join([_STRING, _WORD, _nested(5)[1]]) + rb")"

LEAD = _compile(rb"[\xef\xbb\xbf \t\r\n]*+")  # a byte order mark is tolerated, whole or cut
BLANK = _compile(_BLANK)
SCALAR = _compile(rb"[-+.\w]*+")
STRING = _compile(_STRING)
REST = _compile(_REST)
# Group 1 is the key or nothing, the others are the value in its form.
MEMBER = _late(_BLANK, rb'("', _REST, rb'")', _BLANK, rb":", _BLANK, _VALUE, rb"[,}]")
ELEMENT = _late(rb"(", _BLANK, rb")", _VALUE, rb"[,\]]")
FLAT = _compile(rb"\{(?:", _BLANK, rb'"(?:', b"|".join([*_SAID, _OTHER]), rb")", _BLANK, rb"(?:,|\}\Z))*+(?<=\})\Z")
PLAIN = re.compile(rb'"[\w.-]+"').fullmatch  # a key that can be written otherwise only with \u00..
# Below places of no interest: to the next bracket that leads out, and back over those to the next that leads in.
DOWN = _late(_FILL, rb"(?:(?:", _STRING, rb"|", _SMALL, rb"|[\[{])", _FILL, rb")*+")
UP = _late(_FILL, rb"(?:(?:", _STRING, rb"|", _SMALL, rb"|[\]}])", _FILL, rb")*+")
LEVEL = _late(_FILL, rb"(?:(?:", _STRING, rb"|", _SMALL, rb")", _FILL, rb")*+")


def literal(name: str) -> bytes:
    """A key as it stands in a text that escapes nothing."""
    return b'"' + name.encode("utf-8", "surrogatepass") + b'"'


def decode(raw: bytes) -> str | None:
    """The text of a JSON string literal, or None where it is no Unicode text: bad UTF-8, half a surrogate pair."""
    try:
        if BACKSLASH not in raw:
            return raw[1:-1].decode()
        text = str(json.loads(raw, strict=False))
        text.encode()
    except ValueError:  # UnicodeError and JSONDecodeError are such
        return None
    return text


def balance(data: bytes, start: int, stop: int) -> int:
    """How many more brackets open than close outside the strings of a part of a text."""
    part = data[start:stop]
    if not any(map(part.count, BRACKETS)):
        return 0
    if QUOTE in part:
        part = STRING.sub(b"", part)
    return part.count(b"{") + part.count(b"[") - part.count(b"}") - part.count(b"]")


def past(pattern: re.Pattern[bytes], data: bytes, at: int) -> int:
    """Where the match of a pattern ends that matches nothing, too."""
    match = pattern.match(data, at)
    assert match is not None
    return match.end()


def find_nothing(_: bytes) -> None:
    """Where there is nothing to be found."""


class Plan:
    """A place as the scanner wants it: members by the bytes of their key, and what must occur before a find below."""

    __slots__ = ("elsewhere", "in_array", "in_object", "kind", "members", "needles", "other", "role", "unmarked")

    def __init__(self, node: Node | None, role: str | None = None) -> None:
        children = {} if node is None else node.children
        self.kind = None if node is None else node.kind
        self.role = role  # what a subclass of the scanner does with it
        self.members = {literal(name): Plan(child) for name, child in children.items()}
        self.other = self.members.pop(literal(ANY), None)
        self.in_object, self.in_array = bool(children), self.other is not None
        self.needles: tuple[bytes, ...] = ()
        self.unmarked = False  # something may be found below that no needle precedes
        self.elsewhere: Search | None = None  # of a root: finds a name without which only its own roles are found
        self._mark()

    def _mark(self) -> None:
        """Note the last key of every way down: where none of these occurs, nothing is found."""
        needles: set[bytes] = set()
        for key, plan in [*self.members.items(), (b"*", self.other)]:
            if plan is None:
                continue
            needles.update(plan.needles)
            if plan.kind is not None or plan.unmarked:
                if PLAIN(key):
                    needles.add(key)
                else:
                    self.unmarked = True
        self.needles = tuple(sorted(needles))

    def find_elsewhere(self, own: bytes) -> Search:
        """What finds any needle but ``own``."""
        names = [key[1:-1] for key in self.needles if key != own]
        return name_search(names) if names else find_nothing

    def occurs_in(self, data: bytes, start: int, stop: int) -> bool:
        """Whether a container at this place, complete at ``start`` to ``stop``, can hold anything of interest."""
        if not (self.in_object if data[start] == OBJECT else self.in_array):
            return False
        if self.unmarked or data.find(b"\\u00", start, stop) >= 0:  # how a needle could be written otherwise
            return True
        for needle in self.needles:  # noqa: SIM110 (any() would cost as much as the search)
            if data.find(needle, start, stop) >= 0:
                return True
        return False
