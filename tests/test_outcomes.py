"""Answers read into outcomes: statuses, codes, waiting times and the figures of rate limits."""

from __future__ import annotations

import gzip
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.choosing import outcomes
from relay.choosing.outcomes import (
    VERDICTS,
    Again,
    Effect,
    Figures,
    Kind,
    Outcome,
    of_client_key,
    parse_duration,
    parse_figure,
    read_outcome,
)


def error(code: object = None, type_: object = None) -> bytes:
    return json.dumps({"error": {"message": "no", "type": type_, "param": None, "code": code}}).encode()


KINDS = [
    (200, None, Kind.OK),
    (101, None, Kind.OK),
    (302, None, Kind.OK),
    (400, error("context_length_exceeded"), Kind.CLIENT_ERROR),
    (402, None, Kind.CLIENT_ERROR),
    (404, None, Kind.CLIENT_ERROR),
    (408, None, Kind.CLIENT_ERROR),
    (409, None, Kind.CLIENT_ERROR),
    (413, None, Kind.CLIENT_ERROR),
    (422, None, Kind.CLIENT_ERROR),
    (429, None, Kind.RATE_LIMITED),
    (429, error("rate_limit_exceeded"), Kind.RATE_LIMITED),
    (429, error("slow_down"), Kind.RATE_LIMITED),
    (429, error("a_code_of_next_year"), Kind.RATE_LIMITED),
    (429, error(1113), Kind.RATE_LIMITED),
    (429, error("insufficient_quota"), Kind.DEAD_ACCOUNT),
    (429, error(None, "insufficient_quota"), Kind.DEAD_ACCOUNT),
    (429, error("billing_hard_limit_reached"), Kind.DEAD_ACCOUNT),
    (429, error("credit_balance_exhausted"), Kind.DEAD_ACCOUNT),
    (429, error("project_spend_limit_exceeded"), Kind.DEAD_ACCOUNT),
    (429, error("organization_usage_limit_exceeded"), Kind.DEAD_ACCOUNT),
    (401, None, Kind.DENIED),  # missing scopes come without a code
    (401, error("invalid_api_key"), Kind.DEAD_KEY),
    (401, error(None, "account_deactivated"), Kind.DEAD_KEY),
    (401, error("insufficient_quota"), Kind.DENIED),
    (403, error("model_not_found"), Kind.DENIED),
    (403, error("invalid_api_key"), Kind.DENIED),
    (500, error("insufficient_quota"), Kind.SERVER_ERROR),
    (500, None, Kind.SERVER_ERROR),
    (502, None, Kind.SERVER_ERROR),
    (504, None, Kind.SERVER_ERROR),
    (520, None, Kind.SERVER_ERROR),
    (503, None, Kind.OVERLOADED),
    (529, None, Kind.OVERLOADED),
    (999, None, Kind.SERVER_ERROR),
]


@pytest.mark.parametrize(("status", "body", "kind"), KINDS)
def test_the_kind_of_an_answer(status: int, body: bytes | None, kind: Kind) -> None:
    outcome = read_outcome(status, [], body)
    assert (outcome.kind, outcome.status) == (kind, status)


UNREADABLE = [
    b"<html>Too many</html>",
    b"",
    b"\xff\xfe",
    b"[]",
    b"3",
    b'{"error": "insufficient_quota"}',
    b'{"error": {"code": ["insufficient_quota"]}}',
    b"[" * 200_000,
    error("insufficient_quota")[:-1],
]


@pytest.mark.parametrize("body", UNREADABLE, ids=range(len(UNREADABLE)))
def test_content_that_says_no_code_leaves_the_status_to_speak(body: bytes) -> None:
    outcome = read_outcome(429, [], body)
    assert outcome.kind is Kind.RATE_LIMITED
    assert outcome.code is None


def test_the_code_stands_in_the_outcome_else_the_type() -> None:
    assert read_outcome(429, [], error("slow_down", "requests")).code == "slow_down"
    assert read_outcome(429, [], error(None, "requests")).code == "requests"


