"""One run: the one place where the configuration becomes objects.

`train` is the task of `train.py`: it checks, records and runs. `run` is for programs that bring their own
configuration and recorder.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from graft import provenance, trial
from graft.config import Config, from_hydra
from graft.errors import ConfigError, FailedTrial, Interrupted
from graft.interruption import Interruption
from graft.preparation import Prepared, check, prepare

if TYPE_CHECKING:
    from graft.data.pipeline import Data
    from graft.loop.result import StopReason, StopSignal, TrainResult
    from graft.tracking.mlflow_recorder import MlflowRecorder
    from graft.tracking.recorder import Recorder

log = logging.getLogger(__name__)

ENGINE = "features_engine"  # the file beside the checkpoints that names it


def train(composed: DictConfig) -> float | dict[str, float]:
    """Runs and records what Hydra composed, alone or as a trial of a sweep.

    Returns:
        The best validation accuracy, from 0 to 1; under Graft's sweeper, whose ``hydra.sweeper.objective`` names
        what it optimises, every metric that a run has once.

    Raises:
        ConfigError: before anything is started or recorded.
        FailedTrial: if training cannot give a result; the record says so.
    """
    if trial.current():
        return _train(composed, _trial_stop_reason)
    with Interruption() as interruption:
        return _train(composed, lambda: "interrupted" if interruption.requested else None)


def _train(composed: DictConfig, stop_reason: StopSignal) -> float | dict[str, float]:
    started = time.perf_counter()
    hydra = HydraConfig.get()
    directory = Path(hydra.runtime.output_dir)
    config = check(from_hydra(composed))
    _refuse_unusable_store(config)
    prepared = _prepare_in(directory, config)
    _claim(directory, config, prepared)
    with _record(config, prepared, directory, stop_reason) as (recorder, mlflow_recorder):
        result = _fit(config, prepared, recorder, directory, stop_reason)
        if result.stopped == "interrupted" and not trial.current():
            raise KeyboardInterrupt  # again: the first one was swallowed on its way
        metrics = {**result.summary(), "total_seconds": time.perf_counter() - started}
        if result.stopped != "interrupted":  # what a run has once is said once, by the attempt that ends it
            _leave_behind(config, result, mlflow_recorder, directory)
            recorder.log_metrics(metrics)
        recorder.close(result.stopped or "complete")
    if not trial.current():
        print(f"Checkpoints and TensorBoard events: {directory}\nRecord: make ui, run {mlflow_recorder.run_id}")
    return metrics if "objective" in hydra.sweeper else metrics["best_val_accuracy"]


def run(config: Config, recorder: Recorder, directory: Path, stop_reason: StopSignal = lambda: None) -> TrainResult:
    """Trains, for programs that bring their own configuration and recorder.

    Args:
        config: The run, completely described.
        recorder: Gets the metrics while training goes on; it is not closed.
        directory: Where checkpoints go; one that holds some is gone on from.
        stop_reason: Asked after every epoch whether to stop.

    Raises:
        ConfigError: as `prepare` does.
        FailedTrial: if the loss is no longer finite.
    """
    config = check(config)
    return _fit(config, _prepare_in(directory, config), recorder, directory, stop_reason)


def run_name(config: Config) -> str:
    """What the run is called in MLflow, such as ``finetune lr=1e-05 w=512 d=0.2``."""
    kind = "finetune" if config.trainable else "frozen"
    seed = f" s={config.seed}" if config.seed else ""
    return f"{kind} lr={config.learning_rate:g} w={config.head_width} d={config.dropout_rate:g}{seed}"


def _fit(
    config: Config, prepared: Prepared, recorder: Recorder, directory: Path, stop_reason: StopSignal
) -> TrainResult:
    from graft.loop import gradient_tape

    data, features = prepared.data, prepared.features
    _remember_engine(directory, prepared)
    probe: dict[str, float] = {}
    extraction_seconds = 0.0
    if config.init_head == "probe":
        probe, extraction_seconds = _probe(config, prepared, directory)
    result = gradient_tape.fit(prepared.trainer, data, config, directory, recorder, stop_reason)
    if features is None:
        return replace(result, probe=probe, feature_extraction_seconds=extraction_seconds)
    return replace(
        result,
        feature_extraction_seconds=features.extraction_seconds,
        saved_seconds=features.seconds_an_image * (len(data.splits.train) + len(data.splits.val)),
    )


def _probe(config: Config, prepared: Prepared, directory: Path) -> tuple[dict[str, float], float]:
    """Trains the head on the frozen backbone, and starts `prepared`'s model from it (linear probing, then fine-tuning).

    Returns:
        Its metrics, and the seconds that it paid to extract features.

    Source: Kumar et al., Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution, ICLR 2022.
    """
    from graft.loop import gradient_tape
    from graft.model import head_of
    from graft.tracking.recorder import MemoryRecorder

    started = time.perf_counter()
    frozen, directory = config.probe(), directory / "probe"
    probe = _prepare_in(directory, frozen)
    _remember_engine(directory, probe)
    assert probe.features is not None
    # A few seconds, so it is not stopped half-way; its own checkpoints make it a matter of none in a second attempt.
    result = gradient_tape.fit(probe.trainer, probe.data, frozen, directory, MemoryRecorder(), lambda: None)
    best, head = head_of(probe.model).trainable_variables, head_of(prepared.model).trainable_variables
    for variable, trained in zip(head, best, strict=True):
        variable.assign(trained)
    metrics = {
        "probe_val_accuracy": result.history[result.best_epoch]["val_accuracy"],
        "probe_seconds": time.perf_counter() - started,
    }
    log.info("Fine-tuning starts from a head with a validation accuracy of %(probe_val_accuracy).4f", metrics)
    return metrics, probe.features.extraction_seconds


def _prepare_in(directory: Path, config: Config) -> Prepared:
    """Prepares a run in `directory`; one that goes on takes features of the engine that it had, if it may choose.

    Engines agree within a ten-thousandth, so a run that went on with another one's features would end elsewhere.
    """
    engine = directory / "checkpoints" / ENGINE
    if config.cached_features and config.features.engine == "auto" and engine.is_file():
        same = config.features.model_copy(update={"engine": engine.read_text()})
        return prepare(config.model_copy(update={"features": same}))
    return prepare(config)


def _remember_engine(directory: Path, prepared: Prepared) -> None:
    if prepared.features is not None:
        engine = directory / "checkpoints" / ENGINE
        engine.parent.mkdir(parents=True, exist_ok=True)
        engine.write_text(prepared.features.engine)


def _claim(directory: Path, config: Config, prepared: Prepared) -> None:
    """Makes `directory` this run's own; a run that is there already has to be the same one, to be gone on with.

    Raises:
        ConfigError: if the folder holds checkpoints of another configuration, other data or another backbone.
    """
    settings = {key: value for key, value in config.flat().items() if not key.startswith("tracking.")}
    own = {**settings, "data": prepared.data.sha256, "backbone": prepared.backbone.sha256}
    claim = directory / "checkpoints" / "run.json"
    if claim.is_file():
        there = json.loads(claim.read_text())
        if differences := [
            f"{key}: {there.get(key)} there, {own[key]} now" for key in own if there.get(key) != own[key]
        ]:
            raise ConfigError(
                f"hydra.run.dir={directory}: this folder holds checkpoints of another run; allowed is an empty folder, "
                f"or the same run. They differ in {'; '.join(differences)}"
            )
        return
    claim.parent.mkdir(parents=True, exist_ok=True)
    partial = claim.with_suffix(".partial")
    partial.write_text(json.dumps(own))
    os.replace(partial, claim)


def _refuse_unusable_store(config: Config) -> None:
    """Opens a tracking server once before TensorFlow is imported: one that is not there should cost no training.

    Raises:
        FatalError: if it cannot be used.
    """
    if not config.tracking.uri.startswith("sqlite:"):
        from graft.tracking.mlflow_store import open_store

        open_store(config.tracking)


def _trial_stop_reason() -> StopReason | None:
    return trial.stop_reason() if trial.should_stop() else None


@contextmanager
def _record(
    config: Config, prepared: Prepared, directory: Path, stop_reason: StopSignal
) -> Iterator[tuple[Recorder, MlflowRecorder]]:
    """Opens the run's record; closes it as failed or interrupted if an exception leaves the block."""
    from graft.tracking.console import ConsoleRecorder
    from graft.tracking.mlflow_recorder import MlflowRecorder
    from graft.tracking.mlflow_store import open_store
    from graft.tracking.recorder import Recorders
    from graft.tracking.tensorboard import TensorBoardRecorder
    from graft.tracking.trial_reporter import TrialReporter

    current = trial.current()
    tags = _tags(config, prepared)
    parent = current.context.get("parent_run_id") if current else None
    mlflow_recorder = MlflowRecorder(
        open_store(config.tracking),
        name=run_name(config),
        tags=tags,
        parent_run_id=parent,
        id_file=directory / "checkpoints" / "mlflow_run_id",
    )
    # A trial reports to the sweep, whose table shows it; a run on its own reports to the console.
    front = TrialReporter() if current else ConsoleRecorder(config.epochs)
    recorder = Recorders([front, TensorBoardRecorder(directory), mlflow_recorder])
    try:
        recorder.log_params(config.flat())
        _describe(config, prepared.data, mlflow_recorder, directory)
        yield recorder, mlflow_recorder
    except BaseException as error:
        # In a run on its own the error may be what TensorFlow made of the interruption.
        if isinstance(error, KeyboardInterrupt) or (not current and stop_reason() == "interrupted"):
            recorder.close("interrupted")
            if current:
                raise
            again = ["python", "train.py", *HydraConfig.get().overrides.task, f"hydra.run.dir={directory}"]
            raise Interrupted(f"Interrupted. To go on:\n  {shlex.join(again)}") from None
        recorder.close("failed", error.cause if isinstance(error, FailedTrial) else type(error).__name__)
        raise


