"""Find ids and usage in JSON documents while their bytes pass.

Nothing here decodes more than it must. Usage is the last member named ``usage`` whose value is a usage object: a quote
inside a JSON string is always escaped, so these bytes behind a brace, a comma or a blank can only be a member's name,
and the object behind them is decoded alone, however large the rest is. Ids are looked for where the endpoint's pointers
say; a document that comes whole, as most do, is decoded, any other is scanned as it passes.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from ..patterns import late, name_search
from ..subjects.pointers import ANY
from .usage import read_usage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..patterns import Search
    from ..subjects.inspection import JSONPeek
    from ..subjects.pointers import Node
    from .usage import Usage

Pairs = list[tuple[str, str]]  # kind, id

LARGEST_USAGE = 8 << 10  # a usage object has some 400 bytes; beyond this it is something else
LARGEST_DOCUMENT = 64 << 10  # a larger one is scanned, since decoding it would hold the loop for too long at once
DOCUMENT_ENDS = (b"}", b"}\n", b"}\r\n")
MOST_IDS = 10_000  # a page of a list has 100
MOST_TREES = 1024  # endpoints, with room for tests
MOST_KNOWN = 64  # ids that come back in every event of a stream: there are a handful

# Each begins with a literal, which the regex engine finds fast; what stands before it is looked at afterwards.
USAGE = re.compile(rb'"usage"(?<=[{,\s]"usage")[ \t\r\n]{0,8}:[ \t\r\n]{0,8}(?=\{)')
USAGE_NAME = b'"usage"'
TIER_NAME = b'"service_tier"'
TIER = late(rb'"service_tier"(?<=[{,\s]"service_tier")[ \t\r\n]{0,8}:[ \t\r\n]{0,8}"(\w{1,16})"')
PICTURE = late(rb'[{,\s]"(?:b64_json|url)"[ \t\r\n]{0,8}:[ \t\r\n]{0,8}"')
BEHIND_NAME = rb"[ \t\r\n]*+:[ \t\r\n]*+(?!null)"
ORDINARY = frozenset({"choices", "content", "data", "delta", "id", "message", "object", "output", "type"})
LONGEST_MATCH = 64  # of the three above

BLANKS = " \t\r\n"  # what JSON calls white space
DECODER = json.JSONDecoder()
# What ``raw_decode`` calls, without its call: the value, and where it ends. Raises StopIteration where there is none.
DECODE_USAGE = cast("Any", json.JSONDecoder(parse_float=Decimal)).scan_once


class UsageFinder:
    """Find the usage object, the service tier and, if asked, the pictures of a JSON document that passes."""

    __slots__ = ("_count_images", "_tail", "images", "tier", "usage")

    def __init__(self, images: bool = False) -> None:
        self.usage: Usage | None = None
        self.tier: str | None = None
        self.images = 0
        self._count_images = images
        self._tail = b""

    def feed(self, data: bytes) -> None:
        """Look at the next bytes of the document."""
        known = len(self._tail)
        data = self._tail + data
        if self._count_images:
            self.images += sum(match.end() > known for match in PICTURE.finditer(data))
        if data.find(TIER_NAME) >= 0:  # ``in`` begins with an exception: bytes may hold a number, too
            for match in TIER.finditer(data):
                self.tier = match[1].decode("ascii", "replace")
        at = data.find(USAGE_NAME)
        start = self._read_usage(data, at) if at >= 0 else None
        self._tail = data[-LONGEST_MATCH:] if start is None else data[start:]

    def _read_usage(self, data: bytes, at: int) -> int | None:
        """Read what is complete; where the last object begins that is not, None if there is no such."""
        while at >= 0:
            match = USAGE.match(data, at)
            at = data.find(USAGE_NAME, at + 1)
            if match is None:
                continue
            begin = match.end()
            rest = data[begin : begin + LARGEST_USAGE]
            try:
                value, _ = DECODE_USAGE(rest.decode("utf-8", "replace"), 0)
            except (ValueError, RecursionError, StopIteration):
                if len(rest) < LARGEST_USAGE:
                    return match.start() - 1  # with what must stand before the name
            else:
                self.usage = read_usage(value) or self.usage
        return None

    def forget(self) -> None:
        """A new document begins; what was found stays."""
        self._tail = b""


class IdFinder:
    """Find ids at the places of a pointer tree, each pair once."""

    _peek: JSONPeek | None = None
    _done = False

    def __init__(self, pointers: Node) -> None:
        self._pointers = pointers
        self._names, self._hints, _ = id_names(pointers)
        self._seen: set[int] = set()  # hashes: what was seen may be long (encrypted content)
        self._known: set[bytes] = set()

    def document(self, data: bytes) -> Pairs:
        """The new ids in the next bytes of one document, which is scanned."""
        if self._done:
            return []
        if self._peek is None:
            from ..subjects.inspection import JSONPeek  # lazy: most answers come whole

            self._peek = JSONPeek(self._pointers)
        before = len(self._peek.found)
        try:
            self._peek.feed(data)
        except Exception:  # noqa: BLE001 - what the scanner refuses in a request passes in an answer
            self._done = True
        if len(self._peek.found) >= MOST_IDS:
            self._done = True
        return self._new([(found.kind, found.value) for found in self._peek.found[before:] if found.value])

    def event(self, data: bytes) -> Pairs:
        """The new ids in one event's data."""
        if self.is_dull(data):
            return []
        pairs = walk(self._pointers, decode(data), [])
        if self._names is not None and len(self._known) < MOST_KNOWN:
            shown = {value.encode("utf-8", "replace") for _, value in pairs}
            self._known.update(
                name for name in self._names.findall(data) if name in shown and len(name) < LONGEST_MATCH
            )
        return self._new(pairs)

    def is_dull(self, data: bytes) -> bool:
        """Whether these bytes, whole events, show no id, or only such as earlier events have shown."""
        if self._names is None:
            return False
        if self._hints is not None and self._hints(data) is None:
            return True  # a chat's chunks: an ``id`` each, but not on the way to one that is worth storing
        return self._known.issuperset(self._names.findall(data))

    def _new(self, pairs: Pairs) -> Pairs:
        new = []
        for pair in pairs:
            mark = hash(pair)
            if mark not in self._seen and len(self._seen) < MOST_IDS:
                self._seen.add(mark)
                new.append(pair)
        return new


