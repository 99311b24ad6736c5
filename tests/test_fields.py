"""The grammar of heads, what framing is refused, and what passes on."""

from __future__ import annotations

import pytest

from relay.errors import (
    BadRequest,
    CodingNotImplemented,
    HeadTooLarge,
    ProxyError,
    TargetTooLong,
    VersionNotSupported,
)
from relay.wire import fields
from relay.wire.fields import (
    check_partial_head,
    connection_options,
    inbound_lines,
    outbound_lines,
    parse_request_head,
    parse_response_head,
    readable_codings,
    recall_request_head,
    wants_websocket,
)


def request(lines: bytes, start: bytes = b"POST /v1/x HTTP/1.1") -> bytes:
    return start + b"\r\nHost: p\r\n" + lines + b"\r\n"


def parse(raw: bytes) -> list[tuple[bytes, bytes]]:
    return parse_request_head(raw, 100, 200).fields[1:]


READ = [
    (b"A: b\r\n", [(b"A", b"b")]),
    (b"a:b\r\n", [(b"a", b"b")]),
    (b"A:  \t b c \t \r\n", [(b"A", b"b c")]),
    (b"A:\r\n", [(b"A", b"")]),
    (b"A: \r\n", [(b"A", b"")]),
    (b"A: b\r\na: c\r\n", [(b"A", b"b"), (b"a", b"c")]),
    (b"A: \xe4\xff\r\n", [(b"A", b"\xe4\xff")]),
    (b"!#$%&'*+-.^_`|~9z: :;,\"\r\n", [(b"!#$%&'*+-.^_`|~9z", b':;,"')]),
    (b"Content-Length: 5, 5\r\n", [(b"Content-Length", b"5, 5")]),
    (b"Transfer-Encoding: Chunked\r\n", [(b"Transfer-Encoding", b"Chunked")]),
]


@pytest.mark.parametrize(("lines", "found"), READ)
def test_fields_keep_their_case_and_order(lines: bytes, found: list[tuple[bytes, bytes]]) -> None:
    assert parse(request(lines)) == found


REFUSED: list[tuple[bytes, type[ProxyError], str]] = [
    (request(b"A : b\r\n"), BadRequest, "field name"),
    (request(b" A: b\r\n"), BadRequest, "obs-fold"),
    (request(b"A: b\r\n c\r\n"), BadRequest, "obs-fold"),
    (request(b"A\r\n"), BadRequest, "field name"),
    (request(b": b\r\n"), BadRequest, "field name"),
    (request(b"A: b\x00\r\n"), BadRequest, "control"),
    (request(b"A: b\x7f\r\n"), BadRequest, "control"),
    (request(b"A: b\nB: c\r\n"), BadRequest, "bare CR or LF"),
    (request(b"A: b\rB: c\r\n"), BadRequest, "bare CR or LF"),
    (request(b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), BadRequest, "beside"),
    (request(b"Content-Length: 5\r\nContent-Length: 6\r\n"), BadRequest, "different"),
    (request(b"Content-Length: 5, 6\r\n"), BadRequest, "different"),
    (request(b"Content-Length: +5\r\n"), BadRequest, "number of bytes"),
    (request(b"Content-Length: -5\r\n"), BadRequest, "number of bytes"),
    (request(b"Content-Length: 0x5\r\n"), BadRequest, "number of bytes"),
    (request(b"Content-Length: 5 5\r\n"), BadRequest, "number of bytes"),
    (request(b"Content-Length:\r\n"), BadRequest, "number of bytes"),
    (request(b"Content-Length: 9223372036854775808\r\n"), BadRequest, "2\\^63"),
    (request(b"Content-Length: 99999999999999999999999\r\n"), BadRequest, "2\\^63"),
    (request(b"Transfer-Encoding: gzip\r\n"), CodingNotImplemented, "chunked"),
    (request(b"Transfer-Encoding: gzip, chunked\r\n"), CodingNotImplemented, "chunked"),
    (request(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), CodingNotImplemented, "chunked"),
    (request(b"Transfer-Encoding:\r\n"), CodingNotImplemented, "chunked"),
    (request(b"Transfer-Encoding: chunked\r\n", b"POST /v1/x HTTP/1.0"), BadRequest, "HTTP/1.0"),
    (request(b"Host: q\r\n"), BadRequest, "Host"),
    (b"GET / HTTP/1.1\r\nA: b\r\n\r\n", BadRequest, "Host"),
    (request(b"Authorization: a\r\nAuthorization: a\r\n"), BadRequest, "Authorization"),
    (request(b"", b"GET http://p/ HTTP/1.1"), BadRequest, "target"),
    (request(b"", b"CONNECT p:443 HTTP/1.1"), BadRequest, "target"),
    (request(b"", b"CONNECT /v1/x HTTP/1.1"), BadRequest, "CONNECT"),
    (request(b"", b"M" * 33 + b" /v1/x HTTP/1.1"), BadRequest, "request line"),
    (request(b"", b"trace /v1/x HTTP/1.1"), BadRequest, "TRACE"),
    (request(b"", b"OPTIONS * HTTP/1.1"), BadRequest, "target"),
    (request(b"", b"GET /a#b HTTP/1.1"), BadRequest, "fragment"),
    (request(b"", b"GET /a\\b HTTP/1.1"), BadRequest, "backslash"),
    (request(b"", b"GET /\xc3\xa4 HTTP/1.1"), BadRequest, "request line"),
    (request(b"", b"GET  / HTTP/1.1"), BadRequest, "request line"),
    (request(b"", b"GET / HTTP/1.1 "), BadRequest, "request line"),
    (request(b"", b"G(T / HTTP/1.1"), BadRequest, "request line"),
    (request(b"", b"GET /"), BadRequest, "request line"),
    (request(b"", b"GET / HTTP/1.2"), VersionNotSupported, "1.0 and HTTP/1.1"),
    (request(b"", b"GET / HTTP/2"), VersionNotSupported, "1.0 and HTTP/1.1"),
    (request(b"", b"GET / HTTP/0.9"), VersionNotSupported, "1.0 and HTTP/1.1"),
    (request(b"", b"GET /%s HTTP/1.1" % (b"a" * 200)), TargetTooLong, "200"),
    (request(b"A: b\r\n" * 100), HeadTooLarge, "100 field lines"),
]


