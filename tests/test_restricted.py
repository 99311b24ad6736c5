"""Restricted networks, through the whole proxy: tunnels, unix sockets, IPv6, our certificates, names that move."""

from __future__ import annotations

import asyncio
import socket
import stat
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import openai
import pytest

from relay.config import BaseURL, Listener, UpstreamTLS
from relay.demo import DemoUpstream
from relay.reach.names import Resolver
from tests.dialled import Certificates, Tunnels, serving
from tests.harness import CHAT, OK, PATIENCE, POST_CHAT, config_over, deployment, proxy_over, read_answer
from tests.scripted import ScriptedUpstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

NAME = "upstream.example"


@pytest.fixture
async def up() -> AsyncIterator[ScriptedUpstream]:
    upstream = ScriptedUpstream()
    await upstream.start()
    upstream.says(OK)
    yield upstream
    await upstream.close()


def away(port: int, scheme: str = "http") -> BaseURL:
    """An upstream that only an outbound proxy can find."""
    return BaseURL(scheme, NAME, port, "/v1")


async def test_an_exchange_goes_through_the_proxy_of_the_environment(up: ScriptedUpstream) -> None:
    tunnels = Tunnels({f"{NAME}:{up.port}": ("127.0.0.1", up.port)}, credentials="user:p@ss")
    async with serving(tunnels) as (host, port):
        environ = {"HTTP_PROXY": f"http://user:p%40ss@{host}:{port}"}
        config = config_over(deployment("a", 0, base=away(up.port)))
        async with proxy_over(config, environ=environ) as proxy:
            answers = await proxy.exchange(POST_CHAT, POST_CHAT)
    assert answers.count(b"HTTP/1.1 200 OK") == 2
    assert tunnels.asked == [f"{NAME}:{up.port}"]  # the tunnel is kept, as any connection is
    assert up.heard.count(b"Host: %s:%d\r\n" % (NAME.encode(), up.port)) == 2
    assert b"roxy-" not in up.heard


async def test_a_stream_of_the_sdk_comes_through_a_tunnel_of_its_deployment() -> None:
    demo = DemoUpstream({"sk-upstream-a": "one"}, pace=0)
    port = await demo.start()
    try:
        async with serving(Tunnels({f"{NAME}:{port}": ("127.0.0.1", port)})) as (host, at):
            config = config_over(deployment("a", 0, base=away(port), proxy=f"http://{host}:{at}"))
            async with proxy_over(config) as proxy:
                client = openai.AsyncOpenAI(base_url=proxy.base_url, api_key="sk-1234-of-the-proxy", max_retries=0)
                stream = await client.chat.completions.create(
                    model="gpt-4", messages=[{"role": "user", "content": "Hi"}], stream=True
                )
                chunks = [chunk async for chunk in stream]
                await client.close()
    finally:
        await demo.close()
    assert len(chunks) > 3


async def test_tls_is_spoken_inside_the_tunnel(tmp_path: Path, up: ScriptedUpstream) -> None:
    certificates = Certificates(tmp_path)
    secure = ScriptedUpstream()
    await secure.start(certificates.server(NAME))
    secure.says(OK)
    tls = UpstreamTLS(ca_file=certificates.ca)
    async with serving(Tunnels({f"{NAME}:{secure.port}": ("127.0.0.1", secure.port)})) as (host, port):
        config = config_over(deployment("a", 0, base=away(secure.port, "https"), tls=tls))
        async with proxy_over(config, environ={"https_proxy": f"http://{host}:{port}"}) as proxy:
            answer = await proxy.exchange(POST_CHAT)
    await secure.close()
    assert answer.startswith(b"HTTP/1.1 200 OK")


REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"credentials": "somebody:else"}, "407"),
    ({"routes": {}}, "403"),
]


@pytest.mark.parametrize(("settings", "status"), REFUSALS)
async def test_a_proxy_that_refuses_is_a_502_whose_log_says_so(
    up: ScriptedUpstream, settings: dict[str, Any], status: str, caplog: pytest.LogCaptureFixture
) -> None:
    tunnels = Tunnels(**{"routes": {f"{NAME}:{up.port}": ("127.0.0.1", up.port)}, **settings})
    async with serving(tunnels) as (host, port):
        config = config_over(deployment("a", 0, base=away(up.port)))
        async with proxy_over(config, environ={"HTTP_PROXY": f"http://u:hidden@{host}:{port}"}) as proxy:
            answer = await proxy.exchange(POST_CHAT)
            record = await proxy.record()
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert status in str(record.error)  # type: ignore[attr-defined]
    assert status in caplog.text
    assert "hidden" not in caplog.text + str(answer)
    assert not up.requests


