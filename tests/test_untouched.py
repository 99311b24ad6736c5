"""Byte for byte: what the upstream hears is what the client said, and the other way round, but for SPEC §6.

The list of what may change stands here a second time, written from the specification and not from the code.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import random
import re
import zlib
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from relay.config import Listener
from tests.harness import KEY, PATIENCE, Proxy, config_over, deployment, proxy_over, read_answer
from tests.scripted import ScriptedUpstream, dechunk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Lines: TypeAlias = "list[tuple[bytes, bytes]]"

SERVED = "served-name"  # what the upstream calls the group "gpt-4"
EIGHT_MIB = 8 << 20
quick = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

# SPEC §6, in the specification's order.
REQUEST_REPLACED = {b"host", b"content-length", b"transfer-encoding", b"openai-organization", b"openai-project"}
REQUEST_REMOVED = {b"authorization", b"api-key", b"x-api-key", b"cookie", b"forwarded", b"expect"}
REQUEST_PREFIXES = (b"x-litellm-", b"x-passthrough-", b"proxy-", b"x-forwarded-")
HOP_BY_HOP = {b"connection", b"keep-alive", b"te", b"trailer", b"upgrade"}
RESPONSE_REPLACED = {b"content-length", b"transfer-encoding"}
OUR_OWN = [b"x-passthrough-deployment", b"x-passthrough-attempts", b"x-passthrough-id"]


@dataclass
class Message:
    """An HTTP message, taken apart."""

    start: bytes
    lines: Lines
    content: bytes

    @property
    def is_chunked(self) -> bool:
        return any(name.lower() == b"transfer-encoding" for name, _ in self.lines)


def parse(raw: bytes) -> Message:
    """Take a message apart, its content out of its chunks."""
    head, _, content = raw.partition(b"\r\n\r\n")
    start, *lines = head.split(b"\r\n")
    split = [line.partition(b":") for line in lines]
    message = Message(start, [(name, value.strip(b" \t")) for name, _, value in split], content)
    if message.is_chunked:
        message.content = dechunk(content)
    return message


def kept_of_request(lines: Lines) -> Lines:
    """The lines that an upstream must hear as they were said."""
    listed = {
        option.strip().lower() for name, value in lines if name.lower() == b"connection" for option in value.split(b",")
    }
    gone = REQUEST_REPLACED | REQUEST_REMOVED | HOP_BY_HOP | listed
    return [line for line in lines if line[0].lower() not in gone and not line[0].lower().startswith(REQUEST_PREFIXES)]


def kept_of_response(lines: Lines) -> Lines:
    """The lines that a client must hear as they were said."""
    gone = RESPONSE_REPLACED | HOP_BY_HOP
    return [line for line in lines if line[0].lower() not in gone]


class Wire:
    """A proxy over two deployments (so that every body is looked into), and both ends of an exchange in bytes."""

    def __init__(self, upstream: ScriptedUpstream, proxy: Proxy) -> None:
        self._upstream = upstream
        self._proxy = proxy

    async def carry(self, request: bytes, response: bytes) -> tuple[Message, Message]:
        """Say both messages; what the upstream and what the client heard."""
        self._upstream.requests.clear()
        self._upstream.script[:] = [response]
        reader, writer = await self._proxy.connect()
        try:
            async with asyncio.timeout(PATIENCE):
                writer.write(request)
                answer = await read_answer(reader)
        finally:
            writer.close()
        assert answer.startswith(response.partition(b"\r\n")[0] + b"\r\n"), answer[:500]
        method = request.partition(b" ")[0] + b" "  # a GET may come before it: who has the resources that are named?
        (heard,) = [one for one in self._upstream.requests if one.startswith(method)]
        return parse(heard), parse(answer)


@asynccontextmanager
async def wired() -> AsyncIterator[Wire]:
    upstream = ScriptedUpstream()
    await upstream.start()
    members = [deployment(name, upstream.port, model=SERVED) for name in ("a", "b")]
    async with proxy_over(config_over(*members, listener=Listener(port=0))) as proxy:
        yield Wire(upstream, proxy)
    await upstream.close()


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    async with wired() as it:
        yield it


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


def request(
    content: bytes,
    content_type: bytes | None,
    *,
    pieces: int = 0,
    target: bytes = b"/v1/things",
    lines: Lines | None = None,
) -> bytes:
    """A POST with its content at its length, or in chunks of ``pieces`` bytes."""
    typed = [] if content_type is None else [(b"Content-Type", content_type)]
    head = [(b"Host", b"p"), (b"Authorization", b"Bearer " + KEY.encode()), *typed, *(lines or [])]
    return b"POST " + target + b" HTTP/1.1\r\n" + framed(head, content, pieces)


def response(content: bytes, lines: Lines, *, pieces: int = 0) -> bytes:
    """A 200 with its content at its length, or in chunks of ``pieces`` bytes."""
    return b"HTTP/1.1 200 OK\r\n" + framed(lines, content, pieces)


def framed(lines: Lines, content: bytes, pieces: int) -> bytes:
    """Field lines and content."""
    framing = (b"Transfer-Encoding", b"chunked") if pieces else (b"Content-Length", b"%d" % len(content))
    head = b"".join(b"%b: %b\r\n" % line for line in [*lines, framing]) + b"\r\n"
    if not pieces:
        return head + content
    cut = [content[at : at + pieces] for at in range(0, len(content), pieces)]
    return head + b"".join([b"%x\r\n%b\r\n" % (len(piece), piece) for piece in cut]) + b"0\r\n\r\n"


# Content.

EDGES = [1, 2, 4095, 4096, 65_535, 65_536, 65_537, (1 << 20) - 1, 1 << 20, (1 << 20) + 1]
SIZES = st.one_of(st.just(0), st.sampled_from(EDGES), st.integers(0, 300_000))
CUTS = st.sampled_from([0, 0, 1021, 4096, 65_536, 262_144])
TYPES = st.sampled_from([None, b"application/octet-stream", b"text/plain; charset=utf-8", b"audio/mpeg"])


@quick
@given(up=SIZES, down=SIZES, cut_up=CUTS, cut_down=CUTS, kind=TYPES, seed=st.integers(0, 1 << 32))
@example(up=EIGHT_MIB, down=EIGHT_MIB, cut_up=0, cut_down=0, kind=b"application/octet-stream", seed=1)
@example(up=EIGHT_MIB, down=EIGHT_MIB, cut_up=65_521, cut_down=262_144, kind=None, seed=2)
@example(up=EIGHT_MIB, down=0, cut_up=262_144, cut_down=0, kind=b"application/octet-stream", seed=3)
async def test_random_bytes_of_any_size(
    wire: Wire, up: int, down: int, cut_up: int, cut_down: int, kind: bytes | None, seed: int
) -> None:
    source = random.Random(seed)
    said, answered = source.randbytes(up), source.randbytes(down)
    assume(kind is not None or said[:1] not in (b"{", b"["))  # of no type it may be JSON, and then it is not valid
    typed = [] if kind is None else [(b"Content-Type", kind)]
    heard, got = await wire.carry(request(said, kind, pieces=cut_up), response(answered, typed, pieces=cut_down))
    assert (len(heard.content), digest(heard.content)) == (up, digest(said))
    assert (len(got.content), digest(got.content)) == (down, digest(answered))
    assert (heard.is_chunked, got.is_chunked) == (bool(cut_up), bool(cut_down))


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# JSON. A document is drawn as text, so that what stands between the values is known too.

SPACE = st.text(" \t\r\n", max_size=3)
NUMBERS = st.sampled_from(["0", "-0", "1e2", "1E+400", "-1.50", "2.0e-0", "123456789012345678901234567890", "0.1e1"])
ESCAPES = [
    r"\u0041",
    r"\/",
    r"\"",
    r"\\",
    r"\n",
    r"\ud83d\ude00",
    r"\ud800",
    "\N{GRINNING FACE}",
    "é",
    "a",
    "{",
    "]",
    ",",
]
STRINGS = st.lists(st.sampled_from(ESCAPES), max_size=6).map(lambda parts: f'"{"".join(parts)}"')
SCALARS = st.one_of(NUMBERS, STRINGS, st.sampled_from(["true", "false", "null", "[]", "{ }"]))
HINT_LIKE = st.sampled_from(['"model"', '"target_model_names"', '"metadata"', '"stream"', '"file_id"'])


def listed(items: list[tuple[str, str, str]]) -> str:
    """Elements with the white space around each."""
    return ",".join(before + item + after for before, item, after in items)


def containers(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Arrays and objects, with any spacing, and with names that mean something at the top."""
    elements = st.lists(st.tuples(SPACE, values, SPACE), max_size=4)
    members = st.lists(st.tuples(SPACE, members_of(values), SPACE), max_size=4)
    return st.one_of(
        elements.map(lambda items: f"[{listed(items)}]"), members.map(lambda items: f"{{{listed(items)}}}")
    )


