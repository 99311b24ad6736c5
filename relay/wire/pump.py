"""Move bytes from side to side: a response's content, or everything after a 101.

Moving happens inside the callback that brought the bytes, so an event of a stream leaves in the same turn of the loop
in which it came; no task is switched and no timer made for it, and whole chunks are not even stored. The slow side
slows the fast one: while the sink is ``paused`` the source is not polled, and stops reading by itself
(``http1.HIGH_WATER``).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeAlias, cast

from .connection import PeerGone
from .framing import END, NEED_DATA, only_chunk

if TYPE_CHECKING:
    from collections.abc import Callable

    from .framing import ChunkedReader
    from .http1 import HTTP1Connection

LAST_WORDS = 5.0  # seconds in which a slow side may still take what a side that has left said before
EVENT_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")  # a blank line ends an event (WHATWG HTML §9.2.5)
LONGEST_EVENT_END = 4


class BodyRelay:
    """The content of one response on its way from ``source`` to ``sink``.

    ``watch`` sees every piece before it leaves. ``idle`` is the longest silence in seconds; it does not run while the
    client is the one who is slow (SPEC §9).
    """

    __slots__ = ("_chunks", "_done", "_idle", "_last", "_sink", "_source", "_watch", "count", "ended")

    def __init__(
        self, source: HTTP1Connection, sink: HTTP1Connection, watch: Callable[[bytes], None] | None, idle: float
    ) -> None:
        self._source = source
        self._sink = sink
        self._watch = watch
        self._idle = idle
        self._done: asyncio.Future[None] | None = None
        self._chunks: ChunkedReader | None = None  # of the source, where its chunks can leave as they came
        self._last = b""
        self.count = 0  # bytes of content
        self.ended = False

    async def run(self) -> None:
        """Move until the end of the message. Raises what the source raises, or the sink's ``PeerGone``."""
        if self._move():
            return
        self._done = asyncio.get_running_loop().create_future()
        self._source.on_readable = self._sink.on_writable = self._step
        self._chunks = self._source.chunks if self._sink.writes_chunks else None
        self._source.on_data = None if self._chunks is None else self._take_chunks
        try:
            await self._done
        finally:
            self._source.on_readable = self._sink.on_writable = self._source.on_data = self._done = None

    def _take_chunks(self, data: bytes) -> bool:
        """Move whole chunks that have just come, as most events of streams do. False where more has to be done."""
        done, chunks, sink = self._done, self._chunks, self._sink
        if done is None or chunks is None or chunks.owed or sink.paused or sink.closed or done.done():
            return False
        try:
            content = only_chunk(data)
            if content is None:
                count, content = chunks.whole_chunks(data)
                if count != len(data):
                    return False
            self._look(content)
            sink.write(data)
            self._source.set_deadline(self._idle)
        except Exception as error:  # noqa: BLE001 - as in _step
            done.set_exception(error)
        return True

    def _step(self) -> None:
        done = cast("asyncio.Future[None]", self._done)
        if done.done():
            return
        try:
            if self._move():
                done.set_result(None)
        except Exception as error:  # noqa: BLE001 - a callback has nobody above it: whoever awaits gets it
            done.set_exception(error)
        finally:
            del done  # which has the error, which has this frame: a ring for the collector

    def _move(self) -> bool:
        """Move what is at hand; True at the end of the message."""
        source, sink = self._source, self._sink
        in_chunks = sink.writes_chunks
        try:
            while not sink.paused:
                chunks = source.poll_chunks() if in_chunks else None
                if chunks is not None:
                    self._look(chunks[1])
                    sink.send_chunks(chunks[0])
                    if not source.pending and not source.is_over:
                        source.set_deadline(self._idle)
                        break
                    continue
                event = source.poll_event()
                if event is NEED_DATA:
                    source.set_deadline(self._idle)
                    break
                if event is not END:
                    data: bytes = event  # type: ignore[assignment]  # all else is a head, which comes before
                    self._look(data)
                    sink.send_data(data)
                if source.received:
                    sink.send_end()
                    self.ended = True
                    break
            else:
                source.set_deadline(None)  # the client is the slow one: no deadline runs against the upstream
        finally:
            sink.flush()  # also what came before the break
        if sink.closed:
            raise PeerGone("the client left")
        return self.ended

    def _look(self, data: bytes) -> None:
        """See content before it leaves."""
        if self._watch is not None:
            self._watch(data)
        size = len(data)
        self.count += size
        self._last = data if size >= LONGEST_EVENT_END else self._last[-LONGEST_EVENT_END:] + data

    @property
    def at_event_boundary(self) -> bool:
        """Whether an event may begin here: nothing was moved yet, or the last bytes ended one."""
        return not self.count or self._last.endswith(EVENT_ENDS)


