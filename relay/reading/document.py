"""YAML text → nodes that remember where they were written; every fault of a file in one list.

PyYAML's parser gives the events; the nodes are put together here, because its own composer has no bound on nesting
(and recurses), takes a key given twice for granted, and forgets the place of what a merge key brought in. libyaml is
used where it is there; what a message says never depends on it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from ..patterns import late

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: Nesting, aliases counted in. Real files stay below ten.
MAX_DEPTH = 60
#: Values in a document once its aliases are written out: 20,000 deployments fit, a billion laughs do not.
MAX_NODES = 500_000

#: What most files are made of, which is found out sooner than what may not be in them.
_ORDINARY = re.compile(r"[\t\n\r -~]*")
#: What YAML 1.1 §5.1 leaves out: controls, surrogates, two non-characters.
_FORBIDDEN = late("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")
_PREFIX = "tag:yaml.org,2002:"
_TAGS = frozenset(
    _PREFIX + tag for tag in ["bool", "float", "int", "map", "merge", "null", "seq", "str", "timestamp", "value"]
)
_FLAGS = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}
_BASES = {"0x": 16, "0b": 2}


class Place(NamedTuple):
    """Where something was written; lines and columns count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class Problem(NamedTuple):
    """A place and what is wrong there."""

    place: Place
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


class Report:
    """What was found in all files of one configuration: problems, which stop the start, and warnings."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self._order: dict[str, int] = {}

    def open(self, name: str) -> None:
        """A file begins: findings are ordered as files were read."""
        self._order.setdefault(name, len(self._order))

    def problem(self, place: Place, message: str) -> None:
        """Add what stops the start."""
        self.problems.append(Problem(place, message))

    def warn(self, place: Place, message: str) -> None:
        """Add what is said once at start."""
        self.warnings.append(Problem(place, message))

    def lines(self, findings: Iterable[Problem]) -> tuple[str, ...]:
        """``file:line:column: message`` in the order of the files, each once (an anchor is read at every alias)."""
        ranked = sorted(set(findings), key=lambda one: (self._order.get(one.place.file, 0), one.place, one.message))
        return tuple(map(str, ranked))


class Scalar:
    """One value: ``value`` as YAML 1.1 types it, ``text`` as it was written."""

    __slots__ = ("place", "text", "value")
    size = depth = 1

    def __init__(self, place: Place, value: float | str | None, text: str) -> None:
        self.place = place
        self.value = value
        self.text = text


class Items:
    """A list."""

    __slots__ = ("depth", "items", "place", "size")

    def __init__(self, place: Place, items: Iterable[Node] = ()) -> None:
        self.place = place
        self.items = list(items)
        self.size = self.depth = 1


class Entry(NamedTuple):
    """A key's place and its value."""

    place: Place
    node: Node


class Table:
    """A mapping, by the text of its keys, in the order of the file; what merge keys bring in comes last."""

    __slots__ = ("depth", "entries", "place", "size")

    def __init__(self, place: Place, entries: dict[str, Entry] | None = None) -> None:
        self.place = place
        self.entries = {} if entries is None else entries
        self.size = self.depth = 1


Node = Scalar | Items | Table


def is_null(node: Node) -> bool:
    """Whether nothing, ``~`` or ``null`` was written."""
    return isinstance(node, Scalar) and node.value is None


def plain(node: Node) -> Any:
    """The node as the plain value that ``yaml.safe_load`` would have made."""
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, Items):
        return [plain(item) for item in node.items]
    return {key: plain(entry.node) for key, entry in node.entries.items()}


def compose(text: str, name: str, report: Report) -> Node | None:
    """The document in ``text``, or None where it is empty or cannot be read (the report then says why)."""
    import yaml

    report.open(name)
    text = text.removeprefix("\ufeff")
    wrong = None if _ORDINARY.fullmatch(text) else _FORBIDDEN.search(text)
    if wrong:
        report.problem(_place_of(text, wrong.start(), name), f"YAML has no character U+{ord(wrong.group()):04X}")
        return None
    builder = _Builder(name, report)
    try:
        return builder.build(_events(text))
    except _TooMuchError as error:
        report.problem(error.place, error.message)
    except yaml.MarkedYAMLError as error:
        report.problem(*_explain(error, name))
    return None


