"""Method and path to handler, as a tree. A ``{name}`` that is a kind is looked up in the project on the way down."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import unquote

from .messages import JSON, APIError
from .projects import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .messages import Answer, Call
    from .projects import Project

    Handler: TypeAlias = Callable[[Call], Answer | JSON]
    Routes: TypeAlias = dict[str, Handler]


@dataclass(slots=True)
class Node:
    """One segment of a path: what may follow, and what each method does here."""

    literal: dict[str, Node] = field(default_factory=dict)
    named: tuple[str, Node] | None = None
    handlers: Routes = field(default_factory=dict)


@dataclass(slots=True)
class Match:
    """A route that was found: its handler, and the ids on the way to it with their names."""

    handler: Handler
    args: dict[str, str]

    def look_up(self, project: Project) -> dict[str, JSON]:
        """The things that the path names, each below the one before it. Raises their 404."""
        things: dict[str, JSON] = {}
        parent = ""
        for name, id_ in self.args.items():
            if name in KINDS:
                things[name] = project.get(name, id_, parent)
                parent = id_
        return things


def build(others: Iterable[Routes]) -> Node:
    """Make the tree of rows like ``"GET /threads/{thread}/runs/{run}"``."""
    root = Node()
    for table in others:
        for row, handler in table.items():
            method, path = row.split(" ")
            node = root
            for segment in path.split("/")[1:]:
                node = descend(node, segment)
            assert method not in node.handlers, row
            node.handlers[method] = handler
    return root


def descend(node: Node, segment: str) -> Node:
    """The node for a segment of a route, made if need be. One place has one name."""
    if not segment.startswith("{"):
        return node.literal.setdefault(segment, Node())
    if node.named is None:
        node.named = (segment[1:-1], Node())
    assert node.named[0] == segment[1:-1], segment
    return node.named[1]


def find(root: Node, method: str, path: str) -> Match:
    """The route of a request, or OpenAI's 404 or 405. ``path`` is the one below ``/v1``, percent-encoded."""
    node, args = root, {}
    for segment in path.split("/")[1:]:
        below = node.literal.get(segment)
        if below is None:
            if node.named is None or not segment:
                raise unknown(method, path)
            name, below = node.named
            args[name] = unquote(segment)
        node = below
    if not node.handlers:
        raise unknown(method, path)
    handler = node.handlers.get("GET" if method == "HEAD" else method)
    if handler is None:
        allowed = ", ".join(sorted(node.handlers)).encode()
        message = f"Not allowed to {method} on /v1{path}."
        raise APIError(405, message, code="method_not_supported", fields=[(b"allow", allowed)])
    return Match(handler, args)


def unknown(method: str, path: str) -> APIError:
    """OpenAI's 404 for a path it does not have."""
    return APIError(404, f"Invalid URL ({method} /v1{path})", code="unknown_url")


def all_routes() -> Node:
    """The whole API."""
    from . import (
        answers,
        assistants,
        conversations,
        files,
        media,
        others,
        responses,
        stores,
        tuning,
    )  # here, since they are in a ring

    rooms = (answers, assistants, conversations, files, media, responses, stores, others, tuning)
    return build(room.ROUTES for room in rooms)