Filter: TypeAlias = "Callable[[bytes], bytes]"  # what leaves for bytes that came


class Tunnel:
    """Bytes both ways after a 101, until either side ends.

    ``filters``: what bytes from ``one`` to ``other`` pass through, and those back; None for as they are. ``idle``: the
    longest silence of both in seconds, pings count as sound (SPEC §13); it does not run while ``one``, the client, is
    slow to take what there is.
    """

    __slots__ = ("_done", "_filters", "_idle", "_leaving", "_loop", "_moved_at", "_sides", "_timer", "counts")

    def __init__(
        self,
        one: HTTP1Connection,
        other: HTTP1Connection,
        idle: float,
        filters: tuple[Filter | None, Filter | None] = (None, None),
    ) -> None:
        self._sides = (one, other)
        self._filters = filters
        self._idle = idle
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[HTTP1Connection | None] = self._loop.create_future()
        self._moved_at = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._leaving: asyncio.TimerHandle | None = None
        self.counts = [0, 0]  # bytes that ``one`` said, and that it was told

    async def run(self) -> HTTP1Connection | None:
        """Move until one side has ended and all that it said has left; which one, None where both fell silent.

        Both connections are left as they are then. Raises what a filter raises.
        """
        for side in self._sides:
            side.set_deadline(None)
            side.on_readable = side.on_writable = self._step
            side.on_eof = self._ends
        self._timer = self._loop.call_later(self._idle, self._tick)
        try:
            self._step()
            return await self._done
        finally:
            for timer in (self._timer, self._leaving):
                if timer is not None:
                    timer.cancel()
            for side in self._sides:
                side.on_readable = side.on_writable = side.on_eof = None

    def _step(self) -> None:
        if self._done.done():
            return
        try:
            moved = self._move(0) + self._move(1)
        except Exception as error:  # noqa: BLE001 - a callback has nobody above it: whoever awaits gets it
            self._done.set_exception(error)
            return
        if moved:
            self._moved_at = self._loop.time()
        for side in self._sides:
            if side.closed and not side.pending and not self._done.done():
                self._done.set_result(side)

    def _move(self, direction: int) -> int:
        source, sink = self._sides[direction], self._sides[1 - direction]
        if sink.paused:
            return 0
        data = source.take()
        if not data:
            return 0
        change = self._filters[direction]
        out = data if change is None else change(data)
        self.counts[direction] += len(out if direction else data)
        if out:
            sink.write(out)
        return len(data)

    def _ends(self) -> None:
        """A side hung up, perhaps with words that the other was too slow to take: that one has a moment for them."""
        if self._leaving is None:
            self._leaving = self._loop.call_later(LAST_WORDS, self._give_up)

    def _give_up(self) -> None:
        if not self._done.done():
            self._done.set_result(next((side for side in self._sides if side.eof or side.closed), None))

    def _tick(self) -> None:
        """Has anything moved? The timer is coarse: it is set again where it comes too early."""
        left = self._moved_at + self._idle - self._loop.time()
        if self._sides[0].paused:  # there is something for the client, who is slow, and not silent
            left = self._idle
        if left > 0:
            self._timer = self._loop.call_later(left, self._tick)
        elif not self._done.done():
            self._done.set_result(None)
