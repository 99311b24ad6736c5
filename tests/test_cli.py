"""The command line as a user meets it: starts that are refused, what is printed, and how it ends."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import textwrap
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from relay.version import VERSION
from tests.harness import OK
from tests.processes import PATIENCE, connected, run, running, start

if TYPE_CHECKING:
    from pathlib import Path

    from tests.scripted import ScriptedUpstream

ENTRY = "model_list:\n  - model_name: a\n    litellm_params: {model: openai/a, api_key: sk-abcdefgh12345678%s}\n"
GET = b"GET /v1/things HTTP/1.1\r\nHost: p\r\n\r\n"
EVENT_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
FIRST, LAST = b"a\r\ndata: one\n\r\n", b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


def write(folder: Path, text: str, name: str = "config.yaml") -> None:
    (folder / name).write_text(text)


def over(upstream: ScriptedUpstream, more: str = "") -> str:
    """A configuration with one entry."""
    return ENTRY % f', api_base: "http://127.0.0.1:{upstream.port}"' + more


# Starts that are refused: one clear sentence for each problem, status 2, no traceback.

REFUSED = [
    ("no configuration", [], "", ["No configuration: name a config.yaml, set OPENAI_API_KEY, or try --demo."]),
    ("no such file", ["absent.yaml"], "", ["absent.yaml: cannot be read: No such file or directory."]),
    ("a folder", ["."], "", [".: cannot be read: Is a directory."]),
    (
        "no YAML",
        ["config.yaml"],
        "model_list:\n  - model_name: [\n",
        ["config.yaml:3:1: not YAML: while parsing a flow node, expected the node content, but found '<stream end>'"],
    ),
    (
        "every problem at once",
        ["--config", "config.yaml"],
        (ENTRY % ", api_kye: x") + "timeouts: {head: soon}\n",
        [
            "config.yaml:3:69: api_kye: unknown key; did you mean api_key?",
            "config.yaml:4:18: timeouts.head: expected seconds (a plain number above 0), found 'soon'",
        ],
    ),
    (
        "an open door",
        ["config.yaml", "--host", "0.0.0.0"],
        ENTRY % "",
        [
            (
                "without general_settings.master_key only loopback is served, not 0.0.0.0; set a key, or "
                "dangerously_permit_weak_or_unset_master_key: true"
            )
        ],
    ),
]


@pytest.mark.parametrize(("arguments", "text", "said"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
async def test_a_start_is_refused_in_plain_words(
    tmp_path: Path, arguments: list[str], text: str, said: list[str]
) -> None:
    write(tmp_path, text)
    assert await run(*arguments, folder=tmp_path) == (2, "", "\n".join(said))


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".example", "\udce4"])
async def test_a_host_that_is_none(tmp_path: Path, host: str) -> None:
    write(tmp_path, ENTRY % "" + "general_settings: {master_key: sk-0123456789abcdef}\n")
    status, out, said = await run("config.yaml", "--port", "0", "--host", host, folder=tmp_path)
    assert (status, out) == (2, "")
    assert re.fullmatch(rf"server\.host {re.escape(repr(host))} is no address of this machine: [^\n]+\.", said)


async def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe\x00")
    assert await run("config.yaml", folder=tmp_path) == (2, "", "config.yaml: cannot be read: it is not UTF-8 text.")


async def test_a_port_that_is_taken(tmp_path: Path) -> None:
    write(tmp_path, ENTRY % "")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, shown, said = await run("config.yaml", "--port", str(port), folder=tmp_path)
    assert (status, shown) == (2, "")
    assert said == f"Port {port} is taken by another process; stop it, or choose another with --port."


@pytest.mark.parametrize("port", ["-1", "65536", "99999999", "http"])
async def test_a_port_that_is_none(tmp_path: Path, port: str) -> None:
    write(tmp_path, ENTRY % "")
    status, shown, said = await run("config.yaml", f"--port={port}", folder=tmp_path)
    assert (status, shown) == (2, "")
    expected = f"passthrough: error: argument --port: {port!r} is no port (0 to 65535; 0 takes a free one)"
    assert said.splitlines()[-1] == expected


# What is printed.


async def test_version(tmp_path: Path) -> None:
    assert await run("--version", folder=tmp_path) == (0, f"passthrough {VERSION}\n", "")


async def test_check_shows_the_table_and_no_key(tmp_path: Path) -> None:
    write(tmp_path, ENTRY % ', api_base: "http://127.0.0.1:1/v1"')
    status, shown, said = await run("config.yaml", "--check", folder=tmp_path)
    assert (status, said) == (0, "")
    row = shown.splitlines()[1].split()
    assert [row[0], row[2], row[3], row[4]] == ["a", "a", "http://127.0.0.1:1/v1", "...5678"]
    assert "abcdefgh" not in shown


@pytest.mark.parametrize(("more", "status"), [([], 0), (["--strict"], 2)])
async def test_check_counts_warnings_only_if_strict(tmp_path: Path, more: list[str], status: int) -> None:
    write(tmp_path, ENTRY % ", temperature: 1")
    ended, shown, said = await run("config.yaml", "--check", *more, folder=tmp_path)
    assert ended == status
    assert said.startswith("config.yaml:3:69: temperature: defaults for requests have no effect here")
    assert "home group: a" in shown


async def test_a_start_prints_one_line_and_its_records_go_to_stdout(tmp_path: Path, up: ScriptedUpstream) -> None:
    up.says(OK)
    write(tmp_path, over(up))
    async with running("config.yaml", "--port", "0", folder=tmp_path) as process:
        port = await process.port()
        await ask(port)
    assert process.said == [
        f"passthrough {VERSION} is ready: base_url = http://127.0.0.1:{port}/openai serves a (1 deployment)"
    ]
    (record,) = process.records
    assert (record["method"], record["path"], record["status"]) == ("GET", "/v1/things", 200)
    assert b"Authorization: Bearer sk-abcdefgh12345678" in up.heard
    assert "sk-abcdefgh12345678" not in json.dumps(process.records)
    assert stat.S_IMODE((tmp_path / "passthrough.db").stat().st_mode) == 0o600


@pytest.fixture
def bare() -> set[str]:
    """What an interpreter loads that is asked for nothing."""
    return set(subprocess.check_output([sys.executable, "-c", "import sys; print(*sys.modules)"], text=True).split())


async def test_a_start_and_an_answer_load_nothing_that_they_do_without(
    tmp_path: Path, up: ScriptedUpstream, bare: set[str]
) -> None:
    late = {"shutil", "pathlib", "tempfile", "encodings.idna", "ipaddress", "urllib.parse", "email", "http"}
    late |= {"logging.config", "logging.handlers", "zlib", "multiprocessing", "uvloop", "opentelemetry"}
    late |= {f"relay.{name}" for name in ("demo", "reading.describe", "process.explaining", "process.workers")}
    late |= {f"relay.answers.{name}" for name in ("listings", "merging", "messages", "responses_socket")}
    up.says(OK)
    write(tmp_path, over(up, "general_settings: {master_key: sk-0123456789abcdef}\n"))
    timed = {"PYTHONPROFILEIMPORTTIME": "1"}
    async with running("config.yaml", "--port", "0", folder=tmp_path, environ=timed) as process:
        async with connected(await process.port()) as (reader, writer):
            writer.write(GET.replace(b"\r\n\r\n", b"\r\nAuthorization: Bearer sk-0123456789abcdef\r\n\r\n"))
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        loaded = {line.rpartition("|")[2].strip() for line in process.said if line.startswith("import time:")}
    assert "relay.wire.http1" in loaded
    assert loaded & late <= bare


@pytest.mark.parametrize("variable", ["OPENAI_BASE_URL", "OPENAI_API_BASE"])
async def test_one_key_in_the_environment_is_enough(tmp_path: Path, variable: str, up: ScriptedUpstream) -> None:
    up.says(OK)
    environ = {"OPENAI_API_KEY": "sk-of-the-environment", variable: f"http://127.0.0.1:{up.port}/base/v1"}
    async with running("--port", "0", folder=tmp_path, environ=environ) as process:
        await ask(await process.port())
    assert up.heard.startswith(b"GET /base/v1/things HTTP/1.1\r\n")
    assert b"\r\nAuthorization: Bearer sk-of-the-environment\r\n" in up.heard
    assert "sk-of-the-environment" not in "\n".join(process.said)


async def ask(port: int) -> bytes:
    """One exchange on a connection of its own."""
    async with connected(port) as (reader, writer):
        writer.write(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        return await reader.read()


# The demo.


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
async def test_the_demos_curl_line_works_when_pasted(tmp_path: Path) -> None:
    async with running("--demo", "--port", "0", folder=tmp_path) as process:
        await process.port()
        printed = "\n".join(process.said)
        command = re.search(r"^ +(curl .*\\\n.*)$", printed, re.MULTILINE)
        assert command is not None
        status, shown = await execute("sh", "-c", command[1] + " --silent --show-error --fail")
    assert status == 0
    events = [line.removeprefix("data: ") for line in shown.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    deltas = [json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events[:-1]]
    assert "You said: Hello!" in "".join(deltas)


async def test_the_demos_snippet_works_when_pasted(tmp_path: Path) -> None:
    async with running("--demo", "--port", "0", folder=tmp_path) as process:
        await process.port()
        printed = "\n".join(process.said)
        snippet = printed[printed.index("  import openai") : printed.index("passthrough ")]
        status, shown = await execute(sys.executable, "-c", textwrap.dedent(snippet))
    assert status == 0
    assert shown.startswith("ChatCompletion(id='chatcmpl-")
    assert "You said: Hello!" in shown
    assert "gpt-4 (2 deployments)" in printed


async def execute(*command: str) -> tuple[int | None, str]:
    """Run a command of the user's to its end."""
    child = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(PATIENCE):
            shown, _ = await child.communicate()
    finally:
        with suppress(ProcessLookupError):
            child.kill()
    return child.returncode, shown.decode()


