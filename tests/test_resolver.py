"""Group, scope and the order of candidates: SPEC §5, sentence by sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from relay.choosing.groups import Groups
from relay.choosing.health import Ledger
from relay.choosing.homes import Homes
from relay.choosing.plans import Plans
from relay.choosing.resolver import Resolver
from relay.choosing.route import LISTENING
from relay.config import AffinitySettings, Config, RouterSettings
from relay.errors import BadRequest, ModelNotFound, ScopeConflict
from relay.subjects.endpoints import match_endpoint
from relay.subjects.subject import Subject
from relay.values import replace
from tests.fleet import config, deployment

if TYPE_CHECKING:
    from relay.choosing.route import Route

CHAT = match_endpoint("POST", "/chat/completions")
RESPONSES = match_endpoint("POST", "/responses")
FILES = match_endpoint("POST", "/files")
LIST_FILES = match_endpoint("GET", "/files")

FILE = config(
    deployment("a", model="gpt-4-a"),
    deployment("b", model="gpt-4-b"),
    deployment("c", "gpt-5", scope="a"),
    deployment("d", "gpt-5", scope="c", scope_is_named=True),
    deployment("e", "any/*", scope="a", model="*"),
    settings=RouterSettings(model_group_alias={"fast": "gpt-5"}),
    unserved={"claude": "anthropic is not served"},
)


def resolver(made: Config = FILE) -> Resolver:
    groups = Groups(made)
    return Resolver(made, groups, Homes(made), Plans(made, groups, Ledger(made)))


def ids(route: Route) -> list[str]:
    return [one.id for one in route.candidates]


def resolve(subject: Subject, client: str = "me", made: Config = FILE, **given: Any) -> Route:
    return resolver(made).resolve(subject, client, **given)


GROUPS = [
    ("a header", {"header_model": "gpt-5", "names": ("gpt-4",), "model": "any/x"}, "gpt-5", "header"),
    ("the first name", {"names": ("gpt-5", "gpt-4"), "model": "gpt-4"}, "gpt-5", "names"),
    ("the model", {"model": "gpt-5"}, "gpt-5", "model"),
    ("an alias", {"model": "fast"}, "gpt-5", "model"),
    ("a pattern", {"model": "any/x"}, "any/*", "model"),
    ("nothing", {}, "gpt-4", "home"),
    ("an unknown model", {"model": "gpt-9"}, "gpt-4", "forward"),
]


@pytest.mark.parametrize(("named", "group", "reason"), [row[1:] for row in GROUPS], ids=[row[0] for row in GROUPS])
def test_the_first_that_speaks_decides_the_group(named: dict[str, Any], group: str, reason: str) -> None:
    route = resolve(Subject(CHAT, **named))
    assert (route.group.name, route.reason, route.scope) == (group, reason, None)
    assert {one.group for one in route.candidates} == {group}


UNKNOWN = [
    ({"header_model": "gpt-9"}, "does not exist here"),
    ({"names": ("gpt-9",)}, "does not exist here"),
    ({"model": "claude"}, "anthropic is not served"),
    ({"header_model": "claude"}, "anthropic is not served"),
]


@pytest.mark.parametrize(("named", "message"), UNKNOWN)
def test_a_group_that_is_not_there_is_an_error(named: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelNotFound, match=message):
        resolve(Subject(CHAT, **named))


def test_unknown_models_may_be_rejected() -> None:
    made = replace(FILE, router=RouterSettings(unknown_model="reject"))
    with pytest.raises(ModelNotFound, match=r"Known: any/\*, gpt-4, gpt-5\."):
        resolve(Subject(CHAT, model="gpt-9"), made=made)


MODELS = [
    ({"model": "gpt-4"}, {"a": "gpt-4-a", "b": "gpt-4-b"}),
    ({"model": "gpt-5"}, {"c": None, "d": None}),  # the same name upstream: nothing to replace
    ({"model": "fast"}, {"c": "gpt-5", "d": "gpt-5"}),
    ({"model": "any/x"}, {"e": "x"}),
    ({"model": "gpt-9"}, {"a": None, "b": None}),
    ({}, {"a": None, "b": None}),
    ({"header_model": "gpt-4"}, {"a": None, "b": None}),
    ({"header_model": "gpt-4", "model": "gpt-9"}, {"a": None, "b": None}),
    ({"header_model": "gpt-4", "model": "gpt-5"}, {"a": "gpt-4-a", "b": "gpt-4-b"}),
    ({"header_model": "gpt-4", "model": "claude"}, {"a": None, "b": None}),
]


@pytest.mark.parametrize(("named", "models"), MODELS)
def test_a_group_s_name_is_replaced_and_any_other_stays(named: dict[str, Any], models: dict[str, str | None]) -> None:
    route = resolve(Subject(CHAT, **named))
    assert {one.id: route.upstream_model(one) for one in route.candidates} == models


def test_a_star_stands_for_the_name_in_a_group_that_is_no_pattern() -> None:
    made = config(deployment("a", model="*"), settings=RouterSettings(model_group_alias={"x": "gpt-4"}))
    route = resolve(Subject(CHAT, model="x"), made=made)
    assert route.upstream_model(route.candidates[0]) == "gpt-4"


# -- scopes -----------------------------------------------------------------------------------------------------------


def test_a_resource_pins_to_its_scope() -> None:
    route = resolve(Subject(CHAT, model="gpt-4"), scope="b")
    assert (ids(route), route.reason, route.scope) == (["b"], "resource", "b")


def test_a_scope_can_be_pinned_by_hand() -> None:
    route = resolve(Subject(CHAT, model="gpt-4", scope="b"))
    assert (ids(route), route.reason) == (["b"], "pin")
    assert resolve(Subject(CHAT, scope="b"), scope="b").reason == "pin"


def test_a_pin_without_a_member_of_the_group_borrows_the_scope_and_keeps_the_group_s_name() -> None:
    route = resolve(Subject(CHAT, model="gpt-4"), scope="c")
    assert ids(route) == ["d"]
    assert route.group.name == "gpt-4"
    assert route.upstream_model(route.candidates[0]) == "gpt-4-a"
    assert resolve(Subject(FILES), scope="c").upstream_model(route.candidates[0]) is None


def test_what_is_borrowed_is_one_deployment_for_each_account() -> None:
    made = config(deployment("x", "home"), deployment("a", "g1", scope="s"), deployment("b", "g2", scope="s"))
    assert ids(resolve(Subject(CHAT, model="home"), scope="s", made=made)) == ["a"]


def test_a_pin_to_an_unknown_scope_is_refused_and_the_named_ones_are_told() -> None:
    with pytest.raises(BadRequest, match=r"'z' is not a scope here\. Known: c\."):
        resolve(Subject(CHAT, scope="z"))
    with pytest.raises(BadRequest, match="none has a name"):
        resolve(Subject(CHAT, scope="z"), made=config(deployment("a")))


def test_a_resource_against_a_pin_is_a_conflict_that_names_both() -> None:
    with pytest.raises(ScopeConflict, match=r"'b'.*'a'"):
        resolve(Subject(CHAT, scope="a"), scope="b")


def test_a_resource_and_a_pin_of_united_scopes_agree() -> None:
    made = resolver()
    made.unite({"a": "a", "b": "a"})
    assert ids(made.resolve(Subject(CHAT, model="gpt-4", scope="b"), "me", scope="a")) == ["a", "b"]
    with pytest.raises(ScopeConflict):
        made.resolve(Subject(CHAT, scope="c"), "me", scope="a")


def test_a_scope_that_the_file_no_longer_has_is_no_pin() -> None:
    assert ids(resolve(Subject(CHAT), scope="gone")) == ["a", "b"]


def test_the_same_exchange_within_another_scope() -> None:
    made = resolver()
    route = made.resolve(Subject(CHAT, model="gpt-4", patience=5.0), "me", started=10.0)
    other = made.within(route, "c")
    assert (ids(other), other.scope, other.deadline, other.counted) == (["d"], "c", route.deadline, True)
    assert other.upstream_model(other.candidates[0]) == "gpt-4-a"


# -- home scopes ------------------------------------------------------------------------------------------------------


def test_a_workspace_call_goes_to_the_client_s_scopes_in_order() -> None:
    made = config(*(deployment(name) for name in "abcd"), deployment("a2", scope="a"))
    orders = {client: Homes(made).order(client, None) for client in map(str, range(20))}
    for client, order in orders.items():
        expected = [one.id for scope in order for one in made.deployments if one.scope == scope]
        assert ids(resolve(Subject(LIST_FILES), client, made)) == expected
    assert len(set(orders.values())) > 5


def test_a_session_has_a_home_of_its_own() -> None:
    made = config(*(deployment(name) for name in "abcd"))
    firsts = {ids(resolve(Subject(FILES, session=str(n)), "me", made))[0] for n in range(50)}
    assert firsts == set("abcd")


def test_groups_with_members_in_other_scopes_keep_the_order() -> None:
    for client in map(str, range(20)):
        order = Homes(FILE).order(client, None)
        assert ids(resolve(Subject(FILES, names=("gpt-5",)), client)) == [
            {"a": "c", "c": "d"}[scope] for scope in order if scope != "b"
        ]


def homes_of(made: Resolver, subject: Subject, **given: Any) -> bool:
    """Whether a request goes to the client's home scope first, for every client."""
    return all(
        ids(made.resolve(subject, client, **given))[0] == made._homes.order(client, None)[0]
        for client in map(str, range(20))
    )


