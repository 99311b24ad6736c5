"""Every row of the resource CSV is covered by the tables of endpoints and kinds, and each says how."""

from __future__ import annotations

import csv
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from relay.subjects.endpoints import location_resource, match_endpoint, path_resources, query_resources
from relay.subjects.resources import ENCRYPTED, HASHED, OWN_PREFIXES, as_resource
from relay.subjects.subject import Resource
from tests.test_endpoints import every_endpoint, filled, kind_at

if TYPE_CHECKING:
    from relay.subjects.endpoints import Endpoint

CSV = Path(os.environ.get("OPENAI_RESOURCES_CSV") or Path(__file__).parents[2] / "shared" / "openai-resources.csv")
SAME_KIND = {"response_item": "item", "conversation_item": "item", "vector_store_file": "file"}
SAME_KIND |= {"encrypted_blob": ENCRYPTED}
NOT_KEPT = {  # kinds of the CSV that are not kept, and why nothing is lost
    "audit_log": "home scope: a client's list and its pages stay in one scope",
    "skill_version": "by parent: a number that every skill has",
    "realtime_session": "never named again",
    "chat_message": "by parent",
}
NEVER_PINS = {  # (kind, where): what a request may name without being about it
    ("project", "query:project_id"): "must not pin: other projects",
    ("project", "body:/project_ids/*"): "must not pin: other projects",
    ("user", "query:user_ids"): "must not pin: a person may belong to several organizations",
    ("user", "query:actor_ids[]"): "must not pin: a person may belong to several organizations",
}
CHATKIT_SECRET = ("POST", "/chatkit/sessions", "/client_secret")


def read_rows() -> list[dict[str, str]]:
    if not CSV.exists():
        pytest.skip(f"no resource table at {CSV} (OPENAI_RESOURCES_CSV names it)")
    with CSV.open(newline="") as file:
        return list(csv.DictReader(file))


def sample(kind: str, prefix: str) -> str:
    """An id as the CSV's prefix column describes it."""
    if kind == "model":
        return "ft:gpt-4o:org::Abc123"
    first = prefix.partition("|")[0].partition(" ")[0].strip("(.")
    return (first if first.endswith(("_", "-")) else next(iter(OWN_PREFIXES.get(kind, ())), "")) + "Abc123"


def counts(kind: str | None, value: str, expected: str) -> bool:
    """Whether a value at a place declared as ``kind`` becomes a resource of the ``expected`` kind."""
    found = as_resource(kind, value, "body") if kind else None
    return found is not None and found.kind == expected


def by_parent(endpoint: Endpoint, kind: str) -> str | None:
    """A child id, or any id of administration, is pinned by the first id of its path."""
    if endpoint.path_ids:
        return "by parent"
    return (
        "by the thread that is shown beside it"
        if kind in OWN_PREFIXES and endpoint.template == "/threads/runs"
        else None
    )


def explain(row: dict[str, str]) -> str | None:
    """How the table covers one row, in a word or two; None where it does not."""
    template = row["path"].partition("?")[0]
    path, ids = filled(template)
    endpoint = match_endpoint("GET" if row["method"] == "WS" else row["method"], path)
    if endpoint.template != template:
        return None
    if row["role"] == "none":
        return "nothing to name"
    name = row["creates"] or row["refers_to"]
    if name in NOT_KEPT:
        return NOT_KEPT[name]
    if row["where"].startswith("path:"):
        return explain_path(endpoint, path, ids[row["where"][5:]])
    wanted = [SAME_KIND.get(kind, kind) for kind in name.split("|")]
    hows = {explain_place(endpoint, row, kind, sample(kind, prefix))
            for kind, prefix in zip(wanted, row["id_prefix"].split("|"), strict=False)}  # fmt: skip
    return hows.pop() if len(hows) == 1 else None


def explain_path(endpoint: Endpoint, path: str, id_: str) -> str | None:
    found = [resource.id for resource in path_resources(endpoint, path)]
    if id_ in found:
        return "path"
    return "by parent" if found and path.index(found[0]) < path.index(id_) else None


def explain_place(endpoint: Endpoint, row: dict[str, str], kind: str, value: str) -> str | None:
    if (row["method"], row["path"], row["id_location_in_response"]) == CHATKIT_SECRET:
        return "no key to any path of the API" if not kind_at(endpoint.response, "/client_secret") else None
    where = row["where"] or "response"
    if (kind, where) in NEVER_PINS:
        return None if is_named(endpoint, where, kind, value) else NEVER_PINS[kind, where]
    named = is_named(endpoint, where, kind, value) if where != "response" else is_shown(endpoint, row, kind, value)
    if named:
        return where.partition(":")[0] + (" (event)" if ":" in row["id_location_in_response"] else "")
    cursor = where in ("query:after", "query:before", "query:run_id")
    child = as_resource(kind, value, "body") is None
    if cursor or child or endpoint.template.startswith(("/organization/", "/projects/")):
        return by_parent(endpoint, kind)
    return None


def is_named(endpoint: Endpoint, where: str, kind: str, value: str) -> bool:
    how, _, place = where.partition(":")
    pointer = place.rpartition(" ")[2].replace("{key}", "anything")
    if how == "query":
        return Resource(kind, value, "query") in query_resources(endpoint, f"{place}={value}")
    if how == "header":
        names = [name.split()[0].lower() for name in place.split(" | ")]
        return all(endpoint.header_ids.get(name) == kind for name in names)
    return counts(kind_at(endpoint.form if how == "form" else endpoint.body, pointer), value, kind)


def is_shown(endpoint: Endpoint, row: dict[str, str], kind: str, value: str) -> bool:
    place = row["id_location_in_response"].partition(" (")[0]
    if place.startswith("header:Location"):
        return location_resource(endpoint, f"/v1/x/{value}") == Resource(kind, value, "response")
    return counts(kind_at(endpoint.response, "/" + place.partition("/")[2]), value, kind)


def test_every_row_of_the_csv_is_covered() -> None:
    rows = read_rows()
    hows = [explain(row) for row in rows]
    for row, how in zip(rows, hows, strict=True):
        place = row["where"] or row["id_location_in_response"]
        print(row["method"], row["path"], row["creates"] or row["refers_to"], place, "=>", how)  # noqa: T201
    print(Counter(hows))  # noqa: T201

    assert [row for row, how in zip(rows, hows, strict=True) if how is None] == []
    assert len(rows) >= 971


def test_what_is_not_kept_is_never_named_without_its_parent() -> None:
    for row in read_rows():
        kind = SAME_KIND.get(row["refers_to"], row["refers_to"])
        child = row["refers_to"] in NOT_KEPT or (kind in OWN_PREFIXES and not HASHED & {kind} and
            as_resource(kind, sample(kind, row["id_prefix"]), "") is None)  # fmt: skip
        if child and row["where"] != "response" and row["refers_to"] != "audit_log":
            path, _ = filled(row["path"])
            assert path_resources(match_endpoint(row["method"], path), path), row


def test_the_table_holds_no_operation_that_the_csv_does_not() -> None:
    of_csv = {("GET" if row["method"] == "WS" else row["method"], row["path"].partition("?")[0]) for row in read_rows()}

    assert {(endpoint.method, endpoint.template) for endpoint in every_endpoint()} == of_csv
