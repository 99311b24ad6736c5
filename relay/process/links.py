"""What parent and workers say to each other: one kind of note and its content, length first. Bytes in, notes out."""

from __future__ import annotations

import enum
import struct

HEAD = struct.Struct("!cI")


class Note(enum.Enum):
    """What a note is about; those of a worker first, then those of the parent."""

    READY = b"r"  # it serves, by the configuration that it was given last
    COUNTS = b"c"  # its metrics: a snapshot in JSON
    ASK = b"a"  # a client wants everybody's metrics
    CONFIG = b"n"  # go on with this configuration
    DRAIN = b"d"  # no new exchanges
    REPORT = b"p"  # send your counts
    TOTALS = b"t"  # everybody's snapshots, a list in JSON


def pack(note: Note, content: bytes = b"") -> bytes:
    """A note as it travels."""
    return HEAD.pack(note.value, len(content)) + content


class Unpacker:
    """Cuts a stream into notes."""

    def __init__(self) -> None:
        self._partial = bytearray()

    def feed(self, data: bytes) -> list[tuple[Note, bytes]]:
        """The notes that are whole by now, each with its content."""
        self._partial += data
        notes = []
        while len(self._partial) >= HEAD.size:
            kind, length = HEAD.unpack_from(self._partial)
            end = HEAD.size + length
            if len(self._partial) < end:
                break
            notes.append((Note(kind), bytes(self._partial[HEAD.size : end])))
            del self._partial[:end]
        return notes
