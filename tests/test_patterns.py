"""Patterns that are compiled when they are first asked for something, and searches that pass over what has no name."""

from __future__ import annotations

import re
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.patterns import late, name_search


def test_a_late_pattern_does_what_a_pattern_does() -> None:
    words = late(r"b(\w+)", re.IGNORECASE)
    assert words.sub("-", "a Bc bd") == "a - -"
    assert [match[1] for match in words.finditer("Bc bd")] == ["c", "d"]
    assert words.fullmatch("bc.") is None
    match = late(b"a+.", re.DOTALL).match(b"xaa\n", 1)
    assert match is not None
    assert match.span() == (1, 4)


def test_it_is_compiled_when_it_is_used_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = Mock(wraps=re.compile)
    monkeypatch.setattr("relay.patterns.re.compile", compiler)
    vowels = late("[aeiou]")
    compiler.assert_not_called()
    assert vowels.match("a")
    assert vowels.match("e")
    compiler.assert_called_once_with("[aeiou]", 0)


def test_what_a_pattern_has_not_is_told() -> None:
    with pytest.raises(AttributeError, match="finds"):
        late("a").finds  # type: ignore[attr-defined]  # noqa: B018 - that is what fails


def test_a_fault_shows_at_the_first_use() -> None:
    broken = late("(")
    with pytest.raises(re.error):
        broken.match("a")


NAMES = [b"id", b"file_id", b"ids", b"a.b", b"x"]
PARTS = st.sampled_from([*(b'"%s"' % name for name in NAMES), b'"a-b"', b'id"', b'"', b":", b": ", b"x", b"null"])


@given(
    st.lists(st.sampled_from(NAMES), min_size=1, unique=True), st.lists(PARTS, max_size=6), st.sampled_from([b"", b":"])
)
def test_names_are_found_as_by_a_plain_pattern(names: list[bytes], parts: list[bytes], behind: bytes) -> None:
    text = b"".join(parts)
    plain = re.search(b"(?:%s)%s" % (b"|".join(re.escape(b'"%s"' % name) for name in names), behind), text)
    found = name_search(names, behind)(text)
    assert (found and found.span()) == (plain and plain.span())


@pytest.mark.parametrize(
    ("names", "text", "asked"),
    [([b"id", b"file_id"], b'"ids": 1', 0), ([b"id", b"file_id"], b'"x_id": 1', 1), ([b"id", b"ids"], b'"x": 1', 1)],
)
def test_a_text_without_what_all_names_end_with_is_passed_over(
    names: list[bytes], text: bytes, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern = Mock()
    pattern.search.return_value = None
    monkeypatch.setattr("relay.patterns.re.compile", Mock(return_value=pattern))
    assert name_search(names)(text) is None
    assert pattern.search.call_count == asked
