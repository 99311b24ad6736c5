"""Dials over real sockets, on every loop: what is reached, what is said of failures, that nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from relay.config import BaseURL, Secret, UpstreamTLS
from relay.errors import UpstreamFailure, UpstreamTimeout
from relay.reach import tls
from relay.reach.dial import authority, dial, named_peer
from relay.reach.names import Resolver
from relay.reach.outbound import ProxyAddress
from tests.dialled import NAME, Certificates, Listener, Tunnels, base, echo, hang_up, naming, say_nothing, serving
from tests.every_loop import on_every_loop

if TYPE_CHECKING:
    from collections.abc import Iterator

TINYPROXY = Path("/usr/bin/tinyproxy")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("strangers"))


async def reach(
    where: BaseURL,
    *,
    context: ssl.SSLContext | None = None,
    proxy: ProxyAddress | None = None,
    resolver: Resolver | None = None,
    timeout: float = 5.0,  # noqa: ASYNC109 - what is tested
) -> Listener:
    """Dial, and check what every dial must hold."""
    transport, listener = await dial(
        where, Listener, context=context, proxy=proxy, resolver=resolver or Resolver(), timeout=timeout
    )
    assert listener.transport is transport
    assert transport.get_protocol() is listener
    return listener


async def refused(where: BaseURL, **options: Any) -> UpstreamFailure:
    """Dial in vain, and check what every failure must hold."""
    with pytest.raises(UpstreamFailure) as failure:
        await reach(where, **options)
    error = failure.value
    assert not error.sent
    for secret in (where.host, str(where.port), "127.0.0.1", "::1", "hunter2"):
        assert secret not in error.message
    assert "hunter2" not in error.detail
    return error


@contextmanager
def closed_port() -> Iterator[tuple[str, int]]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()


@contextmanager
def silent_port() -> Iterator[tuple[str, int]]:
    """A port whose queue is full: nothing is answered, not even a refusal."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(sock.getsockname())
        yield sock.getsockname()
        for filler in fillers:
            filler.close()


def proxy_at(address: tuple[Any, ...], scheme: str = "http", host: str | None = None, user: str = "") -> ProxyAddress:
    return ProxyAddress(scheme, host or address[0], address[1], Secret(user) if user else None)


# Direct


@pytest.mark.parametrize(("host", "name"), [("127.0.0.1", None), ("::1", None), ("127.0.0.1", "localhost")])
@on_every_loop
async def test_an_address_is_dialled(host: str, name: str | None) -> None:
    async with serving(echo, host=host) as address:
        listener = await reach(base(address, host=name))
        assert await listener.ask(b"hello") == b"you said hello\n"
        assert listener.transport is not None
        assert listener.transport.get_extra_info("peername")[:2] == address[:2]
        sock = listener.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        await listener.close()


@on_every_loop
async def test_a_unix_socket_is_dialled(tmp_path: Path) -> None:
    path = str(tmp_path / "x.sock")
    async with serving(echo, path=path):
        listener = await reach(base(path))
        assert await listener.ask(b"hello") == b"you said hello\n"
        await listener.close()
    failure = await refused(base(path + ".absent"))
    assert failure.detail == f"unix:{path}.absent: No such file or directory"


@on_every_loop
async def test_tls_is_spoken_over_a_unix_socket(tmp_path: Path, certificates: Certificates) -> None:
    path = str(tmp_path / "x.sock")
    async with serving(echo, certificates.server(), path=path):
        listener = await reach(base(path, "https", NAME), context=certificates.client())
        assert await listener.ask(b"hello") == b"you said hello\n"
        await listener.close()


@on_every_loop
async def test_a_name_is_looked_up() -> None:
    async with serving(echo) as address:
        listener = await reach(base(address, host="api.test"), resolver=naming(address))
        assert await listener.ask(b"hello") == b"you said hello\n"
        await listener.close()


