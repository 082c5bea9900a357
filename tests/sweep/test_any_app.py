"""Sweeps of an application that knows nothing of Graft."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.trial import TrialState
from tests.sweep.apps import App, with_observer

LOCKS = ("study.journal.lock", "study.journal.controllers.lock")


def test_a_grid_runs_every_cell_once(app: App) -> None:
    done = app.run("x=1,2,3", "trainable=true,false")
    assert done.status == 0, done.err
    assert sorted(line.split()[0] + line.split()[3] for line in app.lines()) == [
        "1False", "1True", "2False", "2True", "3False", "3True",
    ]  # fmt: skip
    study = app.study()
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 6
    assert study.trials[3].params == {"x": 2, "trainable": False}
    assert study.best_value == 0
    assert "6 trials (6 cells)" in done.out.splitlines()[0]
    assert "Best: #2 value=0 with x=2 trainable=true" in done.out
    assert {path.name for path in app.folder.iterdir()} == {"app.py", "log", "multirun", "study.journal", *LOCKS}


def test_the_headline_command_is_two_trials(app: App) -> None:
    assert app.run("trainable=true,false").status == 0
    assert [trial.params for trial in app.study().trials] == [{"trainable": True}, {"trainable": False}]


def test_a_range_is_half_open(app: App) -> None:
    assert app.run("head_width=range(32,97,32)").status == 0
    assert [line.split()[2] for line in app.lines()] == ["32", "64", "96"]


def test_the_child_writes_what_hydras_own_launcher_writes(app: App) -> None:
    assert app.run("x=5,6", "hydra.sweep.dir=swept", "hydra.job.chdir=true").status == 0
    folder = app.folder / "swept" / "1"
    assert (folder / ".hydra" / "overrides.yaml").read_text() == "- x=6\n"
    assert "x: 6" in (folder / ".hydra" / "config.yaml").read_text()
    assert "num: 1" in (folder / ".hydra" / "hydra.yaml").read_text()
    assert (folder / "app.log").exists()
    assert (folder / "log").read_text().startswith("6 ")
    assert (app.folder / "swept" / "multirun.yaml").exists()


def test_a_folder_that_cannot_be_made_leaves_no_sweep(app: App) -> None:
    done = app.run("x=5,6", "hydra.sweep.dir=/dev/null/x")
    assert done.status == 2
    assert "/dev/null/x" in done.err
    assert app.studies() == []


def test_storage_by_default_lies_beside_hydras_folders(app: App) -> None:
    assert app.run("x=1,2", "hydra.sweeper.storage=null").status == 0
    assert (app.folder / "multirun" / "optuna.journal").exists()


def test_the_sweeper_works_with_hydras_default_launcher(app: App) -> None:
    done = app.run("x=1,2,3", "hydra/launcher=basic")
    assert done.status == 0, done.err
    assert [trial.values for trial in app.study().trials] == [[1], [0], [1]]
    tickets = list(app.folder.glob("multirun/*/*/.graft/*.json"))
    assert {stat.S_IMODE(ticket.stat().st_mode) for ticket in tickets} == {0o600}, "a storage may have a password"


def test_a_single_run_is_not_touched(app: App) -> None:
    assert app.run("x=7", sweeping=False).status == 0
    assert app.lines() == ["7 0.0 16 False"]


def test_nothing_heavy_is_imported_without_a_sweep(make_app: Callable[[str], App]) -> None:
    app = make_app("""
        import sys
        import hydra

        @hydra.main(version_base=None)
        def main(config):
            import hydra_plugins.graft.sweeper, graft.trial
            print(sorted({"optuna", "tensorflow", "mlflow", "cloudpickle", "rich"} & sys.modules.keys()))

        main()
    """)
    assert app.run(sweeping=False).out.strip() == "[]"


OUTCOMES_APP = """
    import os, sys, time
    import hydra
    from graft.errors import FailedTrial

    @hydra.main(version_base=None, config_path=".", config_name="config")
    def main(config):
        match config.how:
            case "naan": return float("nan")
            case "exception": raise ValueError("no good")
            case "exit": sys.exit(3)
            case "abort": os.abort()
            case "text": return "accuracy"
            case "never": time.sleep(600)
            case "diverged": raise FailedTrial("loss is NaN at step 7", cause="diverged")
        return config.n

    if __name__ == "__main__":
        main()
