"""A disk that is full: of a sweep's journal, its database and its trials; of a run, its features and its checkpoints.

It is told with the path of what was written, and with what helps; nothing half-written is taken for good; and once
there is room, the same command goes on.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from optuna.trial import TrialState
from tests.chaos.ledger import chance, injected
from tests.chaos.test_kills import TRIALS, at_work, check_sweep, command
from tests.chaos.training import Curve, curve_of, small
from tests.processes import Blow, Training
from tests.sweep.apps import LONG, App, assert_nothing_lost_or_doubled, steps_app

MakeDisk = Callable[[str], Path]
FULL = ("No space left on device", "database or disk is full")


def fill(disk: Path, leaving: int = 0) -> None:
    """Takes the room on a disk, but for so many bytes, up to a page that is begun."""
    with (disk / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while (room := shutil.disk_usage(disk).free - leaving) > 0:
            file.write(bytes(min(room, 1 << 20)))


def make_room(disk: Path) -> None:
    (disk / "filler").unlink(missing_ok=True)


@dataclass(frozen=True)
class FullFrom(Blow):
    """Fills a disk in place of a signal."""

    disk: Path = Path()

    def strike(self) -> None:
        fill(self.disk)


def assert_told(text: str, disk: Path) -> None:
    assert "Traceback" not in text, text
    assert f"{disk}" in text
    said, _, then = text.rpartition(". Please make room on that disk. ")
    assert said.endswith(FULL), text
    assert then.startswith(("Then the same command goes on.", "To go on:\n  python train.py ")), text


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_the_disk_of_a_sweeps_study_fills_up(tmp_path: Path, make_disk: MakeDisk, kind: str) -> None:
    places = chance(f"full {kind}")
    for number in range(6 if LONG else 1):
        with injected(f"the disk of a study's {kind} file full") as fault:
            disk = make_disk("2m")
            folder = tmp_path / f"{number}"
            folder.mkdir()
            app = steps_app(folder)
            app.journal = disk / "study.journal"
            app.storage = str(app.journal) if kind == "journal" else f"sqlite:///{disk}/study.db"
            # From its beginning on, or once it is at work.
            running = (at_work if places.random() < 0.7 else App.start)(app, *command())
            time.sleep(places.uniform(0, 0.7))
            fill(disk, leaving=places.randrange(0, 20_000))
            _, err = running.communicate(timeout=120)
            if running.returncode == 0:
                fault.harmless()
                continue
            assert running.returncode == 1, err
            assert_told(err, disk)
            make_room(disk)
            if kind == "journal" and app.journal.exists():
                for line in app.journal.read_text().splitlines():
                    json.loads(line)
            done = app.run(*command())
            assert done.status == 0, done.err
            if kind == "journal":
                check_sweep(app)
            else:
                assert_nothing_lost_or_doubled(app, TRIALS)
            fault.named()


def test_the_disk_of_a_sweeps_trials_fills_up(make_disk: MakeDisk) -> None:
    places = chance("full trials")
    for _ in range(6 if LONG else 1):
        with injected("the disk of a sweep, with all that its trials write, full") as fault:
            disk = make_disk("2m")
            app = steps_app(disk)
            running = at_work(app, *command(0.1))
            time.sleep(places.uniform(0, 1))
            fill(disk)
            _, err = running.communicate(timeout=120)
            if running.returncode == 0:
                fault.harmless()
                continue
            assert running.returncode == 1, err
            assert_told(err, disk)
            make_room(disk)
            if app.journal.exists() and "mine" in app.studies():
                assert all(trial.state != TrialState.FAIL for trial in app.study("mine").trials), "nobody is to blame"
            done = app.run(*command(0.1))
            assert done.status == 0, done.err
            check_sweep(app)
            fault.named()


STAGES = {
    "a checkpoint is saved": "graft.loop.checkpoints:_Series.write",
    "features are written": "graft.features.store:_add_part",
    "images are written": "graft.data.store:_fill",
    "its record is written": "graft.tracking.local_record:LocalRecord.say",
    "MLflow's database is written": "graft.tracking.mlflow_run:MlflowRun.receive",
}


MOST_CALLS = {"a checkpoint is saved": 8, "its record is written": 8, "MLflow's database is written": 12}


@pytest.mark.parametrize("stage", STAGES if LONG else ["a checkpoint is saved"])
def test_the_disk_of_a_run_fills_up(
    tmp_path: Path,
    make_disk: MakeDisk,
    tiny_backbone: Path,
    whole: Curve,
    stage: str,
) -> None:
    places = chance(f"full run {stage}")
    for _ in range(2 if LONG else 1):
        with injected(f"the disk of a run full while {stage}") as fault:
            disk = make_disk("24m")
            home = disk / "home"
            home.mkdir()
            full = FullFrom(STAGES[stage], places.randint(1, MOST_CALLS.get(stage, 1)), disk=disk)
            running = Training(small(tiny_backbone, home / "run"), home, tmp_path / "output", full)
            status = running.wait()
            assert (disk / "filler").exists(), "it was never full"
            assert status == 1, running.errors
            assert_told(running.errors, disk)
            make_room(disk)
            again = Training(small(tiny_backbone, home / "run"), home, tmp_path / "output")
            assert again.wait() == 0, again.errors
            assert curve_of(home) == whole
            fault.named()
