"""Ctrl-C and SIGTERM while one run goes on by itself; in a sweep the controller hears them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self

from graft.errors import Interrupted
from graft.sweep.signals import StopRequests


class Interruption(StopRequests):
    """While entered, SIGINT and SIGTERM raise `KeyboardInterrupt` and are remembered.

    Raising alone is not enough. Where the exception comes up in a callback, TensorFlow makes an error of its own of it,
    and a finaliser swallows it. So an error that ends the block after a signal counts as the interruption it comes
    from, and a loop can ask.

    What must not be broken off half-way is done in `undisturbed`.

    Attributes:
        held: How many such blocks are entered.
        waiting: A signal came in one, and is raised at its end.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held = 0
        self.waiting = False

    def __enter__(self) -> Self:
        _entered.append(self)
        return super().__enter__()

    @property
    def requested(self) -> bool:
        """Whether a signal came."""
        return self.count > 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        _entered.remove(self)
        if self.requested and isinstance(error, Exception) and not isinstance(error, Interrupted):
            raise KeyboardInterrupt from error

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        super()._on_signal(number, frame)
        if self.held and self.count == 1:
            self.waiting = True
            return
        raise KeyboardInterrupt


_entered: list[Interruption] = []


@contextmanager
def undisturbed() -> Iterator[None]:
    """While entered, an `Interruption` waits for the end of the block with its first signal; a second one raises.

    A write to a database that is broken off keeps its lock, so that nobody can write how it ended. In another thread
    than the main one, the only one that signals reach, there is nothing to wait for.
    """
    if not _entered or threading.current_thread() is not threading.main_thread():
        yield
        return
    interruption = _entered[-1]
    interruption.held += 1
    try:
        yield
    finally:
        interruption.held -= 1
        if interruption.waiting and not interruption.held:
            interruption.waiting = False
            raise KeyboardInterrupt
