"""One run's statements, taken down in MLflow."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset as DatasetEntity
from mlflow.entities import DatasetInput, InputTag, Metric, Run

from graft.config import TrackingConfig
from graft.tracking.delivery import FromTheStart
from graft.tracking.local_record import Statement
from graft.tracking.mlflow_store import Store, open_store
from graft.tracking.recorder import STATUS, closing_tags

log = logging.getLogger(__name__)

CLAIM = "graft.claim"
"""The tag with a word that only this run's own record knows: by it a run is found whose id never came back."""

ENDING = {"graft.state", "graft.failure", "graft.message", "graft.verified", "graft.verified_by"}
MADE_BY = ("graft.commit", "graft.uncommitted_sha256", "graft.lock_sha256", "graft.tensorflow", "graft.device")
CHANGED_MIDWAY = "graft.changed_midway"
"""What an attempt was made by that an earlier one was not, in words."""


class MlflowRun:
    """Receives the statements of one run.

    With an explicit run id in every call, never MLflow's "active run", which is process-wide.

    Args:
        tracking: Where it is recorded; opened when it is first needed.
        folder: What the paths of its artifacts start from.
    """

    def __init__(self, tracking: TrackingConfig, folder: Path) -> None:
        self.run_id: str | None = None
        self._tracking = tracking
        self._folder = folder
        self._store: Store | None = None
        self._steps: dict[str, set[int]] = {}
        self._new = False

    def receive(self, statements: Sequence[Statement]) -> None:
        """Takes them down; see `graft.tracking.delivery.Receiver`."""
        statement = statements[0]
        content = statement.content
        if statement.kind == "begin":
            self._begin(content, statement)
            return
        run_id = self.run_id
        if run_id is None:
            raise FromTheStart
        match statement.kind:
            case "params":
                self.store.log_params(run_id, content["params"])
            case "tags":
                self.store.set_tags(run_id, content["tags"])
            case "metrics":
                self._log_metrics(run_id, statements)
            case "artifact":
                self._log_artifact(run_id, content["path"], content["folder"])
            case "dataset":
                self._log_dataset(run_id, content)
            case "close":
                self.store.set_tags(run_id, closing_tags(content["state"], content["failure"]))
                self.store.client.set_terminated(run_id, STATUS[content["state"]], end_time=statement.at)
            case unknown:
                log.warning("%s has a statement that this version does not know: %s", self._folder, unknown)

    def doubt(self) -> None:
        """What is known of the run may be wrong."""
        self._steps = {}
        self._new = False

    def has_lost(self, error: Exception) -> bool:
        """Whether a statement failed because the run is not there any more."""
        return self._store is not None and self._store.has_lost(self.run_id, error)

    @property
    def store(self) -> Store:
        """Where the run lies.

        Raises:
            FatalError: if it cannot be used.
        """
        if self._store is None:
            self._store = open_store(self._tracking)
        return self._store

    def _begin(self, content: Mapping[str, Any], statement: Statement) -> None:
        tags = dict(content["tags"])
        earlier = self._find(tags)
        if earlier is not None:
            self.run_id = earlier.info.run_id
            self._reopen(earlier, tags)
            return
        if statement.start:
            raise FromTheStart
        parent = {"mlflow.parentRunId": content["parent_run_id"]} if content["parent_run_id"] else {}
        client, experiment = self.store.client, self.store.experiment_id
        run = client.create_run(experiment, start_time=statement.at, tags={**tags, **parent}, run_name=content["name"])
        self.run_id, self._new, self._steps = run.info.run_id, True, {}

    def _find(self, tags: Mapping[str, str]) -> Run | None:
        """The run that these statements became: by its id, or else by the tags that it alone has."""
        if self.run_id is not None:
            run = self.store.active(self.run_id)
            if run is None:
                log.warning(
                    "The run %s is not in %s any more: it is recorded as a new one", self.run_id, self.store.uri
                )
                self.run_id = None
            return run
        if {"graft.sweep", "graft.trial"} <= tags.keys():
            found = self.store.find(limit=1, sweep=tags["graft.sweep"], trial=tags["graft.trial"])
        else:
            found = self.store.find(limit=1, claim=tags.get(CLAIM, ""))
        return found[0] if found else None

    def _reopen(self, run: Run, tags: Mapping[str, str]) -> None:
        client, run_id = self.store.client, run.info.run_id
        client.update_run(run_id, status="RUNNING")
        known = run.data.tags
        # Of an end that turns out not to be one, and of code that this attempt does not have.
        for said in (ENDING | (set(MADE_BY) - tags.keys())) & known.keys():
            client.delete_tag(run_id, said)
        changes = _changes(known, tags) if run.data.metrics else ""
        if changes:
            log.warning("This run goes on with other code or on another machine than it began: %s", changes)
        told = known.get(CHANGED_MIDWAY, "")
        midway = "; ".join(text for text in (told, changes) if text)
        self.store.set_tags(run_id, {**tags, **({CHANGED_MIDWAY: midway} if midway else {})})
        self.doubt()

    def _log_metrics(self, run_id: str, statements: Sequence[Statement]) -> None:
        # MLflow appends: a step that is logged again shows as a second point, and nothing can be deleted.
        fresh: dict[tuple[str, int], Metric] = {}
        for statement in statements:
            step = statement.content["step"]
            for name, value in statement.content["metrics"].items():
                if step not in self._steps_of(run_id, name):
                    fresh.setdefault((name, step), Metric(name, value, statement.at, step))
        if fresh:
            self.store.client.log_batch(run_id, metrics=list(fresh.values()))
            for name, step in fresh:
                self._steps_of(run_id, name).add(step)

    def _steps_of(self, run_id: str, name: str) -> set[int]:
        if name not in self._steps:
            history = [] if self._new else self.store.client.get_metric_history(run_id, name)
            self._steps[name] = {metric.step for metric in history}
        return self._steps[name]

    def _log_artifact(self, run_id: str, name: str, folder: str) -> None:
        path, client = self._folder / name, self.store.client
        if path.is_dir():
            client.log_artifacts(run_id, str(path), folder or None)
        elif path.exists():
            client.log_artifact(run_id, str(path), folder or None)
        else:
            log.warning("%s is gone, and the run %s goes without it", path, run_id)

    def _log_dataset(self, run_id: str, content: Mapping[str, Any]) -> None:
        name, digest, source = content["name"], content["digest"], content["source"]
        inputs = [
            DatasetInput(
                DatasetEntity(f"{name}-{context}", digest[:36], "local", source, profile=f'{{"images": {count}}}'),
                [InputTag("mlflow.data.context", context)],
            )
            for context, count in content["contexts"].items()
        ]
        self.store.client.log_inputs(run_id, inputs)  # MLflow passes over those that the run has


def _changes(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What the attempts of a run were made by, where it is not the same."""
    differing: Sequence[str] = [name.removeprefix("graft.") for name in MADE_BY if before.get(name) != now.get(name)]
    both = [(name, before.get(f"graft.{name}", "none"), now.get(f"graft.{name}", "none")) for name in differing]
    return "; ".join(f"{name} {then}, then {at_last}" for name, then, at_last in both)
