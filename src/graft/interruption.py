"""Ctrl-C and SIGTERM while one run goes on by itself; in a sweep the controller hears them."""

from __future__ import annotations

from types import FrameType, TracebackType

from graft.errors import Interrupted
from graft.sweep.signals import StopRequests


class Interruption(StopRequests):
    """While entered, SIGINT and SIGTERM raise `KeyboardInterrupt` and are remembered.

    Raising alone is not enough. Where the exception comes up in a callback, TensorFlow makes an error of its own of it,
    and a finaliser swallows it. So an error that ends the block after a signal counts as the interruption it comes
    from, and a loop can ask.
    """

    @property
    def requested(self) -> bool:
        """Whether a signal came."""
        return self.count > 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if self.requested and isinstance(error, Exception) and not isinstance(error, Interrupted):
            raise KeyboardInterrupt from error

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        super()._on_signal(number, frame)
        raise KeyboardInterrupt
