"""Answers watched in passing: recorded shapes in pieces of 1, 7 and all bytes, plain and compressed, and noise."""

from __future__ import annotations

import gzip
import json
import zlib
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.record import finders, tap
from relay.record.finders import IdFinder, UsageFinder, id_names, walk
from relay.record.inflate import Inflater
from relay.record.tap import LARGEST_EVENT, ResponseTap, SSESplitter, ends_event
from relay.record.usage import Usage
from relay.subjects.pointers import Node, compile_pointers

if TYPE_CHECKING:
    from collections.abc import Callable

JSON, SSE = b"application/json", b"text/event-stream; charset=utf-8"
NOTHING = Node()
CHAT_IDS = compile_pointers(
    [
        ("/id", "chat_completion"),
        ("/choices/*/delta/audio/id", "chat_audio"),
        ("/choices/*/message/audio/id", "chat_audio"),
    ]
)
RESPONSE_IDS = compile_pointers(
    [
        ("/id", "response"),
        ("/output/*/id", "response_item"),
        ("/response/id", "response"),
        ("/item/id", "response_item"),
        ("/item/encrypted_content", "encrypted_blob"),
        ("/response/output/*/encrypted_content", "encrypted_blob"),
    ]
)

CHAT = b"""{
  "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
  "object": "chat.completion",
  "created": 1741569952,
  "model": "gpt-5",
  "choices": [{"index": 0, "message": {"role": "assistant", "content": "My \\"usage\\": {\\"prompt_tokens\\": 1}",
    "refusal": null, "annotations": []}, "logprobs": null, "finish_reason": "stop"}],
  "usage": {
    "prompt_tokens": 1117, "completion_tokens": 46, "total_tokens": 1163,
    "prompt_tokens_details": {"cached_tokens": 1024, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 32, "audio_tokens": 0,
      "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0}
  },
  "service_tier": "default"
}
"""
COMPLETION = (
    b'{"id":"cmpl-7","object":"text_completion","choices":[{"text":"x"}],"usage":{"prompt_tokens":5,'
    b'"completion_tokens":7,"total_tokens":12}}'
)
EMBEDDINGS = (
    b'{"object":"list","data":[{"object":"embedding","index":0,"embedding":['
    + b",".join([b"-0.0069292834"] * 300)
    + b']}],"model":"text-embedding-3-small","usage":{"prompt_tokens":8,"total_tokens":8}}'
)
IMAGES = (
    b'{"created":1713833628,"data":[{"b64_json":"'
    + b"iVBO" * 40_000
    + b'"},{"b64_json":"AAAA"}],"background":"opaque","usage":{"total_tokens":4210,"input_tokens":50,'
    b'"output_tokens":4160,"input_tokens_details":{"text_tokens":10,"image_tokens":40}}}'
)
DALLE = b'{"created":1589478378,"data":[{"url":"https://a/1.png","b64_json":null},{"url":"https://a/2.png"}]}'
TRANSCRIPT = (
    b'{"text":"Imagine","usage":{"type":"tokens","input_tokens":14,"input_token_details":{"text_tokens":0,'
    b'"audio_tokens":14},"output_tokens":45,"total_tokens":59}}'
)
WHISPER = b'{"text":"Imagine","usage":{"type":"duration","seconds":8.470}}'
RESPONSE: dict[str, Any] = {
    "id": "resp_67cc",
    "object": "response",
    "output": [{"type": "message", "id": "msg_67cc", "content": [{"type": "output_text", "text": "Hi"}]}],
    "tools": [{"type": "function", "parameters": {"properties": {"usage": {"type": "object"}}}}],
    "service_tier": "flex",
    "usage": {
        "input_tokens": 37,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 5},
        "output_tokens": 11,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 48,
    },
    "metadata": {"usage": {"of": "tests"}},
}
RESPONSE_USAGE = Usage(37, 0, 5, 0, 0, 11, 3, service_tier="flex")


def event(data: dict[str, Any], name: str = "", end: str = "\n") -> bytes:
    head = f"event: {name}{end}" if name else ""
    return f"{head}data: {json.dumps(data)}{end}{end}".encode()


def chunk(delta: dict[str, Any], **more: Any) -> bytes:
    return event({"id": "chatcmpl-1", "choices": [{"index": 0, "delta": delta}], "usage": None, **more})


