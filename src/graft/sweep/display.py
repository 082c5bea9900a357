"""What the user sees of a sweep: a live table on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from graft.console import PlainConsole
from graft.printable import printable
from graft.sweep.jobs import Printed, Reported
from graft.sweep.observer import SweepEnded
from graft.sweep.outcome import PLACE_TAKEN, Outcome, State

REFRESH_PER_SECOND = 4
SHOWN_FAILURES = 3
"""Failed trials named for each cause in the summary."""


@dataclass
class Row:
    """A running trial.

    Attributes:
        number, attempt: In the whole sweep, and of the trial; from 0.
        overrides: Those of the varied keys.
        started: Seconds, of `time.monotonic`.
        last: Its latest report, if there was one.
    """

    number: int
    attempt: int
    overrides: Sequence[str]
    started: float
    last: Reported | None = None


class Display:
    """Plain lines: one for each trial that ends, and what the jobs print. Used from the controller's thread.

    Args:
        total: Trials in the sweep.
        done: Of these, finished before this start.
        slots: Trials at a time, for the time left.
        objectives: Names of the values.
        varied: Keys worth showing; the others are the same in every trial.
    """

    def __init__(self, *, total: int, done: int, slots: int, objectives: Sequence[str], varied: Sequence[str]) -> None:
        self._total = total
        self._done = done
        self._slots = slots
        self._objectives = objectives
        self._varied = tuple(f"{key}=" for key in varied)
        self._rows: dict[int, Row] = {}
        self._seconds: list[float] = []
        self._states: Counter[State] = Counter()

    def open(self) -> None: ...

    def close(self) -> None: ...

    def refresh(self) -> None: ...

    def say(self, text: str) -> None:
        """Prints a line for the user."""
        print(text, flush=True)

    def started(self, number: int, attempt: int, overrides: Sequence[str]) -> None:
        self._rows[number] = Row(number, attempt, self._shown(overrides), time.monotonic())

    def reported(self, event: Reported) -> None:
        if event.number in self._rows:
            self._rows[event.number].last = event

    def printed(self, event: Printed) -> None:
        self.say(f"#{event.number} | {event.line}")

    def ended(self, number: int, outcome: Outcome, seconds: float) -> None:
        row = self._rows.pop(number)
        if outcome.state.final:
            self._done += 1
            self._seconds.append(seconds)
            self._states[outcome.state] += 1
        what = f"#{number} {' '.join(row.overrides)}".rstrip()
        self.say(f"[{self._done}/{self._total}] {what}: {self._result(outcome)} ({duration(seconds)})")

    def dropped(self, number: int) -> None:
        """A trial that is not this controller's any more has ended here."""
        row = self._rows.pop(number)
        what = f"#{number} {' '.join(row.overrides)}".rstrip()
        self.say(f"{what}: what this attempt made of it is dropped, for another controller has taken the trial over")

    def seconds_left(self) -> float | None:
        """An estimate from the mean of the trials that ended, or None before the first has."""
        if not self._seconds:
            return None
        mean = sum(self._seconds) / len(self._seconds)
        now = time.monotonic()
        waiting = max(0, self._total - self._done - len(self._rows)) * mean
        running = sum(max(0.0, mean - (now - row.started)) for row in self._rows.values())
        return (waiting + running) / self._slots

    def _shown(self, overrides: Sequence[str]) -> list[str]:
        return [override for override in overrides if override.lstrip("+").startswith(self._varied)]

    def _result(self, outcome: Outcome) -> str:
        match outcome.state:
            case State.COMPLETE:
                return numbers(dict(zip(self._objectives, outcome.values, strict=True)))
            case State.FAILED:
                return f"failed, {outcome.cause}: {first_line(outcome.message)}"
            case State.RETRY:
                return f"{first_line(outcome.message).rstrip(':')}; starts again"
            case State.INTERRUPTED:
                taken = outcome.message == PLACE_TAKEN
                return f"{PLACE_TAKEN}; it waits again" if taken else "interrupted, can be resumed"
            case State.PRUNED:
                return "pruned"


