"""Ephemeral keys: who is let in with one, and where."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from relay.answers.ephemeral import HOLDER, EphemeralKey, admit
from relay.answers.outgoing import request_lines
from relay.bounded import Bounded
from relay.config import BaseURL, Client, Config, Deployment, Secret
from relay.errors import InvalidKey
from relay.reach.lanes import Approach, Lane
from relay.requests.classification import Request
from relay.requests.targets import Target
from relay.subjects.endpoints import match_endpoint
from relay.subjects.subject import Subject
from relay.wire.heads import RequestHead

if TYPE_CHECKING:
    from relay.requests.body import RequestBody
    from relay.requests.downstream import Exchange

CONFIG = Config(
    groups={},
    clients=(Client("master", Secret("sk-1234").digest), Client("odd", Secret("ek_of-the-file").digest)),
    key_header="x-key",
)
OPEN = Config(groups={}, clients=(Client("anyone", None),))
BEARER, PROTOCOLS = b"Authorization", b"Sec-WebSocket-Protocol"
MINTED = {"ek_1": "eu"}
HELD = HOLDER, EphemeralKey("ek_1", "eu")

ADMITTED = [
    ("by a field", CONFIG, "GET", "/realtime", [(BEARER, b"Bearer ek_1")], HELD),
    ("by a subprotocol", CONFIG, "GET", "/realtime", [(PROTOCOLS, b"realtime, openai-insecure-api-key.ek_1")], HELD),
    ("by the file's own field", CONFIG, "POST", "/realtime/calls", [(b"X-Key", b"ek_1")], HELD),
    ("on a path of the future", CONFIG, "POST", "/realtime/dances", [(BEARER, b"Bearer ek_1")], HELD),
    ("where anybody may come", OPEN, "GET", "/realtime", [(BEARER, b"Bearer ek_1")], HELD),
    ("beside a key of the file", CONFIG, "GET", "/realtime", [(BEARER, b"ek_1"), (b"api-key", b"sk-1234")], "master"),
    ("as a key of the file", CONFIG, "GET", "/files", [(BEARER, b"Bearer ek_of-the-file")], "odd"),
    ("elsewhere, where anybody may come", OPEN, "GET", "/files", [(BEARER, b"Bearer ek_1")], "anyone"),
    ("no key, where anybody may come", OPEN, "GET", "/realtime", [], "anyone"),
]
REFUSED = [
    ("not minted here", CONFIG, "/realtime", b"Bearer ek_2", "ephemeral"),
    ("not minted here, where anybody may come", OPEN, "/realtime", b"Bearer ek_2", "ephemeral"),
    ("not on a realtime path", CONFIG, "/chat/completions", b"Bearer ek_1", "Incorrect"),
    ("not in ASCII", CONFIG, "/realtime", b"Bearer ek_1\xff", "Incorrect"),
    ("another key", CONFIG, "/realtime", b"Bearer sk-ek_1", "Incorrect"),
]


def request(method: str, path: str, fields: list[tuple[bytes, bytes]]) -> tuple[RequestHead, Target]:
    return RequestHead(method.encode(), b"/v1" + path.encode(), b"1.1", fields), Target(path.encode(), None)


@pytest.mark.parametrize(
    ("config", "method", "path", "fields", "who"), [case[1:] for case in ADMITTED], ids=[case[0] for case in ADMITTED]
)
def test_who_is_let_in(
    config: Config, method: str, path: str, fields: list[tuple[bytes, bytes]], who: str | tuple[Client, EphemeralKey]
) -> None:
    client, key = admit(*request(method, path, fields), config, MINTED.get)
    assert ((client, key) if key else client.name) == who


@pytest.mark.parametrize(
    ("config", "path", "value", "word"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_who_is_not(config: Config, path: str, value: bytes, word: str) -> None:
    with pytest.raises(InvalidKey, match=word) as caught:
        admit(*request("GET", path, [(BEARER, value)]), config, MINTED.get)
    assert "ek_" not in caught.value.message


def test_a_secret_takes_the_place_of_the_deployments_key_and_of_nothing_else() -> None:
    """Also where a deployment has no key that could be replaced, and a trace stands beside it."""
    head, target = request("GET", "/realtime", [(BEARER, b"Bearer ek_1")])
    deployment = Deployment("d", "g", BaseURL("http", "up", 80, "/v1"), "m", None, "s", "q")
    approach = Approach(deployment, Lane(b"up", None), b"", frozenset(), Bounded(1))
    span = SimpleNamespace(fields=lambda _: [(b"traceparent", b"00-1-2-01")])
    exchange = cast("Exchange", SimpleNamespace(head=head, span=span, config=CONFIG))
    asked = Request(target, cast("RequestBody", None), Subject(match_endpoint("GET", "/realtime")))
    asked.secret = "ek_1"
    assert request_lines(approach, exchange, asked) == b"Authorization: Bearer ek_1\r\ntraceparent: 00-1-2-01\r\n"
