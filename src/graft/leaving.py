"""The end of a process, without taking the interpreter apart first. Imports nothing that takes time."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

HEAVY = {"tensorflow", "mlflow"}


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """Ends the process where the block ends or raises `SystemExit`, if it loaded something `HEAVY`.

    All is done that Python does in the end, threads waited for, exit handlers called, streams flushed, but that it
    would then free every object one by one. That takes most of a second with MLflow, and up to three with TensorFlow.
    """
    status: object = 0
    try:
        yield
    except SystemExit as leaving:
        if not HEAVY & sys.modules.keys():
            raise
        status = leaving.code
    if HEAVY & sys.modules.keys():
        if not isinstance(status, int | None):
            print(status, file=sys.stderr)
        _leave(status if isinstance(status, int) else int(status is not None))


def _leave(status: int) -> NoReturn:
    # As `multiprocessing` ends the processes that it has forked.
    try:
        with suppress(KeyboardInterrupt):  # all is done and said; Python goes on, too
            threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, OSError, ValueError):  # there is none, nobody reads it, it is closed
                stream.flush()
    finally:
        os._exit(status & 0xFF)
