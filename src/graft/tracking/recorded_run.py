"""A run as MLflow has it, read back whole."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from mlflow.exceptions import MlflowException

from graft.errors import ConfigError, FatalError
from graft.secrets import Secrets, resolved
from graft.tracking.mlflow_store import Run, Store
from graft.tracking.tagged_run import trial_number

LEAST_PREFIX = 6
"""Characters of a run's id that stand for all of it, if they are no other's."""


@dataclass(frozen=True)
class RecordedRun:
    """A run, a trial or a rerun.

    Attributes:
        id: MLflow's.
        name: What it is called in MLflow's pages.
        tags: All of them; Graft's own begin with ``graft.``.
        params: Every leaf of the configuration, as text.
        config: The resolved configuration, as `graft.config.Config` dumps it.
        metrics: By name and step. What a run has once is at step 0.
        status: MLflow's, such as FINISHED.
        contradictions: What is recorded twice and not the same, in words.
        secrets: What of the configuration came from the environment, and is not to be recorded again either.
    """

    id: str
    name: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    config: Mapping[str, Any]
    metrics: Mapping[str, Mapping[int, float]]
    status: str
    contradictions: Sequence[str] = ()
    secrets: Secrets = field(default_factory=Secrets)

    @property
    def state(self) -> str:
        """How it ended: ``complete``, ``pruned``, ``failed`` or ``interrupted``; ``running`` if it did not."""
        return self.tags.get("graft.state", "running")

    @property
    def trial(self) -> int | None:
        """Its number in its sweep."""
        return _trial_of(self.tags)


@dataclass(frozen=True)
class LeftOut:
    """A trial that did not record enough to be run again.

    Attributes:
        id: MLflow's.
        name: What it is called there.
        trial: Its number in its sweep.
        why: In words.
    """

    id: str
    name: str
    trial: int | None
    why: str


@dataclass(frozen=True)
class Found:
    """What a name stands for.

    Attributes:
        store: The experiment that it lies in.
        runs: One run; or the trials of a sweep, in their order.
        sweep: The sweep's parent run; None for a run.
        left_out: Trials of the sweep that cannot be.
    """

    store: Store
    runs: Sequence[RecordedRun]
    sweep: Run | None = None
    left_out: Sequence[LeftOut] = ()


def find(store: Store, name: str) -> Found:
    """What was recorded under `name`.

    Args:
        store: Where to look first; a run's id is known in every experiment.
        name: A run's id or the beginning of one, or a sweep's name or the id of its parent run.

    Raises:
        ConfigError: if there is no such run or sweep.
        FatalError: if it was recorded too incompletely to be run again, or was deleted.
    """
    run = _by_id(store, name)
    if run is None:
        known = store.find()
        fitting = [each for each in known if len(name) >= LEAST_PREFIX and each.info.run_id.startswith(name)]
        named = [each for each in known if _is_sweep(each) and each.data.tags.get("graft.sweep") == name]
        if len(fitting) > 1:
            ids = ", ".join(each.info.run_id for each in fitting)
            raise ConfigError(f"{name}: several runs begin like that: {ids}")
        run = next(iter([*fitting, *named]), None)
        if run is None and any(each.info.run_id.startswith(name) for each in known):
            raise ConfigError(f"{name}: of a run's id at least {LEAST_PREFIX} characters are wanted")
        if run is None:
            raise ConfigError(f"There is no run and no sweep {name}{_latest(known)}")
    store = _where(store, run)
    if not _is_sweep(run):
        return Found(store, [_whole(store, run)])
    if not (sweep := run.data.tags.get("graft.sweep")):
        raise FatalError(
            f"The run {run.info.run_id} is a sweep whose tag graft.sweep is gone, so its trials are unknown"
        )
    whole: list[RecordedRun] = []
    left_out: list[LeftOut] = []
    for each in sorted(store.find(kind="trial", sweep=sweep), key=lambda each: _trial_of(each.data.tags) or 0):
        try:
            whole.append(_whole(store, each))
        except FatalError as error:  # such as a trial that failed before it began
            left_out.append(LeftOut(each.info.run_id, each.info.run_name, _trial_of(each.data.tags), str(error)))
    if not whole:
        reasons = [each.why for each in left_out]
        raise FatalError("\n".join([f"The sweep {sweep} has no trial that could be run again", *reasons]))
    return Found(store, whole, run, left_out)


def read(store: Store, run_id: str) -> RecordedRun:
    """The run with this id.

    Raises:
        FatalError: if its configuration cannot be read.
    """
    return _whole(store, store.client.get_run(run_id))


def _by_id(store: Store, run_id: str) -> Run | None:
    try:
        run = store.client.get_run(run_id)
    except MlflowException:
        return None
    if run.info.lifecycle_stage != "active":
        raise FatalError(f"The run {run_id} was deleted in MLflow; restore it there first")
    return run


def _where(store: Store, run: Run) -> Store:
    """The store, opened at the experiment that `run` lies in."""
    return replace(store, experiment_id=run.info.experiment_id)


def _is_sweep(run: Run) -> bool:
    return run.data.tags.get("graft.kind") == "sweep"


def _latest(known: Sequence[Run]) -> str:
    """The runs and sweeps that were recorded last, for who looks for one."""
    runs = [f"{run.info.run_id} ({run.info.run_name})" for run in known if not _is_sweep(run)][:3]
    sweeps = [run.data.tags.get("graft.sweep", "") for run in known if _is_sweep(run)][:3]
    told = [*(["runs " + ", ".join(runs)] if runs else []), *(["sweeps " + ", ".join(sweeps)] if sweeps else [])]
    return f"; the latest are: {'; '.join(told)}" if told else "; nothing is recorded here yet"


def _trial_of(tags: Mapping[str, str]) -> int | None:
    return trial_number(tags.get("graft.trial"))


def _whole(store: Store, run: Run) -> RecordedRun:
    client, run_id = store.client, run.info.run_id
    with tempfile.TemporaryDirectory() as folder:
        try:
            config = yaml.safe_load(store.artifact(run_id, "config.yaml", Path(folder)).read_text(encoding="utf-8"))
        except (FatalError, OSError, ValueError, yaml.YAMLError) as error:
            reason = str(error).strip().splitlines()[0]
            raise FatalError(
                f"The run {run_id} ({run.info.run_name}) cannot be run again: its artifact config.yaml cannot be read: "
                f"{reason}"
            ) from error
    if not isinstance(config, dict) or not isinstance(config.get("dataset"), dict):
        raise FatalError(f"The run {run_id} cannot be run again: its artifact config.yaml holds no configuration")
    histories = {name: client.get_metric_history(run_id, name) for name in run.data.metrics}
    metrics = {name: {point.step: point.value for point in history} for name, history in histories.items()}
    contradictions = [
        f"{name} at step {step} has several values"
        for name, history in histories.items()
        for step in metrics[name]
        if len({point.value.hex() for point in history if point.step == step}) > 1
    ]
    return RecordedRun(
        id=run_id,
        name=run.info.run_name,
        tags=run.data.tags,
        params=resolved(run.data.params),
        config=resolved(config),
        secrets=Secrets.of(config),
        metrics=metrics,
        status=run.info.status,
        contradictions=contradictions,
    )
