"""What handlers take and give: a ``Call``, an ``Answer``, an ``APIError``. No sockets, no state."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .bodies import Blob, Form, Part
    from .projects import Project, World

Fields = list[tuple[bytes, bytes]]
JSON = dict[str, Any]

JSON_TYPE = b"application/json"
EVENT_STREAM = b"text/event-stream; charset=utf-8"


class APIError(Exception):
    """An answer that is an error, in OpenAI's shape."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",  # noqa: A002 the name on the wire
        param: str | None = None,
        code: str | None = None,
        fields: Fields | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"message": message, "type": type, "param": param, "code": code}
        self.fields = fields or []

    def answer(self) -> Answer:
        """The error as it goes out."""
        return Answer(status=self.status, body=encode({"error": self.error}, pretty=True), fields=list(self.fields))


# What a handler stumbles over when a member of a body has a shape that nobody foresaw.
MALFORMED = (AttributeError, IndexError, KeyError, TypeError, ValueError)


def malformed(error: Exception) -> APIError:
    """The 400 for such a body."""
    return APIError(400, f"Invalid request: {error!r}.", code="invalid_type")


@dataclass(slots=True)
class Answer:
    """One response: ``body`` at once, or ``stream`` piece by piece.

    ``paced`` streams pause between pieces, as a model that thinks does. ``length`` is the size of a stream whose size
    is known; without it the stream goes out chunked.
    """

    status: int = 200
    body: bytes = b""
    fields: Fields = field(default_factory=list)
    content_type: bytes = JSON_TYPE
    stream: Iterator[bytes] | None = None
    length: int | None = None
    paced: bool = False


@dataclass(slots=True)
class Call:
    """One request as a handler sees it: the path's ids, the query, the content, and whose project it is."""

    method: str
    path: str  # below /v1, percent-decoded
    args: dict[str, str]  # ids by the names in the route: {"thread": "thread_abc"}
    things: dict[str, JSON]  # the same names, looked up in the project
    query: dict[str, list[str]]
    fields: Fields
    project: Project
    world: World
    content: Blob
    json: JSON
    form: Form | None = None

    def first(self, name: str, default: str = "") -> str:
        """The first value of a query parameter."""
        return self.query.get(name, [default])[0]

    @property
    def body(self) -> JSON:
        """The request's members, from JSON or from a form's text fields."""
        return self.form.values() if self.form is not None else self.json

    def require(self, name: str) -> Any:
        """A member that must be there, or OpenAI's 400 about it."""
        value = self.body.get(name)
        if value is None or value == "":
            raise absent(name)
        return value

    def part(self, name: str) -> Part:
        """A file that the form must have, or OpenAI's 400 about it."""
        part = self.form.file(name) if self.form is not None else None
        if part is None:
            raise absent(name)
        return part


def absent(name: str) -> APIError:
    """The 400 for a member or part that must be there."""
    return APIError(400, f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")


COMPACT = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


def encode(value: Any, *, pretty: bool = False) -> bytes:
    """JSON on one line, or indented as OpenAI writes its errors (which only Python's slow encoder can do)."""
    if pretty:
        return json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"
    return COMPACT.encode(value).encode()


def data_event(value: Any) -> bytes:
    """An SSE event without a name."""
    return b"data: " + encode(value) + b"\n\n"


def named_event(name: str, value: Any) -> bytes:
    """An SSE event with its name."""
    return b"event: " + name.encode() + b"\ndata: " + encode(value) + b"\n\n"


DONE = b"data: [DONE]\n\n"
NAMED_DONE = b"event: done\ndata: [DONE]\n\n"


def event_stream(events: Iterator[bytes]) -> Answer:
    """Server-sent events at the upstream's pace."""
    return Answer(stream=events, content_type=EVENT_STREAM, paced=True, fields=[(b"cache-control", b"no-cache")])
