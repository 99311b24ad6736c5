"""Patterns that are compiled at their first use, and searches that pass over what has none of some names."""

from __future__ import annotations

import re
from os.path import commonprefix
from typing import TYPE_CHECKING, Any, AnyStr, TypeAlias, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Search: TypeAlias = "Callable[[bytes], re.Match[bytes] | None]"
SHORTEST_TAIL = 3  # bytes; a shorter one is in too many texts


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
    """``re.compile`` at the first use: it takes from a tenth of a millisecond to several.

    A fault of the source (re.error) shows only then.
    """
    return cast("re.Pattern[AnyStr]", _Late(source, flags))


def name_search(names: Iterable[bytes], behind: bytes = b"") -> Search:
    """What finds one of these names in JSON, between quotes; ``behind`` is a pattern of what follows it.

    What all of them end with is looked for first, at the speed of memchr: most texts do not have it.
    """
    quoted = sorted(b'"%s"' % name for name in names)
    search = re.compile(b"(?:%s)%s" % (b"|".join(map(re.escape, quoted)), behind)).search
    tail = cast("bytes", commonprefix([name[::-1] for name in quoted])[::-1])  # noqa: RUF071 - of names, not of paths
    if len(tail) < SHORTEST_TAIL:
        return search
    return lambda data: None if data.find(tail) < 0 else search(data)
