"""The store's file at its worst: missing, locked, full, read-only, damaged, deleted while open.

Nothing in here raises. What is wrong is said once, with what to do about it, and memory stands in.
"""

# ruff: noqa: PTH100, PTH104, PTH120 - pathlib is slow to import
from __future__ import annotations

import contextlib
import fcntl
import itertools
import logging
import os
import time

from .store import BUSY_SECONDS, MEMORY, OPENING_SECONDS, Database, identify
from .tables import Busy, Damaged, StoreError, Unusable

log = logging.getLogger("passthrough.server")

MEMORY_ENTRIES = 1_000_000  # some 40 MB; the configured bound is meant for a disk
REOPEN_SECONDS = 60.0  # after the file could not be opened


class StoreFile:
    """The database to use at present: the file's, one in memory instead, or None where Python has no sqlite.

    ``openings`` counts how often a file was opened: when it changes, what is known should be written again.
    """

    def __init__(self, path: str | None, max_entries: int) -> None:
        self.path = MEMORY if path in (None, MEMORY) else os.path.abspath(path or "")
        self.openings = 0
        self._bound = max_entries if self.path != MEMORY else min(max_entries, MEMORY_ENTRIES)
        self._database: Database | None = None
        self._reopen_at = 0.0
        self._damaged_at: float | None = None
        self._fallen_back = False  # the file could not be opened, and that was said
        self._waited = False  # a lock was not given in time
        self._troubled = False  # a call failed, and that was said; no write has succeeded since

    @property
    def opened(self) -> Database | None:
        """What is open, without opening anything."""
        return None if self._database is None or self._database.closed else self._database

    def database(self, now: float) -> Database | None:
        """What is open; at first, and after a fork, it is opened."""
        if self._database is None or self._database.closed:
            if self._fallen_back and now < self._reopen_at <= now + REOPEN_SECONDS:
                return None
            self.open(now)
        return self._database

    def check(self, now: float) -> None:
        """Whether a file that could not be opened can be by now, and one that is open is still at its place."""
        if self._fallen_back and not now < self._reopen_at <= now + REOPEN_SECONDS:
            self.open(now, BUSY_SECONDS)
        elif self._database is not None and not self._database.is_current():
            log.warning("affinity: %s was removed or replaced; it is begun anew", self.path)
            self.open(now)

    def open(self, now: float, patience: float = OPENING_SECONDS) -> None:
        """Close what is open and open the file, waiting up to ``patience`` seconds for a process that has locked it."""
        self.close()
        try:
            self._database = self._connect(now, patience)
        except StoreError as error:
            self._fall_back(error, now)
            return
        self.openings += self.path != MEMORY
        if self._fallen_back:
            self._fallen_back = False
            log.info("affinity: %s can be used again", self.path)

    def _connect(self, now: float, patience: float) -> Database:
        """Open the file, or a new one where it is damaged."""
        identity = identify(self.path)
        try:
            return self._wait_for(patience)
        except Damaged as damage:
            self._set_aside(identity, damage, now)
            return self._wait_for(patience)

    def _wait_for(self, patience: float) -> Database:
        """Open the file as soon as others let us: of processes that make it at once, sqlite lets only one wait."""
        until = time.monotonic() + patience
        while True:
            try:
                return Database(self.path, self._bound, patience)
            except Busy:
                if time.monotonic() >= until:
                    raise
                time.sleep(0.01)

    def failed(self, error: StoreError, now: float) -> None:
        """A call of the database failed: nothing but a warning, unless the file is damaged."""
        if isinstance(error, Damaged):
            self._replace(error, now)
        elif isinstance(error, Busy) and not self._waited:
            self._waited = True  # once is nothing: a checkpoint waits for the disk
        elif not self._troubled:
            self._troubled = True
            log.warning("affinity: cannot use %s now: %s (until then new ids wait in memory)", self.path, error)

    def _replace(self, damage: Damaged, now: float) -> None:
        """Begin a new file in the place of the damaged one that is open."""
        identity = identify(self.path)
        is_there = self._database is not None and self._database.is_current()
        self.close()
        try:
            if is_there:  # else another process has done it
                self._set_aside(identity, damage, now)
        except StoreError as error:
            self._fall_back(error, now)
        else:
            self.open(now)

    def worked(self) -> None:
        """A write succeeded."""
        self._waited = False
        if self._troubled:
            self._troubled = False
            log.info("affinity: %s can be used again", self.path)

    def close(self) -> None:
        """Let go of the file; :meth:`database` opens it again."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def _fall_back(self, error: StoreError, now: float) -> None:
        """Let memory stand in, and say so once."""
        if not self._fallen_back:
            outlook = f"ids are remembered in memory only; tried again every {REOPEN_SECONDS:.0f} s"
            log.warning("affinity: cannot use %s: %s (%s)", self.path, error, outlook)
        self._fallen_back = True
        self._reopen_at = now + REOPEN_SECONDS
        with contextlib.suppress(StoreError):  # no sqlite at all
            self._database = Database(MEMORY, min(self._bound, MEMORY_ENTRIES))

    def _set_aside(self, identity: tuple[int, int] | None, damage: Damaged, now: float) -> None:
        """Rename the damaged file, unless that was done a moment ago: then the disk is what is damaged."""
        if self._damaged_at is not None and self._damaged_at <= now < self._damaged_at + REOPEN_SECONDS:
            raise Unusable(f"it was damaged again ({damage}); look after the disk")
        self._damaged_at = now
        target = set_aside(self.path, identity, f"damaged-{int(now)}")
        if target is not None:
            outlook = (
                "a new one is begun, what it lacks is looked for upstream; delete the old one when you have seen it"
            )
            log.warning("affinity: %s was damaged (%s) and is now %s: %s", self.path, damage, target, outlook)


def set_aside(path: str, identity: tuple[int, int] | None, suffix: str) -> str | None:
    """Rename a damaged file, with its log; None if another process has done so already.

    ``identity`` is the damaged file's: the path may lead to a new and good one by now.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, folder)
            with contextlib.suppress(OSError):  # some network file systems lock no folders
                fcntl.flock(folder, fcntl.LOCK_EX)  # two processes may find the damage at the same time
            if identity is None or identify(path) != identity:
                return None
            target = _unused(f"{path}.{suffix}")
            for tail in ("-wal", "-shm", ""):
                with contextlib.suppress(FileNotFoundError):
                    os.rename(path + tail, target + tail)
        except OSError as error:
            raise Unusable(f"{error.strerror or error}; it is damaged and cannot be renamed: move it away") from error
    return target


def _unused(name: str) -> str:
    """The name, or the first of ``name-2``, ``name-3``, ... that is free: two files can be damaged in one second."""
    names = itertools.chain((name,), (f"{name}-{number}" for number in itertools.count(2)))
    return next(candidate for candidate in names if identify(candidate) is None)
