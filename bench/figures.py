"""The measurements of ``python -m bench``: rounds in which everybody is asked in turn, and the medians over them."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TypeVar

from bench.load import Job, Seen
from bench.measure import MIB, Cores, Peak, cpu_of, resident
from bench.peers import KEY, ask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from bench.peers import Running

REST = 1.0  # seconds of quiet before memory is read


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured."""

    concurrency: tuple[int, ...] = (1, 32, 256)
    seconds: float = 3
    rounds: int = 5
    streams: int = 50
    events: int = 100
    every_us: int = 20_000


@dataclass(frozen=True, slots=True)
class Calls:
    """Answers in one piece from one peer, at one concurrency; times in microseconds."""

    peer: str
    concurrency: int
    per_second: float
    ceiling: float  # per second by direct access, in the same rounds
    p50: float
    p99: float
    added_p50: float
    added_p99: float
    cpu: float  # of the peer's processes, for each request


@dataclass(frozen=True, slots=True)
class Streams:
    """Streams of events through one peer; times in microseconds."""

    peer: str
    streams: int
    per_second: float  # events
    p50: float  # age of an event when it is seen
    p99: float
    added_p50: float
    added_p99: float
    gap_p50: float
    gap_p99: float
    cpu: float  # for each event


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory of one peer, in MiB."""

    peer: str
    idle: float
    load: float  # the most that was seen
    after: float


@dataclass(frozen=True, slots=True)
class Report:
    """All figures."""

    calls: tuple[Calls, ...]
    streams: tuple[Streams, ...]
    memory: tuple[Memory, ...]


Figure = TypeVar("Figure", Calls, Streams)


def median(rounds: Sequence[Figure]) -> Figure:
    """The same figures of several rounds, each by its median."""
    first = rounds[0]
    numbers = [one.name for one in fields(first) if one.type == "float"]
    values = {one.name: getattr(first, one.name) for one in fields(first)}
    return type(first)(
        **{**values, **{name: statistics.median(getattr(one, name) for one in rounds) for name in numbers}}
    )


def calls_of(one: Running, concurrency: int, seen: Seen, direct: Seen, cpu: float) -> Calls:
    """What one run shows, beside direct access in the same round."""
    return Calls(
        one.name,
        concurrency,
        seen.count / seen.seconds,
        direct.count / direct.seconds,
        seen.p50,
        seen.p99,
        seen.p50 - direct.p50,
        seen.p99 - direct.p99,
        cpu / seen.count * 1e6,
    )


def streams_of(one: Running, streams: int, seen: Seen, direct: Seen, cpu: float) -> Streams:
    """As ``calls_of``."""
    return Streams(
        one.name,
        streams,
        seen.count / seen.seconds,
        seen.p50,
        seen.p99,
        seen.p50 - direct.p50,
        seen.p99 - direct.p99,
        seen.gap_p50,
        seen.gap_p99,
        cpu / seen.count * 1e6,
    )


class Bench:
    """Everybody who is measured, and the most memory that each was seen to hold."""

    def __init__(self, everybody: Sequence[Running], plan: Plan, cores: Cores, say: Callable[[str], None]) -> None:
        self._everybody = everybody
        self._plan = plan
        self._cores = cores
        self._say = say
        self._most = {one.name: 0 for one in everybody}

    def run(self) -> Report:
        """All rounds."""
        self._warm_up()
        idle = self._resident()
        calls: dict[tuple[str, int], list[Calls]] = {}
        streams: dict[str, list[Streams]] = {}
        for number in range(self._plan.rounds):
            self._say(f"round {number + 1} of {self._plan.rounds}")
            for concurrency in self._plan.concurrency:
                for one in self._calls(concurrency, number):
                    calls.setdefault((one.peer, concurrency), []).append(one)
            for stream in self._streams(number):
                streams.setdefault(stream.peer, []).append(stream)
        after = self._resident()
        return Report(
            tuple(median(one) for one in calls.values()),
            tuple(median(one) for one in streams.values()),
            tuple(
                Memory(name, idle[name] / MIB, self._most[name] / MIB, after[name] / MIB)
                for name in idle
                if name != self._everybody[0].name
            ),
        )

    def _warm_up(self) -> None:
        for one in self._everybody:
            ask(Job(one.port, KEY, 1, seconds=min(0.2, self._plan.seconds)), self._cores)

    def _resident(self) -> dict[str, int]:
        time.sleep(min(REST, self._plan.seconds))
        return {one.name: resident(one.pid) for one in self._everybody}

    def _in_turn(self, job: Callable[[Running], Job], number: int) -> Iterable[tuple[Running, Seen, float]]:
        """Direct access first; who comes next changes from round to round."""
        direct, *others = self._everybody
        first = number % max(1, len(others))
        for one in (direct, *others[first:], *others[:first]):
            with Peak(one.pid) as peak:
                before = cpu_of(one.pid)
                seen = ask(job(one), self._cores)
                yield one, seen, cpu_of(one.pid) - before
            self._most[one.name] = max(self._most[one.name], peak.value)

    def _calls(self, concurrency: int, number: int) -> Iterable[Calls]:
        def job(one: Running) -> Job:
            return Job(one.port, KEY, concurrency, self._plan.seconds)

        seen = list(self._in_turn(job, number))
        return [calls_of(one, concurrency, what, seen[0][1], cpu) for one, what, cpu in seen]

    def _streams(self, number: int) -> Iterable[Streams]:
        def job(one: Running) -> Job:
            return Job(one.port, KEY, self._plan.streams, 0, self._plan.events, self._plan.every_us)

        seen = list(self._in_turn(job, number))
        return [streams_of(one, self._plan.streams, what, seen[0][1], cpu) for one, what, cpu in seen]
