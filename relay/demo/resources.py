"""Things that are made, listed, looked at, changed and deleted: the shared verbs, for the rooms that own them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .projects import KINDS

if TYPE_CHECKING:
    from .messages import JSON, Call
    from .routes import Handler, Routes


def last(call: Call) -> tuple[str, str, str]:
    """Kind, id and parent's id of the last thing that the path names."""
    names = [name for name in call.args if name in KINDS]
    parent = call.args[names[-2]] if len(names) > 1 else ""
    return names[-1], call.args[names[-1]], parent


def retrieve(call: Call) -> JSON:
    """A thing as it is; looking at it ends the work on it."""
    kind, id_, parent = last(call)
    call.project.settle(id_)
    return call.project.get(kind, id_, parent)


def update(call: Call) -> JSON:
    """Change the members that the body has and the thing knows; ids and times stay."""
    call.project.check_references(call.body)
    kind, id_, parent = last(call)
    thing = call.project.get(kind, id_, parent)
    fixed = {"id", "object", "created_at", "status"}
    thing.update({name: value for name, value in call.body.items() if name in thing and name not in fixed})
    return thing


def delete(object_: str) -> Handler:
    """The handler that deletes the last thing of a path and says so as ``object_``."""

    def handler(call: Call) -> JSON:
        kind, id_, parent = last(call)
        call.project.drop(kind, id_, parent)
        return {"id": id_, "object": object_, "deleted": True}

    return handler


def listing(kind: str, *, order: str = "desc", limit: int = 20) -> Handler:
    """The handler that lists a kind below the last thing of a path."""

    def handler(call: Call) -> JSON:
        names = [name for name in call.args if name in KINDS]
        parent = call.args[names[-1]] if names else ""
        return call.project.page(kind, parent, call.query, order=order, limit=limit)

    return handler


def plain(path: str, kind: str, deleted: str) -> Routes:
    """The four routes that need nothing special; ``deleted`` is what a deletion calls itself."""
    one = f"{path}/{{{kind}}}"
    return {
        f"GET {path}": listing(kind),
        f"GET {one}": retrieve,
        f"POST {one}": update,
        f"DELETE {one}": delete(deleted),
    }
