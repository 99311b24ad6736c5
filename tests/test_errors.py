"""What an error says: a status, OpenAI's shape, and field lines that clients obey."""

from __future__ import annotations

import json

import pytest

from relay import errors
from relay.errors import AllOut, ConfigError, InvalidKey, ProxyError, Unavailable, UpstreamFailure, UpstreamTimeout

CLASSES = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, ProxyError)]


def make(kind: type[ProxyError], message: str) -> ProxyError:
    """One of a kind; two want to know more."""
    if issubclass(kind, AllOut):
        return kind(message, retry_after=2)
    return kind(message, sent=False) if issubclass(kind, UpstreamFailure) else kind(message)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_has_openais_shape(kind: type[ProxyError]) -> None:
    error = make(kind, "What happened, and what to do.")
    assert json.loads(error.body()) == {
        "error": {"message": "What happened, and what to do.", "type": kind.type, "param": None, "code": kind.code}
    }
    assert 400 <= error.status < 600
    assert all(value == value.strip() and b"\n" not in value for _, value in error.fields())


def test_param_and_code_may_be_said_apart() -> None:
    error = ProxyError("no", param="model", code="other")
    assert json.loads(error.body())["error"] | {"message": ""} == {
        "message": "",
        "type": "server_error",
        "param": "model",
        "code": "other",
    }
    assert ProxyError.code == "internal_error"


def test_only_some_errors_add_lines() -> None:
    assert ProxyError("no").fields() == []
    assert InvalidKey("no").fields() == [(b"WWW-Authenticate", b"Bearer")]
    assert Unavailable("no").fields() == [(b"Retry-After", b"1")]


@pytest.mark.parametrize(
    ("wanted", "seconds", "milliseconds"),
    [
        (-3.0, b"1", b"1000"),
        (0.2, b"1", b"1000"),  # never an invitation to ask again at once
        (1.0004, b"1", b"1000"),
        (1.001, b"2", b"1001"),  # whole seconds are rounded up: who obeys them is not too early
        (7.5, b"8", b"7500"),
        (3600.0, b"60", b"60000"),  # SDKs do not obey what is longer
    ],
)
def test_when_to_come_back(wanted: float, seconds: bytes, milliseconds: bytes) -> None:
    assert AllOut("busy", retry_after=wanted).fields() == [
        (b"Retry-After", seconds),
        (b"retry-after-ms", milliseconds),
    ]


def test_what_the_record_may_know_the_client_does_not() -> None:
    error = UpstreamTimeout("It is late.", sent=True, detail="10.0.0.7:443: no head")
    assert (error.sent, error.detail) == (True, "10.0.0.7:443: no head")
    assert b"10.0.0.7" not in error.body()
    assert UpstreamFailure("It broke.", sent=False).detail == "It broke."


def test_a_wrong_file_tells_all_its_problems() -> None:
    error = ConfigError(["a.yaml:1:1: one", "a.yaml:2:1: two"])
    assert error.problems == ("a.yaml:1:1: one", "a.yaml:2:1: two")
    assert str(error) == "a.yaml:1:1: one\na.yaml:2:1: two"
