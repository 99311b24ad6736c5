"""Home scopes of clients and sessions."""

from __future__ import annotations

from relay.choosing.homes import Homes
from tests.fleet import config, deployment

FILE = config(
    deployment("a"), deployment("b", scope_is_named=True), deployment("c", "other"), deployment("d", "other", scope="a")
)


def test_all_scopes_of_the_file_in_its_order() -> None:
    homes = Homes(FILE)
    assert homes.scopes == ("a", "b", "c")
    assert homes.named == ("b",)


def test_a_client_has_one_order_and_a_session_another() -> None:
    homes = Homes(FILE)
    assert homes.order("me", None) is homes.order("me", None)
    assert homes.order("me", None) == Homes(FILE).order("me", None)
    orders = {homes.order("me", str(session)) for session in range(50)}
    assert len(orders) == 6
    assert {frozenset(order) for order in orders} == {frozenset("abc")}


def test_a_session_cannot_be_mistaken_for_a_client() -> None:
    many = Homes(config(*(deployment(str(n)) for n in range(30))))
    assert many.order("a", "b:c") != many.order("a:b", "c")


def test_who_has_made_workspace_things_is_remembered_by_session_and_over_a_reload() -> None:
    homes = Homes(FILE)
    homes.made("me", "s")
    assert homes.has_made("me", "s")
    assert not homes.has_made("me", None)
    assert Homes(FILE, homes).has_made("me", "s")
