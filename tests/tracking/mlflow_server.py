"""A real `mlflow server`, which can be killed and started again, and a line to it that can be cut."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from mlflow.tracking import MlflowClient

from graft.config import TrackingConfig


class MlflowServer:
    """`mlflow server` on its own SQLite file and folder of artifacts, on one port of 127.0.0.1 for all its lives."""

    def __init__(self, folder: Path, database: Path) -> None:
        self._folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        shutil.copy(database, folder / "server.db")

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri)

    def tracking(self, experiment: str) -> TrackingConfig:
        return TrackingConfig(uri=self.uri, artifacts=None, experiment=experiment)

    @property
    def running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        assert self._process is None
        command = [str(Path(sys.executable).with_name("mlflow")), "server", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self._folder}/server.db"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
                return
            time.sleep(0.1)
        raise AssertionError((self._folder / "server.log").read_text())

    def kill(self) -> None:
        """As a power cut does."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


class Line:
    """A port of 127.0.0.1 that passes everything on to a server, until it is told otherwise.

    Args:
        port: The server's.
    """

    def __init__(self, port: int) -> None:
        self._server = port
        self._port = free_port()
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self._to_lose: list[bytes] = []
        self.up()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def lost(self) -> bool:
        """Whether all answers that were to get lost did."""
        return not self._to_lose

    def lose_answers_to(self, request: str, times: int) -> None:
        """Hangs up, once the server has done its work, on the next requests that have `request` in them."""
        self._to_lose = [request.encode()] * times

    def up(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self._port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def down(self) -> None:
        """Connections are cut, and new ones refused, as if the server were dead."""
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = listener.accept()
                threading.Thread(target=self._pass_on, args=(caller,), daemon=True).start()

    def _pass_on(self, caller: socket.socket) -> None:
        lose = threading.Event()
        with caller, socket.create_connection(("127.0.0.1", self._server)) as server, contextlib.suppress(OSError):
            self._open.add(caller)
            threading.Thread(target=self._answer, args=(server, caller, lose), daemon=True).start()
            while request := caller.recv(1 << 20):
                if self._to_lose and self._to_lose[0] in request:
                    self._to_lose.pop()
                    lose.set()
                server.sendall(request)
        self._open.discard(caller)

    def _answer(self, server: socket.socket, caller: socket.socket, lose: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while answer := server.recv(1 << 20):
                if lose.is_set():
                    break
                caller.sendall(answer)
            caller.shutdown(socket.SHUT_RDWR)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
