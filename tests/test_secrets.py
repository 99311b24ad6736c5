"""Keys never appear: a busy life of real processes, and a search through everything that they wrote and said."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import passthrough
from relay.demo import DemoUpstream
from tests.harness import read_answer
from tests.processes import PATIENCE, Process, run, start

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# Each has a part that occurs nowhere by chance.
MASTER = "sk-master-9rTqXw3LzKpV7yBnUe2H"
SECRETS = {
    "master key": MASTER,
    "key in the file": "sk-proj-Zk4vWq8XbT1mRy6PcNf3",
    "key from the environment": "sk-proj-Hd7sLx2GqJ9wVt5KbYz8",
    "key from a file": "sk-proj-Mn3cPf6RwD0uQe4SxGv1",
    "key of nobody": "sk-proj-Xa5bKj8TzLr2WmNq7Ch6",
    "dead key": "sk-proj-Uy1oEi9FpHs4QkVd3Zt0",
    "limited key": "sk-proj-Cw6nBx0MgJv7RtYz2Lq5",
    "extra header": "hdr-Jt8yKp3NzWv5QxMb6Rf1",
    "password of a proxy": "pw-Ls2dGq7XcHv9TzKm4Bn6",
    "a client's wrong key": "sk-wrong-Vb6mZx1QwPk8RyTj3Hd5",
    "a client's other key": "sk-other-Gf4kNs7YvLz0XcWq9Tp2",
    "a key in a query": "sk-query-Rj5tDh8BxMw1VzKp6Ly3",
    "a key in a broken head": "sk-broken-Wq3zXn6KvTb8RyLp1Jc4",
    "a key of a new file": "sk-proj-Ty7uRk2QnXw5ZvBm9Hs0",
    "a key in a wrong place": "sk-place-Pz9xLw4TgVk6NqRy1Bm8",
}
WINDOW = 8  # so many characters in a row of a key are no accident; the last four may be shown

CONFIG = """
model_list:
  - model_name: gpt-4
    litellm_params: {{model: openai/gpt-4, api_key: {file}, api_base: "{base}"}}
  - model_name: gpt-4
    litellm_params: {{model: openai/gpt-4, api_key: os.environ/UPSTREAM_KEY, api_base: "{base}", organization: org-a}}
  - model_name: gpt-4
    litellm_params:
      {{model: openai/gpt-4, api_key: file/key.txt, api_base: "{base}", extra_headers: {{X-Secret: {header}}}}}
  - model_name: dead
    litellm_params: {{model: gpt-4, api_key: {dead}, api_base: "{base}"}}
  - model_name: limited
    litellm_params: {{model: gpt-4, api_key: {limited}, api_base: "{base}"}}
  - model_name: unknown
    litellm_params: {{model: gpt-4, api_key: {nobody}, api_base: "{base}"}}
  - model_name: nobody-there
    litellm_params: {{model: gpt-4, api_key: {file}, api_base: "http://127.0.0.1:{closed}/v1"}}
  - model_name: behind-a-proxy
    litellm_params:
      model: gpt-4
      api_key: {file}
      api_base: https://api.example.com/v1
      proxy: http://user:{password}@127.0.0.1:{closed}
  - model_name: not-tls
    litellm_params: {{model: gpt-4, api_key: {file}, api_base: "{base_tls}"}}
