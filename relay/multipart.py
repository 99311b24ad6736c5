"""Find values in a multipart/form-data body (RFC 7578) while its bytes pass (SPEC §5, §8). Bytes in, values out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .inspection import Found, Splice
    from .pointers import Node


class MultipartPeek:
    """What a form names; the attributes are those of ``JSONPeek``. Files pass unheld.

    The places of the tree are the form's names: ``file_ids[]`` is ``/file_ids/*``, ``a[b]`` is ``/a/b``.
    """

    model: Found | None
    target_names: tuple[str, ...]
    scalars: dict[str, object]
    found: list[Found]
    done: bool
    fields_over: bool  # a file has begun: what comes before it has been seen, and holding more helps nobody

    def __init__(self, content_type: bytes, pointers: Node) -> None:
        raise NotImplementedError

    def feed(self, data: bytes) -> None:
        """Look at the next bytes of the content. Raises AmbiguousBody, BadRequest."""
        raise NotImplementedError

    def finish(self) -> None:
        """The content has ended."""
        raise NotImplementedError

    def splices(self, model: str | None, at: Found | None = None) -> list[Splice]:
        """As of ``JSONPeek``: a part's content is replaced, whole parts are removed."""
        raise NotImplementedError
