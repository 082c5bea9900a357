"""Errors, named by what the caller should do with them.

`FailedTrial` is recorded and the sweep goes on; `FatalError` stops the command. Every error carries
the exit status it stands for, so that `train.py`, the `graft` command and the sweeper agree.
"""

from __future__ import annotations

from collections.abc import Sequence

STATUS_FAILED = 1
STATUS_CONFIG = 2
STATUS_DIVERGED_RERUN = 3
STATUS_INTERRUPTED = 130


class GraftError(Exception):
    """Base of every error that Graft raises on purpose. Its text is written for the user."""

    status = STATUS_FAILED


class FailedTrial(GraftError):
    """A trial cannot give a result; record it and go on with the next one.

    Args:
        message: What happened, for the user.
        cause: One word for `graft.failure` and for counting failures, such as ``diverged``.
    """

    def __init__(self, message: str, *, cause: str) -> None:
        super().__init__(message)
        self.cause = cause


class FatalError(GraftError):
    """Going on makes no sense: stop the command with `status`."""


class Unwritable(FatalError):
    """A disk is full, or read-only: no run is to blame, and once there is room it goes on where it was.

    Make one with `graft.disk`.
    """


class ConfigError(FatalError):
    """The configuration, or the data it names, is wrong; nothing was started.

    Args:
        problems: One text a problem. Each names the key, the value, what is allowed and, where there
            is one, the nearest right name.
    """

    status = STATUS_CONFIG

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class Interrupted(GraftError):
    """The user stopped the command; the text says how to go on."""

    status = STATUS_INTERRUPTED


class SweepFailed(FatalError):
    """The sweep ran to its end, but one trial or more failed."""
