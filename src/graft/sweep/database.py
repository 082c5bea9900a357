"""A study on a database server, which may be restarted in the middle of a sweep.

Two things make that bearable. A call that meets a dead connection is made again once the server
answers, if whoever opened the storage has the patience. And what controllers must not do at the same
time is one transaction, on the connection that holds their lock: the server ends the lock with the
transaction or the connection, so nothing can be written by a controller that has lost it, and
nothing is ever half done. Where it stays unknown whether such a transaction was committed, it is
taken again from its beginning, and has to look first whether it was.
"""

from __future__ import annotations

import functools
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import text
from sqlalchemy.engine import Engine, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import scoped_session, sessionmaker

from graft.sweep.storage import DatabaseFailed

T = TypeVar("T")

GRACE_SECONDS = 1.0
"""How long a database may keep silent before the user is told."""

TRY_AGAIN_SECONDS = 1.0

TICK_SECONDS = 0.2
"""How long Ctrl-C waits at most to be noticed while the database does not answer."""

IDLE_SECONDS = 60
"""After so long without a word from within a transaction the server ends it, and with it the lock: a
controller whose machine was suspended or lost there must not hold up the others."""

REFUSED = re.compile(r"authentication failed|pg_hba\.conf|does not exist|permission denied|no password supplied", re.I)
"""In the text of a connection that failed, which has no code: it was not for want of an answer."""

REFUSED_BY_MYSQL = frozenset({1044, 1045, 1049, 1142, 1143})


@dataclass(frozen=True)
class Patience:
    """What a controller does while its database does not answer.

    Attributes:
        say: Takes a line for the user.
        meanwhile: Called all the while; what it raises ends the wait.
    """

    say: Callable[[str], None]
    meanwhile: Callable[[], None]


class ServerStorage(RDBStorage):
    """Optuna's storage in a database server. Used from one thread only.

    Args:
        url: Of the database.
        reach_seconds: How long an unreachable server may keep a call waiting.

    Attributes:
        patience: None lets a call fail that meets a dead database, as in a worker.
        silent: The last call met a dead database.
    """

    def __init__(self, url: str, reach_seconds: int) -> None:
        self.patience: Patience | None = None
        self.silent = False
        self._in_transaction = False
        super().__init__(url, engine_kwargs={"connect_args": connect_args(url, reach_seconds), "pool_pre_ping": True})

    def persistently(self, work: Callable[[], T]) -> T:
        """Does `work`, again and again for as long as the database does not answer.

        Raises:
            DatabaseFailed: if it refused, or did not answer and there is no patience.
        """
        if self._in_transaction:
            return work()  # which can only be taken again as a whole
        outage: Outage | None = None
        while True:
            try:
                result = work()
            except (SQLAlchemyError, StorageInternalError) as error:
                self.silent = does_not_answer(error)
                if not self.silent or self.patience is None:
                    what = "does not answer" if self.silent else "failed"
                    raise DatabaseFailed(f"The study's database {what}: {gist(error)}") from error
                outage = outage or Outage(self.engine, self.patience)
                outage.wait(error)
            else:
                self.silent = False
                if outage is not None:
                    outage.over()
                return result

    def in_one_transaction(self, lock: tuple[str, ...], work: Callable[[], T]) -> T:
        """Does `work` under the controllers' lock, all of it or nothing; again, after an outage.

        Args:
            lock: Names the lock, in one part or two.
            work: Uses this storage. When it is done again, it may have been done.

        Raises:
            DatabaseFailed: as `persistently` does.
        """
        return self.persistently(lambda: self._in_one_transaction(lock, work))

    def _in_one_transaction(self, lock: tuple[str, ...], work: Callable[[], T]) -> T:
        with self.engine.connect() as connection:
            # Under the lock one has to see what others have written before.
            connection = connection.execution_options(isolation_level="READ COMMITTED")
            with connection.begin():
                if self.engine.dialect.name == "postgresql":
                    names = {f"name{index}": name for index, name in enumerate(lock)}
                    keys = ", ".join(f"hashtext(:{name})" for name in names)
                    connection.execute(
                        text(
                            "SELECT set_config('idle_in_transaction_session_timeout', :idle, true), "
                            f"pg_advisory_xact_lock({keys})"
                        ),
                        {"idle": f"{IDLE_SECONDS}s", **names},
                    )
                with self._sessions_on(connection):
                    return work()

    @contextmanager
    def _sessions_on(self, connection: Any) -> Iterator[None]:
        """Lets all that Optuna commits become savepoints of the connection's transaction."""
        usual = self.scoped_session
        self.scoped_session = scoped_session(sessionmaker(connection, join_transaction_mode="create_savepoint"))
        self._in_transaction = True
        try:
            yield
        finally:
            self._in_transaction = False
            self.scoped_session = usual


def _persistent(method: Callable[..., T]) -> Callable[..., T]:
    @functools.wraps(method)
    def persistent(self: ServerStorage, *args: Any, **kwargs: Any) -> T:
        return self.persistently(lambda: method(self, *args, **kwargs))

    return persistent


