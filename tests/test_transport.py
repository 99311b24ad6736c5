"""The transport of plain sockets: the same contract as asyncio's, which is asked the same questions here."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import socket
import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from relay.wire.poller import PollerLoop
from relay.wire.transport import READ_SIZE, SocketTransport, attach
from tests.every_loop import settle
from tests.noting import LARGE, NOTHING_WRONG, PAIRS, PATIENCE, Noting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Line:
    """A protocol with its transport, and the socket at the other end."""

    def __init__(self, protocol: Noting, far: socket.socket) -> None:
        self.protocol = protocol
        self.transport = protocol.transport
        self.far = far

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.far, data)

    async def receive(self, size: int) -> bytes:
        """So many bytes, or up to the end."""
        data = bytearray()
        async with asyncio.timeout(PATIENCE):
            while len(data) < size:
                piece = await asyncio.get_running_loop().sock_recv(self.far, size - len(data))
                if not piece:
                    break
                data += piece
        return bytes(data)

    def reset(self) -> None:
        """Be gone without an end."""
        self.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.far.close()


def worker_loop() -> PollerLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, PollerLoop)
    return loop


def complaints_of_the_loop() -> list[dict[str, Any]]:
    """What the loop is going to complain of."""
    complaints: list[dict[str, Any]] = []
    worker_loop().set_exception_handler(lambda _, context: complaints.append(context))
    return complaints


@asynccontextmanager
async def line(kind: str, pair: str = "unix") -> AsyncIterator[Line]:
    loop = asyncio.get_running_loop()
    near, far = PAIRS[pair]()
    near.setblocking(False)
    far.setblocking(False)
    with far:
        if kind in {"ours", "hears out"}:
            hears_out = kind == "hears out"
            _, protocol = attach(worker_loop(), near, near.getpeername(), Noting, hears_out=hears_out)
        else:
            transport, protocol = await loop.connect_accepted_socket(Noting, near)
            transport.max_size = READ_SIZE  # type: ignore[attr-defined]
        yield Line(protocol, far)
        if near.fileno() != -1:  # else asyncio's trips over itself
            protocol.transport.abort()
            await settle()
        assert near.fileno() == -1
        assert sum(isinstance(one, tuple) for one in protocol.told) == 1  # it is lost once


on_both = pytest.mark.parametrize("kind", ["ours", "asyncio"])
over_both = pytest.mark.parametrize("pair", PAIRS)


@on_both
@over_both
async def test_what_comes_is_told_whole_and_in_order(kind: str, pair: str) -> None:
    data = random.Random(1).randbytes(LARGE)
    async with line(kind, pair) as at:
        await at.send(data)
        await at.protocol.until(data)
        await at.send(b"more")
        await at.protocol.until(data + b"more")


@on_both
@over_both
async def test_an_end_closes(kind: str, pair: str) -> None:
    async with line(kind, pair) as at:
        await at.send(b"last")
        at.far.shutdown(socket.SHUT_WR)
        await at.protocol.until(b"last", "end", NOTHING_WRONG)
        assert at.transport.is_closing()
        assert at.transport.get_protocol() is None
        assert await at.receive(1) == b""


@on_both
@over_both
async def test_an_end_of_one_direction_leaves_the_other_where_the_protocol_wants_it(kind: str, pair: str) -> None:
    async with line(kind, pair) as at:
        at.protocol.keeps_open = True
        at.far.shutdown(socket.SHUT_WR)
        await at.protocol.until("end")
        at.transport.write(b"still here")
        assert await at.receive(10) == b"still here"
        at.transport.close()
        await at.protocol.until("end", NOTHING_WRONG)


@on_both
@over_both
async def test_nothing_is_told_while_reading_is_paused(kind: str, pair: str) -> None:
    async with line(kind, pair) as at:
        at.transport.pause_reading()
        assert not at.transport.is_reading()
        await at.send(b"some")
        at.far.shutdown(socket.SHUT_WR)
        await settle()
        at.transport.write(b"x")  # the other direction goes on
        assert await at.receive(1) == b"x"
        assert at.protocol.told == []
        at.transport.resume_reading()
        assert at.transport.is_reading()
        await at.protocol.until(b"some", "end", NOTHING_WRONG)


@on_both
@over_both
async def test_who_pauses_within_a_piece_gets_no_more_than_that(kind: str, pair: str) -> None:
    data = bytes(LARGE)
    async with line(kind, pair) as at:
        at.protocol.on_data = at.transport.pause_reading
        sending = asyncio.create_task(at.send(data))
        await settle()
        got = 0
        async with asyncio.timeout(PATIENCE):
            while got < LARGE:
                [told] = at.protocol.told or [b""]
                assert got <= len(told) <= got + READ_SIZE
                got = len(told)
                at.transport.resume_reading()
                at.transport.resume_reading()  # once more is no more
                await settle()
        await sending
        assert at.protocol.told == [data]


@on_both
async def test_a_fast_sender_is_read_once_in_a_turn_of_the_loop(kind: str) -> None:
    """Whatever it sends meanwhile: others have their turn."""

    def flood(far: socket.socket) -> None:
        with far, contextlib.suppress(OSError):
            while True:
                far.sendall(bytes(1 << 20))

    async with line(kind, "tcp") as at:
        at.far.setblocking(True)
        flooding = asyncio.create_task(asyncio.to_thread(flood, at.far.dup()))
        most = reads = 0
        async with asyncio.timeout(PATIENCE):
            while reads < 400:
                at.protocol.pieces = 0
                at.protocol.told.clear()
                await asyncio.sleep(0)
                reads += at.protocol.pieces
                most = max(most, at.protocol.pieces)
        at.transport.abort()
        await flooding
        assert most == 1


@on_both
@over_both
async def test_what_is_urgent_holds_nothing_up(kind: str, pair: str) -> None:
    async with line(kind, pair) as at:
        at.far.setblocking(True)
        at.far.send(b"before")
        at.far.send(b"!", socket.MSG_OOB)
        at.far.send(b"behind")
        await at.protocol.until(b"beforebehind")


@on_both
async def test_a_pause_that_follows_at_once_holds(kind: str) -> None:
    async with line(kind) as at:
        at.transport.pause_reading()
        await at.send(b"some")
        await settle()
        at.transport.resume_reading()
        at.transport.pause_reading()
        await settle()
        assert at.protocol.told == []
        at.transport.resume_reading()
        await at.protocol.until(b"some")


@on_both
@over_both
async def test_a_peer_that_does_not_read_is_told_of_and_gets_everything_in_the_end(kind: str, pair: str) -> None:
    data = random.Random(2).randbytes(LARGE)
    async with line(kind, pair) as at:
        at.transport.write(data)
        assert at.protocol.told == ["pause"]
        assert 0 < at.transport.get_write_buffer_size() < LARGE
        at.transport.write(b"more")
        assert await at.receive(LARGE + 4) == data + b"more"
        await at.protocol.until("pause", "go on")
        assert at.transport.get_write_buffer_size() == 0


@on_both
@over_both
async def test_closing_delivers_what_was_written(kind: str, pair: str) -> None:
    data = random.Random(3).randbytes(LARGE)
    async with line(kind, pair) as at:
        at.transport.write(data)
        at.transport.close()
        at.transport.close()
        assert at.transport.is_closing()
        assert not at.transport.is_reading()
        assert await at.receive(LARGE + 1) == data
        await at.protocol.until("pause", "go on", NOTHING_WRONG)


@on_both
@over_both
async def test_who_is_closing_reads_no_more(kind: str, pair: str) -> None:
    async with line(kind, pair) as at:
        at.transport.write(bytes(LARGE))
        at.transport.close()
        at.transport.resume_reading()
        await at.send(b"too late")
        await settle()
        assert b"too late" not in at.protocol.told


@pytest.mark.parametrize("stuffed", [True, False])
async def test_what_came_before_a_reset_is_told_though_a_write_finds_that_first(stuffed: bool) -> None:
    """With asyncio's it is lost."""
    answer = random.Random(6).randbytes(READ_SIZE + 9)  # two reads, and within the window, so that it has arrived
    async with line("hears out", "tcp") as at:
        at.transport.write(bytes(LARGE) if stuffed else b"what nobody reads")
        assert at.far.send(answer) == len(answer)
        at.far.close()  # with something unread, so this is a reset
        at.transport.write(b"more")
        at.transport.write(b"and more")
        assert not at.transport.is_closing()
        told = [one for one in await at.protocol.until_lost() if one not in {"pause", "go on"}]
        assert b"".join(told[:-1]) == answer
        assert told[-1] == ("lost", ConnectionResetError)
        assert at.protocol.told.count("go on") <= stuffed
        assert at.transport.get_write_buffer_size() == 0


