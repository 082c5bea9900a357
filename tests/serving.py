"""Programs that answer over HTTP: started as they are typed, waited for, and ended with all that they started."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from graft.paths import CHECKOUT

PATIENCE_SECONDS = 120


def free_port() -> int:
    """A port of the loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listening(port: int) -> set[str]:
    """The addresses that something listens on at `port`, as the kernel writes them: 0100007F is 127.0.0.1."""
    lines = [
        line.split()
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for line in Path(table).read_text().splitlines()[1:]
    ]
    return {line[1].split(":")[0] for line in lines if line[3] == "0A" and line[1].endswith(f":{port:04X}")}


@contextmanager
def serving(command: Sequence[str], home: Path, port: int, log: Path, path: str = "/") -> Iterator[str]:
    """While entered, `command` runs in the checkout, with its records in `home`.

    Args:
        command: What is typed; its programs are those of the environment that the tests run in.
        home: Stands for the checkout.
        port: Where it serves on 127.0.0.1.
        log: Gets what it prints.
        path: What it is asked until it answers.

    Returns:
        The answer to `path`.
    """
    programs = Path(sys.executable).parent
    env = {**os.environ, "GRAFT_HOME": str(home), "PATH": f"{programs}:{os.environ['PATH']}"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(command), cwd=CHECKOUT, env=env, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield _answer(process, f"http://127.0.0.1:{port}{path}", log)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def ask(port: int, images: npt.NDArray[np.uint8]) -> list[dict[str, Any]]:
    """What a served model says of uint8 images [batch, height, width, 3]."""
    return post(port, {"instances": images.tolist()})


def post(port: int, body: object) -> list[dict[str, Any]]:
    """The predictions of `mlflow models serve` for a request."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
        predictions: list[dict[str, Any]] = json.load(answer)["predictions"]
    return predictions


def _answer(process: subprocess.Popen[bytes], address: str, log: Path) -> str:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            assert process.poll() is None, log.read_text()
            time.sleep(0.2)
    raise AssertionError(f"{address} does not answer: {log.read_text()}")
