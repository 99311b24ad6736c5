"""Heads as values, and heads that are read by the layout of one before: held against reading them by the grammar."""

from __future__ import annotations

import gc
import weakref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.config import Limits
from relay.errors import ProxyError
from relay.wire.fields import inbound_lines, parse_response_head
from relay.wire.framing import make_reader, response_framing
from relay.wire.heads import USUAL, Head, Layout, ResponseHead
from relay.wire.http1 import HTTP1Connection, Role
from tests.test_framing import GENERATED, METHODS, generated_heads

PIECES = [
    b"A",
    b"a",
    b"Date",
    b":",
    b": ",
    b":\t",
    b" ",
    b"\t",
    b"\r\n",
    b"\n",
    b"\r",
    b"x",
    b"\x00",
    b"\xff",
    b"\x7f",
    b"1",
]
START = b"HTTP/1.1 200 OK\r\n"


def usual(*names: bytes) -> Layout:
    """A layout that has been met so often that it has an expression of its own."""
    layout = Layout(names)
    layout.seen = USUAL
    return layout


def verdict(raw: bytes, like: Layout | None = None) -> object:
    """What is read of a head, or what is said against it."""
    try:
        head = parse_response_head(raw, 100, like)
    except ProxyError as error:
        return type(error), error.message
    return head.status, head.reason, head.version, head.fields, head.length, head.layout.names


def test_a_head_says_where_its_lines_stand() -> None:
    head = Head(b"1.1", [(b"A", b"1"), (b"Host", b"h"), (b"a", b"2"), (b"A", b"3")])
    assert head.get(b"a") == b"1, 2, 3"
    assert head.get(b"host") == b"h"
    assert head.get(b"b", b"none") == b"none"
    assert head.repeats(b"a")
    assert not head.repeats(b"host")
    assert b"host" in head
    assert b"b" not in head
    assert head.framing == [(b"Host", b"h")]


@pytest.mark.parametrize(
    ("section", "fields"),
    [
        (b"A: 1\r\nb:2\r\n", [(b"A", b"1"), (b"b", b"2")]),
        (b"A: \t 1 x\r\nb:\r\n", [(b"A", b"1 x"), (b"b", b"")]),
        (b"A: \xff%s\r\nb: :\r\n", [(b"A", b"\xff%s"), (b"b", b":")]),
    ],
)
def test_a_usual_layout_is_read_at_once(section: bytes, fields: list[tuple[bytes, bytes]]) -> None:
    layout = usual(b"A", b"b")
    head = parse_response_head(START + section + b"\r\n", 100, layout)
    assert head.fields == fields
    assert head.layout is layout


@pytest.mark.parametrize(
    ("section", "fields"),
    [
        (b"A: 1 x \t\r\nb: 2\r\n", [(b"A", b"1 x"), (b"b", b"2")]),
        (b"A: 1\r\nb: \r\n", [(b"A", b"1"), (b"b", b"")]),
    ],
)
def test_white_space_behind_a_value_is_no_part_of_it_in_a_usual_layout_either(
    section: bytes, fields: list[tuple[bytes, bytes]]
) -> None:
    assert parse_response_head(START + section + b"\r\n", 100, usual(b"A", b"b")).fields == fields


@pytest.mark.parametrize(
    "section",
    [
        b"a: 1\r\nb: 2\r\n",
        b"b: 2\r\nA: 1\r\n",
        b"A: 1\r\n",
        b"A: 1\r\nb: 2\r\nc: 3\r\n",
        b"A : 1\r\nb: 2\r\n",
        b"A: 1\nb: 2\r\n",
        b"",
    ],
)
def test_another_layout_is_not_taken_for_it(section: bytes) -> None:
    raw = START + section + b"\r\n"
    assert verdict(raw, usual(b"A", b"b")) == verdict(raw)


def test_a_near_miss_of_a_long_layout_is_told_in_one_reading() -> None:
    """Where white space may be read in two ways, that would be two readings for each line: 2^80 of them."""
    names = [b"X-%d" % number for number in range(80)]
    section = b"".join(b"%s:  \t 1\r\n" % name for name in names)
    head = parse_response_head(START + section + b"alt-svc: x\r\n\r\n", 100, usual(*names))
    assert len(head.fields) == 81


def test_a_layout_becomes_usual_by_being_met() -> None:
    raw = START + b"X-Seldom: %d\r\n\r\n"
    like: Layout | None = None
    for number in range(USUAL):
        head = parse_response_head(raw % number, 100, like)
        assert head.layout.is_usual() == (number == USUAL - 1)
        like = head.layout
    assert parse_response_head(raw % 99, 100, like).fields == [(b"X-Seldom", b"99")]


