"""A crowd of clients that hardly do anything, in a process of its own, until its standard input ends.

``python -m bench.crowd JOB``: ``idle`` connections that have had one answer and wait; ``streams`` that have had one
event and wait for the next; ``slow`` ones, which read a stream that never pauses a kibibyte at a time, once a second.
Says ``ready`` on stderr when all are there. They come from 127.0.0.2 and onwards, so that ports do not run short.
"""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass

from bench.messages import Wish, request, small_body

BATCH = 100  # connections that are made at the same time
PER_ADDRESS = 10_000
PATIENCE = 60.0  # seconds for one batch
NEVER = Wish(2, 600_000_000)  # one event now, the next in ten minutes
FLOOD = Wish(10_000_000, 0)
SIP = 1024
IP_BIND_ADDRESS_NO_PORT = 24  # Linux: which port is decided with the connection, not before
SMALL_WINDOW = 8192


@dataclass(frozen=True, slots=True)
class Job:
    """Who is to come."""

    kind: str
    port: int
    key: str
    count: int
    per_address: int = PER_ADDRESS

    def said(self) -> bytes:
        """What each of them asks."""
        if self.kind == "idle":
            return request(small_body(), self.key)
        return request(small_body(FLOOD if self.kind == "slow" else NEVER), self.key)

    def awaited(self) -> bytes:
        """What each of them has seen before it is there."""
        return b"chat.completion" if self.kind == "idle" else b"t="


async def connect(job: Job, number: int) -> socket.socket:
    """One of the crowd, once it has seen what it waits for."""
    loop = asyncio.get_running_loop()
    one = socket.socket()
    one.setblocking(False)
    if job.kind == "slow":
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_WINDOW)
    one.setsockopt(socket.SOL_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    one.bind((f"127.0.0.{2 + number // job.per_address}", 0))
    await loop.sock_connect(one, ("127.0.0.1", job.port))
    await loop.sock_sendall(one, job.said())
    seen = b""
    while job.awaited() not in seen:
        data = await loop.sock_recv(one, SIP)
        seen += data
        if not data or not seen.startswith(b"HTTP/1.1 200 "[: len(seen)]):
            raise RuntimeError(f"instead of an answer: {seen[:300]!r}")
    return one


async def gather(job: Job) -> list[socket.socket]:
    """All of them, a batch at a time."""
    crowd: list[socket.socket] = []
    for first in range(0, job.count, BATCH):
        numbers = range(first, min(first + BATCH, job.count))
        async with asyncio.timeout(PATIENCE):
            crowd += await asyncio.gather(*(connect(job, number) for number in numbers))
    return crowd


def sip(crowd: list[socket.socket]) -> None:
    """Each one reads a little."""
    for one in crowd:
        with suppress(BlockingIOError):
            if not one.recv(SIP):
                raise RuntimeError("a slow stream has ended")


async def main() -> None:
    """Gather, say so, and stay."""
    job = Job(**json.loads(sys.argv[1]))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    over = asyncio.Event()
    began = time.monotonic()
    crowd = await gather(job)
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), over.set)
    print(f"ready after {time.monotonic() - began:.2f} s", file=sys.stderr, flush=True)
    while not over.is_set():
        if job.kind == "slow":
            sip(crowd)
        with suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), 1)


if __name__ == "__main__":
    asyncio.run(main())