CHAT_STREAM = (
    chunk({"role": "assistant", "content": ""})
    + chunk({"content": 'The "usage": {'})
    + chunk({"audio": {"id": "audio_1", "data": "AAAA"}})
    + chunk({}, choices=[], usage={"prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29})
    + b"data: [DONE]\n\n"
)
UNMETERED_STREAM = event({"id": "chatcmpl-1", "choices": []}) + b"data: [DONE]\n\n"
RUNNING_USAGE = b"".join(chunk({}, usage={"prompt_tokens": 9, "completion_tokens": count}) for count in range(5))
RESPONSE_STREAM = (
    event({"type": "response.created", "response": RESPONSE | {"usage": None, "output": []}}, "response.created")
    + event({"type": "response.output_item.added", "item": {"id": "msg_67cc", "type": "message"}})
    + event({"type": "response.output_text.delta", "item_id": "msg_67cc", "delta": "Hi"})
    + event({"type": "response.output_item.done", "item": {"id": "rs_1", "encrypted_content": "gAAAA" * 200}})
    + event({"type": "response.completed", "response": RESPONSE}, "response.completed")
)
RESPONSE_STREAM_IDS = [
    ("response", "resp_67cc"),
    ("response_item", "msg_67cc"),
    ("response_item", "rs_1"),
    ("encrypted_blob", "gAAAA" * 200),
]
IMAGE_USAGE = {"input_tokens": 50, "output_tokens": 4160}
IMAGE_STREAM = event({"type": "image_generation.partial_image", "b64_json": "A" * 90_000}) + event(
    {"type": "image_generation.completed", "b64_json": "A" * 1_400_000, "usage": IMAGE_USAGE}
)

ANSWERS: list[tuple[str, bytes, bytes, Node, list[tuple[str, str]], Usage | None]] = [
    ("chat", JSON, CHAT, CHAT_IDS, [("chat_completion", "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT")],
     Usage(1117, 1024, 0, 0, 0, 46, 32, service_tier="default")),
    ("chat, no ids asked", JSON, CHAT, NOTHING, [], Usage(1117, 1024, 0, 0, 0, 46, 32, service_tier="default")),
    ("completion", JSON, COMPLETION, NOTHING, [], Usage(5, output_tokens=7)),
    ("embeddings", JSON, EMBEDDINGS, NOTHING, [], Usage(8)),
    ("transcription by token", JSON, TRANSCRIPT, NOTHING, [], Usage(14, input_audio_tokens=14, output_tokens=45)),
    ("transcription by second", JSON, WHISPER, NOTHING, [], Usage(seconds=Decimal("8.470"))),
    ("response", JSON, json.dumps(RESPONSE).encode(), RESPONSE_IDS,
     [("response", "resp_67cc"), ("response_item", "msg_67cc")], RESPONSE_USAGE),
    ("response, spread out", JSON, json.dumps(RESPONSE, indent=2).encode(), NOTHING, [], RESPONSE_USAGE),
    ("a problem", b"application/problem+json", b'{"usage":{"input_tokens":1}}', NOTHING, [], Usage(1)),
    ("chat stream", SSE, CHAT_STREAM, CHAT_IDS, [("chat_completion", "chatcmpl-1"), ("chat_audio", "audio_1")],
     Usage(19, output_tokens=10)),
    ("chat stream without usage", SSE, UNMETERED_STREAM, NOTHING, [], None),
    ("usage in every chunk", SSE, RUNNING_USAGE, NOTHING, [], Usage(9, output_tokens=4)),
    ("response stream", SSE, RESPONSE_STREAM, RESPONSE_IDS, RESPONSE_STREAM_IDS, RESPONSE_USAGE),
    ("response stream, CRLF", SSE, RESPONSE_STREAM.replace(b"\n", b"\r\n"), RESPONSE_IDS, RESPONSE_STREAM_IDS,
     RESPONSE_USAGE),
    ("response stream, CR", SSE, RESPONSE_STREAM.replace(b"\n", b"\r"), RESPONSE_IDS, RESPONSE_STREAM_IDS,
     RESPONSE_USAGE),
    ("no blank line at the end", SSE, RESPONSE_STREAM.rstrip(b"\n"), RESPONSE_IDS, RESPONSE_STREAM_IDS, RESPONSE_USAGE),
    ("one document over lines", SSE, b'data: {"id":"r_1",\ndata: "usage":\ndata: {"input_tokens":\ndata: 4}}\n\n',
     RESPONSE_IDS, [("response", "r_1")], Usage(4)),
    ("text", b"text/plain", CHAT, CHAT_IDS, [], None),
    ("nothing", JSON, b"", CHAT_IDS, [], None),
    ("an error", JSON, b'{"error":{"message":"no","type":"x","param":null,"code":null}}', CHAT_IDS, [], None),
    ("a null usage", JSON, b'{"usage":null,"id":"x"}', CHAT_IDS, [("chat_completion", "x")], None),
    ("cut short", JSON, CHAT[:-300], NOTHING, [], None),
]  # fmt: skip

CODINGS: dict[bytes, Callable[[bytes], bytes]] = {
    b"": bytes,
    b"identity": bytes,
    b"gzip": gzip.compress,
    b"X-GZIP": lambda body: gzip.compress(body[: len(body) // 2]) + gzip.compress(body[len(body) // 2 :]),
    b"deflate": zlib.compress,
    b"Deflate": lambda body: zlib.compress(body, wbits=-15),
}


def watch(watcher: ResponseTap, body: bytes, size: int) -> list[tuple[str, str]]:
    pairs = []
    for at in range(0, len(body), size):
        pairs += watcher.feed(body[at : at + size])
    return pairs + watcher.finish()


@pytest.mark.parametrize("coding", CODINGS, ids=lambda coding: coding.decode() or "plain")
@pytest.mark.parametrize("size", [1, 7, 1 << 30])
@pytest.mark.parametrize(
    ("media", "body", "pointers", "ids", "usage"), [case[1:] for case in ANSWERS], ids=[case[0] for case in ANSWERS]
)
def test_ids_and_usage_are_the_same_in_pieces_of_any_size(
    *,
    media: bytes,
    body: bytes,
    pointers: Node,
    ids: list[tuple[str, str]],
    usage: Usage | None,
    size: int,
    coding: bytes,
) -> None:
    watcher = ResponseTap(media, coding, pointers, metered=True)
    assert watch(watcher, CODINGS[coding](body), size) == ids
    assert watcher.usage == usage
    assert watcher.feed(body) == []  # after its end
    assert watcher.finish() == []


@pytest.mark.parametrize("size", [777, 1 << 30])
@pytest.mark.parametrize(
    ("media", "body", "usage"),
    [
        (JSON, IMAGES, Usage(50, 0, 0, 0, 40, 4160, 0, 0, 4160, images=2)),
        (JSON, DALLE, Usage(images=2)),
        (JSON, b'{"error":{"message":"no"}}', None),
        (SSE, IMAGE_STREAM, Usage(50, output_tokens=4160, output_image_tokens=4160, images=1)),
    ],
)
def test_pictures_are_counted_where_that_is_asked(media: bytes, body: bytes, usage: Usage | None, size: int) -> None:
    watcher = ResponseTap(media, b"", NOTHING, metered=True, images=True)
    assert watch(watcher, body, size) == []
    assert watcher.usage == usage


def test_ids_leave_with_the_piece_that_shows_them() -> None:
    watcher = ResponseTap(SSE, b"", RESPONSE_IDS, metered=True)
    begin, rest = RESPONSE_STREAM[:20], RESPONSE_STREAM[20:]
    first = rest.index(b"\n\n") + 2
    assert watcher.feed(begin) == []
    assert watcher.feed(rest[:first]) == [("response", "resp_67cc")]
    assert watcher.feed(rest[first:]) == RESPONSE_STREAM_IDS[1:]


def test_a_document_in_pieces_shows_its_ids_at_once() -> None:
    watcher = ResponseTap(JSON, b"", RESPONSE_IDS, metered=False)
    assert watcher.feed(b'{"id":"resp_1","output":[{"id":"msg_1"}') == [
        ("response", "resp_1"),
        ("response_item", "msg_1"),
    ]
    assert watcher.feed(b',{"id":"msg_1"},{"id":"msg_2"}]}') == [("response_item", "msg_2")]
    assert watcher.usage is None


def test_what_the_scanner_refuses_ends_only_the_search_for_ids() -> None:
    watcher = ResponseTap(JSON, b"", RESPONSE_IDS, metered=True)
    assert watcher.feed(b'{"id":"resp_1" oh no') == [("response", "resp_1")]
    assert watcher.feed(b',"output":[{"id":"msg_1"}],"usage":{"input_tokens":3}}') == []
    assert watcher.usage == Usage(3)


@pytest.mark.parametrize(
    ("media", "coding", "pointers", "metered", "watching"),
    [
        (JSON, b"", CHAT_IDS, False, True),
        (JSON, b"", NOTHING, True, True),
        (b"APPLICATION/JSON ; charset=utf-8", b" gzip ", NOTHING, True, True),
        (JSON, b"", NOTHING, False, False),
        (JSON, b"br", CHAT_IDS, True, False),
        (JSON, b"zstd", CHAT_IDS, True, False),
        (JSON, b"gzip, gzip", CHAT_IDS, True, False),
        (b"audio/mpeg", b"", CHAT_IDS, True, False),
        (b"", b"", CHAT_IDS, True, False),
    ],
)
def test_only_what_can_show_something_is_watched(
    media: bytes, coding: bytes, pointers: Node, metered: bool, watching: bool
) -> None:
    watcher = ResponseTap(media, coding, pointers, metered)
    assert watcher.watching is watching
    if not watching:
        assert watch(watcher, CHAT, 100) == []
        assert watcher.usage is None


STREAMS = [
    ("plain", b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
    ("no space", b"data:a\n\n", [b"a"]),
    ("two spaces", b"data:  a\n\n", [b" a"]),
    ("several lines", b"data: a\ndata:b\ndata\n\n", [b"a\nb\n"]),
    ("other fields", b"event: x\nid: 1\nretry: 3\ndata: a\n: note\n\n", [b"a"]),
    ("a longer name", b"database: a\n\n", []),
    ("a comment", b": ping\n\ndata: a\n\n", [b"a"]),
    ("blank lines", b"\n\n\n\ndata: a\n\n\n\n", [b"a"]),
    ("mixed ends", b"data: a\r\n\ndata: b\n\r\ndata: c\r\rdata: d\r\n\r\n", [b"a", b"b", b"c", b"d"]),
    ("a byte order mark", b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
    ("one inside", b"data: \xef\xbb\xbf\n\n", [b"\xef\xbb\xbf"]),
    ("no end", b"data: a\n\ndata: b", [b"a", b"b"]),
    ("half a mark", b"\xef\xbb", []),
    ("no data", b"event: x\n\n", []),
]


@pytest.mark.parametrize("size", [1, 7, 1 << 30])
@pytest.mark.parametrize(("stream", "events"), [case[1:] for case in STREAMS], ids=[case[0] for case in STREAMS])
def test_a_stream_is_cut_into_its_events(stream: bytes, events: list[bytes], size: int) -> None:
    splitter = SSESplitter()
    found = [data for at in range(0, len(stream), size) for data in splitter.feed(stream[at : at + size])]
    assert found + splitter.finish() == events


@pytest.mark.parametrize(
    ("stream", "between"),
    [(b"data: a\n\n", True), (b"a\r\n\r\n", True), (b"a\r\r", True), (b"a\n\r\n", True), (b"a\n", False),
     (b"a\r\n", False), (b"\n\na", False), (b"", False), (b"\n\na\n", False)],
)  # fmt: skip
def test_the_place_between_two_events_is_known(stream: bytes, between: bool) -> None:
    assert ends_event(stream) is between


def test_an_event_beyond_the_bound_loses_its_middle_only() -> None:
    splitter = SSESplitter()
    picture = b"data: {" + b"A" * (3 * LARGEST_EVENT) + b"}\n\n"
    events = [data for at in range(0, len(picture), 65_536) for data in splitter.feed(picture[at : at + 65_536])]
    assert len(events) == 1
    assert events[0].startswith(b"{AAA")
    assert events[0].endswith(b"AAA}")
    assert len(events[0]) <= LARGEST_EVENT
    assert splitter.feed(b"data: next\n\n") == [b"next"]


def test_an_unfinished_event_is_held_within_the_bound() -> None:
    splitter = SSESplitter()
    for _ in range(100):
        splitter.feed(b"A" * 65_536)
    assert len(splitter.partial) <= LARGEST_EVENT + 65_536


def test_a_bomb_ends_the_watching_and_nothing_else() -> None:
    bomb = gzip.compress(b'{"usage":{"input_tokens":1},' + b" " * (64 << 20))
    watcher = ResponseTap(JSON, b"gzip", CHAT_IDS, metered=True)
    assert watcher.feed(bomb) == []
    assert not watcher.watching
    assert watcher.usage == Usage(1)


def test_inflated_pieces_are_bounded() -> None:
    assert max(map(len, Inflater().feed(gzip.compress(b"ab" * 500_000)))) <= 256 << 10


def test_ids_found_before_a_coding_breaks_are_told() -> None:
    whole = gzip.compress(b'data: {"id":"chatcmpl-1"}\n\n')
    watcher = ResponseTap(SSE, b"gzip", CHAT_IDS, metered=True)
    assert watcher.feed(whole + b"garbage") == [("chat_completion", "chatcmpl-1")]
    assert not watcher.watching


def test_a_usage_object_that_never_ends_is_left_for_the_next() -> None:
    finder = UsageFinder()
    finder.feed(b'{"usage":{"a":"' + b"x" * 9000 + b'","usage":{"input_tokens":2}}')
    assert finder.usage == Usage(2)


@pytest.mark.parametrize("size", [1, 7, 1 << 30])
def test_a_usage_object_of_another_kind_is_not_taken_for_one(size: int) -> None:
    body = b'{"usage":{"input_tokens":2},"tool":{"usage":{"type":"object"}},"a":{"xusage":{"input_tokens":9}}}'
    finder = UsageFinder()
    for at in range(0, len(body), size):
        finder.feed(body[at : at + size])
    assert finder.usage == Usage(2)


def test_no_more_ids_are_told_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finders, "MOST_IDS", 2)
    watcher = ResponseTap(SSE, b"", CHAT_IDS, metered=False)
    stream = b"".join(event({"id": f"chatcmpl-{number}"}) for number in range(5))
    assert [value for _, value in watcher.feed(stream)] == ["chatcmpl-0", "chatcmpl-1"]


def test_no_more_ids_of_a_document_are_held_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finders, "MOST_IDS", 2)
    watcher = ResponseTap(JSON, b"", RESPONSE_IDS, metered=False)
    shown = [watcher.feed(b'{"output":['), *(watcher.feed(b'{"id":"msg_%d"},' % number) for number in range(9))]
    assert [value for pairs in shown for _, value in pairs] == ["msg_0", "msg_1"]
    assert watcher._ids is not None
    assert watcher._ids._peek is not None
    assert len(watcher._ids._peek.found) == 2


def test_no_more_ids_are_known_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finders, "MOST_KNOWN", 1)
    finder = IdFinder(CHAT_IDS)
    for name in ("a", "b"):
        assert finder.event(b'{"id":"%s"}' % name.encode()) == [("chat_completion", name)]
    assert finder.is_dull(b'{"id":"a"}')
    assert not finder.is_dull(b'{"id":"b"}')


def test_an_id_known_from_elsewhere_is_still_found_in_its_place() -> None:
    finder = IdFinder(compile_pointers([("/item/id", "response_item")]))
    assert finder.event(b'{"other":{"id":"msg_1"}}') == []
    assert finder.event(b'{"item":{"id":"msg_1"}}') == [("response_item", "msg_1")]


def test_lists_of_ids_are_read_too() -> None:
    tree = compile_pointers([("/file_ids/*", "file"), ("/data/*/id", "file")])
    finder = IdFinder(tree)
    assert finder.event(b'{"file_ids":["file-1","file-2",3,""],"data":{"id":"no"},"object":"x"}') == [
        ("file", "file-1"),
        ("file", "file-2"),
    ]
    assert finder.event(b'{"file_ids":["file-3"]}') == [("file", "file-3")]
    assert finder.event(b'{"file_ids":null}') == []


def test_a_tree_whose_names_are_anything_is_always_decoded() -> None:
    tree = compile_pointers([("/*", "thing")])
    assert id_names(tree) == (None, None, None)
    finder = IdFinder(tree)
    assert not finder.is_dull(b"{}")
    assert finder.event(b'{"a":"x"}') == [("thing", "x")]


def test_a_document_without_the_way_to_an_id_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = compile_pointers([("/choices/*/message/audio/id", "chat_audio")])
    with monkeypatch.context() as patched:
        patched.setattr(finders, "decode", None)
        watcher = ResponseTap(JSON, b"", tree, metered=False)
        assert watcher.feed(b'{"id":"chatcmpl-1","choices":[{"message":{"audio":null}}]}') == []
        assert watcher.watching
    shown = b'{"choices":[{"message":{"audio": {"id":"audio_1"}}}]}'
    assert IdFinder(tree).document(shown) == [("chat_audio", "audio_1")]


@pytest.mark.parametrize("metered", [False, True])
def test_a_document_that_is_cut_where_it_looks_whole_shows_all_its_ids(metered: bool) -> None:
    watcher = ResponseTap(JSON, b"", CHAT_IDS, metered=metered)
    assert watcher.feed(b'{"choices":[{"message":{"content":"a"}}') == []
    assert watcher.feed(b',{"message":{"audio":{"id":"audio_1"}}}],"id":"chatcmpl-1"}') == [
        ("chat_audio", "audio_1"),
        ("chat_completion", "chatcmpl-1"),
    ]


def test_a_line_end_behind_a_whole_document_shows_nothing_anew() -> None:
    watcher = ResponseTap(JSON, b"", CHAT_IDS, metered=True)
    assert watcher.feed(CHAT.strip()) == [("chat_completion", "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT")]
    assert watcher.feed(b"\r\n") == []
    assert watcher.usage is not None
    assert watcher.usage.input_tokens == 1117


def test_patterns_are_made_once_for_a_tree_and_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finders, "MOST_TREES", 2)
    trees = [compile_pointers([(f"/id{number}", "x")]) for number in range(5)]
    patterns = [id_names(tree) for tree in trees]
    assert id_names(trees[4]) is patterns[4]
    assert len(finders._patterns_of) <= 2


def test_a_fault_of_ours_ends_the_watching_and_never_the_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    watcher = ResponseTap(SSE, b"", CHAT_IDS, metered=True)
    watcher.feed(b'data: {"id":"x"}')
    monkeypatch.setattr(tap, "event_data", None)
    assert watcher.finish() == []
    watcher = ResponseTap(SSE, b"", CHAT_IDS, metered=True)
    assert watcher.feed(b'data: {"id":"x"}\n\n') == []
    assert not watcher.watching


def test_a_dull_stream_is_not_even_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    watcher = ResponseTap(SSE, b"", CHAT_IDS, metered=True)
    watcher.feed(chunk({"content": "a"}))
    monkeypatch.setattr(SSESplitter, "feed", None)  # a call would end the watching
    watcher.feed(chunk({"content": "b"}))
    assert watcher.watching


MEDIA = st.sampled_from([JSON, SSE])
SHARDS = st.lists(
    st.one_of(
        st.binary(max_size=20),
        st.sampled_from(
            [
                b"{",
                b"}",
                b'"usage"',
                b":",
                b"[",
                b'"',
                b"data: ",
                b"\n\n",
                b"\r",
                b'"id":"x"',
                b'"input_tokens":1',
                b",",
                b"\\",
            ]
        ),
    ),
    max_size=40,
).map(b"".join)


@settings(max_examples=150, deadline=None)
@given(SHARDS, MEDIA, st.sampled_from(sorted(CODINGS)), st.booleans(), st.integers(1, 50))
def test_no_bytes_whatever_make_it_raise(body: bytes, media: bytes, coding: bytes, images: bool, size: int) -> None:
    watcher = ResponseTap(media, coding, CHAT_IDS, metered=True, images=images)
    watch(watcher, body, size)
    assert watcher.usage is None or isinstance(watcher.usage, Usage)
    coded = ResponseTap(media, coding, CHAT_IDS, metered=True, images=images)
    watch(coded, CODINGS[coding](body), size)


DOCUMENTS = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(0, 9), st.text(max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["id", "choices", "message", "audio", "data", "usage"]), inner, max_size=3),
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(["id", "choices", "usage"]), DOCUMENTS), st.integers(1, 30), MEDIA)
def test_documents_in_pieces_show_what_whole_ones_do(document: dict[str, Any], size: int, media: bytes) -> None:
    body = json.dumps(document, ensure_ascii=False).encode()
    if media == SSE:
        body = b"data: " + body + b"\n\n"
    expected = list(dict.fromkeys(walk(CHAT_IDS, document, [])))
    for step in (size, 1 << 30):
        watcher = ResponseTap(media, b"", CHAT_IDS, metered=True)
        assert watch(watcher, body, step) == expected


def test_a_fault_in_the_search_for_usage_fails_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: UsageFinder, __: bytes) -> None:
        raise ArithmeticError

    monkeypatch.setattr(UsageFinder, "feed", fail)
    for pieces in ([b'{"usage":{"prompt_tokens":1}}'], [b'{"usage":', b'{"prompt_tokens":1}}']):
        watcher = ResponseTap(JSON, b"", CHAT_IDS, metered=True)
        assert [pair for piece in pieces for pair in watcher.feed(piece)] == []
        assert watcher.finish() == []
        assert watcher.usage is None
