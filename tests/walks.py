"""Clients at work: random walks with the real SDK through proxies, over a demo upstream that knows whose everything is.

Four deployments in three scopes (two keys share one). ``Estate`` writes down which project each id was made in, and
``strays`` tells which requests named an id where it does not live.
"""

from __future__ import annotations

import json
import random
import re
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import openai

from relay.config import Client, Secret
from relay.demo import DemoUpstream
from tests.harness import config_over, deployment, proxy_over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from relay.config import Config
    from relay.demo.heard import Heard
    from tests.harness import Proxy

PROJECTS = {"sk-alpha-1": "alpha", "sk-alpha-2": "alpha", "sk-beta-1": "beta", "sk-gamma-1": "gamma"}
CLIENTS = 8
ID = re.compile(r"[A-Za-z]+[_:-][A-Za-z0-9_:-]{8,}")
FREE = frozenset({"metadata", "instructions", "name", "text", "content", "query", "user"})  # members users fill freely
LOOKS = b"passthrough/"  # the proxy's own requests say so
SHARED = frozenset({"file", "vector_store", "assistant", "container", "eval", "video"})  # nobody deletes these


class Named(NamedTuple):
    """An id that a request named away from where it lives."""

    heard: Heard
    id: str
    place: str  # "target" or "body"

    def __repr__(self) -> str:
        return f"{self.heard.method} {self.heard.target} to {self.heard.project}: {self.id} in the {self.place}"


class Estate:
    """A demo upstream, and which project everything in it belongs to."""

    def __init__(self, **settings: Any) -> None:
        self.demo = DemoUpstream(PROJECTS, pace=0, rng=random.Random(11), heard=100_000, **settings)
        self.owners: dict[str, str] = {}
        for project in self.demo.projects.values():
            self._watch(project)
        self.port = 0

    def _watch(self, project: Any) -> None:
        put, encrypt, name = project.put, project.encrypt, project.name

        def noted_put(kind: str, thing: Any, parent: str = "") -> Any:
            self.owners.setdefault(thing["id"], name)
            return put(kind, thing, parent)

        def noted_encrypt() -> str:
            text: str = encrypt()
            self.owners[text] = name
            return text

        project.put, project.encrypt = noted_put, noted_encrypt

    def config(self, path: str | None = None, **settings: Any) -> Config:
        """A file with a key for each of the clients; the scopes are called as the projects."""
        from relay.config import AffinitySettings

        named, most = settings.pop("named", True), settings.pop("max_parallel_requests", None)
        members = [
            deployment(
                key.removeprefix("sk-"),
                self.port,
                group="gpt-4o",
                model="gpt-4o",
                key=Secret(key),
                scope=project if named else key.replace("sk-", "key-"),
                scope_is_named=named,
                max_parallel_requests=most,
            )
            for key, project in PROJECTS.items()
        ]
        clients = tuple(Client(f"client-{number}", Secret(client_key(number)).digest) for number in range(CLIENTS))
        affinity = AffinitySettings(path=path, **settings.pop("affinity", {}))
        return config_over(*members, clients=clients, affinity=affinity, **settings)

    def strays(self, since: int = 0) -> list[Named]:
        """Ids that requests named in the wrong project, from the ``since``-th request on; the proxy's looks aside."""
        return [
            named for heard in list(self.demo.requests)[since:] if not is_look(heard) for named in self._astray(heard)
        ]

    def _astray(self, heard: Heard) -> Iterator[Named]:
        for id_ in ID.findall(heard.target):
            if self.owners.get(id_, heard.project) != heard.project:
                yield Named(heard, id_, "target")
        for id_ in ids_in(read(heard)):
            if self.owners.get(id_, heard.project) != heard.project:
                yield Named(heard, id_, "body")


def is_look(heard: Heard) -> bool:
    """Whether the proxy itself asked, to find something."""
    return heard.value(b"user-agent").startswith(LOOKS)


def read(heard: Heard) -> Any:
    """A request's JSON, or None."""
    if not heard.body or not heard.value(b"content-type").startswith(b"application/json"):
        return None
    return json.loads(heard.body)


