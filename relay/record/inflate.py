"""Decode gzip and deflate while it passes, bounded. Bytes in, bytes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import zlib
    from collections.abc import Iterator

CODINGS = frozenset({b"gzip", b"x-gzip", b"deflate"})  # RFC 9110 §8.4.1
STEP = 256 << 10
# Text shrinks to a tenth, event streams to a thirtieth; a hundredth and a megabyte more is a bomb.
RATIO, SPARE = 100, 1 << 20
GZIP_MAGIC = b"\x1f\x8b"
ZLIB_METHOD, ZLIB_HEADER = 8, 2  # RFC 1950 §2.2: deflate, and the bytes that say so


class Inflater:
    """Decode gzip and deflate as it passes, up to a bound that no text reaches but a bomb does."""

    __slots__ = ("_begin", "_inflate", "_read", "_written")

    def __init__(self) -> None:
        self._begin = b""
        self._inflate: zlib._Decompress | None = None
        self._read = self._written = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The decoded bytes, in steps. Raises ValueError beyond the bound, zlib.error where it is not the coding."""
        self._read += len(data)
        while data:
            if self._inflate is None:
                data = self._begin + data
                if len(data) < ZLIB_HEADER:
                    self._begin = data
                    return
                self._inflate, self._begin = decompressor(data), b""
            piece = self._inflate.decompress(data, STEP)
            self._written += len(piece)
            if self._written > self._read * RATIO + SPARE:
                raise ValueError("a compressed answer that grows beyond all measure")
            yield piece
            data = self._inflate.unconsumed_tail
            if self._inflate.eof:  # RFC 1952 §2.2: members may follow one another
                data, self._inflate = self._inflate.unused_data, None


def decompressor(begin: bytes) -> zlib._Decompress:
    """For gzip (RFC 1952), zlib (RFC 1950, what ``deflate`` means) or bare deflate, which some send instead."""
    import zlib  # lazy: only answers that are compressed all the same

    header = begin[0] << 8 | begin[1]
    bare = begin[:2] != GZIP_MAGIC and (begin[0] & 15 != ZLIB_METHOD or header % 31)
    return zlib.decompressobj(-zlib.MAX_WBITS if bare else zlib.MAX_WBITS | 32)
