"""Where resource ids are remembered: which scope an id lives in, shared by all processes through one sqlite file.

The file is a cache, never the truth (SPEC §5 "Discovery"): losing it costs requests, not answers. So nothing in here
raises on a broken disk; it warns, and goes on in memory. All calls are synchronous and take tens of microseconds at most.
``now`` is the wall clock, in seconds since 1970.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .config import AffinitySettings


class AffinityStore:
    """Resource id → scope name, with a least-recently-used cache in front of the file."""

    def __init__(self, settings: AffinitySettings) -> None:
        raise NotImplementedError

    @classmethod
    def open(cls, settings: AffinitySettings, now: float) -> AffinityStore:
        """Make a store and open its file at once, so that what is wrong with it is said at start."""
        raise NotImplementedError

    def lookup(self, kind: str, id: str, now: float) -> str | None:  # noqa: A002 - the API's word
        """The canonical name of the scope that ``id`` lives in, or None where nobody has seen it."""
        raise NotImplementedError

    def remember(self, pairs: Iterable[tuple[str, str]], scope: str, now: float) -> None:
        """Store that the ``(kind, id)`` pairs live in ``scope``; when this returns other processes see them."""
        raise NotImplementedError

    def forget(self, kind: str, id: str, now: float, scope: str | None = None) -> None:  # noqa: A002
        """Drop an id: it was deleted, or ``scope`` answered 404 (then only if it is still held to be there)."""
        raise NotImplementedError

    def miss(self, kind: str, id: str, now: float) -> None:  # noqa: A002
        """Note that no scope knows ``id``; holds for 60 s, in this process."""
        raise NotImplementedError

    def is_missed(self, kind: str, id: str, now: float) -> bool:  # noqa: A002
        """Whether ``id`` was looked for everywhere within the last 60 s, in vain."""
        raise NotImplementedError

    def unite(self, one: str, other: str, now: float) -> None:
        """Remember that two scopes are one project; other processes see it within about a second."""
        raise NotImplementedError

    def canonical(self, scope: str) -> str:
        """The one name for a scope and all that were united with it. Compare canonical names on both sides."""
        raise NotImplementedError

    def note_workspace(self, client: str, session: str | None, now: float) -> None:
        """Remember that a client (or one session of it) has made workspace things."""
        raise NotImplementedError

    def has_workspace(self, client: str, session: str | None, now: float) -> bool:
        """Whether it has, in any process; for ``affinity.responses: auto``."""
        raise NotImplementedError

    def count(self) -> int:
        """How many ids are stored: exact for a few thousand, an estimate within some per cent beyond."""
        raise NotImplementedError

    def close(self) -> None:
        """Write what is pending and let go of the file; the next use opens it again."""
        raise NotImplementedError
