"""Nothing that a client says leads elsewhere or speaks for somebody else, and no key shows where it is not sent."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from relay.config import Client, Config, Listener, LoggingSettings, Secret
from relay.errors import InvalidKey
from relay.requests.auth import authenticate
from relay.values import replace
from relay.wire.heads import Head
from tests.harness import KEY, OK, PATIENCE, config_over, deployment, get, post, proxy_for, proxy_over, with_limits
from tests.processes import running
from tests.scripted import ScriptedUpstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SECRET = "sk-very-secret-indeed"


@pytest.fixture
async def up() -> AsyncIterator[ScriptedUpstream]:
    upstream = ScriptedUpstream()
    await upstream.start()
    upstream.says(OK)
    yield upstream
    await upstream.close()


@pytest.fixture
async def elsewhere() -> AsyncIterator[ScriptedUpstream]:
    upstream = ScriptedUpstream()
    await upstream.start()
    upstream.says(OK)
    yield upstream
    await upstream.close()


def status(answer: bytes) -> int:
    return int(answer[9:12])


# What a client may try.

STRIPPED = [
    "X-Forwarded-Host: {evil}",
    "X-Forwarded-For: 127.0.0.1",
    "X-Forwarded-Proto: https",
    "X_Forwarded_Host: {evil}",
    "Forwarded: host={evil}",
    "Proxy-Authorization: Basic eA==",
    "Proxy-Connection: keep-alive",
    "Proxy: http://{evil}",
    "OpenAI-Organization: org-evil",
    "openai_organization: org-evil",
    "OpenAI-Project: proj-evil",
    "OPENAI_PROJECT: proj-evil",
    "api-key: sk-evil",
    "api_key: sk-evil",
    "X-Api-Key: sk-evil",
    "x_api_key: sk-evil",
    "authorization_: x\r\nCookie: session=evil",
    "x-litellm-api-key: sk-evil",
    "X-LiteLLM-Base-Url: http://{evil}",
    "x-passthrough-deployment: b",
    "x-passthrough-id: pt-mine",
    "x-passthrough-attempts: 99",
    "X_Passthrough_Scope: b",
]
KEPT = {"proxy": "Proxy: http://{evil}", "authorization_": "authorization_: x"}  # fields as any other


@pytest.mark.parametrize("line", STRIPPED)
async def test_no_field_leads_elsewhere_or_speaks_for_another(
    up: ScriptedUpstream, elsewhere: ScriptedUpstream, line: str
) -> None:
    said = line.format(evil=f"127.0.0.1:{elsewhere.port}")
    async with proxy_for(up) as proxy:
        answer = await proxy.exchange(get("/v1/things", said))
        record = await proxy.record()
    kept = [f"{said.splitlines()[0]}\r\n".encode()] if line.lower().partition(":")[0] in KEPT else []
    assert status(answer) == 200
    assert (
        up.heard
        == b"GET /v1/things HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAuthorization: Bearer sk-upstream-a\r\n%s\r\n"
        % (
            up.port,
            b"".join(kept),
        )
    )
    assert record.__dict__["id"].encode() in answer
    assert not elsewhere.connections


@pytest.mark.parametrize("scope", ["nobody", "", "a b", "b, a", SECRET])
async def test_a_scope_that_the_file_does_not_name_is_refused(up: ScriptedUpstream, scope: str) -> None:
    async with proxy_for(up) as proxy:
        answer = await proxy.exchange(get("/v1/things", f"x-passthrough-scope: {scope}"))
    assert status(answer) == (400 if scope else 200)
    assert b"sk-upstream" not in answer


async def test_a_clients_key_stays_here_wherever_it_stands(up: ScriptedUpstream) -> None:
    lines = [f"{name}: {KEY}" for name in ("api-key", "x-api-key", "x-litellm-api-key")]
    lines.append(f"Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.{KEY}")
    async with proxy_for(up) as proxy:
        assert status(await proxy.exchange(get("/v1/things", *lines))) == 200
    assert KEY.encode() not in up.heard
    assert up.heard.lower().count(b"authorization") == 1


@pytest.mark.parametrize("code", [301, 302, 303, 305, 307, 308])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_redirect_is_relayed_and_never_followed(
    up: ScriptedUpstream, elsewhere: ScriptedUpstream, code: int, method: str
) -> None:
    location = b"Location: http://127.0.0.1:%d/v1/things" % elsewhere.port
    up.script = [b"HTTP/1.1 %d Go\r\n%s\r\nRefresh: 0\r\nContent-Length: 0\r\n\r\n" % (code, location)]
    async with proxy_for(up) as proxy:
        answer = await proxy.exchange(get("/v1/things", "Content-Length: 0", method=method))
    assert status(answer) == code
    assert location in answer
    assert (len(up.requests), elsewhere.connections) == (1, 0)


@pytest.mark.parametrize("target", ["/v1/organization/admin_api_keys", "/v1/projects/p/api_keys", "/openai/projects"])
async def test_administration_is_denied_before_a_byte_goes_out(up: ScriptedUpstream, target: str) -> None:
    async with proxy_for(up) as proxy:
        assert status(await proxy.exchange(get(target))) == 403
        assert not up.connections
    async with proxy_for(up, listener=Listener(port=0, allow_admin=True)) as proxy:
        assert status(await proxy.exchange(get(target))) == 200


# What may show.


def secretive(port: int) -> Config:
    """A configuration with the secret wherever one may stand."""
    one = deployment(
        "a",
        port,
        key=Secret(SECRET),
        scope="s",
        quota_group="s",
        extra_headers=(("X-Team-Key", SECRET),),
        proxy="none",
    )
    return config_over(one, clients=(Client("master", Secret(KEY).digest),))


def test_no_repr_shows_a_secret() -> None:
    config = secretive(1)
    (one,) = config.deployments
    shown = [
        config,
        one,
        replace(one, proxy=f"http://user:{SECRET}@proxy:3128"),
        LoggingSettings({"handlers": {"x": {"headers": {"Authorization": SECRET}}}}),
        one.key,
        [one.key],
        {"key": one.key},
    ]
    assert SECRET not in f"{shown!r} {shown} {one.key} {one.key!s}"
    assert f"{Secret(SECRET)}" == "Secret('...deed')"
    assert f"{Secret('short')!r}" == "Secret('...')"


async def test_a_fault_of_ours_shows_nothing_to_the_client_and_no_key_to_the_log(
    up: ScriptedUpstream, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("on purpose")

    monkeypatch.setattr("relay.reach.upstream.UpstreamConnection.send_request", fail)
    with caplog.at_level(logging.DEBUG):
        async with proxy_over(secretive(up.port)) as proxy:
            answer = await proxy.exchange(post("files", b"{}"))
            state = repr(proxy.worker) + repr(vars(proxy.worker)) + repr((await proxy.record()).__dict__)
    assert status(answer) == 500
    assert b"on purpose" not in answer
    assert b"Traceback" not in answer
    assert "on purpose" in caplog.text
    assert not [text for text in (answer.decode(), caplog.text, state) if SECRET in text or KEY in text]


async def test_no_refusal_names_an_upstream_or_repeats_a_key(up: ScriptedUpstream) -> None:
    requests = [
        get("/v1/things").replace(KEY.encode(), SECRET.encode()),
        get(f"/v1/{SECRET}/../x"),
        get("/v1/things", f"x-passthrough-scope: {SECRET}x"),
        get("/elsewhere"),
        get("/v1/things", f"X : {SECRET}"),
    ]
    async with proxy_over(secretive(up.port)) as proxy:
        answers = [await proxy.exchange(request) for request in requests]
        records = [(await proxy.record(number + 1)).__dict__ for number in range(len(requests))]
    for answer in answers:
        error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert "127.0.0.1" not in str(error)
        assert str(up.port) not in str(error)
    assert SECRET not in repr(answers[0]) + repr(records[0])
    assert KEY not in repr(answers) + repr(records)


def test_every_known_key_is_compared_whichever_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the time taken says neither which one matched nor whether one did."""
    seen = []
    compare = hmac.compare_digest

    def counted(one: bytes, other: bytes) -> bool:
        seen.append(len(one))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counted)
    clients = tuple(Client(name, Secret(f"sk-{name}").digest) for name in "abc")
    config = Config(groups={}, clients=clients)
    for key in ("sk-a", "sk-c", "sk-", "x" * 10_000):
        seen.clear()
        try:
            authenticate(Head(b"1.1", [(b"Authorization", b"Bearer " + key.encode())]), config)
        except InvalidKey:
            assert key not in {"sk-a", "sk-c"}
        assert seen == [32, 32, 32]  # digests, of one length


