"""What a process keeps of its last runs, so that the next one that asks for the same starts warm."""

from __future__ import annotations

import gc
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """The values that were asked for last, by key.

    Args:
        size: How many are kept. To make room, the one that was not asked for the longest goes before another is
            made, so that two models never fill a GPU's memory where one is wanted.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[Hashable, Value] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Value]) -> tuple[Value, bool]:
        """The value under `key`, made if it is not there, and whether it was there."""
        if found := key in self._values:
            self._values.move_to_end(key)
        else:
            while len(self._values) >= self._size:
                self.drop(next(iter(self._values)))
            self._values[key] = make()
        return self._values[key], found

    def drop(self, key: Hashable) -> None:
        del self._values[key]
        gc.collect()  # a model and the functions that train it hold each other
