"""Killed, interrupted, resumed and joined sweeps: real processes, really killed."""

from __future__ import annotations

import random
import shlex
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable

import optuna
import psutil
import pytest
from optuna.trial import TrialState
from tests.sweep.apps import LONG, App, assert_nothing_lost_or_doubled, notes, read_until, runs, wait_for

from graft.sweep.storage import open_storage


def test_a_dead_worker_is_retried_in_the_same_trial_from_its_checkpoint(steps: App) -> None:
    done = steps.run("x=1,2,3", "die_at=1")
    assert done.status == 0, done.err
    trials = steps.study().trials
    assert [(t.number, t.values, t.user_attrs["graft.attempt"]) for t in trials] == [(i, [i + 1], 1) for i in range(3)]
    assert [(n, a, begin) for n, a, begin, _ in notes(steps, "start") if n == 0] == [(0, 0, 0), (0, 1, 2)]
    assert "its process died (SIGKILL); starts again" in done.out


def test_a_trial_that_always_dies_fails_after_its_retries(make_app: Callable[[str], App]) -> None:
    app = make_app("""
        import os
        import hydra

        @hydra.main(version_base=None)
        def main(config):
            print("the last words", flush=True)
            os._exit(7)

        if __name__ == "__main__":
            main()
    """)
    done = app.run("+x=1", "hydra.sweeper.max_retries=2")
    assert done.status == 1
    (trial,) = app.study().trials
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs["graft.failure"] == "exit status 7"
    assert "the last words" in trial.user_attrs["graft.message"]
    assert (trial.user_attrs["graft.deaths"], trial.user_attrs["graft.attempt"]) == (2, 2)


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
def test_a_killed_controller_is_resumed_by_the_same_command(steps: App, named: bool) -> None:
    command = ["x=1,2,3,4,5,6", "steps=40", "seconds=0.05", "hydra.launcher.slots=2"]
    command += ["hydra.sweeper.study_name=mine"] if named else []

    def half_done() -> dict[int, int]:
        made = Counter(number for number, *_ in notes(steps, "step"))
        ended = {number for number, *_ in notes(steps, "end")}
        return {number: made[number] for number, *_ in notes(steps, "start") if number not in ended}

    (steps.folder / "hold").touch()  # until both slots work, so that they go on side by side
    first = steps.start(*command)
    wait_for(lambda: len(notes(steps, "start")) == 2)
    (steps.folder / "hold").unlink()
    wait_for(lambda: len(notes(steps, "end")) >= 2)
    wait_for(lambda: len(half_done()) == 2 and all(1 <= made <= 30 for made in half_done().values()))
    (steps.folder / "hold").touch()
    workers = psutil.Process(first.pid).children(recursive=True)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    psutil.wait_procs(workers)
    before, interrupted = len(notes(steps, "start")), half_done()
    second = steps.start(*command)
    wait_for(lambda: len(notes(steps, "start")) == before + 2)
    # What was half done comes first, and goes on where it was.
    again = sorted((number, attempt, begin) for number, attempt, begin, _ in notes(steps, "start")[before:])
    assert [(number, attempt) for number, attempt, _ in again] == [(number, 1) for number in sorted(interrupted)]
    # The last step may have been kept, and not yet noted.
    assert all(begin - interrupted[number] in (0, 1) for number, _, begin in again)
    (steps.folder / "hold").unlink()
    (steps.folder / "hurry").touch()
    out, err = second.communicate(timeout=240)
    assert second.returncode == 0, err
    assert "It goes on: " in out
    trials = steps.study().trials
    assert [(trial.state, trial.values) for trial in trials] == [(TrialState.COMPLETE, [x]) for x in range(1, 7)]
    assert_nothing_lost_or_doubled(steps, 6)
    folders = {str(path.parent.parent) for path in steps.folder.glob("multirun/*/*/*/checkpoint")}
    assert len(folders) == 1


def test_a_finished_unnamed_sweep_is_never_reused(steps: App) -> None:
    for _ in range(2):
        assert steps.run("x=1,2").status == 0
    assert len(steps.studies()) == 2
    assert len(notes(steps, "end")) == 4


def test_a_finished_named_sweep_has_nothing_left_and_its_budget_may_grow(steps: App) -> None:
    command = ["y=interval(0,1)", "hydra.sweeper.seed=1", "hydra.sweeper.study_name=mine"]
    for n_trials, trials in ((3, 3), (3, 3), (5, 5)):
        assert steps.run(*command, f"hydra.sweeper.n_trials={n_trials}").status == 0
        assert len(notes(steps, "end")) == trials
    drawn = [trial.params["y"] for trial in steps.study("mine").trials]
    assert len(set(drawn)) == 5


