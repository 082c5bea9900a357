"""Counts the faults that are injected, and what became of each; `docs/reliability.md` has the table."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SEED_VARIABLE, LEDGER_VARIABLE = "GRAFT_CHAOS_SEED", "GRAFT_CHAOS_LEDGER"
SEED = os.environ.get(SEED_VARIABLE, "0")

COLUMNS = ("lost", "doubled", "repaired", "named", "harmless")


class Doubled(AssertionError):
    """Something was trained, counted or recorded twice."""


@dataclass
class Fault:
    """One fault, or several in a row whose outcome is one.

    Attributes:
        kind: The row of the table that it is counted in.
        times: How many there were; may grow while they are injected.
        outcome: A column of the table.
    """

    kind: str
    times: int = 1
    outcome: str = ""

    def repaired(self) -> None:
        """The next start did all that was to be done, and needed nobody."""
        self.outcome = "repaired"

    def named(self) -> None:
        """The next start said what is damaged or missing and where, and took nothing damaged for good."""
        self.outcome = "named"

    def harmless(self) -> None:
        """It came too late, or hit what nobody needs."""
        self.outcome = "harmless"


@contextmanager
def injected(kind: str, times: int = 1) -> Iterator[Fault]:
    """Counts the fault that is injected, and whose outcome is checked, within the block."""
    fault = Fault(kind, times)
    try:
        yield fault
        assert fault.outcome, "the test does not say what became of it"
    except Exception as error:
        fault.outcome = "doubled" if isinstance(error, Doubled) else "lost"
        error.add_note(f"The fault was: {kind}. To have it once more: {SEED_VARIABLE}={SEED}")
        raise
    finally:
        if fault.outcome and LEDGER_VARIABLE in os.environ:
            line = json.dumps({"kind": fault.kind, "outcome": fault.outcome, "times": fault.times})
            # In one write, for several processes test at a time.
            with open(os.environ[LEDGER_VARIABLE], "ab", buffering=0) as file:
                file.write(f"{line}\n".encode())


def chance(name: str) -> random.Random:
    """Chooses the moments and places of a test's faults, the same ones for the same seed."""
    return random.Random(f"{SEED} {name}")


def table(ledgers: Sequence[Path]) -> str:
    """The faults of these files by kind, as a table in Markdown."""
    counted: dict[str, Counter[str]] = {}
    for line in (line for ledger in ledgers for line in ledger.read_text().splitlines()):
        told = json.loads(line)
        counted.setdefault(told["kind"], Counter())[told["outcome"]] += told["times"]
    counted["**in all**"] = sum(counted.values(), Counter())
    rows = [
        [kind, str(counts.total()), *(str(counts[column]) for column in COLUMNS)]
        for kind, counts in sorted(counted.items(), key=lambda item: ("*" in item[0], item[0]))
    ]
    head = ["fault", "times tried", *COLUMNS]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---", *["---:"] * (len(head) - 1)], *rows])
