"""`hydra/launcher=graft_slurm`: slots as Slurm jobs, by way of submitit.

Where a job runs, and when, is Slurm's to decide.
"""

from __future__ import annotations

import importlib.util
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.errors import ConfigError
from graft.sweep.liveness import DEAD_AFTER_SECONDS, mark_of_controller
from graft.sweep.mailbox import make_mailbox
from graft.sweep.slurm_job import BEATS, SlotJob
from graft.sweep.slurm_place import ANSWER_SECONDS, NoPlace, Place
from graft.sweep.slurm_queue import LocalQueue, SlurmQueue, make_queue
from graft.sweep.slurm_worker import SlurmWorker
from graft.sweep.workers import PoolOptions, not_allowed

TRIES_AT_FIRST, TRIES_LATER = 2, 6
"""How many jobs in a row may come to nothing where no slot has had a place yet, and where none has one any more."""

LOCAL_WARNING_SECONDS = 30.0
"""What submitit's local jobs have between the warning and their end."""


@dataclass(frozen=True)
class SlurmOptions(PoolOptions):
    """From `hydra.launcher`. Sizes are those of a slot, that is of a job.

    Attributes:
        folder: For submitit's scripts and logs, and for mailboxes; on a path that all nodes see.
        cluster: ``slurm``, or ``local`` for submitit's jobs on this machine, to try things out.
        job_per: ``slot``: a job keeps its place for many trials; ``trial``: each trial waits in the queue for itself.
        name: Of the jobs.
        timeout_min: Minutes that a job may run. One that comes to its end is requeued.
        signal_delay_s: Seconds between the warning and the end; in that time a trial is stopped at its next step.
        partition, account, qos, constraint, exclude: As sbatch takes them.
        cpus_per_task: CPUs of a job.
        gpus_per_node: GPUs of a job.
        mem_gb: GB of memory of a job.
        setup: Lines of shell that run before Python.
        additional_parameters: Further options of sbatch, by their long names.
        lost_after: Seconds without contact after which a job is given up, and its trial started elsewhere.
    """

    folder: str = ""
    cluster: str = "slurm"
    job_per: str = "slot"
    name: str = "graft"
    timeout_min: int = 240
    signal_delay_s: int = 120
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    cpus_per_task: int | None = None
    gpus_per_node: int | None = None
    mem_gb: float | None = None
    setup: list[str] | None = None
    additional_parameters: Mapping[str, Any] | None = None
    lost_after: float = 60.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.job_per == "trial":
            object.__setattr__(self, "fresh_process", True)  # it ends with its job

    def problems(self) -> list[str]:
        parameters = self.additional_parameters
        found = super().problems()
        if self.slots is None:
            found.append(
                "hydra.launcher.slots is missing, and Slurm has no natural number of them. Allowed: how many jobs may "
                "wait and run at a time, such as hydra.launcher.slots=8."
            )
        found += not_allowed("cluster", self.cluster, self.cluster in ("slurm", "local"), "slurm, or local")
        found += not_allowed("job_per", self.job_per, self.job_per in ("slot", "trial"), "slot, or trial")
        for key in ("timeout_min", "cpus_per_task"):
            value = getattr(self, key)
            found += not_allowed(key, value, value is None or value >= 1, "a whole number from 1")
        gpus, memory = self.gpus_per_node, self.mem_gb
        found += not_allowed("gpus_per_node", gpus, gpus is None or gpus >= 0, "a whole number from 0, or null")
        found += not_allowed("mem_gb", memory, memory is None or memory > 0, "a number above 0, or null")
        found += not_allowed(
            "signal_delay_s",
            self.signal_delay_s,
            0 <= self.signal_delay_s < 60 * max(1, self.timeout_min),
            "seconds from 0, fewer than timeout_min has",
        )
        # Controllers on other hosts take the trials of a dead one up after that time.
        found += not_allowed(
            "lost_after",
            self.lost_after,
            1 <= self.lost_after < DEAD_AFTER_SECONDS,
            f"seconds from 1 and below {DEAD_AFTER_SECONDS:g}",
        )
        found += not_allowed(
            "setup",
            self.setup,
            self.setup is None or (isinstance(self.setup, list) and all(isinstance(line, str) for line in self.setup)),
            "a list of lines, or null",
        )
        found += not_allowed(
            "additional_parameters",
            parameters,
            parameters is None or (isinstance(parameters, Mapping) and "comment" not in parameters),
            "a mapping of sbatch's options without comment, which marks whose jobs they are, or null",
        )
        return found

    def parameters(self) -> dict[str, Any]:
        """As submitit's `AutoExecutor` takes them."""
        shared = ("name", "timeout_min", "mem_gb", "cpus_per_task", "gpus_per_node")
        of_slurm = ("signal_delay_s", "partition", "account", "qos", "constraint", "exclude", "setup")
        given = {key: getattr(self, key) for key in shared}
        given |= {f"slurm_{key}": getattr(self, key) for key in of_slurm}
        parameters = {key: value for key, value in given.items() if value is not None}
        parameters["slurm_additional_parameters"] = dict(self.additional_parameters or {})
        if self.cluster == "local":
            # Its own names for them.
            parameters["local_setup"] = parameters.pop("slurm_setup", [])
        return parameters


