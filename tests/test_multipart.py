"""What a form names is found in pieces of any size; a part's content is replaced and whole parts are removed."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import dataclass
from email import policy
from email.parser import BytesParser
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.errors import AmbiguousBody, BadRequest
from relay.subjects import multipart
from relay.subjects.inspection import Found, Splicer
from relay.subjects.multipart import MultipartPeek, boundary_of
from relay.subjects.pointers import Node, compile_pointers

if TYPE_CHECKING:
    from collections.abc import Iterator

B = b"----b0undary'1"
TYPE = b'multipart/form-data; boundary="' + B + b'"'
EMPTY = compile_pointers([])
TREE = compile_pointers(
    [
        ("/file_ids/*", "file"),
        ("/consent", "voice_consent"),
        ("/session/model", "asked_model"),
        ("/session/prompt/id", "prompt"),
        ("/voice", "voice"),
        ("/voice/id", "voice"),
        ("/é", "odd"),
    ]
)
SIZES = [1, 7, 1 << 20]


def form(*parts: bytes, end: bytes = b"--\r\n", before: bytes = b"") -> bytes:
    """A form of parts, each its header section, a blank line and its content."""
    lines = [b"--" + B + b"\r\n" + part for part in parts]
    return before + b"\r\n".join([*lines, b"--" + B]) + end


def field(name: str, content: bytes | str, more: bytes = b"") -> bytes:
    data = content if isinstance(content, bytes) else content.encode()
    return b'Content-Disposition: form-data; name="%s"\r\n%s\r\n%s' % (name.encode(), more, data)


def file(name: str, content: bytes, filename: bytes = b'; filename="a.bin"') -> bytes:
    head = b'Content-Disposition: form-data; name="%s"%s\r\nContent-Type: application/octet-stream\r\n\r\n'
    return head % (name.encode(), filename) + content


def pieces(content: bytes, size: int) -> Iterator[bytes]:
    return (content[at : at + size] for at in range(0, len(content), size))


def peek_into(content: bytes, size: int = 1 << 20, tree: Node = EMPTY) -> MultipartPeek:
    peek = MultipartPeek(TYPE, tree)
    for piece in pieces(content, size):
        peek.feed(piece)
    return peek


def spliced(content: bytes, peek: MultipartPeek, model: str | None, at: Found | None = None) -> bytes:
    splices = peek.splices(model, at)
    splicer = Splicer(splices)
    result = splicer.feed(content) + splicer.finish()
    assert len(result) == len(content) + sum(splice.delta for splice in splices)
    return result


def value(found: Found | None) -> str | None:
    return None if found is None else found.value


MODELS = [
    ("first", form(field("model", "m"), file("file", b"\0\r\n")), "m"),
    ("behind a file", form(file("file", b"\r\n--\r\n--" + B[:-1] + b"\n-"), field("model", "m")), "m"),
    ("behind a preamble", form(field("model", "m"), before=b"a form:\r\n--b\r\n"), "m"),
    ("no end", form(field("model", "m"), end=b""), "m"),
    ("cut", form(field("model", "m"))[:-20], None),
    ("padded delimiters", form(field("model", "m")).replace(B, B + b" \t").replace(B + b" \t--", B + b"-- \t"), "m"),
    ("epilogue", form(field("model", "m"), end=b"--\r\nbye\r\n--" + B + b"\r\n" + field("model", "no")), "m"),
    ("empty", form(field("model", "")), ""),
    ("ends in line ends", form(field("model", "m\r\n\r\n")), "m\r\n\r\n"),
    ("a token", form(b"content-disposition:form-data;name=model\r\n\r\nm"), "m"),
    ("odd blanks", form(b"CONTENT-DISPOSITION: \tform-data ; name = model ;\t\r\n\r\nm"), "m"),
    ("folded", form(b'Content-Disposition: form-data;\r\n\tname="model"\r\nX:\r\n\r\nm'), "m"),
    ("quoted pair", form(b'Content-Disposition: form-data; name="mod\\el"\r\n\r\nm'), "m"),
    ("extended", form(b"Content-Disposition: form-data; name*=utf-8'en'mo%64el\r\n\r\nm"), "m"),
    ("UTF-8", form(field("model", "é😀")), "é😀"),
    ("bad UTF-8", form(field("model", b"\xff")), None),
    ("a file", form(file("model", b"no")), None),
    ("a file by its other name", form(file("model", b"no", b"; filename*=utf-8''a")), None),
    ("encoded", form(field("model", "bQ==", b"Content-Transfer-Encoding: base64\r\n")), None),
    ("encoded as it is", form(field("model", "m", b"Content-Transfer-Encoding: 8bit\r\n")), "m"),
    ("in a header", form(field("x", "1", b'X-Y: form-data; name="model"\r\n')), None),
    (
        "another name",
        form(field("models", "no"), field("Model", "no"), field("x[model]", "no"), field("a]b", "")),
        None,
    ),
    ("no name", form(b"Content-Disposition: form-data\r\n\r\nno", b"\r\nno", b"X: y\r\n\r\nno"), None),
    ("name in quotes of nobody", form(file("file", b"", b'; filename="my "a".txt"'), field("model", "m")), "m"),
    ("too long", form(field("model", "m" * ((1 << 20) + 1))), None),
    ("no part", form(), None),
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("body", "model"), [case[1:] for case in MODELS], ids=[case[0] for case in MODELS])
def test_the_model_is_found(body: bytes, model: str | None, size: int) -> None:
    found = peek_into(body, 1000 if len(body) > 100_000 else size).model
    assert value(found) == model
    if found is not None:
        assert body[found.start : found.stop] == found.value.encode()
        assert not found.quoted


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("parts", "names", "left"),
    [
        ([field("target_model_names", "a, b,")], ("a", "b"), []),
        ([field("target_model_names", '["a", " b", 5]'), field("x", "1")], ("a", "b"), [field("x", "1")]),
        ([field("target_model_names", "[a,b"), field("x", "1")], ("[a", "b"), [field("x", "1")]),
        ([field("target_model_names", "[a;b]")], ("[a;b]",), []),
        ([field("target_model_names", "")], (), []),
        (
            [field("target_model_names[]", "a"), field("x", "1"), field("target_model_names[]", " b ")],
            ("a", "b"),
            [field("x", "1")],
        ),
        ([field("target_model_names[0]", "a"), field("target_model_names[1]", "")], ("a",), []),
        ([field("x", "1"), file("target_model_names", b"no")], (), [field("x", "1")]),
        ([field("x", "1"), field("y[target_model_names]", "")], (), None),
    ],
)
def test_routing_hints_are_read_and_removed(
    parts: list[bytes], names: tuple[str, ...], left: list[bytes] | None, size: int
) -> None:
    for before in (b"", b"\r\n", b"preamble\r\n"):
        body = form(*parts, before=before)
        peek = peek_into(body, size)
        assert tuple(peek.target_names) == names
        assert spliced(body, peek, None) == form(*(parts if left is None else left), before=before)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("first", "second", "name"),
    [
        ("model", "model", "model"),
        ("target_model_names", "target_model_names", "target_model_names"),
        ("target_model_names", "target_model_names[]", "target_model_names"),
        ("target_model_names[]", "target_model_names", "target_model_names"),
    ],
)
def test_a_second_one_is_ambiguous(first: str, second: str, name: str, size: int) -> None:
    for one, two in ((field(first, "a"), file(second, b"b")), (file(first, b"a"), field(second, "b"))):
        with pytest.raises(AmbiguousBody, match=name):
            peek_into(form(one, field("x", "1"), two), size)


@pytest.mark.parametrize(
    ("parts", "scalars"),
    [
        (
            [("stream", "true"), ("store", "False"), ("background", "1")],
            {"stream": True, "store": False, "background": True},
        ),
        ([("stream", "yes"), ("store", ""), ("x[stream]", "true")], {}),
        (
            [("prompt_cache_key", " k "), ("stream", "true"), ("stream", "0")],
            {"prompt_cache_key": " k ", "stream": False},
        ),
    ],
)
def test_flags_are_read_as_the_api_reads_them(parts: list[tuple[str, str]], scalars: dict[str, object]) -> None:
    assert peek_into(form(*(field(*part) for part in parts))).scalars == scalars


SESSION = json.dumps({"type": "realtime", "model": "gpt-a", "prompt": {"id": "pmpt_1", "x": "pmpt_no"}})
JSON_TYPE = b"Content-Type: application/json\r\n"


@pytest.mark.parametrize("size", SIZES)
def test_ids_are_found_in_their_places_and_nowhere_else(size: int) -> None:
    body = form(
        field("sdp", "consent=cons_no"),
        field("consent", "cons_1"),
        field("file_ids[]", "file-1"),
        field("file_ids[1]", "file-2"),
        field("file_ids", "file-no"),
        field("session[prompt][id]", "pmpt_2"),
        field("session[prompt][id][x]", "pmpt_no"),
        field("session", SESSION, JSON_TYPE),
        field("voice", "voice_1"),
        field("voice", ' {"id": "voice_2"}'),
        field("voice[id]", "voice_3"),
        file("consent", b"cons_no"),
        b'Content-Disposition: form-data; name="session"; filename="blob"\r\n' + JSON_TYPE + b'\r\n{"model":"gpt-b"}',
        file("session", SESSION.encode()),
        field("é", "é"),
    )
    found = peek_into(body, size, TREE).found
    assert [(one.kind, one.value, one.quoted) for one in found] == [
        ("voice_consent", "cons_1", False),
        ("file", "file-1", False),
        ("file", "file-2", False),
        ("prompt", "pmpt_2", False),
        ("asked_model", "gpt-a", True),
        ("prompt", "pmpt_1", True),
        ("voice", "voice_1", False),
        ("voice", "voice_2", True),
        ("voice", "voice_3", False),
        ("asked_model", "gpt-b", True),
        ("odd", "é", False),
    ]
    for one in found:
        raw = body[one.start : one.stop].decode()
        assert (json.loads(raw) if one.quoted else raw) == one.value


def test_fields_are_over_when_a_file_begins() -> None:
    body = form(field("model", "m"), file("file", b"a" * 1000))
    peek = MultipartPeek(TYPE, EMPTY)
    at = body.index(b"Content-Type")
    peek.feed(body[:at])
    assert not peek.fields_over
    peek.feed(body[at : at + 100])
    assert peek.fields_over
    assert not peek.done
    peek.finish()
    assert peek.done


def test_json_that_a_browser_sends_as_a_blob_is_a_field() -> None:
    blob = b'Content-Disposition: form-data; name="session"; filename="blob"\r\n' + JSON_TYPE + b"\r\n{}"
    assert not peek_into(form(blob), tree=TREE).fields_over
    assert peek_into(form(blob)).fields_over


def test_the_model_is_replaced_and_nothing_else() -> None:
    body = form(field("x", "m"), field("model", "m"), file("file", b"model\r\nm"), before=b"m\r\n")
    peek = peek_into(body)
    assert spliced(body, peek, "é") == form(
        field("x", "m"), field("model", "é"), file("file", b"model\r\nm"), before=b"m\r\n"
    )
    assert peek.splices("m") == peek.splices(None) == []


def test_a_part_that_states_its_length_states_the_new_one() -> None:
    """OkHttp writes the length of each part, so every client in Java or Kotlin does."""
    session = SESSION.encode()
    parts = [
        field("x", "m", b"Content-Length: 1\r\n"),
        field("model", "m", b"content-length:\t1 \r\nX: y\r\n"),
        b"Content-Length: %d\r\n" % len(session) + field("session", session, JSON_TYPE),
    ]
    body = form(*parts)
    peek = peek_into(body, tree=TREE)
    renamed = form(parts[0], parts[1].replace(b"1 ", b"10 ")[:-1] + b"gpt-4o-eu!", parts[2])
    assert spliced(body, peek, "gpt-4o-eu!") == renamed
    longer = parts[2].replace(b"gpt-a", b"gpt-abc").replace(b"%d" % len(session), b"%d" % (len(session) + 2))
    assert spliced(body, peek, "gpt-abc", peek.found[0]) == form(parts[0], parts[1], longer)


def test_fields_beyond_the_room_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multipart, "ROOM", 800)
    many = form(*(field("file_ids[]", f"file-{number}") for number in range(9)))
    assert len(peek_into(many, tree=TREE).found) == 3
    mixed = form(field("session", SESSION), field("consent", "cons_1"), field("voice", "no"))
    assert [one.kind for one in peek_into(mixed, tree=TREE).found] == ["asked_model", "prompt", "voice_consent"]


MALFORMED = [
    ("lines end in LF", form(field("model", "m")).replace(b"\r\n", b"\n"), "alone"),
    ("one line ends in LF", form(field("x", "y"), field("model", "m")).replace(b"y\r\n", b"y\n"), "CR and LF"),
    ("LF at once", form(field("x", b"\n--" + B)), "CR and LF"),
    ("delimiter and more", form(field("x", b"\r\n--" + B + b"x\r\n")), "alone"),
    ("delimiter and one dash", form(field("x", b"\r\n--" + B + b"-x")), "alone"),
    ("delimiter, blank and dashes", form(field("x", b"\r\n--" + B + b" --\r\n")), "alone"),
    ("delimiter and LF", form(field("x", b"\r\n--" + B + b"\n")), "alone"),
    ("long padding", form(field("x", b"\r\n--" + B + b" " * 300)), "alone"),
    ("last delimiter and more", form(field("x", "1"), end=b"-- x"), "alone"),
    ("no content", form(b"X: y\r\n\r\n--" + B), "content"),
    ("no blank line", form(b"X: y") + form(field("model", "m")), "header section"),
    ("no colon", form(b"X y\r\n\r\n"), "header section"),
    ("blank before the colon", form(b"X : y\r\n\r\n"), "header section"),
    ("LF in the header section", form(b"X: y\nContent-Disposition: a; name=model\r\n\r\nm"), "header section"),
    ("folded first line", form(b" X: y\r\n\r\nm"), "header section"),
    ("two dispositions", form(b"Content-Disposition: a\r\n" + field("model", "m")), "header section"),
    ("long header section", form(b"X: %s\r\n\r\n" % (b"y" * 20_000)), "too long"),
    ("endless header section", form(b"X: %s" % (b"y" * 40_000)), "too long"),
    ("two names", form(b"Content-Disposition: form-data; name=a; name=model\r\n\r\nm"), "one reading"),
    ("two kinds of name", form(b"Content-Disposition: form-data; name=a; name*=''model\r\n\r\nm"), "one reading"),
    ("quotes within a name", form(b'Content-Disposition: form-data; name="a"b; name=model\r\n\r\nm'), "one reading"),
    ("quotes before a name", form(file("f", b"").replace(b'name="f"', b'filename="a"b"; name=f')), "one reading"),
]  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("body", "what"), [case[1:] for case in MALFORMED], ids=[case[0] for case in MALFORMED])
def test_what_a_kinder_parser_could_read_otherwise_is_refused(body: bytes, what: str, size: int) -> None:
    with pytest.raises(BadRequest, match=what) as caught:
        peek_into(body, size)
    assert (caught.value.status, caught.value.code) == (400, "bad_request")


def test_json_in_a_part_is_judged_like_a_body() -> None:
    with pytest.raises(BadRequest, match="not valid JSON"):
        peek_into(form(field("session", "{'model':1}")), tree=TREE)


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        (b"multipart/form-data; boundary=abc", b"abc"),
        (b"multipart/form-data;boundary=abc;", b"abc"),
        (b'Multipart/Form-Data; charset=utf-8; BOUNDARY="a b" ; x="y;\\"boundary=no"', b"a b"),
        (b'multipart/form-data; boundary="a\\bc"', b"abc"),
        (b"multipart/form-data; boundary=" + b"a" * 70, b"a" * 70),
        (b"multipart/form-data; boundary=a/b:c=?", b"a/b:c=?"),
        (b"multipart/form-data", None),
        (b"multipart/form-data; boundary=", None),
        (b'multipart/form-data; boundary=""', None),
        (b'multipart/form-data; boundary="a "', None),
        (b"multipart/form-data; boundary=" + b"a" * 71, None),
        (b"multipart/form-data; boundary=a; boundary=b", None),
        (b"multipart/form-data; boundary=a b", None),
        (b'multipart/form-data; boundary="a', None),
        (b"multipart/form-data; boundary=a\xc3\xa9", None),
        (b'multipart/form-data; boundary="a\r\nb"', None),
    ],
)
def test_the_boundary_is_read(content_type: bytes, boundary: bytes | None) -> None:
    if boundary is None:
        with pytest.raises(BadRequest, match="boundary"):
            MultipartPeek(content_type, EMPTY)
    else:
        assert boundary_of(content_type) == boundary


def test_nothing_of_a_file_is_held() -> None:
    body = form(file("file", b"\r\n--x" * (1 << 20)), field("model", "m"))
    tracemalloc.start()
    try:
        peek = peek_into(body, 1 << 14)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert value(peek.model) == "m"
    assert peak < 1 << 18


# Against a generator of forms and the standard library's parser


@dataclass(frozen=True)
class Made:
    name: str
    is_file: bool
    content: bytes
    part: bytes


BITS = [b"\r\n", b"\n", b"\r", b"--", B, B[:-1], b"\r\n--", b"\r\n--" + B[:-1], b"-", b" ", b"\0\xff", b"a" * 30]
CONTENTS = st.lists(st.sampled_from(BITS) | st.binary(max_size=5), max_size=8).map(b"".join).filter(
    lambda content: b"\n--" + B not in content and not content.startswith(b"--" + B)
)  # fmt: skip
NAMES = st.sampled_from(["target_model_names[]", "file_ids[]", "consent", "x", "é", 'a"b', "a\\b", "stream"])


@st.composite
def made_parts(draw: st.DrawFn) -> Made:
    name, is_file, content = draw(NAMES), draw(st.booleans()), draw(CONTENTS)
    quoted = name.replace("\\", "\\\\").replace('"', '\\"').encode()
    parameters = [b'name="%s"' % quoted]
    if is_file:
        parameters.append(
            draw(st.sampled_from([b'filename="a; name=b"', b"filename=a", b"filename*=UTF-8''%e2%82%ac"]))
        )
        parameters = draw(st.permutations(parameters))
    gap = draw(st.sampled_from([b"; ", b";", b" ;\t", b";\r\n "]))
    lines = [b"Content-Disposition: form-data" + b"".join(gap + one for one in parameters)]
    lines += draw(st.lists(st.sampled_from([b"X-A: b", b"X-B:", b"X-C: d;\r\n\te"]), unique=True, max_size=3))
    lines = draw(st.permutations(lines))
    return Made(name, is_file, content, b"".join(line + b"\r\n" for line in lines) + b"\r\n" + content)


PREAMBLES = st.sampled_from([b"", b"\r\n", b"--\r\n", b"text\r\n--" + B[:-1] + b"\r\n"])
ENDS = st.sampled_from([b"--", b"--\r\n", b"-- \t\r\nepilogue\r\n--" + B + b"--", b"--\r\n\r\n"])


@settings(max_examples=200, deadline=None)
@given(st.lists(made_parts(), min_size=1, max_size=6), PREAMBLES, ENDS, st.sampled_from([1, 3, 17, 64, 10_000]))
def test_what_is_found_is_what_was_put_in(parts: list[Made], before: bytes, end: bytes, size: int) -> None:
    body = form(*(made.part for made in parts), before=before, end=end)
    peek = peek_into(body, size, TREE)
    assert peek.done
    assert peek.fields_over == any(made.is_file for made in parts)
    kinds = {"file_ids[]": "file", "consent": "voice_consent", "é": "odd"}
    readable = [(made.name, made.content.decode()) for made in parts if not made.is_file and is_text(made.content)]
    assert [(one.kind, one.value) for one in peek.found] == [
        (kinds[name], text) for name, text in readable if name in kinds
    ]
    assert [body[one.start : one.stop].decode() for one in peek.found] == [one.value for one in peek.found]
    hints = [text.strip() for name, text in readable if name == "target_model_names[]"]
    assert tuple(peek.target_names) == tuple(filter(None, hints))
    left = [made for made in parts if made.name != "target_model_names[]"]
    assert spliced(body, peek, "m") == form(*(made.part for made in left), before=before, end=end)


def is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(NAMES.filter(str.isascii), st.binary(max_size=30)), min_size=1, max_size=5))
def test_the_standard_library_reads_what_is_left_alike(fields: list[tuple[str, bytes]]) -> None:
    hexed = [(name, data.hex()) for name, data in [*fields, ("model", b"old")]]
    parts = [field(name.replace("\\", "\\\\").replace('"', '\\"'), text) for name, text in hexed]
    body = form(*parts)
    result = spliced(body, peek_into(body, 5), "new")
    message = BytesParser(policy=policy.HTTP).parsebytes(b"Content-Type: " + TYPE + b"\r\n\r\n" + result)
    read = [(part.get_param("name", header="content-disposition"), part.get_payload()) for part in message.iter_parts()]
    expected = [(name, text) for name, text in hexed[:-1] if name != "target_model_names[]"]
    assert read == [*expected, ("model", "new")]


SHREDS = [
    *BITS, b"\r\n--" + B, b"\r\n--" + B + b"\r\n", b"--" + B, b"\r\n\r\n", field("model", "a"), b":", b";", b'"',
    b"Content-Disposition: form-data", b"; name=model",
]  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(SHREDS), max_size=20).map(b"".join), st.integers(1, 9))
def test_no_content_crashes_it(content: bytes, size: int) -> None:
    try:
        peek = peek_into(content, size, TREE)
    except BadRequest:
        return
    for splice in peek.splices("new"):
        assert 0 <= splice.start <= splice.stop <= len(content)