def ids_in(value: Any) -> Iterator[str]:
    """The strings of a body that are nothing but an id, where the API expects one."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for element in value:
            yield from ids_in(element)
    elif isinstance(value, dict):
        for name, member in value.items():
            if name not in FREE or not isinstance(member, (str, dict)):
                yield from ids_in(member)


@asynccontextmanager
async def estate(**settings: Any) -> AsyncIterator[Estate]:
    """A demo upstream while the context lasts."""
    made = Estate(**settings)
    made.port = await made.demo.start()
    try:
        yield made
    finally:
        await made.demo.close()


def client_key(number: int) -> str:
    """What a client shows."""
    return f"sk-client-{number}-0123456789"


@asynccontextmanager
async def sdk(proxy: Proxy, number: int = 0, **settings: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    """The real SDK as one client; nothing is tried twice."""
    given = {"api_key": client_key(number), "base_url": proxy.base_url, "max_retries": 0, "timeout": 20, **settings}
    async with openai.AsyncOpenAI(**given) as client:
        yield client


class Walker:
    """One client, what it has made, and its dice. ``doors`` are SDKs at one or more proxies, taken by chance."""

    def __init__(self, number: int, estate: Estate, shared: dict[str, list[str]]) -> None:
        self.number = number
        self.estate = estate
        self.rng = random.Random(number)
        self.doors: list[openai.AsyncOpenAI] = []
        self.things: dict[str, list[str]] = {}
        self.shared = shared  # everybody's
        self.done: list[str] = []

    @property
    def api(self) -> Any:
        """An SDK client; untyped, as walks call all of it."""
        return self.rng.choice(self.doors)

    def keep(self, kind: str, id_: str) -> str:
        """Remember what was made, and tell the others of some of it."""
        self.things.setdefault(kind, []).append(id_)
        if kind in SHARED and self.rng.random() < 0.2:
            self.shared.setdefault(kind, []).append(id_)
        return id_

    def drop(self, kind: str, id_: str) -> None:
        """It was deleted."""
        self.things[kind].remove(id_)

    def pick(self, *kinds: str) -> tuple[str, ...] | None:
        """One thing of each kind, all of one project; None where this client knows no such."""
        projects = list(PROJECTS.values())
        self.rng.shuffle(projects)
        for project in dict.fromkeys(projects):
            found = [self._of(kind, project, alone=len(kinds) == 1) for kind in kinds]
            if all(found):
                return tuple(self.rng.choice(ids) for ids in found)
        return None

    def _of(self, kind: str, project: str, *, alone: bool) -> list[str]:
        """What there is of a kind; what is shared is not combined with others, which two clients might do at once."""
        owners = self.estate.owners
        ids = self.things.get(kind, []) + (self.shared.get(kind, []) if alone else [])
        return [id_ for id_ in ids if owners[id_.partition(" ")[0]] == project]

    def foreign(self) -> str:
        """An id of anybody, to be written into a text."""
        return self.rng.choice(list(self.estate.owners) or ["file-abc"])

    def choose(self) -> tuple[Any, dict[str, str]]:
        """An operation by chance, and one thing of each kind that it takes."""
        while True:
            needs, operation = self.rng.choice(OPERATIONS)
            picked = self.pick(*needs)
            if picked is not None:
                self.done.append(operation.__name__)
                return operation, dict(zip(needs, picked, strict=True))

    async def step(self) -> None:
        """One operation by chance."""
        operation, picked = self.choose()
        await operation(self, *picked.values())


@asynccontextmanager
async def doors(walkers: list[Walker], *proxies: Proxy) -> AsyncIterator[None]:
    """Let the walkers in at these proxies while the context lasts."""
    async with AsyncExitStack() as stack:
        for walker in walkers:
            walker.doors = [await stack.enter_async_context(sdk(proxy, walker.number)) for proxy in proxies]
        yield


@asynccontextmanager
async def proxies(config: Config, count: int = 1) -> AsyncIterator[list[Proxy]]:
    """Several workers over one file."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(proxy_over(config)) for _ in range(count)]


