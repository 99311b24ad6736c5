"""Lists of three projects as one: whole, in order, each item as it came, page by page."""

from __future__ import annotations

import asyncio
import json
import random
import time
from typing import TYPE_CHECKING, Any

import openai
import pytest
import pytest_asyncio

from relay.answers.listings import read_listing
from tests import walks
from tests.harness import get

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.harness import Proxy
    from tests.walks import Estate

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

# path, kind, the order where nobody says, whether it can be asked for, the largest page
LISTS = [
    ("/assistants", "assistant", "desc", True),
    ("/audio/voice_consents", "voice_consent", "desc", False),
    ("/batches", "batch", "desc", False),
    ("/chat/completions", "chat_completion", "asc", True),
    ("/chatkit/threads", "chatkit_thread", "desc", True),
    ("/containers", "container", "desc", True),
    ("/evals", "eval", "asc", True),
    ("/files", "file", "desc", True),
    ("/fine_tuning/jobs", "ft_job", "desc", False),
    ("/skills", "skill", "desc", True),
    ("/vector_stores", "vector_store", "desc", True),
    ("/videos", "video", "desc", True),
]
PROJECTS = ("alpha", "beta", "gamma")


@pytest_asyncio.fixture
async def estate() -> AsyncIterator[Estate]:
    async with asyncio.timeout(60), walks.estate() as made:
        yield made


@pytest_asyncio.fixture
async def proxy(estate: Estate) -> AsyncIterator[Proxy]:
    async with walks.proxies(estate.config(affinity={"merge_lists": True})) as (one,):
        yield one


@pytest_asyncio.fixture
async def api(proxy: Proxy) -> AsyncIterator[Any]:
    async with walks.sdk(proxy) as client:
        yield client


def fill(estate: Estate, kind: str, count: int, *, moments: int = 5, **members: Any) -> list[str]:
    """Things in all projects, many made in one second; their ids, oldest first, as a merged list has them."""
    dice = random.Random(count)
    made = []
    stamp = "created" if kind == "chat_completion" else "created_at"
    other = {"created": "created_at", "created_at": "created"}[stamp]
    for number in range(count):
        project = dice.choice(PROJECTS)
        moment = 1_700_000_000 + number * moments // count
        thing = {"name": "n", "purpose": "assistants", "model": "gpt-4o", "metadata": {}, "user": "u", **members}
        one = estate.demo.projects[project].new(kind, **thing, **{stamp: moment})
        one.pop(other, None)
        made.append((moment, project, number, one["id"]))
    return [id_ for *_, id_ in sorted(made)]


def backwards(estate: Estate, ids: list[str], kind: str) -> list[str]:
    """The same from the newest on: those of one moment still by their project's name, the newest of each first."""
    shelves = {p: list(estate.demo.projects[p].shelf(kind).values()) for p in PROJECTS}
    rows = [
        (-(thing.get("created_at") or thing["created"]), project, -number)
        for project in PROJECTS
        for number, thing in enumerate(shelves[project])
    ]
    found = [shelves[project][-number]["id"] for _, project, number in sorted(rows)]
    assert sorted(found) == sorted(ids)
    return found


async def ids_of(api: Any, path: str, **query: Any) -> list[str]:
    """All pages of a list, one after the other."""
    ids: list[str] = []
    while True:
        asked = "&".join(f"{name}={value}" for name, value in query.items())
        page = await walks.call(api, "GET", f"{path}?{asked}")
        ids += [item["id"] for item in page["data"]]
        if not page["has_more"]:
            return ids
        query["after"] = ids[-1]


