"""What a rerun says: what has changed since, how it goes, and how its numbers compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table

from graft.config import Config
from graft.console import PlainConsole
from graft.rerun.differences import PLACES, Difference
from graft.tracking.console import ConsoleRecorder
from graft.tracking.recorded_run import RecordedRun

if TYPE_CHECKING:
    from graft.rerun.again import Rerun

SHOWN = 5  # numbers that differ
COMPARED = ("best_val_accuracy", "best_epoch", "test_accuracy", "test_loss", "overfit_gap", "total_seconds")
LABELS = {"best_epoch": "best epoch, from 0"}


class Teller:
    """Says what is found while runs are run again.

    Args:
        console: Where to.
    """

    def __init__(self, console: PlainConsole) -> None:
        self._console = console

    def trial(self, run: RecordedRun, place: int, of: int) -> None:
        """Before a trial of a sweep, the `place`-th of so many."""
        self._say(f"\nTrial {run.trial} ({place} of {of})")

    def left_out(self, reason: str) -> None:
        """A trial that cannot be run again at all."""
        self._say(reason)

    def begins(self, run: RecordedRun) -> None:
        """Before anything is looked at."""
        self._say(f"Rerun of {run.name} ({run.id})")

    def differ(self, differences: Sequence[Difference], unpromised: str) -> None:
        """Before training begins."""
        if differences:
            self._say("Since then has changed:")
        for each in differences:
            self._say(f"  {each.what}: {each.then} then, {each.now} now")
        if not differences:
            self._say("Code, lock, versions, device, data and backbone are what they were.")
        if unpromised:
            self._say(f"Note: {unpromised}.")

    def flawed(self, flaws: Sequence[str]) -> None:
        """Before training begins: the record is not whole."""
        self._say(f"Note: the record is not whole, so that identity cannot be claimed: {few(flaws)}.")

    def cut_off(self, how_far: str, epochs: int, *, whole: bool) -> None:
        """Before training begins: the recorded run did not come to its end."""
        then = f"the rerun trains all {epochs}" if whole else "the rerun stops there"
        self._say(f"Note: the recorded run {how_far}; {then}.")

    def recorder(self, config: Config) -> ConsoleRecorder:
        """Shows the training itself."""
        return ConsoleRecorder(config.epochs, self._console)

    def failed(self, error: Exception) -> None:
        """A trial could not be run again."""
        self._say(f"It cannot be run again: {error}")

    def compared(self, done: Rerun, run: RecordedRun, again: RecordedRun) -> None:
        """After training."""
        table = Table(title_justify="left")
        for heading in ("", "recorded", "rerun"):
            table.add_column(heading, justify="right" if heading else "left")
        for name in COMPARED:
            if 0 in run.metrics.get(name, {}) or 0 in again.metrics.get(name, {}):
                table.add_row(LABELS.get(name, name.replace("_", " ")), *(_shown(each, name) for each in (run, again)))
        if table.row_count:
            self._console.print(table)
        self._say(verdict(done))
        self._say(f"The rerun: run {done.run_id}, in {again.tags.get('graft.directory', '')}")

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def verdict(done: Rerun) -> str:
    """How the numbers compare, in words."""
    if done.failure is not None:
        return f"The rerun failed: {done.failure}."
    if done.failed_alike is not None and done.exact:
        numbers = (
            "all numbers until then are the same" if done.numbers and done.numbers.all else "before its first number"
        )
        return f"It failed as the recorded run had: {done.failed_alike}; {numbers}."
    if done.numbers is None or not done.numbers.all:
        return "The recorded run has no numbers to compare."
    compared, differing = done.numbers, done.numbers.differing
    if not differing and done.flaws:
        same = f"All {len(compared.all)} numbers that are recorded are the same."
        return f"{same} The record is not whole: {few(done.flaws)}."
    if not differing and done.cut_off:
        same = f"The same: all {len(compared.all)} recorded numbers, bit by bit."
        return f"{same} The recorded run {done.cut_off}; more was not compared."
    if not differing:
        once = " and of the whole run" if any(number.epoch is None for number in compared.all) else ""
        return (
            f"Exact: all {len(compared.all)} recorded numbers of {compared.epochs} "
            f"epoch{'s' * (compared.epochs != 1)}{once} are the same, bit by bit."
        )
    count = f"{len(differing)} of {len(compared.all)} numbers"
    if done.changed:
        return f"With {' '.join(done.changed)} {count} are others (epochs count from 0); the first is {differing[0]}."
    lines = [f"{count} differ, the first of them (epochs count from 0):"]
    lines += [f"  {number}" for number in differing[:SHOWN]]
    if reasons := [each.what for each in done.differences if each.what not in PLACES]:
        lines.append(f"What has changed since may be why: {', '.join(reasons)}.")
    elif done.unpromised:
        lines.append(f"They need not be the same: {done.unpromised}.")
    return "\n".join(lines)


def few(texts: Sequence[str]) -> str:
    """The first of `texts`, in one line."""
    more = f"; and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return "; ".join(texts[:SHOWN]) + more


def summary(done: Sequence[Rerun]) -> Table:
    """The trials of a sweep, a line each."""
    exact = sum(each.exact for each in done)
    table = Table(title=f"{exact} of {len(done)} trials are exact", title_justify="left")
    table.add_column("trial", justify="right")
    table.add_column("run", overflow="fold")
    table.add_column("numbers", justify="right")
    table.add_column("came out", overflow="fold")
    for each in done:
        count = "" if each.numbers is None else str(len(each.numbers.all))
        table.add_row(str(each.trial), each.name, count, _in_a_word(each))
    return table


def as_json(done: Sequence[Rerun]) -> list[dict[str, Any]]:
    """Everything, as plain data: the numbers that were compared, and again those that differ."""
    return [
        {
            **{key: value for key, value in asdict(each).items() if key != "numbers"},
            "compared": [asdict(number) for number in each.numbers.all] if each.numbers else [],
            "numbers": len(each.numbers.all) if each.numbers else 0,
            "differing": [asdict(number) for number in each.numbers.differing] if each.numbers else [],
        }
        for each in done
    ]


def _in_a_word(done: Rerun) -> str:
    if done.failure is not None:
        return f"failed: {done.failure}"
    if done.exact:
        return "exact" if done.failed_alike is None else f"exact: failed alike, {done.failed_alike}"
    if done.numbers is None or not done.numbers.all:
        return "nothing to compare"
    differing = done.numbers.differing
    return str(differing[0]) if differing else "the same; the record is not whole"


def _shown(run: RecordedRun, name: str) -> str:
    value = run.metrics.get(name, {}).get(0)
    return "" if value is None else f"{value:.1f}" if name.endswith("_seconds") else f"{value:.6g}"
