"""Kinds of resources: how their ids look, where they can be fetched, and which of them count (SPEC §5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .subject import Resource

BY_PREFIX = "?"  # the kind of a place that says nothing itself: the id's own prefix does, or it is none
ENCRYPTED = "encrypted_content"
SECRET = "client_secret"  # noqa: S105 - the name of a kind

HASHED = frozenset({ENCRYPTED, SECRET})  # too long, or too secret, to be kept as they are: only their hash is
WEAK = frozenset({"item"})  # pin where nothing else does; never conflict and are never looked for beforehand

PREFIXES: Mapping[str, str] = {}  # "asst_" -> "assistant"
RETRIEVE: Mapping[str, str] = {}  # "file" -> "/files/{file_id}"; absent for kinds that cannot be fetched


def kind_of(value: str) -> str | None:
    """The kind that an id's prefix tells, or None."""
    raise NotImplementedError


def retrieve_path(kind: str, id: str) -> str | None:  # noqa: A002 - the API's word
    """The path of a GET that shows whether ``id`` exists, percent-encoded; None for kinds without one."""
    raise NotImplementedError


def as_resource(kind: str, value: str, place: str) -> Resource | None:
    """What the ``value`` found at a place for ``kind`` counts as: every id found anywhere goes through here.

    None where it does not count: a model that is nobody's own, a child id that its parent's path pins already, text
    that is no id. The kind is corrected where the id's prefix says better (``cfile_`` where a ``file`` may stand), so
    that one id has one kind wherever it is seen.
    """
    raise NotImplementedError
