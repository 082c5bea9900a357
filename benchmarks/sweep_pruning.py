"""What pruning saves: a sweep over the head's width, its dropout and the learning rate, as users run it.

    python benchmarks/sweep_pruning.py [SEED ...]

`train.py -m` on the digits with the backbone frozen, once without and once with a pruner, for every seed of the
sampler. Promised: 40 trials reach within two validation images of the best without pruning, with at most 40 % of
its epochs, in the median over 5 seeds. One slot, so that the order of the trials is the same every time.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import optuna
from optuna.trial import TrialState

from graft.paths import CHECKOUT
from graft.sweep.storage import open_storage

TRIALS, EPOCHS, IMAGES = 40, 27, 450
SPACE = (
    "head_width=tag(log,int(interval(8,512)))",
    "dropout_rate=interval(0,0.8)",
    "learning_rate=tag(log,interval(1e-5,1e-1))",
)
PRUNER = "{name: SuccessiveHalving, min_resource: 2, reduction_factor: 4}"


def sweep(home: Path, name: str, seed: int, *pruning: str) -> tuple[int, int]:
    """Right validation images of the best trial that ran to its end, and epochs trained by all trials together."""
    subprocess.run(
        [
            sys.executable, "train.py", "-m", *SPACE, f"epochs={EPOCHS}", f"hydra.sweeper.n_trials={TRIALS}",
            f"hydra.sweeper.seed={seed}", f"hydra.sweeper.study_name={name}-{seed}", "hydra.launcher.slots=1",
            "tracking.log_model=false", *pruning,
        ],
        cwd=CHECKOUT, env={**os.environ, "GRAFT_HOME": str(home)}, stdout=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    study = optuna.load_study(study_name=f"{name}-{seed}", storage=open_storage(str(home / "mlruns/optuna.journal")))
    assert all(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in study.trials)
    return round(IMAGES * study.best_value), sum(len(trial.intermediate_values) for trial in study.trials)


def main() -> None:
    seeds = [int(seed) for seed in sys.argv[1:]] or list(range(5))
    behind, shares = [], []
    with tempfile.TemporaryDirectory() as home:
        for seed in seeds:
            whole, all_epochs = sweep(Path(home), "whole", seed)
            pruned, epochs = sweep(Path(home), "pruned", seed, f"hydra.sweeper.pruner={PRUNER}")
            behind.append(whole - pruned)
            shares.append(epochs / all_epochs)
            print(
                f"seed {seed}: best without pruning {whole} of {IMAGES} images in {all_epochs} epochs, "
                f"with {pruned} in {epochs} ({epochs / all_epochs:.0%})",
                flush=True,
            )
    print(
        f"median over {len(seeds)} seeds: {statistics.median(behind)} images behind with "
        f"{statistics.median(shares):.0%} of the epochs"
    )


if __name__ == "__main__":
    main()
