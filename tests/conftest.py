"""What holds for all tests."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

from relay.wire.poller import new_loop
from tests.scripted import ScriptedUpstream

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Callable, Iterator


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Tests run in the loop that a worker runs in."""
    return {"worker": new_loop}


@pytest.fixture
async def up() -> AsyncIterator[ScriptedUpstream]:
    """An upstream that waits to be told what to say."""
    async with ScriptedUpstream().running() as upstream:
        yield upstream


@pytest.fixture
async def second() -> AsyncIterator[ScriptedUpstream]:
    """Another one."""
    async with ScriptedUpstream().running() as upstream:
        yield upstream


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedUpstream]:
    """One beside the upstreams of files that have ``up`` and ``second`` of their own."""
    async with ScriptedUpstream().running() as upstream:
        yield upstream


@pytest.fixture
def kept_garbage() -> Iterator[None]:
    """What the collector finds is kept in ``gc.garbage`` to be looked at."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    yield
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


def pytest_collection_finish() -> None:
    """Let the collector pass over what was imported: tests that look for leaks let it run, and it took a second."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """What was left lying about is complained of at the end at the latest."""
    gc.unfreeze()
