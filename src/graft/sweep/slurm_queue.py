"""Where jobs are submitted, and what is known of them there: Slurm's queue, or submitit's jobs on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from graft.errors import ConfigError
from graft.sweep.liveness import here, process_lives
from graft.sweep.mailbox import NotOurs, mailbox_prefix, make_private
from graft.sweep.process import POLL_SECONDS
from graft.sweep.slurm_job import SlotJob
from graft.sweep.slurm_place import NoPlace

COMMENT = "graft "
"""What the comment of our jobs begins with; the rest says whose they are."""

LOOK_SECONDS = 10.0
"""How often Slurm is asked for its queue, once for all slots."""

NO_LIMIT = 1_000_000
"""How often submitit may requeue a job that came to its time limit: what counts is how often a trial died."""

LEFTOVER_SECONDS = 60.0
"""How long to wait for jobs of a dead controller to end; Slurm itself kills them after KillWait, 30 s by default."""


def make_queue(cluster: str, parameters: Mapping[str, Any], folder: Path) -> SlurmQueue | LocalQueue:
    """The queue of `hydra.launcher.cluster`.

    Args:
        cluster: ``slurm`` or ``local``.
        parameters: Of the jobs, as submitit's `AutoExecutor` takes them.
        folder: For scripts, logs and mailboxes; made if it is not there.

    Raises:
        ConfigError: if the folder cannot be used, or nothing can be submitted on this machine.
    """
    import submitit

    settings = {f"{cluster}_max_num_timeout": NO_LIMIT}
    try:
        # submitit, too, keeps in it what a node is to run, as a pickle.
        make_private(folder)
    except NotOurs as error:
        raise ConfigError(
            f"hydra.launcher.folder={folder}: {error}. Allowed: a folder of yours that nobody else may write to or "
            "replace; one that is not there yet is made so."
        ) from error
    except OSError as error:
        raise ConfigError(
            f"hydra.launcher.folder={folder} cannot be made: {error.strerror}. Allowed: a folder that you may write "
            "to, on a path that all nodes see."
        ) from error
    try:
        executor = submitit.AutoExecutor(folder, cluster=cluster, **settings)
        executor.update_parameters(**parameters)
        if cluster == "slurm":
            comment = COMMENT + json.dumps({**here(left=False), "folder": str(folder)})
            executor.update_parameters(slurm_comment=comment)
    except (RuntimeError, ValueError, TypeError, OSError, AssertionError) as error:
        raise ConfigError(
            f"hydra/launcher=graft_slurm cannot be used: {gist(error)}. Allowed: a machine with sbatch and srun, or "
            "hydra.launcher.cluster=local to try it out."
        ) from error
    return SlurmQueue(executor) if cluster == "slurm" else LocalQueue(executor)


class SubmititQueue:
    """What queues have in common that submitit submits to."""

    def __init__(self, executor: Any) -> None:
        self._executor = executor
        self._submitting = threading.Lock()
        self._jobs: dict[str, Any] = {}

    def submit(self, job: SlotJob) -> str:
        """Submits a job; returns its id.

        Raises:
            NoPlace: if it was refused.
        """
        # What submitit's executors do when several threads submit at once is not said.
        with self._submitting, _deaf_to_ctrl_c(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                submitted = self._executor.submit(job)
            except Exception as error:  # of submitit, or of whatever stands behind sbatch
                raise NoPlace(f"A job cannot be submitted: {gist(error)}.") from error
        self._jobs[submitted.job_id] = submitted
        return str(submitted.job_id)

    def log(self, job: str) -> Path:
        """The file with what the job printed: on stderr if there is any of it, else on stdout."""
        paths = self._jobs[job].paths
        errors, output = Path(paths.stderr), Path(paths.stdout)
        return errors if errors.exists() and errors.stat().st_size else output

    def close(self) -> None:
        """Removes what jobs were sent, which may hold secrets. All of them have ended, or will find nothing to do."""
        for submitted in self._jobs.values():
            for path in (submitted.paths.submitted_pickle, submitted.paths.result_pickle):
                with contextlib.suppress(OSError):
                    Path(path).unlink()


class SlurmQueue(SubmititQueue):
    """Slurm's queue. See `graft.sweep.slurm_place.Queue`."""

    def __init__(self, executor: Any) -> None:
        super().__init__(executor)
        self._looking = threading.Lock()
        self._looked = -LOOK_SECONDS
        self._answers = True
        self._held: frozenset[str] = frozenset()
        self._seen: dict[str, float] = {}

    def holds(self, job: str) -> bool:
        with self._looking:
            now = time.monotonic()
            if now - self._looked >= LOOK_SECONDS:
                self._looked = now
                listed = _squeue()
                self._answers = listed is not None
                if listed is not None:
                    self._held = frozenset(listed)
                    self._seen |= dict.fromkeys(listed, now)
            if not self._answers:  # Slurm's daemon may be restarting
                return True
            # A job that is requeued may be in no list for a moment.
            return job in self._held or now - self._seen.setdefault(job, now) < 2 * LOOK_SECONDS

    def cancel(self, job: str) -> None:
        """Ends the job, if it is not over already."""
        _scancel(job)

    def end_leftovers(self) -> None:
        """Ends jobs of controllers that died on this host, and removes what they were sent.

        Raises:
            ConfigError: if they do not end, or Slurm does not answer, within `LEFTOVER_SECONDS`.
        """
        deadline = time.monotonic() + LEFTOVER_SECONDS
        cancelled: dict[str, dict[str, Any]] = {}
        while (listed := _squeue()) is None or any(_owner_died(comment) for comment in listed.values()):
            left = {job: owner for job, comment in (listed or {}).items() if (owner := _owner_died(comment))}
            for job, owner in left.items():
                if job not in cancelled:
                    _scancel(job)
                    cancelled[job] = owner
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"Slurm does not end the jobs {', '.join(left)} of a sweep whose command was killed, and their "
                    f"trials may be started again only then. See: squeue --jobs {','.join(left)}"
                    if left
                    else "Slurm does not answer squeue, so nobody knows what an earlier command may have left running."
                )
            time.sleep(POLL_SECONDS)
        for job, owner in cancelled.items():
            # What they were told may hold secrets, and nobody reads it any more.
            folder = Path(owner["folder"])
            for path in [*folder.glob(f"{job}_submitted.pkl"), *folder.glob(f"{job}_*_result.pkl")]:
                path.unlink(missing_ok=True)
            for box in folder.glob(f"{mailbox_prefix(owner)}*"):
                shutil.rmtree(box, ignore_errors=True)


