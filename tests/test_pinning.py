"""Requests go where what they name lives: walks, conflicts, discovery (SPEC §5)."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import openai
import pytest
import pytest_asyncio

from relay.choosing import tally
from relay.choosing.tally import Brake
from relay.errors import Unavailable, UpstreamFailure
from relay.reach.upstream import StaleConnection
from relay.scopes import looking
from relay.subjects.resources import ENCRYPTED, RETRIEVE, kind_of
from relay.subjects.subject import Resource
from tests import walks
from tests.harness import get, post, with_limits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.harness import Proxy
    from tests.walks import Estate

# The SDK marks the Assistants API as deprecated; applications still use it.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

OPERATIONS = int(os.environ.get("WALK_OPERATIONS", "240"))
KEYS = {project: key for key, project in reversed(walks.PROJECTS.items())}
BIG = 5 << 20


@pytest_asyncio.fixture
async def estate() -> AsyncIterator[Estate]:
    async with asyncio.timeout(60 + OPERATIONS / 10), walks.estate() as made:
        yield made


@pytest_asyncio.fixture
async def proxy(estate: Estate) -> AsyncIterator[Proxy]:
    async with walks.proxies(estate.config()) as (one,):
        yield one


@pytest_asyncio.fixture
async def api(proxy: Proxy) -> AsyncIterator[Any]:
    async with walks.sdk(proxy) as client:
        yield client


def homes_of(proxy: Proxy) -> tuple[str, ...]:
    """All scopes, in the order of the first client."""
    return proxy.worker.brain.router.home_scopes("client-0", None)


def home_of(proxy: Proxy) -> str:
    return homes_of(proxy)[0]


def away_from(home: str) -> list[str]:
    return [project for project in KEYS if project != home]


def make(estate: Estate, project: str, kind: str, parent: str = "", **members: Any) -> str:
    """Something that is there before the proxy has heard of it."""
    id_: str = estate.demo.projects[project].new(kind, parent, **members)["id"]
    return id_


def make_file(estate: Estate, project: str) -> str:
    return make(
        estate, project, "file", bytes=2, filename="f", purpose="assistants", status="processed", expires_at=None
    )


def known(proxy: Proxy, kind: str, id_: str) -> str | None:
    return proxy.worker.affinity.lookup(kind, id_, time.time())


def learn(proxy: Proxy, scope: str, *ids: str) -> None:
    """The proxy has seen these somewhere."""
    pairs = [(kind_of(id_) or "", id_) for id_ in ids]
    proxy.worker.affinity.remember(pairs, scope, time.time())


def lose(path: Path) -> None:
    """Delete a store, with the files beside it."""
    for file in path.parent.glob(path.name + "*"):
        file.unlink()


# Walks.


async def test_no_request_goes_to_a_wrong_scope(estate: Estate, tmp_path: Path) -> None:
    walkers = walks.walkers(estate)
    async with walks.proxies(estate.config(str(tmp_path / "ids.db"))) as at, walks.doors(walkers, *at):
        await walks.walk(walkers, OPERATIONS)
    assert estate.strays() == []
    assert not [heard for heard in estate.demo.requests if walks.is_look(heard)]
    assert len({heard.key for heard in estate.demo.requests}) == len(walks.PROJECTS)


async def test_nor_over_a_restart_nor_over_two_workers_that_share_the_file(estate: Estate, tmp_path: Path) -> None:
    config = estate.config(str(tmp_path / "ids.db"))
    walkers = walks.walkers(estate)
    for count in (1, 2):
        async with walks.proxies(config, count) as at, walks.doors(walkers, *at):
            await walks.walk(walkers, OPERATIONS // 2)
    assert estate.strays() == []
    assert not [heard for heard in estate.demo.requests if walks.is_look(heard)]


async def test_a_lost_store_heals_itself(estate: Estate, tmp_path: Path) -> None:
    path = tmp_path / "ids.db"
    walkers = walks.walkers(estate)
    async with walks.proxies(estate.config(str(path))) as at, walks.doors(walkers, *at):
        await walks.walk(walkers, OPERATIONS)
    before = len(estate.demo.requests)
    lose(path)
    async with walks.proxies(estate.config(str(path))) as at, walks.doors(walkers, *at):
        await walks.walk(walkers, OPERATIONS)
    strays = estate.strays(before)
    assert not [named for named in strays if named.place == "body" and is_fetched(named.id)]
    assert strays  # ids in paths are looked for by asking
    assert [heard for heard in estate.demo.requests if walks.is_look(heard)]


def is_fetched(id_: str) -> bool:
    """Whether a scope can be asked for it, so that nothing is sent blindly."""
    return kind_of(id_) in RETRIEVE


async def test_a_store_deleted_under_way_is_no_loss(estate: Estate, tmp_path: Path) -> None:
    path = tmp_path / "ids.db"
    walkers = walks.walkers(estate)
    async with walks.proxies(estate.config(str(path))) as at, walks.doors(walkers, *at):
        await walks.walk(walkers, OPERATIONS // 4)
        lose(path)
        await walks.walk(walkers, OPERATIONS // 4)
    assert estate.strays() == []


# Discovery.

PLACES = ("path", "query", "body")


async def name(api: Any, place: str, file: str) -> Any:
    """Name a file in a path, in a query, or in a body."""
    if place == "path":
        return await api.files.retrieve(file)
    return await (api.files.list(after=file) if place == "query" else api.vector_stores.create(file_ids=[file]))


async def test_an_id_in_a_path_is_found_by_asking_each_scope_once(estate: Estate, proxy: Proxy, api: Any) -> None:
    home = home_of(proxy)
    last = homes_of(proxy)[-1]
    file = make_file(estate, last)
    assert (await api.files.retrieve(file)).id == file
    assert estate.demo.requests[0].project == home
    assert len({heard.project for heard in estate.demo.requests}) == len(estate.demo.requests) == 3
    assert known(proxy, "file", file) == last
    assert (await api.files.delete(file)).deleted
    assert len(estate.demo.requests) == 4
    assert known(proxy, "file", file) is None


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_whatever_the_method(estate: Estate, proxy: Proxy, api: Any, method: str) -> None:
    away = away_from(home_of(proxy))[0]
    store = make(estate, away, "vector_store", name="old")
    answer = await walks.call(api, method, f"/vector_stores/{store}", {"name": "new"})
    assert answer["id"] == store
    record = await proxy.record()
    assert (record.__dict__["scope"], record.__dict__["reason"]) == (away, "resource")


async def test_an_id_in_a_body_is_found_before_the_request_is_sent(estate: Estate, proxy: Proxy, api: Any) -> None:
    away = away_from(home_of(proxy))[0]
    file = make_file(estate, away)
    await api.vector_stores.create(file_ids=[file])
    *looks, sent = estate.demo.requests
    assert all(look.method == "GET" and look.path == f"/files/{file}" and walks.is_look(look) for look in looks)
    assert len({look.project for look in looks}) == len(looks) <= 3
    assert (looks[-1].project, sent.project, sent.method) == (away, away, "POST")
    assert known(proxy, "file", file) == away
    await api.vector_stores.create(file_ids=[file])
    assert len(estate.demo.requests) == len(looks) + 2


async def test_looks_carry_the_deployment_s_key_and_the_beta_of_the_kind(
    estate: Estate, proxy: Proxy, api: Any
) -> None:
    away = away_from(home_of(proxy))[0]
    assistant = make(estate, away, "assistant", model="gpt-4o")
    with pytest.raises(openai.BadRequestError):
        await api.responses.create(model="gpt-4o", input=[{"role": "user"}, {"x": assistant}], extra_body={"tools": 3})
    heard = len(estate.demo.requests)
    with pytest.raises(openai.APIStatusError):  # the assistant of the demo lacks what a run needs
        await api.beta.threads.create_and_run(assistant_id=assistant)
    look = estate.demo.requests[heard]
    assert walks.is_look(look)
    assert look.value(b"openai-beta") == b"assistants=v2"
    assert look.key in walks.PROJECTS


async def make_store_of(api: Any, *files: str) -> openai.NotFoundError:
    """Name files of which some are nowhere, in a body."""
    with pytest.raises(openai.NotFoundError) as caught:
        await api.vector_stores.create(file_ids=[*files])
    return caught.value


@pytest.mark.parametrize("stale", [1, 2])
async def test_where_the_first_of_a_body_is_nowhere_the_next_is_looked_for(
    estate: Estate, proxy: Proxy, api: Any, stale: int
) -> None:
    away = homes_of(proxy)[-1]
    live = make_file(estate, away)
    error = await make_store_of(api, *["file-deleted123"] * stale, live)
    assert "file-deleted123" in error.message
    *looks, sent = estate.demo.requests
    assert [look.path.rpartition("/")[2] for look in looks] == ["file-deleted123"] * 3 + [live] * 3
    assert all(walks.is_look(look) for look in looks)
    assert (sent.method, sent.project) == ("POST", away)
    assert known(proxy, "file", live) == away


async def test_but_not_where_the_first_may_be_somewhere(estate: Estate, proxy: Proxy, api: Any) -> None:
    """A scope that is down has not missed: what it says goes to the client."""
    down, other = homes_of(proxy)[-1], home_of(proxy)
    first, next_ = make_file(estate, down), make_file(estate, other)
    for key in [key for key, project in walks.PROJECTS.items() if project == down]:
        estate.demo.script(503, body={"error": {"message": "down"}}, key=key, times=None)
    with pytest.raises(openai.InternalServerError, match="down"):
        await api.vector_stores.create(file_ids=[first, next_])
    estate.demo.scripts.clear()
    assert (await api.vector_stores.create(file_ids=[first])).id


async def test_ids_of_one_body_cost_no_more_than_others(estate: Estate, proxy: Proxy, api: Any) -> None:
    await make_store_of(api, *(f"file-made1up2{number:04}" for number in range(50)))
    assert len(estate.demo.requests) == 4 * 3 + 1  # ten misses are free, and a search that has begun is ended
    live = make_file(estate, homes_of(proxy)[-1])
    await make_store_of(api, live)
    assert len(estate.demo.requests) == 4 * 3 + 2


async def test_and_only_so_many_are_waited_for(
    estate: Estate, proxy: Proxy, api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally, "FLOOR", 1000)
    names = [f"file-made1up2{number:04}" for number in range(20)]
    live = make_file(estate, homes_of(proxy)[-1])
    for cost in (8 * 3 + 1, 8 * 3 + 1, 4 * 3 + 3 + 1):
        before = len(estate.demo.requests)
        await make_store_of(api, *names, live)
        assert len(estate.demo.requests) - before == cost  # what was missed is remembered, so the next gets further
    assert known(proxy, "file", live) == homes_of(proxy)[-1]


async def test_a_blob_that_nobody_has_seen_is_tried_in_the_other_scopes(estate: Estate, proxy: Proxy, api: Any) -> None:
    blob = estate.demo.projects["gamma"].encrypt()
    item = {"type": "reasoning", "id": "rs_" + "0" * 50, "summary": [], "encrypted_content": blob}
    for _ in range(4):
        await api.responses.create(model="gpt-4o", input=[item], store=False)
    assert not [heard for heard in estate.demo.requests if walks.is_look(heard)]
    assert [heard.project for heard in estate.demo.requests][-3:] == ["gamma"] * 3
    assert len(estate.demo.requests) <= 6


async def test_a_reference_to_an_item_is_tried_in_the_other_scopes(estate: Estate, proxy: Proxy, api: Any) -> None:
    project = estate.demo.projects["gamma"]
    item = project.put("item", {"id": "msg_" + "1" * 50, "type": "message", "role": "user", "content": []}, "resp_x")
    said: Any = [{"type": "item_reference", "id": item["id"]}, {"role": "user", "content": "and?"}]
    for _ in range(60):  # the first may be asked for where the item is, by chance, and then nothing is learnt
        await api.responses.create(model="gpt-4o", input=said, store=False)
        if {heard.project for heard in estate.demo.requests} != {"gamma"}:
            break
    before = len(estate.demo.requests)
    for _ in range(3):
        await api.responses.create(model="gpt-4o", input=said, store=False)
    assert [heard.project for heard in estate.demo.requests][before:] == ["gamma"] * 3
    assert known(proxy, "item", item["id"]) == "gamma"


async def test_an_item_that_holds_its_content_binds_to_nothing(estate: Estate, proxy: Proxy, api: Any) -> None:
    """Where anything else speaks its id is not even looked at."""
    file = make_file(estate, "beta")
    project = estate.demo.projects["beta"]
    learn(proxy, "beta", file)
    learn(proxy, "gamma", "msg_" + "a1" * 25)
    said: Any = [
        {"type": "message", "id": "msg_" + "a1" * 25, "role": "user", "content": "x"},
        {"role": "user", "content": [{"type": "input_file", "file_id": file}]},
    ]
    project.known.setdefault("item", set()).add("msg_" + "a1" * 25)
    await api.responses.create(model="gpt-4o", input=said, store=False)
    assert [heard.project for heard in estate.demo.requests] == ["beta"]


async def make_up(api: Any, place: str, count: int, width: int) -> list[int]:
    """Name so many files that never were, ``width`` at once; the statuses of the answers."""
    numbers = iter(range(count))
    statuses = []

    async def ask() -> None:
        for number in numbers:
            with pytest.raises(openai.APIStatusError) as caught:
                await name(api, place, f"file-made1up2{number:04}")
            statuses.append(caught.value.status_code)

    await asyncio.gather(*(ask() for _ in range(width)))
    return statuses


def bound_of(count: int, seconds: float) -> float:
    """What so many made-up ids may cost: themselves, what the brake allows, and the end of what has begun."""
    return count * (1 + tally.SHARE) + tally.FLOOR * (1 + seconds // tally.SECONDS) + 3


@pytest.mark.parametrize(("count", "width"), [(100, 1), (300, 8), (100, 100)])
@pytest.mark.parametrize("place", PLACES)
async def test_made_up_ids_cost_at_most_two_requests_each(
    estate: Estate, proxy: Proxy, api: Any, place: str, count: int, width: int
) -> None:
    """All together; one alone is looked for in each scope, and no scope is asked for it twice."""
    begun = time.monotonic()
    assert await make_up(api, place, count, width) == [404] * count
    assert count < len(estate.demo.requests) <= bound_of(count, time.monotonic() - begun) <= 2 * count
    asked = Counter((heard.project, heard.target, heard.body) for heard in estate.demo.requests)
    assert max(asked.values()) == 1
    home, away = make_file(estate, home_of(proxy)), make_file(estate, homes_of(proxy)[-1])
    assert await name(api, place, home)
    later(proxy)
    assert await name(api, place, away)


def later(proxy: Proxy) -> None:
    """When eleven seconds are over, the brake has forgotten what was sent in them."""
    proxy.worker.brain.router.brake._retries = tally.Tally(tally.SECONDS + 1)


@pytest.mark.parametrize("place", ["path", "query"])
async def test_what_is_not_looked_for_is_not_missed(
    estate: Estate, proxy: Proxy, api: Any, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    """While made-up ids have used up all, a real one elsewhere gets the home's answer, once, and that is said."""
    file = make_file(estate, homes_of(proxy)[-1])
    with caplog.at_level(logging.WARNING, "passthrough.server"):
        await make_up(api, place, 30, 8)
        with pytest.raises(openai.NotFoundError):
            await name(api, place, file)
    assert [record.message for record in caplog.records] == [looking.EXHAUSTED]
    later(proxy)
    assert await name(api, place, file)


