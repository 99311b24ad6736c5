"""Choice, outcomes and verdicts: SPEC §7, row by row, and what must hold whatever happens."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.choosing.health import Why
from relay.choosing.outcomes import VERDICTS, Again, Effect, Figures, Kind, Outcome
from relay.choosing.tally import FLOOR, SHARE
from relay.config import Config, RouterSettings, Timeouts
from relay.errors import AllOut
from relay.subjects.endpoints import match_endpoint
from relay.subjects.subject import Subject
from router import Attempt, Route, Router, Verdict
from tests.fleet import config, deployment

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = 1000.0
CHAT = match_endpoint("POST", "/chat/completions")
FILES = match_endpoint("POST", "/files")
LIST = match_endpoint("GET", "/files")
DELETE = match_endpoint("DELETE", "/files/file-1")
RESPONSES = match_endpoint("POST", "/responses")

OK = Outcome(Kind.OK, 200)
REFUSED = Outcome(Kind.CONNECT_FAILED, sent=False)
LIMITED = Outcome(Kind.RATE_LIMITED, 429)
ERROR = Outcome(Kind.SERVER_ERROR, 500)
STATUS = {
    Kind.OK: 200,
    Kind.CLIENT_ERROR: 400,
    Kind.RATE_LIMITED: 429,
    Kind.DEAD_ACCOUNT: 429,
    Kind.DEAD_KEY: 401,
    Kind.DENIED: 403,
    Kind.CLIENT_KEY: 401,
    Kind.OVERLOADED: 503,
    Kind.SERVER_ERROR: 500,
    Kind.BROKEN: 200,
}


def outcome_of(kind: Kind) -> Outcome:
    return Outcome(kind, STATUS.get(kind), sent=kind is not Kind.CONNECT_FAILED)


def router_of(count: int = 3, *, settings: RouterSettings | None = None, seed: int = 1, **given: Any) -> Router:
    return Router(
        config(*(deployment(chr(97 + at), **given) for at in range(count)), settings=settings), random.Random(seed)
    )


def chat(router: Router, now: float = NOW, **said: Any) -> Route:
    said.setdefault("model", "gpt-4")
    return router.resolve(Subject(CHAT, **said), "me", started=now)


def attempt(router: Router, route: Route, outcome: Outcome, now: float = NOW, *, at: str | None = None) -> Attempt:
    """Ask the router's choice (or a certain deployment) and record what comes of it."""
    chosen = router.select(route, now) if at is None else next(one for one in route.candidates if one.id == at)
    begun = router.begin(route, chosen, now)
    router.record(begun, outcome, now)
    return begun


def verdict(router: Router, begun: Attempt, now: float = NOW, *, replayable: bool = True) -> Verdict:
    """Judge, and end the attempt."""
    found = router.judge(begun, now, replayable=replayable)
    router.end(begun)
    return found


def spoil(router: Router, name: str, outcome: Outcome, now: float = NOW, times: int = 1, **said: Any) -> None:
    """Let exchanges of their own meet that outcome at a deployment."""
    for _ in range(times):
        verdict(router, attempt(router, chat(router, now, **said), outcome, now, at=name), now)


def reasons(router: Router, now: float = NOW, route: Route | None = None) -> dict[str, str | None]:
    return {one.id: why for one, why in router.explain(route or chat(router, now), now)}


def free(router: Router, now: float = NOW) -> list[str]:
    return [name for name, why in reasons(router, now).items() if why is None]


# -- SPEC §7, the table -----------------------------------------------------------------------------------------------

RELAY, RETRY, REDIAL, FAIL = Verdict.RELAY, Verdict.RETRY, Verdict.REDIAL, Verdict.FAIL
# kind: after a harmless POST, after one that may act, after one that cannot be replayed
TABLE = {
    Kind.OK: (RELAY, RELAY, RELAY),
    Kind.CLIENT_ERROR: (RELAY, RELAY, RELAY),
    Kind.CONNECT_FAILED: (RETRY, RETRY, RETRY),
    Kind.STALE: (REDIAL, FAIL, FAIL),
    Kind.RATE_LIMITED: (RETRY, RETRY, RELAY),
    Kind.DEAD_ACCOUNT: (RETRY, RETRY, RELAY),
    Kind.DEAD_KEY: (RETRY, RETRY, RELAY),
    Kind.DENIED: (RETRY, RETRY, RELAY),
    Kind.CLIENT_KEY: (RELAY, RELAY, RELAY),
    Kind.OVERLOADED: (RETRY, RETRY, RELAY),
    Kind.SERVER_ERROR: (RETRY, RELAY, RELAY),
    Kind.HEAD_TIMEOUT: (RETRY, FAIL, FAIL),
    Kind.RESET: (RETRY, FAIL, FAIL),
    Kind.BAD_ANSWER: (RETRY, FAIL, FAIL),
    Kind.BROKEN: (RELAY, RELAY, RELAY),
    Kind.IMPATIENT: (FAIL, FAIL, FAIL),
    Kind.CLIENT_GONE: (FAIL, FAIL, FAIL),
}


