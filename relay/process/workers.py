"""The parent of several workers: it forks them after binding, watches, replaces what dies, and passes orders on.

It serves nobody, and has no loop. The line to each worker (``links``) is a socket pair: its end tells a worker
that its parent is gone, however that ended, so nobody is orphaned. Metrics go through the parent, which also keeps what
workers that have ended had counted.
"""

from __future__ import annotations

import gc
import heapq
import json
import logging
import os
import pickle
import selectors
import signal
import socket
import sys
import time
from contextlib import contextmanager, suppress
from itertools import count
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..record.totals import added, counted
from .links import Note, Unpacker, pack
from .serving import HEEDED, STOPPING
from .watching import LOOK_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..config import Config
    from ..record.logs import Logs
    from .listening import Listening
    from .reloading import Reloader
    from .systemd import Notifier

    Work = Callable[[Config, socket.socket], int]

LOG = logging.getLogger("passthrough.server")
REFUSED = 2  # the exit status of a worker that cannot start
REPORT_SECONDS = 1.0  # that a worker has to send its counts; then those that it sent last stand for it
GRACE = 5.0  # seconds beyond timeouts.drain, after which a worker that is still there is killed
PAUSES = (0.05, 0.2, 0.8, 3.2, 12.8)  # seconds before the replacement of one that died soon, and again, and again
SOON = 30.0  # seconds of life after which a death is no sign of trouble to come
CHUNK = 1 << 16


class Hand:
    """One worker as its parent sees it."""

    def __init__(self, number: int, pid: int, sock: socket.socket) -> None:
        self.number = number
        self.pid = pid
        self.sock = sock
        self.started = time.monotonic()
        self.unpacker = Unpacker()
        self.out = bytearray()
        self.owes = 1  # times that it has yet to say that it is ready: at first, and after each configuration
        self.counts = b""  # its latest snapshot
        self.asked = False  # to send a fresh one
        self.wants = False  # everybody's


