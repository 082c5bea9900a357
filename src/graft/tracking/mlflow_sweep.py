"""A sweep's statements, taken down in MLflow: its parent run, and the last word on every trial's run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Run, RunTag

from graft.config import TrackingConfig
from graft.tracking.delivery import FromTheStart
from graft.tracking.local_record import Statement
from graft.tracking.mlflow_store import Store, open_store
from graft.tracking.recorder import STATUS, closing_tags

PARENT = "mlflow.parentRunId"

log = logging.getLogger(__name__)


class MlflowSweep:
    """Receives the statements of one sweep; see `graft.tracking.delivery.Receiver`.

    Every one of them may be received again, by several controllers too: runs are found by their tags.

    Args:
        tracking: Where it is recorded; opened when it is first needed.
        send_trial: Sends what the record in a trial's folder still holds.
    """

    def __init__(self, tracking: TrackingConfig, send_trial: Callable[[Path], None]) -> None:
        self.run_id: str | None = None
        self.tracking = tracking
        self._send_trial = send_trial
        self._store: Store | None = None
        self._sweep = ""

    def receive(self, statements: Sequence[Statement]) -> None:
        """Takes them down; see `graft.tracking.delivery.Receiver`."""
        for statement in statements:
            self._receive(statement)

    def _receive(self, statement: Statement) -> None:
        content = statement.content
        self._sweep = content["sweep"]
        match statement.kind:
            case "sweep started":
                self._started(content, statement.at)
            case "trial ended":
                self._trial_ended(content, statement.at)
            case "sweep ended":
                self._ended(content, statement.at)
            case unknown:
                log.warning(
                    "The record of %s has a statement that this version does not know: %s", self._sweep, unknown
                )

    def doubt(self) -> None:
        """Nothing is remembered but the parent's id, which `receive` finds again."""
        self.run_id = None

    def has_lost(self, error: Exception) -> bool:
        """Whether a statement failed because the parent is not there any more."""
        return self._store is not None and self._store.has_lost(self.run_id, error)

    def open(self) -> None:
        """Opens the store, which would else be opened when it is first needed.

        Raises:
            FatalError: if it cannot be used.
        """
        if self._store is None:
            self._store = open_store(self.tracking)

    @property
    def store(self) -> Store:
        """Where the sweep lies."""
        self.open()
        assert self._store is not None
        return self._store

    @property
    def _parent(self) -> str:
        if self.run_id is None:
            found = self.store.find(kind="sweep", sweep=self._sweep, limit=1)
            self.run_id = found[0].info.run_id if found else None
        if self.run_id is None:
            raise FromTheStart
        return self.run_id

    def _started(self, content: Mapping[str, Any], at: int) -> None:
        client, tags = self.store.client, content["tags"]
        found = self.store.find(kind="sweep", sweep=self._sweep, limit=1)
        if found:
            self.run_id = found[0].info.run_id
            client.update_run(self.run_id, status="RUNNING")
            self.store.set_tags(self.run_id, {"graft.process": tags["graft.process"]})
            return
        run = client.create_run(self.store.experiment_id, start_time=at, tags=tags, run_name=content["name"])
        self.run_id = run.info.run_id
        self.store.log_params(self.run_id, content["params"])
        for trial in self.store.find(kind="trial", sweep=self._sweep):  # those of a parent that was deleted
            client.set_tag(trial.info.run_id, PARENT, self.run_id)

    def _trial_ended(self, content: Mapping[str, Any], at: int) -> None:
        """Closes the trial's run where it could not do so itself; makes one where it never got that far."""
        self._send_trial(Path(content["directory"]))
        state = content["state"]
        run = self.run_of(content["number"])
        if run is None and state == "interrupted":
            return  # it had not begun, and has its run when the sweep goes on
        client = self.store.client
        if run is None:
            tags = {**content["tags"], PARENT: self._parent}
            run = client.create_run(self.store.experiment_id, start_time=at, tags=tags, run_name=content["name"])
        elif run.data.tags.get(PARENT) != self._parent:
            client.set_tag(run.info.run_id, PARENT, self._parent)
        said = closing_tags(state, content["cause"])
        if content["message"]:
            said["graft.message"] = content["message"]
        self.store.set_tags(run.info.run_id, said)
        if run.info.status != STATUS[state]:
            client.set_terminated(run.info.run_id, STATUS[state], end_time=at)

    def _ended(self, content: Mapping[str, Any], at: int) -> None:
        """Sums the sweep up in its parent run."""
        scores = [
            run.data.metrics["best_val_accuracy"]
            for run in self.store.find(kind="trial", sweep=self._sweep)
            if run.data.tags.get("graft.state") == "complete" and "best_val_accuracy" in run.data.metrics
        ]
        counts = content["counts"]
        values = {
            **counts,
            "sweep_seconds": content["seconds"],
            **({"best_val_accuracy": max(scores)} if scores else {}),
        }
        # A resumed sweep ends more than once: the number of finished trials tells the ends apart.
        step = int(sum(counts.values()))
        metrics = [Metric(key, value, at, step) for key, value in values.items()]
        tags = [RunTag(key, value) for key, value in content["tags"].items()]
        self.store.client.log_batch(self._parent, metrics=metrics, tags=tags)
        self.store.client.set_terminated(self._parent, content["status"], end_time=at)

    def run_of(self, number: int) -> Run | None:
        """The run of a trial; None if it has none yet."""
        return next(iter(self.store.find(kind="trial", sweep=self._sweep, trial=str(number), limit=1)), None)
