"""What `graft compare` prints: transfer against fine-tuning first, then every trial, best first."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from graft.again import graft_command, rerun_command
from graft.comparison.interval import METHOD
from graft.comparison.record import Comparison, Side, TrialRow
from graft.comparison.verdict import verdict
from graft.console import PlainConsole

IN_THE_TABLE = ("best_val_accuracy", "test_accuracy", "overfit_gap")  # whatever the objective is
SHOWN = 20  # trials in the printed table; --json has all


def as_json(comparison: Comparison) -> dict[str, object]:
    """Everything that `show` prints and more, as plain data."""
    return {**asdict(comparison), "slow_down": comparison.slow_down, "paired": paired_as_json(comparison)}


def paired_as_json(comparison: Comparison) -> dict[str, object] | None:
    """The paired difference as plain data: test accuracy fine-tuned minus frozen. None without both kinds of trial."""
    found, pairing = verdict(comparison), comparison.pairing
    if found is None:
        return None
    return {
        **asdict(found),
        "method": METHOD,
        "interval": None if pairing.interval is None else asdict(pairing.interval),
        "difference_by_seed": pairing.by_seed,
        "pairs": [asdict(each) for each in pairing.pairs],
        "left_out": list(pairing.left_out),
        "aside": {key: list(values) for key, values in pairing.aside.items()},
        "test_images": comparison.test_images,
    }


def show(comparison: Comparison, console: PlainConsole) -> None:
    """Prints the tables, and where to look next."""
    # Names and overrides are the user's own words: no markup in them.
    say = functools.partial(console.print, highlight=False, markup=False, soft_wrap=True)
    if len(comparison.sides) == 2:
        console.print(_sides_table(comparison.sides))
        if found := verdict(comparison):
            further = f"\n  {found.further}" if found.further else ""
            say(f"{found.which}\n{found.by_how_much}\n{found.how_sure}{further}\n{found.cost}")
    if len(comparison.sides) < 2 or len(comparison.trials) > 2:
        console.print(_trials_table(comparison))
    for failed in (trial for trial in comparison.trials if trial.state == "failed"):
        say(f"Trial {failed.number} failed ({failed.failure}): {failed.name}")
    if best := comparison.best:
        say(f"\nBest       trial {best.number}: {best.name}")
        if not comparison.best_by_accuracy:
            say(f"           {_chosen_by(comparison, best)}")
        say(f"Again      {rerun_command(best.run_id, *comparison.options)}")
        say(f"Checkpoint {best.checkpoint}")
    say(f"Curves     {'' if comparison.served else 'make ui, then '}{comparison.curves_page}")
    written = comparison.report if comparison.report and Path(comparison.report).is_file() else None
    say(f"Report     {written or graft_command('report', comparison.sweep, *comparison.options)}")


def _sides_table(sides: Sequence[Side]) -> Table:
    several = any(side.trials > 1 for side in sides)
    table = Table(title="Transfer against fine-tuning" + (", medians" if several else ""), title_justify="left")
    table.add_column()
    for side in sides:
        table.add_column(side.kind, justify="right")

    def add(label: str, *cells: str) -> None:
        table.add_row(label, *cells)

    if several:
        add("trials", *(str(side.trials) for side in sides))
    add("best validation accuracy", *(f"{side.best_val_accuracy:.4f}" for side in sides))
    add("test accuracy", *(f"{side.test_accuracy:.4f}" for side in sides))
    if several:
        add("  from, to", *("{:.4f}, {:.4f}".format(*side.test_accuracy_range) for side in sides))
    add("train minus validation accuracy", *(f"{side.overfit_gap:+.4f}" for side in sides))
    cached = any(side.cached_features for side in sides)
    if cached:
        add("an epoch ran on", *("stored features" if side.cached_features else "images" for side in sides))
    add("seconds an epoch", *(f"{side.epoch_seconds:.2f}" for side in sides))
    if cached:
        # An epoch on stored features beside one on images says nothing of the backbone: compare both on images.
        add("seconds an epoch on images", *(f"{side.epoch_seconds_live:.2f}" for side in sides))
    ratios = (f"{side.epoch_seconds_live / sides[0].epoch_seconds_live:.1f}" for side in sides)
    add("times as long" + (" on images" if cached else ""), *ratios)
    add("trainable parameters", *(f"{side.trainable_parameters:,}" for side in sides))
    return table


def _chosen_by(comparison: Comparison, best: TrialRow) -> str:
    if not comparison.objectives:  # an old record
        return "chosen by another objective of the sweep, not by validation accuracy"
    told = [
        f"{name} ({direction}){f' = {_objective(best.objectives[name])}' if name in best.objectives else ''}"
        for name, direction in comparison.objectives.items()
    ]
    if len(told) == 1:
        return f"chosen by the sweep's objective, {told[0]}, not by validation accuracy"
    return f"one of those that no other trial beats in all of the sweep's objectives: {', '.join(told)}"


def _trials_table(comparison: Comparison) -> Table:
    ranked = comparison.ranked
    # What differs between the trials, without what only follows from it.
    keys = sorted({key for trial in ranked for key in trial.params})
    told = [trial for trial in ranked if trial.params]  # one that failed at once has none
    varied = [key for key in keys if len({trial.params.get(key) for trial in told}) > 1]
    first = "best first" if comparison.best_by_accuracy else "best validation accuracy first"
    more = f" ({len(ranked) - SHOWN} more with --json)" if len(ranked) > SHOWN else ""
    table = Table(title=f"Trials, {first}{more}", title_justify="left")
    table.add_column("trial", justify="right")
    for key in varied:
        table.add_column(key, justify="right", overflow="fold")
    objectives = [name for name in comparison.objectives if name not in IN_THE_TABLE]
    for name in objectives:
        table.add_column(name.replace("_", "_\n", 1), justify="right", overflow="fold", min_width=len("0.000000"))
    for heading in ("best val\naccuracy", "test\naccuracy", "train\n- val", "seconds\n/ epoch"):
        # On a narrow terminal a heading may be broken, a number never.
        shortest = len("+0.0000" if heading.startswith("train") else "0.0000")
        table.add_column(heading, justify="right", overflow="fold", min_width=shortest)
    on_features = any(trial.cached_features for trial in ranked)
    if on_features:
        table.add_column("ran on", overflow="fold", min_width=len("features"))
    all_complete = all(trial.state == "complete" for trial in ranked)
    if not all_complete:
        table.add_column("state", overflow="fold")
    for trial in ranked[:SHOWN]:
        table.add_row(
            str(trial.number),
            *(trial.params.get(key, "") for key in varied),
            *(_objective(trial.objectives.get(name)) for name in objectives),
            _number(trial.best_val_accuracy, ".4f"),
            _number(trial.test_accuracy, ".4f"),
            _number(trial.overfit_gap, "+.4f"),
            _number(trial.epoch_seconds, ".2f"),
            *(["features" if trial.cached_features else "images"] if on_features else []),
            *([] if all_complete else [trial.state]),
        )
    return table


def _number(value: float | None, style: str) -> str:
    return "" if value is None else format(value, style)


def _objective(value: float | None) -> str:
    """A metric of any kind: an accuracy, seconds, or millions of parameters."""
    return "" if value is None else f"{value:,.0f}" if abs(value) >= 1e6 else f"{value:.6g}"