@pytest.mark.parametrize(("path", "kind", "order", "orderly"), LISTS, ids=[row[0] for row in LISTS])
async def test_every_list_is_the_union_in_the_api_s_order(
    estate: Estate, proxy: Proxy, api: Any, path: str, kind: str, order: str, orderly: bool
) -> None:
    oldest_first = fill(estate, kind, 23)
    newest_first = backwards(estate, oldest_first, kind)
    expected = {"asc": oldest_first, "desc": newest_first}
    whole = await walks.call(api, "GET", f"{path}?limit=100")
    assert [item["id"] for item in whole["data"]] == expected[order]
    assert (whole["first_id"], whole["last_id"]) == (expected[order][0], expected[order][-1])
    assert whole["has_more"] is False
    assert await ids_of(api, path, limit=4) == expected[order]
    if orderly:
        for asked in ("asc", "desc"):
            assert await ids_of(api, path, limit=5, order=asked) == expected[asked]
    record = await proxy.record()
    assert (record.__dict__["reason"], record.__dict__["status"], len(record.__dict__["attempts"])) == (
        "merged",
        200,
        3,
    )


async def test_items_leave_as_they_came(estate: Estate, proxy: Proxy) -> None:
    fill(estate, "file", 9, filename='\u00e9 \\ "', bytes=3, status="processed", expires_at=None)
    request = get("/v1/files").replace(b"sk-1234-of-the-proxy", walks.client_key(0).encode())
    merged = (await proxy.exchange(request)).partition(b"\r\n\r\n")[2]
    raw = [item.raw for item in read_listing(merged).items]
    theirs = []
    for key in ("sk-alpha-1", "sk-beta-1", "sk-gamma-1"):
        async with openai.AsyncOpenAI(api_key=key, base_url=estate.demo.base_url) as direct:
            theirs += [item.raw for item in read_listing((await direct.files.with_raw_response.list()).content).items]
    assert sorted(raw) == sorted(theirs)
    assert len(raw) == 9


async def test_what_is_listed_is_known(estate: Estate, proxy: Proxy, api: Any) -> None:
    fill(estate, "file", 9, filename="f", bytes=3, status="processed")
    files = [file.id async for file in await api.files.list()]
    heard = len(estate.demo.requests)
    for file in files:
        assert (await api.files.retrieve(file)).id == file
    assert len(estate.demo.requests) == heard + len(files)


async def test_the_sdk_pages_through_it(estate: Estate, api: Any) -> None:
    newest_first = backwards(estate, fill(estate, "vector_store", 30), "vector_store")
    assert [one.id async for one in await api.vector_stores.list(limit=7)] == newest_first


async def test_pages_survive_a_restart(estate: Estate, tmp_path: Path) -> None:
    newest_first = backwards(estate, fill(estate, "vector_store", 30, moments=3), "vector_store")
    config = estate.config(str(tmp_path / "ids.db"), affinity={"merge_lists": True})
    seen: list[str] = []
    while len(seen) < 30:
        async with walks.proxies(config) as (proxy,), walks.sdk(proxy) as api:
            after = f"&after={seen[-1]}" if seen else ""
            page = await walks.call(api, "GET", f"/vector_stores?limit=7{after}")
            seen += [item["id"] for item in page["data"]]
    assert seen == newest_first
    assert page["has_more"] is False


async def test_a_cursor_that_nobody_has_seen_is_found(estate: Estate, proxy: Proxy, api: Any) -> None:
    newest_first = backwards(estate, fill(estate, "vector_store", 30, moments=3), "vector_store")
    for place in (0, 11, 29):
        page = await walks.call(api, "GET", f"/vector_stores?limit=5&after={newest_first[place]}")
        assert [item["id"] for item in page["data"]] == newest_first[place + 1 : place + 6]


async def test_a_deep_page_is_read_up_to(estate: Estate, api: Any) -> None:
    newest_first = backwards(estate, fill(estate, "vector_store", 400, moments=10), "vector_store")
    page = await walks.call(api, "GET", f"/vector_stores?limit=100&after={newest_first[350]}")
    assert [item["id"] for item in page["data"]] == newest_first[351:]
    assert not page["has_more"]


