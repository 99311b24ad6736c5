"""The sqlite file behind ``relay.scopes.affinity``: what is read and written, and its bounds.

A row says that the id with this 64-bit hash lives in that scope, was last seen in this hour, and is kept for so many
hours after. The hash is the table's own key (an INTEGER PRIMARY KEY, so there is no second index): some 30 bytes an id.
Hashes are spread evenly, which two things below lean on: a stretch of neighbouring keys is a fair sample of all rows,
and the width of the stretch says how many there are.

Nothing here knows a clock or a policy; ``relay.scopes.affinity`` passes hours in and decides what a failure means.
"""

# ruff: noqa: PTH101, PTH116 - pathlib is slow to import
from __future__ import annotations

import contextlib
import os
import random
import threading
import weakref
from typing import TYPE_CHECKING, Any

from .tables import APPLICATION_ID, Damaged, Transaction, Unusable, migrate, translate

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

MEMORY = ":memory:"
Row = tuple[str, int, int]  # scope, hour last seen, hours it is kept after that

BUSY_SECONDS = 0.02  # how long a call may wait for another process; it holds up the event loop
OPENING_SECONDS = 5.0  # the same at start, where two processes may migrate at once
QUICK_CHECK_BYTES = 32 << 20  # up to here the whole file is checked at start (about 0.1 s)
PROBES = 64  # beyond it so many random places are
CHECKPOINT_ROWS = 4000  # rows written between two checkpoints; each dirties about one page, and fewer in a small file
LOG_PAGES = 8192  # 32 MB
COUNTED_PAGES = 256  # a table of more, some 43,000 ids, is estimated: to count it takes longer where others write, too
SAMPLES, SAMPLE = 4, 512  # stretches, and rows in each, that an estimate looks at: good to some five per cent

SWEEP_EVERY = 64  # rows written between two sweeps
WINDOW = 512  # rows that one sweep looks at: eight for each written, so of the table some six per cent have expired
EVICTED = 6  # one row of so many goes at least when there are too many: more than were written meanwhile

LOWEST, HIGHEST = -(1 << 63), (1 << 63) - 1

UPSERT = """
    INSERT INTO resources (key, scope, seen, life) VALUES (?, ?, ?, ?) ON CONFLICT (key)
    DO UPDATE SET scope = excluded.scope, seen = excluded.seen, life = max(life, excluded.life)
"""
SURVEY = """
    SELECT max(key), count(*), min(seen + life), max(seen)
    FROM (SELECT key, seen, life FROM resources WHERE key >= ? ORDER BY key LIMIT ?)
"""
DROP_EXPIRED = "DELETE FROM resources WHERE key BETWEEN ? AND ? AND ? - seen > life"
# Rows written while the clock was wrong would outlive all others.
PULL_BACK = "UPDATE resources SET seen = ? WHERE key BETWEEN ? AND ? AND seen > ? + 1"
DROP_OLDEST = """
    DELETE FROM resources WHERE key IN (SELECT key FROM resources WHERE key BETWEEN ? AND ? ORDER BY seen LIMIT ?)
"""

_open: weakref.WeakSet[Database] = weakref.WeakSet()


def _anywhere() -> int:
    return random.randint(LOWEST, HIGHEST)  # noqa: S311 - a place in the table, no secret


def _close_all() -> None:
    for database in tuple(_open):
        database.close()


# A child that opens a file its parent had open at the fork shares sqlite's idea of which locks are held, and is wrong.
os.register_at_fork(before=_close_all)


