"""Opening and searching the MLflow store. Together with its neighbours here the only import of mlflow."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import filelock

from graft.config import TrackingConfig
from graft.errors import FatalError
from graft.importing import importing
from graft.interruption import undisturbed
from graft.paths import records
from graft.sqlite_file import is_cut_off
from graft.tracking.tagged_run import NoSuchExperiment, quoted

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nobody asked for it, and it needs a network
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # for files of a few kilobytes
# It would wait for minutes before it says that a server is gone; and a run whose making is asked for again, because
# only the answer got lost, is made twice.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # in the middle of a table, or of --json
with importing():
    from mlflow.entities import Param, RunTag, ViewType
    from mlflow.entities import Run as Run
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
    from sqlalchemy.exc import OperationalError, SQLAlchemyError

for noisy in ("mlflow", "alembic"):  # after the import, which sets MLflow's logging up
    logging.getLogger(noisy).setLevel(logging.WARNING)  # they announce every migration of a new database
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # prints the traceback of what it raises, too

PARAMS_A_BATCH = 100  # MLflow's limit

LONGEST_REASON = 200  # characters

REFUSED = {
    "BAD_REQUEST",
    "CUSTOMER_UNAUTHORIZED",
    "INVALID_PARAMETER_VALUE",
    "PERMISSION_DENIED",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
    "UNAUTHENTICATED",
}
"""MLflow's codes for what would be refused again."""

FOR_A_LOOK = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


