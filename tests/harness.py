"""The proxy in a test's own loop: started on a free port, spoken to in bytes, its records caught."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from passthrough import Worker
from relay.config import (
    AffinitySettings,
    BaseURL,
    Client,
    Config,
    Deployment,
    Limits,
    Listener,
    ModelGroup,
    Secret,
    Timeouts,
)
from relay.process.listening import bind
from relay.process.serving import listen
from relay.values import replace
from tests.scripted import read_chunks

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

    from tests.scripted import ScriptedUpstream

PATIENCE = 10.0
KEY = "sk-1234-of-the-proxy"
JSON_POST = (
    b"POST /openai/v1/%s HTTP/1.1\r\nHost: p\r\nAuthorization: Bearer " + KEY.encode() + b"\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
)


def post(path: str, body: bytes) -> bytes:
    """A JSON POST, as bytes."""
    return JSON_POST % (path.encode(), len(body), body)


def get(path: str, *lines: str, method: str = "GET") -> bytes:
    """A request without content, as bytes."""
    more = "".join(f"{line}\r\n" for line in lines)
    return f"{method} {path} HTTP/1.1\r\nHost: p\r\nAuthorization: Bearer {KEY}\r\n{more}\r\n".encode()


CHAT = b'{"model":"gpt-4","messages":[{"role":"user","content":"hi"}]}'
POST_CHAT = post("chat/completions", CHAT)
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


def deployment(name: str, port: int, **settings: Any) -> Deployment:
    """A deployment on loopback."""
    base = settings.pop("base", BaseURL("http", "127.0.0.1", port, "/v1"))
    given: dict[str, Any] = {
        "group": "gpt-4",
        "model": "gpt-4",
        "key": Secret(f"sk-upstream-{name}"),
        "scope": name,
        "quota_group": name,
    }
    return Deployment(name, base=base, **{**given, **settings})


def config_over(*deployments: Deployment, **sections: Any) -> Config:
    """A configuration that serves these deployments, in the order given."""
    groups: dict[str, ModelGroup] = {}
    for one in deployments:
        members = groups[one.group].deployments if one.group in groups else ()
        groups[one.group] = ModelGroup(one.group, (*members, one))
    given: dict[str, Any] = {
        "clients": (Client("master", Secret(KEY).digest),),
        "listener": Listener(port=0),
        "affinity": AffinitySettings(path=None),
        "timeouts": Timeouts(drain=2),
        "limits": Limits(),
    }
    return Config(groups=groups, **{**given, **sections})


class Proxy:
    """A running proxy."""

    def __init__(self, worker: Worker, port: int) -> None:
        self.worker = worker
        self.port = port
        self._records: list[logging.LogRecord] = []
        self.settled = asyncio.Event()

    @property
    def records(self) -> list[logging.LogRecord]:
        """The records of the exchanges that are over. The proxy makes them in batches; those at hand are asked for."""
        self.worker.recorder.flush()
        return self._records

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/openai"

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A client's connection."""
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def exchange(self, *requests: bytes) -> bytes:
        """Say these on one connection, and hear everything until the proxy closes or has answered each."""
        reader, writer = await self.connect()
        try:
            heard = b""
            async with asyncio.timeout(PATIENCE):
                for request in requests:
                    writer.write(request)
                    answer = await read_answer(reader, head_only=request.startswith(b"HEAD"))
                    heard += answer
            return heard
        finally:
            writer.close()

    async def record(self, count: int = 1) -> logging.LogRecord:
        """The record of the ``count``-th exchange, once it is there."""
        async with asyncio.timeout(PATIENCE):
            while len(self.records) < count:
                self.settled.clear()
                await self.settled.wait()
        return self.records[count - 1]


class Catcher(logging.Handler):
    """Keeps the records of exchanges."""

    def __init__(self, proxy: Proxy) -> None:
        super().__init__()
        self.proxy = proxy

    def emit(self, record: logging.LogRecord) -> None:
        self.proxy._records.append(record)
        self.proxy.settled.set()


async def read_answer(reader: asyncio.StreamReader, *, head_only: bool = False) -> bytes:
    """One final response, with interim ones before it: as long as its framing says, or until the end."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        return error.partial
    lower = head.lower()
    if lower.startswith((b"http/1.1 100", b"http/1.1 103")):
        return head + await read_answer(reader, head_only=head_only)
    if head_only or b" 204 " in lower or b" 304 " in lower:
        return head
    return head + await read_content(reader, lower)


async def read_content(reader: asyncio.StreamReader, head: bytes) -> bytes:
    """The content that a head (in lower case) frames, or what came of it."""
    try:
        if b"transfer-encoding: chunked" in head:
            return await read_chunks(reader)
        if b"content-length: " in head:
            return await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
    except asyncio.IncompleteReadError as error:
        return error.partial
    return await reader.read()


@asynccontextmanager
async def proxy_over(
    config: Config, *, tls: ssl.SSLContext | None = None, environ: dict[str, str] | None = None
) -> AsyncIterator[Proxy]:
    """Run a proxy while the context lasts; afterwards nothing of it is left, and no callback of it has failed."""
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    worker = Worker(config, environ or {})
    (sock,) = bind(config.listener)
    server = await listen(worker, sock, tls)
    name = sock.getsockname()
    proxy = Proxy(worker, name[1] if isinstance(name, tuple) else 0)
    catcher = Catcher(proxy)
    logger = logging.getLogger("passthrough.exchange")
    logger.addHandler(catcher)
    logger.setLevel(logging.INFO)
    try:
        yield proxy
    finally:
        server.close()
        await worker.drain()
        logger.removeHandler(catcher)
        logger.setLevel(logging.NOTSET)
    assert not faults, faults


@asynccontextmanager
async def proxy_for(*upstreams: ScriptedUpstream, **sections: Any) -> AsyncIterator[Proxy]:
    """Run a proxy over scripted upstreams, asked in their order; named a, b, c."""
    members = [
        deployment("abc"[number], upstream.port, order=number, **sections.pop("settings", {}))
        for number, upstream in enumerate(upstreams)
    ]
    async with proxy_over(config_over(*members, **sections)) as proxy:
        yield proxy


def with_timeouts(**seconds: float) -> Timeouts:
    """The default times, but for these."""
    return replace(Timeouts(drain=2), **seconds)


def with_limits(**limits: int) -> Limits:
    """The default limits, but for these."""
    return replace(Limits(), **limits)
