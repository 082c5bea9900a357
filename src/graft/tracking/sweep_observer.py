"""A sweep's MLflow record: one parent run, and the last word on every trial's run."""

from __future__ import annotations

import functools
import json
import logging
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from graft import preparation, provenance
from graft.again import graft_command, log_model_command
from graft.config import TrackingConfig, flatten, from_hydra
from graft.config_backbone import settled_backbone
from graft.config_dataset import AnyDatasetConfig
from graft.data import splits
from graft.errors import ConfigError, FatalError
from graft.loop.result import SUMMARY_METRICS
from graft.report.after_sweep import get_ready, write_after_sweep
from graft.secrets import Secrets
from graft.suggestions import did_you_mean
from graft.sweep.observer import SweepEnded, SweepStarted, TrialEnded
from graft.tracking.tagged_run import OBJECTIVES_TAG, quoted

if TYPE_CHECKING:
    from graft.tracking.delivery import Delivery
    from graft.tracking.local_record import LocalRecord
    from graft.tracking.mlflow_sweep import MlflowSweep

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 30.0
"""How long a sweep waits in the end for a server that does not answer."""

SHOWN = 240  # characters of a run's name, and of an error's text


class MlflowSweepObserver:
    """Checks every configuration of a sweep before it starts, and keeps its parent run.

    The trials record themselves, wherever they run. What a trial cannot record, its own death, is recorded here. By
    whom it is called and when: `graft.sweep.observer.SweepObserver`.
    """

    def __init__(self) -> None:
        self._sweep: str = ""
        self._secrets = Secrets()
        self._local: LocalRecord | None = None
        self._receiver: MlflowSweep | None = None
        self._delivery: Delivery | None = None

    def validate(self, config: DictConfig) -> Mapping[str, str]:
        """Checks one configuration, its data set included, without importing TensorFlow.

        Returns:
            The fingerprint of its data set, by the name of that.

        Raises:
            ConfigError: with everything that is wrong with it.
            FatalError: if its backbone or data set cannot be downloaded.
        """
        secrets = Secrets.of(config)
        self._secrets |= secrets  # what is swept comes from the environment, too
        with secrets.out_of_errors():
            _refuse_unsearchable_name()
            checked = from_hydra(config)
            preparation.check(checked)
            return {f"dataset {checked.dataset.name}": _fingerprint(checked.dataset)}

    def sweep_started(self, event: SweepStarted) -> Mapping[str, str]:
        """Makes the parent run, or takes up the one that the sweep had when it was started before.

        Returns:
            `parent_run_id`, which the trials have in their context.

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
        from graft.tracking.delivery import Delivery  # late: a mistake should not wait for MLflow
        from graft.tracking.local_record import LocalRecord
        from graft.tracking.mlflow_sweep import MlflowSweep
        from graft.tracking.sync import send_trial

        values = OmegaConf.to_container(event.config.tracking, resolve=True)
        tracking = TrackingConfig.model_validate(values)
        self._sweep = event.sweep
        self._secrets |= Secrets.of(event.config)
        self._secrets.watch()
        self._local = LocalRecord(event.directory)
        self._receiver = receiver = MlflowSweep(tracking, send_trial=functools.partial(send_trial, tracking))
        receiver.open()  # a sweep does not begin without its server
        self._delivery = Delivery(self._local, receiver, tracking)
        swept = {key.lstrip("+~"): str(values) for key, values in event.space.items()}
        tags = {
            "graft.kind": "sweep",
            "graft.sweep": event.sweep,
            "graft.state": "running",
            "graft.process": json.dumps(provenance.process()),
            "graft.directory": str(event.directory),
            OBJECTIVES_TAG: json.dumps(dict(zip(event.objectives, event.directions, strict=True))),
        }
        content = {
            "tracking": tracking.model_dump(mode="json"),
            "name": " ".join(f"{key}={values}" for key, values in swept.items())[:SHOWN] or event.sweep,
            "tags": tags,
            "params": {**_base(event.config), **swept},
        }
        self._local.say("sweep started", self._secrets.out_of({"sweep": self._sweep, **content}))
        self._delivery.begin()
        if receiver.run_id is None:  # the server went away after it was opened
            self._delivery.end(patience_seconds=0.0)
            raise FatalError(f"tracking.uri={tracking.uri}: MLflow stopped answering before the sweep was recorded")
        get_ready()
        return {"parent_run_id": receiver.run_id}

    def trial_ended(self, event: TrialEnded) -> None:
        """Has the trial's run closed where it could not do so itself, and made where it never got that far."""
        tags = {
            "graft.kind": "trial",
            "graft.sweep": self._sweep,
            "graft.trial": str(event.number),
            "graft.attempt": str(event.attempt),
            "graft.overrides": shlex.join(event.overrides),
        }
        self._say(
            "trial ended",
            {
                "number": event.number,
                "state": event.state,
                "cause": event.cause,
                "message": self._secrets.out_of(event.message)[:SHOWN],
                "name": self._secrets.out_of(" ".join(event.overrides))[:SHOWN],
                "tags": tags,
                "directory": str(event.directory),
            },
        )

    def sweep_ended(self, event: SweepEnded) -> None:
        """Sums the sweep up in its parent run."""
        tags = {"graft.state": "interrupted" if event.interrupted else "complete"}
        if event.best:
            tags["graft.best_trial"] = str(event.best[0].number)
            tags["graft.best_overrides"] = " ".join(event.best[0].overrides)
        counts = {f"trials_{state}": float(event.counts.get(state, 0)) for state in ("complete", "pruned", "failed")}
        status = "KILLED" if event.interrupted else "FINISHED"
        self._say("sweep ended", {"counts": counts, "seconds": event.seconds, "tags": tags, "status": status})
        assert self._delivery is not None
        if left := self._delivery.end(PATIENCE_SECONDS):  # Ctrl-C ends the waiting alone
            assert self._receiver is not None
            options = self._receiver.tracking.options()
            log.warning(
                "%d statements of this sweep are not in MLflow yet, so it has no report, and its best trial no model. "
                "To send them: %s. Then: %s, and %s for the best trial that it names",
                left,
                graft_command("sync"),
                graft_command("report", self._sweep, *options),
                log_model_command("RUN_ID", self._receiver.tracking),
            )
        elif not event.interrupted:  # who interrupts a sweep wants its end, and the best trial may be still to come
            self._write_report()
            self._log_best_model(event)

    def _write_report(self) -> None:
        assert self._receiver is not None
        assert self._receiver.run_id is not None
        write_after_sweep(self._receiver.store, self._sweep, self._receiver.run_id)

    def _log_best_model(self, event: SweepEnded) -> None:
        assert self._receiver is not None
        if not event.best or not self._receiver.tracking.log_model:
            return
        from graft.tracking.best_model import log_best_model  # late: MLflow's models take a second to import

        if run := self._receiver.run_of(event.best[0].number):
            log_best_model(self._receiver.store, self._receiver.tracking, run.info.run_id)

    def _say(self, kind: str, content: Mapping[str, Any]) -> None:
        assert self._local is not None, "sweep_started comes first"
        assert self._delivery is not None
        self._local.say(kind, self._secrets.out_of({"sweep": self._sweep, **content}))
        self._delivery.more()


def _refuse_unsearchable_name() -> None:
    """Refuses a name that the sweep's trials could not be found by in MLflow.

    Raises:
        ConfigError: if the sweep would have one.
    """
    if not HydraConfig.initialized():
        return
    hydra = HydraConfig.get()
    given = hydra.sweeper.get("study_name")
    # Without a name it gets that of the job, and the time.
    key, name = ("hydra.job.name", hydra.job.name) if given is None else ("hydra.sweeper.study_name", given)
    try:
        quoted(str(name))
    except ValueError as error:
        raise ConfigError(f"{key}={name}: {error}; allowed is another name") from None


def _base(config: DictConfig) -> dict[str, str]:
    """What all trials have in common, as params; interpolations as they were written."""
    values = OmegaConf.to_container(OmegaConf.create({k: v for k, v in config.items() if k != "hydra"}), resolve=False)
    assert isinstance(values, dict)
    values["backbone"] = settled_backbone(OmegaConf.to_container(config.backbone, resolve=True))
    return {key: str(value) for key, value in flatten(values).items()}


@functools.lru_cache(maxsize=16)  # most sweeps have one data set in hundreds of cells
def _fingerprint(dataset: AnyDatasetConfig) -> str:
    return splits.choose(dataset)[0].sha256()
