"""The load, in a process of its own: so many connections, each with the next request as soon as it has its answer.

``python -m bench.load JOB`` takes a job as JSON and prints what it saw as JSON. Sockets are raw and answers are only
looked at as far as their length, so that the load takes little of the machine; with many connections on few cores it
still takes a good part of it, which is why the upstream's own ceiling stands beside every figure.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from bench.messages import END, TIME, Framer, Wish, request, small_body

if TYPE_CHECKING:
    from collections.abc import Sequence

GRACE = 60.0  # seconds beyond what a job takes, after which it has failed
TAIL = 400  # bytes kept back of a stream: a time that was cut in two is in them


@dataclass(frozen=True, slots=True)
class Job:
    """What is asked: for ``seconds`` by so many connections, or one stream over each of them."""

    port: int
    key: str
    connections: int = 1
    seconds: float = 1
    events: int = 0  # of each stream; 0 asks for answers in one piece
    every_us: int = 0
    large: bool = False  # 20 MB, the model at the end

    @property
    def bound(self) -> float:
        """Seconds after which the job has failed."""
        return self.seconds + self.events * self.every_us / 1e6 + GRACE

    def body(self) -> bytes:
        """The request's content."""
        if self.large:
            from bench.inspection import images  # it builds bodies of its own, which only this job needs

            return images()
        return small_body(Wish(self.events, self.every_us) if self.events else None)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a load saw; times in microseconds. For streams ``count`` is events and the times are their ages."""

    count: int
    seconds: float
    p50: float
    p99: float
    gap_p50: float = 0
    gap_p99: float = 0


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which ``share`` of the values are, by nearest rank."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0


class Connection(asyncio.Protocol):
    """One connection of the load, which ends once."""

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def _end(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error) if error else self.done.set_result(None)
        self._transport.close()


class Caller(Connection):
    """One connection that asks again and again until ``until``."""

    def __init__(self, said: bytes, times: list[int]) -> None:
        self._said = said
        self._until = 0.0
        self._times = times
        self._framer = Framer()
        self._asked = 0
        super().__init__()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def begin(self, until: float) -> None:
        """Ask for the first time; the last time is before ``until``."""
        self._until = until
        self._ask()

    def _ask(self) -> None:
        self._asked = time.monotonic_ns()
        self._transport.write(self._said)

    def data_received(self, data: bytes) -> None:
        for answer in self._framer.feed(data):
            now = time.monotonic_ns()
            self._times.append(now - self._asked)
            if not answer.startswith(b"HTTP/1.1 200 "):
                self._end(RuntimeError(answer[:300]))
            elif now / 1e9 < self._until:
                self._ask()
            else:
                self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or ConnectionError("closed in the middle of an exchange"))


class Listener(Connection):
    """One stream: how old each event is when it comes, and how long after the one before."""

    def __init__(self, said: bytes, ages: list[int], gaps: list[int]) -> None:
        self._said = said
        self._ages = ages
        self._gaps = gaps
        self._tail = b""
        self._last = 0
        super().__init__()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._said)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        data = self._tail + data
        read = 0
        for found in TIME.finditer(data):
            self._ages.append(now - int(found[1]))
            if self._last:
                self._gaps.append(now - self._last)
            self._last = now
            read = found.end()
        self._tail = data[max(read, len(data) - TAIL) :]
        if END in data:
            self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or ConnectionError(f"closed in the middle of a stream: {self._tail[:200]!r}"))


async def call(job: Job) -> Seen:
    """Ask for answers, once all connections are there."""
    loop = asyncio.get_running_loop()
    said = request(job.body(), job.key)
    times: list[int] = []
    made = [
        await loop.create_connection(lambda: Caller(said, times), "127.0.0.1", job.port) for _ in range(job.connections)
    ]
    began = time.monotonic()
    for _, caller in made:
        caller.begin(began + job.seconds)
    await asyncio.gather(*(caller.done for _, caller in made))
    seconds = time.monotonic() - began
    ordered = sorted(one / 1e3 for one in times)
    return Seen(len(ordered), seconds, percentile(ordered, 0.5), percentile(ordered, 0.99))


async def listen(job: Job) -> Seen:
    """Ask for streams, their beginnings spread over one interval."""
    loop = asyncio.get_running_loop()
    said = request(job.body(), job.key)
    ages: list[int] = []
    gaps: list[int] = []
    began = time.monotonic()
    listeners = []
    for number in range(job.connections):
        await asyncio.sleep(max(0, began + job.every_us / 1e6 * number / job.connections - time.monotonic()))
        _, listener = await loop.create_connection(lambda: Listener(said, ages, gaps), "127.0.0.1", job.port)
        listeners.append(listener)
    await asyncio.gather(*(listener.done for listener in listeners))
    seconds = time.monotonic() - began
    if len(ages) != job.connections * job.events:
        raise RuntimeError(f"{len(ages)} events of {job.connections * job.events}")
    old, apart = sorted(one / 1e3 for one in ages), sorted(one / 1e3 for one in gaps)
    middle, late = percentile(old, 0.5), percentile(old, 0.99)
    return Seen(len(old), seconds, middle, late, percentile(apart, 0.5), percentile(apart, 0.99))


async def main() -> None:
    """Do the job of the command line."""
    job = Job(**json.loads(sys.argv[1]))
    async with asyncio.timeout(job.bound):
        seen = await (listen(job) if job.events else call(job))
    print(json.dumps(asdict(seen)))


if __name__ == "__main__":
    asyncio.run(main())
