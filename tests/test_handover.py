"""The answer to CONNECT, in pieces of any size, and what the record says of a refusal."""

from __future__ import annotations

import asyncio
import ssl

import pytest

from relay.reach.handover import (
    MAX_REPLY,
    Prelude,
    ProxyRefused,
    SpokeFirst,
    TunnelReply,
    ascii_host,
    hand_over,
    open_tunnel,
    secure,
)

OK = b"HTTP/1.1 200 Connection established\r\n\r\n"
ANSWERS = [
    ("plain", OK, None),
    ("HTTP/1.0, as tinyproxy says it", b"HTTP/1.0 200 Connection established\r\nProxy-agent: t\r\n\r\n", None),
    ("no reason", b"HTTP/1.1 200 \r\n\r\n", None),
    ("another 2xx", b"HTTP/1.1 204 Fine\r\n\r\n", None),
    ("framing that does not count", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", None),
    ("after interim answers", b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + OK, None),
    ("denied", b"HTTP/1.1 403 Filtered\r\nContent-Length: 2\r\n\r\nno", "it answered 403 Filtered"),
    ("denied without a reason", b"HTTP/1.1 503\r\n\r\n", "it answered 503"),
    ("elsewhere", b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", "it answered 302 Found"),
    (
        "credentials",
        b'HTTP/1.1 407 Who?\r\nProxy-Authenticate: Basic realm="x"\r\nProxy-Authenticate: Negotiate\r\n\r\n',
        "it answered 407 Who? and asks for credentials (Basic, Negotiate); Basic ones can be given in the proxy's URL",
    ),
    ("endless reason", b"HTTP/1.1 500 " + b"x" * 500 + b"\r\n\r\n", "it answered 500 " + "x" * 80),
    ("interim without end", b"HTTP/1.1 100 Continue\r\n\r\n" * 17 + OK, "it sends interim answers without end"),
    ("not HTTP", b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "its answer is not HTTP: illegal status line"),
    ("endless head", b"HTTP/1.1 200 OK\r\nA: " + b"a" * MAX_REPLY, "its answer is not HTTP: Receive buffer too long"),
    ("another protocol", b"HTTP/1.1 101 Go\r\nUpgrade: x\r\n\r\n", "its answer is not HTTP"),
]


class Line(asyncio.Transport):
    """A connection at rest, in one of the states that the network brings about when it likes."""

    def __init__(self, *, spoke: bool = False, closing: bool = False, lost: bool = False) -> None:
        super().__init__()
        self.prelude = Prelude()
        self.closing = closing or lost
        self.lost = lost
        if spoke:
            self.prelude.data_received(b"220 mail.example.com")

    def get_protocol(self) -> asyncio.BaseProtocol:
        return None if self.lost else self.prelude  # type: ignore[return-value]  # as asyncio has it

    def is_closing(self) -> bool:
        return self.closing


def answered(data: bytes, size: int) -> TunnelReply:
    """A reply that was fed ``data`` in pieces."""
    loop = asyncio.new_event_loop()  # for its future only; it never runs
    reply = TunnelReply(loop)
    loop.close()
    reply.request(b"api.test:443", None)
    for at in range(0, len(data), size):
        reply.feed(data[at : at + size])
    return reply


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize(("data", "complaint"), [case[1:] for case in ANSWERS], ids=[case[0] for case in ANSWERS])
def test_the_answer_is_judged(data: bytes, complaint: str | None, size: int) -> None:
    done = answered(data, size).done

    if complaint is None:
        assert done.result() is None
    else:
        with pytest.raises(ProxyRefused) as refusal:
            done.result()
        assert str(refusal.value).startswith(complaint)


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_half_an_answer_is_none(size: int) -> None:
    assert not answered(OK[:-1], size).done.done()


def test_bytes_behind_the_answer_are_refused() -> None:
    with pytest.raises(SpokeFirst):
        answered(OK + b"\x00", 1 << 20).done.result()


def test_the_first_end_counts() -> None:
    reply = answered(OK, 7)
    reply.fail(ConnectionResetError())

    assert reply.done.result() is None


@pytest.mark.parametrize(
    ("authorization", "line"), [(None, b""), (b"Basic dTpw", b"Proxy-Authorization: Basic dTpw\r\n")]
)
def test_the_request_names_the_target_twice(authorization: bytes | None, line: bytes) -> None:
    loop = asyncio.new_event_loop()
    reply = TunnelReply(loop)
    loop.close()

    request = reply.request(b"[::1]:443", authorization)

    assert request == b"CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\n" + line + b"\r\n"


def test_who_speaks_before_it_is_asked_is_not_handed_over() -> None:
    with pytest.raises(SpokeFirst):
        hand_over(Line(spoke=True), asyncio.Protocol)


async def test_who_speaks_before_the_handshake_gets_none() -> None:
    with pytest.raises(SpokeFirst):
        await secure(Line(spoke=True), ssl.create_default_context(), "api.test")


@pytest.mark.parametrize("line", [Line(closing=True), Line(lost=True)], ids=["closing", "lost"])
async def test_what_has_ended_goes_no_further(line: Line) -> None:
    with pytest.raises(ConnectionResetError):
        hand_over(line, asyncio.Protocol)
    with pytest.raises(ConnectionResetError):
        await open_tunnel(line, b"api.test:443", None)
    with pytest.raises(ConnectionResetError):
        await secure(line, ssl.create_default_context(), "api.test")


def test_an_end_without_a_question_is_quiet() -> None:
    line = Line()
    line.prelude.connection_lost(None)

    assert line.prelude.reply is None


@pytest.mark.parametrize(
    ("host", "wire"),
    [("api.test", "api.test"), ("Bücher.test", "xn--bcher-kva.test"), ("::1", "::1"), ("a_b.test", "a_b.test")],
)
def test_a_host_is_written_for_the_wire(host: str, wire: str) -> None:
    assert ascii_host(host) == wire


@pytest.mark.parametrize("host", ["a..test", "x" * 64 + ".test"])
def test_what_is_no_host_name_is_an_error(host: str) -> None:
    with pytest.raises(OSError, match="not a host name"):
        ascii_host(host)
