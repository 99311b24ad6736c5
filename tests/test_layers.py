"""The line that matters, and the table of rooms: ``docs/architecture.md`` says who imports whom, the code agrees."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING

import pytest

from tools import rooms

if TYPE_CHECKING:
    from pathlib import Path

FILES = rooms.room_files()
TEXT = rooms.TABLE.read_text("utf-8")
EVERY_FILE = [path for paths in FILES.values() for path in paths]
REQUIRED = {"h11", "yaml"}
OPTIONAL = {"opentelemetry", "sentry_sdk", "uvloop"}  # extras: looked for when they are asked for, never at start
# What a room of the pure floor has no business with; os.path is arithmetic on text.
IMPURE = {"asyncio", "io", "logging", "os", "pathlib", "random", "resource", "select", "signal", "socket", "sqlite3"}
IMPURE |= {"ssl", "subprocess", "sys", "tempfile", "threading", "time"}


WRONG_TABLE = """
### Doors
| `passthrough.py` | x | everything |
| `router.py` | x | errors |
### Pure floor
| `relay/errors.py` | x | - |
| `relay/a.py` | x | b |
| `relay/old.py` | x | - |
### Wire floor
| `relay/demo` | x | h11 |
"""


def outside(path: Path, *, at_start: bool) -> set[str]:
    """The packages that a file imports from outside of the repository and the standard library."""
    names = {one.name.split(".")[0] for one in rooms.imports_of(path) if one.at_start or not at_start}
    return names - sys.stdlib_module_names - {"passthrough", "router", "relay"}


def test_the_table_says_what_the_code_does() -> None:
    assert rooms.differences(TEXT) == []


def test_no_room_needs_itself() -> None:
    """Raises CycleError where one does, over any number of steps, even inside a function."""
    graph = {room: [name for name in rooms.imported_rooms(room, FILES[room]) if name in FILES] for room in FILES}
    order = list(TopologicalSorter(graph).static_order())
    assert order.index("passthrough.py") > order.index("router.py") > order.index("relay/errors.py")


def test_a_folder_knows_only_those_before_it() -> None:
    for room, files in FILES.items():
        if (folder := rooms.folder_of(room)) is None:
            continue
        known = rooms.FOLDERS[: rooms.FOLDERS.index(folder) + 1]
        others = {rooms.folder_of(name) for name in rooms.imported_rooms(room, files)} - {None}
        assert others <= set(known), room


def test_what_makes_messages_quick_stays_where_it_is() -> None:
    """One room asks h11 about messages that are relayed, and how a wait ends is known to connections alone."""
    knows = {room: set(rooms.imported_rooms(room, FILES[room])) for room in FILES}
    assert {room for room in knows if "h11" in knows[room]} == {
        "relay/wire/framing.py",
        "relay/reach/handover.py",  # the answer to CONNECT
        rooms.DEMO,
    }
    insides = {f"relay/wire/{name}.py" for name in ("hangup", "turns", "waiting")}
    assert insides <= FILES.keys()
    assert {room for room in knows if knows[room] & insides} == {
        "relay/wire/connection.py",
        "relay/wire/http1.py",
    }
    assert rooms.FOLDERS[0] == "wire"  # so it knows no other folder: neither models nor ids nor records


def test_no_two_rooms_have_one_name() -> None:
    assert len({rooms.short(room) for room in FILES}) == len(FILES)
    assert {path.name for path in (rooms.ROOT / "relay").iterdir() if (path / "__init__.py").exists()} == {
        *rooms.FOLDERS,
        "demo",
    }


def test_below_the_line_nobody_knows_the_doors() -> None:
    below = {room: rooms.imported_rooms(room, FILES[room]) for room in FILES if room.startswith("relay/")}
    assert len(below) > 20
    assert [room for room, names in below.items() if {"router.py", "passthrough.py"} & set(names)] == []


def test_the_folder_speaks_of_itself_by_dots() -> None:
    """So that it can be copied under another package (``third_party``) as it is."""
    relay = [path for room, paths in FILES.items() if room.startswith("relay/") for path in paths]
    nodes = [node for path in relay for node, _ in rooms.import_statements(ast.parse(path.read_text()), at_start=True)]
    absolute = [node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    assert [name for name in absolute if name and name.split(".")[0] == "relay"] == []


def test_the_demo_upstream_stands_alone() -> None:
    assert rooms.imported_rooms(rooms.DEMO, FILES[rooms.DEMO]) == ["h11"]


@pytest.mark.parametrize("path", EVERY_FILE, ids=lambda path: str(path.relative_to(rooms.ROOT)))
def test_two_packages_are_enough(path: Path) -> None:
    assert outside(path, at_start=True) <= REQUIRED
    assert outside(path, at_start=False) <= REQUIRED | OPTIONAL


@pytest.mark.parametrize("room", rooms.pure_files(TEXT))
def test_a_pure_room_waits_for_nothing_and_asks_nobody(room: str) -> None:
    (path,) = FILES[room]
    tree = ast.parse(path.read_text("utf-8"))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef | ast.Await)]
    assert {one.name for one in rooms.imports_of(path)} & IMPURE == set()
    assert "open" not in {node.func.id for node in ast.walk(tree) if is_plain_call(node)}  # type: ignore[attr-defined]


def is_plain_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


def test_the_pure_floor_rests_on_nothing() -> None:
    pure = set(rooms.pure_files(TEXT))
    assert len(pure) > 20
    assert [
        (room, name) for room in pure for name in rooms.imported_rooms(room, FILES[room]) if name in FILES.keys() - pure
    ] == []


def test_a_start_loads_no_extra_and_no_demo() -> None:
    script = "import sys, passthrough; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], cwd=rooms.ROOT, capture_output=True, text=True, timeout=60, check=True
    ).stdout.split()
    assert "relay.reach.upstream" in loaded
    assert [name for name in loaded if name.split(".")[0] in OPTIONAL or name.startswith("relay.demo")] == []


def test_what_a_table_gets_wrong_is_named(tmp_path: Path) -> None:
    (tmp_path / "relay" / "demo").mkdir(parents=True)
    for name, text in {
        "passthrough.py": "import router",
        "router.py": "from relay.errors import X\nfrom relay import a",
        "relay/__init__.py": "",
        "relay/errors.py": "",
        "relay/a.py": "if TYPE_CHECKING:\n    from .b import B\nelse:\n    import h11",
        "relay/b.py": "def f():\n    from . import a, errors",
        "relay/demo/__init__.py": "from .c import D",
        "relay/demo/c.py": "import h11",
    }.items():
        (tmp_path / name).write_text(text)
    assert rooms.differences(WRONG_TABLE, tmp_path) == [
        "relay/a.py imports h11; the table says b",
        "relay/b.py has no row",
        "relay/old.py is gone",
        "router.py imports a, errors; the table says errors",
    ]
    assert rooms.differences(rooms.rewrite(WRONG_TABLE, tmp_path), tmp_path) == [
        "relay/b.py has no row",
        "relay/old.py is gone",
    ]
    assert rooms.pure_files(WRONG_TABLE) == ["relay/errors.py", "relay/a.py", "relay/old.py"]
