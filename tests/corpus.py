r"""Raw messages as files that people can read, and editors cannot spoil.

A file begins with notes, one a line, ``# name: value``; ``verdict`` and ``reason`` are always there. Then comes the
message, its bytes written as printable ASCII and escapes: ``\r``, ``\n``, ``\t``, ``\\``, ``\x00``, and ``\(ab*3)`` for
``ababab``. Line ends of the file itself mean nothing, and no line ends with white space. After a line ``---`` stand, in
the same writing, the bytes that must arrive on the other side.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER = Path(__file__).parent
NOTE = re.compile(r"# ([a-z-]+): (\S.*)")
PLAIN = re.compile(r"[\x20-\x7e]*")
ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|\(([^()*]+)\*([0-9]+)\)|(.?))")
LETTERS = {"r": b"\r", "n": b"\n", "t": b"\t", "\\": b"\\"}


@dataclass(frozen=True, slots=True)
class Case:
    """One file: its notes, the bytes that are said, and those that must arrive (None where it names none)."""

    name: str
    notes: Mapping[str, str]
    said: bytes
    arrives: bytes | None

    def __str__(self) -> str:
        return self.name


def parse_case(text: str, name: str) -> Case:
    """Read one file's text. Raises ValueError, which names the file and says what is wrong with it."""
    notes: dict[str, str] = {}
    lines = text.splitlines()
    while lines and lines[0].startswith("#"):
        line = lines.pop(0)
        note = NOTE.fullmatch(line)
        if note is None or note[1] in notes:
            raise ValueError(f"{name}: not a note, or one given twice: {line!r}")
        notes[note[1]] = note[2]
    if not {"verdict", "reason"} <= notes.keys():
        raise ValueError(f"{name}: verdict and reason must be noted")
    bar = lines.index("---") if "---" in lines else None
    arrives = None if bar is None else unescape(lines[bar + 1 :], name)
    return Case(name, notes, unescape(lines[:bar], name), arrives)


def unescape(lines: list[str], name: str) -> bytes:
    """The bytes that are written in this way. Raises ValueError."""
    for line in lines:
        if not PLAIN.fullmatch(line) or line.endswith(" "):
            raise ValueError(f"{name}: only printable ASCII, and no space at the end: {line!r}")
    pieces = []
    at = 0
    text = "".join(lines)
    for match in ESCAPE.finditer(text):
        pieces.append(text[at : match.start()].encode())
        pieces.append(unescape_one(match, name))
        at = match.end()
    return b"".join(pieces) + text[at:].encode()


def unescape_one(match: re.Match[str], name: str) -> bytes:
    """The bytes of one escape."""
    code, repeated, times, letter = match.groups()
    if code is not None:
        return bytes.fromhex(code)
    if repeated is not None:
        return unescape([repeated], name) * int(times)
    if letter not in LETTERS:
        raise ValueError(f"{name}: unknown escape {match[0]!r}")
    return LETTERS[letter]


def cases(folder: str) -> list[Case]:
    """All files below ``tests/FOLDER``, by name; a folder without any is a fault of the checkout."""
    found = sorted((FOLDER / folder).glob("*.http"))
    assert found, folder
    return [parse_case(path.read_text("ascii"), f"{folder}/{path.stem}") for path in found]