@pytest.mark.parametrize("kind", [kind for kind in TABLE if kind is not Kind.BROKEN])
def test_what_follows_each_outcome(kind: Kind) -> None:
    found = []
    for endpoint, replayable in ((CHAT, True), (FILES, True), (CHAT, False)):
        router = router_of()
        route = router.resolve(Subject(endpoint), "me")
        begun = attempt(router, route, outcome_of(kind))
        found.append(verdict(router, begun, replayable=replayable))
        assert route.answer is (begun if found[-1] is RELAY else None)
    assert tuple(found) == TABLE[kind]


@pytest.mark.parametrize("kind", Kind)
def test_nothing_is_retried_after_commit(kind: Kind) -> None:
    router = router_of()
    begun = attempt(router, chat(router), outcome_of(kind))
    assert router.judge(begun, NOW, replayable=True, committed=True) is FAIL


HARMLESS = [
    (Subject(LIST), True),
    (Subject(DELETE), True),
    (Subject(FILES), False),
    (Subject(FILES, idempotency_key=True), True),
    (Subject(CHAT), True),
    (Subject(CHAT, store=True), False),
    (Subject(RESPONSES), False),
    (Subject(RESPONSES, store=False), True),
    (Subject(RESPONSES, store=False, background=True), False),
    (Subject(match_endpoint("POST", "/embeddings")), True),
    (Subject(match_endpoint("POST", "/images/generations")), True),
    (Subject(match_endpoint("POST", "/assistants")), False),
]


@pytest.mark.parametrize("kind", [kind for kind, policy in VERDICTS.items() if policy.again is Again.HARMLESS])
@pytest.mark.parametrize(("subject", "again"), HARMLESS)
def test_what_may_have_acted_is_sent_twice_only_where_that_does_no_harm(
    subject: Subject, again: bool, kind: Kind
) -> None:
    router = router_of()
    route = router.resolve(subject, "me")
    assert (verdict(router, attempt(router, route, outcome_of(kind))) is RETRY) is again


STALE = [
    (Subject(CHAT), True, True, REDIAL),
    (Subject(FILES), True, True, FAIL),
    (Subject(FILES), False, True, REDIAL),
    (Subject(FILES), False, False, REDIAL),
    (Subject(CHAT), True, False, FAIL),
    (Subject(match_endpoint("PUT", "/files/x")), True, True, REDIAL),
]


@pytest.mark.parametrize(("subject", "sent", "replayable", "expected"), STALE)
def test_a_stale_connection_is_redialled_without_being_counted(
    subject: Subject, sent: bool, replayable: bool, expected: Verdict
) -> None:
    router = router_of()
    route = router.resolve(subject, "me")
    begun = attempt(router, route, Outcome(Kind.STALE, sent=sent))
    assert router.judge(begun, NOW, replayable=replayable) is expected
    if expected is REDIAL:
        assert router.judge(begun, NOW, replayable=replayable) is FAIL
    assert len(route.attempts) == 1
    assert begun.deployment.id in free(router)


HEALTH = {
    Kind.RATE_LIMITED: Why.LIMITED,
    Kind.DEAD_ACCOUNT: Why.PARKED,
    Kind.DEAD_KEY: Why.PARKED,
    Kind.DENIED: Why.DENIED,
}


@pytest.mark.parametrize("kind", Kind)
def test_what_one_outcome_does_to_health(kind: Kind) -> None:
    router = router_of()
    spoil(router, "a", outcome_of(kind))
    why = HEALTH.get(kind)
    assert reasons(router) == {"a": why and why.value, "b": None, "c": None}


@pytest.mark.parametrize("kind", Kind)
def test_what_many_outcomes_do_to_health(kind: Kind) -> None:
    router = router_of(settings=RouterSettings(num_retries=0))
    spoil(router, "a", outcome_of(kind), times=4)
    failing = VERDICTS[kind].effect is Effect.FAILURE
    why = Why.FAILING if failing else HEALTH.get(kind)
    assert reasons(router)["a"] == (why and why.value)


# -- blame ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Kind.SERVER_ERROR, Kind.OVERLOADED])
def test_a_failure_with_an_answer_counts_once_another_did_better(kind: Kind) -> None:
    router = router_of(2)
    for _ in range(4):
        assert free(router) == ["a", "b"]
        route = chat(router)
        assert verdict(router, attempt(router, route, outcome_of(kind), at="a")) is RETRY
        assert verdict(router, attempt(router, route, OK)) is RELAY
    assert reasons(router)["a"] == Why.FAILING.value


def test_a_poison_request_cools_nothing() -> None:
    router = router_of(3)
    for _ in range(30):
        route = chat(router)
        while verdict(router, attempt(router, route, ERROR)) is RETRY:
            pass
        assert route.answer is route.attempts[-1]
        assert len(free(router)) == 3


def test_a_429_from_another_clears_nobody_of_blame() -> None:
    router = router_of(2, settings=RouterSettings(cooldown_time=0.5))
    for count in range(8):
        now = NOW + count
        route = chat(router, now)
        verdict(router, attempt(router, route, ERROR, now, at="a"), now)
        verdict(router, attempt(router, route, LIMITED, now, at="b"), now)
    assert "a" in free(router, NOW + 9)


