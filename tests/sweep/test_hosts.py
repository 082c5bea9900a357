"""Controllers of one sweep on several hosts, of which any may die or fall silent: real processes and namespaces."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from optuna.trial import FrozenTrial, TrialState
from tests.sweep.apps import (
    LONG,
    STEPS_APP,
    App,
    assert_nothing_lost_or_doubled,
    notes,
    other_hosts_are_possible,
    steps_app,
    wait_for,
)
from tests.sweep.postgres_server import PostgresServer

from graft.sweep import liveness

NAME = "hydra.sweeper.study_name"

QUICK = """
    from graft.sweep import liveness

    def be_quick():
        liveness.BEAT_SECONDS, liveness.DEAD_AFTER_SECONDS = 0.5, 5.0

    be_quick()
"""
"""For a controller; a worker does not run what stands at the top, so the task calls it as well."""


@pytest.fixture
def quick(tmp_path: Path) -> App:
    """The application that counts, with controllers that are taken for dead after seconds, in place of minutes."""
    if not other_hosts_are_possible():
        pytest.skip("process and host namespaces need root")
    source = STEPS_APP.replace("now = trial.current()", "be_quick(); now = trial.current()")
    return steps_app(tmp_path, QUICK + source)


@pytest.fixture
def patient(steps: App) -> App:
    """The application with the real times in the long version of a test."""
    if not other_hosts_are_possible():
        pytest.skip("process and host namespaces need root")
    return steps


@contextmanager
def controllers(app: App, hosts: dict[str, str | None], *command: str) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """One on each host, by name; None is this host. Those that still run are ended."""
    running: dict[str, subprocess.Popen[str]] = {}
    try:
        for name, host in hosts.items():
            running[name] = app.start(*command, host=host)
        yield running
    finally:
        for process in running.values():
            for each in (*processes_of(process), process):
                each.kill()
            process.communicate()


def processes_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The controller that `unshare` started, and its workers."""
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def owners(trials: list[FrozenTrial], state: TrialState) -> dict[int, str]:
    return {trial.number: trial.user_attrs["graft.owner"] for trial in trials if trial.state == state}


def assert_each_ended_once(trials: list[FrozenTrial], count: int) -> None:
    assert [(trial.state, trial.values) for trial in trials] == [(TrialState.COMPLETE, [x]) for x in range(count)]


def three_hosts_one_dies(app: App, server: PostgresServer, study: str, trials: int, steps: int) -> None:
    app.storage = server.url
    command = [f"x=range({trials})", f"steps={steps}", "seconds=0.1", "hydra.launcher.slots=2", f"{NAME}={study}"]
    with controllers(app, {"first": "one", "second": "two", "third": "three"}, *command) as running:
        wait_for(lambda: bool(notes(app, "end")))
        wait_for(lambda: len(set(owners(server.trials(study), TrialState.COMPLETE).values())) == 3, every=0.3)
        # The whole host, with its controller and all workers.
        host = processes_of(running["second"])
        host[0].kill()
        psutil.wait_procs(host, timeout=30)
        left = len(notes(app, "start"))
        ended = {number for number, *_ in notes(app, "end")}
        (app.folder / "hurry").touch()
        outs = {name: running[name].communicate(timeout=500) for name in ("first", "third")}
        for name, (out, err) in outs.items():
            assert running[name].returncode == 0, err
            assert f"{trials} complete" in out
    found = server.trials(study)
    assert_each_ended_once(found, trials)
    assert_nothing_lost_or_doubled(app, trials)
    again = [(number, attempt, begin) for number, attempt, begin, _ in notes(app, "start")[left:] if attempt]
    # A slot of a grid is filled again before the trial that left it is recorded, so there may be two for each.
    assert 1 <= len(again) <= 4, "the dead controller's trials, each taken up once"
    assert all(attempt == 1 for _, attempt, _ in again)
    made = Counter((number, attempt) for number, attempt, *_ in notes(app, "step"))
    # The last step may have been kept, and not yet noted.
    assert all(begin - made[number, 0] in (0, 1) for number, _, begin in again)
    # One that the dead controller had not yet recorded when it ended has nothing left to do, and ends again.
    assert len(notes(app, "end")) == trials + sum(number in ended for number, *_ in again)
    assert len(set(owners(found, TrialState.COMPLETE).values())) == 3


def test_three_hosts_share_a_sweep_and_one_of_them_dies(quick: App, postgres: PostgresServer) -> None:
    three_hosts_one_dies(quick, postgres, "three", trials=60, steps=8)


