"""``--explain``: what is printed is what the router decides, and what a running proxy writes into its records."""

from __future__ import annotations

import random
import re
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

import passthrough
from relay.choosing.outcomes import Kind, Outcome
from relay.choosing.strategies import STRATEGIES
from relay.config import AffinitySettings, BaseURL, Listener, RouterSettings
from relay.process.explaining import HABITS, REASONS, Asked, explain
from relay.scopes.affinity import AffinityStore
from relay.subjects.endpoints import match_endpoint
from relay.subjects.subject import Resource, Subject
from router import Router
from tests.fleet import config, deployment
from tests.harness import OK, POST_CHAT, config_over, get, post, proxy_over
from tests.harness import deployment as served
from tests.scripted import ScriptedUpstream

if TYPE_CHECKING:
    from pathlib import Path

    from relay.config import Config

NOW = 1000.0
CHAT = Asked("POST", "/openai/v1/chat/completions", "gpt-4")


def nowhere(_: Resource) -> str | None:
    return None


def told(given: Config, asked: Asked = CHAT, *, router: Router | None = None, lookup: Any = nowhere) -> list[str]:
    """The lines, runs of spaces as one."""
    text = explain(router or Router(given, random.Random(1)), given, asked, lookup, NOW)
    assert not re.search(r"[ \t]$", text, re.MULTILINE)
    return [re.sub(r" {2,}", " | ", line) for line in text.splitlines()]


def rows(lines: list[str]) -> list[dict[str, str]]:
    """The table of candidates; a cell that is empty is missing at the end of its row only."""
    start = next(at for at, line in enumerate(lines) if line.startswith("asked"))
    names = lines[start].split(" | ")
    end = lines.index("", start)
    return [dict(zip(names, line.split(" | "), strict=True)) for line in lines[start + 1 : end]]


def spoil(router: Router, name: str, outcome: Outcome) -> None:
    """Let an exchange meet that outcome at a deployment."""
    route = router.resolve(Subject(match_endpoint("POST", "/chat/completions"), model="gpt-4"), "me")
    chosen = next(one for one in route.candidates if one.id == name)
    attempt = router.begin(route, chosen, NOW)
    router.record(attempt, outcome, NOW)
    router.close(route)


def test_all_of_it() -> None:
    fallbacks = RouterSettings(fallbacks={"gpt-4": ("mini",)})
    given = config(
        deployment("eu", model="gpt-4o", weight=3),
        deployment("us", weight=1),
        deployment("spare", order=1),
        deployment("other", group="mini"),
        settings=fallbacks,
    )
    at = "https://api.openai.com/v1/chat/completions"
    lines = told(given)
    assert lines == [
        "POST /openai/v1/chat/completions for the model gpt-4",
        "endpoint | POST /chat/completions: an answer, spread over the group",
        "group | gpt-4: the model names it",
        "scope | any",
        "strategy | simple-shuffle: drawn by its share",
        "",
        "asked | candidate | share | asks for | target | key | scope | state",
        f"1 | eu | 75% | gpt-4o | {at} | ... | eu | free",
        f"1 | us | 25% | gpt-4 | {at} | ... | us | free",
        f"2 | spare | 100% | gpt-4 | {at} | ... | spare | free",
        f"3 | other | 100% | mini | {at} | ... | other | free",
        "",
        "choice | eu (another time it may be another)",
    ]


def test_each_strategy_says_how_it_chooses() -> None:
    assert HABITS.keys() == STRATEGIES.keys()
    for strategy, habit in HABITS.items():
        given = config(deployment("a"), deployment("b"), settings=RouterSettings(routing_strategy=strategy))
        lines = told(given)
        assert f"strategy | {strategy}: {habit}" in lines
        assert ("share" in rows(lines)[0]) == (strategy == "simple-shuffle")


def test_who_is_out_and_why_and_who_gets_its_share() -> None:
    given = config(*(deployment(name, weight=1) for name in "abc"), deployment("d", weight=2))
    router = Router(given, random.Random(1))
    spoil(router, "a", Outcome(Kind.RATE_LIMITED, 429, 30.0))
    spoil(router, "b", Outcome(Kind.DEAD_KEY, 401))
    lines = told(given, router=router)
    assert [(row["share"], row["state"]) for row in rows(lines)] == [
        ("-", "cooling (rate limited)"),
        ("-", "parked (its account or key is dead)"),
        ("33%", "free"),
        ("67%", "free"),
    ]
    assert lines[-1].split(" | ")[1][0] in "cd"


def test_weights_of_nothing_are_drawn_evenly() -> None:
    given = config(deployment("a", weight=0), deployment("b", weight=0), deployment("c", weight=1))
    router = Router(given, random.Random(1))
    spoil(router, "c", Outcome(Kind.RATE_LIMITED, 429, 30.0))
    assert [row["share"] for row in rows(told(given, router=router))] == ["50%", "50%", "-"]