@pytest.mark.parametrize(("raw", "kind", "words"), REFUSED)
def test_what_two_parsers_could_read_differently_is_refused(raw: bytes, kind: type[ProxyError], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        parse_request_head(raw, 100, 200)
    assert type(caught.value) is kind


def test_limits_hold_exactly() -> None:
    assert len(parse(request(b"A: b\r\n" * 99))) == 99
    assert parse_request_head(request(b"", b"GET /%s HTTP/1.1" % (b"a" * 199)), 100, 200).target[-1:] == b"a"


def test_http_1_0_needs_no_host() -> None:
    assert parse_request_head(b"GET / HTTP/1.0\r\n\r\n", 100, 200).version == b"1.0"


PARTIAL = [
    (b"GET /" + b"a" * 300, TargetTooLong),
    (b"GET / HTTP/1.1\r\nA: " + b"a" * 1000, HeadTooLarge),
    (b"GET / HTTP/1.1\nHost", BadRequest),
    (b"\x16\x03\x01\x02", BadRequest),
    (b" GET", BadRequest),
    (b"\r\nGET", BadRequest),
    (b"\xffGET", BadRequest),
]


@pytest.mark.parametrize(("raw", "kind"), PARTIAL)
def test_a_beginning_that_can_never_be_right_is_refused_at_once(raw: bytes, kind: type[ProxyError]) -> None:
    with pytest.raises(kind):
        check_partial_head(raw, 1000, 200)


@pytest.mark.parametrize("raw", [b"G", b"GET / HTT", b"GET / HTTP/1.1\r\nHost: p\r\n"])
def test_a_beginning_that_may_become_right_is_waited_for(raw: bytes) -> None:
    check_partial_head(raw, 1000, 200)


RESPONSES = [
    (b"HTTP/1.1 200 OK\r\n\r\n", 200, b"OK"),
    (b"HTTP/1.0 404\r\n\r\n", 404, b""),
    (b"HTTP/1.1 500 \r\n\r\n", 500, b""),
    (b"HTTP/1.1 299 all \xe4 well\r\n\r\n", 299, b"all \xe4 well"),
]


@pytest.mark.parametrize(("raw", "status", "reason"), RESPONSES)
def test_status_lines_are_read(raw: bytes, status: int, reason: bytes) -> None:
    head = parse_response_head(raw, 100)
    assert (head.status, head.reason) == (status, reason)


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 99 no\r\n\r\n",
        b"HTTP/1.1 600 no\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"http/1.1 200 OK\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
    ],
)
def test_malformed_answers_are_refused(raw: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_response_head(raw, 100)


def outbound(lines: bytes, replaced: frozenset[bytes] = frozenset(), *, readable: bool = False) -> bytes:
    return outbound_lines(parse_request_head(request(lines), 100, 200), replaced, readable=readable)


STRIPPED = [
    b"Authorization",
    b"api-key",
    b"X-API-Key",
    b"x-litellm-api-key",
    b"X-LiteLLM-Target-Model",
    b"x-passthrough-scope",
    b"OpenAI-Organization",
    b"openai-project",
    b"Cookie",
    b"Forwarded",
    b"X-Forwarded-For",
    b"Proxy-Authorization",
    b"Proxy-Connection",
    b"Connection",
    b"Keep-Alive",
    b"TE",
    b"Trailer",
    b"Upgrade",
    b"Expect",
    b"HTTP2-Settings",
    b"X_Api_Key",  # what a CGI gateway would take for the credential
    b"openai_organization",
]


@pytest.mark.parametrize("name", STRIPPED)
def test_what_is_ours_or_of_this_hop_is_not_forwarded(name: bytes) -> None:
    assert outbound(b"A: 1\r\n" + name + b": x\r\nB: 2\r\n") == b"A: 1\r\nB: 2\r\n"


def test_what_passes_keeps_order_case_and_repetition() -> None:
    lines = b"X-B: 2\r\naccept: */*\r\nX-B: 3\r\nx-stainless-lang: python\r\nContent-Type: a/b\r\nX-Empty: \r\n"
    assert outbound(lines) == lines


def test_connection_strips_what_it_names_but_not_what_must_stay() -> None:
    lines = b"Connection: X-Hop, content-type\r\nX-Hop: 1\r\nx_hop: 1\r\nContent-Type: a/b\r\n"
    assert outbound(lines) == b"Content-Type: a/b\r\n"


def test_a_deployments_own_lines_replace_the_clients() -> None:
    assert outbound(b"X-Team: client\r\nA: b\r\n", frozenset({b"x-team"})) == b"A: b\r\n"


@pytest.mark.parametrize(
    ("value", "left"),
    [
        (b"gzip, deflate", b"gzip, deflate"),
        (b"gzip, deflate, br, zstd", b"gzip, deflate"),
        (b"br;q=1.0, gzip;q=0.8", b"gzip;q=0.8"),
        (b"br", b"identity"),
        (b"*", b"identity"),
        (b"", b""),
    ],
)
def test_codings_that_the_tap_cannot_read_are_not_asked_for(value: bytes, left: bytes) -> None:
    assert readable_codings(value) == left


def test_accept_encoding_changes_only_where_answers_are_watched() -> None:
    assert outbound(b"Accept-Encoding: br\r\n") == b"Accept-Encoding: br\r\n"
    assert outbound(b"A: 1\r\naccept-encoding: br, gzip\r\n", readable=True) == b"A: 1\r\naccept-encoding: gzip\r\n"


def test_a_response_passes_without_what_belongs_to_its_connection() -> None:
    raw = (
        b"HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nConnection: X-Hop, close\r\nKeep-Alive: 5\r\nX-Hop: 1\r\n"
        b"Content-Length: 3\r\nset-cookie: b\r\nTrailer: x\r\nContent-Encoding: gzip\r\n\r\n"
    )
    assert (
        inbound_lines(parse_response_head(raw, 100)) == b"Set-Cookie: a\r\nset-cookie: b\r\nContent-Encoding: gzip\r\n"
    )
    plain = parse_response_head(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n", 100)
    assert inbound_lines(plain) == b"A: b\r\n"


def test_connection_options_and_upgrades() -> None:
    head = parse_request_head(request(b"Connection: Upgrade, x\r\nUpgrade: WebSocket\r\n"), 100, 200)
    assert connection_options(head) == {b"upgrade", b"x"}
    assert wants_websocket(head)
    assert not wants_websocket(parse_request_head(request(b"Upgrade: websocket\r\n"), 100, 200))
    assert not wants_websocket(parse_request_head(request(b"Connection: upgrade\r\nUpgrade: h2c\r\n"), 100, 200))


# Heads that come again.


@pytest.mark.parametrize("lines", [lines for lines, _ in READ])
def test_a_recalled_head_is_the_parsed_one_but_for_its_length(lines: bytes) -> None:
    raw = request(lines)
    parsed = parse_request_head(raw, 100, 200)
    for _ in range(2):
        head, length = recall_request_head(raw, 100, 200)
        assert (head.method, head.target, head.version) == (parsed.method, parsed.target, parsed.version)
        assert head.fields == [line for line in parsed.fields if line[0].lower() != b"content-length"]
        assert length == (5 if b"Length" in lines else None)


def test_the_same_head_with_another_length_is_the_same_object() -> None:
    one, first = recall_request_head(request(b"A: 1\r\nContent-Length: 17\r\nB: 2\r\n"), 100, 200)
    other, second = recall_request_head(request(b"A: 1\r\nContent-Length: 4000\r\nB: 2\r\n"), 100, 200)
    assert one is other
    assert (first, second) == (17, 4000)
    without, none = recall_request_head(request(b"A: 1\r\nB: 2\r\n"), 100, 200)
    assert without is not one
    assert none is None


@pytest.mark.parametrize("length", [b"", b" ", b"\x00", b"5, 6", b"-5"])
def test_a_head_without_digits_is_not_taken_for_one_that_is_known(length: bytes) -> None:
    recall_request_head(request(b"Content-Length: 5\r\n"), 100, 200)
    with pytest.raises(BadRequest):
        recall_request_head(request(b"Content-Length: " + length + b"\r\n"), 100, 200)


NUMBERS = [b"0", b"5", b"007", b"4000", b"9" * 18, b"9" * 19, b"", b" 5", b"5 ", b"+5", b"5, 5", b"5\r\nX: y", b"\xb2"]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(("before", "behind"), [(b"", b""), (b"A: 1\r\n", b"B: 2\r\n"), (b"", b"X: 5\r\n")])
def test_a_head_knows_itself_by_all_bytes_but_the_digits(before: bytes, behind: bytes, number: bytes) -> None:
    head, _ = recall_request_head(request(before + b"Content-Length: 12\r\n" + behind), 100, 200)
    raw = request(before + b"Content-Length: " + number + b"\r\n" + behind)
    plain = number.isdigit() and len(number) < 19
    assert head.length_in(raw) == (int(number) if plain else None)
    if plain:
        assert recall_request_head(raw, 100, 200) == (head, int(number))


@pytest.mark.parametrize(
    "lines",
    [b"A: 1\r\nContent-Length: 12\r\nB: 3\r\n", b"a: 1\r\nContent-Length: 12\r\nB: 2\r\n", b"A: 1\r\nB: 2\r\n", b""],
)
def test_another_head_is_not_taken_for_it(lines: bytes) -> None:
    head, _ = recall_request_head(request(b"A: 1\r\nContent-Length: 12\r\nB: 2\r\n"), 100, 200)
    assert head.length_in(request(lines)) is None
    without, _ = recall_request_head(request(b"A: 1\r\nB: 2\r\n"), 100, 200)
    assert without.length_in(request(lines)) is None


REMEMBERED_NOT = [
    b"Content-Length: 5, 5\r\n",
    b"Content-Length: 5\r\nContent-Length: 5\r\n",
    b"Content-Length:5\r\n",
    b"CONTENT-LENGTH: 5\r\n",
    b"X: " + b"x" * 5000 + b"\r\n",
]


@pytest.mark.parametrize("lines", REMEMBERED_NOT)
def test_odd_lengths_and_long_heads_are_parsed_each_time(lines: bytes) -> None:
    one, length = recall_request_head(request(lines), 100, 200)
    other, _ = recall_request_head(request(lines), 100, 200)
    assert one is not other
    assert length == (5 if b"5\r\n" in lines else None)


@pytest.mark.parametrize(("raw", "kind", "words"), REFUSED)
def test_what_is_refused_is_refused_each_time(raw: bytes, kind: type[ProxyError], words: str) -> None:
    for _ in range(2):
        with pytest.raises(kind, match=words):
            recall_request_head(raw, 100, 200)


def test_a_head_is_known_only_within_the_limits_it_passed() -> None:
    raw = request(b"Only: once\r\n" * 5)
    recall_request_head(raw, 100, 200)
    with pytest.raises(HeadTooLarge):
        recall_request_head(raw, 3, 200)


def test_known_heads_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fields, "MOST_KNOWN_HEADS", 3)
    for number in range(10):
        recall_request_head(request(b"N: %d\r\n" % number), 100, 200)
        assert len(fields._known_heads) <= 3


def test_what_goes_out_is_remembered_with_the_head() -> None:
    head, _ = recall_request_head(request(b"X-Team: a\r\nB: c\r\n"), 100, 200)
    plain = outbound_lines(head, frozenset(), readable=False)
    assert outbound_lines(head, frozenset(), readable=False) is plain
    assert outbound_lines(head, frozenset({b"x-team"}), readable=False) == b"B: c\r\n"
