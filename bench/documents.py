"""Puts figures where a document has a place for them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def insert(path: Path, name: str, text: str) -> None:
    """Replace what stands between ``<!-- name -->`` and ``<!-- end of name -->``."""
    before = path.read_text()
    place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
    after, count = place.subn(lambda found: f"{found[1]}\n{text}\n{found[2]}", before)
    if count != 1:
        raise SystemExit(f"{path} has no place for {name}")
    path.write_text(after)
