"""Where studies live: a journal file, or a database by URL. And the lock between controllers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from graft.errors import ConfigError
from graft.paths import expanded

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

DEFAULT_STORAGE = "multirun/optuna.journal"
"""Beside Hydra's own output folders, and the same for every sweep, so that the next one finds it."""

SQLITE_PATIENCE_SECONDS = 120
"""SQLite has one writer at a time; a slot waits this long for its turn before it gives up."""


def resolve_storage(storage: str | None, cwd: Path) -> str:
    """`storage` with absolute paths, because a job may change its working directory.

    Args:
        storage: None, a path of a journal file, or a database URL.
        cwd: Where relative paths start.
    """
    if storage is None:
        return str(cwd / DEFAULT_STORAGE)
    if "://" not in storage:
        return str(cwd / expanded(storage))
    if is_sqlite(storage):
        head, _, path = storage.partition(":///")
        return f"{head}:///{cwd / path}" if path else storage
    return storage


def is_sqlite(storage: str) -> bool:
    return storage.startswith("sqlite")


def file_of(storage: str) -> Path | None:
    """The file behind `storage`, or None for a database server."""
    if "://" not in storage:
        return Path(storage)
    return Path(storage.partition(":///")[2]) if is_sqlite(storage) else None


@lru_cache(maxsize=8)
def open_storage(storage: str) -> BaseStorage:
    """Opens `storage`, as `resolve_storage` returned it; creates it if it does not exist.

    Cached, for a warm worker must not replay the journal for each of its trials.

    Raises:
        ConfigError: The database cannot be reached, its driver is not installed, or the journal is damaged.
    """
    import optuna
    from optuna.storages import RDBStorage

    from graft.sweep.journal import Journal, Studies

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = file_of(storage)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    if "://" not in storage:
        return Studies(Journal(storage))
    connect_args = {"timeout": SQLITE_PATIENCE_SECONDS} if is_sqlite(storage) else {}
    try:
        return RDBStorage(storage, engine_kwargs={"connect_args": connect_args, "pool_pre_ping": True})
    except Exception as error:
        raise ConfigError(
            f"hydra.sweeper.storage={_without_password(storage)} cannot be opened: {error}. Allowed: null, "
            "the path of a journal file, sqlite:///FILE, postgresql+psycopg://USER@HOST/DATABASE."
        ) from error


class ControllerLock:
    """Serialises the few steps that controllers of one storage must not take at the same time.

    These are creating a sweep, claiming a trial and taking over a dead controller's trials. A file
    lock for a journal or SQLite, an advisory lock for PostgreSQL; both vanish with their holder.
    Other databases have none, so there only one controller may run a sweep.
    """

    def __init__(self, storage: str, opened: BaseStorage) -> None:
        path = file_of(storage)
        self._file = None if path is None else FileLock(f"{path}.controllers.lock")
        self._opened = opened

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        if self._file is not None:
            with self._file.acquire(poll_interval=0.005):
                yield
            return
        engine = self._opened.engine  # type: ignore[attr-defined]
        if engine.dialect.name != "postgresql":
            yield
            return
        from sqlalchemy import text

        with engine.connect() as connection:
            connection.execute(text("SELECT pg_advisory_lock(hashtext('graft.controllers'))"))
            try:
                yield
            finally:
                connection.execute(text("SELECT pg_advisory_unlock(hashtext('graft.controllers'))"))
                connection.commit()


def _without_password(url: str) -> str:
    from sqlalchemy.engine import make_url

    try:
        return make_url(url).render_as_string(hide_password=True)
    except Exception:
        return url.partition("://")[0] + "://…"
