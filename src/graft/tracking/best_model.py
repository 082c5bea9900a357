"""The model of a sweep's best trial, logged when the sweep has come to its end."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from graft.again import log_model_command
from graft.config import TrackingConfig
from graft.tracking import logged_model
from graft.tracking.mlflow_store import Store

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 900
"""What takes longer than this hangs: ten seconds are usual."""

CLEANING_SECONDS = 20


def log_best_model(store: Store, tracking: TrackingConfig, run_id: str) -> None:
    """Logs the model of a trial in a process of its own: this one has no TensorFlow, and should not import it.

    That it cannot, or that the user does not wait for it, is a warning: every trial is recorded.

    Args:
        store: Where the trial's run is.
        tracking: The same, as configured.
        run_id: The best trial's.
    """
    try:
        if (model_id := logged_model.logged(store, run_id)) is not None:
            logged_model.tell_sweep(store, run_id, model_id)
            return
        print("Logging the model of the best trial; Ctrl-C leaves it out.", flush=True)
        failure = _in_a_process(
            ["log-model", run_id, "--tracking-uri", tracking.uri, "--experiment", tracking.experiment]
        )
    except (KeyboardInterrupt, Exception) as error:
        failure = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error) or type(error).__name__
    if failure:
        again = log_model_command(run_id, tracking)
        log.warning("The model of the best trial could not be logged (%s). To log it: %s", failure, again)


@contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """A Ctrl-C in the block is heard at its end."""
    if threading.current_thread() is not threading.main_thread():  # no signal reaches it
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)
    if came:
        signal.raise_signal(signal.SIGINT)


def _in_a_process(words: list[str]) -> str:
    """Runs the `graft` command; gives the reason of a failure, or nothing."""
    command = [sys.executable, "-m", "graft.cli", *words]
    # No GPU: the workers still hold its memory. A session of its own: Ctrl-C reaches it through here alone.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    process: subprocess.Popen[str] | None = None
    try:
        with _ctrl_c_held_back():  # while it starts, it would be left behind, unknown
            process = subprocess.Popen(
                command,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
            )
        printed, errors = process.communicate(timeout=PATIENCE_SECONDS)
    except BaseException:
        if process is None:
            raise
        process.send_signal(signal.SIGINT)  # it marks what it began as failed
        try:
            process.communicate(timeout=CLEANING_SECONDS)
        except BaseException:
            process.kill()
            process.wait()
            raise
        raise
    if process.returncode != 0:
        return next(iter(reversed(errors.strip().splitlines())), f"status {process.returncode}")
    print(printed, end="", flush=True)
    return ""
