"""Bytes that are held, in memory and in a file without a name."""

from __future__ import annotations

import resource

import pytest

from relay.requests.spool import PIECE, Spool


@pytest.mark.parametrize("size", [1, 7, 4096, PIECE + 1])
@pytest.mark.parametrize("memory", [0, 100, 1 << 20])
def test_what_was_held_comes_back_any_number_of_times(size: int, memory: int) -> None:
    content = bytes(range(256)) * (3 * size // 256 + 2)
    spool = Spool(memory)
    for at in range(0, len(content), size):
        spool.append(content[at : at + size])
        if at < 3 * size:
            assert spool.joined() == content[: at + size]
    assert b"".join(spool.pieces()) == content == spool.joined()
    assert spool.size == len(content)
    assert spool.in_memory() == (len(content) <= memory)
    spool.close()
    assert list(spool.pieces()) == []


def test_reading_and_growing_may_alternate() -> None:
    spool = Spool(4)
    spool.append(b"0123456789")
    reading = spool.pieces()
    assert next(reading) == b"0123456789"
    spool.append(b"abc")
    assert list(reading) == [b"abc"]
    spool.close()


def test_a_full_disk_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", no_room)
    spool = Spool(4)
    with pytest.raises(OSError, match="No space"):
        spool.append(b"0123456789")
    assert spool.size == 0


@pytest.mark.parametrize("beyond", [1, 100, 10_000])
def test_a_disk_that_fills_up_says_so_at_once_and_not_later(beyond: int) -> None:
    """No byte that was taken is refused in its midst: neither a read nor the close fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    spool = Spool(10)
    spool.append(b"x" * 50_000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    try:
        spool.append(b"y" * 10_000)
        with pytest.raises(OSError, match="large"):
            spool.append(b"z" * beyond)
        assert spool.joined() == b"x" * 50_000 + b"y" * 10_000
        spool.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
