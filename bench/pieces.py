"""What each piece of looking and recording costs where it stands: microseconds within whole exchanges over paper.

    python bench/pieces.py

In a loop of its own a piece costs a third of that: between two of its calls stands all that serves an exchange, which
leaves little of it in the processor's caches. The clock's own share is taken off; the quicker quarter's end is shown,
since other work on the machine can only make a call slower.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import defaultdict
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.exchange import Bench
from relay.answers import recording
from relay.config import LoggingSettings
from relay.reach import upstream
from relay.record.lines import ExchangeRecord
from relay.record.log import setup_logging
from relay.record.tap import ResponseTap
from relay.scopes.learning import Learner
from relay.subjects.inspection import JSONPeek

if TYPE_CHECKING:
    from collections.abc import Callable

COUNT, ROUNDS = 300, 8
PIECES: list[tuple[Any, str]] = [
    (JSONPeek, "__init__"),
    (JSONPeek, "feed"),
    (JSONPeek, "splices"),
    (Learner, "__init__"),
    (ResponseTap, "feed"),
    (Learner, "finish"),
    (ExchangeRecord, "__init__"),
    (recording, "observe"),
    (recording, "emit"),
]
spent: dict[str, list[int]] = defaultdict(list)


def timed(name: str, piece: Callable[..., Any]) -> Callable[..., Any]:
    """The piece, with a clock around it."""

    def run(*arguments: Any, **named: Any) -> Any:
        began = perf_counter_ns()
        result = piece(*arguments, **named)
        spent[name].append(perf_counter_ns() - began)
        return result

    return run


def report(title: str) -> None:
    """Print what was spent, and forget it."""
    print(title)
    for name, each in spent.items():
        print(f"{(sorted(each)[len(each) // 4] - CLOCK) / 1000:8.2f} us  {name}")
    spent.clear()


def clock() -> int:
    """What taking the time costs, in nanoseconds."""
    nothing = timed("", lambda: None)
    for _ in range(1000):
        nothing()
    return min(spent.pop(""))


CLOCK = clock()


async def main() -> None:
    """Measure, and print."""
    with open("/dev/null", "w") as nowhere:  # noqa: ASYNC230, PTH123 - before anything is measured
        logs = setup_logging(LoggingSettings(json_logs=True), stream=nowhere)
        logging.getLogger("passthrough").setLevel(logging.INFO)
        bench = Bench()
        setattr(upstream, "dial", bench.dial)  # noqa: B010 - a door that is not meant for this
        await bench.exchanges(COUNT)
        for owner, name in PIECES:
            piece = getattr(owner, name)
            setattr(owner, name, timed(piece.__qualname__, piece))
        for _ in range(ROUNDS):
            await bench.exchanges(COUNT)
        report("a small exchange")
        for _ in range(ROUNDS):
            await bench.events(COUNT)
        spent["ResponseTap.feed, an event"] = spent.pop("ResponseTap.feed")
        report("a stream (what comes once is a rare guest in the caches here)")
        logs.stop()


if __name__ == "__main__":
    asyncio.run(main())