@pytest.mark.parametrize("how", ["resumed", "closed", "aborted"])
async def test_what_came_before_a_reset_waits_for_who_does_not_read(how: str) -> None:
    async with line("hears out", "tcp") as at:
        at.transport.write(b"what nobody reads")
        at.transport.pause_reading()
        at.far.send(b"the answer")
        at.far.close()
        at.transport.write(b"more")
        await settle()
        assert at.protocol.told == []
        if how == "resumed":
            at.transport.resume_reading()
            await at.protocol.until(b"the answer", ("lost", ConnectionResetError))
        else:
            at.transport.close() if how == "closed" else at.transport.abort()
            await at.protocol.until(NOTHING_WRONG)


async def test_a_write_that_finds_a_stuffed_connection_broken_lets_its_writer_go_on() -> None:
    async with line("hears out", "tcp") as at:
        at.transport.write(bytes(LARGE))
        at.transport.pause_reading()
        at.far.close()
        await at.protocol.until("pause", "go on")
        at.transport.write(b"into nothing")
        assert at.transport.get_write_buffer_size() == 0
        at.transport.resume_reading()
        await at.protocol.until("pause", "go on", ("lost", ConnectionResetError))


async def test_a_peer_that_only_reads_no_more_is_gone() -> None:
    """On a unix socket: writes fail, and reads would wait for ever."""
    async with line("hears out", "unix") as at:
        await at.send(b"last words")
        at.far.shutdown(socket.SHUT_RD)
        at.transport.write(b"more")
        await at.protocol.until(b"last words", ("lost", BrokenPipeError))