class LiveDisplay(Display):
    """A table of the running trials that stays at the bottom; lines scroll above it."""

    def __init__(
        self,
        *,
        total: int,
        done: int,
        slots: int,
        objectives: Sequence[str],
        varied: Sequence[str],
        console: Console | None = None,
    ) -> None:
        super().__init__(total=total, done=done, slots=slots, objectives=objectives, varied=varied)
        self._console = console or PlainConsole()
        # Refreshed by the controller's loop: a thread of rich's own would read rows while they change.
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._refreshed = 0.0

    def open(self) -> None:
        self._live.start()

    def close(self) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        self._console.print(Text(text))

    def refresh(self) -> None:
        now = time.monotonic()
        if now - self._refreshed >= 1 / REFRESH_PER_SECOND:
            self._refreshed = now
            self._live.update(self.render(), refresh=True)

    def render(self) -> Group:
        """The table and the line below it, as they are now."""
        shown = list(dict.fromkeys(n for row in self._rows.values() if row.last for n in row.last.shown))
        table = Table(box=None, pad_edge=False)
        for name in ("trial", "overrides", "step", ", ".join(self._objectives), *shown, "running"):
            table.add_column(name, justify="left" if name == "overrides" else "right")
        now = time.monotonic()
        for row in sorted(self._rows.values(), key=lambda row: row.number):
            last = row.last
            table.add_row(
                f"#{row.number}" + (f" attempt {row.attempt + 1}" if row.attempt else ""),
                " ".join(row.overrides),
                "" if last is None else str(last.step),
                "" if last is None else f"{last.value:.4g}",
                *("" if last is None or n not in last.shown else f"{last.shown[n]:.4g}" for n in shown),
                duration(now - row.started),
            )
        left = self.seconds_left()
        counts = [f"{count} {state}" for state, count in sorted(self._states.items()) if state != State.COMPLETE]
        parts = [f"{self._done} of {self._total} trials done", *counts]
        parts.append("time left unknown" if left is None else f"about {duration(left)} left")
        return Group(table, Text(", ".join(parts)))


def make_display(*, total: int, done: int, slots: int, objectives: Sequence[str], varied: Sequence[str]) -> Display:
    """The display that suits stdout."""
    kind = LiveDisplay if sys.stdout.isatty() else Display
    return kind(total=total, done=done, slots=slots, objectives=objectives, varied=varied)


def summary(ended: SweepEnded, messages: Mapping[int, tuple[str, str]]) -> str:
    """The lines at the end of a sweep.

    Args:
        ended: What the observer is told, too.
        messages: Cause and message of each trial that failed under this command, by number.
    """
    counts = [f"{ended.counts.get(state, 0)} {state}" for state in ("complete", "pruned", "failed")]
    counts += [f"{ended.counts[state]} {state}" for state in ("waiting", "running") if ended.counts.get(state)]
    lines = [f"Sweep {ended.sweep}: {', '.join(counts)} of {ended.total} trials, in {duration(ended.seconds)}."]
    for best in ended.best[:10]:
        name = "Best" if len(ended.best) == 1 else "Among the best"
        lines.append(f"{name}: #{best.number} {numbers(best.values)} with {' '.join(best.overrides) or 'no overrides'}")
        lines.append(f"  {best.directory}")
    if len(ended.best) > 10:
        lines.append(f"… and {len(ended.best) - 10} more on the Pareto front.")
    for cause, count in sorted(ended.failures.items(), key=lambda item: -item[1]):
        lines.append(f"Failed, {cause}: {count} trial{'s' * (count > 1)}")
        named = [(number, message) for number, (c, message) in sorted(messages.items()) if c == cause]
        lines += [f"  #{number}: {first_line(message)}" for number, message in named[:SHOWN_FAILURES]]
        if len(named) > SHOWN_FAILURES:
            rest = ", ".join(f"#{number}" for number, _ in named[SHOWN_FAILURES:][:20])
            lines.append(f"  and {rest}{', …' if len(named) - SHOWN_FAILURES > 20 else ''}")
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """``0.31 s``, ``12 s``, ``3 min 20 s`` or ``2 h 05 min``."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"


def numbers(values: Mapping[str, float]) -> str:
    return " ".join(f"{name}={value:.6g}" for name, value in values.items())


def first_line(text: str) -> str:
    """The first line of an error's text, as a terminal may be shown it."""
    return printable(text.strip().partition("\n")[0])