@pytest.mark.parametrize("place", PLACES)
async def test_real_ids_that_nobody_has_seen_cost_the_brake_nothing(
    estate: Estate, proxy: Proxy, api: Any, place: str
) -> None:
    files = [make_file(estate, project) for _ in range(20) for project in KEYS]
    for start in range(0, len(files), 10):
        await asyncio.gather(*(name(api, place, file) for file in files[start : start + 10]))
    assert len(estate.demo.requests) <= len(files) * 3
    assert proxy.worker.brain.router.brake._retries.total(asyncio.get_running_loop().time()) == 0


@pytest.mark.parametrize("place", PLACES)
async def test_made_up_ids_cost_no_more_where_a_scope_is_down(
    estate: Estate, proxy: Proxy, api: Any, place: str
) -> None:
    """Nobody knows that they are made up, so they may be asked for again; still they multiply nothing."""
    down = homes_of(proxy)[-1]
    for key in [key for key, project in walks.PROJECTS.items() if project == down]:
        estate.demo.script(503, body={"error": {"message": "down"}}, key=key, times=None)
    assert set(await make_up(api, place, 60, 8)) <= {404, 503}
    assert len(estate.demo.requests) <= 2 * 60
    missed = [proxy.worker.affinity.is_missed("file", f"file-made1up2{n:04}", time.time()) for n in range(60)]
    assert not any(missed)


