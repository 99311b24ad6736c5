"""When messages leave: at once in a quiet turn of the loop, together at the end of a crowded one."""

from __future__ import annotations

import asyncio
from typing import cast


from relay.wire.departures import CROWD, Departures, departures_of


class Noted:
    """A connection that notes when it is told to let go."""

    def __init__(self, name: str, left: list[str]) -> None:
        self.name, self.left = name, left

    def flush(self) -> None:
        self.left.append(self.name)


def write(departures: Departures, left: list[str], *names: str) -> None:
    for name in names:
        departures.add(cast("Connection", Noted(name, left)))


async def test_a_quiet_turn_keeps_nothing_back() -> None:
    departures, left = Departures(asyncio.get_running_loop()), list[str]()
    for name in "abc":
        write(departures, left, name)
        assert left[-1] == name
        await asyncio.sleep(0)


async def test_behind_a_crowded_turn_messages_leave_together_and_in_order() -> None:
    departures, left = Departures(asyncio.get_running_loop()), list[str]()
    write(departures, left, *"x" * CROWD)
    await asyncio.sleep(0)
    left.clear()
    write(departures, left, "a", "b")
    assert left == []
    await asyncio.sleep(0)
    assert left == ["a", "b"]
    write(departures, left, "c")
    assert left == ["a", "b", "c"]  # the turn before was a quiet one


async def test_a_loop_has_one_list() -> None:
    loop = asyncio.get_running_loop()
    assert departures_of(loop) is departures_of(loop)
