"""Upgrades that lose nothing: a socket that a service manager holds, handed from one real process to the next."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from relay.config import Limits, Listener
from relay.process.accepting import Acceptor, share
from relay.process.listening import CannotListen, bind, open_listening
from relay.wire.http1 import HTTP1Connection, Role
from tests.crowd import crowd
from tests.every_loop import on_every_loop
from tests.fleets import children, start_inheriting, until, write_config
from tests.harness import OK, PATIENCE, POST_CHAT, read_answer
from tests.processes import running
from tests.scripted import ScriptedUpstream
from tests.test_reload import manager, told

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.crowd import Streams

GENERATIONS = 4


@pytest.fixture
async def up() -> AsyncIterator[ScriptedUpstream]:
    upstream = ScriptedUpstream()
    upstream.says(OK)
    await upstream.start()
    yield upstream
    await upstream.close()


@pytest.fixture(params=["tcp", "unix"])
def held(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    """The listening socket of a service manager; its protocol number is 0, as such ones often are."""
    with socket.socket(socket.AF_INET if request.param == "tcp" else socket.AF_UNIX, socket.SOCK_STREAM, 0) as sock:
        sock.bind(("127.0.0.1", 0) if request.param == "tcp" else str(tmp_path / "held.sock"))
        sock.listen(512)
        yield sock


async def connect(held: socket.socket) -> Streams:
    """A connection to whoever has the socket now, or will have it."""
    name = held.getsockname()
    return await (asyncio.open_unix_connection(name) if isinstance(name, str) else asyncio.open_connection(*name))


def sockets_of(pid: int) -> int:
    """How many sockets a process has open."""
    found = 0
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found += str(fd.readlink()).startswith("socket:")
        except OSError:  # it has just been closed
            continue
    return found


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_one_process_after_the_other_serves_and_not_one_exchange_fails(
    up: ScriptedUpstream, tmp_path: Path, held: socket.socket, workers: str
) -> None:
    """Between two of them there is a time in which nobody serves: what comes then waits in the socket."""
    config = write_config(tmp_path, up)
    options = (str(config), "--workers", workers)
    async with crowd(lambda: connect(held), size=12) as people:
        for _ in range(GENERATIONS):
            proxy = await start_inheriting(held.fileno(), *options, folder=tmp_path)
            try:
                await proxy.says("is ready: base_url = http://")
                await people.served(40)
                proxy.signal(signal.SIGTERM)
                assert await proxy.ends() == 0, proxy.said
            finally:
                await proxy.kill()
        proxy = await start_inheriting(held.fileno(), *options, folder=tmp_path)
        try:
            await people.served(40)
            await people.gone()  # who has come last would wait for a successor
            proxy.signal(signal.SIGTERM)
            await proxy.ends()
        finally:
            await proxy.kill()
    assert {record["status"] for record in proxy.records} == {200}
    assert len(proxy.records) == people.done


async def test_who_was_accepted_and_had_not_spoken_is_served_once(
    up: ScriptedUpstream, tmp_path: Path, held: socket.socket
) -> None:
    config = write_config(tmp_path, up)
    proxy = await start_inheriting(held.fileno(), str(config), folder=tmp_path)
    try:
        await proxy.says("is ready")
        before = sockets_of(proxy.pid)
        silent = [await connect(held) for _ in range(20)]
        await until(lambda: sockets_of(proxy.pid) == before + len(silent))
        proxy.signal(signal.SIGTERM)
        await until(lambda: sockets_of(proxy.pid) < before + len(silent))  # it has let go of the listening one
        late = await connect(held)  # waits for a successor
        for reader, writer in silent:
            writer.write(POST_CHAT)
            async with asyncio.timeout(PATIENCE):
                answer = await reader.read()  # up to the end: one exchange, and no more
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b"\r\nConnection: close\r\n" in answer
            writer.close()
        assert await proxy.ends() == 0
        successor = await start_inheriting(held.fileno(), str(config), folder=tmp_path)
        try:
            late[1].write(POST_CHAT)
            async with asyncio.timeout(PATIENCE):
                assert (await read_answer(late[0])).startswith(b"HTTP/1.1 200 ")
            late[1].close()
            assert await successor.stop() == 0
        finally:
            await successor.kill()
    finally:
        await proxy.kill()


async def test_our_own_socket_is_emptied_before_it_is_closed(up: ScriptedUpstream, tmp_path: Path) -> None:
    """Who connects while the process does not get to run, before the signal, is served."""
    config = write_config(tmp_path, up)
    async with running(str(config), folder=tmp_path) as proxy:
        port = await proxy.port()
        proxy.signal(signal.SIGSTOP)
        try:
            waiting = [await asyncio.open_connection("127.0.0.1", port) for _ in range(30)]
            for _, writer in waiting:
                writer.write(POST_CHAT)
            proxy.signal(signal.SIGTERM)
        finally:
            proxy.signal(signal.SIGCONT)
        for reader, writer in waiting:
            async with asyncio.timeout(PATIENCE):
                assert (await read_answer(reader)).startswith(b"HTTP/1.1 200 ")
            writer.close()
        assert await proxy.ends() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_the_manager_is_told_of_every_change(up: ScriptedUpstream, tmp_path: Path, workers: str) -> None:
    config = write_config(tmp_path, up)
    async with manager(tmp_path) as (environ, states):
        async with running(str(config), "--workers", workers, folder=tmp_path, environ=environ) as proxy:
            assert await told(states) == "READY=1"
            if workers == "2":
                assert len(children(proxy.pid)) == 2
            proxy.signal(signal.SIGHUP)
            state, stamp = (await told(states)).split("\n")
            assert state == "RELOADING=1"
            name, _, micros = stamp.partition("=")
            assert name == "MONOTONIC_USEC"
            assert await told(states) == "READY=1"
            assert await proxy.stop() == 0
        assert await told(states) == "STOPPING=1"
        assert states.empty()
    with open("/proc/uptime") as uptime:  # noqa: PTH123, ASYNC230 - no disk; the same clock but for time asleep
        assert abs(int(micros) / 1e6 - float(uptime.read().split()[0])) < 60


async def test_what_was_handed_over_must_be_a_listener(up: ScriptedUpstream, tmp_path: Path) -> None:
    config = write_config(tmp_path, up)
    with socket.socket() as sock:
        proxy = await start_inheriting(sock.fileno(), str(config), folder=tmp_path)
        try:
            assert await proxy.ends() == 2
            assert proxy.said == ["Cannot listen: the inherited descriptor 3 is no listening stream socket."]
        finally:
            await proxy.kill()


async def test_a_socket_that_is_open_to_all_is_no_way_around_the_key(up: ScriptedUpstream, tmp_path: Path) -> None:
    config = write_config(tmp_path, up)
    config.write_text("\n".join(line for line in config.read_text().splitlines() if "master_key" not in line))
    with socket.create_server(("", 0)) as sock:
        proxy = await start_inheriting(sock.fileno(), str(config), folder=tmp_path)
        try:
            assert await proxy.ends() == 2
            assert "only loopback is served, not 0.0.0.0" in proxy.said[-1]
        finally:
            await proxy.kill()


# The acceptor alone.


class Greeted(HTTP1Connection):
    """Tells a test of each connection."""

    def __init__(self, made: asyncio.Queue[HTTP1Connection]) -> None:
        super().__init__(Role.SERVER, Limits(), made.put_nowait)


@pytest.mark.parametrize("number", [0, socket.IPPROTO_TCP])
@on_every_loop
async def test_small_writes_leave_at_once_also_of_who_waited_in_an_inherited_socket(number: int) -> None:
    made: asyncio.Queue[HTTP1Connection] = asyncio.Queue()
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, number) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        sock.setblocking(False)
        with socket.create_connection(sock.getsockname()):
            acceptor = Acceptor(sock, lambda: Greeted(made), None, PATIENCE)
            acceptor.start()
            connection = await made.get()
            accepted = connection.transport.get_extra_info("socket")
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            acceptor.close()
    connection.abort()


class Short:
    """A listening socket in a process without descriptors to spare, until ``spare`` is set."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.family = sock.family
        self.spare = False
        self.asked = 0

    def fileno(self) -> int:
        return self.sock.fileno()

    def accept(self) -> Any:
        self.asked += 1
        if not self.spare:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return self.sock.accept()

    def close(self) -> None:
        self.sock.close()


