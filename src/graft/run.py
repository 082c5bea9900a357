"""One run, from its beginning to its end: checked, prepared by `graft.preparation`, trained and recorded.

`train` is the task of `train.py`: it checks, records and runs. `run` is for programs that bring their own
configuration and recorder.
"""

from __future__ import annotations

import json
import logging
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import filelock
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from graft import attempts, disk, files, runtime, trial
from graft.again import rerun_command
from graft.config import Config, from_hydra
from graft.errors import ConfigError, FailedTrial
from graft.importing import importing, keep_imported
from graft.interruption import Interruption, undisturbed
from graft.preparation import Prepared, check, prepare
from graft.recording import Occasion, leave_behind, recorded
from graft.secrets import Secrets

if TYPE_CHECKING:
    from graft.loop.result import History, StopReason, StopSignal, TrainResult
    from graft.tracking.recorder import Recorder

log = logging.getLogger(__name__)

TAKEOVER_SECONDS = 600.0
"""How long a trial that was taken over waits for the process that it was taken from, which ends at its next epoch."""


def import_libraries() -> None:
    """Imports what takes seconds and no run does without; `train` would, when it comes to it."""
    runtime.import_tensorflow()
    with importing():
        from graft import plots  # noqa: F401
        from graft.tracking import mlflow_recorder  # noqa: F401
    keep_imported()


def train(composed: DictConfig) -> float | dict[str, float]:
    """Runs and records what Hydra composed, alone or as a trial of a sweep.

    Returns:
        The best validation accuracy, from 0 to 1; under Graft's sweeper, whose ``hydra.sweeper.objective`` names
        what it optimises, every metric that a run has once.

    Raises:
        ConfigError: before anything is started or recorded.
        FatalError: if a download fails, the tracking server cannot be used, or a disk takes nothing more.
        FailedTrial: if training cannot give a result; the record says so.
        Interrupted: if a run on its own was stopped; the text says how to go on.
    """
    secrets = Secrets.of(composed)
    secrets.watch()
    with secrets.out_of_errors(), disk.told(HydraConfig.get().runtime.output_dir):
        if trial.current():
            return _train(composed, secrets, _trial_stop_reason)
        with Interruption() as interruption:
            return _train(composed, secrets, lambda: "interrupted" if interruption.requested else None)


def _train(composed: DictConfig, secrets: Secrets, stop_reason: StopSignal) -> float | dict[str, float]:
    started = time.perf_counter()
    hydra = HydraConfig.get()
    directory = Path(hydra.runtime.output_dir)
    config = check(from_hydra(composed))
    if not trial.current():  # a sweep was refused as a whole, and what began must outlive its server
        _refuse_unusable_store(config)
    with _alone_in(directory):
        prepared = prepare(config)
        _claim(directory, config, prepared, secrets)
        occasion = replace(_occasion(config, directory, list(hydra.overrides.task)), secrets=secrets)
        done = carry_out(config, prepared, occasion, stop_reason, started)
        model_id = _log_model(config, prepared, directory, done.run_id)
    if not trial.current():
        if model_id is not None:
            print(f"Model: models:/{model_id}")
        print(f"Checkpoints and TensorBoard events: {directory}")
        if done.run_id is None:
            print("Record: not at the server yet; to send it: graft sync")
        else:
            print(f"Record: make ui, run {done.run_id}\nAgain: {rerun_command(done.run_id)}")
    return dict(done.metrics) if "objective" in hydra.sweeper else done.metrics["best_val_accuracy"]


def _log_model(config: Config, prepared: Prepared, directory: Path, run_id: str | None) -> str | None:
    """Logs the model of a run on its own; a sweep has that of its best trial logged, when it is known."""
    if trial.current() or run_id is None or not config.tracking.log_model:
        return None
    from graft.export import logged  # late: MLflow's models take a second to import

    return logged.log_at_the_end(config, prepared, directory, run_id)


@dataclass(frozen=True)
class Done:
    """A run that was carried out.

    Attributes:
        metrics: Those that a run has once.
        run_id: In MLflow; None if its server never answered.
    """

    metrics: Mapping[str, float]
    run_id: str | None


