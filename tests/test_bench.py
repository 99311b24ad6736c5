"""The benchmark for users runs from end to end and says plausible things. How quick anything is, it may not say."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from bench.cold import PARTS, Sizes
from bench.documents import insert
from bench.figures import Calls, Memory, Report, Streams, median
from bench.load import percentile
from bench.measure import Cores, cpu_of, family, resident, share_cores
from bench.messages import RESPONSE, Framer, Wish, length_of, request, small_body, wish_of
from bench.peers import installed
from bench.plot import Panel, Scale, decades, draw, short, ticks_to
from bench.starts import by_package
from bench.table import markdown, number, picture, table
from tools.rooms import ROOT

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="CPU and memory are read from /proc")

SVG = "{http://www.w3.org/2000/svg}"
PEERS = [name for name in ("nginx", "passthrough") if name in installed()]
TINY = ["--seconds", "0.1", "--rounds", "1", "--concurrency", "4", "--streams", "3", "--events", "5"]
TINIEST = Sizes(starts=1, connections=20, streams=10, slow=3, secured=3, deployments=5, rounds=1, seconds=0.1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """All of ``python -m bench`` at its smallest: what it wrote, and what it printed."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "doc.md").write_text("before\n<!-- figures -->\nold\n<!-- end of figures -->\nafter\n")
    options = [*TINY, "--only", ",".join(PEERS), "--out", str(folder), "--into", str(folder / "doc.md")]
    command = [sys.executable, "-m", "bench", "--markdown", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_everybody_is_measured_beside_direct_access(run: tuple[Path, str]) -> None:
    figures = json.loads((run[0] / "figures.json").read_text())
    everybody = ["direct", *PEERS]
    assert sorted((one["peer"], one["concurrency"]) for one in figures["calls"]) == sorted(
        (name, step) for name in everybody for step in (4,)
    )
    assert sorted(one["peer"] for one in figures["streams"]) == sorted(everybody)
    assert [one["peer"] for one in figures["memory"]] == PEERS


def test_every_figure_is_one(run: tuple[Path, str]) -> None:
    """What is added to direct access may be less than nothing in so short a run."""
    figures = json.loads((run[0] / "figures.json").read_text())
    for one in [*figures["calls"], *figures["streams"], *figures["memory"]]:
        for name, value in one.items():
            assert name == "peer" or name.startswith("added") or value > 0, one
    direct = {one["concurrency"]: one["per_second"] for one in figures["calls"] if one["peer"] == "direct"}
    assert all(one["ceiling"] == direct[one["concurrency"]] for one in figures["calls"])
    assert all(one["p50"] <= one["p99"] for one in figures["calls"] + figures["streams"])


def test_the_tables_are_printed_and_put_into_a_document(run: tuple[Path, str]) -> None:
    folder, said = run
    assert "| ceiling |" in said
    assert said.count("\n| passthrough ") == 3
    document = (folder / "doc.md").read_text()
    assert said.strip() in document
    assert "old" not in document
    assert document.startswith("before\n")
    assert document.endswith("after\n")


def test_the_picture_is_one(run: tuple[Path, str]) -> None:
    root = ET.fromstring((run[0] / "figures.svg").read_text())
    assert root.tag == f"{SVG}svg"
    assert len(list(root.iter(f"{SVG}rect"))) > 10
    assert (run[0] / "doc.svg").read_text() == (run[0] / "figures.svg").read_text()


@pytest.mark.parametrize("name", PARTS)
def test_a_cold_path_is_measured(name: str) -> None:
    lines = list(PARTS[name](TINIEST))
    assert lines
    assert all(line.value > 0 for line in lines if line.unit in {"ms", "MB/s", "us CPU"} and "ssl" not in line.what)


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_messages_are_cut_where_they_end(size: int) -> None:
    framer = Framer()
    said = RESPONSE * 3
    pieces = [said[at : at + size] for at in range(0, len(said), size)]
    assert [message for piece in pieces for message in framer.feed(piece)] == [RESPONSE] * 3


def test_the_length_of_a_message_is_known_with_its_head() -> None:
    assert length_of(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n") == 0
    assert length_of(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n") == 43
    assert length_of(b"GET / HTTP/1.1\r\n\r\n") == 18


def test_a_wish_arrives() -> None:
    wish = Wish(100, 20_000)
    assert wish_of(request(small_body(wish), "k")) == wish
    assert wish_of(request(small_body(), "k")) is None


@pytest.mark.parametrize(("share", "value"), [(0.5, 51), (0.99, 100), (1, 100), (0, 1)])
def test_percentiles(share: float, value: float) -> None:
    assert percentile(range(1, 101), share) == value
    assert percentile([], share) == 0


def calls(peer: str, per_second: float) -> Calls:
    return Calls(peer, 32, per_second, 9000, 300, 900, 200, -5, 70)


def test_rounds_become_their_medians() -> None:
    middle = median([calls("nginx", 3), calls("nginx", 100), calls("nginx", 5)])
    assert (middle.peer, middle.concurrency, middle.per_second) == ("nginx", 32, 5)


@pytest.mark.parametrize(
    ("top", "ticks"),
    [
        (100, [0, 25, 50, 75, 100]),
        (7, [0, 2, 4, 6, 8]),
        (0.3, [0, 0.1, 0.2, 0.3]),
        (8210, [0, 2500, 5000, 7500, 10000]),
    ],
)
def test_ticks_are_round_and_reach_the_top(top: float, ticks: list[float]) -> None:
    assert ticks_to(top) == pytest.approx(ticks)


def test_decades_stand_around_the_values() -> None:
    assert decades(0.2, 30) == pytest.approx([0.1, 1, 10, 100])
    assert decades(10, 10) == pytest.approx([10, 100])


def test_a_scale_places_values() -> None:
    bars = Scale(Panel("t", "u", ("g",), {"a": (50.0,), "b": (100.0,)}))
    assert [bars.place(value) for value in (-1, 0, 50, 100)] == [0, 0, 0.5, 1]
    dots = Scale(Panel("t", "u", ("g",), {"a": (1.0,), "b": (100.0,)}, logarithmic=True))
    assert [dots.place(value) for value in (0, 1, 10, 100)] == pytest.approx([0, 0, 0.5, 1])


def test_what_cannot_be_drawn_is_left_out() -> None:
    panel = Panel("a < b", "u", ("g", "h"), {"nginx": (None, -1.0), "passthrough": (2.0, 0.0)}, logarithmic=True)
    root = ET.fromstring(draw("t & u", "note", [panel]))
    assert len(list(root.iter(f"{SVG}circle"))) == 1
    assert "a < b" in [one.text for one in root.iter(f"{SVG}text")]


@pytest.mark.parametrize(
    ("value", "in_a_table", "in_the_picture"),
    [
        (0.123, "0.12", "0.12"),
        (12.34, "12.3", "12"),
        (123.4, "123", "123"),
        (8210, "8,210", "8.2k"),
        (2e4, "20,000", "20k"),
    ],
)
def test_numbers_are_short(value: float, in_a_table: str, in_the_picture: str) -> None:
    assert number(value) == in_a_table
    assert short(value) == in_the_picture


def test_a_table_is_padded() -> None:
    assert table(["", "n"], [["one", "1"], ["three", "333"]]) == (
        "|       |   n |\n| ----- | --: |\n| one   |   1 |\n| three | 333 |\n"
    )


def test_a_report_is_told_and_drawn() -> None:
    streams = tuple(Streams(name, 50, 2500, 300, 900, 100, 300, 20_000, 21_000, 30) for name in ("direct", "nginx"))
    report = Report((calls("direct", 9000), calls("nginx", 8000)), streams, (Memory("nginx", 14, 15, 15),))
    said = markdown(report, "preface")
    assert "| nginx  |      32 |      8,000 |   9,000 |   0.30 |   0.90 |      0.20 |     -0.01 |" in said
    assert ET.fromstring(picture(report, "note")).tag == f"{SVG}svg"


def test_cores_are_shared_where_there_are_enough() -> None:
    assert share_cores({0, 1, 2}) == Cores()
    assert share_cores({0, 1, 2, 3, 4}) == Cores(frozenset({1}), frozenset({2}), frozenset({3}))
    assert "not pinned" in str(Cores())


def test_a_process_and_its_children_are_looked_at() -> None:
    with subprocess.Popen(["sh", "-c", "echo; sleep 30 & wait"], stdout=subprocess.PIPE) as shell:
        assert shell.stdout is not None
        shell.stdout.readline()
        own = resident(shell.pid)
        tree = family(shell.pid)
        while len(tree) < 2:
            tree = family(shell.pid)
        for pid in tree:
            subprocess.run(["kill", str(pid)], check=False)
    assert tree[0] == shell.pid
    assert own > 0
    assert family(shell.pid) == []
    assert cpu_of(shell.pid) == 0


def test_imports_are_summed_by_package() -> None:
    assert by_package({"yaml.reader": 10, "h11": 30, "yaml": 25}) == [("yaml", 35), ("h11", 30)]


def test_a_document_without_a_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "doc.md").write_text("nothing here")
    with pytest.raises(SystemExit, match="no place for figures"):
        insert(tmp_path / "doc.md", "figures", "text")
