"""Bytes that are held: in memory up to a bound, then in a temporary file that has no name."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE = 256 << 10  # bytes read back at once


class Spool:
    """An append-only store of bytes that can be read from its start any number of times, also while it grows.

    ``memory`` is the most bytes kept in memory. Raises OSError from ``append`` when the disk is full.
    """

    __slots__ = ("_file", "_memory", "_pieces", "size")

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._pieces: list[bytes] = []
        self._file: IO[bytes] | None = None
        self.size = 0

    def append(self, data: bytes) -> None:
        """Keep ``data`` behind what is there."""
        if self._file is None and self.size + len(data) > self._memory:
            self._spill()
        if self._file is None:
            self._pieces.append(data)
        else:
            self._file.seek(self.size)
            self._write(data)
        self.size += len(data)

    def _spill(self) -> None:
        import tempfile  # few bodies are this long

        # Without a buffer of its own, which would take bytes that a full disk refuses later, in a read or a close.
        self._file = tempfile.TemporaryFile(prefix="passthrough-", buffering=0)  # noqa: SIM115 - as long as the body
        for piece in self._pieces:
            self._write(piece)
        self._pieces.clear()

    def _write(self, data: bytes) -> None:
        """All of ``data``, where the file stands; a disk with room for a part takes that, and refuses the rest."""
        assert self._file is not None
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    def in_memory(self) -> bool:
        """Whether nothing was written to disk."""
        return self._file is None

    def pieces(self) -> Iterator[bytes]:
        """Everything held, from the start."""
        yield from self._pieces
        at = 0
        while self._file is not None and at < self.size:
            self._file.seek(at)
            data = self._file.read(min(PIECE, self.size - at))
            at += len(data)
            yield data

    def joined(self) -> bytes:
        """Everything held, at once; for what is known to be small."""
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self.pieces())

    def close(self) -> None:
        """Let go of memory and file."""
        self._pieces.clear()
        if self._file is not None:
            self._file.close()
            self._file = None
        self.size = 0