@on_every_loop
async def test_without_descriptors_it_waits_and_does_not_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.process.accepting.PAUSE", 0.02)
    warnings: list[str] = []
    monkeypatch.setattr("relay.process.accepting.LOG.warning", lambda text, *values: warnings.append(text % values))
    made: asyncio.Queue[HTTP1Connection] = asyncio.Queue()
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.setblocking(False)
        short = Short(sock)
        acceptor = Acceptor(short, lambda: Greeted(made), None, PATIENCE)  # type: ignore[arg-type]
        acceptor.start()
        _, writer = await asyncio.open_connection(*sock.getsockname())
        turns = 0
        while short.asked < 4:  # three pauses: 60 ms, in which a loop that spins turns thousands of times
            turns += 1
            await asyncio.sleep(0.001)
        assert short.asked < turns / 3
        short.spare = True
        connection = await made.get()
        assert warnings == [
            "cannot take connections for a moment, descriptors or memory are short: Too many open files"
        ]
        short.spare = False
        with socket.create_connection(sock.getsockname()):
            acceptor.close()
        assert acceptor._pause is not None
        assert acceptor._pause.cancelled()  # it would look at a socket that is closed
    connection.abort()
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(("waited", "taken"), [(0.0, 1), (0.0039, 1), (0.0041, 2), (0.0121, 4), (0.04, 8), (1e9, 8)])
def test_a_turn_takes_one_connection_or_what_a_long_turn_left_waiting(waited: float, taken: int) -> None:
    assert share(waited) == taken