"""


def test_failures_of_every_kind_leave_the_others_alone(make_app: Callable[[str], App]) -> None:
    app = make_app(OUTCOMES_APP)
    (app.folder / "config.yaml").write_text("how: fine\nn: 0\n")
    done = app.run(
        "how=fine,naan,exception,exit,abort,text,never,diverged,a,b,c,d",
        "hydra.sweeper.trial_timeout=10",
        "hydra.sweeper.max_retries=1",
        "hydra.launcher.slots=2",
    )
    assert done.status == 1
    assert "Traceback" not in done.err
    trials = {trial.params["how"]: trial for trial in app.study().trials}
    assert len(trials) == 12
    failures = {
        how: trial.user_attrs["graft.failure"] for how, trial in trials.items() if "graft.failure" in trial.user_attrs
    }
    assert failures == {
        "naan": "diverged",
        "exception": "ValueError",
        "exit": "SystemExit",
        "abort": "SIGABRT",
        "text": "no_value",
        "never": "timeout",
        "diverged": "diverged",
    }
    assert all(trials[how].state == TrialState.COMPLETE for how in ("fine", "a", "b", "c", "d"))
    assert trials["abort"].user_attrs["graft.attempt"] == 1
    assert "loss is NaN at step 7" in trials["diverged"].user_attrs["graft.message"]
    assert "Failed, diverged: 2 trials" in done.out
    for cause in ("ValueError", "SystemExit", "SIGABRT", "no_value", "timeout"):
        assert f"Failed, {cause}: 1 trial" in done.out


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["x=interval(1,2)"], ["hydra.sweeper.n_trials=null", "x is sampled"]),
        (["y=interval(2,1)", "hydra.sweeper.n_trials=2"], ["y=interval(2.0, 1.0) is empty"]),
        (["y=tag(log,interval(0,1))", "hydra.sweeper.n_trials=2"], ["log domain", "above 0"]),
        (["x=range(5,1)"], ["x=range(5, 1, 1) is empty"]),
        (["x=1,2", "x=3,4"], ["x is defined twice", "x=3,4"]),
        (["x=1,2", "hydra.sweeper.sampler=TPESamplr"], ["TPESamplr does not exist", "did you mean TPESampler?"]),
        (["x=1,2", "hydra.sweeper.pruner=medium"], ["medium does not exist", "did you mean MedianPruner?"]),
        (["x=1,2", "hydra.sweeper.sampler=GridSampler"], ["GridSampler does not fit", "key=a,b,c"]),
        (["x=1,2", "hydra.sweeper.sampler=cmaes"], ["sampler=cmaes needs cmaes, which is not installed"]),
        (["x=1,2", "hydra.sweeper.direction=maximise"], ["maximise", "did you mean maximize?"]),
        (
            ["x=1,2", "hydra.sweeper.direction=[minimize,maximize]", "hydra.sweeper.pruner=median"],
            ["2 objectives", "MedianPruner"],
        ),
        (["trainabel=true,false"], ["trainabel: there is no such key", "did you mean trainable?"]),
        (["x=1,two"], ["two", "Integer"]),
        (["x=1,2", "hydra.sweeper.max_retries=-1", "hydra.sweeper.n_trials=0"], ["max_retries=-1", "n_trials=0"]),
        (["x=1,2", "hydra.launcher.slots=0"], ["hydra.launcher.slots=0"]),
        (["x=1,2", "+hydra.sweeper.observer._target_=no.such"], ["hydra.sweeper.observer", "no.such"]),
    ],
)  # fmt: skip
def test_a_wrong_space_or_option_is_refused_before_anything_starts(
    app: App, overrides: list[str], told: list[str]
) -> None:
    done = app.run(*overrides)
    assert done.status == 2, done.out + done.err
    for text in told:
        assert text in done.err
    assert "Traceback" not in done.err
    assert app.lines() == []
    assert not app.journal.exists()


GROUPS_APP = """
    import hydra

    @hydra.main(version_base=None, config_path="conf", config_name="config")
    def main(config):
        return config.both

    if __name__ == "__main__":
        main()
