"""Another configuration while the process serves: real processes, alone and with workers."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trustme

from relay.config import AffinitySettings, Listener, ListenerTLS, LoggingSettings
from relay.errors import ConfigError
from relay.process.reloading import check, without_fixed
from relay.values import replace
from tests.crowd import crowd
from tests.fleets import ask, children, metric, until, write_config
from tests.harness import KEY, OK, PATIENCE, POST_CHAT, config_over, deployment, get, post
from tests.processes import running
from tests.scripted import ScriptedUpstream
from tests.test_workers import LAST, Streaming, open_stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.processes import Process

RELOADS = 50
RELOADED = "configuration reloaded: "
BOTH = pytest.mark.parametrize("workers", ["1", "2"])


@pytest.fixture
async def up() -> AsyncIterator[ScriptedUpstream]:
    upstream = ScriptedUpstream()
    upstream.says(OK)
    await upstream.start()
    yield upstream
    await upstream.close()


def count(proxy: Process, words: str) -> int:
    """How often it has said something."""
    return sum(words in line for line in proxy.said)


async def reload(proxy: Process, words: str = RELOADED) -> None:
    """SIGHUP, and wait until it says what came of it."""
    before = count(proxy, words)
    proxy.signal(signal.SIGHUP)
    await until(lambda: count(proxy, words) > before)


@asynccontextmanager
async def manager(folder: Path) -> AsyncIterator[tuple[dict[str, str], asyncio.Queue[str]]]:
    """A service manager's socket: what to put into the environment, and the states that it is told."""
    name = str(folder / "notify")
    states: asyncio.Queue[str] = asyncio.Queue()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        loop.add_reader(sock, lambda: states.put_nowait(sock.recv(4096).decode()))
        try:
            yield {"NOTIFY_SOCKET": name}, states
        finally:
            loop.remove_reader(sock)


async def told(states: asyncio.Queue[str]) -> str:
    async with asyncio.timeout(PATIENCE):
        return await states.get()


@BOTH
async def test_fifty_reloads_under_load_fail_nothing(up: ScriptedUpstream, tmp_path: Path, workers: str) -> None:
    """Every other file has another key; at the end each worker uses the last one, and one that is born then, too."""
    config = write_config(tmp_path, up)
    async with (
        manager(tmp_path) as (environ, states),
        running(str(config), "--workers", workers, folder=tmp_path, environ=environ) as proxy,
    ):
        port = await proxy.port()
        assert await told(states) == "READY=1"
        async with crowd(lambda: asyncio.open_connection("127.0.0.1", port)) as people:
            await people.served(20)
            for number in range(RELOADS):
                write_config(tmp_path, up, key=f"sk-upstream-key-{number}")
                proxy.signal(signal.SIGHUP)
                assert (await told(states)).startswith("RELOADING=1\nMONOTONIC_USEC=")
                assert await told(states) == "READY=1"  # all workers have it now
            await people.served(20)
            up.requests.clear()
            for victim in children(proxy.pid):
                os.kill(victim, signal.SIGTERM)
                await proxy.says(rf"\(pid {victim}\) ended with status 0")
            await people.served(20)
        await until(lambda: count(proxy, RELOADED) == RELOADS)
        assert await metric(port, "passthrough_exchanges_total") == people.done
        assert set(re.findall(rb"Authorization: Bearer (\S+)", up.heard)) == {b"sk-upstream-key-%d" % (RELOADS - 1)}
        assert up.connections < people.done / 10 + 20, "connections outlive a reload"
    assert len(proxy.records) == people.done
    assert {record["status"] for record in proxy.records} == {200}


