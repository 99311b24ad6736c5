"""A real WebSocket server behind the proxy, and raw clients in front of it."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

from tests.harness import KEY, PATIENCE, config_over, deployment, proxy_over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from http import HTTPStatus

    from websockets.asyncio.client import ClientConnection
    from websockets.asyncio.server import ServerConnection
    from websockets.http11 import Request, Response
    from websockets.typing import Subprotocol

    from tests.harness import Proxy
    from tests.scripted import ScriptedUpstream

    Talk = Callable[[ServerConnection], Awaitable[None]]

HANDSHAKE = (
    "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
ACCEPT = b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"  # RFC 6455 §1.3, for that key
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" + ACCEPT


async def echo(session: ServerConnection) -> None:
    """Say everything back."""
    async for message in session:
        await session.send(message)


def realtime(_: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """Choose the one subprotocol of the API, where it is offered."""
    return next((token for token in offered if token == "realtime"), None)


class SocketUpstream:
    """A WebSocket server that talks as it is told, and refuses first if it has refusals left."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.refusals: list[tuple[HTTPStatus, str]] = []
        self.requests: list[Request] = []
        self.sessions: list[ServerConnection] = []
        self.over = 0
        self.port = 0

    def _answer(self, session: ServerConnection, request: Request) -> Response | None:
        self.requests.append(request)
        if not self.refusals:
            return None
        status, text = self.refusals.pop(0)
        answer = session.respond(status, text)
        del answer.headers["Content-Type"]
        answer.headers["Content-Type"] = "application/json"
        return answer

    async def _talk(self, session: ServerConnection) -> None:
        self.sessions.append(session)
        try:
            await self.talk(session)
        finally:
            self.over += 1

    @asynccontextmanager
    async def running(self, **settings: Any) -> AsyncIterator[SocketUpstream]:
        """Listen on a free port of loopback."""
        settings = {"max_size": None, "select_subprotocol": realtime, **settings}
        async with serve(self._talk, "127.0.0.1", 0, process_request=self._answer, **settings) as server:
            self.port = next(iter(server.sockets)).getsockname()[1]
            yield self


def session_with(proxy: Proxy, target: str, **settings: Any) -> connect:
    """A client's session through the proxy."""
    fields = {"Authorization": f"Bearer {KEY}", **settings.pop("fields", {})}
    settings = {"max_size": None, "proxy": None, "additional_headers": fields, **settings}
    return connect(f"ws://127.0.0.1:{proxy.port}{target}", **settings)


def upgrade(target: str, *lines: str, key: str = KEY) -> bytes:
    """A request for a WebSocket, as bytes."""
    more = "".join(f"{line}\r\n" for line in lines)
    return f"GET {target} HTTP/1.1\r\nHost: p\r\nAuthorization: Bearer {key}\r\n{HANDSHAKE}{more}\r\n".encode()


async def raw_session(proxy: Proxy, request: bytes) -> tuple[bytes, asyncio.StreamReader, asyncio.StreamWriter]:
    """Ask for a session in bytes: the head of the answer, and what can be said and heard from then on."""
    reader, writer = await proxy.connect()
    writer.write(request)
    async with asyncio.timeout(PATIENCE):
        head = await reader.readuntil(b"\r\n\r\n")
    return head, reader, writer


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds that no event tells."""
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.005)


def event(session: ClientConnection | ServerConnection, message: Any) -> Awaitable[None]:
    """Send JSON."""
    return session.send(json.dumps(message))


def proxy_before(*upstreams: SocketUpstream | ScriptedUpstream, **sections: Any) -> AbstractAsyncContextManager[Proxy]:
    """Run a proxy over these upstreams, asked in their order; named a, b, c."""
    settings = sections.pop("settings", {})
    members = [deployment("abc"[n], one.port, **{"order": n, **settings}) for n, one in enumerate(upstreams)]
    return proxy_over(config_over(*members, **sections))


async def told(proxy: Proxy, count: int = 1) -> Any:
    """The record of the ``count``-th exchange."""
    return await proxy.record(count)


def answer_of(session: ClientConnection) -> Response:
    """The 101 of a session."""
    assert session.response is not None
    return session.response
