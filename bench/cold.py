"""Where a proxy is seldom measured: starts, crowds that hardly do anything, many deployments, a body of 20 MB, TLS.

``python -m bench.cold [--only starts,connections,streams,slow,deployments,body,tls] [--quick] [--markdown]``. Each part
has an upstream and a proxy of its own; ``tls`` needs trustme. Crowds are made smaller where the hard limit of
descriptors demands it, and say so.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import statistics
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench import crowd
from bench.documents import insert
from bench.inspection import CHAT, images, json_peek, seconds
from bench.load import Job
from bench.measure import MIB, cpu_of, machine, resident, share_cores, today
from bench.peers import KEY, ROOT, Process, ask, configuration, passthrough, upstream
from bench.starts import FAST_LOADER, Starts, by_package, imported_by, in_words
from bench.table import number, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench.load import Seen
    from bench.peers import Running

KIB = 1 << 10
SPARE = 1000  # descriptors and connections beyond those of a crowd
EVERY_US = 20_000
EVENTS_A_SECOND = 1_000_000 // EVERY_US
WARM = 0.3  # seconds of load before anything is measured
SETTLING = 60.0  # seconds at most
LOOK = 0.25  # seconds
QUIET = 10.0  # percent of a core
LIMITS = "limits: {connections: %d}\n"
CORES = share_cores(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of each."""

    starts: int = 7
    connections: int = 10_000
    streams: int = 5_000
    slow: int = 200
    deployments: int = 100
    secured: int = 500
    rounds: int = 5
    seconds: float = 2


QUICK = Sizes(starts=3, connections=1000, streams=500, slow=50, secured=50, rounds=1, seconds=1)


@dataclass(frozen=True, slots=True)
class Line:
    """One figure."""

    what: str
    value: float
    unit: str
    note: str = ""


@contextmanager
def pair(sizes: Sizes, more: str = "", deployments: int = 2, *, tls: bool = False) -> Iterator[tuple[Running, Running]]:
    """An upstream, over TLS or not, and a proxy before it that has had some load."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scheme, options = "http", []
        if tls:
            scheme, options = "https", [str(certificate(folder))]
            more += f"litellm_settings: {{ssl_verify: {json.dumps(options[0])}}}\n"
        with (
            upstream(folder / "mock", CORES, options) as mock,
            passthrough(folder / "proxy", configuration(mock.port, deployments, more, scheme), CORES) as proxy,
        ):
            ask(Job(proxy.port, KEY, 1, min(WARM, sizes.seconds)), CORES)
            yield mock, proxy


def certificate(folder: Path) -> Path:
    """A certificate of 127.0.0.1's own, with its key and whom to trust for it."""
    import trustme

    authority, path = trustme.CA(), folder / "upstream.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(path)
    authority.cert_pem.write_to_path(path, append=True)
    return path


@contextmanager
def crowded(proxy: Running, kind: str, count: int) -> Iterator[float]:
    """So many clients; gives how long it took until all were there."""
    job = crowd.Job(kind, proxy.port, KEY, count)
    command = [sys.executable, "-m", "bench.crowd", json.dumps(asdict(job))]
    with tempfile.TemporaryDirectory() as name, Process(command, Path(name), CORES.load, ROOT) as process:
        yield float(process.says(r"ready after ([\d.]+) s"))


