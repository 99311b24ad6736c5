"""Find values in a JSON body while its bytes pass, and rewrite one of them (SPEC §5, §8). Bytes in, values out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from ..errors import AmbiguousBody
from .jsonscan import Found, JSONScanner, found
from .jsontext import BACKSLASH, FLAT, Plan, decode, literal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .pointers import Node

__all__ = ["Found", "JSONPeek", "Splice", "Splicer"]

MODEL, NAMES, NAME = "model", "target_model_names", "target_model_names/*"  # the last is one of a list
MODEL_KEY = literal(MODEL)
ONCE = frozenset({MODEL, NAMES})
FLAGS = frozenset({"stream", "store", "background"})
TEXT = "prompt_cache_key"
BOOLEANS = {b"true": True, b"false": False}
SMALL = 4 << 10  # bytes of a body that is looked over as a whole before it is walked
PLANS = 1024  # trees whose plan is remembered: two or three per operation of the API


class Splice(NamedTuple):
    """Replace the content's bytes ``start`` to ``stop`` by ``replacement``; an empty one removes them."""

    start: int
    stop: int
    replacement: bytes

    @property
    def delta(self) -> int:
        """By how many bytes the content grows."""
        return len(self.replacement) - (self.stop - self.start)


class Splicer:
    """Apply splices, which are ordered and do not overlap, to content that passes in pieces of any size."""

    __slots__ = ("_at", "_splices")

    def __init__(self, splices: Iterable[Splice]) -> None:
        self._splices = list(splices)[::-1]  # the next one last
        self._at = 0  # where in the content the next piece begins

    def feed(self, data: bytes) -> bytes:
        """What leaves for the next bytes of the content. A replacement leaves with the first byte that it replaces."""
        start, self._at = self._at, self._at + len(data)
        if not self._splices or self._splices[-1].start >= self._at:
            return data
        kept = []
        at = start
        while self._splices and self._splices[-1].start < self._at:
            splice = self._splices[-1]
            if splice.start >= start:
                kept += [data[at - start : splice.start - start], splice.replacement]
            at = min(splice.stop, self._at)
            if splice.stop > self._at:
                break
            self._splices.pop()
        kept.append(data[at - start :])
        return b"".join(kept)

    def finish(self) -> bytes:
        """What leaves at the content's end: replacements of nothing that stand there."""
        return b"".join(splice.replacement for splice in reversed(self._splices) if splice.start >= self._at)