async def walk(walkers: Sequence[Walker], count: int) -> None:
    """``count`` operations, interleaved."""
    import asyncio

    async def one(walker: Walker) -> None:
        for _ in range(count // len(walkers)):
            await walker.step()

    async with asyncio.TaskGroup() as group:
        for walker in walkers:
            group.create_task(one(walker), name=f"walker {walker.number}")


def walkers(estate: Estate) -> list[Walker]:
    """All clients, with nothing made yet."""
    shared: dict[str, list[str]] = {}
    return [Walker(number, estate, shared) for number in range(CLIENTS)]


OPERATIONS: list[tuple[tuple[str, ...], Any]] = []


def needs(*kinds: str) -> Callable[[Any], Any]:
    """An operation that takes one thing of each kind."""

    def add(operation: Any) -> Any:
        OPERATIONS.append((kinds, operation))
        return operation

    return add


# Files, uploads, batches.


@needs()
async def make_file(w: Walker) -> None:
    purpose: Any = w.rng.choice(["assistants", "batch", "fine-tune"])
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
    line = {"custom_id": w.foreign(), "method": "POST", "url": "/v1/chat/completions", "body": body}
    file = await w.api.files.create(file=(f"{w.foreign()}.jsonl", json.dumps(line).encode()), purpose=purpose)
    w.keep("file", file.id)
    if purpose != "assistants":
        w.keep(f"{purpose} file", file.id)


@needs("file")
async def see_file(w: Walker, file: str) -> None:
    assert (await w.api.files.retrieve(file)).id == file
    assert (await w.api.files.content(file)).content


@needs("upload")
async def finish_upload(w: Walker, upload: str) -> None:
    part = await w.api.uploads.parts.create(upload, data=b"12345678")
    whole = await w.api.uploads.complete(upload, part_ids=[part.id])
    w.drop("upload", upload)
    w.keep("file", whole.file.id)


@needs()
async def make_upload(w: Walker) -> None:
    upload = await w.api.uploads.create(bytes=8, filename="u", mime_type="text/plain", purpose="assistants")
    w.keep("upload", upload.id)


@needs("batch file")
async def make_batch(w: Walker, file: str) -> None:
    metadata = {"file": w.foreign()}
    batch = await w.api.batches.create(
        input_file_id=file, endpoint="/v1/chat/completions", completion_window="24h", metadata=metadata
    )
    w.keep("batch", batch.id)


@needs("batch")
async def see_batch(w: Walker, batch: str) -> None:
    done = await w.api.batches.retrieve(batch)
    assert done.status == "completed"
    assert (await w.api.files.content(done.output_file_id)).content


@needs()
async def list_files(w: Walker) -> None:
    seen = [file.id async for file in await w.api.files.list(limit=7)]
    assert len(seen) == len(set(seen))


# Vector stores.


@needs("file")
async def make_store(w: Walker, file: str) -> None:
    store = await w.api.vector_stores.create(name=w.foreign(), file_ids=[file])
    w.keep("vector_store", store.id)


@needs("vector_store", "file")
async def add_to_store(w: Walker, store: str, file: str) -> None:
    if w.rng.random() < 0.5:
        batch = await w.api.vector_stores.file_batches.create(store, file_ids=[file])
        assert (await w.api.vector_stores.file_batches.retrieve(batch.id, vector_store_id=store)).id == batch.id
        assert [
            one.id async for one in await w.api.vector_stores.file_batches.list_files(batch.id, vector_store_id=store)
        ]
    else:
        await w.api.vector_stores.files.create(store, file_id=file)
        assert (await w.api.vector_stores.files.retrieve(file, vector_store_id=store)).id == file


@needs("vector_store")
async def search_store(w: Walker, store: str) -> None:
    await w.api.vector_stores.search(store, query=f"what about {w.foreign()}")
    assert (await w.api.vector_stores.update(store, metadata={"see": w.foreign()})).id == store


# Responses and conversations.


@needs()
async def respond(w: Walker) -> None:
    asked = f"please read {w.foreign()} and {w.foreign()}"
    w.keep("response", (await w.api.responses.create(model="gpt-4o", input=asked)).id)


@needs("response")
async def respond_again(w: Walker, previous: str) -> None:
    stream = await w.api.responses.create(model="gpt-4o", input="go on", previous_response_id=previous, stream=True)
    async for event in stream:
        if event.type == "response.created":
            w.keep("response", event.response.id)
            assert (await w.api.responses.retrieve(event.response.id)).id == event.response.id


@needs("response", "vector_store")
async def respond_with_search(w: Walker, previous: str, store: str) -> None:
    tools = [{"type": "file_search", "vector_store_ids": [store]}]
    answer = await w.api.responses.create(
        model="gpt-4o", input="look it up", tools=tools, previous_response_id=previous,
        include=["file_search_call.results"],
    )  # fmt: skip
    w.keep("response", answer.id)


@needs("container")
async def respond_with_code(w: Walker, container: str) -> None:
    tools = [{"type": "code_interpreter", "container": container}]
    answer = await w.api.responses.create(model="gpt-4o", input="compute", tools=tools)
    (note,) = answer.output[-1].content[0].annotations
    w.keep("container_file", f"{note.file_id} {container}")


@needs("container_file")
async def see_container_file(w: Walker, pair: str) -> None:
    file, container = pair.split(" ")
    assert (await w.api.containers.files.retrieve(file, container_id=container)).id == file
    assert (await w.api.containers.files.content.retrieve(file, container_id=container)).content


@needs()
async def think(w: Walker) -> None:
    include = ["reasoning.encrypted_content"]
    answer = await w.api.responses.create(model="gpt-4o", input="think", store=False, include=include)
    w.keep("thought", answer.output[0].encrypted_content)


@needs("thought")
async def think_on(w: Walker, blob: str) -> None:
    item = {"type": "reasoning", "id": "rs_" + "0" * 50, "summary": [], "encrypted_content": blob}
    said: Any = [item, {"role": "user", "content": "and now?"}]
    await w.api.responses.create(model="gpt-4o", input=said, store=False)


@needs()
async def make_conversation(w: Walker) -> None:
    made = await w.api.conversations.create(metadata={"about": w.foreign()})
    w.keep("conversation", made.id)


@needs("conversation")
async def converse(w: Walker, conversation: str) -> None:
    await w.api.conversations.items.create(conversation, items=[{"role": "user", "content": w.foreign()}])
    answer = await w.api.responses.create(model="gpt-4o", input="hello", conversation=conversation)
    w.keep("response", answer.id)
    assert [item.id async for item in await w.api.conversations.items.list(conversation, limit=3)]


@needs()
async def chat(w: Walker) -> None:
    said = [{"role": "user", "content": f"I mean {w.foreign()}"}]
    made = await w.api.chat.completions.create(model="gpt-4o", messages=said, store=True)
    w.keep("chat_completion", made.id)
    assert (await w.api.chat.completions.retrieve(made.id)).id == made.id


# Assistants.


@needs("vector_store")
async def make_assistant(w: Walker, store: str) -> None:
    resources = {"file_search": {"vector_store_ids": [store]}}
    tools: Any = [{"type": "file_search"}]
    made = await w.api.beta.assistants.create(
        model="gpt-4o", instructions=w.foreign(), tools=tools, tool_resources=resources
    )
    w.keep("assistant", made.id)


@needs("file")
async def make_thread(w: Walker, file: str) -> None:
    attachments: Any = [{"file_id": file, "tools": [{"type": "file_search"}]}]
    made = await w.api.beta.threads.create(
        messages=[{"role": "user", "content": w.foreign(), "attachments": attachments}], metadata={"x": w.foreign()}
    )
    w.keep("thread", made.id)


@needs("thread", "assistant")
async def run(w: Walker, thread: str, assistant: str) -> None:
    await w.api.beta.threads.messages.create(thread, role="user", content=w.foreign())
    made = await w.api.beta.threads.runs.create(thread, assistant_id=assistant)
    assert (await w.api.beta.threads.runs.retrieve(made.id, thread_id=thread)).status == "completed"
    assert [step.id async for step in await w.api.beta.threads.runs.steps.list(made.id, thread_id=thread)]


@needs("assistant")
async def run_at_once(w: Walker, assistant: str) -> None:
    stream = await w.api.beta.threads.create_and_run(
        assistant_id=assistant, thread={"messages": [{"role": "user", "content": "hi"}]}, stream=True
    )
    async for event in stream:
        if event.event == "thread.created":
            w.keep("thread", event.data.id)


@needs("thread")
async def unsay(w: Walker, thread: str) -> None:
    message = await w.api.beta.threads.messages.create(thread, role="user", content=w.foreign())
    assert (await w.api.beta.threads.messages.delete(message.id, thread_id=thread)).deleted
    assert (await w.api.beta.threads.retrieve(thread)).id == thread


@needs("vector_store", "file")
async def take_out(w: Walker, store: str, file: str) -> None:
    await w.api.vector_stores.files.create(store, file_id=file)
    assert (await w.api.vector_stores.files.delete(file, vector_store_id=store)).deleted
    assert (await w.api.files.retrieve(file)).id == file


# Containers, fine-tuning, evals, videos, skills, ChatKit.


@needs("file")
async def make_container(w: Walker, file: str) -> None:
    w.keep("container", (await w.api.containers.create(name=w.foreign(), file_ids=[file])).id)


@needs("container", "file")
async def add_to_container(w: Walker, container: str, file: str) -> None:
    made = await w.api.containers.files.create(container, file_id=file)
    w.keep("container_file", f"{made.id} {container}")


@needs("fine-tune file")
async def tune(w: Walker, file: str) -> None:
    w.keep("ft_job", (await w.api.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=file)).id)


