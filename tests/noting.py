"""A protocol that writes down what its transport tells, and pairs of sockets to lay a transport on."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 10  # seconds
LARGE = 4 << 20  # bytes that no socket holds


class Noting(asyncio.Protocol):
    """Writes down what it is told; pieces of data that come one after the other are one."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.news = asyncio.Event()
        self.keeps_open = False
        self.pieces = 0
        self.on_data: Callable[[], None] | None = None
        self.transport: Any = None

    def note(self, what: Any) -> None:
        self.told.append(what)
        self.news.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert data
        self.pieces += 1
        if self.told and isinstance(self.told[-1], bytes):
            data = self.told.pop() + data
        self.note(data)
        if self.on_data is not None:
            self.on_data()

    def eof_received(self) -> bool:
        if "end" not in self.told:  # asyncio's says it again when reading is resumed
            self.note("end")
        return self.keeps_open

    def pause_writing(self) -> None:
        self.note("pause")

    def resume_writing(self) -> None:
        self.note("go on")

    def connection_lost(self, error: Exception | None) -> None:
        self.note(("lost", type(error)))

    async def until(self, *told: Any) -> None:
        """Wait for exactly this to have been told."""
        try:
            async with asyncio.timeout(PATIENCE):
                while self.told != list(told):
                    self.news.clear()
                    await self.news.wait()
        except TimeoutError:
            assert self.told == list(told)  # says what is different

    async def until_lost(self) -> list[Any]:
        """Everything it was told until its connection was lost."""
        async with asyncio.timeout(PATIENCE):
            while not (self.told and isinstance(self.told[-1], tuple)):
                self.news.clear()
                await self.news.wait()
        return self.told


NOTHING_WRONG = ("lost", type(None))


def tcp() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        return one, server.accept()[0]


PAIRS: dict[str, Callable[[], tuple[socket.socket, socket.socket]]] = {"unix": socket.socketpair, "tcp": tcp}
