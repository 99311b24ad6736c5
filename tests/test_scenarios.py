"""The simulation's scenarios over real sockets: the SDK, a proxy, and upstreams that are limited, killed and slow.

Every key is an upstream of its own (``relay.demo``), so that it can be taken away under load and come back. The SDK
never retries: what it sees is what the proxy did.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import openai
import pytest

from relay.choosing.strategies import STRATEGIES
from relay.config import RouterSettings, Secret
from relay.demo import DemoUpstream, Quota
from relay.demo.script import Bucket
from tests.harness import KEY, PATIENCE, config_over, deployment, get, post, proxy_over, with_timeouts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.harness import Proxy

    Call = Callable[[openai.AsyncOpenAI], Awaitable[Any]]

COOLDOWN = 0.3  # seconds: short, so that a scenario of seconds sees many
HI: Any = [{"role": "user", "content": "hi"}]


class Farm:
    """Upstream keys a, b, c, ..., each behind a port that stays its own."""

    def __init__(self, names: str) -> None:
        self.keys = {name: DemoUpstream({f"sk-upstream-{name}": name}, pace=0, heard=5000) for name in names}
        self.ports: dict[str, int] = {}

    async def start(self) -> None:
        for name in self.keys:
            self.ports[name] = await self.keys[name].start()

    async def kill(self, name: str) -> None:
        """Cut every connection, and refuse new ones."""
        key = self.keys[name]
        assert key._server is not None
        for sock in key._server.sockets:
            asyncio.get_running_loop().remove_reader(sock)
        for _ in range(3):
            await asyncio.sleep(
                0
            )  # asyncio drops connections that it took and has not handed over when a server closes
        await key.close()

    async def restart(self, name: str) -> None:
        """Come back at the same address."""
        assert await self.keys[name].start(port=self.ports[name]) == self.ports[name]

    def switches(self, name: str) -> Any:
        """What one key does besides working."""
        return self.keys[name].key(f"sk-upstream-{name}")

    @property
    def calls(self) -> Counter[str]:
        """How many requests each key has heard."""
        return Counter({name: len(key.requests) for name, key in self.keys.items()})

    async def close(self) -> None:
        for key in self.keys.values():
            await key.close()


@asynccontextmanager
async def farm_of(names: str) -> AsyncIterator[Farm]:
    farm = Farm(names)
    await farm.start()
    try:
        yield farm
    finally:
        await farm.close()


@asynccontextmanager
async def proxy_of(farm: Farm, *, groups: tuple[str, ...] = ("gpt-4",), **settings: Any) -> AsyncIterator[Proxy]:
    """A proxy over all keys of the farm, each in every group."""
    members = [
        deployment(
            name if group == "gpt-4" else f"{name}-{group}",
            port,
            group=group,
            model=group,
            key=Secret(f"sk-upstream-{name}"),
            scope="s",
            quota_group=name,
        )
        for group in groups
        for name, port in farm.ports.items()
    ]
    given = {"cooldown_time": COOLDOWN, **settings}
    async with proxy_over(config_over(*members, router=RouterSettings(**given))) as proxy:
        proxy.worker.brain.router._rng.seed(1)  # so that no test fails for a run of luck
        yield proxy


@asynccontextmanager
async def sdk_for(proxy: Proxy, **settings: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    given = {"timeout": PATIENCE, **settings}
    async with openai.AsyncOpenAI(base_url=proxy.base_url, api_key=KEY, max_retries=0, **given) as client:
        yield client


async def chat(client: openai.AsyncOpenAI, model: str = "gpt-4") -> Any:
    answer = await client.chat.completions.create(model=model, messages=HI)
    assert answer.choices[0].message.content
    return answer


class Load:
    """Clients that ask one thing after the other, for as long as a scenario lasts."""

    def __init__(self, client: openai.AsyncOpenAI, call: Call = chat, clients: int = 6) -> None:
        self.failures: list[str] = []
        self.served = 0
        self._client = client
        self._call = call
        self._over = False
        self._moved = asyncio.Event()
        self._tasks = [asyncio.create_task(self._ask(), name=f"client {number}") for number in range(clients)]

    async def _ask(self) -> None:
        while not self._over:
            try:
                await self._call(self._client)
            except openai.APIError as error:
                self.failures.append(f"{type(error).__name__}: {error}")
            self.served += 1
            self._moved.set()

    async def goes_on(self, count: int) -> None:
        """Wait for that many more calls."""
        until = self.served + count
        async with asyncio.timeout(PATIENCE):
            while self.served < until:
                self._moved.clear()
                await self._moved.wait()

    async def ends(self) -> None:
        self._over = True
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*self._tasks)


@asynccontextmanager
async def load_on(proxy: Proxy, call: Call = chat) -> AsyncIterator[Load]:
    async with sdk_for(proxy) as client:
        load = Load(client, call)
        try:
            yield load
        finally:
            await load.ends()
            await proxy.record(load.served)


def wasted(proxy: Proxy) -> int:
    """Calls whose answer no client got."""
    attempts: list[list[Any]] = [vars(record)["attempts"] for record in proxy.records]
    return sum(len(rows) - 1 for rows in attempts)


def shares(proxy: Proxy) -> Counter[str]:
    """Who served how many exchanges."""
    return Counter(record.deployment for record in proxy.records)  # type: ignore[attr-defined]


def nothing_is_left(proxy: Proxy) -> bool:
    """Whether every exchange has ended for the router, too."""
    ledger = proxy.worker.brain.router.ledger
    counts = [health.in_flight for _, health in ledger.healths.values()]
    return not any(counts + [quota.in_flight for _, quota in ledger.quotas.items()])


# One of three keys is limited, dead, flapping or slow. A healthy key has room, so no client sees anything.


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_one_limited_to_a_part_of_its_share(strategy: str) -> None:
    async with farm_of("abc") as farm, proxy_of(farm, routing_strategy=strategy) as proxy:
        farm.switches("a").quota = Quota(10)
        async with load_on(proxy) as load:
            await load.goes_on(80)
        assert load.failures == []
        assert shares(proxy)["a"] >= 1  # how soon it is noticed is the strategy's affair
        assert shares(proxy)["a"] <= 11
        assert wasted(proxy) <= 6  # at most those that were under way when it had nothing left
        assert nothing_is_left(proxy)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("how", ["killed", "its key is dead", "its account is dead"])
async def test_one_dead(strategy: str, how: str) -> None:
    async with farm_of("abc") as farm, proxy_of(farm, routing_strategy=strategy) as proxy:
        async with load_on(proxy) as load:
            await load.goes_on(20)
            if how == "killed":
                await farm.kill("a")
            else:
                farm.switches("a").dead = how == "its key is dead"
                farm.switches("a").broke = how == "its account is dead"
            await load.goes_on(60)
        assert load.failures == []
        assert wasted(proxy) <= 6 + 4 + 10  # under way; until it cools; one trial after each cooldown
        assert nothing_is_left(proxy)


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_one_flapping(strategy: str) -> None:
    async with farm_of("abc") as farm, proxy_of(farm, routing_strategy=strategy) as proxy:
        async with load_on(proxy) as load:
            for _ in range(3):
                await load.goes_on(25)
                await farm.kill("a")
                await load.goes_on(25)
                await farm.restart("a")
        assert load.failures == []
        assert wasted(proxy) <= 3 * (6 + 4 + 2)
        assert nothing_is_left(proxy)


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_one_much_slower(strategy: str) -> None:
    async with farm_of("abc") as farm, proxy_of(farm, routing_strategy=strategy) as proxy:
        farm.switches("a").slow = 0.2
        async with load_on(proxy) as load:
            await load.goes_on(100)
        assert load.failures == []
        assert wasted(proxy) == 0
        if strategy == "latency-based-routing":
            assert shares(proxy)["a"] <= 6 + 4  # before its first answer came, and a look now and then
        if strategy == "least-busy":
            assert shares(proxy)["a"] < 33
        assert nothing_is_left(proxy)


async def test_all_dead_then_back() -> None:
    async with farm_of("abc") as farm, proxy_of(farm) as proxy:
        async with load_on(proxy) as load:
            await load.goes_on(20)
            for name in "abc":
                await farm.kill(name)
            await load.goes_on(40)
            assert {failure.partition(":")[0] for failure in load.failures} == {"InternalServerError"}  # our 502
            for name in "abc":
                await farm.restart(name)
            before = farm.calls
            async with asyncio.timeout(2 * COOLDOWN + 1):
                while not all((farm.calls - before)[name] for name in "abc"):
                    await load.goes_on(1)
            load.failures.clear()
            await load.goes_on(60)
            assert load.failures == []
        assert nothing_is_left(proxy)


# What one client, one model or one key suffers is not held against the others.


async def test_one_clients_poison_cools_nothing_for_the_others() -> None:
    async def paint(client: openai.AsyncOpenAI) -> None:
        await client.images.generate(model="gpt-4", prompt="poison")

    async with farm_of("abc") as farm, proxy_of(farm) as proxy:
        for key in farm.keys.values():  # as with every key: it is the request that is bad
            key.script(500, body={"error": {"message": "Oh."}}, path="/images/generations", times=None)
        async with load_on(proxy) as load, sdk_for(proxy) as poisoner:
            for _ in range(20):
                with pytest.raises(openai.InternalServerError):
                    await paint(poisoner)
            await load.goes_on(60)
            now = asyncio.get_running_loop().time()
            out = [name for name, cooling in proxy.worker.brain.router.cooling(now) if cooling]
        assert load.failures == []
        assert out == []
        chats = Counter(record.deployment for record in proxy.records if record.endpoint == "/chat/completions")  # type: ignore[attr-defined]
        assert min(chats[name] for name in "abc") > 5


async def test_a_429_on_one_model_leaves_the_key_to_the_others() -> None:
    async with farm_of("ab") as farm, proxy_of(farm, groups=("gpt-4", "gpt-4o")) as proxy:
        quota = farm.switches("a").quota = Quota(1)
        async with load_on(proxy) as load:
            await load.goes_on(30)
        assert load.failures == []
        assert shares(proxy)["a"] <= 1
        assert shares(proxy)["b"] >= 29
        quota.requests = 1_000_000  # for models that are asked for from now on
        async with sdk_for(proxy) as client:
            for _ in range(30):
                await chat(client, "gpt-4o")
        later = Counter(record.deployment for record in proxy.records if record.group == "gpt-4o")  # type: ignore[attr-defined]
        assert min(later["a-gpt-4o"], later["b-gpt-4o"]) > 3


@pytest.mark.parametrize(("status", "code"), [(403, "model_not_found"), (401, "missing_scope"), (401, None)])
async def test_a_key_without_access_to_one_model_serves_the_rest(status: int, code: str | None) -> None:
    async def embed(client: openai.AsyncOpenAI) -> None:
        await client.embeddings.create(model="text-embedding-3-small", input="hi")

    groups = ("gpt-4", "text-embedding-3-small")
    async with farm_of("ab") as farm, proxy_of(farm, groups=groups, cooldown_time=60) as proxy:
        refusal: Any = {"error": {"message": "No.", "type": "invalid_request_error", "param": None, "code": code}}
        refused = farm.keys["a"].script(status, body=refusal, path="/embeddings", times=None)
        async with sdk_for(proxy) as client:
            for _ in range(20):
                await embed(client)
                await chat(client)
        await proxy.record(40)
        assert refused.used == 1
        chats = Counter(record.deployment for record in proxy.records if record.endpoint == "/chat/completions")  # type: ignore[attr-defined]
        assert min(chats["a"], chats["b"]) > 2


async def test_headroom_shows_nobody_a_429_at_90_percent_of_unequal_limits() -> None:
    """Limits of 1:3:6, each with only one second's worth left at the start."""
    per_second, seconds = 40.0, 2.5
    limits = {name: part * per_second * 60 / 0.9 / 10 for name, part in zip("abc", (1, 3, 6), strict=True)}
    async with farm_of("abc") as farm, proxy_of(farm, routing_strategy="headroom") as proxy, sdk_for(proxy) as client:
        loop = asyncio.get_running_loop()
        for name, limit in limits.items():
            quota = farm.switches(name).quota = Quota(int(limit))
            now = farm.keys[name].world.clock()
            quota.models["gpt-4"] = (Bucket(int(limit), limit / 60, now), Bucket(1_000_000, 1e6, now))
        began = loop.time()
        calls = []
        for number in range(int(per_second * seconds)):
            await asyncio.sleep(max(began + number / per_second - loop.time(), 0))  # the load, not a wait for anything
            calls.append(asyncio.create_task(chat(client)))
        await asyncio.gather(*calls)
        await proxy.record(len(calls))
        assert wasted(proxy) <= 5
        served = shares(proxy)
        assert served["a"] < served["b"] < served["c"]


