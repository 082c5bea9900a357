"""A worker process seen from the controller: its pipe, its output, its end."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import wait
from typing import Any

import cloudpickle
import psutil

from graft.sweep.jobs import Job
from graft.sweep.liveness import CONTROLLER_VARIABLE, mark_of_controller
from graft.sweep.worker import JOB, QUIT, STOP

POLL_SECONDS = 0.5
"""How often a slot looks at clocks, and at its process where the system has no pidfd."""

QUIT_PATIENCE_SECONDS = 5.0
"""How long an idle worker may take to end by itself; threads of a task may hold it up."""

LONGEST_LINE_BYTES = 1 << 16
"""What is printed without an end of line is passed on in pieces of about this size."""

LAST_LINES = 5
"""Lines of output kept for the message about a worker that died."""


class Unfit(Exception):
    """No worker can run this application here; no trial is to blame."""


class Process:
    """A worker process, its pipe and its output. It is a `graft.sweep.workers.Worker`.

    Args:
        device: See `worker_environment`.
        setup: From `pickled_application`.
        controller: Mark of the controller that it works for, if that is not this process.
        directory: Where it starts; None is where this process is.
    """

    def __init__(
        self, device: str | None, setup: bytes, *, controller: str | None = None, directory: str | None = None
    ) -> None:
        self._sending = threading.Lock()
        self._connection, theirs = Pipe()
        # -P keeps the working directory off the search path until the controller's own is in place.
        command = [sys.executable, "-P", "-m", "graft.sweep.worker", str(theirs.fileno())]
        self._popen = subprocess.Popen(
            command,
            env=worker_environment(device, controller or mark_of_controller()),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        assert self._popen.stdout is not None
        self._output = self._popen.stdout
        os.set_blocking(self._output.fileno(), False)
        self._output_ended = False
        self._partial = b""
        self.last_lines: collections.deque[str] = collections.deque(maxlen=LAST_LINES)
        self.jobs = 0
        # A grandchild may hold the pipe open past its parent's death; a pidfd does not lie.
        self._pidfd = os.pidfd_open(self._popen.pid) if hasattr(os, "pidfd_open") else None
        with contextlib.suppress(OSError):
            self._connection.send_bytes(setup)

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def wait_until_ready(
        self, say: Callable[[str], None], better: Callable[[], bool], show: Callable[[str], None]
    ) -> None:
        wait_for_greeting(self.messages, show)

    def send_job(self, job: Job) -> None:
        self.send_pickled_job(pickled_job(job))

    def send_pickled_job(self, pickled: bytes) -> None:
        self.jobs += 1
        self.last_lines.clear()
        self.send(JOB + pickled)

    def stop(self) -> None:
        self.send(STOP)

    def send(self, message: bytes) -> None:
        """Sends a message; the controller's thread may ask to stop while the slot's hands over a job."""
        with self._sending:
            self._connection.send_bytes(message)

    def messages(self, patience: float) -> list[dict[str, Any] | str]:
        """What arrived: lines that the job printed, then at most one message.

        Raises:
            EOFError: if the process is dead, and has nothing more to say.
        """
        watched: list[Any] = [self._connection]
        if not self._output_ended:
            watched.append(self._output)
        if self._pidfd is not None:
            watched.append(self._pidfd)
        ready = wait(watched, patience)
        # The message is looked for before the output is read, so that whatever a job printed before
        # its answer is passed on before its answer.
        answered = self._connection in ready
        arrived: list[dict[str, Any] | str] = list(self._lines())
        if answered:
            message = json.loads(self._connection.recv_bytes())
            if message["kind"] in ("answer", "ready") and self._partial:
                # A job's last line may have no end, and must not become the beginning of the next one's first.
                arrived.append(self._take_partial())
            arrived.append(message)
        elif (self._pidfd in ready or self._popen.poll() is not None) and not self._connection.poll():
            raise EOFError
        return arrived

    def _lines(self) -> list[str]:
        chunks = []
        while True:
            try:
                chunk = os.read(self._output.fileno(), 1 << 16)
            except (BlockingIOError, ValueError):
                break
            if not chunk:
                # A task may have sent its output elsewhere; an end that is watched would be there all the time.
                self._output_ended = True
                break
            chunks.append(chunk)
        *whole, self._partial = (self._partial + b"".join(chunks)).split(b"\n")
        if len(self._partial) > LONGEST_LINE_BYTES:
            whole.append(self._partial)
            self._partial = b""
        lines = [line.decode(errors="replace").rstrip("\r") for line in whole]
        self.last_lines.extend(line for line in lines if line.strip())
        return lines

    def last_words(self) -> list[str]:
        """What a dead process left in its pipe, an unfinished line included."""
        lines = self._lines()
        if self._partial:
            lines.append(self._take_partial())
        return lines

    def _take_partial(self) -> str:
        line, self._partial = self._partial.decode(errors="replace").rstrip("\r"), b""
        if line.strip():
            self.last_lines.append(line)
        return line

    def cause_of_death(self) -> str:
        status = self._popen.wait()
        if status >= 0:
            return f"exit status {status}"
        try:
            return signal.Signals(-status).name
        except ValueError:
            return f"signal {-status}"

    def memory_gib(self) -> float:
        try:
            return float(psutil.Process(self._popen.pid).memory_info().rss / 2**30)
        except psutil.NoSuchProcess:
            return 0.0

    def kill(self) -> None:
        """Kills the process and its session. Its end is noticed by whoever follows it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, signal.SIGKILL)

    def quit(self) -> None:
        """Lets the process end by itself, kills it if it does not, and frees all that it held."""
        if self._popen.poll() is None:
            with contextlib.suppress(OSError):
                self.send(QUIT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(QUIT_PATIENCE_SECONDS)
        self.kill()
        self._popen.wait()
        self._connection.close()
        self._output.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


def wait_for_greeting(messages: Callable[[float], list[dict[str, Any] | str]], show: Callable[[str], None]) -> None:
    """Waits for what a worker says first: that it is ready, or that it can run no job of this application.

    Args:
        messages: See `graft.sweep.workers.Worker`.
        show: Gets what is printed meanwhile.

    Raises:
        Unfit: if it cannot.
        EOFError: if it died before.
    """
    while True:
        for message in messages(POLL_SECONDS):
            if isinstance(message, str):
                show(message)
            elif message["kind"] == "unfit":
                raise Unfit(message["message"])
            else:
                return


def pickled_job(job: Job) -> bytes:
    """What a worker gets of a job: its configuration, and its ticket as JSON."""
    ticket = None if job.ticket is None else job.ticket.to_json()
    return cloudpickle.dumps({"config": job.config, "ticket": ticket})


def worker_environment(device: str | None, controller: str) -> dict[str, str]:
    """The environment of a slot's worker. It is set before anything can import TensorFlow.

    Args:
        device: What `CUDA_VISIBLE_DEVICES` is set to; None leaves it as it is.
        controller: Mark of the controller, by which a later one finds what this one left behind.
    """
    environment = dict(os.environ)
    environment[CONTROLLER_VARIABLE] = controller
    if device is not None:
        environment["CUDA_VISIBLE_DEVICES"] = device
        # Slots that share a GPU would otherwise each take all of its memory.
        environment.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    return environment
