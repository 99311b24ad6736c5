"""What a JSON body names is found in pieces of any size, and one string is rewritten in it."""

from __future__ import annotations

import json
import tracemalloc
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.errors import AmbiguousBody, BadRequest
from relay.subjects import inspection, jsonscan
from relay.subjects.endpoints import match_endpoint
from relay.subjects.inspection import Found, JSONPeek, Splice, Splicer, plan_of
from relay.subjects.jsonscan import JSONScanner
from relay.subjects.jsontext import Plan
from relay.subjects.pointers import Node, compile_pointers

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Iterator

EMPTY = compile_pointers([])
TREE = compile_pointers(
    [
        ("/input/*/content/*/file_id", "file"),
        ("/input/*/id", "item"),
        ("/tools/*/vector_store_ids/*", "vector_store"),
        ("/conversation", "conversation"),
        ("/conversation/id", "conversation"),
        ("/variables/*/file_id", "file"),
    ]
)
SIZES = [1, 7, 1 << 20]


def pieces(content: bytes, size: int) -> Iterator[bytes]:
    return (content[at : at + size] for at in range(0, len(content), size))


def peek_into(content: bytes, size: int = 1 << 20, tree: Node = EMPTY) -> JSONPeek:
    peek = JSONPeek(tree)
    for piece in pieces(content, size):
        peek.feed(piece)
    peek.finish()
    return peek


def spliced(content: bytes, splices: Iterable[Splice], size: int = 1 << 20) -> bytes:
    splicer = Splicer(splices)
    return b"".join([*map(splicer.feed, pieces(content, size)), splicer.finish()])


MODELS = [
    ("first", b'{"model":"m","messages":[]}', "m"),
    ("last, after a long string", b'{"input":"' + b"a" * 9000 + b'","model":"m"}', "m"),
    ("alone, with blanks", b' \r\n\t{ "model" \n:\t"m" } \n', "m"),
    ("after a byte order mark", b'\xef\xbb\xbf{"model":"m"}', "m"),
    ("nested is not ours", b'{"tools":[{"model":"no"}],"a":{"model":"no"},"model":"m"}', "m"),
    ("only nested", b'{"tools":[{"model":"no"}]}', None),
    ("in a text", rb'{"input":"\"model\":\"no\",","model":"m"}', "m"),
    ("behind backslashes", rb'{"a":"\\","b":"\\\"","c":"\\\\","d":"\\\\\"","e":"\\\\\\","model":"m"}', "m"),
    ("key in escapes", rb'{"mod\u0065l":"m"}', "m"),
    ("value in escapes", rb'{"model":"\u006d\ud83d\ude00\n\/\u00e9"}', "m\U0001f600\n/\u00e9"),
    ("UTF-8", '{"é":"é😀","model":"é😀"}'.encode(), "é😀"),
    ("empty", b'{"model":""}', ""),
    ("number", b'{"model":-1.5e+30}', None),
    ("null", b'{"model":null}', None),
    ("list", b'{"model":["m"]}', None),
    ("object", b'{"model":{"model":"m"}}', None),
    ("half a surrogate pair", rb'{"model":"\ud83d"}', None),
    ("bad UTF-8", b'{"model":"\xff"}', None),
    ("bad escape", rb'{"model":"\x"}', None),
    ("bad UTF-8 in a key", b'{"mod\xff":1,"model":"m"}', "m"),
    ("too long", b'{"model":"' + b"m" * (1 << 20) + b'"}', None),
    ("too long, in escapes", rb'{"model":"' + rb"\u006d" * 180_000 + b'"}', None),
    ("trailing comma", b'{"model":"m",}', "m"),
    ("cut", b'{"model":"m","input":["a', "m"),
    ("cut in its value", b'{"model":"m', None),
    ("another value behind", b'{"model":"m"}{"model":"no"}', "m"),
    ("garbage behind", b'{"model":"m"}]"model', "m"),
    ("no object: list", b'[{"model":"no"}]', None),
    ("no object: string", b'"model"', None),
    ("no object: form", b"model=gpt-4o", None),
    ("no object: blank", b" \n ", None),
    ("nothing", b"", None),
    ("empty object", b"{ }", None),
    ("deep", b'{"a":' + b'[{"b":' * 50 + b"1" + b"}]" * 50 + b',"model":"m"}', "m"),
    ("deep, up and down", b'{"a":' + b"[" * 40 + b"]" * 20 + b',"]"' + b",[" * 30 + b"]" * 50 + b',"model":"m"}', "m"),
    ("deep with brackets in texts", b'{"a":' + b'["]}[",' * 20 + b"1" + b',"}"]' * 20 + b',"model":"m"}', "m"),
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("body", "model"), [case[1:] for case in MODELS], ids=[case[0] for case in MODELS])
def test_the_model_is_found(body: bytes, model: str | None, size: int) -> None:
    if size == 1 and len(body) > 100_000:
        size = 1000
    found = peek_into(body, size).model
    assert (found and found.value) == model
    if found is not None:
        assert json.loads(body[found.start : found.stop]) == model


