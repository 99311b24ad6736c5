"""Nothing of an exchange is left to the collector, whose looks hold up every stream under way."""

from __future__ import annotations

import gc
import socket
import struct
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from relay.config import RouterSettings, UpstreamTLS
from relay.errors import UpstreamFailure
from relay.reach.dial import dial
from relay.reach.names import Resolver
from relay.reach.tls import client_context
from tests.dialled import Certificates, Listener, base, say_nothing, serving
from tests.every_loop import settle
from tests.harness import OK, POST_CHAT, config_over, deployment, proxy_for, proxy_over, read_answer, with_timeouts
from tests.scripted import ScriptedUpstream, reset

if TYPE_CHECKING:
    import asyncio
    from pathlib import Path

    from tests.scripted import Turn

MANY = 40  # exchanges: more than there is of anything else
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
LIMITED = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 2\r\n\r\n{}"
STREAM = EVENTS + b"c\r\ndata: {}\r\n\r\n\r\n" * 3 + b"0\r\n\r\n"
CUT = b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\nConnection: close\r\n\r\nhalf"
CLOSING = b"HTTP/1.1 200 OK\r\n\r\nas much as there is"


def left(count: int) -> dict[str, int]:
    """The kinds of our own objects of which only the collector has found so many."""
    gc.collect()
    rooms = ("relay.", "router", "passthrough")
    kinds = Counter(type(one).__qualname__ for one in gc.garbage if type(one).__module__.startswith(rooms))
    return {kind: found for kind, found in kinds.items() if found >= count}


ANSWERS: dict[str, list[Turn]] = {
    "one piece": [OK],
    "a retry": [LIMITED, OK],
    "a stream": [STREAM],
    "until the end": [CLOSING],
    "no HTTP": [b"nonsense\r\n\r\n"],
    "no answer": [reset, reset],
    "an answer cut short": [CUT],
}


@pytest.mark.parametrize("answers", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.usefixtures("kept_garbage")
async def test_an_exchange_leaves_nothing(answers: list[Turn], up: ScriptedUpstream) -> None:
    async with proxy_for(up, up) as proxy:
        for number in range(MANY):
            up.script = [*answers, b""]
            await proxy.exchange(POST_CHAT)
            await proxy.record(number + 1)
        await settle()
        assert left(MANY - 2) == {}


@pytest.mark.usefixtures("kept_garbage")
async def test_an_upstream_that_says_nothing_leaves_nothing(up: ScriptedUpstream) -> None:
    async def say_nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    up.says(say_nothing)
    no_cooldown = RouterSettings(disable_cooldowns=True)
    async with proxy_for(up, timeouts=with_timeouts(response_head=0.01), router=no_cooldown) as proxy:
        for number in range(MANY):
            await proxy.exchange(POST_CHAT)
            assert (await proxy.record(number + 1)).__dict__["outcome"] != "ok"
        await settle()
        assert left(MANY - 2) == {}


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.usefixtures("kept_garbage")
async def test_a_client_that_is_kept_leaves_nothing(waits: bool, up: ScriptedUpstream) -> None:
    """Whether its time runs out, or it is gone before."""
    up.says(OK)
    async with proxy_for(up, timeouts=with_timeouts(keep_alive=0.01 if waits else 10)) as proxy:
        for _ in range(MANY):
            reader, writer = await proxy.connect()
            writer.write(POST_CHAT)
            await read_answer(reader)
            if waits:
                assert await reader.read() == b""
                writer.close()
            else:
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()
            await settle()
        assert left(MANY - 2) == {}


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\n\r\n"])
@pytest.mark.usefixtures("kept_garbage")
async def test_who_knocks_at_a_tls_port_and_does_not_shake_hands_leaves_nothing(said: bytes, tmp_path: Path) -> None:
    """As load balancers do, to see whether we are there."""
    context = Certificates(tmp_path).server()
    async with proxy_over(config_over(deployment("a", 0)), tls=context) as proxy:
        for _ in range(MANY):
            reader, writer = await proxy.connect()
            writer.write(said)
            writer.write_eof()
            await reader.read()
            writer.close()
        await settle()
        assert left(MANY - 2) == {}


@pytest.mark.usefixtures("kept_garbage")
async def test_an_upstream_that_is_not_trusted_leaves_nothing(tmp_path: Path) -> None:
    context = client_context(UpstreamTLS())
    async with serving(say_nothing, Certificates(tmp_path).server("127.0.0.1")) as address:
        for _ in range(MANY):
            with pytest.raises(UpstreamFailure, match="TLS handshake"):
                await dial(
                    base(address, "https"), Listener, context=context, proxy=None, resolver=Resolver(), timeout=5
                )
        await settle()
    assert left(MANY - 2) == {}
