"""What `graft doctor` asks MLflow itself: a server's runs, and the one change that it makes."""

from __future__ import annotations

from collections.abc import Sequence

from mlflow.entities import RunTag

from graft.config import TrackingConfig
from graft.tracking.mlflow_store import Run, look_into
from graft.tracking.recorder import STATUS, closing_tags
from graft.tracking.tagged_run import PROCESS_TAG, TaggedRun


def running_runs(tracking: TrackingConfig) -> list[TaggedRun]:
    """The runs of the experiment that are recorded as running, the latest first.

    Raises:
        NoSuchExperiment: if the store has no such experiment.
        FatalError: if the store cannot be reached.
    """
    with look_into(tracking) as store:
        return [_recorded(run) for run in store.find(status="RUNNING")]


def mark_interrupted(tracking: TrackingConfig, runs: Sequence[TaggedRun]) -> list[TaggedRun]:
    """Marks runs whose process died as interrupted: KILLED, and to be gone on with.

    Returns:
        Those that were marked. One that was taken up again meanwhile is left alone.

    Raises:
        FatalError: if the store cannot be written.
    """
    marked = []
    with look_into(tracking) as store:
        for run in runs:
            now = store.client.get_run(run.run_id)
            if now.info.status == "RUNNING" and now.data.tags.get(PROCESS_TAG) == run.tags.get(PROCESS_TAG):
                tags = [RunTag(key, value) for key, value in closing_tags("interrupted", None).items()]
                store.client.log_batch(run.run_id, tags=tags)
                store.client.set_terminated(run.run_id, STATUS["interrupted"])
                marked.append(run)
    return marked


def _recorded(run: Run) -> TaggedRun:
    return TaggedRun(run.info.run_id, run.info.run_name, run.info.status, run.info.artifact_uri, run.data.tags)
