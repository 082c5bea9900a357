"""Where studies live: a journal file, or a database by URL. And the lock between controllers."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from filelock import FileLock

from graft import disk
from graft.errors import ConfigError, FatalError
from graft.paths import expanded
from graft.secrets import Secrets
from graft.sqlite_file import is_cut_off, objection

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

T = TypeVar("T")

DEFAULT_STORAGE = "multirun/optuna.journal"
"""Beside Hydra's own output folders, and the same for every sweep, so that the next one finds it."""

SQLITE_PATIENCE_SECONDS = 120
"""SQLite has one writer at a time; a slot waits this long for its turn before it gives up."""

REACH_SECONDS = 10
"""A database server that cannot be reached may keep a controller waiting for so long, at most."""

LOCK = "graft.controllers"


class DatabaseFailed(FatalError):
    """The database server refused what it was asked, or does not answer where nobody waits for it."""


def resolve_storage(storage: str | None, cwd: Path) -> str:
    """`storage` with absolute paths, because a job may change its working directory.

    Args:
        storage: None, a path of a journal file, or a database URL.
        cwd: Where relative paths start.

    Raises:
        ConfigError: if it is the address of an SQLite database whose path means another one there.
    """
    if storage is None:
        return str(cwd / DEFAULT_STORAGE)
    if "://" not in storage:
        return str(cwd / expanded(storage))
    if is_sqlite(storage):
        head, _, path = storage.partition(":///")
        if not path:
            return storage
        if said := objection(cwd / path):
            raise ConfigError(f"hydra.sweeper.storage={head}:///{cwd / path}: {said}")
        return f"{head}:///{cwd / path}"
    return storage


def is_sqlite(storage: str) -> bool:
    return storage.startswith("sqlite")


def file_of(storage: str) -> Path | None:
    """The file behind `storage`, or None for a database server."""
    if "://" not in storage:
        return Path(storage)
    return Path(storage.partition(":///")[2]) if is_sqlite(storage) else None


@lru_cache(maxsize=8)
def open_storage(storage: str, reach_seconds: int = REACH_SECONDS) -> BaseStorage:
    """Opens `storage`, as `resolve_storage` returned it; creates it if it does not exist.

    Cached, for a warm worker must not replay the journal for each of its trials.

    Args:
        storage: A path of a journal file, or a database URL.
        reach_seconds: How long a database server that cannot be reached may keep its caller waiting.

    Raises:
        ConfigError: if the database cannot be reached, its driver is not installed, or a file is damaged.
        Unwritable: if a file cannot be written.
    """
    import optuna
    from optuna.storages import RDBStorage

    from graft.sweep.journal import Journal, Studies

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = file_of(storage)
    try:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        if "://" not in storage:
            return Studies(Journal(storage))
        if is_sqlite(storage):
            if path is not None:
                path.touch()  # a disk that is read-only or full says so, in place of SQLite's words
            if path is not None and is_cut_off(path):
                raise sqlite3.DatabaseError(f"{path} is damaged: its end is missing")
            connect_args = {"timeout": SQLITE_PATIENCE_SECONDS}
            # Commands that start at the same time on a new file would all create its tables, and all but one fail.
            with contextlib.nullcontext() if path is None else FileLock(f"{path}.opening.lock"):
                return RDBStorage(storage, engine_kwargs={"connect_args": connect_args, "pool_pre_ping": True})
        return _open_server(storage, reach_seconds)
    except ConfigError:  # about a damaged journal
        raise
    except Exception as error:
        if (unwritable := disk.unwritable_of(error, path)) is not None:
            raise unwritable from error
        with Secrets.in_address(storage).out_of_errors():
            raise ConfigError(
                f"hydra.sweeper.storage={storage} cannot be opened: {error}. Allowed: null, "
                "the path of a journal file, sqlite:///FILE, postgresql+psycopg://USER@HOST/DATABASE."
            ) from error


def _open_server(url: str, reach_seconds: int) -> BaseStorage:
    from sqlalchemy.exc import IntegrityError, ProgrammingError

    from graft.sweep.database import ServerStorage

    for pause in (0.2, 1.0):
        try:
            return ServerStorage(url, reach_seconds)
        except (IntegrityError, ProgrammingError):
            # Two commands that start at the same time in an empty database both create its tables.
            time.sleep(pause)
    return ServerStorage(url, reach_seconds)


class ControllerLock:
    """Serialises the few steps that controllers of one storage must not take at the same time.

    These are creating a sweep, claiming a trial, recording its end and taking over a dead
    controller's trials. A file lock for a journal or SQLite, which vanishes with its holder; for
    PostgreSQL a lock of the transaction in which the step is taken. Other databases have none, so
    there only one controller may run a sweep.

    Args:
        storage: As `resolve_storage` returned it.
        opened: What `open_storage` made of it.
        sweep: In a database each sweep has a lock of its own; None is that for creating sweeps.
    """

    def __init__(self, storage: str, opened: BaseStorage, sweep: str | None = None) -> None:
        path = file_of(storage)
        self._file = None if path is None else FileLock(f"{path}.controllers.lock")
        self._names = (LOCK,) if sweep is None else (LOCK, sweep)
        self._opened = opened

    def __call__(self, step: Callable[[], T]) -> T:
        """Takes `step` while no other controller takes one, and returns what it returned.

        On a database server it is taken again if the connection was lost, from its beginning, and
        perhaps although it was carried out: it has to read what there is, and go by that.
        """
        if self._file is not None:
            with self._file.acquire(poll_interval=0.005):
                return step()
        return self._opened.in_one_transaction(self._names, step)  # type: ignore[attr-defined]