class SlurmWorkers:
    """Workers in Slurm jobs. See `graft.sweep.workers.Workers`."""

    shared = True

    def __init__(self, options: SlurmOptions) -> None:
        if importlib.util.find_spec("submitit") is None:
            raise ConfigError(
                "hydra/launcher=graft_slurm needs submitit, which is not installed: pip install 'graft[slurm]'"
            )
        self._options = options
        self._folder = Path(options.folder).absolute()
        self._queue: SlurmQueue | LocalQueue | None = None
        self._setup = b""
        self._places: dict[int, Place] = {}
        self._had_place = False
        self._ended = threading.Event()

    @property
    def slots(self) -> int:
        assert self._options.slots is not None
        return self._options.slots

    @property
    def place(self) -> str:
        options = self._options
        sizes = {
            "GPU": options.gpus_per_node,
            "CPU": options.cpus_per_task,
            "GB": options.mem_gb,
        }
        words = [f"a job for each {options.job_per}"]
        words += [] if options.partition is None else [f"partition {options.partition}"]
        words += [
            f"{size:g} {unit}{'s' * (size != 1 and unit != 'GB')}" for unit, size in sizes.items() if size is not None
        ]
        where = "of Slurm" if options.cluster == "slurm" else "on this machine, as submitit's local jobs"
        return f" {where} ({', '.join(words)})"

    def open(self) -> None:
        if self._queue is not None:
            return
        self._queue = make_queue(self._options.cluster, self._options.parameters(), self._folder)
        self._queue.end_leftovers()
        self._ended.clear()
        threading.Thread(target=self._beat, name="graft-beat", daemon=True).start()

    def start(self, slot: int, setup: bytes) -> SlurmWorker:
        self._setup = setup
        return SlurmWorker(self, slot, keeps_place=self._options.job_per == "slot")

    def of(self, slot: int) -> Place:
        """See `graft.sweep.slurm_worker.Places`."""
        place = self._places.get(slot)
        if place is not None and place.over:
            del self._places[slot]
            place.end()
            place = None
        if place is None:
            place = self._places[slot] = self._new_place(self._setup)
        return place

    def count_place(self) -> None:
        """See `graft.sweep.slurm_worker.Places`."""
        self._had_place = True

    def hopeless(self, failures: int) -> bool:
        """See `graft.sweep.slurm_worker.Places`."""
        others = [place for place in list(self._places.values()) if not place.over]
        if not self._had_place:  # more likely a mistake than an accident
            return failures >= TRIES_AT_FIRST and (not others or failures >= 2 * TRIES_AT_FIRST)
        return failures >= TRIES_LATER and not any(place.tenancy for place in others)

    def close(self) -> None:
        places = list(self._places.values())
        waiting = [place for place in places if place.waits]
        ending = begin_to_end(waiting)
        try:
            # Those that wait first, or one of them would begin on a node that another leaves.
            deadline = time.monotonic() + ANSWER_SECONDS
            for thread in ending:
                thread.join(max(0.0, deadline - time.monotonic()))
        finally:
            ending += begin_to_end([place for place in places if place not in waiting])
            for thread in ending:
                thread.join()
        self._places.clear()
        self._ended.set()
        if self._queue is not None:
            self._queue.close()
            self._queue = None

    def _new_place(self, setup: bytes) -> Place:
        try:
            mailbox = make_mailbox(self._folder)
        except OSError as error:
            raise NoPlace(f"No mailbox can be made in {self._folder}: {error.strerror or error}.") from error
        queue, options = self._queue, self._options
        assert queue is not None
        job = SlotJob(
            setup,
            mailbox=mailbox,
            controller=mark_of_controller(),
            lost_after=options.lost_after,
            warned_before=options.signal_delay_s if options.cluster == "slurm" else LOCAL_WARNING_SECONDS,
        )
        try:
            return Place(queue, queue.submit(job), mailbox, lost_after=options.lost_after)
        except NoPlace:
            shutil.rmtree(mailbox, ignore_errors=True)
            raise

    def _beat(self) -> None:
        """Shows all jobs that this controller lives, as long as it does."""
        while not self._ended.wait(self._options.lost_after / BEATS):
            for place in list(self._places.values()):
                place.beat()


def begin_to_end(places: Sequence[Place]) -> list[threading.Thread]:
    """Ends jobs, each in a thread of its own that is over when its job has ended or does not answer."""
    ending = [threading.Thread(target=place.end) for place in places]
    for thread in ending:
        thread.start()
    return ending
