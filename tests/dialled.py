"""What dials go to in the tests: small servers and outbound proxies on loopback, and a client that listens."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import trustme

from relay.config import BaseURL, ListenerTLS, UpstreamTLS
from relay.reach.names import Resolver
from relay.reach.tls import client_context, server_context
from tests.every_loop import settle

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from relay.reach.names import Found

    Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

NAME = "api.example.test"
LONG_AGO = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


class Listener(asyncio.Protocol):
    """The protocol of a caller: keeps what it hears."""

    def __init__(self) -> None:
        self.heard = b""
        self.ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None
        self._more = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert self.transport is None
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are no subclasses

    def data_received(self, data: bytes) -> None:
        assert self.transport is not None
        self.heard += data
        self._more.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set_result(exc)

    async def ask(self, question: bytes) -> bytes:
        """Say a line, hear a line."""
        assert self.transport is not None
        self.heard = b""
        self.transport.write(question + b"\n")
        while not self.heard.endswith(b"\n"):
            self._more.clear()
            await self._more.wait()
        return self.heard

    async def close(self) -> None:
        assert self.transport is not None
        self.transport.abort()
        await self.ended


class Certificates:
    """One CA and what it signed, as contexts of servers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.ca = str(folder / "ca.pem")
        self.authority.cert_pem.write_to_path(self.ca)

    def file(self, *names: str, **options: Any) -> str:
        path = str(self.folder / f"{names[0]}-{len(options)}.pem")
        self.authority.issue_cert(*names, **options).private_key_and_cert_chain_pem.write_to_path(path)
        return path

    def server(self, *names: str, client_ca: str | None = None, **options: Any) -> ssl.SSLContext:
        return server_context(ListenerTLS(self.file(*(names or (NAME,)), **options), client_ca=client_ca))

    def expired(self) -> ssl.SSLContext:
        return self.server(not_before=LONG_AGO, not_after=LONG_AGO + dt.timedelta(days=1))

    def client(self, *, certificate: str | None = None) -> ssl.SSLContext:
        return client_context(UpstreamTLS(ca_file=self.ca, certificate=certificate))


def base(sock: tuple[Any, ...] | str, scheme: str = "http", host: str | None = None) -> BaseURL:
    """The base URL of a listening address."""
    if isinstance(sock, str):
        return BaseURL(scheme, host or "localhost", 80, "", unix=sock)
    return BaseURL(scheme, host or sock[0], sock[1], "")


def naming(*addresses: tuple[Any, ...]) -> Resolver:
    """A resolver for which every name has these addresses, each with its own port."""

    def look_up(_host: str, _port: int) -> Found:
        kinds = {2: socket.AF_INET, 4: socket.AF_INET6}
        return [(kinds[len(address)], socket.SOCK_STREAM, 6, "", address) for address in addresses]

    return Resolver(look_up)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say back what is said, line by line."""
    async for line in reader:
        writer.write(b"you said " + line)
        await writer.drain()


async def say_nothing(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Listen until the other side leaves."""
    while await reader.read(65536):
        pass


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take something, and leave."""
    await reader.read(1)


@asynccontextmanager
async def serving(talk: Talk, context: ssl.SSLContext | None = None, **where: Any) -> AsyncIterator[Any]:
    """A server; its address. Every connection is over when this is."""
    connections: set[asyncio.Task[None]] = set()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # the end of a test may be abrupt
        finally:
            writer.transport.abort()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(converse(reader, writer))
        connections.add(task)
        task.add_done_callback(connections.discard)

    if "path" in where:
        server = await asyncio.start_unix_server(accept, ssl=context, **where)
    else:
        server = await asyncio.start_server(accept, where.get("host", "127.0.0.1"), 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()
    finally:
        await settle()  # a closed server forgets whom it is accepting
        server.close()
        for task in tuple(connections):
            task.cancel()
        await asyncio.gather(*connections)


@dataclass
class Tunnels:
    """An outbound proxy that speaks CONNECT only. ``routes`` say where its names lead to."""

    routes: dict[str, Any] = field(default_factory=dict)
    credentials: str | None = None
    answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n"
    asked: list[str] = field(default_factory=list)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, target, version = head.split("\r\n")[0].split(" ")
        assert (method, version) == ("CONNECT", "HTTP/1.1")
        self.asked.append(target)
        if self.credentials is not None:
            expected = base64.b64encode(self.credentials.encode()).decode()
            if f"\r\nProxy-Authorization: Basic {expected}\r\n" not in head:
                writer.write(b"HTTP/1.1 407 Who are you?\r\nProxy-Authenticate: Basic realm=x\r\n\r\n")
                await writer.drain()
                return
        if target not in self.routes:
            writer.write(b"HTTP/1.1 403 Not on the list\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            return
        far_reader, far_writer = await asyncio.open_connection(*self.routes[target][:2])
        writer.write(self.answer)
        both = [asyncio.create_task(pour(reader, far_writer)), asyncio.create_task(pour(far_reader, writer))]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            far_writer.transport.abort()
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)


async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Move bytes one way until they end."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