def members_of(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(st.one_of(STRINGS, HINT_LIKE), SPACE, SPACE, values).map(lambda m: f"{m[0]}{m[1]}:{m[2]}{m[3]}")


VALUES = st.recursive(SCALARS, containers, max_leaves=12)
# Members of the top that no table of ours gives a meaning, and metadata, where anything may stand.
NAMES = st.sampled_from(['"metadata"', '"x"', '"\\u0078"', '"messages"', '"temperature"', '""'])
MEMBERS = st.tuples(NAMES, SPACE, SPACE, VALUES).map(lambda m: f"{m[0]}{m[1]}:{m[2]}{m[3]}")
MODEL_NAMES = st.sampled_from(['"model"', '"mod\\u0065l"', '"\\u006dodel"'])
GROUP_NAMES = st.sampled_from(['"gpt-4"', '"gpt\\u002d4"', '"\\u0067pt-4"'])
OTHER_NAMES = st.sampled_from(['"ft:gpt-4:me::1"', '"gpt-4 "', '"GPT-4"', '"unknown\\/model"', '"\\ud83d\\ude00"'])


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, str]:
    """A JSON document with a model, and what must become of it."""
    before, after = draw(st.lists(MEMBERS, max_size=3)), draw(st.lists(MEMBERS, max_size=3))
    ours = draw(st.booleans())
    asked = draw(GROUP_NAMES if ours else OTHER_NAMES)
    name, left, right = draw(MODEL_NAMES), draw(SPACE), draw(SPACE)
    around = [(draw(SPACE), draw(SPACE)) for _ in range(len(before) + len(after) + 1)]
    lead, tail = draw(SPACE), draw(SPACE)

    def written(model: str) -> str:
        members = [*before, f"{name}{left}:{right}{model}", *after]
        spaced = [(a, member, b) for (a, b), member in zip(around, members, strict=True)]
        return f"{lead}{{{listed(spaced)}}}{tail}"

    return written(asked), written(f'"{SERVED}"' if ours else asked)