@on_every_loop
async def test_the_next_address_is_taken_after_a_refusal() -> None:
    with closed_port() as closed:
        async with serving(echo) as address:
            listener = await reach(BaseURL("http", "api.test", 80, ""), resolver=naming(closed, address))
            assert await listener.ask(b"hello") == b"you said hello\n"
            await listener.close()


@on_every_loop
async def test_a_refused_port_is_a_failure() -> None:
    with closed_port() as closed:
        failure = await refused(base(closed))
    assert type(failure) is UpstreamFailure
    assert failure.status == 502
    assert failure.detail == f"127.0.0.1:{closed[1]}: Connection refused"


@on_every_loop
async def test_a_silent_address_is_too_slow() -> None:
    with silent_port() as silent:
        failure = await refused(base(silent), timeout=0.1)
    assert type(failure) is UpstreamTimeout
    assert failure.status == 504
    assert failure.detail == f"127.0.0.1:{silent[1]}: no connection in time"


@on_every_loop
async def test_every_failed_address_is_told_and_slowness_decides() -> None:
    with closed_port() as closed, silent_port() as silent:
        failure = await refused(BaseURL("http", "a.test", 80, ""), resolver=naming(closed, silent, closed), timeout=0.1)
    assert type(failure) is UpstreamTimeout
    assert failure.detail == (
        f"127.0.0.1:{closed[1]}: Connection refused; 127.0.0.1:{silent[1]}: no connection in time"
    )


@on_every_loop
async def test_a_name_without_an_address_is_a_failure() -> None:
    def fail(_host: str, _port: int) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    failure = await refused(BaseURL("http", "gone.test", 80, ""), resolver=Resolver(fail))

    assert failure.message.startswith("The upstream's name could not be resolved.")
    assert failure.detail == "name gone.test: answer to the look-up: Name or service not known"


@on_every_loop
async def test_a_name_server_that_says_nothing_is_too_slow() -> None:
    gate = threading.Event()

    def stall(_host: str, _port: int) -> Any:
        assert gate.wait(10)
        return []

    failure = await refused(BaseURL("http", "slow.test", 80, ""), resolver=Resolver(stall), timeout=0.05)
    gate.set()

    assert type(failure) is UpstreamTimeout
    assert failure.detail == "name slow.test: no answer to the look-up in time"


@pytest.mark.parametrize("way", ["direct", "tls", "tunnel"])
@on_every_loop
async def test_an_upstream_that_closes_at_once_is_a_failure_or_a_connection_that_ends(
    certificates: Certificates, way: str
) -> None:
    async def leave(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with serving(leave) as address:
        context = certificates.client() if way == "tls" else None
        proxy = proxy_at(address) if way == "tunnel" else None
        for _ in range(50):  # which of the two it is depends on the turn of the loop
            try:
                listener = await reach(base(address), context=context, proxy=proxy)
            except UpstreamFailure as failure:
                assert not failure.sent  # noqa: PT017
            else:
                await listener.ended


@on_every_loop
async def test_a_factory_that_fails_leaves_nothing() -> None:
    def fail() -> Listener:
        raise LookupError("no protocol today")

    async with serving(echo) as address:
        with pytest.raises(LookupError):
            await dial(base(address), fail, context=None, proxy=None, resolver=Resolver(), timeout=5)


# TLS


@pytest.mark.parametrize("host", [NAME, NAME + "."])
@on_every_loop
async def test_tls_is_spoken(certificates: Certificates, host: str) -> None:
    async with serving(echo, certificates.server()) as address:
        listener = await reach(base(address, "https", host), context=certificates.client(), resolver=naming(address))
        assert await listener.ask(b"hello") == b"you said hello\n"
        assert listener.transport is not None
        assert listener.transport.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        assert listener.transport.get_extra_info("peername") == address
        await listener.close()


@on_every_loop
async def test_an_address_may_be_what_the_certificate_names(certificates: Certificates) -> None:
    async with serving(echo, certificates.server("127.0.0.1")) as address:
        listener = await reach(base(address, "https"), context=certificates.client())
        assert await listener.ask(b"hello") == b"you said hello\n"
        await listener.close()


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ("stranger", "certificate verify failed: unable to get local issuer certificate"),
        ("expired", "certificate verify failed: certificate has expired"),
        ("name", f"certificate verify failed: Hostname mismatch, certificate is not valid for '{NAME}'"),
    ],
)
@on_every_loop
async def test_a_wrong_certificate_is_told_from_others(
    certificates: Certificates, strangers: Certificates, fault: str, complaint: str
) -> None:
    context = {
        "stranger": strangers.server(),
        "expired": certificates.expired(),
        "name": certificates.server("other.example.test"),
    }[fault]
    async with serving(echo, context) as address:
        failure = await refused(base(address, "https", NAME), context=certificates.client(), resolver=naming(address))
    assert failure.message.startswith("The TLS handshake with the upstream failed.")
    assert failure.detail == f"127.0.0.1:{address[1]}: TLS handshake: {complaint}"


