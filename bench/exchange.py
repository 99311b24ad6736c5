"""What one exchange costs in Python alone: the whole story over transports that only remember what is written.

    python bench/exchange.py                 # microseconds of CPU per exchange and per event, best of several rounds
    python bench/exchange.py --profile       # and where they go

No sockets, so no kernel: what is left is what the proxy's own code, asyncio and h11 take. The best round is shown,
since other processes on the machine can only make a round slower.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import logging
import pstats
import sys
import time
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from passthrough import Worker
from relay.config import AffinitySettings, BaseURL, Client, Config, Deployment, LoggingSettings, ModelGroup, Secret
from relay.reach import upstream
from relay.record.log import setup_logging
from relay.wire.http1 import HTTP1Connection, Role

KEY = "sk-1234-of-the-proxy"
FIELDS = f"""\
Host: 127.0.0.1:4000
Content-Type: application/json
Authorization: Bearer {KEY}
User-Agent: OpenAI/Python 1.99.0
Accept: application/json
Accept-Encoding: gzip, deflate
X-Stainless-Lang: python
X-Stainless-Package-Version: 1.99.0
X-Stainless-OS: Linux
X-Stainless-Arch: x64
X-Stainless-Runtime: CPython
X-Stainless-Runtime-Version: 3.11.7
X-Stainless-Async: false
x-stainless-retry-count: 0
x-stainless-read-timeout: 600
"""
QUESTION = "Hello! Tell me something short about reverse proxies and why they matter in restricted environments."
BODY = json.dumps(
    {
        "model": "gpt-4o",
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": QUESTION},
        ],
        "temperature": 0.7,
        "stream": False,
        "user": "u-123456",
    }
).encode()
ANSWER = json.dumps(
    {
        "id": "chatcmpl-abc123",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "gpt-4o",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello there, how may I help?"}}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21},
    }
).encode()
RESPONSE = (
    b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Mon, 23 Nov 2026 18:00:00 GMT\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\nConnection: keep-alive\r\nx-request-id: req_abc\r\nopenai-processing-ms: 12\r\n\r\n%s"
) % (len(ANSWER), ANSWER)
STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n"
    b"x-request-id: req_abc\r\nopenai-processing-ms: 12\r\n\r\n"
)
EVENT = b"data: " + json.dumps({"id": "chatcmpl-B9", "object": "chat.completion.chunk", "created": 1741570283}).encode()
EVENT += b', "choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}]}\n\n'
CHUNK = b"%x\r\n%s\r\n" % (len(EVENT), EVENT)


class Paper:
    """A transport that remembers what is written on it."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closing = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def get_extra_info(self, _: str) -> None:
        return None

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self) -> None:
        self.closing = True

    abort = close


def request(stream: bool) -> bytes:
    """A chat request as the SDK writes it."""
    body = BODY.replace(b'"stream": false', b'"stream": true') if stream else BODY
    lines = FIELDS.replace("\n", "\r\n").encode()
    return b"POST /openai/v1/chat/completions HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n%s" % (lines, len(body), body)


class Bench:
    """A worker whose client and upstream are made of paper."""

    def __init__(self) -> None:
        one, other = (
            Deployment(
                f"d{number}",
                "gpt-4o",
                BaseURL("http", "127.0.0.1", 9, "/v1"),
                "gpt-4o",
                Secret(f"sk-upstream-{number}"),
                f"s{number}",
                f"s{number}",
            )
            for number in (1, 2)
        )
        config = Config(
            groups={"gpt-4o": ModelGroup("gpt-4o", (one, other))},
            clients=(Client("master", Secret(KEY).digest),),
            affinity=AffinitySettings(path=None),
        )
        self.worker = Worker(config, {})
        self.upstreams: list[HTTP1Connection] = []
        self.asked = asyncio.Event()
        self.answer = RESPONSE

    async def dial(self, _: Any, factory: Any, **__: Any) -> tuple[Any, HTTP1Connection]:
        connection = cast("HTTP1Connection", factory())
        paper = Paper()
        paper.write = lambda data: self.answer_to(connection, data)  # type: ignore[method-assign]
        connection.connection_made(cast("asyncio.Transport", paper))
        self.upstreams.append(connection)
        return paper, connection

    def answer_to(self, connection: HTTP1Connection, data: bytes) -> None:
        """Answer a request in the next turn of the loop, as a socket would."""
        assert data.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
        asyncio.get_running_loop().call_soon(connection.data_received, self.answer)
        self.streaming = connection

    def client(self) -> tuple[HTTP1Connection, Paper]:
        paper = Paper()
        connection = HTTP1Connection(Role.SERVER, self.worker.config.limits, self.worker.accept)
        connection.connection_made(cast("asyncio.Transport", paper))
        return connection, paper

    async def exchanges(self, count: int) -> float:
        """CPU seconds of ``count`` exchanges, one after the other on one connection."""
        client, paper = self.client()
        said = request(stream=False)
        began = time.process_time()
        for number in range(count):
            asyncio.get_running_loop().call_soon(client.data_received, said)  # as a socket would: in no task
            while len(paper.written) <= number:
                await asyncio.sleep(0)
        seconds = time.process_time() - began
        assert paper.written[-1].endswith(ANSWER)
        client.eof_received()
        client.connection_lost(None)
        await asyncio.sleep(0)
        return seconds

    async def events(self, count: int) -> float:
        """CPU seconds of ``count`` events of one stream."""
        client, paper = self.client()
        self.answer = STREAM
        asyncio.get_running_loop().call_soon(client.data_received, request(stream=True))
        while not paper.written:
            await asyncio.sleep(0)
        began = time.process_time()
        for _ in range(count):
            self.streaming.data_received(CHUNK)
        seconds = time.process_time() - began
        assert len(paper.written) == count + 1
        self.streaming.data_received(b"0\r\n\r\n")
        while not paper.written[-1].endswith(b"0\r\n\r\n"):
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        self.answer = RESPONSE
        return seconds


async def main() -> None:
    """Measure, and print."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--profile", action="store_true")
    ask.add_argument("--rounds", type=int, default=15)
    ask.add_argument("--count", type=int, default=400)
    arguments = ask.parse_args()
    with open("/dev/null", "w") as nowhere:  # noqa: ASYNC230, PTH123 - before anything is measured
        logs = setup_logging(LoggingSettings(json_logs=True), stream=nowhere)
        logging.getLogger("passthrough").setLevel(logging.INFO)
        bench = Bench()
        setattr(upstream, "dial", bench.dial)  # noqa: B010 - a door that is not meant for this
        await bench.exchanges(arguments.count)
        profile = cProfile.Profile()
        if arguments.profile:
            profile.enable()
        small = min([await bench.exchanges(arguments.count) for _ in range(arguments.rounds)])
        events = min([await bench.events(arguments.count) for _ in range(arguments.rounds)])
        if arguments.profile:
            profile.disable()
            pstats.Stats(profile).sort_stats("tottime").print_stats(45)
        print(f"{1e6 * small / arguments.count:6.1f} us CPU per small exchange, without the kernel")
        print(f"{1e6 * events / arguments.count:6.1f} us CPU per event of a stream, without the kernel")
        logs.stop()


if __name__ == "__main__":
    asyncio.run(main())
