"""Move bytes from side to side: a response's content, or everything after a 101.

Moving happens inside the callback that brought the bytes, so an event of a stream leaves in the same turn of the loop
in which it came; no task is switched and no timer made for it. The slow side slows the fast one: while the sink is
``paused`` the source is not polled, and stops reading by itself (``http1.HIGH_WATER``).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from .framing import END, NEED_DATA
from .http1 import HTTP1Connection, PeerGone

if TYPE_CHECKING:
    from collections.abc import Callable

EVENT_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")  # a blank line ends an event (WHATWG HTML §9.2.5)


class BodyRelay:
    """The content of one response on its way from ``source`` to ``sink``.

    ``watch`` sees every piece before it leaves. ``idle`` is the longest silence in seconds; it does not run while the
    client is the one who is slow (SPEC §9).
    """

    __slots__ = ("_done", "_idle", "_last", "_sink", "_source", "_watch", "count", "ended")

    def __init__(
        self, source: HTTP1Connection, sink: HTTP1Connection, watch: Callable[[bytes], None] | None, idle: float
    ) -> None:
        self._source = source
        self._sink = sink
        self._watch = watch
        self._idle = idle
        self._done: asyncio.Future[None] | None = None
        self._last = b""
        self.count = 0  # bytes of content
        self.ended = False

    async def run(self) -> None:
        """Move until the end of the message. Raises what the source raises, or the sink's ``PeerGone``."""
        if self._move():
            return
        self._done = asyncio.get_running_loop().create_future()
        self._source.on_readable = self._sink.on_writable = self._step
        try:
            await self._done
        finally:
            self._source.on_readable = self._sink.on_writable = None

    def _step(self) -> None:
        done = cast("asyncio.Future[None]", self._done)
        if done.done():
            return
        try:
            if self._move():
                done.set_result(None)
        except Exception as error:  # noqa: BLE001 - a callback has nobody above it: whoever awaits gets it
            done.set_exception(error)

    def _move(self) -> bool:
        """Move what is at hand; True at the end of the message."""
        source, sink = self._source, self._sink
        try:
            while not sink.paused:
                chunks = source.poll_chunks() if sink.writes_chunks else None
                if chunks is not None:
                    self._look(chunks[1])
                    sink.send_chunks(chunks[0])
                    continue
                event = source.poll_event()
                if event is NEED_DATA:
                    source.set_deadline(self._idle)
                    break
                if event is END:
                    sink.send_end()
                    self.ended = True
                    break
                data = cast("bytes", event)
                self._look([data])
                sink.send_data(data)
            else:
                source.set_deadline(None)  # the client is the slow one: no deadline runs against the upstream
        finally:
            sink.flush()  # also what came before the break
        if sink.closed:
            raise PeerGone("the client left")
        return self.ended

    def _look(self, pieces: list[bytes]) -> None:
        """See content before it leaves."""
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if self._watch is not None:
            self._watch(data)
        self.count += len(data)
        self._last = data if len(data) >= 4 else self._last[-4:] + data  # noqa: PLR2004 - the longest EVENT_ENDS

    @property
    def at_event_boundary(self) -> bool:
        """Whether an event may begin here: nothing was moved yet, or the last bytes ended one."""
        return not self.count or self._last.endswith(EVENT_ENDS)


class Tunnel:
    """Bytes as they are, both ways, after a 101; ends when either side does."""

    def __init__(self, one: HTTP1Connection, other: HTTP1Connection, idle: float) -> None:
        self._sides = (one, other)
        self._idle = idle
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.counts = [0, 0]  # bytes from one to the other, and back

    async def run(self) -> None:
        """Move until one side ends or ``idle`` seconds pass without a byte either way."""
        for side in self._sides:
            side.on_readable = side.on_writable = side.on_eof = self._step
        self._sides[0].set_deadline(self._idle)
        try:
            self._step()
            await self._done
        finally:
            for side in self._sides:
                side.on_readable = side.on_writable = side.on_eof = None
                side.close()

    def _step(self) -> None:
        one, other = self._sides
        moved = self._move(0, one, other) + self._move(1, other, one)
        if moved:
            one.set_deadline(self._idle)
        if (one.is_over or other.is_over) and not self._done.done():
            self._done.set_result(None)

    def _move(self, direction: int, source: HTTP1Connection, sink: HTTP1Connection) -> int:
        if sink.paused:
            return 0
        data = source.take()
        if data:
            self.counts[direction] += len(data)
            sink.write(data)
        return len(data)
