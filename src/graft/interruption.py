"""Ctrl-C and SIGTERM while one run goes on by itself; in a sweep the controller hears them."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

from graft.errors import Interrupted


class Interruption:
    """While entered, SIGINT and SIGTERM raise `KeyboardInterrupt` and are remembered.

    Raising alone is not enough. Where the exception comes up in a callback, TensorFlow makes an error of its own of it,
    and a finaliser swallows it. So an error that ends the block after a signal counts as the interruption it comes
    from, and a loop can ask.

    Attributes:
        requested: Whether a signal came.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.requested and isinstance(error, Exception) and not isinstance(error, Interrupted):
            raise KeyboardInterrupt from error

    def _on_signal(self, number: int, frame: FrameType | None) -> NoReturn:
        self.requested = True
        raise KeyboardInterrupt
