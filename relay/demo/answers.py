"""Answers that a model would give: chat, completions, embeddings, moderations, and the list of models."""

from __future__ import annotations

import array
import base64
import hashlib
import json
import math
import re
from typing import TYPE_CHECKING, Any

from .messages import DONE, JSON, Answer, APIError, Call, data_event, event_stream
from .projects import missing, page
from .resources import delete, retrieve, update

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .projects import Project
    from .routes import Routes

COUNT = re.compile(r"\bcount to (\d{1,5})\b", re.IGNORECASE)
WORD = re.compile(r"\S+\s*")
LONGEST_ECHO = 2000  # characters of the question that come back


def words(text: str) -> list[str]:
    """A text as the pieces a stream shows it in; ``"".join`` gives it back."""
    return WORD.findall(text)


def reply(project: Project, text: str) -> str:
    """What the model says to ``text``: the numbers if it asks to count, else its own words."""
    if found := COUNT.search(text):
        return " ".join(map(str, range(1, int(found[1]) + 1)))
    return f"This is the demo upstream, project {project.name}. You said: {text[:LONGEST_ECHO]}".rstrip()


def text_of(content: Any) -> str:
    """The text in a message's content, whether a string or a list of parts."""
    if isinstance(content, str):
        return content
    return " ".join(str(part.get("text", "")) for part in content or () if isinstance(part, dict))


