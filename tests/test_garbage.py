"""Nothing of an exchange is left to the collector, whose looks hold up every stream under way."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.harness import OK, POST_CHAT, proxy_for
from tests.scripted import ScriptedUpstream, reset

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.scripted import Turn

EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
LIMITED = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 2\r\n\r\n{}"
STREAM = EVENTS + b"c\r\ndata: {}\r\n\r\n\r\n" * 3 + b"0\r\n\r\n"
CLOSING = b"HTTP/1.1 200 OK\r\n\r\nas much as there is"


@pytest.fixture
async def up() -> AsyncIterator[ScriptedUpstream]:
    upstream = ScriptedUpstream()
    await upstream.start()
    yield upstream
    await upstream.close()


@pytest.fixture
def kept() -> Iterator[None]:
    """What the collector finds is kept to be looked at."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    yield
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


def left(count: int) -> dict[str, int]:
    """The kinds of our own objects of which only the collector has found so many."""
    gc.collect()
    rooms = ("relay.", "router", "passthrough")
    kinds = Counter(type(one).__qualname__ for one in gc.garbage if type(one).__module__.startswith(rooms))
    return {kind: found for kind, found in kinds.items() if found >= count}


MANY = 40


ANSWERS: dict[str, list[Turn]] = {
    "one piece": [OK],
    "a retry": [LIMITED, OK],
    "a stream": [STREAM],
    "until the end": [CLOSING],
    "no HTTP": [b"nonsense\r\n\r\n"],
    "no answer": [reset, reset],
}


@pytest.mark.parametrize("answers", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.usefixtures("kept")
async def test_an_exchange_leaves_nothing(answers: list[Turn], up: ScriptedUpstream) -> None:
    async with proxy_for(up, up) as proxy:
        for number in range(MANY):
            up.script = [*answers, b""]
            await proxy.exchange(POST_CHAT)
            await proxy.record(number + 1)
        for _ in range(9):  # connections that end have their turns
            await asyncio.sleep(0)
        assert left(MANY - 2) == {}
