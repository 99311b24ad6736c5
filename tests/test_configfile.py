r"""Whole files: what they amount to, what they are warned about, and every message that a wrong one gets.

``configs/litellm`` holds the shapes of LiteLLM's own documentation, ``configs/valid`` what else works,
``configs/invalid`` what does not. Each file says in its first lines what must come of it::

    # expect: 3:9: message      a problem (line and column are those of the file itself)
    # warn: 3:9: message        a warning
    # table: text               a line of what --check prints
    # env: NAME=value           a variable of the environment
    # file: PATH=text           another file (\\n for line ends); "# binary: PATH" is one that is no text
"""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.config import (
    AffinitySettings,
    BaseURL,
    Client,
    Config,
    Deployment,
    Limits,
    Listener,
    ListenerTLS,
    RouterSettings,
    Secret,
    Timeouts,
    UpstreamTLS,
)
from relay.errors import ConfigError
from relay.reading import configfile, entry, litellm, modellist, routersettings
from relay.reading import settings as ours
from relay.reading.configfile import check_listener, parse_config, single_key_config
from relay.reading.describe import describe, security_notice
from relay.values import names_of, replace

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
CONFIGS = HERE / "configs"
INVALID = sorted((CONFIGS / "invalid").glob("*.yaml"))
VALID = sorted([*(CONFIGS / "litellm").glob("*.yaml"), *(CONFIGS / "valid").glob("*.yaml")])
KEY = "sk-upstream-0001"
ENTRY = f"- {{model_name: gpt-4, litellm_params: {{model: gpt-4, api_key: {KEY}}}}}\n"
MINIMAL = f"model_list:\n{ENTRY}"


def said(text: str, word: str) -> list[str]:
    """What the lines ``# word: ...`` of a file say."""
    return [
        line.removeprefix(f"# {word}:").removeprefix(" ")
        for line in text.removeprefix("\ufeff").splitlines()
        if line.startswith(f"# {word}:")
    ]


def pairs(text: str, word: str) -> dict[str, str]:
    found = (line.partition("=") for line in said(text, word))
    return {name: value.replace("\\n", "\n") for name, _, value in found}


def reader(files: dict[str, str], binary: list[str]) -> Callable[[str], str]:
    def read_file(path: str) -> str:
        if path in binary:
            return b"\xff".decode()
        if path not in files:
            raise FileNotFoundError(2, "No such file or directory", path)
        return files[path]

    return read_file


def parse(text: str, **environ: str) -> Config:
    read_file = reader(pairs(text, "file"), said(text, "binary"))
    return parse_config(text, "f", {**pairs(text, "env"), **environ}, read_file)


