"""A trained model as MLflow's LoggedModel: found by its metrics, shown on its run's page, served by MLflow itself."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path

import numpy as np
import numpy.typing as npt
from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric, Run
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from graft.errors import FatalError
from graft.tracking.mlflow_store import Store

with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # MLflow's, of type hints of its own
    from mlflow.models import Model, ModelSignature
    from mlflow.pyfunc import save_model
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec
    from mlflow.types.schema import Map

MODEL_TAG = "graft.model"
"""On a run, and on the sweep whose best trial it is: the id of its LoggedModel."""

NAME = "model"
RUNS_ON = ("tensorflow", "numpy", "mlflow")
SERVED_MODEL = Path(__file__).with_name("served_model.py")
SIGNATURE = ModelSignature(
    inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))]),
    outputs=Schema([ColSpec(DataType.string, "label"), ColSpec(Map(DataType.double), "probabilities")]),
)

TAGS = ("kind", "sweep", "trial", "config_sha256", "dataset_sha256", "backbone_sha256", "lock_sha256", "commit")


def logged(store: Store, run_id: str) -> str | None:
    """The id of the LoggedModel of a run; None if it has none that is ready.

    Raises:
        FatalError: if the store cannot be read.
    """
    with _told_as_fatal():
        model_id = store.client.get_run(run_id).data.tags.get(MODEL_TAG)
        if model_id is None:
            return None
        try:
            ready = store.client.get_logged_model(model_id).status == LoggedModelStatus.READY
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None  # it was deleted
        return model_id if ready else None


def log(store: Store, run_id: str, saved_model: Path) -> str:
    """Logs a model, with the params of its run and the metrics of its best epoch.

    Nothing of it goes through MLflow's "active run", which is process-wide.

    Args:
        store: Where the run is.
        run_id: The run that trained it; it may have ended.
        saved_model: The model as `graft.export.folder.export` writes it.

    Returns:
        Its id, as in ``models:/<id>``.

    Raises:
        FatalError: if the run says nothing of a best epoch, or the store cannot be written. What there is of the model
            is then marked as FAILED.
    """
    with _told_as_fatal():
        client, run = store.client, store.client.get_run(run_id)
        if "best_epoch" not in run.data.metrics:
            raise FatalError(f"The run {run_id} recorded no best epoch, so it has no model to log")
        tags = {f"graft.{name}": run.data.tags[f"graft.{name}"] for name in TAGS if f"graft.{name}" in run.data.tags}
        model = client.create_logged_model(
            run.info.experiment_id, name=NAME, source_run_id=run_id, tags=tags, params=run.data.params
        )
        try:
            with tempfile.TemporaryDirectory() as folder:
                save_model(
                    f"{folder}/{NAME}",
                    python_model=str(SERVED_MODEL),
                    artifacts={"saved_model": str(saved_model)},
                    signature=SIGNATURE,
                    input_example=_example(),
                    pip_requirements=[f"{package}=={metadata.version(package)}" for package in RUNS_ON],
                    mlflow_model=Model(artifact_path=model.artifact_location, run_id=run_id, model_id=model.model_id),
                )
                client.log_model_artifacts(model.model_id, f"{folder}/{NAME}")
            client.log_batch(run_id, metrics=_metrics(store, run, model.model_id))
            client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=_best_epoch(run))])
            client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        except BaseException:
            # Of a store that is gone the first error tells; Ctrl-C must stay one.
            with suppress(MlflowException, SQLAlchemyError, OSError):
                client.finalize_logged_model(model.model_id, LoggedModelStatus.FAILED)
            raise
        store.set_tags(run_id, {MODEL_TAG: model.model_id})
        return str(model.model_id)


def tell_sweep(store: Store, run_id: str, model_id: str) -> None:
    """Names the model in the sweep whose best trial it is of, if it is.

    Raises:
        FatalError: if the store cannot be read or written.
    """
    with _told_as_fatal():
        tags = store.client.get_run(run_id).data.tags
        trial, parent = tags.get("graft.trial"), tags.get("mlflow.parentRunId")
        if trial is None or parent is None:  # a rerun may lie under another run, too
            return
        if store.client.get_run(parent).data.tags.get("graft.best_trial") == trial:
            store.set_tags(parent, {MODEL_TAG: model_id})


@contextmanager
def _told_as_fatal() -> Iterator[None]:
    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise FatalError(f"The model cannot be logged: {reason}") from error


def _example() -> npt.NDArray[np.uint8]:
    """One small image, dark on the left and light on the right: an example is shown, and sent, as text."""
    row = np.linspace(0, 255, 8).round().astype(np.uint8)
    return np.broadcast_to(row[None, None, :, None], (1, 8, 8, 3)).copy()


def _best_epoch(run: Run) -> int:
    return int(run.data.metrics["best_epoch"])


def _metrics(store: Store, run: Run, model_id: str) -> list[Metric]:
    """What the run measured at its best epoch and of its best checkpoint, said of the model.

    They are the run's own points to the last bit, time included: MLflow then keeps them once for the run.
    """
    histories = (store.client.get_metric_history(run.info.run_id, name) for name in run.data.metrics)
    best = _best_epoch(run)
    return [
        Metric(point.key, point.value, point.timestamp, point.step, model_id=model_id, run_id=run.info.run_id)
        for history in histories
        for point in history
        if point.step == (best if len(history) > 1 else point.step)
    ]
