"""Patterns that a start does without: each takes from a tenth of a millisecond to several to be compiled."""

from __future__ import annotations

import re
from typing import Any, AnyStr, cast


class _Late:
    """Stands for a pattern. What is asked of it for the first time has it compiled, and is kept."""

    def __init__(self, source: str | bytes, flags: int) -> None:
        self._source = source
        self._flags = flags

    def __getattr__(self, name: str) -> Any:
        found = getattr(re.compile(self._source, self._flags), name)
        setattr(self, name, found)
        return found


def late(source: AnyStr, flags: int = 0) -> re.Pattern[AnyStr]:
    """``re.compile`` at the first use. A fault of the source (re.error) shows only then."""
    return cast("re.Pattern[AnyStr]", _Late(source, flags))
