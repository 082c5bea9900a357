"""`make chaos`: the long form of the tests in this folder, and a table of the faults that they injected."""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.chaos.ledger import LEDGER_VARIABLE, SEED_VARIABLE, table

HERE = Path(__file__).parent


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", default=str(random.randrange(10**6)), help="of an earlier run, to repeat it")
    parser.add_argument("--short", action="store_true", help="as within make test")
    arguments, for_pytest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        ledger = Path(folder) / "ledger"
        ledger.touch()
        environment = {**os.environ, SEED_VARIABLE: arguments.seed, LEDGER_VARIABLE: str(ledger)}
        environment["GRAFT_LONG"] = "0" if arguments.short else "1"
        print(f"SEED={arguments.seed}", flush=True)
        in_two = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
        command = [sys.executable, "-m", "pytest", *in_two, *(for_pytest or [str(HERE)])]
        status = subprocess.run(command, env=environment, check=False).returncode
        print(f"\n{table([ledger])}\n\nSEED={arguments.seed}")
    return status


if __name__ == "__main__":
    sys.exit(main())
