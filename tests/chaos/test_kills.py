"""Kills of controllers, of workers, of both, and of training runs, at random moments."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from optuna.trial import TrialState
from tests.chaos.ledger import Doubled, chance, injected
from tests.chaos.training import Curve, curve_of, small, some_moment
from tests.processes import Training
from tests.sweep.apps import LONG, App, notes, wait_for

TRIALS = 20 if LONG else 6


def check_sweep(app: App) -> None:
    """Every trial came to its end and is recorded with its value, and no step that a checkpoint had was done again."""
    steps = Counter((number, step) for number, _, step, _ in notes(app, "step"))
    ends = Counter(number for number, *_ in notes(app, "end"))
    if doubled := [key for key, count in steps.items() if count > 1]:
        raise Doubled(f"steps that were taken twice: {doubled}")
    assert set(ends) == set(range(TRIALS))
    found = app.study("mine").trials
    assert [(trial.state, trial.values) for trial in found] == [(TrialState.COMPLETE, [x]) for x in range(TRIALS)]


def recorded(app: App) -> dict[int, float]:
    """The trials that the study calls complete, and their values."""
    if not app.journal.exists() or "mine" not in app.studies():
        return {}
    return {trial.number: trial.value for trial in app.study("mine").trials if trial.state == TrialState.COMPLETE}


def command(seconds: float = 0.05, *more: str) -> list[str]:
    return [
        f"x=range({TRIALS})", f"seconds={seconds}", "hydra.launcher.slots=2", "hydra.sweeper.study_name=mine",
        "hydra.sweeper.max_retries=1000", *more,
    ]  # fmt: skip


def workers_of(controller: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return [child for child in controller.children() if "graft.sweep.worker" in child.cmdline()]
    return []


def end(running: subprocess.Popen[str], signal_number: int = signal.SIGKILL) -> None:
    running.send_signal(signal_number)
    running.communicate(timeout=60)


def at_work(app: App, *overrides: str) -> subprocess.Popen[str]:
    """Starts a sweep, or goes on with it, and waits until a trial has begun, or none is left."""
    begun = len(notes(app, "start"))
    running = app.start(*overrides)
    wait_for(lambda: running.poll() is not None or len(notes(app, "start")) > begun)
    return running


def test_controllers_killed_at_random_moments(steps: App) -> None:
    moments, before = chance("controller"), {}
    for _ in range(25 if LONG else 3):
        with injected("kill -9 of a controller") as fault:
            running = at_work(steps, *command(0.3))
            time.sleep(moments.uniform(0, 1.0))
            end(running)
            after = recorded(steps)
            assert before.items() <= after.items(), "what was recorded is there"
            before = after
            fault.harmless() if len(after) == TRIALS else fault.repaired()
    done = steps.run(*command(0.3))
    assert done.status == 0, done.err
    check_sweep(steps)


def test_workers_killed_at_random_moments(steps: App) -> None:
    moments = chance("workers")
    with injected("kill -9 of a worker", times=0) as fault:
        running = steps.start(*command(0.15))
        controller = psutil.Process(running.pid)
        while fault.times < (30 if LONG else 4) and running.poll() is None:
            time.sleep(moments.uniform(0, 1.0))
            for worker in workers_of(controller)[: moments.choice([1, 1, 2])]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    worker.kill()
                    fault.times += 1
        out, err = running.communicate(timeout=240)
        assert running.returncode == 0, out + err
        check_sweep(steps)
        fault.repaired()


def test_controllers_and_workers_killed_beside_other_controllers(steps: App) -> None:
    moments = chance("all")
    with injected("kill -9 of one of two controllers, or of its workers", times=0) as fault:
        controllers = [steps.start(*command(0.2)) for _ in range(2)]
        wait_for(lambda: bool(notes(steps, "step")))
        while fault.times < (20 if LONG else 3):
            time.sleep(moments.uniform(0, 2.0))
            struck = moments.randrange(2)
            if controllers[struck].poll() is not None:
                break
            fault.times += 1
            if moments.random() < 0.5:
                end(controllers[struck])
                controllers[struck] = steps.start(*command(0.2))
            else:
                for worker in workers_of(psutil.Process(controllers[struck].pid)):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        worker.kill()
        for each in controllers:
            out, err = each.communicate(timeout=240)
            assert each.returncode == 0, out + err
        check_sweep(steps)
        fault.repaired()


# Training ------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_run_that_is_killed_again_and_again_ends_as_one_that_was_left_alone(
    tmp_path: Path, tiny_backbone: Path, whole: Curve
) -> None:
    moments = chance("training")
    for number in range(4 if LONG else 1):
        home = tmp_path / f"home{number}"
        home.mkdir()
        with injected("kill -9 of a run that trains", times=0) as fault:
            while True:
                running = Training(small(tiny_backbone, home / "run"), home, tmp_path / "output")
                if fault.times == (3 if LONG else 1):
                    break
                some_moment(home, running, moments)
                if not running.running():
                    break
                running.kill()
                running.wait()
                fault.times += 1
            assert running.wait() == 0, running.errors
            found = curve_of(home)
            if any(len(points) > len(whole[name]) for name, points in found.items()):
                raise Doubled(str(found))
            assert found == whole
            fault.repaired() if fault.times else fault.harmless()
