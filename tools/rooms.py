"""The rooms of this repository, what each imports when it runs, and the table of them in ``docs/architecture.md``.

``python tools/rooms.py`` says where table and code differ; ``--write`` brings the table's last column up to date (a new
room is given its floor and its sentence by hand); ``--pure`` prints the files of the pure floor, comma separated.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "docs" / "architecture.md"
PURE = "Pure floor"
DEMO = "relay/demo"  # a folder that is one room
# The folders below relay/, each of which knows only itself, those before it, and the files beside them.
FOLDERS = (
    "wire",
    "reading",
    "subjects",
    "choosing",
    "record",
    "requests",
    "reach",
    "scopes",
    "answers",
    "process",
)
EVERYTHING = "everything"  # what the front door may import


class Import(NamedTuple):
    """One thing that a file imports: a dotted name, as seen from the root, and whether importing the file does it."""

    name: str
    at_start: bool


class Row(NamedTuple):
    """One line of the table."""

    floor: str
    room: str
    what: str
    imports: str

    def __str__(self) -> str:
        """The line as it stands in the document."""
        return f"| `{self.room}` | {self.what} | {self.imports} |"


def room_files(root: Path = ROOT) -> dict[str, list[Path]]:
    """Every room's files. An ``__init__.py`` says what its folder is for, and is no room."""
    rooms = {name: [root / name] for name in ("passthrough.py", "router.py")}
    for folder in ("", *FOLDERS):
        for path in sorted((root / "relay" / folder).glob("*.py")):
            if path.name != "__init__.py":
                rooms[path.relative_to(root).as_posix()] = [path]
    rooms[DEMO] = sorted((root / DEMO).glob("*.py"))
    return rooms


def imports_of(path: Path, root: Path = ROOT) -> list[Import]:
    """What a file imports when it runs: everything but what stands under ``if TYPE_CHECKING``."""
    package = path.relative_to(root).parent.parts
    found = []
    for node, at_start in import_statements(ast.parse(path.read_text("utf-8")), at_start=True):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, at_start) for alias in node.names]
            continue
        base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
        module = ".".join(part for part in (base, node.module) if part)
        if module == "relay" or module.removeprefix("relay.") in FOLDERS or node.module is None:
            found += [Import(f"{module}.{alias.name}", at_start) for alias in node.names]
        else:
            found.append(Import(module, at_start))
    return found


def import_statements(node: ast.AST, *, at_start: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """The import statements in and below a node, and whether they run when the file is imported."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node, at_start
        return
    only_for_types = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    for child in node.orelse if only_for_types else ast.iter_child_nodes(node):  # type: ignore[attr-defined]
        yield from import_statements(child, at_start=at_start and not inside)


def room_of(name: str) -> str:
    """The room that a dotted name lies in, or the top-level package where it is none of ours."""
    first, *rest = name.split(".")
    if first in ("passthrough", "router"):
        return f"{first}.py"
    if first != "relay":
        return first
    if rest[0] == "demo":
        return DEMO
    depth = 2 if rest[0] in FOLDERS else 1
    return f"relay/{'/'.join(rest[:depth])}.py"


def imported_rooms(room: str, files: list[Path], root: Path = ROOT) -> list[str]:
    """What a room imports, the standard library and itself aside: packages first, then rooms."""
    names = {room_of(one.name) for path in files for one in imports_of(path, root)}
    names -= {room, *sys.stdlib_module_names}
    return sorted(names, key=lambda name: ("." in name or "/" in name, short(name)))


def short(room: str) -> str:
    """How the table's last column names a room: no two have the same name."""
    return room.rpartition("/")[2].removesuffix(".py")


def folder_of(room: str) -> str | None:
    """The folder below ``relay/`` that a room lies in."""
    parts = room.split("/")
    return parts[1] if len(parts) == 3 else None  # noqa: PLR2004 - relay, folder, file


def imports_column(room: str, files: list[Path], root: Path = ROOT) -> str:
    """What the table should say a room imports."""
    return EVERYTHING if room == "passthrough.py" else ", ".join(map(short, imported_rooms(room, files, root))) or "-"


def read_table(text: str) -> list[Row]:
    """The rows of the table, under the headings that are the floors."""
    rows, floor = [], ""
    for line in text.splitlines():
        if line.startswith("#"):
            floor = line.lstrip("# ")
        elif line.startswith(("| `passthrough.py`", "| `router.py`", "| `relay/")):
            room, what, imports = (cell.strip() for cell in line.strip("|").split(" | "))
            rows.append(Row(floor, room.strip("`"), what, imports))
    return rows


def differences(text: str, root: Path = ROOT) -> list[str]:
    """Where table and code differ, as sentences."""
    files, rows = room_files(root), {row.room: row for row in read_table(text)}
    found = [f"{room} has no row" for room in files.keys() - rows.keys()]
    found += [f"{room} is gone" for room in rows.keys() - files.keys()]
    for room in files.keys() & rows.keys():
        if rows[room].imports != (wanted := imports_column(room, files[room], root)):
            found.append(f"{room} imports {wanted}; the table says {rows[room].imports}")
    return sorted(found)


def rewrite(text: str, root: Path = ROOT) -> str:
    """The document with its last column as the code has it."""
    files = room_files(root)
    for row in read_table(text):
        if row.room in files:
            text = text.replace(str(row), str(row._replace(imports=imports_column(row.room, files[row.room], root))))
    return text


def pure_files(text: str) -> list[str]:
    """The files that are on the pure floor, and must be covered whole."""
    return [row.room for row in read_table(text) if row.floor == PURE]


def main(arguments: list[str]) -> int:
    """Do what the module's docstring says; 1 where table and code differ."""
    text = TABLE.read_text("utf-8")
    if arguments == ["--pure"]:
        print(",".join(pure_files(text)))
        return 0
    if arguments == ["--write"]:
        TABLE.write_text(text := rewrite(text), "utf-8")
    for sentence in differences(text):
        print(sentence)
    return bool(differences(text))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
