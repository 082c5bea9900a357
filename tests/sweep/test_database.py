"""A database server that is stopped in the middle of a sweep: real sweeps, and a real PostgreSQL."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError, ProgrammingError
from tests.sweep.apps import (
    LONG,
    STEPS_APP,
    App,
    assert_nothing_lost_or_doubled,
    notes,
    read_until,
    steps_app,
    wait_for,
)
from tests.sweep.postgres_server import PostgresServer

from graft.sweep import database
from graft.sweep.database import Outage, Patience, ServerStorage, connect_args, does_not_answer
from graft.sweep.storage import DatabaseFailed

NAME = "hydra.sweeper.study_name"


@pytest.fixture
def on_postgres(steps: App, postgres: PostgresServer) -> App:
    steps.storage = postgres.url
    return steps


def assert_all_complete(server: PostgresServer, study: str, trials: int, steps: int) -> None:
    found = server.trials(study)
    assert [(trial.state, trial.values) for trial in found] == [(TrialState.COMPLETE, [x]) for x in range(trials)]
    for trial in found:
        assert trial.intermediate_values == {step: step / steps for step in range(steps)}


@pytest.mark.parametrize("immediate", [False, True], ids=["fast", "immediate"])
def test_postgresql_restarted_in_the_middle_the_sweep_waits_and_goes_on(
    on_postgres: App, postgres: PostgresServer, immediate: bool
) -> None:
    name = f"restart-{immediate}"
    running = on_postgres.start("x=range(6)", "steps=100", "seconds=0.1", "hydra.launcher.slots=2", f"{NAME}={name}")
    wait_for(lambda: len(notes(on_postgres, "step")) >= 8)
    postgres.stop(immediate=immediate)
    try:
        # What runs goes on, and is over before the database is back.
        (on_postgres.folder / "hurry").touch()
        wait_for(lambda: len(notes(on_postgres, "end")) >= 2)
        printed = read_until(running, "The study's database does not answer (")
        time.sleep(1)
        assert len(notes(on_postgres, "start")) == 2
    finally:
        postgres.start()
    assert running.stdout is not None
    assert running.stderr is not None
    with running:
        out, err = printed + running.stdout.read(), running.stderr.read()
    assert running.returncode == 0, err
    assert out.count("The study's database does not answer (") == 1, out
    assert out.count("The study's database answers again after ") == 1
    assert_all_complete(postgres, name, 6, 100)
    assert_nothing_lost_or_doubled(on_postgres, 6)
    assert all("graft.attempt" not in trial.user_attrs for trial in postgres.trials(name))


@pytest.mark.parametrize("controllers", [1, 2])
def test_restarts_while_trials_are_claimed_and_recorded_all_the_time(
    on_postgres: App, postgres: PostgresServer, controllers: int
) -> None:
    trials, restarts = (400, 20) if LONG else (120, 3)
    name = f"claims-{controllers}"
    command = [f"x=range({trials})", "steps=2", "seconds=0", "hydra.launcher.slots=4", f"{NAME}={name}"]
    running = [on_postgres.start(*command) for _ in range(controllers)]
    wait_for(lambda: len({pid for *_, pid in notes(on_postgres, "step")}) >= 4 * controllers)
    restart_again_and_again(on_postgres, postgres, restarts)
    for each in running:
        out, err = each.communicate(timeout=240)
        assert each.returncode == 0, err
        assert f"{trials} complete" in out
    assert_all_complete(postgres, name, trials, 2)
    assert_nothing_lost_or_doubled(on_postgres, trials)
    assert len(notes(on_postgres, "end")) == trials


def test_restarts_while_values_are_sampled(on_postgres: App, postgres: PostgresServer) -> None:
    command = ["y=interval(0,1)", "hydra.sweeper.n_trials=60", "hydra.sweeper.seed=1", "hydra.sweeper.pruner=hyperband"]
    running = on_postgres.start(*command, "steps=2", "seconds=0", "hydra.launcher.slots=2", f"{NAME}=sampled")
    wait_for(lambda: bool(notes(on_postgres, "step")))
    restart_again_and_again(on_postgres, postgres, 3)
    _, err = running.communicate(timeout=240)
    assert running.returncode == 0, err
    found = postgres.trials("sampled")
    assert all(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in found)
    assert len({trial.params["y"] for trial in found}) == 60
    assert all(trial.intermediate_values for trial in found)


def restart_again_and_again(app: App, server: PostgresServer, times: int) -> None:
    """Restarts the server in this way and in that, for no time and for some, each time after a few trials more."""
    for count in range(times):
        done = len(notes(app, "start"))
        wait_for(lambda done=done: len(notes(app, "start")) > done + 3)  # type: ignore[misc]
        server.stop(immediate=count % 2 == 0)
        time.sleep(0.6 * (count % 3))
        server.start()


LOST = """
    import functools
    from sqlalchemy.exc import OperationalError
    from graft.sweep.database import ServerStorage

    once = ServerStorage._in_one_transaction
    taken = set()

    def lose(work):
        result = work()
        if {after_commit}:
            return result
        raise OperationalError("a statement", None, Exception("the connection is lost"))

    @functools.wraps(once)
    def lossy(self, lock, work):
        # Every step of the sweep is taken twice: when it was first taken, its connection was lost.
        first = self.patience is not None and work not in taken
        taken.add(work)
        result = once(self, lock, functools.partial(lose, work) if first else work)
        if first:
            raise OperationalError("COMMIT", None, Exception("the connection is lost"))
        return result

    ServerStorage._in_one_transaction = lossy