def _place_of(text: str, at: int, name: str) -> Place:
    """The place of a character, with lines counted as YAML counts them."""
    lines = re.split("\r\n|[\r\n\x85\u2028\u2029]", text[:at])
    return Place(name, len(lines), len(lines[-1]) + 1)


def _events(text: str) -> Iterator[Any]:
    """The parser's events. A fault is found again by the pure parser: its words are the same on every machine."""
    import yaml

    fast = getattr(yaml, "CSafeLoader", None)
    if fast is not None:
        try:
            events = list(yaml.parse(text, Loader=fast))
        except yaml.YAMLError:
            pass
        else:
            return iter(events)
    return yaml.parse(text, Loader=yaml.SafeLoader)


_HINTS = (  # what people write, by what the parser says of it
    ("while scanning an alias", 'a value that begins with * must be quoted, as in "*"'),
    ("while scanning an anchor", "a value that begins with & must be quoted"),
    ("'\\t' that cannot", "indent with spaces, never with a tab"),
    ("cannot start any token", "a value that begins so must be quoted"),
    ("mapping values are not allowed here", "is the line indented as its neighbours, and a text with ': ' quoted?"),
    ("expected <block end>", "is the line indented as its neighbours?"),
)


def _explain(error: Any, name: str) -> tuple[Place, str]:
    """Place and sentence of a parser's fault, without the snippet that it would quote (there may be a key in it)."""
    mark = error.problem_mark or error.context_mark
    said = ", ".join(filter(None, (error.context, error.problem)))
    if error.context_mark and error.context_mark.line != mark.line:
        said += f" (begun on line {error.context_mark.line + 1})"
    hint = next((f" ({hint})" for words, hint in _HINTS if words in said), "")
    return Place(name, mark.line + 1, mark.column + 1), f"not YAML: {said}{hint}"


class _TooMuchError(Exception):
    """The document is larger than it may be; nothing after that is read."""

    def __init__(self, place: Place, message: str) -> None:
        super().__init__(message)
        self.place = place
        self.message = message


class _Frame:
    """A list or mapping whose end has not come yet."""

    __slots__ = ("anchor", "children", "node")

    def __init__(self, node: Items | Table, anchor: str | None) -> None:
        self.node = node
        self.anchor = anchor
        self.children: list[Node] = []