def problems(text: str, **environ: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as raised:
        parse(text, **environ)
    assert str(raised.value) == "\n".join(raised.value.problems)
    return raised.value.problems


def only(config: Config) -> Deployment:
    (deployment,) = config.deployments
    return deployment


def with_params(params: str, **environ: str) -> Deployment:
    return only(parse(f"model_list:\n- model_name: g\n  litellm_params: {{model: gpt-4, {params}}}\n", **environ))


def test_the_folders_hold_files() -> None:
    assert len(INVALID) >= 100
    assert len(VALID) >= 25


@pytest.mark.parametrize("pure", [False, True], ids=["libyaml", "pure"])
@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_a_wrong_file_gets_exactly_these_messages(path: Path, pure: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if pure:
        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    text = path.read_text()
    assert [problem.removeprefix("f:") for problem in problems(text)] == said(text, "expect")


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_no_message_shows_a_key(path: Path) -> None:
    told = "\n".join(said(path.read_text(), "expect"))
    assert "sk-" not in told
    assert "secret" not in told.replace("lots-and-secret", "!")


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_a_file_that_can_be_served_amounts_to_this(path: Path) -> None:
    text = path.read_text()
    config = parse(text)
    assert [warning.removeprefix("f:") for warning in config.warnings] == said(text, "warn")
    assert describe(config).split("\n") == said(text, "table")


# What a deployment is


def test_an_entry_with_everything() -> None:
    text = """
model_list:
- model_name: gpt-4
  litellm_params:
    model: openai/gpt-4-turbo
    api_key: sk-upstream-0001
    api_base: https://eu.api.openai.com
    organization: org-1
    project: proj_1
    weight: 2
    rpm: "500"
    tpm: 200_000
    order: 1
    timeout: 30
    stream_timeout: 0.5
    max_parallel_requests: 8
    cooldown_time: 0
    extra_headers: {X-Team: platform, X-Version: 3}
    ssl_verify: /etc/ca.pem
    client_certificate: client.pem
    client_key: client-key.pem
    proxy: http://user:word@proxy:3128
    input_cost_per_token: 3e-06
    output_cost_per_token_batches: 0.5
  model_info:
    id: main
    scope: scope-1
    quota_group: tier-1
    input_cost_per_token: 1
    cache_read_input_token_cost: "0.10"
    output_cost_per_second:
    search_context_cost_per_query: {low: 1}
"""
    assert only(parse(text)) == Deployment(
        id="main",
        group="gpt-4",
        base=BaseURL("https", "eu.api.openai.com", 443, "/v1"),
        model="gpt-4-turbo",
        key=Secret(KEY),
        scope="scope-1",
        quota_group="tier-1",
        scope_is_named=True,
        organization="org-1",
        project="proj_1",
        weight=2,
        rpm=500,
        tpm=200_000,
        order=1,
        timeout=30,
        stream_timeout=0.5,
        max_parallel_requests=8,
        cooldown_time=0,
        extra_headers=(("X-Team", "platform"), ("X-Version", "3")),
        tls=UpstreamTLS(True, "/etc/ca.pem", "client.pem", "client-key.pem"),
        proxy="http://user:word@proxy:3128",
        prices=(
            ("input_cost_per_token", Decimal("0.000003")),
            ("cache_read_input_token_cost", Decimal("0.10")),
            ("output_cost_per_token_batches", Decimal("0.5")),
        ),
    )


@pytest.mark.parametrize(
    ("params", "environ", "base", "key"),
    [
        ("", {"OPENAI_API_KEY": KEY}, "https api.openai.com 443 /v1", KEY),
        ("", {"OPENAI_API_KEY": KEY, "OPENAI_API_BASE": "http://a"}, "http a 80 /v1", KEY),
        ("", {"OPENAI_API_KEY": KEY, "OPENAI_API_BASE": "u:", "OPENAI_BASE_URL": "http://b/x/"}, "http b 80 /x", KEY),
        ("api_base: 'http://own:1234/'", {"OPENAI_API_KEY": KEY, "OPENAI_API_BASE": "u:"}, "http own 1234 /v1", None),
        ("api_base: os.environ/BASE", {"BASE": "http://own/v2"}, "http own 80 /v2", None),
        ("api_base: 'http://own', api_key: none", {}, "http own 80 /v1", "none"),
        ("api_base: 'http://own', api_key: os.environ/K", {"K": "sk-1\n"}, "http own 80 /v1", "sk-1"),
        ("custom_llm_provider: groq", {"GROQ_API_KEY": "gsk-1"}, "https api.groq.com 443 /openai/v1", "gsk-1"),
        ("custom_llm_provider: groq, api_base: 'http://own'", {"GROQ_API_KEY": "gsk-1"}, "http own 80 /v1", None),
        ("custom_llm_provider: ollama", {"OPENAI_API_KEY": KEY}, "http localhost 11434 /v1", None),
    ],
)  # fmt: skip
def test_a_key_goes_to_no_host_that_it_was_not_made_for(
    params: str, environ: dict[str, str], base: str, key: str | None
) -> None:
    deployment = with_params(params, **environ)
    found = deployment.base
    assert f"{found.scheme} {found.host} {found.port} {found.path}" == base
    assert deployment.key == (key and Secret(key))


@pytest.mark.parametrize(
    ("value", "tls"),
    [
        ("true", UpstreamTLS()),
        ("'True'", UpstreamTLS()),
        ("false", UpstreamTLS(verify=False)),
        ("'False'", UpstreamTLS(verify=False)),
        ("ca.pem", UpstreamTLS(ca_file="ca.pem")),
        ("", UpstreamTLS(verify=False, ca_file=None)),
    ],
)
def test_an_entry_says_its_own_ssl_verify(value: str, tls: UpstreamTLS) -> None:
    text = f"model_list: [{{model_name: g, litellm_params: {{model: m, api_key: k, ssl_verify: {value}}}}}]\n"
    assert only(parse(text + "litellm_settings: {ssl_verify: false}")).tls == tls


def test_scopes_do_not_show_keys_and_do_not_change() -> None:
    first, again, other = (with_params(f"api_key: {key}") for key in (KEY, KEY, "sk-upstream-0002"))
    assert first.scope == again.scope == "key-11c96b47f108"
    assert other.scope != first.scope
    assert not first.scope_is_named
    assert with_params(f"api_key: {KEY}, project: p").scope_is_named


def test_an_id_that_stands_for_several_organizations_stays_unique() -> None:
    params = f"{{model: m, api_key: {KEY}, organization: [a, b]}}"
    text = f"model_list: [{{model_name: g, litellm_params: {params}, model_info: {{id: x}}}}]"
    assert [deployment.id for deployment in parse(text).deployments] == ["x/a", "x/b"]


# Timeouts: LiteLLM's keys set response_head (SPEC §9)


@pytest.mark.parametrize(
    ("sections", "seconds"),
    [
        ("", 600),
        ("litellm_settings: {request_timeout: 1}", 1),
        ("litellm_settings: {request_timeout: 1}\ngeneral_settings: {pass_through_request_timeout: 2}", 2),
        ("general_settings: {pass_through_request_timeout: 2}\nrouter_settings: {timeout: '3'}", 3),
        ("router_settings: {timeout: 3}\ntimeouts: {response_head: 4.5}", 4.5),
        ("timeouts: {response_head: }\nrouter_settings: {timeout: 3}", 3),
    ],
)
def test_the_time_to_the_response_head(sections: str, seconds: float) -> None:
    assert parse(MINIMAL + sections).timeouts == Timeouts(response_head=seconds)


def test_streams_have_a_time_of_their_own() -> None:
    more = "- {model_name: b, litellm_params: {model: b, api_key: k, stream_timeout: 7}}\n"
    config = parse(MINIMAL + more + "router_settings: {stream_timeout: 5}")
    assert [deployment.stream_timeout for deployment in config.deployments] == [5, 7]


# The router's settings


def test_router_settings_win_over_litellm_settings() -> None:
    fallbacks = "fallbacks: [{gpt-4: [gpt-4]}], default_fallbacks: [gpt-4]"
    modules = f"litellm_settings: {{num_retries: 7, allowed_fails: 8, cooldown_time: 9, {fallbacks}}}\n"
    assert parse(MINIMAL + modules).router == RouterSettings(
        num_retries=7, allowed_fails=8, cooldown_time=9, fallbacks={"gpt-4": ("gpt-4",)}, default_fallbacks=("gpt-4",)
    )
    router = (
        "router_settings: {num_retries: 1, allowed_fails: 2, cooldown_time: 3, fallbacks: [], default_fallbacks: []}\n"
    )
    assert parse(MINIMAL + modules + router).router == RouterSettings(num_retries=1, allowed_fails=2, cooldown_time=3)


def test_router_settings() -> None:
    text = """
router_settings:
  routing_strategy: headroom
  disable_cooldowns: "True"
  retry_after: 1.5
  model_group_alias: {a: gpt-4, b: {model: gpt-4, hidden: true}}
  fallbacks: {gpt-4: a}
  default_model: a
  unknown_model: reject
"""
    assert parse(MINIMAL + text).router == RouterSettings(
        routing_strategy="headroom",
        disable_cooldowns=True,
        retry_after=1.5,
        model_group_alias={"a": "gpt-4", "b": "gpt-4"},
        fallbacks={"gpt-4": ("a",)},
        default_model="a",
        unknown_model="reject",
    )


def test_names_that_a_pattern_catches_are_known() -> None:
    groups = "model_list:\n" + "".join(
        f"- {{model_name: '{name}', litellm_params: {{model: '{model}', api_key: k}}}}\n"
        for name, model in [("openai/*", "openai/*"), ("openai/o*", "anthropic/*")]
    )
    config = parse(groups + "router_settings: {fallbacks: [{openai/gpt-4: [openai/gpt-5, openai/o3]}]}")
    assert config.router.fallbacks == {"openai/gpt-4": ("openai/gpt-5",)}


# Who is let in


def test_the_master_key() -> None:
    long = "sk-0123456789abcdef"
    text = f"{MINIMAL}general_settings: {{master_key: os.environ/MINE, litellm_key_header_name: X-My-Key}}"
    config = parse(text, MINE=long, LITELLM_MASTER_KEY="another")
    assert config.clients == (Client("master", Secret(long).digest),)
    assert (config.key_header, config.listener.host, config.warnings) == ("x-my-key", "0.0.0.0", ())
    assert security_notice(config) is None
    assert check_listener(config, "::") is None


def test_the_master_key_from_the_environment() -> None:
    config = parse(MINIMAL, LITELLM_MASTER_KEY="sk-1234")
    assert config.clients == (Client("master", Secret("sk-1234").digest),)
    assert config.warnings == ("f:1:1: general_settings.master_key: shorter than 16 characters, so it can be guessed",)
    variables = "environment_variables: {LITELLM_MASTER_KEY: sk-0123456789abcdef}\n"
    assert parse(variables + MINIMAL).clients == (Client("master", Secret("sk-0123456789abcdef").digest),)


def test_a_master_key_in_a_file() -> None:
    config = parse(
        f"# file: keys/master=sk-0123456789abcdef\\n\n{MINIMAL}general_settings: {{master_key: file/keys/master}}"
    )
    assert config.clients == (Client("master", Secret("sk-0123456789abcdef").digest),)
    assert config.files == ("f", "keys/master")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost", "LocalHost"])
def test_loopback_needs_no_key(host: str) -> None:
    assert check_listener(parse(MINIMAL), host) is None
    assert parse(f"{MINIMAL}server: {{host: '{host}'}}").listener.host == host.strip("[]")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.com", ""])
def test_other_addresses_need_a_key_or_the_long_word(host: str) -> None:
    config = parse(MINIMAL)
    assert config.clients == (Client("anyone", None),)
    assert security_notice(config) == "no master_key is set, so only loopback is served"
    refusal = check_listener(config, host)
    assert refusal is not None
    assert refusal.startswith(f"without general_settings.master_key only loopback is served, not {host};")
    permitted = parse(f"{MINIMAL}general_settings: {{dangerously_permit_weak_or_unset_master_key: true}}")
    assert check_listener(permitted, host) is None
    assert permitted.listener.host == "127.0.0.1"  # the word permits, it does not ask for it
    assert security_notice(permitted) == "no master_key is set: anybody who reaches it may use the upstream keys"


# Our own sections


def test_our_sections() -> None:
    text = f"""{MINIMAL}
server:
  host: 127.0.0.2
  port: "8080"
  workers: auto
  backlog: 5
  unix: /run/p.sock
  unix_mode: 0600
  allow_admin: true
  public_metrics: "True"
  uvloop: true
  tls: {{certificate: a.pem, key: b.pem, client_ca: c.pem}}
timeouts:
  {{head: 1, keep_alive: 2, body: 3, connect: 0.5, response_head: 5, stream_idle: 6, upstream_keep_alive: 7, drain: 0}}
limits:
  {{head_bytes: 1024, head_fields: 2, target_bytes: 64, request_bytes: 0, inspection_bytes: 1024, replay_bytes: 0,
   connections: 1}}
affinity: {{path: /var/x.db, merge_lists: true, responses: home, max_entries: 1, cache_entries: 0}}
"""
    config = parse(text)
    tls = ListenerTLS("a.pem", "b.pem", "c.pem")
    assert config.listener == Listener("127.0.0.2", 8080, "/run/p.sock", 0o600, 0, 5, True, True, True, tls)
    assert config.timeouts == Timeouts(1, 2, 3, 0.5, 5, 6, 7, 0)
    assert config.limits == Limits(1024, 2, 64, 0, 1024, 0, 1)
    assert config.affinity == AffinitySettings("/var/x.db", True, "home", 1, 0)


@pytest.mark.parametrize("written", ["0640", "640", "'0640'", "0o640", "'640'", "os.environ/MODE"])
def test_permissions_are_octal_however_they_are_written(written: str) -> None:
    assert parse(f"{MINIMAL}server: {{unix_mode: {written}}}", MODE="0640").listener.unix_mode == 0o640


@pytest.mark.parametrize(
    ("section", "environ", "path"),
    [
        ("", {}, "passthrough.db"),
        ("", {"STATE_DIRECTORY": "/var/lib/p"}, "/var/lib/p/passthrough.db"),
        ("", {"STATE_DIRECTORY": "/var/lib/p/:/var/lib/q"}, "/var/lib/p/passthrough.db"),
        ("affinity: {path: x.db}", {"STATE_DIRECTORY": "/var/lib/p"}, "x.db"),
        ("affinity: {path: ':memory:'}", {"STATE_DIRECTORY": "/var/lib/p"}, None),
    ],
)
def test_where_the_store_stands(section: str, environ: dict[str, str], path: str | None) -> None:
    assert parse(MINIMAL + section, **environ).affinity.path == path


def test_logging_is_handed_on_as_it_is() -> None:
    text = f"""{MINIMAL}
logging:
  version: 1
  otel: true
  formatters: {{f: {{format: "${{message}} <here>", style: "$"}}}}
  handlers: {{file: {{filename: os.environ/LOG, filters: [a, 1, null]}}}}
litellm_settings: {{json_logs: false}}
"""
    config = parse(text, LOG="/var/log/p")
    assert config.logging.dict_config == {
        "version": 1,
        "formatters": {"f": {"format": "${message} <here>", "style": "$"}},
        "handlers": {"file": {"filename": "/var/log/p", "filters": ["a", 1, None]}},
    }
    assert (config.logging.otel, config.logging.json_logs) == (True, False)
    assert parse(f"{MINIMAL}logging: {{otel: false}}").logging.dict_config is None


def test_the_files_of_a_configuration() -> None:
    read_file = reader({"/etc/p/models.yaml": MINIMAL.replace(KEY, "file/key"), "/etc/p/key": "k\n"}, [])
    config = parse_config("include: models.yaml", "/etc/p/./main.yaml", {}, read_file)
    assert config.files == ("/etc/p/./main.yaml", "/etc/p/models.yaml", "/etc/p/key")


def test_too_many_files() -> None:
    def read_file(path: str) -> str:
        return f"include: {int(path) + 1}"

    with pytest.raises(ConfigError) as raised:
        parse_config(f"include: 1\n{MINIMAL}", "f", {}, read_file)
    assert raised.value.problems == ("99:1:10: include: more than 100 files",)


def test_a_key_in_the_wrong_place_is_not_shown() -> None:
    assert problems(f"{MINIMAL}server: {{port: {KEY}, host: a {KEY}}}") == (
        "f:3:16: server.port: expected a port (0 to 65535; 0 takes a free one), found 'sk-...'",
        "f:3:40: server.host: expected a name in printable ASCII without spaces, found 'a sk-...'",
    )


def test_an_included_file_may_say_nothing() -> None:
    config = parse(
        f"# file: a=~\n# file: b=\n# file: c=server:\n{MINIMAL}include: [a, b, c, a, '']\nserver: {{port: 1}}"
    )
    assert (len(config.deployments), config.listener.port, config.files) == (1, 1, ("f", "a", "b", "c"))


def test_a_file_of_two_keys_is_named_once() -> None:
    entry = "- {model_name: g, litellm_params: {model: m, api_key: file/k}}\n"
    assert parse(f"# file: k=a\nmodel_list:\n{entry}{entry}").files == ("f", "k")


@pytest.mark.parametrize("key", ["two words", "sk-\x01", "sk-é", "two\nlines"])
def test_a_key_from_the_environment_can_stand_in_a_header(key: str) -> None:
    text = "model_list: [{model_name: g, litellm_params: {model: m}}]"
    wrong = "a key is one line of printable ASCII without spaces; this one is not"
    assert problems(text, OPENAI_API_KEY=key, LITELLM_MASTER_KEY=key) == (
        f"f:1:1: LITELLM_MASTER_KEY: {wrong}",
        f"f:1:47: OPENAI_API_KEY: {wrong}",
    )


def test_what_is_not_ours_may_stand_in_our_sections_too() -> None:
    assert parse(f"{MINIMAL}server: {{x-note: 1, port: 1}}\nlimits: {{x-a: {{}}}}").listener.port == 1
    assert problems(f"{MINIMAL}router_settings: {{default_fallbacks: os.environ/A}}") == (
        "f:3:38: router_settings.default_fallbacks: the environment variable A is not set",
    )


# Without a file


def test_one_key_serves_everything() -> None:
    config = single_key_config({"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": "http://localhost:8000"})
    assert list(config.groups) == ["*"]
    deployment = only(config)
    assert (deployment.model, deployment.key, deployment.base.port) == ("*", Secret(KEY), 8000)
    assert (config.warnings, config.files) == ((), ())
    guarded = single_key_config({"OPENAI_API_KEY": KEY, "LITELLM_MASTER_KEY": "sk-1234"})
    assert guarded.clients == (Client("master", Secret("sk-1234").digest),)
    assert guarded.warnings == (
        "environment: general_settings.master_key: shorter than 16 characters, so it can be guessed",
    )


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({}, "no configuration file is given, and OPENAI_API_KEY is not set: name a file, set the key, or try --demo"),
        (
            {"OPENAI_API_KEY": KEY, "OPENAI_API_BASE": "localhost"},
            "environment: OPENAI_API_BASE: expected a URL that begins with http:// or https://",
        ),
    ],
)
def test_without_a_file_the_environment_must_do(environ: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        single_key_config(environ)
    assert raised.value.problems == (message,)


# Code, documentation and example say the same


def documented() -> dict[str, dict[str, str]]:
    """The keys of docs/config.md by heading, with their defaults as written."""
    found: dict[str, dict[str, str]] = {}
    heading = ""
    for line in (HERE.parent / "docs" / "config.md").read_text().splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        row = re.match(r"\| (`.*?`) \| (.*?) \|", line)
        if row:
            for key in re.findall("`([^`]+)`", row[1]):
                found.setdefault(heading, {})[key] = row[2].strip("`")
    return found


def example(text: str | None = None) -> str:
    """The example with every setting switched on."""
    return re.sub(r"(?m)^#(?!#)", "", text or (HERE.parent / "config.example.yaml").read_text())


READ = {
    "model_list": set(modellist.ENTRY),
    "litellm_params": {*entry.PARAMS, *litellm.PRICES},
    "model_info": set(entry.INFO),
    "router_settings": set(routersettings.ROUTER),
    "general_settings": set(configfile.GENERAL),
    "litellm_settings": set(configfile.LITELLM),
    "server": {*ours.SERVER, "tls"},
    "server.tls": set(ours.TLS),
    "timeouts": set(ours.TIMEOUTS),
    "limits": set(ours.LIMITS),
    "affinity": set(ours.AFFINITY),
    "logging": {"otel"},
}


def test_every_key_is_documented_and_nothing_else_is() -> None:
    found = documented()
    assert {heading: set(keys) for heading, keys in found.items() if heading in READ} == READ
    text = (HERE.parent / "docs" / "config.md").read_text()
    assert all(f"\n## {section}\n" in text for section in configfile.SECTIONS)
    assert all(f"`{key}`" in text for key in litellm.REFUSED)


@pytest.mark.parametrize(
    ("heading", "standard"),
    [
        ("timeouts", Timeouts()),
        ("limits", Limits()),
        ("affinity", AffinitySettings()),
        ("server", Listener()),
        ("router_settings", RouterSettings()),
        ("litellm_settings", RouterSettings()),
    ],
)
def test_documented_defaults_are_the_types_own(heading: str, standard: Any) -> None:
    spelt = {"none": None, "true": True, "false": False, "0660": 0o660}
    values = {name: getattr(standard, name) for name in names_of(type(standard))}
    checked = 0
    for key, default in documented()[heading].items():
        if key in values and default != "none" and " " not in default:
            assert values[key] == spelt.get(default, yaml.safe_load(default)), key
            checked += 1
    assert checked >= 3


def test_the_tables_are_the_types() -> None:
    def names(kind: Any) -> set[str]:
        return set(names_of(kind))

    assert READ["server"] == names(Listener)
    assert READ["server.tls"] == names(ListenerTLS)
    assert READ["timeouts"] == names(Timeouts)
    assert READ["limits"] == names(Limits)
    assert READ["affinity"] == names(AffinitySettings)
    assert READ["router_settings"] - {"timeout", "stream_timeout"} == names(RouterSettings)


EXAMPLE_ENVIRON = {
    "OPENAI_API_KEY_1": "sk-first-000000001",
    "OPENAI_API_KEY_2": "sk-second-00000002",
}


def test_the_example_is_the_quick_start_and_loads() -> None:
    text = (HERE.parent / "config.example.yaml").read_text()
    config = parse_config(text, "config.example.yaml", EXAMPLE_ENVIRON, reader({}, []))
    assert [(one.group, one.model, one.base.host, one.key) for one in config.deployments] == [
        ("gpt-4", "gpt-4", "api.openai.com", Secret(key)) for key in EXAMPLE_ENVIRON.values()
    ]
    assert config.warnings == ()
    assert (config.timeouts, config.limits, config.router) == (Timeouts(), Limits(), RouterSettings())


def test_the_example_shows_every_key_with_its_default() -> None:
    environ = {**EXAMPLE_ENVIRON, "LITELLM_MASTER_KEY": "sk-0123456789abcdef"}
    config = parse_config(example(), "f", environ, reader({"more-models.yaml": ""}, []))
    assert config.warnings == ()
    assert (config.timeouts, config.limits, config.affinity) == (Timeouts(), Limits(), AffinitySettings())
    assert replace(config.listener, unix=None, tls=None) == Listener()
    tree = yaml.safe_load(example())
    assert set(tree) == set(configfile.SECTIONS)
    for section in (
        "server",
        "timeouts",
        "limits",
        "affinity",
        "router_settings",
        "general_settings",
        "litellm_settings",
    ):
        assert set(tree[section]) == READ[section]
    assert set(tree["server"]["tls"]) == READ["server.tls"]
    entries = tree["model_list"]
    assert set(entry.PARAMS) <= {key for one in entries for key in one["litellm_params"]} <= READ["litellm_params"]
    assert set(entry.INFO) <= {key for one in entries for key in one.get("model_info", ())}


# Whatever is written


def only_config_errors(text: str) -> None:
    read_file = reader({"a": "b: c", "k": "x"}, ["b"])
    try:
        config = parse_config(text, "f", {"A": "b", "OPENAI_API_KEY": KEY}, read_file)
    except ConfigError as error:
        found = [problem for problem in error.problems if not re.match(r"[a-z]:[0-9]+:[0-9]+: .", problem)]
        assert (bool(error.problems), found) == (True, [])  # noqa: PT017 - either outcome is right
    else:
        assert config.deployments
        assert KEY not in describe(config)


WORDS = st.sampled_from(
    """
    a 1 gpt-4 * a* true -1 1.5 .nan ~ os.environ/A os.environ/B file/k file/b ${A} <a> openai/gpt-4 azure/gpt-4
    claude-3 http://a http://unix:/a none é
    """.split()  # noqa: SIM905 - read as words
) | st.sampled_from(["", "x y"])
SCALARS = WORDS | st.none() | st.booleans() | st.integers(-2, 99999) | st.floats()
KEYS = st.sampled_from(
    sorted({key for keys in READ.values() for key in keys} | {"wheels", "x-a", "api_kye", "temperature"})
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | WORDS, inner, max_size=3)
)


