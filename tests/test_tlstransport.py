"""TLS over a transport, with another binding of OpenSSL at the far end: content, ends, faults, renegotiation."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import socket
import ssl
import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from OpenSSL import SSL

from relay.wire.poller import PollerLoop
from relay.wire.tlstransport import RECORD, TLSTransport
from relay.wire.transport import attach
from tests.dialled import NAME, Certificates
from tests.every_loop import settle
from tests.noting import LARGE, NOTHING_WRONG, PATIENCE, Noting, tcp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
HEADER = 5  # bytes of a record before its content


class Far:
    """The other end: a socket, and an engine that seals and opens."""

    def __init__(self, sock: socket.socket, engine: SSL.Connection) -> None:
        self.sock = sock
        self.engine = engine

    async def shake(self) -> None:
        """Go through the handshake. Raises SSL.Error."""
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    self.engine.do_handshake()
                except SSL.WantReadError:
                    await self.flush()
                    await self.fill()
                else:
                    await self.flush()
                    return

    async def flush(self) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, self.sealed())

    def sealed(self) -> bytes:
        """What the engine has to say."""
        said = bytearray()
        while True:
            try:
                said += self.engine.bio_read(1 << 20)
            except SSL.WantReadError:
                return bytes(said)

    async def fill(self) -> None:
        """Take what comes. Raises EOFError at an end of the socket."""
        async with asyncio.timeout(PATIENCE):
            data = await asyncio.get_running_loop().sock_recv(self.sock, 1 << 16)
        if not data:
            raise EOFError
        self.engine.bio_write(data)

    def seal(self, data: bytes) -> bytes:
        """Content as records."""
        self.engine.sendall(data)
        return self.sealed()

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, self.seal(data))

    async def receive(self, size: int) -> bytes:
        """So many bytes. Raises SSL.ZeroReturnError at an end that is said, EOFError at one that is not."""
        data = bytearray()
        while len(data) < size:
            try:
                data += self.engine.recv(size - len(data))
            except SSL.WantReadError:
                await self.flush()
                await self.fill()
        return bytes(data)

    def reset(self) -> None:
        """Be gone without an end."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class Line:
    """Our end of a connection, before its handshake, and the far one."""

    def __init__(self, secured: TLSTransport, far: Far) -> None:
        self.secured = secured
        self.far = far
        self.shaking: asyncio.Task[None] = asyncio.get_running_loop().create_task(far.shake())
        self.shaking_may_fail = False

    @property
    def protocol(self) -> Noting:
        protocol = self.secured.get_protocol()
        assert isinstance(protocol, Noting)
        return protocol

    async def shaking_but_for_the_last(self) -> None:
        """Both ends go through it, but the far one keeps its last flight to itself."""
        self.shaking.cancel()
        engine = self.far.engine
        while True:
            with contextlib.suppress(SSL.WantReadError):
                engine.do_handshake()
                return
            await self.far.flush()
            await self.far.fill()

    async def shake(self) -> None:
        """Both ends go through the handshake."""
        async with asyncio.timeout(PATIENCE):
            await self.secured.done
            await self.shaking


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def trusting(certificates: Certificates) -> ssl.SSLContext:
    """What a client speaks; a test may change it, unlike those that the product keeps."""
    return ssl.create_default_context(cafile=certificates.ca)


def far_engine(certificates: Certificates, role: str) -> SSL.Connection:
    """What stands at the other end of ``role``."""
    if role == "server":
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.load_verify_locations(certificates.ca)
        context.set_verify(SSL.VERIFY_PEER)
        engine = SSL.Connection(context, None)
        engine.set_connect_state()
        return engine
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    identity = certificates.file(NAME)
    context.use_certificate_chain_file(identity)
    context.use_privatekey_file(identity)
    engine = SSL.Connection(context, None)
    engine.set_accept_state()
    return engine


