"""What parent and workers say to each other, in pieces of any size."""

from __future__ import annotations

import pytest

from relay.process.links import Note, Unpacker, pack

NOTES = [(Note.READY, b""), (Note.COUNTS, b"{}" * 500), (Note.DRAIN, b""), (Note.CONFIG, bytes(range(256)))]


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_notes_arrive_as_they_were_sent(size: int) -> None:
    stream = b"".join(pack(note, content) for note, content in NOTES)
    unpacker = Unpacker()
    heard = [note for at in range(0, len(stream), size) for note in unpacker.feed(stream[at : at + size])]
    assert heard == NOTES
    assert unpacker.feed(b"") == []


def test_a_note_of_no_known_kind_is_no_note() -> None:
    with pytest.raises(ValueError, match="not a valid Note"):
        Unpacker().feed(b"?\0\0\0\0")