"""


def test_a_combination_that_alone_cannot_be_composed_fails_alone(make_app: Callable[[str], App]) -> None:
    app = make_app(GROUPS_APP)
    files = {
        "config.yaml": "defaults: [one: a, other: a, both: '${one}_${other}']",
        "both/a_a.yaml": "# @package _global_\nboth: 1",
        "both/a_b.yaml": "# @package _global_\nboth: 2",
        "both/b_a.yaml": "# @package _global_\nboth: 3",
        **{f"{group}/{option}.yaml": "{}" for group in ("one", "other") for option in "ab"},
    }
    for name, text in files.items():
        (app.folder / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (app.folder / "conf" / name).write_text(text)
    done = app.run("one=a,b", "other=a,b", "hydra.sweeper.study_name=mine")
    assert done.status == 1, done.err
    assert "3 complete, 0 pruned, 1 failed of 4 trials" in done.out
    assert "b_b" in done.out
    assert [trial.values for trial in app.study("mine").trials] == [[1], [2], [3], None]


# What is flushed last: the job is over then, and its answer not yet sent.
ENDED_LATE_APP = """
    import os, signal, sys
    import hydra

    class Terminated:
        def __init__(self, stream):
            self.stream = stream

        def __getattr__(self, name):
            return getattr(self.stream, name)

        def flush(self):
            from graft.trial import current
            if current() is None:
                sys.stdout = self.stream
                os.kill(os.getpid(), signal.SIGTERM)

    @hydra.main(version_base=None, config_path=None)
    def main(config):
        with open("log", "a") as log:
            log.write(f"{config.x} {os.getpid()}\\n")
        if config.x == 1:
            sys.stdout = Terminated(sys.stdout)
        return config.x

    if __name__ == "__main__":
        main()
"""


def test_an_answer_on_its_way_outlives_the_end_of_its_worker(make_app: Callable[[str], App]) -> None:
    app = make_app(ENDED_LATE_APP)
    done = app.run("+x=range(3)")
    assert done.status == 0, done.err
    ran = [line.split() for line in app.lines()]
    assert [x for x, _ in ran] == ["0", "1", "2"]
    assert ran[0][1] == ran[1][1] != ran[2][1]


def test_an_unpicklable_task_is_refused_by_name(make_app: Callable[[str], App]) -> None:
    app = make_app("""
        import threading
        import hydra

        lock = threading.Lock()

        @hydra.main(version_base=None)
        def main(config):
            with lock:
                return 1.0

        if __name__ == "__main__":
            main()
    """)
    under_hydras_own_sweeper = app.run("-m", "hydra/launcher=graft", "+x=1,2", sweeping=False)
    for done in (app.run("+x=1,2"), under_hydras_own_sweeper):
        assert done.status == 2
        assert "__main__.main cannot be sent to a worker process, because of lock (lock)" in done.err
        assert "Traceback" not in done.err
    assert not app.journal.exists()


CONTEXT_APP = """
    import json, os
    import hydra
    from graft import trial
    from graft.errors import ConfigError

    class Observer:
        def validate(self, config):
            assert "hydra" not in config
            if config.x == 13:
                raise ConfigError("x=13 brings bad luck. Allowed: any other number.")
            return {"data": "d1"}

        def sweep_started(self, event):
            self._write("started", total=event.total, space=dict(event.space), resumed=event.resumed)
            return {"parent": "run-7"}

        def trial_ended(self, event):
            self._write("ended", number=event.number, state=event.state, values=dict(event.values),
                        overrides=list(event.overrides), cause=event.cause, attempt=event.attempt)
            raise RuntimeError("the tracking server is down")

        def sweep_ended(self, event):
            self._write("over", counts=dict(event.counts), best=[b.number for b in event.best],
                        failures=dict(event.failures), interrupted=event.interrupted)
            if "OBSERVER_FAILS" in os.environ:
                raise RuntimeError("the tracking server is still down")

        def _write(self, what, **fields):
            with open("events", "a") as file:
                file.write(json.dumps({"what": what, **fields}) + "\\n")

    @hydra.main(version_base=None, config_path=".", config_name="config")
    def main(config):
        now = trial.current()
        with open("log", "a") as file:
            file.write(json.dumps([now.sweep, now.number, now.attempt, str(now.directory), dict(now.context)]) + "\\n")
        if config.x == 3:
            raise KeyError("three")
        return config.x

    if __name__ == "__main__":
        main()
