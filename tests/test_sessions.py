"""WebSocket sessions through a process of its own: the real SDK, and SIGTERM in the middle."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any

import pytest
from openai import AsyncOpenAI

from tests.processes import PATIENCE, running
from tests.sockets import SocketUpstream, event

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from websockets.asyncio.server import ServerConnection

KEY = "sk-of-the-proxy-1234"
FILE = """
model_list:
  - model_name: gpt-realtime
    litellm_params: {model: openai/gpt-realtime-1, api_key: sk-upstream, api_base: "http://127.0.0.1:%d/v1"}
general_settings: {master_key: %s}
server: {host: 127.0.0.1, port: 0, workers: %d}
timeouts: {drain: %g}
"""


async def answer(session: ServerConnection) -> None:
    """Answer every event of a client with one of the server's."""
    async for _ in session:
        await event(session, {"type": "response.done", "response": {"id": "resp_1abc", "object": "realtime.response"}})


@pytest.fixture
async def up() -> AsyncIterator[SocketUpstream]:
    async with SocketUpstream(answer).running() as upstream:
        yield upstream


def configure(folder: Path, up: SocketUpstream, *, drain: float = PATIENCE, workers: int = 1) -> str:
    path = folder / "config.yaml"
    path.write_text(FILE % (up.port, KEY, workers, drain))
    return str(path)


async def ask(connection: Any) -> str:
    """One turn of a realtime session."""
    await connection.response.create()
    return str((await asyncio.wait_for(connection.recv(), PATIENCE)).type)


@pytest.mark.parametrize("workers", [1, 2])
async def test_sigterm_lets_a_session_finish(up: SocketUpstream, tmp_path: Path, workers: int) -> None:
    async with running(configure(tmp_path, up, workers=workers), folder=tmp_path) as process:
        client = AsyncOpenAI(api_key=KEY, base_url=await process.base_url() + "/v1")
        async with client.realtime.connect(model="gpt-realtime") as connection:
            assert await ask(connection) == "response.done"
            process.signal(signal.SIGTERM)
            for _ in range(3):
                assert await ask(connection) == "response.done"
        assert await process.ends() == 0
        (record,) = process.records
    assert (record["status"], record["outcome"], record["model"]) == (101, "ok", "gpt-realtime")
    assert up.requests[0].path == "/v1/realtime?model=gpt-realtime-1"


async def test_a_session_that_goes_on_is_cut_at_the_end_of_the_drain(up: SocketUpstream, tmp_path: Path) -> None:
    async with running(configure(tmp_path, up, drain=0.3), folder=tmp_path) as process:
        client = AsyncOpenAI(api_key=KEY, base_url=await process.base_url() + "/v1")
        async with client.realtime.connect(model="gpt-realtime") as connection:
            assert await ask(connection) == "response.done"
            process.signal(signal.SIGTERM)
            assert await process.ends() == 0
        (record,) = process.records
    assert (record["status"], record["outcome"]) == (101, "drained")