def test_an_error_in_a_list_is_read() -> None:
    assert read_outcome(429, [], b"[" + error("insufficient_quota") + b"]").kind is Kind.DEAD_ACCOUNT


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("coding", "pack"),
    [(b"gzip", gzip.compress), (b"GZIP ", gzip.compress), (b"deflate", zlib.compress), (b"deflate", raw_deflate)],
)
def test_a_packed_error_is_read(coding: bytes, pack: object) -> None:
    body = pack(error("insufficient_quota"))  # type: ignore[operator]
    assert read_outcome(429, [(b"Content-Encoding", coding)], body).kind is Kind.DEAD_ACCOUNT


def test_what_cannot_be_unpacked_has_no_code() -> None:
    assert read_outcome(429, [(b"content-encoding", b"gzip")], b"\xff\xff not gzip").kind is Kind.RATE_LIMITED


def test_a_packed_error_does_not_grow_beyond_its_bound() -> None:
    bomb = gzip.compress(b'{"error": {"code": "' + b"a" * 10_000_000 + b'"}}')
    assert read_outcome(429, [(b"content-encoding", b"gzip")], bomb).code is None


WALL = 1_785_600_000.0  # Sat, 01 Aug 2026 16:00:00 GMT
WAITS = [
    ([(b"retry-after-ms", b"250")], 0.25),
    ([(b"Retry-After-Ms", b"250"), (b"Retry-After", b"7")], 0.25),
    ([(b"retry-after-ms", b"soon"), (b"Retry-After", b"7")], 7),
    ([(b"retry-after-ms", b"-4"), (b"Retry-After", b"7")], 7),
    ([(b"retry-after-ms", b"999999999999")], None),
    ([(b"RETRY-AFTER", b"1.5")], 1.5),
    ([(b"retry-after", b"0")], None),
    ([(b"retry-after", b"-1")], None),
    ([(b"retry-after", b"nan")], None),
    ([(b"retry-after", b"inf")], None),
    ([(b"retry-after", b"100000000")], None),
    ([(b"retry-after", b"soon")], None),
    ([(b"retry-after", b"Sat, 01 Aug 2026 16:00:09 GMT")], 9),
    ([(b"retry-after", b"Sat, 01 Aug 2026 15:00:00 GMT")], None),
    ([(b"retry-after", b"Sat, 99 Aug 2026 15:00:00 GMT")], None),
    ([], None),
]


@pytest.mark.parametrize(("fields", "seconds"), WAITS)
def test_how_long_an_answer_asks_to_wait(fields: list[tuple[bytes, bytes]], seconds: float | None) -> None:
    assert read_outcome(429, fields, wall=WALL).retry_after == seconds


DURATIONS = [
    (b"1s", 1),
    (b"6m0s", 360),
    (b"20ms", 0.02),
    (b"1h2m3.5s", 3723.5),
    (b"2m59.56s", 179.56),
    (b"1m", 60),
    (b"1d", 86_400),
    (b"0s", 0),
    (b"12", 12),
    (b"12.5", 12.5),
    (b"1m20ms", 60.02),
    (b"2d", None),
    (b"90000", None),
    (b"", None),
    (b"s", None),
    (b"-1s", None),
    (b"-1", None),
    (b"1x", None),
    (b"soon", None),
    (b"nan", None),
]


@pytest.mark.parametrize(("value", "seconds"), DURATIONS)
def test_durations(value: bytes, seconds: float | None) -> None:
    assert parse_duration(value) == (None if seconds is None else pytest.approx(seconds))


LIMITS = [
    ("all three", {"limit": b"60", "remaining": b"59", "reset": b"1s"}, Figures(60, 59, 1)),
    ("nothing left", {"limit": b"60", "remaining": b"0", "reset": b"1m0s"}, Figures(60, 0, 60)),
    ("no limit", {"remaining": b"5", "reset": b"1s"}, Figures(None, 5, 1)),
    ("no reset", {"limit": b"60", "remaining": b"5"}, Figures(60, 5, None)),
    ("absurd reset", {"limit": b"60", "remaining": b"5", "reset": b"-1"}, Figures(60, 5, None)),
    ("minus one", {"limit": b"60", "remaining": b"-1", "reset": b"1s"}, None),
    ("a limit of none", {"limit": b"0", "remaining": b"0", "reset": b"1s"}, None),
    ("a limit of minus one", {"limit": b"-1", "remaining": b"0", "reset": b"1s"}, None),
    ("more than the limit", {"limit": b"5", "remaining": b"6", "reset": b"1s"}, None),
    ("beyond all figures", {"remaining": b"1e300"}, None),
    ("no number", {"remaining": b"many"}, None),
    ("not said", {"limit": b"60", "reset": b"1s"}, None),
]


