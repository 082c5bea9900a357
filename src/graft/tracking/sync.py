"""Sending what waits in local records: after a server was gone for good, or a process died before it had sent all."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from graft import files
from graft.config import TrackingConfig
from graft.console import PlainConsole
from graft.errors import ConfigError, FatalError
from graft.secrets import Secrets, resolved
from graft.tracking.delivery import Delivery, Receiver
from graft.tracking.local_record import NAME, LocalRecord, Statement, is_waiting
from graft.tracking.mlflow_recorder import RUN_ID_FILE
from graft.tracking.mlflow_run import MlflowRun
from graft.tracking.mlflow_store import is_outage, reason_of
from graft.tracking.mlflow_sweep import MlflowSweep

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sent:
    """What came of one record.

    Attributes:
        folder: Where it lies.
        name: What the run or sweep is called.
        run_id: In MLflow, if it is there.
        statements: How many were sent.
        waiting: How many were not.
        problem: Why not, in words; empty if all were.
    """

    folder: Path
    name: str
    run_id: str | None
    statements: int
    waiting: int
    problem: str = ""


def sync(folders: Sequence[Path], tracking_uri: str | None = None) -> Iterator[Sent]:
    """Sends what waits, a sweep before its trials.

    Args:
        folders: As `waiting_records` gives them.
        tracking_uri: Where to, in place of where the runs were meant to be recorded.
    """
    local = [LocalRecord(folder) for folder in folders]
    waiting = {record.folder: record.waiting for record in local}  # a sweep sends its trials', too
    for record in sorted(local, key=lambda record: _first(record).at):
        yield _send(record, waiting[record.folder], tracking_uri)


def as_json(sent: Sequence[Sent]) -> list[dict[str, Any]]:
    """What was sent, for ``--json``."""
    return [{**asdict(each), "folder": str(each.folder)} for each in sent]


def show(sent: Iterable[Sent], console: PlainConsole) -> list[Sent]:
    """Prints a line for each record as it is sent; gives them all."""
    done = []
    for each in sent:
        done.append(each)
        text = f"{each.name or each.folder}: {each.statements} statements sent"
        if each.waiting:
            text += f", {each.waiting} still wait in {each.folder}: {each.problem or 'more was just said'}"
        elif each.run_id:
            text += f", run {each.run_id}"
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    if not done:
        console.print("MLflow has all that runs on this machine recorded.", highlight=False, markup=False)
    return done


def send_trial(tracking: TrackingConfig, folder: Path) -> None:
    """Sends what a trial that is over left unsent; its process may have died.

    What is wrong with its record alone is told, and keeps nothing of the sweep waiting.

    Raises:
        Exception: if MLflow cannot be reached.
    """
    if not ((folder / NAME).exists() and is_waiting(folder / NAME)):
        return
    run = MlflowRun(tracking, folder)
    try:
        Delivery(LocalRecord(folder), run, tracking).send()
    except Exception as error:
        if is_outage(error, tracking.uri):
            raise
        log.warning("Not all that is in %s can be sent: %s", folder, reason_of(error))
    _leave_id(folder, run)


def _send(record: LocalRecord, before: int, tracking_uri: str | None) -> Sent:
    first = _first(record)
    receiver: Receiver | None = None
    problem = ""
    try:
        tracking = _tracking_of(first, tracking_uri)
        if first.kind == "begin":
            receiver = MlflowRun(tracking, record.folder)
        else:
            receiver = MlflowSweep(tracking, send_trial=functools.partial(send_trial, tracking))
        Delivery(record, receiver, tracking).send()
    except Exception as error:
        problem = str(error) if isinstance(error, FatalError) else reason_of(error)
    if isinstance(receiver, MlflowRun):
        _leave_id(record.folder, receiver)
    waiting = record.waiting
    run_id = receiver.run_id if receiver else None
    return Sent(record.folder, str(first.content.get("name", "")), run_id, before - waiting, waiting, problem)


def _first(record: LocalRecord) -> Statement:
    """How the run began the last time: with the tracking that it was last meant for."""
    return next(reversed(record.beginnings()), Statement("", 0, {}, 0, 0))


def _tracking_of(first: Statement, uri: str | None) -> TrackingConfig:
    try:
        recorded = resolved(first.content["tracking"])
        return TrackingConfig.model_validate({**recorded, **({"uri": uri, "artifacts": None} if uri else {})})
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        if isinstance(error, ValidationError) and uri:
            raise ConfigError(f"--tracking-uri={Secrets().out_of(uri)}: {error.errors()[0]['msg']}") from None
        raise ConfigError("its record does not say where it was meant to go") from error


def _leave_id(folder: Path, run: MlflowRun) -> None:
    if run.run_id is not None:
        files.write(folder / RUN_ID_FILE, run.run_id)