@on_every_loop
async def test_without_verification_a_stranger_will_do(strangers: Certificates) -> None:
    async with serving(echo, strangers.server()) as address:
        listener = await reach(base(address, "https"), context=tls.client_context(UpstreamTLS(verify=False)))
        assert await listener.ask(b"hello") == b"you said hello\n"
        await listener.close()


@on_every_loop
async def test_our_certificate_is_shown_to_who_asks(certificates: Certificates) -> None:
    async with serving(echo, certificates.server(client_ca=certificates.ca)) as address:
        context = certificates.client(certificate=certificates.file("client.example.test"))
        listener = await reach(base(address, "https", NAME), context=context, resolver=naming(address))
        assert await listener.ask(b"hello") == b"you said hello\n"
        await listener.close()


@on_every_loop
async def test_a_plain_port_is_told_from_tls(certificates: Certificates) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await say_nothing(reader, writer)

    async with serving(plain) as address:
        failure = await refused(base(address, "https"), context=certificates.client())
    assert failure.detail == f"127.0.0.1:{address[1]}: TLS handshake: wrong version number"


@on_every_loop
async def test_a_handshake_that_is_cut_is_a_failure(certificates: Certificates) -> None:
    async with serving(hang_up) as address:
        failure = await refused(base(address, "https"), context=certificates.client())
    assert type(failure) is UpstreamFailure
    assert failure.message.startswith("The TLS handshake with the upstream failed.")
    assert failure.detail.startswith(f"127.0.0.1:{address[1]}: TLS handshake: ")


@on_every_loop
async def test_a_handshake_without_an_answer_is_too_slow(certificates: Certificates) -> None:
    async with serving(say_nothing) as address:
        failure = await refused(base(address, "https"), context=certificates.client(), timeout=0.1)
    assert type(failure) is UpstreamTimeout
    assert failure.detail == f"127.0.0.1:{address[1]}: no TLS handshake in time"


@pytest.mark.parametrize("fault", ["silent", "cut", "stranger"])
@on_every_loop
async def test_the_next_address_is_taken_after_a_bad_handshake(
    certificates: Certificates, strangers: Certificates, fault: str
) -> None:
    talk = {"silent": say_nothing, "cut": hang_up, "stranger": echo}[fault]
    context = strangers.server() if fault == "stranger" else None
    with closed_port() as closed:
        async with serving(talk, context) as bad, serving(echo, certificates.server()) as good:
            listener = await reach(
                BaseURL("https", NAME, 443, ""),
                context=certificates.client(),
                resolver=naming(closed, bad, good),
                timeout=0.3,
            )
            assert await listener.ask(b"hello") == b"you said hello\n"
            await listener.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@on_every_loop
