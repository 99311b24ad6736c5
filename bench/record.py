"""What the record costs: CPU of whole exchanges over loopback, with record, metrics, usage and cost on and off in turn.

    python bench/record.py             # prints the share, and exits 1 where it is above 15 % of an exchange's CPU
    python bench/record.py --profile   # where the time of the record goes
    python bench/record.py --spans     # with OpenTelemetry's spans on top, which have no bound: they are its own cost

The proxy runs in this process, clients and upstream in another, so that all CPU of this process is the proxy's: the
kernel's part of it and the log thread's too. Rounds with and without the record take turns, and the quicker half of
each counts, since other work on the machine can only make a round slower.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import multiprocessing
import pstats
import sys
import tempfile
import time
from contextlib import contextmanager, nullcontext
from decimal import Decimal
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.exchange import ANSWER, CHUNK, KEY, RESPONSE, STREAM, request
from passthrough import Worker
from relay.answers.recording import Recorder
from relay.config import (
    AffinitySettings,
    BaseURL,
    Client,
    Config,
    Deployment,
    Listener,
    LoggingSettings,
    ModelGroup,
    Secret,
)
from relay.process.listening import bind
from relay.process.serving import listen
from relay.record.log import setup_logging
from relay.record.tap import ResponseTap
from relay.scopes import learning

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

MOST = 0.15
CONNECTIONS = 16
EVENTS = 50
USAGE = (
    b'data: {"id":"chatcmpl-B9","choices":[],"usage":{"prompt_tokens":19,"completion_tokens":50}}\n\ndata: [DONE]\n\n'
)
LAST = b"%x\r\n%s\r\n0\r\n\r\n" % (len(USAGE), USAGE)
PRICES = (("input_cost_per_token", Decimal("2.5e-06")), ("output_cost_per_token", Decimal("1e-05")))


# The other process: clients, and an upstream.


class Upstream(asyncio.Protocol):
    """Answers each request, a stream event by event."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if b'"stream": true' not in data:
            self.transport.write(RESPONSE)
            return
        self.transport.write(STREAM)
        self.events = 0
        self._speak()

    def _speak(self) -> None:
        """One event at a time, so that they do not melt into one."""
        if self.transport.is_closing():
            return
        self.events += 1
        self.transport.write(CHUNK if self.events < EVENTS else LAST)
        if self.events < EVENTS:
            asyncio.get_running_loop().call_later(0.0003, self._speak)


class Asker(asyncio.Protocol):
    """Asks again as soon as it has its answer, until ``left`` is used up by all."""

    def __init__(self, said: bytes, end: bytes, left: list[int], done: asyncio.Event) -> None:
        self.said, self.end, self.left, self.done = said, end, left, done
        self.heard = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._ask()

    def _ask(self) -> None:
        if self.left[0] <= 0:
            self.transport.close()
            return
        self.left[0] -= 1
        self.heard = b""
        self.transport.write(self.said)

    def data_received(self, data: bytes) -> None:
        self.heard = self.heard[-64:] + data
        if self.heard.endswith(self.end):
            self.left[1] -= 1
            if not self.left[1]:
                self.done.set()
            self._ask()


