"""The record in MLflow."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from mlflow.entities import Dataset as DatasetEntity
from mlflow.entities import DatasetInput, InputTag, Metric, RunTag

from graft.tracking.mlflow_store import Store
from graft.tracking.recorder import STATUS, Recorder, Scalar, State, closing_tags


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
        if {"graft.sweep", "graft.trial"} <= tags.keys():
            found = store.find(sweep=tags["graft.sweep"], trial=tags["graft.trial"], limit=1)
            earlier = [run.info.run_id for run in found]
        else:
            earlier = [id_file.read_text()] if id_file is not None and id_file.is_file() else []
        self._reopened = bool(earlier)
        self._logged: dict[str, set[int]] = {}
        if earlier:
            self.run_id: str = earlier[0]
            self._client.update_run(self.run_id, status="RUNNING")
            self.set_tags(tags)
        else:
            parent = {"mlflow.parentRunId": parent_run_id} if parent_run_id else {}
            self.run_id = self._client.create_run(
                store.experiment_id, tags={**tags, **parent}, run_name=name
            ).info.run_id
        if id_file is not None:
            id_file.parent.mkdir(parents=True, exist_ok=True)
            id_file.write_text(self.run_id)

    def log_params(self, params: Mapping[str, Scalar]) -> None:
        self._store.log_params(self.run_id, params)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self._client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        # MLflow appends: a step that is logged again shows as a second point, and nothing can be deleted.
        now, at = int(time.time() * 1000), step or 0
        fresh = [Metric(name, value, now, at) for name, value in metrics.items() if at not in self._steps_of(name)]
        if fresh:
            self._client.log_batch(self.run_id, metrics=fresh)
            for metric in fresh:
                self._steps_of(metric.key).add(at)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        if path.is_dir():
            self._client.log_artifacts(self.run_id, str(path), folder or None)
        else:
            self._client.log_artifact(self.run_id, str(path), folder or None)

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
        if not self._reopened:
            self._client.log_inputs(self.run_id, inputs)

    def close(self, state: State, failure: str | None = None) -> None:
        self.set_tags(closing_tags(state, failure))
        self._client.set_terminated(self.run_id, STATUS[state])

    def _steps_of(self, name: str) -> set[int]:
        if name not in self._logged:
            history = self._client.get_metric_history(self.run_id, name) if self._reopened else []
            self._logged[name] = {metric.step for metric in history}
        return self._logged[name]
