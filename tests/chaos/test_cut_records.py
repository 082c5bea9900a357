"""Records cut off at any byte: a journal, an SQLite file of studies, a run's own record, MLflow's database."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from optuna.storages import RDBStorage
from optuna.storages.journal._storage import JournalOperation
from optuna.trial import TrialState
from tests.chaos.ledger import Doubled, chance, injected
from tests.sweep.apps import LONG

from graft.config import TrackingConfig
from graft.errors import ConfigError, FatalError
from graft.sweep import presence
from graft.sweep.identity import Identity
from graft.sweep.liveness import here
from graft.sweep.opening import open_sweep
from graft.sweep.options import SweepOptions
from graft.sweep.outcome import Outcome, State
from graft.sweep.overrides import read_space
from graft.sweep.storage import file_of, open_storage
from graft.sweep.study import SweepStudy
from graft.tracking import mlflow_recorder
from graft.tracking.local_record import LocalRecord
from graft.tracking.mlflow_recorder import MlflowRecorder
from graft.tracking.mlflow_store import open_store
from hydra_plugins.graft.config import GraftSweeperConf

TRIALS = 8
EPOCHS = 6


def cut_somewhere(file: Path, at: float) -> int:
    """Cuts `file` at a part of its length from 0 to 1, and says how many bytes are left."""
    left = int(at * file.stat().st_size)
    os.truncate(file, left)
    return left


# A study -------------------------------------------------------------------------------------------


@contextmanager
def sweep_on(storage: str) -> Iterator[SweepStudy]:
    """The sweep that all of these studies hold, as a controller opens it."""
    options = {**OmegaConf.to_container(OmegaConf.structured(GraftSweeperConf)), "study_name": "mine"}  # type: ignore[dict-item]
    try:
        yield open_sweep(
            storage=storage,
            job_name="app",
            space=read_space([f"x=range({TRIALS})"], {}, n_trials=None, config_loader=None),  # type: ignore[arg-type]
            options=SweepOptions.check(options),
            identity=Identity({"x": "all"}),
            directory=(file_of(storage) or Path(storage)).parent / "sweep",
        )
    finally:
        close(storage)


def close(storage: str) -> None:
    opened = open_storage(storage) if open_storage.cache_info().currsize else None
    if isinstance(opened, RDBStorage):
        # Left to the garbage collector, open connections are warnings, and so errors in some later test.
        opened.remove_session()
        opened.engine.dispose()
    open_storage.cache_clear()


def run_trials(sweep: SweepStudy, most: int = TRIALS) -> list[int]:
    """Claims and finishes trials, and says which."""
    ran = []
    sweep.free_orphans()
    while len(ran) < most and (claimed := sweep.claim()) is not None:
        for step in range(3):
            sweep._opened.set_trial_intermediate_value(claimed.trial_id, step, step / 3)
        sweep.finish(claimed, Outcome(State.COMPLETE, values=(float(claimed.number),)))
        ran.append(claimed.number)
    return ran


@pytest.fixture
def dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Controllers of this process show themselves as one that has died."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    monkeypatch.setattr(presence, "here", lambda *, left: {**here(left=left), "pid": gone.pid})


def half_done(storage: str) -> None:
    """A sweep with five trials that are finished and two that a dead controller ran."""
    with sweep_on(storage) as sweep:
        run_trials(sweep, 5)
        assert sweep.claim() is not None
        assert sweep.claim() is not None


def finished_in(journal: Path) -> set[int]:
    """Trials that a journal calls finished, by its lines alone."""
    lines = [json.loads(line) for line in journal.read_bytes().split(b"\n")[:-1]]
    return {
        line["trial_id"]
        for line in lines
        if line["op_code"] == JournalOperation.SET_TRIAL_STATE_VALUES and line["state"] == TrialState.COMPLETE
    }


def go_on(storage: str, finished: set[int]) -> None:
    """The next start: what is finished stays, and all the rest is done once."""
    with sweep_on(storage) as sweep:
        ran = run_trials(sweep)
        if again := finished & set(ran):
            raise Doubled(f"{again} ran again")
        assert sorted(finished | set(ran)) == list(range(TRIALS))
        assert sweep.is_done()
        assert [record.values for record in sweep.records()] == [(float(number),) for number in range(TRIALS)]


def test_a_journal_that_is_cut_anywhere_goes_on_from_its_last_whole_line(tmp_path: Path, dead: None) -> None:
    places = chance("journal")
    half_done(str(tmp_path / "whole.journal"))
    for number in range(120 if LONG else 20):
        with injected("a sweep's journal cut at any byte") as fault:
            journal = tmp_path / f"{number}.journal"
            shutil.copy(tmp_path / "whole.journal", journal)
            cut_somewhere(journal, places.random())
            go_on(str(journal), finished_in(journal))
            for line in journal.read_text().splitlines():
                json.loads(line)
            fault.repaired()


def test_zeros_that_a_power_cut_leaves_at_the_end_of_a_journal_are_dropped(tmp_path: Path, dead: None) -> None:
    places = chance("zeros")
    half_done(str(tmp_path / "whole.journal"))
    for number in range(20 if LONG else 3):
        with injected("the end of a sweep's journal overwritten with zeros") as fault:
            journal = tmp_path / f"{number}.journal"
            shutil.copy(tmp_path / "whole.journal", journal)
            size = journal.stat().st_size
            cut_somewhere(journal, places.random())
            whole = finished_in(journal)
            os.truncate(journal, size)
            go_on(str(journal), whole)
            fault.repaired()


def test_a_damaged_line_within_a_journal_is_named(tmp_path: Path, dead: None) -> None:
    places = chance("damaged line")
    half_done(str(tmp_path / "whole.journal"))
    lines = (tmp_path / "whole.journal").read_bytes().splitlines(keepends=True)
    for number in range(10 if LONG else 2):
        with injected("a line within a sweep's journal damaged") as fault:
            journal = tmp_path / f"{number}.journal"
            at = places.randrange(len(lines) - 1)
            journal.write_bytes(b"".join([*lines[:at], lines[at][: len(lines[at]) // 2] + b"\n", *lines[at + 1 :]]))
            with pytest.raises(ConfigError, match=rf"hydra\.sweeper\.storage={journal} is damaged at line"):
                go_on(str(journal), set())
            fault.named()


def test_an_sqlite_file_of_studies_that_is_cut_is_named(tmp_path: Path, dead: None) -> None:
    places = chance("sqlite")
    half_done(f"sqlite:///{tmp_path}/whole.db")
    size = (tmp_path / "whole.db").stat().st_size
    for number in range(40 if LONG else 5):
        with injected("an SQLite file of studies cut at any byte") as fault:
            database = tmp_path / f"{number}.db"
            shutil.copy(tmp_path / "whole.db", database)
            left = cut_somewhere(database, places.random())
            assert left < size
            with pytest.raises(FatalError, match=rf"{number}\.db"):
                go_on(f"sqlite:///{database}", set())
            assert database.stat().st_size == left, "what is left of it may be all that there is"
            fault.named()


# A run's record ------------------------------------------------------------------------------------


@pytest.fixture
def tracking(home: Path, migrated: Path) -> TrackingConfig:
    shutil.copy(migrated, home / "mlflow.db")
    return TrackingConfig(uri=f"sqlite:///{home}/mlflow.db", artifacts=str(home / "artifacts"), experiment="chaos")


def recorder_of(tracking: TrackingConfig, folder: Path) -> MlflowRecorder:
    return MlflowRecorder(tracking, folder, name="frozen", tags={"graft.kind": "single"})


def record_epochs(recorder: MlflowRecorder) -> None:
    recorder.log_params({"epochs": EPOCHS})
    for epoch in range(EPOCHS):
        recorder.log_metrics({"val_accuracy": epoch / 8, "val_loss": 1.0}, step=epoch)


def test_a_runs_record_that_is_cut_anywhere_goes_on_and_doubles_nothing(
    home: Path, tracking: TrackingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_recorder, "PATIENCE_SECONDS", 0.0)
    places = chance("record")
    for number in range(40 if LONG else 4):
        with injected("a run's own record, or what it says was sent, cut at any byte") as fault:
            folder = home / "mlruns" / "runs" / str(number)
            before = recorder_of(tracking, folder)
            record_epochs(before)
            name = places.choice(["record.jsonl", "record.jsonl", "record.sent"])
            cut_somewhere(folder / name, places.random())
            # The next attempt, which died before it knew how far its predecessor was.
            after = recorder_of(tracking, folder)
            record_epochs(after)
            after.close("complete")
            client = open_store(tracking).client
            found = client.search_runs([open_store(tracking).experiment_id], max_results=1000)
            assert after.run_id is not None
            points = client.get_metric_history(after.run_id, "val_accuracy")
            if len(found) > number + 1 or len(points) > EPOCHS:
                raise Doubled(f"{len(found)} runs for {number + 1}, {len(points)} points for {EPOCHS}")
            assert sorted((point.step, point.value) for point in points) == [(e, e / 8) for e in range(EPOCHS)]
            assert LocalRecord(folder).waiting == 0
            assert client.get_run(after.run_id).info.status == "FINISHED"
            fault.repaired()


def test_mlflows_database_that_is_cut_anywhere_is_named_and_left_as_it_is(home: Path, tracking: TrackingConfig) -> None:
    places = chance("mlflow")
    whole = home / "mlflow.db"
    recorder = recorder_of(tracking, home / "mlruns" / "runs" / "one")
    record_epochs(recorder)
    recorder.close("complete")
    for number in range(40 if LONG else 4):
        with injected("MLflow's database cut at any byte") as fault:
            database = home / f"{number}.db"
            shutil.copy(whole, database)
            left = cut_somewhere(database, places.random())
            cut = TrackingConfig(uri=f"sqlite:///{database}", artifacts=tracking.artifacts, experiment="chaos")
            with pytest.raises(FatalError, match=rf"tracking\.uri={cut.uri}: MLflow cannot use it"):
                recorder_of(cut, home / "mlruns" / "runs" / f"after{number}")
            assert database.stat().st_size == left, "what is left of it may be all that there is"
            fault.named()