async def test_a_long_stream_survives_a_short_read_timeout() -> None:
    async with farm_of("a") as farm, proxy_of(farm) as proxy:
        farm.keys["a"].pace = 0.08
        async with sdk_for(proxy, timeout=openai.Timeout(PATIENCE, read=0.5)) as client:
            began = asyncio.get_running_loop().time()
            stream = await client.chat.completions.create(model="gpt-4", messages=HI, stream=True)
            pieces = [chunk.choices[0].delta.content async for chunk in stream if chunk.choices]
            lasted = asyncio.get_running_loop().time() - began
        (heard,) = farm.keys["a"].requests
        assert heard.value(b"x-stainless-read-timeout") == b"0.5"
        assert lasted > 0.5
        assert "".join(filter(None, pieces))
        assert (await proxy.record()).outcome == "ok"  # type: ignore[attr-defined]


# What may have acted is sent exactly once, whatever happens (SPEC §7, row by row).

FORM = (
    b"POST /v1/%s HTTP/1.1\r\nHost: p\r\nAuthorization: Bearer "
    + KEY.encode()
    + b"\r\nContent-Type: multipart/form-data; "
    b"boundary=b\r\nContent-Length: %d\r\n\r\n%s"
)


def form(path: str, name: str) -> bytes:
    """A form with a file, as bytes."""
    part = b'--b\r\nContent-Disposition: form-data; name="%s"; filename="f"\r\n\r\nbytes\r\n--b--\r\n' % name.encode()
    return FORM % (path.encode(), len(part), part)