def test_doubt_sends_others_elsewhere_while_blame_is_open() -> None:
    router = router_of(2)
    routes = [chat(router) for _ in range(4)]
    for route in routes:
        verdict(router, attempt(router, route, ERROR, at="a"))
    assert reasons(router) == {"a": Why.DOUBTED.value, "b": None}
    assert {router.select(chat(router), NOW).id for _ in range(20)} == {"b"}
    spoil(router, "b", LIMITED)
    assert router.select(chat(router), NOW).id == "a"  # there is no elsewhere
    assert router.available(NOW)


def test_an_exchange_that_ends_badly_everywhere_leaves_no_doubt() -> None:
    router = router_of(2)
    for _ in range(10):
        route = chat(router)
        first = attempt(router, route, ERROR, at="a")
        assert verdict(router, first) is RETRY
        assert verdict(router, attempt(router, route, ERROR)) is RELAY
        assert not any(attempt.held for attempt in route.attempts)
    assert free(router) == ["a", "b"]


# -- models, keys, accounts -------------------------------------------------------------------------------------------

TWO_MODELS = config(
    deployment("a4", "gpt-4", scope="a"),
    deployment("b4", "gpt-4", scope="b"),
    deployment("a5", "gpt-5", scope="a"),
    deployment("b5", "gpt-5", scope="b"),
)


@pytest.mark.parametrize(
    ("kind", "other"),
    [(Kind.RATE_LIMITED, None), (Kind.DENIED, None), (Kind.DEAD_ACCOUNT, "a5"), (Kind.DEAD_KEY, "a5")],
)
def test_a_limit_of_one_model_leaves_the_key_to_others_and_a_dead_one_does_not(kind: Kind, other: str | None) -> None:
    router = Router(TWO_MODELS, random.Random(1))
    spoil(router, "a4", outcome_of(kind))
    assert free(router) == ["b4"]
    five = reasons(router, route=chat(router, model="gpt-5"))
    assert [name for name, why in five.items() if why] == ([other] if other else [])


def test_a_limit_of_files_leaves_models_alone_and_the_other_way_round() -> None:
    router = router_of(2)
    files = router.resolve(Subject(LIST), "me")
    verdict(router, attempt(router, files, LIMITED, at="a"))
    assert free(router) == ["a", "b"]
    assert reasons(router, route=files)["a"] == Why.LIMITED.value


def test_unknown_models_are_told_apart() -> None:
    router = router_of(2)
    spoil(router, "a", Outcome(Kind.DENIED, 403), model="ft:secret")
    assert free(router) == ["a", "b"]
    assert reasons(router, route=chat(router, model="ft:secret"))["a"] == Why.DENIED.value


def test_parking_doubles_with_each_trial_that_finds_it_dead() -> None:
    router, now = router_of(2), NOW
    for seconds in (60, 120, 240):
        spoil(router, "a", Outcome(Kind.DEAD_ACCOUNT, 429), now)
        assert free(router, now + seconds - 1) == ["b"]
        now += seconds
        assert free(router, now) == ["a", "b"]
    spoil(router, "a", OK, now)
    spoil(router, "a", Outcome(Kind.DEAD_ACCOUNT, 429), now)
    assert free(router, now + 60) == ["a", "b"]


# -- coming back ------------------------------------------------------------------------------------------------------


def test_after_its_time_one_exchange_tries_it_and_others_go_elsewhere() -> None:
    router = router_of(2)
    spoil(router, "a", REFUSED, times=4)
    later = NOW + 5
    trial = router.begin(route := chat(router, later), route.candidates[0], later)
    assert {router.select(chat(router, later), later).id for _ in range(20)} == {"b"}
    router.record(trial, OK, later)
    assert {router.select(chat(router, later), later).id for _ in range(40)} == {"a", "b"}


def test_a_trial_that_is_abandoned_leaves_it_to_the_next() -> None:
    router = router_of(2)
    spoil(router, "a", REFUSED, times=4)
    later = NOW + 5
    trial = router.begin(route := chat(router, later), route.candidates[0], later)
    router.record(trial, Outcome(Kind.CLIENT_GONE), later)
    router.end(trial)
    router.end(trial)
    assert free(router, later) == ["a", "b"]


def test_without_an_elsewhere_the_one_on_trial_is_asked() -> None:
    router = router_of(2)
    spoil(router, "a", REFUSED, times=4)
    later = NOW + 5
    router.begin(route := chat(router, later), route.candidates[0], later)
    spoil(router, "b", Outcome(Kind.RATE_LIMITED, 429, 30.0), later)
    assert router.select(chat(router, later), later).id == "a"
    other = chat(router, later)
    first = attempt(router, other, REFUSED, later, at="b")
    assert verdict(router, first, later) is RETRY
    assert router.select(other, later).id == "a"


# -- alone ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", Kind)
def test_a_lone_deployment_is_asked_whatever_its_health(kind: Kind) -> None:
    router = router_of(1)
    spoil(router, "a", outcome_of(kind), times=9)
    assert router.select(chat(router), NOW).id == "a"
    assert free(router) == ["a"]
    assert router.available(NOW)
    assert list(router.cooling(NOW)) == [("a", False)]


