"""The selector that tells at once: who is told of what, and that nobody is told of what happened to somebody else."""

from __future__ import annotations

import asyncio
import os
import select
import selectors
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from relay.wire.poller import Poller, PollerLoop, new_loop, selector_events

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
IN, OUT, HUP, ERR, RDHUP = select.EPOLLIN, select.EPOLLOUT, select.EPOLLHUP, select.EPOLLERR, select.EPOLLRDHUP


class Watched:
    """A poller, what it complained of, and pairs of sockets."""

    def __init__(self) -> None:
        self.complaints: list[dict[str, Any]] = []
        self.poller = Poller(self.complaints.append)
        self.told: list[tuple[str, int]] = []
        self.sockets: list[socket.socket] = []

    def pair(self) -> tuple[socket.socket, socket.socket]:
        near, far = socket.socketpair()
        self.sockets += [near, far]
        return near, far

    def watch(self, name: str, sock: socket.socket, then: Callable[[], object] = lambda: None) -> None:
        """Write down what is told of a socket, and do something more."""

        def tell(mask: int) -> None:
            self.told.append((name, mask))
            then()

        self.poller.watch(sock.fileno(), tell)

    def look(self) -> list[tuple[str, int]]:
        """What a look tells."""
        self.told.clear()
        assert self.poller.select(0) == []
        return self.told


@contextmanager
def watched() -> Iterator[Watched]:
    at = Watched()
    try:
        yield at
    finally:
        at.poller.close()
        for sock in at.sockets:
            sock.close()


def test_what_begins_is_told_once() -> None:
    with watched() as at:
        near, far = at.pair()
        at.watch("near", near)
        assert at.look() == [("near", OUT)]  # there is room, from the start
        assert at.look() == []
        far.send(b"some")
        assert at.look() == [("near", IN | OUT)]
        assert at.look() == []
        far.send(b"more")
        assert at.look() == [("near", IN | OUT)]
        far.close()
        assert at.look() == [("near", IN | OUT | HUP | RDHUP)]


def test_what_is_there_already_is_told() -> None:
    with watched() as at:
        near, far = at.pair()
        far.send(b"some")
        far.shutdown(socket.SHUT_WR)
        at.watch("near", near)
        assert at.look() == [("near", IN | OUT | RDHUP)]


def test_what_is_left_is_told_again_to_who_asks() -> None:
    with watched() as at:
        near, far = at.pair()
        far.send(b"some")
        at.watch("near", near)
        at.look()
        at.poller.again(near.fileno())
        assert at.look() == [("near", IN | OUT)]
        assert at.look() == []


def test_what_is_urgent_is_told() -> None:
    with watched() as at, socket.create_server(("127.0.0.1", 0)) as server:
        far = socket.create_connection(server.getsockname())
        near = server.accept()[0]
        at.sockets += [near, far]
        at.watch("near", near)
        at.look()
        far.send(b"!", socket.MSG_OOB)
        assert at.look() == [("near", OUT | select.EPOLLPRI)]


def test_who_is_forgotten_is_not_told() -> None:
    with watched() as at:
        near, far = at.pair()
        at.watch("near", near)
        at.poller.forget(near.fileno())
        at.poller.forget(near.fileno())
        far.send(b"some")
        assert at.look() == []


def test_all_others_are_returned() -> None:
    with watched() as at:
        one, far = at.pair()
        two, _ = at.pair()
        at.poller.register(one, READ, "one")
        at.poller.register(two, READ | WRITE, "two")
        at.watch("far", far)
        [(key, events)] = at.poller.select(0)
        assert (key.data, key.fileobj, events) == ("two", two, WRITE)
        at.poller.modify(two, READ, "two, reading")
        far.send(b"x")
        at.sockets[-1].send(b"y")
        found = {key.data: events for key, events in at.poller.select(0)}
        assert found == {"one": READ, "two, reading": READ}
        at.poller.unregister(two)
        assert [key.data for key, _ in at.poller.select(0)] == ["one"]
        assert set(at.poller.get_map()) == {one.fileno()}


@pytest.mark.parametrize("mask", [IN, OUT, IN | OUT, HUP, ERR, IN | HUP, OUT | ERR, IN | RDHUP, IN | OUT | ERR | HUP])
def test_ends_and_errors_wake_whoever_waits(mask: int) -> None:
    """As selectors.EpollSelector has it."""
    assert bool(selector_events(mask) & READ) == bool(mask & ~OUT)
    assert bool(selector_events(mask) & WRITE) == bool(mask & ~IN)