NAMES = [
    (b'{"target_model_names":"a"}', ("a",), b"{}"),
    (b'{ "target_model_names" : "a" }', ("a",), b"{ }"),
    (b'{"target_model_names":"a, b,,c ","x":1}', ("a", "b", "c"), b'{"x":1}'),
    (b'{"x":1,"target_model_names":["a","b"]}', ("a", "b"), b'{"x":1}'),
    (b'{"x":1, "target_model_names" : [ "a" , " ", 5, null, ["no"], {"no":"no"} ]\n,"y":2}', ("a",), b'{"x":1,"y":2}'),
    (b'{"x":1 ,\n"target_model_names":"a"\n}', ("a",), b'{"x":1 \n}'),
    (b'{"target_model_names":"","y":2}', (), b'{"y":2}'),
    (b'{"target_model_names":[]}', (), b"{}"),
    (b'{"target_model_names":[],"x":[]}', (), b'{"x":[]}'),
    (b'{"target_model_names":null,"y":2}', (), b'{"y":2}'),
    (b'{"target_model_names":{"a":"no"},"y":2}', (), b'{"y":2}'),
    (rb'{"x":1,"target_model_n\u0061mes":["\u0061"],"y":{"no":1}}', ("a",), b'{"x":1,"y":{"no":1}}'),
    (b'{"x":{"target_model_names":"no"}}', (), b'{"x":{"target_model_names":"no"}}'),
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("body", "names", "left"), NAMES)
def test_routing_hints_are_read_and_removed_with_one_comma(
    body: bytes, names: tuple[str, ...], left: bytes, size: int
) -> None:
    peek = peek_into(body, size)
    assert tuple(peek.target_names) == names
    result = spliced(body, peek.splices(None), size)
    assert result == left
    assert len(result) - len(body) == sum(splice.delta for splice in peek.splices(None))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["model", "target_model_names"])
@pytest.mark.parametrize("first", [b'"a"', b"1", b"null", b'["a"]', b'{"a":1}'])
@pytest.mark.parametrize("second", [b'"NAME":"b"', b'"\\u00NAME":3', b'"NAME":{}', b'"NAME"'])
def test_a_second_one_is_ambiguous(name: str, first: bytes, second: bytes, size: int) -> None:
    escaped = second.replace(b"\\u00NAME", b"\\u00%x" % ord(name[0]) + name[1:].encode())
    body = b'{"%s":%s,"x":[1],%s' % (name.encode(), first, escaped.replace(b"NAME", name.encode()))
    with pytest.raises(AmbiguousBody, match=name) as caught:
        peek_into(body + b":1}", size)
    assert (caught.value.status, caught.value.param) == (400, name)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("body", "scalars"),
    [
        (b'{"stream":true,"store":false,"background":true}', {"stream": True, "store": False, "background": True}),
        (b'{"stream" : true , "prompt_cache_key":"k\\u0041"}', {"stream": True, "prompt_cache_key": "kA"}),
        (b'{"stream":null,"store":"true","background":1,"prompt_cache_key":7}', {}),
        (b'{"stream":[true],"store":{"store":true},"prompt_cache_key":["k"]}', {}),
        (b'{"stream":true,"stream":false,"store":true,"store":0}', {"stream": False}),
        (b'{"prompt_cache_key":"a","prompt_cache_key":"b","store":trueandmoreandmore}', {"prompt_cache_key": "b"}),
        (b'{"x":{"stream":true}}', {}),
    ],
)
def test_flags_are_read_as_the_api_reads_them(body: bytes, scalars: dict[str, object], size: int) -> None:
    assert peek_into(body, size).scalars == scalars