class Clocked:
    """A loop whose clock stands still."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.now = 0.0

    def time(self) -> float:
        return self.now

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


@on_every_loop
async def test_it_takes_a_few_in_one_turn_and_leaves_others_theirs() -> None:
    made: asyncio.Queue[HTTP1Connection] = asyncio.Queue()
    with socket.create_server(("127.0.0.1", 0), backlog=64) as sock:
        sock.setblocking(False)
        clients = [socket.create_connection(sock.getsockname()) for _ in range(20)]
        with sock.dup() as for_others:
            for_others.setblocking(False)
            acceptor = Acceptor(sock, lambda: Greeted(made), None, PATIENCE)
            clock = Clocked(acceptor._loop)
            acceptor._loop = clock  # type: ignore[assignment]
            for later, taken in ((100.0, 8), (0.0, 9), (0.001, 10), (0.009, 13)):
                clock.now += later
                acceptor._take_share()
                assert len(acceptor.welcoming) + made.qsize() == taken
            acceptor.close(leave_rest=True)
            rest = [for_others.accept()[0] for _ in range(7)]
            with pytest.raises(BlockingIOError):
                for_others.accept()
        connections = [await made.get() for _ in range(13)]
        for connection in connections:
            connection.abort()
        for one in (*clients, *rest):
            one.close()


def test_a_name_that_somebody_else_has_taken_is_left_to_them(tmp_path: Path) -> None:
    name = tmp_path / "p.sock"
    ours = open_listening(Listener(unix=str(name)), {}, 1)
    ours.close()
    bind(Listener(unix=str(name)))[0].close()
    os.utime(name, (1, 1))  # the clock of files may not have moved on, nor the number of the inode
    ours.remove_name()
    assert name.is_socket()
    ours = open_listening(Listener(unix=str(name)), {}, 1)
    ours.close()
    ours.remove_name()
    assert not name.exists()
    ours.remove_name()


def test_a_name_above_a_folder_that_is_a_link_is_the_systems(tmp_path: Path) -> None:
    """``link/../p.sock`` stands beside what the link leads to, not beside the link."""
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "deep")
    ours = open_listening(Listener(unix=f"{tmp_path}/link/../p.sock"), {}, 1)
    ours.close()
    assert (tmp_path / "real" / "p.sock").is_socket()
    ours.remove_name()
    assert not (tmp_path / "real" / "p.sock").exists()


def test_an_inherited_socket_goes_before_the_file() -> None:
    with pytest.raises(CannotListen, match="Cannot listen: LISTEN_PID and LISTEN_FDS must be numbers"):
        open_listening(Listener(), {"LISTEN_PID": "1", "LISTEN_FDS": "many"}, 1)