class Supervisor:
    """Keeps ``number`` workers at work. ``work`` is a worker's whole life: it gets a configuration and its line."""

    def __init__(
        self, number: int, work: Work, reloader: Reloader, listening: Listening, logs: Logs, notifier: Notifier
    ) -> None:
        self._numbers = range(1, number + 1)
        self._work = work
        self._reloader = reloader
        self._listening = listening
        self._logs = logs
        self._notifier = notifier
        self._hands: dict[int, Hand] = {}  # by pid
        self._failures = dict.fromkeys(self._numbers, 0)
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._selector = selectors.PollSelector()  # a child that closes it takes nothing away from us
        self._totals: dict[str, Any] = {}
        self._stopping = False
        self._say_ready: Callable[[], None] | None = None
        self._reloading = False
        self._status = 0

    def run(self, say_ready: Callable[[], None], *, watch: bool) -> int:
        """Work until SIGTERM or SIGINT, and until all have drained; the exit status of SPEC §2."""
        self._say_ready = say_ready
        gc.collect()
        gc.freeze()  # what all have in common stays in common: the collector does not write to it
        with self._signals():
            for number in self._numbers:
                self._start(number)
            if watch:
                self._later(LOOK_SECONDS, self._look)
            while self._hands or not self._stopping:
                self._turn()
        return self._status

    # The turns of a loop.

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Signals as bytes to select for, whatever they interrupt."""
        self._bell, self._rope = socket.socketpair()
        self._bell.setblocking(False)
        self._rope.setblocking(False)
        before = {number: signal.signal(number, lambda *_: None) for number in HEEDED}
        signal.set_wakeup_fd(self._rope.fileno(), warn_on_full_buffer=False)
        self._selector.register(self._bell, selectors.EVENT_READ)
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._selector.close()
            self._bell.close()
            self._rope.close()

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), call))

    def _turn(self) -> None:
        timeout = max(self._timers[0][0] - time.monotonic(), 0) if self._timers else None
        for key, _ in self._selector.select(timeout):
            if key.fileobj is self._bell:
                self._heed()
            elif key.data.pid in self._hands:
                self._exchange_notes(key.data)
        while self._timers and self._timers[0][0] <= time.monotonic():
            heapq.heappop(self._timers)[2]()

    def _heed(self) -> None:
        """Do what the signals say that have come."""
        with suppress(BlockingIOError):
            for number in self._bell.recv(CHUNK):
                if number in STOPPING:
                    self._stop()
                elif number == signal.SIGHUP:
                    self._reload()
        self._reap()

    # Workers come and go.

    def _start(self, number: int) -> None:
        """Fork a worker. The log's thread rests meanwhile; signals wait until either side can handle them."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        self._logs.stop()
        signal.pthread_sigmask(signal.SIG_BLOCK, HEEDED)
        try:
            pid = os.fork()
            if not pid:
                ours.close()
                self._become_worker(theirs)
        except OSError as error:
            pid = 0
            problem = error.strerror
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HEEDED)
            self._resume_logs()
        theirs.close()
        if not pid:
            ours.close()
            LOG.error("worker %d cannot be started: %s", number, problem)
            self._start_again(number, lived=0)
            return
        hand = self._hands[pid] = Hand(number, pid, ours)
        self._selector.register(ours, selectors.EVENT_READ, hand)

    def _resume_logs(self) -> None:
        try:
            self._logs.start()
        except ConfigError as error:  # it did work before; workers go on without the parent's voice
            print(error, file=sys.stderr)  # noqa: T201 - as at the start

    def _become_worker(self, line: socket.socket) -> None:
        """The child's whole life. It has nothing of the parent's but the listening sockets."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._selector.close()
            for sock in (self._bell, self._rope, *(hand.sock for hand in self._hands.values())):
                sock.close()
            status = self._work(self._reloader.config, line)
        except ConfigError as error:
            print(error, file=sys.stderr)  # noqa: T201 - as at the start
            status = REFUSED
        except BaseException:  # noqa: BLE001 - whatever it is, this process ends here
            sys.excepthook(*sys.exc_info())
        finally:
            for stream in (sys.stdout, sys.stderr):
                with suppress(Exception):
                    stream.flush()
            os._exit(status)

    def _reap(self) -> None:
        for hand in list(self._hands.values()):
            pid, status = os.waitpid(hand.pid, os.WNOHANG)
            if pid:
                self._ended(hand, os.waitstatus_to_exitcode(status))

    def _ended(self, hand: Hand, code: int) -> None:
        """Keep what it had counted, and put another in its place."""
        self._hear(hand)
        del self._hands[hand.pid]
        with suppress(KeyError):
            self._selector.unregister(hand.sock)
        hand.sock.close()
        if hand.counts:
            self._totals = added(self._totals, counted(json.loads(hand.counts)))
        self._answer_if_all_said()
        if self._stopping:
            return
        if code == REFUSED and self._say_ready is not None:  # it has said why; so would all others
            self._status = REFUSED
            self._stop()
            return
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        LOG.warning("worker %d (pid %d) %s; another takes its place", hand.number, hand.pid, how)
        self._start_again(hand.number, lived=time.monotonic() - hand.started)

    def _start_again(self, number: int, *, lived: float) -> None:
        failures = self._failures[number] = 0 if lived > SOON else self._failures[number] + 1
        self._later(PAUSES[min(failures, len(PAUSES)) - 1] if failures else 0, lambda: self._start_unless_over(number))

    def _start_unless_over(self, number: int) -> None:
        if not self._stopping:
            self._start(number)

    # The end.

    def _stop(self) -> None:
        """Drain; who asks twice does not want to wait."""
        if self._stopping:
            self._status = self._status or 1
            self._kill()
            return
        self._stopping = True
        self._notifier.stopping()
        self._listening.close()
        for hand in self._hands.values():
            self._say(hand, Note.DRAIN)
        self._later(self._reloader.config.timeouts.drain + GRACE, self._kill)

    def _kill(self) -> None:
        for hand in self._hands.values():
            with suppress(ProcessLookupError):
                os.kill(hand.pid, signal.SIGKILL)

    # Configurations.

    def _look(self) -> None:
        if not self._stopping:
            self._later(LOOK_SECONDS, self._look)
            if self._reloader.has_news():
                self._reload()

    def _reload(self) -> None:
        """Read and look at the configuration once, here; all workers get the same."""
        if self._stopping:
            return
        self._notifier.reloading()
        self._reloading = True
        try:
            config = self._reloader.read()
            self._logs.replace(config.logging)
        except ConfigError as error:
            self._reloader.refuse(error)
        except Exception:  # a fault of ours must not be the end of all workers
            LOG.exception("the configuration could not be reloaded")
        else:
            self._reloader.accept(config)
            content = pickle.dumps(config)
            for hand in self._hands.values():
                hand.owes += 1
                self._say(hand, Note.CONFIG, content)
        self._tell_if_ready()

    def _tell_if_ready(self) -> None:
        """Once all workers serve by what they were given last, say so to whoever started or reloaded us."""
        if len(self._hands) < len(self._numbers) or any(hand.owes for hand in self._hands.values()):
            return
        if self._say_ready is not None:
            self._say_ready()
            self._say_ready = None
            self._notifier.ready()
        elif self._reloading:
            self._notifier.ready()
        self._reloading = False

    # Notes.

    def _say(self, hand: Hand, note: Note, content: bytes = b"") -> None:
        hand.out += pack(note, content)
        self._send(hand)

    def _send(self, hand: Hand) -> None:
        """Send what a worker takes; it gets the rest when it takes more."""
        try:
            while hand.out:
                del hand.out[: hand.sock.send(hand.out)]
        except BlockingIOError:
            pass
        except OSError:  # it has ended
            hand.out.clear()
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if hand.out else 0)
        with suppress(KeyError):  # no more is heard from it
            self._selector.modify(hand.sock, events, hand)

    def _exchange_notes(self, hand: Hand) -> None:
        if hand.out:
            self._send(hand)
        if self._hear(hand):
            self._selector.unregister(hand.sock)  # what became of it, its end as a process will tell

    def _hear(self, hand: Hand) -> bool:
        """Take every note that is there. True at the end of the line."""
        while True:
            try:
                data = hand.sock.recv(CHUNK)
            except BlockingIOError:
                return False
            except OSError:
                return True
            if not data:
                return True
            for note, content in hand.unpacker.feed(data):
                self._take(hand, note, content)

    def _take(self, hand: Hand, note: Note, content: bytes) -> None:
        if note is Note.READY:
            hand.owes -= 1
            self._tell_if_ready()
            return
        hand.counts = content
        if note is Note.COUNTS:
            hand.asked = False
            self._answer_if_all_said()
        elif note is Note.ASK:
            hand.wants = True
            self._gather()

    # Metrics.

    def _gather(self) -> None:
        """Ask all workers for their counts, but for those that want to know, who have just said theirs."""
        for hand in self._hands.values():
            if not hand.wants and not hand.asked:
                hand.asked = True
                self._say(hand, Note.REPORT)
        self._later(REPORT_SECONDS, self._answer)
        self._answer_if_all_said()

    def _answer_if_all_said(self) -> None:
        if not any(hand.asked and not hand.wants for hand in self._hands.values()):
            self._answer()

    def _answer(self) -> None:
        """Tell those who want to know: the latest of all workers, and what those counted that have ended."""
        askers = [hand for hand in self._hands.values() if hand.wants]
        if not askers:
            return
        parts = [hand.counts for hand in self._hands.values() if hand.counts]
        parts.append(json.dumps(self._totals).encode())
        content = b"[" + b",".join(parts) + b"]"
        for hand in askers:
            hand.wants = False
            self._say(hand, Note.TOTALS, content)
