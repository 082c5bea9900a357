"""The record of a run: what is said of it goes into a file beside its checkpoints first, and from there into MLflow."""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

from graft import files
from graft.again import graft_command
from graft.config import TrackingConfig
from graft.errors import FatalError
from graft.interruption import undisturbed
from graft.paths import records
from graft.secrets import Secrets
from graft.tracking.delivery import PACE_SECONDS, Delivery
from graft.tracking.local_record import LocalRecord
from graft.tracking.mlflow_run import CLAIM, MlflowRun
from graft.tracking.recorder import Recorder, Scalar, State

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 10.0
"""How long a run waits in the end for a server that does not answer."""

PATIENCE_OF_A_TRIAL_SECONDS = 1.0
"""The same of a trial: the next one should begin, and the sweep sends what it leaves."""

RUN_ID_FILE = Path("checkpoints") / "mlflow_run_id"
"""In a run's folder: which MLflow run it became."""


class MlflowRecorder(Recorder):
    """One MLflow run.

    What was said is in the folder's record when a call returns, and in MLflow too where that is an SQLite file; while
    epochs take less than half a second, their metrics get there together. A server gets it in the background: one that
    is gone for a while stops no training and loses nothing. What it did not get until the end is sent by `graft sync`.

    Args:
        tracking: Where the run is recorded.
        folder: The run's own. A record that is there already is this run's: it goes on, and what was said once is not
            said again.
        name: The run's name in MLflow's pages.
        tags: Its first tags. Where they hold ``graft.sweep`` and ``graft.trial``, the run of an earlier attempt at that
            trial is taken up again, wherever it took place.
        parent_run_id: The run that this one is shown under.
        secrets: What is kept out of all that is said.

    Raises:
        FatalError: if MLflow refuses the run; not, on a server, if it does not answer.
    """

    def __init__(
        self,
        tracking: TrackingConfig,
        folder: Path,
        *,
        name: str,
        tags: Mapping[str, str],
        parent_run_id: str | None = None,
        secrets: Secrets | None = None,
    ) -> None:
        self._folder = folder
        self._secrets = secrets or Secrets()
        self._local = LocalRecord(folder)
        self._run = MlflowRun(tracking, folder)
        self._delivery = Delivery(self._local, self._run, tracking)
        self._params: dict[str, str] = {}
        self._steps: dict[str, set[int]] = {}
        self._said_at: dict[str, float] = {}
        self._closed = False
        claim = self._remember() or f"claim-{uuid.uuid4().hex}"
        begin = {
            "name": name,
            "tags": {**tags, CLAIM: claim},
            "parent_run_id": parent_run_id,
            "tracking": tracking.model_dump(mode="json"),
        }
        self._local.say("begin", self._secrets.out_of(begin))
        self._trial = "graft.trial" in tags
        self._delivery.begin(wait=not self._trial)  # a sweep has asked the server before
        self._leave_id()

    @property
    def run_id(self) -> str | None:
        """Of the MLflow run; None as long as the server has not answered."""
        return self._run.run_id

    def next_step(self, metric: str) -> int:
        """The first step of a metric that nothing was said of."""
        return max(self._steps.get(metric, ()), default=-1) + 1

    @undisturbed()
    def log_params(self, params: Mapping[str, Scalar]) -> None:
        texts = {key: str(value) for key, value in self._secrets.out_of(params).items()}
        changed = [key for key in texts if self._params.get(key, texts[key]) != texts[key]]
        if changed := [key for key in changed if not key.startswith("tracking.")]:  # a server may move
            (key, *_) = changed
            raise FatalError(f"The param {key} is {self._params[key]} already and cannot become {texts[key]}")
        if fresh := {key: text for key, text in texts.items() if key not in self._params}:
            self._params |= fresh
            self._say("params", {"params": fresh})

    @undisturbed()
    def set_tags(self, tags: Mapping[str, str]) -> None:
        self._say("tags", {"tags": dict(tags)})

    @undisturbed()
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        at = step or 0
        if fresh := {name: float(value) for name, value in metrics.items() if at not in self._steps.get(name, ())}:
            now = time.monotonic()
            quick = all(now - self._said_at.get(name, float("-inf")) < PACE_SECONDS for name in fresh)
            for name in fresh:
                self._steps.setdefault(name, set()).add(at)
                self._said_at[name] = now
            self._say("metrics", {"metrics": fresh, "step": at}, can_wait=quick)

    @undisturbed()
    def log_artifact(self, path: Path, folder: str = "") -> None:
        self._say("artifact", {"path": os.path.relpath(path, self._folder), "folder": folder})

    @undisturbed()
    def log_dataset(self, name: str, source: str, digest: str, contexts: Mapping[str, int]) -> None:
        """Names the run's data: one input a split.

        Args:
            name: The data set's name.
            source: Where it comes from.
            digest: Graft's own fingerprint; MLflow's would read the whole pipeline.
            contexts: The splits and their number of images.
        """
        self._say("dataset", {"name": name, "source": source, "digest": digest, "contexts": dict(contexts)})

    def close(self, state: State, failure: str | None = None) -> None:
        if self._closed:  # Ctrl-C while it waits for the server makes no other end of it
            return
        with undisturbed():
            self._closed = True
            self._say("close", {"state": state, "failure": failure})
        left = self._delivery.end(PATIENCE_OF_A_TRIAL_SECONDS if self._trial else PATIENCE_SECONDS)
        if left and not self._trial:
            log.warning(
                "%d statements of this run are not in MLflow yet. They wait in %s. To send them: %s",
                left,
                self._folder,
                graft_command("sync", *([] if self._folder.is_relative_to(records()) else [str(self._folder)])),
            )
        self._leave_id()

    def _say(self, kind: str, content: Mapping[str, object], *, can_wait: bool = False) -> None:
        self._local.say(kind, self._secrets.out_of(content))
        self._delivery.more(can_wait=can_wait)

    def _remember(self) -> str | None:
        """Takes up what earlier attempts said; gives the claim that they used."""
        claim = None
        for statement in self._local.statements():
            if statement.kind == "begin":
                claim = statement.content["tags"].get(CLAIM)
            elif statement.kind == "params":
                self._params |= statement.content["params"]
            elif statement.kind == "metrics":
                for name in statement.content["metrics"]:
                    self._steps.setdefault(name, set()).add(statement.content["step"])
        return claim

    def _leave_id(self) -> None:
        if self.run_id is not None:
            files.write(self._folder / RUN_ID_FILE, self.run_id)