@needs("ft_job")
async def see_tuned(w: Walker, job: str) -> None:
    done = await w.api.fine_tuning.jobs.retrieve(job)
    (checkpoint,) = [one async for one in await w.api.fine_tuning.jobs.checkpoints.list(job)]
    for model in (done.fine_tuned_model, checkpoint.fine_tuned_model_checkpoint):
        await w.api.chat.completions.create(model=model, messages=[{"role": "user", "content": "hi"}])
    assert (await w.api.files.content(done.result_files[0])).content


@needs()
async def make_eval(w: Walker) -> None:
    config: Any = {"type": "custom", "item_schema": {}}
    made = await w.api.evals.create(data_source_config=config, testing_criteria=[], name=w.foreign())
    w.keep("eval", made.id)


@needs("eval", "file")
async def run_eval(w: Walker, eval_: str, file: str) -> None:
    source: Any = {"type": "jsonl", "source": {"type": "file_id", "id": file}}
    made = await w.api.evals.runs.create(eval_, data_source=source)
    assert (await w.api.evals.runs.retrieve(made.id, eval_id=eval_)).status == "completed"
    assert [item.id async for item in await w.api.evals.runs.output_items.list(made.id, eval_id=eval_)]
    await w.api.evals.runs.delete(made.id, eval_id=eval_)