def test_when_all_are_out_the_answer_is_told_below_the_table() -> None:
    given = config(deployment("a"), deployment("b"))
    router = Router(given, random.Random(1))
    for name in "ab":
        spoil(router, name, Outcome(Kind.RATE_LIMITED, 429, 30.0))
    lines = told(given, router=router)
    assert [row["state"] for row in rows(lines)] == ["cooling (rate limited)"] * 2
    assert lines[-1].startswith("answer | 429 rate_limit_exceeded: ")


def test_with_one_free_the_choice_is_certain() -> None:
    assert told(config(deployment("a")))[-1] == "choice | a"


REQUESTS = [
    ("an answer", Asked("POST", "/v1/embeddings", "gpt-4"), "an answer, spread over the group"),
    ("a stored one", Asked("POST", "/v1/responses", "gpt-4"), "an answer that is stored, "),
    ("a workspace call", Asked("POST", "/v1/files"), "workspace, at home in one scope for each client"),
    ("nobody's path", Asked("POST", "/v1/things/new"), "workspace, at home in one scope for each client"),
]


@pytest.mark.parametrize(("asked", "nature"), [row[1:] for row in REQUESTS], ids=[row[0] for row in REQUESTS])
def test_what_kind_of_call_it_is(asked: Asked, nature: str) -> None:
    line = told(config(deployment("a"), deployment("b")), asked)[1]
    assert line.startswith(f"endpoint | {asked.method} ")
    assert nature in line


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (CHAT, "model"),
        (Asked("GET", "/v1/models/gpt-4"), "model"),
        (Asked("GET", "/v1/realtime?model=gpt-4"), "model"),
        (Asked("POST", "/v1/chat/completions", "nobody"), "forward"),
        (Asked("GET", "/v1/files"), "home"),
    ],
)
def test_why_this_group(asked: Asked, reason: str) -> None:
    given = config(deployment("a", group="first"), deployment("b"))
    name = "gpt-4" if reason == "model" else "first"
    assert f"group | {name}: {REASONS[reason]}" in told(given, asked)


def test_the_model_is_replaced_where_it_stands() -> None:
    given = config(deployment("a", model="served/name"), deployment("b", group="*", model="*"))
    path = rows(told(given, Asked("GET", "/v1/models/gpt-4?x=%20")))[0]
    assert path["target"] == "https://api.openai.com/v1/models/served%2Fname?x=%20"
    query = rows(told(given, Asked("GET", "/v1/realtime?model=gpt-4")))[0]
    assert query["target"] == "https://api.openai.com/v1/realtime?model=served%2Fname"
    body = rows(told(given))[0]
    assert (body["asks for"], body["target"]) == ("served/name", "https://api.openai.com/v1/chat/completions")
    assert rows(told(given, CHAT._replace(model="any-name")))[0]["asks for"] == "any-name"
    assert rows(told(given, Asked("GET", "/v1/files")))[0]["asks for"] == "-"


def test_a_base_of_any_kind_is_shown_as_one_would_write_it() -> None:
    bases = [BaseURL("http", "127.0.0.1", 8080, ""), BaseURL("http", "localhost", 80, "/v1", unix="/run/x.sock")]
    given = config_over(*(served(name, 1, base=base) for name, base in zip("ab", bases, strict=True)))
    targets = [row["target"] for row in rows(told(given))]
    assert targets == ["http://127.0.0.1:8080/chat/completions", "http://unix:/run/x.sock:/v1/chat/completions"]


def test_a_resource_keeps_a_request_in_its_scope() -> None:
    given = config(deployment("a"), deployment("b"), deployment("c", scope="b"))
    asked = Asked("GET", "/v1/files/file-abc1234567")
    lines = told(given, asked, lookup=lambda one: {"file-abc1234567": "b"}.get(one.id))
    assert "resource | file file-abc1234567: lives in the scope b" in lines
    assert "group | gpt-4: a resource keeps the request in its scope" in lines
    assert "scope | b" in lines
    assert [row["candidate"] for row in rows(lines)] == ["b", "c"]
    lines = told(given, asked)
    assert "resource | file file-abc1234567: not seen yet: each scope would be asked" in lines
    assert "scope | any" in lines


def test_a_tuned_model_is_a_resource_too() -> None:
    given = config(deployment("a"), deployment("b"))
    lines = told(given, CHAT._replace(model="ft:gpt-4o:acme::abc123"), lookup=lambda _: "b")
    assert "resource | model ft:gpt-4o:acme::abc123: lives in the scope b" in lines
    assert [row["candidate"] for row in rows(lines)] == ["b"]


