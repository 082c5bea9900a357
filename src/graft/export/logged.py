"""A trained model handed to MLflow, as the LoggedModel of its run."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

import filelock

from graft import runtime
from graft.again import log_model_command
from graft.config import Config
from graft.export import folder
from graft.export.trained import TrainedModel, build
from graft.paths import records
from graft.preparation import Prepared
from graft.recording import run_name
from graft.tracking import logged_model
from graft.tracking.mlflow_store import Store, open_store

log = logging.getLogger(__name__)


def log_model(store: Store, run_id: str, load: Callable[[], TrainedModel]) -> str:
    """Logs the model of a run, unless that was done before.

    Args:
        store: Where the run is.
        run_id: The run's.
        load: Gives its model; asked only if it is needed.

    Returns:
        The LoggedModel's id, as in ``models:/<id>``.

    Raises:
        FatalError: if the model cannot be exported, or the store not be written; and what `load` raises.
    """
    # Two controllers of one sweep come to its end together.
    with filelock.FileLock(records() / "log-model.lock"), tempfile.TemporaryDirectory() as temporary:
        if (model_id := logged_model.logged(store, run_id)) is None:
            saved = Path(temporary) / "saved_model"
            folder.export(load(), saved, tflite=False)
            model_id = logged_model.log(store, run_id, saved)
    logged_model.tell_sweep(store, run_id, model_id)
    return model_id


def log_at_the_end(config: Config, prepared: Prepared, directory: Path, run_id: str) -> str | None:
    """Logs the model of a run that has just come to its end in this process.

    That it cannot, or that the user does not wait for it, is a warning: the run is complete, and recorded.

    Returns:
        The LoggedModel's id; None if there is none.
    """
    try:
        log.info("Logging the model, as tracking.log_model=true wants it; Ctrl-C leaves it out")
        best = directory / "checkpoints" / "best"
        return log_model(open_store(config.tracking), run_id, lambda: _trained(config, prepared, best, run_id))
    except (KeyboardInterrupt, Exception) as error:
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error) or type(error).__name__
        again = log_model_command(run_id, config.tracking)
        log.warning("The run is complete, but its model could not be logged (%s). To log it: %s", reason, again)
        return None


def _trained(config: Config, prepared: Prepared, best: Path, run_id: str) -> TrainedModel:
    from graft.loop.checkpoints import read_best
    from graft.model import trained_part

    runtime.set_precision(half=False)
    class_names = tuple(prepared.data.class_names)
    if prepared.features is None:
        model = prepared.model
        read_best(best, trained_part(model, config))
    else:  # the head is all that was trained, and all there is
        model = build(config, prepared.backbone, len(class_names), best)
    return TrainedModel(run_id, run_name(config), class_names, config, model)