general_settings: {{master_key: {master}, litellm_key_header_name: X-My-Key}}
router_settings: {{num_retries: 1}}
server: {{host: 127.0.0.1, port: 0}}
timeouts: {{drain: 0.3, response_head: 5}}
"""
LOGGING = """
logging:
  formatters: {json: {(): relay.log.JSONFormatter}}
  handlers:
    file: {class: logging.FileHandler, filename: everything.log, formatter: json}
    console: {class: logging.StreamHandler, stream: ext://sys.stderr}
  root: {handlers: [file, console], level: DEBUG}
"""
WITH_A_FAULT = """
import sys
sys.path.insert(0, {root!r})
import passthrough

async def faulty(passage, *rest):
    if passage.exchange.record.path.endswith("/crash"):
        raise RuntimeError("a fault of the proxy")
    await deliver(passage, *rest)

deliver, passthrough.deliver = passthrough.deliver, faulty
raise SystemExit(passthrough.main())
"""


def plain(secret: str) -> bytes:
    """The part of a secret that is one: behind its last dash."""
    return secret.rpartition("-")[2].encode()


def check(said: dict[str, bytes], secrets: dict[str, str]) -> None:
    """Nothing that was said holds any secret, plain or in base64."""
    assert all(said.values()), [name for name, text in said.items() if not text]
    for name, secret in secrets.items():
        runs = {plain(secret)[at : at + WINDOW] for at in range(len(plain(secret)) - WINDOW + 1)}
        for shift in range(3):
            packed = base64.b64encode(b"\0" * shift + secret.encode()).rstrip(b"=")[4 * bool(shift) : -4]
            runs |= {packed, packed.translate(bytes.maketrans(b"+/", b"-_"))}
        for place, text in said.items():
            assert not [run for run in runs if run in text], f"{name} in {place}"


# A busy life.


def request(line: str, *fields: str, content: str = "", key: str | None = MASTER) -> bytes:
    """A request, as bytes."""
    lines = [f"{line} HTTP/1.1", "Host: p", *fields]
    if key is not None:
        lines.append(f"Authorization: Bearer {key}")
    if content:
        lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    return ("\r\n".join(lines) + "\r\n\r\n" + content).encode()


def chat(model: str, **members: Any) -> bytes:
    content = json.dumps({"model": model, "messages": [{"role": "user", "content": "count to 3"}], **members})
    return request("POST /v1/chat/completions", content=content)


WRONG = SECRETS["a client's wrong key"]
BASIC = base64.b64encode(b"user:" + SECRETS["a client's other key"].encode()).decode()
SOCKET = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
REQUESTS = {
    "chat": chat("gpt-4"),
    "stream": chat("gpt-4", stream=True),
    "dead key": chat("dead"),
    "limited key": chat("limited"),
    "unknown key": chat("unknown"),
    "nobody there": chat("nobody-there"),
    "behind a proxy": chat("behind-a-proxy"),
    "not TLS": chat("not-tls"),
    "unknown id": request("GET /v1/files/file-9f8e7d6c5b4a39281706f5e4"),
    "made": request("POST /v1/vector_stores", content="{}"),
    "admin": request("GET /v1/organization/users"),
    "nowhere": request("GET /nowhere"),
    "no such scope": request("GET /v1/models", "X-Passthrough-Scope: nobody"),
    "crash": request("GET /v1/things/crash"),
    "metrics": request("GET /metrics"),
    "wrong key": request("GET /v1/models", key=WRONG),
    "wrong api-key": request("GET /v1/models", f"api-key: {WRONG}", key=None),
    "wrong x-api-key": request("GET /v1/models", f"x-api-key: {WRONG}", key=None),
    "wrong x-litellm-api-key": request("GET /v1/models", f"x-litellm-api-key: Bearer {WRONG}", key=None),
    "wrong own field": request("GET /v1/models", f"X-My-Key: {WRONG}", key=None),
    "wrong subprotocol": request(
        "GET /v1/realtime?model=gpt-4",
        *SOCKET,
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        f"Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.{WRONG}",
        key=None,
    ),
    "basic": request("GET /v1/models", f"Authorization: Basic {BASIC}", key=None),
    "two keys": request("GET /v1/models", f"Authorization: Bearer {WRONG}"),
    "in a query": request(f"GET /v1/models?api_key={SECRETS['a key in a query']}"),
    "in a path that is none": request(f"GET /?key={SECRETS['a key in a query']}#x"),
    "space in a name": request("GET /v1/models", f"X-Key : {SECRETS['a key in a broken head']}"),
    "no colon": request("GET /v1/models", f"Bearer {SECRETS['a key in a broken head']}"),
    "control character": request("GET /v1/models", f"X-Key: {SECRETS['a key in a broken head']}\x01"),
    "two lengths": request("POST /v1/x", "Content-Length: 1", "Content-Length: 2"),
}


async def ask(port: int, said: bytes) -> bytes:
    """Everything that is heard in answer to these bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(said)
        async with asyncio.timeout(PATIENCE):
            return await read_answer(reader)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def live(process: Process, demo: DemoUpstream, folder: Path) -> tuple[dict[str, bytes], str]:
    """Let a process do all that it can; what clients heard, and a secret that was minted meanwhile."""
    port = await process.port()
    heard = {name: await ask(port, said) for name, said in REQUESTS.items()}
    assert heard["chat"].startswith(b"HTTP/1.1 200 ")
    assert heard["crash"].startswith(b"HTTP/1.1 500 ")
    assert all(heard[name].startswith(b"HTTP/1.1 401 ") for name in heard if name.startswith("wrong "))
    session = json.dumps({"session": {"type": "realtime", "model": "gpt-realtime"}})
    minted = await ask(port, request("POST /v1/realtime/client_secrets", content=session))
    secret = str(json.loads(minted.partition(b"\r\n\r\n")[2])["value"])
    heard["minted, misused"] = await ask(port, request("GET /v1/models", key=secret))
    heard["minted, used"] = await ask(port, request("POST /v1/realtime/calls", content="{}", key=secret))
    demo.script(fault="stall", place="after", count=10, path="/chat/completions", times=None)
    _, leaving = await asyncio.open_connection("127.0.0.1", port)
    leaving.write(REQUESTS["stream"])
    (await demo.next_heard())
    leaving.close()
    await reload(process, folder)
    return heard, secret


BAD_FILES = {
    "a list for a key": ("api_key: {file}", "api_key: [{place}]"),
    "a near miss": ("api_key: {file}", "api_kye: {place}"),
    "a foreign reference": ("api_key: {file}", "api_key: ${{{place}}}"),
    "no YAML": ("api_key: {file}", "api_key: {{ {place}"),
    "a mapping for the master key": ("master_key: {master}", "master_key: {{k: {place}}}"),
    "a key for a number": ("num_retries: 1", "num_retries: {place}"),
    "a broken proxy": ("127.0.0.1:{closed}\n", "127.0.0.1:{place}\n"),
    "a base with a password": ("http://127.0.0.1:{closed}/v1", "http://u:{place}@127.0.0.1:1/v1"),
    "a section that is a key": ("\nrouter_settings:", "\nlitellm_settings: {place}\nrouter_settings:"),
}


async def reload(process: Process, folder: Path) -> None:
    """Another key, and then files that are wrong in all ways."""
    config = folder / "config.yaml"
    good = config.read_text()
    config.write_text(good.replace(SECRETS["key in the file"], SECRETS["a key of a new file"]))
    process.signal(signal.SIGHUP)
    await process.says("configuration reloaded")
    config.write_text(good.replace("num_retries: 1", f"num_retries: {SECRETS['a key in a wrong place']}"))
    process.signal(signal.SIGHUP)
    await process.says("configuration refused")
    config.write_text(good)


@pytest.fixture
async def demo() -> AsyncIterator[DemoUpstream]:
    keys = [
        SECRETS[name]
        for name in SECRETS
        if name.startswith("key from") or name in ("key in the file", "a key of a new file")
    ]
    projects = dict.fromkeys(keys, "one") | {SECRETS["dead key"]: "one", SECRETS["limited key"]: "one"}
    upstream = DemoUpstream(projects, pace=0)
    upstream.key(SECRETS["dead key"]).dead = True
    upstream.key(SECRETS["limited key"]).limited = 1.0
    await upstream.start()
    yield upstream
    await upstream.close()


def write_files(folder: Path, base: str, more: str = "", change: tuple[str, str] = ("", "")) -> str:
    """The configuration and what it refers to; its path."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        closed = sock.getsockname()[1]
    values = {
        "file": SECRETS["key in the file"],
        "header": SECRETS["extra header"],
        "dead": SECRETS["dead key"],
        "limited": SECRETS["limited key"],
        "nobody": SECRETS["key of nobody"],
        "password": SECRETS["password of a proxy"],
        "place": SECRETS["a key in a wrong place"],
        "master": MASTER,
        "closed": closed,
        "base": base,
        "base_tls": base.replace("http://", "https://"),
    }
    assert change[0] in CONFIG
    text = CONFIG.replace(*change).format(**values) if change[0] else CONFIG.format(**values)
    (folder / "config.yaml").write_text(text + more)
    (folder / "key.txt").write_text(SECRETS["key from a file"] + "\n")
    return str(folder / "config.yaml")


ENVIRON = {"UPSTREAM_KEY": SECRETS["key from the environment"]}


def written(folder: Path) -> dict[str, bytes]:
    """Every file that the process has written."""
    ours = {"config.yaml", "key.txt", "faulty.py"}
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in ours}


@pytest.mark.parametrize("more", ["", LOGGING], ids=["default", "everything at DEBUG"])
async def test_a_busy_life(demo: DemoUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str) -> None:
    program = tmp_path / "faulty.py"
    program.write_text(WITH_A_FAULT.format(root=str(Path(__file__).parents[1])))
    monkeypatch.setattr("tests.processes.PROGRAM", str(program))
    config = write_files(tmp_path, demo.base_url, more)
    process = await start(config, "--log-level", "DEBUG", folder=tmp_path, environ=ENVIRON)
    try:
        heard, minted = await live(process, demo, tmp_path)
        reader, writer = await asyncio.open_connection("127.0.0.1", await process.port())
        writer.write(REQUESTS["stream"])
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
        assert await process.stop() == 0  # and cuts the stream
        writer.close()
    finally:
        await process.kill()
    files = written(tmp_path)
    assert {"passthrough.db", "records.jsonl"} <= set(files)
    if more:
        assert len(files.pop("records.jsonl")) == 0
        assert b"drained" in files["everything.log"]
    said = {**files, **heard, "stderr": "\n".join(process.said).encode()}
    assert b"RuntimeError: a fault of the proxy" in said["stderr"]
    check({name: text for name, text in said.items() if text}, {**SECRETS, "minted secret": minted})


async def test_what_the_command_line_says(demo: DemoUpstream, tmp_path: Path) -> None:
    config = write_files(tmp_path, demo.base_url)
    said = {}
    for arguments in (["--check"], ["--check", "--strict"], ["--explain", "POST", "/v1/chat/completions"]):
        status, out, err = await run(config, *arguments, folder=tmp_path, environ=ENVIRON)
        assert status in (0, 2)
        assert out
        said[" ".join(arguments)] = (out + err).encode()
    assert SECRETS["key in the file"][-4:].encode() in said["--check"]  # masked to its last four (SPEC §2)
    check(said, SECRETS)


@pytest.mark.parametrize("change", BAD_FILES.values(), ids=BAD_FILES)
def test_what_is_said_of_a_bad_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], change: tuple[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UPSTREAM_KEY", ENVIRON["UPSTREAM_KEY"])
    config = write_files(tmp_path, "http://127.0.0.1:1/v1", change=change)
    assert passthrough.main(["--check", config]) == 2
    check({"stderr": capsys.readouterr().err.encode()}, SECRETS)


def test_the_search_would_find_them() -> None:
    for text in (
        f"Bearer {MASTER}",
        base64.b64encode(MASTER.encode()).decode(),
        base64.urlsafe_b64encode(f"user:{MASTER}".encode()).decode(),
        f"...{MASTER[-9:]}",
    ):
        with pytest.raises(AssertionError, match="master key in log"):
            check({"log": text.encode()}, SECRETS)
