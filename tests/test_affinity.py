"""Ids are remembered: across restarts, between processes, and through everything that can befall a file."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.config import AffinitySettings
from relay.scopes import affinity, store, storefile, tables
from relay.scopes.affinity import LIVES, AffinityStore, fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parent.parent
NOW = 1_800_000_000.0
HOUR = 3600


class Stores:
    """Opens stores on one file, and closes them at the end of the test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.opened: list[AffinityStore] = []

    def open(self, *, path: Path | str | None = None, now: float = NOW, **changes: Any) -> AffinityStore:
        opened = AffinityStore.open(AffinitySettings(path=str(path or self.path), **changes), now)
        self.opened.append(opened)
        return opened

    def query(self, sql: str) -> list[Any]:
        with contextlib.closing(sqlite3.connect(self.path)) as connection, connection:
            return connection.execute(sql).fetchall()


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    made = Stores(tmp_path / "ids.db")
    yield made
    for opened in made.opened:
        opened.close()


def store_many(ids: AffinityStore, count: int, kind: str = "file", now: float = NOW) -> list[tuple[str, str]]:
    pairs = [(kind, f"{kind}-{number}") for number in range(count)]
    for at in range(0, count, 1000):
        ids.remember(pairs[at : at + 1000], "one", now)
    return pairs


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    records = [record for record in caplog.records if record.name == "passthrough.server"]
    return [record.getMessage() for record in records if record.levelno >= logging.WARNING]