def carry_out(config: Config, prepared: Prepared, occasion: Occasion, stop_reason: StopSignal, started: float) -> Done:
    """Trains what was prepared, and records it.

    Args:
        config: The run, completely described.
        prepared: Made from `config`.
        occasion: As what the run takes place.
        stop_reason: Asked after every epoch whether to stop.
        started: When the run began, by `time.perf_counter`.

    Returns:
        What came out. Its `total_seconds` are those of this attempt alone.

    Raises:
        FatalError: if MLflow refuses the run, or a disk takes nothing more.
        FailedTrial: if training cannot give a result; the record says so.
        Interrupted: if it was stopped, where `occasion` has a text for that, which says how to go on.
    """
    with recorded(config, prepared, occasion, stop_reason) as (recorder, mlflow_recorder):
        result = _fit(config, prepared, recorder, occasion.directory, stop_reason)
        if result.stopped == "interrupted" and occasion.if_interrupted:
            raise KeyboardInterrupt  # again: the first one was swallowed on its way
        metrics = {**result.summary(), "total_seconds": time.perf_counter() - started}
        if result.stopped != "interrupted":  # what a run has once is said once, by the attempt that ends it
            leave_behind(config, prepared.data.class_names, result, mlflow_recorder, occasion.directory)
            recorder.log_metrics(metrics)
        recorder.close(result.stopped or "complete")
    if result.stopped != "interrupted":
        _close(occasion.directory, result.history)
    return Done(metrics, mlflow_recorder.run_id)


def run(config: Config, recorder: Recorder, directory: Path, stop_reason: StopSignal = lambda: None) -> TrainResult:
    """Trains, for programs that bring their own configuration and recorder.

    Args:
        config: The run, completely described.
        recorder: Gets the metrics while training goes on; it is not closed.
        directory: Where checkpoints go; one that holds some is gone on from. No other process may write there.
        stop_reason: Asked after every epoch whether to stop.

    Raises:
        ConfigError, FatalError: as `prepare` does.
        FailedTrial: if the loss is no longer finite, or the best checkpoint is damaged.
    """
    config = check(config)
    return _fit(config, prepare(config), recorder, directory, stop_reason)


def _fit(
    config: Config, prepared: Prepared, recorder: Recorder, directory: Path, stop_reason: StopSignal
) -> TrainResult:
    from graft import loop

    data, features = prepared.data, prepared.features
    probe: dict[str, float] = {}
    extraction_seconds = 0.0
    if features is not None:
        extraction_seconds = attempts.paid(directory, "extraction", features.extraction_seconds)
    if config.init_head == "probe":
        probe, extraction_seconds = _probe(config, prepared, directory)
    result = loop.of(config).fit(prepared.trainer, data, config, directory, recorder, stop_reason)
    if features is None:
        return replace(result, probe=probe, feature_extraction_seconds=extraction_seconds)
    return replace(
        result,
        feature_extraction_seconds=extraction_seconds,
        saved_seconds=features.seconds_an_image * (len(data.splits.train) + len(data.splits.val)),
    )


def _probe(config: Config, prepared: Prepared, directory: Path) -> tuple[dict[str, float], float]:
    """Trains the head on the frozen backbone, and starts `prepared`'s model from it (linear probing, then fine-tuning).

    Returns:
        Its metrics, and the seconds that it paid to extract features.

    Source: Kumar et al., Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution, ICLR 2022.
    """
    from graft import loop
    from graft.model import head_of
    from graft.tracking.recorder import MemoryRecorder

    started = time.perf_counter()
    frozen, directory = config.probe(), directory / "probe"
    probe = prepare(frozen)
    assert probe.features is not None
    extraction_seconds = attempts.paid(directory, "extraction", probe.features.extraction_seconds)
    # A few seconds, so it is not stopped half-way; its own checkpoints make it a matter of none in a second attempt.
    result = loop.of(frozen).fit(probe.trainer, probe.data, frozen, directory, MemoryRecorder(), lambda: None)
    _close(directory, result.history)
    best, head = head_of(probe.model).trainable_variables, head_of(prepared.model).trainable_variables
    for variable, trained in zip(head, best, strict=True):
        variable.assign(trained)
    metrics = {
        "probe_val_accuracy": result.history[result.best_epoch]["val_accuracy"],
        "probe_seconds": attempts.paid(directory, "probe", time.perf_counter() - started),
    }
    log.info("Fine-tuning starts from a head with a validation accuracy of %(probe_val_accuracy).4f", metrics)
    return metrics, extraction_seconds


