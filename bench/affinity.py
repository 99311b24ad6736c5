"""What the store of resource ids costs: microseconds per call, bytes per id.

``python bench/affinity.py [--ids 100000] [--folder DIR]``; ten million ids take some minutes and about 400 MB of disk.
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from relay.config import AffinitySettings
from relay.scopes.affinity import AffinityStore, fingerprint
from relay.scopes.store import Database
from relay.scopes.tables import Busy

if TYPE_CHECKING:
    from collections.abc import Callable

CALLS = 20_000
CHUNK = 500_000
MAX_ENTRIES = 1 << 30
SCOPES = [f"scope-{number}" for number in range(20)]


def resource_id(number: int) -> str:
    """An id as OpenAI writes them."""
    return f"resp_{number:048x}"


def measure(name: str, call: Callable[[int], object], numbers: list[int]) -> None:
    """Print what ``call`` costs, one by one."""
    times = []
    for number in numbers:
        start = time.perf_counter()
        call(number)
        times.append(time.perf_counter() - start)
    times.sort()
    mean = sum(times) / len(times)
    figures = (mean, times[len(times) // 2], times[len(times) * 99 // 100], times[-1])
    print(f"{name:28}" + "".join(f"{figure * 1e6:10.1f}" for figure in figures))


def fill(path: Path, count: int) -> None:
    """Store ``count`` ids in few large transactions, in the order of their keys: one by one it would take an hour."""
    start = time.perf_counter()
    hour = int(time.time()) // 3600
    database = Database(str(path), MAX_ENTRIES)
    for first in range(0, count, CHUNK):
        keys = sorted(
            fingerprint("response", resource_id(number)) for number in range(first, min(first + CHUNK, count))
        )
        rows = ((key, (SCOPES[key % len(SCOPES)], hour, 720)) for key in keys)
        while True:
            try:
                database.write(rows, (), hour)
                break
            except Busy:  # before the first row is taken
                time.sleep(0.1)
    database.close()
    seconds = time.perf_counter() - start
    print(f"{count:,} ids stored in {seconds:.1f} s")


def report_file(path: Path, count: int) -> None:
    """Print the size, and what the checks at start cost."""
    size = path.stat().st_size
    print(f"file {size / 1e6:.1f} MB, {size / count:.1f} bytes an id")
    start = time.perf_counter()
    sqlite3.connect(path).execute("PRAGMA quick_check(1)").fetchone()
    print(f"a full check would take {(time.perf_counter() - start) * 1e3:.1f} ms")


def main() -> None:
    """Fill a file and measure each call on it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ids", type=int, default=100_000)
    parser.add_argument("--folder", default=None, help="where the file goes (default: the system's temporary folder)")
    arguments = parser.parse_args()
    count: int = arguments.ids
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "bench.db"
        fill(path, count)
        report_file(path, count)
        start = time.perf_counter()
        store = AffinityStore.open(AffinitySettings(path=str(path), max_entries=MAX_ENTRIES), time.time())
        print(f"opened in {(time.perf_counter() - start) * 1e3:.1f} ms; counts {store.count():,} ids\n")
        measure_calls(store, count)
        store.close()


def measure_calls(store: AffinityStore, count: int) -> None:
    """One line for each kind of call."""
    clock = time.time
    anywhere = [random.randrange(count) for _ in range(CALLS)]
    new = list(range(count, count + CALLS))
    print(f"{'microseconds':28}{'mean':>10}{'median':>10}{'p99':>10}{'max':>10}")
    measure("lookup, not in the cache", lambda n: store.lookup("response", resource_id(n), clock()), anywhere)
    measure("lookup, in the cache", lambda _: store.lookup("response", resource_id(anywhere[-1]), clock()), anywhere)
    measure("lookup, unknown", lambda n: store.lookup("file", f"file-{n}", clock()), anywhere)
    measure("remember one new id", lambda n: store.remember([("response", resource_id(n))], "scope-1", clock()), new)
    measure(
        "remember one known id", lambda _: store.remember([("response", resource_id(new[-1]))], "scope-1", clock()), new
    )
    measure("forget", lambda n: store.forget("response", resource_id(n), clock()), new)
    measure("count", lambda _: store.count(), anywhere[:200])


if __name__ == "__main__":
    main()