async def test_what_no_proxy_names_is_dialled_directly(up: ScriptedUpstream) -> None:
    async with serving(Tunnels()) as (host, port):
        environ = {"HTTP_PROXY": f"http://{host}:{port}", "NO_PROXY": "10.0.0.0/8, .localhost"}
        config = config_over(deployment("a", 0, base=BaseURL("http", "api.localhost", up.port, "/v1")))
        async with proxy_over(config, environ=environ) as proxy:
            proxy.worker.pool._resolver = Resolver(
                lambda _host, _port: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", up.port))]
            )
            answer = await proxy.exchange(POST_CHAT)
    assert answer.startswith(b"HTTP/1.1 200 OK")


async def test_unix_sockets_on_both_sides(tmp_path: Path) -> None:
    demo = DemoUpstream({"sk-upstream-a": "one"}, pace=0)
    await demo.start(unix=tmp_path / "up.sock")
    path = tmp_path / "proxy.sock"
    base = BaseURL("http", "localhost", 80, "/v1", unix=str(tmp_path / "up.sock"))
    config = config_over(deployment("a", 0, base=base), listener=Listener(unix=str(path), unix_mode=0o600))
    try:
        async with proxy_over(config) as proxy:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(POST_CHAT)
            answer = await asyncio.wait_for(read_answer(reader), PATIENCE)
            writer.close()
            record = await proxy.record()
    finally:
        await demo.close()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert record.status == 200  # type: ignore[attr-defined]


async def test_ipv6_on_both_sides() -> None:
    try:
        probe = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    probe.close()
    demo = DemoUpstream({"sk-upstream-a": "one"}, pace=0)
    port = await demo.start(host="::1")
    config = config_over(
        deployment("a", 0, base=BaseURL("http", "::1", port, "/v1")), listener=Listener(host="::1", port=0)
    )
    try:
        async with proxy_over(config) as proxy:
            reader, writer = await asyncio.open_connection("::1", proxy.port)
            writer.write(POST_CHAT)
            answer = await asyncio.wait_for(read_answer(reader), PATIENCE)
            writer.close()
    finally:
        await demo.close()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert demo.requests[0].fields[0] == (b"Host", b"[::1]:%d" % port)


async def test_an_upstream_may_want_our_certificate(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    secure = ScriptedUpstream()
    await secure.start(certificates.server("127.0.0.1", client_ca=certificates.ca))
    secure.says(OK)
    base = BaseURL("https", "127.0.0.1", secure.port, "/v1")
    shown = UpstreamTLS(ca_file=certificates.ca, certificate=certificates.file("client.example"))
    async with AsyncExitStack() as stack:
        with_one = await stack.enter_async_context(proxy_over(config_over(deployment("a", 0, base=base, tls=shown))))
        assert (await with_one.exchange(POST_CHAT)).startswith(b"HTTP/1.1 200 OK")
    bare = config_over(deployment("a", 0, base=base, tls=UpstreamTLS(ca_file=certificates.ca)))
    async with proxy_over(bare) as without:
        assert (await without.exchange(POST_CHAT)).startswith(b"HTTP/1.1 502 ")
    await secure.close()
    assert secure.heard.endswith(CHAT)


async def test_a_name_that_moves_takes_the_next_exchange_along(up: ScriptedUpstream) -> None:
    """The kept connection leads to an address that the name has left; it is not used again (SPEC §14)."""
    moved = ScriptedUpstream()
    await moved.start()
    moved.says(OK.replace(b"{}", b"[]"))
    addresses = [("127.0.0.1", up.port)]
    now = [0.0]
    resolver = Resolver(
        lambda _host, _port: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses],
        clock=lambda: now[0],
    )
    async with proxy_over(config_over(deployment("a", 0, base=away(up.port)))) as proxy:
        proxy.worker.pool._resolver = resolver
        first = await proxy.exchange(POST_CHAT)
        addresses[:] = [("127.0.0.2", moved.port)]
        server = await asyncio.start_server(moved._connected, "127.0.0.2", moved.port)
        now[0] = 31.0  # what was looked up is 30 s old at most
        async with asyncio.timeout(PATIENCE):
            while not (answer := await proxy.exchange(POST_CHAT)).endswith(b"[]"):
                assert answer.endswith(b"{}")  # renewed behind the caller's back, so one more may go the old way
        server.close()
    await moved.close()
    assert first.endswith(b"{}")
