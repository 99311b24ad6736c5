"""Values: what ``dataclasses`` would have done."""

from __future__ import annotations

import copy
import enum
import pickle
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

import passthrough  # noqa: F401 - for the classes that it loads
import relay.answers.merging  # noqa: F401 - and for those that come later
from relay.config import Config
from relay.record.usage import Usage
from relay.subjects.subject import Subject
from relay.values import NOTHING, Struct, Value, names_of, replace

if TYPE_CHECKING:
    from collections.abc import Iterator


class Point(Value):
    counted: ClassVar[int] = 7
    x: int
    y: int = 0
    label: str | None = None


class Spot(Point):
    counted = 8
    y: int = 5
    colour: str = "red"


class Locked(Value):
    _hidden = ("key",)
    name: str
    key: str = "sk-secret"


class Count(Struct):
    tokens: int
    tier: str | None = None


class Other(Struct):
    tokens: int
    tier: str | None = None


def test_fields_are_given_in_order_or_by_name() -> None:
    for point in Point(1, 2), Point(1, y=2), Point(y=2, x=1):
        assert (point.x, point.y, point.label) == (1, 2, None)
    assert names_of(Point) == ("x", "y", "label")
    assert Point.counted == 7


@pytest.mark.parametrize(
    ("given", "named"),
    [((), {}), ((), {"y": 1}), ((1, 2, "a", 4), {}), ((1,), {"z": 1}), ((), {"z": 1}), ((1,), {"x": 1})],
)
def test_what_is_missing_unknown_or_given_twice_is_told(given: tuple[int, ...], named: dict[str, int]) -> None:
    with pytest.raises(TypeError, match="Point: expected x, y, label"):
        Point(*given, **named)  # type: ignore[arg-type]


def test_equal_fields_of_one_class_are_equal() -> None:
    assert Point(1, 2) == Point(y=2, x=1)
    assert Point(1, 2) != Point(1, 3)
    assert Point(1) != (1, 0, None)
    assert Count(1) == Count(1, None)
    assert Count(1) != Other(1)


def test_a_value_has_the_hash_of_its_fields_and_a_struct_has_none() -> None:
    assert hash(Point(1, 2)) == hash(Point(y=2, x=1))
    assert len({Point(1, 2), Point(y=2, x=1), Point(2, 1)}) == 2
    with pytest.raises(TypeError, match="unhashable"):
        hash(Count(1))


def test_a_value_does_not_change_and_a_struct_does() -> None:
    point = Point(1)
    with pytest.raises(AttributeError, match=r"Point\.x cannot be set"):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError, match=r"Point\.x cannot be deleted"):
        del point.x
    count = Count(1)
    count.tokens = 2
    assert count == Count(2)
    assert Count(1).tier is None  # the default is still that of the class


def test_another_value_with_changes() -> None:
    point = Point(1, 2, "here")
    assert replace(point, y=5) == Point(1, 5, "here")
    assert point == Point(1, 2, "here")
    with pytest.raises(TypeError, match="expected x, y, label"):
        replace(point, z=1)  # type: ignore[call-arg]


def test_a_class_has_the_fields_of_its_base() -> None:
    assert names_of(Spot) == ("x", "y", "label", "colour")
    assert Spot(1) == Spot(1, 5, None, "red")
    assert Spot(1, 0) != Point(1, 0)
    assert names_of(Point) == ("x", "y", "label")


def classes(kind: type[Any]) -> Iterator[type[Any]]:
    for one in kind.__subclasses__():
        yield one
        yield from classes(one)


@pytest.mark.parametrize("kind", [*classes(Struct), *classes(Value)])
def test_no_default_can_be_changed(kind: type[Value]) -> None:
    defaults = [getattr(kind, name) for name in names_of(kind) if hasattr(kind, name)]
    assert [one for one in defaults if one is not NOTHING and not is_fixed(one)] == []


def is_fixed(value: object) -> bool:
    """Whether nothing in a default can change."""
    if isinstance(value, tuple):
        return all(map(is_fixed, value))
    if isinstance(value, Value):
        return all(is_fixed(getattr(value, name)) or getattr(value, name) is NOTHING for name in names_of(type(value)))
    return value is None or isinstance(value, str | bytes | int | float | enum.Enum)


@pytest.mark.parametrize("value", [Point(1), Spot(1, label="a"), Count(2), Config({}), Usage(5)], ids=repr)
def test_a_copy_is_equal(value: Value | Struct) -> None:
    assert pickle.loads(pickle.dumps(value)) == value
    assert copy.deepcopy(value) == value
    assert copy.copy(value) == value


def test_a_repr_leaves_out_what_is_hidden() -> None:
    assert repr(Point(1, label="a")) == "Point(x=1, y=0, label='a')"
    assert repr(Locked("n")) == "Locked(name='n')"


def test_a_copied_subject_says_the_same() -> None:
    subject = Subject(*(object() for _ in names_of(Subject)))  # type: ignore[arg-type]
    other = subject.copied()
    assert other == subject
    other.stream = True
    assert other != subject