BODY_OF_IDS = b"""{"model": "m", "conversation": "conv_1", "input": [
 {"id": "msg_1", "role": "user", "content": [{"type": "input_text", "text": "\\"file_id\\": \\"no\\" file-no"},
  {"type": "input_file", "f\\u0069le_id": "file-1"}, {"text": "x", "file_id": "file-2"}]},
 "file_id", {"content": "file-no", "metadata": {"id": "no", "file_id": "no"}, "file_id": "no"}, [{"id": "no"}]],
 "tools": [{"type": "file_search", "vector_store_ids": ["vs_1", "vs\\u005f2", 5, {"id": "no"}]}],
 "variables": {"any": {"file_id": "file-3"}, "x": {"file_id": 1}}, "conversation": {"id": "conv_2"}}"""
IDS = [
    ("conversation", "conv_1"),
    ("item", "msg_1"),
    ("file", "file-1"),
    ("file", "file-2"),
    ("vector_store", "vs_1"),
    ("vector_store", "vs_2"),
    ("file", "file-3"),
    ("conversation", "conv_2"),
]


@pytest.mark.parametrize("size", SIZES)
def test_ids_are_found_in_their_places_and_nowhere_else(size: int) -> None:
    found = peek_into(BODY_OF_IDS, size, TREE).found
    assert [(one.kind, one.value) for one in found] == IDS
    assert [json.loads(BODY_OF_IDS[one.start : one.stop]) for one in found] == [value for _, value in IDS]
    assert all(one.quoted for one in found)


@pytest.mark.parametrize("size", [7, 1 << 16, 1 << 23])
def test_an_id_at_the_end_of_a_large_body_is_found(size: int) -> None:
    body = b'{"input":[{"content":[{"image_url":"data:%s"}]},{"id":"msg_1"}]}' % (b"QUJD" * (1 << 17))
    assert [one.value for one in peek_into(body, size, TREE).found] == ["msg_1"]


def test_a_top_level_list_may_be_a_place() -> None:
    tree = compile_pointers([("/*/id", "thing")])
    assert [one.value for one in peek_into(b' [{"id":"a"},["id"],{"id":"b"}]', 3, tree).found] == ["a", "b"]


@pytest.mark.parametrize("size", SIZES)
def test_a_model_that_is_a_place_is_both(size: int) -> None:
    tree = compile_pointers([("/model", "model"), ("/session/model", "model"), ("/m*d", "no"), ("/x~1y", "odd")])
    body = b'{"session":{"model":"a"},"x/y":"o","model":"b","x\\/y":"p"}'
    peek = peek_into(body, size, tree)
    assert [(one.kind, one.value) for one in peek.found] == [("model", "a"), ("odd", "o"), ("model", "b"), ("odd", "p")]
    assert peek.model == peek.found[2]
    assert spliced(body, peek.splices("c")) == body.replace(b'"b"', b'"c"')
    assert spliced(body, peek.splices("c", peek.found[0])) == body.replace(b'"a"', b'"c"')


def test_strings_beyond_the_limits_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonscan, "ROOM", 3 * jsonscan.OVERHEAD)
    body = b'{"tools":[{"vector_store_ids":["a","b","c","d"]}]}'
    for size in SIZES:
        assert [one.value for one in peek_into(body, size, TREE).found] == ["a", "b"]


@pytest.mark.parametrize("size", SIZES)
def test_a_long_key_names_no_place_but_any(size: int) -> None:
    name = b"k" * 2000
    body = b'{"variables":{"%s":{"file_id":"a"}},"%s":1,"model":"m"}' % (name, name)
    peek = peek_into(body, size, TREE)
    assert ([one.value for one in peek.found], peek.model and peek.model.value) == (["a"], "m")


