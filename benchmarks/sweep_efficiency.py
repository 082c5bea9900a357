"""How much of its slots a sweep uses: trials that only sleep, on 1 to 16 slots, against list scheduling.

    python benchmarks/sweep_efficiency.py [--slots 1 2 4 8 16] [--each 20] [--seconds 1] [--launcher …]

`--each` trials a slot sleep 0.5 to 1.5 times `--seconds`, each as long as its number says. Asked: within 5 % of what
list scheduling gives, which hands each job to the slot that is free first and takes no time for it. Jobs are timed as
they saw it themselves, from the start of the first to the end of the last. Starting the workers belongs to that, for
all but the first; so what remains once every slot has begun its first job is told beside it.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
from dataclasses import dataclass

import machine
from sweep_apps import App

APP = """
    from dataclasses import dataclass
    import os
    import time
    import hydra
    from hydra.core.config_store import ConfigStore

    @dataclass
    class Config:
        x: int = 0

    ConfigStore.instance().store(name="config", node=Config)

    @hydra.main(version_base="1.3", config_name="config")
    def main(config):
        begin = time.time()
        time.sleep(LENGTHS[config.x % len(LENGTHS)])
        with open("log", "a") as log:
            log.write(f"{config.x} {os.getpid()} {begin} {time.time()}\\n")
        return 0.0

    if __name__ == "__main__":
        main()
"""
LENGTHS = tuple(0.5 + 7 * number % 17 / 16 for number in range(17))  # long ones among short ones


@dataclass(frozen=True)
class Job:
    """One trial as it saw itself, with the process that it ran in."""

    number: int
    process: int
    begin: float
    end: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--each", type=int, default=20, help="trials a slot")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long a trial sleeps in the mean")
    parser.add_argument("--launcher", nargs="+", default=["graft"], help="graft, graft_ray")
    options = parser.parse_args()
    lengths = [options.seconds * each for each in LENGTHS]
    there = machine.describe()
    print(f"{there['cpu']}, {there['cores']} cores, {there['memory_gib']} GiB, load {machine.load():.1f}")
    print(
        f"{options.each} trials a slot, of {options.seconds:g} s in the mean\n"
        "| launcher | slots | trials | list scheduling | took | more | until all slots work | from there: more "
        "| ms between jobs: mean, most |\n|---|---|---|---|---|---|---|---|---|",
        flush=True,
    )
    for launcher in options.launcher:
        for slots in options.slots:
            app = App(APP.replace("LENGTHS", repr(lengths)))
            trials = options.each * slots
            place = ["hydra.launcher.num_cpus=0.01"] if launcher == "graft_ray" else []
            app.graft(f"x=range({trials})", f"hydra/launcher={launcher}", f"hydra.launcher.slots={slots}", *place)
            print(
                f"| {launcher} | {slots} | {trials} | {' | '.join(columns(jobs_of(app), slots, lengths))} |", flush=True
            )


def jobs_of(app: App) -> list[Job]:
    """The jobs, in the order in which they began."""
    lines = [line.split() for line in (app.folder / "log").read_text().splitlines()]
    jobs = [Job(int(number), int(process), float(begin), float(end)) for number, process, begin, end in lines]
    return sorted(jobs, key=lambda job: job.begin)


def columns(jobs: list[Job], slots: int, lengths: list[float]) -> list[str]:
    """The figures of one sweep, as the table has them."""
    first, last = jobs[0].begin, max(job.end for job in jobs)
    ideal = makespan([length(job, lengths) for job in jobs], [0.0] * slots)
    # From where the last slot began its first job: what the others still had to do then is theirs to finish.
    firsts: dict[int, Job] = {}
    for job in jobs:
        firsts.setdefault(job.process, job)
    together = max(job.begin for job in firsts.values())
    free = [max(j.end for j in jobs if j.process == process and j.begin <= together) for process in firsts]
    rest = makespan([length(job, lengths) for job in jobs if job.begin > together], free) - together
    own = [[job for job in jobs if job.process == process] for process in firsts]
    gaps = [after.begin - before.end for each in own for before, after in itertools.pairwise(each)]
    return [
        f"{ideal:.2f} s",
        f"{last - first:.2f} s",
        f"{(last - first) / ideal - 1:.1%}",
        f"{together - first:.2f} s",
        f"{(last - together) / rest - 1:.1%}",
        f"{1000 * sum(gaps) / len(gaps):.0f}, {1000 * max(gaps):.0f}",
    ]


def length(job: Job, lengths: list[float]) -> float:
    """What the job slept, as it was told to."""
    return lengths[job.number % len(lengths)]


def makespan(lengths: list[float], free_at: list[float]) -> float:
    """When the last job ends if each, in order, goes to the slot that is free first."""
    free_at = list(free_at)
    heapq.heapify(free_at)
    for each in lengths:
        heapq.heapreplace(free_at, free_at[0] + each)
    return max(free_at)


if __name__ == "__main__":
    main()
