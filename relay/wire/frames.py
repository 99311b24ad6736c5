"""WebSocket's frames (RFC 6455 §5), without extensions: bytes in, frames and parts of messages out.

A frame may be longer than anybody wants to hold, so :class:`FrameReader` hands out *parts*: a piece of one frame, as
the bytes it came as and as the payload they carry. Control frames come whole.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

FIN, MASKED = 0x80, 0x80
RESERVED = 0x70  # bits that only an extension may set, and none is spoken here
LONGEST_CONTROL = 125
SHORT, LONG = 126, 127  # what stands in the length for a length of two or of eight bytes
LONGEST = (1 << 63) - 1  # RFC 6455 §5.2: the most significant bit is 0


class Opcode(enum.IntEnum):
    """What a frame carries."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


class Close(enum.IntEnum):
    """Why a connection is closed (RFC 6455 §7.4.1, and 1013 of IANA's registry)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    POLICY = 1008
    TOO_BIG = 1009
    TRY_AGAIN_LATER = 1013


OPCODES = {int(opcode): opcode for opcode in Opcode}
FIRST_CONTROL = Opcode.CLOSE


class FrameError(Exception):
    """The peer broke the protocol; ``code`` is what to close with."""

    def __init__(self, message: str, code: Close = Close.PROTOCOL_ERROR) -> None:
        super().__init__(message)
        self.code = code


class Part(NamedTuple):
    """A piece of one frame, in the order in which they came."""

    opcode: Opcode  # of the message: what continues a text says TEXT
    raw: bytes  # as it came, head and mask included
    payload: bytes  # what it carries, the mask taken off
    ends_frame: bool
    ends_message: bool  # also True of a control frame

    @property
    def is_control(self) -> bool:
        """Whether it is a whole control frame, which may come between the frames of a message."""
        return self.opcode >= FIRST_CONTROL


class FrameReader:
    """Cut what one peer sends into parts.

    ``masked``: whether that peer has to mask, as clients do and servers must not. ``most``: bytes that one message may
    have. Raises FrameError for what the protocol forbids; nothing can be read after that.
    """

    __slots__ = ("_fin", "_left", "_mask", "_masked", "_most", "_opcode", "_partial", "_phase", "_size", "_within")

    def __init__(self, *, masked: bool, most: int = LONGEST) -> None:
        self._masked = masked
        self._most = most
        self._partial = b""  # of a head, or of a control frame
        self._within: Opcode | None = None  # the message that is being sent in fragments
        self._size = 0  # bytes of it so far
        self._left = -1  # bytes that the frame at hand still has; -1 between frames
        self._opcode = Opcode.TEXT
        self._fin = True
        self._mask = b""
        self._phase = 0

    @property
    def between_frames(self) -> bool:
        """Whether the next byte begins a frame."""
        return self._left < 0 and not self._partial

    @property
    def between_messages(self) -> bool:
        """Whether the next byte may begin a message."""
        return self.between_frames and self._within is None

    def feed(self, data: bytes) -> list[Part]:
        """The parts that these bytes bring."""
        if self._partial:
            data, self._partial = self._partial + data, b""
        parts: list[Part] = []
        at, stop = 0, len(data)
        while at < stop:
            start = at
            if self._left < 0:
                begun = self._begin(data, at)
                if begun is None:
                    self._partial = data[at:]
                    break
                at = begun
            end = min(at + self._left, stop)
            parts.append(self._part(data[start:end], data[at:end]))
            at = end
        return parts

    def _begin(self, data: bytes, at: int) -> int | None:
        """Read the head of a frame; where its payload begins, None where too little is there."""
        head = read_head(data, at)
        if head is None:
            return None
        first, masked, length, start = head
        opcode = OPCODES.get(first & 0x0F)
        if first & RESERVED or opcode is None:
            raise FrameError("a frame uses bits or an opcode that nobody agreed on")
        if masked != self._masked:
            raise FrameError("a client's frame is not masked" if self._masked else "a server's frame is masked")
        if opcode >= FIRST_CONTROL:
            self._check_control(first, length)
            if len(data) < start + length:
                return None
        else:
            self._enter(opcode, length)
        self._opcode = opcode if opcode is not Opcode.CONTINUATION else self._within or opcode
        self._fin = bool(first & FIN)
        self._left = length
        self._mask = data[start - 4 : start] if masked else b""
        self._phase = 0
        return start

    @staticmethod
    def _check_control(first: int, length: int) -> None:
        if not first & FIN or length > LONGEST_CONTROL:
            raise FrameError("a control frame is too long, or in fragments")

    def _enter(self, opcode: Opcode, length: int) -> None:
        """A frame of a message begins."""
        if (opcode is Opcode.CONTINUATION) is (self._within is None):
            raise FrameError("a message begins within another one, or goes on without having begun")
        if self._within is None:
            self._within, self._size = opcode, 0
        self._size += length
        if self._size > self._most:
            raise FrameError(f"a message is longer than {self._most} bytes", Close.TOO_BIG)

    def _part(self, raw: bytes, payload: bytes) -> Part:
        """Count a part of the frame at hand, and take its mask off."""
        if self._mask:
            masked, payload = payload, apply_mask(payload, self._mask, self._phase)
            self._phase += len(masked)
        self._left -= len(payload)
        if self._left:
            return Part(self._opcode, raw, payload, False, False)
        self._left = -1
        if self._fin and self._opcode < FIRST_CONTROL:
            self._within = None
        return Part(self._opcode, raw, payload, True, self._fin)


def read_head(data: bytes, at: int) -> tuple[int, bool, int, int] | None:
    """Read a frame's head that begins at ``at``: its first byte, masked or not, length, where the payload begins.

    None where it is not all there. Raises FrameError for a length that is not written as short as it can be.
    """
    if len(data) < at + 2:
        return None
    second = data[at + 1]
    masked, length = bool(second & MASKED), second & 0x7F
    size = 2 if length < SHORT else 4 if length == SHORT else 10
    start = at + size + 4 * masked
    if len(data) < start:
        return None
    if length >= SHORT:
        least = SHORT if length == SHORT else 1 << 16
        length = int.from_bytes(data[at + 2 : at + size], "big")
        if not least <= length <= LONGEST:
            raise FrameError("the length of a frame is not written as it must be")
    return data[at], masked, length, start


def write_frame(opcode: Opcode, payload: bytes, *, mask: bytes = b"", fin: bool = True) -> bytes:
    """A frame; with a ``mask`` of four bytes as a client sends it."""
    length, flag = len(payload), MASKED if mask else 0
    first = bytes([opcode | (FIN if fin else 0)])
    if length < SHORT:
        head = first + bytes([flag | length])
    elif length < 1 << 16:
        head = first + bytes([flag | SHORT]) + length.to_bytes(2, "big")
    else:
        head = first + bytes([flag | LONG]) + length.to_bytes(8, "big")
    return head + mask + apply_mask(payload, mask) if mask else head + payload


def apply_mask(data: bytes, mask: bytes, phase: int = 0) -> bytes:
    """Put a mask on, or take it off (RFC 6455 §5.3); ``phase`` bytes of the payload came before ``data``."""
    count = len(data)
    turn = phase % 4
    key = (mask[turn:] + mask[:turn]) * (count // 4 + 1)
    # Two long numbers are added bit by bit a hundred times faster than a loop would do it byte by byte.
    return (int.from_bytes(data, "little") ^ int.from_bytes(key[:count], "little")).to_bytes(count, "little")


def close_payload(code: Close, reason: str) -> bytes:
    """What a close frame carries (RFC 6455 §5.5.1); the reason is cut to what fits."""
    return code.to_bytes(2, "big") + reason.encode()[: LONGEST_CONTROL - 2].decode("utf-8", "ignore").encode()
