"""Projects and the things that only they see: ids in OpenAI's formats, shelves, pages, references, work under way."""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .messages import JSON, APIError

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator, Mapping

MOST_THINGS = 1000  # of a kind, in a project, below one parent; the oldest leaves

BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
HEX = "0123456789abcdef"


@dataclass(frozen=True, slots=True)
class Kind:
    """One sort of thing: how its ids look, what it calls itself, and what is said when it is not there."""

    prefix: str
    length: int
    alphabet: str
    object: str
    missing: str
    param: str | None = None
    code: str | None = None


def _kind(prefix: str, length: int, object_: str, missing: str, *error: str | None) -> Kind:
    return Kind(prefix, length, BASE62 if length < 32 else HEX, object_, missing, *error)  # noqa: PLR2004


KINDS: dict[str, Kind] = {  #    prefix      length  object     what a 404 says
    "assistant": _kind("asst_", 24, "assistant", "No assistant found with id '{id}'."),
    "thread": _kind("thread_", 24, "thread", "No thread found with id '{id}'."),
    "message": _kind("msg_", 24, "thread.message", "No message found with id '{id}'."),
    "run": _kind("run_", 24, "thread.run", "No run found with id '{id}'."),
    "run_step": _kind("step_", 24, "thread.run.step", "No run step found with id '{id}'."),
    "file": _kind("file-", 22, "file", "No such File object: {id}", "id"),
    "upload": _kind("upload_", 32, "upload", "No such Upload object: {id}", "upload_id"),
    "upload_part": _kind("part_", 32, "upload.part", "No such Part object: {id}", "part_ids"),
    "batch": _kind("batch_", 32, "batch", "No batch found with id '{id}'."),
    "vector_store": _kind("vs_", 32, "vector_store", "Vector store with id [{id}] not found."),
    "vector_store_file": _kind("file-", 22, "vector_store.file", "No file found with id '{id}' in this vector store."),
    "vector_store_batch": _kind("vsfb_", 32, "vector_store.file_batch", "No file batch found with id '{id}'."),
    "chat_completion": _kind("chatcmpl-", 29, "chat.completion", "Chat completion with id '{id}' not found."),
    "completion": _kind("cmpl-", 29, "text_completion", "Completion with id '{id}' not found."),
    "chat_audio": _kind(
        "audio_", 32, "chat.completion.audio", "Audio with id '{id}' not found.", None, "audio_not_found"
    ),
    "response": _kind("resp_", 50, "response", "Response with id '{id}' not found.", "id"),
    "conversation": _kind("conv_", 50, "conversation", "Conversation with id '{id}' not found."),
    "item": _kind("msg_", 50, "message", "Item with id '{id}' not found."),
    "reasoning": _kind("rs_", 50, "reasoning", "Item with id '{id}' not found."),
    "function_call": _kind("fc_", 50, "function_call", "Item with id '{id}' not found."),
    "container": _kind("cntr_", 48, "container", "Container with id '{id}' not found."),
    "container_file": _kind("cfile_", 48, "container.file", "Container file with id '{id}' not found."),
    "ft_job": _kind(
        "ftjob-", 24, "fine_tuning.job", "Could not find fine tune: {id}", "fine_tuning_job_id", "fine_tune_not_found"
    ),
    "ft_event": _kind("ftevent-", 24, "fine_tuning.job.event", "No event {id}"),
    "ft_checkpoint": _kind("ftckpt_", 24, "fine_tuning.job.checkpoint", "No checkpoint {id}"),
    "ft_permission": _kind("cp_", 24, "checkpoint.permission", "No permission {id}"),
    "model": _kind("ft:", 8, "model", "The model '{id}' does not exist", "model", "model_not_found"),
    "eval": _kind("eval_", 32, "eval", "Eval not found: {id}"),
    "eval_run": _kind("evalrun_", 32, "eval.run", "Eval run not found: {id}"),
    "eval_output_item": _kind("outputitem_", 32, "eval.run.output_item", "Output item not found: {id}"),
    "video": _kind("video_", 48, "video", "Video with id '{id}' not found."),
    "video_character": _kind("char_", 48, "video.character", "Character with id '{id}' not found."),
    "skill": _kind("skill_", 48, "skill", "Skill with id '{id}' not found."),
    "skill_version": _kind("skillver_", 48, "skill.version", "Skill version '{id}' not found."),
    "chatkit_session": _kind("cksess_", 48, "chatkit.session", "Session '{id}' not found."),
    "chatkit_thread": _kind("cthr_", 48, "chatkit.thread", "Thread '{id}' not found."),
    "chatkit_item": _kind("cthi_", 48, "chatkit.thread_item", "Thread item '{id}' not found."),
    "client_secret": _kind("ek_", 32, "realtime.client_secret", "No client secret {id}"),
    "realtime_session": _kind("sess_", 24, "realtime.session", "No session {id}"),
    "realtime_call": _kind("rtc_", 32, "realtime.call", "No call found with id '{id}'."),
    "voice_consent": _kind("cons_", 24, "audio.voice_consent", "Voice consent '{id}' not found."),
    "voice": _kind("voice_", 24, "audio.voice", "Voice '{id}' not found."),
    "moderation": _kind("modr-", 24, "moderation", "No moderation {id}"),
    "tool_call": _kind("call_", 24, "tool_call", "No tool call {id}"),
    "request": _kind("req_", 32, "request", "No request {id}"),
    "organization": _kind("org-", 24, "organization", "No organization {id}"),
    "project": _kind("proj_", 24, "project", "No project {id}"),
}