SPACED = (
    '{ "metadata":{"model":"gpt-4","n":1e2},\t"n" : 123456789012345678901234567890 ,\r\n'
    '"model"\n:\t%s ,"x":1E+2,"y":"\\u0041"}'
)


@settings(quick, max_examples=200)
@given(
    document=documents(), cut=st.sampled_from([0, 0, 1, 7, 4096]), path=st.sampled_from(["things", "chat/completions"])
)
@example(document=(SPACED % '"gpt-4"', SPACED % f'"{SERVED}"'), cut=1, path="responses")
async def test_json_keeps_every_byte_but_the_model(wire: Wire, document: tuple[str, str], cut: int, path: str) -> None:
    said, expected = (text.encode() for text in document)
    target = b"/v1/" + path.encode()
    heard, got = await wire.carry(
        request(said, b"application/json", pieces=cut, target=target),
        response(said, [(b"Content-Type", b"application/json")], pieces=cut),
    )
    assert heard.content == expected
    assert got.content == said


@settings(quick, max_examples=60)
@given(
    document=documents(),
    value=st.sampled_from(['"gpt-4"', '"gpt-4,other"', '["gpt-4", "b"]', '[ "gpt\\u002d4" ]']),
    first=st.booleans(),
)
async def test_json_loses_its_hint_and_nothing_else(
    wire: Wire, document: tuple[str, str], value: str, first: bool
) -> None:
    said, expected = document
    hint = f'"target_model_names" : {value}'
    at = said.index("{") + 1 if first else said.rindex("}")
    hinted = f"{said[:at]}{hint},{said[at:]}" if first else f"{said[:at]},{hint}{said[at:]}"
    heard, _ = await wire.carry(request(hinted.encode(), b"application/json"), OK)
    assert read_exactly(heard.content.decode()) == read_exactly(expected)
    inner = expected[expected.index("{") + 1 : expected.rindex("}")].strip()
    assert inner in heard.content.decode()