@asynccontextmanager
async def line(
    certificates: Certificates,
    role: str,
    version: ssl.TLSVersion = TLS13,
    *,
    context: ssl.SSLContext | None = None,
    factory: Callable[[], Noting] = Noting,
) -> AsyncIterator[Line]:
    """A connection on which we have ``role``."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, PollerLoop)
    near, far = tcp()
    for sock in (near, far):
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if context is None:
        context = trusting(certificates) if role == "client" else certificates.server()
        context.maximum_version = version
    secured = TLSTransport(factory, context, server_hostname=NAME if role == "client" else None)
    attach(loop, near, near.getpeername(), lambda: secured)
    with far:
        at = Line(secured, Far(far, far_engine(certificates, role)))
        yield at
        at.shaking.cancel()
        secured.abort()
        await settle()
        assert at.shaking.done()
        assert at.shaking.cancelled() or at.shaking.exception() is None or at.shaking_may_fail
    assert near.fileno() == -1


@asynccontextmanager
async def secure_line(
    certificates: Certificates, role: str = "client", version: ssl.TLSVersion = TLS13
) -> AsyncIterator[tuple[Line, Noting]]:
    """A connection whose handshake is over, and our protocol."""
    async with line(certificates, role, version) as at:
        await at.shake()
        protocol = at.protocol
        yield at, protocol
    assert sum(isinstance(one, tuple) for one in protocol.told) == 1  # it is lost once


in_both_roles = pytest.mark.parametrize("role", ["client", "server"])
over_both_versions = pytest.mark.parametrize("version", [TLS12, TLS13])


@in_both_roles
@over_both_versions
async def test_content_arrives_whole_and_in_order(
    certificates: Certificates, role: str, version: ssl.TLSVersion
) -> None:
    data = random.Random(1).randbytes(LARGE)
    async with secure_line(certificates, role, version) as (at, protocol):
        await at.far.send(data)
        await protocol.until(data)
        sending = data[::-1]
        at.secured.write(sending)
        assert await at.far.receive(LARGE) == sending


@in_both_roles
async def test_records_may_come_in_any_pieces(certificates: Certificates, role: str) -> None:
    chance = random.Random(2)
    contents = [chance.randbytes(chance.choice([1, 60, 900, RECORD, 3 * RECORD + 7])) for _ in range(40)]
    async with secure_line(certificates, role) as (at, protocol):
        loop = asyncio.get_running_loop()
        left = b"".join(at.far.seal(content) for content in contents)
        while left:
            size = chance.choice([1, HEADER, 17, 1000, RECORD + HEADER, 70_000])
            await loop.sock_sendall(at.far.sock, left[:size])
            left = left[size:]
            await asyncio.sleep(0)
        await protocol.until(b"".join(contents))


async def test_each_piece_is_told_of_as_soon_as_its_record_is_whole(certificates: Certificates) -> None:
    async with secure_line(certificates) as (at, protocol):
        told = b""
        for number in range(20):
            await at.far.send(b"event %d\n" % number)
            told += b"event %d\n" % number
            await protocol.until(told)
        assert protocol.pieces == 20
        record = at.far.seal(b"the last")
        await asyncio.get_running_loop().sock_sendall(at.far.sock, record[:-1])
        await settle()
        assert protocol.told == [told]
        await asyncio.get_running_loop().sock_sendall(at.far.sock, record[-1:])
        await protocol.until(told + b"the last")


class Shy(Noting):
    """Leaves as soon as it has come."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.close()


@pytest.mark.parametrize("kind", [Noting, Shy])
async def test_what_comes_with_the_last_of_the_handshake_is_the_protocols(
    certificates: Certificates, kind: type[Noting]
) -> None:
    protocol = kind()
    async with line(certificates, "server", factory=lambda: protocol) as at:
        await at.shaking_but_for_the_last()
        assert not at.secured.done.done()
        assert at.secured.get_protocol() is None
        await at.far.send(b"GET / HTTP/1.1\r\n\r\n")
        async with asyncio.timeout(PATIENCE):
            await at.secured.done
        await protocol.until(*([NOTHING_WRONG] if kind is Shy else [b"GET / HTTP/1.1\r\n\r\n"]))


@in_both_roles
@over_both_versions
async def test_a_close_is_said_and_waits_for_nobody(
    certificates: Certificates, role: str, version: ssl.TLSVersion
) -> None:
    async with secure_line(certificates, role, version) as (at, protocol):
        at.secured.write(b"last words")
        at.secured.close()
        assert at.secured.is_closing()
        at.secured.close()  # a second time is the same
        at.secured.write(b"too late")
        await protocol.until(NOTHING_WRONG)
        assert await at.far.receive(10) == b"last words"
        with pytest.raises(SSL.ZeroReturnError):
            await at.far.receive(1)


