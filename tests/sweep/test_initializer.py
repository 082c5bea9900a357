"""`trial.initializer`: what a worker does before its first job, while the sweep opens."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from tests.sweep.apps import App, wait_for, with_observer

from graft import trial
from graft.paths import CHECKOUT

APP = """
    import os, signal, time
    from pathlib import Path
    import hydra
    import psutil
    from graft import trial
    from graft.errors import ConfigError

    def note(what):
        with open("log", "a") as file:
            file.write(f"{what} {os.getpid()}\\n")

    def initialize():
        note("initialized")
        print("a library says", os.environ.get("FOR_JOBS"), end="", flush=True)
        if "INITIALIZER_FAILS" in os.environ:
            raise RuntimeError("there is no such library")
        if "INITIALIZER_EXITS" in os.environ:
            raise SystemExit("there is no GPU")
        if "INITIALIZER_LASTS" in os.environ:
            time.sleep(600)
        while "TRIAL_0_INITIALIZES" in os.environ and not Path("go on").exists():
            time.sleep(0.02)

    class Observer:
        def validate(self, config):
            return {}

        def sweep_started(self, event):
            noted = Path("log")
            while "OPENS_QUICKLY" not in os.environ and not (noted.exists() and noted.read_text().endswith("\\n")):
                time.sleep(0.02)  # for as long as the test lasts, if no worker starts meanwhile
            if "OBSERVER_KILLS" in os.environ:
                worker = psutil.Process(int(noted.read_text().split()[1]))
                worker.send_signal(getattr(signal, os.environ["OBSERVER_KILLS"]))
                while os.environ["OBSERVER_KILLS"] == "SIGKILL" and worker.status() != psutil.STATUS_ZOMBIE:
                    time.sleep(0.02)
                Path("go on").touch()
            if "OBSERVER_REFUSES" in os.environ:
                raise ConfigError("x=1 brings bad luck. Allowed: any other number.")

        def trial_ended(self, event):
            pass

        def sweep_ended(self, event):
            pass

    @hydra.main(version_base=None, config_path=".", config_name="config")
    @trial.initializer(initialize)
    def main(config):
        note("job")
        print("a job says", os.environ.get("FOR_JOBS"))
        if trial.should_stop():
            note("stopped")
        return config.x

    if __name__ == "__main__":
        main()
