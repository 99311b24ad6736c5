"""What the tests of processes share: files, children, and metrics from outside."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.harness import KEY, PATIENCE, get, read_answer
from tests.processes import PROGRAM, Process

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.scripted import ScriptedUpstream

# What a service manager does before it becomes the service: the socket at descriptor 3, and who that is for.
LAUNCHER = """
import os, sys
fd, *command = sys.argv[1:]
os.dup2(int(fd), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(command[0], command)
"""


def write_config(folder: Path, upstream: ScriptedUpstream, *, key: str = "sk-upstream-first", more: str = "") -> Path:
    """A configuration with one deployment and a master key."""
    text = (
        "model_list:\n  - model_name: gpt-4\n    litellm_params:\n"
        f'      {{model: openai/gpt-4, api_key: {key}, api_base: "http://127.0.0.1:{upstream.port}"}}\n'
        "    model_info: {id: one}\n"
        f"general_settings: {{master_key: {KEY}}}\naffinity: {{path: ':memory:'}}\n"
    )
    path = folder / "config.yaml"
    path.write_text(text + (more or "server: {host: 127.0.0.1, port: 0}\n"))
    return path


def children(pid: int) -> list[int]:
    """The processes that ``pid`` has forked and that have not been waited for, in the order of their start."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def is_running(pid: int) -> bool:
    """Whether a process is there, and no zombie that somebody else has to bury."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def until(holds: Callable[[], object]) -> None:
    """Look often, for a bounded time, at something that only another process can bring about."""
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 - nothing else tells
            await asyncio.sleep(0.01)


async def ask(port: int, request: bytes) -> bytes:
    """One exchange on a connection of its own."""
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(request)
            return await read_answer(reader)
        finally:
            writer.close()


async def metric(port: int, name: str) -> float:
    """The sum of a metric over its labels."""
    answer = await ask(port, get("/metrics"))
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    return sum(float(value) for value in re.findall(rf"(?m)^{name}(?:{{.*}})? (\S+)$", answer.decode()))


async def start_inheriting(fd: int, *arguments: str, folder: Path, environ: Mapping[str, str] | None = None) -> Process:
    """Start the command line as a service manager does that has bound its socket."""
    records = folder / "records.jsonl"
    with records.open("ab") as out:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", LAUNCHER, str(fd), sys.executable, PROGRAM, *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=asyncio.subprocess.PIPE,
            cwd=folder,
            env={"PATH": os.environ["PATH"], **(environ or {})},
            pass_fds=(fd,),
        )
    return Process(child, records)
