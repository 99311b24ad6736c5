"""JSON pointers with ``*``, gathered into a tree that a scanner can walk while it descends.

``/tools/*/vector_store_ids/*`` reads as in the resource table: ``*`` is any element of an array (or any member of an
object). One place may be both a value and a way further down (``/voice`` beside ``/voice/id``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

ANY = "*"


class Node:
    """A place in a JSON document: what a string found here is (``kind``), and the places below it."""

    __slots__ = ("children", "kind")

    def __init__(self, kind: str | None = None, children: dict[str, Node] | None = None) -> None:
        self.kind = kind
        self.children = {} if children is None else children

    def child(self, key: str) -> Node | None:
        """The place of member ``key``, or None where nothing below matters. Array elements ask for ``ANY``."""
        return self.children.get(key) or self.children.get(ANY)


NOWHERE = Node()


def compile_pointers(rows: Iterable[tuple[str, str]]) -> Node:
    """Make the tree of ``(pointer, kind)`` rows. Of two kinds for one place the last wins."""
    root = Node()
    for pointer, kind in rows:
        node = root
        for key in pointer.split("/")[1:]:
            node = node.children.setdefault(key.replace("~1", "/").replace("~0", "~"), Node())
        node.kind = kind
    return root