"""


@pytest.mark.parametrize("after_commit", [True, False], ids=["committed", "undone"])
def test_a_step_whose_connection_is_lost_is_taken_once(
    tmp_path: Path, postgres: PostgresServer, after_commit: bool
) -> None:
    app = steps_app(tmp_path, LOST.format(after_commit=after_commit) + STEPS_APP)
    app.storage = postgres.url
    name = f"lost-{after_commit}"
    done = app.run("x=range(4)", "die_at=1", "hydra.launcher.slots=2", f"{NAME}={name}")
    assert done.status == 0, done.err
    assert_all_complete(postgres, name, 4, 3)
    assert_nothing_lost_or_doubled(app, 4)
    attributes = [trial.user_attrs for trial in postgres.trials(name)]
    assert [(each["graft.attempt"], each["graft.deaths"]) for each in attributes] == [(1, 1)] * 4


def test_ctrl_c_twice_ends_a_sweep_that_waits_and_the_same_command_goes_on(
    on_postgres: App, postgres: PostgresServer
) -> None:
    command = ["x=range(4)", "steps=40", "seconds=0.05", "hydra.launcher.slots=2", f"{NAME}=waits"]
    running = on_postgres.start(*command)
    wait_for(lambda: len(notes(on_postgres, "step")) >= 8)
    postgres.stop()
    try:
        time.sleep(1)
        running.send_signal(signal.SIGINT)
        # It is told to the trials, which end at their next step; that they did cannot be recorded.
        read_until(running, "Press Ctrl-C again")
        wait_for(lambda: len(notes(on_postgres, "step")) == len(_after(on_postgres, 0.5)))
        assert running.poll() is None
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=240)
    finally:
        postgres.start()
    assert running.returncode == 130, err
    assert "To go on:\n  python app.py -m hydra/sweeper=graft" in out
    assert "was interrupted while its database did not answer" in err
    assert "Traceback" not in err
    done = on_postgres.run(*command, "seconds=0.001")
    assert done.status == 2  # another sweep, for its settings are others
    assert "config.seconds: was 0.05" in done.err
    again = on_postgres.run(*command)
    assert again.status == 0, again.err
    assert_nothing_lost_or_doubled(on_postgres, 4)


def _after(app: App, seconds: float) -> list[list[int]]:
    time.sleep(seconds)
    return notes(app, "step")


def test_a_database_that_refuses_ends_the_sweep_with_words(on_postgres: App, postgres: PostgresServer) -> None:
    running = on_postgres.start("x=range(4)", "steps=30", "seconds=0.1", f"{NAME}=refused")
    wait_for(lambda: len(notes(on_postgres, "step")) >= 2)
    postgres.query("ALTER TABLE trials RENAME TO gone")
    try:
        out, err = running.communicate(timeout=240)
    finally:
        postgres.query("ALTER TABLE gone RENAME TO trials")
    assert running.returncode == 1, err
    assert "The study's database failed: " in err
    assert "Traceback" not in err
    assert "To go on:" in out
    assert "does not answer" not in out


def test_a_step_is_all_or_nothing_and_its_lock_is_lost_with_it(postgres: PostgresServer) -> None:
    storage = ServerStorage(postgres.url, 10)
    usual = RDBStorage(postgres.url)
    try:
        study = storage.create_new_study([], "all-or-nothing")

        def step() -> None:
            storage.set_study_user_attr(study, "first", 1)
            assert usual.get_study_user_attrs(study) == {}
            postgres.query("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted")
            storage.set_study_user_attr(study, "second", 2)

        with pytest.raises(DatabaseFailed, match="does not answer"):
            storage.in_one_transaction(("graft.controllers", "s"), step)
        assert usual.get_study_user_attrs(study) == {}
        storage.in_one_transaction(("graft.controllers", "s"), lambda: storage.set_study_user_attr(study, "third", 3))
        assert usual.get_study_user_attrs(study) == {"third": 3}
    finally:
        for each in (storage, usual):
            each.remove_session()
            each.engine.dispose()


def test_a_database_that_answers_and_fails_is_asked_again_however_long_that_lasts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A disk that is full for an hour: every call fails, and between them the server answers."""
    monkeypatch.setattr(database, "TRY_AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(database, "TICK_SECONDS", 60.0)  # so long no machine is so busy that it would be too long

    def too_long() -> None:
        raise TimeoutError

    outage = Outage(create_engine("sqlite://"), Patience(lambda line: None, too_long))
    for _ in range(1100):
        outage.wait(OSError("No space left on device"))


def test_how_long_silence_is_borne_is_the_urls_to_say() -> None:
    assert connect_args("postgresql+psycopg://u@h/d", 3)["connect_timeout"] == 3
    assert "connect_timeout" not in connect_args("postgresql+psycopg://u@h/d?connect_timeout=60", 3)


def test_what_a_connection_fails_for() -> None:
    def failed(text: str, code: str | None = None) -> OperationalError:
        origin = Exception(text)
        origin.sqlstate = code  # type: ignore[attr-defined]
        return OperationalError("statement", None, origin)

    assert does_not_answer(failed("connection failed: Connection refused"))
    assert does_not_answer(failed("FATAL: the database system is starting up"))
    assert does_not_answer(failed("terminating connection due to administrator command", "57P01"))
    assert not does_not_answer(failed('FATAL: password authentication failed for user "graft"'))
    assert not does_not_answer(failed('FATAL: database "studies" does not exist'))
    assert not does_not_answer(ProgrammingError("statement", None, Exception("permission denied for table trials")))
    assert not does_not_answer(ValueError("no"))