def test_another_sweep_under_an_old_name_is_refused_with_the_difference(steps: App) -> None:
    assert steps.run("x=1,2", "hydra.sweeper.study_name=mine").status == 0
    done = steps.run("x=1,2,3", "steps=4", "password=two", "hydra.sweeper.study_name=mine")
    assert done.status == 2
    assert "space.x: was 1,2, now 1,2,3" in done.err
    assert "config.steps: was 3, now 4" in done.err
    assert "config.password: was sha256:" in done.err
    assert "two" not in done.err
    assert len(notes(steps, "end")) == 2


def test_ctrl_c_once_ends_trials_at_their_next_step_and_says_how_to_go_on(steps: App) -> None:
    command = ["x=1,2,3,4", "steps=1000", "seconds=0.05", "hydra.launcher.slots=2"]
    running = steps.start(*command)
    wait_for(lambda: len(notes(steps, "step")) >= 4)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=240)
    assert running.returncode == 130, err
    assert "Traceback" not in err
    assert "Press Ctrl-C again" in out
    assert f"To go on:\n  python app.py -m {' '.join(['hydra/sweeper=graft'])}" in out
    trials = steps.study().trials
    assert [trial.state for trial in trials] == [TrialState.WAITING] * 4
    assert sum(bool(trial.intermediate_values) for trial in trials) == 2
    begun = {n: max(step for m, _, step, _ in notes(steps, "step") if m == n) for n in (0, 1)}

    # The same command, which now has less to count to, for its budget of steps is the task's affair.
    again = steps.start(*command)
    wait_for(lambda: len(notes(steps, "start")) >= 4)
    again.kill()
    again.communicate()
    resumed = [(n, a, begin) for n, a, begin, _ in notes(steps, "start")[2:4]]
    assert sorted(resumed) == [(n, 1, begun[n] + 1) for n in (0, 1)]


@pytest.mark.parametrize("launcher", ["graft", "basic", "joblib"])
def test_ctrl_c_until_it_ends_leaves_every_trial_resumable(make_app: Callable[[str], App], launcher: str) -> None:
    app = make_app("""
        import time
        import hydra

        @hydra.main(version_base=None)
        def main(config):
            open("log", "a").write("started\\n")
            time.sleep(3600)

        if __name__ == "__main__":
            main()
    """)
    running = app.start("+x=1,2", f"hydra/launcher={launcher}")
    wait_for(lambda: bool(app.lines()))
    running.send_signal(signal.SIGINT)
    # Our own launcher waits for a task that takes an hour; other launchers know no other end than this one.
    if launcher == "graft":
        read_until(running, "Press Ctrl-C again")
        running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=240)
    assert running.returncode == 130, err
    assert "To go on:" in out
    assert [trial.state for trial in app.study().trials] == [TrialState.WAITING] * 2


def test_the_workers_die_with_their_controller(steps: App) -> None:
    running = steps.start("x=1,2", "steps=100000", "hydra.launcher.slots=2")
    wait_for(lambda: len({pid for *_, pid in notes(steps, "step")}) == 2)
    workers = {pid for *_, pid in notes(steps, "step")}
    running.kill()
    running.communicate()
    wait_for(lambda: not any(runs(pid) for pid in workers))


def test_a_second_controller_joins_and_nothing_runs_twice(steps: App) -> None:
    command = ["x=range(12)", "seconds=0.1", "hydra.sweeper.study_name=mine"]
    (steps.folder / "hold").touch()
    first = steps.start(*command)
    wait_for(lambda: len(notes(steps, "start")) == 1)
    second = steps.start(*command)
    wait_for(lambda: len(notes(steps, "start")) == 2)
    (steps.folder / "hold").unlink()
    outs = [process.communicate(timeout=240) for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], outs
    assert all("12 complete" in out for out, _ in outs)
    assert_nothing_lost_or_doubled(steps, 12)
    assert len(notes(steps, "end")) == 12
    assert len({pid for *_, pid in notes(steps, "end")}) == 2


def test_a_second_controller_takes_over_when_the_first_dies(steps: App) -> None:
    command = ["x=range(6)", "steps=20", "seconds=0.05", "hydra.sweeper.study_name=mine"]
    first = steps.start(*command)
    wait_for(lambda: bool(notes(steps, "step")))
    (steps.folder / "hold").touch()
    second = steps.start(*command)
    wait_for(lambda: len({pid for *_, pid in notes(steps, "start")}) == 2)
    first.kill()
    first.communicate()
    (steps.folder / "hold").unlink()
    out, err = second.communicate(timeout=240)
    assert second.returncode == 0, err
    assert "6 complete" in out
    assert_nothing_lost_or_doubled(steps, 6)