MODELS = (
    "gpt-3.5-turbo", "gpt-3.5-turbo-instruct", "gpt-4", "gpt-4-turbo", "gpt-4o", "gpt-4o-mini", "gpt-4.1",
    "gpt-4.1-mini", "gpt-4.1-nano", "gpt-5", "gpt-5-mini", "gpt-5-nano", "gpt-5.1", "gpt-5.2",
    "gpt-5.4", "gpt-5.4-mini", "gpt-5.4-nano", "gpt-5.5", "o1", "o1-mini", "o3", "o3-mini", "o4-mini",
    "gpt-4o-audio-preview", "gpt-4o-realtime-preview", "gpt-realtime", "gpt-audio", "gpt-4o-transcribe",
    "gpt-4o-mini-transcribe", "gpt-4o-mini-tts", "tts-1", "tts-1-hd", "whisper-1", "dall-e-2", "dall-e-3",
    "gpt-image-1", "gpt-image-1-mini", "text-embedding-3-small", "text-embedding-3-large", "text-embedding-ada-002",
    "omni-moderation-latest", "text-moderation-latest", "babbage-002", "davinci-002", "sora-2", "sora-2-pro",
    "computer-use-preview", "codex-mini-latest",
)  # fmt: skip
SNAPSHOT = re.compile(r"-(?:\d{4}-\d{2}-\d{2}|\d{4}|latest|preview)$")

# Members of a body that name a thing, wherever they stand.
REFERENCES: dict[str, tuple[str, ...]] = {
    "file_id": ("file", "container_file"),
    "file_ids": ("file",),
    "input_file_id": ("file",),
    "training_file": ("file",),
    "validation_file": ("file",),
    "vector_store_ids": ("vector_store",),
    "assistant_id": ("assistant",),
    "container_id": ("container",),
    "container": ("container",),
    "skill_id": ("skill",),
    "consent": ("voice_consent",),
}
# What a user may fill with anything, ids of other people included.
NOT_OURS = frozenset({"metadata", "parameters", "schema", "arguments", "attributes"})