@pytest.mark.skipif(not LONG, reason="takes minutes, for it waits until a silent controller counts as dead")
def test_three_hosts_share_a_sweep_and_one_of_them_dies_in_real_time(patient: App, postgres: PostgresServer) -> None:
    three_hosts_one_dies(patient, postgres, "three-in-real-time", trials=60, steps=40)


def test_of_three_controllers_on_one_host_one_dies(patient: App, postgres: PostgresServer) -> None:
    patient.storage = postgres.url
    command = ["x=range(12)", "steps=8", "seconds=0.1", f"{NAME}=one-host"]
    (patient.folder / "hold").touch()
    with controllers(patient, {"first": None, "second": None, "third": None}, *command) as running:
        wait_for(lambda: len(notes(patient, "start")) == 3)
        (patient.folder / "hold").unlink()
        wait_for(lambda: len({pid for *_, pid in notes(patient, "step")}) == 3)
        running["second"].kill()
        outs = {name: running[name].communicate(timeout=200) for name in ("first", "third")}
        for name, (out, err) in outs.items():
            assert running[name].returncode == 0, err
            assert "12 complete" in out
    assert_each_ended_once(postgres.trials("one-host"), 12)
    assert_nothing_lost_or_doubled(patient, 12)


@pytest.mark.parametrize("stopped", ["host", "controller"])
def test_a_controller_that_was_suspended_leaves_its_trials_to_who_took_them_over(
    quick: App, postgres: PostgresServer, stopped: str
) -> None:
    quick.storage = postgres.url
    study = f"suspended-{stopped}"
    command = ["x=range(4)", "steps=1000", "seconds=0.1", "hydra.launcher.slots=2", f"{NAME}={study}"]
    with controllers(quick, {"first": "one"}, *command) as running:
        wait_for(lambda: len({number for number, *_ in notes(quick, "step")}) == 2)
        (silent,) = set(owners(postgres.trials(study), TrialState.RUNNING).values())
        # With slots to spare, for those that it takes over.
        with controllers(quick, {"second": "two"}, *command, "hydra.launcher.slots=4") as others:
            wait_for(lambda: len({number for number, *_ in notes(quick, "step")}) == 4)
            suspended = processes_of(running["first"])
            suspended = suspended if stopped == "host" else suspended[:1]
            for process in suspended:
                process.suspend()
            wait_for(lambda: len({number for number, attempt, *_ in notes(quick, "step") if attempt}) == 2)
            (quick.folder / "hurry").touch()
            if stopped == "controller":
                # Its workers find out by themselves, for they reach the study.
                wait_for(lambda: {number for number, *_ in notes(quick, "end")} == set(range(4)), seconds=200)
            for process in reversed(suspended):
                process.resume()
            outs = [process.communicate(timeout=300) for process in (running["first"], others["second"])]
            assert [running["first"].returncode, others["second"].returncode] == [0, 0], outs
    found = postgres.trials(study)
    assert_each_ended_once(found, 4)
    assert silent not in owners(found, TrialState.COMPLETE).values()
    assert [trial.user_attrs.get("graft.attempt", 0) for trial in found] == [1, 1, 0, 0]
    first, second = (out for out, _ in outs)
    assert first.count("another controller has taken the trial over") == 2, first
    assert "another controller has taken" not in second
    # Each came to its end once: what the suspended one had under way was ended on its return.
    assert Counter(number for number, *_ in notes(quick, "end")) == dict.fromkeys(range(4), 1)


def test_a_process_lives_whatever_is_done_to_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = liveness.here(left=False)
    told = psutil.Process.create_time
    # The system tells when it was started by its clock, too, as soon as that is set.
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: told(self) + 3600)
    assert liveness.process_lives(shown)
    assert not liveness.process_lives({**shown, "started": shown["started"] + "0"})


def test_a_silent_controller_is_dead_when_nothing_changed_for_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(liveness.time, "monotonic", lambda: now)
    elsewhere = {"host": "elsewhere", "pid": 1, "started": 0.0, "left": False}
    watch = liveness.Watch()
    # Its clock is an hour late, or early: that says nothing.
    for beat in (time.time() - 3600, time.time() + 3600):
        assert watch.alive("c", {**elsewhere, "beat": beat})
        now += 119
        assert watch.alive("c", {**elsewhere, "beat": beat})
    now += 2
    assert not watch.alive("c", {**elsewhere, "beat": beat})
    # Whoever could not look must not take that for the silence of others.
    watch.start_over()
    assert watch.alive("c", {**elsewhere, "beat": beat})
    assert not watch.alive("c", {**elsewhere, "beat": beat, "left": True})