def sections() -> st.SearchStrategy[dict[str, Any]]:
    """Structures that get past the first checks: known keys, odd values."""

    def mapping(keys: set[str]) -> st.SearchStrategy[Any]:
        return st.dictionaries(st.sampled_from(sorted(keys)) | KEYS, VALUES, max_size=6)

    entries = st.fixed_dictionaries(
        {
            "model_name": WORDS,
            "litellm_params": mapping(READ["litellm_params"]).map(lambda found: {"model": "m", **found}),
        },
        optional={"model_info": mapping(READ["model_info"])},
    )
    others = {
        name: mapping(READ[name]) | VALUES for name in READ if name in configfile.SECTIONS and name != "model_list"
    }
    others |= {"include": VALUES, "environment_variables": VALUES, "credential_list": VALUES}
    return st.fixed_dictionaries({"model_list": st.lists(entries, max_size=3) | VALUES}, optional=others)


@settings(max_examples=60, deadline=None)
@given(sections())
def test_no_structure_raises_anything_else(tree: dict[str, Any]) -> None:
    only_config_errors(yaml.safe_dump(tree, allow_unicode=True, sort_keys=False))


@given(
    st.lists(st.sampled_from([*MINIMAL.splitlines(), *example().splitlines(), "? ", "<<: *a", "&a", "- ", ": ", "\t"]))
)
def test_no_heap_of_lines_raises_anything_else(lines: list[str]) -> None:
    only_config_errors("\n".join(lines))


@settings(deadline=None)
@given(st.text(max_size=50))
def test_no_value_raises_anything_else(value: str) -> None:
    for text in (f"api_key: {value}", f"api_base: {value!r}", f"extra_headers: {{a: {value!r}}}", f"proxy: {value!r}"):
        only_config_errors(f"model_list:\n- model_name: a\n  litellm_params:\n    model: gpt-4\n    {text}\n")