@dataclass(slots=True)
class World:
    """What all projects share: time, chance, the models, and the secrets handed out for realtime."""

    rng: random.Random
    clock: Callable[[], float]
    pace: float
    models: frozenset[str]
    secrets: dict[str, Project] = field(default_factory=dict)

    def mint(self, kind: str) -> str:
        """A new id of this kind, in OpenAI's format."""
        form = KINDS[kind]
        return form.prefix + "".join(self.rng.choices(form.alphabet, k=form.length))

    def now(self) -> int:
        """Seconds since 1970, as ``created_at`` has them."""
        return int(time.time())

    def knows_model(self, name: str) -> bool:
        """Whether everyone may use this model; a dated snapshot counts as its family."""
        return name in self.models or SNAPSHOT.sub("", name) in self.models


class Project:
    """One project: everything its keys made, and nothing else."""

    def __init__(self, name: str, world: World) -> None:
        self.name = name
        self.world = world
        self.id = world.mint("project")
        self.organization = world.mint("organization")
        self.shelves: dict[tuple[str, str], dict[str, JSON]] = {}
        self.known: dict[str, set[str]] = {}  # kind -> ids, below whatever parent
        self.attached: dict[str, Any] = {}  # id -> what belongs to it and is never shown
        self.work: dict[str, tuple[float, Callable[[], object]]] = {}
        self._below: dict[str, set[str]] = {}  # parent -> kinds that have a shelf below it
        self._secret = world.rng.randbytes(16)

    def shelf(self, kind: str, parent: str = "") -> dict[str, JSON]:
        """The things of a kind below ``parent``, oldest first."""
        shelf = self.shelves.get((kind, parent))
        if shelf is None:
            shelf = self.shelves[kind, parent] = {}
            self._below.setdefault(parent, set()).add(kind)
        return shelf

    def new(self, kind: str, parent: str = "", /, **members: Any) -> JSON:
        """Make a thing with a fresh id and put it on its shelf; ``members`` may replace what is filled in."""
        thing = {"id": self.world.mint(kind), "object": KINDS[kind].object, "created_at": self.world.now(), **members}
        return self.put(kind, thing, parent)

    def put(self, kind: str, thing: JSON, parent: str = "") -> JSON:
        """Put a thing on its shelf; the oldest makes room when there are too many."""
        shelf = self.shelf(kind, parent)
        shelf[thing["id"]] = thing
        self.known.setdefault(kind, set()).add(thing["id"])
        if len(shelf) > MOST_THINGS:
            self.drop(kind, next(iter(shelf)), parent)
        return thing

    def drop(self, kind: str, id_: str, parent: str = "") -> None:
        """Forget a thing, what is attached to it, and what is below it."""
        self.shelf(kind, parent).pop(id_, None)
        if kind not in {"vector_store_file", "item"}:  # of which others hold the content
            self.attached.pop(id_, None)
        self.known.get(kind, set()).discard(id_)
        self.work.pop(id_, None)
        for below in self._below.pop(id_, ()):
            for child in list(self.shelves[below, id_]):
                self.drop(below, child, id_)
            del self.shelves[below, id_]

    def get(self, kind: str, id_: str, parent: str = "") -> JSON:
        """A thing of this project, or OpenAI's 404 about it."""
        thing = self.shelf(kind, parent).get(id_)
        if thing is None:
            raise missing(kind, id_)
        return thing

    def begin(self, id_: str, finish: Callable[[], object], steps: int = 10) -> None:
        """Start work on a thing: it ends at the first look at it, or after ``steps`` times the pace if there is one."""
        pace = self.world.pace
        self.work[id_] = (self.world.clock() + steps * pace if pace else math.inf, finish)

    def settle(self, id_: str) -> None:
        """End the work on a thing, if there is any."""
        _, finish = self.work.pop(id_, (0, None))
        if finish is not None:
            finish()

    def tick(self) -> None:
        """End all work whose time has come."""
        now = self.world.clock()
        for id_ in [id_ for id_, (ready, _) in self.work.items() if ready <= now]:
            self.settle(id_)

    def page(
        self, kind: str, parent: str, query: Mapping[str, list[str]], *, order: str = "desc", limit: int = 20
    ) -> JSON:
        """One page of a shelf, by ``order``, ``limit`` and the cursors ``after`` and ``before``."""
        return page(kind, list(self.shelf(kind, parent).values()), query, order=order, limit=limit)

    def check_model(self, name: str) -> None:
        """Raise OpenAI's 404 unless this project may use the model."""
        if not self.world.knows_model(name) and name not in self.shelf("model"):
            message = f"The model `{name}` does not exist or you do not have access to it."
            raise APIError(404, message, code="model_not_found")

    def check_references(self, body: Any) -> None:
        """Raise OpenAI's 404 if a body names a thing that this project does not have."""
        for kinds, id_ in references(body):
            if not any(id_ in self.known.get(kind, ()) for kind in kinds):
                raise missing(kinds[0], id_)

    def encrypt(self) -> str:
        """An opaque text that only this project takes back: ``encrypted_content`` of a reasoning item."""
        nonce = self.world.rng.randbytes(48)
        return "gAAAAAB" + base64.urlsafe_b64encode(nonce + self._sign(nonce)).decode()

    def decrypts(self, text: str) -> bool:
        """Whether :meth:`encrypt` of this project made the text."""
        try:
            raw = base64.urlsafe_b64decode(text.removeprefix("gAAAAAB"))
        except ValueError:
            return False
        return hmac.compare_digest(self._sign(raw[:48]), raw[48:])

    def _sign(self, nonce: bytes) -> bytes:
        return hmac.digest(self._secret, nonce, hashlib.sha256)


