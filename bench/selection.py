"""What a choice costs: ``python bench/selection.py``.

For each strategy, with 2 and with 100 deployments in the group, the CPU microseconds of ``select`` alone and of an
exchange's whole dealing with the router (resolve, select, begin, record, judge, end), the best of several rounds. One
answer in ten carries rate-limit figures; a tenth of the requests carry a cache key.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from relay.choosing.outcomes import read_outcome
from relay.choosing.strategies import STRATEGIES
from relay.config import BaseURL, Config, Deployment, ModelGroup, RouterSettings, Secret
from relay.subjects.endpoints import match_endpoint
from relay.subjects.subject import Subject
from router import Router

ROUNDS, EXCHANGES = 7, 2000
PLAIN = read_outcome(200, [])
FIGURES = read_outcome(
    200,
    [
        (b"x-ratelimit-limit-requests", b"1000"),
        (b"x-ratelimit-remaining-requests", b"990"),
        (b"x-ratelimit-reset-requests", b"600ms"),
    ],
)


def deployments(count: int) -> tuple[Deployment, ...]:
    """As many keys of one upstream."""
    base = BaseURL("https", "api.openai.com", 443, "/v1")
    return tuple(
        Deployment(f"d{n}", "gpt-4", base, "gpt-4", Secret(f"sk-{n}"), scope=f"s{n}", quota_group=f"s{n}", weight=n + 1)
        for n in range(count)
    )


def measure(strategy: str, count: int) -> tuple[float, float]:
    """Microseconds of ``select``, and of everything."""
    settings = RouterSettings(routing_strategy=strategy)
    router = Router(
        Config(groups={"gpt-4": ModelGroup("gpt-4", deployments(count))}, router=settings), random.Random(1)
    )
    endpoint = match_endpoint("POST", "/chat/completions")
    subjects = [Subject(endpoint, model="gpt-4", cache_key="k" if n == 0 else None) for n in range(10)]
    now, best_select, best_all = 1000.0, float("inf"), float("inf")
    for _ in range(ROUNDS):
        started, selecting = time.process_time(), 0.0
        for n in range(EXCHANGES):
            now += 0.001
            route = router.resolve(subjects[n % 10], "client", started=now)
            deployment = router.select(route, now)
            attempt = router.begin(route, deployment, now)
            router.record(attempt, PLAIN if n % 10 else FIGURES, now)
            router.judge(attempt, now, replayable=True)
            router.end(attempt)
        best_all = min(best_all, (time.process_time() - started) / EXCHANGES)
        routes = [router.resolve(subjects[n % 10], "client", started=now) for n in range(EXCHANGES)]
        started = time.process_time()
        for route in routes:
            router.select(route, now)
        selecting = (time.process_time() - started) / EXCHANGES
        best_select = min(best_select, selecting)
    return best_select * 1e6, best_all * 1e6


def main() -> None:
    """Print the table."""
    print(f"{'strategy':<24}{'deployments':>12}{'select us':>12}{'all us':>10}")
    for strategy in STRATEGIES:
        for count in (2, 100):
            select, everything = measure(strategy, count)
            print(f"{strategy:<24}{count:>12}{select:>12.2f}{everything:>10.2f}")


if __name__ == "__main__":
    main()
