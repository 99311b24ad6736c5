"""Conversations and their items."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .items import as_items, check_items, keep_items
from .projects import page
from .resources import delete, listing, retrieve, update

if TYPE_CHECKING:
    from .messages import JSON, Call
    from .routes import Routes


def create_conversation(call: Call) -> JSON:
    """``POST /conversations``, empty or with items."""
    items = as_items(call.body.get("items") or [])
    check_items(call.project, items)
    conversation = call.project.new("conversation", metadata=call.body.get("metadata") or {})
    keep_items(call.project, conversation["id"], items)
    return conversation


def create_items(call: Call) -> JSON:
    """``POST /conversations/{id}/items``."""
    items = as_items(call.require("items"))
    check_items(call.project, items)
    kept = keep_items(call.project, call.args["conversation"], items)
    return page("item", kept, {}, order="asc", limit=100)


def delete_item(call: Call) -> JSON:
    """``DELETE /conversations/{id}/items/{item}``: gives the conversation."""
    call.project.drop("item", call.args["item"], call.args["conversation"])
    return call.things["conversation"]


ROUTES: Routes = {
    "POST /conversations": create_conversation,
    "GET /conversations/{conversation}": retrieve,
    "POST /conversations/{conversation}": update,
    "DELETE /conversations/{conversation}": delete("conversation.deleted"),
    "POST /conversations/{conversation}/items": create_items,
    "GET /conversations/{conversation}/items": listing("item"),
    "GET /conversations/{conversation}/items/{item}": retrieve,
    "DELETE /conversations/{conversation}/items/{item}": delete_item,
}