# All that Optuna's studies call, and what its cache calls in their place. Outside of a transaction of ours
# a call may be made a second time although the first was carried out, and each of these bears that: it
# reads, or sets something to a value. What does not, which is to create and to change the state of a trial,
# controllers do in one transaction alone.
for _name in (
    "create_new_study", "set_study_user_attr", "set_study_system_attr", "get_study_id_from_name",
    "get_study_name_from_id", "get_study_directions", "get_study_user_attrs", "get_study_system_attrs",
    "get_all_studies", "create_new_trial", "_create_new_trial", "set_trial_param", "_set_trial_param",
    "get_trial_id_from_study_id_trial_number", "get_trial_number_from_id", "get_trial_param",
    "set_trial_state_values", "set_trial_intermediate_value", "set_trial_user_attr", "set_trial_system_attr",
    "get_trial", "get_all_trials", "_get_trials", "get_n_trials", "get_best_trial", "_get_best_trial_id",
    "get_trial_user_attrs", "get_trial_system_attrs", "get_trial_params",
):  # fmt: skip
    setattr(ServerStorage, _name, _persistent(getattr(RDBStorage, _name)))


class Outage:
    """The time from the first call that met a dead database to the one that succeeded."""

    def __init__(self, engine: Engine, patience: Patience) -> None:
        self._engine = engine
        self._patience = patience
        self._began = time.monotonic()
        self._failures = 0
        self._said = False

    def wait(self, error: Exception) -> None:
        """Returns when the database answers, after a pause that grows with each failure.

        Args:
            error: What the call said that failed.

        Raises:
            Exception: whatever `Patience.meanwhile` raised.
        """
        self._failures += 1
        answers, given_up = threading.Event(), threading.Event()
        # A connection that cannot be made takes its time, and this thread has the user to listen to.
        asking = threading.Thread(target=self._ask, args=(answers, given_up), name="graft-database", daemon=True)
        asking.start()
        try:
            while not answers.wait(TICK_SECONDS):
                self._say_if_it_takes_long(error)
                self._patience.meanwhile()
        finally:
            given_up.set()
        # It may answer and yet fail each time, with a disk that is full.
        self._say_if_it_takes_long(error)

    def over(self) -> None:
        """Tells the user that the database answers again, if it was told that it did not."""
        if self._said:
            from graft.sweep.display import duration

            self._patience.say(f"The study's database answers again after {duration(time.monotonic() - self._began)}.")

    def _say_if_it_takes_long(self, error: Exception) -> None:
        if not self._said and time.monotonic() - self._began > GRACE_SECONDS:
            self._said = True
            self._patience.say(f"The study's database does not answer ({gist(error)}): the sweep waits for it.")

    def _ask(self, answers: threading.Event, given_up: threading.Event) -> None:
        # The exponent has an end, for with a full disk an outage may have thousands of failures.
        pause = min(0.05 * 2 ** min(self._failures, 10), TRY_AGAIN_SECONDS)
        while not given_up.wait(pause):
            pause = TRY_AGAIN_SECONDS
            try:
                with self._engine.connect() as connection:
                    connection.execute(text("SELECT 1"))
            except Exception as error:
                if does_not_answer(error):
                    continue
            # Also if it refuses: whoever waits is told so by its own call.
            answers.set()
            return


def does_not_answer(error: BaseException) -> bool:
    """Whether `error` may pass by waiting: the connection broke or could not be made, or the server's disk is full.

    What is wrong with what was asked, or with who asks, does not.
    """
    for each in _chain(error):
        if isinstance(each, DBAPIError):
            if each.connection_invalidated:
                return True
            if isinstance(each, OperationalError | InterfaceError):
                return not _is_refusal(each)
    return False


def gist(error: BaseException) -> str:
    """What the driver said, in one line."""
    origins = [each.orig for each in _chain(error) if isinstance(each, DBAPIError) and each.orig is not None]
    said = " ".join(str(origins[0] if origins else error).split())
    return said if len(said) <= 200 else f"{said[:200]}…"


def _is_refusal(error: DBAPIError) -> bool:
    code = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
    if code:
        # Classes of SQL: who asks is not allowed to, there is no such database, or no such thing in it.
        return str(code).startswith(("28", "3D", "42"))
    arguments = getattr(error.orig, "args", ())
    return bool(REFUSED.search(str(error.orig))) or bool(arguments and arguments[0] in REFUSED_BY_MYSQL)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def connect_args(url: str, reach_seconds: int) -> dict[str, Any]:
    """For PostgreSQL: how long silence is borne. Without, the system waits for minutes. What the URL says wins."""
    parsed = make_url(url)
    if parsed.get_dialect().driver not in ("psycopg", "psycopg2"):
        return {}
    wanted = {
        "connect_timeout": reach_seconds,
        "keepalives_idle": reach_seconds,
        "keepalives_interval": max(1, reach_seconds // 3),
        "keepalives_count": 3,
        "tcp_user_timeout": reach_seconds * 1000,
    }
    return {name: value for name, value in wanted.items() if name not in parsed.query}