@dataclass(frozen=True)
class Store:
    """An MLflow experiment that can be written to.

    Attributes:
        client: Speaks to the store; no run of it is "active", so several may be open in one process.
        experiment_id: The experiment that runs are made in.
        uri: The tracking URI.
    """

    client: MlflowClient
    experiment_id: str
    uri: str

    def find(self, *, limit: int = 50_000, status: str | None = None, **tags: str) -> list[Run]:
        """Runs whose `graft.` tags have these values, such as ``find(kind="trial", sweep=name)``; the latest first.

        Deleted ones are not among them.

        Args:
            limit: How many at most.
            status: MLflow's, such as RUNNING; None for any.
            tags: Without their ``graft.``.

        Raises:
            FatalError: for a value that MLflow cannot search for, as `quoted` has it.
        """
        conditions = [f"tags.`graft.{key}` = {_quoted(value)}" for key, value in tags.items()]
        conditions += [f"attributes.status = {_quoted(status)}"] if status else []
        condition = " and ".join(conditions)
        found: list[Run] = []
        token: str | None = None
        while len(found) < limit:
            page = self.client.search_runs(
                [self.experiment_id],
                filter_string=condition,
                run_view_type=ViewType.ACTIVE_ONLY,
                max_results=min(1000, limit - len(found)),
                order_by=["attributes.start_time DESC"],
                page_token=token,
            )
            found += page
            token = page.token
            if not token:
                break
        return found

    @property
    def experiment_name(self) -> str:
        """The experiment, as `tracking.experiment` names it."""
        return str(self.client.get_experiment(self.experiment_id).name)

    def active(self, run_id: str) -> Run | None:
        """The run; None if there is none of this id, or it was deleted."""
        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            return None
        return run if run.info.lifecycle_stage == "active" else None

    def has_lost(self, run_id: str | None, error: Exception) -> bool:
        """Whether `error` came because the run is not there any more: it was deleted, or the store is another one."""
        refused = isinstance(error, MlflowException) and error.error_code in REFUSED
        return refused and run_id is not None and self.active(run_id) is None

    def begin(self, name: str, tags: Mapping[str, str]) -> str:
        """Makes a run for others to lie under; gives its id."""
        return str(self.client.create_run(self.experiment_id, tags=dict(tags), run_name=name).info.run_id)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Tags of a run; a later value replaces an earlier one."""
        self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def end(self, run_id: str, status: str) -> None:
        """Ends a run, as ``FINISHED``, ``FAILED`` or ``KILLED``."""
        self.client.set_terminated(run_id, status)

    def artifact(self, run_id: str, name: str, folder: Path) -> Path:
        """Copies an artifact of a run, a file or a folder, into `folder`.

        Raises:
            FatalError: if it cannot be read; the text is the reason.
        """
        try:
            return Path(self.client.download_artifacts(run_id, name, str(folder)))
        except (MlflowException, OSError) as error:
            raise FatalError((str(error).strip() or type(error).__name__).splitlines()[0]) from error

    def log_params(self, run_id: str, params: Mapping[str, object]) -> None:
        """Logs params of a run. One that is there may be repeated, not changed."""
        entities = [Param(key, str(value)) for key, value in params.items()]
        for start in range(0, len(entities), PARAMS_A_BATCH):
            self.client.log_batch(run_id, params=entities[start : start + PARAMS_A_BATCH])


def open_store(tracking: TrackingConfig, *, create: bool = True) -> Store:
    """Opens the store; makes database and experiment where there are none.

    Processes that open a new SQLite store at once break each other's migrations, so they take turns.

    Raises:
        FatalError: if the store cannot be reached, or, without `create`, if there is none; `NoSuchExperiment` then, if
            only the experiment is missing.
    """
    file = Path(tracking.uri.removeprefix("sqlite:///")) if tracking.uri.startswith("sqlite:///") else None
    if not create and file is not None and not file.exists():
        raise FatalError(f"There is no record yet: {file} does not exist. Train first: python train.py")
    with _told_as_fatal(tracking):
        if file is None:
            return _opened(tracking, create)
        if is_cut_off(file):
            raise sqlite3.DatabaseError("it is damaged, its end is missing; graft doctor says what helps")
        file.parent.mkdir(parents=True, exist_ok=True)
        records().mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(file.with_name(file.name + ".lock")):
            return _opened(tracking, create)


@contextmanager
def look_into(tracking: TrackingConfig) -> Iterator[Store]:
    """Opens a store that exists for a look that must not wait: for no turn, and for a server not longer than seconds.

    Meanwhile the environment variables that MLflow waits by are set, for the whole process.

    Raises:
        NoSuchExperiment: if the store has no such experiment.
        FatalError: if the store cannot be used, also from within the block.
    """
    before = {name: os.environ.get(name) for name in FOR_A_LOOK}
    os.environ.update(FOR_A_LOOK)
    try:
        with _told_as_fatal(tracking):
            yield _opened(tracking, create=False)
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _told_as_fatal(tracking: TrackingConfig) -> Iterator[None]:
    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.DatabaseError, OSError) as error:
        raise FatalError(f"tracking.uri={tracking.uri}: MLflow cannot use it: {reason_of(error)}") from error


@undisturbed()
def _opened(tracking: TrackingConfig, create: bool) -> Store:
    with importing():  # that of the kind of store
        client = MlflowClient(tracking_uri=tracking.uri)
    experiment = client.get_experiment_by_name(tracking.experiment)
    if experiment is None and not create:
        there = sorted(e.name for e in client.search_experiments())
        raise NoSuchExperiment(tracking.experiment, tracking.uri, there)
    if experiment is None:
        location = f"{tracking.artifacts}/{tracking.experiment}" if tracking.artifacts else None
        try:
            client.create_experiment(tracking.experiment, artifact_location=location)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another machine was quicker
                raise
        experiment = client.get_experiment_by_name(tracking.experiment)
        assert experiment is not None
    if experiment.lifecycle_stage != "active":
        raise FatalError(
            f"tracking.experiment={tracking.experiment}: this experiment was deleted in MLflow; restore it there, or "
            "choose another name"
        )
    return Store(client, experiment.experiment_id, tracking.uri)


def reason_of(error: BaseException) -> str:
    """What an error of MLflow's says, in a line: of an HTTP library's nested ones the innermost."""
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, ConnectionError):
            return (cause.strerror or "the connection broke").lower()
        if isinstance(cause, TimeoutError):
            return "no answer in time"
        # An HTTP library keeps what it met as an argument, too, where it breaks the chain.
        kept = [getattr(cause, "reason", None), *cause.args]
        cause = cause.__cause__ or cause.__context__ or next((k for k in kept if isinstance(k, BaseException)), None)
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if len(line) <= LONGEST_REASON else f"{line[:LONGEST_REASON]} …"


def is_refused(error: BaseException) -> bool:
    """Whether MLflow, or what calls it, can make nothing of what was said, now or later."""
    if isinstance(error, MlflowException):
        return error.error_code in ("BAD_REQUEST", "INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS")
    return isinstance(error, KeyError | TypeError | ValueError | AttributeError)


def is_outage(error: BaseException, uri: str) -> bool:
    """Whether what MLflow at `uri` raised may go by: a server that does not answer, a database that is locked."""
    if isinstance(error, FatalError):
        return error.__cause__ is not None and is_outage(error.__cause__, uri)
    if isinstance(error, MlflowException):
        busy = error.error_code == "TEMPORARILY_UNAVAILABLE"
        return busy if uri.startswith("sqlite:") else error.error_code not in REFUSED
    return isinstance(error, OSError | OperationalError)  # what the HTTP library raises is an OSError


def _quoted(value: str) -> str:
    try:
        return quoted(value)
    except ValueError as error:
        raise FatalError(f"{value}: {error}") from None
