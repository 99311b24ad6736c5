"""Memory of a bounded size for things that can be worked out, or learnt, again. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

K = TypeVar("K", bound="Hashable")
V = TypeVar("V")


class Bounded(dict[K, V], Generic[K, V]):
    """A dict that forgets its older half when it is full."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def made(self, key: K, make: Callable[[], V]) -> V:
        """The value of ``key``, made and kept where there is none."""
        value = self.get(key)
        if value is None:
            value = make()
            if len(self) >= self._most:
                for old in list(self)[: self._most // 2]:
                    del self[old]
            self[key] = value
        return value
