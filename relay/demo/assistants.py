"""Assistants, threads, messages and runs. A run ends by itself, adds a message that solves nothing, but answers."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

from .answers import chosen_tool, count_tokens, reply, words
from .messages import JSON, NAMED_DONE, Answer, APIError, Call, event_stream, named_event
from .projects import page
from .resources import delete, listing, plain, retrieve, update

if TYPE_CHECKING:
    from .projects import Project
    from .routes import Routes

OPEN = ("queued", "in_progress", "requires_action")


def tool_resources(project: Project, given: Any) -> JSON:
    """The resources of an assistant or a thread; inline vector stores become stores of the project."""
    from .stores import new_store  # in a ring

    resources: JSON = {name: dict(members) for name, members in (given or {}).items()}
    search = resources.get("file_search", {})
    for inline in search.pop("vector_stores", ()):
        store = new_store(project, None, inline.get("file_ids", ()))
        search.setdefault("vector_store_ids", []).append(store["id"])
    return resources


def create_assistant(call: Call) -> JSON:
    """``POST /assistants``."""
    body, project = call.body, call.project
    project.check_model(call.require("model"))
    project.check_references(body)
    members = {name: body.get(name, default) for name, default in ASSISTANT.items()}
    return project.new("assistant", **members, tool_resources=tool_resources(project, body.get("tool_resources")))


def new_thread(project: Project, body: JSON) -> JSON:
    """Make a thread, with the messages it starts with."""
    project.check_references(body)
    resources = tool_resources(project, body.get("tool_resources"))
    thread = project.new("thread", metadata=body.get("metadata") or {}, tool_resources=resources)
    for message in body.get("messages") or ():
        new_message(project, thread["id"], message)
    return thread


def new_message(project: Project, thread: str, body: JSON, **more: Any) -> JSON:
    """Add a message to a thread; a plain string becomes one part of text."""
    content = body.get("content")
    parts: list[JSON] = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    for part in parts:
        if part.get("type") == "text" and isinstance(part["text"], str):
            part["text"] = {"value": part["text"], "annotations": []}
    members: JSON = {
        "thread_id": thread, "role": body.get("role", "user"), "content": parts, "assistant_id": None, "run_id": None,
        "attachments": body.get("attachments") or [], "metadata": body.get("metadata") or {}, "status": "completed",
        "incomplete_details": None, "incomplete_at": None, "completed_at": project.world.now(),
    }  # fmt: skip
    return project.new("message", thread, **{**members, **more})


def create_thread(call: Call) -> JSON:
    """``POST /threads``."""
    return new_thread(call.project, call.body)


def create_message(call: Call) -> JSON:
    """``POST /threads/{id}/messages``."""
    call.require("role")
    call.require("content")
    call.project.check_references(call.body)
    return new_message(call.project, call.args["thread"], call.body)


def list_messages(call: Call) -> JSON:
    """``GET /threads/{id}/messages``, all or those of one run."""
    things = list(call.project.shelf("message", call.args["thread"]).values())
    if run := call.first("run_id"):
        call.project.get("run", run, call.args["thread"])
        things = [thing for thing in things if thing["run_id"] == run]
    return page("message", things, call.query)


# Runs.


def create_run(call: Call) -> Answer | JSON:
    """``POST /threads/{id}/runs``."""
    return start_run(call, call.things["thread"])


def create_thread_and_run(call: Call) -> Answer | JSON:
    """``POST /threads/runs``."""
    call.project.check_references(call.body)
    thread = new_thread(call.project, call.body.get("thread") or {})
    return start_run(call, thread, announce=thread)


def start_run(call: Call, thread: JSON, announce: JSON | None = None) -> Answer | JSON:
    """Make a run; it is finished at its first poll, after a while, or while its stream is read."""
    body, project = call.body, call.project
    assistant = project.get("assistant", call.require("assistant_id"))
    busy = [run["id"] for run in project.shelf("run", thread["id"]).values() if run["status"] in OPEN]
    if busy:
        raise APIError(400, f"Thread {thread['id']} already has an active run {busy[0]}.")
    if body.get("model"):
        project.check_model(body["model"])
    project.check_references(body)
    for message in body.get("additional_messages") or ():
        new_message(project, thread["id"], message)
    run = project.new("run", thread["id"], **run_members(call, thread, assistant))
    if body.get("stream"):
        first = [named_event("thread.created", announce)] if announce is not None else []
        first += run_events(run, "created", "queued")
        run.update(status="in_progress", started_at=project.world.now())
        first += run_events(run, "in_progress")
        return event_stream(iter([*first, *advance(project, run)]))
    project.begin(run["id"], partial(advance, project, run))
    return run


def run_members(call: Call, thread: JSON, assistant: JSON) -> JSON:
    """Everything a new run says about itself."""
    body, now = call.body, call.world.now()
    inherited = ("model", "instructions", "tools", "temperature", "top_p", "response_format")
    stamps = dict.fromkeys(("started_at", "cancelled_at", "failed_at", "completed_at", "required_action", "last_error"))
    limits = dict.fromkeys(("max_prompt_tokens", "max_completion_tokens", "incomplete_details", "usage"))
    return {
        "assistant_id": assistant["id"],
        "thread_id": thread["id"],
        "status": "queued",
        "expires_at": now + 600,
        **stamps,
        **limits,
        **{name: assistant[name] if body.get(name) is None else body[name] for name in inherited},
        "metadata": body.get("metadata") or {},
        "truncation_strategy": {"type": "auto", "last_messages": None},
        "tool_choice": body.get("tool_choice") or "auto",
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
    }


def advance(project: Project, run: JSON) -> list[bytes]:
    """Carry a run to its end, or to where it needs the client's tools. The events of its stream, all at once."""
    thread = run["thread_id"]
    run.update(status="in_progress", started_at=run["started_at"] or project.world.now())
    asked = next((m for m in reversed(project.shelf("message", thread).values()) if m["role"] == "user"), None)
    text = " ".join(part["text"]["value"] for part in asked["content"] if part["type"] == "text") if asked else ""
    name = None if project.shelf("run_step", run["id"]) else chosen_tool(run, text, "user")
    events = call_tool(project, run, name, text) if name else write_message(project, run, text)
    return [*events, NAMED_DONE]