def read_exactly(text: str) -> Any:
    """A document with its numbers as they are written and its members in order."""
    return json.loads(text, parse_int=str, parse_float=str, parse_constant=str, object_pairs_hook=list)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b' "x" ', b"1e2", b"null", b" {\t} ", b'[{"model":"gpt-4"}]', b"\r\n{}\r\n"]
)
async def test_json_that_is_no_object_stays_as_it_is(wire: Wire, text: bytes) -> None:
    heard, _ = await wire.carry(request(text, b"application/json"), OK)
    assert heard.content == text


# Forms.

PART_HEADS = [
    b'Content-Disposition: form-data; name="purpose"',
    b'content-disposition:form-data;name="purpose"',
    b'Content-Type: text/plain; charset="utf-8"\r\nCONTENT-DISPOSITION: form-data ; name = "x"',
    b'Content-Disposition: form-data; filename="a;b\\"c.txt"; name="file"\r\nContent-Transfer-Encoding: binary',
    b"Content-Disposition: form-data; name=file; filename*=UTF-8''%e2%82%ac.txt\r\nX-Odd:   spaced\t value  ",
    'Content-Disposition: form-data; name="päth"; filename="ö.bin"'.encode(),
    b'Content-Disposition: form-data; name=""',
    b'Content-Disposition: form-data; name="metadata[model]"',
    b'Content-Disposition: attachment; filename="nameless"',
    b"X-Nothing: else",
]
BOUNDARIES = [
    (b"edge", b"boundary=edge"),
    (b"a'()+_,-./:=? b", b'boundary="a\'()+_,-./:=? b"'),
    (b"-" * 60, b"charset=x; BOUNDARY=" + b"-" * 60),
]
PART_CONTENT = st.one_of(
    st.binary(max_size=300),
    st.sampled_from(
        [b"", b"\r\n", b"--edge", b"\r\n--edg", b"\r\n-\r\n--", b"gpt-4", b"--edge--", b"\n--edge\n", b"\r\r\n"]
    ),
)