MALFORMED = [
    b"{'model':'m'}",
    b'{"a":1 "model":"m"}',
    b'{"a" "b"}',
    b'{"a":}',
    b'{"a":1]',
    b'{"a":/*"*/1}',
    b'{"a":[1,/*"*/2]}',
    b'{"a":[1,\'"\'],"model":"m"}',
    b"{\x00",
    b"{model:1}",
    b'{"input":[1}',
    b"{,}",
    b'{"a":"b";"c":1}',
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("body", MALFORMED)
def test_what_a_kinder_parser_could_read_otherwise_is_refused(body: bytes, size: int) -> None:
    with pytest.raises(BadRequest, match=r"not valid JSON.*position \d+") as caught:
        peek_into(body, size, TREE)
    assert (caught.value.status, caught.value.code) == (400, "bad_request")


def test_the_position_is_that_in_the_content() -> None:
    with pytest.raises(BadRequest, match=r"position 16\."):
        peek_into(b'{"a":1,"bcdef":!}'.replace(b"!", b" !"), 5)


def test_done_says_that_nothing_more_can_be_found() -> None:
    peek = JSONPeek(EMPTY)
    peek.feed(b'{"a":{')
    assert not peek.done
    peek.feed(b"}}")
    assert peek.done
    for body in (b"[", b"a", b" 1"):
        peek = JSONPeek(EMPTY)
        peek.feed(body)
        assert peek.done


@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        (b"[", b"]"),
        (b"[1,", b"]"),
        (b'{"a":', b"}"),
        (b'["]",', b"]"),
        (b"[[],", b"]"),
        (b"[", b",[]]"),
        (b"[[[[[[[[[[[]]]]]]]]]],", b"]"),
        (b"[", b",[[[[[[[[[[]]]]]]]]]]]"),
    ],
)
@pytest.mark.parametrize("place", [b"a", b"input", b"\\u0061"])
def test_no_nesting_is_too_deep_or_too_slow(place: bytes, opening: bytes, closing: bytes) -> None:
    """A quadratic cost would take hours here."""
    depth = 300_000 // (len(opening) + len(closing))
    body = b'{"%s":[%s0%s],"model":"m"}' % (place, opening * depth, closing * depth)
    for size in (1 << 20, 1 << 12):
        peek = peek_into(body, size, TREE)
        assert peek.model is not None
        assert peek.done


@pytest.mark.parametrize("member", [rb'"\u0061":[],', rb'"a":"\\\\\"",', b'"a":' + b"[" * 12 + b"]" * 12 + b","])
def test_many_members_that_no_expression_takes_are_not_too_slow(member: bytes) -> None:
    body = b"{" + member * (300_000 // len(member)) + b'"model":"m"}'
    assert peek_into(body).model is not None


def test_nothing_of_a_long_string_is_held() -> None:
    body = b'{"input":[{"content":"%s"}],"x":"%s"}' % (b"a" * (4 << 20), b"b\\n" * (1 << 20))
    tracemalloc.start()
    try:
        peek_into(body, 1 << 14, TREE)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 18


def test_a_string_of_interest_is_held_up_to_its_limit() -> None:
    body = b'{"conversation":"%s","x":1}' % (b"a" * (4 << 20))
    tracemalloc.start()
    try:
        assert peek_into(body, 1 << 14, TREE).found == []
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 << 20


def test_plans_are_remembered_by_tree_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "PLANS", 2)
    monkeypatch.setattr(inspection, "_plans", {})
    first, *others = (compile_pointers([("/a", kind)]) for kind in "abc")
    plan = plan_of(first)
    assert plan_of(first) is plan
    for other in others:
        plan_of(other)
    assert plan_of(first) is not plan


def seen_by(peek: JSONPeek, feed: Callable[[JSONPeek, bytes], None], content: bytes) -> object:
    """All that a peek tells of a body, or its refusal."""
    try:
        feed(peek, content)
    except BadRequest as error:
        return error.message
    return peek.done, peek.model, peek.found, peek.scalars, tuple(peek.target_names), peek.splices("new")


SAID = st.sampled_from(
    [b'"model":"m"',
     b'"model" : "\xc3\xa9"', b'"model":"\xff"', rb'"model":"\u006d"', rb'"mod\u0065l":"n"', b'"model":5',
     b'"stream":true', b'"stream": false ', b'"stream":"x"', b'"stream":{}', b'"store":null', b'"background":true',
     b'"prompt_cache_key":"k"', rb'"prompt_cache_key":"\ud83d"', b'"prompt_cache_key":7', b'"target_model_names":"a"',
     b'"x":"\\"model\\""', b'"x":{"model":"no"}', b'"x":[[[[[[["deep"]]]]]]]', b'"x":"]}"', b'"x":tru', b'"x":',
     b'"conversation":"conv_1"', b'"conversation":{"id":"conv_1"}', b'"conversation":null', b'"input":[{"id":"i"}]',
     rb'"input":[{"\u0069d":"i"}]', b'"input":"id"', b'"tools":[{"vector_store_ids":["vs_1"]}]', b'"":0', b""]
)  # fmt: skip