@pytest.mark.parametrize("kind", [Kind.RATE_LIMITED, Kind.DEAD_ACCOUNT, Kind.DEAD_KEY, Kind.DENIED, Kind.SERVER_ERROR])
def test_a_lone_deployment_s_answers_are_relayed_as_they_come(kind: Kind) -> None:
    router = router_of(1)
    begun = attempt(router, route := chat(router), outcome_of(kind))
    assert verdict(router, begun) is RELAY
    assert route.answer is begun


def test_a_pin_may_leave_one_alone() -> None:
    router = router_of(2)
    spoil(router, "a", LIMITED)
    route = router.resolve(Subject(CHAT, model="gpt-4"), "me", scope="a")
    assert router.select(route, NOW).id == "a"


def test_a_lone_deployment_is_dialled_twice() -> None:
    router = router_of(1)
    begun = attempt(router, chat(router), REFUSED)
    assert router.judge(begun, NOW, replayable=True) is REDIAL
    router.record(begun, REFUSED, NOW)
    assert router.judge(begun, NOW, replayable=True) is FAIL


def test_a_lone_deployment_is_dialled_once_where_no_retry_is_wanted_or_the_brake_holds() -> None:
    router = router_of(1, settings=RouterSettings(num_retries=0))
    assert verdict(router, attempt(router, chat(router), REFUSED)) is FAIL
    router = router_of(1)
    found = Counter(verdict(router, attempt(router, chat(router), REFUSED)) for _ in range(30))
    assert FLOOR < found[REDIAL] <= FLOOR + 30 * SHARE
    assert found[FAIL] == 30 - found[REDIAL]


# -- all out ----------------------------------------------------------------------------------------------------------


def all_out(router: Router, now: float = NOW, **given: Any) -> AllOut:
    with pytest.raises(AllOut) as caught:
        router.select(router.resolve(Subject(CHAT, model="gpt-4"), "me", **given), now)
    return caught.value


def test_all_limited_is_our_429_with_the_soonest_time() -> None:
    router = router_of(2)
    spoil(router, "a", Outcome(Kind.RATE_LIMITED, 429, 9.0))
    spoil(router, "b", Outcome(Kind.RATE_LIMITED, 429, 7.0))
    error = all_out(router)
    assert (error.status, error.retry_after) == (429, 7.0)
    assert not router.available(NOW)


def test_among_the_failing_the_first_to_be_free_is_asked_all_the_same() -> None:
    router = router_of(3)
    spoil(router, "a", REFUSED, NOW + 1, times=4)
    spoil(router, "b", REFUSED, NOW, times=4)
    spoil(router, "c", Outcome(Kind.RATE_LIMITED, 429, 1.5), NOW)
    assert router.select(chat(router, NOW + 1), NOW + 1).id == "b"


def test_a_limit_beside_dead_accounts_is_our_429() -> None:
    router = router_of(2)
    spoil(router, "a", Outcome(Kind.DEAD_ACCOUNT, 429))
    spoil(router, "b", Outcome(Kind.RATE_LIMITED, 429, 7.0))
    assert all_out(router).retry_after == 7.0


def test_among_the_parked_the_first_to_be_free_tells_the_truth() -> None:
    router = router_of(2)
    spoil(router, "a", Outcome(Kind.DEAD_ACCOUNT, 429), NOW + 1)
    spoil(router, "b", Outcome(Kind.DEAD_KEY, 401), NOW)
    assert router.select(chat(router, NOW + 1), NOW + 1).id == "b"


def test_all_full_is_our_429_and_nothing_queues() -> None:
    router = router_of(2, max_parallel_requests=1)
    begun = [router.begin(route := chat(router), router.select(route, NOW), NOW) for _ in range(2)]
    assert {one.deployment.id for one in begun} == {"a", "b"}
    assert all_out(router).retry_after == 1.0
    assert router.available(NOW)
    router.end(begun[0])
    assert router.select(chat(router), NOW).id == begun[0].deployment.id


def test_a_lone_deployment_can_be_full() -> None:
    router = router_of(1, max_parallel_requests=1)
    router.begin(route := chat(router), router.select(route, NOW), NOW)
    assert all_out(router).retry_after == 1.0
    assert reasons(router) == {"a": Why.FULL.value}


def test_a_full_one_is_waited_for_rather_than_a_limited_one() -> None:
    router = Router(config(deployment("a", max_parallel_requests=1), deployment("b")), random.Random(1))
    router.begin(route := chat(router), route.candidates[0], NOW)
    spoil(router, "b", Outcome(Kind.RATE_LIMITED, 429, 30.0))
    assert all_out(router).retry_after == 1.0


def test_a_pinned_request_gets_the_upstream_s_own_answer() -> None:
    router = Router(config(deployment("a", scope="s"), deployment("b", scope="s"), deployment("c")), random.Random(1))
    spoil(router, "a", Outcome(Kind.RATE_LIMITED, 429, 9.0))
    route = router.resolve(Subject(CHAT, model="gpt-4"), "me", scope="s")
    assert router.select(route, NOW).id in {"a", "b"}


def drained(router: Router, name: str, limit: float | None, seconds: float = 30.0) -> None:
    figures = {"requests": Figures(limit, 0, seconds)}
    spoil(router, name, Outcome(Kind.OK, 200, None, None, figures))


