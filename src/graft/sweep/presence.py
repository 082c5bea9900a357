"""One controller of a sweep among others: how it shows in the sweep's study that it lives, and which others do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import optuna

from graft.disk import unwritable_of
from graft.sweep import liveness
from graft.sweep.liveness import here
from graft.sweep.storage import DatabaseFailed

CONTROLLER = "graft.controller."


class Presence:
    """What one controller shows of itself, and sees of the others. Used from the thread of its study.

    Args:
        root: Gives the sweep's own study.
        controller: ID of this controller.
        silent: Whether the last call met a database that does not answer.
    """

    def __init__(self, root: Callable[[], optuna.Study], controller: str, *, silent: Callable[[], bool]) -> None:
        self._root = root
        self._silent = silent
        self._own = CONTROLLER + controller
        self._last_beat = 0.0
        self._watch = liveness.Watch()

    def join(self) -> None:
        """Announces this controller, so that others leave its trials alone."""
        self._show(left=False)

    def beat(self) -> bool:
        """Shows that this controller lives, if it is time to, and says whether it was."""
        due = time.monotonic() - self._last_beat > liveness.BEAT_SECONDS
        if due:
            self._show(left=False)
            # Seldom looked at, another's silence would be noticed late: it counts from the last look.
            self.others_alive()
        return due

    def leave(self) -> None:
        """Takes leave: what this controller left RUNNING, if anything, is free. A storage that is gone is no error."""
        # Without a database to tell, others find out by its process, or by its silence.
        if self._silent():
            return
        try:
            self._show(left=True)
        except Exception as error:
            if not isinstance(error, DatabaseFailed) and unwritable_of(error) is None:
                raise

    def others_alive(self) -> set[str]:
        """IDs of the other controllers of this sweep that live."""
        attributes = self._root().user_attrs
        self._forget_what_was_not_seen()
        return {
            name.removeprefix(CONTROLLER)
            for name, shown in attributes.items()
            if name.startswith(CONTROLLER) and name != self._own and self._watch.alive(name, shown)
        }

    def shown_by(self, controller: str) -> Any:
        """What another controller showed of itself last; None if it never did."""
        return self._root().user_attrs.get(CONTROLLER + controller)

    def _show(self, *, left: bool) -> None:
        self._root().set_user_attr(self._own, here(left=left))
        self._forget_what_was_not_seen()
        self._last_beat = time.monotonic()

    def _forget_what_was_not_seen(self) -> None:
        # A controller that could not show itself, suspended or cut off, could not see others do so either.
        if time.monotonic() - self._last_beat > liveness.DEAD_AFTER_SECONDS / 2:
            self._watch.start_over()
