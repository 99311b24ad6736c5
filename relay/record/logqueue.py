"""A bounded queue in front of log handlers: the loop puts, a thread formats and writes, what does not fit is counted.

Lines that are made already, and whose output takes them at once, are written by the loop: each time that the thread
wants the interpreter for a moment, everything else stands still for longer.

The thread starts with the first record, so that each forked worker has its own, and takes records in batches: after
each it rests a moment, during which records gather and the loop wakes nobody.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import stat
import sys
import threading
import weakref
from collections import deque
from itertools import islice
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import TextIO

    Item = tuple[Sequence[logging.Handler], logging.LogRecord] | tuple["LineWriter", None]

CAPACITY = 4096  # records; some 10 MB when a handler is stuck
BATCH = 512
REST = 0.02  # seconds between two batches: a record waits no longer than that
WRITE_PATIENCE = 1.0  # seconds between two looks at an output that takes no bytes


class LogQueue:
    """Records on their way to handlers. ``dropped`` counts those that no handler could be given, or that one failed."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.capacity = capacity
        self.dropped = 0
        self._records: SimpleQueue[Item | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()
        self._is_closed = False
        self._writers: list[LineWriter] = []
        _queues.add(self)

    def adopt(self, writer: LineWriter) -> None:
        """Look after the lines that wait with this writer."""
        self._writers.append(writer)

    def put(self, handlers: Sequence[logging.Handler], record: logging.LogRecord) -> None:
        """Queue a record, or drop and count it. Never waits."""
        if self._records.qsize() >= self.capacity or self._is_closed:
            self.dropped += 1
            return
        self._put((handlers, record))

    def put_lines(self, writer: LineWriter, lines: Sequence[str]) -> None:
        """Queue records that are lines already, or drop and count them. They wait with their writer for ``let_go``."""
        room = 0 if self._is_closed else max(self.capacity - len(writer.waiting), 0)
        if len(lines) > room:
            self.dropped += len(lines) - room
            lines = lines[:room]
        writer.waiting.extend(lines)

    def let_go(self, writer: LineWriter) -> None:
        """Write the lines that wait: now, where nothing has to be waited for, else by the thread."""
        if not writer.told and not writer.write_now():
            writer.told = True
            self._put((writer, None))

    def _put(self, item: Item) -> None:
        self._records.put(item)
        if self._thread is None:
            self._start()

    def stop(self, patience: float) -> None:
        """Hand out what is queued, for at most ``patience`` seconds; what is left then is dropped and counted."""
        thread = self._thread
        self._is_closed = True
        self._ending.set()
        self._records.put(None)
        if thread is not None and thread is not threading.current_thread():
            thread.join(patience)
            if thread.is_alive():
                self._abandon()
        self._thread = None
        for writer in self._writers:
            writer.close_output()

    def _abandon(self) -> None:
        """Drop what the thread has not taken yet."""
        with contextlib.suppress(Empty):
            while True:
                item = self._records.get_nowait()
                self.dropped += item is not None and item[1] is not None
        for writer in self._writers:
            self.dropped += len(writer.waiting)
            writer.waiting.clear()
        self._records.put(None)

    def count_failure(self, handler: logging.Handler, number: int = 1) -> None:
        """A handler could not do its work: counted, and said once on stderr, without a traceback."""
        if not self.dropped:
            error = sys.exc_info()[1]
            with contextlib.suppress(Exception):
                print(f"log handler {type(handler).__name__} failed: {error}", file=sys.stderr)  # noqa: T201
        self.dropped += number

    def forked(self) -> None:
        """Begin anew in a child: what was queued is the parent's to write, and the thread did not come along."""
        self._records = SimpleQueue()
        self._ending = threading.Event()
        self._is_closed = False
        self._thread = None
        self.dropped = 0
        for writer in self._writers:
            writer.waiting.clear()
            writer.told = writer.is_busy = False

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="passthrough-log", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        records, ending = self._records, self._ending
        while True:
            batch = [records.get()]
            with contextlib.suppress(Empty):
                while len(batch) < BATCH:
                    batch.append(records.get_nowait())
            self._hand_out([item for item in batch if item is not None])
            if batch[-1] is None:
                return
            if len(batch) < BATCH:
                ending.wait(REST)

    def _hand_out(self, batch: list[Item]) -> None:
        writers: dict[BatchHandler, None] = {}
        for to, record in batch:
            if record is None:
                lines = cast("LineWriter", to)
                lines.take_waiting()
                writers[lines] = None
                continue
            for handler in cast("Sequence[logging.Handler]", to):
                self._hand(handler, record)
                if isinstance(handler, BatchHandler):
                    writers[handler] = None
        for writer in writers:
            try:
                writer.write_out()
            except Exception:  # noqa: BLE001 - as above
                self.count_failure(writer)

    def _hand(self, handler: logging.Handler, record: logging.LogRecord) -> None:
        try:
            if record.levelno >= handler.level:
                handler.handle(record)
        except Exception:  # noqa: BLE001 - whatever a handler does, the next record has its turn
            self.count_failure(handler)


_queues: weakref.WeakSet[LogQueue] = weakref.WeakSet()


def _forked() -> None:
    for queue in _queues:
        queue.forked()


os.register_at_fork(after_in_child=_forked)


class QueueFront(logging.Handler):
    """Stands before handlers in the logging tree and passes records to their queue."""

    def __init__(self, queue: LogQueue, handlers: Sequence[logging.Handler]) -> None:
        super().__init__()
        self.queue = queue
        self.handlers = tuple(handlers)
        for handler in handlers:
            # What logging's own handlers call when they fail; the default prints a traceback for every record.
            handler.handleError = lambda _record, handler=handler: queue.count_failure(handler)  # type: ignore[method-assign, misc]

    def handle(self, record: logging.LogRecord) -> bool:
        """Queue the record. No lock and no filters: the handlers behind have their own."""
        self.queue.put(self.handlers, record)
        return True


class BatchHandler(logging.Handler):
    """A handler that gathers what it is given and lets go of it when the batch is over."""

    def __init__(self, level: int | str = logging.NOTSET) -> None:
        super().__init__(level)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Format one record; it leaves with the batch."""
        self.lines.append(self.format(record))

    def write_out(self) -> None:
        """Write the lines of this batch; what is raised counts as one record dropped."""
        raise NotImplementedError


class LineWriter(BatchHandler):
    """Write formatted lines to a stream's descriptor, a batch at a time.

    Nothing stays in the stream's own buffer, so a reader that has gone cannot make the interpreter complain at its end.
    """

    def __init__(self, queue: LogQueue, stream: TextIO, formatter: logging.Formatter) -> None:
        super().__init__()
        self.formatter = formatter
        self.waiting: deque[str] = deque()  # lines that were made already
        self.told = False  # the thread knows of them, or will look once more
        self.is_busy = False  # the thread writes
        self._at_once: int | None = None  # the same output, where a write to it never waits
        self._queue = queue
        queue.adopt(self)
        self._stream = stream
        self._descriptor: int | None = None
        self._is_file = True
        with contextlib.suppress(OSError, ValueError, AttributeError):  # a stream in memory has no descriptor
            stream.flush()
            self._descriptor = stream.fileno()
            self._is_file = stat.S_ISREG(os.fstat(self._descriptor).st_mode)
            self._at_once = never_waiting(self._descriptor, os.fstat(self._descriptor).st_mode)

    def write_now(self) -> bool:
        """Write the lines that wait as far as the output takes them without delay; whether none is left."""
        descriptor, waiting = self._at_once, self.waiting
        if descriptor is None or self.is_busy:
            return not waiting
        while waiting:
            count, data = self._next_lines()
            if not count:
                return False
            try:
                write_some(descriptor, data)
            except BlockingIOError:
                return False
            except OSError:
                self._queue.count_failure(self, count)
            for _ in range(count):
                waiting.popleft()
        return True

    def _next_lines(self) -> tuple[int, bytes]:
        """As many of the lines that wait as leave whole in one write; none where the first is too long for that."""
        if self._is_file:
            lines = list(islice(self.waiting, BATCH))
            return len(lines), encoded(lines)
        data = b""
        for count, line in enumerate(self.waiting):
            longer = data + encoded([line])
            if len(longer) > select.PIPE_BUF:
                return count, data
            data = longer
        return len(self.waiting), data

    def close_output(self) -> None:
        """Let go of what was opened for writing at once."""
        if self._at_once is not None and self._at_once != self._descriptor:
            os.close(self._at_once)
        self._at_once = None

    def take_waiting(self) -> None:
        """Take the lines that wait into this batch. Those that come from now on are told of again."""
        self.is_busy = True
        self.told = False
        waiting = self.waiting
        self.lines += [waiting.popleft() for _ in range(len(waiting))]

    def write_out(self) -> None:
        """Write the lines of this batch; they are counted as dropped where that fails."""
        lines, self.lines = self.lines, []
        try:
            if self._descriptor is None:
                self._stream.write("\n".join([*lines, ""]))
                self._stream.flush()
            else:
                data = encoded(lines)
                for piece in [data] if self._is_file else whole_lines(data):
                    write_all(self._descriptor, piece)
        except (OSError, ValueError):
            self._queue.count_failure(self, len(lines))
        finally:
            self.is_busy = False


def encoded(lines: Sequence[str]) -> bytes:
    """Lines as they are written, each with its end; half a surrogate pair by its number."""
    return "\n".join([*lines, ""]).encode("utf-8", "backslashreplace")


def never_waiting(descriptor: int, mode: int) -> int | None:
    """An open file by which an output is written without ever waiting; None where there is none.

    A file on a disk always takes what it can, and so does ``/dev/null``. A pipe is opened a second time, since whoever
    shares it with us (other workers, a shell) must not find theirs non-blocking; of up to ``PIPE_BUF`` bytes it takes
    all or nothing.
    """
    if stat.S_ISREG(mode) or (stat.S_ISCHR(mode) and not os.isatty(descriptor)):
        return descriptor
    if stat.S_ISFIFO(mode):
        with contextlib.suppress(OSError):  # no /proc, or somebody else's pipe
            return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return None


def write_some(descriptor: int, data: bytes) -> None:
    """Write every byte. Raises BlockingIOError where a pipe has no room now; then none was written."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def whole_lines(data: bytes) -> Iterator[bytes]:
    """The lines in pieces that a pipe takes whole (POSIX: up to PIPE_BUF), so that workers' lines do not mix.

    A longer line is a piece of its own.
    """
    start = 0
    while start < len(data):
        end = data.rfind(b"\n", start, start + select.PIPE_BUF) + 1
        end = end or data.find(b"\n", start + select.PIPE_BUF) + 1 or len(data)
        yield data[start:end]
        start = end


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte, also to a pipe or terminal that somebody made non-blocking."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            select.select([], [descriptor], [], WRITE_PATIENCE)