def run_events(run: JSON, *names: str) -> list[bytes]:
    """The run as it is now, under each of these events."""
    return [named_event(f"thread.run.{name}", run) for name in names]


def new_step(project: Project, run: JSON, type_: str, details: JSON) -> JSON:
    """A step of a run, under way."""
    stamps = dict.fromkeys(("expired_at", "cancelled_at", "failed_at", "completed_at", "last_error", "usage"))
    return project.new(
        "run_step", run["id"], assistant_id=run["assistant_id"], thread_id=run["thread_id"], run_id=run["id"],
        type=type_, status="in_progress", step_details={"type": type_, type_: details}, metadata={}, **stamps,
    )  # fmt: skip


def call_tool(project: Project, run: JSON, name: str, text: str) -> list[bytes]:
    """Stop the run until the client has called a function."""
    function = {"name": name, "arguments": json.dumps({"demo": text[:80]})}
    calls = [{"id": project.world.mint("tool_call"), "type": "function", "function": function}]
    step = new_step(project, run, "tool_calls", {})
    step["step_details"]["tool_calls"] = calls
    run["status"] = "requires_action"
    run["required_action"] = {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": calls}}
    events = [named_event(f"thread.run.step.{state}", step) for state in ("created", "in_progress")]
    return events + run_events(run, "requires_action")


def write_message(project: Project, run: JSON, text: str) -> list[bytes]:
    """Add the assistant's message and finish the run."""
    now = project.world.now()
    for step in project.shelf("run_step", run["id"]).values():
        step.update(status="completed", completed_at=now)
    message = new_message(
        project, run["thread_id"], {"role": "assistant", "content": []},
        assistant_id=run["assistant_id"], run_id=run["id"], status="in_progress", completed_at=None,
    )  # fmt: skip
    step = new_step(project, run, "message_creation", {"message_id": message["id"]})
    events = [named_event(f"thread.run.step.{state}", step) for state in ("created", "in_progress")]
    events += [named_event(f"thread.message.{state}", message) for state in ("created", "in_progress")]
    said = reply(project, text)
    for word in words(said):
        delta = {"content": [{"index": 0, "type": "text", "text": {"value": word, "annotations": []}}]}
        body = {"id": message["id"], "object": "thread.message.delta", "delta": delta}
        events.append(named_event("thread.message.delta", body))
    message["content"] = [{"type": "text", "text": {"value": said, "annotations": []}}]
    message.update(status="completed", completed_at=now)
    usage: JSON = {"prompt_tokens": count_tokens(text), "completion_tokens": count_tokens(said)}
    usage["total_tokens"] = sum(usage.values())
    step.update(status="completed", completed_at=now, usage=usage)
    run.update(status="completed", completed_at=now, expires_at=None, required_action=None, usage=usage)
    done = [named_event("thread.message.completed", message), named_event("thread.run.step.completed", step)]
    return events + done + run_events(run, "completed")


def submit_tool_outputs(call: Call) -> Answer | JSON:
    """``POST .../submit_tool_outputs``: the run goes on."""
    run, project = call.things["run"], call.project
    if run["status"] != "requires_action":
        raise APIError(400, f'Runs in status "{run["status"]}" do not accept tool outputs.')
    wanted = {tool["id"] for tool in run["required_action"]["submit_tool_outputs"]["tool_calls"]}
    if wanted != {output.get("tool_call_id") for output in call.require("tool_outputs")}:
        raise APIError(400, f"Expected tool outputs for call_ids {sorted(wanted)}.")
    run.update(status="queued", required_action=None)
    if call.body.get("stream"):
        return event_stream(iter([*run_events(run, "queued"), *advance(project, run)]))
    project.begin(run["id"], partial(advance, project, run))
    return run


def cancel_run(call: Call) -> JSON:
    """``POST .../cancel``."""
    run = call.things["run"]
    if run["status"] not in OPEN:
        raise APIError(400, f"Cannot cancel run with status '{run['status']}'.")
    call.project.work.pop(run["id"], None)
    run.update(status="cancelling")

    def finish() -> None:
        run.update(status="cancelled", cancelled_at=call.world.now(), required_action=None)

    call.project.begin(run["id"], finish)
    return run


ASSISTANT: JSON = {
    "name": None, "description": None, "model": None, "instructions": "", "tools": [], "metadata": {},
    "temperature": 1.0, "top_p": 1.0, "response_format": "auto",
}  # fmt: skip

ROUTES: Routes = {
    **plain("/assistants", "assistant", "assistant.deleted"),
    "POST /assistants": create_assistant,
    "POST /threads": create_thread,
    "GET /threads/{thread}": retrieve,
    "POST /threads/{thread}": update,
    "DELETE /threads/{thread}": delete("thread.deleted"),
    "POST /threads/{thread}/messages": create_message,
    "GET /threads/{thread}/messages": list_messages,
    "GET /threads/{thread}/messages/{message}": retrieve,
    "POST /threads/{thread}/messages/{message}": update,
    "DELETE /threads/{thread}/messages/{message}": delete("thread.message.deleted"),
    "POST /threads/runs": create_thread_and_run,
    "POST /threads/{thread}/runs": create_run,
    "GET /threads/{thread}/runs": listing("run"),
    "GET /threads/{thread}/runs/{run}": retrieve,
    "POST /threads/{thread}/runs/{run}": update,
    "POST /threads/{thread}/runs/{run}/cancel": cancel_run,
    "POST /threads/{thread}/runs/{run}/submit_tool_outputs": submit_tool_outputs,
    "GET /threads/{thread}/runs/{run}/steps": listing("run_step"),
    "GET /threads/{thread}/runs/{run}/steps/{run_step}": retrieve,
}
