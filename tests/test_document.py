"""YAML with positions: what is read, where faults stand, and that both of PyYAML's parsers say the same."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.reading.document import MAX_DEPTH, Items, Place, Report, Scalar, Table, compose, is_null, plain


@pytest.fixture(params=["libyaml", "pure"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both parsers, one after the other; in a zip there is only the pure one."""
    if request.param == "pure":
        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    elif not hasattr(yaml, "CSafeLoader"):
        pytest.skip("PyYAML was built without libyaml")
    return str(request.param)


def read(text: str) -> tuple[Any, tuple[str, ...]]:
    report = Report()
    node = compose(text, "f", report)
    return (None if node is None else plain(node)), report.lines(report.problems)


VALUES = [
    ("nothing", "", None),
    ("comment", "# only\n", None),
    ("plain", "a: b", {"a": "b"}),
    ("null", "a:\nb: ~\nc: null", {"a": None, "b": None, "c": None}),
    ("flags", "[yes, No, on, OFF, true, False]", [True, False, True, False, True, False]),
    ("whole", "[1, -2, +3, 20_000, 0660, 0x1F, 0b101, -0x10]", [1, -2, 3, 20000, 432, 31, 5, -16]),
    ("fractions", "[1.5, .5, -1., 1_0.5, 1.0e+3]", [1.5, 0.5, -1.0, 10.5, 1000.0]),
    ("no float in YAML 1.1", "[1e3, 3e-06]", ["1e3", "3e-06"]),
    ("dates and clocks stay text", "[2001-12-14, 1:30, 1:30.5, '=']", ["2001-12-14", "1:30", "1:30.5", "="]),
    ("impossible figures stay text", "[0b, 08, !!int x, !!float x, !!bool x]", ["0b", "08", "x", "x", "x"]),
    ("too many digits", f"[{'9' * 5000}]", ["9" * 5000]),
    ("quoted is text", "['1', \"true\", 'null', '']", ["1", "true", "null", ""]),
    ("tags of YAML", "[!!str 1, !!int '1', !!seq [], !!map {}, ! 1]", ["1", 1, [], {}, "1"]),
    ("block text", "a: |\n  x\n  y\nb: >-\n  x\n  y\n", {"a": "x\ny\n", "b": "x y"}),
    ("anchor", "[&a {b: 1}, *a, &c x, *c]", [{"b": 1}, {"b": 1}, "x", "x"]),
    ("merge", "a: &a {b: 1, c: 1}\nd: {<<: *a, b: 2}", {"a": {"b": 1, "c": 1}, "d": {"b": 2, "c": 1}}),
    ("merge of several", "{<<: [{a: 1}, {a: 2, b: 2}], c: 3}", {"c": 3, "a": 1, "b": 2}),
    ("byte order mark", "\ufeffa: 1", {"a": 1}),
    ("document marks", "---\na: 1\n...\n", {"a": 1}),
    ("keys are text", "{1: a, true: b, ~: c, 1.0: d}", {"1": "a", "true": "b", "~": "c", "1.0": "d"}),
    ("explicit document", "%YAML 1.1\n---\na: 1\n", {"a": 1}),
]


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(("text", "value"), [case[1:] for case in VALUES], ids=[case[0] for case in VALUES])
def test_values_are_typed_as_yaml_1_1_types_them(text: str, value: object) -> None:
    assert read(text) == (value, ())