CROSSING = [b"Connection", b"content-length", b"Date", b"A", b"Transfer-Encoding", b"a"]


@given(
    st.lists(st.sampled_from(CROSSING), max_size=6),
    st.sampled_from([b"1", b"x %s"]),
    st.sampled_from([b": ", b":", b":\t "]),
)
def test_the_same_lines_pass_on_by_layout_and_by_grammar(names: list[bytes], text: bytes, colon: bytes) -> None:
    """Those of a usual layout with the white space behind the colon that they came with (RFC 9110 §5.5: it is none)."""
    values = {b"connection": b"close", b"content-length": b"5", b"transfer-encoding": b"chunked"}
    lines = [(name, values.get(name.lower(), text)) for name in names]
    raw = START + b"".join(name + colon + value + b"\r\n" for name, value in lines) + b"\r\n"
    layout = usual(*names)
    by_layout = layout.read(raw)
    assert by_layout is not None
    by_grammar = ResponseHead(200, b"OK", b"1.1", by_layout.fields)
    assert (by_layout.passing is None) == by_layout.repeats(b"connection")
    plain = by_layout.passing is None
    assert inbound_lines(by_layout) == inbound_lines(by_grammar).replace(b": ", b": " if plain else colon)
    assert by_layout.framing == by_grammar.framing


@settings(max_examples=2000, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=14), st.lists(st.sampled_from([b"A", b"a", b"Date"]), max_size=4))
def test_by_layout_and_by_grammar_the_same_is_read_and_refused(pieces: list[bytes], names: list[bytes]) -> None:
    raw = START + b"".join(pieces) + b"\r\n\r\n"
    assert verdict(raw, usual(*names)) == verdict(raw)


async def test_generated_heads_are_judged_alike_the_first_time_and_from_memory() -> None:
    connection = HTTP1Connection(Role.CLIENT, Limits())
    before = None
    for number, (raw, is_request) in enumerate(generated_heads(GENERATED)):
        if is_request:
            continue
        plain = verdict(raw)
        if before is not None:
            before.seen = USUAL
            assert verdict(raw, before) == plain, raw
        if isinstance(plain, tuple) and isinstance(plain[0], type):
            continue
        head = parse_response_head(raw, 100)
        for _ in range(2):
            check_judged(connection, METHODS[number % len(METHODS)], raw, head)
        before = head.layout


async def test_requests_on_one_connection_are_judged_as_each_on_its_own() -> None:
    kept = HTTP1Connection(Role.SERVER, Limits())
    for raw, is_request in generated_heads(GENERATED):
        if is_request:
            kept.next_cycle()
            alone = HTTP1Connection(Role.SERVER, Limits())
            assert judged(kept, raw) == judged(alone, raw), raw
            again = raw.replace(b"ontent-Length: 5", b"ontent-Length: 6")
            kept.next_cycle()
            assert judged(kept, again) == judged(HTTP1Connection(Role.SERVER, Limits()), again), again


async def test_a_kept_connection_holds_no_head() -> None:
    connection = HTTP1Connection(Role.SERVER, Limits())
    head = connection._read_request(b"GET /%s HTTP/1.1\r\nHost: h\r\n\r\n" % (b"x" * 5000))  # too long to be remembered
    known = weakref.ref(head)
    del head
    connection.next_cycle()
    gc.collect()
    assert known() is None
    assert judged(connection, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")


def judged(connection: HTTP1Connection, raw: bytes) -> object:
    """What a connection makes of a request's head, or what it says against it."""
    try:
        head = connection._read_request(raw)
    except ProxyError as error:
        return type(error), error.message
    reader = connection._reader
    return head.fields, type(reader), getattr(reader, "left", None), connection._keeps, connection.wants_continue


def check_judged(connection: HTTP1Connection, method: bytes, raw: bytes, head: ResponseHead) -> None:
    """What a connection makes of a head is what h11's verdict on its shape says."""
    framing = response_framing(method, head.status, head.version, head.framing, head.length)
    connection.next_cycle()
    connection._method = method
    connection._read_response(raw)
    reader = make_reader(framing.extent, head.length or 0)
    assert type(connection._reader) is type(reader), raw
    assert getattr(connection._reader, "left", None) == getattr(reader, "left", None), raw
    assert connection._keeps == framing.keep_alive, raw