async def test_what_was_written_before_a_close_leaves_first(certificates: Certificates) -> None:
    data = random.Random(3).randbytes(LARGE)
    async with secure_line(certificates) as (at, protocol):
        at.secured.write(data)
        at.secured.close()
        assert await at.far.receive(LARGE) == data
        with pytest.raises(SSL.ZeroReturnError):
            await at.far.receive(1)
        await protocol.until("pause", "go on", NOTHING_WRONG)


@in_both_roles
async def test_an_end_that_is_said_is_answered(certificates: Certificates, role: str) -> None:
    async with secure_line(certificates, role) as (at, protocol):
        await at.far.send(b"last")
        at.far.engine.shutdown()
        await at.far.flush()
        await protocol.until(b"last", "end", NOTHING_WRONG)
        assert at.secured.get_protocol() is None
        with pytest.raises(SSL.ZeroReturnError):
            await at.far.receive(1)


async def test_an_end_that_is_not_said_is_an_end_too(certificates: Certificates) -> None:
    """SPEC §12: a body that ends with the connection counts as whole, as in nginx."""
    async with secure_line(certificates) as (at, protocol):
        await at.far.send(b"last")
        at.far.sock.shutdown(socket.SHUT_WR)
        await protocol.until(b"last", "end", NOTHING_WRONG)


async def test_a_reset_is_told_as_one(certificates: Certificates) -> None:
    async with secure_line(certificates) as (at, protocol):
        at.far.reset()
        await protocol.until(("lost", ConnectionResetError))


@in_both_roles
async def test_a_forged_record_ends_the_connection_and_the_other_side_hears_why(
    certificates: Certificates, role: str
) -> None:
    async with secure_line(certificates, role) as (at, protocol):
        record = bytearray(at.far.seal(b"honest"))
        record[-1] ^= 1
        await asyncio.get_running_loop().sock_sendall(at.far.sock, record + at.far.seal(b"what follows"))
        await protocol.until(("lost", ssl.SSLError))
        with pytest.raises(SSL.Error, match="bad record mac"):
            await at.far.receive(1)