def test_a_quota_group_whose_last_answer_left_nothing_is_out_until_the_reset() -> None:
    router = router_of(2)
    drained(router, "a", 60)
    assert {router.select(chat(router, NOW + 29), NOW + 29).id for _ in range(20)} == {"b"}
    assert free(router, NOW + 30) == ["a", "b"]


def test_when_all_have_left_nothing_the_429_is_ours_until_one_has_refilled_enough() -> None:
    router = router_of(2)
    drained(router, "a", 60)
    drained(router, "b", None, 20.0)
    assert all_out(router, NOW + 0.4).retry_after == pytest.approx(19.6)
    assert router.select(chat(router), NOW + 0.6).id == "a"  # 60 in 30 s: one is there after half a second


def test_when_the_only_one_on_trial_has_no_room_the_429_is_ours() -> None:
    router = router_of(2)
    for name in "ab":
        spoil(router, name, Outcome(Kind.RATE_LIMITED, 429, 2.0, None, {"requests": Figures(6, 0, 60)}))
    later = NOW + 2
    for _ in range(2):
        router.begin(route := chat(router, later), router.select(route, later), later)
    assert all_out(router, later).retry_after == 1.0


# -- retries ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("retries", [0, 1, 2, 5])
def test_at_most_num_retries_and_never_the_same_twice(retries: int) -> None:
    router = router_of(9, settings=RouterSettings(num_retries=retries))
    route = chat(router)
    while verdict(router, attempt(router, route, LIMITED)) is RETRY:
        pass
    assert len(route.attempts) == retries + 1
    assert len({one.deployment.id for one in route.attempts}) == retries + 1


def test_no_more_retries_than_there_are_deployments() -> None:
    router = router_of(2)
    route = chat(router)
    while verdict(router, attempt(router, route, ERROR)) is RETRY:
        pass
    assert len(route.attempts) == 2


def test_a_retry_goes_to_nobody_who_is_out() -> None:
    router = router_of(3)
    spoil(router, "c", LIMITED)
    route = chat(router)
    assert verdict(router, attempt(router, route, LIMITED, at="a")) is RETRY
    assert router.select(route, NOW).id == "b"
    assert verdict(router, attempt(router, route, LIMITED, at="b")) is RELAY


def test_when_the_last_place_was_taken_since_the_earlier_answer_is_left_to_relay() -> None:
    router = Router(config(deployment("a"), deployment("b", max_parallel_requests=1)), random.Random(1))
    route = chat(router)
    begun = attempt(router, route, LIMITED, at="a")
    assert verdict(router, begun) is RETRY
    router.begin(other := chat(router), other.candidates[1], NOW)
    with pytest.raises(AllOut):
        router.select(route, NOW)
    assert router.give_up(route) is RELAY
    assert route.answer is begun


def test_giving_up_without_an_answer_is_a_failure() -> None:
    router = router_of(2)
    route = chat(router)
    assert verdict(router, attempt(router, route, REFUSED, at="a")) is RETRY
    assert router.give_up(route) is FAIL


def test_an_exchange_that_is_over_leaves_nothing_counted_or_doubted() -> None:
    router = router_of(3, settings=RouterSettings(allowed_fails=0))
    route = chat(router)
    failed = attempt(router, route, ERROR, at="a")
    assert router.judge(failed, NOW, replayable=True) is RETRY
    left = router.begin(route, route.candidates[1], NOW)  # the client leaves now
    assert reasons(router)["a"] == Why.DOUBTED.value
    router.close(route)
    assert free(router) == ["a", "b", "c"]
    assert [one.member.health.in_flight for one in (failed, left)] == [0, 0]
    router.close(route)  # once is enough
    assert left.member.health.in_flight == 0


def test_the_brake_holds_retries_after_failures_and_not_after_limits() -> None:
    router = router_of(2, settings=RouterSettings(disable_cooldowns=True))
    found = Counter[Verdict]()
    for _ in range(100):
        route = chat(router)
        last = verdict(router, attempt(router, route, ERROR, at="a"))
        found[last] += 1
        if last is RETRY:
            attempt(router, route, ERROR, at="b")
    assert FLOOR < found[RETRY] <= FLOOR + 100 * SHARE
    assert found[RELAY] == 100 - found[RETRY]
    route = chat(router)
    assert verdict(router, attempt(router, route, LIMITED, at="a")) is RETRY


def test_the_earlier_429_is_relayed_when_all_is_spent() -> None:
    router = router_of(2)
    route = chat(router)
    first = attempt(router, route, LIMITED, at="a")
    assert verdict(router, first) is RETRY
    assert verdict(router, attempt(router, route, REFUSED, at="b")) is RELAY
    assert route.answer is first


def test_no_earlier_429_invites_a_repetition_of_what_may_have_been_done() -> None:
    router = router_of(2)
    for last, expected in ((Outcome(Kind.RESET), FAIL), (ERROR, RELAY)):
        route = router.resolve(Subject(FILES, scope=None), "me")
        assert verdict(router, attempt(router, route, Outcome(Kind.RATE_LIMITED, 429, 0.001), at="a")) is RETRY
        begun = attempt(router, route, last, NOW + 1, at="b")
        assert verdict(router, begun, NOW + 1) is expected
        assert route.answer is (begun if expected is RELAY else None)


