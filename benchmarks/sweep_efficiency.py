"""How much of its slots a sweep uses: trials that only sleep, on 1 to 16 slots, against list scheduling.

    python benchmarks/sweep_efficiency.py [--slots 1 2 4 8 16] [--each 20] [--seconds 1] [--launcher …]

`--each` trials a slot sleep 0.5 to 1.5 times `--seconds`, each as long as its number says. Asked: within 5 % of what
list scheduling gives, which hands each job to the slot that is free first and takes no time for it. Jobs are timed as
they saw it themselves, from the start of the first to the end of the last. Starting the workers belongs to that, for
all but the first; so what remains once every slot has begun its first job is told beside it.
"""

from __future__ import annotations

import argparse
import itertools

import machine
from sweep_apps import Job, jobs_of, list_scheduling, sleeping_app

LENGTHS = tuple(0.5 + 7 * number % 17 / 16 for number in range(17))  # long ones among short ones


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--each", type=int, default=20, help="trials a slot")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long a trial sleeps in the mean")
    parser.add_argument("--launcher", nargs="+", default=["graft"], help="graft, graft_ray")
    options = parser.parse_args()
    lengths = [options.seconds * each for each in LENGTHS]
    machine.show()
    print(
        f"{options.each} trials a slot, of {options.seconds:g} s in the mean\n"
        "| launcher | slots | trials | list scheduling | took | more | until all slots work | from there: more "
        "| ms between jobs: mean, most |\n|---|---|---|---|---|---|---|---|---|",
        flush=True,
    )
    for launcher in options.launcher:
        for slots in options.slots:
            app = sleeping_app(lengths)
            trials = options.each * slots
            place = ["hydra.launcher.num_cpus=0.01"] if launcher == "graft_ray" else []
            app.graft(f"x=range({trials})", f"hydra/launcher={launcher}", f"hydra.launcher.slots={slots}", *place)
            print(
                f"| {launcher} | {slots} | {trials} | {' | '.join(columns(jobs_of(app), slots, lengths))} |", flush=True
            )


def columns(jobs: list[Job], slots: int, lengths: list[float]) -> list[str]:
    """The figures of one sweep, as the table has them."""
    first, last = jobs[0].begin, max(job.end for job in jobs)
    ideal = list_scheduling([length(job, lengths) for job in jobs], [0.0] * slots)
    # From where the last slot began its first job: what the others still had to do then is theirs to finish.
    firsts: dict[int, Job] = {}
    for job in jobs:
        firsts.setdefault(job.process, job)
    together = max(job.begin for job in firsts.values())
    free = [max(j.end for j in jobs if j.process == process and j.begin <= together) for process in firsts]
    rest = list_scheduling([length(job, lengths) for job in jobs if job.begin > together], free) - together
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


if __name__ == "__main__":
    main()
