"""What a request names and what its answer shows, for every operation of the API (SPEC §5, §7, §13).

The tables are data and stand in :mod:`.operations` (one line an operation) and :mod:`.resources` (kinds of ids, and the
places in JSON that operations share). This room reads them: a path in, an :class:`Endpoint` out.

A path that the tables do not know still passes through. Its endpoint has the template ``other``, is a workspace
endpoint (what it makes may be named later, so it belongs in the home scope), and every segment, query value, form part
or known JSON field of it counts where the value itself says what it is: a known prefix and the look of an id.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .pointers import Node
    from .subject import Resource, Subject

OTHER = "other"  # the template of every path that no table knows


class Harmless(Enum):
    """When a POST may be sent twice, since its effect is only an answer (SPEC §7, §12)."""

    NEVER = 0
    ALWAYS = 1
    UNLESS_STORED = 2  # chat, completions: not with ``store: true``
    IF_NOT_STORED = 3  # responses: only with ``store: false``, and not with ``background``


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An API path with a method, and where its ids stand. Equal paths give the same object."""

    method: str  # GET also stands for HEAD
    template: str  # "/threads/{thread_id}/runs", or OTHER
    answer: bool  # balanced over the whole group; False: a workspace endpoint, which has a home scope
    stored: bool  # stands between (SPEC §5 "Stored responses"), unless the body says ``store: false``
    harmless: Harmless
    lists: str | None  # the kind that this list shows, for the 13 lists that may be merged
    path_ids: tuple[tuple[int, str], ...]  # segment index (0 is the first of the path) -> kind
    path_model: int | None  # index of the segment at which the model's name begins; it may hold raw slashes
    query_ids: Mapping[str, str]  # parameter, without a final ``[]`` -> kind
    header_ids: Mapping[str, str]  # lower-case field name -> kind: the credentials that are resources (SPEC §13)
    body: Node  # of a JSON request, or of a ``response.create`` frame
    form: Node  # members are the parts of a form; a part with places below it is JSON, or ``part[member]``
    response: Node  # of a JSON answer, of the JSON in SSE ``data`` and of WebSocket frames that come from upstream
    unstored: Node  # the same for a request whose answer is not stored: what it shows all the same
    location: str | None  # kind of the id in the last segment of ``Location``
    metered: bool  # answers say what was used
    websocket: bool  # a GET of it asks for ``Upgrade: websocket``
    admin: bool  # administration: denied unless ``server.allow_admin`` (SPEC §4)


def match_endpoint(method: str, path: str) -> Endpoint:
    """The endpoint of a path without mount, ``v1/`` and query (``/files/file-abc`` or ``files/file-abc``)."""
    raise NotImplementedError


def path_resources(endpoint: Endpoint, path: str) -> tuple[Resource, ...]:
    """The resources that the segments of ``path`` name, percent-decoded."""
    raise NotImplementedError


def query_resources(endpoint: Endpoint, query: str) -> tuple[Resource, ...]:
    """The resources that the parameters of a raw ``query`` name, percent-decoded."""
    raise NotImplementedError


def find_path_model(endpoint: Endpoint, path: str) -> tuple[str, int, int] | None:
    """The model that a path names: decoded, with the span of ``path`` that a splice replaces."""
    raise NotImplementedError


def find_query_value(query: str, name: str) -> tuple[str, int, int] | None:
    """The first value of a parameter of a raw ``query``: decoded, with the span that a splice replaces."""
    raise NotImplementedError


def form_place(endpoint: Endpoint, name: str) -> Node | None:
    """The place of a form part: ``consent``, ``video[id]`` or ``file_ids[]``; None where nothing matters there."""
    raise NotImplementedError


def shown_by(subject: Subject) -> Node:
    """Where the answer to this request shows ids worth keeping (``endpoint.response`` or ``endpoint.unstored``)."""
    raise NotImplementedError


def is_harmless(subject: Subject, method: str) -> bool:
    """Whether a request that may have been acted on may be sent again, by SPEC §7's row of 500 502 504.

    GET, HEAD, DELETE, requests with ``Idempotency-Key``, and POSTs whose effect is only an answer.
    """
    raise NotImplementedError


def is_resendable(subject: Subject, method: str) -> bool:
    """Whether a request may be sent again when a reused connection dies before an answer (SPEC §12).

    Harmless ones, and every method that RFC 9110 §9.2.2 calls idempotent.
    """
    raise NotImplementedError
