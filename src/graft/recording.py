"""What a run leaves behind, and as what: an `Occasion` says where it takes place, `recorded` keeps its record."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from graft import files, provenance, runtime
from graft.config import Config
from graft.disk import SAME_COMMAND, unwritable_of
from graft.errors import FailedTrial, Interrupted
from graft.interruption import undisturbed
from graft.preparation import Prepared
from graft.secrets import Secrets

if TYPE_CHECKING:
    from graft.data.pipeline import Data
    from graft.loop.result import StopSignal, TrainResult
    from graft.tracking.mlflow_recorder import MlflowRecorder
    from graft.tracking.recorder import Recorder

log = logging.getLogger(__name__)

CLASSES = "classes.json"
"""The artifact with the names of the classes, in the order of their labels."""

CONFUSION = "confusion.json"
"""The artifact with the confusion of the test split: `class_names`, and `counts` by true and by predicted class."""


@dataclass(frozen=True)
class Occasion:
    """As what a run takes place.

    Attributes:
        directory: The run's folder.
        front: Shows the run while it goes on.
        tags: What tells this kind of run from others, `graft.kind` first.
        overrides: What was asked for, as it is typed.
        parent_run_id: The MLflow run that it is shown under; None for a run on its own.
        if_interrupted: What the user can do then; empty where the sweep says it.
        secrets: What must not be recorded.
    """

    directory: Path
    front: Recorder
    tags: Mapping[str, str]
    overrides: Sequence[str] = field(default=())
    parent_run_id: str | None = None
    if_interrupted: str = ""
    secrets: Secrets = field(default_factory=Secrets)


@contextmanager
def recorded(
    config: Config, prepared: Prepared, occasion: Occasion, stop_reason: StopSignal
) -> Iterator[tuple[Recorder, MlflowRecorder]]:
    """Opens the run's record; closes it as failed or interrupted if an exception leaves the block.

    Without one, the block closes the first of what it is given: it alone knows how the run ended.

    Args:
        config: The run, completely described.
        prepared: Made from `config`.
        occasion: As what the run takes place.
        stop_reason: Asked once an exception came, as TensorFlow makes another one of an interruption.

    Yields:
        All recorders as one, and among them the one that writes to MLflow.

    Raises:
        FatalError: if MLflow refuses the run; in place of an exception that comes from a full disk, `Unwritable`.
        Interrupted: in place of an interruption's, where `occasion` has a text for it.
    """
    from graft.tracking.mlflow_recorder import MlflowRecorder
    from graft.tracking.recorder import Recorders
    from graft.tracking.tensorboard import TensorBoardRecorder

    directory = occasion.directory
    recorder: Recorders | None = None
    try:
        with undisturbed():  # a run that is made has to be known to whoever closes it
            mlflow_recorder = MlflowRecorder(
                config.tracking,
                directory,
                name=run_name(config),
                tags={**occasion.tags, **_tags(config, prepared, occasion)},
                parent_run_id=occasion.parent_run_id,
                secrets=occasion.secrets,
            )
            recorder = Recorders([occasion.front, TensorBoardRecorder(directory), *_sampling(config, mlflow_recorder)])
        recorder.log_params(config.flat())
        _describe(config, prepared.data, mlflow_recorder, occasion)
        yield recorder, mlflow_recorder
    except BaseException as error:
        # In a run on its own the error may be what TensorFlow made of the interruption.
        if isinstance(error, KeyboardInterrupt) or (occasion.if_interrupted and stop_reason() == "interrupted"):
            _close_interrupted(recorder)
            if not occasion.if_interrupted:
                raise
            raise Interrupted(f"Interrupted. {occasion.if_interrupted}") from None
        if (unwritable := unwritable_of(error, directory, occasion.if_interrupted or SAME_COMMAND)) is not None:
            _close_interrupted(recorder)  # the run is not to blame, and goes on once there is room
            raise unwritable from error
        if recorder is not None:
            recorder.close("failed", error.cause if isinstance(error, FailedTrial) else type(error).__name__)
        raise


def _sampling(config: Config, recorder: MlflowRecorder) -> list[Recorder]:
    from graft.tracking.system_metrics import CPU, SystemMetricsRecorder

    sampler = [SystemMetricsRecorder(recorder, recorder.next_step(CPU))] if config.tracking.system_metrics else []
    return [*sampler, recorder]  # in this order: the last sample comes before the end


def _close_interrupted(recorder: Recorder | None) -> None:
    try:
        if recorder is not None:
            recorder.close("interrupted")
    except Exception as error:  # what the user should hear after all is how to go on
        log.warning("The record could not be closed, and still says that the run goes on: %s", error)


def leave_behind(
    config: Config, class_names: Sequence[str], result: TrainResult, recorder: MlflowRecorder, directory: Path
) -> None:
    """The curves and the confusion of the test split as pictures, its counts as data, and the best checkpoint."""
    from graft import plots

    picture = directory / "plots" / "curves.png"
    plots.curves(result.history, picture, run_name(config))
    recorder.log_artifact(picture, "plots")
    if result.confusion is not None:
        counts, picture = directory / CONFUSION, directory / "plots" / "confusion.png"
        files.write(counts, json.dumps({"class_names": list(class_names), "counts": result.confusion}))
        recorder.log_artifact(counts)
        plots.confusion(class_names, result.confusion, picture, run_name(config))
        recorder.log_artifact(picture, "plots")
    recorder.log_artifact(directory / "checkpoints" / "best", "checkpoints/best")


def run_name(config: Config) -> str:
    """What the run is called in MLflow, such as ``finetune lr=1e-05 w=512 d=0.2``."""
    kind = "finetune" if config.trainable else "frozen"
    seed = f" s={config.seed}" if config.seed else ""
    return f"{kind} lr={config.learning_rate:g} w={config.head_width} d={config.dropout_rate:g}{seed}"


def _tags(config: Config, prepared: Prepared, occasion: Occasion) -> dict[str, str]:
    return {
        "graft.config_sha256": config.sha256(),
        "graft.dataset_sha256": prepared.data.sha256,
        "graft.backbone_sha256": prepared.backbone.sha256,
        **{f"graft.{name}": value for name, value in provenance.versions().items()},
        "graft.device": runtime.device(),
        "graft.process": json.dumps(provenance.process()),
        "graft.directory": str(occasion.directory),
        "graft.mixed_precision": str(prepared.trainer.half_precision).lower(),
        "graft.features": "cached" if prepared.features else "live",
        **({"graft.features_engine": prepared.features.engine} if prepared.features else {}),
        "graft.overrides": shlex.join(occasion.overrides),
        "graft.unreadable_images": str(len(prepared.data.unreadable)),
    }


def _describe(config: Config, data: Data, recorder: MlflowRecorder, occasion: Occasion) -> None:
    """Leaves the configuration, the overrides, the names of classes and data, and code that is in no commit."""
    directory, secrets = occasion.directory, occasion.secrets
    resolved = directory / "config.yaml"
    files.write(resolved, yaml.safe_dump(secrets.out_of(config.model_dump(mode="json")), sort_keys=False))
    recorder.log_artifact(resolved)
    if occasion.overrides:
        overrides = directory / "overrides.yaml"
        files.write(overrides, yaml.safe_dump(secrets.out_of(list(occasion.overrides))))
        recorder.log_artifact(overrides)
    if uncommitted := provenance.uncommitted():
        difference = directory / "uncommitted.diff"
        difference.write_bytes(
            secrets.out_of(uncommitted.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
        )
        recorder.log_artifact(difference)
    files.write(directory / CLASSES, json.dumps(data.class_names))
    recorder.log_artifact(directory / CLASSES)
    source = getattr(config.dataset, "path", config.dataset.name)
    sizes = {"training": data.splits.train, "validation": data.splits.val, "test": data.splits.test}
    recorder.log_dataset(config.dataset.name, source, data.sha256, {name: len(rows) for name, rows in sizes.items()})