@BOTH
async def test_a_bad_file_is_kept_out_and_its_problems_are_said(
    up: ScriptedUpstream, tmp_path: Path, workers: str
) -> None:
    config = write_config(tmp_path, up)
    async with (
        manager(tmp_path) as (environ, states),
        running(str(config), "--workers", workers, folder=tmp_path, environ=environ) as proxy,
    ):
        port = await proxy.port()
        assert await told(states) == "READY=1"
        good = config.read_text()
        bad = good + "timeouts: {conect: 5}\nlimits: {connections: 0}\n"
        for text, problems in (
            (bad, [r"config.yaml:9:\d+: .*conect", r"config.yaml:10:\d+: .*connections"]),
            (good.replace("host: 127.0.0.1", "host: 127.0.0.1, tls: {certificate: absent.pem}"), ["absent.pem"]),
            (good + "logging: {handlers: {x: {class: no.Such}}}\n", ["logging: .*'x'"]),
            ("", ["model_list"]),
        ):
            config.write_text(text)
            proxy.signal(signal.SIGHUP)
            assert (await told(states)).startswith("RELOADING=1\n")
            assert await told(states) == "READY=1", "it serves on, so it is ready"
            for problem in problems:
                said = await proxy.says(f"configuration refused: .*{problem}")
                record = json.loads(said.string)
                assert (record["level"], record["logger"]) == ("ERROR", "passthrough.server")
            assert (await ask(port, POST_CHAT)).startswith(b"HTTP/1.1 200 ")
        config.unlink()
        await reload(proxy, "config.yaml: cannot be read: No such file or directory.")
        assert count(proxy, RELOADED) == 0
        config.write_text(good)
        await reload(proxy)
        assert (await ask(port, POST_CHAT)).startswith(b"HTTP/1.1 200 ")


@BOTH
async def test_a_stream_ends_on_what_it_began_with(up: ScriptedUpstream, tmp_path: Path, workers: str) -> None:
    """Its deployment, its group and the client's key are gone from the file when its last word comes."""
    streaming = Streaming()
    up.script = [streaming]
    config = write_config(tmp_path, up)
    async with running(str(config), "--workers", workers, folder=tmp_path) as proxy:
        port = await proxy.port()
        reader, writer = await open_stream(port)
        text = (
            config.read_text()
            .replace("id: one", "id: two")
            .replace("gpt-4", "other")
            .replace(KEY, "sk-another-key-now")
        )
        config.write_text(text)
        await reload(proxy)
        assert (await ask(port, POST_CHAT)).startswith(b"HTTP/1.1 401 ") or workers == "2"
        streaming.go_on.set()
        async with asyncio.timeout(PATIENCE):
            assert await reader.readexactly(len(LAST)) == LAST
        writer.close()
        await until(lambda: [one for one in proxy.records if one["deployment"]])
    (record,) = [one for one in proxy.records if one["deployment"]]
    assert (record["deployment"], record["group"], record["status"], record["outcome"]) == ("one", "gpt-4", 200, "ok")


