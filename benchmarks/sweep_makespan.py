"""That no trial waits for a batch: jobs of 1, 1, 1 and 7 s in repeating order over 4 slots.

    python benchmarks/sweep_makespan.py [JOBS]

Promised: within 5 % of list scheduling, which gives each job to the slot that is free first. The
official plugin runs the same jobs in batches of 4 with joblib's launcher. Both are timed from the
start of the first job to the end of the last, as the jobs themselves saw it.
"""

from __future__ import annotations

import heapq
import subprocess
import sys
import tempfile
from pathlib import Path

from sweep_apps import App, baseline_python

LENGTHS = (1, 1, 1, 7)
SLOTS = 4

APP = """
    from dataclasses import dataclass
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
        time.sleep((1, 1, 1, 7)[config.x % 4])
        with open("log", "a") as log:
            log.write(f"{begin} {time.time()}\\n")
        return 0.0

    if __name__ == "__main__":
        main()
"""


def list_scheduling(lengths: list[int]) -> float:
    """The makespan if each job, in order, goes to the slot that is free first."""
    free_at = [0.0] * SLOTS
    for length in lengths:
        heapq.heapreplace(free_at, free_at[0] + length)
    return max(free_at)


def makespan(app: App) -> float:
    log = app.folder / "log"
    times = [[float(part) for part in line.split()] for line in log.read_text().splitlines()]
    log.unlink()
    return max(end for _, end in times) - min(begin for begin, _ in times)


def main() -> None:
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 24
    best = list_scheduling([LENGTHS[job % 4] for job in range(jobs)])
    app = App(APP)
    app.graft(f"x=range({jobs})", f"hydra.launcher.slots={SLOTS}")
    ours = makespan(app)
    python = baseline_python(Path(tempfile.gettempdir()) / "graft-baseline-venv")
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
