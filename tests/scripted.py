"""An upstream that says exactly what it is told to say, and remembers exactly what it heard."""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Self, TypeAlias

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable

PATIENCE = 10.0  # seconds that anything in a test may take

Turn: TypeAlias = "bytes | Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]"


class ScriptedUpstream:
    """Each request that comes whole is answered by the next thing that ``says`` was given.

    Bytes are written as they are; a coroutine function gets reader and writer, for pauses and resets. When the script
    is over the last thing is said again.
    """

    def __init__(self) -> None:
        self.script: list[Turn] = []
        self.requests: list[bytes] = []
        self.connections = 0
        self.closed = asyncio.Event()  # some connection has ended
        self.asked = asyncio.Event()  # some request has come
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    def says(self, *turns: Turn) -> None:
        """Answer the next requests with these."""
        self.script += turns

    @property
    def heard(self) -> bytes:
        """Everything heard, in order."""
        return b"".join(self.requests)

    async def start(self, context: ssl.SSLContext | None = None) -> None:
        """Listen on a free port of loopback."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """End every connection."""
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Listen while the context lasts."""
        await self.start()
        try:
            yield self
        finally:
            await self.close()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer), name="scripted upstream")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: writer.close())  # also where it was cancelled before it began

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                self.requests.append(await read_message(reader))
                self.asked.set()
                turn = self.script.pop(0) if len(self.script) > 1 else self.script[0]
                if callable(turn):
                    await turn(reader, writer)
                else:
                    writer.write(turn)
                    await writer.drain()
                    if b"connection: close" in turn.lower() or not delimits_itself(turn):
                        break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.closed.set()
            writer.close()
            with suppress(Exception):
                await writer.wait_closed()


def delimits_itself(answer: bytes) -> bool:
    """Whether a client can tell where the answer ends without an end of the connection."""
    head = answer.partition(b"\r\n\r\n")[0].lower()
    return b"content-length" in head or b"chunked" in head or b" 204" in head or b" 304" in head


async def read_message(reader: asyncio.StreamReader) -> bytes:
    """One message, head and content, as it came."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?im)^content-length: *([0-9]+)", head)
    if length:
        return head + await reader.readexactly(int(length[1]))
    if re.search(rb"(?im)^transfer-encoding: *chunked", head):
        return head + await read_chunks(reader)
    return head


async def read_chunks(reader: asyncio.StreamReader) -> bytes:
    """Chunked content, up to and with its last line. Raises IncompleteReadError with what came of it."""
    content = b""
    try:
        while True:
            size = await reader.readuntil(b"\r\n")
            content += size
            count = int(size.partition(b";")[0], 16)
            content += await reader.readexactly(count + 2)
            if not count:
                return content
    except asyncio.IncompleteReadError as error:
        raise asyncio.IncompleteReadError(content + error.partial, None) from None


def dechunk(content: bytes) -> bytes:
    """The content within chunks."""
    found = b""
    while content:
        size, _, content = content.partition(b"\r\n")
        found += content[: int(size, 16)]
        content = content[int(size, 16) + 2 :]
    return found


async def reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """End the connection with a reset."""
    writer.transport.abort()
    raise ConnectionResetError
