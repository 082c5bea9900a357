"""Runs again what was recorded, one run or all trials of a sweep, and says how it compares."""

from __future__ import annotations

import json
import logging
import shlex
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from graft import provenance
from graft.config import Config, TrackingConfig
from graft.errors import ConfigError, FailedTrial, FatalError, GraftError, Interrupted
from graft.interruption import Interruption
from graft.loop.result import StopReason, StopSignal
from graft.paths import records
from graft.preparation import Prepared, check, prepare
from graft.recording import Occasion
from graft.rerun import differences, numbers
from graft.rerun.differences import PLACES, Difference
from graft.rerun.numbers import Numbers
from graft.rerun.restore import restore, with_engine_of
from graft.rerun.telling import Teller, few
from graft.run import carry_out
from graft.tracking import recorded_run
from graft.tracking.mlflow_store import Run, Store, open_store
from graft.tracking.recorded_run import Found, LeftOut, RecordedRun

log = logging.getLogger(__name__)

Verdict = Literal["exact", "diverged"]


@dataclass(frozen=True)
class Rerun:
    """A run that was run again.

    Attributes:
        of: The recorded run's id.
        name: What it is called.
        trial: Its number, if it was a trial of a sweep.
        run_id: The rerun's own id in MLflow; None if it was not begun.
        differences: What was not as it had been, named before it began.
        numbers: Every recorded number beside the new one; None if there is nothing to compare.
        unpromised: Why the numbers need not be the same; empty if they have to be.
        flaws: Why the record of the run proves nothing; empty if it is whole.
        cut_off: How far the recorded run came, in words, if it did not come to its end; empty if it did.
        changed: The assignments that the numbers may hang on.
        exact: Whether they are, and the rerun ended as the recorded run had.
        verified: `exact` as the tag has it; None if no verdict was asked for.
        failure: How the rerun failed where the recorded run had not; None if it did not.
        failed_alike: How both failed; None if they did not.
    """

    of: str
    name: str
    trial: int | None
    run_id: str | None
    differences: tuple[Difference, ...]
    numbers: Numbers | None
    unpromised: str
    flaws: tuple[str, ...]
    cut_off: str
    changed: tuple[str, ...]
    exact: bool
    verified: Verdict | None
    failure: str | None
    failed_alike: str | None


def rerun(
    tracking: TrackingConfig, name: str, assignments: Sequence[str], *, verify: bool, teller: Teller
) -> list[Rerun]:
    """Runs a recorded run again, or every trial of a recorded sweep in this process, and compares.

    Args:
        tracking: Where it was recorded, and where the rerun is.
        name: A run's id, or a sweep's name or the id of its parent run.
        assignments: Changes to the configuration, each as ``key=value``.
        verify: Extract features anew into an empty store, and give a verdict.
        teller: Says what is found while it goes on.

    Raises:
        ConfigError: if `assignments` change what is to be verified, for wrong assignments, and if a single run's data
            set or backbone cannot be used any more.
        FatalError: if there is no such run, or nothing of it that can be compared.
        Interrupted: if the user stopped it.
    """
    if verify and (changing := _changing(assignments)):
        raise ConfigError(
            f"--verify with --set {' '.join(changing)}: a changed run has other numbers, so there is nothing to "
            f"verify; with --verify --set may only say where things lie now: {', '.join(PLACES)}"
        )
    found = recorded_run.find(open_store(tracking, create=False), name)
    tracking = tracking.model_copy(update={"experiment": found.store.experiment_name})
    how = _How(found.store, tracking, name, tuple(assignments), verify, teller)
    try:
        if found.sweep is not None:
            return _sweep_again(how, found, found.sweep)
        (run,) = found.runs
        if verify and not run.metrics and run.state != "failed":
            raise FatalError(f"The run {run.id} recorded no epoch and no failure, so there is nothing to verify")
        return [_again(how, run, parent=None)]
    except KeyboardInterrupt:  # before a training began, or between two
        raise Interrupted(f"Interrupted. {_to_begin_again(how)}") from None


