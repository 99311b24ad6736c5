"""Run a test on a worker's loop, on asyncio's own and on uvloop, and see that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from relay.wire.poller import new_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "poller": new_loop,
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
PATIENCE = 20  # seconds
uvloop.new_event_loop().close()  # libuv keeps a pipe from its first loop on


def on_every_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make tests of one coroutine function, one a loop; they fail for complaints of it and for open descriptors."""

    def run(loop: str, **fixtures: Any) -> None:
        supervise(LOOPS[loop], lambda: test(**fixtures))

    own = inspect.Parameter("loop", inspect.Parameter.KEYWORD_ONLY)
    vars(run)["__signature__"] = inspect.Signature([own, *_keywords(test)])
    every: Callable[..., None] = pytest.mark.parametrize("loop", LOOPS)(run)
    return every


def supervise(factory: Callable[[], asyncio.AbstractEventLoop], test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run ``test`` in debug mode, then look for tasks, descriptors and complaints."""
    complaints: list[str] = []
    gc.collect()
    gc.freeze()  # what is older needs no second look
    before = descriptors()
    with asyncio.Runner(debug=True, loop_factory=factory) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: note(context, complaints))
        runner.run(_story(test))
    gc.collect()
    left = [name for name in descriptors() if name not in before]
    assert not complaints, complaints
    assert not left, left


async def settle() -> None:
    """Let the loop look, tell and tidy up: both ends are in this process, so what was done is there to be seen."""
    for _ in range(9):
        await asyncio.sleep(0)


def note(context: dict[str, Any], complaints: list[str]) -> None:
    """Keep what the loop complains of, but for what is not ours to mend.

    Those are handshakes that were broken off, as the test's own servers see them.
    """
    text = str(context)
    if "Error on transport creation for incoming" not in text:
        complaints.append(text)


def descriptors() -> list[str]:
    """What this process has open, but for the folder that says so."""
    if sys.platform != "linux":
        return []
    names = [f"{fd.name} {_target(fd)}" for fd in Path("/proc/self/fd").iterdir()]
    return sorted(name for name in names if " socket:" in name or " pipe:" in name)


def _target(fd: Path) -> str:
    try:
        return str(fd.readlink())
    except OSError:  # the listing's own
        return ""


async def _story(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async with asyncio.timeout(PATIENCE):
        await test()
    for _ in range(20):  # what was cancelled or aborted may have a few turns to end
        if asyncio.all_tasks() == {asyncio.current_task()}:
            break
        await asyncio.sleep(0)
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    assert not tasks, tasks


def _keywords(test: Callable[..., Any]) -> list[inspect.Parameter]:
    return [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in inspect.signature(test).parameters.values()]
