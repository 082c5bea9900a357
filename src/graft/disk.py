"""A disk that takes nothing more, because it is full or read-only: told as what it is, wherever it is met."""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from graft.errors import ConfigError, GraftError, Unwritable

REMEDY = {
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room within your quota on that disk",
    errno.EROFS: "make that disk writable, or name another place with GRAFT_HOME",
}
"""What helps, by the system's number of what is wrong."""

SAME_COMMAND = "Then the same command goes on."

# TensorFlow and SQLite keep the system's text, and not its number.
TEXTS = {os.strerror(number): number for number in REMEDY} | {
    "database or disk is full": errno.ENOSPC,
    "attempt to write a readonly database": errno.EROFS,
}
IN_TEXTS = re.compile("|".join(map(re.escape, TEXTS)))
PATH_BEFORE = re.compile(r"(/[^\s;:'\"]+)[;:]? *$")


@contextmanager
def told(place: Path | str) -> Iterator[None]:
    """Makes an `Unwritable` of an error in the block that comes from a disk which takes nothing more.

    Args:
        place: What was being written, for errors that do not say so.
    """
    try:
        with quiet_logs():
            yield
    except Exception as error:
        if (unwritable := unwritable_of(error, place)) is None or unwritable is error:
            raise
        raise unwritable from error


@contextmanager
def quiet_logs() -> Iterator[None]:
    """While entered, a line that no file takes for want of room is left out; Python prints a traceback for each."""
    usual = logging.Handler.handleError

    def handle(self: logging.Handler, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if error is None or unwritable_of(error) is None:
            usual(self, record)

    logging.Handler.handleError = handle  # type: ignore[method-assign]
    try:
        yield
    finally:
        logging.Handler.handleError = usual  # type: ignore[method-assign]


def unwritable_of(error: BaseException, place: Path | str | None = None, then: str = SAME_COMMAND) -> Unwritable | None:
    """What to tell in place of `error`; None if it, and what caused it, is something else.

    Args:
        error: What was raised.
        place: What was being written, for errors that do not say so.
        then: What happens once there is room.
    """
    said = ""
    for each in _causes(error):
        if isinstance(each, Unwritable):
            return each
        if isinstance(each, GraftError):
            said = said or str(each).rstrip(".")  # what was to be stored, and where
        number, path = _read(each)
        if number is not None:
            said = said or f"{Path(path or place or '.').absolute()}: {os.strerror(number)}"
            return Unwritable(f"{said}. Please {REMEDY[number]}. {then}")
    return None


def refusal_of(error: BaseException) -> ConfigError | None:
    """What to tell of a folder that cannot be made, or a file that may not be touched; None if `error` is none."""
    if not isinstance(error, OSError) or not isinstance(error.filename, str):
        return None
    innermost = traceback.extract_tb(error.__traceback__)[-1:]
    if not isinstance(error, PermissionError) and not any(frame.name in ("mkdir", "makedirs") for frame in innermost):
        return None
    return ConfigError(
        f"{error.filename}: {error.strerror}. Allowed is a place where you may make folders and files: GRAFT_HOME, "
        "GRAFT_CACHE, hydra.run.dir and hydra.sweep.dir can name another one."
    )


def _read(error: BaseException) -> tuple[int | None, str | None]:
    """The system's number, if it is one of those that are told, and the path that `error` names."""
    if isinstance(error, OSError):
        return (error.errno, error.filename) if error.errno in REMEDY else (None, None)
    if type(error).__module__.split(".")[0] not in ("tensorflow", "sqlite3", "sqlalchemy", "optuna", "mlflow"):
        return None, None  # whatever its text is about
    if (said := IN_TEXTS.search(str(error))) is None:
        return None, None
    named = PATH_BEFORE.search(str(error)[: said.start()])
    return TEXTS[said.group()], named and named.group(1)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
