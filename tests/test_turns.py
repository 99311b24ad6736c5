"""When exchanges go on and messages leave: at once in a quiet turn of the loop, step by step behind a crowded one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from relay.wire.turns import CROWD, Turn, turn_of

if TYPE_CHECKING:
    from relay.wire.connection import Connection
    from relay.wire.waiting import Waiter


class Noted:
    """A connection and a waiter that note when they are told to do their part."""

    def __init__(self, name: str, heard: list[str]) -> None:
        self.name, self.heard = name, heard

    def flush(self) -> None:
        self.heard.append(f"{self.name} left")

    def go_on(self) -> None:
        self.heard.append(f"{self.name} went on")


class Stage:
    """A turn, and what is heard in it."""

    def __init__(self) -> None:
        self.turn = Turn(asyncio.get_running_loop())
        self.heard: list[str] = []

    def wake(self, name: str) -> None:
        self.turn.wake(cast("Waiter", Noted(name, self.heard)))

    def depart(self, name: str) -> None:
        self.turn.depart(cast("Connection", Noted(name, self.heard)))


async def test_a_quiet_turn_keeps_nothing_back() -> None:
    stage = Stage()
    for name in ("one", "other"):
        stage.wake(name)
        stage.depart(name)
        assert stage.heard[-2:] == [f"{name} went on", f"{name} left"]
        await asyncio.sleep(0)


async def test_behind_a_crowded_turn_one_step_is_taken_after_the_other() -> None:
    stage = Stage()
    for number in range(CROWD):
        stage.wake(str(number))
    await asyncio.sleep(0)
    stage.heard.clear()
    stage.depart("one")
    stage.wake("two")
    stage.wake("three")
    assert stage.heard == []
    await asyncio.sleep(0)
    assert stage.heard == ["two went on", "three went on", "one left"]
    stage.depart("four")
    assert stage.heard[-1] == "four left"  # the turn before was a quiet one


async def test_what_goes_on_at_the_end_of_a_turn_may_write_in_it() -> None:
    stage = Stage()

    class Writing(Noted):
        def go_on(self) -> None:
            super().go_on()
            stage.depart(self.name)

    for number in range(CROWD):
        stage.wake(str(number))
    await asyncio.sleep(0)
    stage.heard.clear()
    for name in ("one", "two"):
        stage.turn.wake(cast("Waiter", Writing(name, stage.heard)))
    await asyncio.sleep(0)
    assert stage.heard == ["one went on", "two went on", "one left", "two left"]


async def test_one_step_that_fails_keeps_no_other_from_its_turn() -> None:
    stage = Stage()

    class Failing(Noted):
        def go_on(self) -> None:
            raise RuntimeError(self.name)

    for number in range(CROWD):
        stage.wake(str(number))
    await asyncio.sleep(0)
    stage.heard.clear()
    said: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context["exception"]))
    stage.turn.wake(cast("Waiter", Failing("one", stage.heard)))
    stage.wake("two")
    stage.depart("three")
    for _ in range(3):
        await asyncio.sleep(0)
    assert stage.heard == ["two went on", "three left"]
    assert [str(error) for error in said] == ["one"]


async def test_a_loop_has_one_turn() -> None:
    loop = asyncio.get_running_loop()
    assert turn_of(loop) is turn_of(loop)