@pytest.mark.parametrize("place", PLACES)
async def test_a_miss_everywhere_is_remembered(estate: Estate, proxy: Proxy, api: Any, place: str) -> None:
    async def ask() -> str:
        with pytest.raises(openai.NotFoundError) as caught:
            await name(api, place, "file-nowhere123")
        deployment: str = caught.value.response.headers["x-passthrough-deployment"]
        return deployment

    first = await ask()
    cost = len(estate.demo.requests)
    assert cost == (4 if place == "body" else 3)
    assert walks.PROJECTS["sk-" + first] == home_of(proxy)
    assert walks.PROJECTS["sk-" + await ask()] == home_of(proxy)
    assert len(estate.demo.requests) == cost + 1


async def test_a_miss_of_something_below_a_real_thing_is_not_held_against_it(
    estate: Estate, proxy: Proxy, api: Any
) -> None:
    thread = make(estate, away_from(home_of(proxy))[0], "thread", metadata={}, tool_resources={})
    for _ in range(2):
        with pytest.raises(openai.NotFoundError):
            await api.beta.threads.messages.retrieve("msg_made1up234", thread_id=thread)
    assert (await api.beta.threads.retrieve(thread)).id == thread
    with pytest.raises(openai.NotFoundError):
        await api.beta.threads.messages.retrieve("msg_made1up234", thread_id=thread)
    assert (await api.beta.threads.retrieve(thread)).id == thread
    heard = len(estate.demo.requests)
    with pytest.raises(openai.NotFoundError):
        await api.beta.threads.messages.retrieve("msg_made1up234", thread_id=thread)
    assert len(estate.demo.requests) == heard + 1  # it was seen to be there a moment ago