class LocalQueue(SubmititQueue):
    """Submitit's jobs on this machine: they start at once."""

    def holds(self, job: str) -> bool:
        return bool(self._jobs[job].state == "RUNNING")

    def cancel(self, job: str) -> None:
        process = self._jobs[job]._process
        if process.poll() is None:
            process.terminate()  # which it passes on to the job

    def end_leftovers(self) -> None:
        """Worker processes on this host end with their controller, or by `end_leftover_workers`."""


def _squeue() -> dict[str, str] | None:
    """The user's jobs in Slurm's queue with their comments; None if Slurm does not answer."""
    command = ["squeue", "--noheader", "--user", str(os.getuid()), "--format", "%i|%k"]
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    rows = [line.strip().partition("|") for line in done.stdout.splitlines() if line.strip()]
    return {job: comment for job, _, comment in rows}


def _scancel(job: str) -> None:
    with contextlib.suppress(OSError, subprocess.SubprocessError):  # over already, or Slurm does not answer
        subprocess.run(["scancel", job], capture_output=True, timeout=60, check=False)


def _owner_died(comment: str) -> dict[str, Any] | None:
    """The controller of the job with this comment, if it died on this host."""
    if not comment.startswith(COMMENT):
        return None
    try:
        owner = json.loads(comment.removeprefix(COMMENT))
        return owner if process_lives(owner) is False and isinstance(owner["folder"], str) else None
    except (ValueError, KeyError, TypeError):  # somebody else's
        return None


@contextlib.contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Processes that this thread starts do not hear Ctrl-C in the terminal; what becomes of them the sweep decides."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def gist(error: BaseException) -> str:
    """What an error of submitit's or of sbatch's says, in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if "error" in line.lower()] or lines
    return told[-1].rstrip(".") if told else type(error).__name__