async def test_an_end_without_close_notify_is_an_end(certificates: Certificates, version: ssl.TLSVersion) -> None:
    context = certificates.server()
    context.maximum_version = version
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            plain, _ = server.accept()
            secured = context.wrap_socket(plain, server_side=True)
            secured.sendall(b"you said " + secured.recv(100))
            secured.close()  # sends no close_notify; unwrap() would

        thread = threading.Thread(target=serve)
        thread.start()
        address = server.getsockname()
        listener = await reach(base(address, "https", NAME), context=certificates.client(), resolver=naming(address))
        assert await listener.ask(b"hello") == b"you said hello\n"
        assert await listener.ended is None
        await asyncio.to_thread(thread.join, 10)


# Outbound proxies


@on_every_loop
async def test_a_plain_upstream_is_reached_through_a_tunnel_too() -> None:
    tunnels = Tunnels()
    async with serving(echo) as address, serving(tunnels) as way:
        tunnels.routes["api.test:80"] = address
        listener = await reach(BaseURL("http", "api.test", 80, ""), proxy=proxy_at(way))
        assert await listener.ask(b"hello") == b"you said hello\n"
        await listener.close()
    assert tunnels.asked == ["api.test:80"]


@on_every_loop
async def test_tls_is_spoken_through_a_tunnel(certificates: Certificates) -> None:
    tunnels = Tunnels(credentials="user:hunter2")
    async with serving(echo, certificates.server()) as address, serving(tunnels) as way:
        tunnels.routes[f"{NAME}:443"] = address
        listener = await reach(
            BaseURL("https", NAME, 443, ""),
            context=certificates.client(),
            proxy=proxy_at(way, user="user:hunter2", host="proxy.test"),
            resolver=naming(way),  # only the proxy's name is looked up here
        )
        assert await listener.ask(b"hello") == b"you said hello\n"
        await listener.close()


