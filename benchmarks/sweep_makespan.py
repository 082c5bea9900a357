"""That no trial waits for a batch: jobs of 1, 1, 1 and 7 s in repeating order over 4 slots.

    python benchmarks/sweep_makespan.py [JOBS]

Promised: within 5 % of list scheduling, which gives each job to the slot that is free first. The
official plugin runs the same jobs in batches of 4 with joblib's launcher. Both are timed from the
start of the first job to the end of the last, as the jobs themselves saw it.
"""

from __future__ import annotations

import subprocess
import sys

from sweep_apps import App, baseline_python, jobs_of, list_scheduling, sleeping_app

LENGTHS = (1, 1, 1, 7)
SLOTS = 4


def makespan(app: App) -> float:
    jobs = jobs_of(app)
    return max(job.end for job in jobs) - jobs[0].begin


def main() -> None:
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 24
    best = list_scheduling([LENGTHS[job % 4] for job in range(jobs)], [0.0] * SLOTS)
    app = sleeping_app(LENGTHS)
    app.graft(f"x=range({jobs})", f"hydra.launcher.slots={SLOTS}")
    ours = makespan(app)
    python = baseline_python()
    subprocess.run([python, "-m", "pip", "install", "-q", "hydra-joblib-launcher==1.2.0"], check=True)
    # Its GridSampler drops the last value of a range, so the values are spelt out.
    values = ",".join(str(job) for job in range(jobs))
    app.official(
        python, f"x={values}", f"hydra.sweeper.n_trials={jobs}", f"hydra.sweeper.n_jobs={SLOTS}",
        "hydra/sweeper/sampler=grid", "hydra/launcher=joblib", f"hydra.launcher.n_jobs={SLOTS}",
    )  # fmt: skip
    theirs = makespan(app)
    print(f"{jobs} jobs of {LENGTHS} s over {SLOTS} slots; list scheduling {best:.1f} s")
    print(f"  graft     {ours:6.1f} s  ({ours / best - 1:+.1%})")
    print(f"  official  {theirs:6.1f} s  ({theirs / best - 1:+.1%})")


if __name__ == "__main__":
    main()