"""


@pytest.fixture
def initialized(make_app: Callable[[str], App]) -> App:
    return with_observer(make_app(APP))


def processes(app: App, what: str) -> list[int]:
    return [int(line.split()[1]) for line in app.lines() if line.startswith(what)]


def test_a_worker_initializes_once_while_the_sweep_opens(initialized: App) -> None:
    done = initialized.run("x=1,2,3")
    assert done.status == 0, done.err
    (worker,) = processes(initialized, "initialized")
    assert processes(initialized, "job") == [worker] * 3


def test_no_more_workers_start_than_there_are_trials_left(initialized: App) -> None:
    initialized.environment["OPENS_QUICKLY"] = "1"
    done = initialized.run("x=1,2", "hydra.launcher.slots=4", "hydra.sweeper.study_name=mine")
    assert done.status == 0, done.err
    assert len(processes(initialized, "initialized")) <= 2
    before = initialized.lines()
    again = initialized.run("x=1,2", "hydra.launcher.slots=4", "hydra.sweeper.study_name=mine")
    assert again.status == 0, again.err
    assert initialized.lines() == before, "nothing is left to do"


def test_a_replaced_worker_initializes_anew(initialized: App) -> None:
    done = initialized.run("x=1,2", "hydra.launcher.fresh_process=true")
    assert done.status == 0, done.err
    assert processes(initialized, "initialized") == processes(initialized, "job")
    assert len(set(processes(initialized, "job"))) == 2


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("INITIALIZER_FAILS", "RuntimeError: there is no such library"),
        ("INITIALIZER_EXITS", "SystemExit: there is no GPU"),
    ],
)
def test_what_it_raises_ends_the_sweep_in_words(initialized: App, how: str, told: str) -> None:
    initialized.environment[how] = "1"
    done = initialized.run("x=1,2")
    assert done.status == 2
    assert f"initialize, the initializer of this task, failed in a worker process: {told}" in done.err
    assert "Traceback" not in done.err
    assert f"#0 | {told}" in done.out, "below its traceback"
    assert not processes(initialized, "job")


def test_the_environment_of_jobs_holds_in_it_and_what_it_prints_is_shown(initialized: App) -> None:
    environment = ["+hydra.job.env_set.FOR_JOBS=this", "+hydra.job.env_set.NUMBER='${hydra.job.num}'"]
    done = initialized.run("x=1,2", *environment)
    assert done.status == 0, done.err
    assert "#0 | a library says this\n" in done.out
    assert "#0 | a job says this\n" in done.out
    silent = initialized.run("x=1,2", *environment, "hydra.launcher.show_output=false")
    assert silent.status == 0, silent.err
    assert "says" not in silent.out


def test_a_worker_that_dies_before_its_first_job_is_no_trials_fault(initialized: App) -> None:
    initialized.environment |= {"OBSERVER_KILLS": "SIGKILL", "TRIAL_0_INITIALIZES": "1"}
    done = initialized.run("x=1,2", "hydra.sweeper.max_retries=0")
    assert done.status == 0, done.out + done.err
    _dead, worker = processes(initialized, "initialized")
    assert processes(initialized, "job") == [worker] * 2


def test_a_worker_that_is_told_to_end_while_it_initializes_ends_with_its_first_job(initialized: App) -> None:
    initialized.environment |= {"OBSERVER_KILLS": "SIGTERM", "TRIAL_0_INITIALIZES": "1"}
    done = initialized.run("x=1,2", "hydra.sweeper.max_retries=0")
    assert done.status == 0, done.out + done.err
    told, worker = processes(initialized, "initialized")
    assert processes(initialized, "stopped") == [told]
    assert processes(initialized, "job") == [told, worker, worker]


def test_a_second_controller_starts_workers_for_what_waits_alone(initialized: App) -> None:
    initialized.environment |= {"OPENS_QUICKLY": "1", "TRIAL_0_INITIALIZES": "1"}
    first = initialized.start("x=1", "hydra.sweeper.study_name=mine")
    wait_for(lambda: bool(initialized.lines()))
    wait_for(lambda: [trial.state.name for trial in initialized.study("mine").trials] == ["RUNNING"])
    second = initialized.start("x=1", "hydra.sweeper.study_name=mine")
    assert second.stdout is not None
    try:  # by then it would have started one
        wait_for(lambda: "All that is left runs under other controllers" in second.stdout.readline())
    finally:
        (initialized.folder / "go on").touch()
    for process in (first, second):
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
    assert len(processes(initialized, "initialized")) == 1


def test_hydra_may_have_wrapped_the_task_already() -> None:
    @functools.wraps(print)
    def wrapped() -> None: ...

    def task() -> None: ...

    wrapped.__wrapped__ = task  # type: ignore[attr-defined]
    trial.initializer(print)(wrapped)
    assert task.graft_initializer is print  # type: ignore[attr-defined]
    assert wrapped.graft_initializer is print  # type: ignore[attr-defined]


def test_a_sweep_that_is_refused_while_its_workers_initialize_waits_for_none(initialized: App) -> None:
    initialized.environment |= {"INITIALIZER_LASTS": "1", "OBSERVER_REFUSES": "1"}
    done = initialized.run("x=1,2")
    assert done.status == 2
    assert "x=1 brings bad luck" in done.err
    (worker,) = processes(initialized, "initialized")
    assert not psutil.pid_exists(worker)


def test_the_workers_of_graft_import_what_every_run_needs(tmp_path: Path) -> None:
    program = (
        "import json, sys, train\n"
        "needed = ['tensorflow', 'tf_keras', 'mlflow', 'sqlalchemy', 'matplotlib']\n"
        "before = [name for name in needed if name in sys.modules]\n"
        "train.main.__wrapped__.graft_initializer()\n"
        "print(json.dumps([before, [name for name in needed if name not in sys.modules]]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=CHECKOUT,
        env={**os.environ, "GRAFT_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [[], []]
    assert not done.stderr