@pytest.mark.parametrize("place", PLACES)
async def test_a_scope_that_is_down_has_not_missed(estate: Estate, proxy: Proxy, api: Any, place: str) -> None:
    home = home_of(proxy)
    last = homes_of(proxy)[-1]
    file = make_file(estate, last)
    down = [key for key, project in walks.PROJECTS.items() if project == last]
    for key in down:
        estate.demo.script(503, body={"error": {"message": "down", "code": "down"}}, key=key, times=None)

    for _ in range(2):
        with pytest.raises(openai.InternalServerError) as caught:
            await name(api, place, file)
        assert caught.value.status_code == 503
        assert "down" in caught.value.message
    estate.demo.scripts.clear()
    assert await name(api, place, file)
    assert known(proxy, "file", file) == last != home


async def test_nor_has_one_that_does_not_answer(estate: Estate, proxy: Proxy, api: Any) -> None:
    last = homes_of(proxy)[-1]
    file = make_file(estate, last)
    for key in [key for key, project in walks.PROJECTS.items() if project == last]:
        estate.demo.script(fault="reset", place="unread", key=key, times=None)
    with pytest.raises(openai.InternalServerError) as caught:
        await api.files.retrieve(file)
    assert caught.value.status_code == 502
    estate.demo.scripts.clear()
    assert (await api.files.retrieve(file)).id == file