async def test_a_failure_in_what_is_told_before_a_reset_is_an_end() -> None:
    complaints = complaints_of_the_loop()
    async with line("hears out", "tcp") as at:
        at.protocol.on_data = lambda: 1 / 0  # type: ignore[assignment]
        at.transport.write(b"what nobody reads")
        at.far.send(b"the answer")
        at.far.close()
        at.transport.write(b"more")
        await at.protocol.until(b"the answer", ("lost", ZeroDivisionError))
    assert len(complaints) == 1


async def test_a_write_that_finds_a_reset_is_the_end_for_who_serves() -> None:
    """What a client asked before it was gone is nobody's any more."""
    async with line("ours", "tcp") as at:
        at.transport.write(b"what nobody reads")
        at.far.send(b"too late")
        at.far.close()
        at.transport.write(b"more")
        assert at.transport.is_closing()
        await at.protocol.until(("lost", ConnectionResetError))


@pytest.mark.parametrize("kind", ["ours", "hears out"])
@pytest.mark.usefixtures("kept_garbage")
async def test_a_reset_leaves_nothing_to_the_collector(kind: str) -> None:
    for _ in range(3):
        async with line(kind, "tcp") as at:
            at.transport.write(b"what nobody reads")
            at.far.close()
            at.transport.write(b"more")
            await at.protocol.until(("lost", ConnectionResetError))
        del at
    gc.collect()
    assert [one for one in gc.garbage if isinstance(one, SocketTransport)] == []


async def test_what_is_written_after_the_end_is_dropped() -> None:
    """Of asyncio's this cannot be asked: it trips over itself."""
    async with line("ours") as at:
        at.transport.abort()
        at.transport.write(b"nobody gets this")
        await at.protocol.until(NOTHING_WRONG)
        at.transport.write(b"nor this")


@on_both
async def test_who_closes_within_a_piece_is_told_no_more(kind: str) -> None:
    async with line(kind) as at:
        at.protocol.on_data = at.transport.close
        await at.send(b"first")
        await at.protocol.until(b"first", NOTHING_WRONG)


