"""A process of the proxy under stress, and what the kernel says of it: descriptors, memory, CPU time."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from relay.wire.hangup import hangup_watch
from tests.harness import KEY, PATIENCE, get, read_answer
from tests.processes import running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

MIB = 1 << 20
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
FULL = bool(os.environ.get("FAULTS_IN_FULL"))  # the numbers of the contract, which take minutes
CONFIG = """
model_list:
  - model_name: gpt-4
    litellm_params: {{model: openai/gpt-4, api_key: sk-upstream, api_base: "http://127.0.0.1:{port}/v1"}}
general_settings: {{master_key: {key}}}
affinity: {{path: ":memory:"}}
timeouts: {{{timeouts}}}
"""


class Measured:
    """A running process that serves ``port``."""

    def __init__(self, pid: int, port: int) -> None:
        self.pid = pid
        self.port = port

    def descriptors(self) -> int:
        return descriptors_of(self.pid)

    def memory(self) -> int:
        """Resident bytes."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * PAGE

    def cpu(self) -> float:
        """Seconds of CPU so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def allow(self, descriptors: int) -> None:
        """Let it open so many from now on."""
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (descriptors, descriptors))

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self, request: bytes = b"") -> bytes:
        """One exchange on a connection of its own."""
        reader, writer = await self.connect()
        try:
            writer.write(request or get("/v1/models"))
            async with asyncio.timeout(PATIENCE):
                return await read_answer(reader)
        finally:
            writer.transport.abort()


@asynccontextmanager
async def measured(folder: Path, upstream: int, **timeouts: float) -> AsyncIterator[Measured]:
    """Run the product over an upstream at that port; at the end its descriptors must be back where they were."""
    timeouts = {"upstream_keep_alive": 1, **timeouts}  # so that what a burst leaves in the pool is soon gone
    times = ", ".join(f"{name}: {seconds}" for name, seconds in timeouts.items())
    (folder / "config.yaml").write_text(CONFIG.format(port=upstream, key=KEY, timeouts=times))
    async with running("config.yaml", "--port", "0", folder=folder) as process:
        proxy = Measured(process.pid, await process.port())
        for _ in range(3):
            assert (await proxy.ask()).startswith(b"HTTP/1.1 200 ")
        base = proxy.descriptors()
        yield proxy
        assert (await proxy.ask()).startswith(b"HTTP/1.1 200 ")
        await until(lambda: proxy.descriptors() <= base)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what the other side, or the kernel, will do by itself."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


@asynccontextmanager
async def at_the_base_line() -> AsyncIterator[None]:
    """At the end of the context no descriptor is open and no task is there that were not at its beginning."""
    hangup_watch(asyncio.get_running_loop())  # one per loop, made at its first use
    gc.collect()
    gc.freeze()  # what is older needs no second look
    descriptors, tasks = descriptors_of("self"), asyncio.all_tasks()
    yield
    await until(lambda: asyncio.all_tasks() - tasks <= {asyncio.current_task()})
    gc.collect()
    await until(lambda: descriptors_of("self") <= descriptors)


def descriptors_of(pid: object) -> int:
    """How many are open, but for the one that looks."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
