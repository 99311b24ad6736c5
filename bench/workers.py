"""What a second worker costs: CPU per request at two workers against one.

``python bench/workers.py [--seconds 5] [--connections 64] [--rounds 3] [--uvloop]``. Load comes from ``wrk`` where it
is installed, else from this script, which is slower. The upstream is a fixed answer in a process of its own. Throughput
says little where load, upstream and proxy share the same few cores: so the CPU that each took stands beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.measure import cpu_of

PROGRAM = str(Path(__file__).resolve().parent.parent / "passthrough.py")
BODY = b'{"model":"gpt-4","messages":[{"role":"user","content":"hi"}]}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
SCRIPT = """wrk.method = "POST"
wrk.body = '%s'
wrk.headers["Content-Type"] = "application/json"
"""


class Upstream(asyncio.Protocol):
    """Answers each request that comes in one piece, as small ones do."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer."""
        self.transport.write(ANSWER * data.count(b"HTTP/1.1\r\n"))


async def serve_upstream() -> None:
    """Say the port, and answer for ever."""
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


class Figures(NamedTuple):
    """One measurement: requests, seconds, and CPU seconds of proxy, load and upstream."""

    requests: int
    seconds: float
    proxy: float
    load: float
    upstream: float


def load_by_wrk(port: int, seconds: float, connections: int, folder: Path) -> tuple[int, float, float]:
    """Requests, seconds, and CPU seconds that ``wrk`` took."""
    script = folder / "post.lua"
    script.write_text(SCRIPT % BODY.decode())
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "-s", str(script), url]
    before = os.times()
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    after = os.times()
    if "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(said)
    found = re.search(r"(\d+) requests in ([\d.]+)s", said)
    assert found
    load = after.children_user + after.children_system - before.children_user - before.children_system
    return int(found[1]), float(found[2]), load


async def load_by_ourselves(port: int, seconds: float, connections: int) -> tuple[int, float, float]:
    """As ``load_by_wrk``."""
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: p\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    )
    request = head % len(BODY) + BODY
    cpu, began = time.process_time(), time.monotonic()

    async def client() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        count = 0
        while time.monotonic() < began + seconds:
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n{}")
            assert answer.startswith(b"HTTP/1.1 200 "), answer
            count += 1
        writer.close()
        return count

    count = sum(await asyncio.gather(*(client() for _ in range(connections))))
    return count, time.monotonic() - began, time.process_time() - cpu


def measure(workers: int, upstream: subprocess.Popen[str], port: int, options: argparse.Namespace) -> Figures:
    """Start the proxy, warm it up, load it, and end it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        entry = f'{{model: openai/gpt-4, api_key: sk-bench-key-123456, api_base: "http://127.0.0.1:{port}/v1"}}'
        (folder / "c.yaml").write_text(
            f"model_list: [{{model_name: gpt-4, litellm_params: {entry}}}]\n"
            f'affinity: {{path: ":memory:"}}\nserver: {{port: 0, uvloop: {str(options.uvloop).lower()}}}\n'
        )
        command = [sys.executable, PROGRAM, "c.yaml", "--workers", str(workers)]
        with subprocess.Popen(
            command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as proxy:
            assert proxy.stderr is not None
            said = proxy.stderr.readline()
            found = re.search(r":(\d+)/openai", said)
            if found is None:
                raise SystemExit(said)

            def load(seconds: float) -> tuple[int, float, float]:
                if shutil.which("wrk"):
                    return load_by_wrk(int(found[1]), seconds, options.connections, folder)
                return asyncio.run(load_by_ourselves(int(found[1]), seconds, options.connections))

            load(1)
            before = cpu_of(proxy.pid), cpu_of(upstream.pid)
            requests, seconds, own = load(options.seconds)
            after = cpu_of(proxy.pid), cpu_of(upstream.pid)
            proxy.terminate()
    return Figures(requests, seconds, after[0] - before[0], own, after[1] - before[1])


def main() -> None:
    """Measure in turns, so that what else the machine does meets both alike; the best of each counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--uvloop", action="store_true")
    parser.add_argument("--upstream", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.upstream:
        asyncio.run(serve_upstream())
    print(f"{os.cpu_count()} cores; load from {'wrk' if shutil.which('wrk') else 'this script'}")
    print(f"{'workers':8}{'CPU us/request':>16}{'requests/s':>12}{'cores: proxy':>14}{'load':>7}{'upstream':>10}")
    best: dict[int, float] = {}
    command = [sys.executable, __file__, "--upstream"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as upstream:
        assert upstream.stdout is not None
        port = int(upstream.stdout.readline())
        for _ in range(options.rounds):
            for workers in (1, 2):
                one = measure(workers, upstream, port, options)
                cost = one.proxy / one.requests * 1e6
                best[workers] = min(cost, best.get(workers, cost))
                shares = (one.proxy / one.seconds, one.load / one.seconds, one.upstream / one.seconds)
                print(
                    f"{workers:<8}{cost:>16.1f}{one.requests / one.seconds:>12.0f}"
                    f"{shares[0]:>14.2f}{shares[1]:>7.2f}{shares[2]:>10.2f}"
                )
        upstream.terminate()
    print(f"two workers cost {best[2] / best[1]:.2f} x one")


if __name__ == "__main__":
    main()
