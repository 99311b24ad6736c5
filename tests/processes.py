"""The product as its users start it: a process of its own, looked at from outside."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

PATIENCE = 10.0  # seconds for anything that a process does
PROGRAM = str(Path(__file__).parents[1] / "passthrough.py")
READY = re.compile(r"is ready: base_url = (\S+) serves (.+)")


class Process:
    """``python passthrough.py ...``: what it has said on stderr so far, and its records on stdout."""

    def __init__(self, child: asyncio.subprocess.Process, records: Path) -> None:
        self._child = child
        self.log = records
        self._news = asyncio.Event()
        self._listener = asyncio.create_task(self._listen(), name="stderr")
        self.said: list[str] = []

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def records(self) -> list[dict[str, Any]]:
        """The records written so far; all of them once it has ended."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    async def _listen(self) -> None:
        assert self._child.stderr is not None
        async for line in self._child.stderr:
            self.said.append(line.decode().rstrip("\n"))
            self._news.set()
        self._news.set()

    async def says(self, pattern: str | re.Pattern[str]) -> re.Match[str]:
        """Wait for a line on stderr that holds ``pattern``."""
        async with asyncio.timeout(PATIENCE):
            while True:
                for line in self.said:
                    if found := re.search(pattern, line):
                        return found
                assert not self._listener.done(), f"it ended and said only {self.said}"
                self._news.clear()
                await self._news.wait()

    async def base_url(self) -> str:
        """What the start-up line gives as ``base_url``, without its mount."""
        return (await self.says(READY))[1].removesuffix("/openai")

    async def port(self) -> int:
        return int((await self.base_url()).rpartition(":")[2])

    def signal(self, number: signal.Signals) -> None:
        self._child.send_signal(number)

    async def ends(self) -> int:
        """Wait for the end; the exit status."""
        async with asyncio.timeout(PATIENCE):
            status = await self._child.wait()
            await self._listener
        return status

    async def stop(self) -> int:
        """Ask it to drain, unless it has ended; the exit status."""
        if self._child.returncode is None:
            self.signal(signal.SIGTERM)
        return await self.ends()

    async def kill(self) -> None:
        """End it whatever it does."""
        if self._child.returncode is None:
            self._child.kill()
        await self.ends()


async def start(*arguments: str, folder: Path, environ: Mapping[str, str] | None = None) -> Process:
    """Start the command line with nothing in its environment but ``environ``, within ``folder``."""
    records = folder / "records.jsonl"
    with records.open("wb") as out:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            PROGRAM,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=asyncio.subprocess.PIPE,
            cwd=folder,
            env={"PATH": os.environ["PATH"], **(environ or {})},
        )
    return Process(child, records)


@asynccontextmanager
async def running(*arguments: str, folder: Path, environ: Mapping[str, str] | None = None) -> AsyncIterator[Process]:
    """Run it while the context lasts; then it drains, ends with 0, and has shown no traceback."""
    process = await start(*arguments, folder=folder, environ=environ)
    try:
        yield process
        assert await process.stop() == 0, process.said
        assert not [line for line in process.said if "Traceback" in line], process.said
    finally:
        await process.kill()


async def run(*arguments: str, folder: Path, environ: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Run it to its own end: exit status, stdout, stderr."""
    process = await start(*arguments, folder=folder, environ=environ)
    try:
        status = await process.ends()
    finally:
        await process.kill()
    return status, (folder / "records.jsonl").read_text(), "\n".join(process.said)


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client's connection, which has its time and leaves nothing behind."""
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield reader, writer
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