async def test_a_large_page_does_not_hold_the_loop(estate: Estate, api: Any) -> None:
    newest_first = backwards(estate, fill(estate, "file", 2000, filename="f" * 50, bytes=1, status="processed"), "file")
    assert [file.id async for file in await api.files.list()] == newest_first


async def test_pages_before(estate: Estate, api: Any) -> None:
    newest_first = backwards(estate, fill(estate, "vector_store", 30, moments=3), "vector_store")
    for place in (0, 3, 17, 29):
        page = await walks.call(api, "GET", f"/vector_stores?limit=5&before={newest_first[place]}")
        assert [item["id"] for item in page["data"]] == newest_first[max(place - 5, 0) : place]
        assert page["has_more"] is (place > 5)
    between = f"/vector_stores?limit=5&after={newest_first[12]}&before={newest_first[15]}"
    assert [item["id"] for item in (await walks.call(api, "GET", between))["data"]] == newest_first[13:15]


async def test_what_is_made_and_deleted_meanwhile_moves_nothing_else(estate: Estate, api: Any) -> None:
    newest_first = backwards(estate, fill(estate, "vector_store", 30, moments=3), "vector_store")
    seen: list[str] = []
    gone: set[str] = set()
    while True:
        after = f"&after={seen[-1]}" if seen else ""
        page = await walks.call(api, "GET", f"/vector_stores?limit=4{after}")
        seen += [item["id"] for item in page["data"]]
        if not page["has_more"]:
            break
        await api.vector_stores.create(name="new")
        for passed in set(seen[:-1]) - gone:  # what the other scopes had been read up to, too
            await api.vector_stores.delete(passed)
            gone.add(passed)
    assert seen == newest_first


async def test_a_deleted_cursor_gets_the_api_s_own_answer(estate: Estate, api: Any) -> None:
    newest_first = backwards(estate, fill(estate, "vector_store", 9), "vector_store")
    page = await walks.call(api, "GET", "/vector_stores?limit=3")
    await api.vector_stores.delete(newest_first[2])
    assert page["last_id"] == newest_first[2]
    for cursor in (newest_first[2], "vs_made1up2"):
        with pytest.raises(openai.NotFoundError) as caught:
            await walks.call(api, "GET", f"/vector_stores?limit=3&after={cursor}")
        assert cursor in caught.value.message
    cost = len(estate.demo.requests)
    with pytest.raises(openai.NotFoundError):
        await walks.call(api, "GET", "/vector_stores?limit=3&after=vs_made1up2")
    assert len(estate.demo.requests) == cost + 1


async def test_so_does_one_that_is_gone_but_still_known(estate: Estate, proxy: Proxy, api: Any) -> None:
    newest_first = backwards(estate, fill(estate, "vector_store", 9), "vector_store")
    store = newest_first[4]
    await api.vector_stores.retrieve(store)
    estate.demo.projects[estate.owners[store]].drop("vector_store", store)
    for cursor in (store, "x" * 600, "."):
        with pytest.raises(openai.NotFoundError) as caught:
            await walks.call(api, "GET", f"/vector_stores?limit=3&after={cursor}")
        assert cursor in caught.value.message


async def test_a_cursor_whose_scope_talks_nonsense(estate: Estate, proxy: Proxy, api: Any) -> None:
    newest_first = backwards(estate, fill(estate, "vector_store", 9), "vector_store")
    store = newest_first[4]
    await api.vector_stores.retrieve(store)
    for body in (b"[]", b"nonsense"):
        estate.demo.script(200, body=body, path=f"/vector_stores/{store}")
        with pytest.raises(openai.InternalServerError, match=f"'{estate.owners[store]}'"):
            await walks.call(api, "GET", f"/vector_stores?limit=3&after={store}")