@needs()
async def make_video(w: Walker) -> None:
    w.keep("video", (await w.api.videos.create(prompt=w.foreign())).id)


@needs("video")
async def remix(w: Walker, video: str) -> None:
    assert (await w.api.videos.retrieve(video)).status == "completed"
    w.keep("video", (await w.api.videos.remix(video, prompt="faster")).id)


@needs()
async def make_skill(w: Walker) -> None:
    w.keep("skill", (await w.api.skills.create(files=[("mine/SKILL.md", b"---\n")])).id)


@needs("skill")
async def see_skill(w: Walker, skill: str) -> None:
    assert (await w.api.skills.retrieve(skill)).id == skill
    await w.api.skills.versions.create(skill, files=[("mine/SKILL.md", b"---\n")])
    assert [one.version async for one in await w.api.skills.versions.list(skill)]
    newest = (await w.api.skills.retrieve(skill)).latest_version
    await w.api.skills.versions.delete(newest, skill_id=skill)


@needs()
async def open_chatkit(w: Walker) -> None:
    made = await w.api.beta.chatkit.sessions.create(user=w.foreign(), workflow={"id": "wf_mine"})
    w.keep("chatkit_session", made.id)
    w.things["chatkit_thread"] = [one.id async for one in await w.api.beta.chatkit.threads.list(limit=5)]


@needs("chatkit_thread")
async def see_chatkit(w: Walker, thread: str) -> None:
    assert (await w.api.beta.chatkit.threads.retrieve(thread)).id == thread


@needs("chatkit_session")
async def close_chatkit(w: Walker, session: str) -> None:
    assert (await w.api.beta.chatkit.sessions.cancel(session)).status == "cancelled"


@needs("response")
async def forget_response(w: Walker, response: str) -> None:
    if response in w.things.get("response", []):
        await w.api.responses.delete(response)
        w.drop("response", response)


async def call(api: Any, method: str, path: str, body: Any = None) -> Any:
    """One call without the SDK's types."""
    if method == "GET":
        return await api.get(path, cast_to=object)
    if method == "DELETE":
        return await api.delete(path, cast_to=object)
    return await api.post(path, cast_to=object, body=body or {})