def keyed(request: bytes) -> bytes:
    return request.replace(b"Host: p\r\n", b"Host: p\r\nIdempotency-Key: k\r\n")


TALK = b'{"model":"gpt-4","input":"hi"%s}'
CHATTED = b'{"model":"gpt-4","messages":[]%s}'
REPEATABLE = {
    "GET": get("/v1/models"),
    "HEAD": get("/v1/models", method="HEAD"),
    "DELETE": get("/v1/files/file-abc1234567", method="DELETE"),
    "chat": post("chat/completions", CHATTED % b""),
    "chat, a stream": post("chat/completions", CHATTED % b',"stream":true'),
    "chat, not stored": post("chat/completions", CHATTED % b',"store":false'),
    "completions": post("completions", b'{"model":"gpt-4","prompt":"hi"}'),
    "embeddings": post("embeddings", TALK % b""),
    "moderations": post("moderations", TALK % b""),
    "images": post("images/generations", b'{"model":"gpt-4","prompt":"a cat"}'),
    "edited images": form("images/edits", "image"),
    "speech": post("audio/speech", TALK % b""),
    "transcriptions": form("audio/transcriptions", "file"),
    "a response, not stored": post("responses", TALK % b',"store":false'),
    "files, with a key": keyed(form("files", "file")),
    "a stored response, with a key": keyed(post("responses", TALK % b"")),
}
ACTING = {
    "a stored chat": post("chat/completions", CHATTED % b',"store":true'),
    "a stored response": post("responses", TALK % b""),
    "a response in the background": post("responses", TALK % b',"store":false,"background":true'),
    "files": form("files", "file"),
    "uploads": post("uploads", b'{"filename":"f"}'),
    "batches": post("batches", b'{"endpoint":"/v1/embeddings"}'),
    "assistants": post("assistants", b'{"model":"gpt-4"}'),
    "threads": post("threads", b"{}"),
    "vector stores": post("vector_stores", b"{}"),
    "fine-tuning": post("fine_tuning/jobs", b'{"model":"gpt-4"}'),
    "a path of tomorrow": post("tomorrow", b"{}"),
    "PUT": get("/v1/things/new", "Content-Length: 0", method="PUT"),
    "PATCH": get("/v1/things/new", "Content-Length: 0", method="PATCH"),
}
ENDPOINTS = {**REPEATABLE, **ACTING}
ERROR: Any = {"error": {"message": "No.", "type": "x", "param": None, "code": None}}