# -- patience ---------------------------------------------------------------------------------------------------------

HEAD_TIMEOUTS: list[tuple[dict[str, float], bool, float]] = [
    ({}, False, 600),
    ({}, True, 600),
    ({"timeout": 30}, False, 30),
    ({"timeout": 30}, True, 30),
    ({"timeout": 30, "stream_timeout": 9}, True, 9),
    ({"stream_timeout": 9}, False, 600),
]


@pytest.mark.parametrize(("given", "stream", "seconds"), HEAD_TIMEOUTS)
def test_how_long_a_head_is_waited_for(given: dict[str, Any], stream: bool, seconds: float) -> None:
    router = router_of(1, **given)
    begun = router.begin(route := chat(router, stream=stream), route.candidates[0], NOW)
    assert router.head_timeout(begun, NOW) == seconds
    assert router.late(begun, NOW + seconds).kind is Kind.HEAD_TIMEOUT


def test_the_client_s_patience_is_no_fault_of_the_deployment() -> None:
    router = Router(config(deployment("a"), deployment("b"), timeouts=Timeouts(response_head=10)), random.Random(1))
    for _ in range(9):
        begun = router.begin(route := chat(router, patience=2.0), route.candidates[0], NOW)
        assert router.head_timeout(begun, NOW + 0.5) == 1.25
        outcome = router.late(begun, NOW + 1.75)
        assert outcome.kind is Kind.IMPATIENT
        assert router.head_timeout(begun, NOW + 9) == 0.0
        router.record(begun, outcome, NOW + 1.75)
        assert verdict(router, begun, NOW + 1.75) is FAIL
    assert free(router) == ["a", "b"]


@pytest.mark.parametrize(
    ("patience", "kind"), [(None, Kind.CONNECT_FAILED), (9.0, Kind.CONNECT_FAILED), (2.0, Kind.IMPATIENT)]
)
def test_a_dial_is_given_up_for_the_client_or_has_failed(patience: float | None, kind: Kind) -> None:
    router = router_of(2)
    begun = router.begin(route := chat(router, patience=patience), route.candidates[0], NOW)
    outcome = router.late(begun, NOW + 1.75, sent=False)
    assert (outcome.kind, outcome.sent) == (kind, False)
    router.record(begun, outcome, NOW + 1.75)
    assert verdict(router, begun, NOW + 1.75) is (FAIL if kind is Kind.IMPATIENT else RETRY)


def test_patience_begins_when_the_request_is_whole() -> None:
    router = router_of(2)
    route = chat(router, patience=2.0)
    slow = attempt(router, route, LIMITED, at="a", now=NOW + 5)
    route.wait_since(NOW + 4)
    assert verdict(router, slow, NOW + 5) is RETRY
    assert router.head_timeout(router.begin(route, route.candidates[1], NOW + 5), NOW + 5) == 0.75
    endless = chat(router)
    endless.wait_since(NOW)
    assert endless.deadline is None


def test_no_retry_starts_when_less_is_left_than_its_usual_first_byte() -> None:
    router = router_of(2)
    for name in "ab":
        slow = router.begin(route := chat(router), next(one for one in route.candidates if one.id == name), NOW)
        router.record(slow, OK, NOW + 3)
        router.end(slow)
    hasty, patient = chat(router, patience=3.0), chat(router, patience=4.0)
    assert verdict(router, attempt(router, hasty, LIMITED, at="a")) is RELAY
    assert verdict(router, attempt(router, patient, ERROR, at="a")) is RETRY
    assert verdict(router, attempt(router, chat(router, patience=3.0, stream=True), ERROR, at="a")) is RETRY
    late = attempt(router, chat(router, patience=4.0), ERROR, at="b")
    assert verdict(router, late, NOW + 3.8) is RELAY


def test_a_timeout_is_learnt_from_as_a_slow_first_byte() -> None:
    router = router_of(2)
    begun = router.begin(route := chat(router), route.candidates[0], NOW)
    router.record(begun, Outcome(Kind.HEAD_TIMEOUT), NOW + 600)
    assert begun.member.health.usual(stream=False) == 600


def test_an_sdk_that_comes_again_is_sent_where_nothing_failed_lately() -> None:
    router = router_of(3)
    spoil(router, "a", REFUSED)
    spoil(router, "b", ERROR)
    again = {router.select(chat(router, retry_count=1), NOW).id for _ in range(40)}
    assert again == {"c"}
    assert {router.select(chat(router), NOW).id for _ in range(40)} == {"a", "b", "c"}
    assert {router.select(chat(router, NOW + 61, retry_count=1), NOW + 61).id for _ in range(40)} == {"a", "b", "c"}
    spoil(router, "c", REFUSED)
    assert {router.select(chat(router, retry_count=1), NOW).id for _ in range(40)} == {"a", "b", "c"}


# -- order, fallbacks, affinity ---------------------------------------------------------------------------------------


def test_a_higher_order_only_when_all_lower_ones_are_out() -> None:
    made = config(deployment("a", order=1), deployment("b", order=1, max_parallel_requests=1), deployment("c", order=2))
    router = Router(made, random.Random(1))
    assert {router.select(chat(router), NOW).id for _ in range(40)} == {"a", "b"}
    spoil(router, "a", LIMITED)
    assert {router.select(chat(router), NOW).id for _ in range(40)} == {"b"}
    router.begin(route := chat(router), route.candidates[1], NOW)
    assert {router.select(chat(router), NOW).id for _ in range(40)} == {"c"}