def run(script: str, *arguments: object) -> subprocess.Popen[str]:
    """Start another process that has the rooms imported, and its arguments as ``argv``."""
    head = "import os, sys, time; from relay.config import AffinitySettings\n"
    head += "from relay.scopes.affinity import AffinityStore\n"
    command = [sys.executable, "-W", "error", "-c", head + script, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    return out


# What is remembered


def test_an_id_is_found_where_it_was_made(stores: Stores) -> None:
    ids = stores.open()
    ids.remember([("file", "file-a"), ("batch", "batch_b")], "one", NOW)
    ids.remember([("file", "file-c")], "two", NOW)
    assert [ids.lookup("file", "file-a", NOW), ids.lookup("batch", "batch_b", NOW)] == ["one", "one"]
    assert ids.lookup("file", "file-c", NOW) == "two"
    assert ids.lookup("file", "file-d", NOW) is None
    assert ids.count() == 3


def test_the_last_word_counts(stores: Stores) -> None:
    ids, other = stores.open(), stores.open(cache_entries=0)
    for scope in ("one", "two", "two", "one"):
        ids.remember([("file", "file-a")], scope, NOW)
        assert (ids.lookup("file", "file-a", NOW), other.lookup("file", "file-a", NOW)) == (scope, scope)


def test_ids_outlive_the_process(stores: Stores) -> None:
    ids = stores.open()
    ids.remember([("response", "resp_1")], "one", NOW)
    ids.close()
    assert stores.open().lookup("response", "resp_1", NOW) == "one"


def test_a_closed_store_opens_again_when_it_is_used(stores: Stores) -> None:
    ids = stores.open()
    ids.close()
    assert ids.count() == 0
    ids.remember([("file", "file-a")], "one", NOW)
    assert stores.query("SELECT count(*) FROM resources") == [(1,)]


KINDS = [  # made as, asked for as, whether that is the same thing
    ("file", "vector_store_file", "file-abc", True),
    ("message", "response_item", "msg_abc", True),
    ("file", "client_secret", "file-abc", False),  # a file's id lets nobody in
    ("client_secret", "file", "ek_abc", False),
    ("voice", "model", "echo", False),  # names without a prefix
    ("client_secret", "client_secret", "ek_abc", True),
    ("workspace", "file", "1:a:", False),
]


@pytest.mark.parametrize(("made", "asked", "name", "same"), KINDS)
def test_a_prefix_tells_the_kind_and_other_ids_are_apart(
    stores: Stores, made: str, asked: str, name: str, same: bool
) -> None:
    ids = stores.open()
    ids.remember([(made, name)], "one", NOW)
    assert ids.lookup(asked, name, NOW) == ("one" if same else None)


@pytest.mark.parametrize("name", ["", "é", "\ud800", "a\0b", "x" * 1_000_000], ids=ascii)
def test_any_string_can_be_an_id(stores: Stores, name: str) -> None:
    ids = stores.open(cache_entries=0)
    ids.remember([("encrypted_blob", name)], "one", NOW)
    assert ids.lookup("encrypted_blob", name, NOW) == "one"
    assert ids.lookup("encrypted_blob", name + "x", NOW) is None


def test_neither_ids_nor_secrets_stand_in_the_file(stores: Stores) -> None:
    ids = stores.open()
    names = [("client_secret", "ek_0123456789"), ("encrypted_blob", "gAAAAABo" * 50), ("file", "file-0123456789")]
    ids.remember(names, "scope-name", NOW)
    ids.note_workspace("alice-client", "bob-session", NOW)
    stored = b"".join(path.read_bytes() for path in stores.path.parent.iterdir())
    assert b"scope-name" in stored  # so what is not found below would have been
    for secret in (b"ek_01234", b"gAAAAABo", b"file-0123", b"alice", b"bob"):
        assert secret not in stored


def test_keys_are_the_same_in_every_process_and_version() -> None:
    """They are stored: changing how they are made would make every file forget."""
    assert fingerprint("file", "file-abc") == fingerprint("batch", "file-abc") == -7946220054128502195
    assert fingerprint("client_secret", "ek_abc") == -7011372764554886922


def test_more_ids_than_a_batch_are_written_at_once(stores: Stores) -> None:
    ids, other = stores.open(), stores.open()
    pairs = [("file", f"file-{number}") for number in range(affinity.BATCH * 2)]
    ids.remember(pairs, "one", NOW)
    assert all(other.lookup(kind, name, NOW) == "one" for kind, name in pairs)


def test_what_is_known_is_not_written_again(stores: Stores) -> None:
    ids = stores.open()
    ids.remember([("file", "file-a")], "one", NOW)
    stores.query("DELETE FROM resources")
    ids.remember([("file", "file-a")], "one", NOW + HOUR)
    assert stores.query("SELECT * FROM resources") == []
    ids.remember([("file", "file-a")], "one", NOW + 60 * 24 * HOUR)  # but after an eighth of its life it is
    assert len(stores.query("SELECT * FROM resources")) == 1


def test_the_cache_is_bounded_and_keeps_what_is_used(stores: Stores) -> None:
    ids = stores.open(cache_entries=3)
    for name in ("file-a", "file-b", "file-c"):
        ids.remember([("file", name)], "one", NOW)
    ids.lookup("file", "file-a", NOW)
    ids.remember([("file", "file-d")], "one", NOW)
    assert set(ids._recent) == {fingerprint("file", name) for name in ("file-a", "file-c", "file-d")}


# How long


@pytest.mark.parametrize("kind", [*LIVES, "file", "something_new"])
def test_an_id_is_kept_for_its_kinds_life_after_it_was_last_seen(stores: Stores, kind: str) -> None:
    life = LIVES.get(kind, affinity.DEFAULT_LIFE) * HOUR
    for cache_entries in (0, 100):
        ids = stores.open(cache_entries=cache_entries)
        ids.remember([(kind, "x_a"), (kind, "x_b")], "one", NOW)
        assert ids.lookup(kind, "x_a", NOW + life - 1) == "one"
        assert ids.lookup(kind, "x_b", NOW + life + HOUR) is None


def test_use_renews_an_id(stores: Stores) -> None:
    ids, other = stores.open(), stores.open()
    ids.remember([("response", "resp_a")], "one", NOW)
    for day in range(0, 100, 20):
        assert ids.lookup("response", "resp_a", NOW + day * 24 * HOUR) == "one"
    ids.lookup("file", "file-x", NOW + 80 * 24 * HOUR + 2)  # a renewal is written with others, or a second later
    assert other.lookup("response", "resp_a", NOW + 100 * 24 * HOUR) == "one"


def test_use_does_not_renew_a_secret(stores: Stores) -> None:
    ids = stores.open()
    ids.remember([("client_secret", "ek_a")], "one", NOW)
    for hours in (1, 2, 3):
        assert ids.lookup("client_secret", "ek_a", NOW + hours * HOUR) == "one"
    assert ids.lookup("client_secret", "ek_a", NOW + 4 * HOUR) is None


def test_what_another_process_has_renewed_is_not_expired(stores: Stores) -> None:
    ids, other = stores.open(), stores.open()
    ids.remember([("response", "resp_a")], "one", NOW)
    other.remember([("response", "resp_a")], "one", NOW + 20 * 24 * HOUR)
    assert ids.lookup("response", "resp_a", NOW + 40 * 24 * HOUR) == "one"


def test_many_renewals_are_written_together(stores: Stores) -> None:
    pairs = [("response", f"resp_{number}") for number in range(affinity.FLUSH_AT)]
    ids = stores.open()
    ids.remember(pairs, "one", NOW)
    later = NOW + 20 * 24 * HOUR
    ids.lookup("file", "file-x", later)
    for pair in pairs:
        ids.lookup(*pair, later)
    assert stores.query("SELECT DISTINCT seen FROM resources") == [(int(later) // HOUR,)]


def test_a_clock_that_jumps_ahead_and_back_loses_nothing_that_is_not_swept(stores: Stores) -> None:
    ids = stores.open()
    ids.remember([("response", "resp_a")], "one", NOW)
    assert ids.lookup("response", "resp_a", NOW + 400 * 24 * HOUR) is None
    assert ids.lookup("response", "resp_a", NOW) == "one"


def test_rows_from_the_future_are_pulled_back_to_the_present(stores: Stores) -> None:
    ids = stores.open()
    ids.remember([("response", f"resp_{number}") for number in range(100)], "one", NOW + 10**9)
    for _ in range(3):  # the first sweep begins anywhere
        fill(ids, store.SWEEP_EVERY, NOW)
    assert stores.query("SELECT max(seen) FROM resources") == [(int(NOW) // HOUR,)]
    again = stores.open()
    assert again.lookup("response", "resp_0", NOW) == "one"
    assert again.lookup("response", "resp_0", NOW + 60 * 24 * HOUR) is None


@pytest.mark.parametrize("kind", ["file", "client_secret"])
def test_a_clock_that_went_back_writes_again(stores: Stores, kind: str) -> None:
    ids = stores.open()
    ids.remember([(kind, "x")], "one", NOW)
    ids.remember([(kind, "x")], "one", NOW - 1000 * HOUR)
    assert stores.query("SELECT seen FROM resources") == [(int(NOW) // HOUR - 1000,)]


# Bounds


def fill(ids: AffinityStore, count: int, now: float) -> list[tuple[str, str]]:
    pairs = [("file", f"file-{random.getrandbits(64):x}") for _ in range(count)]
    for number, pair in enumerate(pairs):
        ids.remember([pair], "one", now + number / 1000)
    return pairs


@pytest.fixture
def _undisturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log is not begun anew under way: else rows wait for the disk, and come without their sweeps."""
    monkeypatch.setattr(store, "LOG_PAGES", 1 << 30)


@pytest.mark.usefixtures("_undisturbed")
@pytest.mark.parametrize("bound", [10, 100, 1000, 3000, 6000])
def test_the_oldest_go_when_there_are_too_many(stores: Stores, bound: int) -> None:
    ids, other = stores.open(max_entries=bound), stores.open(cache_entries=0)
    steps = 8
    written = [fill(ids, bound // 2, NOW + step * 24 * HOUR) for step in range(steps)]
    ids.close()
    (count,) = stores.query("SELECT count(*) FROM resources")[0]
    assert bound * 0.85 - 1 <= count <= bound * 1.15 + store.SWEEP_EVERY
    now = NOW + steps * 24 * HOUR
    kept = [sum(other.lookup(*pair, now) is not None for pair in pairs) / len(pairs) for pairs in written]
    assert kept[-1] == 1
    assert max(kept[:4], default=0) <= 0.2


@pytest.mark.usefixtures("_undisturbed")
@pytest.mark.parametrize("at_once", [100, 700, 3000])
def test_the_bound_holds_for_ids_that_come_in_crowds(stores: Stores, at_once: int) -> None:
    ids = stores.open(max_entries=2000)
    for step in range(12_000 // at_once):
        pairs = [("file", f"file-{step}-{number}") for number in range(at_once)]
        ids.remember(pairs, "one", NOW + step)
    ids.close()
    assert stores.query("SELECT count(*) FROM resources")[0][0] <= 2300 + at_once // 2


@pytest.mark.usefixtures("_undisturbed")
def test_a_lower_bound_is_reached_soon(stores: Stores) -> None:
    ids = stores.open()
    store_many(ids, 20_000)
    ids.close()
    smaller = stores.open(max_entries=2000)
    fill(smaller, 6000, NOW + HOUR)
    smaller.close()
    assert stores.query("SELECT count(*) FROM resources")[0][0] <= 2300


@pytest.mark.usefixtures("_undisturbed")
def test_no_call_sweeps_more_than_a_window(stores: Stores) -> None:
    ids = stores.open(max_entries=1000)
    store_many(ids, 20_000)
    left = [stores.query("SELECT count(*) FROM resources")[0][0]]
    for _ in range(5):
        fill(ids, store.SWEEP_EVERY, NOW)
        left.append(stores.query("SELECT count(*) FROM resources")[0][0])
    assert all(before - after <= store.WINDOW for before, after in itertools.pairwise(left))


@pytest.mark.usefixtures("_undisturbed")
def test_what_expired_is_swept_away(stores: Stores) -> None:
    ids = stores.open()
    store_many(ids, 1500, "client_secret")
    fill(ids, 6 * store.SWEEP_EVERY, NOW + 10 * HOUR)
    assert stores.query("SELECT count(*) FROM resources") == [(6 * store.SWEEP_EVERY,)]


@pytest.mark.parametrize("size", [0, 1, 500, 20_000])
def test_the_count_is_exact(stores: Stores, size: int) -> None:
    ids = stores.open()
    store_many(ids, size)
    assert ids.count() == size


@pytest.mark.parametrize("size", [513, 5000, 20_000])
def test_the_count_of_a_large_file_is_near(stores: Stores, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "COUNTED_PAGES", 0)
    ids = stores.open()
    store_many(ids, size)
    assert ids.count() == pytest.approx(size, rel=0.3)


def test_the_count_of_a_file_that_was_large_is_exact(stores: Stores) -> None:
    """Pages that are free hold no rows."""
    ids = stores.open()
    store_many(ids, (store.COUNTED_PAGES + 1) * 200)
    ids.close()
    with contextlib.closing(sqlite3.connect(stores.path)) as connection, connection:
        connection.execute("DELETE FROM resources WHERE key NOT IN (SELECT key FROM resources ORDER BY key LIMIT 700)")
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
    assert pages > store.COUNTED_PAGES
    assert stores.open().count() == 700


@pytest.mark.usefixtures("_undisturbed")
def test_the_oldest_of_a_large_file_go_by_estimate(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "COUNTED_PAGES", 0)
    ids = stores.open(max_entries=3000)
    for step in range(6):
        fill(ids, 1500, NOW + step * 24 * HOUR)
    ids.close()
    assert stores.query("SELECT count(*) FROM resources")[0][0] == pytest.approx(3000, rel=0.4)


def test_memory_has_a_bound_of_its_own() -> None:
    assert storefile.StoreFile(None, 10**7)._bound == storefile.MEMORY_ENTRIES
    assert storefile.StoreFile(":memory:", 10)._bound == 10


# Deleted, missed, united


def test_forgotten_in_every_process(stores: Stores) -> None:
    ids, other = stores.open(), stores.open()
    ids.remember([("file", "file-a"), ("file", "file-b")], "one", NOW)
    ids.forget("file", "file-a", NOW)
    assert ids.lookup("file", "file-a", NOW) is None
    assert other.lookup("file", "file-a", NOW) is None
    assert other.lookup("file", "file-b", NOW) == "one"


def test_a_404_from_an_old_place_does_not_forget_the_new_one(stores: Stores) -> None:
    ids, other = stores.open(), stores.open()
    ids.remember([("file", "file-a")], "one", NOW)
    other.remember([("file", "file-a")], "two", NOW)
    assert ids.lookup("file", "file-a", NOW) == "one"  # its cache does not know
    ids.forget("file", "file-a", NOW, scope="one")
    assert ids.lookup("file", "file-a", NOW) == "two"
    ids.forget("file", "file-a", NOW, scope="two")
    assert ids.lookup("file", "file-a", NOW) is None
    ids.forget("file", "file-a", NOW, scope="two")  # nothing there: nothing happens


def test_a_404_from_another_name_of_the_scope_forgets(stores: Stores) -> None:
    ids = stores.open()
    ids.remember([("file", "file-a")], "two", NOW)
    ids.unite("one", "two", NOW)
    ids.forget("file", "file-a", NOW, scope="one")
    assert ids.lookup("file", "file-a", NOW) is None


def test_a_miss_holds_for_a_minute(stores: Stores) -> None:
    ids = stores.open()
    assert not ids.is_missed("file", "file-a", NOW)
    ids.miss("file", "file-a", NOW)
    assert ids.is_missed("file", "file-a", NOW + 59.9)
    assert not ids.is_missed("file", "file-b", NOW)
    assert not ids.is_missed("file", "file-a", NOW + 60)
    assert not ids.is_missed("file", "file-a", NOW - 1)  # the clock went back: better to look again


def test_what_is_found_is_no_longer_missed(stores: Stores) -> None:
    ids = stores.open()
    ids.miss("file", "file-a", NOW)
    ids.miss("file", "file-b", NOW)
    ids.remember([("file", "file-a")], "one", NOW)
    assert not ids.is_missed("file", "file-a", NOW)
    assert ids.is_missed("file", "file-b", NOW)


def test_misses_are_bounded_and_the_oldest_go(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(affinity, "MISSES", 3)
    ids = stores.open()
    for name in ("a", "b", "c", "a", "d"):
        ids.miss("file", name, NOW)
    assert [name for name in "abcd" if ids.is_missed("file", name, NOW)] == ["a", "c", "d"]


def test_scopes_that_are_one_have_one_name_everywhere(stores: Stores) -> None:
    ids, other = stores.open(), stores.open()
    ids.remember([("file", "file-a")], "c", NOW)
    ids.unite("c", "b", NOW)
    other.unite("b", "a", NOW)
    later = NOW + 1
    assert ids.lookup("file", "file-a", later) == other.lookup("file", "file-a", later) == "a"
    assert [ids.canonical(name) for name in "abcd"] == [other.canonical(name) for name in "abcd"] == list("aaad")
    again = stores.open()
    assert again.canonical("c") == "a"


def test_uniting_what_is_one_writes_nothing(stores: Stores) -> None:
    ids = stores.open()
    for pair in (("a", "b"), ("b", "a"), ("a", "a"), ("b", "b")):
        ids.unite(*pair, NOW)
    assert len(stores.query("SELECT * FROM unions")) == 1


NAMES = st.sampled_from("abcdefgh")


@given(st.lists(st.tuples(NAMES, NAMES), max_size=12))
@settings(deadline=None, max_examples=50)
def test_unions_are_drawn_as_a_plain_search_draws_them(pairs: list[tuple[str, str]]) -> None:
    ids = AffinityStore(AffinitySettings(path=None))
    for one, other in pairs:
        ids.unite(one, other, NOW)
    for name in "abcdefgh":
        reached, found = {name}, set[str]()
        while reached != found:
            found = reached
            reached = found | {b for pair in pairs for a, b in (pair, pair[::-1]) if a in found}
        assert ids.canonical(name) == min(reached)
    ids.close()


def test_a_workspace_is_known_to_every_process(stores: Stores) -> None:
    ids, other = stores.open(), stores.open()
    assert not other.has_workspace("alice", None, NOW)
    ids.note_workspace("alice", None, NOW)
    assert other.has_workspace("alice", None, NOW)
    assert other.has_workspace("alice", "", NOW)


def test_sessions_have_workspaces_of_their_own(stores: Stores) -> None:
    ids = stores.open()
    ids.note_workspace("alice", "s1", NOW)
    known = [("alice", "s1"), ("alice", None), ("alice", "s2"), ("bob", "s1"), ("alices1", None), ("alices", "1")]
    assert [ids.has_workspace(*who, NOW) for who in known] == [True, False, False, False, False, False]


# A dict, whatever happens


OPERATIONS = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.sampled_from(["remember", "lookup", "forget", "forget_from", "tick", "close"]),
        st.sampled_from(["file-a", "file-b", "file-c", "file-d"]),
        st.sampled_from(["one", "two", "three"]),
    ),
    max_size=40,
)


@given(OPERATIONS)
@settings(deadline=None, max_examples=60)
def test_two_stores_on_one_file_are_one_dict(operations: list[tuple[int, str, str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        where = AffinitySettings(path=f"{folder}/ids.db", cache_entries=0)
        both = [AffinityStore.open(where, NOW) for _ in range(2)]
        truth: dict[str, str] = {}
        now = NOW
        for which, operation, name, scope in operations:
            ids = both[which]
            if operation == "remember":
                ids.remember([("file", name)], scope, now)
                truth[name] = scope
            elif operation == "forget":
                ids.forget("file", name, now)
                truth.pop(name, None)
            elif operation == "forget_from":
                ids.forget("file", name, now, scope=scope)
                if truth.get(name) == scope:
                    del truth[name]
            elif operation == "close":
                ids.close()
            now += operation == "tick"
            assert [store.lookup("file", name, now) for store in both] == [truth.get(name)] * 2
        for ids in both:
            ids.close()


@given(OPERATIONS, st.sampled_from([1, 2, 100]))
@settings(deadline=None, max_examples=60)
def test_a_cache_answers_only_what_was_true(operations: list[tuple[int, str, str, str]], entries: int) -> None:
    """It may lag behind the other process, never behind its own word; and the file itself has one truth."""
    with tempfile.TemporaryDirectory() as folder:
        where = AffinitySettings(path=f"{folder}/ids.db", cache_entries=entries)
        both = [AffinityStore.open(where, NOW) for _ in range(2)]
        said: dict[str, set[str]] = {}
        for which, operation, name, scope in operations:
            ids = both[which]
            if operation == "remember":
                ids.remember([("file", name)], scope, NOW)
                said.setdefault(name, set()).add(scope)
                assert ids.lookup("file", name, NOW) == scope
            elif operation == "forget":
                ids.forget("file", name, NOW)
                assert ids.lookup("file", name, NOW) is None
            elif operation == "forget_from":
                ids.forget("file", name, NOW, scope=scope)
                assert ids.lookup("file", name, NOW) != scope
            elif operation == "close":
                ids.close()
            assert ids.lookup("file", name, NOW) in {None, *said.get(name, ())}
        for ids in both:
            ids.close()
        fresh = [AffinityStore.open(where, NOW) for _ in range(2)]
        for name in said:
            first, second = (ids.lookup("file", name, NOW) for ids in fresh)
            assert first == second
        for ids in fresh:
            ids.close()


# Several processes

WRITER = """
ids = AffinityStore.open(AffinitySettings(path=sys.argv[1]), time.time())
for number in range(int(sys.argv[3])):
    ids.remember([("file", f"file-{sys.argv[2]}-{number}")], f"scope-{sys.argv[2]}", time.time())
    print(number, flush=True)
ids.close()
"""


def test_four_processes_write_at_once_and_nothing_is_lost(stores: Stores) -> None:
    """They also create and migrate the file at once."""
    writers = [run(WRITER, stores.path, name, 300) for name in "abcd"]
    assert [len(finish(writer).split()) for writer in writers] == [300] * 4
    ids = stores.open(now=time.time())
    for name in "abcd":
        found = {ids.lookup("file", f"file-{name}-{number}", time.time()) for number in range(300)}
        assert found == {f"scope-{name}"}
    assert stores.query("SELECT count(*) FROM resources") == [(1200,)]


@pytest.mark.parametrize("queries", [1, 2, 3])
def test_a_file_that_another_makes_meanwhile_is_no_strangers(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, queries: int
) -> None:
    """Whichever query of ours it comes before."""
    asked: list[str] = []
    value = store.Database._value

    def look(database: store.Database, query: str) -> Any:
        asked.append(query)
        if len(asked) == queries:
            with monkeypatch.context() as other:
                other.setattr(store.Database, "_value", value)
                store.Database(str(stores.path), 1000).close()
        return value(database, query)

    monkeypatch.setattr(store.Database, "_value", look)
    store.Database(str(stores.path), 1000).close()
    assert len(asked) >= queries


def test_what_was_stored_survives_a_killed_writer(stores: Stores, caplog: pytest.LogCaptureFixture) -> None:
    writer = run(WRITER, stores.path, "a", 10**9)
    assert writer.stdout is not None
    for _ in range(200):
        last = int(writer.stdout.readline())
    writer.send_signal(signal.SIGKILL)
    writer.communicate(timeout=30)
    ids = stores.open(now=time.time())
    assert all(ids.lookup("file", f"file-a-{number}", time.time()) for number in range(last + 1))
    assert warnings(caplog) == []


def test_a_fork_shares_the_file_and_no_connection(stores: Stores) -> None:
    script = """
ids = AffinityStore.open(AffinitySettings(path=sys.argv[1]), time.time())
ids.remember([("file", "file-before")], "one", time.time())
opened = ids._file.opened
children = []
for name in ("x", "y"):
    child = os.fork()
    if not child:
        assert opened.closed
        assert ids.lookup("file", "file-before", time.time()) == "one"
        for number in range(200):
            ids.remember([("file", f"file-{name}{number}")], name, time.time())
        ids.close()
        os._exit(0)
    children.append(child)
assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
ids.remember([("file", "file-after")], "one", time.time())
print(ids.count())
ids.close()
"""
    assert finish(run(script, stores.path)) == "402\n"


def test_before_a_fork_files_are_closed_and_then_opened_again(stores: Stores) -> None:
    ids = stores.open(cache_entries=0)
    ids.remember([("file", "file-a")], "one", NOW)
    before = ids._file.opened
    store._close_all()
    assert before is not None
    assert before.closed
    assert ids._file.opened is None
    assert ids.lookup("file", "file-a", NOW) == "one"
    assert ids._file.opened is not None


def test_memory_is_kept_across_a_fork() -> None:
    script = """
ids = AffinityStore.open(AffinitySettings(path=None, cache_entries=0), time.time())
ids.remember([("file", "file-a")], "one", time.time())
child = os.fork()
found = ids.lookup("file", "file-a", time.time())
if not child:
    os._exit(0 if found == "one" else 1)
print(os.waitpid(child, 0)[1], found)
ids.close()
"""
    assert finish(run(script)) == "0 one\n"


def test_sqlite_is_imported_when_it_is_needed() -> None:
    script = """
print("sqlite3" in sys.modules)
AffinityStore.open(AffinitySettings(path=None), time.time()).close()
print("sqlite3" in sys.modules)
"""
    assert finish(run(script)).split() == ["False", "True"]


# Trouble at start


def works(ids: AffinityStore, now: float = NOW) -> bool:
    ids.remember([("file", "file-w")], "one", now)
    return ids.lookup("file", "file-w", now) == "one" and ids.lookup("file", "file-v", now) is None


PLACES: list[tuple[str, str, str]] = [  # the path below the test's folder, what the warning names
    ("a missing folder", "missing/ids.db", "make the folder"),
    ("below a file", "plain/ids.db", "make the folder"),
    ("a folder", "folder", "unable to open"),
    ("somebody else's file", "other.db", "belongs to another program"),
    ("a newer version's file", "newer.db", "upgrade"),
]


@pytest.mark.parametrize(("place", "advice"), [row[1:] for row in PLACES], ids=[row[0] for row in PLACES])
@pytest.mark.parametrize("cache_entries", [0, 100])
def test_where_no_file_can_be_used_memory_is(
    stores: Stores, caplog: pytest.LogCaptureFixture, place: str, advice: str, cache_entries: int
) -> None:
    folder = stores.path.parent
    (folder / "plain").write_text("a file")
    (folder / "folder").mkdir(mode=0o755)
    with contextlib.closing(sqlite3.connect(folder / "other.db")) as other:
        other.execute("CREATE TABLE theirs (x)")
    stores.open(path=folder / "newer.db").close()
    with contextlib.closing(sqlite3.connect(folder / "newer.db")) as newer, newer:
        newer.execute("INSERT INTO migrations VALUES ('create_wonders')")
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    ids = stores.open(path=folder / place, cache_entries=cache_entries)
    assert works(ids)
    (warning,) = warnings(caplog)
    assert place in warning
    assert advice in warning
    assert "memory" in warning
    ids.close()
    assert {path: path.read_bytes() for path in before} == before
    assert (folder / "folder").stat().st_mode & 0o777 == 0o755


def test_a_folder_that_is_made_later_is_used_within_a_minute(stores: Stores, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    folder = stores.path.parent / "later"
    ids = stores.open(path=folder / "ids.db")
    ids.remember([("file", "file-a")], "one", NOW)
    ids.lookup("file", "file-a", NOW + storefile.REOPEN_SECONDS + 1)
    folder.mkdir()
    assert not (folder / "ids.db").exists()
    ids.lookup("file", "file-a", NOW + 2 * storefile.REOPEN_SECONDS + 2)
    assert stores.open(path=folder / "ids.db").lookup("file", "file-a", NOW) == "one"  # what memory knew is in it
    assert len(warnings(caplog)) == 1
    assert caplog.messages[-1].endswith("can be used again")


def test_without_sqlite_the_cache_remembers(
    stores: Stores, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sqlite3", None)
    ids = stores.open()
    assert works(ids)
    ids.unite("one", "another", NOW)
    ids.note_workspace("alice", None, NOW + 2)
    assert ids.has_workspace("alice", None, NOW + 2)
    assert ids.lookup("file", "file-w", NOW + 2) == "another"
    ids.forget("file", "file-w", NOW + 2)
    assert ids.lookup("file", "file-w", NOW + 2) is None
    assert ids.count() == 1
    assert len(warnings(caplog)) == 1
    assert "no sqlite3" in warnings(caplog)[0]


def test_a_file_locked_at_start_is_used_once_it_is_free(
    stores: Stores, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storefile.StoreFile.open, "__defaults__", (0.02,))
    with contextlib.closing(sqlite3.connect(stores.path)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        ids = stores.open()
        assert works(ids)
        assert "locked" in warnings(caplog)[0]
    later = NOW + storefile.REOPEN_SECONDS
    assert works(ids, later)
    assert stores.query("SELECT count(*) FROM resources") == [(1,)]


# Damage


def make_damaged(stores: Stores, damage: Callable[[Path], None], rows: int = 3000) -> bytes:
    ids = stores.open()
    store_many(ids, rows)
    ids.close()
    damage(stores.path)
    return stores.path.read_bytes()


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def write_garbage(path: Path) -> None:
    path.write_bytes(b"this is no database " * 1000)


def write_a_little_garbage(path: Path) -> None:
    path.write_bytes(b"garbage")


def flip_a_page(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096 * 8)
        file.write(b"\xff" * 4096)


def miscount_free_pages(path: Path) -> None:
    """Nothing that a query would stumble over: only the check sees it."""
    with path.open("r+b") as file:
        file.seek(36)
        file.write((5).to_bytes(4, "big"))


def execute(sql: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(sql)

    damage.__name__ = sql
    return damage


DAMAGES = [
    truncate,
    write_garbage,
    write_a_little_garbage,
    flip_a_page,
    miscount_free_pages,
    execute("DROP TABLE resources"),
    execute("ALTER TABLE resources DROP COLUMN life"),
    execute("DROP TABLE migrations"),
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_file_is_set_aside_at_start(
    stores: Stores, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    content = make_damaged(stores, damage)
    ids = stores.open()
    aside = Path(f"{stores.path}.damaged-{int(NOW)}")
    (warning,) = warnings(caplog)
    assert str(aside) in warning
    assert aside.read_bytes()[: len(content)][100:] == content[100:]  # sqlite counts openings in the header
    assert works(ids)
    assert stores.query("SELECT count(*) FROM resources") == [(1,)]


def test_damage_that_was_not_seen_at_start_is_found_when_it_is_read(
    stores: Stores, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_damaged(stores, lambda _: None, rows=20_000)
    monkeypatch.setattr(store, "QUICK_CHECK_BYTES", 0)
    monkeypatch.setattr(store, "PROBES", 1)
    ids = stores.open(cache_entries=0)
    with stores.path.open("r+b") as file:
        for page in range(4, stores.path.stat().st_size // 4096):
            file.seek(4096 * page)
            file.write(b"\xff" * 4096)
    found = {ids.lookup("file", f"file-{number}", NOW) for number in range(500)}
    assert None in found
    assert len(warnings(caplog)) == 1
    assert "damaged" in warnings(caplog)[0]
    assert works(ids, NOW + 2)


def test_a_disk_that_damages_every_file_is_given_up(stores: Stores, caplog: pytest.LogCaptureFixture) -> None:
    ids = stores.open()
    for _ in range(3):
        ids._file.failed(tables.Damaged("malformed"), NOW)
        assert works(ids)
    assert len(list(stores.path.parent.glob("*.damaged-*[0-9]"))) == 1
    assert len(warnings(caplog)) == 2
    assert "look after the disk" in warnings(caplog)[1]
    ids._file.failed(tables.Damaged("malformed"), NOW + 2 * storefile.REOPEN_SECONDS)  # another matter by then


def test_two_files_damaged_in_one_second_are_both_kept(stores: Stores) -> None:
    for number in (1, 2, 3):
        stores.path.write_bytes(b"garbage" * number)
        stores.open().close()
    kept = sorted(path.read_bytes() for path in stores.path.parent.glob("*.damaged-*"))
    assert kept == [b"garbage" * number for number in (1, 2, 3)]


def test_of_two_processes_that_find_damage_one_sets_it_aside(
    stores: Stores, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, other = stores.open(cache_entries=0), stores.open(cache_entries=0)
    for each in (ids, other):
        each._file.failed(tables.Damaged("malformed"), NOW)
    assert len(warnings(caplog)) == 1  # the other one sees that the file is no longer the one it has open
    ids.remember([("file", "file-a")], "one", NOW)
    assert other.lookup("file", "file-a", NOW) == "one"


def test_a_file_that_another_process_has_replaced_is_not_set_aside(stores: Stores) -> None:
    """It found the damage first; what lies there now is new."""
    stores.path.write_bytes(b"new and good")
    old = (0, 0)
    for identity in (old, None):
        assert storefile.set_aside(str(stores.path), identity, "damaged") is None
    assert stores.path.read_bytes() == b"new and good"
    ids = storefile.StoreFile(str(stores.path), 10)
    ids._set_aside(old, tables.Damaged("malformed"), NOW)
    assert stores.path.exists()


def test_a_damaged_file_that_cannot_be_renamed_stays_where_it_is(
    stores: Stores, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_damaged(stores, write_garbage)

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "rename", refuse)
    ids = stores.open()
    assert works(ids)
    assert "move it away" in warnings(caplog)[0]
    ids.lookup("file", "file-w", NOW + 2 * storefile.REOPEN_SECONDS)
    assert len(warnings(caplog)) == 1


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_was_removed_is_begun_anew_with_what_is_known(
    stores: Stores, caplog: pytest.LogCaptureFixture, replaced: bool
) -> None:
    ids = stores.open()
    ids.remember([("file", "file-a")], "two", NOW)
    ids.unite("one", "two", NOW)
    for tail in ("", "-wal", "-shm"):
        Path(f"{stores.path}{tail}").unlink()
    if replaced:
        stores.open()
    assert ids.lookup("file", "file-a", NOW + 1) == "one"
    assert "removed or replaced" in warnings(caplog)[0]
    other = stores.open(now=NOW + 1)
    assert other.lookup("file", "file-a", NOW + 1) == "one"


# Trouble later


def test_a_lock_is_not_waited_for_twice_and_nothing_is_lost(stores: Stores, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    ids, other = stores.open(cache_entries=0), stores.open()
    with contextlib.closing(sqlite3.connect(stores.path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        start = time.monotonic()
        for number in range(100):
            ids.remember([("file", f"file-{number}")], "one", NOW)
        ids.forget("file", "file-0", NOW)
        ids.unite("one", "a", NOW)
        assert time.monotonic() - start < 30 * store.BUSY_SECONDS  # it would be a hundred
        assert warnings(caplog) == []
        assert ids.lookup("file", "file-99", NOW) == "a"  # though nothing is cached
        assert ids.lookup("file", "file-0", NOW) is None
        ids.remember([("file", "file-x")], "one", NOW + 1)
        assert len(warnings(caplog)) == 1
    ids.remember([("file", "file-y")], "one", NOW + 2)
    assert other.lookup("file", "file-99", NOW + 3) == "a"
    assert other.count() == 101
    assert caplog.messages[-1].endswith("can be used again")


def test_what_waits_for_a_lock_is_bounded(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(affinity, "PENDING", 10)
    ids = stores.open()
    with contextlib.closing(sqlite3.connect(stores.path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        ids.remember([("file", f"file-{number}") for number in range(30)], "one", NOW)
        monkeypatch.setattr(affinity, "CLOSING_TRIES", 2)
        ids.close()  # writing fails here too
    assert set(ids._pending) == {fingerprint("file", f"file-{number}") for number in range(20, 30)}
    ids.close()


def test_a_lock_on_reading_is_no_error(stores: Stores) -> None:
    ids = stores.open(cache_entries=0)
    ids.remember([("file", "file-a")], "one", NOW)

    def refuse(_: int) -> None:
        raise tables.Busy("locked")

    database = ids._file.opened
    assert database is not None
    get, database.get = database.get, refuse  # type: ignore[assignment, method-assign]
    assert ids.lookup("file", "file-a", NOW) is None
    database.get = get  # type: ignore[method-assign]
    assert ids.lookup("file", "file-a", NOW) is None  # not asked again within the second
    assert ids.lookup("file", "file-a", NOW + 1) == "one"


def test_a_full_disk_costs_nothing_but_a_warning(stores: Stores, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    ids = stores.open()
    ids.remember([("file", "file-first")], "one", NOW)
    database = ids._file.opened
    assert database is not None
    (pages,) = database._connection.execute("PRAGMA max_page_count = 1").fetchone()  # that is: no more than there are
    now = NOW
    for number in range(500):
        now += 1
        ids.remember([("file", f"file-{number}")], f"scope-{number % 7}", now)
    assert len(warnings(caplog)) == 1
    assert "room" in warnings(caplog)[0]
    assert ids.lookup("file", "file-499", now) == "scope-2"
    database._connection.execute("PRAGMA max_page_count = 100000")
    ids.lookup("file", "file-first", now + 1)
    assert stores.query("SELECT count(*) FROM resources") == [(501,)]
    assert stores.open().lookup("file", "file-499", now) == "scope-2"
    assert caplog.messages[-1].endswith("can be used again")
    assert pages > 0


def test_a_file_that_may_not_grow_is_survived(stores: Stores) -> None:
    script = """
import logging, resource, signal
logging.basicConfig(stream=sys.stdout, format="%(message)s")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
ids = AffinityStore.open(AffinitySettings(path=sys.argv[1]), 1e9)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for number in range(300):
    ids.remember([("file", f"file-{number}")], "one", 1e9 + number)
assert all(ids.lookup("file", f"file-{number}", 1e9) == "one" for number in range(300))
ids.close()
"""
    (warning,) = finish(run(script, stores.path)).splitlines()
    assert "cannot use" in warning


def test_trouble_with_counting_or_uniting_is_no_error(stores: Stores) -> None:
    ids = stores.open()
    ids.remember([("file", "file-a")], "one", NOW)
    database = ids._file.opened
    assert database is not None
    database._connection.execute("PRAGMA writable_schema = 1")
    database._connection.execute("DELETE FROM sqlite_master")
    database._connection.execute("PRAGMA writable_schema = RESET")
    assert ids.count() == 1
    ids.lookup("file", "file-a", NOW + 1)  # reads the unions, finds no table, begins anew
    assert list(stores.path.parent.glob("*.damaged-*"))
    assert works(ids, NOW + 2)


# The file itself


@pytest.mark.parametrize("umask", [0o000, 0o777])
def test_nobody_else_may_read_it(stores: Stores, umask: int) -> None:
    before = os.umask(umask)
    try:
        ids = stores.open()
        ids.remember([("file", "file-a")], "one", NOW)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in stores.path.parent.iterdir()}
    assert modes == {"ids.db": 0o600, "ids.db-wal": 0o600, "ids.db-shm": 0o600}


def test_a_file_that_others_could_read_is_closed_to_them(stores: Stores) -> None:
    stores.open().close()
    stores.path.chmod(0o644)
    ids = stores.open()
    ids.remember([("file", "file-a")], "one", NOW)
    assert {path.stat().st_mode & 0o777 for path in stores.path.parent.iterdir()} == {0o600}


def test_a_relative_path_stays_where_it_was_at_start(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(stores.path.parent)
    ids = stores.open(path="here.db")
    monkeypatch.chdir("/")
    ids.reopen(NOW)
    assert (stores.path.parent / "here.db").exists()


def test_a_file_of_the_first_version_is_brought_up_to_date(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as past:
        past.setattr(tables, "MIGRATIONS", tables.MIGRATIONS[:1])
        past.setattr(tables, "SHAPE", tables.SHAPE[:2])
        old = store.Database(str(stores.path), 100)
        old.write([(fingerprint("file", "file-a"), ("one", int(NOW) // HOUR, 24))], [], int(NOW) // HOUR)
        old.close()
    assert stores.query("SELECT name FROM migrations") == [("create_resources",)]
    ids = stores.open()
    ids.unite("one", "a", NOW)
    assert ids.lookup("file", "file-a", NOW) == "a"
    assert stores.query("SELECT name FROM migrations ORDER BY name") == [("create_resources",), ("create_unions",)]


def test_a_migration_that_fails_leaves_the_file_as_it_was(
    stores: Stores, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create_half(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE half (x)")
        connection.execute("INSERT INTO half VALUES (1, 2, 3)")

    ids = stores.open()
    ids.remember([("file", "file-a")], "one", NOW)
    ids.close()
    with monkeypatch.context() as future:
        future.setattr(tables, "MIGRATIONS", (*tables.MIGRATIONS, create_half))
        assert works(stores.open())
    assert len(warnings(caplog)) == 1
    assert stores.query("SELECT name FROM sqlite_master WHERE name = 'half'") == []
    assert stores.open().lookup("file", "file-a", NOW) == "one"


def test_the_log_is_moved_into_the_table_by_a_thread(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "CHECKPOINT_ROWS", 50)
    monkeypatch.setattr(store, "LOG_PAGES", 40)
    ids = stores.open()
    threads = set()
    for number in range(2000):
        ids.remember([("file", f"file-{number}")], "one", NOW)
        threads |= {thread.name for thread in threading.enumerate()}
        if number % 50 == 0:
            database = ids._file.opened
            assert database is not None
            if database._checkpointer is not None:
                database._checkpointer.join(timeout=10)
    assert "affinity-checkpoint" in threads
    assert Path(f"{stores.path}-wal").stat().st_size < 200 * 4096  # 2,000 pages were written
    assert stores.path.stat().st_size > 8 * 4096


def test_while_a_checkpoint_locks_writers_out_nothing_waits_and_nothing_is_lost(stores: Stores) -> None:
    ids, other = stores.open(), stores.open()
    database = ids._file.opened
    assert database is not None
    database.is_locked_out = True
    ids.remember([("file", "file-a")], "one", NOW)
    assert other.lookup("file", "file-a", NOW) is None
    database.is_locked_out = False
    ids.remember([("file", "file-b")], "one", NOW)
    assert other.lookup("file", "file-a", NOW) == "one"


def test_a_file_system_without_shared_memory_is_not_used(
    stores: Stores, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = store.Database._value

    def answer(self: store.Database, query: str) -> Any:
        return "delete" if "journal_mode" in query else value(self, query)

    monkeypatch.setattr(store.Database, "_value", answer)
    assert works(stores.open())
    assert "local disk" in warnings(caplog)[0]


def test_a_scope_whose_number_was_never_committed_is_numbered_again(stores: Stores) -> None:
    ids, other = stores.open(), stores.open(cache_entries=0)
    database = ids._file.opened
    assert database is not None
    with pytest.raises(tables.StoreError):
        database.write([(1, ("lost", 0, 1)), (2, ("lost", 0, None))], [], 0)  # type: ignore[list-item]
    other.remember([("file", "file-a")], "other", NOW)
    ids.remember([("file", "file-b")], "lost", NOW)
    assert [other.lookup("file", name, NOW) for name in ("file-a", "file-b")] == ["other", "lost"]


def test_one_row_is_one_statement_and_more_are_one_transaction(stores: Stores) -> None:
    ids = stores.open()
    ids.remember([("file", "file-0")], "one", NOW)  # which also numbers its scope
    database = ids._file.opened
    assert database is not None
    said: list[str] = []
    database._connection.set_trace_callback(lambda statement: said.append(statement.split()[0]))
    ids.remember([("file", "file-a")], "one", NOW)
    ids.forget("file", "file-0", NOW)
    assert said == ["INSERT", "DELETE"]
    said.clear()
    ids.remember([("file", "file-b"), ("file", "file-c")], "one", NOW)
    assert said == ["BEGIN", "INSERT", "INSERT", "COMMIT"]
    said.clear()
    for number in range(store.SWEEP_EVERY):
        ids.remember([("file", f"file-{number}")], "one", NOW)
    assert said.count("BEGIN") == 1, "the row that a sweep comes with"
    assert said.index("SELECT") > said.index("BEGIN")


def test_a_commit_that_fails_leaves_no_transaction_open() -> None:
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("CREATE TABLE a (x PRIMARY KEY)")
        connection.execute("CREATE TABLE b (x REFERENCES a DEFERRABLE INITIALLY DEFERRED)")
        with pytest.raises(sqlite3.IntegrityError), tables.Transaction(connection):
            connection.execute("INSERT INTO b VALUES (1)")  # found wrong at COMMIT
        assert not connection.in_transaction
