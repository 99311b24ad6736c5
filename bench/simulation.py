"""How the strategies fare when keys are limited, dead, flapping or slow: ``python bench/simulation.py``.

No sockets and no waiting: a heap of events and a fake clock around the real router, thousands of exchanges a second.
The upstream keys behave as OpenAI's do: a bucket per minute that refills evenly, figures taken when a request is
admitted and delivered with its answer, 429 with ``retry-after-ms`` when it is empty.
"""

from __future__ import annotations

import heapq
import random
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from relay.choosing.outcomes import Kind, Outcome, read_outcome
from relay.choosing.strategies import STRATEGIES
from relay.config import BaseURL, Config, Deployment, ModelGroup, RouterSettings, Secret
from relay.errors import AllOut
from relay.subjects.endpoints import match_endpoint
from relay.subjects.subject import Subject
from router import Router, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from router import Route

REFUSED = 0.002  # seconds until a dead host refuses
HASTY = 0.05  # seconds until a 429 or a 401 comes
START = 1000.0  # monotonic clocks do not begin at zero


@dataclass
class Key:
    """One upstream key as it really is, which the router can only learn from its answers."""

    name: str
    per_minute: float | None = None  # its limit of requests
    latency: float = 0.5  # mean seconds to the first byte
    down: Callable[[float], bool] = lambda _: False  # no connection, by seconds since the start
    answer: Callable[[float], tuple[int, bytes] | None] = lambda _: None  # status and code instead of a 200
    left: float = 0.0
    at: float = START

    def __post_init__(self) -> None:
        self.left = self.per_minute or 0.0

    def ask(self, now: float, rng: random.Random) -> tuple[float, Outcome]:
        """What comes of a request that arrives at ``now``, and how long it takes."""
        since = now - START
        if self.down(since):
            return REFUSED, Outcome(Kind.CONNECT_FAILED, sent=False)
        instead = self.answer(since)
        if instead is not None:
            return HASTY, read_outcome(instead[0], [], b'{"error": {"code": "%s"}}' % instead[1])
        fields = [] if self.per_minute is None else self._draw(now, self.per_minute)
        if fields and fields[0][0] == b"retry-after-ms":
            return HASTY, read_outcome(429, fields, b'{"error": {"code": "rate_limit_exceeded"}}')
        return self.latency * rng.uniform(0.5, 1.5), read_outcome(200, fields)

    def _draw(self, now: float, per_minute: float) -> list[tuple[bytes, bytes]]:
        """Take one request out of the bucket, and say what is left of it."""
        rate = per_minute / 60
        self.left = min(per_minute, self.left + rate * (now - self.at))
        self.at = now
        refused = self.left < 1
        fields = [(b"retry-after-ms", b"%d" % (1000 * (1 - self.left) / rate + 1))] if refused else []
        self.left -= 0 if refused else 1
        return [
            *fields,
            (b"x-ratelimit-limit-requests", b"%d" % per_minute),
            (b"x-ratelimit-remaining-requests", b"%d" % self.left),
            (b"x-ratelimit-reset-requests", b"%.3fs" % ((per_minute - self.left) / rate)),
        ]


@dataclass
class Report:
    """What clients and upstreams saw."""

    exchanges: int = 0
    failures: Counter[str] = field(default_factory=Counter)  # as clients saw them
    calls: Counter[str] = field(default_factory=Counter)  # per key
    wasted: int = 0  # calls whose answer no client got
    served: dict[str, list[float]] = field(default_factory=dict)  # per key: when it answered, seconds since the start
    first_limit: float | None = None  # when a client first saw a 429

    @property
    def waste(self) -> float:
        """Share of the calls that were wasted."""
        return self.wasted / max(sum(self.calls.values()), 1)

    def share(self, name: str) -> float:
        """Share of the answered exchanges that a key served."""
        return len(self.served.get(name, ())) / max(sum(map(len, self.served.values())), 1)


