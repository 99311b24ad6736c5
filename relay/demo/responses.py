"""Responses: made, streamed in the real order of events, stored, continued, run in the background, compacted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .answers import count_tokens, words
from .items import as_items, check_items, item_id, keep_items, output_items
from .messages import JSON, Answer, APIError, Call, event_stream, named_event
from .projects import missing
from .resources import delete, listing, retrieve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .projects import Project
    from .routes import Routes

DEFAULTS: JSON = {
    "instructions": None, "max_output_tokens": None, "max_tool_calls": None, "previous_response_id": None,
    "prompt_cache_key": None, "safety_identifier": None, "service_tier": "default", "temperature": 1.0, "top_p": 1.0,
    "top_logprobs": 0, "truncation": "disabled", "user": None, "parallel_tool_calls": True, "tool_choice": "auto",
    "tools": [], "text": {"format": {"type": "text"}, "verbosity": "medium"}, "metadata": {}, "background": False,
    "reasoning": {"effort": None, "summary": None}, "store": True,
}  # fmt: skip


def create_response(call: Call) -> Answer | JSON:
    """``POST /responses``."""
    body, project = call.body, call.project
    project.check_model(call.require("model"))
    items = as_items(body.get("input") or "")
    check_items(project, items)
    project.check_references({"tools": body.get("tools"), "prompt": body.get("prompt")})
    conversation = check_context(project, body)
    response = new_response(call, conversation)
    output = output_items(call, items)
    stored = response["store"]
    if response["background"] and not stored:
        raise APIError(400, "Background mode requires 'store' to be true.", param="background")
    final = {
        "status": "completed",
        "completed_at": call.world.now(),
        "output": output,
        "usage": usage(count_tokens(items), count_tokens(output)),
    }
    if stored:
        project.put("response", response)
        kept = keep_items(project, response["id"], items)
        for item in output:
            project.put("output_item", item, response["id"])
        project.attached[response["id"]] = final
        if conversation is not None:
            keep_items(project, conversation, [*kept, *output])
    return deliver(call, response, final)


def deliver(call: Call, response: JSON, final: JSON) -> Answer | JSON:
    """The response as it was asked for: at once, as a stream, or later."""
    if response["background"]:
        response["status"] = "queued"
        call.project.begin(response["id"], lambda: response.update(final))
    if call.body.get("stream"):
        response["status"] = "in_progress"
        return event_stream(frames(events(response, final)))
    if not response["background"]:
        response.update(final)
    return response


def check_context(project: Project, body: JSON) -> str | None:
    """The id of the conversation that is meant, if one is. Raises what OpenAI says about contexts of other projects."""
    previous, conversation = body.get("previous_response_id"), body.get("conversation")
    if previous and conversation:
        message = "Mutually exclusive parameters: 'previous_response_id' and 'conversation'."
        raise APIError(400, message, param="conversation", code="mutually_exclusive_parameters")
    if previous and previous not in project.shelf("response"):
        message = f"Previous response with id '{previous}' not found."
        raise APIError(400, message, param="previous_response_id", code="previous_response_not_found")
    if isinstance(conversation, dict):
        conversation = conversation.get("id")
    if conversation and conversation not in project.shelf("conversation"):
        raise missing("conversation", conversation)
    return conversation


def new_response(call: Call, conversation: str | None) -> JSON:
    """A response as it is before anything was put out."""
    body = call.body
    said = {name: default if body.get(name) is None else body[name] for name, default in DEFAULTS.items()}
    return {
        "id": call.world.mint("response"), "object": "response", "created_at": call.world.now(),
        "status": "in_progress", "completed_at": None, "error": None, "incomplete_details": None,
        "model": body["model"], "output": [], "usage": None, **said,
        "conversation": {"id": conversation} if conversation else None,
    }  # fmt: skip


def usage(given: int, put_out: int) -> JSON:
    """Token counts as responses show them."""
    return {
        "input_tokens": given, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": put_out, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": given + put_out,
    }  # fmt: skip


# Streams.


def frames(events: Iterator[JSON], after: int = -1) -> Iterator[bytes]:
    """Events with their numbers, as server-sent events; only those behind ``after``."""
    for number, event in enumerate(events):
        if number > after:
            yield named_event(event["type"], {**event, "sequence_number": number})


def events(response: JSON, final: JSON) -> Iterator[JSON]:
    """Everything that happens while a response is made."""
    early = {**response, "status": "in_progress", "output": [], "usage": None, "completed_at": None}
    if response["background"]:
        yield {"type": "response.queued", "response": {**early, "status": "queued"}}
    yield {"type": "response.created", "response": early}
    yield {"type": "response.in_progress", "response": early}
    for index, item in enumerate(final["output"]):
        yield from item_events(item, index)
    response.update(final)
    yield {"type": "response.completed", "response": response}


def item_events(item: JSON, index: int) -> Iterator[JSON]:
    """One item, from added to done."""
    started = {**item, "status": "in_progress"} if "status" in item else {**item}
    for late in ("content", "arguments", "encrypted_content"):
        if late in started:
            started[late] = [] if late == "content" else ""
    yield {"type": "response.output_item.added", "output_index": index, "item": started}
    place = {"item_id": item["id"], "output_index": index}
    if item["type"] == "message":
        yield from part_events(item["content"][0], {**place, "content_index": 0})
    elif item["type"] == "function_call":
        yield {"type": "response.function_call_arguments.delta", **place, "delta": item["arguments"]}
        yield {
            "type": "response.function_call_arguments.done",
            **place,
            "arguments": item["arguments"],
            "name": item["name"],
        }
    elif item["type"] in ("file_search_call", "code_interpreter_call"):
        for state in STATES[item["type"]]:
            yield {"type": f"response.{item['type']}.{state}", **place}
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


STATES = {
    "file_search_call": ("in_progress", "searching", "completed"),
    "code_interpreter_call": ("in_progress", "interpreting", "completed"),
}


def part_events(part: JSON, place: JSON) -> Iterator[JSON]:
    """The text of a message, word by word."""
    yield {"type": "response.content_part.added", **place, "part": {**part, "text": "", "annotations": []}}
    for word in words(part["text"]):
        yield {"type": "response.output_text.delta", **place, "delta": word, "logprobs": []}
    for number, note in enumerate(part["annotations"]):
        event = {"annotation_index": number, "annotation": note}
        yield {"type": "response.output_text.annotation.added", **place, **event}
    yield {"type": "response.output_text.done", **place, "text": part["text"], "logprobs": []}
    yield {"type": "response.content_part.done", **place, "part": part}


# Stored ones.


def retrieve_response(call: Call) -> Answer | JSON:
    """``GET /responses/{id}``, also as the stream it was, from behind ``starting_after``."""
    response = call.things["response"]
    if call.first("stream") != "true":
        return retrieve(call)
    call.project.work.pop(response["id"], None)
    after = call.first("starting_after", "-1")
    final = call.project.attached[response["id"]]
    return event_stream(frames(events(response, final), int(after) if after.isdecimal() else -1))


def cancel_response(call: Call) -> JSON:
    """``POST /responses/{id}/cancel``: only what runs in the background can be."""
    response = call.things["response"]
    if not response["background"]:
        raise APIError(400, "Cannot cancel a synchronous response.")
    if call.project.work.pop(response["id"], None) is not None:
        response["status"] = "cancelled"
    return response


def input_tokens(call: Call) -> JSON:
    """``POST /responses/input_tokens``."""
    items = as_items(call.body.get("input") or "")
    check_items(call.project, items)
    call.project.check_references({"tools": call.body.get("tools")})
    check_context(call.project, call.body)
    return {"object": "response.input_tokens", "input_tokens": count_tokens(items)}


def compact(call: Call) -> JSON:
    """``POST /responses/compact``: the user's messages, and all else in one sealed item."""
    call.project.check_model(call.require("model"))
    items = as_items(call.body.get("input") or "")
    check_items(call.project, items)
    check_context(call.project, call.body)
    said: list[Any] = [
        {**item, "id": item_id(call.project, "message"), "status": "completed"}
        for item in items
        if item.get("role") == "user"
    ]
    sealed = {
        "id": item_id(call.project, "compaction"),
        "type": "compaction",
        "encrypted_content": call.project.encrypt(),
    }
    return {
        "id": call.world.mint("response"), "object": "response.compaction", "created_at": call.world.now(),
        "output": [*said, sealed], "usage": usage(count_tokens(items), 1),
    }  # fmt: skip


ROUTES: Routes = {
    "POST /responses": create_response,
    "POST /responses/input_tokens": input_tokens,
    "POST /responses/compact": compact,
    "GET /responses/{response}": retrieve_response,
    "DELETE /responses/{response}": delete("response.deleted"),
    "POST /responses/{response}/cancel": cancel_response,
    "GET /responses/{response}/input_items": listing("item"),
}
