"""A sweep's MLflow record: one parent run, and the last word on every trial's run."""

from __future__ import annotations

import functools
import json
import shlex
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from graft import preparation, provenance
from graft.config import TrackingConfig, flatten, from_hydra
from graft.config_backbone import settled_backbone
from graft.config_dataset import AnyDatasetConfig
from graft.data import splits
from graft.errors import ConfigError
from graft.loop.result import SUMMARY_METRICS
from graft.report.after_sweep import write_after_sweep
from graft.suggestions import did_you_mean
from graft.sweep.observer import SweepEnded, SweepStarted, TrialEnded
from graft.tracking.recorder import STATUS, closing_tags

if TYPE_CHECKING:
    from mlflow.entities import Run

    from graft.tracking.mlflow_store import Store

SHOWN = 240  # characters of a run's name, and of an error's text


class MlflowSweepObserver:
    """Checks every configuration of a sweep before it starts, and keeps its parent run.

    The trials record themselves, wherever they run. What a trial cannot record, its own death, is recorded here.
    """

    def __init__(self) -> None:
        self._store: Store | None = None
        self._parent: str = ""
        self._sweep: str = ""

    def validate(self, config: DictConfig) -> Mapping[str, str]:
        """Checks one configuration, its data set included, without importing TensorFlow.

        Raises:
            ConfigError: with everything that is wrong with it.
        """
        checked = from_hydra(config)
        preparation.check(checked)
        return {f"dataset {checked.dataset.name}": _fingerprint(checked.dataset)}

    def sweep_started(self, event: SweepStarted) -> Mapping[str, str]:
        """Makes the parent run, or takes up the one that the sweep had when it was started before.

        Raises:
            ConfigError: if an objective is no metric of a run.
            FatalError: if MLflow cannot be reached.
        """
        if unknown := [name for name in event.objectives if name not in SUMMARY_METRICS]:
            allowed = ", ".join(SUMMARY_METRICS)
            raise ConfigError(
                [
                    f"hydra.sweeper.objective={name}: allowed are {allowed}{did_you_mean(name, SUMMARY_METRICS)}"
                    for name in unknown
                ]
            )
        from graft.tracking.mlflow_store import open_store  # late: a mistake should not wait for MLflow

        tracking = OmegaConf.to_container(event.config.tracking, resolve=True)
        self._store = open_store(TrackingConfig.model_validate(tracking))
        self._sweep = event.sweep
        client = self._store.client
        earlier = self._store.find(kind="sweep", sweep=event.sweep, limit=1)
        if earlier:
            self._parent = earlier[0].info.run_id
            client.update_run(self._parent, status="RUNNING")
            client.set_tag(self._parent, "graft.process", json.dumps(provenance.process()))
            return {"parent_run_id": self._parent}
        swept = {key.lstrip("+~"): str(values) for key, values in event.space.items()}
        tags = {
            "graft.kind": "sweep",
            "graft.sweep": event.sweep,
            "graft.state": "running",
            "graft.process": json.dumps(provenance.process()),
            "graft.directory": str(event.directory),
        }
        name = " ".join(f"{key}={values}" for key, values in swept.items())[:SHOWN] or event.sweep
        run = client.create_run(self._store.experiment_id, tags=tags, run_name=name)
        self._parent = run.info.run_id
        base = {key: value for key, value in event.config.items() if key != "hydra"}
        values = OmegaConf.to_container(OmegaConf.create(base), resolve=False)
        assert isinstance(values, dict)
        values["backbone"] = settled_backbone(OmegaConf.to_container(event.config.backbone, resolve=True))
        params = {**flatten(values), **swept}
        self._store.log_params(self._parent, params)
        return {"parent_run_id": self._parent}

    def trial_ended(self, event: TrialEnded) -> None:
        """Closes the trial's run where it could not do so itself; makes one where it never got that far."""
        store = self._opened()
        run = self._run_of(event.number)
        if run is None and event.state == "interrupted":
            return  # it had not begun, and has its run when the sweep goes on
        if run is None:
            tags = {
                "graft.kind": "trial",
                "graft.sweep": self._sweep,
                "graft.trial": str(event.number),
                "graft.attempt": str(event.attempt),
                "graft.overrides": shlex.join(event.overrides),
                "mlflow.parentRunId": self._parent,
            }
            name = " ".join(event.overrides)[:SHOWN]
            run = store.client.create_run(store.experiment_id, tags=tags, run_name=name)
        status = STATUS[event.state]
        for key, value in closing_tags(event.state, event.cause).items():
            store.client.set_tag(run.info.run_id, key, value)
        if event.message:
            store.client.set_tag(run.info.run_id, "graft.message", event.message[:SHOWN])
        if run.info.status != status:
            store.client.set_terminated(run.info.run_id, status)

    def sweep_ended(self, event: SweepEnded) -> None:
        """Sums the sweep up in its parent run."""
        from mlflow.entities import Metric

        store, client = self._opened(), self._opened().client
        scores = [
            run.data.metrics["best_val_accuracy"]
            for run in store.find(kind="trial", sweep=self._sweep)
            if run.data.tags.get("graft.state") == "complete" and "best_val_accuracy" in run.data.metrics
        ]
        counts = {f"trials_{state}": float(event.counts.get(state, 0)) for state in ("complete", "pruned", "failed")}
        values = {**counts, "sweep_seconds": event.seconds, **({"best_val_accuracy": max(scores)} if scores else {})}
        # A resumed sweep ends more than once: the number of finished trials tells the ends apart.
        now, step = int(time.time() * 1000), int(sum(counts.values()))
        client.log_batch(self._parent, metrics=[Metric(key, value, now, step) for key, value in values.items()])
        if event.best:
            client.set_tag(self._parent, "graft.best_trial", str(event.best[0].number))
            client.set_tag(self._parent, "graft.best_overrides", " ".join(event.best[0].overrides))
        state = "interrupted" if event.interrupted else "complete"
        client.set_tag(self._parent, "graft.state", state)
        client.set_terminated(self._parent, "KILLED" if event.interrupted else "FINISHED")
        if not event.interrupted:
            write_after_sweep(store, self._sweep, self._parent)

    def _opened(self) -> Store:
        assert self._store is not None, "sweep_started comes first"
        return self._store

    def _run_of(self, number: int) -> Run | None:
        return next(iter(self._opened().find(kind="trial", sweep=self._sweep, trial=str(number), limit=1)), None)


@functools.lru_cache(maxsize=16)  # most sweeps have one data set in hundreds of cells
def _fingerprint(dataset: AnyDatasetConfig) -> str:
    return splits.choose(dataset)[0].sha256()