def coded(code: str) -> Any:
    return {"error": {**ERROR["error"], "code": code}}


# what the first key does -> how often a request is sent that may be repeated, and one that may act
FAILURES: dict[str, tuple[dict[str, Any], int, int]] = {
    "429": ({"status": 429, "body": ERROR}, 2, 2),
    "429 of a dead account": ({"status": 429, "body": coded("insufficient_quota")}, 2, 2),
    "401 of a dead key": ({"status": 401, "body": coded("invalid_api_key")}, 2, 2),
    "401": ({"status": 401, "body": ERROR}, 2, 2),
    "403": ({"status": 403, "body": ERROR}, 2, 2),
    "503": ({"status": 503, "body": ERROR}, 2, 2),
    "529": ({"status": 529, "body": ERROR}, 2, 2),
    "500": ({"status": 500, "body": ERROR}, 2, 1),
    "502": ({"status": 502, "body": ERROR}, 2, 1),
    "504": ({"status": 504, "body": ERROR}, 2, 1),
    "520": ({"status": 520, "body": ERROR}, 2, 1),
    "reset before the content was read": ({"fault": "reset", "place": "unread"}, 2, 1),
    "reset": ({"fault": "reset", "place": "before"}, 2, 1),
    "an end instead of a head": ({"fault": "cut", "place": "before"}, 2, 1),
    "an end within the head": ({"fault": "cut", "place": "within"}, 2, 1),
    "silence": ({"fault": "stall", "place": "before"}, 2, 1),
    "silence within the head": ({"fault": "stall", "place": "within"}, 2, 1),
    "no HTTP": ({"raw": b"lorem ipsum dolor\r\n\r\n"}, 2, 1),
    "two lengths": ({"raw": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"}, 2, 1),
    "a switch nobody asked for": ({"raw": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"}, 2, 1),
    "400": ({"status": 400, "body": ERROR}, 1, 1),
    "404": ({"status": 404, "body": ERROR}, 1, 1),
    "408": ({"status": 408, "body": ERROR}, 1, 1),
    "409": ({"status": 409, "body": ERROR}, 1, 1),
    "413": ({"status": 413, "body": ERROR}, 1, 1),
    "422": ({"status": 422, "body": ERROR}, 1, 1),
    "a break after the first byte": (
        {"status": 200, "body": b"x" * 100, "fault": "cut", "place": "after", "count": 9},
        1,
        1,
    ),
    "an answer": ({"status": 200, "body": b"{}"}, 1, 1),
    "a redirect": ({"status": 307, "fields": [(b"Location", b"/v1/models")]}, 1, 1),
}


@asynccontextmanager
async def two_keys(
    monkeypatch: pytest.MonkeyPatch, patience: float = PATIENCE
) -> AsyncIterator[tuple[DemoUpstream, Proxy]]:
    """Two keys of one project behind one upstream, the first always asked first, and retries without number."""
    monkeypatch.setattr("relay.choosing.tally.FLOOR", 10_000)
    keys = {"sk-upstream-a": "s", "sk-upstream-b": "s"}
    upstream = DemoUpstream(keys, pace=0, heard=5000)
    port = await upstream.start()
    members = [deployment(name, port, order=at, scope="s", quota_group=name) for at, name in enumerate("ab")]
    settings = RouterSettings(disable_cooldowns=True, num_retries=9)
    config = config_over(*members, router=settings, timeouts=with_timeouts(response_head=patience))
    try:
        async with proxy_over(config) as proxy:
            yield upstream, proxy
            assert nothing_is_left(proxy)
    finally:
        await upstream.close()


@pytest.mark.parametrize("failure", FAILURES)
async def test_what_may_have_acted_is_sent_once(failure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    script, repeatable, acting = FAILURES[failure]
    monkeypatch.setattr("relay.reach.upstream.MOST_IDLE", 0)  # kept connections may be stale, which is told below
    async with two_keys(monkeypatch, 0.15 if script.get("fault") == "stall" else PATIENCE) as (upstream, proxy):
        upstream.script(key="sk-upstream-a", times=None, **script)
        requests = [
            request.replace(b"Host: p\r\n", b"Host: p\r\nX-Case: %s\r\n" % name.encode())
            for name, request in ENDPOINTS.items()
        ]
        await asyncio.gather(*map(proxy.exchange, requests))
        await proxy.record(len(requests))
        heard = Counter(one.value(b"x-case").decode() for one in upstream.requests)
        firsts = Counter(one.value(b"x-case").decode() for one in upstream.requests if one.key == "sk-upstream-a")
    assert heard == {name: repeatable if name in REPEATABLE else acting for name in ENDPOINTS}
    assert set(firsts.values()) == {1}


async def test_what_cannot_be_sent_is_sent_once_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection: whatever the request, nothing of it has left."""
    async with farm_of("ab") as farm, proxy_of(farm, disable_cooldowns=True) as proxy:
        monkeypatch.setattr("relay.choosing.tally.FLOOR", 10_000)
        await farm.kill("a")
        for count, request in enumerate(ENDPOINTS.values(), 1):
            await proxy.exchange(request)
            rows = vars(await proxy.record(count))["attempts"]
            assert [row["deployment"] for row in rows][-1] == "b"
            assert farm.calls == {"a": 0, "b": count}
        assert wasted(proxy) > 0


async def test_a_stale_connection_is_tried_again_only_where_that_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kept connection that ends before a byte of an answer (SPEC §12): redialled for idempotent methods, too."""
    async with two_keys(monkeypatch) as (upstream, proxy):
        for name, request in ENDPOINTS.items():
            await proxy.exchange(get("/v1/models"))  # leaves a connection to be kept
            upstream.requests.clear()
            upstream.script(key="sk-upstream-a", fault="reset", place="unread")
            await proxy.exchange(request)
            heard = [one.key for one in upstream.requests]
            assert heard == ["sk-upstream-a"] * (2 if name in REPEATABLE or name == "PUT" else 1), name
        await proxy.record(2 * len(ENDPOINTS))