@pytest.mark.parametrize(
    "fields",
    [[(b"Content-Encoding", b"br")], [(b"Content-Encoding", b"gzip")], [(b"Content-Length", b"100")]],
    ids=["a coding that cannot be read", "a lie about the coding", "a page that breaks off"],
)
async def test_a_page_that_cannot_be_read(estate: Estate, api: Any, fields: list[tuple[bytes, bytes]]) -> None:
    page = b'{"object":"list","data":[],"has_more":false}'
    lengths = [] if fields[0][0] == b"Content-Length" else [(b"Content-Length", b"%d" % len(page))]
    lines = b"".join(b"%s: %s\r\n" % line for line in [*fields, *lengths])
    raw = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%s\r\n%s" % (lines, page)
    estate.demo.script(raw=raw, key="sk-gamma-1", times=None)
    with pytest.raises(openai.InternalServerError, match="'gamma'"):
        await walks.call(api, "GET", "/vector_stores")


async def test_nowhere_such_a_list(estate: Estate, api: Any) -> None:
    estate.demo.script(404, body={"error": {"code": "unknown_url", "message": "none"}}, times=None)
    with pytest.raises(openai.NotFoundError):
        await walks.call(api, "GET", "/vector_stores")


async def test_so_does_what_no_list_takes(estate: Estate, api: Any) -> None:
    fill(estate, "vector_store", 9)
    for query in ("limit=0", "limit=x", "order=up"):
        with pytest.raises(openai.BadRequestError) as caught:
            await walks.call(api, "GET", f"/vector_stores?{query}")
        assert caught.value.param == query.partition("=")[0]


@pytest.mark.parametrize("how", ["status", "limited", "dead", "reset"])
async def test_a_scope_that_is_down_makes_it_an_error_that_names_it(estate: Estate, api: Any, how: str) -> None:
    fill(estate, "vector_store", 30)
    switches = estate.demo.key("sk-beta-1")
    if how == "status":
        estate.demo.script(500, body={"error": {"message": "no"}}, key="sk-beta-1", times=None)
    elif how == "reset":
        estate.demo.script(fault="reset", place="unread", key="sk-beta-1", times=None)
    switches.limited, switches.dead = (1 if how == "limited" else None), how == "dead"
    for path in ("/vector_stores", "/vector_stores?limit=3"):
        with pytest.raises(openai.InternalServerError, match="'beta'") as caught:
            await walks.call(api, "GET", path)
        assert caught.value.status_code == 503
    estate.demo.scripts.clear()
    switches.limited, switches.dead = None, False
    assert len((await walks.call(api, "GET", "/vector_stores?limit=100"))["data"]) == 30


async def test_one_key_of_a_scope_is_enough(estate: Estate, api: Any) -> None:
    fill(estate, "vector_store", 30)
    estate.demo.key("sk-alpha-1").dead = True
    for _ in range(4):
        assert len((await walks.call(api, "GET", "/vector_stores?limit=100"))["data"]) == 30


async def test_filters_reach_every_scope(estate: Estate, api: Any) -> None:
    kept = fill(estate, "file", 8, filename="f", bytes=3, status="processed")
    fill(estate, "file", 8, filename="f", bytes=3, status="processed", purpose="batch")
    found = [file.id async for file in await api.files.list(purpose="assistants", limit=3)]
    assert sorted(found) == sorted(kept)
    said: Any = [{"role": "user", "content": "x"}]
    for model in ("gpt-4o", "gpt-4.1", "gpt-4o"):
        await api.chat.completions.create(model=model, messages=said, store=True)
    assert len([one async for one in await api.chat.completions.list(model="gpt-4o", limit=1)]) == 2


async def test_models_are_everybody_s_and_each_is_there_once(estate: Estate, api: Any) -> None:
    for project in PROJECTS:
        estate.demo.projects[project].put("model", {"id": f"ft:gpt-4o:{project}::abc", "object": "model", "created": 1})
    ids = [model.id async for model in await api.models.list()]
    assert len(ids) == len(set(ids))
    assert {f"ft:gpt-4o:{project}::abc" for project in PROJECTS} < set(ids)
    assert await api.chat.completions.create(model="ft:gpt-4o:gamma::abc", messages=[{"role": "user", "content": "x"}])
    assert estate.demo.requests[-1].project == "gamma"