async def test_a_home_that_is_limited_goes_before_the_404_of_another(estate: Estate, proxy: Proxy, api: Any) -> None:
    home = home_of(proxy)
    for key in [key for key, project in walks.PROJECTS.items() if project == home]:
        estate.demo.key(key).limited = 2
    with pytest.raises(openai.RateLimitError):
        await api.files.retrieve(make_file(estate, home))


async def test_what_is_gone_is_forgotten_and_looked_for_again(estate: Estate, proxy: Proxy, api: Any) -> None:
    file = (await api.files.create(file=("f", b"x"), purpose="assistants")).id
    home = estate.owners[file]
    estate.demo.projects[home].drop("file", file)
    with pytest.raises(openai.NotFoundError) as caught:
        await api.files.retrieve(file)
    assert file in caught.value.message
    assert known(proxy, "file", file) is None
    assert len(estate.demo.requests) == 4

    learn(proxy, home, file)
    away = away_from(home)[0]
    estate.demo.projects[away].put("file", {"id": file, "object": "file", "bytes": 1, "purpose": "assistants"})
    await api.vector_stores.create(file_ids=[file])
    assert known(proxy, "file", file) == away


@pytest.mark.parametrize("place", ["home", "away"])
async def test_where_one_is_gone_the_next_is_looked_for_everywhere(
    estate: Estate, proxy: Proxy, api: Any, place: str
) -> None:
    """Also where the first was: that said 404 to the request, which is about the first."""
    home, last = home_of(proxy), homes_of(proxy)[-1]
    lost = make_file(estate, home)
    learn(proxy, home, lost)
    estate.demo.projects[home].drop("file", lost)
    live = make_file(estate, home if place == "home" else last)
    await make_store_of(api, lost, live)
    sent = [heard.project for heard in estate.demo.requests if not walks.is_look(heard)]
    assert sent == [home] if place == "home" else [home, last]
    assert known(proxy, "file", live) == estate.owners[live]
    assert (await api.vector_stores.create(file_ids=[live])).id


async def test_what_is_named_twice_counts_once(estate: Estate, proxy: Proxy, api: Any) -> None:
    """The store was wrong about a file that a body names twice."""
    away = homes_of(proxy)[-1]
    file = make_file(estate, away)
    learn(proxy, home_of(proxy), file)
    assert (await api.vector_stores.create(file_ids=[file, file])).id
    assert known(proxy, "file", file) == away


async def test_what_two_ids_pin_stays_where_they_are(estate: Estate, proxy: Proxy, api: Any) -> None:
    store = await api.vector_stores.create(name="s")
    file = (await api.files.create(file=("f", b"x"), purpose="assistants")).id
    estate.demo.projects[estate.owners[file]].drop("file", file)
    with pytest.raises(openai.NotFoundError):
        await api.vector_stores.files.create(store.id, file_id=file)
    assert {heard.project for heard in estate.demo.requests if not walks.is_look(heard)} == {estate.owners[file]}
    assert known(proxy, "vector_store", store.id) == estate.owners[file]


async def test_a_body_that_flows_by_is_sent_again(estate: Estate, proxy: Proxy, api: Any) -> None:
    away = away_from(home_of(proxy))[0]
    upload = make(estate, away, "upload", status="pending", filename="u", purpose="assistants", bytes=BIG, file=None)
    part = await api.uploads.parts.create(upload, data=b"x" * BIG)
    whole = await api.uploads.complete(upload, part_ids=[part.id])
    assert whole.file.bytes == BIG
    assert known(proxy, "upload", upload) == away
    before = len(estate.demo.requests)
    with pytest.raises(openai.BadRequestError):
        await api.uploads.complete(upload, part_ids=["part_made1up2"])
    assert len(estate.demo.requests) == before + 1


async def test_one_that_cannot_be_sent_again_is_not(estate: Estate) -> None:
    config = estate.config(limits=with_limits(replay_bytes=1 << 20))
    async with walks.proxies(config) as (proxy,), walks.sdk(proxy) as api:
        away = away_from(home_of(proxy))[0]
        upload = make(estate, away, "upload", status="pending", filename="u", purpose="assistants", bytes=BIG)
        with pytest.raises(openai.NotFoundError):
            await api.uploads.parts.create(upload, data=b"x" * BIG)
        assert {heard.project for heard in estate.demo.requests} == {home_of(proxy)}