UNKNOWN_TOKEN = (
    "not YAML: while scanning for the next token, found character '%s' that cannot start any token"
    " (a value that begins so must be quoted)"
)
ANCHOR = (
    "not YAML: while scanning an anchor, expected alphabetic or numeric character, but found ' '"
    " (a value that begins with & must be quoted)"
)
FAULTS = [
    ("twice", "a: 1\nb: 2\na: 3\n", ["f:3:1: 'a' is given twice, first on line 1"]),
    ("twice within", "x:\n  a: 1\n  a: 2\n  a: 3\n", [f"f:{n}:3: 'a' is given twice, first on line 2" for n in (3, 4)]),
    ("unknown anchor", "a: *b", ["f:1:4: no anchor &b stands before this *b"]),
    ("circle", "a: &a {b: [*a]}", ["f:1:12: *a stands inside what it stands for"]),
    ("merge of a text", "{<<: x, a: 1}", ["f:1:6: <<: expected a mapping, as in <<: *defaults"]),
    ("key that is a list", "? [a]\n: b", ["f:1:3: a key must be plain text (quote a value that begins with { or [)"]),
    ("tag", "a: !x b", ["f:1:4: the tag !x is not read here; write a plain value"]),
    ("binary", "a: !!binary aGk=", ["f:1:4: the tag !!binary is not read here; write a plain value"]),
    ("tag of a mapping", "a: !!set {b}", ["f:1:4: the tag !!set is not read here; write a plain value"]),
    ("second document", "a: 1\n---\nb: 2", ["f:2:1: a second document begins here; one file holds one"]),
    ("NUL", "a: b\r\nc: \x00", ["f:2:4: YAML has no character U+0000"]),
    ("lone surrogate", "a: \ud800", ["f:1:4: YAML has no character U+D800"]),
    ("deep", "[" * (MAX_DEPTH + 1), [f"f:1:{MAX_DEPTH + 1}: nested deeper than {MAX_DEPTH} levels"]),
    (
        "deep through aliases",
        "- &a " + "[" * 30 + "]" * 30 + "\n- " + "[" * 31 + "*a" + "]" * 31,
        [f"f:2:3: nested deeper than {MAX_DEPTH} levels once its aliases are written out"],
    ),
    (
        "billion laughs",
        "- &a [" + "x," * 99 + "x]\n- &b [" + "*a," * 99 + "*a]\n- &c [" + "*b," * 99 + "*b]\n",
        ["f:3:3: more than 500,000 values once its aliases are written out"],
    ),
    (
        "the pure parser's words",
        "a: @b",
        [f"f:1:4: {UNKNOWN_TOKEN % '@'}"],
    ),
    (
        "where it began",
        "a: 'b\nc: d\n",
        ["f:3:1: not YAML: while scanning a quoted scalar, found unexpected end of stream (begun on line 1)"],
    ),
    (
        "ampersand",
        "a: & b",
        [f"f:1:5: {ANCHOR}"],
    ),
]


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(("text", "problems"), [case[1:] for case in FAULTS], ids=[case[0] for case in FAULTS])
def test_faults_are_told_with_their_place(text: str, problems: list[str]) -> None:
    assert list(read(text)[1]) == problems


@pytest.mark.usefixtures("parser")
def test_every_node_knows_where_it_was_written() -> None:
    node = compose("a: &x\n  b: 1\nc:\n  <<: *x\n  d: [2]\n", "f", Report())
    assert isinstance(node, Table)
    table = node.entries["c"].node
    assert isinstance(table, Table)
    assert (table.place, node.entries["c"].place) == (Place("f", 4, 3), Place("f", 3, 1))
    assert table.entries["b"].place == Place("f", 2, 3)  # as merged in
    items = table.entries["d"].node
    assert isinstance(items, Items)
    assert str(items.items[0].place) == "f:5:7"


def test_null_is_nothing_else() -> None:
    node = compose("[~, '', 0, [], {}]", "f", Report())
    assert isinstance(node, Items)
    assert [is_null(item) for item in node.items] == [True, False, False, False, False]


def test_findings_come_in_the_order_of_the_files_and_once() -> None:
    report = Report()
    for name in ("main", "included", "main"):
        report.open(name)
    for place in (Place("included", 1, 1), Place("main", 10, 1), Place("main", 9, 5), Place("main", 9, 5)):
        report.problem(place, "wrong")
    report.warn(Place("main", 1, 1), "odd")
    assert report.lines(report.problems) == ("main:9:5: wrong", "main:10:1: wrong", "included:1:1: wrong")
    assert report.lines(report.warnings) == ("main:1:1: odd",)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8"))
KEYS = st.from_regex("[a-z]{1,5}", fullmatch=True)
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.from_regex("[a-z]{1,5}", fullmatch=True), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(TREES)
def test_values_are_those_of_safe_load(tree: object) -> None:
    text = yaml.safe_dump(tree, allow_unicode=True)
    assert read(text) == (yaml.safe_load(text), ())


SIGNS = "ab01 \n\t:-?[]{},#&*!|>'\"%@`<~."
YAML_LIKE = st.text(st.sampled_from(SIGNS + "\u2028\ufeff"), max_size=60)


@settings(deadline=None)
@given(YAML_LIKE)
def test_no_text_does_more_than_report(text: str) -> None:
    report = Report()
    node = compose(text, "f", report)
    assert node is None or isinstance(node, Scalar | Items | Table)
    for line in report.lines(report.problems):
        assert line.startswith("f:")
        assert "\n" not in line


@settings(deadline=None)
@given(st.text(st.sampled_from(SIGNS), max_size=60))
def test_both_parsers_find_the_same(text: str) -> None:
    if not hasattr(yaml, "CSafeLoader"):
        pytest.skip("PyYAML was built without libyaml")
    fast = read(text)
    loader = yaml.CSafeLoader
    try:
        del yaml.CSafeLoader
        pure = read(text)
    finally:
        yaml.CSafeLoader = loader  # type: ignore[misc]
    if not fast[1] and not pure[1]:  # libyaml reads a few texts that the pure parser refuses, and the other way round
        assert fast == pure