@on_both
@over_both
async def test_aborting_drops_what_was_written(kind: str, pair: str) -> None:
    async with line(kind, pair) as at:
        at.transport.write(bytes(LARGE))
        at.transport.abort()
        at.transport.abort()
        assert at.protocol.told == ["pause"]  # whoever aborts is not told within it
        await at.protocol.until("pause", NOTHING_WRONG)
        assert len(await at.receive(LARGE)) < LARGE


@on_both
async def test_a_reset_is_told(kind: str) -> None:
    async with line(kind, "tcp") as at:
        at.reset()
        await at.protocol.until(("lost", ConnectionResetError))


@on_both
async def test_a_reset_is_told_to_who_has_not_sent_everything(kind: str) -> None:
    async with line(kind, "tcp") as at:
        at.transport.pause_reading()
        at.transport.write(bytes(LARGE))
        at.reset()
        await at.protocol.until("pause", ("lost", ConnectionResetError))


@on_both
async def test_a_reset_is_told_to_who_closes(kind: str) -> None:
    async with line(kind, "tcp") as at:
        at.transport.write(bytes(LARGE))
        at.transport.close()
        at.reset()
        await at.protocol.until("pause", ("lost", ConnectionResetError))


@on_both
async def test_a_write_that_fails_is_an_end(kind: str) -> None:
    async with line(kind) as at:
        at.protocol.keeps_open = True
        at.far.close()
        await at.protocol.until("end")
        at.transport.write(b"anybody?")
        assert at.transport.is_closing()
        await at.protocol.until("end", ("lost", BrokenPipeError))


@on_both
@over_both
async def test_our_end_comes_after_everything_that_was_written(kind: str, pair: str) -> None:
    data = random.Random(4).randbytes(LARGE)
    async with line(kind, pair) as at:
        assert at.transport.can_write_eof()
        at.transport.write(data)
        at.transport.write_eof()
        at.transport.write_eof()
        with pytest.raises(RuntimeError, match="write_eof"):
            at.transport.write(b"x")
        assert await at.receive(LARGE + 1) == data
        await at.send(b"answer")
        await at.protocol.until("pause", "go on", b"answer")
        at.transport.close()
        at.transport.write_eof()


@on_both
async def test_our_end_comes_at_once_where_everything_has_left(kind: str) -> None:
    async with line(kind) as at:
        at.transport.write(b"all")
        at.transport.write_eof()
        assert await at.receive(4) == b"all"
        await at.send(b"answer")
        await at.protocol.until(b"answer")


@on_both
async def test_another_protocol_takes_over(kind: str) -> None:
    async with line(kind) as at:
        await at.send(b"first")
        await at.protocol.until(b"first")
        other = Noting()
        at.transport.set_protocol(other)
        assert at.transport.get_protocol() is other
        await at.send(b"second")
        await other.until(b"second")
        at.transport.set_protocol(at.protocol)
        assert at.protocol.told == [b"first"]


@on_both
async def test_it_knows_its_socket(kind: str) -> None:
    async with line(kind, "tcp") as at:
        assert at.transport.get_extra_info("peername") == at.far.getsockname()
        assert at.transport.get_extra_info("socket").getpeername() == at.far.getsockname()
        assert at.transport.get_extra_info("ssl_object") is None
        assert at.transport.get_extra_info("ssl_object", "none") == "none"
        at.transport.abort()
        await settle()
        assert at.transport.get_extra_info("peername") == at.far.getsockname()
        assert at.transport.get_extra_info("socket").fileno() == -1