def room_for(wanted: int, each: int) -> int:
    """As many as the hard limit of descriptors lets one process hold."""
    return min(wanted, (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - SPARE) // each)


def stream(proxy: Running, sizes: Sizes) -> Seen:
    """One stream, an event every 20 ms."""
    return ask(Job(proxy.port, KEY, 1, 0, max(2, int(sizes.seconds * EVENTS_A_SECOND)), EVERY_US), CORES)


def starts(sizes: Sizes) -> Iterator[Line]:
    """What a start takes, and what of it imports take."""
    with tempfile.TemporaryDirectory() as name, upstream(Path(name) / "mock") as mock:
        runs = Starts(Path(name) / "proxy", mock.port)
        yield Line("first start, to the first answer", runs.once()[0].answered * 1e3, "ms", "every module is compiled")
        later = runs.median(sizes.starts)
        yield Line("later starts, until ready", later.ready * 1e3, "ms")
        yield Line("later starts, to the first answer", later.answered * 1e3, "ms")
        yield Line("`import passthrough`", runs.import_seconds(sizes.starts) * 1e3, "ms", "beyond an empty interpreter")
        imports = runs.imports()
    yield Line("imports until the first answer", len(imports), "modules", in_words(by_package(imports)[:4]))
    for name, micro in sorted(imports.items(), key=lambda one: -one[1])[:2]:
        yield Line(f"of it `{name}`", micro / 1e3, "ms", "the dearest by themselves")
    tls = sum(imports.get(name, 0) for name in ("ssl", "_ssl")) / 1e3
    whose = "asyncio's own import" if "ssl" in imported_by("import asyncio") else "ours"
    yield Line("of it `ssl`", tls, "ms", whose if tls else "not imported")
    fast = FAST_LOADER in imports
    note = "PyYAML's C loader is used" if fast else "PyYAML's C loader is not there"
    yield Line("of it `yaml._yaml`", imports.get(FAST_LOADER, 0) / 1e3, "ms", note)


def connections(sizes: Sizes) -> Iterator[Line]:
    """Idle connections, each after one exchange."""
    count = room_for(sizes.connections, 1)
    with pair(sizes, LIMITS % (count + SPARE)) as (_, proxy):
        before, alone = resident(proxy.pid), ask(Job(proxy.port, KEY, 1, sizes.seconds), CORES)
        with crowded(proxy, "idle", count) as took:
            held = (resident(proxy.pid) - before) / count / KIB
            note = f"there after {took:.1f} s; `limits.connections: {count + SPARE}`, by default 10000"
            yield Line(f"{count:,} idle connections, each", held, "KiB", note)
            yield Line("CPU meanwhile", idle_share(proxy, sizes.seconds), "%", "of one core")
            yield from beside("request", alone, ask(Job(proxy.port, KEY, 1, sizes.seconds), CORES))


def idle_share(proxy: Running, period: float) -> float:
    """How much of a core somebody takes who has nothing to do, in percent."""
    before, began = cpu_of(proxy.pid), time.monotonic()
    time.sleep(period)
    return (cpu_of(proxy.pid) - before) / (time.monotonic() - began) * 100


def beside(what: str, alone: Seen, meanwhile: Seen) -> Iterator[Line]:
    """The latency of somebody else while a crowd is there."""
    yield Line(f"a {what} meanwhile, p50", meanwhile.p50 / 1e3, "ms", f"{number(alone.p50 / 1e3)} without them")
    yield Line(f"a {what} meanwhile, p99", meanwhile.p99 / 1e3, "ms", f"{number(alone.p99 / 1e3)} without them")


def streams(sizes: Sizes) -> Iterator[Line]:
    """Streams that are silent after their first event."""
    count = room_for(sizes.streams, 2)
    with pair(sizes, LIMITS % (count + SPARE)) as (_, proxy):
        before, alone = resident(proxy.pid), stream(proxy, sizes)
        with crowded(proxy, "streams", count) as took:
            held = (resident(proxy.pid) - before) / count / KIB
            yield Line(f"{count:,} silent streams, each", held, "KiB", f"both sides; there after {took:.1f} s")
            yield Line("CPU meanwhile", idle_share(proxy, sizes.seconds), "%", "of one core")
            yield from beside("further stream's event", alone, stream(proxy, sizes))


def slow(sizes: Sizes) -> Iterator[Line]:
    """Streams that never pause, to readers of 1 KiB a second."""
    with pair(sizes) as (_, proxy):
        before, alone = resident(proxy.pid), stream(proxy, sizes)
        with crowded(proxy, "slow", sizes.slow):
            settle(proxy)
            at_first = resident(proxy.pid)
            meanwhile = stream(proxy, sizes)
            grown = (resident(proxy.pid) - at_first) / MIB
        note = f"{number((at_first - before) / KIB / sizes.slow)} KiB each"
        yield Line(f"{sizes.slow} streams to slow readers", (at_first - before) / MIB, "MiB", note)
        yield Line(f"growth in the next {sizes.seconds:g} s", grown, "MiB", "nothing may pile up")
        yield from beside("fast stream's event", alone, meanwhile)


def settle(proxy: Running) -> None:
    """Wait until whoever sends is held: the kernel takes some megabytes for each reader before that."""
    until = time.monotonic() + SETTLING
    while idle_share(proxy, LOOK) > QUIET and time.monotonic() < until:
        pass


def deployments(sizes: Sizes) -> Iterator[Line]:
    """What an exchange costs where a group has many deployments."""
    with pair(sizes) as (_, few), pair(sizes, deployments=sizes.deployments) as (_, many):
        few_cost, many_cost = costs(sizes, few, many)
    note = f"{number(few_cost)} with 2; {number(many_cost / few_cost)} times as much"
    yield Line(f"a request, {sizes.deployments} deployments in its group", many_cost, "us CPU", note)


def costs(sizes: Sizes, *proxies: Running) -> list[float]:
    """What a request takes of each one's CPU, asked in turns: microseconds."""
    seen: dict[int, list[float]] = {proxy.pid: [] for proxy in proxies}
    for _ in range(sizes.rounds):
        for proxy in proxies:
            before = cpu_of(proxy.pid)
            count = ask(Job(proxy.port, KEY, 32, sizes.seconds), CORES).count
            seen[proxy.pid].append((cpu_of(proxy.pid) - before) / count * 1e6)
    return [statistics.median(one) for one in seen.values()]


def tls(sizes: Sizes) -> Iterator[Line]:
    """An upstream over TLS: what it adds to a request, and what its silent streams hold."""
    with pair(sizes) as (_, plain), pair(sizes, tls=True) as (_, secured):
        before = resident(secured.pid)
        with crowded(secured, "streams", sizes.secured) as took:
            held = (resident(secured.pid) - before) / sizes.secured / KIB
            note = f"both sides; there after {took:.1f} s, with a handshake for each"
            yield Line(f"{sizes.secured} silent streams of an upstream over TLS, each", held, "KiB", note)
        plain_cost, cost = costs(sizes, plain, secured)
        yield Line("a request, its upstream over TLS", cost, "us CPU", f"{number(plain_cost)} without TLS")


def body(sizes: Sizes) -> Iterator[Line]:
    """A request of 20 MB whose last member is the model."""
    content = images()
    size = len(content) / 1e6
    rate = size / seconds(content, json_peek(CHAT), 1)
    yield Line("scan of 20 MB of JSON, the model at its end", rate, "MB/s", "alone, in pieces of 64 KiB")
    with pair(sizes) as (mock, proxy):
        direct = ask(Job(mock.port, KEY, 1, sizes.seconds, large=True), CORES)
        before = cpu_of(proxy.pid)
        seen = ask(Job(proxy.port, KEY, 1, sizes.seconds, large=True), CORES)
        cost = (cpu_of(proxy.pid) - before) / seen.count * 1e3
    note = f"{number(size * direct.count / direct.seconds)} by direct access; {number(cost)} ms CPU each"
    yield Line("the same through the whole proxy", size * seen.count / seen.seconds, "MB/s", note)


PARTS: dict[str, Callable[[Sizes], Iterator[Line]]] = {
    one.__name__: one for one in (starts, connections, streams, slow, deployments, body, tls)
}


def lines_table(lines: Sequence[Line]) -> str:
    """The figures as Markdown."""
    rows = ([one.what, f"{number(one.value)} {one.unit}".strip(), one.note] for one in lines)
    return table(["", "", ""], rows, words=(0, 2))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    ask_for = argparse.ArgumentParser(
        "python -m bench.cold", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ask_for.add_argument("--only", default=",".join(PARTS), help="some of %(default)s")
    ask_for.add_argument("--quick", action="store_true", help="a tenth of everything")
    ask_for.add_argument("--markdown", action="store_true", help="print the table and nothing else")
    ask_for.add_argument("--into", type=Path, help="put the table into this document")
    ask_for.add_argument("--out", type=Path, help="folder for cold.json")
    ask_for.add_argument("--machine", default=machine(), help="the machine in words")
    return ask_for


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that whoever was started is ended
    options = parser().parse_args(arguments)
    lines = []
    for name in options.only.split(","):
        for line in PARTS[name](QUICK if options.quick else Sizes()):
            lines.append(line)
            if not options.markdown:
                print(f"{line.what:45} {number(line.value):>8} {line.unit:7} {line.note}", flush=True)
    text = f"{today()}, {options.machine}; {CORES}.\n\n{lines_table(lines)}"
    if options.markdown:
        print(text)
    if options.into:
        insert(options.into, "cold", text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "cold.json").write_text(json.dumps([asdict(line) for line in lines], indent=1) + "\n")


if __name__ == "__main__":
    main()
