"""`make test`: runs pytest, measures what all its processes execute, and prints how much of Graft that was.

    python -m tests.coverage [ARGUMENTS OF PYTEST]

The library that measures, slipcover, costs a Python 3.11 a twentieth of its time where coverage.py costs as much again.
Lines within functions that TensorFlow compiles count where Python traces them, not where they are rewritten.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from slipcover import Slipcover, print_coverage
from slipcover.slipcover import add_summaries
from tests.coverage.sitecustomize import FOLDER_VARIABLE, SOURCES

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
UNCOVERED = CHECKOUT / ".pytest_cache/uncovered.txt"

PROMISED = ("src/graft/sweep", "src/graft/features", "src/graft/tracking")
"""The sweep engine, the feature store, the recorder: of each, `PROMISED_PERCENT` of the lines are executed."""
PROMISED_PERCENT = 90


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="graft-coverage-") as folder:
        path = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, FOLDER_VARIABLE: folder, "PYTHONPATH": path}
        command = [sys.executable, "-m", "pytest", *sys.argv[1:]]
        status = subprocess.run(command, env=environment, check=False).returncode
        written = list(Path(folder).glob("*.json"))
        measured = covered(written)
    print("\n".join(table(measured["files"], len(written))))
    UNCOVERED.parent.mkdir(exist_ok=True)
    with UNCOVERED.open("w") as file:
        print_coverage(measured, outfile=file, skip_covered=True)
    print(f"What was not executed, file by file: {UNCOVERED.relative_to(CHECKOUT)}")
    return status


def covered(written: Iterable[Path]) -> dict[str, Any]:
    """What slipcover says of one process, for all of those that wrote these files together."""
    executed: dict[str, dict[str, set[Any]]] = defaultdict(lambda: {"lines": set(), "branches": set()})
    for file in written:
        for name, (lines, branches) in json.loads(file.read_text()).items():
            executed[name]["lines"].update(lines)
            executed[name]["branches"].update(map(tuple, branches))
    measured: dict[str, Any] = Slipcover(branch=True, source=SOURCES).get_coverage()  # of which all is still missing
    for name, told in measured["files"].items():
        for kind, found in executed[str(Path(name).resolve())].items():
            there = set(told[f"missing_{kind}"])
            told[f"executed_{kind}"] = sorted(there & found)
            told[f"missing_{kind}"] = sorted(there - found)
    add_summaries(measured)
    return measured


def table(files: Mapping[str, Any], processes: int) -> list[str]:
    """Lines and branches of every package."""
    packages: dict[str, list[Any]] = defaultdict(list)
    for name, told in sorted(files.items()):
        packages[str(Path(name).parent)].append(told)
    head = f"Executed in {processes:,} processes"
    lines = ["", f"{head:36}{'lines':>7}{'':>8}{'branches':>10}"]
    for name, below in [*packages.items(), ("in all", list(files.values()))]:
        count, of_lines = share(below, "lines")
        _, of_branches = share(below, "branches")
        short = f"  below {PROMISED_PERCENT}" if name in PROMISED and of_lines < PROMISED_PERCENT else ""
        lines.append(f"{name:36}{count:7,}{of_lines:7.1f}%{of_branches:9.1f}%{short}")
    return lines


def share(files: Sequence[Mapping[str, Any]], kind: str) -> tuple[int, float]:
    """How many lines or branches there are, and the percentage of them that was executed."""
    executed, missing = (sum(len(told[f"{which}_{kind}"]) for told in files) for which in ("executed", "missing"))
    there = executed + missing
    return there, 100 * executed / there if there else 100.0


if __name__ == "__main__":
    sys.exit(main())
