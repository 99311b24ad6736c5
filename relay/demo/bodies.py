"""Request content in bounded memory: kept, spooled to a file, or only counted and hashed; forms part by part."""

from __future__ import annotations

import re
import weakref
from dataclasses import dataclass, field
from hashlib import sha256
from typing import IO, TYPE_CHECKING, Any

from .messages import APIError, Fields

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
IN_MEMORY = MIB
KEPT = 64 * MIB  # as large as one upload part may be
PIECE = 64 << 10
MOST_PARTS = 1000
LONGEST_PART_HEAD = 16 << 10


class Blob:
    """Bytes that arrive piece by piece. Above ``memory`` they live in a file, above ``kept`` only as size and hash."""

    __slots__ = ("__weakref__", "_close", "_file", "_hash", "_memory", "kept", "memory", "size")

    def __init__(self, data: bytes = b"", *, memory: int = IN_MEMORY, kept: int = KEPT) -> None:
        self.memory, self.kept = memory, kept
        self.size = 0
        self._memory: bytearray | None = bytearray()
        self._file: IO[bytes] | None = None
        self._hash: Any = None
        self._close: Any = None
        self.feed(data)

    def feed(self, data: bytes | bytearray) -> None:
        """Take the next piece."""
        self.size += len(data)
        if self._memory is not None and self.size <= self.memory:
            self._memory += data
            return
        if self._memory is not None:
            self._leave_memory()
        self._hash.update(data)
        if self._file is not None:
            self._file.write(data)
            if self.size > self.kept:
                self._close()
                self._file = None

    def _leave_memory(self) -> None:
        assert self._memory is not None
        self._hash = sha256(self._memory)
        if self.kept > self.memory:
            import tempfile  # rare: only for what is large

            self._file = tempfile.TemporaryFile()  # noqa: SIM115 closed with the blob, below
            self._close = weakref.finalize(self, self._file.close)
            self._file.write(self._memory)
        self._memory = None

    @property
    def sha256(self) -> str:
        """The hash of everything fed so far, in hexadecimal."""
        return (sha256(self._memory) if self._memory is not None else self._hash.copy()).hexdigest()

    @property
    def whole(self) -> bool:
        """Whether the bytes are still there, and not only their size and hash."""
        return self._memory is not None or self._file is not None

    def read(self) -> bytes:
        """All bytes. Only for a blob that is whole."""
        return b"".join(self.pieces())

    def pieces(self) -> Iterator[bytes]:
        """All bytes, a piece at a time; several readers may be under way at once."""
        if self._memory is not None:
            yield bytes(self._memory)
            return
        assert self._file is not None, "only the size and hash of this blob were kept"
        for at in range(0, self.size, PIECE):
            self._file.seek(at)
            yield self._file.read(PIECE)


class Joined:
    """Several blobs that read as one: an upload's parts, which nobody copies."""

    __slots__ = ("_blobs",)

    def __init__(self, blobs: list[Blob | Joined]) -> None:
        self._blobs = blobs

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(blob.size for blob in self._blobs)

    @property
    def sha256(self) -> str:
        """The hashes of the blobs, one after the other."""
        return " ".join(blob.sha256 for blob in self._blobs)

    @property
    def whole(self) -> bool:
        """Whether every blob is."""
        return all(blob.whole for blob in self._blobs)

    def read(self) -> bytes:
        """All bytes."""
        return b"".join(self.pieces())

    def pieces(self) -> Iterator[bytes]:
        """All bytes, a piece at a time."""
        for blob in self._blobs:
            yield from blob.pieces()


@dataclass(slots=True)
class Part:
    """One part of a form: its name, its file's name if it is one, and its content."""

    name: str
    filename: str | None
    content_type: str
    fields: Fields
    content: Blob = field(default_factory=Blob)


