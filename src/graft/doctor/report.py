"""What was found, one check at a time, and how it is printed."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from rich.text import Text

from graft.console import PlainConsole
from graft.printable import printable

Status = Literal["ok", "note", "problem"]

STYLES: dict[Status, str] = {"ok": "green", "note": "yellow", "problem": "bold red"}
STATUS_WIDTH, NAME_WIDTH = 9, 11
INDENT = STATUS_WIDTH + NAME_WIDTH
SHORTEST_LINE = 30


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What it is, one word. Several checks may share it.
        status: A note is worth knowing and no reason to do anything now.
        text: What was found.
        remedy: What to do about it: a command, as it is typed in the checkout, or words where there is none.
    """

    name: str
    status: Status
    text: str
    remedy: str | None = None


def as_json(checks: Sequence[Check]) -> list[dict[str, str | None]]:
    """The checks for `--json`."""
    return [asdict(check) for check in checks]


def show(checks: Iterable[Check], console: PlainConsole) -> list[Check]:
    """Prints each check as it comes, and the sum of them; returns them all."""
    # Names and commands are the user's own words: no markup in them. Words longer than a line, paths and commands
    # among them, are not broken, so that they can be copied.
    say = functools.partial(console.print, highlight=False, markup=False, soft_wrap=True)
    found = []
    for check in checks:
        found.append(check)
        width = max(console.width - INDENT, SHORTEST_LINE)
        first, *more = textwrap.wrap(printable(check.text), width, break_long_words=False, break_on_hyphens=False)
        status = Text(f"{check.status:<{STATUS_WIDTH}}", STYLES[check.status])
        say(Text.assemble(status, f"{check.name:<{NAME_WIDTH}}", first))
        for line in more:
            say(" " * INDENT + line)
        if check.remedy:
            say(f"{'':<{STATUS_WIDTH}}remedy: {check.remedy}")
    say(_sum(found))
    return found


def has_problem(checks: Iterable[Check]) -> bool:
    return any(check.status == "problem" for check in checks)


def _sum(checks: Sequence[Check]) -> str:
    counts = {word: sum(check.status == word for check in checks) for word in ("problem", "note")}
    counted = [f"{count} {word}{'s' * (count > 1)}" for word, count in counts.items() if count]
    return f"{' and '.join(counted)}." if counted else "All is well."


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first names of many, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