RESPONSES_MODES = [
    ("auto", {}, False, False),
    ("auto", {}, True, True),
    ("auto", {"store": True}, True, True),
    ("auto", {"store": False}, True, False),
    ("spread", {}, True, False),
    ("home", {}, False, True),
    ("home", {"store": False}, False, False),
]


@pytest.mark.parametrize(("mode", "said", "homed", "home"), RESPONSES_MODES)
def test_stored_responses(mode: str, said: dict[str, Any], homed: bool, home: bool) -> None:
    made = config(*(deployment(name) for name in "abcd"), affinity=AffinitySettings(responses=mode))
    assert homes_of(resolver(made), Subject(RESPONSES, **said), homed=homed) is home


def test_making_a_workspace_thing_homes_later_stored_responses() -> None:
    made = resolver(config(*(deployment(name) for name in "abcd")))
    for client in map(str, range(20)):
        made.resolve(Subject(LIST_FILES), client)  # listing makes nothing
    assert not homes_of(made, Subject(RESPONSES))
    for client in map(str, range(20)):
        made.resolve(Subject(FILES), client)
    assert homes_of(made, Subject(RESPONSES))
    assert homes_of(made, Subject(CHAT, store=True))
    assert not homes_of(made, Subject(CHAT))


def test_the_client_s_patience_leaves_time_for_our_answer() -> None:
    assert resolve(Subject(CHAT, patience=5.0), started=100.0).deadline == 105.0 - LISTENING
    assert resolve(Subject(CHAT), started=100.0).deadline is None
