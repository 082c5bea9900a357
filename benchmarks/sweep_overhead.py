"""What a trial costs that does nothing: Graft against the official Optuna sweeper, in the same run.

    python benchmarks/sweep_overhead.py

Promised: with worker processes and a persistent journal at most half of the official plugin's cost a
trial with one slot, and a third with two; the plugin runs in-process and stores nothing. The whole
commands are timed, and what the same command costs with one trial is taken off, so that imports and
starting workers do not count as trials. Rounds alternate, for other work on the machine hits both.
"""

from __future__ import annotations

import statistics

from sweep_apps import App, baseline_python

TRIALS = 200
ROUNDS = 3


def main() -> None:
    app = App()
    python = baseline_python()
    costs: dict[str, list[float]] = {}

    def measure(name: str, seconds_many: float, seconds_one: float) -> None:
        costs.setdefault(name, []).append(1000 * (seconds_many - seconds_one) / (TRIALS - 1))

    for _ in range(ROUNDS):
        official = [app.official(python, "y=interval(0,1)", f"hydra.sweeper.n_trials={n}")[0] for n in (TRIALS, 1)]
        measure("official, in-process, no storage", *official)
        for space, one in ((["y=interval(0,1)"], 1), ([f"x=range({TRIALS})"], 1)):
            for slots in (1, 2):
                sampled = space[0].startswith("y")
                budgets = [[f"hydra.sweeper.n_trials={n}"] if sampled else [] for n in (TRIALS, one)]
                spaces = [space, space if sampled else ["x=0,1"]]
                many, few = (app.graft(*spaces[i], *budgets[i], f"hydra.launcher.slots={slots}")[0] for i in range(2))
                measure(f"graft, {'TPE' if sampled else 'grid'}, journal, {slots} slot{'s' * (slots > 1)}", many, few)
    print(f"{TRIALS} empty trials, {ROUNDS} rounds, ms a trial: median and least, and of the official plugin's")
    base = costs["official, in-process, no storage"]
    for name, values in costs.items():
        middle, least = statistics.median(values), min(values)
        shares = f"{middle / statistics.median(base):.2f}, {least / min(base):.2f}"
        print(f"  {name:34s} {middle:6.1f} {least:6.1f}  ({shares}; rounds {_list(values)})")


def _list(values: list[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)


if __name__ == "__main__":
    main()
