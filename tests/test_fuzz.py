"""A little of what ``tools/fuzz.py`` throws, in every run: seeds as they are, bent, and bytes of any kind."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tools.fuzz import TARGETS, seeds

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "150"))  # of each target
SPLINTERS = [b"\r\n", b"\n", b"\r", b"\x00", b" ", b":", b"0", b"-", b'"', b"\\", b"{", b"]", b",", b"--b", b"\xff"]

bends = st.lists(
    st.tuples(st.integers(0, 4000), st.integers(0, 8), st.sampled_from(SPLINTERS) | st.binary(max_size=6)), max_size=4
)


def bend(seed: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """A seed with bytes taken out and others put in their place."""
    data = bytearray(seed)
    for at, count, put in changes:
        start = at % (len(data) + 1)
        data[start : start + count] = put
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_hold(name: str) -> None:
    assert seeds(name)
    for seed in seeds(name):
        TARGETS[name](seed)
    TARGETS[name](b"")


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_is_said_holds(name: str) -> None:
    known = seeds(name)

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=st.builds(bend, st.sampled_from(known), bends) | st.binary(max_size=300))
    def holds(data: bytes) -> None:
        TARGETS[name](data)

    holds()
