"""The upstream of all measurements, in a process of its own: a fixed answer, or a stream as the request wishes.

``python -m bench.mock [CERTIFICATE]`` says its port on stderr and answers until its standard input ends, over TLS where
there is a certificate (with its key, PEM). Each event carries the time
at which it was written (CLOCK_MONOTONIC, one clock for all processes of a machine): whoever sees it knows its age.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
import time

from bench.messages import EVENT, LARGE_EVENT, LAST, RESPONSE, STREAM, Framer, Wish, chunk, wish_of

BURST = 4  # large events in one write of a stream that is as fast as it is taken
BACKLOG = 4096
HELD = 64 << 10  # bytes that the kernel may keep of a stream that is as fast as it is taken


class Stream:
    """One stream under way."""

    def __init__(self, wish: Wish, transport: asyncio.Transport) -> None:
        self._left = wish.events
        self._every = wish.every_us / 1e6
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._next = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self.paused = False

    def begin(self) -> None:
        """Send the head, and the first event behind it."""
        if not self._every:
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, HELD)
        self._transport.write(STREAM)
        self.step()

    def step(self) -> None:
        """Send what is due, and come back when more is."""
        if self.paused or self._transport.is_closing():
            return
        count, event = (1, EVENT) if self._every else (min(BURST, self._left), LARGE_EVENT)
        self._transport.write(b"".join(chunk(event % time.monotonic_ns()) for _ in range(count)))
        self._left -= count
        if not self._left:
            self._transport.write(chunk(LAST) + b"0\r\n\r\n")
            return
        self._next += self._every
        self._timer = self._loop.call_at(self._next, self.step)

    def resume(self) -> None:
        """There is room again."""
        self.paused = False
        self._next = self._loop.time()
        if self._left:
            self.step()

    def stop(self) -> None:
        """Nobody listens any more."""
        if self._timer:
            self._timer.cancel()


class Upstream(asyncio.Protocol):
    """One connection of whoever asks."""

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self._framer = Framer()
        self._stream: Stream | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        for request in self._framer.feed(data):
            wish = wish_of(request)
            if wish is None:
                self._transport.write(RESPONSE)
            else:
                self._stream = Stream(wish, self._transport)
                self._stream.begin()

    def pause_writing(self) -> None:
        if self._stream:
            self._stream.paused = True

    def resume_writing(self) -> None:
        if self._stream:
            self._stream.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self._stream:
            self._stream.stop()


async def main() -> None:
    """Say the port, and answer until nobody holds the other end of standard input."""
    loop = asyncio.get_running_loop()
    context = None
    if sys.argv[1:]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[1])
    server = await loop.create_server(Upstream, "127.0.0.1", 0, backlog=BACKLOG, ssl=context)
    over = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), over.set)
    print(server.sockets[0].getsockname()[1], file=sys.stderr, flush=True)
    await over.wait()


if __name__ == "__main__":
    asyncio.run(main())
