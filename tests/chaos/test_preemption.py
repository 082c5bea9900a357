"""SIGTERM, and ten seconds later the end, as a scheduler or an init system does it to all processes of a job."""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path

import psutil
from optuna.trial import TrialState
from tests.chaos.ledger import chance, injected
from tests.chaos.test_kills import at_work, check_sweep, command, recorded
from tests.chaos.training import Curve, curve_of, small, some_moment
from tests.processes import Training
from tests.sweep.apps import LONG, App

GRACE_SECONDS = 10.0


def test_sweeps_that_are_preempted_end_in_time_and_go_on(steps: App) -> None:
    moments, before = chance("preemption"), {}
    for _ in range(12 if LONG else 2):
        with injected("SIGTERM to all processes of a sweep, and ten seconds of grace") as fault:
            running = at_work(steps, *command(0.3))
            time.sleep(moments.uniform(0, 1.5))
            struck = running.poll() is None
            processes = []
            with contextlib.suppress(psutil.NoSuchProcess):
                controller = psutil.Process(running.pid)
                processes = [controller, *controller.children(recursive=True)]
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGTERM)
            _, late = psutil.wait_procs(processes, timeout=GRACE_SECONDS)
            for process in late:
                process.kill()
            running.communicate()
            after = recorded(steps)
            assert before.items() <= after.items()
            before = after
            if "mine" in (steps.studies() if steps.journal.exists() else []):
                states = {trial.state for trial in steps.study("mine").trials}
                assert TrialState.FAIL not in states, "nobody is to blame"
            fault.repaired() if struck else fault.harmless()
    done = steps.run(*command(0.3))
    assert done.status == 0, done.err
    check_sweep(steps)


def test_a_run_that_is_preempted_ends_in_time_and_goes_on(tmp_path: Path, tiny_backbone: Path, whole: Curve) -> None:
    moments = chance("preempted run")
    for number in range(5 if LONG else 1):
        home = tmp_path / f"home{number}"
        home.mkdir()
        with injected("SIGTERM to a run that trains, and ten seconds of grace") as fault:
            running = Training(small(tiny_backbone, home / "run"), home, tmp_path / "output")
            some_moment(home, running, moments)
            struck = running.running()
            running.terminate()
            deadline = time.monotonic() + GRACE_SECONDS
            while running.running() and time.monotonic() < deadline:
                time.sleep(0.05)
            running.kill()
            running.wait()
            after = Training(small(tiny_backbone, home / "run"), home, tmp_path / "output")
            assert after.wait() == 0, after.errors
            assert curve_of(home) == whole
            fault.repaired() if struck else fault.harmless()