DISPOSITION_PARAMETER = re.compile(rb';\s*(\w+)="((?:[^"\\]|\\.)*)"')
BOUNDARY = re.compile(rb'^multipart/form-data\s*;.*?boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)


class Form:
    """A ``multipart/form-data`` body, cut into its parts while it arrives (RFC 7578, RFC 2046 §5.1)."""

    def __init__(self, boundary: bytes) -> None:
        self.parts: list[Part] = []
        self._delimiter = b"\r\n--" + boundary
        self._buffer = bytearray(b"\r\n")  # the first delimiter has no line before it
        self._state = self._content
        self._part: Part | None = None
        self.complete = False

    @classmethod
    def of(cls, content_type: bytes) -> Form | None:
        """The form that this content type announces, if it does."""
        found = BOUNDARY.match(content_type)
        return cls(found[1] or found[2]) if found else None

    def feed(self, data: bytes) -> None:
        """Take the next piece of the body."""
        if not self.complete:
            self._buffer += data
            while self._state():
                pass

    def _content(self) -> bool:
        at = self._buffer.find(self._delimiter)
        stop = at if at >= 0 else max(0, len(self._buffer) - len(self._delimiter) + 1)
        if self._part is not None:
            self._part.content.feed(self._buffer[:stop])
        if at < 0:
            del self._buffer[:stop]
            return False
        del self._buffer[: stop + len(self._delimiter)]
        self._state = self._after_delimiter
        return True

    def _after_delimiter(self) -> bool:
        if len(self._buffer) < 2:  # noqa: PLR2004 two dashes or CR LF
            return False
        if self._buffer.startswith(b"--"):
            self.complete = True
            self._buffer.clear()
            return False
        self._state = self._head
        return True

    def _head(self) -> bool:
        stop = self._buffer.find(b"\r\n\r\n")
        if stop < 0:
            if len(self._buffer) > LONGEST_PART_HEAD:
                raise unreadable_form()
            return False
        self._part = parse_part(bytes(self._buffer[:stop]))
        self.parts.append(self._part)
        if len(self.parts) > MOST_PARTS:
            raise unreadable_form()
        del self._buffer[: stop + 4]
        self._state = self._content
        return True

    def file(self, name: str) -> Part | None:
        """The first part of this name, whether or not it has a file name; ``image`` also finds ``image[]``."""
        return next((part for part in self.parts if part.name in (name, name + "[]")), None)

    def values(self) -> dict[str, Any]:
        """The text parts, with ``a[b]`` as nested members and ``a[]`` as lists."""
        values: dict[str, Any] = {}
        for part in self.parts:
            if part.filename is None and part.content.size <= IN_MEMORY:
                put_value(values, part.name, part.content.read().decode(errors="replace"))
        return values


def unreadable_form() -> APIError:
    """The 400 for a form that is none."""
    return APIError(400, "Could not parse multipart form")


def parse_part(head: bytes) -> Part:
    """The field lines of a part."""
    fields = []
    for line in head.strip(b"\r\n").split(b"\r\n"):
        name, _, value = line.partition(b":")
        fields.append((name, value.strip()))
    lower = {name.lower(): value for name, value in fields}
    parameters = dict(DISPOSITION_PARAMETER.findall(lower.get(b"content-disposition", b"")))
    if b"name" not in parameters:
        raise unreadable_form()
    filename = parameters.get(b"filename")
    return Part(
        parameters[b"name"].decode(errors="replace"),
        None if filename is None else filename.decode(errors="replace"),
        lower.get(b"content-type", b"text/plain").decode("latin-1"),
        fields,
    )


def put_value(values: dict[str, Any], name: str, value: str) -> None:
    """Put a form value where its name says: ``metadata[a]``, ``include[]``, ``model``."""
    first, *rest = name.replace("]", "").split("[")
    if rest == [""]:
        values.setdefault(first, []).append(value)
    elif rest:
        below = values.setdefault(first, {})
        if isinstance(below, dict):
            put_value(below, "[".join(rest), value)
    else:
        values[first] = value
