"""Starts and stops PostgreSQL and MLflow's server.

What runs is looked for among the processes, so nothing that a crash left misleads.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import filelock

from graft import files, paths
from graft.again import graft_command, python
from graft.cluster.mlflow_server import MlflowServer
from graft.cluster.postgresql import STUDIES, PostgreSQL
from graft.cluster.processes import POLL_SECONDS, Server
from graft.errors import ConfigError, FatalError
from graft.sweep.liveness import here

DEFAULT_POSTGRES_PORT = 5442  # not 5432, where a PostgreSQL of the machine would be
DEFAULT_MLFLOW_PORT = 5000

PORT_PATIENCE_SECONDS = 20
"""After a crash: threads of a killed process may keep its port when it does not count as living any more."""


@dataclass(frozen=True)
class Cluster:
    """Both servers.

    Attributes:
        folder: Has all that is theirs.
        postgres_port: Where PostgreSQL listens, or will.
        mlflow_port: Where MLflow does.
    """

    folder: Path
    postgres_port: int
    mlflow_port: int

    @property
    def database(self) -> PostgreSQL:
        return PostgreSQL(self.folder, self.postgres_port)

    @property
    def tracking(self) -> MlflowServer:
        return MlflowServer(self.folder, self.mlflow_port, self.database)

    def usage(self) -> str:
        """What is typed to use it."""
        overrides = [
            f"hydra.sweeper.storage={self.database.url(STUDIES)}",
            "tracking=server",
            f"tracking.uri={self.tracking.where}",
        ]
        compare = graft_command("compare", "--tracking-uri", self.tracking.where)
        return "\n".join(
            [
                f"export PGPASSFILE={shlex.quote(str(self.database.pgpass))}",
                f"{python()} train.py -m trainable=true,false {shlex.join(overrides)}",
                compare,
            ]
        )


def up(postgres_port: int | None = None, mlflow_port: int | None = None) -> None:
    """Starts what does not run, waits until it answers, and prints how it is used.

    Args:
        postgres_port: Where PostgreSQL is to listen; None is where it did before a crash, or else the default. While
            one of both runs the ports stay.
        mlflow_port: Likewise MLflow.

    Raises:
        ConfigError: if something is missing, a port is taken, or they run on another machine; nothing was started.
        FatalError: if a server does not start, one that runs does not answer, or one that was killed does not end.
    """
    folder = _folder()
    if not folder.exists():
        folder.mkdir(parents=True)
        folder.chmod(0o711 if os.geteuid() == 0 else 0o700)  # another user than root gets to PostgreSQL's folder in it
    with _turn(folder):
        kept = _kept(folder)
        cluster = kept or Cluster(folder, DEFAULT_POSTGRES_PORT, DEFAULT_MLFLOW_PORT)
        if kept is None or not _running(kept):
            cluster = Cluster(folder, postgres_port or cluster.postgres_port, mlflow_port or cluster.mlflow_port)
        database, tracking = cluster.database, cluster.tracking
        to_start: list[Server] = [server for server in (database, tracking) if server.process() is None]
        if database in to_start:
            database.check()
        for server in to_start:
            server.clear_away()
        _check_ports(to_start, PORT_PATIENCE_SECONDS if kept is not None else 0)
        _keep(cluster)
        for server in (database, tracking):
            if server in to_start:
                server.start()
            elif not server.answers():
                raise FatalError(
                    f"{server.name} runs and does not answer on {server.where}; its log is {server.log.path}. "
                    "To start anew: make cluster-down cluster-up"
                )
            if server is database:
                database.make_tables()
            print(f"{server.name} {'started' if server in to_start else 'runs already'}: {server.where}", flush=True)
    print(f"\nTo use them:\n{cluster.usage()}")


def down() -> None:
    """Stops what runs, MLflow first, which needs the other; says what it did. The data stays.

    Raises:
        ConfigError: if they run on another machine.
        FatalError: if one does not end.
    """
    folder = _folder()
    if not folder.is_dir():
        print(f"Nothing runs, and there is no {folder}")
        return
    with _turn(folder):
        cluster = _kept(folder) or Cluster(folder, DEFAULT_POSTGRES_PORT, DEFAULT_MLFLOW_PORT)
        running = _running(cluster)
        servers: list[Server] = [cluster.tracking, cluster.database]
        for server in servers:
            if server in running:
                server.stop()
                print(f"{server.name} stopped: {server.where}", flush=True)
            else:
                server.clear_away()
        _kept_in(folder).unlink(missing_ok=True)
    if not running:
        print("Neither PostgreSQL nor MLflow runs")
    print(f"The data stays in {folder} until you delete that folder")


def _folder() -> Path:
    return (paths.records() / "cluster").resolve()  # as the system names it where mlruns is a link


def _running(cluster: Cluster) -> Sequence[Server]:
    servers: list[Server] = [cluster.database, cluster.tracking]
    return [server for server in servers if server.process() is not None]


def _check_ports(servers: Sequence[Server], patience: float) -> None:
    """Refuses ports that are taken, by one another too, before anything is started.

    Args:
        servers: Those that are to be started.
        patience: Seconds that a port may take to become free.
    """
    deadline = time.monotonic() + patience
    while problems := _taken(servers):
        if time.monotonic() > deadline:
            raise ConfigError(problems)
        time.sleep(POLL_SECONDS)


def _taken(servers: Sequence[Server]) -> list[str]:
    problems = []
    with ExitStack() as held:
        for server in servers:
            try:
                held.enter_context(socket.create_server(("127.0.0.1", server.port)))
            except OSError as error:
                reason = os.strerror(error.errno or 0).lower()
                problems.append(
                    f"{server.variable}={server.port}: {server.name} cannot listen there: {reason}. "
                    f"Choose another port: make cluster-up {server.variable}=PORT"
                )
    return problems


def _kept_in(folder: Path) -> Path:
    return folder / "cluster.json"


def _keep(cluster: Cluster) -> None:
    """Notes the ports, so that one server can be started again beside the other, and the machine."""
    kept = {"host": here(left=False)["host"], "postgres": cluster.postgres_port, "mlflow": cluster.mlflow_port}
    files.write(_kept_in(cluster.folder), json.dumps(kept))


def _kept(folder: Path) -> Cluster | None:
    """What was started last and not stopped; None if there is nothing.

    Raises:
        ConfigError: if it was started on another machine, which has the same folder, for two servers would ruin the
            data; and if the file does not say where.
    """
    file, here_is = _kept_in(folder), str(here(left=False)["host"])
    try:
        kept = json.loads(file.read_bytes())
        host, postgres_port, mlflow_port = str(kept["host"]), int(kept["postgres"]), int(kept["mlflow"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        # Not passed over: it alone says on which machine they run.
        raise ConfigError(
            f"{file} is damaged: it should name the machine on which the cluster was started, and its ports. Where "
            f"nothing of it runs on another machine than this one, {here_is}, delete that file; the data stays"
        ) from None
    if host != here_is:
        raise ConfigError(
            f"It was started on {host}, and this is {here_is}: two servers would ruin the data. Stop it there with "
            f"make cluster-down; if that machine or container is gone, delete {file}"
        )
    return Cluster(folder, postgres_port, mlflow_port)


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """One command at a time."""
    with filelock.FileLock(folder / "lock"):
        yield