def renumbered(old: socket.socket, at: Watched) -> socket.socket:
    """Another socket, silent, under the number of one that is closed."""
    number = old.fileno()
    old.close()
    near, _ = at.pair()
    if near.fileno() != number:
        os.dup2(near.fileno(), number)
        near = socket.socket(fileno=number)
        at.sockets.append(near)
    return near


def test_nobody_is_told_of_what_happened_to_an_older_one_of_the_same_number() -> None:
    """Both were ready at the same look; who is told first closes the other, and opens another."""
    with watched() as at:
        first, far = at.pair()
        second, far_second = at.pair()

        def replace() -> None:
            at.poller.forget(second.fileno())
            at.watch("new", renumbered(second, at))

        at.watch("first", first, replace)
        at.watch("second", second)
        far.send(b"x")
        far_second.send(b"y")
        assert at.look() == [("first", IN | OUT)]
        assert at.look() == [("new", OUT)]


def test_nor_where_the_loop_waits_for_it() -> None:
    with watched() as at:
        first, far = at.pair()
        second, far_second = at.pair()

        def replace() -> None:
            at.poller.unregister(second)
            at.poller.register(renumbered(second, at), READ, "new")

        at.watch("first", first, replace)
        at.poller.register(second, READ, "second")
        far.send(b"x")
        far_second.send(b"y")
        assert at.look() == [("first", IN | OUT)]
        assert at.look() == []


def test_what_the_loop_waits_for_may_end_within_the_look() -> None:
    with watched() as at:
        first, far = at.pair()
        second, far_second = at.pair()
        at.poller.register(second, READ, "second")
        at.watch("first", first, lambda: at.poller.unregister(second))
        far_second.send(b"y")
        far.send(b"x")
        assert at.look() == [("first", IN | OUT)]


def test_who_fails_is_complained_of_and_the_others_are_told() -> None:
    with watched() as at:
        one, _ = at.pair()
        two, _ = at.pair()
        at.watch("one", one, lambda: 1 // 0)
        at.watch("two", two)
        assert sorted(at.look()) == [("one", OUT), ("two", OUT)]
        [complaint] = at.complaints
        assert isinstance(complaint["exception"], ZeroDivisionError)
        assert complaint["message"] == f"a watcher of descriptor {one.fileno()} failed"


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_end_of_the_process_is_nobody_s_failure(kind: type[BaseException]) -> None:
    def end() -> None:
        raise kind

    with watched() as at:
        one, _ = at.pair()
        at.watch("one", one, end)
        with pytest.raises(kind):
            at.poller.select(0)
        assert at.complaints == []


def test_what_is_more_than_one_look_takes_comes_with_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.wire.poller.MOST", 2)
    with watched() as at:
        for number in range(5):
            at.watch(str(number), at.pair()[0])
        looks = [[name for name, _ in at.look()] for _ in range(3)]
        assert sorted(map(len, looks)) == [1, 2, 2]
        assert sorted(name for names in looks for name in names) == ["0", "1", "2", "3", "4"]


def test_who_cannot_be_watched_is_told_so() -> None:
    with watched() as at:
        one, _ = at.pair()
        at.watch("one", one)
        with pytest.raises(FileExistsError):
            at.watch("again", one)
        number = one.fileno()
        at.poller.forget(number)
        one.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            at.poller.watch(number, lambda _: None)
        assert at.look() == []


def test_closing_leaves_no_descriptor() -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counts
    poller = Poller(lambda _: None)
    poller.close()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208 - counts


def test_a_loop_has_its_poller_and_complains_through_its_handler() -> None:
    near, far = socket.socketpair()
    complaints: list[dict[str, Any]] = []

    async def watch() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, PollerLoop)
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        loop.poller.watch(near.fileno(), lambda _: 1 // 0)  # type: ignore[arg-type]
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    with near, far, asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(watch())
    assert [type(one["exception"]) for one in complaints] == [ZeroDivisionError]


def test_without_epoll_the_loop_is_asyncio_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(selectors, "EpollSelector")
    loop = new_loop()
    loop.close()
    assert not isinstance(loop, PollerLoop)
