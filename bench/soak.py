"""Minutes of mixed load and faults before one process: memory and descriptors stay flat, every answer is right.

``python bench/soak.py [--minutes 10] [--clients 24]``. Clients and two upstreams share this process; the proxy is a
process of its own over loopback. Each exchange carries a number that its answer must bring back. Upstreams answer, or
stream, limit, fail, cut, reset and stall by chance, and one of them dies for two seconds every half minute; clients
leave, stall, upload in part, send garbage and wrong keys. Figures every ten seconds, a verdict at the end: exit 0 or 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import re
import socket
import struct
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.harness import KEY, get, post, read_answer
from tests.measured import MIB, Measured
from tests.processes import Process, running
from tests.scripted import dechunk, read_message

CONFIG = """
model_list:
  - model_name: gpt-4
    litellm_params: {{model: openai/gpt-4, api_key: sk-up-a, api_base: "http://127.0.0.1:{a}/v1"}}
    model_info: {{id: a, scope: one}}
  - model_name: gpt-4
    litellm_params: {{model: openai/gpt-4, api_key: sk-up-b, api_base: "http://127.0.0.1:{b}/v1"}}
    model_info: {{id: b, scope: one, quota_group: b}}
router_settings: {{cooldown_time: 1}}
general_settings: {{master_key: {key}}}
affinity: {{path: ids.db, cache_entries: 1000}}
limits: {{inspection_bytes: 65536}}
timeouts: {{head: 3, body: 3, response_head: 3, stream_idle: 3, keep_alive: 5, upstream_keep_alive: 5}}
"""
PATIENCE = 30.0
REPORT = 10.0  # seconds between two lines of figures
RESET = struct.pack("ii", 1, 0)  # of SO_LINGER
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
NUMBER = re.compile(rb'"number":([0-9]+)')
COMPLAINT = re.compile(r"Traceback|socket\.send|never retrieved|Exception in")  # of Python or asyncio
MOST_GROWTH = 6 * MIB  # between the first and the last third of the time after warming up
# What an upstream does, and what a client does, by weight.
DEEDS = {"answer": 60, "stream": 20, "limit": 3, "fail": 3, "cut": 3, "reset": 3, "stall": 1}
ACTS = {"ask": 50, "upload": 10, "leave": 12, "abandon": 6, "garbage": 4, "stranger": 4, "dawdle": 1, "stop": 2}


def answered(number: bytes) -> bytes:
    """A whole answer that brings the number back, and shows an id of a kind that is stored."""
    content = b'{"id":"file-%s","number":%s,"usage":{"total_tokens":3}}' % (number, number)
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
        len(content),
        content,
    )


def error(status: int, line: bytes = b"") -> bytes:
    """An error as the service writes it."""
    content = b'{"error":{"message":"no","type":"x","param":null,"code":null}}'
    start = b"HTTP/1.1 %d No\r\nContent-Type: application/json\r\n%s" % (status, line)
    return start + b"Content-Length: %d\r\n\r\n%s" % (len(content), content)


class Upstream:
    """Serves one port, and dies now and then."""

    def __init__(self) -> None:
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Listen, always on the same port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def kill(self) -> None:
        """End as a process does that was killed."""
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            while await self._answer(await read_message(reader), reader, writer):
                pass
        self._writers.discard(writer)
        writer.close()

    async def _answer(self, request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One answer; whether the connection lives on."""
        found = NUMBER.search(request)
        number = found[1] if found else b"0"
        (deed,) = random.choices(list(DEEDS), list(DEEDS.values()))
        if deed == "answer":
            writer.write(answered(number))
        elif deed == "limit":
            writer.write(error(429, b"retry-after-ms: 50\r\n"))
        elif deed == "fail":
            writer.write(error(500))
        elif deed == "stall":
            await asyncio.wait_for(reader.read(), 10)
        elif deed == "reset":
            reset(writer)
        else:
            await stream(writer, number, cut=deed == "cut")
        await writer.drain()
        return deed not in {"stall", "reset", "cut"}


