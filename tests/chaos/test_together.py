"""Much at once: sweeps on one journal and on one SQLite file, and sweeps and extractions on one cache."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from tests.chaos.ledger import Doubled, injected
from tests.chaos.training import small
from tests.processes import PROCESSES, Training
from tests.sweep.apps import LONG, App

from graft.features.store import features_of
from graft.sweep.storage import open_storage

SWEEPS = 8 if LONG else 4


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_sweeps_at_once_on_one_file(app: App, kind: str) -> None:
    app.storage = str(app.journal) if kind == "journal" else f"sqlite:///{app.folder}/study.db"
    for number in range(3 if LONG else 1):
        with injected(f"{SWEEPS} sweeps at once on one {kind} file") as fault:
            (app.folder / "log").unlink(missing_ok=True)
            # Every sweep has a number of its own in what its trials write down.
            commands = [
                ["x=range(5)", f"y={sweep}", f"hydra.sweeper.study_name=sweep-{number}-{sweep}"]
                for sweep in range(SWEEPS)
            ]
            running = [app.start(*each) for each in commands]
            for each in running:
                out, err = each.communicate(timeout=280)
                assert each.returncode == 0, out + err
                assert "5 complete" in out
            ran = Counter(tuple(map(float, line.split()[:2])) for line in app.lines())
            if max(ran.values()) > 1:
                raise Doubled(str(ran))
            assert len(ran) == 5 * SWEEPS
            for sweep in range(SWEEPS):
                for x, trial in enumerate(trials_of(app.storage, f"sweep-{number}-{sweep}")):
                    assert (trial.state, trial.values) == (TrialState.COMPLETE, [(x - 2) ** 2 + sweep])
            fault.repaired()


def trials_of(storage: str, study: str) -> list[optuna.trial.FrozenTrial]:
    open_storage.cache_clear()
    opened = open_storage(storage)
    try:
        return optuna.load_study(study_name=study, storage=opened).trials
    finally:
        if isinstance(opened, RDBStorage):
            # Left to the garbage collector, open connections are warnings, and so errors in some later test.
            opened.remove_session()
            opened.engine.dispose()
        open_storage.cache_clear()


DIGESTS = [str(number) for number in range(200)]


def extract(key: str, first: int, output: Path) -> None:
    asked: list[str] = []

    def backbone(rows: np.ndarray):  # type: ignore[no-untyped-def]
        for start in range(0, len(rows), 8):
            batch = [wanted[row] for row in rows[start : start + 8]]
            asked.extend(batch)
            yield np.array([[int(digest)] * 64 for digest in batch], np.float32)

    wanted = DIGESTS[first : first + 150]
    found = features_of(wanted, key, backbone).take(np.arange(150))
    assert (found[:, 0] == [int(digest) for digest in wanted]).all()
    output.write_text(json.dumps(asked))


def test_extractions_at_once_into_one_store(home: Path, tmp_path: Path) -> None:
    for number in range(10 if LONG else 2):
        with injected("two extractions of overlapping images at once") as fault:
            outputs = [tmp_path / f"{number}-{first}" for first in (0, 50)]
            at_once = [
                PROCESSES.Process(target=extract_in, args=(str(home), f"key{number}", first, output))
                for first, output in zip((0, 50), outputs, strict=True)
            ]
            for each in at_once:
                each.start()
            for each in at_once:
                each.join()
                assert each.exitcode == 0
            asked = Counter(digest for output in outputs for digest in json.loads(output.read_text()))
            if max(asked.values()) > 1:
                raise Doubled("images that were extracted twice")
            assert len(asked) == len(DIGESTS)
            fault.repaired()


def extract_in(home: str, key: str, first: int, output: Path) -> None:
    import os

    os.environ["GRAFT_HOME"] = home
    extract(key, first, output)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_sweeps_of_training_at_once_on_one_cache(tmp_path: Path, tiny_backbone: Path) -> None:
    from mlflow.tracking import MlflowClient

    for number in range(5 if LONG else 1):
        with injected("two sweeps of train.py at once in one home") as fault:
            home = tmp_path / f"home{number}"
            home.mkdir()
            common = ["-m", *small(tiny_backbone, home)[:-1], "hydra.launcher.slots=1"]
            swept = [[*common, "epochs=2", f"seed={seeds}"] for seeds in ("0,1", "2,3")]
            at_once = [Training(each, home, tmp_path / f"output{index}") for index, each in enumerate(swept)]
            for each in at_once:
                assert each.wait() == 0, each.errors + each.printed
            client = MlflowClient(f"sqlite:///{home}/mlruns/mlflow.db")
            found = client.search_runs([client.get_experiment_by_name("graft").experiment_id])
            kinds = Counter(run.data.tags["graft.kind"] for run in found)
            if kinds["trial"] > 4 or kinds["sweep"] > 2:
                raise Doubled(str(kinds))
            assert kinds == {"trial": 4, "sweep": 2}
            assert {run.info.status for run in found} == {"FINISHED"}
            assert {run.data.params["seed"] for run in found if run.data.tags["graft.kind"] == "trial"} == set("0123")
            assert len(list((home / "mlruns/cache/features").glob("*/*.npy"))) == 1, "extracted once"
            fault.repaired()