def missing(kind: str, id_: str) -> APIError:
    """What OpenAI says when a thing is not there, or is another project's: the two look the same."""
    form = KINDS[kind]
    return APIError(404, form.missing.format(id=id_), param=form.param, code=form.code)


def references(value: Any) -> Iterator[tuple[tuple[str, ...], str]]:
    """All ids that a body names, with the kinds each may be of."""
    if isinstance(value, list):
        for element in value:
            yield from references(element)
    elif isinstance(value, dict):
        if value.get("type") == "file_id" and isinstance(value.get("id"), str):
            yield ("file",), value["id"]  # the source of an eval run
        for name, member in value.items():
            if kinds := REFERENCES.get(name):
                for id_ in member if isinstance(member, list) else [member]:
                    if isinstance(id_, str):
                        yield kinds, id_
            if name not in NOT_OURS and isinstance(member, (dict, list)):
                yield from references(member)


def page(
    kind: str, things: list[JSON], query: Mapping[str, list[str]], *, order: str = "desc", limit: int = 20
) -> JSON:
    """Cut one page out of ``things`` (oldest first). Raises OpenAI's 400 and 404 for parameters it cannot obey."""
    order = query.get("order", [order])[0]
    if order not in ("asc", "desc"):
        raise APIError(400, f"Invalid value: '{order}'. Supported values are: 'asc' and 'desc'.", param="order")
    ordered = things if order == "asc" else things[::-1]
    limit = parse_limit(query.get("limit", [str(limit)])[0])
    places = {thing["id"]: at for at, thing in enumerate(ordered)}
    start, stop = 0, len(ordered)
    if after := query.get("after", [""])[0]:
        start = cursor(kind, places, after) + 1
    if before := query.get("before", [""])[0]:
        stop = cursor(kind, places, before)
        start = max(start, stop - limit)
    data = ordered[start : min(stop, start + limit)]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": start + limit < stop or bool(before and start > 0),
    }


def parse_limit(text: str) -> int:
    """The page size asked for."""
    if not text.isdecimal() or not 1 <= int(text) <= 10_000:  # noqa: PLR2004 the largest page any list has
        raise APIError(400, f"Invalid 'limit': '{text}'.", param="limit", code="invalid_value")
    return int(text)


def cursor(kind: str, places: Mapping[str, int], id_: str) -> int:
    """Where a cursor stands in the list it pages through."""
    if id_ not in places:
        raise missing(kind, id_)
    return places[id_]
