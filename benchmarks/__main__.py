"""The benchmarks one after the other: those of minutes, or with `--full` all of them, which takes hours.

    make bench                      python -m benchmarks
    make bench-full PHOTOS=/photos  python -m benchmarks --full --photos /photos

The photos have one sub-folder a class; without them training is not measured.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
SHORT = (
    ["sweep_overhead"],
    ["recording", "--rounds", "1"],
    ["sweep_makespan"],
    ["sweep_pruning", "0"],
    ["input_pipeline"],
    ["sweep_efficiency", "--slots", "1", "4", "--each", "10"],
    ["storage_load", "reports", "record", "--workers", "4", "16", "--seconds", "10"],
)
# Pruning with five seeds, 10,000 trials and 2,000 trainings, and 64 workers on every storage.
LONG = (
    ["sweep_overhead"],
    ["recording"],
    ["sweep_makespan"],
    ["sweep_pruning"],
    ["input_pipeline"],
    ["sweep_scale"],
    ["long_run"],
    ["sweep_efficiency", "--launcher", "graft", "graft_ray"],
    ["storage_load"],
    ["record_size", "+size=smoke"],
)

parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
parser.add_argument("--full", action="store_true", help="the long ones, too, and training on all photos")
parser.add_argument("--photos", help="what training is measured on, one sub-folder a class")
options = parser.parse_args()

# Training comes last: it is the one that needs something that is not in the repository, and ends where that is missing.
training = ["training", *([] if options.full else ["--quick"])]
if options.photos:
    training += ["--photos", options.photos]

sys.path.insert(0, str(FOLDER))  # they share modules
for name, *arguments in [*(LONG if options.full else SHORT), training]:
    print(f"\n== {name}", flush=True)
    sys.argv = [name, *arguments]
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
