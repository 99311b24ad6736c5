"""Watch an answer pass: the ids it shows and the usage it reports. Never delays, changes or fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .pointers import Node
    from .usage import Usage


class SSESplitter:
    """Cut a ``text/event-stream`` into the data of its events. Bytes in, bytes out."""

    __slots__ = ()

    def feed(self, data: bytes) -> list[bytes]:
        """The ``data`` of every event that ends in these bytes."""
        raise NotImplementedError

    @property
    def at_boundary(self) -> bool:
        """Whether the stream stands between two events, so that another may be added (SPEC §7, streams)."""
        raise NotImplementedError


class ResponseTap:
    """Watch one answer's content.

    ``content_type`` and ``content_encoding`` are the field values of the response head (empty where absent),
    ``pointers`` the places where this endpoint's answers show ids, ``metered`` whether usage is looked for, ``images``
    whether pictures are counted. ``watching`` is False when nothing can be found: the caller may then skip ``feed``.
    """

    __slots__ = ("usage", "watching")

    def __init__(
        self,
        content_type: bytes,
        content_encoding: bytes,
        pointers: Node,
        metered: bool,
        *,
        images: bool = False,
    ) -> None:
        self.watching: bool
        self.usage: Usage | None = None

    def feed(self, data: bytes) -> list[tuple[str, str]]:
        """Look at bytes that are about to leave; the (kind, id) pairs seen in them for the first time."""
        raise NotImplementedError

    def finish(self) -> list[tuple[str, str]]:
        """The content is over: what an unfinished last event still showed. ``usage`` is final from here on."""
        raise NotImplementedError