REFUSED = [
    ("no method", Asked("G T", "/v1/x"), "400 bad_request: "),
    ("no target", Asked("GET", "v1/x"), "400 bad_request: "),
    ("8-bit bytes", Asked("GET", "/v1/\u00fc"), "400 bad_request: "),
    ("dot segments", Asked("GET", "/v1/../x"), "400 bad_request: "),
    ("administration", Asked("GET", "/v1/organization/users"), "403 forbidden: "),
    ("too long", Asked("GET", "/v1/" + "x" * 20_000), "414 target_too_long: "),
    ("an unknown model", CHAT._replace(model="nobody"), "404 model_not_found: The model 'nobody' does not exist here."),
]


@pytest.mark.parametrize(("asked", "answer"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_would_be_refused_is_told_as_its_client_would_be(asked: Asked, answer: str) -> None:
    given = config(deployment("a"), settings=RouterSettings(unknown_model="reject"))
    assert told(given, asked)[-1].startswith("answer | " + answer)


def test_what_the_file_opens_is_open() -> None:
    given = config(deployment("a"), listener=Listener(allow_admin=True))
    assert told(given, Asked("GET", "/v1/organization/users"))[-1] == "choice | a"


def test_our_own_paths_go_to_nobody() -> None:
    for path in ("/", "/metrics", "/elsewhere", "/openai"):
        lines = told(config(deployment("a")), Asked("GET", path))
        assert lines[1:] == [
            "The proxy answers this path itself; only paths below /openai/ and /v1/ go to a deployment."
        ]


# The command.

FILE = """\
model_list:
  - model_name: gpt-4
    litellm_params: {model: openai/gpt-4o, api_key: sk-secret-number-1111}
    model_info: {id: eu, scope: north}
  - model_name: gpt-4
    litellm_params: {model: openai/gpt-4o, api_key: sk-secret-number-2222}
    model_info: {id: us, scope: south}
"""


def run(folder: Path, *arguments: str) -> int:
    (folder / "config.yaml").write_text(FILE)
    return passthrough.main([str(folder / "config.yaml"), *arguments])


def test_the_command_opens_no_socket_writes_no_file_and_shows_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket, "socket", refuse)
    assert run(tmp_path, "--explain", "post", "/openai/v1/chat/completions", "--model", "gpt-4") == 0
    said = capsys.readouterr()
    assert said.out.startswith("POST /openai/v1/chat/completions for the model gpt-4\n")
    assert "...1111" in said.out
    assert "secret" not in said.out + said.err
    assert [one.name for one in tmp_path.iterdir()] == ["config.yaml"]


def test_the_command_reads_the_store_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    store = AffinityStore.open(AffinitySettings(path="passthrough.db"), time.time())
    store.remember([("file", "file-abc1234567")], "south", time.time())
    store.remember([("file", "file-def1234567")], "gone", time.time())
    store.close()
    assert run(tmp_path, "--explain", "GET", "/v1/files/file-abc1234567") == 0
    said = capsys.readouterr().out
    assert "lives in the scope south" in said
    assert "us" in said
    assert " eu " not in said
    run(tmp_path, "--explain", "GET", "/v1/files/file-def1234567")
    assert "not seen yet" in capsys.readouterr().out


# A running proxy.


async def test_a_record_holds_what_explain_says() -> None:
    upstreams = [ScriptedUpstream() for _ in "ab"]
    for upstream in upstreams:
        await upstream.start()
    upstreams[0].says(
        b"HTTP/1.1 429 Slow Down\r\nRetry-After: 30\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 404 No\r\n\r\n"
    )
    upstreams[1].says(OK)
    members = [served(name, one.port, order=at) for at, (name, one) in enumerate(zip("ab", upstreams, strict=True))]
    given = config_over(*members)
    async with proxy_over(given) as proxy:
        await proxy.exchange(POST_CHAT, POST_CHAT, post("embeddings", b'{"model":"nobody"}'), get("/v1/models"))
        await proxy.record(4)
        lines = explain(proxy.worker.brain.router, given, CHAT, nowhere, time.monotonic())
        records = [vars(record) for record in proxy.records]
    for upstream in upstreams:
        await upstream.close()
    assert [record["reason"] for record in records] == ["model", "model", "forward", "home"]
    assert {record["group"] for record in records} == {"gpt-4"}
    assert [(one["deployment"], one["outcome"], one["status"]) for one in records[0]["attempts"]] == [
        ("a", "rate_limited", 429),
        ("b", "ok", 200),
    ]
    assert [one["deployment"] for one in records[1]["attempts"]] == ["b"]
    assert re.search(r"^1 +a .*cooling \(rate limited\)$", lines, re.MULTILINE)
    assert lines.endswith("choice      b")
