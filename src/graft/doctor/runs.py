"""Runs in the record: those that say they run while their process is dead, and those whose artifacts are gone."""

from __future__ import annotations

import shlex
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from graft.again import python, train_command
from graft.config import TrackingConfig
from graft.doctor.report import Check, Status, listed
from graft.errors import FatalError
from graft.sweep.liveness import process_lives
from graft.tracking import sqlite_record
from graft.tracking.tagged_run import NoSuchExperiment, TaggedRun

Verdict = Literal["lives", "dead", "unknown"]

ENDED = ("complete", "pruned")  # which recorded artifacts; one that failed may have none


def check_runs(tracking: TrackingConfig, *, close_dead: bool) -> Iterator[Check]:
    """Looks at every run of the experiment.

    Args:
        tracking: Which store and experiment.
        close_dead: Mark dead runs as interrupted.
    """
    try:
        runs = _recorded_runs(tracking)
    except NoSuchExperiment as error:
        status: Status = "problem" if error.others else "note"  # without another one, nothing was recorded yet
        yield Check("runs", status, str(error), "name one of them with --experiment" if error.others else None)
        return
    except sqlite3.DatabaseError as error:
        yield Check("runs", "problem", f"{tracking.uri} cannot be read: {error}", "graft doctor, once more")
        return
    except FatalError as error:
        remedy = f"start the server, or name another with --tracking-uri; {_ask(tracking)} should say OK"
        yield Check("mlflow", "problem", str(error), remedy)
        return
    if _on_server(tracking):
        yield Check("mlflow", "ok", f"{tracking.uri} answers; its database and artifacts are not looked at")
    else:
        yield from _artifacts(runs)
    running = [run for run in runs if run.status == "RUNNING"]
    verdicts = judge(running)
    dead = [run for run in running if verdicts[run.run_id] == "dead"]
    recorded = None if _on_server(tracking) else len(runs)
    yield _at_work(recorded, running, [run for run in running if verdicts[run.run_id] == "lives"])
    yield from _unknown([run for run in running if verdicts[run.run_id] == "unknown"])
    yield from _closed(tracking, dead) if close_dead else _dead(tracking, dead)


def _recorded_runs(tracking: TrackingConfig) -> list[TaggedRun]:
    """All runs of the experiment; of those on a server, which takes long over them, the ones that are running."""
    if _on_server(tracking):
        from graft.tracking import inspection  # late: MLflow takes seconds to import

        return inspection.running_runs(tracking)
    return sqlite_record.recorded_runs(Path(tracking.uri.removeprefix("sqlite:///")), tracking.experiment)


def judge(running: Sequence[TaggedRun]) -> Mapping[str, Verdict]:
    """What became of each run that is recorded as running, by its id.

    A sweep lives while it, or a trial of it, does: it starts a trial again whose worker died, and has perhaps more
    controllers than the one that it names.
    """
    alone = {run.run_id: _of_process(run) for run in running}
    together: dict[str, set[Verdict]] = {}
    for run in running:
        if run.sweep:
            together.setdefault(run.sweep, set()).add(alone[run.run_id])
    verdicts = {}
    for run in running:
        of_sweep = together.get(run.sweep, set())
        own = alone[run.run_id]
        verdicts[run.run_id] = next((best for best in ("lives", "unknown") if best in of_sweep), own)
    return verdicts


def _of_process(run: TaggedRun) -> Verdict:
    lives = None if run.process is None else process_lives(run.process)
    return "unknown" if lives is None else "lives" if lives else "dead"


def _at_work(recorded: int | None, running: Sequence[TaggedRun], living: Sequence[TaggedRun]) -> Check:
    told = "" if recorded is None else f"{recorded} recorded, "
    if not running:
        return Check("runs", "ok", f"{told}none of them running" if told else "none running")
    told += f"{len(running)} of them running" if told else f"{len(running)} running"
    at_work = f": {listed([_called(run) for run in living])}" if living else ""
    return Check("runs", "ok", f"{told}, {len(living)} seen at work{at_work}")


def _unknown(runs: Sequence[TaggedRun]) -> Iterator[Check]:
    if not runs:
        return
    reasons = [f"{_called(run)} ({_why_unknown(run)})" for run in runs]
    text = f"{len(runs)} recorded as running; whether they do cannot be told from here: {listed(reasons, most=3)}"
    yield Check("runs", "note", text)


