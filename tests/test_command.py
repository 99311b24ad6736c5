"""The command line's words, and those with which a start answers."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from relay.config import Config, ListenerTLS
from relay.process.command import DEMO_CONFIG, DEMO_PROJECTS, announcement, base_url, counted, make_parser
from relay.reading.configfile import parse_config
from relay.values import replace
from relay.version import VERSION

if TYPE_CHECKING:
    from pathlib import Path

DEMO = parse_config(DEMO_CONFIG % {"base": "http://127.0.0.1:1/v1"}, "demo", {}, str)


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ([], "file", None),
        (["a.yaml"], "file", "a.yaml"),
        (["--config", "a.yaml"], "config", "a.yaml"),
        (["--port", "0"], "port", 0),
        (["--port", "65535"], "port", 65535),
        (["--workers", "auto"], "workers", 0),
        (["--workers", "3"], "workers", 3),
        (["--log-level", "debug"], "log_level", "DEBUG"),
        (["--explain", "POST", "/v1/files"], "explain", ["POST", "/v1/files"]),
        (["--check", "--strict"], "strict", True),
        (["--demo"], "demo", True),
        (["--watch"], "watch", True),
    ],
)
def test_words_are_read(words: list[str], name: str, value: object) -> None:
    assert getattr(make_parser().parse_args(words), name) == value


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--port", "65536"], "is no port"),
        (["--port", "-1"], "is no port"),
        (["--port", "٤"], "is no port"),
        (["--workers", "0"], "--workers"),
        (["--workers", "many"], "--workers"),
        (["--log-level", "loud"], "--log-level"),
        (["--explain", "POST"], "--explain"),
        (["a.yaml", "b.yaml"], "b.yaml"),
    ],
)
def test_wrong_words_are_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        make_parser().parse_args(words)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        make_parser().parse_args(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"passthrough {VERSION}\n")


def bound(family: socket.AddressFamily, address: object) -> socket.socket:
    sock = socket.socket(family)
    sock.bind(address)  # type: ignore[arg-type]
    return sock


@pytest.mark.parametrize(
    ("family", "host", "tls", "url"),
    [
        (socket.AF_INET, "127.0.0.1", False, "http://127.0.0.1:%d/openai"),
        (socket.AF_INET, "127.0.0.1", True, "https://127.0.0.1:%d/openai"),
        (socket.AF_INET6, "::1", False, "http://[::1]:%d/openai"),
    ],
)
def test_a_start_says_where_it_is(family: socket.AddressFamily, host: str, tls: bool, url: str) -> None:
    config = secured(DEMO) if tls else DEMO
    try:
        sock = bound(family, (host, 0))
    except OSError:
        pytest.skip(f"{host} is no address of this machine")
    with sock:
        assert base_url(config, sock) == url % sock.getsockname()[1]


def secured(config: Config) -> Config:
    return replace(config, listener=replace(config.listener, tls=ListenerTLS("certificate.pem")))


def test_a_socket_with_a_name_is_written_as_sdks_take_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    with bound(socket.AF_UNIX, "sock") as sock:
        assert base_url(DEMO, sock) == "http://unix:sock:/openai"


def test_a_start_says_what_it_serves() -> None:
    with bound(socket.AF_INET, ("127.0.0.1", 0)) as sock:
        said = announcement(DEMO, [sock])
    assert said.startswith(f"passthrough {VERSION} is ready: base_url = http://127.0.0.1:")
    assert said.endswith(" serves gpt-4 (2 deployments)")
    assert counted(1) == "1 deployment"


def test_the_demo_has_one_key_for_each_of_its_projects() -> None:
    keys = [deployment.key.reveal() for deployment in DEMO.deployments if deployment.key]
    assert keys == list(DEMO_PROJECTS)
    assert [deployment.scope for deployment in DEMO.deployments] == list(DEMO_PROJECTS.values())
