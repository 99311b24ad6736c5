"""What the proxy costs beside direct access and beside other proxies that are installed: ``python -m bench``.

Starts its own upstream, load and proxies, prints tables, and with --out writes figures.json and figures.svg. Peers that
are not installed are left out; uvloop is measured when it is named in --only. The cold paths have a command of their
own: ``python -m bench.cold``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from bench.documents import insert
from bench.figures import Bench, Plan
from bench.measure import machine, share_cores, today
from bench.peers import PEERS, everybody, installed
from bench.table import markdown, picture

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.figures import Report
    from bench.measure import Cores

QUICK = Plan(seconds=1, rounds=1, events=50)
LEFT_OUT = {"uvloop"}  # of those that are measured unasked


def parser() -> argparse.ArgumentParser:
    """The command line."""
    plan = Plan()
    ask = argparse.ArgumentParser(
        "python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ask.add_argument("--seconds", type=float, help=f"of each run ({plan.seconds:g})")
    ask.add_argument("--rounds", type=int, help=f"how often everybody's turn comes ({plan.rounds})")
    ask.add_argument("--concurrency", default=",".join(map(str, plan.concurrency)), help="requests at once")
    ask.add_argument("--streams", type=int, default=plan.streams, help="at once")
    ask.add_argument("--events", type=int, help=f"of each stream, one every 20 ms ({plan.events})")
    ask.add_argument("--only", default="", help=f"some of {','.join(PEERS)}; direct access is always there")
    ask.add_argument("--quick", action="store_true", help="one short round")
    ask.add_argument("--out", type=Path, help="folder for figures.json and figures.svg")
    ask.add_argument("--markdown", action="store_true", help="print the tables and nothing else")
    ask.add_argument("--into", type=Path, help="put the tables into this document, and the picture beside it")
    ask.add_argument("--machine", default=machine(), help="the machine in words")
    return ask


def plan_of(options: argparse.Namespace) -> Plan:
    """What the command line asks for."""
    steps = tuple(int(one) for one in options.concurrency.split(","))
    usual = QUICK if options.quick else Plan()
    return Plan(
        steps,
        options.seconds or usual.seconds,
        options.rounds or usual.rounds,
        options.streams,
        options.events or usual.events,
    )


def named(only: str) -> list[str]:
    """Who is measured beside direct access."""
    there = installed()
    if not only:
        return [name for name in there if name not in LEFT_OUT]
    wanted = [name for name in only.split(",") if name != "direct"]
    if missing := [name for name in wanted if name not in there]:
        raise SystemExit(f"not here: {', '.join(missing)}; there are {', '.join(there)}")
    return wanted


def preface(plan: Plan, cores: Cores, where: str) -> str:
    """When, where and how, in words."""
    runs = f"Rounds: {plan.rounds}, medians shown; {plan.seconds:g} s a run, or {plan.events} events, one every 20 ms"
    return f"{today()}, {where}.\n{runs}; {cores}.\n"


def write(folder: Path, report: Report, note: str, words: str) -> None:
    """Both files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "figures.json").write_text(json.dumps({"how": words, **asdict(report)}, indent=1) + "\n")
    (folder / "figures.svg").write_text(picture(report, note))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that whoever was started is ended
    options = parser().parse_args(arguments)
    plan, cores = plan_of(options), share_cores(os.sched_getaffinity(0))
    names = named(options.only)
    print(f"{', '.join(['direct', *names])}; {cores}", file=sys.stderr)
    with everybody(names, cores) as who:
        report = Bench(who, plan, cores, lambda word: print(word, file=sys.stderr)).run()
    words, note = preface(plan, cores, options.machine), f"{today()}, {options.machine}"
    if options.out:
        write(options.out, report, note, words)
    if options.into:
        insert(options.into, "figures", markdown(report, words))
        options.into.with_suffix(".svg").write_text(picture(report, note))
    if not options.markdown:
        print("What a proxy costs\n")
    print(markdown(report, words))


if __name__ == "__main__":
    main()