@dataclass(frozen=True)
class _How:
    store: Store
    tracking: TrackingConfig
    name: str
    assignments: tuple[str, ...]
    verify: bool
    teller: Teller

    @property
    def command(self) -> str:
        """What is typed to begin again."""
        words = ["graft", "rerun", self.name, *(["--verify"] if self.verify else [])]
        words += [word for assignment in self.assignments for word in ("--set", assignment)]
        return shlex.join([*words, *self.tracking.options()])


def _changing(assignments: Sequence[str]) -> list[str]:
    """Those that do not only say where something lies."""
    return [each for each in assignments if each.partition("=")[0] not in PLACES]


def _sweep_again(how: _How, found: Found, sweep: Run) -> list[Rerun]:
    """All trials, one after the other; one that fails, or cannot be run again, is told and the others go on."""
    tags = {
        "graft.kind": "rerun",
        "graft.rerun_of": sweep.info.run_id,
        "graft.process": json.dumps(provenance.process()),
        "graft.command": how.command,
    }
    parent = how.store.begin(f"rerun of {sweep.data.tags['graft.sweep']}", tags)
    done: list[Rerun] = []
    for trial in found.left_out:
        how.teller.left_out(trial.why)
        done.append(_failed(how, trial, trial.why))
    try:
        for place, run in enumerate(found.runs, start=1):
            how.teller.trial(run, place, of=len(found.runs))
            try:
                done.append(_again(how, run, parent))
            except ConfigError as error:
                how.teller.failed(error)
                done.append(_failed(how, run, str(error)))
            except GraftError:
                raise  # such as Ctrl-C
            except Exception as error:
                log.exception("Trial %s could not be run again", run.trial)
                done.append(_failed(how, run, f"{type(error).__name__}: {error}"))
    except BaseException:
        how.store.end(parent, "KILLED")
        raise
    if how.verify:
        exact = sum(each.verified == "exact" for each in done)
        how.store.set_tags(
            parent, {"graft.verified": "exact" if exact == len(done) else f"{exact} of {len(done)} exact"}
        )
    how.store.end(parent, "FINISHED")
    return done


def _again(how: _How, run: RecordedRun, parent: str | None) -> Rerun:
    started = time.perf_counter()
    how.teller.begins(run)
    config = restore(run, how.tracking, how.assignments)
    different = differences.of_configuration(run, config)
    flaws, cut_off = numbers.flaws(run), _cut_off(run)
    if flaws and how.verify:
        raise ConfigError(f"The run {run.id} cannot be verified, because its record is not whole: {few(flaws)}")
    config = check(with_engine_of(run, config))
    with Interruption() as interruption:
        different += differences.of_surroundings(run, config)
        unpromised = _unpromised(config)
        how.teller.differ(different, unpromised)
        if flaws:
            how.teller.flawed(flaws)
        if cut_off:
            how.teller.cut_off(cut_off, config.epochs, whole=not how.verify)
        directory = _new_directory()
        with _features_store(config, directory, empty=how.verify):
            prepared = prepare(config)
            occasion = _occasion(how, run, config, directory, parent)
            stop_reason = _stop_as_it_did(run, interruption, no_further=how.verify)
            failure = _train(config, prepared, occasion, stop_reason, started, run)
    again = recorded_run.read(how.store, _run_id_in(directory))
    run_id = again.id
    ended = run.state in ("complete", "pruned", "failed")
    compared = numbers.compare(run.metrics, again.metrics, ended=ended, whole=run.state in ("complete", "pruned"))
    failed_alike = run.tags.get("graft.failure") if run.state == "failed" and failure is None else None
    # A run that diverged in its first epoch has no number, and its end says all; other failures may have any cause.
    diverged_at_once = failed_alike == "diverged" and not again.metrics.get("val_loss")
    exact = failure is None and not flaws and (compared.exact or (diverged_at_once and not compared.all))
    verified: Verdict | None = None
    if how.verify:
        verified = "exact" if exact else "diverged"
        how.store.set_tags(run_id, {"graft.verified": verified})
        if ended:  # one that still goes on will have numbers that nobody compared
            how.store.set_tags(run.id, {"graft.verified": verified, "graft.verified_by": run_id})
    how.store.set_tags(run.id, {"graft.rerun": run_id})
    done = Rerun(
        of=run.id,
        name=run.name,
        trial=run.trial,
        run_id=run_id,
        differences=tuple(different),
        numbers=compared,
        unpromised=unpromised,
        flaws=tuple(flaws),
        cut_off=cut_off,
        changed=tuple(_changing(how.assignments)),
        exact=exact,
        verified=verified,
        failure=failure,
        failed_alike=failed_alike,
    )
    how.teller.compared(done, run, again)
    return done