@pytest.mark.parametrize("status", [200, 429])
@pytest.mark.parametrize(("fields", "figures"), [case[1:] for case in LIMITS], ids=[case[0] for case in LIMITS])
def test_figures_of_a_bucket(fields: dict[str, bytes], figures: Figures | None, status: int) -> None:
    lines = [(b"X-RateLimit-%s-Tokens" % name.encode(), value) for name, value in fields.items()]
    assert read_outcome(status, lines).buckets == (None if figures is None else {"tokens": figures})


def test_every_kind_of_bucket_is_read_but_not_without_end() -> None:
    lines = [(b"x-ratelimit-remaining-kind%d" % number, b"1") for number in range(100)]
    assert len(read_outcome(200, lines).buckets or ()) == outcomes.MOST_BUCKETS
    assert set(read_outcome(200, [(b"x-ratelimit-remaining-project-tokens", b"1")]).buckets or ()) == {"project-tokens"}
    assert read_outcome(200, [(b"x-ratelimit-remaining-" + b"a" * 99, b"1")]).buckets is None


def test_answers_without_a_signal_share_one_outcome() -> None:
    assert read_outcome(200, [(b"Content-Type", b"application/json")]) is read_outcome(200, [])


def test_a_refusal_of_the_client_s_own_key_says_nothing_about_ours() -> None:
    for status, body in ((401, b'{"error": {"code": "invalid_api_key"}}'), (401, None), (403, None)):
        refused = of_client_key(read_outcome(status, [], body))
        assert (refused.kind, refused.status) == (Kind.CLIENT_KEY, status)
        assert VERDICTS[refused.kind].effect is Effect.NONE
    for status in (200, 400, 429, 500, 503):
        outcome = read_outcome(status, [(b"Retry-After", b"3")])
        assert of_client_key(outcome) is outcome


def test_every_kind_has_its_row() -> None:
    assert set(VERDICTS) == set(Kind)


def test_no_kind_after_which_the_request_may_have_acted_is_always_sent_again() -> None:
    """SPEC §7: only these rows say "yes" without a condition."""
    always = {kind for kind, policy in VERDICTS.items() if policy.again is Again.ALWAYS}
    assert always == {
        Kind.CONNECT_FAILED,
        Kind.RATE_LIMITED,
        Kind.DEAD_ACCOUNT,
        Kind.DEAD_KEY,
        Kind.DENIED,
        Kind.OVERLOADED,
    }


def test_the_brake_counts_failures_only() -> None:
    for policy in VERDICTS.values():
        if policy.braked:
            assert policy.effect in {Effect.FAILURE, Effect.HELD}


@given(
    st.integers(100, 999),
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    b"retry-after",
                    b"retry-after-ms",
                    b"content-encoding",
                    b"x-ratelimit-remaining-requests",
                    b"x-ratelimit-reset-requests",
                    b"x-ratelimit-limit-requests",
                    b"x-ratelimit-",
                ]
            ),
            st.binary(max_size=20) | st.sampled_from([b"1", b"-1", b"1e9", b"gzip", b"1s"]),
        )
    ),
    st.none() | st.binary(max_size=50) | st.sampled_from([error("x"), b"[[]]"]),
)
def test_no_answer_upsets_the_reader(status: int, fields: list[tuple[bytes, bytes]], body: bytes | None) -> None:
    outcome = read_outcome(status, fields, body, wall=WALL)
    assert outcome.retry_after is None or 0 < outcome.retry_after <= outcomes.LONGEST_WAIT
    for figures in (outcome.buckets or {}).values():
        assert figures.remaining >= 0
        assert figures.limit is None or figures.limit >= figures.remaining


@given(st.binary(max_size=30))
def test_numbers_are_sane_or_none(value: bytes) -> None:
    for number in (parse_figure(value), parse_duration(value)):
        assert number is None or 0 <= number <= outcomes.LARGEST_FIGURE


def test_an_outcome_without_an_answer() -> None:
    assert Outcome(Kind.CONNECT_FAILED).status is None
