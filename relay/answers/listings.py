"""Pages of lists: taken apart without touching their items, and put together again (SPEC §5, merged lists). Pure.

A page is decoded only as far as merging needs: where each item begins and ends, its id, and when it was made. Items
travel as the bytes they came as.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from ..subjects.endpoints import decode
from ..values import Value

if TYPE_CHECKING:
    from collections.abc import Iterator

SPACE = re.compile(r"[ \t\r\n]*")
DECODER = json.JSONDecoder()
TIMES = ("created_at", "created")  # the members that say when an item was made
UPDATED = ("updated_at", *TIMES)  # of a list that is ordered by changes
EDGES = ("first_id", "last_id")
DIGITS = re.compile(r"[1-9][0-9]{0,5}")
ORDERS = ("asc", "desc")
OWN = frozenset({"after", "before", "limit", "order"})  # the parameters that merging writes itself


class Habits(Value):
    """How one list of the API behaves where a client does not say."""

    size: int | None = 20  # items on a page; None: all that there is, always
    most: int = 100  # items on the largest page
    order: str = "desc"
    has_order: bool = True  # it takes ``order``


PAGED = Habits()
UNORDERED = Habits(has_order=False)
HABITS = {
    "/audio/voice_consents": UNORDERED,
    "/batches": UNORDERED,
    "/chat/completions": Habits(order="asc"),
    "/evals": Habits(order="asc"),
    "/files": Habits(size=10_000, most=10_000),
    "/fine_tuning/jobs": UNORDERED,
    "/models": Habits(size=None, has_order=False),
}


class Item(NamedTuple):
    """One element of a list, as it came."""

    id: str
    moment: float  # what the list is ordered by, in seconds
    raw: str


class Listing(Value):
    """A page: its items, and everything else that it says."""

    items: list[Item]
    has_more: bool
    others: dict[str, str]  # name -> raw value, in order; ``data`` stands empty


def read_listing(content: bytes, times: tuple[str, ...] = TIMES) -> Listing:
    """Take a page apart; ``times`` are the members that its order follows. Raises ValueError where it is no page."""
    text = content.decode("utf-8", "surrogateescape")
    items: list[Item] = []
    others: dict[str, str] = {}
    for name, start in _members(text):
        stop = _read_items(text, start, items, times) if name == "data" else DECODER.raw_decode(text, start)[1]
        others[name] = "" if name == "data" else text[start:stop]
    if "data" not in others:
        raise ValueError("no list: it has no data")
    return Listing(items, others.get("has_more") == "true", others)


def _skip(text: str, at: int) -> int:
    match = SPACE.match(text, at)
    return match.end() if match else at


def _members(text: str) -> Iterator[tuple[str, int]]:
    """Name and place of the value of each member of the object that ``text`` is."""
    at = _expect(text, 0, "{")
    while text[at : at + 1] != "}":
        name, at = DECODER.raw_decode(text, at)
        if not isinstance(name, str):
            raise ValueError("a member without a name")  # noqa: TRY004 - it is the text that is wrong
        at = _expect(text, at, ":")
        yield name, at
        at = _skip(text, _end(text, at))
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "}":
            raise ValueError("an object that does not end")


def _expect(text: str, at: int, sign: str) -> int:
    """The place behind a sign and the space around it."""
    at = _skip(text, at)
    if text[at : at + 1] != sign:
        raise ValueError(f"no {sign} where one must stand")
    return _skip(text, at + 1)


def _end(text: str, at: int) -> int:
    """Where the value that begins at ``at`` ends."""
    return DECODER.raw_decode(text, at)[1]


def _read_items(text: str, at: int, items: list[Item], times: tuple[str, ...]) -> int:
    """Add the objects of an array; where it ends."""
    at = _expect(text, at, "[")
    while text[at : at + 1] != "]":
        value, stop = DECODER.raw_decode(text, at)
        items.append(_item(value, text[at:stop], times))
        at = _skip(text, stop)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "]":
            raise ValueError("an array that does not end")
    return at + 1


def _item(value: Any, raw: str, times: tuple[str, ...]) -> Item:
    if not isinstance(value, dict) or not isinstance(value.get("id"), str):
        raise ValueError("an item without an id")  # noqa: TRY004 - it is the text that is wrong
    return Item(value["id"], moment_of(value, times), raw)


def moment_of(value: dict[str, Any], times: tuple[str, ...] = TIMES) -> float:
    """When something was made (or changed, by ``times``), in seconds; 0 where it does not say."""
    for name in times:
        created = value.get(name)
        if isinstance(created, (int, float)):
            return float(created)
    return 0.0


def write_listing(others: dict[str, str], items: list[Item], *, has_more: bool) -> bytes:
    """A page of these items, which otherwise says what ``others`` say."""
    edges = [items[0].id, items[-1].id] if items else [None, None]
    own = {
        "data": "[" + ", ".join([item.raw for item in items]) + "]",
        "has_more": json.dumps(has_more),
        **dict(zip(EDGES, map(json.dumps, edges), strict=True)),
    }
    members = [f"{json.dumps(name)}: {own.get(name, raw)}" for name, raw in others.items()]
    return ("{" + ", ".join(members) + "}").encode("utf-8", "surrogateescape")


class Wish(Value):
    """What a client asks a list for."""

    after: str | None
    before: str | None
    size: int | None  # None: all
    descending: bool
    rest: tuple[str, ...]  # the other parameters, as they came
    habits: Habits

    @property
    def times(self) -> tuple[str, ...]:
        """The members that the order follows."""
        return UPDATED if "order_by=updated_at" in self.rest else TIMES

    @classmethod
    def read(cls, template: str, query: str) -> Wish | None:
        """Read a raw query; None where it holds what no list takes: then the API itself says what is wrong."""
        habits = HABITS.get(template, PAGED)
        own: dict[str, str] = {}
        rest = []
        for parameter in filter(None, query.split("&")):
            name, _, value = parameter.partition("=")
            if decode(name) not in OWN:
                rest.append(parameter)
            elif own.setdefault(decode(name), decode(value)) != decode(value):
                return None
        limit, order = own.get("limit"), own.get("order", habits.order)
        if order not in ORDERS or (limit is not None and not (DIGITS.fullmatch(limit) and int(limit) <= habits.most)):
            return None
        if ("before" in own or "order" in own) and not habits.has_order:
            return None
        size = habits.size if limit is None or habits.size is None else int(limit)
        after, before = own.get("after") or None, own.get("before") or None
        return cls(after, before, size, order == "desc", tuple(rest), habits)

    def query(self, *, after: str | None, size: int | None, descending: bool) -> bytes:
        """The query that one scope is asked with."""
        from urllib.parse import quote  # lists are merged where the file says so

        own = []
        if self.habits.has_order:
            own.append("order=desc" if descending else "order=asc")
        if size is not None:
            own.append(f"limit={size}")
        if after is not None:
            own.append(f"after={quote(after, safe='')}")
        return "&".join((*self.rest, *own)).encode()
