"""The same sweep over each kind of storage, killed and resumed once."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from tests.sweep.apps import App

from graft.errors import ConfigError, Unwritable
from graft.sweep import journal
from graft.sweep.storage import open_storage, resolve_storage

APP = """
    import time
    import hydra
    from graft import trial

    @hydra.main(version_base=None, config_path=".", config_name="config")
    def main(config):
        for step in range(3):
            time.sleep(0.05)
            trial.report(step, config.x + step)
            if trial.should_stop():
                break
        with open("log", "a") as log:
            log.write(f"{trial.current().number}\\n")
        return config.x

    if __name__ == "__main__":
        main()
"""


@pytest.fixture(params=["journal", "sqlite", "postgres"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres").url)
    return {"journal": str(tmp_path / "other.journal"), "sqlite": f"sqlite:///{tmp_path}/study.db"}[request.param]


def test_a_sweep_is_killed_and_resumed_on_every_storage(make_app: Callable[[str], App], storage: str) -> None:
    app = make_app(APP)
    (app.folder / "config.yaml").write_text("x: 0.0\nkind: 0\n")
    command = [
        "kind=1,2", "x=interval(0,1)", "hydra.sweeper.n_trials=4", "hydra.sweeper.study_name=on-storage",
        "hydra.launcher.slots=2", f"hydra.sweeper.storage='{storage}'", "hydra.sweeper.pruner=hyperband",
    ]  # fmt: skip
    first = app.start(*command)
    while not app.lines():
        assert first.poll() is None, first.communicate()
        time.sleep(0.02)
    first.kill()
    first.communicate()
    done = app.run(*command)
    assert done.status == 0, done.err
    assert "could not" not in done.out
    open_storage.cache_clear()
    opened = open_storage(storage)
    by_kind = {kind: optuna.load_study(study_name=f"on-storage/kind={kind}", storage=opened).trials for kind in (1, 2)}
    if isinstance(opened, RDBStorage):
        # Left to the garbage collector, open connections are warnings, and so errors in some later test.
        opened.remove_session()
        opened.engine.dispose()
    for trials in by_kind.values():
        assert len(trials) == 4
        assert all(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in trials)
        assert all(trial.intermediate_values for trial in trials)
    assert set(app.lines()) == {str(number) for number in range(8)}


def test_a_storage_that_cannot_be_opened_is_refused(make_app: Callable[[str], App]) -> None:
    app = make_app(APP)
    (app.folder / "config.yaml").write_text("x: 0.0\n")
    at = "127.0.0.1:1/nowhere?connect_timeout=2"
    for url, shown in (
        (f"postgresql+psycopg://graft:topsecret@{at}", f"postgresql+psycopg://***@{at}"),
        (f"postgresql+psycopg://graft:top/se'cret topsecret@{at}", f"postgresql+psycopg://***@{at}"),
        (f"postgresql+psycopg://{at}&user=graft&password=topsecret", f"{at}&user=graft&password=***"),
    ):
        done = app.run("x=1,2", f'hydra.sweeper.storage="{url}"')
        assert done.status == 2, done.err
        assert "hydra.sweeper.storage=postgresql+psycopg://" in done.err
        assert shown in done.err
        assert "postgresql+psycopg://USER@HOST/DATABASE" in done.err
        assert "topsecret" not in done.err
    assert app.lines() == []


@pytest.mark.parametrize(("name", "sign"), [("a%20b.db", "%20"), ("a.db?timeout=5", "?")])
def test_an_address_that_means_another_file_is_refused(make_app: Callable[[str], App], name: str, sign: str) -> None:
    app = make_app(APP)
    (app.folder / "config.yaml").write_text("x: 0.0\n")
    before = sorted(app.folder.iterdir())
    done = app.run("x=1,2", f"hydra.sweeper.storage='sqlite:///{app.folder}/{name}'")
    assert done.status == 2
    assert f"hydra.sweeper.storage=sqlite:///{app.folder}/{name}: {sign} means something else" in done.err
    assert sorted(app.folder.iterdir()) == before


def test_no_error_of_the_sweeper_tells_a_storage_from_the_environment(make_app: Callable[[str], App]) -> None:
    app = make_app(APP)
    (app.folder / "config.yaml").write_text("x: 0.0\n")
    app.environment["GRAFT_TEST_STORAGE"] = url = f"sqlite:///{app.folder}/topsecret.db"
    optuna.create_study(storage=url, study_name="mine").set_user_attr("whose", "theirs")
    done = app.run("x=1,2", "hydra.sweeper.storage='${oc.env:GRAFT_TEST_STORAGE}'", "hydra.sweeper.study_name=mine")
    assert done.status == 2, done.err
    assert "hydra.sweeper.study_name=mine exists in ${oc.env:GRAFT_TEST_STORAGE}" in done.err
    assert "topsecret" not in done.err


def test_paths_are_made_absolute(tmp_path: Path) -> None:
    assert resolve_storage(None, tmp_path) == f"{tmp_path}/multirun/optuna.journal"
    assert resolve_storage("a/b.journal", tmp_path) == f"{tmp_path}/a/b.journal"
    assert resolve_storage("sqlite:///a.db", tmp_path) == f"sqlite:///{tmp_path}/a.db"
    assert resolve_storage("sqlite:////a.db", tmp_path) == "sqlite:////a.db"
    assert resolve_storage("postgresql://h/d", tmp_path) == "postgresql://h/d"


def test_a_line_that_a_power_cut_tore_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    study = optuna.create_study(study_name="s", storage=open_storage(str(path)))
    study.optimize(lambda trial: 1.0, n_trials=2)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code":4,"work')
    open_storage.cache_clear()
    again = optuna.load_study(study_name="s", storage=open_storage(str(path)))
    again.optimize(lambda trial: 1.0, n_trials=1)
    assert path.read_bytes().startswith(whole + b"{")
    open_storage.cache_clear()
    assert len(optuna.load_study(study_name="s", storage=open_storage(str(path))).trials) == 3


def test_what_a_full_disk_took_of_a_line_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "study.journal"
    study = optuna.create_study(study_name="s", storage=open_storage(str(path)))
    study.optimize(lambda trial: 1.0, n_trials=1)
    whole = path.read_bytes()

    def take_half(file: io.FileIO, content: bytes) -> None:
        file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(journal, "_write_all", take_half)
        with pytest.raises(Unwritable, match=f"{path}: No space left on device. Please make room"):
            study.set_user_attr("a", 1)
    assert path.read_bytes() == whole
    study.set_user_attr("a", 2)
    open_storage.cache_clear()
    assert optuna.load_study(study_name="s", storage=open_storage(str(path))).user_attrs == {"a": 2}


@pytest.mark.parametrize("missing", [1, 5000])
def test_an_sqlite_file_that_lacks_its_end_is_refused(tmp_path: Path, missing: int) -> None:
    path = tmp_path / "study.db"
    opened = open_storage(f"sqlite:///{path}")
    assert isinstance(opened, RDBStorage)
    optuna.create_study(study_name="s", storage=opened)
    opened.remove_session()
    opened.engine.dispose()
    open_storage.cache_clear()
    os.truncate(path, path.stat().st_size - missing)
    with pytest.raises(ConfigError, match=f"{path} is damaged: its end is missing|malformed"):
        open_storage(f"sqlite:///{path}")


def test_many_may_open_a_new_sqlite_file_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    at_once = threading.Barrier(8)

    def open_it(_: int) -> BaseStorage:
        at_once.wait()
        return open_storage.__wrapped__(url)  # each its own, as in processes of their own

    with ThreadPoolExecutor(8) as pool:
        for opened in pool.map(open_it, range(8)):
            assert isinstance(opened, RDBStorage)
            opened.remove_session()
            opened.engine.dispose()


def test_a_journal_that_is_damaged_is_refused_and_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    path.write_text('{"op_code":\n{"op_code":4}\n')
    with pytest.raises(ConfigError, match=f"hydra.sweeper.storage={path} is damaged at line 1"):
        open_storage(str(path))
    assert path.read_text() == '{"op_code":\n{"op_code":4}\n'


def test_optuna_itself_reads_the_journal(tmp_path: Path) -> None:
    path = str(tmp_path / "study.journal")
    optuna.create_study(study_name="s", storage=open_storage(path)).optimize(lambda trial: 1.0, n_trials=2)
    theirs = JournalStorage(JournalFileBackend(path))
    assert len(optuna.load_study(study_name="s", storage=theirs).trials) == 2


def journal_of_two_trials(file: Path) -> list[bytes]:
    """Its lines. The last finishes the second trial."""
    open_storage.cache_clear()
    study = optuna.create_study(storage=open_storage(str(file)), study_name="sweep")
    for value in (1.0, 2.0):
        study.tell(study.ask(), value)
    return file.read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize(
    "foreign",
    [
        b"<<<<<<< HEAD",
        b"\xff\xfe",
        b"null",
        b"{}",
        b"[" * 100000,
        b"9" * 5000,
        b'{"op_code":99}',
        b'{"op_code":6,"worker_id":"x","trial_id":1,"state":9,"values":null}',
    ],
    ids=lambda line: line[:20].decode(errors="replace"),
)
def test_a_damaged_line_of_a_journal_is_named_and_what_is_before_it_can_be_kept(tmp_path: Path, foreign: bytes) -> None:
    file = tmp_path / "study.journal"
    lines = journal_of_two_trials(file)
    file.write_bytes(b"".join([*lines[:-1], foreign + b"\n", lines[-1]]))
    open_storage.cache_clear()
    with pytest.raises(
        ConfigError, match=rf"{file} is damaged at line {len(lines)}: .* head -n {len(lines) - 1} {file}"
    ):
        optuna.load_study(study_name="sweep", storage=open_storage(str(file)))
    kept = tmp_path / "kept.journal"
    kept.write_bytes(subprocess.run(["head", "-n", str(len(lines) - 1), file], capture_output=True, check=True).stdout)
    states = [trial.state for trial in optuna.load_study(study_name="sweep", storage=open_storage(str(kept))).trials]
    assert states == [TrialState.COMPLETE, TrialState.RUNNING]


def test_what_a_full_disk_left_of_a_line_costs_the_next_writer_nothing(tmp_path: Path) -> None:
    file = tmp_path / "study.journal"
    journal_of_two_trials(file)
    study = optuna.load_study(study_name="sweep", storage=open_storage(str(file)))
    with file.open("ab") as torn:
        torn.write(b'{"op_code":4,"worker')
    study.tell(study.ask(), 3.0)
    open_storage.cache_clear()
    again = optuna.load_study(study_name="sweep", storage=open_storage(str(file)))
    assert [trial.value for trial in again.trials] == [1.0, 2.0, 3.0]
