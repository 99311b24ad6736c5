"""Where resource ids are remembered: which scope an id lives in, shared by all processes through one sqlite file.

The file is a cache, never the truth (SPEC §5 "Discovery"): losing it costs requests, not answers. So nothing in here
raises because of a disk; it warns, and goes on in memory. All calls are synchronous and take tens of microseconds.
``now`` is the wall clock, in seconds since 1970; when it jumps, ids may expire early, or late by the jump.

Neither an id nor a key is ever stored, only a 64-bit hash of the id. Among ten million ids the chance that *any* two
share one is (10^7)^2 / 2 / 2^64 = 1 : 370,000, and then the later one wins: the earlier id's next request meets a 404
in the wrong scope, is forgotten, looked for and found. One made-up id in 2^64 / 10^7 = 1.8 x 10^12 hits a stored one.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from functools import lru_cache
from hashlib import blake2b
from itertools import islice
from struct import Struct
from typing import TYPE_CHECKING

from .storefile import StoreFile
from .tables import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..config import AffinitySettings
    from .store import Database, Row

PENDING = 10_000  # rows that wait for the file; the oldest go first, and are still in the cache
BATCH = 1024  # of them in one transaction: some 10 ms
FLUSH_AT = 64  # refreshed rows that are worth a transaction of their own
MISSES = 65_536
MISS_SECONDS = 60.0  # SPEC §5 "Discovery"
SYNC_SECONDS = 1.0  # how often what other processes did is looked at
RETRY_SECONDS = 0.05, 1.0  # after a lock or a full disk, so that not every call waits for it; doubled each time
CLOSING_TRIES = 50  # at the end there is time to wait for a lock

RENEWALS = 8  # an id in use is written again after an eighth of its life
HOUR = 3600
DAY = 24  # hours, as all lives below
YEAR = 365 * DAY

# Hours that an id is kept after it was last seen. What is forgotten too early is found again by discovery; what is kept
# too long only takes room. So: how long the API keeps the thing, rounded up.
LIVES = {
    "client_secret": 3,  # ek_: ten minutes unless asked for more, two hours at most
    "realtime_call": 3,  # rtc_: a session ends after an hour
    "realtime_session": 3,
    "chatkit_session": DAY,  # ten minutes, unless asked for more
    "chat_audio": DAY,  # an hour
    "upload": 2 * DAY,  # an hour, then it is a file or nothing
    "upload_part": 2 * DAY,
    "container": 30 * DAY,  # its files die after 20 idle minutes, but it stays in lists as expired
    "container_file": 30 * DAY,
    "encrypted_blob": 7 * DAY,  # the client holds it, and sends all of a talk with every turn, which renews them
    "response": 30 * DAY,  # 30 days
    "response_item": 30 * DAY,  # as its response; one that a conversation keeps is renewed where it is named
    "chat_completion": 30 * DAY,  # 30 days, if stored at all
    "chat_message": 30 * DAY,
    "run": 90 * DAY,  # hardly anybody asks for an old run or step, and a busy assistant makes many
    "run_step": 90 * DAY,
    "video": 90 * DAY,
}
DEFAULT_LIFE = YEAR  # files, stores, threads, batches, ...: until deleted

# Ids that say by their prefix what they are have one place, whatever kind they are asked for as: a file is also a
# vector store file.
# These are apart, since they have no prefix, or (secrets) since no other id may pass for one.
APART = {kind: kind.encode() + b"\0" for kind in ("client_secret", "encrypted_blob", "model", "skill_version", "voice")}
WORKSPACE = "workspace"  # not an id: the fact that a client has made something (SPEC §5 "Stored responses")
APART[WORKSPACE] = b"workspace\0"
FIXED = {"client_secret"}  # using it does not make it live longer
MOST_OWNERS = 1024  # whose keys are kept: clients, and their sessions
KEY = Struct("<q")  # signed, as sqlite's integers are


def fingerprint(kind: str, id: str) -> int:  # noqa: A002 - the API's word
    """The 64-bit key of an id."""
    data = id.encode("utf-8", "surrogatepass")
    if kind in APART:
        data = APART[kind] + data
    key: int = KEY.unpack(blake2b(data, digest_size=KEY.size).digest())[0]
    return key


@lru_cache(maxsize=MOST_OWNERS)
def owner_key(client: str, session: str | None) -> int:
    """The key for what a client, or one session of it, has made: of one string that no other pair makes."""
    return fingerprint(WORKSPACE, f"{len(client)}:{client}:{session or ''}")


class AffinityStore:
    """Resource id → scope name, with a least-recently-used cache in front of the file.

    One per process, for one thread. The file is opened at the first use, and again after a fork.
    """

    def __init__(self, settings: AffinitySettings) -> None:
        self._settings = settings
        self._file = StoreFile(settings.path, settings.max_entries)
        self._recent: OrderedDict[int, Row] = OrderedDict()
        self._missed: dict[int, float] = {}
        self._pending: dict[int, Row | None] = {}  # what the file does not know yet; None: deleted
        self._unions: set[tuple[str, str]] = set()
        self._pending_unions: set[tuple[str, str]] = set()
        self.unions: Mapping[str, str] = {}  # the canonical names of united scopes; another object at each change
        self._openings = 0
        self._synced_at = self._write_at = self._read_at = 0.0
        self._retry_after = RETRY_SECONDS[0]

    @classmethod
    def open(cls, settings: AffinitySettings, now: float) -> AffinityStore:
        """Make a store and open its file at once, so that what is wrong with it is said at start."""
        store = cls(settings)
        store.reopen(now)
        return store

    def lookup(self, kind: str, id: str, now: float) -> str | None:  # noqa: A002
        """The canonical name of the scope that ``id`` lives in, or None where nobody has seen it."""
        return self._look_up(fingerprint(kind, id), now, renewed=kind not in FIXED)

    def _look_up(self, key: int, now: float, *, renewed: bool) -> str | None:
        """``renewed``: this makes it live longer."""
        if not self._synced_at <= now < self._synced_at + SYNC_SECONDS:
            self._sync(now)
        hour = int(now) // HOUR
        row = self._find(key, hour, now)
        if row is None:
            return None
        scope, seen, life = row
        if renewed and (hour - seen) * RENEWALS > life:
            self._refresh(key, (scope, hour, life), now)
        return self.unions.get(scope, scope)

    def remember(self, pairs: Iterable[tuple[str, str]], scope: str, now: float) -> None:
        """Store that the ``(kind, id)`` pairs live in ``scope``; when this returns other processes see them."""
        self._note([(fingerprint(kind, name), LIVES.get(kind, DEFAULT_LIFE)) for kind, name in pairs], scope, now)

    def _note(self, keys: Iterable[tuple[int, int]], scope: str, now: float) -> None:
        """``keys``, each with its life, are in ``scope``."""
        if not self._synced_at <= now < self._synced_at + SYNC_SECONDS:
            self._sync(now)
        hour = int(now) // HOUR
        fresh = 0
        for key, life in keys:
            known = self._recent.get(key)
            if known is not None and known[0] == scope and known[2] >= life:
                if 0 <= (hour - known[1]) * RENEWALS <= life:
                    self._recent.move_to_end(key)
                    continue
                life = known[2]  # noqa: PLW2901 - it is not cut short
            self._missed.pop(key, None)
            row = (scope, hour, life)
            self._cache(key, row)
            self._enqueue(key, row)
            fresh += 1
        if fresh:
            self._flush(now, fresh)

    def forget(self, kind: str, id: str, now: float, scope: str | None = None) -> None:  # noqa: A002
        """Drop an id: it was deleted, or ``scope`` answered 404.

        With ``scope`` it is dropped only where it is still held to be there: another process may have found it
        elsewhere meanwhile. This process then reads it anew.
        """
        key = fingerprint(kind, id)
        self._recent.pop(key, None)
        if scope is not None:
            row = self._read(key, now)
            if row is None or self.canonical(row[0]) != self.canonical(scope):
                return
        self._enqueue(key, None)
        self._flush(now)

    def miss(self, kind: str, id: str, now: float) -> None:  # noqa: A002
        """Note that no scope knows ``id``; holds for 60 s, in this process."""
        key = fingerprint(kind, id)
        self._missed.pop(key, None)
        if len(self._missed) >= MISSES:
            del self._missed[next(iter(self._missed))]
        self._missed[key] = now

    def is_missed(self, kind: str, id: str, now: float) -> bool:  # noqa: A002
        """Whether ``id`` was looked for everywhere within the last 60 s, in vain."""
        if not self._missed:
            return False
        at = self._missed.get(fingerprint(kind, id))
        return at is not None and 0 <= now - at < MISS_SECONDS

    def count(self) -> int:
        """How many ids are stored: exact up to some 40,000, an estimate good to five per cent beyond."""
        database = self._file.opened
        if database is not None:
            with contextlib.suppress(StoreError):  # the next write will say what is wrong
                return database.count()
        return len(self._recent)

    def unite(self, one: str, other: str, now: float) -> None:
        """Remember that two scopes are one project; other processes see it within about a second."""
        if self.canonical(one) == self.canonical(other):
            return
        self._pending_unions.add((min(one, other), max(one, other)))
        self._draw_unions()
        self._flush(now)

    def canonical(self, scope: str) -> str:
        """The one name for a scope and all that were united with it: compare canonical names, on both sides.

        It is the first of them in the alphabet, so all processes agree, and need not be in the configuration any more.
        """
        return self.unions.get(scope, scope)

    def note_workspace(self, client: str, session: str | None, now: float) -> None:
        """Remember that a client (or one session of it) has made workspace things."""
        self._note(((owner_key(client, session), DEFAULT_LIFE),), "", now)

    def has_workspace(self, client: str, session: str | None, now: float) -> bool:
        """Whether it has, in any process; for ``affinity.responses: auto``."""
        return self._look_up(owner_key(client, session), now, renewed=True) is not None

    def _draw_unions(self) -> None:
        """Work out the canonical names from the pairs."""
        names: dict[str, str] = {}
        for one, other in self._unions | self._pending_unions:
            first, second = names.get(one, one), names.get(other, other)
            group = {one, other} | {name for name, head in names.items() if head in {first, second}}
            names.update(dict.fromkeys(group, min(group)))
        self.unions = names

    def _cache(self, key: int, row: Row) -> None:
        self._recent[key] = row
        self._recent.move_to_end(key)
        if len(self._recent) > self._settings.cache_entries:
            self._recent.popitem(last=False)

    def _enqueue(self, key: int, row: Row | None) -> None:
        self._pending.pop(key, None)  # the newest stand last
        self._pending[key] = row
        if len(self._pending) > PENDING:
            del self._pending[next(iter(self._pending))]

    def _refresh(self, key: int, row: Row, now: float) -> None:
        """It was seen: that is written later, with others."""
        self._cache(key, row)
        self._enqueue(key, row)
        if len(self._pending) >= FLUSH_AT:
            self._flush(now)

    def _find(self, key: int, hour: int, now: float) -> Row | None:
        """The row of a key that has not expired, from the cache, else from what waits, else from the file."""
        row = self._recent.get(key)
        if row is not None and hour - row[1] <= row[2]:
            self._recent.move_to_end(key)
            return row
        row = self._read(key, now)  # also when the cache says expired: another process may have seen it since
        if row is None or hour - row[1] > row[2]:
            return None
        self._cache(key, row)
        return row

    def _read(self, key: int, now: float) -> Row | None:
        if key in self._pending:
            return self._pending[key]
        database = self._file.database(now)
        if database is None or now < self._read_at <= now + RETRY_SECONDS[1]:
            return None
        try:
            return database.get(key)
        except StoreError as error:
            self._read_at = now + RETRY_SECONDS[1]
            self._file.failed(error, now)
            return None

    def _flush(self, now: float, fresh: int = 0) -> None:
        """Write what is pending, the ``fresh`` last rows at any rate, unless writing failed a moment ago."""
        if now < self._write_at <= now + RETRY_SECONDS[1]:
            return
        database = self._file.database(now)
        if database is None:
            self._pending.clear()  # the cache is all there is
            return
        if database.is_locked_out:
            return  # it goes with the next call
        try:
            self._write(database, int(now) // HOUR, max(fresh, BATCH))
        except StoreError as error:
            self._write_at = now + self._retry_after
            self._retry_after = min(self._retry_after * 2, RETRY_SECONDS[1])
            self._file.failed(error, now)
        else:
            self._retry_after = RETRY_SECONDS[0]
            self._file.worked()

    def _write(self, database: Database, hour: int, size: int = BATCH) -> None:
        """One transaction, the newest first: after a long wait the rest takes its turns."""
        pending = self._pending
        batch = list(pending.items() if len(pending) <= size else islice(reversed(pending.items()), size))
        database.write(batch, self._pending_unions, hour)
        if len(batch) == len(pending):
            pending.clear()
        else:
            for key, _ in batch:
                del pending[key]
        if self._pending_unions:
            self._unions |= self._pending_unions
            self._pending_unions.clear()

    def _sync(self, now: float) -> None:
        """Once a second: is the file still there, what did others say of scopes; and write what waits."""
        self._synced_at = now
        self._file.check(now)
        self._load_unions(now)
        if self._pending or self._pending_unions:
            self._flush(now)

    def _load_unions(self, now: float) -> None:
        database = self._file.database(now)
        if database is None:
            return
        if self._file.openings != self._openings:
            self._openings = self._file.openings
            # It may be a new file, so what is best known goes into it.
            self._pending = {**dict(islice(reversed(self._recent.items()), BATCH)), **self._pending}
        try:
            unions = set(database.unions())
        except StoreError as error:
            self._file.failed(error, now)
            return
        self._pending_unions |= self._unions - unions
        if not unions <= self._unions:
            self._unions |= unions
            self._draw_unions()

    def reopen(self, now: float) -> None:
        """Close the file and open it again, as after a repair of the disk. What the cache holds is kept."""
        self._file.open(now)
        self._sync(now)

    def close(self) -> None:
        """Write what is pending and let go of the file; the next use opens it again. May wait a second for a lock."""
        database = self._file.opened
        if database is not None:
            database.settle()
            for _ in range(CLOSING_TRIES):
                with contextlib.suppress(StoreError):
                    while self._pending or self._pending_unions:
                        self._write(database, int(self._synced_at) // HOUR)
                    break
        self._file.close()
