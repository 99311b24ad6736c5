"""What is said on a Responses socket: bytes in, bytes out."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.answers.messages import ClientMessages, Event, ServerMessages, close_for, error_event, event_places
from relay.errors import AllOut, AmbiguousBody, BadRequest, ModelNotFound, UpstreamFailure
from relay.record.tap import LARGEST_EVENT
from relay.subjects.endpoints import match_endpoint
from relay.wire.frames import Close, FrameError, FrameReader, Opcode, write_frame

if TYPE_CHECKING:
    from collections.abc import Iterable

PLACES = event_places(match_endpoint("GET", "/responses").body)
MASK = b"abcd"
CREATE = b'{"type":"response.create","model":"gpt-4","input":[{"type":"message","content":"hi"}]}'
SMALL = 64


def client(most: int = 1 << 20, longest: int = 1 << 30) -> ClientMessages:
    return ClientMessages(PLACES, most, longest, lambda: MASK)


def frames(*payloads: bytes, opcode: Opcode = Opcode.TEXT, mask: bytes = b"wxyz") -> bytes:
    """One message in that many fragments."""
    last = len(payloads) - 1
    opcodes = [opcode] + [Opcode.CONTINUATION] * last
    return b"".join(
        write_frame(kind, payload, mask=mask, fin=number == last)
        for number, (kind, payload) in enumerate(zip(opcodes, payloads, strict=True))
    )


def messages_of(data: bytes, *, masked: bool = True) -> list[tuple[Opcode, bytes]]:
    whole, message = [], b""
    for part in FrameReader(masked=masked).feed(data):
        if part.is_control:
            whole.append((part.opcode, part.payload))
            continue
        message += part.payload
        if part.ends_message:
            whole.append((part.opcode, message))
            message = b""
    assert not message
    return whole


def renamed(event: Event) -> str | None:
    """Another name for gpt-4, none for others."""
    return "longer-name" if event.peek.model and event.peek.model.value == "gpt-4" else None


def feed(messages: ClientMessages, data: bytes, size: int) -> bytes:
    return b"".join(messages.feed(data[at : at + size]) for at in range(0, len(data), size))


def started(**limits: int) -> ClientMessages:
    """A session that is under way; its first message has left."""
    messages = client(**limits)
    messages.feed(frames(b"{}"))
    assert messages.resume(renamed) == frames(b"{}")
    return messages


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_nothing_leaves_before_the_first_message_has_chosen(size: int) -> None:
    messages = client()
    ping, pong = write_frame(Opcode.PING, b"1", mask=MASK), write_frame(Opcode.PONG, b"", mask=MASK)
    late = write_frame(Opcode.PING, b"late", mask=MASK) + frames(b"[1]")
    assert feed(messages, ping + frames(CREATE[:30], CREATE[30:]) + pong + late, size) == b""
    assert messages.first is not None
    assert (messages.first.type, messages.first.lane) == ("response.create", None)
    assert [found.kind for found in messages.first.peek.found] == ["model"]
    assert [(part.opcode, part.payload) for part in messages.controls] == [(Opcode.PING, b"1")]
    out = messages.resume(renamed)
    wanted = CREATE.replace(b"gpt-4", b"longer-name")
    assert messages_of(out) == [
        (Opcode.TEXT, wanted),
        (Opcode.PONG, b""),
        (Opcode.PING, b"late"),
        (Opcode.TEXT, b"[1]"),
    ]
    assert out.startswith(write_frame(Opcode.TEXT, wanted, mask=MASK))  # one frame again
    assert out.endswith(pong + late)  # as they came


AS_THEY_ARE = [
    ("another event", b'{"type":"response.steer","model":"gpt-4"}'),
    ("an event without a type", b'{"model":"gpt-4"}'),
    ("a model without another name", b'{"type":"response.create","model":"gpt-5"}'),
    ("no model", b'{"type":"response.create"}'),
    ("a model that is no text", b'{"type":"response.create","model":["gpt-4"]}'),
    ("what is no JSON", b'{"type":"response.create","model":"gpt-4'),
    ("nothing", b""),
    ("a type of something inside", b'{"x":{"type":"response.create"},"model":"gpt-4"}'),
]


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize("message", [case[1] for case in AS_THEY_ARE], ids=[case[0] for case in AS_THEY_ARE])
@pytest.mark.parametrize("most", [10, 1000])
def test_what_need_not_change_passes_as_the_bytes_it_came_as(message: bytes, most: int, size: int) -> None:
    for said in (frames(message), frames(message[:5], b"", message[5:]), frames(message, opcode=Opcode.BINARY)):
        assert feed(started(most=most), said, size) == said


REPLACED = [
    (CREATE, CREATE.replace(b"gpt-4", b"longer-name")),
    (
        b' {"mod\\u0065l" : "gpt\\u002d4", "type":"response.create"}',
        b' {"mod\\u0065l" : "longer-name", "type":"response.create"}',
    ),
    (b'{"type":"response.create","target_model_names":"gpt-4","x":1}', b'{"type":"response.create","x":1}'),
    (
        b'{"type":"x","type":"response.create","model":"gpt-4"}',
        b'{"type":"x","type":"response.create","model":"longer-name"}',
    ),
]


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize(("said", "sent"), REPLACED)
def test_the_model_of_a_create_is_replaced_and_nothing_else(said: bytes, sent: bytes, size: int) -> None:
    messages = started()
    for _ in range(2):
        assert feed(messages, frames(said[:9], said[9:]), size) == write_frame(Opcode.TEXT, sent, mask=MASK)


@pytest.mark.parametrize("size", [1, 7, 50, 1 << 20])
def test_a_long_message_goes_on_in_fragments_with_pings_between(size: int) -> None:
    long = CREATE[:-1] + b',"y":"' + os.urandom(300).hex().encode() + b'"}'
    ping = write_frame(Opcode.PING, b"!", mask=MASK)
    said = write_frame(Opcode.TEXT, long[:200], mask=b"wxyz", fin=False) + ping
    said += write_frame(Opcode.CONTINUATION, long[200:], mask=b"wxyz")
    heard = messages_of(feed(started(most=SMALL), said + frames(b"[]"), size))
    assert heard == [
        (Opcode.PING, b"!"),
        (Opcode.TEXT, long.replace(b"gpt-4", b"longer-name")),
        (Opcode.TEXT, b"[]"),
    ]


TOO_LATE = [
    ("the model", b'{"type":"response.create","y":"%s","model":"gpt-4"}'),
    ("the type", b'{"model":"gpt-4","y":"%s","type":"response.create"}'),
    ("a hint", b'{"type":"response.create","model":"gpt-4","y":"%s","target_model_names":"b"}'),
]


@pytest.mark.parametrize("form", [case[1] for case in TOO_LATE], ids=[case[0] for case in TOO_LATE])
def test_what_stands_too_late_to_be_replaced_is_refused(form: bytes) -> None:
    messages = started(most=SMALL)
    with pytest.raises(BadRequest, match="first 64 bytes"):
        feed(messages, frames(form % (b"y" * 200)), 40)


def test_what_stands_late_and_need_not_change_passes() -> None:
    said = frames(b'{"type":"response.create","y":"' + b"y" * 200 + b'","model":"gpt-5"}')
    assert feed(started(most=SMALL), said, 40) == said


def test_each_create_is_prepared_once() -> None:
    asked = []

    def prepare(event: Event) -> None:
        asked.append(event.peek.scalars.get("store"))

    messages = client(most=SMALL)
    said = [
        b'{"type":"response.create","model":"a","store":%s,"y":"%s"}' % (flag, b"y" * 99)
        for flag in (b"false", b"true")
    ]
    feed(messages, frames(said[0]), 10)
    messages.resume(prepare)
    feed(messages, frames(said[1]) + frames(b'{"type":"x"}'), 10)
    assert asked == [False, True]


def test_a_model_twice_is_refused() -> None:
    with pytest.raises(AmbiguousBody):
        started().feed(frames(b'{"type":"response.create","model":"a","model":"b"}'))


def test_the_clients_frames_are_held_to_the_protocol() -> None:
    for data in (b"\x81\x01x", frames(b"x" * 30)):
        with pytest.raises(FrameError):
            client(longest=20).feed(data)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from(["gpt-4", "gpt-5"]), st.text(max_size=150), st.integers(1, 4)), max_size=5),
    st.sampled_from([1, 13, 1 << 20]),
    st.sampled_from([100, 1 << 20]),
)
def test_any_talk_arrives_with_its_models_replaced(said: Iterable[tuple[str, str, int]], size: int, most: int) -> None:
    stream, wanted = b"", []
    for model, text, count in said:
        message = json.dumps({"type": "response.create", "model": model, "input": text}).encode()
        step = -(-len(message) // count)
        stream += frames(*(message[at : at + step] for at in range(0, len(message), step)))
        wanted.append((Opcode.TEXT, message.replace(b'"gpt-4"', b'"longer-name"', 1)))
    assert messages_of(feed(started(most=most), stream, size)) == wanted


# What an upstream says.


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_a_message_is_seen_before_its_last_byte_leaves(size: int) -> None:
    seen: list[bytes] = []
    messages = ServerMessages(seen.append)
    data = frames(b'{"a"', b":1}", mask=b"") + frames(b"\x00", opcode=Opcode.BINARY, mask=b"")
    data += write_frame(Opcode.PING, b"") + frames(b"[2]", mask=b"")
    for at in range(0, len(data), size):
        piece = data[at : at + size]
        assert messages.feed(piece) is piece
    assert seen == [b'{"a":1}', b"[2]"]
    assert messages.between_messages


def test_where_a_frame_of_ours_has_room() -> None:
    messages = ServerMessages(lambda _: None)
    rooms = []
    for data in (b"", b"\x01", b"\x02a", b"b", b"\x80\x00"):
        messages.feed(data)
        rooms.append((messages.between_frames, messages.between_messages))
    assert rooms == [(True, True), (False, False), (False, False), (True, False), (True, True)]


def test_of_a_large_message_head_and_tail_are_seen() -> None:
    seen: list[bytes] = []
    messages = ServerMessages(seen.append)
    said = frames(b'{"head":1,"x":"' + b"x" * 5 * LARGEST_EVENT + b'","tail":2}', mask=b"")
    for at in range(0, len(said), 65536):
        messages.feed(said[at : at + 65536])
    assert len(seen) == 1
    assert seen[0].startswith(b'{"head":1')
    assert seen[0].endswith(b'"tail":2}')
    assert len(seen[0]) < LARGEST_EVENT


def test_an_upstream_that_breaks_the_protocol_is_not_watched_any_more() -> None:
    seen: list[bytes] = []
    messages = ServerMessages(seen.append)
    broken = b"\x83\x00"
    assert messages.feed(broken) == broken
    assert messages.feed(frames(b"{}", mask=b"")) == frames(b"{}", mask=b"")
    assert not seen
    assert not messages.between_frames
    assert not messages.between_messages


# Our own words.

CLOSES = [
    (AllOut("full", retry_after=1), 1013),
    (UpstreamFailure("gone", sent=True), 1013),
    (ModelNotFound("who?"), 1008),
    (BadRequest("what?"), 1008),
]


@pytest.mark.parametrize(("error", "code"), CLOSES)
def test_a_refusal_says_whether_to_come_again(error: BadRequest, code: int) -> None:
    assert close_for(error) is Close(code)
    ((opcode, data),) = messages_of(error_event(error, "lane_1"), masked=False)
    event = json.loads(data)
    assert opcode is Opcode.TEXT
    assert (event["type"], event["status"], event["stream_id"]) == ("error", error.status, "lane_1")
    assert event["error"]["message"] == error.message
    assert b"stream_id" not in error_event(error, None)


def test_a_lane_is_read_from_the_envelope() -> None:
    messages = client()
    messages.feed(frames(b'{"stream_id":"agent_1","type":"response.create"}'))
    assert messages.first is not None
    assert (messages.first.lane, messages.first.type) == ("agent_1", "response.create")
