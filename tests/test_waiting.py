"""A wait that is over within the callback that ends it, seen from the task that waits."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

import pytest

from relay.wire.turns import turn_of
from relay.wire.waiting import Waiter

NAME: ContextVar[str] = ContextVar("NAME", default="nobody's")


def begin(waiter: Waiter, heard: list[str]) -> asyncio.Task[None]:
    async def wait() -> None:
        NAME.set("the task's")
        await waiter
        heard.append(f"woken in {NAME.get()} context")

    return asyncio.create_task(wait())


async def test_a_task_goes_on_within_the_callback_that_wakes_it() -> None:
    waiter, heard = Waiter(turn_of(asyncio.get_running_loop())), list[str]()
    task = begin(waiter, heard)
    await asyncio.sleep(0)

    def callback() -> None:
        waiter.wake()
        waiter.wake()
        heard.append("called back")

    asyncio.get_running_loop().call_soon(callback)
    await asyncio.wait_for(task, 5)
    assert heard == ["woken in the task's context", "called back"]


async def test_a_task_that_wakes_another_is_not_interrupted() -> None:
    waiter, heard = Waiter(turn_of(asyncio.get_running_loop())), list[str]()
    task = begin(waiter, heard)
    await asyncio.sleep(0)
    waiter.wake()
    heard.append("went on")
    await asyncio.wait_for(task, 5)
    assert heard == ["went on", "woken in the task's context"]


async def test_what_has_come_already_is_not_waited_for() -> None:
    waiter = Waiter(turn_of(asyncio.get_running_loop()))
    waiter.wake()
    await asyncio.wait_for(begin(waiter, []), 5)


async def test_a_cancelled_task_ends_once_and_is_not_woken_any_more() -> None:
    waiter, heard = Waiter(turn_of(asyncio.get_running_loop())), list[str]()
    task = begin(waiter, heard)
    await asyncio.sleep(0)
    assert task.cancel()
    assert not waiter.cancel()
    waiter.wake()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 5)
    assert heard == []


async def test_a_wait_that_is_cancelled_before_anybody_waits_is_none() -> None:
    waiter = Waiter(turn_of(asyncio.get_running_loop()))
    assert waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        waiter.result()


async def test_a_task_that_is_to_be_cancelled_does_not_wait() -> None:
    waiter, heard = Waiter(turn_of(asyncio.get_running_loop())), list[str]()

    async def wait() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await waiter
        heard.append("woken")

    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(asyncio.create_task(wait()), 5)
    assert heard == []
