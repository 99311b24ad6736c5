"""Patterns that are compiled when they are first asked for something."""

from __future__ import annotations

import re
from unittest.mock import Mock

import pytest

from relay.patterns import late


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
