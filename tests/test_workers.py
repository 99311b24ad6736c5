"""Several workers under one parent, as real processes: who serves, who dies, who is replaced, and what is counted."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from relay.process import workers
from relay.record import vitals
from relay.record.logqueue import LineWriter, LogQueue, whole_lines
from tests.crowd import crowd
from tests.fleets import ask, children, is_running, metric, until, write_config
from tests.harness import OK, PATIENCE, POST_CHAT, get
from tests.processes import run, running, start
from tests.scripted import ScriptedUpstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

EXCHANGES = "passthrough_exchanges_total"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
FIRST, LAST = b"b\r\ndata: one\n\n\r\n", b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


@pytest.fixture
async def up() -> AsyncIterator[ScriptedUpstream]:
    upstream = ScriptedUpstream()
    upstream.says(OK)
    await upstream.start()
    yield upstream
    await upstream.close()


class Streaming:
    """An upstream's turn: one event, and the end when the test says so."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def __call__(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + FIRST)
        await self.go_on.wait()
        writer.write(LAST)
        await writer.drain()


async def open_stream(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A stream whose first event has come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(POST_CHAT)
    async with asyncio.timeout(PATIENCE):
        await reader.readuntil(FIRST)
    return reader, writer


async def rest_of(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(PATIENCE):
        return await reader.read()


async def refused(port: int) -> None:
    """Nobody listens any more; until then, whoever still does may answer or hang up."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionError:
                return
            writer.close()


async def test_two_workers_share_the_connections_and_add_up_what_they_counted(
    up: ScriptedUpstream, tmp_path: Path
) -> None:
    config = write_config(tmp_path, up)
    async with running(str(config), "--workers", "2", folder=tmp_path) as proxy:
        port = await proxy.port()
        assert len(children(proxy.pid)) == 2
        async with crowd(lambda: asyncio.open_connection("127.0.0.1", port), size=16) as people:
            await people.served(200)
        total = people.done
        assert [await metric(port, EXCHANGES) for _ in range(6)] == [total] * 6, "whichever worker is asked"
        assert await metric(port, "passthrough_duration_seconds_count") == total
        assert await metric(port, "passthrough_in_flight") == 0
    ids = [record["id"] for record in proxy.records]
    assert len(set(ids)) == len(ids) == total
    shares = [sum(one.startswith(process) for one in ids) for process in {one.rpartition("-")[0] for one in ids}]
    assert len(shares) == 2, "each worker has ids of its own"
    assert min(shares) > total * 0.1


async def test_a_worker_that_is_killed_is_replaced_and_what_it_counted_is_kept(
    up: ScriptedUpstream, tmp_path: Path
) -> None:
    config = write_config(tmp_path, up)
    async with running(str(config), "--workers", "2", folder=tmp_path) as proxy:
        port = await proxy.port()
        for _ in range(20):
            assert (await ask(port, POST_CHAT)).startswith(b"HTTP/1.1 200 ")
        assert await metric(port, EXCHANGES) == 20  # so every worker has just said what it counted
        before = children(proxy.pid)
        for victim in before:
            os.kill(victim, signal.SIGKILL)
            await proxy.says(rf"\(pid {victim}\) was killed by SIGKILL; another takes its place")
        await until(lambda: len(children(proxy.pid)) == 2)
        assert not set(before) & set(children(proxy.pid)), "none is left as a zombie"
        assert (await ask(port, POST_CHAT)).startswith(b"HTTP/1.1 200 ")
        assert await metric(port, EXCHANGES) == 21
        cpu = await metric(port, "process_cpu_seconds_total")
        assert await metric(port, "process_cpu_seconds_total") >= cpu


async def test_one_that_does_not_answer_holds_up_nobody_and_is_counted_as_it_was(
    up: ScriptedUpstream, tmp_path: Path
) -> None:
    config = write_config(tmp_path, up)
    async with running(str(config), "--workers", "2", folder=tmp_path) as proxy:
        port = await proxy.port()
        for _ in range(10):
            await ask(port, POST_CHAT)
        assert await metric(port, EXCHANGES) == 10
        stopped = children(proxy.pid)[0]
        os.kill(stopped, signal.SIGSTOP)
        try:
            assert await metric(port, EXCHANGES) == 10
        finally:
            os.kill(stopped, signal.SIGCONT)


async def test_the_end_of_the_parent_is_the_end_of_its_workers(up: ScriptedUpstream, tmp_path: Path) -> None:
    streaming = Streaming()
    up.script = [streaming]
    config = write_config(tmp_path, up)
    proxy = await start(str(config), "--workers", "2", folder=tmp_path)
    try:
        port = await proxy.port()
        family = children(proxy.pid)
        reader, writer = await open_stream(port)

        proxy.signal(signal.SIGKILL)

        await until(lambda: sum(map(is_running, family)) == 1)  # one still has a stream to bring home
        await refused(port)
        streaming.go_on.set()
        assert await rest_of(reader) == LAST
        writer.close()
        await until(lambda: not any(map(is_running, family)))
    finally:
        await proxy.kill()


async def test_a_drain_lets_streams_end_and_leaves_nobody(up: ScriptedUpstream, tmp_path: Path) -> None:
    streaming = Streaming()
    up.script = [streaming]
    config = write_config(tmp_path, up)
    proxy = await start(str(config), "--workers", "2", folder=tmp_path)
    try:
        port = await proxy.port()
        family = children(proxy.pid)
        reader, writer = await open_stream(port)
        proxy.signal(signal.SIGTERM)
        for pid in family * 2:  # as a service manager does that signals the whole group
            with suppress(ProcessLookupError):  # the idle one may have ended already
                os.kill(pid, signal.SIGTERM)
        await until(lambda: sum(map(is_running, family)) == 1)
        streaming.go_on.set()
        assert await rest_of(reader) == LAST
        writer.close()
        assert await proxy.ends() == 0
        assert not any(map(is_running, family))
    finally:
        await proxy.kill()


async def test_what_outlives_the_drain_is_cut(up: ScriptedUpstream, tmp_path: Path) -> None:
    up.script = [Streaming()]
    config = write_config(tmp_path, up, more="server: {host: 127.0.0.1, port: 0}\ntimeouts: {drain: 0.3}\n")
    async with running(str(config), "--workers", "2", folder=tmp_path) as proxy:
        reader, writer = await open_stream(await proxy.port())
        assert await proxy.stop() == 0
        with pytest.raises(ConnectionResetError):
            await rest_of(reader)
        writer.close()
    assert proxy.records[-1]["outcome"] == "drained"


async def test_a_second_signal_ends_all_at_once(up: ScriptedUpstream, tmp_path: Path) -> None:
    up.script = [Streaming()]
    config = write_config(tmp_path, up)
    proxy = await start(str(config), "--workers", "2", folder=tmp_path)
    try:
        port = await proxy.port()
        family = children(proxy.pid)
        _, writer = await open_stream(port)
        proxy.signal(signal.SIGTERM)
        await until(lambda: sum(map(is_running, family)) == 1)
        proxy.signal(signal.SIGINT)
        assert await proxy.ends() == 1
        assert not any(map(is_running, family))
        writer.close()
    finally:
        await proxy.kill()


async def test_a_worker_that_is_told_to_stop_drains_and_is_replaced(up: ScriptedUpstream, tmp_path: Path) -> None:
    config = write_config(tmp_path, up)
    async with running(str(config), "--workers", "2", folder=tmp_path) as proxy:
        port = await proxy.port()
        async with crowd(lambda: asyncio.open_connection("127.0.0.1", port)) as people:
            await people.served(20)
            victim = children(proxy.pid)[0]
            os.kill(victim, signal.SIGTERM)
            await proxy.says(rf"\(pid {victim}\) ended with status 0; another takes its place")
            await people.served(20)
        assert await metric(port, EXCHANGES) == people.done, "the last word of one that ends in order is exact"


async def test_a_unix_socket_is_served_by_all_and_goes_with_the_last(up: ScriptedUpstream, tmp_path: Path) -> None:
    name = tmp_path / "p.sock"
    config = write_config(tmp_path, up, more=f"server: {{unix: {name}, workers: 2}}\n")
    async with running(str(config), folder=tmp_path) as proxy:
        await proxy.says("is ready")
        async with crowd(lambda: asyncio.open_unix_connection(str(name))) as people:
            await people.served(20)
            victim = children(proxy.pid)[0]
            os.kill(victim, signal.SIGTERM)
            await proxy.says("another takes its place")
            await people.served(20)
        assert name.exists()
    assert not name.exists()


async def test_a_worker_that_cannot_start_refuses_the_start(up: ScriptedUpstream, tmp_path: Path) -> None:
    config = write_config(tmp_path, up, more="server: {host: 127.0.0.1, port: 0, uvloop: true, workers: 2}\n")
    (tmp_path / "uvloop.py").write_text("raise ImportError('not here')")
    for options in ([], ["--workers", "1"]):
        status, _, said = await run(str(config), *options, folder=tmp_path, environ={"PYTHONPATH": str(tmp_path)})
        assert status == 2
        assert said == (
            "server.uvloop: uvloop is not installed; install it (pip install uvloop), or take this line out"
        )


async def test_workers_run_on_uvloop(up: ScriptedUpstream, tmp_path: Path) -> None:
    config = write_config(tmp_path, up, more="server: {host: 127.0.0.1, port: 0, uvloop: true, workers: 2}\n")
    async with running(str(config), folder=tmp_path) as proxy:
        port = await proxy.port()
        for pid in children(proxy.pid):
            with open(f"/proc/{pid}/maps") as maps:  # noqa: PTH123, ASYNC230 - no disk
                assert "uvloop" in maps.read()
        async with crowd(lambda: asyncio.open_connection("127.0.0.1", port)) as people:
            await people.served(50)
            os.kill(children(proxy.pid)[0], signal.SIGTERM)
            await proxy.says("another takes its place")
            await people.served(20)
        assert await metric(port, EXCHANGES) == people.done
        assert (await ask(port, get("/health/readiness"))).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("lives", "pauses"),
    [
        ([0, 0, 0, 0, 0, 0], [0.05, 0.2, 0.8, 3.2, 12.8, 12.8]),
        ([0, 0, 31, 0, 0], [0.05, 0.2, 0, 0.05, 0.2]),
        ([60, 60], [0, 0]),
    ],
)
def test_the_pause_grows_with_early_deaths_only(
    lives: list[float], pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = workers.Supervisor(1, None, None, None, None, None)  # type: ignore[arg-type]
    asked: list[float] = []
    monkeypatch.setattr(supervisor, "_later", lambda seconds, _: asked.append(seconds))
    for lived in lives:
        supervisor._start_again(1, lived=lived)
    assert asked == pauses


# What workers share besides the sockets.

LINES = 3000


def write_lines(descriptor: int) -> None:
    """A worker that writes all it has in one batch."""
    queue = LogQueue()
    with os.fdopen(descriptor, "w", closefd=False) as stream:
        writer = LineWriter(queue, stream, logging.Formatter())
        writer.lines = [json.dumps({"pid": os.getpid(), "text": "x" * (number % 700)}) for number in range(LINES)]
        writer.write_out()


def test_lines_of_workers_do_not_mix_in_a_pipe() -> None:
    """A pipe takes 64 KiB, and what is written while it is full is taken in the pieces that become free."""
    reading, writing = os.pipe()
    pids = []
    for _ in range(3):
        pid = os.fork()
        if not pid:
            os.close(reading)  # so that nobody writes for ever once the test has failed
            try:
                write_lines(writing)
            finally:
                os._exit(0)
        pids.append(pid)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        written = stream.read().splitlines()
    for pid in pids:
        os.waitpid(pid, 0)
    writers = [json.loads(line)["pid"] for line in written]
    assert [writers.count(pid) for pid in pids] == [LINES] * 3


def test_pieces_are_whole_lines() -> None:
    lines = [b"x" * size + b"\n" for size in (0, 10, 4094, 4095, 4096, 9000, 1, 2)]
    for count in range(len(lines) + 1):
        data = b"".join(lines[:count]) + b"no end"
        pieces = list(whole_lines(data))
        assert b"".join(pieces) == data
        assert all(piece.endswith(b"\n") for piece in pieces[:-1])
        assert all(len(piece) <= 4096 or piece.count(b"\n") <= 1 for piece in pieces)


CGROUPS = [
    ("no quota", "0::/\n", "max 100000\n", 8),
    ("half a core", "0::/\n", "50000 100000\n", 1),
    ("two and a half", "0::/a/b.service\n", "250000 100000\n", 2),
    ("more than there are", "0::/\n", "3200000 100000\n", 8),
    ("the older kind", "1:cpu:/\n", "", 8),
]


@pytest.mark.parametrize(("groups", "limit", "cores"), [row[1:] for row in CGROUPS], ids=[row[0] for row in CGROUPS])
def test_auto_is_as_many_as_may_run(groups: str, limit: str, cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    name = groups.strip().removeprefix("0::").strip("/")
    files = {"/proc/self/cgroup": groups, f"/sys/fs/cgroup/{name}/cpu.max": limit}
    monkeypatch.setattr(vitals, "_read", files.__getitem__)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    assert vitals.usable_cores() == cores
    monkeypatch.setattr(vitals, "_read", lambda path: open(f"/nowhere{path}").read())  # noqa: PTH123, SIM115
    assert vitals.usable_cores() == 8
