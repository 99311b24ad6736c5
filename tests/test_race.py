"""Happy eyeballs over real sockets: who wins, what is closed, and how long it may take."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from relay.reach import race
from relay.reach.names import Address
from relay.reach.race import first_connected
from tests.every_loop import on_every_loop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


def address_of(sock: socket.socket) -> Address:
    return Address(sock.family, sock.getsockname())


@contextmanager
def listening(family: socket.AddressFamily = socket.AF_INET, backlog: int = 8) -> Iterator[Address]:
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.bind((LOOPBACK[family], 0))
        sock.listen(backlog)
        yield address_of(sock)


@contextmanager
def refusing() -> Iterator[Address]:
    """A port that nobody else gets while we look at it, and where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield address_of(sock)


@contextmanager
def silent() -> Iterator[Address]:
    """A port whose queue is full, so that the kernel answers nothing."""
    with listening(backlog=0) as address:
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address.sockaddr)
        yield address
        for filler in fillers:
            filler.close()


@pytest.fixture(autouse=True, params=["at once", "at once on a BSD", "later"])
def pace(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a dial learns how it ends: at once on this machine, later from another, which is made believe here."""
    connect_ex = socket.socket.connect_ex

    def call_only_once(sock: socket.socket, address: str | tuple[str, int]) -> int:
        code = connect_ex(sock, address)
        return errno.EALREADY if code == errno.EINPROGRESS else code

    def call_as_a_bsd(sock: socket.socket, address: str | tuple[str, int]) -> int:
        return connect_ex(sock, address) or (errno.EISCONN if sock.family != socket.AF_UNIX else 0)

    if request.param != "at once":
        way = call_only_once if request.param == "later" else call_as_a_bsd
        monkeypatch.setattr(socket.socket, "connect_ex", way)


only_later = pytest.mark.parametrize("pace", ["later"], indirect=True)


async def connect(*addresses: Address, timeout: float = 5.0) -> Address | list[str]:  # noqa: ASYNC109 - what is tested
    """Who won, or how each failed."""
    connected = await first_connected(addresses, timeout)
    if connected.sock is None:
        return [f"{type(error).__name__}" for _, error in connected.failures]
    with connected.sock as sock:
        assert sock.getpeername() == connected.address.sockaddr  # type: ignore[union-attr]
        assert sock.gettimeout() == 0
        return Address(sock.family, sock.getpeername())


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@on_every_loop
async def test_one_address_is_connected(family: socket.AddressFamily) -> None:
    with listening(family) as address:
        assert await connect(address) == address


@on_every_loop
async def test_a_connection_does_not_wait_for_company() -> None:
    with listening() as address:
        connected = await first_connected([address], 5)
        assert connected.sock is not None
        with connected.sock as sock:
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


@on_every_loop
async def test_the_earlier_address_is_preferred() -> None:
    with listening(socket.AF_INET6) as six, listening() as four:
        assert await connect(six, four) == six
        assert await connect(four, six) == four


@on_every_loop
async def test_after_a_refusal_the_next_is_tried_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race, "ATTEMPT_DELAY", 10.0)
    started = asyncio.get_running_loop().time()
    with refusing() as closed, listening() as address:
        assert await connect(closed, closed, closed, closed, closed, closed, closed, address) == address
    assert asyncio.get_running_loop().time() - started < race.ATTEMPT_DELAY


@on_every_loop
async def test_the_next_is_tried_beside_a_silent_one() -> None:
    started = asyncio.get_running_loop().time()
    with silent() as nobody, listening() as address:
        assert await connect(nobody, address) == address
    assert race.ATTEMPT_DELAY * 0.9 < asyncio.get_running_loop().time() - started < 4


@on_every_loop
async def test_all_that_failed_is_told() -> None:
    with refusing() as closed, silent() as nobody:
        assert await connect(closed, nobody, timeout=0.1) == ["ConnectionRefusedError", "TimeoutError"]


@on_every_loop
async def test_a_later_failure_leaves_the_earlier_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race, "ATTEMPT_DELAY", 0.01)
    with refusing() as closed, silent() as nobody:
        assert await connect(nobody, closed, timeout=0.5) == ["ConnectionRefusedError", "TimeoutError"]


@on_every_loop
async def test_each_address_has_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race, "ATTEMPT_DELAY", 10.0)  # so the second begins when the first has had its time
    with silent() as nobody, silent() as another:
        started = asyncio.get_running_loop().time()
        assert await connect(nobody, another, timeout=0.1) == ["TimeoutError", "TimeoutError"]
        assert asyncio.get_running_loop().time() - started > 0.19
        with listening() as address:
            assert await connect(nobody, address, timeout=0.1) == address


@on_every_loop
async def test_the_deadline_counts_from_the_attempt() -> None:
    with listening() as address:
        before = asyncio.get_running_loop().time()
        connected = await first_connected([address], 3.0)
        assert connected.sock is not None
        connected.sock.close()
    assert 3.0 <= connected.deadline - before < 4.0


@on_every_loop
async def test_failures_before_the_success_are_told_too() -> None:
    with refusing() as closed, listening() as address:
        connected = await first_connected([closed, address], 5)
        assert connected.sock is not None
        connected.sock.close()
    assert [(where, error.errno) for where, error in connected.failures] == [(closed, errno.ECONNREFUSED)]


@pytest.mark.parametrize("turns", [0, 1, 2])
@on_every_loop
async def test_who_is_cancelled_leaves_nothing(turns: int) -> None:
    with silent() as nobody, silent() as another:
        connecting = asyncio.create_task(connect(nobody, another))
        for _ in range(turns):
            await asyncio.sleep(0)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting


@only_later
@on_every_loop
async def test_who_is_cancelled_beside_the_success_leaves_nothing() -> None:
    with listening() as address:
        run = race.Race([address], 5)
        winning = asyncio.create_task(run.run())
        await asyncio.sleep(0)
        while not run._end.done():  # noqa: ASYNC110 - the moment between success and waking up
            await asyncio.sleep(0)
        winning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await winning
        run.close()


@only_later
@on_every_loop
async def test_who_has_won_does_not_run_out_of_time_in_the_same_turn() -> None:
    with listening() as address:
        connecting = asyncio.create_task(first_connected([address], 0.02))
        await asyncio.sleep(0)
        time.sleep(0.05)  # noqa: ASYNC251 - the loop is held until both are there
        connected = await connecting
        assert connected.sock is not None
        connected.sock.close()


@only_later
@on_every_loop
async def test_of_two_successes_in_one_turn_the_second_is_closed() -> None:
    with listening() as one, listening() as other:
        run = race.Race([one, other], 5)
        run._begin_next()
        run._begin_next()
        first = await run._end
        assert first is not None
        second = next(attempt for attempt in run._running if attempt is not first)
        run.won(second)
        first.release().close()
        run.close()
    assert second._sock is None


@on_every_loop
async def test_a_family_that_is_not_to_be_had_is_a_failure() -> None:
    with listening() as address:
        odd = Address(socket.AF_INET, ("127.0.0.1", 9))
        unknown = odd._replace(family=socket.AddressFamily.AF_IRDA)
        connected = await first_connected([unknown, address], 5)
        assert connected.sock is not None
        connected.sock.close()
    assert connected.address == address
    assert len(connected.failures) == 1


@on_every_loop
async def test_meeting_oneself_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    with refusing() as held:
        pass  # free now, and we dial from it as if the system had picked it
    plain = race.Attempt._make_socket

    def bound(attempt: race.Attempt) -> socket.socket:
        sock = plain(attempt)
        sock.bind(held.sockaddr)
        return sock

    monkeypatch.setattr(race.Attempt, "_make_socket", bound)

    assert await connect(held) == ["ConnectionRefusedError"]


@on_every_loop
async def test_a_unix_socket_is_connected(tmp_path: Path) -> None:
    path = str(tmp_path / "x.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        assert await connect(Address(socket.AF_UNIX, path)) == Address(socket.AF_UNIX, path)
    assert await connect(Address(socket.AF_UNIX, path)) == ["ConnectionRefusedError"]
    assert await connect(Address(socket.AF_UNIX, path + ".absent")) == ["FileNotFoundError"]
    assert await connect(Address(socket.AF_UNIX, path * 20)) == ["OSError"]


@on_every_loop
async def test_a_unix_socket_with_a_full_queue_is_asked_again(tmp_path: Path) -> None:
    path = str(tmp_path / "x.sock")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as filler:
        listener.bind(path)
        listener.listen(0)
        filler.connect(path)
        assert await connect(Address(socket.AF_UNIX, path), timeout=0.05) == ["TimeoutError"]

        waiting = asyncio.create_task(connect(Address(socket.AF_UNIX, path)))
        await asyncio.sleep(0)
        accepted, _ = listener.accept()
        accepted.close()
        assert await waiting == Address(socket.AF_UNIX, path)
