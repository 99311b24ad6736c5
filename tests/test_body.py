"""A request's body as it is held: in one piece or several, and when its client began to wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from relay.config import Config, Limits
from relay.requests import body as room
from relay.requests.body import RequestBody
from relay.subjects.endpoints import match_endpoint
from relay.subjects.inspection import JSONPeek
from relay.wire.framing import NEED_DATA
from relay.wire.heads import RequestHead

if TYPE_CHECKING:
    from relay.wire.framing import Signal
    from relay.wire.http1 import HTTP1Connection

CONTENT = b'{"model":"m","messages":[]}'
CHAT = match_endpoint("POST", "/chat/completions").body
HEAD = RequestHead(b"POST", b"/v1/chat/completions", b"1.1", [(b"Host", b"h")])


class Client:
    """Stands for the connection of a client that sends these pieces, ``NEED_DATA`` where one has to be waited for."""

    wants_continue = False

    def __init__(self, *pieces: bytes | Signal) -> None:
        self._pieces = list(pieces)
        self.content_length = sum(len(piece) for piece in pieces if isinstance(piece, bytes))

    @property
    def received(self) -> bool:
        return not self._pieces

    def poll_event(self) -> bytes | Signal:
        return self._pieces.pop(0)

    async def next_event(self) -> bytes | Signal:
        return self._pieces.pop(0)

    def set_deadline(self, seconds: float | None) -> None: ...


def body_of(*pieces: bytes | Signal, memory: int = 1 << 20) -> RequestBody:
    """The body of such a client, of which so much is held in memory."""
    limits = Limits(inspection_bytes=memory)
    return RequestBody(cast("HTTP1Connection", Client(*pieces)), HEAD, Config(groups={}, limits=limits))


async def inspected(*pieces: bytes | Signal, memory: int = 1 << 20) -> RequestBody:
    """The same, looked into."""
    body = body_of(*pieces, memory=memory)
    await body.inspect(JSONPeek(CHAT), lambda: False)
    return body


PIECES: list[tuple[bytes | Signal, ...]] = [(CONTENT,), (NEED_DATA, CONTENT), (CONTENT[:9], NEED_DATA, CONTENT[9:])]


@pytest.mark.parametrize("pieces", PIECES)
@pytest.mark.parametrize(("model", "sent"), [(None, CONTENT), ("other", CONTENT.replace(b'"m"', b'"other"'))])
@pytest.mark.parametrize("memory", [1 << 20, 4])
async def test_what_is_held_is_sent_again_as_often_as_it_is_asked_for(
    pieces: tuple[bytes | Signal, ...], model: str | None, sent: bytes, memory: int
) -> None:
    body = await inspected(*pieces, memory=memory)
    for _ in range(2):
        body.rewrite(model)
        assert body.at_once() == (sent if memory > len(CONTENT) else None)
        assert b"".join([piece async for piece in body.chunks()]) == sent
    body.close()


def test_no_content_is_there_at_once() -> None:
    body = body_of()
    assert body.at_once() == b""
    body.close()


@pytest.mark.parametrize(
    ("pieces", "since"),
    [((CONTENT,), 1.0), ((NEED_DATA, CONTENT), 7.0), ((CONTENT[:9], CONTENT[9:]), 7.0)],
)
async def test_a_client_waits_since_its_last_byte_was_read(
    pieces: tuple[bytes | Signal, ...], since: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is when it began to ask, where all came with the head."""
    monkeypatch.setattr(room, "monotonic", lambda: 7.0)
    assert (await inspected(*pieces)).waits_since(1.0) == since


async def test_content_that_nobody_looks_into_is_read_when_it_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "monotonic", lambda: 7.0)
    body = body_of(CONTENT)
    assert [piece async for piece in body.chunks()] == [CONTENT]
    assert body.waits_since(1.0) == 7.0