def _why_unknown(run: TaggedRun) -> str:
    if run.process is None:
        return "its process was not recorded"
    if process_lives(run.process) is None:
        return f"on host {str(run.process['host']).split()[0]}"
    return f"its sweep {run.sweep} may go on elsewhere"


def _dead(tracking: TrackingConfig, runs: Sequence[TaggedRun]) -> Iterator[Check]:
    for run in runs:
        if not run.sweep:
            text = f"{_called(run)} is recorded as running, and its process is dead"
            yield Check("runs", "problem", text, _go_on(run) or _close_command(tracking))
    for sweep in dict.fromkeys(run.sweep for run in runs if run.sweep):
        text = f"{_sweep_in_words(sweep, runs)}, and no process of it lives"
        yield Check("runs", "problem", text, f"{_same_command(sweep)}; or {_close_command(tracking)}")


def _closed(tracking: TrackingConfig, dead: Sequence[TaggedRun]) -> Iterator[Check]:
    if not dead:
        return
    from graft.tracking import inspection

    try:
        runs = inspection.mark_interrupted(tracking, dead)
    except FatalError as error:
        yield Check("runs", "problem", f"{len(dead)} dead runs cannot be marked: {error}", _close_command(tracking))
        return
    for run in runs:
        if not run.sweep:
            yield Check("runs", "note", f"{_called(run)} was dead and is now marked as interrupted", _go_on(run))
    for sweep in dict.fromkeys(run.sweep for run in runs if run.sweep):
        text = f"{_sweep_in_words(sweep, runs)}, and now marked as interrupted"
        yield Check("runs", "note", text, f"to go on, {_same_command(sweep)}")


def _sweep_in_words(sweep: str, runs: Sequence[TaggedRun]) -> str:
    parent = next((run for run in runs if run.sweep == sweep and run.kind == "sweep"), None)
    trials = sum(run.sweep == sweep and run.kind != "sweep" for run in runs)
    named = f"sweep {sweep}" + (f" ({parent.name})" if parent else "")
    counted = f"{trials} trial{'s' * (trials != 1)}"
    if parent and trials:
        return f"{named} and {counted} of it are recorded as running"
    return f"{named} is recorded as running" if parent else f"{counted} of {named} recorded as running"


def _close_command(tracking: TrackingConfig) -> str:
    return shlex.join(["graft", "doctor", "--close-dead", *tracking.options()])


def _same_command(sweep: str) -> str:
    return f"give the command of sweep {sweep} again"


def _go_on(run: TaggedRun) -> str | None:
    """The command that goes on with a run that is no trial; None if its folder is gone or was not recorded."""
    if run.kind == "rerun" and (rerun_of := run.tags.get("graft.rerun_of")):
        return run.tags.get("graft.command", f"graft rerun {rerun_of}")
    if not run.directory or not Path(run.directory).is_dir():
        return None
    return train_command(run.overrides, shlex.quote(f"hydra.run.dir={run.directory}"))


def _artifacts(runs: Sequence[TaggedRun]) -> Iterator[Check]:
    ended = [run for run in runs if run.kind in ("single", "trial", "rerun") and run.tags.get("graft.state") in ENDED]
    folders = {run.run_id: _folder(run.artifacts) for run in ended}
    elsewhere = sum(folder is None for folder in folders.values())
    gone = [run for run in ended if (folder := folders[run.run_id]) is not None and not folder.is_dir()]
    if gone:
        first = folders[gone[0].run_id]
        named = listed([_called(run) for run in gone], most=3)
        text = f"those of {len(gone)} of {len(ended)} finished runs are gone: {named}; the first should be in {first}"
        yield Check("artifacts", "problem", text, f"put the folder back, or train again: {_train_again(gone[0])}")
    elif elsewhere:
        yield Check("artifacts", "note", f"those of {elsewhere} finished runs are not on this machine: not looked at")
    elif ended:
        yield Check("artifacts", "ok", f"those of {len(ended)} finished runs are there")


def _train_again(run: TaggedRun) -> str:
    return train_command(run.overrides) if run.overrides else f"{python()} train.py"


def _folder(uri: str) -> Path | None:
    """The folder on this machine that an artifact URI means, if it means one."""
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return None if parts.scheme else Path(uri)


def _called(run: TaggedRun) -> str:
    return f"{run.name} {run.run_id[:8]}"


def _on_server(tracking: TrackingConfig) -> bool:
    return not tracking.uri.startswith("sqlite:")


def _ask(tracking: TrackingConfig) -> str:
    return shlex.join(["curl", f"{tracking.uri.rstrip('/')}/health"])