@pytest.mark.parametrize("path", ["/realtime/client_secrets", "/realtime/translations/client_secrets"])
def test_a_model_that_stands_below_is_not_missed_at_a_glance(path: str) -> None:
    peek = JSONPeek(match_endpoint("POST", path).body)
    peek.feed(b'{"session":{"type":"realtime","model":"voice"}}')
    peek.finish()
    assert [found.value for found in peek.found] == ["voice"]
    assert peek.model is None


@given(
    st.lists(SAID, max_size=6),
    st.sampled_from([b",", b" , ", b",,"]),
    st.sampled_from([b"{%s}", b" {%s}", b"{%s} ", b"{%s", b'{%s}"model":"no"}', b"[{%s}]", b"\xef\xbb\xbf{%s}"]),
    st.sampled_from([EMPTY, TREE, compile_pointers([("/model", "model"), ("/store", "x"), ("/*/id", "y")])]),
)
def test_a_body_says_at_a_glance_what_it_says_when_walked(
    said: list[bytes], comma: bytes, form: bytes, tree: Node
) -> None:
    content = form % comma.join(said)
    walking = JSONPeek(tree)
    JSONScanner.__init__(walking, plan_of(tree))
    assert seen_by(JSONPeek(tree), JSONPeek.feed, content) == seen_by(walking, JSONScanner.feed, content)


# Splices


def test_a_splice_says_by_how_much_the_content_grows() -> None:
    assert Splice(3, 5, b"abc").delta == 1
    assert Splice(3, 5, b"").delta == -2


@given(
    st.binary(max_size=40),
    st.lists(st.tuples(st.integers(0, 40), st.binary(max_size=3)), max_size=6),
    st.integers(1, 9),
)
def test_splices_are_applied_to_pieces_as_to_the_whole(
    content: bytes, ends: list[tuple[int, bytes]], size: int
) -> None:
    ordered = sorted(ends, key=lambda end: end[0])
    splices = [Splice(min(one[0], len(content)), min(two[0], len(content)), one[1]) for one, two in pairwise(ordered)][
        ::2
    ]
    expected, at = b"", 0
    for splice in splices:
        expected += content[at : splice.start] + splice.replacement
        at = splice.stop
    assert spliced(content, splices, size) == expected + content[at:]


def test_untouched_pieces_pass_as_they_are() -> None:
    splicer, piece = Splicer([Splice(10, 12, b"x")]), bytes(10)
    assert splicer.feed(piece) is piece


def test_the_model_is_written_as_json() -> None:
    body = b'{"model" : "a", "target_model_names": "b"}'
    assert json.loads(spliced(body, peek_into(body).splices('"é\n😀'))) == {"model": '"é\n😀'}
    assert peek_into(b'{"model":"a"}').splices("a") == []
    assert peek_into(b'{"x":"a"}').splices("a") == []


# Against json.loads


class Obj(list[tuple[str, object]]):
    """An object's members in order, names repeated as they are."""


WORDS = ["model", "stream", "store", "prompt_cache_key", "id", "file_ids", "input", "a", "é", 'x"y', "-", "*"]
NAMES_MEMBER = "target_model_names"
KEYS = st.sampled_from([*WORDS, NAMES_MEMBER]) | st.text(max_size=5)
LEAVES = (
    st.text(max_size=12) | st.booleans() | st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.recursive(
    LEAVES | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=4) | st.lists(st.tuples(KEYS, inner), max_size=4).map(Obj),
    max_leaves=25,
)
BODIES = st.lists(st.tuples(KEYS, VALUES), max_size=8).map(Obj) | VALUES
POINTERS = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=4), max_size=6).map(
    lambda rows: compile_pointers([("/" + "/".join(row), f"kind{at}") for at, row in enumerate(rows)])
)


def written(value: object, rng: random.Random) -> str:
    """Some JSON text of a value: with blanks here and there, and with escapes where they need not be."""

    def blank() -> str:
        return rng.choice(["", "", "", " ", "\n\t", "  "])

    if isinstance(value, str):
        return '"' + "".join(escaped(one, rng) for one in value) + '"'
    if isinstance(value, Obj):
        members = (f"{blank()}{written(k, rng)}{blank()}:{blank()}{written(v, rng)}{blank()}" for k, v in value)
        return "{" + (",".join(members) or blank()) + "}"
    if isinstance(value, list):
        return "[" + (",".join(blank() + written(one, rng) + blank() for one in value) or blank()) + "]"
    return json.dumps(value)