async def test_a_scope_asked_for_is_listed_alone(estate: Estate, api: Any) -> None:
    fill(estate, "vector_store", 30)
    alone = [
        one.id async for one in await api.vector_stores.list(extra_headers={"x-passthrough-scope": "beta"}, limit=100)
    ]
    assert {estate.owners[id_] for id_ in alone} == {"beta"}


async def test_lists_below_a_parent_are_not_merged(estate: Estate, api: Any) -> None:
    store = await api.vector_stores.create(name="s")
    heard = len(estate.demo.requests)
    assert [one async for one in await api.vector_stores.files.list(store.id)] == []
    assert len(estate.demo.requests) == heard + 1


async def test_packed_pages_are_read(tmp_path: Path) -> None:
    async with asyncio.timeout(30), walks.estate(gzip=True) as estate:
        config = estate.config(affinity={"merge_lists": True})
        newest_first = backwards(estate, fill(estate, "vector_store", 30), "vector_store")
        async with walks.proxies(config) as (proxy,), walks.sdk(proxy) as api:
            assert [one.id async for one in await api.vector_stores.list(limit=7)] == newest_first


async def test_keys_of_one_project_show_everything_once(estate: Estate, tmp_path: Path) -> None:
    """The file says nothing of projects; that two keys see the same things shows in their lists."""
    newest_first = backwards(estate, fill(estate, "vector_store", 20, moments=2), "vector_store")
    config = estate.config(str(tmp_path / "ids.db"), named=False, affinity={"merge_lists": True})
    async with walks.proxies(config) as (proxy,), walks.sdk(proxy) as api:
        assert [one.id async for one in await api.vector_stores.list(limit=3)] == newest_first
        store = proxy.worker.affinity
        assert store.canonical("key-alpha-1") == store.canonical("key-alpha-2") != store.canonical("key-beta-1")
        assert [one.id async for one in await api.vector_stores.list(limit=3)] == newest_first


async def test_an_upstream_without_such_a_list_adds_nothing(estate: Estate, api: Any) -> None:
    newest_first = backwards(estate, fill(estate, "vector_store", 20), "vector_store")
    estate.demo.script(404, body={"error": {"code": "unknown_url"}}, key="sk-beta-1", path="/vector_stores", times=None)
    expected = [id_ for id_ in newest_first if estate.owners[id_] != "beta"]
    assert [one.id async for one in await api.vector_stores.list(limit=100)] == expected


@pytest.mark.parametrize("body", [b"[]", b"nonsense", b'{"data": 3}'])
async def test_what_is_no_list_is_a_scope_that_is_down(estate: Estate, api: Any, body: bytes) -> None:
    estate.demo.script(200, body=body, key="sk-gamma-1", times=None)
    with pytest.raises(openai.InternalServerError, match="'gamma'"):
        await walks.call(api, "GET", "/vector_stores")


async def test_without_the_setting_a_list_is_one_scope_s(estate: Estate) -> None:
    fill(estate, "vector_store", 30)
    async with walks.proxies(estate.config()) as (proxy,), walks.sdk(proxy) as api:
        one = [store.id async for store in await api.vector_stores.list(limit=4)]
    assert len({estate.owners[id_] for id_ in one}) == 1


async def test_the_cost_of_a_page(estate: Estate, proxy: Proxy, api: Any) -> None:
    """One request a scope: nothing is read again while the proxy remembers where it was."""
    fill(estate, "vector_store", 90, moments=90)
    pages = 0
    cursor = ""
    began = time.monotonic()
    while True:
        page = await walks.call(api, "GET", f"/vector_stores?limit=10{cursor}")
        pages += 1
        if not page["has_more"]:
            break
        cursor = f"&after={page['last_id']}"
    assert pages == 9
    assert len(estate.demo.requests) <= 3 * pages + 3
    assert time.monotonic() - began < 20
    assert json.dumps(page)
