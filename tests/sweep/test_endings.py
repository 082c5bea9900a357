"""A sweep whose command is killed around the moments at which something counts as finished, and what is shown of it."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable

import pytest
from tests.sweep.apps import App, with_observer

# The observer kills the controller once, at the moment that KILLED_AT names.
KILLED_APP = """
    import os
    import hydra

    class Observer:
        def validate(self, config):
            return {}

        def sweep_started(self, event):
            return {}

        def trial_ended(self, event):
            self._note(f"ended {event.number}")
            self._die_at("trial")

        def sweep_ended(self, event):
            self._die_at("sweep")
            self._note("over")

        def _note(self, text):
            with open("told", "a") as file:
                file.write(f"{text}\\n")

        def _die_at(self, moment):
            if os.environ.get("KILLED_AT") == moment:
                os.kill(os.getpid(), 9)

    @hydra.main(version_base=None, config_path=".", config_name="config")
    def main(config):
        with open("log", "a") as log:
            log.write(f"{config.x}\\n")
        return config.x

    if __name__ == "__main__":
        main()
"""


@pytest.fixture
def killed(make_app: Callable[[str], App]) -> App:
    return with_observer(make_app(KILLED_APP))


def run(app: App, *overrides: str, killed_at: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**app.environment, "KILLED_AT": killed_at}
    return subprocess.run(
        app.command(*overrides),
        cwd=app.folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_a_sweep_killed_before_its_end_was_told_ends_under_the_same_command(killed: App) -> None:
    assert run(killed, "x=1,2", killed_at="sweep").returncode == -signal.SIGKILL
    assert killed.lines("told") == ["ended 0", "ended 1"]
    again = run(killed, "x=1,2")
    assert again.returncode == 0, again.stderr
    assert "It goes on: 2 of 2 trials are finished." in again.stdout
    assert killed.lines() == ["1", "2"], "each was run once"
    assert killed.lines("told") == ["ended 0", "ended 1", "over"]
    assert len(killed.studies()) == 1
    third = run(killed, "x=1,2")
    assert third.returncode == 0
    assert len(killed.studies()) == 2, "and a sweep that is over is not gone on with"


def test_no_trial_is_shown_as_finished_before_it_is_recorded(killed: App) -> None:
    shown = run(killed, "x=1,2", killed_at="trial").stdout
    assert killed.lines("told") == ["ended 0"]
    assert "#0" not in shown
    again = run(killed, "x=1,2")
    assert "[1/2] #0 x=1: value=1" in again.stdout


def test_names_in_a_shared_storage_are_shown_without_what_a_terminal_obeys(app: App) -> None:
    done = app.run("x=1,2", 'hydra.sweeper.study_name="a\x1b[31mred"')
    assert done.status == 0, done.err
    assert r"Sweep a\x1b[31mred: 2 trials" in done.out
    assert "\x1b" not in done.out + done.err


def test_a_study_that_says_something_else_of_itself_is_none_of_ours(app: App) -> None:
    assert app.run("x=1", "hydra.sweeper.study_name=foreign").status == 0
    study = app.study("foreign")
    study.set_user_attr("graft.identity", "a sweep")
    study.set_user_attr("graft.finished", False)
    assert app.run("x=1").status == 0
    refused = app.run("x=1", "hydra.sweeper.study_name=foreign")
    assert refused.status == 2
    assert "is not a sweep of Graft's" in refused.err


def test_a_sweep_goes_on_when_nobody_reads_what_it_prints(app: App) -> None:
    with app.start("x=range(4)", "hydra.sweeper.study_name=mine") as sweep:
        assert sweep.stdout is not None
        assert sweep.stderr is not None
        sweep.stdout.readline()
        sweep.stdout.close()
        errors = sweep.stderr.read()
        assert sweep.wait(timeout=240) == 0, errors
    assert "Error" not in errors
    assert [trial.values for trial in app.study("mine").trials] == [[4], [1], [0], [1]]


@pytest.mark.parametrize("redirected", [">&-", ">/dev/full", ">&- 2>&-"])
def test_a_sweep_runs_with_an_output_that_takes_nothing(app: App, redirected: str) -> None:
    command = ["sh", "-c", f'exec "$@" {redirected}', "sh", *app.command("x=1,2", "hydra.sweeper.study_name=mine")]
    done = subprocess.run(
        command, cwd=app.folder, env=app.environment, stderr=subprocess.PIPE, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.dumps([trial.values for trial in app.study("mine").trials]) == "[[1.0], [0.0]]"