# How it ends.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_drain_lets_a_stream_finish(tmp_path: Path, up: ScriptedUpstream, number: signal.Signals) -> None:
    gate = asyncio.Event()

    async def stream(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(EVENT_HEAD + FIRST)
        await gate.wait()
        writer.write(LAST)

    up.says(stream)
    write(tmp_path, over(up))
    async with running("config.yaml", "--port", "0", folder=tmp_path) as process:
        port = await process.port()
        async with connected(port) as (idle, kept), connected(port) as (reader, writer):
            kept.write(b"GET /health/liveliness HTTP/1.1\r\nHost: p\r\n\r\n")
            await idle.readuntil(b"\r\n\r\n")
            writer.write(GET)
            await reader.readuntil(FIRST)
            process.signal(number)
            await idle.read()  # kept and idle: closed at once
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", port)
            gate.set()
            assert await reader.read() == LAST
            assert await process.ends() == 0
    (record,) = process.records
    assert (record["status"], record["bytes_out"]) == (200, 24)


async def test_a_drain_cuts_what_does_not_end(tmp_path: Path, up: ScriptedUpstream) -> None:
    up.says(stall)
    write(tmp_path, over(up, "timeouts: {drain: 0.2}\n"))
    async with (
        running("config.yaml", "--port", "0", folder=tmp_path) as process,
        connected(await process.port()) as (reader, writer),
    ):
        writer.write(GET)
        await reader.readuntil(FIRST)
        process.signal(signal.SIGTERM)
        with suppress(ConnectionResetError):
            assert LAST not in await reader.read()
        assert await process.ends() == 0
    assert [record["outcome"] for record in process.records] == ["drained"]


async def test_a_second_signal_ends_it_at_once(tmp_path: Path, up: ScriptedUpstream) -> None:
    up.says(stall)
    write(tmp_path, over(up))
    process = await start("config.yaml", "--port", "0", folder=tmp_path)
    try:
        async with connected(await process.port()) as (reader, writer):
            writer.write(GET)
            await reader.readuntil(FIRST)
            process.signal(signal.SIGTERM)
            process.signal(signal.SIGINT)
            assert await process.ends() == 1
    finally:
        await process.kill()


async def stall(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Begin a stream that never ends."""
    writer.write(EVENT_HEAD + FIRST)
    await asyncio.Event().wait()