class _Builder:
    """Nodes out of events, without recursion."""

    def __init__(self, name: str, report: Report) -> None:
        from yaml.resolver import Resolver

        self._name = name
        self._report = report
        self._resolver = Resolver()
        self._anchors: dict[str, Node] = {}
        self._stack: list[_Frame] = []
        self._root: Node | None = None
        self._documents = 0

    def build(self, events: Iterable[Any]) -> Node | None:
        """Feed every event; the root of the first document."""
        handlers = {
            "ScalarEvent": self._scalar,
            "AliasEvent": self._alias,
            "SequenceStartEvent": self._start,
            "MappingStartEvent": self._start,
            "SequenceEndEvent": self._end,
            "MappingEndEvent": self._end,
            "DocumentStartEvent": self._document,
        }
        for event in events:
            handler = handlers.get(type(event).__name__)
            if handler:
                handler(event)
        return self._root

    def _place(self, event: Any) -> Place:
        return Place(self._name, event.start_mark.line + 1, event.start_mark.column + 1)

    def _document(self, event: Any) -> None:
        self._documents += 1
        if self._documents > 1:
            raise _TooMuchError(self._place(event), "a second document begins here; one file holds one")

    def _scalar(self, event: Any) -> None:
        tag = _PREFIX + "str" if event.tag == "!" else event.tag
        if not tag and event.implicit[0]:
            from yaml.nodes import ScalarNode

            tag = self._resolver.resolve(ScalarNode, event.value, (True, False))  # type: ignore[no-untyped-call]
        tag = tag or _PREFIX + "str"
        self._check_tag(tag, event)
        node = Scalar(self._place(event), _typed(tag.removeprefix(_PREFIX), event.value), event.value)
        if event.anchor:
            self._anchors[event.anchor] = node
        self._add(node)

    def _check_tag(self, tag: str, event: Any) -> None:
        if tag not in _TAGS:
            shown = tag.replace(_PREFIX, "!!")
            self._report.problem(self._place(event), f"the tag {shown} is not read here; write a plain value")

    def _alias(self, event: Any) -> None:
        place = self._place(event)
        node = self._anchors.get(event.anchor)
        if node is None:
            self._report.problem(place, f"no anchor &{event.anchor} stands before this *{event.anchor}")
            node = Scalar(place, None, "")
        if any(frame.node is node for frame in self._stack):
            raise _TooMuchError(place, f"*{event.anchor} stands inside what it stands for")
        self._add(node)

    def _start(self, event: Any) -> None:
        if event.tag and event.tag != "!":
            self._check_tag(event.tag, event)
        kind = Items if type(event).__name__ == "SequenceStartEvent" else Table
        node = kind(self._place(event))
        if event.anchor:
            self._anchors[event.anchor] = node
        self._stack.append(_Frame(node, event.anchor))
        if len(self._stack) > MAX_DEPTH:
            raise _TooMuchError(node.place, f"nested deeper than {MAX_DEPTH} levels")

    def _end(self, _event: Any) -> None:
        frame = self._stack.pop()
        node = frame.node
        node.size += sum(child.size for child in frame.children)
        node.depth += max((child.depth for child in frame.children), default=0)
        if node.size > MAX_NODES:
            raise _TooMuchError(node.place, f"more than {MAX_NODES:,} values once its aliases are written out")
        if node.depth > MAX_DEPTH:
            raise _TooMuchError(node.place, f"nested deeper than {MAX_DEPTH} levels once its aliases are written out")
        if isinstance(node, Items):
            node.items = frame.children
        else:
            self._fill(node, frame.children)
        self._add(node)

    def _add(self, node: Node) -> None:
        if self._stack:
            self._stack[-1].children.append(node)
        else:
            self._root = node

    def _fill(self, table: Table, children: list[Node]) -> None:
        """Keys and values, which come in turns, into the mapping; what it says itself wins over what it merges."""
        merged: list[Node] = []
        for key, value in zip(children[::2], children[1::2], strict=True):
            if not isinstance(key, Scalar):
                self._report.problem(key.place, "a key must be plain text (quote a value that begins with { or [)")
            elif key.text == "<<":
                merged.append(value)
            elif key.text in table.entries:
                first = table.entries[key.text].place.line
                self._report.problem(key.place, f"{key.text!r} is given twice, first on line {first}")
            else:
                table.entries[key.text] = Entry(key.place, value)
        for value in merged:
            self._merge(table, value)

    def _merge(self, table: Table, value: Node) -> None:
        """https://yaml.org/type/merge.html: of several, the earlier one wins."""
        for source in value.items if isinstance(value, Items) else [value]:
            if isinstance(source, Table):
                table.entries.update({key: entry for key, entry in source.entries.items() if key not in table.entries})
            else:
                self._report.problem(source.place, "<<: expected a mapping, as in <<: *defaults")


def _typed(kind: str, text: str) -> bool | int | float | str | None:
    """A plain scalar's value by its YAML 1.1 tag. Dates and sexagesimal figures stay text, since no key wants them."""
    try:
        if kind == "null":
            return None
        if kind == "bool":
            return _FLAGS.get(text.lower(), text)
        if kind == "int":
            return _whole(text.replace("_", ""))
        if kind == "float":
            return float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError:
        pass
    return text


def _whole(text: str) -> int:
    """YAML 1.1's integers: ``0x``, ``0b``, and a leading zero for octal."""
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    base = _BASES.get(digits[:2], 8 if digits.startswith("0") and len(digits) > 1 else 10)
    return sign * int(digits, base)