async def test_what_is_no_tls_is_refused(certificates: Certificates) -> None:
    async with line(certificates, "server") as at:
        at.shaking.cancel()
        await asyncio.get_running_loop().sock_sendall(at.far.sock, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        with pytest.raises(ssl.SSLError, match="HTTP_REQUEST"):
            await at.secured.done
        assert at.secured.get_protocol() is None
        assert at.secured.is_closing()


async def test_whom_we_do_not_trust_hears_why(certificates: Certificates, tmp_path: Path) -> None:
    async with line(certificates, "client", context=trusting(Certificates(tmp_path))) as at:
        with pytest.raises(ssl.SSLCertVerificationError):
            await at.secured.done
        at.shaking_may_fail = True
        with pytest.raises(SSL.Error, match="unknown ca"):
            await at.shaking


async def test_what_cannot_even_begin_is_refused_at_once(certificates: Certificates) -> None:
    context = trusting(certificates)
    context.maximum_version = TLS12
    context.minimum_version = TLS13
    async with line(certificates, "client", context=context) as at:
        at.shaking.cancel()
        with pytest.raises(ssl.SSLError, match="NO_PROTOCOLS_AVAILABLE"):
            await at.secured.done


@in_both_roles
@pytest.mark.parametrize("how", ["end", "reset"])
async def test_a_handshake_that_breaks_off_is_an_error(certificates: Certificates, role: str, how: str) -> None:
    async with line(certificates, role) as at:
        at.shaking.cancel()
        if how == "end":
            at.far.sock.shutdown(socket.SHUT_WR)
        else:
            at.far.reset()
        with pytest.raises(ConnectionResetError):
            await at.secured.done


async def test_a_handshake_may_be_given_up(certificates: Certificates) -> None:
    async with line(certificates, "client") as at:
        at.shaking.cancel()
        at.secured.abort()
        with pytest.raises(asyncio.CancelledError):
            await at.secured.done
        await settle()
        await at.far.fill()  # our hello
        with pytest.raises(EOFError):
            await at.far.fill()


async def test_one_that_never_had_a_transport_may_be_given_up(certificates: Certificates) -> None:
    secured = TLSTransport(Noting, certificates.server())
    secured.abort()
    assert secured.done.cancelled()


async def test_nothing_is_told_while_reading_is_paused(certificates: Certificates) -> None:
    async with secure_line(certificates) as (at, protocol):
        at.secured.pause_reading()
        assert not at.secured.is_reading()
        await at.far.send(b"some")
        await settle()
        assert protocol.told == []
        at.secured.write(b"x")  # the other direction goes on
        assert await at.far.receive(1) == b"x"
        at.secured.resume_reading()
        await protocol.until(b"some")


async def test_a_protocol_is_told_when_its_peer_does_not_keep_up(certificates: Certificates) -> None:
    data = random.Random(4).randbytes(LARGE)
    async with secure_line(certificates) as (at, protocol):
        at.secured.write(data)
        assert protocol.told == ["pause"]
        assert at.secured.get_write_buffer_size() > RECORD
        assert await at.far.receive(LARGE) == data
        await protocol.until("pause", "go on")
        assert at.secured.get_write_buffer_size() == 0


async def test_a_protocol_may_close_in_the_middle_of_what_it_is_told(certificates: Certificates) -> None:
    async with secure_line(certificates) as (at, protocol):
        protocol.on_data = lambda: at.secured.close()  # noqa: PLW0108 - the line's, not yet there
        await at.far.send(b"enough")
        await protocol.until(b"enough", NOTHING_WRONG)


async def test_what_it_knows(certificates: Certificates) -> None:
    async with secure_line(certificates) as (at, protocol):
        assert not at.secured.can_write_eof()
        assert at.secured.get_extra_info("ssl_object").version() == "TLSv1.3"
        assert at.secured.get_extra_info("peername") == at.far.sock.getsockname()
        assert at.secured.get_extra_info("cipher", "none") == "none"
        other = Noting()
        at.secured.set_protocol(other)
        await at.far.send(b"for another")
        await other.until(b"for another")
        assert protocol.told == []
        at.secured.set_protocol(protocol)


async def test_content_waits_while_the_other_side_renegotiates(certificates: Certificates) -> None:
    """TLS 1.2: a server may ask for another handshake, and OpenSSL takes no content from its beginning to its end."""
    async with secure_line(certificates, "client", TLS12) as (at, protocol):
        engine = at.far.engine
        assert engine.renegotiate()
        engine.do_handshake()
        await at.far.flush()  # asks for a hello
        await at.far.fill()  # which has come
        data = random.Random(5).randbytes(5 * RECORD)
        at.secured.write(data[:RECORD])
        at.secured.write(data[RECORD:])
        assert protocol.told == ["pause"]
        assert at.secured.get_write_buffer_size() == len(data)
        assert await at.far.receive(len(data)) == data
        assert engine.total_renegotiations() == 1
        await protocol.until("pause", "go on")
        at.secured.write(b"as ever")
        assert await at.far.receive(7) == b"as ever"
        await at.far.send(b"both ways")
        await protocol.until("pause", "go on", b"both ways")


@in_both_roles
@pytest.mark.parametrize("fault", ["forged", "refused", "broken off"])
@pytest.mark.usefixtures("kept_garbage")
async def test_a_fault_leaves_nothing_to_the_collector(
    certificates: Certificates, role: str, fault: str, tmp_path: Path
) -> None:
    strange = trusting(Certificates(tmp_path)) if role == "client" and fault == "refused" else None
    for _ in range(3):
        async with line(certificates, role, context=strange) as at:
            at.shaking_may_fail = True
            if fault == "forged":
                await at.shake()
                record = bytearray(at.far.seal(b"honest"))
                record[-1] ^= 1
                protocol = at.protocol
                await asyncio.get_running_loop().sock_sendall(at.far.sock, record)
                await protocol.until(("lost", ssl.SSLError))
            elif fault == "broken off" or role == "server":
                at.shaking.cancel()
                said = b"" if fault == "broken off" else b"nonsense"
                await asyncio.get_running_loop().sock_sendall(at.far.sock, said)
                at.far.sock.shutdown(socket.SHUT_WR)
            with contextlib.suppress(OSError):
                await at.secured.done
        del at
    await settle()
    gc.collect()
    assert [one for one in gc.garbage if isinstance(one, TLSTransport)] == []
