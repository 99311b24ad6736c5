"""What processes take: CPU and memory of a tree of them from ``/proc``, and which cores they may use. Needs Linux."""

from __future__ import annotations

import os
import re
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from platform import python_version
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
PINNED_FROM = 4  # cores: one each for upstream, load and proxy, and one for everything else
PAUSE = 0.05  # seconds between two looks at memory


def family(pid: int) -> list[int]:
    """A process, its children, and theirs; nothing of what has ended."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(one for child in children for one in family(int(child)))]


def cpu_of(pid: int) -> float:
    """Seconds of CPU that a tree of processes has used, by the scheduler's nanoseconds of each thread."""
    total = 0
    for one in family(pid):
        for path in Path(f"/proc/{one}/task").glob("*/schedstat"):
            try:
                total += int(path.read_text().split()[0])
            except OSError:  # a thread that has just ended
                continue
    return total / 1e9


def resident(pid: int) -> int:
    """Bytes of memory that a tree of processes holds; pages that they share count for each."""
    total = 0
    for one in family(pid):
        try:
            found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{one}/status").read_text())
        except OSError:
            continue
        total += int(found[1]) << 10 if found else 0
    return total


class Peak:
    """The most memory that a tree of processes held while somebody looked, in bytes."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.value = 0

    def _look(self) -> None:
        while not self._over.wait(PAUSE):
            self.value = max(self.value, resident(self._pid))

    def __enter__(self) -> Self:
        self.value = resident(self._pid)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


class Cores(NamedTuple):
    """Which core belongs to whom; empty where there are too few."""

    upstream: frozenset[int] = frozenset()
    load: frozenset[int] = frozenset()
    proxy: frozenset[int] = frozenset()

    def __str__(self) -> str:
        if not self.proxy:
            return "not pinned: too few cores, upstream, load and proxy share them"
        return "pinned: upstream, load and proxy have a core each"


def share_cores(available: set[int]) -> Cores:
    """A core each, leaving the first to the system, where there are enough."""
    if len(available) < PINNED_FROM:
        return Cores()
    _, *others = sorted(available)
    return Cores(*(frozenset({core}) for core in others[:3]))


@contextmanager
def pinned(cores: frozenset[int]) -> Iterator[None]:
    """What is started in here runs on these cores only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def machine() -> str:
    """The machine in words, as far as it says what it is."""
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    system = re.search(r'^PRETTY_NAME="(.+)"$', Path("/etc/os-release").read_text(), re.MULTILINE)
    name = found[1].strip() if found else os.uname().machine
    return f"{os.cpu_count()} cores of {name}, {system[1] if system else os.uname().sysname}, Python {python_version()}"


def today() -> str:
    """The date."""
    return time.strftime("%Y-%m-%d")