def with_fallbacks(**given: Any) -> Router:
    made = config(
        *(deployment(name) for name in "abcd"),
        deployment("x", "back"),
        deployment("y", "back"),
        deployment("z", "last"),
        settings=RouterSettings(fallbacks={"gpt-4": ("back", "last")}, **given),
    )
    return Router(made, random.Random(1))


def test_a_fallback_group_takes_over_when_the_group_is_out() -> None:
    router = with_fallbacks()
    for name in "abcd":
        spoil(router, name, LIMITED)
    route = chat(router)
    chosen = router.select(route, NOW)
    assert chosen.group == "back"
    assert route.upstream_model(chosen) == "back"


def test_each_fallback_group_gets_one_attempt_when_retries_are_spent() -> None:
    router = with_fallbacks(num_retries=1)
    route = chat(router)
    while verdict(router, attempt(router, route, LIMITED)) is RETRY:
        pass
    assert [one.deployment.group for one in route.attempts] == ["gpt-4", "gpt-4", "back", "last"]


def test_a_pin_has_no_fallback() -> None:
    router = with_fallbacks()
    route = router.resolve(Subject(CHAT, model="gpt-4"), "me", scope="a")
    assert verdict(router, attempt(router, route, LIMITED)) is RELAY


@pytest.mark.parametrize("said", [{"cache_key": "k"}, {"session": "k"}])
def test_a_cache_key_keeps_to_one_deployment(said: dict[str, Any]) -> None:
    router = router_of(9)
    first = {router.select(chat(router, **said), NOW).id for _ in range(20)}
    assert len(first) == 1
    spoil(router, first.copy().pop(), LIMITED)
    second = {router.select(chat(router, **said), NOW).id for _ in range(20)}
    assert len(second) == 1
    assert second != first


def test_the_strategy_decides_when_no_warm_cache_can_take_it() -> None:
    router = router_of(9)
    pool = chat(router).plan.pools[0]
    for member in pool.best("k"):
        member.health.in_flight = 50
    assert len({router.select(chat(router, cache_key="k"), NOW).id for _ in range(40)}) > 2


# -- gauges and reload ------------------------------------------------------------------------------------------------


def test_gauges() -> None:
    router = router_of(2)
    spoil(router, "a", Outcome(Kind.RATE_LIMITED, 429, 9.0, None, {"tokens": Figures(100, 25, None)}))
    assert list(router.cooling(NOW)) == [("a", True), ("b", False)]
    assert list(router.headroom(NOW)) == [("a", "tokens", 0.25)]
    assert router.scopes == ("a", "b")
    assert set(router.home_scopes("me", None)) == {"a", "b"}


def test_a_reload_carries_health_brake_and_homes_over_and_old_attempts_still_end() -> None:
    router = router_of(2, max_parallel_requests=1)
    router.resolve(Subject(FILES), "me")
    begun = router.begin(route := chat(router), route.candidates[0], NOW)
    spoil(router, "b", LIMITED)
    made = config(deployment("a", max_parallel_requests=1), deployment("b", max_parallel_requests=1), deployment("c"))
    after = router.reloaded(made)
    assert reasons(after) == {"a": Why.FULL.value, "b": Why.LIMITED.value, "c": None}
    assert after.brake is router.brake
    assert after.homes.has_made("me", None)
    assert after.select(chat(after), NOW).id == "c"
    router.record(begun, OK, NOW)
    router.end(begun)
    assert free(after) == ["a", "c"]
    assert {after.select(chat(after), NOW).id for _ in range(40)} == {"a", "c"}


def test_discovery_s_attempts_are_no_exchanges_of_their_own() -> None:
    router = router_of(3)
    first = chat(router)
    attempt(router, first, Outcome(Kind.CLIENT_ERROR, 404), at="a")
    other = router.within(first, "b")
    attempt(router, other, OK)
    assert router.brake._exchanges.total(NOW) == 1
    assert router.brake._retries.total(NOW) == 0


def test_scopes_that_turn_out_to_be_one_project_share_their_resources() -> None:
    router = router_of(3)
    router.unite({"a": "a", "b": "a"})
    assert {one.id for one in router.resolve(Subject(CHAT, model="gpt-4"), "me", scope="b").candidates} == {"a", "b"}


# -- whatever happens -------------------------------------------------------------------------------------------------

