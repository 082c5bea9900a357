"""What a running trial does while its study cannot be reached, or is another controller's."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.trial import TrialState

from graft import trial
from graft.sweep import liveness, reporting
from graft.sweep.reporting import Reporter, Ticket
from graft.sweep.storage import open_storage


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    """A study with one trial, which the controller `me` runs."""
    study = optuna.create_study(study_name="s", storage=open_storage(str(tmp_path / "study.journal")))
    study.ask().set_user_attr("graft.owner", "me")
    return study


@pytest.fixture
def reporter(study: optuna.Study, tmp_path: Path) -> Reporter:
    storage = str(tmp_path / "study.journal")
    pruner = {"name": "ThresholdPruner", "options": {"lower": 0.0}}
    return Reporter(Ticket("s", 0, 0, str(tmp_path), {}, storage, "s", 0, "me", ("minimize",), pruner))


@pytest.fixture
def outage(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Turns an outage of the study on and off; with its end, the time for which it is left alone is over."""
    usual = JournalStorage.set_trial_intermediate_value
    now = [0.0]
    monkeypatch.setattr(reporting.time, "monotonic", lambda: now[0])
    calls: list[int] = []

    def fails(self: JournalStorage, trial_id: int, step: int, value: float) -> None:
        calls.append(step)
        assert len(calls) == 1, "it was to be left alone"
        raise OSError("gone")

    def turn(on: bool) -> None:
        now[0] += 3600.0
        calls.clear()
        replacement: Any = fails if on else usual
        monkeypatch.setattr(JournalStorage, "set_trial_intermediate_value", replacement)

    return turn


def test_what_could_not_be_stored_is_stored_later_and_in_order(
    study: optuna.Study, reporter: Reporter, outage: Callable[[bool], None], caplog: pytest.LogCaptureFixture
) -> None:
    reporter.report(0, 1.0)
    outage(True)
    for step in range(1, 4):
        # Below the pruner's threshold; but there is nobody to ask.
        reporter.report(step, -1.0)
        assert not reporter.should_prune()
    assert study.trials[0].intermediate_values == {0: 1.0}
    assert reporter.unstored() == [(1, -1.0), (2, -1.0), (3, -1.0)]
    outage(False)
    reporter.report(4, -1.0)
    assert list(study.trials[0].intermediate_values) == [0, 1, 2, 3, 4]
    assert reporter.should_prune()
    assert reporter.unstored() == []
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        "trial 0 could not store an intermediate value: OSError: gone",
        "trial 0 can store values again, and has stored 3 late",
    ]


def test_no_more_is_kept_than_there_is_room_for(
    reporter: Reporter, outage: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "MOST_KEPT", 2)
    outage(True)
    for step in (0, 1, 2, 1):
        reporter.report(step, 0.5 + step)
    assert reporter.unstored() == [(2, 2.5), (1, 1.5)]


def test_an_attempt_ends_when_others_have_the_trial(
    study: optuna.Study, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "BEAT_SECONDS", 0.0)
    trial_id = study.trials[0]._trial_id
    assert not reporter.superseded()
    study._storage.set_trial_user_attr(trial_id, "graft.attempt", 1)
    assert reporter.superseded()
    study._storage.set_trial_user_attr(trial_id, "graft.attempt", 0)
    assert not reporter.superseded()
    study._storage.set_trial_state_values(trial_id, TrialState.WAITING)
    assert reporter.superseded()


def test_a_ticket_that_cannot_be_read_is_not_taken_for_the_last_jobs(
    reporter: Reporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A third-party launcher may run job after job in one process."""
    ticket = tmp_path / "0.json"
    ticket.write_text(reporter.ticket.to_json())
    monkeypatch.setenv(trial.TICKET_VARIABLE, str(ticket))
    assert trial.current() == reporter.ticket.trial()
    monkeypatch.setenv(trial.TICKET_VARIABLE, str(tmp_path / "1.json"))
    with pytest.raises(FileNotFoundError):
        trial.current()
    assert trial.current() is None
    monkeypatch.delenv(trial.TICKET_VARIABLE)
    assert trial.current() is None
