"""Two real processes share one file of ids, and clients go to either; one is killed under way (SPEC §5)."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import openai
import pytest

from tests import processes, walks
from tests.harness import KEY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.processes import Process
    from tests.walks import Estate

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the Assistants API

OPERATIONS = int(os.environ.get("WALK_OPERATIONS", "160"))
PATIENCE = 60 + OPERATIONS / 5


def write_config(estate: Estate, folder: Path) -> Path:
    """Four deployments in three scopes, for processes that start in folders of their own."""
    entries = [
        {
            "model_name": "gpt-4o",
            "litellm_params": {
                "model": "openai/gpt-4o",
                "api_key": key,
                "api_base": f"http://127.0.0.1:{estate.port}/v1",
            },
            "model_info": {"id": key.removeprefix("sk-"), "scope": project},
        }
        for key, project in walks.PROJECTS.items()
    ]
    sections = {
        "model_list": entries,
        "general_settings": {"master_key": KEY},
        "affinity": {"path": str(folder / "ids.db")},
        "server": {"host": "127.0.0.1", "port": 0},
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(sections))  # which is YAML, too
    return path


class Survivor(walks.Walker):
    """A client that goes on where a process is killed under it."""

    excused = False  # the operation under way may be cut off
    lost = 0

    def enter(self, api: openai.AsyncOpenAI) -> None:
        """One more way in. All clients show one key; a session gives each a home of its own."""
        self.doors.append(api.with_options(default_headers={"x-passthrough-session": f"walker-{self.number}"}))

    async def step(self) -> None:
        """One operation by chance. Nobody knows how far one came that was cut off: what it named is let be."""
        operation, picked = self.choose()
        try:
            await operation(self, *picked.values())
        except (openai.APIStatusError, AssertionError):
            raise  # an answer, and the wrong one
        except Exception:
            if not self.excused:
                raise
            self.lost += 1
            self.abandon(picked)
        self.excused = False

    def abandon(self, picked: dict[str, str]) -> None:
        for kind, id_ in picked.items():
            if id_ in self.things.get(kind, []):
                self.drop(kind, id_)

    def survive(self) -> None:
        """The last door was lost."""
        self.doors.pop()
        self.excused = True


@asynccontextmanager
async def entrance(walkers: list[Survivor], config: Path, folder: Path) -> AsyncIterator[Process]:
    """A process of its own, open to all walkers; it ends well, unless it was killed."""
    process = await processes.start(str(config), folder=folder)
    try:
        base = f"{await process.base_url()}/openai"
        async with openai.AsyncOpenAI(api_key=KEY, base_url=base, max_retries=0, timeout=20) as api:
            for walker in walkers:
                walker.enter(api)
            yield process
        assert await process.stop() in {0, -signal.SIGKILL}, process.said
        assert not [line for line in process.said if "Traceback" in line or "WARNING" in line], process.said
    finally:
        await process.kill()


async def begun(walkers: list[Survivor], count: int) -> None:
    """Wait until the walkers have begun ``count`` operations together."""
    while sum(len(walker.done) for walker in walkers) < count:  # noqa: ASYNC110 - the walk has bounds of its own
        await asyncio.sleep(0.01)


def make_folders(parent: Path, count: int) -> list[Path]:
    """One for each process, which writes its records there."""
    folders = [parent / str(number) for number in range(count)]
    for folder in folders:
        folder.mkdir()
    return folders


def served(process: Process) -> int:
    """How many exchanges a process has written down; the last line of a killed one may be torn."""
    return process.log.read_bytes().count(b"\n")


@pytest.fixture
async def estate() -> AsyncIterator[Estate]:
    async with asyncio.timeout(PATIENCE), walks.estate() as made:
        yield made


@pytest.mark.timeout(PATIENCE + 30)
async def test_two_processes_share_the_file_and_one_is_killed_half_way(estate: Estate, tmp_path: Path) -> None:
    config = write_config(estate, tmp_path)
    folders = make_folders(tmp_path, 3)
    shared: dict[str, list[str]] = {}
    walkers = [Survivor(number, estate, shared) for number in range(walks.CLIENTS)]
    async with (
        entrance(walkers, config, folders[0]) as first,
        entrance(walkers, config, folders[1]) as second,
        AsyncExitStack() as later,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(walks.walk(walkers, OPERATIONS), name="walk")
        await begun(walkers, OPERATIONS // 3)
        second.signal(signal.SIGKILL)
        for walker in walkers:
            walker.survive()
        assert await second.ends() == -signal.SIGKILL
        third = await later.enter_async_context(entrance(walkers, config, folders[2]))
    assert estate.strays() == []
    assert not [heard for heard in estate.demo.requests if walks.is_look(heard)], "all ids were in the file"
    assert sum(walker.lost for walker in walkers) <= len(walkers), "one operation each was under way"
    assert min(served(process) for process in (first, second, third)) > OPERATIONS // 8