async def test_what_cannot_be_asked_for_is_tried_where_it_was_lost(estate: Estate, proxy: Proxy, api: Any) -> None:
    """The store was wrong about an upload; nothing but the request itself can tell."""
    home, away = home_of(proxy), away_from(home_of(proxy))[0]
    upload = make(estate, away, "upload", status="pending", filename="u", purpose="assistants", bytes=1, file=None)
    learn(proxy, home, upload)
    assert (await api.uploads.cancel(upload)).id == upload
    assert known(proxy, "upload", upload) == away
    for _ in range(2):
        with pytest.raises(openai.NotFoundError):
            await api.uploads.cancel("upload_made1up2")


async def test_a_key_that_may_not_look_is_the_last_to_be_tried(estate: Estate, proxy: Proxy, api: Any) -> None:
    """Nobody else has it: so it can only be where we may not look."""
    last = homes_of(proxy)[-1]
    file = make_file(estate, last)
    denied = {"error": {"message": "no", "code": None, "type": "invalid_request_error"}}
    for key in [key for key, project in walks.PROJECTS.items() if project == last]:
        estate.demo.script(403, body=denied, key=key, method="GET", times=None)
    assert (await api.vector_stores.create(file_ids=[file])).id
    assert estate.demo.requests[-1].project == last


async def test_a_reset_of_the_first_answer_is_a_doubt(estate: Estate, proxy: Proxy, api: Any) -> None:
    """The home did not answer, another did, with a 404: that the home has it is as likely as ever."""
    home = home_of(proxy)
    file = make_file(estate, home)
    for key in [key for key, project in walks.PROJECTS.items() if project == home]:
        estate.demo.script(fault="reset", place="unread", key=key, times=None)
    with pytest.raises(openai.InternalServerError) as caught:
        await api.files.retrieve(file)
    assert caught.value.status_code == 502
    estate.demo.scripts.clear()
    assert (await api.files.retrieve(file)).id == file


async def test_a_full_scope_has_not_missed(estate: Estate) -> None:
    config = estate.config(max_parallel_requests=1)
    async with walks.proxies(config) as (proxy,), walks.sdk(proxy) as api:
        last = homes_of(proxy)[-1]
        file = make_file(estate, last)
        keys = [key for key, project in walks.PROJECTS.items() if project == last]
        for key in keys:
            estate.demo.key(key).slow = 0.5
        pinned: Any = {"headers": {"x-passthrough-scope": last}}
        busy = []
        for _ in keys:
            arrival = asyncio.create_task(estate.demo.next_heard())
            busy.append(asyncio.create_task(api.get("/models", cast_to=object, options=pinned)))
            await arrival
        with pytest.raises(openai.RateLimitError):
            await api.vector_stores.create(file_ids=[file])
        await asyncio.gather(*busy)
        assert (await api.files.retrieve(file)).id == file


async def test_searches_wait_for_each_other_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    allowance = looking.Allowance(Brake())
    first = await allowance.begin(10)
    assert first is not None
    waiting = asyncio.create_task(allowance.begin(10))
    await asyncio.sleep(0)
    assert not waiting.done()
    with first:
        first.missed, first.found = 9, True  # what finds something costs nothing
    second = await waiting
    assert second is not None
    monkeypatch.setattr(looking, "PATIENCE", 0.01)
    with pytest.raises(Unavailable):
        await allowance.begin(1)
    with second:
        second.missed = 10
    assert await allowance.begin(1) is None


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([StaleConnection("gone", sent=True), 200], looking.Sighting.FOUND),
        ([StaleConnection("gone", sent=True), 404], looking.Sighting.MISSED),
        ([StaleConnection("gone", sent=True)] * 2, looking.Sighting.UNSURE),
        ([UpstreamFailure("no", sent=False)], looking.Sighting.UNSURE),
        ([401], looking.Sighting.DENIED),
        ([429], looking.Sighting.UNSURE),
    ],
)
async def test_a_look_is_redialled_once(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, turns: list[Any], expected: looking.Sighting
) -> None:
    script = iter(turns)

    async def say(*_: Any, **__: Any) -> Any:
        turn = next(script)
        if isinstance(turn, Exception):
            raise turn
        return turn

    monkeypatch.setattr(looking, "get_status", say)
    (deployment, *_) = proxy.worker.config.deployments
    seen = await looking.look(proxy.worker.pool, deployment, Resource("file", "file-abc123", "body"), 1)
    assert seen is expected
    assert list(script) == []


# Conflicts.


