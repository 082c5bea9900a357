"""The record in MLflow."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

from mlflow.entities import Dataset as DatasetEntity
from mlflow.entities import DatasetInput, InputTag, Metric, Run, RunTag
from mlflow.exceptions import MlflowException

from graft import files
from graft.interruption import undisturbed
from graft.tracking.mlflow_store import Store
from graft.tracking.recorder import STATUS, Recorder, Scalar, State, closing_tags

log = logging.getLogger(__name__)

CLAIM = "graft.claim"
ENDING = {"graft.state", "graft.failure", "graft.message", "graft.verified", "graft.verified_by"}
MADE_BY = ("graft.commit", "graft.uncommitted_sha256", "graft.lock_sha256", "graft.tensorflow", "graft.device")
CHANGED_MIDWAY = "graft.changed_midway"
"""What an attempt was made by that an earlier one was not, in words."""


class MlflowRecorder(Recorder):
    """One MLflow run.

    Every call writes before it returns: MLflow's asynchronous logging loses what is queued when the process is
    killed. An explicit run id in every call, never MLflow's "active run", which is process-wide.

    Args:
        store: Where.
        name: The run's name in MLflow's pages.
        tags: Its first tags. Where they hold ``graft.sweep`` and ``graft.trial``, the run of an earlier attempt
            at that trial is taken up again, and metrics that it has are not written twice.
        parent_run_id: The run that this one is shown under.
        id_file: Where a run leaves its id, so that a run that is no trial can be taken up again too.
    """

    def __init__(
        self,
        store: Store,
        *,
        name: str,
        tags: Mapping[str, str],
        parent_run_id: str | None = None,
        id_file: Path | None = None,
    ) -> None:
        self._store = store
        self._client = store.client
        self._logged: dict[str, set[int]] = {}
        trial = {"graft.sweep", "graft.trial"} <= tags.keys()
        if trial:
            earlier = next(iter(store.find(sweep=tags["graft.sweep"], trial=tags["graft.trial"], limit=1)), None)
        else:
            earlier = _run_named_in(id_file, store) if id_file is not None else None
        self._reopened = earlier is not None
        if earlier is not None:
            self.run_id: str = earlier.info.run_id
            self._client.update_run(self.run_id, status="RUNNING")
            before = earlier.data.tags
            # Of an end that turns out not to be one, and of code that this attempt does not have.
            for said in (ENDING | (set(MADE_BY) - tags.keys())) & before.keys():
                self._client.delete_tag(self.run_id, said)
            changes = _changes(before, tags) if earlier.data.metrics else ""
            if changes:
                log.warning("This run goes on with other code or on another machine than it began: %s", changes)
            midway = "; ".join(text for text in (before.get(CHANGED_MIDWAY), changes) if text)
            self.set_tags({**tags, **({CHANGED_MIDWAY: midway} if midway else {})})
        else:
            parent = {"mlflow.parentRunId": parent_run_id} if parent_run_id else {}
            claim = {}
            if id_file is not None and not trial:
                # Before the run is made: a process that dies in between leaves the word by which the run is found.
                claim = {CLAIM: f"claim-{uuid.uuid4().hex}"}
                files.write(id_file, claim[CLAIM])
            self.run_id = self._client.create_run(
                store.experiment_id, tags={**tags, **parent, **claim}, run_name=name
            ).info.run_id
        if id_file is not None:
            files.write(id_file, self.run_id)

    @undisturbed()
    def log_params(self, params: Mapping[str, Scalar]) -> None:
        self._store.log_params(self.run_id, params)

    @undisturbed()
    def set_tags(self, tags: Mapping[str, str]) -> None:
        self._client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    @undisturbed()
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        # MLflow appends: a step that is logged again shows as a second point, and nothing can be deleted.
        now, at = int(time.time() * 1000), step or 0
        fresh = [Metric(name, value, now, at) for name, value in metrics.items() if at not in self._steps_of(name)]
        if fresh:
            self._client.log_batch(self.run_id, metrics=fresh)
            for metric in fresh:
                self._steps_of(metric.key).add(at)

    @undisturbed()
    def log_artifact(self, path: Path, folder: str = "") -> None:
        if path.is_dir():
            self._client.log_artifacts(self.run_id, str(path), folder or None)
        else:
            self._client.log_artifact(self.run_id, str(path), folder or None)

    @undisturbed()
    def log_dataset(self, name: str, source: str, digest: str, contexts: Mapping[str, int]) -> None:
        """Names the run's data: one input a split.

        Args:
            name: The data set's name.
            source: Where it comes from.
            digest: Graft's own fingerprint; MLflow's would read the whole pipeline.
            contexts: The splits and their number of images.
        """
        inputs = [
            DatasetInput(
                DatasetEntity(f"{name}-{context}", digest[:36], "local", source, profile=f'{{"images": {count}}}'),
                [InputTag("mlflow.data.context", context)],
            )
            for context, count in contexts.items()
        ]
        self._client.log_inputs(self.run_id, inputs)  # MLflow passes over those that the run has

    @undisturbed()
    def close(self, state: State, failure: str | None = None) -> None:
        self.set_tags(closing_tags(state, failure))
        self._client.set_terminated(self.run_id, STATUS[state])

    def _steps_of(self, name: str) -> set[int]:
        if name not in self._logged:
            history = self._client.get_metric_history(self.run_id, name) if self._reopened else []
            self._logged[name] = {metric.step for metric in history}
        return self._logged[name]


def _changes(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What the attempts of a run were made by, where it is not the same."""
    differing = [name.removeprefix("graft.") for name in MADE_BY if before.get(name) != now.get(name)]
    both = [(name, before.get(f"graft.{name}", "none"), now.get(f"graft.{name}", "none")) for name in differing]
    return "; ".join(f"{name} {then}, then {at_last}" for name, then, at_last in both)


def _run_named_in(id_file: Path, store: Store) -> Run | None:
    """The run of an earlier attempt; None if there was none, or it was deleted."""
    if not id_file.is_file():
        return None
    name = id_file.read_bytes().decode(errors="replace")
    if name.startswith("claim-") and name.removeprefix("claim-").isalnum():
        return next(iter(store.find(claim=name, limit=1)), None)
    try:
        run = store.client.get_run(name)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        run = None
    if run is None or run.info.lifecycle_stage != "active":
        log.warning("%s names no run of %s: it is recorded as a new one", id_file, store.uri)
        return None
    return run
