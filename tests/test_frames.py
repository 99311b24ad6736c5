"""WebSocket frames, against those of the ``websockets`` library and against what RFC 6455 §5 forbids."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Frame
from websockets.frames import Opcode as TheirOpcode
from websockets.streams import StreamReader

from relay.wire.frames import (
    Close,
    FrameError,
    FrameReader,
    Opcode,
    Part,
    apply_mask,
    close_payload,
    write_frame,
)

MASK = b"\x01\x80\xff\x00"
SIZES = [0, 1, 3, 4, 5, 125, 126, 127, 65535, 65536, 70000]


def in_pieces(reader: FrameReader, data: bytes, size: int) -> list[Part]:
    return [part for at in range(0, len(data), size) for part in reader.feed(data[at : at + size])]


def joined(parts: list[Part]) -> list[tuple[Opcode, bytes]]:
    """Control frames and messages, each when it is whole."""
    whole, message = [], b""
    for part in parts:
        if part.is_control:
            whole.append((part.opcode, part.payload))
            continue
        message += part.payload
        if part.ends_message:
            whole.append((part.opcode, message))
            message = b""
    return whole


def theirs(data: bytes, *, masked: bool) -> list[Frame]:
    """What the library reads."""
    stream = StreamReader()
    stream.feed_data(data)
    stream.feed_eof()
    frames = []
    while stream.buffer != b"":
        reading = Frame.parse(stream.read_exact, mask=masked, max_size=None)
        try:
            next(reading)
        except StopIteration as stop:
            frames.append(stop.value)
        else:
            pytest.fail("the library wants more")
    return frames


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("mask", [b"", MASK])
@pytest.mark.parametrize("fin", [True, False])
def test_a_frame_is_written_as_the_library_reads_it(count: int, mask: bytes, fin: bool) -> None:
    payload = os.urandom(count)
    (frame,) = theirs(write_frame(Opcode.BINARY, payload, mask=mask, fin=fin), masked=bool(mask))
    assert (frame.opcode, bytes(frame.data), frame.fin) == (TheirOpcode.BINARY, payload, fin)


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_a_frame_is_read_as_the_library_writes_it(count: int, masked: bool, size: int) -> None:
    payload = os.urandom(count)
    data = Frame(TheirOpcode.BINARY, payload).serialize(mask=masked)
    parts = in_pieces(FrameReader(masked=masked), data, size)
    assert joined(parts) == [(Opcode.BINARY, payload)]
    assert b"".join(part.raw for part in parts) == data
    assert parts[-1].ends_frame
    assert not any(part.ends_frame for part in parts[:-1])


FRAMES = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([Opcode.TEXT, Opcode.BINARY]), st.lists(st.binary(max_size=300), min_size=1)),
        st.tuples(st.sampled_from([Opcode.PING, Opcode.PONG, Opcode.CLOSE]), st.just([b"\x03\xe8"])),
    ),
    max_size=8,
)


@settings(max_examples=150)
@given(FRAMES, st.booleans(), st.sampled_from([1, 7, 64, 1 << 20]), st.data())
def test_any_conversation_is_read_as_it_was_said(
    said: list[tuple[Opcode, list[bytes]]], masked: bool, size: int, data: st.DataObject
) -> None:
    stream, wanted = b"", []
    for opcode, fragments in said:
        for number, fragment in enumerate(fragments):
            if number and data.draw(st.booleans()):  # a control frame in the middle of a message
                stream += Frame(TheirOpcode.PING, b"in between").serialize(mask=masked)
                wanted.append((Opcode.PING, b"in between"))
            theirs_opcode = TheirOpcode.CONT if number else TheirOpcode(opcode)
            stream += Frame(theirs_opcode, fragment, fin=number == len(fragments) - 1).serialize(mask=masked)
        wanted.append((opcode, b"".join(fragments)))
    reader = FrameReader(masked=masked)
    parts = in_pieces(reader, stream, size)
    assert joined(parts) == wanted
    assert b"".join(part.raw for part in parts) == stream
    assert reader.between_messages
    assert reader.between_frames


@given(st.binary(max_size=200), st.binary(min_size=4, max_size=4), st.integers(0, 9))
def test_a_mask_is_a_sum_byte_by_byte(data: bytes, mask: bytes, phase: int) -> None:
    wanted = bytes(byte ^ mask[(phase + at) % 4] for at, byte in enumerate(data))
    assert apply_mask(data, mask, phase) == wanted
    assert apply_mask(wanted, mask, phase) == data


FORBIDDEN = [
    ("a reserved bit", True, b"\xc1\x80\x00\x00\x00\x00"),
    ("an opcode for data that is not defined", True, b"\x83\x80\x00\x00\x00\x00"),
    ("an opcode for control that is not defined", True, b"\x8b\x80\x00\x00\x00\x00"),
    ("a client that does not mask", True, b"\x81\x01x"),
    ("a server that masks", False, b"\x81\x81\x00\x00\x00\x00x"),
    ("a ping in fragments", False, b"\x09\x00"),
    ("a ping that is too long", False, b"\x89\x7e\x00\x7e" + b"x" * 126),
    ("a continuation of nothing", False, b"\x80\x00"),
    ("a message within a message", False, b"\x01\x01x\x01\x01x"),
    ("a length of two bytes that needs one", False, b"\x82\x7e\x00\x7d"),
    ("a length of eight bytes that needs two", False, b"\x82\x7f\x00\x00\x00\x00\x00\x00\xff\xff"),
    ("a length beyond 2^63", False, b"\x82\x7f\x80\x00\x00\x00\x00\x00\x00\x00"),
]


@pytest.mark.parametrize(("masked", "data"), [case[1:] for case in FORBIDDEN], ids=[case[0] for case in FORBIDDEN])
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_what_the_protocol_forbids_is_refused(masked: bool, data: bytes, size: int) -> None:
    with pytest.raises(FrameError) as caught:
        in_pieces(FrameReader(masked=masked), data, size)
    assert caught.value.code is Close.PROTOCOL_ERROR


def test_a_message_has_a_limit_over_all_its_fragments() -> None:
    reader = FrameReader(masked=False, most=10)
    reader.feed(write_frame(Opcode.TEXT, b"x" * 10))
    reader.feed(write_frame(Opcode.TEXT, b"x" * 6, fin=False))
    with pytest.raises(FrameError) as caught:
        reader.feed(write_frame(Opcode.CONTINUATION, b"x" * 5)[:2])  # its head says enough
    assert caught.value.code is Close.TOO_BIG


def test_a_reader_knows_where_it_stands() -> None:
    reader = FrameReader(masked=False)
    assert reader.between_messages
    reader.feed(write_frame(Opcode.TEXT, b"abc", fin=False)[:-1])
    assert not reader.between_frames
    (part,) = reader.feed(b"c")
    assert (part.payload, part.ends_frame, part.ends_message) == (b"c", True, False)
    assert reader.between_frames
    assert not reader.between_messages
    reader.feed(b"\x80")
    assert not reader.between_frames
    assert reader.feed(b"\x00")[0].ends_message
    assert reader.between_messages


def test_a_reason_is_cut_where_a_letter_ends() -> None:
    assert close_payload(Close.POLICY, "no") == b"\x03\xf0no"
    long = close_payload(Close.TRY_AGAIN_LATER, "ü" * 100)
    assert len(long) == 124
    assert long[2:].decode() == "ü" * 61