@settings(quick, max_examples=150)
@given(
    parts=st.lists(st.tuples(st.sampled_from(PART_HEADS), PART_CONTENT), max_size=5),
    boundary=st.sampled_from(BOUNDARIES),
    around=st.sampled_from([(b"", b"\r\n"), (b"preamble\r\n", b"\r\nepilogue"), (b"\r\n", b"")]),
    cut=st.sampled_from([0, 1, 7, 4096]),
    hint=st.sampled_from([None, b"target_model_names", b"target_model_names[]"]),
    place=st.integers(0, 5),
)
async def test_forms_keep_every_byte_but_the_hint(
    wire: Wire,
    parts: list[tuple[bytes, bytes]],
    boundary: tuple[bytes, bytes],
    around: tuple[bytes, bytes],
    cut: int,
    hint: bytes | None,
    place: int,
) -> None:
    edge, parameter = boundary
    assume(not any(re.search(rb"(^|[\r\n])--" + re.escape(edge), content) for _, content in parts))
    before, after = around
    expected = [b"--%b\r\n%b\r\n\r\n%b\r\n" % (edge, head, content) for head, content in parts]
    said = list(expected)
    if hint is not None:
        said.insert(place, b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\ngpt-4\r\n' % (edge, hint))
    tail = b"--" + edge + b"--" + after
    heard, _ = await wire.carry(
        request(before + b"".join(said) + tail, b"multipart/form-data; " + parameter, pieces=cut, target=b"/v1/files"),
        OK,
    )
    assert heard.content == before + b"".join(expected) + tail
    assert (b"Content-Type", b"multipart/form-data; " + parameter) in heard.lines


async def test_a_forms_model_is_replaced_in_place(wire: Wire) -> None:
    form = (
        b'--e\r\nContent-Disposition: form-data; name="file"; filename="gpt-4"\r\n\r\ngpt-4\r\n'
        b'--e\r\nX-Before: 1\r\nContent-Disposition: form-data; name="model"\r\nX-After: 2\r\n\r\n%b\r\n--e--\r\n'
    )
    heard, _ = await wire.carry(
        request(form % b"gpt-4", b"multipart/form-data; boundary=e", target=b"/v1/audio/transcriptions"), OK
    )
    assert heard.content == form % SERVED.encode()


# Coded content: never decoded, and never the worse for being looked at.

PLAIN = (
    json.dumps({"id": "resp_1", "object": "response", "usage": {"input_tokens": 1, "output_tokens": 2}}).encode() * 50
)
EVENTS = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n' * 40 + b"data: [DONE]\n\n"
CODED = [
    (b"gzip", b"application/json", gzip.compress(PLAIN)),
    (b"gzip", b"text/event-stream", gzip.compress(EVENTS)),
    (b"GZip", b"application/json", gzip.compress(PLAIN) + gzip.compress(b"a second member")),
    (b"gzip", b"application/json", gzip.compress(PLAIN)[:-6]),
    (b"gzip", b"application/json", b"this is no gzip at all"),
    (b"gzip", b"application/json", gzip.compress(bytes(20 << 20))),
    (b"deflate", b"application/json", zlib.compress(PLAIN)),
    (b"br", b"application/json", b"\x8b\x03\x80{}\x03"),
    (b"gzip, gzip", b"application/json", gzip.compress(gzip.compress(PLAIN))),
    (b"identity", b"application/json", PLAIN),
]


@pytest.mark.parametrize("cut", [0, 1, 700])
@pytest.mark.parametrize(("coding", "kind", "content"), CODED, ids=[f"coded-{number}" for number in range(len(CODED))])
async def test_coded_responses_stay_as_they_are(
    wire: Wire, coding: bytes, kind: bytes, content: bytes, cut: int
) -> None:
    lines = [(b"Content-Type", kind), (b"content-ENCODING", coding), (b"Vary", b"Accept-Encoding"), (b"ETag", b'W/"1"')]
    heard, got = await wire.carry(
        request(
            b'{"model":"gpt-4"}',
            b"application/json",
            target=b"/v1/responses",
            lines=[(b"Accept-Encoding", b"gzip, deflate")],
        ),
        response(content, lines, pieces=cut),
    )
    assert got.content == content
    assert got.lines[-3 - len(lines) : -3] == lines
    assert (b"Accept-Encoding", b"gzip, deflate") in heard.lines


async def test_a_coded_request_stays_as_it_is(wire: Wire) -> None:
    content = gzip.compress(b'{"model":"gpt-4"}')
    heard, _ = await wire.carry(
        request(content, b"application/octet-stream", lines=[(b"Content-Encoding", b"gzip")]), OK
    )
    assert heard.content == content
    assert (b"Content-Encoding", b"gzip") in heard.lines


# Paths and queries.

SEGMENT = st.one_of(
    st.text("abcXYZ019-._~!$&'()*+,;=:@", min_size=1, max_size=8),
    st.sampled_from(
        ["%2F", "%2f", "a%20b", "%E2%82%AC", "%e2%82%ac", "%25", "a%2Bb", "...", "..a", "file-abc", "%3F", "%23"]
    ),
).filter(lambda segment: segment.partition(";")[0] not in {".", ".."})  # a parameter makes no dot segment better
QUERY = st.one_of(
    st.just(""),
    st.lists(
        st.one_of(
            st.text("abcXYZ019-._~!$&'()*+,;=:@/?", max_size=10),
            st.sampled_from(
                ["a=1", "a=2", "a=", "=", "a", "limit=20", "order=%61sc", "x[]=1", "include%5B%5D=y", "+", "%20"]
            ),
        ),
        max_size=5,
    ).map(lambda parts: "?" + "&".join(parts)),
).filter(lambda query: "model" not in query)


@settings(quick, max_examples=200)
@given(
    mount=st.sampled_from(["/openai/", "/openai/v1/", "/v1/"]),
    path=st.lists(SEGMENT, min_size=1, max_size=4),
    query=QUERY,
    slash=st.booleans(),
)
@example(mount="/v1/", path=["files"], query="?a=1&a=2&b=&&=&c", slash=True)
async def test_paths_and_queries_travel_as_bytes(
    wire: Wire, mount: str, path: list[str], query: str, slash: bool
) -> None:
    rest = ("/".join(["things", *path]) + "/" * slash + query).encode()
    heard, _ = await wire.carry(request(b"", None, target=mount.encode() + rest), OK)
    assert heard.start == b"POST /v1/" + rest + b" HTTP/1.1"


@pytest.mark.parametrize("method", [b"GET", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"QUERY", b"get", b"M-SEARCH"])
async def test_methods_are_the_clients(wire: Wire, method: bytes) -> None:
    heard, _ = await wire.carry(request(b"x", b"text/plain").replace(b"POST", method, 1), OK)
    assert heard.start == method + b" /v1/things HTTP/1.1"
    assert heard.content == b"x"


# Field lines.

TOKENS = st.text("abcdefXYZ0189!#$%&'*+-.^_`|~", min_size=1, max_size=12).map(str.encode)
KNOWN = st.sampled_from(
    [b"X-Stainless-OS", b"x-stainless-os", b"User-Agent", b"ACCEPT", b"openai-beta", b"OpenAI-Beta", b"x-request-id",
     b"Idempotency-Key", b"Set-Cookie", b"set-cookie", b"x-ratelimit-remaining-tokens", b"Warning", b"Content-Language"]
)  # fmt: skip
GONE = st.sampled_from(
    [b"Cookie", b"COOKIE", b"X-Forwarded-For", b"Forwarded", b"X-LiteLLM-Timeout", b"x-passthrough-note", b"TE",
     b"Proxy-Authorization", b"OpenAI-Organization", b"openai-project", b"Keep-Alive", b"Trailer"]
)  # fmt: skip
WORD_BYTES = [bytes([byte]) for byte in (*range(0x21, 0x7F), *range(0x80, 0x100))]
FIELD_VALUES = st.lists(st.sampled_from([*WORD_BYTES, b" ", b"\t", b"  "]), max_size=20).map(b"".join).map(bytes.strip)
FREE_NAMES = st.one_of(TOKENS, KNOWN)


def means_nothing(line: tuple[bytes, bytes]) -> bool:
    """Whether a drawn line changes neither framing nor routing."""
    name = line[0].lower().replace(b"_", b"-")
    return name not in {b"host", b"expect", b"upgrade", b"connection", b"date"} and not name.startswith(b"transfer")


@settings(quick, max_examples=150)
@given(
    asked=st.lists(st.tuples(st.one_of(FREE_NAMES, GONE), FIELD_VALUES).filter(means_nothing), max_size=12),
    answered=st.lists(st.tuples(FREE_NAMES, FIELD_VALUES).filter(means_nothing), max_size=12),
    hop=st.booleans(),
)
@example(
    asked=[(b"x-A", b"1"), (b"X-a", b""), (b"x-A", b"1")],
    answered=[(b"Set-Cookie", b"a"), (b"set-cookie", b"b")],
    hop=True,
)
async def test_field_lines_keep_order_case_and_repetition(wire: Wire, asked: Lines, answered: Lines, hop: bool) -> None:
    asked_too: Lines = [(b"Connection", b"X-Hop, keep-alive"), (b"x-hop", b"1")] if hop else []
    heard, got = await wire.carry(
        request(b"", None, lines=[*asked, *asked_too]), response(b"abc", [*answered, *asked_too])
    )
    assert kept_of_request(heard.lines) == kept_of_request([*asked, *asked_too])
    added = [line for line in heard.lines if line[0].lower() in REQUEST_REPLACED | REQUEST_REMOVED]
    assert sorted(name for name, _ in added) == [b"Authorization", b"Content-Length", b"Host"]
    ours = got.lines[-3:]
    assert [name for name, _ in ours] == OUR_OWN
    framing = [line for line in got.lines[:-3] if line[0].lower() in RESPONSE_REPLACED]
    assert framing == [(b"Content-Length", b"3")]
    hop_by_hop = HOP_BY_HOP | {b"x-hop"} if hop else HOP_BY_HOP
    rest = [line for line in kept_of_response(answered) if line[0].lower() not in hop_by_hop]
    assert [line for line in got.lines[:-3] if line not in framing] == rest


async def test_status_lines_come_back_as_they_were(wire: Wire) -> None:
    for status in (b"200 OK", b"207 Multi Status", b"299 ", b"302 Found", b"418 I'm a \xe9 teapot", b"404 not  here"):
        raw = b"HTTP/1.1 " + status + b"\r\nLocation: /elsewhere?a=%2F\r\nContent-Length: 0\r\n\r\n"
        _, got = await wire.carry(request(b"", None), raw)
        assert got.start == b"HTTP/1.1 " + status
        assert (b"Location", b"/elsewhere?a=%2F") in got.lines
        assert not re.search(rb"(?i)127\.0\.0\.1", b"".join(value for _, value in got.lines))