class Database:
    """One connection. Every method may raise :class:`StoreError`; a failed one has changed nothing."""

    def __init__(self, path: str, max_entries: int, patience: float = OPENING_SECONDS) -> None:
        """Open ``path`` (or ``MEMORY``), make it if it is missing, check it, migrate it.

        ``patience`` is how many seconds to wait for a process that holds the lock.
        """
        try:
            import sqlite3  # 6 ms, and some Pythons come without
        except ImportError as error:
            raise Unusable("this Python has no sqlite3 module; install the package that holds it") from error
        self.path = path
        self.max_entries = max_entries
        self._error = sqlite3.Error
        self._names: dict[int, str] = {}
        self._numbers: dict[str, int] = {}
        self._hand = _anywhere()
        self._unswept = self._uncheckpointed = self._sweeps = self._size = 0
        self._sweep_at = min(SWEEP_EVERY, 1 + max_entries // 16)  # rows written that a sweep comes with
        self._checkpointer: threading.Thread | None = None
        self.closed = False
        self.is_locked_out = False  # a checkpoint holds the lock for writing: better not write now
        if path != MEMORY:
            _create_file(path)
        self._identity = identify(path)
        try:
            # The threads that may touch it: the loop's, and whichever forks (see _close_all). Never two at a time.
            self._connection = sqlite3.connect(path, timeout=patience, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise translate(error) from error
        if path != MEMORY:
            _open.add(self)
        try:
            self._prepare()
        except BaseException as error:
            self.close()
            if isinstance(error, sqlite3.Error):
                raise translate(error) from error
            raise

    def _prepare(self) -> None:
        self._claim()
        size = self._value("PRAGMA page_count") * self._value("PRAGMA page_size")
        if size <= QUICK_CHECK_BYTES:
            self._check()
        migrate(self._connection)
        if size > QUICK_CHECK_BYTES:
            self._probe()
        self._connection.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
        self._load_scopes()

    def _claim(self) -> None:
        """Make an empty file ours; leave one alone that another program wrote.

        In this order: a process that makes the file at the same time gives it its owner first, and tables after.
        """
        tables = self._value("SELECT count(*) FROM sqlite_master")
        owner = self._value("PRAGMA application_id")
        if tables and owner != APPLICATION_ID:
            raise Unusable("it belongs to another program; give affinity.path another name")
        journal = self._value("PRAGMA journal_mode = WAL")
        if self.path != MEMORY and journal != "wal":
            raise Unusable("its file system cannot share it between processes; put affinity.path on a local disk")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute("PRAGMA wal_autocheckpoint = 0")  # fsync belongs in a thread: see _checkpoint
        self._connection.execute("PRAGMA cache_size = -8192")
        if self.path != MEMORY:
            _restrict(self.path)
        if owner != APPLICATION_ID:
            self._connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")

    def _check(self) -> None:
        """Read all of it."""
        verdict = self._value("PRAGMA quick_check(1)")
        if verdict != "ok":
            raise Damaged(str(verdict))

    def _probe(self) -> None:
        """Read some of it: all of 1 GB takes seconds, and damage that is met later is dealt with then."""
        for _ in range(PROBES):
            self._connection.execute(SURVEY, (_anywhere(), 8)).fetchone()

    def _value(self, query: str) -> Any:
        return self._connection.execute(query).fetchone()[0]

    def _load_scopes(self) -> None:
        self._names = dict(self._connection.execute("SELECT id, name FROM scopes"))
        self._numbers = {name: number for number, name in self._names.items()}

    def get(self, key: int) -> Row | None:
        """The row of a key, expired or not."""
        try:
            row = self._connection.execute("SELECT scope, seen, life FROM resources WHERE key = ?", (key,)).fetchone()
            if row is None:
                return None
            number, seen, life = row
            if number not in self._names:
                self._load_scopes()
        except self._error as error:
            raise translate(error) from error
        name = self._names.get(number)
        return None if name is None else (name, seen, life)

    def write(self, rows: Sequence[tuple[int, Row | None]], unions: Collection[tuple[str, str]], hour: int) -> None:
        """Store rows by key (None deletes one) and pairs of scopes, in one transaction. ``hour`` is the present."""
        try:
            # A statement alone is a transaction of its own: without BEGIN and COMMIT a new id costs a fifth less.
            if len(rows) == 1 and not unions and self._unswept + 1 < self._sweep_at:
                self._write_rows(rows)
            else:
                with Transaction(self._connection):
                    self._write(rows, unions, hour)
        except self._error as error:
            self._numbers.clear()  # numbers that were given out in this transaction are not in the file
            raise translate(error) from error
        if self._uncheckpointed >= CHECKPOINT_ROWS and self.path != MEMORY:
            self._start_checkpoint()

    def _write_rows(self, rows: Sequence[tuple[int, Row | None]]) -> None:
        for key, row in rows:
            if row is None:
                self._connection.execute("DELETE FROM resources WHERE key = ?", (key,))
            else:
                scope, seen, life = row
                self._connection.execute(UPSERT, (key, self._number(scope), seen, life))
        self._unswept += len(rows)
        self._uncheckpointed += len(rows)

    def _write(self, rows: Sequence[tuple[int, Row | None]], unions: Collection[tuple[str, str]], hour: int) -> None:
        self._write_rows(rows)
        for one, other in unions:
            numbers = (self._number(one), self._number(other))
            self._connection.execute("INSERT OR IGNORE INTO unions VALUES (?, ?)", numbers)
        due, self._unswept = divmod(self._unswept, self._sweep_at)
        for _ in range(due):  # of many rows that come at once each makes room as one that comes alone
            self._sweep(hour)

    def _number(self, scope: str) -> int:
        number = self._numbers.get(scope)
        if number is None:
            self._connection.execute("INSERT OR IGNORE INTO scopes (name) VALUES (?)", (scope,))
            self._load_scopes()
            number = self._numbers[scope]
        return number

    def _sweep(self, hour: int) -> None:
        """Look at the next stretch of keys: drop what expired and, when there are too many rows, the oldest of it."""
        start = self._hand
        end, length, expiry, latest = self._connection.execute(SURVEY, (start, WINDOW)).fetchone()
        if length < WINDOW:
            end = HIGHEST
        self._hand = LOWEST if end == HIGHEST else end + 1
        if length and expiry < hour:
            self._connection.execute(DROP_EXPIRED, (start, end, hour))
        if length and latest > hour + 1:
            self._connection.execute(PULL_BACK, (hour, start, end, hour))
        excess = self._excess()
        if excess > 0:
            # The same share of every stretch, and what arrived meanwhile: so the table shrinks to its bound and stays.
            share = length * excess // (self.max_entries + excess) + length // EVICTED + 1
            self._connection.execute(DROP_OLDEST, (start, end, min(excess, share)))

    def _excess(self) -> int:
        """How many rows there are too many, more or less; counted seldom while the bound is far."""
        self._sweeps += 1
        if self._sweeps % 16 == 0 or self._size > self.max_entries - self.max_entries // 50 - 16 * SWEEP_EVERY:
            self._size = self._count()
        return self._size - self.max_entries

    def count(self) -> int:
        """How many rows there are; an estimate where they fill more than ``COUNTED_PAGES``."""
        try:
            return self._count()
        except self._error as error:
            raise translate(error) from error

    def _count(self) -> int:
        if self._value("PRAGMA page_count") - self._value("PRAGMA freelist_count") <= COUNTED_PAGES:
            exact: int = self._value("SELECT count(*) FROM resources")
            return exact
        return sum(self._extrapolate(_anywhere()) for _ in range(SAMPLES)) // SAMPLES

    def _extrapolate(self, start: int) -> int:
        """How many rows there were if all of the table were as dense as the stretch that begins here."""
        end, length, _, _ = self._connection.execute(SURVEY, (start, SAMPLE)).fetchone()
        if length < SAMPLE:  # it ends with the table: a row in a small gap would count for thousands
            start = LOWEST
            end, length, _, _ = self._connection.execute(SURVEY, (start, SAMPLE)).fetchone()
        if length < SAMPLE:
            return int(length)
        return int(length * (HIGHEST - LOWEST) // max(end - start, 1))

    def unions(self) -> list[tuple[str, str]]:
        """All pairs of scopes that were said to be one."""
        query = """
            SELECT a.name, b.name FROM unions JOIN scopes AS a ON a.id = unions.one JOIN scopes AS b ON b.id = other
        """
        try:
            return self._connection.execute(query).fetchall()
        except self._error as error:
            raise translate(error) from error

    def is_current(self) -> bool:
        """Whether the path still leads to the file that is open: it may have been deleted or set aside."""
        return self._identity == identify(self.path)

    def _start_checkpoint(self) -> None:
        """Move the log into the table, in a thread: it waits for the disk, which the event loop must not."""
        if self._checkpointer is None or not self._checkpointer.is_alive():
            self._uncheckpointed = 0
            self._checkpointer = threading.Thread(target=self._checkpoint, name="affinity-checkpoint", daemon=True)
            self._checkpointer.start()

    def _checkpoint(self) -> None:
        import sqlite3

        with contextlib.suppress(sqlite3.Error):  # the log grows until one succeeds; what is wrong, writing will say
            connection = sqlite3.connect(self.path, timeout=1)
            try:
                _, length, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                if length > LOG_PAGES:
                    # Under constant load something is written meanwhile each time, and the log never begun anew: so
                    # writers are locked out once while the disk catches up. Ours know it, and do not wait.
                    self.is_locked_out = True
                    connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
            finally:
                self.is_locked_out = False
                connection.close()

    def settle(self) -> None:
        """Wait until no checkpoint is under way."""
        if self._checkpointer is not None:
            self._checkpointer.join(timeout=10)

    def close(self) -> None:
        """Let go of the file. Closing twice is harmless."""
        self.closed = True
        _open.discard(self)
        self.settle()
        self._connection.close()


def _create_file(path: str) -> None:
    """An empty file that only its owner reads, whatever the umask; sqlite gives ``-wal`` and ``-shm`` the same mode."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return  # not opened: to close it again would drop the locks that this process may hold on it (fcntl)
    except OSError as error:
        advice = "make the folder, let this user write to it, or set affinity.path"
        raise Unusable(f"{error.strerror or error}; {advice}") from error
    os.fchmod(descriptor, 0o600)
    os.close(descriptor)


def _restrict(path: str) -> None:
    """Take away what others may do with a file that was there before."""
    for name in (path, path + "-wal", path + "-shm"):
        with contextlib.suppress(OSError):  # not there, or another user's, who decided
            os.chmod(name, 0o600)


def identify(path: str) -> tuple[int, int] | None:
    """Which file a path leads to at present, or None."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
