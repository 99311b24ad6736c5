"""The items of responses and conversations: their ids, what an input refers to, what a model puts out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from .answers import chosen_tool, formatted, reply, text_of, words
from .bodies import Blob, Joined
from .messages import JSON, APIError
from .projects import HEX, missing

if TYPE_CHECKING:
    from .messages import Call
    from .projects import Project

PREFIXES = {
    "message": "msg_", "reasoning": "rs_", "function_call": "fc_", "function_call_output": "fco_",
    "file_search_call": "fs_", "web_search_call": "ws_", "code_interpreter_call": "ci_",
    "image_generation_call": "ig_", "mcp_call": "mcp_", "compaction": "cmp_", "custom_tool_call": "ctc_",
}  # fmt: skip
ITEM_ID = 50


def item_id(project: Project, type_: str) -> str:
    """A new id for an item of this type."""
    return PREFIXES.get(type_, "item_") + "".join(project.world.rng.choices(HEX, k=ITEM_ID))


def as_items(given: Any) -> list[JSON]:
    """An input as a list of items; a plain string is what a user says."""
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": given}]}]
    if not isinstance(given, list) or not all(isinstance(item, dict) for item in given):
        raise APIError(
            400, "Invalid type for 'input': expected a string or an array.", param="input", code="invalid_type"
        )
    return given


def check_items(project: Project, items: list[JSON]) -> None:
    """Raise what OpenAI says when an item is another project's."""
    project.check_references(items)
    for item in items:
        blob, id_ = item.get("encrypted_content"), item.get("id")
        if isinstance(blob, str):
            if not project.decrypts(blob):
                message = (
                    f"The encrypted content for item {id_} could not be verified. "
                    "Reason: Encrypted content could not be decrypted or parsed."
                )
                raise APIError(400, message, code="invalid_encrypted_content")
        elif isinstance(id_, str) and not any(id_ in project.known.get(kind, ()) for kind in ("item", "output_item")):
            raise missing("item", id_)


def keep_items(project: Project, parent: str, items: list[JSON]) -> list[JSON]:
    """Put items on the shelf below a response or a conversation; those without an id get one."""
    kept = []
    for item in items:
        if item.get("type") == "item_reference":
            continue
        type_ = item.get("type", "message")
        whole = {"id": item.get("id") or item_id(project, type_), "type": type_, "status": "completed", **item}
        if type_ == "message" and isinstance(item.get("content"), str):
            whole["content"] = [{"type": "input_text", "text": item["content"]}]
        kept.append(project.put("item", whole, parent))
    return kept


def asked_text(items: list[JSON]) -> str:
    """What the user said last."""
    return next((text_of(item.get("content")) for item in reversed(items) if item.get("role") == "user"), "")


def output_items(call: Call, items: list[JSON]) -> list[JSON]:
    """What the model puts out: reasoning and tool calls as asked for, then a function call or a message."""
    body, project = call.body, call.project
    wanted, text = body.get("include") or (), asked_text(items)
    output: list[JSON] = []
    if (
        body.get("reasoning")
        or "reasoning.encrypted_content" in wanted
        or str(body["model"]).startswith(("o1", "o3", "o4", "gpt-5"))
    ):
        output.append(reasoning_item(project, sealed="reasoning.encrypted_content" in wanted))
    annotations: list[JSON] = []
    for tool in body.get("tools") or ():
        if tool.get("type") == "file_search":
            output.append(file_search_item(project, tool, text, shown="file_search_call.results" in wanted))
        elif tool.get("type") == "code_interpreter":
            output.append(code_item(project, tool, annotations))
    if name := chosen_tool(body, text, "user" if items and items[-1].get("role") == "user" else ""):
        output.append(
            {
                "id": item_id(project, "function_call"), "type": "function_call", "status": "completed",
                "call_id": project.world.mint("tool_call"), "name": name, "arguments": json.dumps({"demo": text[:80]}),
            }
        )  # fmt: skip
        return output
    said = formatted((body.get("text") or {}).get("format"), reply(project, text))
    if most := body.get("max_output_tokens"):
        said = "".join(words(said)[: int(most)])
    part = {"type": "output_text", "text": said, "annotations": annotations, "logprobs": []}
    output.append(
        {
            "id": item_id(project, "message"),
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [part],
        }
    )
    return output


def reasoning_item(project: Project, *, sealed: bool) -> JSON:
    """A thought, with its sealed form if that was asked for."""
    item: JSON = {"id": item_id(project, "reasoning"), "type": "reasoning", "summary": []}
    if sealed:
        item["encrypted_content"] = project.encrypt()
    return item


def file_search_item(project: Project, tool: JSON, text: str, *, shown: bool) -> JSON:
    """A search through the vector stores of a tool; its results show the ids of files."""
    results = [
        {
            "file_id": file["id"],
            "filename": project.shelf("file").get(file["id"], {}).get("filename"),
            "score": 0.9,
            "text": "",
            "attributes": {},
        }
        for store in tool.get("vector_store_ids") or ()
        for file in project.shelf("vector_store_file", store).values()
    ]
    return {
        "id": item_id(project, "file_search_call"), "type": "file_search_call", "status": "completed",
        "queries": [text], "results": results if shown else None,
    }  # fmt: skip


def code_item(project: Project, tool: JSON, annotations: list[JSON]) -> JSON:
    """A run of code in the tool's container, or in a new one; it leaves a file that the message will cite."""
    container = tool.get("container")
    if not isinstance(container, str):
        container = new_container(project, {"name": "auto"})["id"]
    file = new_container_file(project, container, "/mnt/data/result.txt", "assistant", Blob(b"42\n"))
    annotations.append(
        {
            "type": "container_file_citation", "container_id": container, "file_id": file["id"],
            "filename": "result.txt", "start_index": 0, "end_index": 4,
        }
    )  # fmt: skip
    return {
        "id": item_id(project, "code_interpreter_call"), "type": "code_interpreter_call", "status": "completed",
        "code": "print(42)", "container_id": container, "outputs": None,
    }  # fmt: skip


def new_container(project: Project, body: JSON) -> JSON:
    """Make a container."""
    return project.new(
        "container", name=body.get("name"), status="running", last_active_at=project.world.now(),
        expires_after=body.get("expires_after") or {"anchor": "last_active_at", "minutes": 20},
        memory_limit=body.get("memory_limit") or "1g",
    )  # fmt: skip


def new_container_file(project: Project, container: str, path: str, source: str, content: Blob | Joined) -> JSON:
    """Put a file into a container."""
    file = project.new(
        "container_file", container, container_id=container, bytes=content.size, path=path, source=source
    )
    project.attached[file["id"]] = content
    return file
