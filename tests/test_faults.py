"""Peers, networks and machines that fail, over real sockets: what clients see, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import struct
import time
from collections import Counter
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, cast

import pytest

from relay.config import BaseURL, RouterSettings
from tests.harness import (
    OK,
    PATIENCE,
    POST_CHAT,
    config_over,
    deployment,
    get,
    post,
    proxy_for,
    proxy_over,
    read_answer,
    with_limits,
    with_timeouts,
)
from tests.measured import at_the_base_line
from tests.scripted import ScriptedUpstream, dechunk, read_message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from relay.config import Deployment
    from tests.harness import Proxy
    from tests.scripted import Turn

EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
UPLOAD = get("/v1/things", "Content-Type: a/b", "Content-Length: 30000000", method="POST")
RESET = struct.pack("ii", 1, 0)  # of SO_LINGER: close() sends a reset


@pytest.fixture(autouse=True)
async def _level() -> AsyncIterator[None]:
    async with at_the_base_line():
        yield


@pytest.fixture
async def up(_level: None) -> AsyncIterator[ScriptedUpstream]:
    upstream = ScriptedUpstream()
    await upstream.start()
    upstream.says(OK)
    yield upstream
    await upstream.close()


def reset(writer: asyncio.StreamWriter) -> None:
    """A real reset, with nothing of an end."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()


def status(answer: bytes) -> int:
    return int(answer[9:12] or 0)


# Upstreams.


class Mortal:
    """An upstream that can be killed and started again at the same port."""

    def __init__(self) -> None:
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await read_message(reader)
                writer.write(OK[:40])
                await asyncio.sleep(0)
                writer.write(OK[40:])
        self._writers.discard(writer)
        writer.close()

    def kill(self) -> None:
        """As the kernel does it for a process that died: nothing listens, and every connection is reset."""
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            reset(writer)


async def test_an_upstream_killed_and_restarted_under_load() -> None:
    """Every exchange ends whole, with its answer or with an error of ours, but for answers that had begun."""
    mortal = Mortal()
    await mortal.start()
    router = RouterSettings(disable_cooldowns=True)
    async with proxy_over(config_over(deployment("a", mortal.port), router=router)) as proxy:
        seen: Counter[bytes] = Counter()
        over = asyncio.Event()
        clients = [asyncio.create_task(ask_on(proxy, seen, over)) for _ in range(8)]
        for _ in range(3):
            await more(seen, b"200")
            mortal.kill()
            await more(seen, b"502")
            await mortal.start()
        await more(seen, b"200")
        over.set()
        await asyncio.gather(*clients)
        mortal.kill()
    assert set(seen) <= {b"200", b"502", b"cut"}
    assert seen[b"cut"] <= 8 * 3  # at most those whose answer had begun when it died


async def ask_on(proxy: Proxy, seen: Counter[bytes], over: asyncio.Event) -> None:
    while not over.is_set():
        answer = await proxy.exchange(POST_CHAT)
        whole = answer.endswith((b"{}", b"}}"))
        seen[answer[9:12] if whole else b"cut"] += 1