async def test_what_has_not_changed_keeps_its_health_and_its_connections(up: ScriptedUpstream, tmp_path: Path) -> None:
    limited = ScriptedUpstream()
    limited.says(b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 50\r\nContent-Length: 0\r\n\r\n")
    await limited.start()
    config = write_config(tmp_path, up)
    entry = (
        "  - model_name: gpt-4\n    litellm_params:\n"
        f'      {{model: openai/gpt-4, api_key: sk-limited, api_base: "http://127.0.0.1:{limited.port}", order: -1}}\n'
        "    model_info: {id: limited}\n"
    )
    config.write_text(config.read_text().replace("general_settings", entry + "general_settings", 1))
    try:
        async with running(str(config), folder=tmp_path) as proxy:
            port = await proxy.port()
            await ask(port, POST_CHAT)
            assert (len(limited.requests), up.connections) == (1, 1)
            assert await metric(port, "passthrough_cooling") == 1
            config.write_text(config.read_text().replace("id: one", "id: uno"))
            await reload(proxy)
            assert await metric(port, "passthrough_cooling") == 1
            assert 'passthrough_cooling{deployment="one"}' not in (await ask(port, get("/metrics"))).decode()
            await ask(port, POST_CHAT)
            assert (len(limited.requests), up.connections) == (1, 1)
    finally:
        await limited.close()


@BOTH
@pytest.mark.parametrize("way", ["SIGHUP", "--watch"])
async def test_a_secret_that_is_swapped_is_seen(up: ScriptedUpstream, tmp_path: Path, workers: str, way: str) -> None:
    """As a cluster does it: a folder of its own for each version, and one link, which is renamed over the old one."""
    for version in ("first", "second"):
        (tmp_path / f"..{version}").mkdir()
        (tmp_path / f"..{version}" / "key").write_text(f"sk-upstream-{version}\n")
    (tmp_path / "..data").symlink_to("..first")
    (tmp_path / "key").symlink_to("..data/key")
    config = write_config(tmp_path, up, key="file/key")
    options = ["--watch"] if way == "--watch" else []
    async with running(str(config), "--workers", workers, *options, folder=tmp_path) as proxy:
        port = await proxy.port()
        await ask(port, POST_CHAT)
        assert b"Bearer sk-upstream-first\r\n" in up.heard
        (tmp_path / "..new").symlink_to("..second")
        (tmp_path / "..new").rename(tmp_path / "..data")
        if way == "SIGHUP":
            await reload(proxy)
        await proxy.says(RELOADED)
        async with asyncio.timeout(PATIENCE):
            while b"Bearer sk-upstream-second\r\n" not in up.heard:
                await ask(port, POST_CHAT)
        assert count(proxy, RELOADED) == 1


async def test_a_watched_file_that_was_refused_is_read_when_it_is_mended(up: ScriptedUpstream, tmp_path: Path) -> None:
    """The configuration names a key before its secret is there; nobody touches the configuration again."""
    config = write_config(tmp_path, up)
    async with running(str(config), "--watch", folder=tmp_path) as proxy:
        port = await proxy.port()
        write_config(tmp_path, up, key="file/late")
        await proxy.says("configuration refused: .*late")
        assert (await ask(port, POST_CHAT)).startswith(b"HTTP/1.1 200 ")
        (tmp_path / "late").write_text("sk-upstream-late")
        await proxy.says(RELOADED)
        await ask(port, POST_CHAT)
        assert b"Bearer sk-upstream-late\r\n" in up.requests[-1]
        assert count(proxy, "configuration refused") == 1, "one problem is said once, not at every look"


@BOTH
async def test_certificates_are_renewed(up: ScriptedUpstream, tmp_path: Path, workers: str) -> None:
    first, second = trustme.CA(), trustme.CA()
    pem = tmp_path / "proxy.pem"
    first.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(pem))
    tls = f"server: {{host: 127.0.0.1, port: 0, tls: {{certificate: {pem}}}}}\n"
    config = write_config(tmp_path, up, more=tls)

    async def says_hello(ca: trustme.CA, port: int) -> bool:
        context = ssl.create_default_context()
        ca.configure_trust(context)
        try:
            async with asyncio.timeout(PATIENCE):
                _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
        except ssl.SSLCertVerificationError:
            return False
        writer.close()
        return True

    async with running(str(config), "--workers", workers, folder=tmp_path) as proxy:
        port = await proxy.port()
        assert await says_hello(first, port)
        second.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(pem))
        await reload(proxy)
        async with asyncio.timeout(PATIENCE):
            while not await says_hello(second, port):
                pass
        assert not await says_hello(first, port) or workers == "2"


async def test_what_needs_another_start_is_said_and_the_rest_counts(up: ScriptedUpstream, tmp_path: Path) -> None:
    config = write_config(tmp_path, up)
    async with running(str(config), folder=tmp_path) as proxy:
        port = await proxy.port()
        assert (await ask(port, get("/v1/organization/costs"))).startswith(b"HTTP/1.1 403 ")
        write_config(tmp_path, up, more="server: {host: 127.0.0.1, port: 1, workers: 3, allow_admin: true}\n")
        await reload(proxy)
        await proxy.says("server.port: 1 takes effect at the next start; until then it is 0")
        await proxy.says("server.workers: 3 takes effect at the next start; until then it is 1")
        assert (await ask(port, get("/v1/organization/costs"))).startswith(b"HTTP/1.1 200 ")


