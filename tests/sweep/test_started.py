"""What a pruner sees of a study in a database: every trial that has started, as it is."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from omegaconf import OmegaConf
from optuna.storages import RDBStorage
from optuna.storages._rdb.models import TrialModel
from optuna.trial import FrozenTrial, TrialState, create_trial

from graft.sweep.identity import Identity
from graft.sweep.opening import open_sweep
from graft.sweep.options import SweepOptions
from graft.sweep.outcome import Outcome, State
from graft.sweep.overrides import read_space
from graft.sweep.started import started_trials
from graft.sweep.storage import open_storage
from hydra_plugins.graft.config import GraftSweeperConf

TRIALS = 12


@pytest.fixture
def database(tmp_path: Path) -> Iterator[RDBStorage]:
    storage = RDBStorage(f"sqlite:///{tmp_path}/study.db")
    yield storage
    storage.remove_session()
    storage.engine.dispose()


@pytest.mark.parametrize("seed", range(3))
def test_every_trial_that_has_started_is_seen_as_it_is(database: RDBStorage, seed: int) -> None:
    """Trials are claimed, report, end and are put back in any order, two sweeps side by side in one database."""
    draw = random.Random(seed)
    studies = [optuna.create_study(study_name=name, storage=database) for name in ("one", "two")]
    for _ in range(TRIALS):
        for study in studies:
            database.create_new_trial(study._study_id, create_trial(state=TrialState.WAITING))
    seen = [optuna.load_study(study_name=study.study_name, storage=started_trials(database)) for study in studies]
    for step in range(120):
        study, view = draw.choice(list(zip(studies, seen, strict=True)))
        trial = draw.choice([t for t in study.get_trials() if not t.state.is_finished()] or study.get_trials())
        if trial.state == TrialState.WAITING:
            # As a controller does: the next in order.
            (first, *_) = study.get_trials(states=(TrialState.WAITING,))
            database.set_trial_state_values(first._trial_id, TrialState.RUNNING)
        elif trial.state == TrialState.RUNNING:
            match draw.randrange(4):
                case 0:
                    database.set_trial_state_values(trial._trial_id, TrialState.WAITING)
                case 1:
                    database.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [float(step)])
                case _:
                    database.set_trial_intermediate_value(trial._trial_id, step, float(step))
        if step % 3 == 0:
            there = [facts(t) for t in study.get_trials() if t.state != TrialState.WAITING]
            numbers = {number for number, *_ in there}
            assert [facts(t) for t in view.get_trials() if t.number in numbers] == there
    assert any(t.state == TrialState.COMPLETE for study in studies for t in study.get_trials())


def facts(trial: FrozenTrial) -> tuple[int, TrialState, float | None, dict[int, float]]:
    return trial.number, trial.state, trial.value, trial.intermediate_values


def test_trials_that_wait_are_not_read(database: RDBStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    study = optuna.create_study(storage=database)
    for _ in range(TRIALS):
        database.create_new_trial(study._study_id, create_trial(state=TrialState.WAITING))
    view = optuna.load_study(study_name=study.study_name, storage=started_trials(database))
    read: list[int] = []
    build = RDBStorage._build_frozen_trial_from_trial_model

    def counted(self: RDBStorage, model: TrialModel) -> FrozenTrial:
        read.append(model.number)
        return build(self, model)

    monkeypatch.setattr(RDBStorage, "_build_frozen_trial_from_trial_model", counted)
    for number, trial in enumerate(study.get_trials()[:3]):
        database.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
        if number < 2:
            database.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [1.0])
    for expected in ([0, 1, 2], [2], [2]):
        read.clear()
        view.get_trials(deepcopy=False)
        assert read == expected
    again = optuna.load_study(study_name=study.study_name, storage=started_trials(database))
    read.clear()
    assert [trial.number for trial in again.get_trials(deepcopy=False)] == [0, 1, 2]
    assert read == [2]


def test_a_sampled_claim_reads_no_trial_that_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a sweep of thousands it would read thousands, for each trial that it starts."""
    storage = f"sqlite:///{tmp_path}/sweep.db"
    given = {**OmegaConf.to_container(OmegaConf.structured(GraftSweeperConf)), "n_trials": TRIALS}  # type: ignore[dict-item]
    sweep = open_sweep(
        storage=storage,
        job_name="app",
        space=read_space(["x=interval(0,1)"], {}, n_trials=TRIALS, config_loader=None),  # type: ignore[arg-type]
        options=SweepOptions.check(given),
        identity=Identity({"x": "some"}),
        directory=tmp_path,
    )
    read: list[TrialState] = []
    build = RDBStorage._build_frozen_trial_from_trial_model

    def counted(self: RDBStorage, model: TrialModel) -> FrozenTrial:
        read.append(model.state)
        return build(self, model)

    first = sweep.claim()  # for the first one it looks at all, to know which wait
    assert first is not None
    sweep.finish(first, Outcome(State.COMPLETE, (1.0,)))
    monkeypatch.setattr(RDBStorage, "_build_frozen_trial_from_trial_model", counted)
    second = sweep.claim()
    assert second is not None
    assert 0 <= second.params["x"] <= 1  # type: ignore[operator]
    # Only the one that it takes, before it takes it.
    assert read.count(TrialState.WAITING) == 1
    opened = open_storage(storage)
    assert isinstance(opened, RDBStorage)
    opened.remove_session()
    opened.engine.dispose()
    open_storage.cache_clear()
