"""Pages of lists, taken apart and put together: what the items say stays as it came."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.answers.listings import HABITS, UPDATED, Habits, Item, Wish, moment_of, read_listing, write_listing

PAGE = b""" {"object" : "list", "data": [ {"id":"a", "created_at" : 2e0, "x": "\xc3\xa9 ]}" } ,
  {"id": "b", "created":1.5,"metadata":{"id": "c"}}], "first_id": "a", "last_id":"b" , "has_more": true,
  "more": [1, {}] } """


def test_items_keep_their_bytes() -> None:
    listing = read_listing(PAGE)
    assert [(item.id, item.moment) for item in listing.items] == [("a", 2.0), ("b", 1.5)]
    assert all(item.raw.encode() in PAGE for item in listing.items)
    assert listing.items[0].raw == '{"id":"a", "created_at" : 2e0, "x": "é ]}" }'
    assert listing.has_more
    assert list(listing.others) == ["object", "data", "first_id", "last_id", "has_more", "more"]


def test_bytes_that_are_no_text_travel_too() -> None:
    page = b'{"data":[{"id":"a","x":"\xff\xfe"}],"has_more":false}'
    listing = read_listing(page)
    assert b'{"id":"a","x":"\xff\xfe"}' in write_listing(listing.others, listing.items, has_more=False)


def test_a_page_says_what_its_items_make_true() -> None:
    listing = read_listing(PAGE)
    again = json.loads(write_listing(listing.others, [*listing.items[1:], Item("z", 0, '{"id":"z"}')], has_more=False))
    assert (again["first_id"], again["last_id"], again["has_more"]) == ("b", "z", False)
    assert again["more"] == [1, {}]
    empty = json.loads(write_listing(listing.others, [], has_more=True))
    assert (empty["data"], empty["first_id"], empty["last_id"], empty["has_more"]) == ([], None, None, True)


def test_what_a_list_does_not_say_is_not_said() -> None:
    listing = read_listing(b'{"object":"list","data":[]}')
    assert json.loads(write_listing(listing.others, [], has_more=True)) == {"object": "list", "data": []}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"object":"list"}',
        b'{"data":{}}',
        b'{"data":[{"id":"a"}',
        b'{"data":[{"id":"a"} {"id":"b"}]}',
        b'{"data":[1]}',
        b'{"data":[{"id":1}]}',
        b'{"data":[{"name":"a"}]}',
        b'{"data":[]',
        b'{"data":[] "x":1}',
        b'{"data"[]}',
        b"{1:2}",
        b'{"data":[{"id":"a"},',
    ],
)
def test_what_is_no_page(content: bytes) -> None:
    with pytest.raises(ValueError):
        read_listing(content)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
items = st.lists(
    st.fixed_dictionaries({"id": st.text(max_size=3), "created_at": st.integers(0, 9), "x": values}), max_size=5
)


@given(items, st.sampled_from([None, 1]), st.booleans())
def test_any_page_comes_back_whole(data: list[dict[str, Any]], indent: int | None, more: bool) -> None:
    page = {"object": "list", "data": data, "first_id": 0, "last_id": 0, "has_more": more}
    text = json.dumps(page, indent=indent)
    listing = read_listing(text.encode())
    assert [json.loads(item.raw) for item in listing.items] == data
    assert listing.has_more is more
    assert all(item.raw in text for item in listing.items)
    again = json.loads(write_listing(listing.others, listing.items, has_more=more))
    edges = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    assert again == {**page, **edges}


@pytest.mark.parametrize(
    ("value", "created"),
    [({"created_at": 3}, 3.0), ({"created": 4}, 4.0), ({}, 0.0), ({"created_at": None, "created": 2}, 2.0)],
)
def test_when_something_was_made(value: dict[str, Any], created: float) -> None:
    assert moment_of(value) == created


def test_what_a_list_may_be_ordered_by() -> None:
    assert moment_of({"created_at": 3, "updated_at": 5}, UPDATED) == 5.0
    wish = Wish.read("/evals", "order_by=updated_at")
    assert wish is not None
    assert wish.times == UPDATED
    (item,) = read_listing(b'{"data":[{"id":"a","created_at":3,"updated_at":5}]}', wish.times).items
    assert item.moment == 5.0


WISHES = [
    ("/vector_stores", "", (None, None, 20, True, ())),
    ("/vector_stores", "limit=3&order=asc&after=vs_a", ("vs_a", None, 3, False, ())),
    ("/vector_stores", "before=vs%5Fb&limit=100", (None, "vs_b", 100, True, ())),
    ("/vector_stores", "%6cimit=7&&x=%2F", (None, None, 7, True, ("x=%2F",))),
    ("/vector_stores", "after=a&after=a", ("a", None, 20, True, ())),
    ("/files", "purpose=batch", (None, None, 10_000, True, ("purpose=batch",))),
    ("/evals", "after=", (None, None, 20, False, ())),
    ("/batches", "limit=5", (None, None, 5, True, ())),
    ("/models", "limit=5", (None, None, None, True, ())),
]
NO_WISHES = [
    ("/vector_stores", "limit=0"),
    ("/vector_stores", "limit=101"),
    ("/vector_stores", "limit=x"),
    ("/vector_stores", "limit=3&limit=4"),
    ("/vector_stores", "order=up"),
    ("/batches", "order=asc"),
    ("/batches", "before=batch_a"),
]


@pytest.mark.parametrize(("template", "query", "expected"), WISHES)
def test_what_a_client_asks_for(template: str, query: str, expected: tuple[object, ...]) -> None:
    wish = Wish.read(template, query)
    assert wish is not None
    assert (wish.after, wish.before, wish.size, wish.descending, wish.rest) == expected
    assert wish.habits == HABITS.get(template, Habits())


@pytest.mark.parametrize(("template", "query"), NO_WISHES)
def test_what_only_the_api_can_answer(template: str, query: str) -> None:
    assert Wish.read(template, query) is None


def test_what_a_scope_is_asked() -> None:
    wish = Wish.read("/vector_stores", "name=a%20b&limit=3")
    assert wish is not None
    assert wish.query(after=None, size=3, descending=True) == b"name=a%20b&order=desc&limit=3"
    assert wish.query(after="vs_a/b", size=100, descending=False) == b"name=a%20b&order=asc&limit=100&after=vs_a%2Fb"
    plain = Wish.read("/models", "")
    assert plain is not None
    assert plain.query(after=None, size=None, descending=True) == b""
