"""Names and the model groups they stand for."""

from __future__ import annotations

import pytest

from relay.choosing.groups import Groups
from relay.config import ModelGroup, RouterSettings
from relay.errors import ModelNotFound
from tests.fleet import config, deployment

NAMES = ["gpt-4", "openai/*", "openai/ft-*", "claude"]


def groups(settings: RouterSettings | None = None, names: list[str] | None = None, **unserved: str) -> Groups:
    made = config(*(deployment(f"d-{name}", group=name) for name in names or NAMES), settings=settings)
    unserved = {name.replace("_", "/").replace("ANY", "*"): why for name, why in unserved.items()}
    return Groups(type(made)(groups=made.groups, unserved=unserved, router=made.router))


FOUND = [
    ("gpt-4", "gpt-4", "gpt-4"),
    ("openai/gpt-4o", "openai/*", "gpt-4o"),
    ("openai/ft-x", "openai/ft-*", "x"),
    ("openai/", "openai/*", ""),
    ("fast", "gpt-4", "gpt-4"),
    ("renamed", "openai/*", "o3"),
]


@pytest.mark.parametrize(("name", "group", "caught"), FOUND)
def test_a_name_finds_its_group(name: str, group: str, caught: str) -> None:
    aliases = {"fast": "gpt-4", "renamed": "openai/o3"}
    match = groups(RouterSettings(model_group_alias=aliases)).find(name)
    assert match is not None
    assert (match.group.name, match.caught) == (group, caught)


def test_an_unknown_name_finds_nothing_and_the_error_lists_known_ones() -> None:
    found = groups()
    assert found.find("gpt-9") is None
    assert "claude, gpt-4, openai/*, openai/ft-*." in str(found.unknown("gpt-9"))


def test_the_list_of_known_names_is_bounded() -> None:
    assert str(groups(names=[f"m{n:02}" for n in range(30)]).unknown("x")).endswith("m19, ....")


UNSERVED = [
    ("vertex", "vertex"),  # a plain name that is known, though "*" would catch it
    ("bedrock/x", "bedrock"),
    ("alias", "vertex"),
]


@pytest.mark.parametrize(("name", "why"), UNSERVED)
def test_a_group_that_cannot_be_served_says_why(name: str, why: str) -> None:
    found = groups(RouterSettings(model_group_alias={"alias": "vertex"}), ["*"], vertex="vertex", bedrock_ANY="bedrock")
    with pytest.raises(ModelNotFound, match=f"cannot be served: {why}"):
        found.find(name)
    assert found.look_up(name) is None


def test_a_served_pattern_beats_a_shorter_one_that_is_not() -> None:
    found = groups(names=["a/b*"], a_ANY="no")
    assert found.find("a/bc") is not None
    assert found.find("c") is None
    with pytest.raises(ModelNotFound):
        found.find("a/c")


def test_a_pattern_with_a_served_and_an_unserved_entry_is_served() -> None:
    assert groups(names=["a/*"], a_ANY="no").find("a/x") is not None


def test_the_home_group_is_the_first_or_the_default_model() -> None:
    assert groups().home.group.name == "gpt-4"
    assert groups(RouterSettings(default_model="claude")).home.group.name == "claude"
    assert groups(RouterSettings(default_model="openai/o3")).home.caught == "o3"
    assert groups(RouterSettings(default_model="gone")).home.group.name == "gpt-4"


def test_a_group_without_deployments_is_none() -> None:
    made = config(deployment("a", group="a"))
    empty = Groups(type(made)(groups={"none": ModelGroup("none", ()), **made.groups}))
    assert empty.home.group.name == "a"
    assert empty.find("none") is None


CHAINS = [
    ({"gpt-4": ("claude",)}, (), ["claude"]),
    ({"gpt-4": ("claude", "claude", "gpt-4", "gone", "openai/o3")}, (), ["claude", "openai/*"]),
    ({"*": ("claude",)}, ("openai/*",), ["claude"]),
    ({"other": ("claude",)}, ("openai/*",), ["openai/*"]),
    ({}, (), []),
]


@pytest.mark.parametrize(("fallbacks", "default", "chain"), CHAINS)
def test_fallbacks(fallbacks: dict[str, tuple[str, ...]], default: tuple[str, ...], chain: list[str]) -> None:
    found = groups(RouterSettings(fallbacks=fallbacks, default_fallbacks=default))
    assert [match.group.name for match in found.fallbacks(found.home.group)] == chain
