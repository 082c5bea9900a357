"""PostgreSQL and an MLflow server by `make cluster-up`: real ones, used by a sweep, killed, started again, stopped."""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import optuna
import psutil
import pytest
from mlflow.tracking import MlflowClient
from tests.conftest import backbone_at, run_command
from tests.serving import free_port
from tests.sweep.postgres_server import folder_open_to_postgres

from graft.cluster import postgresql, servers
from graft.cluster.processes import Server
from graft.errors import ConfigError
from graft.sweep.storage import open_storage

psycopg = pytest.importorskip("psycopg")


@dataclass(frozen=True)
class Started:
    """A cluster that runs, and what `up` printed."""

    home: Path
    cluster: servers.Cluster
    printed: str

    @property
    def servers(self) -> dict[str, Server]:
        return {"PostgreSQL": self.cluster.database, "MLflow": self.cluster.tracking}

    @property
    def lines(self) -> list[list[str]]:
        """What is to be typed."""
        return [shlex.split(line) for line in self.printed.split("To use them:\n")[1].splitlines()]

    @property
    def pgpass(self) -> Path:
        export, assignment = self.lines[0]
        assert export == "export"
        return Path(assignment.removeprefix("PGPASSFILE="))

    @property
    def password(self) -> str:
        return self.pgpass.read_text().strip().split(":")[4]

    def numbers(self) -> dict[str, int | None]:
        """The number of each server's process."""
        found = {name: server.process() for name, server in self.servers.items()}
        return {name: process and process.pid for name, process in found.items()}


def up(home: Path, postgres_port: int, mlflow_port: int) -> subprocess.CompletedProcess[str]:
    ports = ["--postgres-port", str(postgres_port), "--mlflow-port", str(mlflow_port)]
    # What the shell says of MLflow is for clients; this would open the server to every page that a browser shows.
    return run_command(["graft", "cluster", "up", *ports], home, MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE="true")


@pytest.fixture(scope="module")
def open_folder() -> Iterator[Path]:
    with folder_open_to_postgres("graft of a test ") as folder:
        yield folder


@pytest.fixture(scope="module")
def started(open_folder: Path) -> Iterator[Started]:
    home = open_folder / "home"
    cluster = servers.Cluster(home / "mlruns" / "cluster", free_port(), free_port())
    try:
        done = up(home, cluster.postgres_port, cluster.mlflow_port)
        assert done.returncode == 0, done.stdout + done.stderr
        yield Started(home, cluster, done.stdout)
    finally:
        run_command(["graft", "cluster", "down"], home)


@pytest.fixture(scope="module")
def swept(started: Started, tiny_backbone: Path) -> str:
    """The name of a sweep, whose command and comparison were typed as `up` printed them."""
    _, train, compare = started.lines
    words = [*train, "+size=smoke", "epochs=1", "hydra.launcher.slots=2", *backbone_at(tiny_backbone)]
    done = run_command(words, started.home, PGPASSFILE=str(started.pgpass))
    assert done.returncode == 0, done.stdout + done.stderr
    shown = run_command(compare, started.home)
    assert "fine-tuned" in shown.stdout, shown.stdout + shown.stderr
    name = re.search(r"Sweep (train-[\d-]+)", done.stdout)
    assert name is not None
    return name[1]


def test_a_sweep_has_its_study_and_its_record_there(
    started: Started, swept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert swept in studies(started, monkeypatch)
    client = MlflowClient(started.cluster.tracking.where)
    experiment = client.get_experiment_by_name("graft")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`graft.kind` = 'trial'")
    assert len(runs) == 2
    for run in runs:
        assert Path(client.download_artifacts(run.info.run_id, "config.yaml")).read_text()
        assert list((started.cluster.folder / "artifacts").rglob(f"{run.info.run_id}/artifacts/config.yaml"))
    assert not (started.home / "mlruns" / "mlflow.db").exists()


def test_the_password_is_in_its_file_alone(started: Started, swept: str) -> None:
    holders, files = [], 0
    for file in started.home.rglob("*"):
        with suppress(FileNotFoundError, IsADirectoryError):  # PostgreSQL goes on with its work
            holders += [file] if started.password.encode() in file.read_bytes() else []
            files += 1
    assert holders == [started.pgpass]
    assert files > 100
    assert len(started.password) > 30
    for name, number in started.numbers().items():
        process = psutil.Process(number)
        for each in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):  # PostgreSQL has workers that live for a moment
                assert started.password not in " ".join(each.cmdline()), name
    assert stat.S_IMODE(started.pgpass.stat().st_mode) == 0o600
    assert stat.S_IMODE(started.cluster.database.data.stat().st_mode) == 0o700
    for server in started.servers.values():
        assert stat.S_IMODE(server.log.path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("user", "password"), [("graft", None), ("graft", "wrong"), ("postgres", None), ("postgres", "the right one")]
)
def test_nobody_else_gets_in(started: Started, user: str, password: str | None, tmp_path: Path) -> None:
    password = started.password if password == "the right one" else password
    with pytest.raises(psycopg.OperationalError, match=r"no password supplied|password authentication failed"):
        psycopg.connect(
            host="127.0.0.1",
            port=started.cluster.postgres_port,
            user=user,
            dbname="graft",
            password=password,
            passfile=str(tmp_path / "none"),
        )


def test_everything_listens_on_the_loopback_alone(started: Started) -> None:
    for name, number in started.numbers().items():
        process = psutil.Process(number)
        heard = set()
        for each in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                heard |= {
                    (connection.laddr.ip, connection.laddr.port)
                    for connection in each.net_connections("inet")
                    if connection.status == psutil.CONN_LISTEN
                }
        assert heard == {("127.0.0.1", started.servers[name].port)}