def count_tokens(value: Any) -> int:
    """How many tokens a value would be: a word is one, and so is every fourth character of a long one."""
    text = value if isinstance(value, str) else json.dumps(value)
    return max(1, sum(1 + len(word) // 8 for word in text.split()))


def example(schema: Any) -> Any:
    """The plainest value that a JSON schema allows."""
    if not isinstance(schema, dict):
        return None
    if options := schema.get("enum"):
        return options[0]
    if schema.get("type") == "object" or "properties" in schema:
        return {name: example(member) for name, member in schema.get("properties", {}).items()}
    plain: dict[str, Any] = {"string": "demo", "integer": 1, "number": 1.5, "boolean": True, "array": []}
    return plain.get(str(schema.get("type")))


# Chat.


def create_chat(call: Call) -> Answer | JSON:
    """``POST /chat/completions``."""
    body, project = call.body, call.project
    model, messages = call.require("model"), call.require("messages")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise APIError(
            400, "Invalid type for 'messages': expected an array of objects.", param="messages", code="invalid_type"
        )
    project.check_model(model)
    project.check_references(messages)
    for message in messages:
        heard = message.get("audio")
        if isinstance(heard, dict) and heard.get("id") not in project.known.get("chat_audio", ()):
            raise missing("chat_audio", str(heard.get("id")))
    choices = [chat_choice(call, index) for index in range(min(int(body.get("n") or 1), 16))]
    said = sum(count_tokens(choice["message"]) for choice in choices)
    completion = {
        "id": call.world.mint("chat_completion"),
        "object": "chat.completion",
        "created": call.world.now(),
        "model": model,
        "choices": choices,
        "usage": chat_usage(count_tokens(messages), said),
        "service_tier": "default",
        "system_fingerprint": "fp_demo",
    }
    if body.get("store"):
        project.put("chat_completion", {**completion, "metadata": body.get("metadata") or {}})
        project.attached[completion["id"]] = [
            {"id": f"{completion['id']}-{at}", "content": None, **message} for at, message in enumerate(messages)
        ]
    if body.get("stream"):
        wants_usage = (body.get("stream_options") or {}).get("include_usage", False)
        return event_stream(chat_events(completion, wants_usage=wants_usage))
    return completion


def chat_choice(call: Call, index: int) -> JSON:
    """One choice: a text, a call of a tool, or speech."""
    body = call.body
    message: JSON = {"role": "assistant", "content": None, "refusal": None, "annotations": []}
    choice = {"index": index, "message": message, "logprobs": None, "finish_reason": "stop"}
    text = text_of(body["messages"][-1].get("content") if body["messages"] else "")
    if name := chosen_tool(body, text, body["messages"][-1].get("role") if body["messages"] else ""):
        function = {"name": name, "arguments": json.dumps({"demo": text[:80]})}
        message["tool_calls"] = [{"id": call.world.mint("tool_call"), "type": "function", "function": function}]
        choice["finish_reason"] = "tool_calls"
        return choice
    said = formatted(body.get("response_format"), reply(call.project, text))
    most = body.get("max_completion_tokens") or body.get("max_tokens")
    if most and len(pieces := words(said)) > int(most):
        said, choice["finish_reason"] = "".join(pieces[: int(most)]), "length"
    if "audio" in (body.get("modalities") or ()):
        audio = call.project.new("chat_audio")
        expires = call.world.now() + 3600
        message["audio"] = {
            "id": audio["id"],
            "expires_at": expires,
            "data": base64.b64encode(b"\0" * 960).decode(),
            "transcript": said,
        }
    else:
        message["content"] = said
    return choice


def chosen_tool(body: JSON, text: str, role: str) -> str | None:
    """The function to call: the one demanded, or one that the user's text names."""
    tools = [
        tool.get("function", tool).get("name") for tool in body.get("tools") or () if tool.get("type") == "function"
    ]
    choice = body.get("tool_choice", "auto")
    if isinstance(choice, dict):
        return str(choice.get("function", choice).get("name"))
    if choice == "required" and tools:
        return str(tools[0])
    if choice == "none" or role != "user":
        return None
    return next((str(name) for name in tools if name and name in text), None)


def formatted(wanted: Any, text: str) -> str:
    """The reply in the format asked for; both APIs' shapes of ``json_schema`` are understood."""
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind == "json_schema":
        return json.dumps(example(wanted.get("json_schema", wanted).get("schema")))
    return json.dumps({"reply": text}) if kind == "json_object" else text


def chat_usage(prompt: int, completion: int) -> JSON:
    """Token counts as chat shows them."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0, "audio_tokens": 0, "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
        },
    }  # fmt: skip


def chat_events(completion: JSON, *, wants_usage: bool) -> Iterator[bytes]:
    """A completion as the chunks it would have come in."""
    shared = {name: completion[name] for name in ("id", "created", "model", "service_tier", "system_fingerprint")}
    shared["object"] = "chat.completion.chunk"
    if wants_usage:
        shared["usage"] = None
    for choice in completion["choices"]:
        index = choice["index"]
        for delta in chat_deltas(choice["message"]):
            yield data_event(
                {**shared, "choices": [{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}]}
            )
        end = {"index": index, "delta": {}, "logprobs": None, "finish_reason": choice["finish_reason"]}
        yield data_event({**shared, "choices": [end]})
    if wants_usage:
        yield data_event({**shared, "choices": [], "usage": completion["usage"]})
    yield DONE


def chat_deltas(message: JSON) -> Iterator[JSON]:
    """The pieces of one message."""
    yield {"role": "assistant", "content": "" if message["content"] is not None else None, "refusal": None}
    for word in words(message["content"] or ""):
        yield {"content": word}
    for at, tool in enumerate(message.get("tool_calls", ())):
        function = tool["function"]
        yield {"tool_calls": [{**tool, "index": at, "function": {**function, "arguments": ""}}]}
        yield {"tool_calls": [{"index": at, "function": {"arguments": function["arguments"]}}]}
    if audio := message.get("audio"):
        yield {"audio": {"id": audio["id"], "transcript": audio["transcript"]}}
        yield {"audio": {"data": audio["data"]}}
        yield {"audio": {"expires_at": audio["expires_at"]}}


def list_chats(call: Call) -> JSON:
    """``GET /chat/completions``: the stored ones, by model and metadata."""
    things = list(call.project.shelf("chat_completion").values())
    if model := call.first("model"):
        things = [thing for thing in things if thing["model"] == model]
    for name, values in call.query.items():
        if name.startswith("metadata["):
            things = [thing for thing in things if thing["metadata"].get(name[9:-1]) == values[0]]
    return page("chat_completion", things, call.query, order="asc")


def list_chat_messages(call: Call) -> JSON:
    """``GET /chat/completions/{id}/messages``: what was asked."""
    return page("chat_completion", call.project.attached[call.args["chat_completion"]], call.query, order="asc")


# Completions, embeddings, moderations.


def create_completion(call: Call) -> Answer | JSON:
    """``POST /completions``."""
    call.project.check_model(call.require("model"))
    prompt = call.body.get("prompt") or ""
    prompts = [prompt] if isinstance(prompt, str) else prompt
    texts = [reply(call.project, str(text)) for text in prompts]
    answer = {
        "id": call.world.mint("completion"),
        "object": "text_completion",
        "created": call.world.now(),
        "model": call.body["model"],
        "choices": [
            {"text": text, "index": at, "logprobs": None, "finish_reason": "stop"} for at, text in enumerate(texts)
        ],
        "usage": chat_usage(count_tokens(prompts), count_tokens(texts)),
    }
    if not call.body.get("stream"):
        return answer

    def events() -> Iterator[bytes]:
        shared = {name: member for name, member in answer.items() if name != "usage"}
        for at, text in enumerate(texts):
            pieces = words(text)
            for number, word in enumerate(pieces, 1):
                end = "stop" if number == len(pieces) else None
                yield data_event(
                    {**shared, "choices": [{"text": word, "index": at, "logprobs": None, "finish_reason": end}]}
                )
        if (call.body.get("stream_options") or {}).get("include_usage"):
            yield data_event({**shared, "choices": [], "usage": answer["usage"]})
        yield DONE

    return event_stream(events())


SIZES = {"text-embedding-3-large": 3072}


def create_embedding(call: Call) -> JSON:
    """``POST /embeddings``: a unit vector made of the input's hash, as floats or base64."""
    model, given = call.require("model"), call.require("input")
    call.project.check_model(model)
    inputs = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
    wanted = call.body.get("dimensions")
    size = SIZES.get(model, 1536) if wanted is None else int(wanted)
    if not 1 <= size <= 3072:  # noqa: PLR2004 the largest model's
        raise APIError(400, "Invalid value for 'dimensions'.", param="dimensions")
    data = [
        {"object": "embedding", "index": at, "embedding": embedding(text, size, call.body.get("encoding_format"))}
        for at, text in enumerate(inputs[:2048])
    ]
    tokens = count_tokens(inputs)
    return {"object": "list", "data": data, "model": model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def embedding(value: Any, size: int, encoding: str | None) -> list[float] | str:
    """The vector of one input; equal inputs give equal vectors. A few numbers repeat, since nobody should wait."""
    few = [byte - 127.5 for byte in hashlib.sha256(json.dumps(value).encode()).digest()]
    rounds, rest = divmod(size, len(few))
    scale = 1 / math.sqrt(rounds * sum(x * x for x in few) + sum(x * x for x in few[:rest]))
    vector = (array.array("f", [x * scale for x in few]) * (rounds + 1))[:size]
    return base64.b64encode(vector.tobytes()).decode() if encoding == "base64" else vector.tolist()


CATEGORIES = (
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm",
    "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence", "violence/graphic",
)  # fmt: skip


def create_moderation(call: Call) -> JSON:
    """``POST /moderations``: only a text that speaks of violence is flagged."""
    given = call.require("input")
    model = call.body.get("model") or "omni-moderation-latest"
    call.project.check_model(model)
    inputs = [given] if isinstance(given, str) else given
    results = []
    for text in inputs:
        found = "kill" in str(text).lower() or "violence" in str(text).lower()
        results.append(
            {
                "flagged": found,
                "categories": {name: found and name == "violence" for name in CATEGORIES},
                "category_scores": {name: 0.98 if found and name == "violence" else 1e-5 for name in CATEGORIES},
                "category_applied_input_types": {name: ["text"] for name in CATEGORIES},
            }
        )
    return {"id": call.world.mint("moderation"), "model": model, "results": results}


# Models.


def model_object(name: str) -> JSON:
    """A model that everyone has."""
    return {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "system"}


def list_models(call: Call) -> JSON:
    """``GET /models``: everyone's and the project's own."""
    own = list(call.project.shelf("model").values())
    return {"object": "list", "data": [model_object(name) for name in sorted(call.world.models)] + own}


def retrieve_model(call: Call) -> JSON:
    """``GET /models/{model}``."""
    name = call.args["name"]
    if call.world.knows_model(name):
        return model_object(name)
    return call.project.get("model", name)


def delete_model(call: Call) -> JSON:
    """``DELETE /models/{model}``: only fine-tuned ones can go."""
    name = call.args["name"]
    if call.world.knows_model(name):
        raise APIError(403, "You have insufficient permissions for this operation.")
    call.project.get("model", name)
    call.project.drop("model", name)
    return {"id": name, "object": "model", "deleted": True}


ROUTES: Routes = {
    "GET /models": list_models,
    "GET /models/{name}": retrieve_model,
    "DELETE /models/{name}": delete_model,
    "POST /chat/completions": create_chat,
    "GET /chat/completions": list_chats,
    "GET /chat/completions/{chat_completion}": retrieve,
    "POST /chat/completions/{chat_completion}": update,
    "DELETE /chat/completions/{chat_completion}": delete("chat.completion.deleted"),
    "GET /chat/completions/{chat_completion}/messages": list_chat_messages,
    "POST /completions": create_completion,
    "POST /embeddings": create_embedding,
    "POST /moderations": create_moderation,
}