class Simulation:
    """Clients that arrive at random, a router, and keys."""

    def __init__(self, keys: list[Key], strategy: str, *, seed: int = 1, path: str = "/chat/completions") -> None:
        self.keys = {key.name: key for key in keys}
        self.rng = random.Random(seed)
        base = BaseURL("https", "api.openai.com", 443, "/v1")
        deployments = tuple(
            Deployment(name, "gpt", base, "gpt", Secret(f"sk-{name}"), scope=name, quota_group=name)
            for name in self.keys
        )
        settings = RouterSettings(routing_strategy=strategy)
        config = Config(groups={"gpt": ModelGroup("gpt", deployments)}, router=settings)
        self.router = Router(config, random.Random(seed))
        self.subject = Subject(match_endpoint("POST", path), model="gpt")
        self.report = Report()
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._count = 0

    def run(self, seconds: float, rate: float | Callable[[float], float]) -> Report:
        """Let clients come for so long, ``rate`` a second (or as many as a function of the time says)."""
        current = rate if callable(rate) else lambda _: rate

        def arrive(now: float) -> None:
            later = now + self.rng.expovariate(current(now - START))
            if later < START + seconds:
                self._at(later, arrive)
            self.report.exchanges += 1
            self._attempt(self.router.resolve(self.subject, "client", started=now), now)

        self._at(START, arrive)
        while self._events:
            now, _, event = heapq.heappop(self._events)
            event(now)
        return self.report

    def _at(self, when: float, event: Callable[[float], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, event))

    def _attempt(self, route: Route, now: float) -> None:
        try:
            deployment = self.router.select(route, now)
        except AllOut:
            self._fail("429", now)
            return
        attempt = self.router.begin(route, deployment, now)
        seconds, outcome = self.keys[deployment.id].ask(now, self.rng)
        self.report.calls[deployment.id] += 1

        def done(now: float) -> None:
            self.router.record(attempt, outcome, now)
            verdict = self.router.judge(attempt, now, replayable=True)
            self.router.end(attempt)
            if verdict is Verdict.RETRY:
                self.report.wasted += 1
                self._attempt(route, now)
            elif outcome.kind is Kind.OK:
                self.report.served.setdefault(deployment.id, []).append(now - START)
            else:
                self.report.wasted += 1
                answer = route.answer.outcome if route.answer else None
                self._fail(str(answer.status) if answer else "502", now)

        self._at(now + seconds, done)

    def _fail(self, what: str, now: float) -> None:
        self.report.failures[what] += 1
        if what == "429" and self.report.first_limit is None:
            self.report.first_limit = now - START


# -- scenarios --------------------------------------------------------------------------------------------------------

LOAD = 30.0  # exchanges a second
SECONDS = 300.0


def flaps(since: float) -> bool:
    """Down for ten seconds, up for ten."""
    return int(since / 10) % 2 == 1


def was_dead(since: float) -> bool:
    """Down from the first minute's end to the second's."""
    return 60 <= since < 120


def unequal(load: float = LOAD, use: float = 0.9) -> list[Key]:
    """Limits of 1:3:6 that the load uses to ``use``."""
    unit = load * 60 / use / 10
    return [Key("small", unit), Key("middle", 3 * unit), Key("large", 6 * unit)]


SCENARIOS: dict[str, Callable[[], list[Key]]] = {
    "one limited to a third": lambda: [Key("limited", LOAD * 60 / 9), Key("b"), Key("c")],
    "one dead": lambda: [Key("dead", down=lambda _: True), Key("b"), Key("c")],
    "one account dead": lambda: [Key("broke", answer=lambda _: (429, b"insufficient_quota")), Key("b"), Key("c")],
    "one flapping": lambda: [Key("flapping", down=flaps), Key("b"), Key("c")],
    "one failing by turns": lambda: [
        Key("failing", answer=lambda t: (500, b"x") if flaps(t) else None),
        Key("b"),
        Key("c"),
    ],
    "one ten times slower": lambda: [Key("slow", latency=5.0), Key("b"), Key("c")],
    "limits 1:3:6 at 90 %": unequal,
    "all dead, then back": lambda: [Key("a", down=was_dead), Key("b", down=was_dead), Key("c", down=was_dead)],
}


def capacity(strategy: str, seed: int = 1) -> float:
    """The highest load, as a share of the summed limits, that shows no client a 429 within twenty minutes.

    The buckets begin nearly empty, so that no burst hides what a strategy cannot share out.
    """
    best = 0.0
    for percent in (80, 90, 95, 98, 99, 100):
        if first_limit(strategy, percent / 100, seed) is not None:
            break
        best = percent / 100
    return best


def first_limit(strategy: str, use: float, seed: int = 1, seconds: float = 1200) -> float | None:
    """When a client first sees a 429 at that use of limits of 1:3:6; None for never."""
    keys = unequal(use=use)
    for key in keys:
        key.left /= 10
    return Simulation(keys, strategy, seed=seed).run(seconds, LOAD).first_limit


def main() -> None:
    """Print the table."""
    for title, make in SCENARIOS.items():
        print(f"\n{title}")
        for strategy in STRATEGIES:
            simulation = Simulation(make(), strategy)
            report = simulation.run(SECONDS, LOAD)
            shares = "  ".join(f"{name} {report.share(name):5.1%}" for name in simulation.keys)
            failures = dict(report.failures) or "none"
            print(f"  {strategy:<24}failures {failures!s:<24}wasted {report.waste:6.2%}  {shares}")
    print("\nthe highest load without a 429 for a client, of the summed limits 1:3:6")
    for strategy in STRATEGIES:
        print(f"  {strategy:<24}{capacity(strategy):5.0%}")


if __name__ == "__main__":
    main()