@pytest.mark.parametrize("header", ["Host", "Origin"])
def test_a_page_of_elsewhere_gets_nothing_from_mlflow(started: Started, header: str) -> None:
    value = "elsewhere.example" if header == "Host" else "http://elsewhere.example"
    with closing(http.client.HTTPConnection("127.0.0.1", started.cluster.mlflow_port)) as connection:
        connection.request("POST", "/api/2.0/mlflow/experiments/search", '{"max_results": 1}', {header: value})
        assert connection.getresponse().status == http.HTTPStatus.FORBIDDEN


@pytest.mark.parametrize("killed", ["PostgreSQL", "MLflow"])
def test_what_was_killed_is_started_again_and_nothing_else(
    started: Started, swept: str, killed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = started.numbers()
    number = before.pop(killed)
    assert number is not None
    os.kill(number, signal.SIGKILL)
    # The ports of what still runs stay, whatever is asked for.
    done = up(started.home, free_port(), free_port())
    assert done.returncode == 0, done.stdout + done.stderr
    (other,) = before
    assert f"{killed} started" in done.stdout
    assert f"{other} runs already" in done.stdout
    assert done.stdout.split("To use them")[1] == started.printed.split("To use them")[1]
    after = started.numbers()
    assert after[killed] not in (None, number)
    assert after[other] == before[other]
    assert swept in studies(started, monkeypatch)
    assert MlflowClient(started.cluster.tracking.where).get_experiment_by_name("graft") is not None


def test_when_the_machine_comes_up_both_have_their_ports(started: Started, swept: str) -> None:
    for number in started.numbers().values():
        assert number is not None
        os.kill(number, signal.SIGKILL)
    done = run_command(["graft", "cluster", "up"], started.home)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == started.printed


def test_both_stop_and_the_data_stays(started: Started, swept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = f"The data stays in {started.cluster.folder}"
    done = run_command(["graft", "cluster", "down"], started.home)
    assert done.returncode == 0, done.stderr
    assert "PostgreSQL stopped" in done.stdout
    assert "MLflow stopped" in done.stdout
    assert kept in done.stdout
    assert started.numbers() == {"PostgreSQL": None, "MLflow": None}
    done = run_command(["graft", "cluster", "down"], started.home)
    assert done.returncode == 0, done.stderr
    assert "Neither PostgreSQL nor MLflow runs" in done.stdout
    assert kept in done.stdout
    started.pgpass.unlink()  # a new one is made
    done = up(started.home, started.cluster.postgres_port, started.cluster.mlflow_port)
    assert done.returncode == 0, done.stdout + done.stderr
    assert swept in studies(started, monkeypatch)


def studies(started: Started, monkeypatch: pytest.MonkeyPatch) -> str:
    """The names of all studies, read at the address and with the password that were printed."""
    monkeypatch.setenv("PGPASSFILE", str(started.pgpass))
    (url,) = (word.partition("=")[2] for word in started.lines[1] if word.startswith("hydra.sweeper.storage="))
    open_storage.cache_clear()
    storage = open_storage(url)
    names = optuna.get_all_study_names(storage)
    # Left to the garbage collector, open connections are warnings, and so errors in some later test.
    storage.remove_session()
    storage.engine.dispose()  # type: ignore[attr-defined]
    open_storage.cache_clear()
    return " ".join(names)


def test_a_port_that_is_taken_is_told_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_command(["make", "cluster-up", f"PG_PORT={free_port()}", f"MLFLOW_PORT={port}"], tmp_path)
    assert done.returncode == 2
    assert f"MLFLOW_PORT={port}: MLflow cannot listen there: address already in use. Choose" in done.stderr
    assert "PG_PORT" not in done.stderr
    assert not (tmp_path / "mlruns/cluster/postgres").exists()
    assert not (tmp_path / "mlruns/cluster/cluster.json").exists()


def test_without_postgresql_it_says_what_to_install(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(postgresql, "PACKAGED", tmp_path)
    with pytest.raises(ConfigError, match=r"PostgreSQL is not installed.*apt-get install postgresql"):
        servers.up()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has folders that PostgreSQL's user cannot get through")
def test_a_folder_that_is_closed_to_postgresql_is_named(open_folder: Path) -> None:
    closed = open_folder / "closed"
    closed.mkdir(mode=0o700)
    done = up(closed / "home", free_port(), free_port())
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"cannot get through {closed}. Open it (chmod o+x '{closed}')" in done.stderr


def test_what_runs_on_another_machine_is_left_alone(home: Path) -> None:
    folder = home / "mlruns" / "cluster"
    folder.mkdir(parents=True)
    kept = json.dumps({"host": "elsewhere", "postgres": 1, "mlflow": 2})
    (folder / "cluster.json").write_text(kept)
    for command in (servers.up, servers.down):
        with pytest.raises(ConfigError, match="started on elsewhere"):
            command()
    assert (folder / "cluster.json").read_text() == kept


@pytest.mark.parametrize("kept", ["", "{", "[]", '{"host": "here", "postgres": null, "mlflow": 2}', '{"host": "here"}'])
def test_a_damaged_note_of_what_runs_is_told(home: Path, kept: str) -> None:
    folder = home / "mlruns" / "cluster"
    folder.mkdir(parents=True)
    (folder / "cluster.json").write_text(kept)
    for command in ("up", "down"):
        done = run_command(["graft", "cluster", command], home)
        assert done.returncode == 2, done.stderr
        assert f"{folder / 'cluster.json'} is damaged" in done.stderr
        assert "delete that file" in done.stderr
        assert "Traceback" not in done.stderr
    assert (folder / "cluster.json").read_text() == kept
