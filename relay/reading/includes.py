"""The files of one configuration, ``include`` followed, as one mapping (SPEC §3)."""

from __future__ import annotations

import os.path
from typing import TYPE_CHECKING

from .document import Entry, Items, Node, Place, Scalar, Table, compose, is_null
from .section import name_of

if TYPE_CHECKING:
    from .references import References

#: Files of one configuration, each included once however often it is named.
MAX_FILES = 100


def load(text: str, source: str, references: References) -> Table | None:
    """The mapping of ``source`` with all that it includes, or None if it cannot be read (the report says why).

    As in LiteLLM, lists are extended by those of an included file and its other values win; mappings are merged key by
    key. Files are merged in the order in which they are named, those of included files last.
    """
    root = _root(text, source, references)
    if root is None:
        return None
    first: tuple[str, ...] = (os.path.normpath(source),)
    pending = [(place, name, first) for place, name in _included(root, references)]
    merged = set(first)
    while pending:
        place, name, chain = pending.pop(0)
        path = references.beside(place.file, name)
        if path in chain:
            references.report.problem(place, f"include: {name} is already being included; a file cannot hold itself")
        elif path not in merged:
            merged.add(path)
            table = _read(place, path, references, len(merged))
            if table is not None:
                pending += [(where, inner, (*chain, path)) for where, inner in _included(table, references)]
                _merge(root, table, references, "")
    return root


def _read(place: Place, path: str, references: References, count: int) -> Table | None:
    if count > MAX_FILES:
        references.report.problem(place, f"include: more than {MAX_FILES} files")
        return None
    text = references.read(place, "include", path)
    return None if text is None else _root(text, path, references)


def _root(text: str, name: str, references: References) -> Table | None:
    before = len(references.report.problems)
    node = compose(text, name, references.report)
    if node is None:  # empty, or unreadable
        return Table(Place(name, 1, 1)) if len(references.report.problems) == before else None
    if is_null(node):
        return Table(node.place)
    if not isinstance(node, Table):
        references.report.problem(node.place, f"expected sections such as model_list:, found {name_of(node)}")
        return None
    return node


def _included(table: Table, references: References) -> list[tuple[Place, str]]:
    """What a file includes: a list of files, or one."""
    entry = table.entries.pop("include", None)
    if entry is None or is_null(entry.node):
        return []
    found = []
    for node in entry.node.items if isinstance(entry.node, Items) else [entry.node]:
        value = references.resolve(node, "include") if isinstance(node, Scalar) else None
        if value is not None and str(value.value).strip():
            found.append((node.place, str(value.value)))
        elif not isinstance(node, Scalar):
            references.report.problem(node.place, f"include: expected the names of files, found {name_of(node)}")
    return found


def _merge(base: Table, other: Table, references: References, path: str) -> None:
    """``other``, which was included, into ``base``."""
    for key, entry in other.entries.items():
        mine = base.entries.get(key)
        if mine is None or is_null(mine.node):
            base.entries[key] = entry
        elif not is_null(entry.node):
            base.entries[key] = Entry(mine.place, _joined(mine, entry, references, path + key))


def _joined(mine: Entry, other: Entry, references: References, path: str) -> Node:
    if isinstance(mine.node, Items) and isinstance(other.node, Items):
        return Items(mine.node.place, mine.node.items + other.node.items)
    if isinstance(mine.node, Table) and isinstance(other.node, Table) and "." not in path:
        joined = Table(mine.node.place, dict(mine.node.entries))
        _merge(joined, other.node, references, f"{path}.")
        return joined
    references.report.warn(other.place, f"{path}: this value counts, not the one at {mine.place}")
    return other.node
