"""Which answer helps a client most when all is spent."""

from __future__ import annotations

import random

import pytest

from relay.choosing.outcomes import Kind, Outcome
from relay.subjects.endpoints import match_endpoint
from relay.subjects.subject import Subject
from router import Router
from tests.fleet import config, deployment

USEFUL = [
    ("nothing was asked", [], None),
    ("nobody answered", [(Kind.CONNECT_FAILED, None, 0), (Kind.RESET, None, 0)], None),
    ("the last answer", [(Kind.SERVER_ERROR, 500, 0), (Kind.DENIED, 403, 0)], 1),
    ("the last that is an answer", [(Kind.SERVER_ERROR, 500, 0), (Kind.RESET, None, 0)], 0),
    ("a 429 before the last", [(Kind.RATE_LIMITED, 429, 9), (Kind.SERVER_ERROR, 500, 0)], 0),
    (
        "the 429 that is free soonest",
        [(Kind.RATE_LIMITED, 429, 9), (Kind.DEAD_ACCOUNT, 429, 60), (Kind.RATE_LIMITED, 429, 3)],
        2,
    ),
    ("not yet recorded", [(None, None, 0)], None),
]


@pytest.mark.parametrize(("outcomes", "useful"), [row[1:] for row in USEFUL], ids=[row[0] for row in USEFUL])
def test_the_most_useful_answer(outcomes: list[tuple[Kind | None, int | None, float]], useful: int | None) -> None:
    router = Router(config(*(deployment(name) for name in "abc")), random.Random(1))
    route = router.resolve(Subject(match_endpoint("POST", "/chat/completions")), "me")
    for candidate, (kind, status, wait) in zip(route.candidates, outcomes, strict=False):
        attempt = router.begin(route, candidate, 100.0)
        attempt.outcome = Outcome(kind, status) if kind else None
        attempt.free_at = 100.0 + wait if wait else 0.0
    assert route.useful() is (None if useful is None else route.attempts[useful])


def test_the_name_for_each_upstream() -> None:
    router = Router(config(deployment("a", model="x"), deployment("b")), random.Random(1))
    subject = Subject(match_endpoint("POST", "/chat/completions"), model="gpt-4")
    route = router.resolve(subject, "me")
    assert [route.upstream_model(one) for one in route.candidates] == ["x", None]
    subject.model = None
    assert router.resolve(subject, "me").upstream_model(route.candidates[0]) is None
