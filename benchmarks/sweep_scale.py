"""Whether a trial gets dearer with the number of trials before it: 5,000 trials, grid and random.

    python benchmarks/sweep_scale.py [TRIALS]

Promised: the last 100 of 5,000 cost at most 1.5 times the first 100. The time of a trial is taken
from the study: 100 trials cost what lies between the ends of the first and the last of them.
"""

from __future__ import annotations

import sys

import optuna
from sweep_apps import App

from graft.sweep.storage import open_storage


def main() -> None:
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    for name, space in (
        ("grid", [f"x=range({trials})"]),
        ("random", ["y=interval(0,1)", f"hydra.sweeper.n_trials={trials}", "hydra.sweeper.sampler=RandomSampler"]),
    ):
        app = App()
        journal = app.folder / "study.journal"
        seconds, _ = app.graft(*space, "hydra.launcher.slots=2", f"hydra.sweeper.storage={journal}")
        storage = open_storage(str(journal))
        study = optuna.load_study(study_name=optuna.get_all_study_names(storage)[0], storage=storage)
        ends = sorted(trial.datetime_complete for trial in study.get_trials(deepcopy=False))
        assert len(ends) == trials
        costs = [1000 * (ends[i + 100] - ends[i]).total_seconds() / 100 for i in (0, trials - 101)]
        print(
            f"{name}, {trials} trials, 2 slots: {seconds:.0f} s; ms a trial of the first 100 {costs[0]:.1f}, "
            f"of the last 100 {costs[1]:.1f}: {costs[1] / costs[0]:.2f} times"
        )


if __name__ == "__main__":
    main()