def decode(data: bytes) -> Any:
    """The JSON document in ``data``; None where it is none."""
    try:
        text = data.decode().strip(BLANKS)
        value, end = DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return value if end == len(text) else None


def may_be_whole(data: bytes) -> bool:
    """Whether the first bytes of a document look like all of it, and are few enough to be decoded at once."""
    return len(data) <= LARGEST_DOCUMENT and data.endswith(DOCUMENT_ENDS)


def read_document(pointers: Node, data: bytes) -> Pairs | None:
    """The ids that a document shows if this is all of it, each once; None where it is not."""
    _, hints, _ = id_names(pointers)
    if hints is not None and hints(data) is None:
        return []
    value = decode(data)
    return None if value is None else list(dict.fromkeys(walk(pointers, value, [])))


def walk(node: Node, value: Any, pairs: Pairs) -> Pairs:
    """Add the (kind, id) pairs of a decoded document to ``pairs``, in its order."""
    shape = type(value)
    if shape is str:
        if node.kind is not None and value:
            pairs.append((node.kind, value))
    elif shape is dict:
        if children := node.children:
            others = children.get(ANY)
            for key, item in value.items():
                below = children.get(key, others)
                if below is not None:
                    walk(below, item, pairs)
    elif shape is list:
        below = node.child(ANY)
        if below is not None:
            for item in value:
                walk(below, item, pairs)
    return pairs


Patterns: TypeAlias = "tuple[re.Pattern[bytes] | None, Search | None, Search | None]"
_patterns_of: dict[int, tuple[Node, Patterns]] = {}  # there is one tree for each endpoint


def id_names(pointers: Node) -> Patterns:
    """A pattern of the members that may hold an id of this tree (its group), and searches for those on the way to one.

    A document without one of these shows no id. The last looks for usage, too. None where any member may,
    or none. Names are matched as upstreams write them: one that is spelled with escapes is not seen.
    """
    known = _patterns_of.get(id(pointers))
    if known is None or known[0] is not pointers:
        if len(_patterns_of) >= MOST_TREES:
            _patterns_of.clear()
        ways = list(_ways(pointers, ()))
        names = _compile_names({way[-1] if way else None for way in ways}, rb'(?:"([^"\\]*)")?')
        telling = {_telling(way) for way in ways}
        patterns = names, _search(telling), _search(telling | {"usage"})
        known = _patterns_of[id(pointers)] = (pointers, patterns)
    return known[1]


def _ways(node: Node, way: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The member names on the way to each id."""
    for key, below in node.children.items():
        here = way if key == ANY else (*way, key)
        if below.kind is not None:
            yield here
        yield from _ways(below, here)


def _telling(way: tuple[str, ...]) -> str | None:
    """The member on the way to an id that fewest documents have: the last that is not everywhere."""
    rare = [name for name in way if name not in ORDINARY]
    return (rare or way)[-1] if way else None


def _compile_names(names: set[str | None], value: bytes) -> re.Pattern[bytes] | None:
    spelled = [re.escape(name).encode() for name in names if name is not None]
    if len(spelled) < len(names):
        return None
    return re.compile(rb'"(?:%s)"%s%s' % (b"|".join(sorted(spelled)), BEHIND_NAME, value))


def _search(names: set[str | None]) -> Search | None:
    spelled = [name.encode() for name in names if name is not None]
    return name_search(spelled, BEHIND_NAME) if spelled and len(spelled) == len(names) else None
