"""A folder for records that is read-only, before a command and in the middle of one."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.trial import TrialState
from tests.chaos.ledger import chance, injected
from tests.chaos.test_kills import at_work, check_sweep, command
from tests.chaos.training import curve_of, small
from tests.processes import Training
from tests.sweep.apps import LONG, steps_app

MakeDisk = Callable[[str], Path]

NO_LOG = ("hydra.job_logging.root.handlers=[console]",)
"""A disk does not become read-only while a file on it is open for writing."""


def remount(disk: Path, mode: str) -> None:
    """The mode ``rw`` or ``ro``; one that is read-only is so for what is open for writing, too, once it is closed."""
    deadline = time.monotonic() + 60
    while subprocess.run(["mount", "-o", f"remount,{mode}", str(disk)], capture_output=True, check=False).returncode:
        assert time.monotonic() < deadline, "something is open for writing for ever"


def assert_told(text: str, disk: Path) -> None:
    assert "Traceback" not in text, text
    assert str(disk) in text
    assert "Read-only file system. Please make that disk writable" in text, text


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_a_sweep_on_a_disk_that_is_read_only(make_disk: MakeDisk, kind: str) -> None:
    for _ in range(3 if LONG else 1):
        with injected("a sweep whose folder is read-only") as fault:
            disk = make_disk("4m")
            app = steps_app(disk)
            app.storage = str(app.journal) if kind == "journal" else f"sqlite:///{disk}/study.db"
            remount(disk, "ro")
            done = app.run(*command())
            assert done.status in (1, 2)
            assert_told(done.err, disk)
            remount(disk, "rw")
            done = app.run(*command())
            assert done.status == 0, done.err
            fault.named()


def test_a_sweep_whose_folder_alone_is_on_a_disk_that_takes_nothing(make_disk: MakeDisk, tmp_path: Path) -> None:
    with injected("a sweep whose folder is read-only") as fault:
        disk = make_disk("4m")
        (tmp_path / "app").mkdir()
        app = steps_app(tmp_path / "app")
        remount(disk, "ro")
        done = app.run(*command(), f"hydra.sweep.dir={disk}/sweep")
        assert done.status == 1, "as of every disk that takes nothing: the configuration is right"
        assert_told(done.err, disk)
        assert app.studies() == []
        remount(disk, "rw")
        done = app.run(*command(), f"hydra.sweep.dir={disk}/sweep")
        assert done.status == 0, done.err
        fault.named()


def test_a_disk_that_becomes_read_only_while_a_sweep_runs(make_disk: MakeDisk) -> None:
    moments = chance("read-only")
    for _ in range(5 if LONG else 1):
        with injected("the folder of a sweep read-only from some moment on") as fault:
            disk = make_disk("4m")
            app = steps_app(disk)
            running = at_work(app, *command(0.2, *NO_LOG))
            time.sleep(moments.uniform(0, 1))
            remount(disk, "ro")
            _, err = running.communicate(timeout=120)
            remount(disk, "rw")
            if running.returncode == 0:
                fault.harmless()
                continue
            assert_told(err, disk)
            if app.journal.exists() and "mine" in app.studies():
                assert all(trial.state != TrialState.FAIL for trial in app.study("mine").trials), "nobody is to blame"
            done = app.run(*command(0.2, *NO_LOG))
            assert done.status == 0, done.err
            check_sweep(app)
            fault.named()


def test_a_run_whose_home_is_read_only(tmp_path: Path, make_disk: MakeDisk, tiny_backbone: Path) -> None:
    for elsewhere in (True, False) if LONG else (False,):
        with injected("a run whose mlruns is read-only") as fault:
            home = make_disk("24m")
            remount(home, "ro")
            # With its own folder on another disk, what is written first is in the cache.
            folder = tmp_path / "run" if elsewhere else home / "run"
            refused = Training(small(tiny_backbone, folder), home, tmp_path / "output")
            assert refused.wait() == 1, refused.errors
            assert_told(refused.errors, home)
            remount(home, "rw")
            again = Training(small(tiny_backbone, folder), home, tmp_path / "output")
            assert again.wait() == 0, again.errors
            assert curve_of(home)["test_accuracy"]
            fault.named()