def escaped(one: str, rng: random.Random) -> str:
    if rng.random() < 0.1:
        units = one.encode("utf-16-be")
        return "".join(f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2))
    return json.dumps(one, ensure_ascii=rng.random() < 0.3)[1:-1]


def test_the_names_that_are_ours_are_no_ids() -> None:
    everywhere = Node(children={"*": Node(kind="file")})
    peek = peek_into(b'{"target_model_names":"a","x":"b"}', 64, everywhere)
    assert [one.value for one in peek.found] == ["b"]


def places(value: object, node: Node | None) -> Iterator[tuple[str, str]]:
    """The strings at the tree's places, by a plain walk."""
    if node is None:
        return
    if isinstance(value, str):
        if node.kind is not None:
            yield node.kind, value
    elif isinstance(value, Obj):
        for key, inner in value:
            yield from places(inner, node.child(key))
    elif isinstance(value, list):
        for inner in value:
            yield from places(inner, node.children.get("*"))


def named(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        parts = value.split(",")
    else:
        parts = [one for one in value if isinstance(one, str)] if type(value) is list else []
    return tuple(filter(None, map(str.strip, parts)))


@settings(max_examples=150, deadline=None)
@given(BODIES, POINTERS, st.sampled_from([1, 2, 3, 5, 8, 13, 64, 10_000]), st.randoms(use_true_random=False))
def test_what_is_found_is_what_a_decoder_finds(body: object, tree: Node, size: int, rng: random.Random) -> None:
    content = written(body, rng).encode()
    top = body if isinstance(body, Obj) else Obj()
    keys = [key for key, _ in top]
    if max(keys.count("model"), keys.count(NAMES_MEMBER)) > 1:
        with pytest.raises(AmbiguousBody):
            peek_into(content, size, tree)
        return
    peek = peek_into(content, size, tree)
    ours = [(key, value) for key, value in top if key == NAMES_MEMBER]
    without = Obj(member for member in top if member[0] != NAMES_MEMBER)
    assert [(one.kind, one.value) for one in peek.found] == list(places(body if body != top else without, tree))
    assert all(json.loads(content[one.start : one.stop]) == one.value for one in peek.found)
    members = dict(top)
    model = members.get("model")
    assert (peek.model and peek.model.value) == (model if isinstance(model, str) else None)
    assert tuple(peek.target_names) == (named(ours[0][1]) if ours else ())
    expected = {key: value for key in ("stream", "store") if isinstance(value := members.get(key), bool)}
    cache_key = members.get("prompt_cache_key")
    assert peek.scalars == expected | ({"prompt_cache_key": cache_key} if isinstance(cache_key, str) else {})
    check_splices(content, peek, without, size)


def check_splices(content: bytes, peek: JSONPeek, without: Obj, size: int) -> None:
    splices = peek.splices("new")
    edited = Obj((key, "new" if key == "model" and isinstance(value, str) else value) for key, value in without)
    result = spliced(content, splices, size)
    assert len(result) == len(content) + sum(splice.delta for splice in splices)
    if content.lstrip().startswith(b"{"):
        assert json.loads(result, object_pairs_hook=Obj) == edited
        assert json.loads(spliced(content, peek.splices(None), size), object_pairs_hook=Obj) == without
    else:
        assert result == content


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\u", b" ", b"1", b"true", b'"model"',
                              b'"a"', b'"input"', b'"id"', b"/", b"\xff", b"\x00"]), max_size=60).map(b"".join),
    st.integers(1, 9),
)  # fmt: skip
def test_no_text_crashes_it(rest: bytes, size: int) -> None:
    for content in (b"{" + rest, b'{"input":[' + rest, rest):
        try:
            peek = peek_into(content, size, TREE)
        except BadRequest:
            continue
        for splice in peek.splices("new"):
            assert 0 <= splice.start < splice.stop <= len(content)


@pytest.mark.parametrize("size", SIZES)
def test_a_scanner_may_begin_within_other_content(size: int) -> None:
    text = b'{"conversation":"c","model":"a","model":"b","input":"x"}'
    scanner = JSONScanner(Plan(TREE), 100)
    for piece in pieces(text, size):
        scanner.feed(piece)
    assert scanner.found == [Found("conversation", "c", 116, 119)]
