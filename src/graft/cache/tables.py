"""What `graft cache` prints: tables and lines, or plain data for `--json`."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from graft import paths
from graft.cache.manage import Entry, Removal
from graft.cache.sizes import size_in_words
from graft.console import PlainConsole


def as_json(listed: Sequence[Entry]) -> list[dict[str, Any]]:
    """The entries for `--json`: sizes in bytes, times in seconds since 1970."""
    return [_plain(entry) for entry in listed]


def removal_as_json(done: Removal) -> dict[str, Any]:
    """What became of the entries, for `--json`."""
    skipped = [_plain(entry) | {"reason": reason} for entry, reason in done.skipped]
    return {"removed": as_json(done.removed), "skipped": skipped, "left": done.left}


def show(listed: Sequence[Entry], console: PlainConsole) -> None:
    """Prints the entries as a table, and how to get rid of them."""
    say = functools.partial(console.print, highlight=False, markup=False, soft_wrap=True)
    if not listed:
        say(f"The cache is empty: {paths.cache()}")
        return
    table = Table(title="Cache")
    for column in ("id", "kind", "what"):
        table.add_column(column, overflow="fold", no_wrap=column == "id")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("last used", justify="right", no_wrap=True)
    for entry in listed:
        table.add_row(entry.id, entry.kind, entry.about, size_in_words(entry.size), _ago(entry.used))
    console.print(table)
    total = size_in_words(sum(entry.size for entry in listed))
    say(f"{len(listed)} {'entry' if len(listed) == 1 else 'entries'}, {total}: {paths.cache()}")
    say("Nothing is lost with any of them: what is removed (graft cache rm ID, graft cache prune) is made again.")


def show_removal(done: Removal, console: PlainConsole) -> None:
    """Prints what went, what stayed, and how much is left."""
    say = functools.partial(console.print, highlight=False, markup=False, soft_wrap=True)
    for entry in done.removed:
        say(f"Removed {entry.id}  {size_in_words(entry.size):>9}  {entry.kind}: {entry.about}")
    for entry, reason in done.skipped:
        say(f"Skipped {entry.id}  {size_in_words(entry.size):>9}  {entry.kind}: {entry.about}; {reason}")
    gone = sum(entry.size for entry in done.removed)
    say(f"{size_in_words(gone)} removed, {size_in_words(done.left)} left.", end="")
    say(" What was removed is made again when it is next wanted; nothing else is lost." if done.removed else "")


def _plain(entry: Entry) -> dict[str, Any]:
    return asdict(entry) | {"path": str(entry.path)}


def _ago(when: float) -> str:
    seconds = max(0, time.time() - when)
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' * (count > 1)} ago"
    return "just now"
