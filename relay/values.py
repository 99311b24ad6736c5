"""Values of named fields, as ``dataclasses`` makes them, without its cost to a start.

``dataclasses`` writes the text of up to six methods for each class and has it compiled: for the thirty classes of a
start that was a sixth of the way to the first answer. Here all classes share one method of each kind. Annotations must
be text (``from __future__ import annotations``), a default must not be one that changes, since all share it, and a
value takes half a kilobyte more than with slots.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, dataclass_transform

if TYPE_CHECKING:
    from collections.abc import Mapping

NOTHING: Mapping[str, Any] = {}  # the default of a mapping; its type keeps everybody from filling it
set_attribute = object.__setattr__  # also of what is frozen


class _Fielded:  # noqa: PLW1641 - what may change has no hash; `Value` has one
    """What has fields: its annotations but for class variables, in their order, behind those of its base."""

    _fields: ClassVar[tuple[str, ...]] = ()
    _names: ClassVar[frozenset[str]] = frozenset()
    _defaults: ClassVar[dict[str, Any]] = {}
    _hidden: ClassVar[tuple[str, ...]] = ()  # fields that a repr leaves out

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = (name for name, kind in cls.__annotations__.items() if not kind.startswith("ClassVar"))
        cls._fields = tuple(dict.fromkeys([*cls._fields, *own]))
        cls._names = frozenset(cls._fields)
        cls._defaults = cls._defaults | {name: cls.__dict__[name] for name in cls._fields if name in cls.__dict__}
        for name in cls._defaults.keys() & cls.__dict__.keys():
            delattr(cls, name)  # 3.11 looks a field up anew where the class has it, too: 3 times as long

    def __init__(self, *given: Any, **named: Any) -> None:
        """Fields in their order or by name. Raises TypeError for one that is missing, unknown or given twice."""
        count = len(given) + len(named)
        if given:
            named.update(zip(self._fields, given))  # noqa: B905 - the count tells whether all had a place
        names, values = self._names, self._defaults | named
        if len(named) < count or len(values) < len(names) or not named.keys() <= names:
            raise TypeError(f"{type(self).__name__}: expected {', '.join(self._fields)}")
        set_attribute(self, "__dict__", values)  # a third of the time that setting each of them takes

    def __eq__(self, other: object) -> bool:
        return self.__dict__ == other.__dict__ if type(other) is type(self) else NotImplemented

    def __repr__(self) -> str:
        shown = (f"{name}={getattr(self, name)!r}" for name in self._fields if name not in self._hidden)
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclass_transform()
class Struct(_Fielded):
    """Fields that may be set anew."""


@dataclass_transform(frozen_default=True)
class Value(_Fielded):
    """Fields that stay as they are; equal values have one hash."""

    def __hash__(self) -> int:
        return hash(tuple(map(self.__dict__.__getitem__, self._fields)))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        """Raises AttributeError: a value does not change."""
        raise AttributeError(f"{type(self).__name__}.{name} cannot be set; make another with replace()")

    def __delattr__(self, name: str) -> NoReturn:
        """Raises AttributeError: a value does not change."""
        raise AttributeError(f"{type(self).__name__}.{name} cannot be deleted")


if TYPE_CHECKING:
    from dataclasses import replace as replace  # noqa: PLC0414 - exported; it takes our classes, too, and checks changes
else:

    def replace(value: _Fielded, /, **changes: Any) -> _Fielded:
        """Another value of the same class with some fields changed. Raises TypeError for a field that it has not."""
        return type(value)(**(value.__dict__ | changes))


def names_of(kind: type[_Fielded]) -> tuple[str, ...]:
    """The names of a class's fields, in their order."""
    return kind._fields
