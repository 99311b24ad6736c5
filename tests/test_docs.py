"""What the documents say is so: links lead somewhere, options and commands exist, tables hold the code's figures."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from typing import TYPE_CHECKING

import pytest
import yaml

from passthrough import Worker
from relay import errors
from relay.answers.recording import Recorder
from relay.choosing.outcomes import Kind
from relay.choosing.resolver import Resolver
from relay.config import Limits, Timeouts
from relay.process.command import make_parser
from relay.reach.upstream import UpstreamConnection, UpstreamPool
from relay.reading.configfile import parse_config
from relay.record.metrics import ProxyMetrics
from relay.requests.downstream import Downstream
from relay.scopes.pinning import Pinning
from relay.values import names_of as fields_of
from relay.version import VERSION
from relay.wire import handshake
from router import Router
from tools.rooms import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
README = (ROOT / "README.md").read_text()
BEHAVIOUR = (ROOT / "docs" / "behaviour.md").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
ROUTING = (ROOT / "docs" / "routing.md").read_text()
ALL = "\n".join(path.read_text() for path in DOCUMENTS)
LINK = re.compile(r"\[[^\]]+\]\(([^)#\s]+)(?:#([^)]+))?\)")


def names_of(text: str) -> set[str]:
    """Everything that stands in backquotes."""
    return set(re.findall(r"`([^`\n]+)`", text))


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def headings(text: str) -> set[str]:
    """The anchors that headings make."""
    found = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def error_classes() -> Iterator[type[errors.ProxyError]]:
    for room in (errors, handshake):
        for one in vars(room).values():
            if isinstance(one, type) and issubclass(one, errors.ProxyError) and one.__module__ == room.__name__:
                yield one


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target, anchor in LINK.findall(path.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        assert (path.parent / target).exists(), target
        assert not anchor or anchor in headings((path.parent / target).read_text()), f"{target}#{anchor}"


def test_there_are_links_to_look_at() -> None:
    assert len(LINK.findall(README)) > 8


def test_no_document_lacks_a_way_to_it() -> None:
    linked = {target for path in DOCUMENTS for target, _ in LINK.findall(path.read_text())}
    assert [path.name for path in DOCUMENTS if path.name not in {name.rpartition("/")[2] for name in linked}] == [
        "README.md"
    ]


def test_the_readme_stays_short() -> None:
    assert len(README.splitlines()) <= 150


def test_every_option_is_told_of() -> None:
    options = {option for action in make_parser()._actions for option in action.option_strings if option[1] == "-"}
    assert options - {"--help"} <= set(re.findall(r"--[a-z][a-z-]*", ALL))
    assert options - {"--help"} <= set(re.findall(r"--[a-z][a-z-]*", README)), "the README lists them all"


def test_every_option_that_is_told_of_exists() -> None:
    """Of ours: lines of shell in which the product is started."""
    options = {option for action in make_parser()._actions for option in action.option_strings}
    lines = [line for block in blocks(ALL, "sh") for line in block.splitlines() if "passthrough" in line]
    told = {
        word for line in lines for word in shlex.split(line, comments=True) if re.fullmatch(r"--[a-z][a-z-]*", word)
    }
    assert {"--demo", "--check"} <= told <= options


def test_every_file_that_a_command_names_exists() -> None:
    made = {"passthrough.pyz", "passthrough.cdx.json", "config.yaml", "exchanges.jsonl", "ca.pem"}
    words = {word for block in blocks(README, "sh") for word in shlex.split(block, comments=True)}
    files = {word for word in words if re.fullmatch(r"[\w/]+\.(py|yaml|sh)", word)} - made
    assert "passthrough.py" in files
    named = {name for name in names_of(ALL) if re.fullmatch(r"(?:tools|tests|bench|deploy|docs|relay)/[\w./-]+", name)}
    assert len(named) > 10
    assert [name for name in files | named if not (ROOT / name).exists()] == []


def test_two_lines_set_up_everything() -> None:
    """One runs the demo, one the tests, which `.ci/run` takes from here; each makes its own environment."""
    lines = [
        line
        for block in blocks(README, "sh")
        for line in block.splitlines()
        if line.startswith("python3 -m venv .venv")
    ]
    assert [line.split(" && ")[-1] for line in lines] == [
        ".venv/bin/python passthrough.py --demo",
        ".venv/bin/python -m pytest",
    ]
    pattern = re.search(r"sed -n '(.+)' README.md", (ROOT / ".ci" / "run").read_text())
    assert pattern is not None
    assert pattern[1] == r"s/^\(python3 -m venv .*pytest\)$/\1/p"


def test_the_configuration_of_the_readme_is_served() -> None:
    (text,) = blocks(README, "yaml")
    environ = {"OPENAI_API_KEY_1": "sk-of-the-first-project", "PROXY_KEY": "sk-of-the-proxy-itself"}
    config = parse_config(text, "config.yaml", environ, lambda _: "sk-of-the-second-project\n")
    assert config.warnings == ()
    assert len(config.groups["gpt-4"].deployments) == 2


@pytest.mark.parametrize("text", blocks(ALL, "yaml"), ids=lambda text: text.split("\n")[0][:40])
def test_yaml_in_documents_is_yaml(text: str) -> None:
    assert isinstance(yaml.safe_load(text), dict)


@pytest.mark.parametrize("section", [Limits(), Timeouts()], ids=["limits", "timeouts"])
def test_limits_and_times_are_those_of_the_code(section: Limits | Timeouts) -> None:
    rows = dict(re.findall(r"^\| `(\w+)`(?:, `\w+`)* \| ([\d.]+) \|", BEHAVIOUR, re.MULTILINE))
    for name in fields_of(type(section)):
        assert float(rows[name]) == getattr(section, name), name


def test_refusals_are_those_of_the_code() -> None:
    rows = {(int(status), code) for status, code in re.findall(r"^\| (\d{3}) \| `(\w+)` \|", BEHAVIOUR, re.MULTILINE)}
    assert rows == {(one.status, str(one.code)) for one in error_classes()}


def test_the_story_is_told_with_names_that_exist() -> None:
    """`room.name` and `Class.name`, wherever a document of ours says so."""
    classes = {
        one.__name__: one
        for one in (Worker, Router, Resolver, Pinning, Recorder, Downstream, UpstreamPool, UpstreamConnection)
    }
    told = set(re.findall(r"`(\w+)\.(\w+)`", (ROOT / "docs" / "architecture.md").read_text()))
    rooms = {path.stem: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in ROOT.glob("relay/**/*.py")}
    owners = {
        owner: classes.get(owner) or import_module(rooms[owner])
        for owner, name in told
        if owner in classes or (name != "py" and owner in rooms)
    }
    assert len(owners) > 10
    assert [(owner, name) for owner, name in told if owner in owners and not hasattr(owners[owner], name)] == []


def test_every_outcome_is_explained() -> None:
    assert {kind.value for kind in Kind} <= names_of(ROUTING)


def test_the_runbook_speaks_of_words_that_exist() -> None:
    families = set(ProxyMetrics(VERSION).snapshot())
    told = set(re.findall(r"\b(?:passthrough|process)_[a-z_]+[a-z]", OPERATIONS))
    assert told - families == set()
    outcomes = {kind.value for kind in Kind} | {str(one.code) for one in error_classes()} | {"drained"}
    assert set(re.findall(r"outcome(?:`?: |=\")`?(\w+)", OPERATIONS)) <= outcomes


def test_the_changelog_begins_with_what_is_not_released() -> None:
    first = re.search(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first is not None
    assert first[1] == "[Unreleased]"