async def stream(writer: asyncio.StreamWriter, number: bytes, *, cut: bool) -> None:
    """Ten events; where it is ``cut``, fewer, and an end in the midst of one."""
    writer.write(EVENTS)
    for _ in range(random.randrange(10) if cut else 10):
        event = b'data: {"number":%s}\n\n' % number
        writer.write(b"%x\r\n%s\r\n" % (len(event), event))
        await asyncio.sleep(random.random() / 50)
    writer.write(b"ff\r\ndata: " if cut else b"0\r\n\r\n")


def reset(writer: asyncio.StreamWriter) -> None:
    """A real reset."""
    with suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()


class Load:
    """The clients, and what they saw."""

    def __init__(self, proxy: Measured) -> None:
        self.proxy = proxy
        self.seen: Counter[str] = Counter()
        self.wrong: list[bytes] = []
        self.over = False
        self._number = 0

    async def client(self) -> None:
        """One client's life: a connection, a few exchanges on it, another one."""
        while not self.over:
            reader, writer = await self.proxy.connect()
            with suppress(ConnectionError):
                for _ in range(random.randrange(1, 8)):
                    (act,) = random.choices(list(ACTS), list(ACTS.values()))
                    if not await self._act(act, reader, writer):
                        break
            writer.transport.abort()

    async def _act(self, act: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One deed of a client; whether the connection lives on."""
        self._number += 1
        number = b"%d" % self._number
        path = "files" if act == "upload" else "chat/completions"
        padding = b"x" * random.randrange(300_000) if act in {"upload", "abandon"} else b""
        request = post(path, b'{"model":"gpt-4","number":%s,"x":"%s"}' % (number, padding))
        if act in {"leave", "abandon", "dawdle", "stop"}:
            await self._go(act, request, writer)
            return False
        request = {
            "garbage": random.randbytes(200),
            "stranger": request.replace(KEY.encode(), b"sk-nobody"),
        }.get(act, request)
        writer.write(request)
        async with asyncio.timeout(PATIENCE):
            answer = await read_answer(reader)
        return self._judge(act, answer, number)

    async def _go(self, act: str, request: bytes, writer: asyncio.StreamWriter) -> None:
        """Leave in one of the bad ways."""
        self.seen[act] += 1
        writer.write(request if act in {"leave", "stop"} else request[: random.randrange(1, len(request))])
        await asyncio.sleep(4 if act == "dawdle" else random.random() / 10)
        if act == "stop":
            writer.write_eof()
        else:
            reset(writer)

    def _judge(self, act: str, answer: bytes, number: bytes) -> bool:
        """Count an answer, and keep it where it is not what may come."""
        head, _, content = answer.partition(b"\r\n\r\n")
        status = head[9:12].decode("latin-1") or "none"
        is_stream = b"event-stream" in head
        whole = answer.endswith((b"0\r\n\r\n", b"}}"))
        self.seen[status if whole or act in {"garbage", "stranger"} else "cut"] += 1
        expected = {"garbage": {"400", "408", "505"}, "stranger": {"401"}}.get(
            act, {"200", "429", "500", "502", "503", "504"}
        )
        if status not in expected and answer:
            self.wrong.append(answer)
        if status == "200":
            numbers = NUMBER.findall(dechunk(content) if is_stream and whole else content)
            if set(numbers) - {number} or (whole and len(numbers) != (10 if is_stream else 1)):
                self.wrong.append(answer)
        return whole and b"Connection: close" not in head


async def report(load: Load, process: Process, samples: list[tuple[float, int, int]]) -> None:
    """A line of figures now and then."""
    began, cpu = time.monotonic(), load.proxy.cpu()
    print("     time     memory   open      CPU  answers, and clients that left")
    while not load.over:
        await asyncio.sleep(REPORT)
        spent, after = load.proxy.cpu() - cpu, time.monotonic() - began
        cpu += spent
        samples.append((after, load.proxy.memory(), load.proxy.descriptors()))
        counts = " ".join(f"{name}:{count}" for name, count in sorted(load.seen.items()))
        memory = samples[-1][1] / MIB
        print(
            f"{after:6.0f} s  {memory:6.1f} MiB  {samples[-1][2]:4} fds  {spent / REPORT:4.0%} CPU  {counts}",
            flush=True,
        )
        assert not [line for line in process.said if COMPLAINT.search(line)], process.said[-20:]


async def mishaps(load: Load, upstream: Upstream) -> None:
    """One upstream dies for two seconds every half minute."""
    while not load.over:
        await asyncio.sleep(28)
        upstream.kill()
        await asyncio.sleep(2)
        await upstream.start()


async def soak(minutes: float, clients: int, folder: Path) -> list[str]:
    """Run it; what is wrong, one sentence each."""
    upstreams = [Upstream(), Upstream()]
    for upstream in upstreams:
        await upstream.start()
    text = CONFIG.format(a=upstreams[0].port, b=upstreams[1].port, key=KEY)
    (folder / "config.yaml").write_text(text)
    samples: list[tuple[float, int, int]] = []
    async with running("config.yaml", "--port", "0", folder=folder) as process:
        proxy = Measured(process.pid, await process.port())
        await proxy.ask(get("/health/liveliness"))
        base = proxy.descriptors()
        load = Load(proxy)
        people = [asyncio.create_task(load.client(), name="client") for _ in range(clients)]
        others = [asyncio.create_task(report(load, process, samples)), asyncio.create_task(mishaps(load, upstreams[0]))]
        await asyncio.wait(others, timeout=minutes * 60, return_when=asyncio.FIRST_EXCEPTION)
        load.over = True
        await asyncio.gather(*people)
        for task in others:
            task.cancel()
        broken = [one for one in await asyncio.gather(*others, return_exceptions=True) if isinstance(one, Exception)]
        await asyncio.sleep(7)  # idle connections and stalled exchanges have their ends
        left, quiet = proxy.descriptors(), proxy.memory()
        print(f"at rest {quiet / MIB:6.1f} MiB  {left:4} fds (at the start {base})")
    return [repr(one) for one in broken] + verdict(load, samples, left - base, faults(folder))


def faults(folder: Path) -> int:
    """How many records tell of a fault of the proxy's own."""
    with (folder / "records.jsonl").open() as lines:
        return sum(json.loads(line).get("outcome") == "internal_error" for line in lines)


def verdict(load: Load, samples: list[tuple[float, int, int]], left: int, own: int) -> list[str]:
    """What is not as it must be."""
    warm = samples[len(samples) // 4 :]
    third = max(1, len(warm) // 3)
    early = sum(memory for _, memory, _ in warm[:third]) / third
    late = sum(memory for _, memory, _ in warm[-third:]) / third
    problems = []
    if late - early > MOST_GROWTH:
        problems.append(f"memory grew by {(late - early) / MIB:.1f} MiB")
    if left > 2:  # files of the store that were not open yet
        problems.append(f"{left} descriptors are left open")
    if own:
        problems.append(f"{own} exchanges ended by a fault of the proxy")
    if load.wrong:
        problems.append(f"{len(load.wrong)} answers are wrong, the first: {load.wrong[0][:300]!r}")
    if load.seen["200"] < load.seen.total() / 3:
        problems.append("too few exchanges went well for this to mean anything")
    print(f"memory, early and late: {early / MIB:.1f} and {late / MIB:.1f} MiB; exchanges: {load.seen.total()}")
    return problems


def main() -> int:
    """Soak, and say how it went."""
    parser = argparse.ArgumentParser(description="Minutes of mixed load and faults.")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=24)
    arguments = parser.parse_args()
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # of this process, which writes to connections it has reset
    with tempfile.TemporaryDirectory() as folder:
        problems = asyncio.run(soak(arguments.minutes, arguments.clients, Path(folder)))
    print("\n".join(problems) or "flat: nothing was left behind, and every answer was the right one")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