async def test_two_scopes_in_one_request_are_a_conflict(estate: Estate, proxy: Proxy, api: Any) -> None:
    one, other = make_file(estate, "alpha"), make_file(estate, "beta")
    learn(proxy, "alpha", one)
    learn(proxy, "beta", other)
    with pytest.raises(openai.ConflictError) as caught:
        await api.vector_stores.create(file_ids=[one, other])
    assert caught.value.code == "resource_scope_conflict"
    assert all(word in caught.value.message for word in (one, other, "'alpha'", "'beta'", "model_info.scope"))
    assert not estate.demo.requests
    record = await proxy.record()
    assert record.__dict__["group"] == "gpt-4o"


async def test_an_id_against_the_field_is_one_too(estate: Estate, proxy: Proxy, api: Any) -> None:
    file = make_file(estate, "alpha")
    learn(proxy, "alpha", file)
    with pytest.raises(openai.ConflictError) as caught:
        await api.files.retrieve(file, extra_headers={"x-passthrough-scope": "beta"})
    assert all(word in caught.value.message for word in (file, "'alpha'", "'beta'", "x-passthrough-scope"))
    assert (await api.files.retrieve(file, extra_headers={"x-passthrough-scope": "alpha"})).id == file
    with pytest.raises(openai.BadRequestError):
        await api.files.retrieve(file, extra_headers={"x-passthrough-scope": "delta"})


async def test_the_field_pins_by_hand(estate: Estate, api: Any) -> None:
    file = make_file(estate, "gamma")
    with pytest.raises(openai.NotFoundError):
        await api.files.retrieve(file, extra_headers={"x-passthrough-scope": "beta"})
    await api.vector_stores.create(file_ids=[file], extra_headers={"x-passthrough-scope": "gamma"})
    assert [heard.project for heard in estate.demo.requests] == ["beta", "gamma"]


@pytest_asyncio.fixture
async def unnamed(estate: Estate) -> AsyncIterator[Proxy]:
    """Every key is a scope of its own, since the file says nothing."""
    async with walks.proxies(estate.config(named=False)) as (one,):
        yield one


