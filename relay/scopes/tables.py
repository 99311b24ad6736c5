"""What the store's file holds: its tables, how they came to be, and what can go wrong with them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

APPLICATION_ID = 0x50415353  # "PASS", in the file's header: a file without it is somebody else's
BUSY = {5, 6, 261, 517}  # SQLITE_BUSY, LOCKED, BUSY_RECOVERY, BUSY_SNAPSHOT
SHAPELESS = "no such|already exists|malformed"  # SQLITE_ERROR: tables are not as they were made
DAMAGED = {11, 26}  # SQLITE_CORRUPT, NOTADB, whatever their extended code


class StoreError(Exception):
    """The file could not be used for this call. The message says what to do about it."""


class Busy(StoreError):
    """Another process holds the lock; later will do."""


class Damaged(StoreError):
    """What the file holds is not what was written."""


class Unusable(StoreError):
    """The file cannot be opened, read or written, or it is not ours to write."""


def create_resources(connection: sqlite3.Connection) -> None:
    """Scopes by number, since a number is one byte in each of ten million rows; ids by hash."""
    connection.execute("CREATE TABLE scopes (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)")
    connection.execute(
        "CREATE TABLE resources (key INTEGER PRIMARY KEY, scope INTEGER NOT NULL,"
        " seen INTEGER NOT NULL, life INTEGER NOT NULL)"
    )


def create_unions(connection: sqlite3.Connection) -> None:
    """Pairs of scopes that are one project. Only the pairs: whoever reads them draws the same conclusion."""
    connection.execute(
        "CREATE TABLE unions (one INTEGER NOT NULL, other INTEGER NOT NULL, PRIMARY KEY (one, other)) WITHOUT ROWID"
    )


# In this order, each once; the file records the names. Released ones never change: a new table is a new function.
MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (create_resources, create_unions)

SHAPE = (  # what every query below relies on
    "SELECT key, scope, seen, life FROM resources LIMIT 0",
    "SELECT id, name FROM scopes LIMIT 0",
    "SELECT one, other FROM unions LIMIT 0",
)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the tables up to date; looked at twice, since another process may be doing it."""
    if _missing(connection):
        with Transaction(connection):
            connection.execute("CREATE TABLE IF NOT EXISTS migrations (name TEXT PRIMARY KEY) WITHOUT ROWID")
            for migration in _missing(connection):
                migration(connection)
                connection.execute("INSERT INTO migrations VALUES (?)", (migration.__name__,))
    for query in SHAPE:
        connection.execute(query)


def _missing(connection: sqlite3.Connection) -> list[Callable[[sqlite3.Connection], None]]:
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'migrations'").fetchone():
        return list(MIGRATIONS)
    done = {name for (name,) in connection.execute("SELECT name FROM migrations")}
    if newer := done - {migration.__name__ for migration in MIGRATIONS}:
        names = ", ".join(sorted(newer))
        raise Unusable(f"a newer version wrote it (it knows {names}); upgrade, or give affinity.path another name")
    return [migration for migration in MIGRATIONS if migration.__name__ not in done]


def translate(error: sqlite3.Error) -> StoreError:
    """One of our three errors for sqlite's hundred."""
    code = getattr(error, "sqlite_errorcode", 0)
    if code in BUSY:
        return Busy("another process has locked it")
    if code & 0xFF in DAMAGED or (code == 1 and re.search(SHAPELESS, str(error))):
        return Damaged(str(error))
    return Unusable(f"{error}; make it and its folder writable and see that the disk has room")


class Transaction:
    """BEGIN IMMEDIATE, so that a lock is waited for at the start and never met half-way."""

    __slots__ = ("_connection",)

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        if kind is None:
            try:
                self._connection.execute("COMMIT")
            except BaseException:
                self._rollback()
                raise
        else:
            self._rollback()

    def _rollback(self) -> None:
        if self._connection.in_transaction:  # a full disk ends it by itself
            self._connection.execute("ROLLBACK")