async def test_a_reload_opens_no_door(up: ScriptedUpstream, tmp_path: Path) -> None:
    """Without a master key the file's own default would be loopback; but the socket is where it was."""
    config = write_config(tmp_path, up, more="server: {port: 0}\n")
    async with running(str(config), folder=tmp_path) as proxy:
        port = await proxy.port()
        text = config.read_text()
        assert (await proxy.base_url()).startswith("http://0.0.0.0:")
        config.write_text(re.sub("general_settings.*\n", "", text))
        await reload(proxy, "configuration refused: without general_settings.master_key only loopback is served")
        nobody = post("chat/completions", b"{}").replace(KEY.encode(), b"sk-nobody-at-all-1234")
        assert (await ask(port, nobody)).startswith(b"HTTP/1.1 401 ")


async def test_the_log_follows_the_file(up: ScriptedUpstream, tmp_path: Path) -> None:
    config = write_config(tmp_path, up)
    async with running(str(config), "--workers", "2", folder=tmp_path) as proxy:
        port = await proxy.port()
        await ask(port, POST_CHAT)
        more = (
            "logging:\n  formatters: {json: {(): relay.record.log.JSONFormatter}}\n"
            "  handlers: {file: {class: logging.FileHandler, filename: log.jsonl, formatter: json}}\n"
            "  loggers: {passthrough: {handlers: [file], level: INFO}}\n"
        )
        config.write_text(config.read_text() + more)
        proxy.signal(signal.SIGHUP)
        log = tmp_path / "log.jsonl"
        await until(lambda: log.exists() and RELOADED in log.read_text())
        async with asyncio.timeout(PATIENCE):
            while '"path":"/openai/v1/chat/completions"' not in log.read_text():
                await ask(port, POST_CHAT)


# What a reload leaves as it is, and what it looks at.

BEFORE = config_over(deployment("a", 1), listener=Listener(port=4000), affinity=AffinitySettings(path="a.db"))
CHAIN, OTHER = ListenerTLS("a.pem"), ListenerTLS("b.pem")

LATE = [
    ("nothing", {}, []),
    ("a port", {"listener": Listener(port=1)}, [("server.port", 4000, 1)]),
    ("what a request may", {"listener": Listener(port=4000, allow_admin=True)}, []),
    ("the store", {"affinity": AffinitySettings(path="b.db", responses="home")}, [("affinity.path", "a.db", "b.db")]),
    ("spans", {"logging": LoggingSettings(otel=True)}, [("logging.otel", False, True)]),
    ("TLS", {"listener": Listener(port=4000, tls=CHAIN)}, [("server.tls", None, CHAIN)]),
]


@pytest.mark.parametrize(("change", "late"), [row[1:] for row in LATE], ids=[row[0] for row in LATE])
def test_what_says_what_a_process_is_stays(change: dict[str, object], late: list[object]) -> None:
    after = replace(BEFORE, **change)  # type: ignore[arg-type]
    effective, said = without_fixed(after, BEFORE)
    assert said == late
    assert without_fixed(effective, BEFORE) == (effective, [])
    assert effective.listener.allow_admin == after.listener.allow_admin
    assert effective.affinity.responses == after.affinity.responses
    if not late:
        assert effective == after


def test_another_certificate_is_taken_and_another_kind_of_handshake_is_not() -> None:
    before = replace(BEFORE, listener=Listener(tls=CHAIN))
    after = replace(BEFORE, listener=Listener(tls=OTHER))
    assert without_fixed(after, before) == (after, [])
    asking = replace(BEFORE, listener=Listener(tls=replace(OTHER, client_ca="ca.pem")))
    assert without_fixed(asking, before) == (after, [("server.tls.client_ca", None, "ca.pem")])
    assert without_fixed(BEFORE, before)[1] == [("server.tls", CHAIN, None)]


def test_every_address_that_we_are_at_is_looked_at() -> None:
    anyone = replace(BEFORE, clients=(type(BEFORE.clients[0])("anyone", None),))
    with socket.create_server(("127.0.0.1", 0)) as inside, socket.create_server(("", 0)) as outside:
        check(anyone, [inside], {})
        check(BEFORE, [inside, outside], {})
        with pytest.raises(ConfigError, match=r"only loopback is served, not 0\.0\.0\.0"):
            check(anyone, [inside, outside], {})
    with pytest.raises(ConfigError, match=r"server.tls: absent.pem: "):
        check(replace(BEFORE, listener=Listener(tls=ListenerTLS("absent.pem"))), [], {})