"""


@pytest.fixture
def observed(make_app: Callable[[str], App]) -> App:
    return with_observer(make_app(CONTEXT_APP))


def test_the_observer_hears_of_everything_and_may_fail(observed: App) -> None:
    done = observed.run("x=1,2,3", "hydra.sweeper.study_name=mine")
    assert done.status == 1
    events = [json.loads(line) for line in observed.lines("events")]
    assert events[0] == {"what": "started", "total": 3, "space": {"x": "1,2,3"}, "resumed": False}
    assert [(e["number"], e["state"], e["values"]) for e in events[1:4]] == [
        (0, "complete", {"value": 1.0}), (1, "complete", {"value": 2.0}), (2, "failed", {}),
    ]  # fmt: skip
    assert events[3]["cause"] == "KeyError"
    assert events[4]["counts"] == {"complete": 2, "failed": 1}
    assert events[4]["best"] == [0]
    assert events[4]["failures"] == {"KeyError": 1}
    assert (done.out + done.err).count("The observer failed") == 1


def test_what_came_out_is_shown_whatever_the_observer_does_in_the_end(observed: App) -> None:
    observed.environment["OBSERVER_FAILS"] = "yes"
    done = observed.run("x=1,2")
    assert done.status == 1
    assert "the tracking server is still down" in done.err
    assert "2 complete, 0 pruned, 0 failed of 2 trials" in done.out


def test_a_trial_knows_where_it_is(observed: App) -> None:
    observed.run("x=1,2", "hydra.sweeper.study_name=mine", "hydra.sweeper.max_retries=0")
    told = [json.loads(line) for line in observed.lines()]
    folder = Path(observed.folder).resolve() / "swept"
    assert told == [["mine", n, 0, str(folder / str(n)), {"parent": "run-7"}] for n in (0, 1)]


def test_the_observer_refuses_a_bad_cell_before_anything_starts(observed: App) -> None:
    done = observed.run("x=1,13,14")
    assert done.status == 2
    assert "x=13 brings bad luck. Allowed: any other number. (in x=13)" in done.err
    assert observed.lines() == observed.lines("events") == []


def test_a_bad_cell_with_a_range_is_counted_once(observed: App) -> None:
    done = observed.run("x=1,13", "+y=interval(0,1)", "hydra.sweeper.n_trials=1")
    assert "Allowed: any other number. (in x=13)" in done.err


def test_hydras_callbacks_and_environment_reach_the_job(make_app: Callable[[str], App]) -> None:
    app = make_app("""
        import os
        import hydra
        from hydra.experimental.callback import Callback

        class Noting(Callback):
            def on_multirun_start(self, config, **kwargs): self.started = "yes"
            def on_job_start(self, config, **kwargs): note(f"start {config.hydra.job.num} {self.started}")
            def on_job_end(self, config, job_return, **kwargs): note(f"end {job_return.return_value}")

        def note(text):
            with open("log", "a") as log:
                log.write(text + "\\n")

        @hydra.main(version_base=None, config_path=".", config_name="config")
        def main(config):
            return float(os.environ["BONUS"]) + config.x

        if __name__ == "__main__":
            main()
    """)
    (app.folder / "config.yaml").write_text(
        "x: 0\nhydra:\n  job:\n    env_set: {BONUS: '10'}\n  callbacks:\n    noting:\n      _target_: app.Noting\n"
    )
    app.environment["PYTHONPATH"] = f".:{app.environment.get('PYTHONPATH', '')}"
    done = app.run("x=1,2")
    assert done.status == 0, done.err
    assert app.lines() == ["start 0 yes", "end 11.0", "start 1 yes", "end 12.0"]
    assert [trial.values for trial in app.study().trials] == [[11], [12]]


def test_a_last_line_without_an_end_is_shown_with_its_own_job(make_app: Callable[[str], App]) -> None:
    app = make_app("""
        import sys
        import hydra

        @hydra.main(version_base=None)
        def main(config):
            sys.stdout.write(f"first of {config.x}\\nloss of {config.x}")
            sys.stdout.flush()
            return 0.0

        if __name__ == "__main__":
            main()
    """)
    done = app.run("+x=1,2")
    assert done.status == 0, done.err
    lines = [line for line in done.out.splitlines() if line.startswith("#")]
    assert lines == ["#0 | first of 1", "#0 | loss of 1", "#1 | first of 2", "#1 | loss of 2"]
