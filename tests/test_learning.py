"""What a session of the Responses API teaches."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from relay.config import AffinitySettings
from relay.record.usage import UNMETERED, Usage, total
from relay.scopes.affinity import AffinityStore
from relay.scopes.learning import SessionLearner
from relay.subjects.endpoints import match_endpoint
from relay.subjects.subject import Subject

if TYPE_CHECKING:
    from collections.abc import Iterator

SUBJECT = Subject(match_endpoint("GET", "/responses"))
SHOWN = {
    "type": "response.completed",
    "response": {
        "id": "resp_1abc",
        "output": [{"id": "msg_1abc", "type": "message", "encrypted_content": "cipher", "content": []}],
        "usage": {"input_tokens": 3, "output_tokens": 4},
        "service_tier": "flex",
    },
}


@pytest.fixture
def store() -> Iterator[AffinityStore]:
    made = AffinityStore.open(AffinitySettings(path=None), 0.0)
    yield made
    made.close()


def known(store: AffinityStore) -> set[str]:
    kinds = {"response": "resp_1abc", "item": "msg_1abc", "encrypted_content": "cipher"}
    return {kind for kind, id_ in kinds.items() if store.lookup(kind, id_, 0.0) == "eu"}


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ([True], {"response", "item", "encrypted_content"}),
        ([False], {"encrypted_content"}),
        ([False, True], {"response", "item", "encrypted_content"}),
        ([True, False], {"response", "item", "encrypted_content"}),
        ([], {"encrypted_content"}),
    ],
)
def test_ids_count_where_responses_are_stored(store: AffinityStore, asked: list[bool], shown: set[str]) -> None:
    learner = SessionLearner(store, SUBJECT, "eu")
    for stored in asked:
        learner.expect(stored=stored)
    learner.learn(json.dumps(SHOWN).encode())
    assert known(store) == shown


def test_usage_is_that_of_all_responses(store: AffinityStore) -> None:
    learner = SessionLearner(store, SUBJECT, "eu")
    created: dict[str, Any] = {"type": "response.created", "response": {"id": "resp_1abc", "usage": None}}
    for event in (created, SHOWN, created, SHOWN):
        learner.learn(json.dumps(event).encode())
    assert learner.usage == Usage(input_tokens=6, output_tokens=8, service_tier="flex")


def test_a_session_without_usage_is_unmetered(store: AffinityStore) -> None:
    learner = SessionLearner(store, SUBJECT, "eu")
    for message in (b"", b"\xff", b"{", b'{"usage":{}}', b"[" * 100_000):
        learner.learn(message)
    assert learner.usage == UNMETERED


def test_a_store_that_fails_ends_no_session(store: AffinityStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(store, "remember", fail)
    learner = SessionLearner(store, SUBJECT, "eu")
    learner.learn(json.dumps(SHOWN).encode())
    assert learner.usage == UNMETERED


def test_usage_is_added_field_by_field() -> None:
    one = Usage(input_tokens=1, cached_tokens=1, seconds=Decimal("1.5"), service_tier="flex")
    two = Usage(input_tokens=2, output_tokens=5, images=1)
    assert total(None, one) is one
    assert total(one, two) == Usage(3, 1, output_tokens=5, seconds=Decimal("1.5"), images=1, service_tier="flex")
    assert total(two, one).seconds == Decimal("1.5")
    assert total(one, one).seconds == 3
