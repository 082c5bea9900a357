"""`trial.initializer`: what a worker does before its first job, while the sweep opens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from tests.sweep.apps import App, with_observer

from graft.paths import CHECKOUT

APP = """
    import os, time
    from pathlib import Path
    import hydra
    from graft import trial
    from graft.errors import ConfigError

    def note(what):
        with open("log", "a") as file:
            file.write(f"{what} {os.getpid()}\\n")

    def initialize():
        note("initialized")
        if "INITIALIZER_FAILS" in os.environ:
            raise RuntimeError("there is no such library")
        if "INITIALIZER_LASTS" in os.environ:
            time.sleep(600)

    class Observer:
        def validate(self, config):
            return {}

        def sweep_started(self, event):
            while "OPENS_QUICKLY" not in os.environ and not Path("log").exists():
                time.sleep(0.02)  # for as long as the test lasts, if no worker starts meanwhile
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


def test_what_it_raises_ends_the_sweep_in_words(initialized: App) -> None:
    initialized.environment["INITIALIZER_FAILS"] = "1"
    done = initialized.run("x=1,2")
    assert done.status == 2
    assert "The task cannot be loaded in a worker process: RuntimeError: there is no such library" in done.err
    assert "Traceback" not in done.err
    assert not processes(initialized, "job")


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
