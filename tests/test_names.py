"""Names: who is asked, how often, and what is remembered."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from relay.reach.names import MAX_ADDRESSES, Address, Resolver, in_order, look_up
from tests.every_loop import on_every_loop, supervise

if TYPE_CHECKING:
    from relay.reach.names import Found

V4, V6 = socket.AF_INET, socket.AF_INET6


def found(*hosts: str) -> Found:
    """What getaddrinfo says of ``hosts``."""
    return [
        (V6, socket.SOCK_STREAM, 6, "", (host, 443, 0, 0))
        if ":" in host
        else (V4, socket.SOCK_STREAM, 6, "", (host, 443))
        for host in hosts
    ]


class Names:
    """A name server that says what it is told to, and counts; and a clock that is set by hand."""

    def __init__(self, *hosts: str) -> None:
        self.hosts = hosts
        self.asked = 0
        self.now = 1000.0
        self.broken: Exception | None = None
        self.answered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()
        self.resolver = Resolver(self.look_up, lambda: self.now)

    def look_up(self, host: str, port: int) -> Found:
        assert (host, port) == ("api.test", 443)
        assert self.gate.wait(10)
        self.asked += 1
        try:
            if self.broken is not None:
                raise self.broken
            return found(*self.hosts)
        finally:
            self.answered.release()

    async def resolve(self) -> list[Any]:
        return [address.sockaddr[0] for address in await self.resolver.resolve("api.test", 443)]

    def still_named(self, address: str) -> bool:
        return self.resolver.still_named("api.test", 443, address)

    async def renewed(self) -> None:
        """Wait until a look-up that was begun behind our back has landed."""
        assert await asyncio.to_thread(self.answered.acquire, timeout=10)
        while self.resolver._flights:  # noqa: ASYNC110 - landing takes a turn of the loop, and tells nobody
            await asyncio.sleep(0)


ORDERS = [
    ("one", ["1.1.1.1"], ["1.1.1.1"]),
    ("six first", ["::1", "::2", "1.1.1.1", "2.2.2.2"], ["::1", "1.1.1.1", "::2", "2.2.2.2"]),
    ("four first", ["1.1.1.1", "2.2.2.2", "::1"], ["1.1.1.1", "::1", "2.2.2.2"]),
    ("more of the second", ["::1", "1.1.1.1", "2.2.2.2", "3.3.3.3"], ["::1", "1.1.1.1", "2.2.2.2", "3.3.3.3"]),
    ("mixed", ["1.1.1.1", "::1", "2.2.2.2", "::2"], ["1.1.1.1", "::1", "2.2.2.2", "::2"]),
    ("twice", ["1.1.1.1", "1.1.1.1", "::1"], ["1.1.1.1", "::1"]),
]


@pytest.mark.parametrize(("hosts", "order"), [case[1:] for case in ORDERS], ids=[case[0] for case in ORDERS])
def test_families_take_turns(hosts: list[str], order: list[str]) -> None:
    assert [address.sockaddr[0] for address in in_order(found(*hosts))] == order


def test_a_name_with_very_many_addresses_is_cut() -> None:
    assert len(in_order(found(*(f"10.0.0.{n}" for n in range(100))))) == MAX_ADDRESSES


def test_no_usable_address_is_a_failure() -> None:
    with pytest.raises(socket.gaierror):
        in_order([(socket.AF_UNIX, socket.SOCK_STREAM, 0, "", ("/x",))])


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (Address(V4, ("10.0.0.1", 80)), "10.0.0.1:80"),
        (Address(V6, ("::1", 80, 0, 0)), "[::1]:80"),
        (Address(socket.AF_UNIX, "/run/x"), "unix:/run/x"),
    ],
)
def test_an_address_reads(address: Address, text: str) -> None:
    assert str(address) == text


@on_every_loop
async def test_the_system_is_asked() -> None:
    assert look_up("localhost", 443)
    with pytest.raises(OSError, match=r"."):
        await Resolver().resolve("no-such-host.invalid", 443)


@pytest.mark.parametrize(
    ("host", "addresses"),
    [
        ("127.0.0.1", [(V4, ("127.0.0.1", 443))]),
        ("::1", [(V6, ("::1", 443, 0, 0))]),
        ("localhost", [(V6, ("::1", 443, 0, 0)), (V4, ("127.0.0.1", 443))]),
        ("LocalHost.", [(V6, ("::1", 443, 0, 0)), (V4, ("127.0.0.1", 443))]),
    ],
)
@on_every_loop
async def test_addresses_and_localhost_need_no_asking(host: str, addresses: list[Any]) -> None:
    names = Names()

    assert list(await names.resolver.resolve(host, 443)) == addresses
    assert names.resolver.still_named(host, 443, "192.0.2.1")
    assert names.asked == 0


@on_every_loop
async def test_an_answer_serves_thirty_seconds() -> None:
    names = Names("10.0.0.1")
    assert await names.resolve() == ["10.0.0.1"]
    names.hosts = ("10.0.0.2",)

    names.now += 29.9
    assert await names.resolve() == ["10.0.0.1"]
    names.now += 0.1
    assert await names.resolve() == ["10.0.0.2"]
    assert names.asked == 2


@on_every_loop
async def test_one_look_up_serves_all_who_wait() -> None:
    names = Names("10.0.0.1")
    names.gate.clear()
    waiting = [asyncio.create_task(names.resolve()) for _ in range(10)]
    await asyncio.sleep(0)
    waiting[0].cancel()  # who leaves does not take the answer along
    names.gate.set()

    answers = await asyncio.gather(*waiting, return_exceptions=True)

    assert isinstance(answers[0], asyncio.CancelledError)
    assert answers[1:] == [["10.0.0.1"]] * 9
    assert names.asked == 1


@on_every_loop
async def test_a_failure_reaches_all_and_is_not_remembered() -> None:
    names = Names("10.0.0.1")
    names.broken = socket.gaierror(socket.EAI_AGAIN, "temporary failure")
    for answer in await asyncio.gather(names.resolve(), names.resolve(), return_exceptions=True):
        assert isinstance(answer, socket.gaierror)
    names.broken = None

    assert await names.resolve() == ["10.0.0.1"]


@on_every_loop
async def test_a_failure_that_nobody_awaits_is_quiet() -> None:
    names = Names()
    names.broken = socket.gaierror(socket.EAI_AGAIN, "temporary failure")
    names.gate.clear()
    waiting = asyncio.create_task(names.resolve())
    await asyncio.sleep(0)
    waiting.cancel()
    names.gate.set()

    await names.renewed()


@pytest.mark.parametrize("fault", [UnicodeError("not IDNA: \udce4"), MemoryError()])
@on_every_loop
async def test_any_fault_of_the_look_up_is_told(fault: Exception) -> None:
    names = Names()
    names.broken = fault

    with pytest.raises(socket.gaierror if isinstance(fault, UnicodeError) else MemoryError):
        await names.resolve()


@on_every_loop
async def test_without_a_thread_there_is_no_answer() -> None:
    names = Names("10.0.0.1")

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(OSError, match="can't start new thread"):
            await names.resolve()
    assert await names.resolve() == ["10.0.0.1"]

    names.now += 60
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert names.still_named("10.0.0.1")


@on_every_loop
async def test_a_moved_name_is_noticed_at_a_use_after_the_renewal() -> None:
    names = Names("10.0.0.1", "::2")
    assert names.still_named("10.9.9.9")  # nothing known, nothing held against it
    await names.resolve()
    await names.renewed()
    assert names.still_named("10.0.0.1")
    assert names.still_named("::2")
    assert not names.still_named("10.0.0.3")

    names.hosts = ("10.0.0.3",)
    names.now += 30
    assert names.still_named("10.0.0.1")  # this use begins the renewal
    assert names.still_named("10.0.0.1")
    await names.renewed()

    assert not names.still_named("10.0.0.1")
    assert names.still_named("10.0.0.3")
    assert await names.resolve() == ["10.0.0.3"]
    assert names.asked == 2


@on_every_loop
async def test_a_renewal_that_fails_drops_nothing_and_is_repeated_after_a_pause() -> None:
    names = Names("10.0.0.1")
    await names.resolve()
    await names.renewed()
    names.broken = socket.gaierror(socket.EAI_AGAIN, "temporary failure")
    names.now += 30

    assert names.still_named("10.0.0.1")
    await names.renewed()
    assert names.still_named("10.0.0.1")
    assert names.asked == 2

    names.now += 5
    assert names.still_named("10.0.0.1")
    await names.renewed()
    assert names.asked == 3


@on_every_loop
async def test_what_is_forgotten_is_asked_again() -> None:
    names = Names("10.0.0.1")
    names.gate.clear()
    late = asyncio.create_task(names.resolve())
    await asyncio.sleep(0)
    names.resolver.close()
    names.gate.set()

    assert await late == ["10.0.0.1"]
    assert names.still_named("10.9.9.9")  # the late answer is not remembered
    assert await names.resolve() == ["10.0.0.1"]
    assert names.asked == 2


def test_an_answer_after_the_loop_has_ended_is_dropped() -> None:
    names = Names("10.0.0.1")
    names.gate.clear()
    threads: list[threading.Thread] = []

    async def leave() -> None:
        waiting = asyncio.create_task(names.resolve())
        await asyncio.sleep(0)
        threads.extend(thread for thread in threading.enumerate() if thread.name == "resolve api.test")
        waiting.cancel()

    supervise(asyncio.new_event_loop, leave)
    names.gate.set()
    threads[0].join(10)

    assert names.asked == 1
    assert threads[0].daemon