def _tags(config: Config, prepared: Prepared) -> dict[str, str]:
    current = trial.current()
    place: Mapping[str, str] = (
        {
            "graft.kind": "trial",
            "graft.sweep": current.sweep,
            "graft.trial": str(current.number),
            "graft.attempt": str(current.attempt),
        }
        if current
        else {"graft.kind": "single"}
    )
    return {
        **place,
        "graft.config_sha256": config.sha256(),
        "graft.dataset_sha256": prepared.data.sha256,
        "graft.backbone_sha256": prepared.backbone.sha256,
        "graft.lock_sha256": provenance.lock_sha256(),
        "graft.commit": provenance.commit(),
        "graft.mixed_precision": str(prepared.trainer.half_precision).lower(),
        "graft.features": "cached" if prepared.features else "live",
        **({"graft.features_engine": prepared.features.engine} if prepared.features else {}),
        "graft.overrides": shlex.join(HydraConfig.get().overrides.task),
        "graft.unreadable_images": str(len(prepared.data.unreadable)),
    }


def _describe(config: Config, data: Data, recorder: MlflowRecorder, directory: Path) -> None:
    """Leaves the resolved configuration, the overrides and the names of the data."""
    resolved = directory / "config.yaml"
    directory.mkdir(parents=True, exist_ok=True)
    resolved.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    recorder.log_artifact(resolved)
    overrides = directory / ".hydra" / "overrides.yaml"
    if overrides.is_file():
        recorder.log_artifact(overrides)
    source = getattr(config.dataset, "path", config.dataset.name)
    sizes = {"training": data.splits.train, "validation": data.splits.val, "test": data.splits.test}
    recorder.log_dataset(config.dataset.name, source, data.sha256, {name: len(rows) for name, rows in sizes.items()})


def _leave_behind(config: Config, result: TrainResult, recorder: MlflowRecorder, directory: Path) -> None:
    from graft import plots

    picture = directory / "plots" / "curves.png"
    plots.curves(result.history, picture, run_name(config))
    recorder.log_artifact(picture, "plots")
    recorder.log_artifact(directory / "checkpoints" / "best", "checkpoints/best")