async def test_scopes_that_only_keys_tell_apart_may_be_one(
    estate: Estate, unnamed: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    ids = unnamed.worker.affinity
    one, other = make_file(estate, "alpha"), make_file(estate, "alpha")
    learn(unnamed, "key-alpha-1", one)
    learn(unnamed, "key-alpha-2", other)
    async with walks.sdk(unnamed) as api:
        with caplog.at_level(logging.WARNING, "passthrough.server"):
            await api.vector_stores.create(file_ids=[one, other])
        look, _ = estate.demo.requests
        assert walks.is_look(look)
        assert look.method == "GET"
        assert {look.path} <= {f"/files/{one}", f"/files/{other}"}
        assert ids.canonical("key-alpha-1") == ids.canonical("key-alpha-2")
        assert "model_info.scope" in caplog.text
        for _ in range(20):
            await api.files.retrieve(one)
        assert {heard.key for heard in estate.demo.requests} == {"sk-alpha-1", "sk-alpha-2"}
        assert (await api.files.retrieve(one, extra_headers={"x-passthrough-scope": "key-alpha-2"})).id == one
        assert estate.demo.requests[-1].project == "alpha"


async def test_or_two_after_all(estate: Estate, unnamed: Proxy) -> None:
    one, other = make_file(estate, "alpha"), make_file(estate, "beta")
    learn(unnamed, "key-alpha-1", one)
    learn(unnamed, "key-beta-1", other)
    async with walks.sdk(unnamed) as api:
        for _ in range(3):
            with pytest.raises(openai.ConflictError):
                await api.vector_stores.create(file_ids=[one, other])
        assert len(estate.demo.requests) == 1
        estate.demo.key("sk-gamma-1").limited = 1
        learn(unnamed, "key-gamma-1", other)
        with pytest.raises(openai.APIStatusError) as caught:
            await api.files.retrieve(other, extra_headers={"x-passthrough-scope": "key-alpha-1"})
        assert caught.value.status_code == 409


async def test_what_cannot_be_asked_for_stays_a_conflict(estate: Estate, unnamed: Proxy) -> None:
    blobs = [estate.demo.projects["alpha"].encrypt() for _ in range(2)]
    for blob, scope in zip(blobs, ("key-alpha-1", "key-alpha-2"), strict=True):
        unnamed.worker.affinity.remember([(ENCRYPTED, blob)], scope, time.time())
    said: Any = [{"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": blob} for blob in blobs]
    async with walks.sdk(unnamed) as api:
        with pytest.raises(openai.ConflictError, match="encrypted content belongs to the scope 'key-alpha-1'"):
            await api.responses.create(model="gpt-4o", input=said, store=False)
    assert not estate.demo.requests


async def test_what_is_gone_after_a_union_stays_where_the_rest_is(estate: Estate, unnamed: Proxy) -> None:
    one, other = make_file(estate, "alpha"), make_file(estate, "alpha")
    learn(unnamed, "key-alpha-1", one)
    learn(unnamed, "key-alpha-2", other)
    estate.demo.script(404, body={"error": {"message": "no"}}, method="POST")
    async with walks.sdk(unnamed) as api:
        with pytest.raises(openai.NotFoundError):
            await api.vector_stores.create(file_ids=[one, other])
    assert {heard.project for heard in estate.demo.requests} == {"alpha"}


async def test_a_scope_that_cannot_be_asked_leaves_it_open(estate: Estate, unnamed: Proxy) -> None:
    file = make_file(estate, "alpha")
    learn(unnamed, "key-alpha-1", file)
    estate.demo.key("sk-alpha-2").limited = 1
    async with walks.sdk(unnamed) as api:
        with pytest.raises(openai.InternalServerError) as caught:
            await api.files.retrieve(file, extra_headers={"x-passthrough-scope": "key-alpha-2"})
        assert caught.value.status_code == 503
        estate.demo.key("sk-alpha-2").limited = None
        assert (await api.files.retrieve(file, extra_headers={"x-passthrough-scope": "key-alpha-2"})).id == file


# What is an id, and what is not.


async def test_ids_in_texts_names_and_metadata_never_pin(estate: Estate, proxy: Proxy, api: Any) -> None:
    away = away_from(home_of(proxy))[0]
    file = make_file(estate, away)
    learn(proxy, away, file)
    text: Any = [{"type": "text", "text": file}]
    await api.vector_stores.create(name=file, metadata={"file_id": file})
    await api.beta.threads.create(messages=[{"role": "user", "content": text}], metadata={"file": file})
    await api.files.create(file=(file, b"x"), purpose="assistants")
    assert {heard.project for heard in estate.demo.requests} == {home_of(proxy)}


async def test_an_id_at_the_end_of_five_megabytes_pins(estate: Estate, proxy: Proxy) -> None:
    away = away_from(home_of(proxy))[0]
    file = make_file(estate, away)
    learn(proxy, away, file)
    body = {"metadata": {"long": "x" * BIG}, "name": "n", "file_ids": [file]}
    answer = await proxy.exchange(as_client(post("vector_stores", json.dumps(body).encode())))
    assert answer.startswith(b"HTTP/1.1 200")
    assert [heard.project for heard in estate.demo.requests] == [away]


async def test_and_so_does_one_in_a_late_part(estate: Estate, proxy: Proxy, api: Any) -> None:
    away = away_from(home_of(proxy))[0]
    file = make_file(estate, away)
    learn(proxy, away, file)
    form = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n' % part
        for part in (
            (b"prompt", b"", b"a cat"),
            (b"other", b'; filename="o"', b"x" * (2 << 20)),
            (b"input_reference[file_id]", b"", file.encode()),
        )
    )
    head = b"POST /openai/videos HTTP/1.1\r\nHost: p\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    body = form + b"--b--\r\n"
    answer = await proxy.exchange(as_client(head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)))
    assert answer.startswith(b"HTTP/1.1 200")
    assert [heard.project for heard in estate.demo.requests] == [away]


def as_client(request: bytes) -> bytes:
    """The same request with the first client's key."""
    line, _, rest = request.partition(b"\r\n")
    lines = [one for one in rest.split(b"\r\n", 4)[:4] if not one.startswith(b"Authorization")]
    tail = rest.split(b"\r\n", 4)[4:]
    key = b"Authorization: Bearer " + walks.client_key(0).encode()
    return b"\r\n".join([line, key, *lines, *tail])


async def test_a_model_that_nobody_has_is_no_miss_of_other_things(estate: Estate, proxy: Proxy, api: Any) -> None:
    file = make_file(estate, "beta")
    learn(proxy, "beta", file)
    said: Any = [{"role": "user", "content": [{"type": "file", "file": {"file_id": file}}]}]
    with pytest.raises(openai.NotFoundError):
        await api.chat.completions.create(model="gpt-nobody", messages=said)
    assert [heard.project for heard in estate.demo.requests] == ["beta"]
    assert known(proxy, "file", file) == "beta"


async def test_an_unknown_path_is_no_miss(estate: Estate, proxy: Proxy) -> None:
    request = get("/v1/files/file-abc1234567/nothing").replace(walks_key(), walks.client_key(0).encode())
    answer = await proxy.exchange(request)
    assert answer.startswith(b"HTTP/1.1 404")
    assert len(estate.demo.requests) == 1
    assert not proxy.worker.affinity.is_missed("file", "file-abc1234567", time.time())


def walks_key() -> bytes:
    from tests.harness import KEY

    return KEY.encode()


def test_names_in_messages_hide_what_is_secret() -> None:
    from relay.scopes.naming import name_of

    assert name_of(Resource("client_secret", "ek_abc", "header")) == "client secret belongs to"
    assert name_of(Resource("file", "file-" + "x" * 200, "path")) == f"'file-{'x' * 75}...' belongs to"