@undisturbed()
def _close(directory: Path, history: History) -> None:
    """Frees the room that the state of a training takes; a run that is over and recorded does not fail by it."""
    from graft.loop.checkpoints import close

    try:
        close(directory, history)
    except Exception as error:
        log.warning("The latest checkpoints in %s stay: %s", directory, error)


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Keeps other processes out of a run's folder; the system frees it when this one dies.

    Raises:
        ConfigError: if another one is at work there.
        FailedTrial: if one is, and stays, from which this trial was taken over.
    """
    lock = filelock.FileLock(directory / ".lock")
    current = trial.current()
    taken_over = current is not None and current.attempt > 0
    try:
        lock.acquire(timeout=TAKEOVER_SECONDS if taken_over else 0)
    except filelock.Timeout:
        if taken_over:
            message = f"{directory}: the process from which this trial was taken over is still at work in this folder"
            raise FailedTrial(message, cause="folder_in_use") from None
        raise ConfigError(
            f"hydra.run.dir={directory}: another process is at work in this folder; wait for it, or name another one"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _claim(directory: Path, config: Config, prepared: Prepared, secrets: Secrets) -> None:
    """Makes `directory` this run's own; a run that is there already has to be the same one, to be gone on with.

    Raises:
        ConfigError: if the folder holds checkpoints of another configuration, other data or another backbone.
    """
    flat = secrets.out_of(config.flat())
    settings = {key: value for key, value in flat.items() if not key.startswith("tracking.")}
    own = {**settings, "data": prepared.data.sha256, "backbone": prepared.backbone.sha256}
    folder = directory / "checkpoints"
    claim = folder / "run.json"
    if not claim.exists() and ((directory / "record.jsonl").exists() or any(folder.glob("*/ckpt-*"))):
        raise ConfigError(
            f"hydra.run.dir={directory}: there are checkpoints, and {claim}, which says of which run, is gone; allowed "
            "is an empty folder"
        )
    if claim.exists():
        try:
            there = dict(json.loads(claim.read_bytes()))
        except (OSError, ValueError, TypeError):
            raise ConfigError(
                f"hydra.run.dir={directory}: {claim} is damaged, and so it is unknown which run has its checkpoints "
                "there; allowed is an empty folder"
            ) from None
        if differences := [
            f"{key}: {there.get(key)} there, {own[key]} now" for key in own if there.get(key) != own[key]
        ]:
            raise ConfigError(
                f"hydra.run.dir={directory}: this folder holds checkpoints of another run; allowed is an empty folder, "
                f"or the same run. They differ in {'; '.join(differences)}"
            )
        return
    files.write(claim, json.dumps(own))


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


def _occasion(config: Config, directory: Path, overrides: list[str]) -> Occasion:
    """A trial of a sweep, or a run on its own."""
    from graft.tracking.console import ConsoleRecorder
    from graft.tracking.trial_reporter import TrialReporter

    current = trial.current()
    if current is None:
        again = shlex.join(["python", "train.py", *overrides, f"hydra.run.dir={directory}"])
        return Occasion(
            directory,
            ConsoleRecorder(config.epochs),
            {"graft.kind": "single"},
            overrides,
            if_interrupted=f"To go on:\n  {again}",
        )
    tags = {
        "graft.kind": "trial",
        "graft.sweep": current.sweep,
        "graft.trial": str(current.number),
        "graft.attempt": str(current.attempt),
    }
    # It reports to the sweep, whose table shows it.
    return Occasion(directory, TrialReporter(), tags, overrides, current.context.get("parent_run_id"))
