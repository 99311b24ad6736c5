"""How a start of the proxy passes: until it listens, until it has answered, and which imports take the time."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from bench.peers import PATIENCE, PROGRAM, ROOT, Process, answer, configuration

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

IMPORT = re.compile(r"^import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)$", re.MULTILINE)
READY = r"is ready: base_url = \S+:(\d+)/"
FAST_LOADER = "yaml._yaml"


class Start(NamedTuple):
    """Seconds from the command until it says that it is ready, and until the first answer."""

    ready: float
    answered: float


class Starts:
    """Starts whose compiled modules are kept in a folder of their own, whatever the environment says about them."""

    def __init__(self, folder: Path, upstream: int) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "config.yaml").write_text(configuration(upstream))
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        self._environ = {**kept, "PYTHONPYCACHEPREFIX": str(folder / "compiled")}
        self._folder = folder

    def once(self, *options: str) -> tuple[Start, str]:
        """One start, and what it said on stderr."""
        command = [sys.executable, *options, PROGRAM, "config.yaml", "--port", "0"]
        began = time.monotonic()
        with Process(command, self._folder, environ=self._environ) as process:
            port = int(process.says(READY))
            ready = time.monotonic()
            process.wait_for(lambda: answer(port))
            return Start(ready - began, time.monotonic() - began), process.text()

    def median(self, count: int) -> Start:
        """The medians of several starts."""
        starts = [self.once()[0] for _ in range(count)]
        return Start(*(statistics.median(column) for column in zip(*starts, strict=True)))

    def imports(self) -> dict[str, int]:
        """Microseconds that each module took by itself, of all that is imported until the first answer."""
        return {name: int(micro) for micro, name in IMPORT.findall(self.once("-X", "importtime")[1])}

    def run(self, text: str) -> float:
        """Seconds that an interpreter takes for a line of code."""
        began = time.monotonic()
        command = [sys.executable, "-c", text]
        subprocess.run(command, cwd=ROOT, env=self._environ, check=True, timeout=PATIENCE)
        return time.monotonic() - began

    def import_seconds(self, count: int) -> float:
        """The median of what ``import passthrough`` takes beyond an interpreter that does nothing."""
        return statistics.median(self.run("import passthrough") - self.run("pass") for _ in range(count))


def imported_by(text: str) -> set[str]:
    """Every module that a line of code imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", text], capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    return {name for _, name in IMPORT.findall(done.stderr)}


def by_package(imports: dict[str, int]) -> list[tuple[str, int]]:
    """The same by package, the dearest first."""
    total: dict[str, int] = {}
    for name, micro in imports.items():
        package = name.split(".")[0]
        total[package] = total.get(package, 0) + micro
    return sorted(total.items(), key=lambda one: -one[1])


def in_words(dearest: Iterable[tuple[str, int]]) -> str:
    """A list of what takes long."""
    return ", ".join(f"{name} {micro / 1000:.1f} ms" for name, micro in dearest)
