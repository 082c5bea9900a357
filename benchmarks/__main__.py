"""`python -m benchmarks`: every benchmark that takes minutes, one after the other."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
SHORT = ("sweep_overhead", "sweep_makespan", "sweep_pruning")  # sweep_scale runs 10,000 trials: start it by its name

sys.path.insert(0, str(FOLDER))  # they share sweep_apps
for name in SHORT:
    print(f"\n== {name}", flush=True)
    sys.argv = [name]
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
