"""TLS on both sides, with the real SDK: who is trusted, who is refused, and what is said about it."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import openai
import pytest
import trustme

from relay.config import BaseURL, Listener, ListenerTLS, UpstreamTLS
from relay.demo import DemoUpstream
from relay.reach.tls import server_context
from tests.harness import KEY, Proxy, config_over, deployment, proxy_over
from tests.processes import running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

HELLO: Any = [{"role": "user", "content": "count to 3"}]
UPSTREAM_KEYS = {"sk-upstream-a": "a", "sk-upstream-b": "b"}
REFUSED_BY_US = "The TLS handshake with the upstream failed. The log of this proxy says why."


class Authority:
    """A private CA whose certificates are files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = trustme.CA()
        self.file = self._write("ca.pem", self.ca.cert_pem.bytes())

    def _write(self, name: str, content: bytes) -> str:
        path = self.folder / name
        path.write_bytes(content)
        return str(path)

    def issue(self, identity: str, **more: Any) -> tuple[str, str]:
        """A certificate's files: the chain, the key."""
        leaf = self.ca.issue_cert(identity, **more)
        name = f"{identity}-{len(list(self.folder.iterdir()))}"
        chain = self._write(f"{name}.pem", b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
        return chain, self._write(f"{name}-key.pem", leaf.private_key_pem.bytes())

    def server(self, identity: str = "127.0.0.1", **more: Any) -> ssl.SSLContext:
        """What a server of this CA's speaks."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.issue(identity, **more))
        return context

    def client(self, *certificate: str) -> ssl.SSLContext:
        """What a client speaks that trusts this CA and nobody else."""
        context = ssl.create_default_context(cafile=self.file)
        if certificate:
            context.load_cert_chain(*certificate)
        return context


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("theirs"))


@asynccontextmanager
async def demo(context: ssl.SSLContext | None = None) -> AsyncIterator[DemoUpstream]:
    upstream = DemoUpstream(UPSTREAM_KEYS, pace=0)
    await upstream.start(ssl=context)
    try:
        yield upstream
    finally:
        await upstream.close()


@asynccontextmanager
async def proxy(
    *upstreams: tuple[DemoUpstream, str, UpstreamTLS], tls: ListenerTLS | None = None
) -> AsyncIterator[Proxy]:
    """A proxy over upstreams that are asked in their order."""
    members = [
        deployment(
            "ab"[number], 0, base=BaseURL(scheme, "127.0.0.1", port_of(upstream), "/v1"), tls=settings, order=number
        )
        for number, (upstream, scheme, settings) in enumerate(upstreams)
    ]
    context = None if tls is None else server_context(tls)
    async with proxy_over(config_over(*members, listener=Listener(port=0, tls=tls)), tls=context) as it:
        yield it


def port_of(upstream: DemoUpstream) -> int:
    return int(upstream.base_url.removesuffix("/v1").rpartition(":")[2])


@asynccontextmanager
async def sdk(url: str, verify: ssl.SSLContext, **more: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    http = openai.DefaultAsyncHttpxClient(verify=verify, trust_env=False)
    async with openai.AsyncOpenAI(
        api_key=KEY, base_url=url, max_retries=0, timeout=10, http_client=http, **more
    ) as client:
        yield client


def secure(proxy: Proxy) -> str:
    return proxy.base_url.replace("http:", "https:")


async def use(client: openai.AsyncOpenAI) -> None:
    """What must work over any connection: a call, a stream, a large body both ways."""
    said = await client.chat.completions.create(model="gpt-4", messages=HELLO)
    assert said.choices[0].message.content == "1 2 3"
    stream = await client.chat.completions.create(model="gpt-4", messages=HELLO, stream=True)
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "1 2 3"
    content = random.Random(3).randbytes(2 << 20)
    file = await client.files.create(file=("a.bin", content), purpose="assistants")
    assert (await client.files.content(file.id)).content == content


# Downstream.


async def test_the_sdk_over_https(ours: Authority) -> None:
    tls = ListenerTLS(*ours.issue("127.0.0.1"))
    async with (
        demo() as up,
        proxy((up, "http", UpstreamTLS()), tls=tls) as it,
        sdk(secure(it), ours.client()) as client,
    ):
        await use(client)


async def test_a_client_that_does_not_trust_us_says_nothing(ours: Authority, theirs: Authority) -> None:
    tls = ListenerTLS(*ours.issue("127.0.0.1"))
    async with demo() as up, proxy((up, "http", UpstreamTLS()), tls=tls) as it:
        async with sdk(secure(it), theirs.client()) as client:
            with pytest.raises(openai.APIConnectionError):
                await client.models.list()
        async with sdk(secure(it), ours.client()) as client:
            await client.models.list()  # and nobody else is the worse for it
        await it.record()
    assert (len(it.records), len(up.requests)) == (1, 1)


async def test_clients_must_show_a_certificate_where_a_ca_is_named(ours: Authority, theirs: Authority) -> None:
    tls = ListenerTLS(*ours.issue("127.0.0.1"), client_ca=ours.file)
    async with demo() as up, proxy((up, "http", UpstreamTLS()), tls=tls) as it:
        for certificate in ((), theirs.issue("client.test")):
            async with sdk(secure(it), ours.client(*certificate)) as client:
                with pytest.raises(openai.APIConnectionError):
                    await client.models.list()
        assert not up.requests
        async with sdk(secure(it), ours.client(*ours.issue("client.test"))) as client:
            await use(client)


async def test_plain_http_on_a_tls_port_is_closed(ours: Authority) -> None:
    tls = ListenerTLS(*ours.issue("127.0.0.1"))
    async with demo() as up, proxy((up, "http", UpstreamTLS()), tls=tls) as it:
        reader, writer = await it.connect()
        writer.write(b"GET /v1/models HTTP/1.1\r\nHost: p\r\n\r\n")
        async with asyncio.timeout(10):
            assert b"HTTP/1.1 200" not in await reader.read()
        writer.close()
    assert not up.requests


# Upstream.


async def test_an_upstream_of_a_private_ca(ours: Authority) -> None:
    async with (
        demo(ours.server()) as up,
        proxy((up, "https", UpstreamTLS(ca_file=ours.file))) as it,
        sdk(it.base_url, ours.client()) as client,
    ):
        await use(client)
        assert len({heard.connection for heard in up.requests}) == 1


async def test_https_on_both_sides(ours: Authority, theirs: Authority) -> None:
    tls = ListenerTLS(*ours.issue("127.0.0.1"))
    async with (
        demo(theirs.server()) as up,
        proxy((up, "https", UpstreamTLS(ca_file=theirs.file)), tls=tls) as it,
        sdk(secure(it), ours.client()) as client,
    ):
        await use(client)


async def test_an_upstream_that_wants_a_certificate(ours: Authority, theirs: Authority) -> None:
    context = theirs.server()
    context.load_verify_locations(ours.file)
    context.verify_mode = ssl.CERT_REQUIRED
    certificate, key = ours.issue("proxy.test")
    settings = UpstreamTLS(ca_file=theirs.file, certificate=certificate, key=key)
    async with demo(context) as up:
        async with proxy((up, "https", settings)) as it, sdk(it.base_url, ours.client()) as client:
            await use(client)
        heard = len(up.requests)
        async with (
            proxy((up, "https", UpstreamTLS(ca_file=theirs.file))) as it,
            sdk(it.base_url, ours.client()) as client,
        ):
            with pytest.raises(openai.InternalServerError) as caught:
                await client.chat.completions.create(model="gpt-4", messages=HELLO)
        assert (caught.value.status_code, len(up.requests)) == (502, heard)


YESTERDAY = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
DISTRUSTED = [  # who the upstream is, whether by our CA, what the log says
    ("127.0.0.1", False, {}, "certificate verify failed: unable to get local issuer certificate"),
    (
        "elsewhere.test",
        True,
        {},
        "certificate verify failed: IP address mismatch, certificate is not valid for '127.0.0.1'",
    ),
    ("127.0.0.1", True, {"not_after": YESTERDAY}, "certificate verify failed: certificate has expired"),
]


@pytest.mark.parametrize(("identity", "known", "more", "why"), DISTRUSTED, ids=["wrong CA", "wrong name", "expired"])
async def test_a_distrusted_upstream_is_a_502_and_the_log_says_why(
    ours: Authority,
    theirs: Authority,
    caplog: pytest.LogCaptureFixture,
    identity: str,
    known: bool,
    more: dict[str, Any],
    why: str,
) -> None:
    context = (ours if known else theirs).server(identity, **more)
    async with (
        demo(context) as up,
        proxy((up, "https", UpstreamTLS(ca_file=ours.file))) as it,
        sdk(it.base_url, ours.client()) as client,
    ):
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(model="gpt-4", messages=HELLO)
        record = await it.record()
        address = f"127.0.0.1:{port_of(up)}"
    assert not up.requests
    assert caught.value.status_code == 502
    assert caught.value.body == {
        "message": REFUSED_BY_US, "type": "upstream_error", "param": None, "code": "upstream_error"
    }  # fmt: skip
    lines = [line.getMessage() for line in caplog.records if line.name == "passthrough.upstream"]
    assert lines
    assert set(lines) == {f"deployment a: {address}: TLS handshake: {why}"}
    assert why in record.error  # type: ignore[attr-defined]


async def test_a_distrusted_upstream_is_served_if_nobody_wants_to_know(ours: Authority, theirs: Authority) -> None:
    async with (
        demo(theirs.server("elsewhere.test")) as up,
        proxy((up, "https", UpstreamTLS(verify=False))) as it,
        sdk(it.base_url, ours.client()) as client,
    ):
        await use(client)


async def test_another_deployment_answers_for_a_distrusted_one(
    ours: Authority, theirs: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    trust = UpstreamTLS(ca_file=ours.file)
    async with (
        demo(theirs.server()) as bad,
        demo(ours.server()) as good,
        proxy((bad, "https", trust), (good, "https", trust)) as it,
        sdk(it.base_url, ours.client()) as client,
    ):
        raw = await client.chat.completions.with_raw_response.create(model="gpt-4", messages=HELLO)
    assert (raw.headers["x-passthrough-deployment"], raw.headers["x-passthrough-attempts"]) == ("b", "2")
    assert [line for line in caplog.messages if "unable to get local issuer" in line]


async def test_an_upstream_that_speaks_no_tls_is_a_502(ours: Authority, caplog: pytest.LogCaptureFixture) -> None:
    async with (
        demo() as up,
        proxy((up, "https", UpstreamTLS(ca_file=ours.file))) as it,
        sdk(it.base_url, ours.client()) as client,
    ):
        with pytest.raises(openai.InternalServerError, match="TLS handshake with the upstream failed"):
            await client.models.list()
    assert [line for line in caplog.messages if "TLS handshake: " in line]


# All of it, from a file.

CONFIG = """\
model_list:
  - model_name: gpt-4
    litellm_params:
      model: openai/gpt-4
      api_key: sk-upstream-a
      api_base: "{base}"
      client_certificate: {certificate}
      client_key: {key}
general_settings: {{master_key: {master}}}
litellm_settings: {{ssl_verify: {ca}}}
server: {{tls: {{certificate: {own}, key: {own_key}, client_ca: {ca}}}}}
"""


async def test_a_file_that_asks_for_certificates_everywhere(tmp_path: Path, ours: Authority) -> None:
    context = ours.server()
    context.load_verify_locations(ours.file)
    context.verify_mode = ssl.CERT_REQUIRED
    certificate, key = ours.issue("proxy.test")
    own, own_key = ours.issue("127.0.0.1")
    async with demo(context) as up:
        text = CONFIG.format(
            base=up.base_url, certificate=certificate, key=key, own=own, own_key=own_key, ca=ours.file, master=KEY
        )
        (tmp_path / "config.yaml").write_text(text)
        async with running("config.yaml", "--port", "0", "--host", "127.0.0.1", folder=tmp_path) as process:
            url = await process.base_url()
            assert url.startswith("https://127.0.0.1:")
            async with sdk(f"{url}/openai", ours.client(*ours.issue("client.test"))) as client:
                await use(client)
            async with sdk(f"{url}/openai", ours.client()) as stranger:
                with pytest.raises(openai.APIConnectionError):
                    await stranger.models.list()
