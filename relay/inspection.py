"""Find values in a JSON body while its bytes pass, and rewrite one of them (SPEC §5, §8). Bytes in, values out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .pointers import Node


@dataclass(frozen=True, slots=True)
class Splice:
    """Replace the content's bytes ``start`` to ``stop`` by ``replacement``; an empty one removes them."""

    start: int
    stop: int
    replacement: bytes

    @property
    def delta(self) -> int:
        """By how many bytes the content grows."""
        return len(self.replacement) - (self.stop - self.start)


class Splicer:
    """Apply splices, which are ordered and do not overlap, to content that passes in pieces of any size."""

    def __init__(self, splices: Iterable[Splice]) -> None:
        raise NotImplementedError

    def feed(self, data: bytes) -> bytes:
        """What leaves for the next ``data`` of the content."""
        raise NotImplementedError

    def finish(self) -> bytes:
        """What leaves at the content's end."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Found:
    """A string of interest: what it is, its text, and the bytes of the content that hold it, quotes included."""

    kind: str
    value: str
    start: int
    stop: int
    quoted: bool = True  # written as a JSON string; False: the bare content of a form part


class JSONPeek:
    """What a JSON body names: model, routing hints, ids. Fed in pieces of any size; nothing is decoded or held."""

    model: Found | None  # the top-level ``model``, when it is a string
    target_names: tuple[str, ...]  # ``target_model_names``: a string, a comma list or a list
    scalars: dict[str, object]  # top-level stream, store, background (bool), prompt_cache_key (str)
    found: list[Found]  # strings at the places of the tree, in the order in which they stand
    done: bool  # nothing more can be found: the top-level value has ended, or is no object

    def __init__(self, pointers: Node) -> None:
        raise NotImplementedError

    def feed(self, data: bytes) -> None:
        """Look at the next bytes of the content. Raises AmbiguousBody, BadRequest."""
        raise NotImplementedError

    def finish(self) -> None:
        """The content has ended."""
        raise NotImplementedError

    def splices(self, model: str | None, at: Found | None = None) -> list[Splice]:
        """What to change so that ``model`` is asked for (None: as it is) and no routing hint is left, in order.

        ``at`` is a member of ``found`` that stands for the top-level model where a body has none.
        """
        raise NotImplementedError