SUBJECTS = [
    Subject(CHAT, model="gpt-4"),
    Subject(CHAT, model="gpt-4", cache_key="k", stream=True),
    Subject(CHAT, model="other", patience=3.0),
    Subject(FILES),
    Subject(LIST, retry_count=1),
    Subject(RESPONSES, model="gpt-4"),
    Subject(RESPONSES, model="gpt-4", store=False, scope="a"),
]
FILES_OF_ALL_SORTS = [
    config(*(deployment(name) for name in "abcd")),
    config(deployment("a"), deployment("b", scope="a"), deployment("c", order=1), deployment("x", "back", scope="a"),
           settings=RouterSettings(fallbacks={"gpt-4": ("back",)}, routing_strategy="headroom")),
    config(deployment("a", max_parallel_requests=1), deployment("b", max_parallel_requests=2),
           settings=RouterSettings(routing_strategy="least-busy", num_retries=5)),
    config(deployment("a"), settings=RouterSettings(routing_strategy="latency-based-routing")),
]  # fmt: skip
OUTCOMES = st.builds(
    lambda kind, wait, left: Outcome(
        kind,
        STATUS.get(kind),
        wait,
        None,
        None if left is None or kind not in STATUS else {"requests": Figures(10, left, 5)},
        kind is not Kind.CONNECT_FAILED,
    ),
    st.sampled_from([kind for kind in Kind if kind is not Kind.BROKEN]),
    st.none() | st.floats(0.1, 90),
    st.none() | st.integers(0, 10),
)


class Witness:
    """Drives a router with random outcomes and checks what must hold at each step."""

    def __init__(self, made: Config, seed: int) -> None:
        self.made = made
        self.router = Router(made, random.Random(seed))
        self.now = NOW
        self.exchanges: list[float] = []
        self.retries: list[float] = []
        self.streams: list[Attempt] = []
        self.waits: list[float] = []

    def exchange(self, subject: Subject, outcomes: Iterator[Outcome], *, replayable: bool) -> None:
        route = self.router.resolve(subject, "me", started=self.now)
        self.exchanges.append(self.now)
        acted = 0
        while True:
            begun = self.choose(route)
            if begun is None:
                assert all(member.out(self.now) for member in route.plan.members.values()) or route.attempts
                return
            found = REDIAL
            while found is REDIAL:
                outcome = next(outcomes)
                acted += outcome.kind in MAY_HAVE_ACTED
                before = begun.member.out(self.now)
                self.router.record(begun, outcome, self.now)
                self.check_cooldowns(begun, before)
                found = self.router.judge(begun, self.now, replayable=replayable)
            if subject.endpoint is FILES:
                assert acted <= 1
                assert not acted or found in {RELAY, FAIL}
            if found is not RETRY:
                self.check_end(route, begun, found)
                return
            self.router.end(begun)
            if VERDICTS[outcome.kind].braked:
                self.check_brake()

    def choose(self, route: Route) -> Attempt | None:
        outs = {member.deployment.id: member.out(self.now) for member in route.plan.members.values()}
        try:
            chosen = self.router.select(route, self.now)
        except AllOut as error:
            self.waits.append(error.retry_after)
            return None
        assert chosen.id not in {one.deployment.id for one in route.attempts}
        assert len(route.attempts) <= self.made.router.num_retries + len(self.made.groups) - 1
        if outs[chosen.id] is not None and not route.attempts:
            assert all(outs.values()), "one that is out was chosen while another is free"
        assert (outs[chosen.id] or (None,))[0] is not Why.FULL
        if route.scope is not None:
            assert chosen.scope == route.scope
        return self.router.begin(route, chosen, self.now)

    def check_cooldowns(self, begun: Attempt, before: tuple[Why, float] | None) -> None:
        """A cooldown is only ever extended."""
        after = begun.member.out(self.now)
        if before and before[0] in {Why.LIMITED, Why.PARKED, Why.FAILING, Why.DENIED}:
            assert after
            assert after[1] >= before[1]

    def check_end(self, route: Route, begun: Attempt, found: Verdict) -> None:
        assert (route.answer is not None) is (found is RELAY)
        if found is RELAY:
            assert route.answer in route.attempts
            assert route.answer is not None
            assert route.answer.outcome is not None
            assert route.answer.outcome.status is not None
        self.streams.append(begun)

    def check_brake(self) -> None:
        self.retries.append(self.now)
        lately = sum(then > self.now - 10 for then in self.retries)
        assert lately <= SHARE * sum(then > self.now - 10 for then in self.exchanges) + FLOOR


MAY_HAVE_ACTED = {kind for kind, policy in VERDICTS.items() if policy.again is Again.HARMLESS}
STEPS = st.lists(
    st.tuples(st.sampled_from(SUBJECTS), st.floats(0, 8), st.booleans(), st.lists(OUTCOMES, min_size=14, max_size=14)),
    max_size=25,
)


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(FILES_OF_ALL_SORTS), st.integers(0, 99), STEPS)
def test_what_holds_whatever_happens(
    made: Config, seed: int, steps: list[tuple[Subject, float, bool, list[Outcome]]]
) -> None:
    witness = Witness(made, seed)
    for subject, pause, replayable, outcomes in steps:
        witness.now += pause
        witness.exchange(subject, iter(outcomes), replayable=replayable)
        if witness.streams and seed % 2:
            witness.router.end(witness.streams.pop(0))
    assert all(1 <= wait <= 60 for wait in witness.waits)
    for begun in witness.streams:
        witness.router.end(begun)
    members = {id(m): m for m in witness.router._everyone}.values()
    assert all(member.health.in_flight == 0 for member in members)
    assert all(quota.in_flight == 0 for quota in witness.router.ledger.quotas.values())
    witness.now += 901
    assert all(not member.out(witness.now) for member in members), "nothing is out for longer than a quarter hour"