class JSONPeek(JSONScanner):
    """What a JSON body names: model, routing hints, ids. Fed in pieces of any size; nothing else is held.

    ``done`` is True once the top-level value has ended, or when it is no object: nothing more can be found.
    ``found`` holds the strings at the tree's places in the order in which they stand, also a top-level model.
    Strings that are no Unicode text (half a surrogate pair, bad UTF-8), longer than ``VALUE_LIMIT`` or, all together,
    than ``ROOM`` are passed over. Of a flag given twice the last counts, as it does for the API.
    """

    __slots__ = ("_begun", "_cut", "_said", "model", "scalars", "target_names")

    def __init__(self, pointers: Node) -> None:  # what it takes to walk a body is made for those that must be walked
        self.found: list[Found] = []
        self.done = False
        self._plan = plan_of(pointers)
        self._begun = False
        self.model: Found | None = None  # the top-level ``model``, when it is a string
        self.scalars: dict[str, object] = {}  # top-level stream, store, background (bool), prompt_cache_key (str)
        self.target_names: list[str] = []  # from a string, a comma list or a list, in order, without empty ones
        self._said: tuple[str, ...] = ()  # of those that may come once
        self._cut: Splice | None = None

    def feed(self, data: bytes) -> None:
        """Look at the next bytes. After an error the scanner is of no more use. Raises BadRequest."""
        if not self._begun:
            self._begun = True
            plan = self._plan
            assert plan is not None
            if self._glance(plan, data):
                self.done = True
            else:
                super().__init__(plan)
        if not self.done:
            super().feed(data)

    def _glance(self, plan: Plan, data: bytes) -> bool:
        """Whether this is a whole body that names a model and sets flags but no more: one match takes it all.

        Such are most bodies, and small. What comes in pieces, is malformed or names more must be walked.
        """
        if len(data) > SMALL or data[-1:] != b"}" or plan.elsewhere is None or plan.elsewhere(data) is not None:
            return False
        if BACKSLASH in data and data.find(b"\\u00") >= 0:  # how a name could be written otherwise
            return False
        match = FLAT.match(data)
        if match is None or data.count(MODEL_KEY) != (match.end(MODEL) > 0):  # a second, or one below, which may count
            return False
        model, cache_key, stream, store, background = match.groups()
        if model is not None and (text := decode(model)) is not None:
            start, stop = match.span(MODEL)
            self._text_at(plan.members[MODEL_KEY], text, start, stop)
        if cache_key is not None and (text := decode(cache_key)) is not None:
            self.scalars[TEXT] = text
        if stream is not None:
            self._flag("stream", stream)
        if store is not None:
            self._flag("store", store)
        if background is not None:
            self._flag("background", background)
        return True

    def _flag(self, name: str, word: bytes) -> None:
        if word in BOOLEANS:
            self.scalars[name] = BOOLEANS[word]

    def finish(self) -> None:
        """The content has ended. A text that is cut short is the upstream's to refuse."""
        self.done = True

    def splices(self, model: str | None, at: Found | None = None) -> list[Splice]:
        """What to change so that ``model`` is asked for (None: as it is) and no routing hint is left, in order.

        ``at`` is a member of ``found`` that stands for the top-level model where a body has none.
        Asked for when ``done``: before that, a hint's end may not have been seen.
        """
        cut, named = self._cut, at or self.model
        if named is None or model is None or model == named.value:
            return [] if cut is None else [cut]
        renamed = Splice(named.start, named.stop, json.dumps(model).encode())
        return [renamed] if cut is None else sorted([cut, renamed], key=lambda splice: splice.start)

    def _enter(self, plan: Plan) -> None:
        role = plan.role or ""
        if role not in ONCE:
            self.scalars.pop(role, None)
        elif role in self._said:
            raise named_twice(role)
        else:
            self._said += (role,)

    def _string(self, plan: Plan, raw: bytes, start: int) -> None:
        text = self._afford(raw)
        if text is not None:
            self._text_at(plan, text, start, start + len(raw))

    def _text_at(self, plan: Plan, text: str, start: int, stop: int) -> None:
        role, kind = plan.role, plan.kind
        if role == MODEL or kind is not None:
            find = found(kind or MODEL, text, start, stop)
            if role == MODEL:
                self.model = find
            if kind is not None:
                self.found.append(find)
        if role == TEXT:
            self.scalars[role] = text
        elif role == NAMES:
            self.target_names += listed(text)
        elif role == NAME and (name := text.strip()):
            self.target_names.append(name)

    def _scalar(self, plan: Plan, raw: bytes) -> None:
        if plan.role in FLAGS:
            self._flag(plan.role, raw)

    def _leave(self, plan: Plan, stop: int, behind: int, *, more: bool) -> None:
        """Note how to remove the hints together with exactly one comma: the next, else the one before, if any."""
        if plan.role == NAMES:
            start = self._member_from
            first = start == self._opened
            self._cut = Splice(start, behind, b"") if more else Splice(start - (not first), stop, b"")


def named_twice(name: str) -> AmbiguousBody:
    """The error for a body with two of what must be one."""
    return AmbiguousBody(f"The body has two {name!r}, and parsers disagree on which one counts: send one.", param=name)


def listed(text: str) -> list[str]:
    """The names of a comma list."""
    return [name for part in text.split(",") if (name := part.strip())]


_plans: dict[
    int, tuple[Node, Plan]
] = {}  # by identity, so that a request pays for no plan; the tree keeps its id alive


def plan_of(pointers: Node) -> Plan:
    """The plan of a body: the tree's places, and those at the top level that every body may have."""
    known = _plans.get(id(pointers))
    if known is not None:
        return known[1]
    if len(_plans) >= PLANS:
        _plans.clear()
    plan = _root_plan(pointers)
    _plans[id(pointers)] = pointers, plan
    return plan


def _root_plan(pointers: Node) -> Plan:
    plan = Plan(pointers)
    if not plan.unmarked:
        plan.elsewhere = plan.find_elsewhere(MODEL_KEY)
    for name in (MODEL, *FLAGS, TEXT):
        plan.members[literal(name)] = Plan(pointers.child(name), name)
    names = plan.members[literal(NAMES)] = Plan(None, NAMES)  # ours, and taken out: no upstream's id
    names.other = Plan(None, NAME)
    names.in_array = names.unmarked = True
    names.in_object = False
    plan.in_object = True
    return plan