# What is left in places.

FILE = """
model_list:
  - model_name: gpt-4
    litellm_params: {{model: openai/gpt-4, api_key: os.environ/UPSTREAM_KEY, api_base: "http://127.0.0.1:{port}/v1"}}
general_settings: {{master_key: {key}}}
"""


def contents(path: Path) -> bytes:
    return path.read_bytes()


def found(folder: Path, pattern: str) -> list[Path]:
    return list(folder.glob(pattern))


async def test_a_process_leaves_no_key_in_its_arguments_and_its_store_to_nobody(
    up: ScriptedUpstream, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text(FILE.format(port=up.port, key=KEY))
    up.script = [b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 18\r\n\r\n{"id":"file-abcd"}']
    mask = os.umask(0)
    try:
        async with running("config.yaml", "--port", "0", folder=tmp_path, environ={"UPSTREAM_KEY": SECRET}) as process:
            port = await process.port()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(post("files", b"{}"))
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
            writer.close()
            arguments = contents(Path(f"/proc/{process.pid}/cmdline"))
    finally:
        os.umask(mask)
    stores = sorted(found(tmp_path, "passthrough.db*"))
    assert stores
    assert [path.stat().st_mode & 0o077 for path in stores] == [0] * len(stores)
    for text in [arguments, *map(contents, stores), *[line.encode() for line in process.said]]:
        assert SECRET.encode() not in text
        assert KEY.encode() not in text
    assert SECRET not in (tmp_path / "records.jsonl").read_text()


async def test_a_spilled_body_has_no_name(
    up: ScriptedUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []

    async def look(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        names.extend(path.name for path in found(tmp_path, "*"))
        writer.write(OK)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    up.script = [look]
    two = [deployment(name, up.port) for name in "ab"]
    content = b'{"model":"gpt-4","x":"' + SECRET.encode() * 500 + b'"}'
    async with proxy_over(config_over(*two, limits=with_limits(inspection_bytes=100))) as proxy:
        assert status(await proxy.exchange(post("chat/completions", content))) == 200
    assert content in up.heard
    assert names == []
