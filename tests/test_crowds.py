"""Thousands of slow, idle and stalled clients before one process, and one that runs out of descriptors.

With ``FAULTS_IN_FULL`` in the environment the numbers are those of the contract: 1,000 slow, 5,000 idle, 1,000 streams.
"""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, cast

import pytest

from tests.harness import OK, PATIENCE, POST_CHAT, get, read_answer
from tests.measured import FULL, MIB, Measured, measured
from tests.scripted import ScriptedUpstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="descriptors and memory are read from /proc")

SLOW, IDLE, STREAMS = (1000, 5000, 1000) if FULL else (200, 400, 100)
STALLED = 30
PER_IDLE = 32 << 10  # bytes that an idle stream may cost (SPEC §9)
LATE = 1.0  # seconds that a normal exchange may take meanwhile, on a machine that the tests share with the proxy
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
LARGE = 20 * MIB

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Upstream(ScriptedUpstream):
    """Answers chat with a stream that waits for ``gate`` in its midst, anything large with much, and else with OK."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.says(self.answer)

    async def answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = self.requests.pop()
        if b"/chat/" in request:
            writer.write(EVENTS + b"9\r\ndata: 1\n\n\r\n")
            await self.gate.wait()
            writer.write(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")
        elif b"/large" in request:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE)
            for _piece in range(LARGE // MIB):
                writer.write(b"x" * MIB)
                await writer.drain()
        else:
            writer.write(OK)


@pytest.fixture
async def up() -> AsyncIterator[Upstream]:
    async with Upstream().running() as upstream:
        yield upstream


@asynccontextmanager
async def connected(proxy: Measured, count: int) -> AsyncIterator[list[Pair]]:
    """So many connections, made fifty at a time, and all dropped at the end."""
    found: list[Pair] = []
    try:
        while len(found) < count:
            found += await asyncio.gather(*[proxy.connect() for _ in range(min(50, count - len(found)))])
        yield found
    finally:
        for _, writer in found:
            writer.transport.abort()


async def is_quiet(proxy: Measured) -> bool:
    """Whether it does nothing for a while."""
    cpu = proxy.cpu()
    await asyncio.sleep(0.3)
    return proxy.cpu() - cpu < 0.05


async def are_served(proxy: Measured, count: int = 50) -> None:
    """Normal exchanges go on, each at once."""
    slowest = 0.0
    for _ in range(count):
        began = time.monotonic()
        assert (await proxy.ask()).startswith(b"HTTP/1.1 200 ")
        slowest = max(slowest, time.monotonic() - began)
    assert slowest < LATE


async def test_slow_clients_do_not_hold_up_the_others(up: Upstream, tmp_path: Path) -> None:
    """Each says a byte now and then, and is told 408 when its time is over, however many there are."""
    seconds = 10.0 if FULL else 2.0
    async with measured(tmp_path, up.port, head=seconds) as proxy, connected(proxy, SLOW) as clients:
        began = time.monotonic()
        telling = [asyncio.create_task(tell_slowly(client)) for client in clients]
        await are_served(proxy)
        answers = await asyncio.gather(*telling)
        assert time.monotonic() - began < seconds + 5
        assert {answer[:13] for answer in answers} == {b"HTTP/1.1 408 "}


async def tell_slowly(client: Pair) -> bytes:
    reader, writer = client
    hearing = asyncio.create_task(reader.read())
    for byte in get("/v1/things"):
        writer.write(bytes([byte]))
        await asyncio.wait([hearing], timeout=0.3)
        if hearing.done():
            break
    with suppress(ConnectionError):
        answer = await asyncio.wait_for(hearing, PATIENCE)
    writer.transport.abort()
    return answer


async def test_idle_clients_cost_next_to_nothing(up: Upstream, tmp_path: Path) -> None:
    async with measured(tmp_path, up.port) as proxy:
        before = proxy.memory()
        async with connected(proxy, IDLE) as clients:
            for reader, writer in clients:
                writer.write(get("/v1/models"))
                assert (await asyncio.wait_for(read_answer(reader), PATIENCE)).endswith(b"{}")
            growth = proxy.memory() - before
            print(f"{IDLE} idle: {growth / IDLE / 1024:.1f} KiB each")  # noqa: T201 - the figure of the full run
            assert growth < IDLE * PER_IDLE
            assert await is_quiet(proxy)
            await are_served(proxy)


async def test_streams_under_way_cost_little_and_end_whole(up: Upstream, tmp_path: Path) -> None:
    async with measured(tmp_path, up.port) as proxy:
        before = proxy.memory()
        async with connected(proxy, STREAMS) as clients:
            for reader, writer in clients:
                writer.write(POST_CHAT)
                await asyncio.wait_for(reader.readuntil(b"data: 1\n\n"), PATIENCE)
            growth = proxy.memory() - before
            print(f"{STREAMS} streams: {growth / STREAMS / 1024:.1f} KiB each")  # noqa: T201
            assert growth < STREAMS * PER_IDLE + 2 * MIB
            await are_served(proxy)
            up.gate.set()
            for reader, _ in clients:
                await asyncio.wait_for(reader.readuntil(b"data: 2\n\n\r\n0\r\n\r\n"), PATIENCE)


async def test_clients_that_stop_reading_are_held_and_hold_up_nobody(up: Upstream, tmp_path: Path) -> None:
    async with measured(tmp_path, up.port) as proxy:
        before = proxy.memory()
        async with connected(proxy, STALLED) as clients:
            for _, writer in clients:
                cast("asyncio.Transport", writer.transport).pause_reading()
                writer.write(get("/v1/large"))
            async with asyncio.timeout(PATIENCE):
                while not await is_quiet(proxy):  # once the kernel's buffers are full it waits, and does not spin
                    pass
            await are_served(proxy)
            assert proxy.memory() - before < 16 * MIB


async def test_without_descriptors_it_waits_and_goes_on_when_there_are_some(up: Upstream, tmp_path: Path) -> None:
    async with measured(tmp_path, up.port) as proxy:
        proxy.allow(proxy.descriptors() + 10)
        async with connected(proxy, 40) as clients:  # the kernel's queue takes those that the proxy cannot
            for _, writer in clients:
                writer.write(get("/v1/models"))
            await asyncio.sleep(0.5)
            assert await is_quiet(proxy)
            heard = [await first_words(client) for client in clients]
            assert set(heard) <= {b"", b"HTTP/1.1 200", b"HTTP/1.1 502", b"HTTP/1.1 503"}
            assert heard.count(b"") >= 20
            assert len(set(heard)) > 1
        await until_served(proxy)


async def first_words(client: Pair) -> bytes:
    """What a client that got in was told so far, if anything."""
    with suppress(TimeoutError, asyncio.IncompleteReadError, ConnectionError):
        return await asyncio.wait_for(client[0].readexactly(12), 0.02)
    return b""


async def until_served(proxy: Measured) -> None:
    async with asyncio.timeout(PATIENCE):
        while not (await proxy.ask()).startswith(b"HTTP/1.1 200 "):
            pass