@on_every_loop
async def test_tls_is_spoken_within_the_tls_of_a_proxy(
    certificates: Certificates, strangers: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", strangers.ca)  # the proxy's authority is the system's
    tunnels = Tunnels(credentials="user:hunter2")
    async with serving(echo, certificates.server()) as address, serving(tunnels, strangers.server("127.0.0.1")) as way:
        tunnels.routes[f"{NAME}:443"] = address
        tunnels.routes[f"{NAME}:80"] = address
        proxy = proxy_at(way, "https", user="user:hunter2")
        listener = await reach(BaseURL("https", NAME, 443, ""), context=certificates.client(), proxy=proxy)
        assert await listener.ask(b"hello") == b"you said hello\n"
        assert await listener.ask(b"x" * 50_000) == b"you said " + b"x" * 50_000 + b"\n"
        await listener.close()

        failure = await refused(BaseURL("https", NAME, 80, ""), context=strangers.client(), proxy=proxy)
        assert failure.detail.endswith(
            "TLS handshake: certificate verify failed: unable to get local issuer certificate"
        )


@on_every_loop
async def test_a_proxy_whose_certificate_is_wrong_is_told_from_the_upstream(
    certificates: Certificates, strangers: Certificates
) -> None:
    async with serving(Tunnels(), strangers.server("127.0.0.1")) as way:
        failure = await refused(
            BaseURL("https", NAME, 443, ""), context=certificates.client(), proxy=proxy_at(way, "https")
        )
    assert failure.detail == (
        f"outbound proxy 127.0.0.1:{way[1]}: TLS handshake with the outbound proxy: "
        "certificate verify failed: unable to get local issuer certificate"
    )


REFUSALS = [
    ("", "it answered 407 Who are you? and asks for credentials (Basic); Basic ones can be given in the proxy's URL"),
    ("user:hunter2-wrong", "it answered 407 Who are you? and asks for credentials (Basic)"),
    ("user:right", "it answered 403 Not on the list"),
]


@pytest.mark.parametrize(("user", "complaint"), REFUSALS)
@on_every_loop
async def test_a_proxy_that_refuses_says_why_and_is_asked_once(user: str, complaint: str) -> None:
    tunnels = Tunnels(credentials="user:right")
    async with serving(tunnels) as way, serving(tunnels, host="::1") as other:
        proxy = proxy_at(way, user=user, host="proxy.test")
        failure = await refused(BaseURL("https", NAME, 443, ""), proxy=proxy, resolver=naming(way, other))
    assert type(failure) is UpstreamFailure
    assert failure.message.startswith("The outbound proxy did not connect to the upstream.")
    assert failure.detail.startswith(f"outbound proxy 127.0.0.1:{way[1]}: {complaint}")
    assert tunnels.asked == [f"{NAME}:443"]


@on_every_loop
async def test_a_proxy_that_hangs_up_is_a_failure() -> None:
    async with serving(hang_up) as way:
        failure = await refused(BaseURL("https", NAME, 443, ""), proxy=proxy_at(way))
    assert failure.message.startswith("The upstream could not be reached.")
    assert failure.detail.startswith(f"outbound proxy 127.0.0.1:{way[1]}: tunnel: ")


@on_every_loop
async def test_a_proxy_that_says_nothing_is_too_slow() -> None:
    async with serving(say_nothing) as way:
        failure = await refused(BaseURL("https", NAME, 443, ""), proxy=proxy_at(way), timeout=0.1)
    assert type(failure) is UpstreamTimeout
    assert failure.detail == f"outbound proxy 127.0.0.1:{way[1]}: no tunnel in time"


@on_every_loop
async def test_a_proxy_that_is_not_there_is_a_failure() -> None:
    with closed_port() as closed:
        failure = await refused(BaseURL("https", NAME, 443, ""), proxy=proxy_at(closed))
    assert failure.detail == f"outbound proxy 127.0.0.1:{closed[1]}: Connection refused"


@on_every_loop
async def test_bytes_behind_the_proxy_s_answer_are_refused(certificates: Certificates) -> None:
    tunnels = Tunnels(answer=b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n")
    async with serving(echo) as address, serving(tunnels) as way:
        tunnels.routes[f"{NAME}:443"] = address
        failure = await refused(BaseURL("https", NAME, 443, ""), context=certificates.client(), proxy=proxy_at(way))
    assert failure.detail.endswith("tunnel: bytes that nobody asked for came through the tunnel")


@on_every_loop
async def test_a_host_that_is_none_is_a_failure(certificates: Certificates) -> None:
    async with serving(Tunnels()) as way:
        failure = await refused(BaseURL("https", "a..test", 443, ""), proxy=proxy_at(way))
    assert failure.detail.endswith("tunnel: not a host name")


@pytest.mark.parametrize(
    ("host", "target"),
    [
        ("api.test", b"api.test:8443"),
        ("2001:db8::1", b"[2001:db8::1]:8443"),
        ("bücher.test", b"xn--bcher-kva.test:8443"),
    ],
)
def test_the_target_of_connect(host: str, target: bytes) -> None:
    assert authority(BaseURL("https", host, 8443, "/v1")) == target


def test_whose_address_an_idle_connection_has() -> None:
    api = BaseURL("https", "api.test", 443, "/v1")

    assert named_peer(api, None) == ("api.test", 443)
    assert named_peer(api, ProxyAddress("http", "proxy.test", 3128)) == ("proxy.test", 3128)
    assert named_peer(BaseURL("http", "x", 80, "", unix="/run/x"), None) is None


# Cancellation


@pytest.mark.parametrize("way", ["direct", "tunnel", "tls in tls"])
@on_every_loop
async def test_a_dial_may_be_cancelled_at_any_point(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", certificates.ca)
    tunnels = Tunnels()
    inner = certificates.server("127.0.0.1") if way == "tls in tls" else None
    finished = False
    async with serving(echo, certificates.server()) as address, serving(tunnels, inner) as middle:
        tunnels.routes[f"{NAME}:443"] = address
        proxy = None if way == "direct" else proxy_at(middle, "http" if inner is None else "https")
        for turns in range(400):
            dialling = asyncio.create_task(
                reach(
                    BaseURL("https", NAME, 443, ""),
                    context=certificates.client(),
                    proxy=proxy,
                    resolver=naming(address),
                )
            )
            for _ in range(turns):
                await asyncio.sleep(0)
            if dialling.done():
                await dialling.result().close()
                finished = True
                break
            dialling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await dialling
    assert finished


@pytest.mark.parametrize("how", ["cancelled", "too slow"])
@pytest.mark.parametrize("step", ["tunnel", "handshake"])
@on_every_loop
async def test_the_other_side_learns_at_once_of_a_dial_that_was_given_up(
    certificates: Certificates, step: str, how: str
) -> None:
    reached, left = asyncio.Event(), asyncio.Event()

    async def wait(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        reached.set()
        await reader.read()
        left.set()

    async with serving(wait) as address:
        proxy = proxy_at(address) if step == "tunnel" else None
        timeout = 60 if how == "cancelled" else 0.1
        context = certificates.client()
        dialling = asyncio.create_task(reach(base(address, "https"), context=context, proxy=proxy, timeout=timeout))
        await reached.wait()
        if how == "cancelled":
            dialling.cancel()
        with pytest.raises((asyncio.CancelledError, UpstreamTimeout)):
            await dialling
        await left.wait()


# tinyproxy


@contextmanager
def tinyproxy(folder: Path, *lines: str) -> Iterator[tuple[str, int]]:
    """Run tinyproxy on a free port."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    file = folder / "tinyproxy.conf"
    file.write_text("\n".join([f"Port {port}", "Listen 127.0.0.1", "Allow 127.0.0.1", "Timeout 30", *lines, ""]))
    command = [str(TINYPROXY), "-d", "-c", str(file)]
    environment = {**os.environ, "LC_ALL": "C"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment) as process:
        try:
            assert process.stdout is not None
            assert any(b"Accepting connections" in line for line in process.stdout)
            yield "127.0.0.1", port
        finally:
            process.terminate()


@pytest.mark.skipif(not TINYPROXY.exists(), reason="needs tinyproxy")
@pytest.mark.parametrize(
    ("user", "complaint"),
    [
        ("", "407 Proxy Authentication Required and asks for credentials (Basic)"),
        ("user:wrong", "it answered 401 Unauthorized"),  # sic
        ("user:right", None),
    ],
)
@on_every_loop
async def test_tinyproxy_lets_through_whom_it_knows(
    certificates: Certificates, tmp_path: Path, user: str, complaint: str | None
) -> None:
    with tinyproxy(tmp_path, "BasicAuth user right") as way:
        async with serving(echo, certificates.server("127.0.0.1")) as address:
            where, proxy = base(address, "https"), proxy_at(way, user=user)
            if complaint is None:
                listener = await reach(where, context=certificates.client(), proxy=proxy)
                assert await listener.ask(b"hello") == b"you said hello\n"
                await listener.close()
            else:
                failure = await refused(where, context=certificates.client(), proxy=proxy)
                assert complaint in failure.detail


@pytest.mark.skipif(not TINYPROXY.exists(), reason="needs tinyproxy")
@on_every_loop
async def test_tinyproxy_tunnels_for_anybody_and_says_what_it_cannot_reach(tmp_path: Path) -> None:
    with tinyproxy(tmp_path) as way, closed_port() as closed:
        async with serving(echo) as address:
            listener = await reach(base(address), proxy=proxy_at(way))
            assert await listener.ask(b"hello") == b"you said hello\n"
            await listener.close()
        failure = await refused(base(closed), proxy=proxy_at(way))
    assert f"outbound proxy 127.0.0.1:{way[1]}: it answered 50" in failure.detail
