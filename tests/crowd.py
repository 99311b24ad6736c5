"""Clients that ask without a pause, and judge every answer."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from tests.harness import PATIENCE, POST_CHAT, read_answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
    Connect = Callable[[], Awaitable[Streams]]


class Crowd:
    """Half of the clients dial for each exchange, half keep their connections.

    A kept connection that the other side closes before a byte of an answer is dialled anew, as every client does
    (RFC 9112 §9.3.1); anything else that is not a whole 200 is a failure.
    """

    def __init__(self, connect: Connect, request: bytes) -> None:
        self._connect = connect
        self._request = request
        self._leaving = False
        self._news = asyncio.Event()
        self._here = 0
        self.done = 0
        self.redialled = 0
        self.failures: list[bytes] = []

    async def run(self, *, keeps: bool) -> None:
        """One client's life."""
        self._here += 1
        try:
            await self._ask_on(keeps=keeps)
        finally:
            self._here -= 1
            self._news.set()

    async def _ask_on(self, *, keeps: bool) -> None:
        streams: Streams | None = None
        while not self._leaving:
            reused = streams is not None
            streams = streams or await self._connect()
            answer = await self._ask(streams)
            if reused and answer == b"":
                self.redialled += 1
            else:
                self._judge(answer)
            if not keeps or not answer or b"connection: close" in answer.lower():
                streams[1].close()
                streams = None
        if streams is not None:
            streams[1].close()

    async def _ask(self, streams: Streams) -> bytes:
        reader, writer = streams
        try:
            writer.write(self._request)
            async with asyncio.timeout(PATIENCE):
                return await read_answer(reader)
        except ConnectionError:
            return b""
        except TimeoutError:
            return b"nothing within %d s" % PATIENCE

    def _judge(self, answer: bytes) -> None:
        if answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"\r\n\r\n{}"):
            self.done += 1
            self._news.set()
        else:
            self.failures.append(answer)

    async def served(self, more: int) -> None:
        """Wait until that many more exchanges went well."""
        wanted = self.done + more
        async with asyncio.timeout(PATIENCE):
            while self.done < wanted:
                assert not self.failures, self.failures
                self._news.clear()
                await self._news.wait()

    def leave(self) -> None:
        """Ask no more."""
        self._leaving = True

    async def gone(self) -> None:
        """Let all leave, and wait until each has its last answer."""
        self.leave()
        while self._here:  # each is bound by its own patience
            self._news.clear()
            await self._news.wait()


@asynccontextmanager
async def crowd(connect: Connect, request: bytes = POST_CHAT, size: int = 8) -> AsyncIterator[Crowd]:
    """A crowd while the context lasts; at its end not one exchange has failed."""
    people = Crowd(connect, request)
    async with asyncio.TaskGroup() as group:
        for number in range(size):
            group.create_task(people.run(keeps=number % 2 == 0), name=f"client {number}")
        try:
            yield people
        finally:
            people.leave()
    assert not people.failures, people.failures[:3]