def test_killing_the_controller_at_random_moments_loses_and_doubles_nothing(steps: App) -> None:
    kills, trials, seconds = (20, 30, 0.4) if LONG else (4, 8, 0.1)
    moments = random.Random(4)
    command = [f"x=range({trials})", "y=interval(0,1)", "hydra.sweeper.n_trials=1", "hydra.sweeper.seed=1"]
    command += [f"seconds={seconds}", "hydra.launcher.slots=2", "hydra.sweeper.study_name=mine"]
    hit = 0
    for _ in range(kills):
        running = steps.start(*command)
        time.sleep(moments.uniform(0.3, 3.0))
        hit += running.poll() is None
        running.kill()
        running.communicate()
    done = steps.run(*command)
    assert done.status == 0, done.err
    assert hit == kills or not LONG, "the sweep was over before the last kill"
    studies = [steps.study(name) for name in steps.studies() if "/" in name]
    assert len(studies) == trials
    assert [trial.state for study in studies for trial in study.trials] == [TrialState.COMPLETE] * trials
    assert_nothing_lost_or_doubled(steps, trials)


def test_max_failures_stops_the_sweep_and_leaves_the_rest(make_app: Callable[[str], App]) -> None:
    app = make_app("""
        import hydra

        @hydra.main(version_base=None)
        def main(config):
            raise ValueError("no good")

        if __name__ == "__main__":
            main()
    """)
    done = app.run("+x=range(10)", "hydra.sweeper.max_failures=2")
    assert done.status == 1
    assert Counter(trial.state for trial in app.study().trials) == {TrialState.FAIL: 3, TrialState.WAITING: 7}
    assert "max_failures=2" in done.out
    assert "To go on:" in done.out


def test_the_sweeps_timeout_lets_running_trials_finish(steps: App) -> None:
    done = steps.run("x=range(200)", "seconds=0.1", "hydra.sweeper.timeout=3")
    assert done.status == 0, done.err
    states = Counter(trial.state for trial in steps.study().trials)
    assert states[TrialState.COMPLETE] >= 1
    assert states[TrialState.WAITING] >= 1
    assert sum(states.values()) == 200
    assert "no further trial is started" in done.out


def test_a_fatal_error_ends_the_sweep_with_its_status(make_app: Callable[[str], App]) -> None:
    app = make_app("""
        import hydra
        from graft.errors import ConfigError

        @hydra.main(version_base=None)
        def main(config):
            raise ConfigError("dataset.path=nowhere does not exist.")

        if __name__ == "__main__":
            main()
    """)
    done = app.run("+x=1,2,3")
    assert done.status == 2
    assert done.err.strip() == "dataset.path=nowhere does not exist."
    assert Counter(trial.state for trial in app.study().trials) == {TrialState.FAIL: 1, TrialState.WAITING: 2}


def test_a_sweep_that_died_while_it_was_created_can_be_started_again(steps: App) -> None:
    optuna.create_study(study_name="mine", storage=open_storage(str(steps.journal)))
    assert steps.run("x=1,2", "hydra.sweeper.study_name=mine").status == 0
    assert len(notes(steps, "end")) == 2


def test_a_sweep_whose_folder_was_moved_is_not_begun_anew_where_it_was(steps: App) -> None:
    command = ["x=1,2", "hydra.sweeper.study_name=mine"]
    assert steps.run(*command).status == 0
    old, new = steps.folder, steps.folder.with_name("new place")
    old.rename(new)
    steps.folder, steps.journal, steps.storage = new, new / "study.journal", str(new / "study.journal")
    done = steps.run(*command)
    assert done.status == 2, done.err
    assert f"The folder of the sweep mine, {old}/" in done.err
    assert not old.exists()
    remedy = done.err.strip().rpartition("too: ")[2]
    assert remedy == f"ln -s '{new}' {old}"
    subprocess.run(shlex.split(remedy), check=True)
    assert steps.run(*command).status == 0


def test_a_study_of_somebody_else_is_not_touched(steps: App) -> None:
    study = optuna.create_study(study_name="theirs", storage=open_storage(str(steps.journal)))
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    done = steps.run("x=1,2", "hydra.sweeper.study_name=theirs")
    assert done.status == 2
    assert "is not a sweep of Graft's" in done.err
    assert len(steps.study().trials) == 2


def test_an_application_that_no_worker_can_load_blames_no_trial(
    make_app: Callable[[str], App],
) -> None:
    app = make_app("""
        import sys, types
        import hydra

        # A module that exists in this process alone, which pickle refers to by its name.
        module = types.ModuleType("only_here")
        exec("def helper(): return 1.0", module.__dict__)
        module.helper.__module__ = "only_here"
        sys.modules["only_here"] = module
        from only_here import helper

        @hydra.main(version_base=None)
        def main(config):
            return helper()

        if __name__ == "__main__":
            main()
    """)
    done = app.run("+x=1,2")
    assert done.status == 2, done.out
    assert "only_here" in done.err
    assert "Traceback" not in done.err
    assert [trial.state for trial in app.study().trials] == [TrialState.WAITING] * 2