async def more(seen: Counter[bytes], outcome: bytes, count: int = 50) -> None:
    wanted = seen[outcome] + count
    async with asyncio.timeout(PATIENCE):
        while seen[outcome] < wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def reset_at_once(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    reset(writer)


async def reset_within_the_head(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(OK[:30])
    await asyncio.sleep(0.01)
    reset(writer)


async def reset_after_the_head(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(OK[:-1])
    await asyncio.sleep(0.01)
    reset(writer)


async def end_within_the_head(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(OK[:30])
    writer.write_eof()
    writer.close()


async def half_close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write_eof()
    await asyncio.sleep(0.05)
    writer.close()


BEFORE_AN_ANSWER = [reset_at_once, reset_within_the_head, end_within_the_head, half_close]


ASKED_AGAIN = {"a GET": (get("/v1/things"), True), "a POST that acts": (post("files", b"{}"), False)}


@pytest.mark.parametrize("fault", BEFORE_AN_ANSWER)
@pytest.mark.parametrize(("request_", "asked_again"), ASKED_AGAIN.values(), ids=ASKED_AGAIN)
async def test_an_end_before_an_answer(up: ScriptedUpstream, fault: Turn, request_: bytes, asked_again: bool) -> None:
    """What may have acted is not sent twice; what is safe goes to the next."""
    broken = ScriptedUpstream()
    await broken.start()
    broken.says(fault)
    one, other = deployment("a", broken.port, scope="s"), deployment("b", up.port, scope="s", order=1)
    async with proxy_over(config_over(one, other)) as proxy:
        answer = await proxy.exchange(request_)
    await broken.close()
    assert status(answer) == (200 if asked_again else 502)
    assert (len(broken.requests), len(up.requests)) == (1, int(asked_again))


async def test_a_reset_after_the_head_is_never_asked_again(up: ScriptedUpstream) -> None:
    up.script = [reset_after_the_head, OK]
    async with proxy_for(up, up) as proxy:
        answer = await proxy.exchange(get("/v1/things"))
        assert answer.endswith(b"\r\n\r\n{")
        assert (await proxy.exchange(get("/v1/things"))).endswith(b"{}")
    assert len(up.requests) == 2


async def test_a_reset_within_an_upload_is_an_answer_that_the_client_reads() -> None:
    async def take_a_little(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(100_000)
        reset(writer)

    server = await asyncio.start_server(take_a_little, "127.0.0.1", 0)
    async with proxy_over(config_over(deployment("a", server.sockets[0].getsockname()[1]))) as proxy:
        reader, writer = await proxy.connect()
        writer.write(UPLOAD)
        writer.write(b"x" * 30_000_000)
        answer = await asyncio.wait_for(reader.read(), PATIENCE)
        writer.close()
    server.close()
    assert status(answer) == 502
    assert answer.endswith(b"}}")


async def test_an_upstream_that_half_closes_behind_its_answer_is_not_used_again(up: ScriptedUpstream) -> None:
    async def answer_and_half_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        writer.write_eof()
        await reader.read()

    up.script = [answer_and_half_close, OK]
    async with proxy_for(up) as proxy:
        assert (await proxy.exchange(POST_CHAT, POST_CHAT)).count(b"HTTP/1.1 200 OK") == 2
    assert up.connections == 2


async def test_a_handshake_that_stalls_is_a_504_in_time() -> None:
    over = asyncio.Event()

    async def stall(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    server = await asyncio.start_server(stall, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    secure = deployment("a", port, base=BaseURL("https", "127.0.0.1", port, "/v1"))
    async with proxy_over(config_over(secure, timeouts=with_timeouts(connect=0.2))) as proxy:
        began = time.monotonic()
        answer = await proxy.exchange(POST_CHAT)
        took = time.monotonic() - began
    over.set()
    server.close()
    assert status(answer) == 504
    assert took < 3
    assert str(port).encode() not in answer


NOWHERE = BaseURL("http", "nobody.invalid", 80, "/v1")


async def test_a_name_that_does_not_resolve_is_a_502_and_the_next_is_asked(up: ScriptedUpstream) -> None:
    nowhere = deployment("a", 80, base=NOWHERE)
    async with proxy_over(config_over(nowhere)) as proxy:
        answer = await proxy.exchange(POST_CHAT)
        record = await proxy.record()
    assert status(answer) == 502
    assert b"nobody.invalid" not in answer
    assert "nobody.invalid" in record.__dict__["error"]
    async with proxy_over(config_over(nowhere, deployment("b", up.port, order=1))) as proxy:
        assert status(await proxy.exchange(POST_CHAT)) == 200


# Clients.


async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(EVENTS)
    with suppress(ConnectionError):
        while not reader.at_eof():
            writer.write(b"9\r\ndata: 1\n\n\r\n")
            await writer.drain()
            await asyncio.sleep(0.001)
    raise ConnectionError


LEAVERS: dict[str, Callable[[asyncio.StreamWriter], None]] = {
    "reset": reset,
    "end": lambda writer: writer.close(),
    "half-close": lambda writer: writer.write_eof(),
}


@pytest.mark.parametrize("how", LEAVERS)
@pytest.mark.parametrize("when", ["in silence", "within a stream", "within an upload"])
async def test_clients_that_leave_take_their_upstreams_along(up: ScriptedUpstream, how: str, when: str) -> None:
    """Fifty at once, in each way and at each time; within a second nothing is left of them."""

    async def say_nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    up.script = [endless if when == "within a stream" else say_nothing]
    async with proxy_for(up) as proxy:
        clients = [await proxy.connect() for _ in range(50)]
        for reader, writer in clients:
            writer.write(UPLOAD + b"x" * 100_000 if when == "within an upload" else POST_CHAT)
            if when == "within a stream":
                await asyncio.wait_for(reader.readuntil(b"data: 1\n\n"), PATIENCE)
        if when == "in silence":
            await come(up, 50)
        for _, writer in clients:
            LEAVERS[how](writer)
        await proxy.record(50)
        for _, writer in clients:
            writer.transport.abort()
        assert not proxy.worker.in_flight.get("gpt-4")
    assert Counter(record.__dict__["status"] for record in proxy.records) == {499: 50}


async def come(up: ScriptedUpstream, count: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while len(up.requests) < count:
            up.asked.clear()
            await up.asked.wait()


STRANGER = b"GET /v1/things HTTP/1.1\r\nHost: p\r\n\r\n"  # without a key: the answer is ours


async def test_a_client_that_asks_on_and_reads_nothing_is_held(up: ScriptedUpstream) -> None:
    """Its answers wait in the kernel's buffers and a little more; after that its requests do."""
    async with proxy_for(up) as proxy:
        reader, writer = await proxy.connect()
        cast("asyncio.Transport", writer.transport).pause_reading()
        writer.write(STRANGER * 100_000)
        served = -1
        async with asyncio.timeout(PATIENCE * 2):
            while served < len(proxy.records):
                served = len(proxy.records)
                await asyncio.sleep(0.5)
        assert served < 50_000
        assert not reader.at_eof()
        reset(writer)


async def test_a_client_that_asks_much_at_once_gives_the_others_their_turn(up: ScriptedUpstream) -> None:
    async with proxy_for(up) as proxy:
        _, greedy = await proxy.connect()
        _, modest = await proxy.connect()
        greedy.write(STRANGER * 1000)
        await proxy.record(1)
        modest.write(get("/elsewhere"))
        async with asyncio.timeout(PATIENCE):
            while 404 not in (told := [record.__dict__["status"] for record in proxy.records]):
                proxy.settled.clear()
                await proxy.settled.wait()
        assert told.index(404) < 100
        reset(greedy)
        reset(modest)


# The machine.


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """While the context lasts a file cannot grow beyond ``size``: as a full disk, write() fails in its midst."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def undecided(up: ScriptedUpstream) -> list[Deployment]:
    return [deployment(name, up.port, scope="s") for name in "ab"]


@pytest.mark.parametrize("beyond", [1, 5_000, 1_000_000])
async def test_a_disk_that_is_full_while_a_body_is_held_for_its_choice(up: ScriptedUpstream, beyond: int) -> None:
    content = b'{"model":"gpt-4","x":"' + b"x" * (2_000_000 + beyond - 24) + b'"}'
    async with proxy_over(config_over(*undecided(up))) as proxy:
        with files_of_at_most(2_000_000):
            answer = await proxy.exchange(post("chat/completions", content))
            assert status(answer) == 503
            assert b"room" in answer
            assert status(await proxy.exchange(POST_CHAT)) == 200
        assert status(await proxy.exchange(post("chat/completions", content))) == 200
    assert len(up.requests) == 2


@pytest.mark.parametrize("beyond", [1, 5_000, 1_000_000])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_disk_that_is_full_while_a_body_is_held_for_a_retry(
    up: ScriptedUpstream, beyond: int, chunked: bool
) -> None:
    """Then there is no retry; the first send goes on."""
    content = os.urandom(2_000_000 + beyond)
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(content)}"
    request = get("/v1/things", "Content-Type: a/b", framing, method="POST")
    request += b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content) if chunked else content
    async with proxy_for(up) as proxy:
        with files_of_at_most(2_000_000):
            assert status(await proxy.exchange(request)) == 200
    sent = up.heard.partition(b"\r\n\r\n")[2]
    assert (dechunk(sent) if chunked else sent) == content


@pytest.mark.parametrize("jump", [-400 * 86_400, -3600, 3600, 400 * 86_400])
async def test_a_clock_that_jumps(up: ScriptedUpstream, jump: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines run by another clock, and ids are found again."""
    created = b'{"id":"file-abc","object":"file"}'
    up.script = [b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 33\r\n\r\n" + created]
    now, offset = time.time, 0.0
    monkeypatch.setattr(time, "time", lambda: now() + offset)
    async with proxy_over(config_over(*undecided(up), timeouts=with_timeouts(head=5, keep_alive=5))) as proxy:
        reader, writer = await proxy.connect()
        for _ in range(3):
            writer.write(post("files", b"{}") + get("/v1/files/file-abc"))
            for _ in range(2):
                answer = await asyncio.wait_for(read_answer(reader), PATIENCE)
                assert status(answer) == 200
            offset += jump
        writer.close()
        records = [await proxy.record(number) for number in range(1, 7)]
    assert all(0 <= record.__dict__["total_ms"] < 5000 for record in records)


async def test_a_spilled_body_leaves_no_descriptor_whatever_happens(up: ScriptedUpstream) -> None:
    """Served, refused, cut: each with its temporary file; the base line is the assertion."""
    content = b'{"model":"gpt-4","x":"' + b"x" * 100_000 + b'"}'
    async with proxy_over(config_over(*undecided(up), limits=with_limits(inspection_bytes=1000))) as proxy:
        assert status(await proxy.exchange(post("chat/completions", content))) == 200
        assert status(await proxy.exchange(post("chat/completions", content[:-1] + b',"model":"x"}'))) == 400
        _, writer = await proxy.connect()
        writer.write(post("chat/completions", content)[:-10])
        await asyncio.sleep(0.05)
        reset(writer)
        await proxy.record(3)
