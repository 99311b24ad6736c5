"""A mapping of the file, read key by key: typed values, every misspelt key found (SPEC §3, STYLE rule 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from .document import Items, Node, Place, Scalar, Table, is_null
from .kinds import NAMES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .document import Entry
    from .kinds import Kind
    from .references import References

T = TypeVar("T")
D = TypeVar("D")


class Section:
    """A mapping whose keys are taken one by one; what is left at the end was not known.

    ``path`` opens the keys in messages (``server.``). A missing key, and one without a value, gives the default.
    """

    def __init__(self, table: Table, path: str, references: References, place: Place | None = None) -> None:
        self.place = place or table.place
        self.path = path
        self.references = references
        self.report = references.report
        self.entries = dict(table.entries)

    def put_defaults(self, entries: Mapping[str, Entry]) -> None:
        """Keys that stand elsewhere and count here unless they are given here."""
        self.entries = {**entries, **self.entries}

    def has(self, key: str) -> bool:
        """Whether ``key`` is there and has a value."""
        entry = self.entries.get(key)
        return entry is not None and not is_null(entry.node)

    def place_of(self, key: str) -> Place:
        """Where ``key`` stands, before it is taken; the section's own place if it is not there."""
        entry = self.entries.get(key)
        return entry.place if entry else self.place

    def problem(self, place: Place, message: str) -> None:
        """Report a problem of this section."""
        self.report.problem(place, self.path + message)

    def pop(self, key: str) -> Node | None:
        """The value's node, or None if there is none."""
        entry = self.entries.pop(key, None)
        return None if entry is None or is_null(entry.node) else entry.node

    def take(self, key: str, kind: Kind[T], default: D) -> T | D:
        """The value of ``key`` as ``kind`` reads it."""
        node = self.pop(key)
        if node is None:
            return default
        found = self.read(node, key, kind)
        return default if found is None else found

    def read(self, node: Node, key: str, kind: Kind[T]) -> T | None:
        """One node as ``kind`` reads it; None if it cannot, which is then reported."""
        if not isinstance(node, Scalar):
            self.problem(node.place, f"{key}: expected {kind.expected}, found {name_of(node)}")
            return None
        value = self.references.resolve(node, self.path + key, secret=kind.secret)
        if value is None:
            return None
        try:
            return kind.read(node.text if _is_name(kind, value.value) else value.value)
        except ValueError:
            self.problem(node.place, f"{key}: expected {kind.expected}, found {value.shown}")
            return None

    def take_key(self, key: str) -> str | None:
        """A credential (see ``References.key``)."""
        node = self.pop(key)
        if node is None:
            return None
        if not isinstance(node, Scalar):
            self.problem(node.place, f"{key}: expected a key, found {name_of(node)}")
            return None
        return self.references.key(node, self.path + key)

    def take_items(self, key: str, expected: str) -> list[Node]:
        """The nodes of a list; a single value counts as a list of one."""
        node = self.pop(key)
        if node is None:
            return []
        if isinstance(node, Table):
            self.problem(node.place, f"{key}: expected {expected}, found a mapping")
            return []
        return node.items if isinstance(node, Items) else [node]

    def take_section(self, key: str, path: str | None = None) -> Section:
        """A mapping below this one; an empty section where there is none."""
        place = self.place_of(key)
        node = self.pop(key)
        if node is not None and not isinstance(node, Table):
            self.problem(node.place, f"{key}: expected a mapping, found {name_of(node)}")
            node = None
        inner = f"{self.path}{key}." if path is None else path
        return Section(node or Table(place), inner, self.references, place)

    def refuse_unknown(self, known: Iterable[str]) -> None:
        """What nobody took is a problem: this section is ours. ``x-*`` is anybody's."""
        names = tuple(known)
        for key, entry in self.entries.items():
            if not key.startswith("x-"):
                self.problem(
                    entry.place, f"{key}: unknown key{suggest(key, names) or '; known are ' + ', '.join(names)}"
                )


def _is_name(kind: Kind[Any], value: object) -> bool:
    """Whether a number was meant as a name, as in ``model: 4``, which then is what was written."""
    return kind.read in NAMES and isinstance(value, int | float) and not isinstance(value, bool)


def name_of(node: Node) -> str:
    """What a node is, in a message."""
    if isinstance(node, Scalar):
        return "nothing" if node.value is None else "a single value"
    return "a list" if isinstance(node, Items) else "a mapping"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that ``word`` was probably meant to be."""
    import difflib  # 5 ms, wanted only when something is wrong

    def folded(text: str) -> str:
        return text.lower().replace("-", "_").replace(" ", "_")

    names = {folded(name): name for name in known}
    near = difflib.get_close_matches(folded(word), names, n=1, cutoff=0.8)
    return names[near[0]] if near else None


def suggest(word: str, known: Iterable[str]) -> str:
    """``; did you mean NAME?`` or nothing."""
    near = nearest(word, known)
    return f"; did you mean {near}?" if near else ""