def _run_id_in(directory: Path) -> str:
    from graft.tracking.mlflow_recorder import RUN_ID_FILE

    try:
        return (directory / RUN_ID_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FatalError(
            f"The rerun in {directory} cannot be compared, because MLflow did not take its record; graft sync sends it"
        ) from None


def _train(
    config: Config, prepared: Prepared, occasion: Occasion, stop_reason: StopSignal, started: float, run: RecordedRun
) -> str | None:
    """Trains and records; gives the cause of a failure that the recorded run did not have."""
    expected = run.tags.get("graft.failure") if run.state == "failed" else None
    try:
        carry_out(config, prepared, occasion, stop_reason, started)
    except FailedTrial as error:
        return None if error.cause == expected else error.cause
    except Exception as error:
        if type(error).__name__ == expected:
            return None
        raise
    return f"it came to its end, and the recorded run had failed ({expected})" if expected else None


def _cut_off(run: RecordedRun) -> str:
    if run.state not in ("interrupted", "running"):
        return ""
    epochs = len(run.metrics.get("val_accuracy", {}))
    how = "was interrupted" if run.state == "interrupted" else "did not come to its end"
    return f"{how} after {epochs} epoch{'s' * (epochs != 1)}"


def _stop_as_it_did(run: RecordedRun, interruption: Interruption, *, no_further: bool) -> StopSignal:
    """Ctrl-C stops the rerun; and a run that was pruned is pruned again, after as many epochs.

    With `no_further` likewise one that was cut off: beyond its epochs there is nothing to compare.
    """
    stops = run.state == "pruned" or (no_further and run.state in ("interrupted", "running"))
    epochs = len(run.metrics.get("val_accuracy", {})) if stops else None
    asked = 0

    def stop_reason() -> StopReason | None:
        nonlocal asked
        if interruption.requested:
            return "interrupted"
        asked += 1
        return "pruned" if epochs is not None and asked >= epochs else None

    return stop_reason


def _occasion(how: _How, run: RecordedRun, config: Config, directory: Path, parent: str | None) -> Occasion:
    return Occasion(
        directory,
        how.teller.recorder(config),
        {
            "graft.kind": "rerun",
            "graft.rerun_of": run.id,
            "graft.command": how.command,
            **({"graft.changed": shlex.join(how.assignments)} if how.assignments else {}),
        },
        _words(run.tags.get("graft.overrides", "")),
        parent_run_id=parent,
        if_interrupted=_to_begin_again(how),
        secrets=run.secrets,
    )


def _to_begin_again(how: _How) -> str:
    return f"To begin again:\n  {how.command}"


def _words(overrides: str) -> list[str]:
    try:
        return shlex.split(overrides)
    except ValueError:  # it was edited
        return [overrides]


def _new_directory() -> Path:
    now = datetime.now()
    return records() / "runs" / f"{now:%Y-%m-%d}" / f"{now:%H-%M-%S-%f}"


@contextmanager
def _features_store(config: Config, directory: Path, *, empty: bool) -> Iterator[None]:
    """For a verified rerun an empty one, so that the store proves nothing about itself; it is removed afterwards."""
    if not empty or not (config.cached_features or config.init_head == "probe"):
        yield
        return
    from graft.features import store

    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="features-", dir=directory) as folder, store.lying_in(Path(folder)):
        yield


def _unpromised(config: Config) -> str:
    from graft import runtime

    if not config.deterministic:
        return "deterministic=false: the numbers need not be the same"
    if runtime.has_gpu():
        return "this is a GPU, where the numbers need not be the same"
    return ""


def _failed(how: _How, run: RecordedRun | LeftOut, why: str) -> Rerun:
    return Rerun(
        of=run.id,
        name=run.name,
        trial=run.trial,
        run_id=None,
        differences=(),
        numbers=None,
        unpromised="",
        flaws=(),
        cut_off="",
        changed=(),
        exact=False,
        verified="diverged" if how.verify else None,
        failure=why,
        failed_alike=None,
    )
