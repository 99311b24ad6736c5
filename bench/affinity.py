"""What the store of resource ids costs: microseconds per call and per exchange, bytes per id.

``python bench/affinity.py [--ids 100000] [--folder DIR]``; ten million ids take some minutes and about 400 MB of disk.

The first four columns are of the clock; ``CPU`` is what the process took for a call, with the thread that writes to the
disk and the loop around the calls. What is new is written at once, but for moments in which the disk catches up: how
often that was is said, since a call that writes nothing is quick.
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import sys
import tempfile
import time
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from relay.config import AffinitySettings, BaseURL, Deployment
from relay.scopes.affinity import AffinityStore, fingerprint
from relay.scopes.learning import Learner, learn_from_head
from relay.scopes.pinning import Pinning
from relay.scopes.store import Database
from relay.scopes.tables import Busy
from relay.subjects.endpoints import match_endpoint, path_resources
from relay.subjects.subject import Subject
from relay.wire.heads import RequestHead, ResponseHead

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Input = TypeVar("Input")

CALLS = 20_000
CHUNK = 500_000
MAX_ENTRIES = 1 << 30
SCOPES = [f"scope-{number}" for number in range(20)]
HEAD = ResponseHead(200, b"OK", b"1.1", [(b"Content-Type", b"application/json")])
MODERATION = b'{"id": "modr-1", "model": "omni-moderation-latest", "results": [{"flagged": false, "categories": {}}]}'
CHAT = (
    b'{"id": "chatcmpl-1", "object": "chat.completion", "model": "gpt-4o", "choices": [{"index": 0, "message": '
    b'{"role": "assistant", "content": "Hello there, how may I help?"}}], "usage": {"prompt_tokens": 9, '
    b'"completion_tokens": 12, "total_tokens": 21}}'
)
FILE = b'{"id": "file-%022d", "object": "file", "bytes": 120000, "created_at": 1, "filename": "f", "purpose": "batch"}'


def resource_id(number: int) -> str:
    """An id as OpenAI writes them."""
    return f"resp_{number:048x}"


def measure(name: str, call: Callable[[Input], object], inputs: Sequence[Input]) -> None:
    """Print what ``call`` costs, one by one."""
    times = []
    cpu = time.process_time()
    for value in inputs:
        start = time.perf_counter()
        call(value)
        times.append(time.perf_counter() - start)
    cpu = (time.process_time() - cpu) / len(inputs)
    times.sort()
    mean = sum(times) / len(times)
    figures = (mean, times[len(times) // 2], times[len(times) * 99 // 100], times[-1], cpu)
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
        rows = [(key, (SCOPES[key % len(SCOPES)], hour, 720)) for key in keys]
        while True:
            try:
                database.write(rows, (), hour)
                break
            except Busy:
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
        measure_exchanges(store)
        store.close()


def measure_calls(store: AffinityStore, count: int) -> None:
    """One line for each kind of call."""
    clock = time.time
    anywhere = [random.randrange(count) for _ in range(CALLS)]
    new = list(range(count, count + CALLS))
    print(f"{'microseconds':28}{'mean':>10}{'median':>10}{'p99':>10}{'max':>10}{'CPU':>10}")
    measure("lookup, not in the cache", lambda n: store.lookup("response", resource_id(n), clock()), anywhere)
    measure("lookup, in the cache", lambda _: store.lookup("response", resource_id(anywhere[-1]), clock()), anywhere)
    measure("lookup, unknown", lambda n: store.lookup("file", f"file-{n}", clock()), anywhere)
    late = []

    def remember(number: int) -> None:
        store.remember([("response", resource_id(number))], "scope-1", clock())
        late.append(bool(store._pending))  # noqa: SLF001 - nobody else wants to know

    measure("remember one new id", remember, new)
    print(f"    {late.count(True):,} of {len(late):,} were written later")
    measure(
        "remember one known id", lambda _: store.remember([("response", resource_id(new[-1]))], "scope-1", clock()), new
    )
    measure("forget", lambda n: store.forget("response", resource_id(n), clock()), new)
    measure("count", lambda _: store.count(), anywhere[:200])


def exchange(store: AffinityStore, request: RequestHead, answer: bytes) -> None:
    """All that an exchange costs for the sake of ids: what its subject names, what its answer's head and bytes show."""
    method, path = request.method.decode(), request.target.decode()
    endpoint = match_endpoint(method, path)
    subject = Subject(endpoint, resources=path_resources(endpoint, path))
    pinning(store).read(subject)
    learn_from_head(store, request, subject, HEAD, "client", "scope-1")
    learner = Learner(store, subject, HEAD, "scope-1")
    if learner.watch is not None:
        learner.watch(answer)
    learner.finish()


@lru_cache(maxsize=1)
def pinning(store: AffinityStore) -> Pinning:
    """Two scopes, which nobody asks anything."""
    base = BaseURL("http", "127.0.0.1", 9, "/v1")
    members = [Deployment(name, "gpt-4o", base, "gpt-4o", None, name, name) for name in SCOPES[:2]]
    nobody: Any = SimpleNamespace(brake=None)
    return Pinning(nobody, store, nobody, members)


def measure_exchanges(store: AffinityStore) -> None:
    """One line for each kind of exchange, the scanning of the request's body left out."""
    moderation, chat, upload = (request(b"POST", path) for path in (b"/moderations", b"/chat/completions", b"/files"))
    kinds: dict[str, Callable[[int], tuple[RequestHead, bytes]]] = {
        "exchange, no id": lambda _: (moderation, MODERATION),
        "exchange, no id, usage read": lambda _: (chat, CHAT),
        "exchange that mints a file": lambda n: (upload, FILE % n),
        "exchange that names it": lambda n: (request(b"GET", b"/files/file-%022d" % n), FILE % n),
    }
    for name, make in kinds.items():
        measure(name, lambda one: exchange(store, *one), [make(number) for number in range(CALLS)])


def request(method: bytes, path: bytes) -> RequestHead:
    """A request's head, which is read for other reasons."""
    return RequestHead(method, path, b"1.1", [])


if __name__ == "__main__":
    main()