async def load(pipe: Connection) -> None:
    """Tell the upstream's port, then ask as often as one is told to."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Upstream, "127.0.0.1", 0)
    pipe.send(server.sockets[0].getsockname()[1])
    while True:
        port, count, stream = await asyncio.to_thread(pipe.recv)
        if not port:
            return
        left, done = [count, count], asyncio.Event()
        ask = partial(Asker, request(stream=stream), b"0\r\n\r\n" if stream else ANSWER, left, done)
        for _ in range(CONNECTIONS):
            await loop.create_connection(ask, "127.0.0.1", port)
        await done.wait()
        pipe.send(count)


# This process: the proxy.


def config_over(port: int, *, spans: bool) -> Config:
    """Two deployments with prices, all logging on."""
    members = [
        Deployment(
            f"d{number}",
            "gpt-4o",
            BaseURL("http", "127.0.0.1", port, "/v1"),
            "gpt-4o",
            Secret(f"sk-upstream-{number}"),
            f"s{number}",
            f"s{number}",
            prices=PRICES,
        )
        for number in (1, 2)
    ]
    return Config(
        groups={"gpt-4o": ModelGroup("gpt-4o", tuple(members))},
        clients=(Client("master", Secret(KEY).digest),),
        affinity=AffinitySettings(path=None),
        listener=Listener(port=0),
        logging=LoggingSettings(otel=spans),
    )


def nothing(*_: Any) -> None:
    """What is left of a part that is off."""


def unmetered_tap(media: bytes, coding: bytes, pointers: Any, _: bool, *, images: bool) -> ResponseTap:
    """A tap that looks for ids alone."""
    return ResponseTap(media, coding, pointers, metered=False, images=images)


PARTS = [  # of the code that make up the record, and what stands in for them where it is off
    (learning, "ResponseTap", unmetered_tap),
    (Recorder, "settle", nothing),
    (Recorder, "used", staticmethod(nothing)),
    (Recorder, "answered", staticmethod(nothing)),
]


@contextmanager
def without_record() -> Iterator[None]:
    """Switch off what is made of an exchange: record, metrics, usage, cost."""
    before = [owner.__dict__[name] for owner, name, _ in PARTS]
    for owner, name, instead in PARTS:
        setattr(owner, name, instead)
    try:
        yield
    finally:
        for (owner, name, _), part in zip(PARTS, before, strict=True):
            setattr(owner, name, part)


async def spent(pipe: Connection, port: int, count: int, *, stream: bool) -> float:
    """CPU seconds of this process for ``count`` exchanges, the log thread's among them."""
    began = time.process_time()
    pipe.send((port, count, stream))
    while not pipe.poll():
        await asyncio.sleep(0.02)
    pipe.recv()
    await asyncio.sleep(0.05)  # what is still in the queue is written
    return time.process_time() - began


async def compare(pipe: Connection, port: int, arguments: argparse.Namespace, *, stream: bool) -> float:
    """Measure one kind of exchange; the record's share."""
    count = arguments.count // (5 if stream else 1)
    rounds: dict[bool, list[float]] = {True: [], False: []}
    await spent(pipe, port, count, stream=stream)
    for number in range(2 * arguments.rounds):
        on = number % 4 in (0, 3)  # on off off on, so that whatever drifts touches both alike
        with nullcontext() if on else without_record():
            rounds[on].append(await spent(pipe, port, count, stream=stream))
    with_it, without = (1e6 * fmean(sorted(rounds[on])[: arguments.rounds // 2]) / count for on in (True, False))
    share: float = 1 - without / with_it
    what = f"stream of {EVENTS} events" if stream else "small exchange"
    print(f"{what}: {with_it:.1f} us CPU with the record, {without:.1f} without: {share:.1%} of it")
    return share


async def measure(pipe: Connection, arguments: argparse.Namespace) -> int:
    """Run the proxy, and compare."""
    with tempfile.TemporaryFile("w") as records:
        logs = setup_logging(LoggingSettings(json_logs=True), stream=records)
        config = config_over(pipe.recv(), spans=arguments.spans)
        worker = Worker(config, {})
        (sock,) = bind(config.listener)
        acceptor = await listen(worker, sock, None)
        port = sock.getsockname()[1]
        if arguments.profile:
            with cProfile.Profile() as profile:
                await spent(pipe, port, arguments.count, stream=False)
            pstats.Stats(profile).sort_stats("cumtime").print_stats("recording|metrics|log|usage|tap|finders|inflate")
            shares = []
        else:
            shares = [await compare(pipe, port, arguments, stream=stream) for stream in (False, True)]
        pipe.send((0, 0, False))
        acceptor.close()
        await worker.drain()
        logs.stop()
    return int(max(shares, default=0) > MOST and not arguments.spans)


def main() -> int:
    """Start the other process, and measure."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--profile", action="store_true")
    ask.add_argument("--spans", action="store_true")
    ask.add_argument("--rounds", type=int, default=30)
    ask.add_argument("--count", type=int, default=500)
    arguments = ask.parse_args()
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe()
    other = fork.Process(target=lambda: asyncio.run(load(there)), daemon=True)
    other.start()
    try:
        return asyncio.run(measure(here, arguments))
    finally:
        other.join(2)


if __name__ == "__main__":
    raise SystemExit(main())