@on_both
@pytest.mark.parametrize("method", ["data_received", "eof_received"])
async def test_a_protocol_that_fails_is_told_of_and_closed(
    kind: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    complaints = complaints_of_the_loop()

    def fail(*_: object) -> None:
        raise ValueError("broken")

    async with line(kind) as at:
        monkeypatch.setattr(Noting, method, fail)
        await at.send(b"x")
        at.far.shutdown(socket.SHUT_WR)
        await settle()
        assert at.protocol.told[-1] == ("lost", ValueError)
        [complaint] = complaints
        assert "Fatal error" in complaint["message"]
        assert complaint["protocol"] is at.protocol


async def test_a_protocol_that_fails_to_go_on_is_closed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    complaints = complaints_of_the_loop()

    def cancel(*_: object) -> None:
        raise asyncio.CancelledError

    async with line("ours") as at:
        monkeypatch.setattr(Noting, "resume_writing", cancel)
        at.transport.write(bytes(LARGE))
        await at.receive(LARGE)
        await at.protocol.until("pause", ("lost", asyncio.CancelledError))
        assert [type(one["exception"]) for one in complaints] == [asyncio.CancelledError]


@on_both
async def test_nothing_written_is_nothing_sent(kind: str) -> None:
    async with line(kind, "tcp") as at:
        at.transport.pause_reading()
        at.reset()
        await settle()
        at.transport.write(b"")
        assert not at.transport.is_closing()


async def test_a_protocol_that_fails_at_once_is_told_of_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    complaints = complaints_of_the_loop()

    def fail(*_: object) -> None:
        raise ValueError("broken")

    monkeypatch.setattr(Noting, "connection_made", fail)
    near, far = socket.socketpair()
    with far:
        near.setblocking(False)
        _, protocol = attach(worker_loop(), near, "", Noting)
        await protocol.until(("lost", ValueError))
        assert near.fileno() == -1
        assert [one["message"] for one in complaints] == ["Fatal error on socket transport"]


async def test_a_socket_that_cannot_be_watched_is_closed() -> None:
    near, far = socket.socketpair()
    with far:
        worker_loop().poller.register(near, 1)  # so the system has it already
        with pytest.raises(FileExistsError):
            attach(worker_loop(), near, "", Noting)
        assert near.fileno() == -1


async def test_a_factory_that_fails_leaves_nothing() -> None:
    near, far = socket.socketpair()

    def fail() -> Noting:
        raise ValueError("broken")

    with far, pytest.raises(ValueError, match="broken"):
        attach(worker_loop(), near, "", fail)
    assert near.fileno() == -1


# What nobody thought of.


async def act(step: str, size: int, at: Line, heard: bytearray) -> object:
    """One step of a script, by either end; what went wrong with it. What comes to the far end is ``heard``."""
    try:
        match step:
            case "send":
                return at.far.send(bytes([size % 251]) * min(size, 1000))
            case "receive":
                heard += at.far.recv(size)
            case "shut":
                at.far.shutdown(socket.SHUT_WR)
            case "write" if at.transport.get_protocol() is not None:  # asyncio's trips over itself there
                at.transport.write(bytes([size % 251]) * size)
            case "pause_reading" | "resume_reading" | "write_eof" | "close":
                getattr(at.transport, step)()
    except (OSError, RuntimeError) as error:
        return type(error)
    return None


STEPS = ["send", "receive", "write", "pause_reading", "resume_reading", "turn"] * 4 + ["shut", "write_eof", "close"]


async def play(kind: str, seed: int) -> list[Any]:
    """What both ends see of a script that ``seed`` makes up."""
    chance = random.Random(seed)
    seen: list[Any] = []
    heard = bytearray()
    async with line(kind) as at:
        at.protocol.keeps_open = chance.random() < 0.5
        for _ in range(chance.randint(1, 40)):
            step, size = chance.choice(STEPS), chance.choice([1, 100, READ_SIZE - 1, READ_SIZE, READ_SIZE + 1, 400_000])
            if step != "turn":
                seen.append((step, await act(step, size, at, heard)))
            for _ in range(12):  # everything that the step leads to
                await settle()
        for _ in range(100):  # how much the system holds depends on the pieces
            await act("receive", LARGE, at, heard)
            await settle()
        data = b"".join(one for one in at.protocol.told if isinstance(one, bytes))
        ends = [one for one in at.protocol.told if one == "end" or isinstance(one, tuple)]
        seen += [bytes(heard), data, ends, at.transport.is_closing(), at.transport.get_write_buffer_size()]
    return seen


@pytest.mark.parametrize("seed", range(60))
async def test_no_script_tells_the_transports_apart(seed: int) -> None:
    assert await play("ours", seed) == await play("asyncio", seed)
