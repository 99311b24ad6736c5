"""How much memory a gibibyte costs on its way through the proxy: up, down, and while somebody does not read.

Each scenario gets a proxy process of its own, over two deployments; what counts is the highest resident size that the
kernel saw (VmHWM, set back after a warm-up). Prints one line per scenario and exits 1 where the growth reaches the
bound of SPEC §9: ``python bench/memory.py [MiB]``. Needs Linux.
"""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.processes import running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MIB = 1 << 20
BOUND = 16 * MIB  # SPEC §9
PIECE = 256 << 10
STILL = 0.6  # seconds without a byte: whoever sends is held
SILENCE = 0.3  # seconds that the proxy bears from an upstream, so shorter than a stall of the other side
CONFIG = """\
model_list:
  - {model_name: gpt-4, litellm_params: {model: openai/gpt-4, api_key: sk-of-the-first-project, api_base: "%(base)s"}}
  - {model_name: gpt-4, litellm_params: {model: openai/gpt-4, api_key: sk-of-the-second-project, api_base: "%(base)s"}}
timeouts: {stream_idle: %(silence)s}
"""
EVENT = b'data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"word"}}]}\n\n'
FORM_START = (
    b'--edge\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """What goes through: repetitions of ``unit`` between ``start`` and ``end``."""

    path: str
    content_type: str
    unit: bytes
    start: bytes = b""
    end: bytes = b""
    up: bool = False
    chunked: bool = False
    stalls: bool = False  # the receiving side stops reading until the sending side is held

    def pieces(self, size: int) -> tuple[bytes, int]:
        """A piece of about PIECE bytes, and how often it goes for ``size`` bytes."""
        piece = self.unit * max(1, PIECE // len(self.unit))
        return piece, size // len(piece)

    def length(self, size: int) -> int:
        """The content's exact length for about ``size`` bytes."""
        piece, count = self.pieces(size)
        return len(self.start) + len(piece) * count + len(self.end)

    def head_lines(self, size: int) -> bytes:
        """How the content is framed."""
        framing = "Transfer-Encoding: chunked" if self.chunked else f"Content-Length: {self.length(size)}"
        return f"Content-Type: {self.content_type}\r\n{framing}\r\n\r\n".encode()


BYTES = "application/octet-stream"
JSON = "application/json"
SCENARIOS = {
    "upload": Scenario("/files/x/content", BYTES, bytes(range(256)), up=True),
    "upload, chunked": Scenario("/files/x/content", BYTES, bytes(range(256)), up=True, chunked=True),
    "upload of a form": Scenario(
        "/files", "multipart/form-data; boundary=edge", bytes(range(256)), FORM_START, b"\r\n--edge--\r\n", up=True
    ),
    "upload of JSON": Scenario(
        "/chat/completions",
        JSON,
        b"words ",
        b'{"messages":[{"role":"user","content":"',
        b'"}],"model":"gpt-4"}',
        up=True,
    ),
    "upload, stalled": Scenario("/files/x/content", BYTES, bytes(range(256)), up=True, stalls=True),
    "download": Scenario("/files/x/content", BYTES, bytes(range(256))),
    "download, chunked": Scenario("/files/x/content", BYTES, bytes(range(256)), chunked=True),
    "download of events": Scenario("/chat/completions", "text/event-stream", EVENT, chunked=True),
    "download of JSON": Scenario("/responses/x", JSON, b"words ", b'{"id":"x","text":"', b'"}'),
    "download, stalled": Scenario("/files/x/content", BYTES, bytes(range(256)), stalls=True),
}


@dataclass(slots=True)
class Report:
    """What a run showed, in bytes and seconds."""

    seconds: float
    before: int
    growth: int
    moved: int  # bytes of content that came out at the other end
    held_at: int = 0  # bytes of content that the sender could send while the receiver did not read


class Side:
    """Who sends and who receives, with a gate that holds the receiver."""

    def __init__(self, scenario: Scenario, size: int) -> None:
        self.scenario = scenario
        self.size = size
        self.sent = 0
        self.received = 0
        self.gate = asyncio.Event()
        if not scenario.stalls:
            self.gate.set()

    async def send(self, writer: asyncio.StreamWriter) -> None:
        """Send the content."""
        piece, count = self.scenario.pieces(self.size)
        for data in (self.scenario.start, *[piece] * count, self.scenario.end):
            if data:
                writer.write(b"%x\r\n%b\r\n" % (len(data), data) if self.scenario.chunked else data)
                await writer.drain()
                self.sent += len(data)
        if self.scenario.chunked:
            writer.write(b"0\r\n\r\n")
            await writer.drain()

    async def receive(self, reader: asyncio.StreamReader, *, chunked: bool) -> None:
        """Receive content until its framing says that it is over."""
        length = self.scenario.length(self.size)
        await self.gate.wait()
        while chunked or self.received < length:
            count = int(await reader.readuntil(b"\r\n"), 16) if chunked else min(PIECE, length - self.received)
            rest = count + 2 if chunked else count
            while rest:
                data = await reader.read(min(PIECE, rest))
                if not data:
                    raise EOFError(f"the content ended after {self.received} bytes")
                rest -= len(data)
                self.received += len(data)
            if chunked:
                self.received -= 2  # the line end behind each chunk is no content
                if not count:
                    return

    async def held(self) -> int:
        """Wait until the sender is held; how much it has sent by then."""
        sent = -1
        while sent != self.sent:
            sent = self.sent
            await asyncio.sleep(STILL)  # that nothing happens can only be seen by waiting
        return sent


@asynccontextmanager
async def upstream(side: Side) -> AsyncIterator[str]:
    """An upstream that takes and gives what the scenario says; its base."""
    tasks = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            while True:
                await answer(side, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=PIECE)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def answer(side: Side, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One exchange, as the upstream."""
    head = await reader.readuntil(b"\r\n\r\n")
    if b" /v1/warm" in head:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    elif side.scenario.up:
        await side.receive(reader, chunked=b"chunked" in head)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    else:
        writer.write(b"HTTP/1.1 200 OK\r\n" + side.scenario.head_lines(side.size))
        await side.send(writer)
    await writer.drain()


async def measure(scenario: Scenario, size: int) -> Report:
    """Run one scenario with about ``size`` bytes."""
    side = Side(scenario, size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with upstream(side) as base:
            (folder / "config.yaml").write_text(CONFIG % {"base": base, "silence": SILENCE if scenario.stalls else 60})
            environ = {"TMPDIR": name}
            async with running("config.yaml", "--port", "0", folder=folder, environ=environ) as process:
                reader, writer = await asyncio.open_connection("127.0.0.1", await process.port(), limit=PIECE)
                try:
                    await warm_up(reader, writer)
                    before = resident(process.pid, "VmRSS")
                    forget_peak(process.pid)
                    began = time.monotonic()
                    held_at = await exchange(side, reader, writer)
                    seconds = time.monotonic() - began
                    growth = resident(process.pid, "VmHWM") - before
                finally:
                    writer.close()
    return Report(seconds, before, growth, side.received, held_at)


async def warm_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Let the process import and allocate what any exchange needs."""
    for number in range(20):
        body = b'{"model":"gpt-4","n":%d}' % number
        writer.write(
            b"POST /v1/warm HTTP/1.1\r\nHost: p\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        await reader.readuntil(b"\r\n\r\n{}")


async def exchange(side: Side, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
    """The exchange itself, as its client. Gives at how many bytes the sender was held."""
    scenario = side.scenario
    method = "POST" if scenario.up or scenario.path.startswith("/chat") else "GET"
    writer.write(f"{method} /v1{scenario.path} HTTP/1.1\r\nHost: p\r\n".encode())
    if scenario.up:
        writer.write(scenario.head_lines(side.size))
        work = asyncio.create_task(side.send(writer))
    else:
        writer.write(b"\r\n" if method == "GET" else b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
        work = asyncio.create_task(take_answer(side, reader))
    held_at = 0
    if scenario.stalls:
        held_at = await side.held()
        side.gate.set()
    await work
    if scenario.up:
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
    return held_at


async def take_answer(side: Side, reader: asyncio.StreamReader) -> None:
    """Read the answer's head, and then its content when the gate is open."""
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    await side.receive(reader, chunked=b"chunked" in head.lower())


def resident(pid: int, name: str) -> int:
    """A figure of ``/proc/PID/status``, in bytes."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) << 10


def forget_peak(pid: int) -> None:
    """Let VmHWM begin anew (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def main() -> int:
    """Print a line for each scenario."""
    size = int(sys.argv[1] if len(sys.argv) > 1 else 1024) * MIB
    missed = False
    print(f"{'':20} {'MiB':>7} {'s':>6} {'MiB/s':>6} {'RSS before':>11} {'growth':>8}  held at")
    for name, scenario in SCENARIOS.items():
        report = asyncio.run(measure(scenario, size))
        missed |= report.growth >= BOUND or report.moved != scenario.length(size)
        held = f"{report.held_at / MIB:7.1f}" if scenario.stalls else ""
        print(
            f"{name:20} {report.moved / MIB:7.1f} {report.seconds:6.2f} {report.moved / MIB / report.seconds:6.0f} "
            f"{report.before / MIB:11.1f} {report.growth / MIB:8.1f}  {held}",
            flush=True,
        )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
