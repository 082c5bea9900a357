"""`mlflow server` on 127.0.0.1, whose record is in PostgreSQL and whose artifacts are in a folder that it serves."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from graft.cluster.postgresql import RECORD, PostgreSQL
from graft.cluster.processes import Log, has_ended, wait_until
from graft.cpus import usable_cpus
from graft.errors import FatalError

MARK = "GRAFT_CLUSTER"
"""Environment variable of each of its processes that holds the cluster's folder: the first one starts others, which may
outlive it and keep its port."""

MOST_WORKERS = 4
"""Processes that answer. MLflow's own number; each takes 300 MB, and more than there are CPUs answer no faster."""

STOP_PATIENCE_SECONDS = 20


@dataclass(frozen=True)
class MlflowServer:
    """The server whose artifacts lie in a folder.

    Attributes:
        folder: Of the cluster.
        port: Where it listens, or will.
        database: Has its record.
    """

    folder: Path
    port: int
    database: PostgreSQL

    name = "MLflow"
    variable = "MLFLOW_PORT"

    @property
    def log(self) -> Log:
        return Log(self.folder / "mlflow.log")

    @property
    def where(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def process(self) -> psutil.Process | None:
        """The process that the others depend on, if it lives."""
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                if "--artifacts-destination" in process.cmdline():
                    return process
        return None

    def clear_away(self) -> None:
        """Ends what outlived a server that was killed."""
        left = self._processes()
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        if not has_ended(self._processes, STOP_PATIENCE_SECONDS, left):
            numbers = ", ".join(str(process.pid) for process in self._processes())
            raise FatalError(f"Processes of an earlier MLflow server do not end: {numbers}")

    def start(self) -> None:
        """Starts it; MLflow makes its tables, or brings them up to date, before it answers."""
        artifacts = self.folder / "artifacts"
        artifacts.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", str(min(MOST_WORKERS, usable_cpus()))]
        command += ["--backend-store-uri", self.database.url(RECORD)]
        command += ["--serve-artifacts", "--artifacts-destination", artifacts.as_uri()]
        command += ["--uvicorn-opts=--no-access-log"]  # workers that log every epoch would fill the disk with it
        # Without MLflow's variables, which turn off its checks of hosts and origins among other things.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        environment |= {
            MARK: str(self.folder),
            "PGPASSFILE": str(self.database.pgpass),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # for language models; more processes, files in /dev/shm
        }
        with self.log.open() as log:
            server = subprocess.Popen(
                command,
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self.answers, server, self)

    def answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)  # past any proxy
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def stop(self) -> None:
        """Lets requests that it works on end; returns when it is gone."""
        process, everything = self.process(), self._processes()
        if process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGTERM)
            has_ended(self._processes, STOP_PATIENCE_SECONDS, everything)
        self.clear_away()

    def _processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):  # it ended, or is another user's
                if process.environ().get(MARK) == str(self.folder):
                    found.append(process)
        return found
